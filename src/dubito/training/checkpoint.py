"""A fit's progress in a file: written between chunks, and read by the same fit, which then continues bit for bit."""

import hashlib
import re
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._process import archive
from dubito.training.chunk import RETRIES

ARRAY = re.compile(r"\d{1,9}\.\d{1,9}\.(state|log)")  # run, member, and which of the two
WRITE_INTERVAL = 10.0  # seconds between a member's writes, or twenty times as long as a write takes


class CheckpointError(ValueError):
    """The file is no checkpoint of this fit."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the fit goes on without."""


class Checkpoint:
    """What each member of each run of one fit had reached, in a file.

    Parameters
    ----------
    path : path-like
    parts : mapping
        Everything that decides the result (model, method, rows, ...) by name. A file that was made by other parts is refused
        with a CheckpointError that names them, and stays as it is.
    """

    def __init__(self, path: Any, parts: Mapping[str, Any]):
        self.path = Path(path)
        self.parts = {name: fingerprint(value) for name, value in parts.items()}
        self.lock = threading.Lock()
        self.runs = 0
        self.arrays = self._read() if self.path.exists() else {}

    def _read(self):
        try:
            config, arrays = archive.read_archive(self.path, _expected)
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

    def slots(self, members: int) -> "list[Slot]":
        """A place for each member of the fit's next run."""
        self.runs += 1
        return [Slot(self, f"{self.runs}.{number}") for number in range(members)]

    def write(self, name: str, loop_state: np.ndarray, log: np.ndarray) -> float:
        """Replace what the file has of one member. Seconds that it took."""
        start = time.monotonic()
        with self.lock:
            self.arrays[f"{name}.state"], self.arrays[f"{name}.log"] = loop_state, log
            shapes = {key: list(array.shape) for key, array in self.arrays.items()}
            try:
                archive.write_archive(self.path, {"checkpoint": 1, "parts": self.parts, "shapes": shapes}, self.arrays)
            except archive.ModelFileError as error:
                warnings.warn(f"no checkpoint: {error}", CheckpointWarning, stacklevel=2)
        return time.monotonic() - start


class Slot:
    """One member's place in a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str):
        self.checkpoint, self.name = checkpoint, name
        self.next = time.monotonic() + WRITE_INTERVAL

    def restore(self, loop_state: Any, epochs: int, steps: int) -> tuple[Any, np.ndarray]:
        """(a ``LoopState`` like ``loop_state``, the log of its epochs (epochs, 3)) as stored; ``loop_state`` and no epochs if never.

        Raises CheckpointError for what no fit of so many ``epochs`` of so many ``steps`` can have stored.
        """
        words = self.checkpoint.arrays.get(f"{self.name}.state")
        if words is None:
            return loop_state, np.empty((0, 3), np.float32)
        leaves, tree = jax.tree.flatten(loop_state)
        plain = [_plain(leaf) for leaf in leaves]
        data, place, found = words.tobytes(), 0, []
        path = str(self.checkpoint.path)
        if not 0 <= len(data) - sum(leaf.nbytes for leaf in plain) < 4:
            raise CheckpointError(f"the checkpoint {path!r} is of another version. Delete it or name another.")
        for like in plain:
            found.append(np.frombuffer(data, like.dtype, like.size, place).reshape(like.shape))
            place += like.nbytes
        log = self.checkpoint.arrays[f"{self.name}.log"].view(np.float32)
        problem = _problem(tree.unflatten(plain), tree.unflatten(found), log, epochs, steps)
        if problem is not None:
            raise CheckpointError(f"the checkpoint {path!r} is damaged: {problem}. Delete it or name another.")
        return tree.unflatten([_typed(value, leaf) for value, leaf in zip(found, leaves, strict=True)]), log

    def keep(self, loop_state: Any, log: np.ndarray, last: bool) -> None:
        """Write what the member has reached if it is the ``last`` of it or some time has gone by."""
        if not (last or time.monotonic() >= self.next):
            return
        data = b"".join(_plain(leaf).tobytes() for leaf in jax.tree.leaves(loop_state))
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), np.uint32)
        seconds = self.checkpoint.write(self.name, words, np.ascontiguousarray(log, np.float32).view(np.uint32))
        self.next = time.monotonic() + max(WRITE_INTERVAL, 20 * seconds)


def _expected(config):
    parts, shapes = config.get("parts"), config.get("shapes")
    whole = type(config.get("checkpoint")) is int and config["checkpoint"] == 1 and len(config) == 3
    archive.expect(whole and isinstance(parts, dict) and isinstance(shapes, dict), "it is no checkpoint")
    for name, shape in shapes.items():
        archive.expect(ARRAY.fullmatch(name), f"it has no use for the array {name!r}")
        slot, kind = name.rsplit(".", 1)
        other = f"{slot}.{'log' if kind == 'state' else 'state'}"
        archive.expect(other in shapes, f"it has {name!r} but not {other!r}")
        counts = isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape)
        archive.expect(counts and shape and shape[1:] == ([] if kind == "state" else [3]), f"the shape of {name!r}")
    return {name: ("uint32", tuple(shape)) for name, shape in shapes.items()}


def _problem(start, at, log, epochs, steps):
    """What is impossible about a stored ``LoopState`` of arrays, or its ``log``; None for nothing. ``start``: the first state."""
    epoch, number, retries = int(at.epoch), int(at.number), int(at.retries)
    checks = {
        "its number of epochs": 0 <= epoch <= epochs,
        "the length of its log": len(log) == epoch,
        "its log": bool(np.all(np.isfinite(log[:, :2]))),
        "its place within the epoch": 0 <= number < steps and (number == 0 or epoch < epochs),
        "its number of steps": 0 <= int(at.step) <= epochs * steps,
        "its number of retries": 0 <= retries <= RETRIES + 1 and float(at.step_factor) == 0.5**retries,
        "its number of epochs without gain": 0 <= int(at.stale) <= epoch,
        "its score": not np.isnan(at.score),
        "its end": at.done.tobytes() in (b"\0", b"\1"),
        "its state": not _finite(start.state) or _finite((at.state, at.best)),
    }
    return next((f"{name} is impossible" for name, fine in checks.items() if not fine), None)


def _finite(tree):
    """Whether every float of a tree of arrays is finite."""
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree) if np.issubdtype(leaf.dtype, np.floating))


def _plain(leaf):
    """A leaf as an array of its own memory; a key as its data."""
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if key else leaf)


def _typed(value, like):
    key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(like)) if key else jnp.array(value)


def fingerprint(value: Any) -> str:
    """SHA-256 of a tree: its structure, and the bytes of its arrays. Functions count by name, not by address."""
    leaves, tree = jax.tree.flatten(value)
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(tree)).encode())
    for leaf in leaves:
        arrays = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        if not arrays and not isinstance(leaf, int | float):
            total.update(re.sub(r" at 0x[0-9a-f]+", "", repr(leaf)).encode())
        else:
            array = _plain(leaf) if arrays else np.asarray(leaf, np.float64)
            total.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
