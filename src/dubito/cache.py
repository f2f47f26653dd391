"""Compiled programs of the command line, kept between its runs in the user's cache folder. No JAX here: it reads this from
the environment when it is imported.

Nothing depends on the cache: what cannot be made, read or written is compiled. The folder is the user's alone, since
whoever writes to it can run code.
"""

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

LIMIT = 256 * 2**20  # bytes; the oldest programs go first


def folder():
    """Where programs are kept, or None: DUBITO_CACHE is 0 for nowhere, or the folder."""
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


def use():
    """Tell JAX, which must not be imported yet, to keep programs; does nothing where that is impossible or not wanted."""
    home = folder()
    if home is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    place = home / _processor()
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(place, os.W_OK):
            _prune(home)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _processor():
    """Programs are for one kind of processor, and homes may be shared by several: a name for this one's abilities."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        text += next((line for line in file if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _prune(home):
    files = [(path.stat(), path) for path in home.glob("*/*-cache")]
    total = sum(found.st_size for found, _ in files)
    for found, path in sorted(files, key=lambda each: each[0].st_mtime):
        if total <= LIMIT:
            return
        path.unlink(missing_ok=True)
        total -= found.st_size


def forget(message):
    """Whether a warning is JAX's about the cache. A program that cannot be read would stay there: all are removed."""
    text = str(message)
    if "persistent compilation cache" not in text:
        return False
    if "reading" in text and (home := folder()) is not None:
        for path in home.glob("*/*-cache"):
            with contextlib.suppress(OSError):
                path.unlink()
    return True
