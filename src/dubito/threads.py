"""Work on host threads, one a core: items in their order, and runs that Ctrl-C ends."""

import os
import threading
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait


def cores():
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


SEATS = threading.BoundedSemaphore(cores())  # a chunk takes one: so many run at once, whatever the number of fits


def in_threads(function, items):
    """function(item) for each item, in their order, by as many threads as there are cores; a few items are held."""
    with ThreadPoolExecutor(cores()) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def side_by_side(one, items, keep_on_interrupt, threads):
    """one(item, stop) of each item on host threads; on Ctrl-C ``stop`` is set and each ends its chunk.

    The main thread, where signals arrive, only waits: an exception out of a handler is safe there, and not in JAX. Of
    threads that ask for one program at once, of this fit or of others, JAX lets the first compile it and the others wait.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        futures = []
        try:
            futures += [pool.submit(one, item, stop) for item in items]
            return results(futures)
        except BaseException as interrupt:  # Ctrl-C, or the exit that a signal's handler asks for
            stop.set()
            if not (keep_on_interrupt and isinstance(interrupt, KeyboardInterrupt)):
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]


def results(futures):
    """What they return, waited for in naps, between which signals are handled; the first exception at once."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    return [future.result() for future in futures]
