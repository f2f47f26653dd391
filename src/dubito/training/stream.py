"""The pieces in which the rows of an epoch reach the loop.

Rows in memory are one piece, which stays on the device. Streamed rows are read again in each epoch,
and a piece is read while the loop trains on the previous one.
"""

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from dubito._check import check_weight_sum
from dubito.models.model import Model
from dubito.training.data import Rows, float32_rows, pad_data, pad_rows, pad_targets, padded_size
from dubito.training.loop_state import DataPiece, DeviceRows
from dubito.training.members import Member
from dubito.training.method import Method, Wrapper, base_method

PIECE_ROWS = 2**16  # at most
PIECE_BYTES = 2**26  # of inputs, at most


def memory_pieces(rows: Rows, batch_rows: int, put: Callable[[Any], Any]) -> Callable[..., Generator[DataPiece]]:
    """A function from members to an endless iterator of one piece: shared inputs, the members' own weights and targets."""
    total = padded_size(len(rows.x)) + batch_rows  # a batch is a slice: room for the last one to reach past the end
    x, y = put(pad_rows(rows.x, total)), put(pad_targets(rows.y, total))

    def pieces(*members: Member) -> Generator[DataPiece]:
        weight = np.stack([pad_rows(member.train, total) for member in members])
        own = [y if member.y is None else put(pad_targets(member.y, total)) for member in members]
        weight, targets = (weight[0], own[0]) if len(members) == 1 else (weight, put(np.stack(own)))
        steps = (-(-np.sum(weight > 0, axis=-1) // batch_rows)).astype(np.int32)
        size = np.sum(weight, axis=-1, dtype=np.float64).astype(np.float32)
        piece = DataPiece(DeviceRows(x, targets, put(weight)), np.int32(0), steps, steps, size)
        while True:
            yield piece

    return pieces


def stream_pieces(stream: "Stream", batch_rows: int) -> Callable[..., Generator[DataPiece]]:
    """A function from a member to an endless iterator of pieces, which reads the stream."""
    # A multiple of the batch size, so that only the last batch of an epoch is not full.
    length = max(batch_rows, len(stream.first.x) // batch_rows * batch_rows)
    total = padded_size(length) + batch_rows

    def pieces() -> Generator[DataPiece]:
        for rows, before in stream.epochs(length):
            arrays = DeviceRows(*map(jax.device_put, pad_data(*rows[:3], total)))
            first, end, steps = (np.int32(-(-n // batch_rows)) for n in (before, before + len(rows.x), stream.count))
            yield DataPiece(arrays, first, end, steps, np.float32(stream.size))

    return lambda member: prefetch(pieces())


def check_source(method: Method, source: Any, y: Any, weight: Any, refused: Mapping[str, bool]) -> None:
    """Check that a fit can read its rows from a stream.

    Parameters
    ----------
    method : Method
    source : callable
        The argument x of the fit.
    y, weight : None
        Other values are refused; the source supplies them.
    refused : mapping of str to bool
        Features that need all rows in memory, and whether they were requested.

    Raises
    ------
    ValueError
        If not.
    """
    if not callable(source):
        raise ValueError(
            "without y, x must be a callable that returns an iterator of (x, y), a new one for each epoch; "
            f"got {type(source).__name__}"
        )
    if y is not None or weight is not None:
        raise ValueError("y and weight must be None if x is a callable: its iterator gives (x, y) or (x, y, weight)")
    wanted, inner = dict(refused), method
    while isinstance(inner, Wrapper):
        wanted[type(inner).__name__] = inner.every_row
        inner = inner.method
    wanted[type(inner).__name__] = inner.every_row
    for name in [name for name, needed in wanted.items() if needed]:
        raise ValueError(f"{name} needs all rows in memory. Leave it out, or pass arrays as x and y.")


def open_source(model: Model, method: Method, source: Any, identified: bool) -> "tuple[Rows, Stream | None]":
    """Read a source once.

    Parameters
    ----------
    model : Model
    method : Method
    source : callable
    identified : bool
        Whether the digest of the rows is needed.

    Returns
    -------
    tuple
        All rows and None if they fit in one piece; otherwise the first piece and a ``Stream``.

    Raises
    ------
    ValueError
        If a batch contains all rows, which are too many, and as ``Stream``.
    """
    stream = Stream(model, source, identified)
    if len(stream.first.x) == stream.count:
        return stream.first, None
    if base_method(method).batch_size is None:
        raise ValueError(f"batch_size=None is a batch of all {stream.count} rows, too many for memory. Set batch_size.")
    return stream.first, stream


class Stream:
    """Rows that are read again in each epoch; the constructor reads all of them once.

    Parameters
    ----------
    model : Model
    source : callable
        Returns a new iterator, at each call, of (x, y) or (x, y, weight) with any number of rows.
    identified : bool
        Whether to compute ``digest``.

    Attributes
    ----------
    count : int
        The number of rows with positive weight; others are left out.
    size : float
        The sum of the weights.
    first : Rows
        The first piece.
    digest : str
        A hash of all rows.

    Raises
    ------
    ValueError
        If the rows of a piece, which the message names, do not match the model or the previous
        piece.
    """

    def __init__(self, model: Model, source: Callable[[], Any], identified: bool = False) -> None:
        self.model: Model = model
        self.source: Callable[[], Any] = source
        self.count: int = 0
        self.size: float = 0.0
        self.first: Any = None
        digest = hashlib.sha256()
        for rows in self.pieces():
            self.first = Rows(*map(np.array, rows[:4])) if self.first is None else self.first
            self.count += len(rows.x)
            self.size += float(np.sum(rows.train, dtype=np.float64))
            for array in rows[:3] if identified else ():
                digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        if self.first is None:
            raise ValueError("the pieces contain no row with positive weight")
        check_weight_sum(self.size, "weight")
        self.digest: str = digest.hexdigest()

    def checked_rows(self) -> Iterator[Rows]:
        """Read the source once.

        Yields
        ------
        Rows
            Checked, with positive weights.
        """
        found = self.source()
        if not isinstance(found, Iterable):
            raise ValueError(f"the pieces' callable must return an iterator of (x, y), got {type(found).__name__}")
        like = None
        for number, part in enumerate(found):
            if not (isinstance(part, tuple | list) and len(part) in (2, 3)):
                raise ValueError(f"piece {number} must be a tuple (x, y) or (x, y, weight), got {type(part).__name__}")
            try:
                rows = float32_rows(self.model, part[0], part[1], part[2] if len(part) == 3 else None)
            except ValueError as error:
                raise ValueError(f"piece {number} (counted from 0): {error}") from error
            kind = [(array.shape[1:], str(array.dtype)) for array in rows[:2]]
            like = kind if like is None else like
            if kind != like:
                raise ValueError(
                    f"piece {number} (counted from 0) has x and y of row shapes and types {kind}; those before it have {like}"
                )
            if len(rows.x):
                yield rows

    def pieces(self, length: int | None = None) -> Iterator[Rows]:
        """Read the source once, in pieces.

        Parameters
        ----------
        length : int, optional
            The number of rows of all pieces but the last; None: the largest possible.

        Yields
        ------
        Rows
        """
        waiting, count = [], 0
        for rows in self.checked_rows():
            length = length or max(1, min(PIECE_ROWS, PIECE_BYTES * len(rows.x) // max(1, rows.x.nbytes)))
            waiting.append(rows)
            count += len(rows.x)
            while count >= length:
                whole = concatenate_rows(waiting)
                yield Rows(*(array[:length] for array in whole[:4]))
                waiting, count = [Rows(*(array[length:] for array in whole[:4]))], count - length
        if count:
            yield concatenate_rows(waiting)

    def epochs(self, length: int) -> Iterator[tuple[Rows, int]]:
        """Read the source again and again, without end.

        Parameters
        ----------
        length : int
            The number of rows of a piece.

        Yields
        ------
        tuple
            A piece, and the number of rows before it in the epoch.

        Raises
        ------
        ValueError
            If the number of rows is not that of the first reading.
        """
        while True:
            count = 0
            for rows in self.pieces(length):
                if count + len(rows.x) > self.count:
                    raise ValueError(self._changed(f"more than {self.count}"))
                yield rows, count
                count += len(rows.x)
            if count < self.count:
                raise ValueError(self._changed(count))

    def _changed(self, count: int | str) -> str:
        return (
            f"the pieces contained {self.count} rows (of positive weight) in the first reading and now contain {count}: the "
            "callable must return a new iterator over the same rows at each call"
        )


def concatenate_rows(parts: list[Rows]) -> Rows:
    """Concatenate ``Rows``."""
    return parts[0] if len(parts) == 1 else Rows(*map(np.concatenate, zip(*(part[:4] for part in parts), strict=True)))


def prefetch(items: Generator[DataPiece]) -> Generator[DataPiece]:
    """The items of an endless iterator; a thread computes the next one while the current one is used."""
    with contextlib.closing(items), ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items)
        while True:
            item = following.result()
            following = pool.submit(next, items)
            yield item
            del item
