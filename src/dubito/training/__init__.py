"""The one loop that drives every method.

- ``optimizers``: gradient descent by name, by optax.
- ``data``: the rows of a fit on the host: checked, held out, padded.
- ``chunk``: some steps as one compiled program.
- ``stream``: pieces of rows, for data larger than memory.
- ``checkpoint``: a fit's progress in a file.
- ``fit``: the loop.
"""
