"""Runs the command line in the process of the test."""

import io
import sys
import warnings

import pytest

from dubito.cli import commands

SMALL = ("--method", "map", "--set", "epochs=30", "--hidden", "8")


def run(*arguments, data=b"", code=0):
    """(stdout, stderr) of the console script. It runs in this process, which has already imported JAX; a new process, as in the
    tests of signals and pipes, takes three seconds."""
    files = io.BufferedReader(io.BytesIO(data)), io.BytesIO(), io.BytesIO()  # type: ignore[arg-type]
    streams = [io.TextIOWrapper(file, "utf-8", write_through=True) for file in files]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("default")
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["dubito", *map(str, arguments)])
        commands.main()
    out, error = (file.getvalue().decode() for file in files[1:])
    assert (ended.value.code or 0) == code, error
    return out, error
