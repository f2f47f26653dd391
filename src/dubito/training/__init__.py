"""The one loop that drives every method.

- ``data``: the rows of a fit on the host: validated, padded.
- ``members``: the runs that one posterior is made of.
- ``splits``: held-out rows and folds.
- ``method``: the contract of a method.
- ``packing``: parameters as flat vectors.
- ``optimizers``: gradient descent by name, by optax.
- ``descent``: the settings and the step that methods of gradient descent share.
- ``loop_state``: what the loop holds.
- ``early_stopping``: the decisions at the end of an epoch: best state, early stopping, divergence.
- ``reports``: the progress of a fit.
- ``progress``: lines of text that a fit prints while it runs.
- ``chunk``: some steps as one compiled program; each batch with its scale N/n.
- ``stream``: pieces of rows, for data larger than memory.
- ``processes``: what the processes of one fit do together.
- ``checkpoint``: a fit's progress in a file.
- ``runs``: the runs of all members, in threads or on an engine.
- ``fit``: the loop.

What the loop holds::

    host (fit, for each member or for all at once)      device (chunk)
    ───────────────────────────────────────────────     ──────────────────────────────────────────────────
    Run          model, method, held-out rows, key  ──> constant in all chunks of a run
    DataPiece    the rows in memory, their place    ──> read; one piece serves all epochs if it has all rows
    ChunkLimits  how many steps until the next look ──> ends the chunk
                                                        LoopState  the method's state: running, last finite, best;
                                                                   epoch, step, score, patience, retries
                                                        order      the piece's rows in the epoch's order
    logs, reports, checkpoint, Ctrl-C               <── LoopState, whose log has the chunk's epochs

Words with one meaning each: a *batch* is a step's rows, a *piece* the rows in memory at a time, a *part* a finished share of
an output file, a *chunk* the compiled steps between two looks of the host, a *block* the rows of one prediction program, an
*epoch* one pass over the rows, a *fold* a subset of rows in cross-validation.
"""
