"""SIGINT and SIGTERM as a flag that ordinary code reads, so that no signal is lost.

Python drops an exception that a signal handler raises inside a callback of the garbage collector
(JAX registers one) or inside ``__del__``, and runs no handler while the main thread is in C, as in
a compilation. Therefore no handler here raises for the first signal; ``raise_pending`` does, where
a loop calls it.

The command line calls ``watch_signals``: a thread reads the signals, whatever the main thread does.
It ends the process at once, or, inside ``deferred_exit``, when the code has written its results or
after ``GRACE`` seconds; a second signal always ends it at once. In a script or a notebook,
``sigint_as_flag`` does the same for Ctrl-C while the main thread waits.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from dubito._process.output_files import remove_temporary_files

GRACE = 3.0  # seconds that code inside ``deferred_exit`` has
NAP = 0.05  # seconds between two checks by the thread that ends the process
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class SignalState:
    """The signals of this process."""

    number: int | None = None  # of the first signal
    raised: bool = False  # whether ``raise_pending`` has raised it
    deferrals: int = 0
    grace: float = GRACE  # seconds that the code has
    restore: Callable[[], None] | None = None  # undoes ``watch_signals``
    lock: threading.Lock = field(default_factory=threading.Lock)


_state = SignalState()


def raise_pending() -> None:
    """Raise KeyboardInterrupt after SIGINT and SystemExit(143) after SIGTERM, in the main thread
    only.
    """
    if _state.number is None or not _in_main_thread():
        return
    _state.raised = True
    if _state.number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + _state.number)


@contextlib.contextmanager
def deferred_exit(wanted: bool = True, grace: float = GRACE) -> Iterator[None]:
    """Keep a signal from ending the command line at once: the code calls ``raise_pending`` and has
    something to write, for which it has ``grace`` seconds.
    """
    with _state.lock:
        _state.deferrals += wanted
        _state.grace = max(_state.grace, grace)
    try:
        yield
    finally:
        with _state.lock:
            _state.deferrals -= wanted


@contextlib.contextmanager
def sigint_as_flag() -> Iterator[None]:
    """While the main thread waits, leave the first Ctrl-C to ``raise_pending``; a second raises
    KeyboardInterrupt at once.

    Does nothing in other threads, or if SIGINT has another handler than Python's own.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def handler(number: int, _: FrameType | None) -> None:
        if _state.number is not None:
            raise KeyboardInterrupt
        _state.number = number

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        unread = _state.number is not None and not _state.raised
        _state.number, _state.raised = None, False
    if unread:
        raise KeyboardInterrupt


def watch_signals() -> bool:
    """Handle the signals of a command line, until ``restore_signals``.

    A signal that is ignored, as SIGINT is by a script's background job, stays ignored.

    Returns
    -------
    bool
        Whether this call started the handling.
    """
    if not _in_main_thread() or _state.restore is not None:
        return False
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    descriptor = writer.detach()  # stays open until the process has ended, so that a late signal is no error
    wakeup = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    for number in handlers:
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_watch, args=(reader, set(handlers)), name="dubito-signals", daemon=True).start()

    def restore() -> None:
        for number, old in handlers.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(wakeup)
        socket.close(descriptor)
        _state.restore, _state.number, _state.raised, _state.grace = None, None, False, GRACE

    _state.restore = restore
    return True


def restore_signals() -> None:
    """Restore the handlers that were there before ``watch_signals``."""
    if _state.restore is not None:
        _state.restore()


def exit_if_interrupted() -> None:
    """End the process after a signal, without waiting for threads that may be compiling; return if
    there was none.
    """
    if _state.number is not None:
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                file.flush()
        remove_temporary_files()
        os._exit(128 + _state.number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _watch(reader: socket.socket, numbers: set[int]) -> None:
    """Read the signals' numbers, one byte each, and end the process."""
    with reader:
        while (byte := reader.recv(1)) and byte[0] not in numbers:
            pass
        if not byte:
            return  # ``restore_signals`` has closed the other end
        if not _state.deferrals:
            _end(byte[0])
        _state.number = number = byte[0]
        reader.settimeout(NAP)
        deadline = time.monotonic() + _state.grace
        while (_state.deferrals or _state.raised) and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                byte = reader.recv(1)
                if not byte:
                    return
                if byte[0] in numbers:
                    break
        _end(number)


def _end(number: int) -> None:
    remove_temporary_files()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there may be no stderr
        descriptor = sys.stderr.fileno()
        shown = "\x1b[?25h\r\x1b[2K" if os.isatty(descriptor) else ""  # the cursor, and the progress bar's line
        if sys.platform == "win32" or select.select([], [descriptor], [], 0)[1]:  # no wait for a full pipe
            os.write(descriptor, f"{shown}Interrupted.\n".encode())
    os._exit(128 + number)
