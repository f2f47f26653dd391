"""The one loop: every method is trained by it, one compiled program for all members, in chunks.

Everything that decides (score, best state, patience, divergence) happens inside the compiled epoch, on traced numbers of
rows, blocks and epochs; the host only reports and interrupts. So results do not depend on how a run is cut into chunks,
how many members run beside it, or on which thread.
"""

import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito import epochs, random
from dubito.epochs import RETRIES, Stopping

SECONDS = 0.3  # and about how long one should take, so that progress and Ctrl-C answer at once


class Rows(NamedTuple):
    """The data set on the host: x (N, D), y (N, K) or (N,), weights for training and validation (N,)."""

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    valid: np.ndarray


class Member(NamedTuple):
    """A key and two weight vectors over the same rows: what it trains on, what it is validated on."""

    key: Any
    train: np.ndarray
    valid: np.ndarray


class Report(NamedTuple):
    """One chunk of one member: per epoch the likelihood, the penalty (KL or −log prior) and the validation score, in
    nats per example (higher likelihood and score are better; their sum with the penalty is the objective)."""

    member: int
    members: int
    epoch: int
    epochs: int
    likelihood: np.ndarray
    penalty: np.ndarray
    score: np.ndarray


class DivergenceError(ValueError):
    """Training left the finite numbers and did not come back with smaller steps."""


class DivergenceWarning(UserWarning):
    """Some members of an ensemble diverged and were left out."""


@dataclass(frozen=True)
class Trained:
    """What ``finish`` gets: the members that survived, their states, and the rows."""

    members: tuple
    states: tuple
    numbers: tuple  # which of the method's members these are
    count: int
    rows: Rows


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
):
    """Train ``model`` on rows ``x`` (N, D), ``y`` (N, K), (N,) or class indices (N,) with ``method``: a posterior.

    ``weight`` (N,): sample weights; 0 removes a row. ``early_stopping`` holds ``validation_fraction`` of the rows out,
    keeps the state with their best score, and stops after ``n_iter_no_change`` epochs without gain ``tol`` (nats per
    example). ``progress`` is called with a ``Report`` after each chunk. On Ctrl-C the fit raises KeyboardInterrupt, or,
    with ``keep_on_interrupt``, returns what the best states so far give.

    Raises ValueError for data that do not fit the model, DivergenceError when steps halved three times still diverge.
    """
    rows = check_rows(model, x, y, weight)
    key_split, key_members, key_finish = jax.random.split(random.fast(key), 3)
    if early_stopping and not hasattr(method, "folds"):  # cross-fitting stops on its own held-out rows
        rows = hold_out(rows, validation_fraction, key_split)
    stopping = Stopping(np.int32(n_iter_no_change if early_stopping else 0), np.float32(tol))
    if hasattr(method, "check"):
        method.check(model)
    run = partial(train, rows=rows, stopping=stopping, progress=progress, keep_on_interrupt=keep_on_interrupt)
    members = method.members(rows, key_members)
    return method.finish(model, run(model, method, members=members), key_finish, run)


def check_rows(model, x, y, weight):
    """Validation at the door: shapes, finite numbers, weights; float32 arrays ready for the loop."""
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2:
        raise ValueError(f"x must have rows and columns, (N, D); got shape {x.shape}")
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same number of rows; got {len(x)} and {len(y)}")
    if len(x) == 0:
        raise ValueError("there are no rows to fit")
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold numbers, got dtype {array.dtype}")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array.astype(np.float32))
        if bad.any():
            raise ValueError(f"{name} holds {bad.sum()} value(s) that are NaN, infinite or beyond float32")
    if model.likelihood.task == "regression":
        y = y.reshape(len(y), -1).astype(np.float32)
    elif y.ndim == 1:
        y = y.astype(np.int32 if np.all(y == np.round(y)) else np.float32)
    else:
        y = y.astype(np.float32)
    weight = np.ones(len(x), np.float32) if weight is None else np.asarray(weight, np.float32)
    if weight.shape != (len(x),) or not np.all(np.isfinite(weight)) or np.any(weight < 0) or not np.any(weight > 0):
        raise ValueError(f"weight must be {len(x)} finite numbers of at least 0, not all 0; got shape {weight.shape}")
    return Rows(x.astype(np.float32), y, weight, np.zeros_like(weight))


def hold_out(rows, fraction, key):
    """Move a random ``fraction`` of the rows (stratified for classes) from training to validation."""
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be strictly between 0 and 1, got {fraction!r}")
    used = np.flatnonzero(rows.train > 0)
    order = used[np.asarray(jax.random.permutation(key, len(used)))]
    if rows.y.ndim == 1:
        order = order[np.argsort(rows.y[order], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, max(1, round(fraction * len(used)))).astype(int))]
    else:
        chosen = order[: max(1, round(fraction * len(used)))]
    if len(chosen) == len(used):
        raise ValueError(f"early_stopping needs at least 2 rows, got {len(used)}")
    valid = np.zeros_like(rows.train)
    valid[chosen] = rows.train[chosen]
    return rows._replace(valid=valid, train=np.where(valid > 0, 0, rows.train).astype(np.float32))


def one_member(method, rows, key):
    """The members of a method that trains once."""
    del method
    return [Member(key, rows.train, rows.valid)]


def innermost(method):
    """The method that trains, inside wrappers that multiply it."""
    while hasattr(method, "method"):
        method = method.method
    return method


def bucket(count):
    """The padded size for a number of rows: 2^k or 1.5·2^k, at least 16, so that few shapes are compiled."""
    power = max(16, 1 << (count - 1).bit_length())
    return power * 3 // 4 if count <= power * 3 // 4 else power


def train(model, method, *, members, rows, stopping, progress=None, keep_on_interrupt=False):
    """Train every member from its own start; a ``Trained``. One compiled program, one host thread a core."""
    method = floats(innermost(method))
    model = floats(model)
    block = bucket(len(rows.x)) if method.batch_size is None else min(method.batch_size, bucket(len(rows.x)))
    total = bucket(len(rows.x)) + block  # a block is a contiguous slice: room for the last one to reach past the end
    x, y = jnp.asarray(pad_rows(rows.x, total)), jnp.asarray(pad_rows(rows.y, total))
    stop = threading.Event()

    def one(number):
        report = partial(_report, progress, number, len(members))
        return run_member(model, method, x, y, block, members[number], stopping, stop, report)

    first = partial(compiled_first, model, method, x, y, block, members[0], stopping)
    carries = side_by_side(first, one, len(members), stop, keep_on_interrupt)
    lost = [k for k, carry in enumerate(carries) if int(carry.retries) > RETRIES]
    if len(lost) == len(members):
        raise DivergenceError(divergence(method, carries[0]))
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(members)} members diverged and were left out", DivergenceWarning, stacklevel=3
        )
    kept = [k for k in range(len(members)) if k not in lost and int(carries[k].epoch) > 0]
    if not kept:
        raise KeyboardInterrupt("stopped before the first epoch")
    states = tuple(carries[k].best for k in kept)
    return Trained(tuple(members[k] for k in kept), states, tuple(kept), len(members), rows)


def side_by_side(first, one, count, stop, keep_on_interrupt):
    """first(), then one(0), one(1), ... on one host thread a core; Ctrl-C lets each end its chunk.

    The main thread, where signals arrive, only waits: an exception out of a handler is safe there, and not in JAX.
    """
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, count))) as pool:
        futures = []
        try:
            results([pool.submit(first)])
            futures += [pool.submit(one, k) for k in range(count)]
            return results(futures)
        except BaseException as interrupt:  # Ctrl-C, or the exit that a signal's handler asks for
            stop.set()
            if not (keep_on_interrupt and isinstance(interrupt, KeyboardInterrupt)):
                raise
        return [future.result() for future in futures]


def results(futures):
    """What they return, waited for in naps, between which signals are handled."""
    while wait(futures, timeout=0.1).not_done:
        pass
    return [future.result() for future in futures]


def _report(progress, number, members, carry, total, count):
    if progress is not None and count:
        log = np.asarray(carry.log)[:count]
        progress(Report(number, members, int(carry.epoch), total, log[:, 0], log[:, 1], log[:, 2]))


def compiled_first(model, method, x, y, block, member, stopping):
    """A chunk of no epochs, so that the members' threads find the program and do not each compile it."""
    stopped = threading.Event()
    stopped.set()
    run_member(model, method, x, y, block, member, stopping, stopped, lambda *_: None)


def run_member(model, method, x, y, block, member, stopping, stop, report):
    """One member from start to end: chunks of a length that keeps the host awake."""
    key_init, key_run = jax.random.split(member.key)
    train, valid = (jnp.asarray(pad_rows(w, len(x))) for w in (member.train, member.valid))
    total = int(method.epochs)
    carry = epochs.begin(model, method, x[:block], y[:block], key_init)
    run = partial(epochs.chunk, model, method, x, y, train, valid, block, key_run, stopping)
    if stop.is_set():
        return run(np.int32(0), np.int32(total), carry)
    length = 1
    while int(carry.epoch) < total and not bool(carry.done) and not stop.is_set():
        before, clock = int(carry.epoch), time.perf_counter()
        carry = run(np.int32(min(before + length, total)), np.int32(total), carry)
        count = int(carry.epoch) - before
        pace = SECONDS / max(time.perf_counter() - clock, 1e-4)
        length = int(min(epochs.CHUNK, max(1, length * min(4.0, pace))))
        report(carry, total, count)
    return carry


def history(reports):
    """Of each member the epochs' likelihood, penalty and validation score in nats per example: a list of (epochs, 3).

    Where a method trains twice (noise after means), those are of the first run.
    """
    members: dict[int, list[Any]] = {}
    ended = set()
    for report in reports:
        again = report.epoch == len(report.likelihood) and report.member in members
        ended |= {report.member} if again else set()
        if report.member not in ended:
            rows = np.stack([report.likelihood, report.penalty, report.score], axis=1)
            members.setdefault(report.member, []).append(rows)
    return [np.concatenate(members[number]) for number in sorted(members)]


def pad_rows(array, total):
    return np.pad(array, [(0, total - len(array))] + [(0, 0)] * (array.ndim - 1))


def floats(tree):
    """Numbers as float32 arrays: 0, 0.0 and np.float64(0) must not be three programs, and an int is no rate."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) if np.ndim(leaf) == 0 else leaf, tree)


def divergence(method, carry):
    rate = float(method.learning_rate)
    return (
        f"training diverged at epoch {int(carry.epoch) + 1} (step {int(carry.step)}) and again with the step halved "
        f"{RETRIES} times; the learning rate is {rate:g}. Try learning_rate={rate / 10:g}, or a clip of the gradient's norm."
    )
