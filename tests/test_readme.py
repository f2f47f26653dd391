"""The README's examples run."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", TEXT, re.S), ids=["table", "network", "computation", "seeing"]
)
def test_python_blocks_run(block, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.slow
def test_shell_lines_run(tmp_path):
    (lines,) = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    os.symlink(ROOT / "src", tmp_path / "src")
    for line in lines.splitlines():
        arguments = shlex.split(line)
        assert arguments[0] == "dubito"
        program = [sys.executable, "-m", "dubito", *arguments[1:]]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {"co2.dubito", "predictions.csv", "report.html"} <= set(os.listdir(tmp_path))
