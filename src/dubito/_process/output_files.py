"""Output files: checked before the work, and written whole or not at all.

No JAX here, and nothing else of dubito.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a drive such as C:/ has one letter
TEMPORARY: set[str] = set()  # the temporary files that exist now


@contextlib.contextmanager
def write_atomically(path: str | Path, folder: str | Path | None = None) -> Iterator[BinaryIO]:
    """A binary file, open for writing, that becomes ``path`` when the block ends; any exception leaves ``path`` as it was.

    Parameters
    ----------
    path : the file. An existing one keeps its mode.
    folder : for the temporary file, on the same file system; by default that of ``path``. The bytes are flushed to the
        disk before the file takes its place in one step.

    Raises
    ------
    OSError
        Also where something that is no plain file, such as a folder or a symbolic link, would be replaced.
    """
    path = Path(path)
    temporary = Path(folder or path.parent) / f".dubito-{secrets.token_hex(8)}"
    TEMPORARY.add(str(temporary))
    try:
        mode = replaced_mode(path)
        with open(temporary, "xb") as file:
            if mode is not None:  # before the first byte: a private file stays private
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(path)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the temporary name tells a user nothing
    finally:
        with contextlib.suppress(OSError, ValueError):  # it is gone when all went well
            os.unlink(temporary)
        TEMPORARY.discard(str(temporary))
    with contextlib.suppress(OSError):  # the file is in its place; not every system can flush a folder
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reason(error: Exception) -> object:
    """What the system says about a failed operation on a file, without the file's name."""
    return (error.strerror if isinstance(error, OSError) else None) or error


def remove_temporary_files() -> None:
    """Delete the temporary files of all writes under way, before an exit that runs no ``finally``."""
    for path in list(TEMPORARY):
        with contextlib.suppress(OSError, ValueError):
            os.unlink(path)


def replaced_mode(path: str | Path) -> int | None:
    """The permissions of the file that a new ``path`` would replace, None for no file.

    Raises
    ------
    OSError
        If that is no plain file, such as /dev/null or a link, or if it is protected, or if no file can have that name.
    """
    try:
        found = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found):
        target = os.path.realpath(path)
        raise OSError(errno.EEXIST, f"what is there is no plain file but a symbolic link; name its target {target!r}")
    if not stat.S_ISREG(found):
        raise OSError(errno.EEXIST, "there is a folder" if stat.S_ISDIR(found) else "what is there is no plain file")
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "it is read-only")
    return stat.S_IMODE(found)


def check_outputs(inputs: Mapping[str, str | Path | None], outputs: Mapping[str, str | Path | None]) -> None:
    """Check that every output can be written and is neither an input nor another output.

    Parameters
    ----------
    inputs, outputs : paths by what the user calls them. A path of None is skipped; the input "-" is standard input. Files
        are compared by identity, not by name, so that links and other spellings are found.

    Raises
    ------
    ValueError
        Names the file and what to do.
    """
    outputs = {name: path for name, path in outputs.items() if path is not None}
    for name, path in outputs.items():
        for other, source in inputs.items():
            if source is not None and _same_file(source, path):
                raise ValueError(f"{name} {path} is the same file as {other}, which would be lost: name another file")
    named = list(outputs.items())
    for place, (name, path) in enumerate(named):
        for other, earlier in named[:place]:
            if _same_file(earlier, path):
                raise ValueError(f"{name} {path} is the same file as {other} {earlier}: name another file")
    for name, path in named:
        _check_writable(name, Path(path))


def check_output_folder(name: str, folder: str | Path) -> None:
    """Raise ValueError unless ``folder`` exists or can be made, and files can be made in it."""
    _check_local(name, folder)
    existing = Path(folder).absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"{name} {folder}: {str(existing)!r} is not a folder: name another one")
    _check_folder(name, folder, existing)


def is_address(path: str | Path) -> bool:
    """Whether a name such as s3://bucket/table.csv is a network address and no file."""
    return bool(ADDRESS.match(str(path))) and not os.path.exists(path)


def _check_local(name, path):
    if is_address(path):
        raise ValueError(f"{name} {path}: only local files can be written. Name a file here, and copy it afterwards.")


def _check_writable(name, path):
    _check_local(name, path)
    if not path.parent.is_dir():
        raise ValueError(f"{name} {path}: there is no folder {str(path.parent)!r}. Create it, or name another one.")
    try:
        replaced_mode(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} {path} cannot be written: {reason(error)}. Name another file.") from None
    _check_folder(name, path, path.parent)


def _check_folder(name, path, folder):
    """Only making a file shows whether a file can be made: permissions are not all that forbids it."""
    probe = folder / f".dubito-{secrets.token_hex(8)}"
    try:
        with open(probe, "xb"):
            TEMPORARY.add(str(probe))
        os.unlink(probe)
    except OSError as error:
        raise ValueError(
            f"{name} {path} cannot be written: {error.strerror} in the folder {str(folder)!r}. Name another one."
        ) from None
    finally:
        TEMPORARY.discard(str(probe))


def _same_file(one, other):
    """Whether two paths are one file; of two that do not exist yet, whether their names differ in case at most."""
    first, second = _status(one), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second)
    if first is not None or second is not None or str(one) == "-":
        return False
    names = [unicodedata.normalize("NFC", Path(path).name).casefold() for path in (one, other)]
    first, second = (_status(Path(path).parent) for path in (one, other))
    return names[0] == names[1] and first is not None and second is not None and os.path.samestat(first, second)


def _status(path):
    with contextlib.suppress(OSError, ValueError):  # ValueError: a path with a null byte
        return os.fstat(sys.stdin.fileno()) if str(path) == "-" else os.stat(path)
    return None
