"""Signals: none is lost, every command ends soon, nothing half written stays."""

import contextlib
import gc
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dubito
from dubito._process import interrupts, threads


def press():
    signal.raise_signal(signal.SIGINT)


def press_later(seconds=0.3):
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_sigint_in_a_gc_callback_is_not_lost():
    """Python drops what a handler raises there."""
    pressed = []

    def callback(phase, _):
        if phase == "start" and not pressed:
            pressed.append(phase)
            press()

    gc.callbacks.append(callback)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.sigint_as_flag():
            gc.collect()
            assert pressed
            interrupts.raise_pending()
            pytest.fail("check did not raise")
    finally:
        gc.callbacks.remove(callback)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    interrupts.raise_pending()  # the flag is down again


def test_second_sigint_raises_at_once():
    with pytest.raises(KeyboardInterrupt), interrupts.sigint_as_flag():
        press()
        press()
        pytest.fail("the second Ctrl-C did not raise")


def test_unread_sigint_raises_at_the_end_of_the_wait():
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupts.sigint_as_flag():
        press()
        reached.append("end")
    assert reached


def test_own_sigint_handler_is_respected():
    numbers = []
    signal.signal(signal.SIGINT, lambda number, _: numbers.append(number))
    try:
        with interrupts.sigint_as_flag():
            press()
            interrupts.raise_pending()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert numbers == [signal.SIGINT]


def test_raise_pending_raises_in_the_main_thread_only():
    with pytest.raises(KeyboardInterrupt), interrupts.sigint_as_flag():
        press()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(interrupts.raise_pending).result()
        interrupts.raise_pending()


def test_in_threads_answers_sigint():
    """The items after it are not begun."""
    begun = []

    def slow(item):
        begun.append(item)
        time.sleep(0.2)

    timer, start = press_later(), time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        list(threads.in_threads(slow, range(1000)))
    timer.join()
    assert time.perf_counter() - start < 3 and len(begun) < 50


@pytest.mark.slow
def test_predict_answers_sigint():
    x = np.random.default_rng(0).normal(size=(500, 2))
    model = dubito.BayesianRegressor(dubito.MCDropout(epochs=1), hidden=(8,), random_state=0).fit(x, x[:, 0])
    before, many = model.predict(x), np.tile(x, (20_000, 1))
    press_later()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        model.predict(many)
    assert time.perf_counter() - start < 3
    assert np.array_equal(model.predict(x), before)


def test_start_jobs_cancels_what_is_queued():
    begun = []

    def job(stop, number):
        begun.append(number)
        stop.wait(20)

    timer, start = press_later(), time.perf_counter()
    with pytest.raises(KeyboardInterrupt), threads.start_jobs(job, [(k,) for k in range(100)]) as futures:
        threads.wait_for(futures.popleft())
    timer.join()
    assert time.perf_counter() - start < 5 and len(begun) <= threads.cores()


def test_restore_signals_undoes_watch_signals():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert interrupts.watch_signals() and not interrupts.watch_signals()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    interrupts.restore_signals()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


# --- processes

WAITING = """
import sys, time
from dubito._process import interrupts, output_files
interrupts.watch_signals()
output_files.TEMPORARY.add(sys.argv[1])
open(sys.argv[1], "w").close()
with interrupts.deferred_exit(sys.argv[2] == "deferred"):
    print("ready", flush=True)
    time.sleep(60)  # in C: no handler written in Python can end it
"""


@contextlib.contextmanager
def started(*command, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with subprocess.Popen([sys.executable, *map(str, command)], **options) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("section", ["plain", "deferred", "deferred twice"])
def test_signal_ends_a_process_that_is_in_c(number, section, tmp_path):
    """At once; where something is to be written, after the grace or the second signal."""
    temporary = tmp_path / "temporary"
    with started("-c", WAITING, temporary, section.split()[0]) as child:
        assert child.stdout.readline() == "ready\n"
        start = time.perf_counter()
        child.send_signal(number)
        if section == "deferred twice":
            time.sleep(0.3)
            child.send_signal(number)
        _, errors = child.communicate(timeout=20)
        seconds = time.perf_counter() - start
    assert child.returncode == 128 + number and errors == "Interrupted.\n"
    assert not temporary.exists()
    assert (seconds > interrupts.GRACE - 0.5) == (section == "deferred")
    assert seconds < interrupts.GRACE + 2


def test_ignored_sigint_stays_ignored():
    """As a script's background job has it."""
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from dubito._process import interrupts; interrupts.watch_signals()\n"
        "signal.raise_signal(signal.SIGINT); print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True)\n"
        "signal.raise_signal(signal.SIGTERM)\nimport time; time.sleep(60)"
    )
    with started("-c", script) as child:
        out, _ = child.communicate(timeout=20)
    assert out == "True\n" and child.returncode == 143


@pytest.mark.parametrize(
    ("module", "code", "message"), [("cli.commands", 130, "Interrupted.\n"), ("_process.interrupts", -2, "")]
)
def test_sigint_during_imports_leaves_no_traceback(module, code, message):
    """Once our handlers stand, and before."""
    script = (
        "import os, signal, sys, threading, time\nsys.argv = ['dubito', 'fit', 'none.csv', '-t', 'y', '-o', 'none']\n"
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'dubito.{module}': print('importing', flush=True); time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\nfrom dubito.__main__ import main\nmain()"
    )
    with started("-c", script) as child:
        assert child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (code, message)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    rng = np.random.default_rng(0)
    for name, rows in (("t.csv", 300), ("long.csv", 200_000)):
        x = rng.normal(size=(rows, 2))
        y = x[:, 0] + 0.3 * rng.normal(size=rows)
        np.savetxt(folder / name, np.c_[x, y], "%.4g", delimiter=",", header="a,b,y", comments="")
    model = dubito.BayesianRegressor(dubito.BayesByBackprop(epochs=1), random_state=0)
    model.fit(x[:100], y[:100])
    model.summary_["target"] = "y"
    model.save(folder / "m.dubito")
    return folder


COMMANDS = {
    "fit": "fit t.csv --target y --method map --set epochs=1000000 -o {out}/model",
    "predict": "predict m.dubito long.csv -o {out}/answer.csv",
    "compare": "compare t.csv --target y --report {out}/report.html",
    "calibrate": "calibrate m.dubito long.csv -o {out}/model",
    "demo": "demo --output {out}/demo",
}


def wait_for_handlers(child):
    """Until a process has handlers of its own for SIGTERM; before, Python's start has none to speak for us."""
    status = pathlib.Path(f"/proc/{child.pid}/status")
    for _ in range(600):
        caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE) if status.exists() else None
        if caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.05)


def wait_for_work(child, seconds):
    """Until a process has used ``seconds`` of CPU time, however busy the machine is."""
    path = pathlib.Path(f"/proc/{child.pid}/stat")
    if not path.exists():
        time.sleep(2 * seconds)
    while path.exists() and child.poll() is None:
        used = map(int, path.read_text().rsplit(") ", 1)[1].split()[11:13])  # by the program and by the kernel for it
        if sum(used) >= seconds * os.sysconf("SC_CLK_TCK"):
            return
        time.sleep(0.05)


IMPORTED = 2.5  # seconds of CPU time at which a command has imported JAX and works


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number", "seconds"),
    [
        ("fit", signal.SIGINT, 0),  # while it imports: the same for all commands
        ("fit", signal.SIGTERM, IMPORTED),
        ("predict", signal.SIGINT, IMPORTED),
        ("compare", signal.SIGINT, IMPORTED),
        ("calibrate", signal.SIGTERM, IMPORTED),
        ("demo", signal.SIGINT, IMPORTED),
    ],
)
def test_signal_ends_each_command(command, number, seconds, folder, tmp_path):
    """While it imports, and while it works; a second signal is not needed, and nothing is left. One thread reads both signals
    and treats them alike, as the test above shows, so that each command needs only one of them."""
    with started("-m", "dubito", *COMMANDS[command].format(out=tmp_path).split(), cwd=folder) as child:
        wait_for_handlers(child)
        wait_for_work(child, seconds)
        start = time.perf_counter()
        child.send_signal(number)
        _, errors = child.communicate(timeout=60)
        seconds = time.perf_counter() - start
    assert child.returncode == 128 + number, errors
    assert seconds < 5 and "Interrupted." in errors and "Traceback" not in errors
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
