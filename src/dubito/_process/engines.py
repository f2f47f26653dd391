"""Tasks on the engine that a caller has chosen with ``joblib.parallel_config``: loky's processes, Dask, or Ray.

A task is a function of data that all tasks share, and of an item. The shared data go to each worker once, as bytes. An exception
in a task comes back as a value, so what an engine raises is its own: if it has lost a worker, the missing tasks are started again.
"""

import contextlib
import math
import pickle
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dubito._check import collect_warnings, list_first, warn
from dubito._process.threads import cores, limit_cores
from dubito._process.versions import library_versions

Function: TypeAlias = Callable[[Any, Any, Any], Any]  # of the shared data, an item, and an event that ends the task
TaskResults: TypeAlias = Generator[tuple[int, "TaskResult"]]  # with the numbers of the items, in any order

ATTEMPTS = 3  # of a task whose worker is lost
LOST = {"BrokenProcessPool", "FutureCancelledError"}  # errors of engines that have lost a worker
LOST_AGAIN = {"KilledWorker", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError"}  # after attempts of their own
NONE = np.empty(0, np.uint8)
OF_ACTORS = {"max_restarts", "max_task_retries", "max_concurrency"}  # options of Ray's pool that tasks do not have
THREADS = {"ThreadingBackend", "SequentialBackend"}  # of joblib: they stay in this process, as dubito does without it

_in_task: ContextVar[bool] = ContextVar("in_task", default=False)


class Payload(NamedTuple):
    """What all tasks share, as each worker receives it once.

    Attributes
    ----------
    token : str
        A unique identifier.
    versions : dict
        Of the process that started the tasks; a worker must have the same.
    cores : int
        How many cores a task may use.
    data : array of uint8
        The pickled function and its shared data; an array, since engines pass large ones on without a copy.
    """

    token: str
    versions: dict[str, str]
    cores: int
    data: np.ndarray


class TaskResult(NamedTuple):
    """The outcome of a task.

    Attributes
    ----------
    value : object
        What the function returned.
    error : Exception or None
        What it raised instead.
    warnings : list of tuple
        The text and the category of each warning.
    """

    value: Any
    error: Exception | None
    warnings: list[Any]


class Engine(NamedTuple):
    """The engine that a caller has chosen.

    Attributes
    ----------
    name : str
        As in ``joblib.parallel_config``.
    jobs : int
        How many tasks run at once.
    cores : int
        How many cores of its machine each of them may use.
    start : callable
        Starts a task for each of the given items, and yields their results by number.
    """

    name: str
    jobs: int
    cores: int
    start: Callable[[Payload, Mapping[int, Any]], TaskResults]


def chosen_engine() -> Engine | None:
    """The engine that the caller has chosen for this thread.

    Returns
    -------
    Engine or None
        None without ``joblib.parallel_config``, for its threads, for a single process, and inside a task.

    Raises
    ------
    ValueError
        For joblib's "multiprocessing", whose workers are forks.
    """
    joblib: Any = sys.modules.get("joblib.parallel")  # choosing an engine imports it
    if joblib is None or _in_task.get():
        return None
    backend, jobs = joblib.get_active_backend(prefer="threads")
    kind = type(backend).__name__
    if kind in THREADS or kind == "DaskDistributedBackend" and _in_dask():
        return None
    if kind == "MultiprocessingBackend":
        raise ValueError(
            "joblib's backend 'multiprocessing' forks this process, and JAX would hang in a fork. Use 'loky', 'dask' or 'ray'."
        )
    if kind == "DaskDistributedBackend":
        return Engine("dask", backend.effective_n_jobs(jobs), 1, partial(_with_dask, backend))
    if kind == "RayBackend":
        jobs = _ray_jobs(jobs)
        return Engine("ray", jobs, 1, partial(_with_ray, backend, jobs))
    jobs = backend.effective_n_jobs(jobs)
    return None if jobs < 2 else Engine("loky", jobs, max(1, cores() // jobs), partial(_with_joblib, jobs))


def run_tasks(
    engine: Engine, function: Function, shared: Any, items: Sequence[Any], names: Sequence[str]
) -> Generator[tuple[int, Any]]:
    """Call ``function(shared, item, stop)`` for each item on an engine.

    Warnings of dubito are issued here. If the iterator is closed, or Ctrl-C interrupts it, the tasks end.

    Parameters
    ----------
    engine : Engine
        The engine.
    function : callable
        A function of a module; ``stop`` has a method ``is_set``, which tells it to end.
    shared : object
        What all tasks read.
    items : sequence
        One for each task.
    names : sequence of str
        What to call them in an error.

    Yields
    ------
    tuple
        The number of an item and what the function returned, in the order in which the tasks end.

    Raises
    ------
    ValueError
        If the shared data cannot be pickled.
    RuntimeError
        If tasks lose their workers again and again, or if a worker has other versions.
    Exception
        Whatever a task raises, or the engine for another reason.
    """
    payload, missing, failure = _pack(engine, function, shared), dict(enumerate(items)), None
    for _ in range(ATTEMPTS):
        with contextlib.closing(engine.start(payload, dict(missing))) as answers:
            while True:
                try:
                    found = next(answers, None)
                except Exception as error:
                    kinds = {kind.__name__ for kind in type(error).__mro__}
                    if kinds & LOST_AGAIN:
                        raise _lost(engine, names, missing) from error
                    if not kinds & LOST:
                        raise
                    failure = error
                    break
                if found is None:
                    return
                number, answer = found
                del missing[number]
                for text, category in answer.warnings:
                    warn(text, category)
                if answer.error is not None:
                    raise answer.error
                yield number, answer.value
    raise _lost(engine, names, missing) from failure


def _lost(engine: Engine, names: Sequence[str], missing: Mapping[int, Any]) -> RuntimeError:
    return RuntimeError(
        f"workers of {engine.name} ended again and again, and {len(missing)} of {len(names)} tasks are not done: "
        f"{list_first([names[number] for number in missing])}. A worker that has too little memory is killed; use fewer jobs "
        "at a time."
    )


def _pack(engine: Engine, function: Function, shared: Any) -> Payload:
    import cloudpickle

    try:
        data = np.frombuffer(cloudpickle.dumps((function, shared)), np.uint8)
    except Exception as error:
        raise ValueError(
            f"the work cannot be sent to the workers of {engine.name}: {error}. Remove that object, or do the work outside of "
            "joblib.parallel_config."
        ) from error
    return Payload(uuid.uuid4().hex, library_versions(), engine.cores, data)


_unpacked: dict[str, tuple[Function, Any]] = {}  # of a worker: that of the last token
_unpacking = threading.Lock()


def _unpack(payload: Payload) -> tuple[Function, Any]:
    with _unpacking:
        if payload.token not in _unpacked:
            _unpacked.clear()
            if payload.versions != library_versions():
                mine, theirs = (
                    ", ".join(f"{name} {version}" for name, version in each.items())
                    for each in (library_versions(), payload.versions)
                )
                raise RuntimeError(
                    f"a worker has {mine}, but the process that started it has {theirs}. Install the same versions in both."
                )
            _unpacked[payload.token] = pickle.loads(payload.data.data)
        return _unpacked[payload.token]


class _Never(NamedTuple):
    """The event of workers that are killed."""

    def is_set(self) -> bool:
        return False


def _work(payload: Payload, item: Any, stop: Any = _Never()) -> TaskResult:
    """Do a task, in a worker."""
    token = _in_task.set(True)
    value, error = None, None
    with limit_cores(payload.cores), collect_warnings() as found:
        try:
            function, shared = _unpack(payload)
            value = function(shared, item, stop)
        except Exception as raised:
            error = _picklable(raised)
        except KeyboardInterrupt:
            if not stop.is_set():
                raise
            error = RuntimeError("ended")  # nobody reads it; an interrupt would end the worker of Dask, too
        finally:
            _in_task.reset(token)
    return TaskResult(value, error, found)


def _picklable(error: Exception) -> Exception:
    """An exception that arrives: one that cannot be read breaks an engine."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _with_joblib(jobs: int, payload: Payload, items: Mapping[int, Any]) -> TaskResults:
    """On processes of loky, which end when the iterator is closed."""
    import joblib

    options: Any = {"return_as": "generator_unordered", "batch_size": 1}
    parallel: Any = joblib.Parallel(n_jobs=jobs, **options)
    data, rest = payload.data, payload._replace(data=NONE)
    answers = parallel(joblib.delayed(_numbered)(number, data, rest, item) for number, item in items.items())
    try:
        for answer in answers:  # noqa: UP028 -- `yield from` would close it before `finally` does
            yield answer
    finally:
        with warnings.catch_warnings(action="ignore"):  # joblib warns of results that nobody wants
            answers.close()


def _numbered(number: int, data: np.ndarray, payload: Payload, item: Any) -> tuple[int, TaskResult]:
    loky: Any = sys.modules.get("joblib.externals.loky.process_executor")
    if loky is not None:
        loky._MAX_MEMORY_LEAK_SIZE = math.inf  # a worker would take its compiled programs for a leak, and end
    return number, _work(payload._replace(data=data), item)


def _in_dask() -> bool:
    """Whether this runs in a worker of Dask, where a task that waits for others could wait forever."""
    import distributed  # pyright: ignore[reportMissingImports]

    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _with_dask(backend: Any, payload: Payload, items: Mapping[int, Any]) -> TaskResults:
    """On the workers of Dask, whose running tasks end by an event: Dask itself cancels only those that wait."""
    import distributed  # pyright: ignore[reportMissingImports]

    client, event = backend.client, f"dubito-{uuid.uuid4().hex}"
    stop = distributed.Event(event, client=client)
    shared = client.scatter(payload.data, broadcast=True, hash=False)
    rest = payload._replace(data=NONE)
    futures = {
        client.submit(
            _in_dask_worker, shared, rest, item, event, key=f"{event}-{number}", pure=False, **backend.submit_kwargs
        ): number
        for number, item in items.items()
    }
    try:
        for future in distributed.as_completed(
            [*futures]
        ):  # and forgotten, or Dask would repeat it if its worker is lost
            yield futures.pop(future), future.result()
    except BaseException:
        stop.set()
        client.cancel([*futures])
        raise


def _in_dask_worker(data: np.ndarray, payload: Payload, item: Any, event: str) -> TaskResult:
    import distributed  # pyright: ignore[reportMissingImports]

    with distributed.worker_client(separate_thread=False) as client:
        return _work(payload._replace(data=data), item, distributed.Event(event, client=client))


def _ray_jobs(jobs: int | None) -> int:
    """How many tasks run at once, of which each has one of Ray's processors: as many as there are, without a positive number."""
    import ray  # pyright: ignore[reportMissingImports]

    if not ray.is_initialized():
        ray.init()
    processors = int(ray.cluster_resources().get("CPU", 1))
    return jobs if jobs is not None and jobs > 0 else max(1, processors + 1 + (jobs or -1))


def _with_ray(backend: Any, jobs: int, payload: Payload, items: Mapping[int, Any]) -> TaskResults:
    """On tasks of Ray, which starts those of a lost worker again, and whose workers are killed if the iterator is closed."""
    import ray  # pyright: ignore[reportMissingImports]

    shared, waiting, running = ray.put(payload), list(items.items()), {}
    given = {name: value for name, value in (backend.ray_remote_args or {}).items() if name not in OF_ACTORS}
    remote: Any = ray.remote(_work).options(**{"max_retries": ATTEMPTS - 1} | given)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, item = waiting.pop(0)
                running[remote.remote(shared, item)] = number
            (done,), _ = ray.wait([*running], num_returns=1)
            yield running.pop(done), ray.get(done)
    except BaseException:
        for task in running:
            ray.cancel(task, force=True)
        raise
