"""Tasks on the engine of ``joblib.parallel_config``: here loky's processes; tests/interop has Dask and Ray."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import joblib
import pytest

from dubito._check import DataWarning, warn
from dubito._process import engines
from dubito._process.threads import cores

UNPACKED = []  # in a worker: one entry for each time that a ``Counted`` was read


class Counted:
    """Shared data that know how often a process has read them."""

    def __reduce__(self):
        return _read, ()


def _read():
    UNPACKED.append(1)
    return Counted()


def look(shared, item, stop):
    time.sleep(0.05)  # so that both workers have some
    from dubito._process import threads

    return item, os.getpid(), len(UNPACKED), threads._inherited.is_set(), cores(), engines.chosen_engine() is None


def die(folder, item, stop):
    """End the process, once at item 3 and always at item 5."""
    marker = pathlib.Path(folder) / "dead"
    if item == 5 or item == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def complain(shared, item, stop):
    warn(f"item {item}", DataWarning)
    if item == 2:
        raise Unreadable(1, 2)
    return item


class Unreadable(Exception):
    """An exception that can be written but not read."""

    def __init__(self, one, two):
        Exception.__init__(self, f"{one} and {two}")


@pytest.fixture
def engine():
    with joblib.parallel_config("loky", n_jobs=2):
        yield engines.chosen_engine()


def run(engine, function, shared, items):
    return list(engines.run_tasks(engine, function, shared, items, [f"item {item}" for item in items]))


def test_no_engine_is_chosen_by_default_nor_for_threads_nor_for_one_job():
    assert engines.chosen_engine() is None
    for backend, jobs in (("threading", 2), ("sequential", 2), ("loky", 1), ("loky", None)):
        with joblib.parallel_config(backend, n_jobs=jobs):
            assert engines.chosen_engine() is None, backend
    with joblib.parallel_config(n_jobs=2):  # names no backend
        assert engines.chosen_engine() is None


def test_forks_are_refused():
    with (
        joblib.parallel_config("multiprocessing", n_jobs=2),
        pytest.raises(ValueError, match="'loky', 'dask' or 'ray'"),
    ):
        engines.chosen_engine()


def test_tasks_run_in_other_processes_that_read_the_shared_data_once(engine):
    assert (engine.name, engine.jobs, engine.cores) == ("loky", 2, max(1, cores() // 2))
    found = run(engine, look, Counted(), range(10))
    assert sorted(number for number, _ in found) == list(range(10))
    assert all(number == value[0] for number, value in found)
    processes = {value[1] for _, value in found}
    assert len(processes) == 2 and os.getpid() not in processes
    assert {value[2:] for _, value in found} == {(1, False, engine.cores, True)}
    again = run(engine, look, Counted(), range(4))  # the same workers, other data
    assert {value[1] for _, value in again} <= processes and {value[2] for _, value in again} == {2}


def test_tasks_of_a_worker_that_died_are_done_again(engine, tmp_path):
    assert sorted(run(engine, die, str(tmp_path), range(5))) == [(n, n) for n in range(5)]
    assert (tmp_path / "dead").exists()


def test_a_task_that_kills_every_worker_is_named(engine, tmp_path):
    (tmp_path / "dead").touch()
    found = []
    with pytest.raises(
        RuntimeError, match=r"workers of loky ended again and again, and . of 2 tasks are not done: .*item 5"
    ):
        found.extend(run(engine, die, str(tmp_path), [4, 5]))


def test_warnings_and_exceptions_arrive(engine):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sorted(run(engine, complain, None, [0, 1])) == [(0, 0), (1, 1)]
    ours = [(str(each.message), each.category) for each in caught if each.category is DataWarning]
    assert sorted(ours) == [("item 0", DataWarning), ("item 1", DataWarning)]
    with pytest.warns(DataWarning), pytest.raises(RuntimeError, match=r"^Unreadable: 1 and 2$"):
        run(engine, complain, None, [2])


def test_data_that_cannot_be_sent_are_an_error(engine):
    with pytest.raises(ValueError, match=r"cannot be sent to the workers of loky: .*outside of joblib.parallel_config"):
        run(engine, look, threading.Lock(), [0])


def test_other_versions_in_a_worker_are_an_error(engine, monkeypatch):
    monkeypatch.setattr(engines, "library_versions", lambda: {"python": "3", "dubito": "0.0.1"})
    with pytest.raises(RuntimeError, match=r"a worker has python .* started it has python 3, dubito 0.0.1\."):
        run(engine, look, None, [0])


INTERRUPTED = """
import os, signal, sys, threading, time
import joblib
from dubito._process import engines

def wait(folder, item, stop):
    open(f"{folder}/{item}-{os.getpid()}", "w").close()
    time.sleep(60)

def press(folder):
    while len(os.listdir(folder)) < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    threading.Thread(target=press, args=sys.argv[1:]).start()
    with joblib.parallel_config("loky", n_jobs=2):
        try:
            list(engines.run_tasks(engines.chosen_engine(), wait, sys.argv[1], [0, 1, 2, 3], list("abcd")))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_ends_the_tasks(tmp_path):
    start = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0 and found.stdout == "interrupted\n", found.stderr
    assert time.monotonic() - start < 50  # the tasks take 60 seconds each
    processes = [int(path.name.split("-")[1]) for path in tmp_path.iterdir()]
    assert len(processes) == 2
    deadline = time.monotonic() + 10
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, processes))


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in pathlib.Path(f"/proc/{process}/status").read_text()
