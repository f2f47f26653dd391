"""Compiled programs of the command line, stored between its runs in the user's cache folder. No JAX here: JAX reads the
folder's name from the environment when it is imported.

Nothing depends on the cache: programs that cannot be read or written are compiled. They are stored in a folder of their own
with a marker, to which only the user may write, since whoever writes to it can run code. When a process ends, it writes a
checksum beside each program that it has added; the next process deletes programs without the right checksum.
"""

import atexit
import contextlib
import hashlib
import os
import platform
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 256 * 2**20  # bytes; the oldest programs go first
NAME = "compiled-programs"
PROGRAM, CHECKSUM = "-cache", ".sha256"  # how names end: JAX chooses the first
MARKER = "CACHEDIR.TAG"
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Compiled programs of dubito. This folder may be deleted.\n"


def folder() -> Path | None:
    """The folder that contains the folder of programs: that of DUBITO_CACHE, or the user's; None if DUBITO_CACHE is 0."""
    chosen = os.environ.get("DUBITO_CACHE")
    if chosen is not None:
        return None if chosen in ("", "0") else Path(chosen)
    named, usual = {
        "darwin": (None, "~/Library/Caches"),
        "win32": ("LOCALAPPDATA", "~/AppData/Local"),
    }.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    try:
        return Path(os.environ.get(named or "") or usual).expanduser() / "dubito"
    except RuntimeError:  # there is no home
        return None


def enable(say: Callable[[str], Any] = lambda text: None) -> None:
    """Let JAX, which must not be imported yet, store programs; does nothing where that is impossible or not wanted.

    ``say`` prints a note where a folder is not used because others can write to it, or because it is not dubito's.
    """
    home = folder()
    if home is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    own, place = home / NAME, home / NAME / _processor()
    with contextlib.suppress(OSError):
        problem = _prepare(home, own)
        if problem is not None:
            say(f"dubito: note: compiled programs are not kept: {problem}")
            return
        place.mkdir(mode=0o700, exist_ok=True)
        if os.access(place, os.W_OK):
            _delete_damaged(place)
            _prune(own)
            atexit.register(_add_checksums, place, time.time(), os.getpid())
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _prepare(home, own):
    """Make the folder of programs ``own`` in ``home``; why it must not be used, or None. OSError where it cannot be made."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    own.mkdir(mode=0o700, exist_ok=True)
    for path, others in ((home, stat.S_IWOTH), (own, stat.S_IWGRP | stat.S_IWOTH)):
        found = os.stat(path) if path == home else os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return f"{path} is not a folder. Remove it, or name another folder with DUBITO_CACHE."
        shared = found.st_mode & others and not (path == home and found.st_mode & stat.S_ISVTX)
        if os.name == "posix" and (
            shared or found.st_uid not in ((0, os.geteuid()) if path == home else (os.geteuid(),))
        ):
            return f"others can write to {path}. Make it yours alone (chmod 700), or name another folder with DUBITO_CACHE."
    if not (own / MARKER).is_file():
        if any(own.iterdir()):
            return f"{own} holds files of something else. Name another folder with DUBITO_CACHE."
        (own / MARKER).write_text(SIGNATURE)
    return None


def _processor():
    """Programs are for one kind of processor, and homes may be shared by several: a name for this one's abilities."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        text += next((line for line in file if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(program):
    """SHA-256, hexadecimal, over a program's name and bytes: a program under another one's name is wrong, too."""
    return hashlib.sha256(program.name.encode() + b"\0" + program.read_bytes()).hexdigest()


def _checksum_file(program):
    return program.with_name(program.name + CHECKSUM)


def _delete(program):
    for path in (program, _checksum_file(program)):
        with contextlib.suppress(OSError):
            path.unlink()


def _delete_damaged(place):
    """Delete the programs that are not as they were added, and those whose process did not come to its end."""
    for program in place.glob(f"*{PROGRAM}"):
        try:
            sound = _checksum(program) == _checksum_file(program).read_text()
        except (OSError, ValueError):
            sound = False
        if not sound:
            _delete(program)


def _add_checksums(place, start, process):
    """Write the checksums of the programs that were added since ``start``; not in a fork of the ``process``."""
    if os.getpid() != process:
        return
    for program in place.glob(f"*{PROGRAM}"):
        with contextlib.suppress(OSError):
            if program.stat().st_mtime >= start - 2 and not _checksum_file(program).exists():
                _checksum_file(program).write_text(_checksum(program))


def _prune(own):
    """Delete the oldest programs, until the rest has ``LIMIT`` bytes at most."""
    programs = [(path.stat(), path) for path in own.glob(f"*/*{PROGRAM}")]
    total = sum(found.st_size for found, _ in programs)
    for found, path in sorted(programs, key=lambda each: each[0].st_mtime):
        if total <= LIMIT:
            return
        _delete(path)
        total -= found.st_size


def handle_warning(message: object) -> bool:
    """Whether a warning is JAX's about the cache; a program that cannot be read is deleted."""
    text = str(message)
    if "persistent compilation cache" not in text:
        return False
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    home = folder()
    if "reading" in text and place is not None and home is not None and Path(place).parent == home / NAME:
        for program in Path(place).glob(f"*{PROGRAM}"):
            if f"'{program.name.rsplit('-', 2)[0]}'" in text:
                _delete(program)
    return True
