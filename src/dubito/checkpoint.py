"""A fit's progress in a file: written between chunks, gone on from by the same fit, bit for bit."""

import hashlib
import re
import threading
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dubito import archive

EVERY = 10.0  # seconds between a member's writes, or twenty times as long as a write takes


class CheckpointError(ValueError):
    """The file is no checkpoint of this fit."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the fit goes on without."""


class Checkpoint:
    """What each member of each run of one fit had reached, in the file at ``path``.

    ``parts`` names everything that decides the result (model, method, rows, ...); a file that was made by other parts is
    refused with a CheckpointError that names them, and stays as it is.
    """

    def __init__(self, path, parts):
        self.path = Path(path)
        self.parts = {name: fingerprint(value) for name, value in parts.items()}
        self.lock = threading.Lock()
        self.runs = 0
        self.arrays = self._read() if self.path.exists() else {}

    def _read(self):
        try:
            config, arrays = archive.read(self.path, _expected)
        except archive.ModelFileError as error:
            raise CheckpointError(
                f"cannot go on from {str(self.path)!r}: {error}. Delete it or name another."
            ) from error
        changed = [name for name, value in self.parts.items() if config["parts"].get(name) != value]
        if changed:
            raise CheckpointError(
                f"the checkpoint {str(self.path)!r} is of another fit: not the same {', '.join(changed)}. "
                "Delete it or name another."
            )
        return arrays

    def slots(self, members):
        """A place for each member of the fit's next run."""
        self.runs += 1
        return [Slot(self, f"{self.runs}.{number}") for number in range(members)]

    def write(self, name, carry, log):
        """Replace what the file has of one member. Seconds that it took."""
        start = time.monotonic()
        with self.lock:
            self.arrays[f"{name}.carry"], self.arrays[f"{name}.log"] = carry, log
            shapes = {key: list(array.shape) for key, array in self.arrays.items()}
            try:
                archive.write(self.path, {"checkpoint": 1, "parts": self.parts, "shapes": shapes}, self.arrays)
            except archive.ModelFileError as error:
                warnings.warn(f"no checkpoint: {error}", CheckpointWarning, stacklevel=2)
        return time.monotonic() - start


class Slot:
    """One member's place in a checkpoint."""

    def __init__(self, checkpoint, name):
        self.checkpoint, self.name = checkpoint, name
        self.next = time.monotonic() + EVERY

    def restore(self, carry):
        """(a carry like ``carry``, the log of its epochs (epochs, 3)) as they were kept; ``carry`` and none if never."""
        words = self.checkpoint.arrays.get(f"{self.name}.carry")
        if words is None:
            return carry, np.empty((0, 3), np.float32)
        leaves, tree = jax.tree.flatten(carry)
        plain = [_plain(leaf) for leaf in leaves]
        data, place, found = words.tobytes(), 0, []
        if not 0 <= len(data) - sum(leaf.nbytes for leaf in plain) < 4:
            path = str(self.checkpoint.path)
            raise CheckpointError(f"the checkpoint {path!r} is of another version. Delete it or name another.")
        for leaf, like in zip(leaves, plain, strict=True):
            found.append(_typed(np.frombuffer(data, like.dtype, like.size, place).reshape(like.shape), leaf))
            place += like.nbytes
        return tree.unflatten(found), self.checkpoint.arrays[f"{self.name}.log"].view(np.float32)

    def keep(self, carry, log, last):
        """Write what the member has reached if it is the ``last`` of it or some time has gone by."""
        if not (last or time.monotonic() >= self.next):
            return
        data = b"".join(_plain(leaf).tobytes() for leaf in jax.tree.leaves(carry))
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), np.uint32)
        seconds = self.checkpoint.write(self.name, words, np.ascontiguousarray(log, np.float32).view(np.uint32))
        self.next = time.monotonic() + max(EVERY, 20 * seconds)


def _expected(config):
    parts, shapes = config.get("parts"), config.get("shapes")
    whole = config.get("checkpoint") == 1 and isinstance(parts, dict) and isinstance(shapes, dict)
    archive.expect(whole, "it is no checkpoint")
    for shape in shapes.values():
        archive.expect(isinstance(shape, list) and all(type(each) is int for each in shape), "its shapes are ill")
    return {name: ("uint32", tuple(shape)) for name, shape in shapes.items()}


def _plain(leaf):
    """A leaf as an array of its own memory; a key as its data."""
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if key else leaf)


def _typed(value, like):
    key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(like)) if key else jnp.array(value)


def fingerprint(value):
    """SHA-256 of a tree: its structure, and the bytes of its arrays. Functions count by name, not by address."""
    leaves, tree = jax.tree.flatten(value)
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(tree)).encode())
    for leaf in leaves:
        if isinstance(leaf, str | bytes) or not hasattr(leaf, "dtype") and not isinstance(leaf, int | float):
            total.update(re.sub(r" at 0x[0-9a-f]+", "", repr(leaf)).encode())
        else:
            array = _plain(leaf) if hasattr(leaf, "dtype") else np.asarray(leaf, np.float64)
            total.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
