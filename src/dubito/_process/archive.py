"""A file of one JSON document and named arrays that is read without trust and written without loss.

The format is safetensors, whose metadata hold the canonical JSON and a SHA-256 over JSON and arrays. Reading checks
size, header, names, shapes and dtypes before anything is allocated, then the hash, then that numbers are finite.
Nothing is imported by name, no path is followed, no callable is built.
"""

import errno
import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from dubito._process.output_files import reason, write_atomically

HEADER = 2**22  # bytes of a header at most: what a hostile one can cost stays below a second
FILE = 2**34  # bytes of a file at most
DEPTH = 32  # of nesting in JSON
NESTS = 2**18  # lists and objects in JSON at most, which cost more than numbers and texts
SIZES = {"F32": 4, "F64": 8, "U32": 4}
DTYPES = {"F32": "float32", "F64": "float64", "U32": "uint32"}
TEXT = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # a JSON string, or an unfinished one: linear, no retreat
PLAIN = bytes(byte for byte in range(256) if byte not in b"[]{}")


class ModelFileError(ValueError):
    """A file is no complete, unchanged model file of this library, or cannot be written or read."""


def write_archive(path: str | Path, config: dict[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write a document and arrays to a file, whole or not at all.

    Parameters
    ----------
    path : the file.
    config : plain JSON values.
    arrays : float32, float64 or uint32 arrays by name.

    Raises
    ------
    ModelFileError
        If that is impossible, or if ``read_archive`` would reject the file; an old file is then still there.
    """
    document = canonical(config)
    metadata = {"dubito": document, "sha256": digest(document, arrays)}
    data = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    start = 8 + _length(data)
    header = json.loads(data[8:start]) | {"__metadata__": metadata}  # whose order changes from one process to the next
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(start - 8)
    if start - 8 > HEADER or len(data) > FILE:
        raise ModelFileError(
            f"too large to be saved: {start - 8} bytes of description (columns, categories, classes), of which "
            f"{HEADER} are possible, and {len(data)} bytes in all, of which {FILE} are."
        )
    _check_finite(arrays)
    try:
        with write_atomically(path) as file:
            file.write(data[:8] + text)
            file.write(memoryview(data)[start:])
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte, or text that no file name can have
        raise ModelFileError(
            f"cannot write {str(path)!r}: {reason(error)}. An older file there is unchanged."
        ) from error


def canonical(config: Any) -> str:
    """The canonical JSON text of plain values."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(document: str, arrays: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, over the JSON text and each array's name, dtype, shape and bytes, in the names' order."""
    total = hashlib.sha256(document.encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")  # which a number stays a number in
        total.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def read_archive(
    path: str | Path, expected: Callable[[dict[str, Any]], Mapping[str, tuple[str, tuple[int, ...]]]]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a document and arrays from a file.

    Parameters
    ----------
    path : the file.
    expected : function of the document that returns the dtype and shape of the arrays that must be there, by name; it is
        called before any array is read.

    Returns
    -------
    The document and the arrays by name.

    Raises
    ------
    ModelFileError
        For anything that ``write_archive`` would not have written.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _header(file, size)
        metadata = header.pop("__metadata__", None)
        expect(isinstance(metadata, dict) and set(metadata) == {"dubito", "sha256"}, "it is no dubito model file")
        expect(all(isinstance(value, str) for value in metadata.values()), "its metadata are not texts")
        config = strict_json(metadata["dubito"])
        expect(isinstance(config, dict) and canonical(config) == metadata["dubito"], "its JSON is not canonical")
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


def expect(fine: object, what: str) -> None:
    """Raise ModelFileError, which says ``what`` is wrong, unless ``fine``."""
    if not fine:
        raise ModelFileError(f"not a usable model file: {what}")


def _check_finite(arrays):
    for name, array in arrays.items():
        expect(bool(np.all(np.isfinite(array))), f"array {name!r} holds numbers that are not finite")


def _opened(path):
    """A plain file, open for reading; links, folders, pipes and devices are refused without waiting for them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | (os.O_NOFOLLOW | os.O_NONBLOCK if os.name == "posix" else 0))
    except (OSError, ValueError) as error:
        hint = " (a link is not followed)" if isinstance(error, OSError) and error.errno == errno.ELOOP else ""
        raise ModelFileError(f"cannot read {str(path)!r}: {reason(error)}{hint}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelFileError(f"cannot read {str(path)!r}: it is not a plain file")
    return os.fdopen(descriptor, "rb")


def _length(data):
    """Bytes of the header, as the first eight bytes say."""
    return struct.unpack("<Q", data[:8])[0]


def _header(file, size):
    """(the header, where the arrays begin). It has one spelling only, so that no byte of it can change unseen."""
    expect(8 <= size <= FILE, f"it has {size} bytes")
    length = _length(file.read(8))
    expect(2 <= length <= min(HEADER, size - 8), "its header has an impossible length")
    try:
        text = file.read(length).decode().rstrip(" ")
    except UnicodeDecodeError as error:
        raise ModelFileError("not a usable model file: its header is not text") from error
    header = strict_json(text)
    expect(isinstance(header, dict), "its header is no object")
    expect(json.dumps(header, separators=(",", ":"), ensure_ascii=False) == text, "its header is not as written")
    return header, 8 + length


def _check_entries(header, wanted, room):
    """Names, dtypes, shapes are the wanted ones, and the bytes follow one another without gap or overlap to the end."""
    expect(set(header) == set(wanted), "its arrays are not those of its configuration")
    spans = []
    for name, entry in header.items():
        expect(
            isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"},
            f"malformed entry for array {name!r}",
        )
        code, (dtype, shape) = entry["dtype"], wanted[name]
        expect(isinstance(code, str) and DTYPES.get(code) == dtype, f"array {name!r} must be {dtype}")
        expect(_counts(entry["shape"]) and entry["shape"] == list(shape), f"array {name!r} must be {tuple(shape)}")
        span = entry["data_offsets"]
        whole = _counts(span) and len(span) == 2
        expect(whole and span[1] - span[0] == math.prod(shape) * SIZES[code], f"array {name!r} has odd bytes")
        spans.append(tuple(span))
    end = 0
    for first, last in sorted(spans):
        expect(first == end, "its arrays overlap or leave gaps")
        end = last
    expect(end == room, "bytes are missing or left over at its end")


def _counts(value):
    return isinstance(value, list) and all(type(each) is int for each in value)


def strict_json(text: str) -> Any:
    """The values of a JSON text without doubled keys, without NaN and infinity, not deeper than ``DEPTH`` and of at most ``NESTS`` nests."""
    brackets = np.frombuffer(TEXT.sub("", text).encode(errors="replace").translate(None, PLAIN), np.uint8)
    depth = np.cumsum(np.where(np.isin(brackets, tuple(b"[{")), 1, -1))
    expect(depth.max(initial=0) <= DEPTH, "its JSON is nested too deep")
    expect(len(brackets) <= 2 * NESTS, "its JSON has too many lists and objects")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"not a usable model file: {error}") from error


def _unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key of its JSON is there twice")
    return found


def _no_constant(name):
    raise ValueError(f"its JSON holds {name}")


def _finite(text):
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)
