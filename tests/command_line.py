"""Runs the command line in the process of the test."""

import contextlib
import io
import os
import socket
import sys
import tempfile
import threading
import traceback
import warnings

import pytest

from dubito.cli import commands

SMALL = ("--method", "map", "--set", "epochs=30", "--hidden", "8")

CALLER = """#!{python} -IS
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, ["\\0".join([os.getcwd(), *sys.argv[1:]]).encode()], [0, 1, 2])
    sys.exit(int(server.recv(8) or 1))
"""


def run(*arguments, data=b"", code=0):
    """(stdout, stderr) of the console script. It runs in this process, which has already imported JAX; a new process, as in the
    tests of signals and pipes, takes three seconds."""
    files = io.BufferedReader(io.BytesIO(data)), io.BytesIO(), io.BytesIO()  # type: ignore[arg-type]
    streams = [io.TextIOWrapper(file, "utf-8", write_through=True) for file in files]
    ended = call(arguments, streams)
    out, error = (file.getvalue().decode() for file in files[1:])
    assert ended == code, error
    return out, error


def call(arguments, streams):
    """The exit code of the console script in this process, with these standard streams."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("default")
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["dubito", *map(str, arguments)])
        commands.main()
    return ended.value.code or 0


@contextlib.contextmanager
def commands_of_shells():
    """A PATH whose ``dubito`` hands its arguments, folder and standard streams to a thread of this process, which runs the
    command: shell scripts run as they are, with pipes and exit codes, and nothing is imported or compiled anew."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(address := os.path.join(folder, "server"))
        program = os.path.join(folder, "dubito")
        with open(program, "w") as file:
            file.write(CALLER.format(python=sys.executable, address=address))
        os.chmod(program, 0o755)
        server.listen()
        thread = threading.Thread(target=_answer, args=(server,))
        thread.start()
        try:
            yield f"{folder}:{os.environ['PATH']}"
        finally:
            with socket.socket(socket.AF_UNIX) as last:  # which asks for nothing
                last.connect(address)
            thread.join()


def _answer(server):
    while True:
        caller, _ = server.accept()
        with caller:
            message, files, *_ = socket.recv_fds(caller, 2**16, 3)
            if not message:
                return
            code = 1
            with contextlib.suppress(
                OSError
            ):  # of a pipe that was closed: as after a process, the script sees exit code 1
                code = _answer_one(*message.decode().split("\0"), files=files)
            caller.sendall(str(code).encode())


def _answer_one(folder, *arguments, files):
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open(*pair, encoding="utf-8")) for pair in zip(files, "rww", strict=True)]
        stack.enter_context(contextlib.chdir(folder))
        try:
            return call(arguments, streams)
        except Exception:
            traceback.print_exc(file=streams[2])
            return 1
