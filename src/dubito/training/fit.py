"""The training loop of all methods: one compiled program for all members, called in chunks.

All decisions (score, best state, patience, divergence) are made inside the compiled program, on
traced numbers of rows, steps and epochs; the host supplies the rows, reports progress and handles
interrupts. So results do not depend on the division of a run into chunks, on the other members, or
on the thread.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import warn
from dubito._jax import prng
from dubito._jax.types import Key, Params
from dubito._process import interrupts
from dubito.models.model import Model
from dubito.training import optimizers
from dubito.training.checkpoint import Checkpoint
from dubito.training.data import Rows, check_rows, padded_fraction, padded_size
from dubito.training.descent import Descent
from dubito.training.early_stopping import RETRIES, Stopping, has_ended, still_gaining, stopping_rule
from dubito.training.loop_state import LoopState
from dubito.training.members import Member, Trained, each_part
from dubito.training.method import LoopMethod, Method, ScheduledMethod, base_method, check_method, check_missing_targets
from dubito.training.reports import Report
from dubito.training.runs import Runs
from dubito.training.splits import with_validation
from dubito.training.stream import Stream, check_source, open_source


class DivergenceError(ValueError):
    """Training diverged: the state was not finite, and halving the step size did not help.

    Attributes
    ----------
    model : Model
    rows : Rows
    params : pytree
        The model's parameters in the last finite state of the first member.
    """

    def __init__(self, message: str, model: Any = None, rows: Any = None, params: Params = None) -> None:
        ValueError.__init__(self, message)
        self.model: Any = model
        self.rows: Any = rows
        self.params: Params = params


class DivergenceWarning(UserWarning):
    """Some members of an ensemble diverged and were left out."""


def fit(
    model: Model,
    x: Any,
    y: Any,
    method: Method,
    *,
    key: Key,
    weight: Any = None,
    early_stopping: bool = False,
    validation_fraction: float = 0.1,
    n_iter_no_change: int = 10,
    tol: float = 1e-4,
    progress: Callable[[Report], None] | None = None,
    keep_on_interrupt: bool = False,
    checkpoint: Any = None,
    mesh: Any = None,
) -> Any:
    """Fit a model to data.

    The members of ``CrossFit``, ``Ensemble`` and the like are trained in threads of this process, or on the engine of
    ``joblib.parallel_config``, with the same bits.

    Parameters
    ----------
    model : Model
    x : array of shape (N, D, ...), or callable
        The inputs. For data larger than memory, a callable that returns an iterator of (x, y) or
        (x, y, weight) with any number of rows each; it is called once per epoch and member and must
        return the same rows. Rows are shuffled within pieces of up to 65,536, so they should not be
        sorted. Whatever needs all rows at once (``early_stopping``, CrossFit, ``mesh``,
        ``batch_size=None``) is refused.
    y : array of shape (N, K) or (N,), optional
        Targets or class indices; None if ``x`` is a callable.
    method : Method
        How to infer the parameters.
    key : Key
        A random key, from ``jax.random.key``.
    weight : array of shape (N,), optional
        Sample weights; 0 removes a row.
    early_stopping : bool
        Hold out ``validation_fraction`` of the rows, return the state with the best score on them,
        and stop after ``n_iter_no_change`` epochs in which the score did not increase by ``tol``.
    validation_fraction : float
        In (0, 1).
    n_iter_no_change : int
        In epochs.
    tol : float
        In nats per example.
    progress : callable, optional
        Called with a ``Report`` after each chunk.
    keep_on_interrupt : bool
        On Ctrl-C, return the posterior of the best states so far instead of raising
        KeyboardInterrupt.
    checkpoint : path, optional
        A file that is written between chunks, every few seconds, and when the fit is interrupted or
        fails. If it exists, the same fit resumes from it; the result has the same bits as without
        interruption. Several processes need storage that they share: all read the file, one writes it.
    mesh : jax.sharding.Mesh, optional
        Distribute the rows of each batch over these devices, of this process or of several
        processes that all make the same call.

    Returns
    -------
    Posterior
        See ``predict``.

    Raises
    ------
    ValueError
        If the data or settings do not match the model.
    DivergenceError
        If training diverges after the step size was halved three times.
    CheckpointError
        If the checkpoint belongs to another fit.
    """
    _, key_members, key_finish = jax.random.split(prng.fast(key), 3)
    check_method(method)
    if isinstance(x, Rows):  # an estimator has checked them
        rows, stream = x, None
    elif callable(x) or y is None:
        check_source(method, x, y, weight, {"early_stopping": early_stopping, "mesh": mesh is not None})
        rows, stream = open_source(model, method, x, identified=checkpoint is not None)
    else:
        rows, stream = check_rows(model, x, y, weight), None
    if early_stopping and base_method(method).score is None:
        raise ValueError(
            f"{type(base_method(method)).__name__} does not support early stopping, since it runs its whole schedule. "
            "Leave out early_stopping."
        )
    if early_stopping:
        rows = with_validation(rows, method.validates, validation_fraction, key)
    stopping = stopping_rule(n_iter_no_change, tol) if early_stopping else Stopping(np.int32(0), np.float32(tol))
    method.check(model)
    check_missing_targets(method, rows if stream is None else stream.first)
    data = rows if stream is None else stream.digest
    parts = {"model": model, "method": method, "data": data, "key": key_members, "early stopping": stopping}
    saved = None if checkpoint is None else Checkpoint(checkpoint, parts, mesh)
    run = partial(
        train,
        rows=rows,
        stream=stream,
        stopping=stopping,
        progress=progress,
        keep_on_interrupt=keep_on_interrupt,
        checkpoint=saved,
        mesh=mesh,
    )
    members = method.members(rows, key_members)
    return method.finish(model, run(model, method, members=members, of_members=True), key_finish, run)


def train(
    model: Model,
    method: Method,
    *,
    members: list[Member],
    rows: Rows,
    stopping: Stopping,
    stream: Stream | None = None,
    progress: Callable[[Report], None] | None = None,
    keep_on_interrupt: bool = False,
    checkpoint: Checkpoint | None = None,
    mesh: Any = None,
    of_members: bool = False,
) -> Trained:
    """Train all members, each from its own initial state.

    If the method has several lengths of training, all members are trained for the shortest, and anew
    for the next as long as validation still gains at the end of a run (see ``still_gaining``).

    On CPU, one host thread per core runs the compiled program for one member at a time, which is
    faster there than one call for all, and a member's bits do not depend on the others. On other
    devices one call runs all members. An engine that the caller has chosen with
    ``joblib.parallel_config`` runs them in its tasks, with the same bits.

    Parameters
    ----------
    model : Model
    method : Method
        A wrapper's base method is the one that runs.
    members : list of Member
    rows : Rows
    stopping : Stopping
    stream : Stream, optional
        The source of the rows if they are more than one piece.
    progress, keep_on_interrupt, checkpoint, mesh : optional
        As in ``fit``.
    of_members : bool
        As in ``Report``.

    Returns
    -------
    Trained
    """
    used = max(int(np.sum(member.train > 0)) for member in members) if stream is None else stream.count
    lengths: list[LoopMethod] = [float32_leaves(m) for m in optimizers.each_length(method, used, model.likelihood.task)]
    if len(lengths) > 1 and not any(np.any(member.valid > 0) for member in members):
        raise ValueError(
            f"held-out rows choose among epochs={base_method(method).epochs}, but no rows are held out. "
            "Use one number, or hold rows out: CrossFit does, and in Python early_stopping=True."
        )
    model = float32_leaves(model)
    most = padded_size(len(rows.x) if stream is None else stream.count)
    batch_rows = most if lengths[0].batch_size is None else min(lengths[0].batch_size, most)
    held = padded_fraction(most, max(int(np.sum(member.valid > 0)) for member in members))
    if mesh is not None and batch_rows % mesh.size:
        raise ValueError(f"batch_size={batch_rows} must be a multiple of the {mesh.size} devices of the mesh")
    runs = Runs(
        model=model,
        members=members,
        rows=rows,
        stopping=stopping,
        batch_rows=batch_rows,
        held=held,
        of_members=of_members,
        stream=stream,
        mesh=mesh,
    )
    states: list[LoopState] = []
    for inner in lengths:
        slots = [None] * len(members) if checkpoint is None else checkpoint.slots(len(members))
        with interrupts.deferred_exit(checkpoint is not None):
            found = runs.run_all(inner, slots, progress, keep_on_interrupt)
        shorter, states = states, found
        if shorter and not all(has_ended(state, inner.epochs) for state in states):
            states = shorter  # Ctrl-C: they are complete
            break
        if not still_gaining(states, inner.epochs):
            break
    return _trained(model, lengths[0], members, states, rows, stream is not None, mesh is not None)


def _trained(
    model: Model,
    method: LoopMethod,
    members: list[Member],
    states: list[LoopState],
    rows: Rows,
    streamed: bool,
    distributed: bool,
) -> Trained:
    """The members that did not diverge, with a warning about the others; DivergenceError if all did."""
    lost = [k for k, state in enumerate(states) if int(state.retries) > RETRIES]
    if len(lost) == len(members):
        raise divergence_error(model, method, rows, states[0])
    if lost:
        warn(f"{len(lost)} of {len(members)} members diverged and were left out", DivergenceWarning)
    kept = [k for k in range(len(members)) if k not in lost and int(states[k].epoch) > 0]
    if not kept:
        raise KeyboardInterrupt("stopped before the first epoch")
    best = tuple(to_process(best) if distributed else best for k in kept for best in states[k].best)
    parts, each = len(states[0].best), tuple(each_part([members[k] for k in kept]))
    numbers = tuple(parts * k + part for k in kept for part in range(parts))
    return Trained(each, best, numbers, parts * len(members), rows, streamed)


def to_process(tree: Any) -> Any:
    """Copy arrays that are distributed over a mesh to this process."""
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), tree)


def float32_leaves(tree: Any) -> Any:
    """Convert the scalars of a tree to float32, so that 0, 0.0 and np.float64(0) share a program."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if np.ndim(leaf) == 0 else leaf, tree)


def divergence_error(model: Any, method: LoopMethod, rows: Rows, loop_state: LoopState) -> DivergenceError:
    """The error of a fit whose members all diverged; its state is the first one's."""
    if isinstance(method, ScheduledMethod):
        rate = optimizers.learning_rate(method)
        cure = (
            "Try a smaller rate in your optimizer"
            if rate is None
            else f"the learning rate is {float(rate):g}. Try learning_rate={float(rate) / 10:g}"
        )
        cure += ", or clip the gradient norm (clip=1.0)." if isinstance(method, Descent) else "."
    else:
        cure = "the log density is not finite there. Standardize inputs and targets, or choose a narrower prior."
    message = (
        f"training diverged at epoch {int(loop_state.epoch) + 1} (step {int(loop_state.step)}), and again after halving "
        f"the step size {RETRIES} times; {cure}"
    )
    return DivergenceError(message, model, rows, method.point(model, loop_state.state))
