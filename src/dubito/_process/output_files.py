"""Output files: checked before the work, and written whole or not at all."""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

PathLike: TypeAlias = str | Path

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a drive such as C:/ has one letter
TEMPORARY: set[str] = set()  # the temporary files that exist now


@contextlib.contextmanager
def write_atomically(path: PathLike) -> Iterator[BinaryIO]:
    """A binary file, open for writing, that becomes ``path`` when the block ends.

    Any exception leaves ``path`` as it was. The bytes are flushed to the disk before the file takes
    its place in one step.

    Parameters
    ----------
    path : str or Path
        The file. An existing one keeps its mode.

    Yields
    ------
    BinaryIO
        A temporary file in the same folder.

    Raises
    ------
    OSError
        Also if ``path`` exists and is not a regular file, such as a folder or a symbolic link.
    """
    path = Path(path)
    temporary = path.parent / f".dubito-{secrets.token_hex(8)}"
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
        with contextlib.suppress(OSError, ValueError):  # it is gone if all went well
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


def replaced_mode(path: PathLike) -> int | None:
    """The permissions of the file that a new ``path`` would replace, or None if there is no file.

    Parameters
    ----------
    path : str or Path
        The file to write.

    Returns
    -------
    int or None
        Permissions as of ``os.chmod``.

    Raises
    ------
    OSError
        If ``path`` is not a regular file, such as /dev/null or a link, if it is read-only, or if no
        file can have that name.
    """
    try:
        found = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found):
        target = os.path.realpath(path)
        raise OSError(errno.EEXIST, f"it is a symbolic link, not a regular file; use its target {target!r}")
    if not stat.S_ISREG(found):
        raise OSError(errno.EEXIST, "it is a folder" if stat.S_ISDIR(found) else "it is not a regular file")
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, "it is read-only")
    return stat.S_IMODE(found)


def check_outputs(inputs: Mapping[str, PathLike | None], outputs: Mapping[str, PathLike | None]) -> None:
    """Check that every output can be written and is neither an input nor another output.

    Files are compared by identity, not by name, so that links and other spellings are found.

    Parameters
    ----------
    inputs, outputs : mapping
        Paths by what the user calls them. A path of None is skipped; the input "-" is standard
        input.

    Raises
    ------
    ValueError
        Names the file and what to do.
    """
    taken = {name: path for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        for other, earlier in taken.items():
            if _same_file(earlier, path):
                raise ValueError(
                    f"{name} {path} is the same file as {other} and would overwrite it. Choose another file."
                )
        taken[name] = path
        _check_writable(name, Path(path))


def check_output_folder(name: str, folder: PathLike) -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Parameters
    ----------
    name : str
        What the user calls the folder.
    folder : str or Path
        The folder.

    Raises
    ------
    ValueError
        Names the folder and what to do.
    """
    _check_local(name, folder)
    whole = Path(folder).absolute()
    existing = next(path for path in (whole, *whole.parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ValueError(f"{name} {folder}: {str(existing)!r} is not a folder. Choose another folder.")
    _check_folder(name, folder, existing)


def is_address(path: PathLike) -> bool:
    """Whether a name such as s3://bucket/table.csv is a network address, not a file."""
    return bool(ADDRESS.match(str(path))) and not os.path.exists(path)


def _check_local(name: str, path: PathLike) -> None:
    if is_address(path):
        raise ValueError(f"{name} {path}: only local files can be written. Choose a local file and copy it afterwards.")


def _check_writable(name: str, path: Path) -> None:
    _check_local(name, path)
    if not path.parent.is_dir():
        raise ValueError(f"{name} {path}: there is no folder {str(path.parent)!r}. Create it, or choose another file.")
    try:
        replaced_mode(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} {path} cannot be written: {reason(error)}. Choose another file.") from None
    _check_folder(name, path, path.parent)


def _check_folder(name: str, path: PathLike, folder: Path) -> None:
    """Only creating a file shows whether a file can be created: permissions are not the only
    obstacle.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        problem = f"{error.strerror} in the folder {str(folder)!r}"
        raise ValueError(f"{name} {path} cannot be written: {problem}. Choose another one.") from None


def _same_file(one: PathLike, other: PathLike) -> bool:
    """Whether two paths are one file; if neither exists yet, whether their names differ at most in
    case.
    """
    first, second = _status(one), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second)
    if first is not None or second is not None or str(one) == "-":
        return False
    names = {unicodedata.normalize("NFC", Path(path).name).casefold() for path in (one, other)}
    first, second = _status(Path(one).parent), _status(Path(other).parent)
    return len(names) == 1 and first is not None and second is not None and os.path.samestat(first, second)


def _status(path: PathLike) -> os.stat_result | None:
    with contextlib.suppress(OSError, ValueError):  # ValueError: a path with a null byte
        return os.fstat(sys.stdin.fileno()) if str(path) == "-" else os.stat(path)
    return None
