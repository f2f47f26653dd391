"""Work on host threads, one per core: results in order, and runs that Ctrl-C ends."""

import contextlib
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from typing import Any, TypeVar

from dubito._process import interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")
NAP = 0.1  # seconds between two checks for a signal


_limit: ContextVar[int | None] = ContextVar("limit", default=None)


def cores() -> int:
    """The number of cores that this process, or a task in it (see ``limit_cores``), may use."""
    found = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(found, _limit.get() or found)


@contextlib.contextmanager
def limit_cores(count: int) -> Iterator[None]:
    """Let the work that this thread starts use so many cores at most."""
    token = _limit.set(count)
    try:
        yield
    finally:
        _limit.reset(token)


SEATS: threading.BoundedSemaphore = threading.BoundedSemaphore(cores())  # a running chunk holds one


_started = threading.Event()  # JAX had started when this process, or one that it was forked from, was forked
_inherited = threading.Event()  # this process was forked from one in which JAX had started: its threads are missing


def _before_fork() -> None:
    bridge = sys.modules.get("jax._src.xla_bridge")  # JAX has no public way to ask
    if bridge is not None and bridge.backends_are_initialized():
        _started.set()


def _in_child() -> None:
    if _started.is_set():
        _inherited.set()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def check_process() -> None:
    """Raise RuntimeError in a child that was forked after JAX had started: computations would hang
    there.
    """
    if _inherited.is_set():
        raise RuntimeError(
            "this process was forked from one in which JAX had started (dubito had loaded, fitted or predicted), and JAX "
            "would hang in it. Use multiprocessing's 'spawn' start method or joblib's default, loky; a server that forks "
            "its workers must load the model in each worker (gunicorn: without --preload)"
        )


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply a function to items on one thread per core, with a few items in memory at a time.

    After an exception, such as that of Ctrl-C, running items are not waited for. A single item is computed in the
    calling thread, which takes a millisecond less, unless that is the main thread, which only waits.

    Parameters
    ----------
    function : callable
        Function of an item.
    items : iterable
        Its arguments.

    Yields
    ------
    object
        The results, in the order of the items.
    """
    check_process()
    if threading.current_thread() is not threading.main_thread():
        items = iter(items)
        first = list(itertools.islice(items, 2))
        if len(first) < 2:
            yield from map(function, first)
            return
        items = itertools.chain(first, items)
    pool, waiting = ThreadPoolExecutor(cores()), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > cores():
                yield wait_for(waiting.popleft())
        while waiting:
            yield wait_for(waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run_concurrently(
    one: Callable[[Item, threading.Event], Result], items: Sequence[Item], keep_on_interrupt: bool, threads: int | None
) -> list[Result]:
    """Call ``one(item, stop)`` for each item on host threads.

    On Ctrl-C the event ``stop`` is set, and each call ends after its chunk. The main thread only
    waits, so an exception is raised in it where no JAX code runs. If several threads need one
    program at once, in this fit or others, JAX lets the first compile it and the others wait.

    Parameters
    ----------
    one : callable
        The function.
    items : sequence
        Its first arguments.
    keep_on_interrupt : bool
        Whether to return the results after Ctrl-C instead of raising KeyboardInterrupt.
    threads : int
        Number of threads; None: one for each core.

    Returns
    -------
    list
        The results.
    """
    check_process()
    stop = threading.Event()
    with interrupts.sigint_as_flag(), ThreadPoolExecutor(min(threads or cores(), len(items))) as pool:
        futures = []
        try:
            futures += [pool.submit(one, item, stop) for item in items]
            return wait_for_all(futures)
        except BaseException as interrupt:  # Ctrl-C, SIGTERM, or the failure of one
            stop.set()
            if not (keep_on_interrupt and isinstance(interrupt, KeyboardInterrupt)):
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]


@contextlib.contextmanager
def start_jobs(function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]]) -> Iterator[deque[Future[Result]]]:
    """Start ``function(stop, *job)`` for each job, on one thread per core.

    When an exception leaves the block, queued jobs are cancelled and the event ``stop`` is set.
    Running jobs, which should end soon after that, are waited for, but not for long: they may be
    compiling.

    Parameters
    ----------
    function : callable
        The function.
    jobs : iterable of tuple
        Its arguments after ``stop``.

    Yields
    ------
    deque of Future
        In the order of the jobs.
    """
    check_process()
    stop = threading.Event()
    pool = ThreadPoolExecutor(cores())
    futures = [pool.submit(function, stop, *job) for job in jobs]
    try:
        yield deque(futures)
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait([future for future in futures if not future.cancelled()], timeout=interrupts.GRACE)
        raise
    pool.shutdown()


def stop_fit(stop: threading.Event) -> Callable[[Any], None]:
    """A callback for the ``progress`` of a fit that ends the fit once ``stop`` is set."""

    def progress(report: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt(f"stopped at epoch {report.epoch}")

    return progress


def wait_for_all(futures: Sequence[Future[Result]]) -> list[Result]:
    """The results of futures; the first exception, or one for a signal, is raised at once."""
    waiting = set(futures)
    with interrupts.sigint_as_flag():
        while waiting:
            done, waiting = wait(waiting, timeout=NAP, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            interrupts.raise_pending()
    return [future.result() for future in futures]


def wait_for(future: Future[Result]) -> Result:
    """The result of one future, as by ``wait_for_all``."""
    return wait_for_all([future])[0]
