"""The one loop: every method is trained by it, one compiled program for all members, in chunks.

Everything that decides (score, best state, patience, divergence) happens inside the compiled epoch, on traced numbers of
rows, blocks and epochs; the host only brings the rows, reports and interrupts. So results do not depend on how a run is cut
into chunks, how many members run beside it, or on which thread. Rows in memory are one piece that stays on the device.
"""

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dubito._check import is_number, is_whole
from dubito._jax import prng
from dubito._process import interrupts
from dubito._process.threads import SEATS, check_process, cores, run_concurrently
from dubito.training import chunk as epochs
from dubito.training import optimizers
from dubito.training.checkpoint import Checkpoint
from dubito.training.chunk import RETRIES, Stopping
from dubito.training.data import Member, Rows, bucket, check_rows, hold_out, padded, part
from dubito.training.stream import in_memory, innermost, opened, streamed

SECONDS = 0.3  # about how long a chunk should take, so that progress and Ctrl-C answer at once
FIRST = 16  # blocks of the first


class Report(NamedTuple):
    """One chunk of one member: ``epoch`` epochs and the share ``part`` of the next are done. Of each epoch that the chunk
    ended, none in a long one: the likelihood, the penalty (KL or −log prior) and the validation score, in nats per example
    (higher likelihood and score are better; the likelihood less the penalty is the objective)."""

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

    ``model``, ``rows`` and ``state`` are what it trained, on what, and the last finite state of the first member.
    """

    model: Any
    rows: Any
    state: Any


class DivergenceWarning(UserWarning):
    """Some members of an ensemble diverged and were left out."""


@dataclass(frozen=True)
class Trained:
    """What ``finish`` gets: the members that survived, their states, and the rows."""

    members: tuple
    states: tuple
    numbers: tuple  # which of the method's members these are
    count: int
    rows: Rows  # of a stream those of the first piece


def grouped(trained, groups):
    """The members of each of a wrapper's ``groups`` runs; a run that lost all of its members is left out."""
    each = trained.count // groups
    found = []
    for group in range(groups):
        kept = [k for k, number in enumerate(trained.numbers) if number // each == group]
        members, states = (tuple(values[k] for k in kept) for values in (trained.members, trained.states))
        numbers = tuple(trained.numbers[k] % each for k in kept)
        found += [Trained(members, states, numbers, each, trained.rows)] if kept else []
    return found


def fit(
    model,
    x,
    y,
    method,
    *,
    key,
    weight=None,
    early_stopping=False,
    validation_fraction=0.1,
    n_iter_no_change=10,
    tol=1e-4,
    progress: Callable[[Report], None] | None = None,
    keep_on_interrupt=False,
    checkpoint=None,
    mesh=None,
):
    """Train ``model`` on rows ``x`` (N, D), ``y`` (N, K), (N,) or class indices (N,) with ``method``: a posterior.

    Rows beyond the memory: a callable as ``x`` and None as ``y``. It gives, for each epoch and member anew, an iterator of
    (x, y) or (x, y, weight) of any lengths, always the same rows. They are shuffled within pieces of up to 65,536, so they
    should not be sorted; whatever needs all at once (``early_stopping``, CrossFit, ``mesh``, all rows a step) is refused.

    ``weight`` (N,): sample weights; 0 removes a row. ``early_stopping`` holds ``validation_fraction`` of the rows out,
    keeps the state with their best score, and stops after ``n_iter_no_change`` epochs without gain ``tol`` (nats per
    example). ``progress`` is called with a ``Report`` after each chunk. On Ctrl-C the fit raises KeyboardInterrupt, or,
    with ``keep_on_interrupt``, returns what the best states so far give. ``checkpoint``: a file that is written now and
    then between chunks, and when the fit is interrupted or fails; where it is there, the same fit goes on from it, to the
    same bits as without interruption. ``mesh``: a ``jax.sharding.Mesh`` over whose devices, of this process or of several
    that all make the same call, each block's rows are spread; for one network too large for one device's time.

    Raises ValueError for data that do not fit the model, DivergenceError when steps halved three times still diverge,
    CheckpointError where the file is of another fit.
    """
    check_process()
    if isinstance(x, Rows):  # an estimator has checked them
        rows, stream = x, None
    elif callable(x) or y is None:
        whole = {"early_stopping": early_stopping, "mesh": mesh is not None}
        rows, stream = opened(model, method, x, y, weight, whole, identified=checkpoint is not None)
    else:
        rows, stream = check_rows(model, x, y, weight), None
    key_split, key_members, key_finish = jax.random.split(prng.fast(key), 3)
    if early_stopping and not hasattr(innermost(method), "score"):
        raise ValueError(f"{type(innermost(method)).__name__} runs its whole schedule: leave early_stopping out")
    if early_stopping and not hasattr(method, "validates"):
        rows = hold_out(rows, validation_fraction, key_split)
    stopping = stopping_rule(n_iter_no_change, tol) if early_stopping else Stopping(np.int32(0), np.float32(tol))
    if hasattr(method, "check"):
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


def stopping_rule(n_iter_no_change, tol):
    """When early stopping ends a fit. Raises ValueError for numbers that are none."""
    if not is_whole(n_iter_no_change, 1):
        raise ValueError(f"n_iter_no_change is a whole number of at least 1, got {n_iter_no_change!r}")
    if not (is_number(tol) and tol >= 0):
        raise ValueError(f"tol is a number of at least 0, got {tol!r}")
    return Stopping(np.int32(n_iter_no_change), np.float32(tol))


def one_member(method, rows, key):
    """The members of a method that trains once."""
    del method
    return [Member(key, rows.train, rows.valid)]


def train(
    model,
    method,
    *,
    members,
    rows,
    stopping,
    stream=None,
    progress=None,
    keep_on_interrupt=False,
    checkpoint=None,
    mesh=None,
):
    """Train every member from its own start; a ``Trained``. One compiled program: on CPU one host thread a core runs it for
    one member, faster there than for all, and to bits that do not depend on the others; elsewhere one call for all."""
    used = max(int(np.sum(member.train > 0)) for member in members) if stream is None else stream.count
    method, model = floats(optimizers.scheduled(innermost(method), used)), floats(model)
    most = bucket(len(rows.x) if stream is None else stream.count)
    block = most if method.batch_size is None else min(method.batch_size, most)
    held = part(most, max(int(np.sum(member.valid > 0)) for member in members))
    if mesh is not None and block % mesh.size:
        raise ValueError(f"batch_size={block} is no multiple of the mesh's {mesh.size} devices")
    put = partial(jax.device_put, device=None if mesh is None else NamedSharding(mesh, PartitionSpec()))
    pieces = in_memory(rows, block, put) if stream is None else streamed(stream, block)
    slots = [None] * len(members) if checkpoint is None else checkpoint.slots(len(members))

    def held_rows(member):
        chosen = np.flatnonzero(member.valid > 0)
        return epochs.Arrays(*(put(padded(a[chosen], held + block)) for a in (rows.x, rows.y, member.valid)))

    def one(numbers, stop):
        found = [members[number] for number in numbers]
        valid, keys = stacked([held_rows(member) for member in found]), stacked([member.key for member in found])
        run = Run(model, method, valid, block, mesh, keys, stopping)
        reports = [partial(_report, progress, number, len(members)) for number in numbers]
        with contextlib.closing(pieces(*found)) as source:
            return run_members(run, source, stop, reports, [slots[number] for number in numbers])

    alone = prng.on_cpu() or stream is not None or mesh is not None
    groups = [[number] for number in range(len(members))] if alone else [list(range(len(members)))]
    with interrupts.deferred_exit(checkpoint is not None):
        found = run_concurrently(one, groups, keep_on_interrupt, 1 if mesh is not None else cores())
    carries = [carry for group in found for carry in group]
    lost = [k for k, carry in enumerate(carries) if int(carry.retries) > RETRIES]
    if len(lost) == len(members):
        raise diverged(model, method, rows, carries[0])
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(members)} members diverged and were left out", DivergenceWarning, stacklevel=3
        )
    kept = [k for k in range(len(members)) if k not in lost and int(carries[k].epoch) > 0]
    if not kept:
        raise KeyboardInterrupt("stopped before the first epoch")
    states = tuple(carries[k].best if mesh is None else local(carries[k].best) for k in kept)
    return Trained(tuple(members[k] for k in kept), states, tuple(kept), len(members), rows)


class Run(NamedTuple):
    """What the program of a member, or of all, is given; see ``epochs.chunk``."""

    model: Any
    method: Any
    held: epochs.Arrays
    block: int
    mesh: Any
    key: Any
    stopping: Stopping


def run_members(run, pieces, stop, reports, slots):
    """One member, or all as one program, from the start or from where their checkpoint was to the end: their carries.

    Chunks take about ``SECONDS``. ``reports`` and ``slots`` have one entry for each member.
    """
    total, count = int(run.method.epochs), len(reports)
    begin, chunk = (epochs.begin, epochs.chunk) if count == 1 else (epochs.begin_all, epochs.chunk_all)
    piece = next(pieces)
    carry, order = begin(run.model, run.method, piece.rows, run.block, run.mesh, run.key)
    each, logs = apart(carry, count), [np.empty((0, 3), np.float32)] * count
    length, fresh = FIRST, True
    if slots[0] is not None:
        blocks = int(np.max(piece.blocks))
        each, logs = zip(
            *(slot.restore(one, total, blocks) for slot, one in zip(slots, each, strict=True)), strict=True
        )
        carry = stacked(each)
        for report, one, log in zip(reports, each, logs, strict=True):
            report(total, one, piece, log, log)
    if stop.is_set():  # while the first program was compiled
        return each
    while True:
        while not np.all((piece.first <= np.asarray(carry.number)) & (np.asarray(carry.number) < piece.end)):
            piece = next(pieces)
        with SEATS:
            clock = time.perf_counter()
            plan = epochs.Plan(np.int32(0 if stop.is_set() else length), np.int32(total), np.bool_(fresh))
            carry, order = chunk(*run, piece, plan, carry, order)
            each = apart(carry, count)
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


def stacked(trees):
    """One tree as it is, several with a leading axis."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def apart(tree, count):
    """The ``count`` trees that ``stacked`` made one of."""
    return [tree] if count == 1 else [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(count)]


def local(tree):
    """Arrays laid over a mesh as arrays of this process alone."""
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), tree)


def _report(progress, number, members, total, carry, piece, log, new):
    part = int(carry.number) / int(np.max(piece.blocks))
    if progress is not None and (len(new) or part):
        progress(Report(number, members, len(log), total, part, *new.T))


def history(reports):
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


def floats(tree):
    """Numbers as float32 arrays: 0, 0.0 and np.float64(0) must not be three programs, and an int is no rate."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if np.ndim(leaf) == 0 else leaf, tree)


def diverged(model, method, rows, carry):
    """The error of a member that has no retries left, with what ``DivergenceError`` holds."""
    rate = optimizers.learning_rate(method)
    cure = (
        "Try a smaller rate in your optimizer"
        if rate is None
        else f"the learning rate is {float(rate):g}. Try learning_rate={float(rate) / 10:g}"
    )
    error = DivergenceError(
        f"training diverged at epoch {int(carry.epoch) + 1} (step {int(carry.step)}) and again with the step halved "
        f"{RETRIES} times; {cure}, or a clip of the gradient's norm."
    )
    error.model, error.rows, error.state = model, rows, carry.state
    return error
