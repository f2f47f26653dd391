"""One fit in two processes, with the script of the guide: stopped in one of them and resumed, it ends as if it had not been."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from dubito.training import processes

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "several-processes.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="only a checkout has the documentation")

# The script as it is, but with a checkpoint after each chunk: the fit takes seconds.
RUN = """
import runpy, sys
from dubito.training import checkpoint
checkpoint.WRITE_INTERVAL = 0.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(script, *folders):
    """Two processes of the script, each with its folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", RUN, str(script), address, "2"]
    options = dict(env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [subprocess.Popen([*command, str(n), str(folder)], **options) for n, folder in enumerate(folders)]


def ends(pair):
    """(exit code, output, errors) of each process."""
    outputs = [process.communicate(timeout=280) for process in pair]
    return [(process.returncode, *both) for process, both in zip(pair, outputs, strict=True)]


def finish(pair):
    """The output of the first process; both must succeed."""
    found = ends(pair)
    assert [code for code, *_ in found] == [0, 0], found[0][2][-2000:] + found[1][2][-2000:]
    return found[0][1]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "train.py"
    (text,) = re.findall(r"^```python\n(# train\.py\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    """The predictions of a fit that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    out = finish(start(script, folder, folder))
    assert re.findall(r"epoch (\d+) of 40", out)[-1] == "40"
    return (folder / "predictions.csv").read_bytes()


def stop_one(script, folder, number):
    """Start both processes and send a signal to the second one after the first checkpoint: how both end."""
    pair = start(script, folder, folder)
    while not (folder / "fit.checkpoint").exists() and pair[0].poll() is None:
        time.sleep(0.01)
    pair[1].send_signal(number)
    return ends(pair)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_process_ends_the_fit_which_resumes_with_the_same_bits(script, whole, tmp_path):
    first, second = stop_one(script, tmp_path, signal.SIGKILL)
    assert first[0] != 0 and second[0] == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["fit.checkpoint"]
    out = finish(start(script, tmp_path, tmp_path))
    epochs = [int(epoch) for epoch in re.findall(r"epoch (\d+) of 40", out)]
    assert 0 < epochs[0] < 40 and epochs[-1] == 40
    assert (tmp_path / "predictions.csv").read_bytes() == whole


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_in_one_process_stops_both_which_resume_together(script, whole, tmp_path):
    first, second = stop_one(script, tmp_path, signal.SIGINT)
    assert "KeyboardInterrupt: another process of this fit was stopped" in first[2]
    assert "KeyboardInterrupt" in second[2] and "another process" not in second[2]
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "fit.checkpoint", alone)
    (tmp_path / "none").mkdir()
    for code, _, error in ends(start(script, alone, tmp_path / "none")):
        assert code == 1 and "CheckpointError: the processes of this fit have read different checkpoints" in error
    finish(start(script, tmp_path, tmp_path))
    assert (tmp_path / "predictions.csv").read_bytes() == whole


def test_one_process_agrees_with_itself():
    assert not processes.spans_processes(None) and processes.writes_files(None)
    assert processes.in_any_process(None, True) and not processes.in_any_process(None, False)
    assert processes.same_in_all_processes(None, "0f")
