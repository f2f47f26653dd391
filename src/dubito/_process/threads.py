"""Work on host threads, one per core: items in their order, and runs that Ctrl-C ends."""

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from dubito._process import interrupts

Item = TypeVar("Item")
Result = TypeVar("Result")
NAP = 0.1  # seconds between two checks for a signal


def cores() -> int:
    """Number of the machine's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


SEATS = threading.BoundedSemaphore(cores())  # a chunk takes one, so that no more run at once than there are cores


class _Fork:
    """Whether JAX had started when the process was forked: its threads do not exist in the child."""

    started = False  # as of the last fork in this process
    inherited = False  # in this process, by the fork that made it


def _before_fork():
    bridge = sys.modules.get("jax._src.xla_bridge")  # JAX has no public way to ask
    _Fork.started = _Fork.inherited or (bridge is not None and bridge.backends_are_initialized())


def _in_child():
    _Fork.inherited = _Fork.started


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def check_process() -> None:
    """Raise RuntimeError in a child that was forked after JAX had started: computations would hang there."""
    if _Fork.inherited:
        raise RuntimeError(
            "this process was forked from one in which JAX had started (dubito had loaded, fitted or predicted), and JAX "
            "would hang in it. Use multiprocessing's 'spawn' start method or joblib's default, loky; a server that forks "
            "its workers must load the model in each worker (gunicorn: without --preload)"
        )


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """function(item) for each item, in order, on as many threads as there are cores; a few items are in memory at a time.

    After an exception, as that of Ctrl-C, running items are not waited for.
    """
    check_process()
    pool, waiting = ThreadPoolExecutor(cores()), deque[Future]()
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
    one: Callable[[Item, threading.Event], Result], items: Sequence[Item], keep_on_interrupt: bool, threads: int
) -> list[Result]:
    """one(item, stop) of each item on host threads; on Ctrl-C the event ``stop`` is set and each ends its chunk.

    The main thread only waits: an exception is raised in it where no JAX code runs. If several threads need one program at
    once, in this fit or others, JAX lets the first compile it and the others wait.

    Parameters
    ----------
    one : the function.
    items : its first arguments.
    keep_on_interrupt : after Ctrl-C, return what the functions return instead of raising KeyboardInterrupt.
    threads : number of threads.
    """
    check_process()
    stop = threading.Event()
    with interrupts.sigint_as_flag(), ThreadPoolExecutor(min(threads, len(items))) as pool:
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
def start_jobs(function: Callable[..., Any], jobs: Iterable[tuple]) -> Iterator[deque[Future]]:
    """Futures of function(stop, *job), in the jobs' order, on one thread per core.

    When the block is left by an exception, queued jobs are cancelled and the event ``stop`` is set. Running jobs, which
    should end soon after that, are waited for, but not for long: they may be compiling.
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
    """A callback for a fit's ``progress`` that ends the fit once ``stop`` is set."""

    def progress(report):
        if stop.is_set():
            raise KeyboardInterrupt(f"stopped at epoch {report.epoch}")

    return progress


def wait_for_all(futures: Sequence[Future]) -> list[Any]:
    """The results of futures; signals are checked while waiting, and the first exception is raised at once."""
    waiting = set(futures)
    with interrupts.sigint_as_flag():
        while waiting:
            done, waiting = wait(waiting, timeout=NAP, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            interrupts.raise_pending()
    return [future.result() for future in futures]


def wait_for(future: Future) -> Any:
    """The result of one future; see ``wait_for_all``."""
    return wait_for_all([future])[0]
