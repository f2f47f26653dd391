"""The one loop: every method is trained by it, one compiled program for all members, in chunks.

Everything that decides (score, best state, patience, divergence) happens inside the compiled epoch, on traced numbers of
rows, steps and epochs; the host brings the rows, reports progress and interrupts. So results do not depend on how a run is
cut into chunks, on how many members run beside it, or on which thread.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dubito._check import check_whole, is_number
from dubito._jax import prng
from dubito._jax.types import Key
from dubito._process import interrupts
from dubito._process.threads import SEATS, check_process, cores, run_concurrently
from dubito.models.model import Model
from dubito.training import chunk as epochs
from dubito.training import optimizers
from dubito.training.checkpoint import Checkpoint
from dubito.training.chunk import RETRIES, Run, Stopping
from dubito.training.data import Rows, check_rows, pad_rows, padded_fraction, padded_size
from dubito.training.members import Member, Trained
from dubito.training.method import LoopMethod, Method, ScheduledMethod, base_method, check_method
from dubito.training.splits import hold_out
from dubito.training.stream import Stream, check_source, memory_pieces, open_source, stream_pieces

SECONDS = 0.3  # about how long a chunk should take, so that progress and Ctrl-C are prompt
FIRST = 16  # steps of the first


class Report(NamedTuple):
    """One chunk of one member.

    Attributes
    ----------
    member, members : int
        The member's number, and how many there are.
    epoch, epochs : int
        Epochs that ended, of how many.
    part : float
        The fraction of the next epoch that is done.
    likelihood, penalty, score : (n,) array
        Of each epoch that ended in the chunk (none in a long one): the log likelihood, the penalty (KL or −log prior) and the
        validation score, in nats per example. The likelihood less the penalty is the objective.
    """

    member: int
    members: int
    epoch: int
    epochs: int
    part: float
    likelihood: np.ndarray
    penalty: np.ndarray
    score: np.ndarray


class DivergenceError(ValueError):
    """Training left the finite numbers and did not come back with smaller steps.

    Attributes
    ----------
    model : Model
    rows : Rows
    params : pytree
        The model's parameters at the last finite state of the first member.
    """

    model: Any
    rows: Any
    params: Any


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
    """Infer a model from rows.

    Parameters
    ----------
    model : Model
    x : array_like of shape (N, D, ...), or callable
        A callable, for rows beyond the memory, gives, for each epoch and member anew, an iterator of (x, y) or
        (x, y, weight) of any lengths, always the same rows. They are shuffled within pieces of up to 65,536, so they should
        not be sorted; whatever needs all at once (``early_stopping``, CrossFit, ``mesh``, all rows a step) is refused.
    y : array_like of shape (N, K) or (N,)
        Targets or class indices; None where ``x`` is a callable.
    method : Method
    key : Key
    weight : array_like of shape (N,), optional
        Sample weights; 0 removes a row.
    early_stopping : bool
        Hold ``validation_fraction`` of the rows out, keep the state with their best score, and stop after
        ``n_iter_no_change`` epochs without a gain of ``tol`` (nats per example).
    validation_fraction, n_iter_no_change, tol
        See ``early_stopping``.
    progress : callable, optional
        Called with a ``Report`` after each chunk.
    keep_on_interrupt : bool
        On Ctrl-C return the posterior of the best states so far, in place of KeyboardInterrupt.
    checkpoint : path-like, optional
        A file that is written now and then between chunks, and when the fit is interrupted or fails; where it exists, the
        same fit continues from it, to the same bits as without interruption.
    mesh : jax.sharding.Mesh, optional
        The rows of each step are spread over its devices, of this process or of several that all make the same call; for
        one network too large for one device's time.

    Returns
    -------
    posterior
        Of the kind that the method makes; see ``predict``.

    Raises
    ------
    ValueError
        For data or settings that do not fit the model.
    DivergenceError
        When steps halved three times still diverge.
    CheckpointError
        When the file is of another fit.
    """
    check_process()
    check_method(method)
    if isinstance(x, Rows):  # an estimator has checked them
        rows, stream = x, None
    elif callable(x) or y is None:
        check_source(method, x, y, weight, {"early_stopping": early_stopping, "mesh": mesh is not None})
        rows, stream = open_source(model, method, x, identified=checkpoint is not None)
    else:
        rows, stream = check_rows(model, x, y, weight), None
    key_split, key_members, key_finish = jax.random.split(prng.fast(key), 3)
    if early_stopping and base_method(method).score is None:
        raise ValueError(f"{type(base_method(method)).__name__} runs its whole schedule: leave early_stopping out")
    if early_stopping and not method.validates:
        rows = hold_out(rows, validation_fraction, key_split)
    stopping = stopping_rule(n_iter_no_change, tol) if early_stopping else Stopping(np.int32(0), np.float32(tol))
    method.check(model)
    data = rows if stream is None else stream.digest
    parts = {"model": model, "method": method, "data": data, "key": key_members, "early stopping": stopping}
    saved = None if checkpoint is None else Checkpoint(checkpoint, parts)
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
    return method.finish(model, run(model, method, members=members), key_finish, run)


def stopping_rule(n_iter_no_change: int, tol: float) -> Stopping:
    """When early stopping ends a fit. Raises ValueError for invalid numbers."""
    check_whole("n_iter_no_change", n_iter_no_change, 1)
    if not (is_number(tol) and tol >= 0):
        raise ValueError(f"tol is a number of at least 0, got {tol!r}")
    return Stopping(np.int32(n_iter_no_change), np.float32(tol))


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
) -> Trained:
    """Train every member from its own start.

    One compiled program: on CPU one host thread for each core runs it for one member, faster there than for all, and to bits
    that do not depend on the others; elsewhere one call for all.

    Parameters
    ----------
    model : Model
    method : Method
        Of which the base method is run.
    members : list of Member
    rows : Rows
    stopping : Stopping
    stream : Stream, optional
        The rows' source where they are more than one piece.
    progress, keep_on_interrupt, checkpoint, mesh
        As in ``fit``.

    Returns
    -------
    Trained
    """
    used = max(int(np.sum(member.train > 0)) for member in members) if stream is None else stream.count
    inner: LoopMethod = float32_leaves(optimizers.with_epochs(base_method(method), used))
    model = float32_leaves(model)
    most = padded_size(len(rows.x) if stream is None else stream.count)
    batch_rows = most if inner.batch_size is None else min(inner.batch_size, most)
    held = padded_fraction(most, max(int(np.sum(member.valid > 0)) for member in members))
    if mesh is not None and batch_rows % mesh.size:
        raise ValueError(f"batch_size={batch_rows} is no multiple of the mesh's {mesh.size} devices")
    put = partial(jax.device_put, device=None if mesh is None else NamedSharding(mesh, PartitionSpec()))
    pieces = memory_pieces(rows, batch_rows, put) if stream is None else stream_pieces(stream, batch_rows)
    slots = [None] * len(members) if checkpoint is None else checkpoint.slots(len(members))

    def held_rows(member):
        chosen = np.flatnonzero(member.valid > 0)
        return epochs.DeviceRows(*(put(pad_rows(a[chosen], held + batch_rows)) for a in (rows.x, rows.y, member.valid)))

    def one(numbers, stop):
        found = [members[number] for number in numbers]
        valid, keys = stack([held_rows(member) for member in found]), stack([member.key for member in found])
        run = Run(model=model, method=inner, held=valid, key=keys, stopping=stopping, batch_rows=batch_rows, mesh=mesh)
        reports = [partial(_report, (progress, number, len(members))) for number in numbers]
        with contextlib.closing(pieces(*found)) as source:
            return run_members(run, source, stop, reports, [slots[number] for number in numbers])

    alone = prng.on_cpu() or stream is not None or mesh is not None
    groups = [[number] for number in range(len(members))] if alone else [list(range(len(members)))]
    with interrupts.deferred_exit(checkpoint is not None):
        found = run_concurrently(one, groups, keep_on_interrupt, 1 if mesh is not None else cores())
    states = [state for group in found for state in group]
    lost = [k for k, state in enumerate(states) if int(state.retries) > RETRIES]
    if len(lost) == len(members):
        raise divergence_error(model, inner, rows, states[0])
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(members)} members diverged and were left out", DivergenceWarning, stacklevel=3
        )
    kept = [k for k in range(len(members)) if k not in lost and int(states[k].epoch) > 0]
    if not kept:
        raise KeyboardInterrupt("stopped before the first epoch")
    best = tuple(states[k].best if mesh is None else to_process(states[k].best) for k in kept)
    return Trained(tuple(members[k] for k in kept), best, tuple(kept), len(members), rows)


def run_members(run: Run, pieces: Iterator[Any], stop: Any, reports: list[Any], slots: list[Any]) -> Any:
    """One member, or all as one program, from the start or from where their checkpoint was to the end: their ``LoopState``s.

    Chunks take about ``SECONDS``. ``reports`` and ``slots`` have one entry for each member.
    """
    total, count = int(run.method.epochs), len(reports)
    begin, chunk = (epochs.begin, epochs.chunk) if count == 1 else (epochs.begin_all, epochs.chunk_all)
    piece = next(pieces)
    loop_state, order = begin(run.model, run.method, piece.rows, run.batch_rows, run.mesh, run.key)
    each, logs = unstack(loop_state, count), [np.empty((0, 3), np.float32)] * count
    length, fresh = FIRST, True
    if slots[0] is not None:
        steps = int(np.max(piece.steps))
        each, logs = zip(*(slot.restore(one, total, steps) for slot, one in zip(slots, each, strict=True)), strict=True)
        loop_state = stack(each)
        for report, one, log in zip(reports, each, logs, strict=True):
            report(total, one, piece, log, log)
    if stop.is_set():  # while the first program was compiled
        return each
    while True:
        while not np.all((piece.first <= np.asarray(loop_state.number)) & (np.asarray(loop_state.number) < piece.end)):
            piece = next(pieces)
        with SEATS:
            clock = time.perf_counter()
            limits = epochs.ChunkLimits(np.int32(0 if stop.is_set() else length), np.int32(total), np.bool_(fresh))
            loop_state, order = chunk(run, piece, limits, loop_state, order)
            each = unstack(loop_state, count)
            new = [np.array(one.log)[: int(one.epoch) - len(log)] for one, log in zip(each, logs, strict=True)]
            seconds = time.perf_counter() - clock
        logs = [np.concatenate(both) for both in zip(logs, new, strict=True)]
        last = stop.is_set() or all(len(log) == total or bool(one.done) for one, log in zip(each, logs, strict=True))
        for report, slot, one, log, more in zip(reports, slots, each, logs, new, strict=True):
            report(total, one, piece, log, more)
            if slot is not None:
                slot.keep(one, log, last)
        if last:
            return each
        fresh = False
        if jax.process_count() == 1:  # several must go on in step, and their clocks differ
            pace = SECONDS / max(seconds, 1e-4)
            length = int(min(2**30, max(1, length * min(4.0, pace))))


def stack(trees: Any) -> Any:
    """One tree as it is, several with a leading axis."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """The ``count`` trees that ``stack`` made one of."""
    return [tree] if count == 1 else [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(count)]


def to_process(tree: Any) -> Any:
    """Arrays laid over a mesh as arrays of this process alone."""
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), tree)


def _report(whose, total, loop_state, piece, log, new):
    progress, number, members = whose
    part = int(loop_state.number) / int(np.max(piece.steps))
    if progress is not None and (len(new) or part):
        progress(Report(number, members, len(log), total, part, *new.T))


def history(reports: Iterable[Report]) -> list[np.ndarray]:
    """Of each member the epochs' likelihood, penalty and validation score in nats per example: a list of (epochs, 3).

    Where a method trains twice (noise after means), those are of the first run.
    """
    members: dict[int, list[Any]] = {}
    ended = set()
    for report in reports:
        if len(report.likelihood) == 0:  # within an epoch
            continue
        again = report.epoch == len(report.likelihood) and report.member in members
        ended |= {report.member} if again else set()
        if report.member not in ended:
            rows = np.stack([report.likelihood, report.penalty, report.score], axis=1)
            members.setdefault(report.member, []).append(rows)
    return [np.concatenate(members[number]) for number in sorted(members)]


def float32_leaves(tree: Any) -> Any:
    """A tree with its numbers as float32 arrays: 0, 0.0 and np.float64(0) must not be three programs, and an int is no rate."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if np.ndim(leaf) == 0 else leaf, tree)


def divergence_error(model: Any, method: LoopMethod, rows: Rows, loop_state: epochs.LoopState) -> DivergenceError:
    """The error of a member that has no retries left."""
    if isinstance(method, ScheduledMethod):
        rate = optimizers.learning_rate(method)
        cure = (
            "Try a smaller rate in your optimizer"
            if rate is None
            else f"the learning rate is {float(rate):g}. Try learning_rate={float(rate) / 10:g}"
        )
        cure += ", or a clip of the gradient's norm."
    else:
        cure = (
            "the log density is not finite there. Standardize inputs and targets, or give the model a narrower prior."
        )
    error = DivergenceError(
        f"training diverged at epoch {int(loop_state.epoch) + 1} (step {int(loop_state.step)}) and again with the step "
        f"halved {RETRIES} times; {cure}"
    )
    error.model, error.rows, error.params = model, rows, method.point(model, loop_state.state)
    return error
