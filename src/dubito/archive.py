"""A file of one JSON document and named arrays that is read without trust and written without loss.

The format is safetensors, whose metadata hold the canonical JSON and a SHA-256 over JSON and arrays. Reading checks size,
header, names, shapes and dtypes before anything is allocated, then the hash, then that numbers are finite. Nothing is
imported by name, no path is followed, no callable is built.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import struct
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy

HEADER = 2**24  # bytes of a header at most
FILE = 2**34  # bytes of a file at most
DEPTH = 32  # of nesting in JSON
SIZES = {"F32": 4, "F64": 8, "U32": 4}
DTYPES = {"F32": "float32", "F64": "float64", "U32": "uint32"}


class ModelFileError(ValueError):
    """The file is not a whole, unchanged model file of this library, or cannot be written or read."""


def write(path, config, arrays):
    """Write ``config`` (plain JSON values) and ``arrays`` (name: float32, float64 or uint32) to ``path``, whole or not at
    all: a temporary file beside it, flushed to the disk, takes its place in one step.

    Raises ModelFileError where that is impossible; an old file is then still there.
    """
    path = Path(path)
    document = canonical(config)
    metadata = {"dubito": document, "sha256": digest(document, arrays)}
    data = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
    temporary = None
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".dubito-", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ModelFileError(
            f"cannot write {str(path)!r}: {error.strerror or error}. An older file there is unchanged."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def canonical(config):
    """The one JSON text of ``config``."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(document, arrays):
    """SHA-256, hexadecimal, over the JSON text and each array's name, dtype, shape and bytes, in the names' order."""
    total = hashlib.sha256(document.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def read(path, expected):
    """(config, arrays) of the file at ``path``.

    ``expected(config)`` gives {name: (dtype, shape)} of the arrays that must be there, no more and no fewer; it is asked
    before any array is read. Raises ModelFileError for anything that ``write`` would not have written.
    """
    data = _bytes(path)
    header, start = _header(data)
    metadata = header.pop("__metadata__", None)
    _expect(isinstance(metadata, dict) and set(metadata) == {"dubito", "sha256"}, "it is no dubito model file")
    _expect(all(isinstance(value, str) for value in metadata.values()), "its metadata are not texts")
    config = strict_json(metadata["dubito"])
    _expect(isinstance(config, dict) and canonical(config) == metadata["dubito"], "its configuration is not canonical")
    wanted = expected(config)
    _check_entries(header, wanted, len(data) - start)
    try:
        arrays = safetensors.numpy.load(data)
    except Exception as error:
        raise ModelFileError(f"not a readable model file: {error}") from error
    _expect(digest(metadata["dubito"], arrays) == metadata["sha256"], "its checksum does not match: it was changed")
    for name, array in arrays.items():
        _expect(bool(np.all(np.isfinite(array))), f"array {name!r} holds numbers that are not finite")
    return config, arrays


def _expect(fine, what):
    if not fine:
        raise ModelFileError(f"not a usable model file: {what}")


def _bytes(path):
    """The bytes of a plain file; links, pipes and devices are refused, before they are opened for long."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        hint = " (a link is not followed)" if os.path.islink(path) else ""
        raise ModelFileError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', error)}{hint}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        _expect(stat.S_ISREG(status.st_mode), "it is not a plain file")
        _expect(8 <= status.st_size <= FILE, f"it has {status.st_size} bytes")
        (length,) = struct.unpack("<Q", file.read(8))
        _expect(2 <= length <= min(HEADER, status.st_size - 8), "its header has an impossible length")
        file.seek(0)
        return file.read()


def _header(data):
    (length,) = struct.unpack("<Q", data[:8])
    try:
        text = data[8 : 8 + length].decode()
    except UnicodeDecodeError as error:
        raise ModelFileError("not a usable model file: its header is not text") from error
    header = strict_json(text.rstrip(" "))
    _expect(isinstance(header, dict), "its header is no object")
    return header, 8 + length


def _check_entries(header, wanted, room):
    """Names, dtypes and shapes are the wanted ones, and the bytes follow one another without gap or overlap to the end."""
    _expect(set(header) == set(wanted), "its arrays are not those of its configuration")
    spans = []
    for name, entry in header.items():
        _expect(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}, f"array {name!r} is ill")
        dtype, shape = wanted[name]
        _expect(DTYPES.get(entry["dtype"]) == dtype, f"array {name!r} must be {dtype}")
        _expect(entry["shape"] == list(shape), f"array {name!r} must have shape {tuple(shape)}")
        span = entry["data_offsets"]
        whole = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
        _expect(
            whole and span[1] - span[0] == math.prod(shape) * SIZES[entry["dtype"]], f"array {name!r} has odd bytes"
        )
        spans.append(tuple(span))
    end = 0
    for first, last in sorted(spans):
        _expect(first == end, "its arrays overlap or leave gaps")
        end = last
    _expect(end == room, "bytes are missing or left over at its end")


def strict_json(text):
    """JSON without doubled keys, without NaN and infinity, and not deeper than ``DEPTH``."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    _expect(deepest <= DEPTH, "its JSON is nested too deep")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"not a usable model file: {error}") from error


def _unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key of its JSON is there twice")
    return found


def _no_constant(name):
    raise ValueError(f"its JSON holds {name}")
