"""A file of one JSON document and named arrays that is read without trust and written without loss.

The format is safetensors, whose metadata hold the canonical JSON and a SHA-256 over JSON and
arrays. Reading checks size, header, names, shapes and dtypes before anything is allocated, then the
hash, then that all numbers are finite. Nothing is imported by name, no path is followed, no
callable is built.
"""

import errno
import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import safetensors.numpy

from dubito._process.output_files import reason, write_atomically
from dubito._process.strict_json import parse_json

Config: TypeAlias = dict[str, Any]  # plain JSON values
Arrays: TypeAlias = dict[str, np.ndarray]
Layout: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]  # {name: (dtype, shape)} of arrays

HEADER = 2**22  # largest number of bytes of a header: what a hostile one can cost stays below a second
FILE = 2**34  # largest number of bytes of a file
BRACKETS = 2**19  # largest number of opening brackets in JSON: lists and objects cost more than numbers and texts
CODES = {"float32": "F32", "float64": "F64", "uint32": "U32"}


class ModelFileError(ValueError):
    """A file is not a complete, unchanged model file of this library, or cannot be read or written."""


def write_archive(path: str | Path, config: Config, arrays: Mapping[str, Any]) -> None:
    """Write a document and arrays to a file, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file.
    config : dict
        Plain JSON values.
    arrays : mapping
        float32, float64 or uint32 arrays by name.

    Raises
    ------
    ModelFileError
        If that is impossible, or if ``read_archive`` would reject the file; an older file is then
        unchanged.
    """
    document = canonical(config)
    metadata = {"dubito": document, "sha256": digest(document, arrays)}
    data = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    header = _length(data)
    if header > HEADER or len(data) > FILE:
        raise ModelFileError(
            f"the model is too large to save: its description (columns, categories, classes) has {header} bytes "
            f"(at most {HEADER}), the whole file {len(data)} bytes (at most {FILE})."
        )
    _check_finite(arrays)
    entries = json.loads(data[8 : 8 + header]) | {
        "__metadata__": metadata
    }  # safetensors writes these in a random order
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode().ljust(header)
    try:
        with write_atomically(path) as file:
            file.write(data[:8] + text)
            file.write(memoryview(data)[8 + header :])
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte, or text that no file name can have
        problem = f"cannot write {str(path)!r}: {reason(error)}. An older file there is unchanged."
        raise ModelFileError(problem) from error


def canonical(config: Any) -> str:
    """The canonical JSON text of plain values."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(document: str, arrays: Mapping[str, Any]) -> str:
    """Hash a document and arrays.

    Parameters
    ----------
    document : str
        The JSON text.
    arrays : mapping
        Arrays by name.

    Returns
    -------
    str
        SHA-256 in hexadecimal, over the text and each array's name, dtype, shape and bytes, in the
        order of the names.
    """
    total = hashlib.sha256(document.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")  # unlike ascontiguousarray, keeps an array without axes
        total.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def read_archive(path: str | Path, expected: Callable[[Config], Layout]) -> tuple[Config, Arrays]:
    """Read a document and arrays from a file.

    Parameters
    ----------
    path : str or Path
        The file.
    expected : callable
        Function of the document that returns the dtype and shape of the arrays that must be there,
        by name. It is called before any array is read.

    Returns
    -------
    tuple of dict
        The document, and the arrays by name.

    Raises
    ------
    ModelFileError
        For anything that ``write_archive`` would not have written.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _header(file, size)
        metadata = header.pop("__metadata__", None)
        expect(isinstance(metadata, dict) and set(metadata) == {"dubito", "sha256"}, "it is not a dubito model file")
        expect(all(isinstance(value, str) for value in metadata.values()), "its metadata are not texts")
        config = strict_json(metadata["dubito"])
        expect(isinstance(config, dict) and _is_canonical(config, metadata["dubito"]), "its JSON is not canonical")
        _check_entries(header, expected(config), size - start)
        file.seek(0)
        data = file.read(size)
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:
        raise ModelFileError(f"not a usable model file: {error}") from error
    expect(digest(metadata["dubito"], arrays) == metadata["sha256"], "its checksum does not match: it was changed")
    _check_finite(arrays)
    return config, arrays


def expect(fine: object, problem: str) -> None:
    """Raise ModelFileError, which states the ``problem``, unless ``fine``."""
    if not fine:
        raise ModelFileError(f"not a usable model file: {problem}")


def _is_canonical(config: Config, text: str) -> bool:
    try:
        return canonical(config) == text
    except RecursionError:
        return False


def _check_finite(arrays: Mapping[str, Any]) -> None:
    for name, array in arrays.items():
        expect(bool(np.all(np.isfinite(array))), f"array {name!r} holds numbers that are not finite")


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    file
        Open, in binary mode.

    Raises
    ------
    ModelFileError
        For a file that is not there, and at once for links, folders, pipes and devices.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | (os.O_NOFOLLOW | os.O_NONBLOCK if os.name == "posix" else 0))
    except (OSError, ValueError) as error:
        hint = " (a link is not followed)" if isinstance(error, OSError) and error.errno == errno.ELOOP else ""
        raise ModelFileError(f"cannot read {str(path)!r}: {reason(error)}{hint}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelFileError(f"cannot read {str(path)!r}: it is not a regular file")
    return os.fdopen(descriptor, "rb")


def _length(data: bytes) -> int:
    """Bytes of the header, according to the first eight bytes."""
    return struct.unpack("<Q", data[:8])[0]


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    expect(8 <= size <= FILE, f"it has {size} bytes")
    length = _length(file.read(8))
    expect(2 <= length <= min(HEADER, size - 8), "its header has an impossible length")
    try:
        header = strict_json(file.read(length).decode())
    except UnicodeDecodeError as error:
        raise ModelFileError("not a usable model file: its header is not text") from error
    expect(isinstance(header, dict), "its header is not an object")
    return header, 8 + length


def _check_entries(header: dict[str, Any], layout: Layout, room: int) -> None:
    """Check dtype and shape of each array, and the size of the file; safetensors checks the places
    of the arrays.
    """
    expect(set(header) == set(layout), "its arrays are not those of its configuration")
    for name, (dtype, shape) in layout.items():
        entry = header[name]
        fine = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}
        expect(fine, f"malformed entry for array {name!r}")
        expect(entry["dtype"] == CODES[dtype], f"array {name!r} must be {dtype}")
        expect(entry["shape"] == list(shape), f"array {name!r} must be {tuple(shape)}")
        room -= math.prod(shape) * np.dtype(dtype).itemsize
    expect(room == 0, "bytes are missing or left over at its end")


def strict_json(text: str) -> Any:
    """Read a JSON text that is not trusted.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    object
        Its values.

    Raises
    ------
    ModelFileError
        Also for repeated keys, NaN, infinity, nesting deeper than Python's recursion limit, and
        too many brackets.
    """
    expect(text.count("[") + text.count("{") <= BRACKETS, "its JSON has too many brackets")
    try:
        return parse_json(text)
    except ValueError as error:
        raise ModelFileError(f"not a usable model file: {error}") from error
