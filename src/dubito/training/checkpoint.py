"""A fit's progress in a file: written between chunks, and read by the same fit, which then continues bit for bit."""

import hashlib
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import warn
from dubito._process import archive
from dubito.training.early_stopping import RETRIES
from dubito.training.loop_state import LoopState
from dubito.training.processes import same_in_all_processes, writes_files

ARRAY = re.compile(r"\d{1,9}\.\d{1,9}\.(state|log)")  # run, member, and which of the two
WRITE_INTERVAL = 10.0  # seconds between a member's writes, or twenty times as long as a write takes


class CheckpointError(ValueError):
    """The file is not a checkpoint of this fit."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the fit continues without it."""


class Checkpoint:
    """The progress of each member of each run of one fit, in a file.

    Parameters
    ----------
    path : path-like
    parts : mapping
        Everything that determines the result (model, method, rows, ...) by name.
    mesh : jax.sharding.Mesh, optional
        That of the fit: of several processes, all read the file and one writes it.

    Raises
    ------
    CheckpointError
        If the file exists and was made with other ``parts``, which the message names; the file
        stays as it is.
    """

    def __init__(self, path: Any, parts: Mapping[str, Any], mesh: Any = None):
        self.path: Path = Path(path)
        self.mesh: Any = mesh
        self.parts: dict[str, str] = {name: fingerprint(value) for name, value in parts.items()}
        self.lock: threading.Lock = threading.Lock()
        self.runs: int = 0
        self.arrays: dict[str, np.ndarray] = self._read() if self.path.exists() else {}

    def _read(self) -> dict[str, np.ndarray]:
        try:
            config, arrays = archive.read_archive(self.path, _expected)
        except archive.ModelFileError as error:
            raise CheckpointError(
                f"cannot resume from {str(self.path)!r}: {error}. Delete the file, or choose another."
            ) from error
        changed = [name for name, value in self.parts.items() if config["parts"].get(name) != value]
        if changed:
            raise CheckpointError(
                f"the checkpoint {str(self.path)!r} belongs to another fit (different {', '.join(changed)}). "
                "Delete the file, or choose another."
            )
        return arrays

    def slots(self, members: int) -> "list[Slot]":
        """Open the slots of the fit's next run.

        Parameters
        ----------
        members : int
            The number of members of the run.

        Returns
        -------
        list of Slot
            One for each member.
        """
        self.runs += 1
        return [Slot(self, f"{self.runs}.{number}") for number in range(members)]

    def write(self, name: str, loop_state: np.ndarray, log: np.ndarray) -> float:
        """Write one member's progress to the file.

        Parameters
        ----------
        name : str
            "run.member".
        loop_state : array
            The bytes of a ``LoopState`` as uint32.
        log : array
            The bytes of its log as uint32.

        Returns
        -------
        float
            The duration of the write in seconds.
        """
        start = time.monotonic()
        with self.lock:
            self.arrays[f"{name}.state"], self.arrays[f"{name}.log"] = loop_state, log
            if not writes_files(self.mesh):
                return time.monotonic() - start
            shapes = {key: list(array.shape) for key, array in self.arrays.items()}
            try:
                archive.write_archive(self.path, {"checkpoint": 1, "parts": self.parts, "shapes": shapes}, self.arrays)
            except archive.ModelFileError as error:
                warn(f"no checkpoint: {error}", CheckpointWarning)
        return time.monotonic() - start


class Slot:
    """One member's place in a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str):
        self.checkpoint: Checkpoint = checkpoint
        self.name: str = name
        self.next: float = time.monotonic() + WRITE_INTERVAL

    def restore(self, loop_state: Any, epochs: int, steps: int) -> tuple[Any, np.ndarray]:
        """Read the member's progress.

        Parameters
        ----------
        loop_state : LoopState
            The state before the first step; the stored one must have its structure.
        epochs, steps : int
            The number of epochs of the fit, and of steps of an epoch.

        Returns
        -------
        tuple
            The stored ``LoopState`` and the log of its epochs, (epochs, 3); ``loop_state`` and an
            empty log if there is none.

        Raises
        ------
        CheckpointError
            If no fit with these ``epochs`` and ``steps`` can have stored it, or if the processes of a
            fit have read different ones.
        """
        words, path = self.checkpoint.arrays.get(f"{self.name}.state"), str(self.checkpoint.path)
        if not same_in_all_processes(self.checkpoint.mesh, fingerprint(words)):
            raise CheckpointError(
                f"the processes of this fit have read different checkpoints from {path!r}, or only some have found one. "
                "Put the file on storage that they share."
            )
        if words is None:
            return loop_state, np.empty((0, 3), np.float32)
        leaves, tree = jax.tree.flatten(loop_state)
        plain = [_plain(leaf) for leaf in leaves]
        data, place, found = words.tobytes(), 0, []
        if not 0 <= len(data) - sum(leaf.nbytes for leaf in plain) < 4:
            raise CheckpointError(
                f"the checkpoint {path!r} was written by another version. Delete the file, or choose another."
            )
        for like in plain:
            found.append(np.frombuffer(data, like.dtype, like.size, place).reshape(like.shape))
            place += like.nbytes
        log = self.checkpoint.arrays[f"{self.name}.log"].view(np.float32)
        problem = _problem(tree.unflatten(plain), tree.unflatten(found), log, epochs, steps)
        if problem is not None:
            raise CheckpointError(f"the checkpoint {path!r} is damaged: {problem}. Delete the file, or choose another.")
        return tree.unflatten([_typed(value, leaf) for value, leaf in zip(found, leaves, strict=True)]), log

    def keep(self, loop_state: Any, log: np.ndarray, last: bool) -> None:
        """Write the member's progress if it is final or the last write was long ago.

        Parameters
        ----------
        loop_state : LoopState
        log : array of shape (epochs, 3)
        last : bool
            Whether the run ends here.
        """
        if not (last or time.monotonic() >= self.next):
            return
        data = b"".join(_plain(leaf).tobytes() for leaf in jax.tree.leaves(loop_state))
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), np.uint32)
        seconds = self.checkpoint.write(self.name, words, np.ascontiguousarray(log, np.float32).view(np.uint32))
        self.next = time.monotonic() + max(WRITE_INTERVAL, 20 * seconds)


def _expected(config: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    parts: Any = config.get("parts")
    shapes: Any = config.get("shapes")
    whole = type(config.get("checkpoint")) is int and config["checkpoint"] == 1 and len(config) == 3
    archive.expect(whole and isinstance(parts, dict) and isinstance(shapes, dict), "it is not a checkpoint")
    for name, shape in shapes.items():
        archive.expect(ARRAY.fullmatch(name), f"unexpected array {name!r}")
        slot, kind = name.rsplit(".", 1)
        other = f"{slot}.{'log' if kind == 'state' else 'state'}"
        archive.expect(other in shapes, f"{other!r} is missing")
        counts = isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape)
        archive.expect(counts and shape and shape[1:] == ([] if kind == "state" else [3]), f"invalid shape of {name!r}")
    return {name: ("uint32", tuple(shape)) for name, shape in shapes.items()}


def _problem(start: LoopState, at: LoopState, log: np.ndarray, epochs: int, steps: int) -> str | None:
    """The first impossible entry of a stored ``LoopState`` or its ``log``, or None. ``start`` is the state of step 0."""
    epoch, number, retries = int(at.epoch), int(at.number), int(at.retries)
    checks = {
        "its number of epochs": 0 <= epoch <= epochs,
        "the length of its log": len(log) == epoch,
        "its log": bool(np.all(np.isfinite(log[:, :2]))),
        "its place within the epoch": 0 <= number < steps and (number == 0 or epoch < epochs),
        "its number of steps": 0 <= int(at.step) <= epochs * steps,
        "its number of retries": 0 <= retries <= RETRIES + 1 and float(at.step_factor) == 0.5**retries,
        "its number of epochs without gain": 0 <= int(at.stale) <= epoch,
        "its best epoch": bool(np.all((at.best_epoch >= 0) & (at.best_epoch <= epoch))),
        "its score": not np.isnan(at.score).any(),
        "its end": at.done.tobytes() in (b"\0", b"\1"),
        "its state": not _finite(start.state) or _finite((at.state, at.best)),
    }
    return next((f"{name} is impossible" for name, fine in checks.items() if not fine), None)


def _finite(tree: Any) -> bool:
    """Whether every float of a tree of arrays is finite."""
    return all(
        bool(np.all(np.isfinite(leaf))) for leaf in jax.tree.leaves(tree) if np.issubdtype(leaf.dtype, np.floating)
    )


def _plain(leaf: Any) -> np.ndarray:
    """A copy of a leaf as a NumPy array; keys as their data."""
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if key else leaf)


def _typed(value: np.ndarray, like: Any) -> jax.Array:
    key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(like)) if key else jnp.array(value)


def fingerprint(value: Any) -> str:
    """The SHA-256 of a tree's structure and arrays; functions are identified by name, not by address."""
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
