"""Compiled programs of the command line, stored between its runs in the user's cache folder.

No JAX here: JAX reads the folder's name from the environment when it is imported.

Nothing depends on the cache: programs that cannot be read or written are compiled. They are stored
in a folder of their own with a marker, to which only the user may write, since whoever writes to it
can run code. When a process ends, it writes a checksum beside each program that it has added; the
next process deletes programs without the right checksum.
"""

import atexit
import contextlib
import hashlib
import os
import platform
import stat
import sys
import time
from pathlib import Path

from dubito.cli.terminal import Say

LIMIT = 256 * 2**20  # bytes; the oldest programs are deleted first
NAME = "compiled-programs"
PROGRAM, CHECKSUM = "-cache", ".sha256"  # how names end: JAX chooses the first
MARKER = "CACHEDIR.TAG"
SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Compiled programs of dubito. This folder may be deleted.\n"


def folder() -> Path | None:
    """The folder that contains the folder of programs, None if there is none.

    DUBITO_CACHE names it, or turns the cache off if it is 0. The default is the user's cache
    folder.
    """
    chosen = os.environ.get("DUBITO_CACHE")
    if chosen is not None:
        return None if chosen in ("", "0") else Path(chosen)
    others = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA") or "~/AppData/Local"}
    try:
        return Path(others.get(sys.platform) or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dubito"
    except RuntimeError:  # there is no home
        return None


def enable(say: Say) -> None:
    """Let JAX, which must not be imported yet, store programs, if that is possible and wanted.

    Parameters
    ----------
    say : callable
        Prints a note if a folder is not used, because others can write to it or dubito did not make
        it.
    """
    home = folder()
    if home is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    own = home / NAME
    with contextlib.suppress(OSError):
        problem = _prepare(home, own)
        if problem is not None:
            say(f"dubito: note: compiled programs are not stored: {problem}")
            return
        place = own / _processor()
        place.mkdir(mode=0o700, exist_ok=True)
        if os.access(place, os.W_OK):
            _delete_damaged(place)
            _prune(own)
            atexit.register(_add_checksums, place, time.time(), os.getpid())
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _prepare(home: Path, own: Path) -> str | None:
    """Make the folder of programs ``own`` in ``home``. The reason why it must not be used, or None."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    own.mkdir(mode=0o700, exist_ok=True)
    user = os.geteuid() if os.name == "posix" else 0
    for path, owners, forbidden in ((home, (0, user), stat.S_IWOTH), (own, (user,), stat.S_IWGRP | stat.S_IWOTH)):
        found = os.stat(path) if path == home else os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return f"{path} is not a folder. Remove it, or set DUBITO_CACHE to another folder."
        sticky = path == home and found.st_mode & stat.S_ISVTX  # as /tmp: only the owner can rename what is in it
        if os.name == "posix" and (found.st_uid not in owners or found.st_mode & forbidden and not sticky):
            return f"others can write to {path}. Make it yours alone (chmod 700), or set DUBITO_CACHE to another one."
    if not (own / MARKER).is_file():
        if any(own.iterdir()):
            return f"{own} contains other files. Set DUBITO_CACHE to another folder."
        (own / MARKER).write_text(SIGNATURE)
    return None


def _processor() -> str:
    """A name for this processor's abilities: a program is for one kind, and several may share a
    home.
    """
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        text += next((line for line in file if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(program: Path) -> str:
    """SHA-256 of a program's name and bytes: a program under another one's name is wrong, too."""
    return hashlib.sha256(program.name.encode() + b"\0" + program.read_bytes()).hexdigest()


def _checksum_file(program: Path) -> Path:
    return program.with_name(program.name + CHECKSUM)


def _delete(program: Path) -> None:
    for path in (program, _checksum_file(program)):
        with contextlib.suppress(OSError):
            path.unlink()


def _delete_damaged(place: Path) -> None:
    """Delete the programs that have changed, and those whose process did not end normally."""
    for program in place.glob(f"*{PROGRAM}"):
        try:
            sound = _checksum(program) == _checksum_file(program).read_text()
        except (OSError, ValueError):
            sound = False
        if not sound:
            _delete(program)


def _add_checksums(place: Path, start: float, process: int) -> None:
    """Write the checksums of the programs added since ``start``; not in a fork of the ``process``."""
    if os.getpid() != process:
        return
    for program in place.glob(f"*{PROGRAM}"):
        with contextlib.suppress(OSError):
            if program.stat().st_mtime >= start - 2 and not _checksum_file(program).exists():
                _checksum_file(program).write_text(_checksum(program))


def _prune(own: Path) -> None:
    """Delete the oldest programs, until the rest has at most ``LIMIT`` bytes."""
    programs = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in own.glob(f"*/*{PROGRAM}"))
    total = sum(size for _, size, _ in programs)
    for _, size, path in programs:
        if total > LIMIT:
            _delete(path)
            total -= size


def handle_warning(message: object) -> bool:
    """Whether a warning is JAX's about the cache; a program that cannot be read is deleted."""
    text = str(message)
    if "persistent compilation cache" not in text:
        return False
    place, home = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", "")), folder()
    if "reading" in text and home is not None and place.parent == home / NAME:
        for program in place.glob(f"*{PROGRAM}"):
            if f"'{program.name.rsplit('-', 2)[0]}'" in text:
                _delete(program)
    return True
