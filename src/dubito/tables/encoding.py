"""The encoding of a column, and the statistics of its rows that determine it, collected at once or piece by piece."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dubito._check import DataError, list_first
from dubito.tables.columns import ColumnValues, RowNumbers
from dubito.tables.scaling import ColumnMoments, column_moments, merge_moments, standardize
from dubito.tables.texts import count_numbers, is_plain_number, means_missing

MOST_CATEGORIES = 10_000  # more in one column is an id, not a category; one-hot encoding would fill the memory


@dataclass(frozen=True)
class ColumnEncoding:
    """How a column is encoded: numbers become (x − shift) / scale, booleans ±1, each category a 0/1 column.

    Parameters
    ----------
    name : the column's name.
    kind : "numeric", "boolean" or "category".
    shift, scale : of numbers, in the column's units.
    categories : sorted by type and value.
    """

    name: str
    kind: str
    shift: float = 0.0
    scale: float = 1.0
    categories: tuple = ()

    @property
    def width(self) -> int:
        """Number of encoded columns."""
        return len(self.categories) if self.kind == "category" else 1

    def encode(self, column: ColumnValues, handle_unknown: str, start: int = 0) -> Float[np.ndarray, "rows width"]:
        """Encode values as float32.

        Parameters
        ----------
        column : values without missing ones.
        handle_unknown : "error", or "ignore" to encode categories not seen at fit as zeros.
        start : number of the first row, for messages.

        Raises
        ------
        DataError
            For values of another kind, and for unseen categories.
        """
        values = column.values
        if self.kind == "category":
            return self._one_hot(values if column.kind == "category" else values.tolist(), handle_unknown, start)
        if column.kind == "category":
            row = next((row for row, value in enumerate(values) if not is_plain_number(str(value))), 0)
            found = f"{values[row]!r} in row {start + row}"
            raise DataError(f"Column {self.name!r} was {self.kind} at fit; now it is text, such as {found}.")
        if self.kind == "boolean" and not np.isin(values, (0, 1)).all():
            row = np.isin(values, (0, 1)).argmin()
            raise DataError(
                f"Column {self.name!r} was boolean at fit; now row {start + row} has the value {values[row]}."
            )
        return standardize(values, self.shift, self.scale)[:, None]

    def _one_hot(self, values, handle_unknown, start):
        places = {value: place for place, value in enumerate(self.categories)}
        found = np.array([places.get(value, -1) for value in values], dtype=np.int64)
        if handle_unknown == "error" and (found < 0).any():
            row = int((found < 0).argmax())
            raise DataError(
                f"Column {self.name!r} has the value {values[row]!r} (row {start + row}), which it did not have at fit; it had "
                f"{list_first([repr(value) for value in self.categories])}.",
                "Replace it, or set handle_unknown='ignore'.",
                "Replace it, or leave out --unknown error.",
            )
        return (found[:, None] == np.arange(self.width)).astype(np.float32)


class ColumnStatistics:
    """The statistics of one column's rows that determine its encoding, collected piece by piece.

    Parameters
    ----------
    name : the column's name.
    """

    def __init__(self, name: str):
        self.name, self.kind = name, "numeric"
        self.moments: ColumnMoments | None = None
        self.declared: tuple | None = None
        self.counts: Counter[Any] = Counter()  # number of rows of each category
        self.first: dict[Any, int] = {}  # first row of each category

    def add(self, column: ColumnValues, weight: Float[np.ndarray, "rows"], rows: RowNumbers) -> None:
        """Add values whose rows have weights above zero and these numbers."""
        if len(weight) == 0:
            return
        self.kind = column.kind
        if column.kind == "category":
            self.declared = column.declared
            self.counts.update(column.values)
            self.first = dict(zip(reversed(column.values), reversed(rows), strict=True)) | self.first
            self._check_number_of_categories(len(self.counts))
            return
        found = column_moments(column.values, weight)
        if found.outlier is not None:
            found = found._replace(outlier=int(rows[found.outlier]))
        self.moments = found if self.moments is None else merge_moments(self.moments, found)

    @property
    def constant(self) -> bool:
        """Whether all values are equal, up to rounding."""
        return len(self.counts) == 1 if self.moments is None else self.moments.constant

    @property
    def outlier(self) -> int | None:
        """The row of an absurd outlier among the rows that were added with it, or None."""
        return None if self.moments is None else self.moments.outlier

    def _check_number_of_categories(self, count):
        if count > MOST_CATEGORIES:
            self._check_not_numbers()
            raise DataError(
                f"Column {self.name!r} has {count} different texts, more than {MOST_CATEGORIES}: leave it out."
            )

    def _check_not_numbers(self):
        """Raise DataError if this is a column of numbers that a few texts have made a column of texts."""
        found = count_numbers(self.counts, self.first)
        if self.declared is not None or found.other is None or not found.mostly_numbers:
            return
        what = "stands for a missing value" if means_missing(found.other) else "is no plain number"
        raise DataError(
            f"Column {self.name!r} is text, but {found.numbers} of its {found.total} values are numbers; "
            f"{found.other!r} in row {found.row} {what}.",
            f"Convert the column to numbers, or make it categorical: X[{self.name!r}].astype('category').",
            f"Correct the cells that are no numbers, or name the column with --categorical {self.name}.",
        )

    def encoding(self) -> ColumnEncoding:
        """The column's encoding; its categories are the declared ones, otherwise those seen, sorted."""
        if self.moments is not None:
            scale = self.moments.sd
            scale = max(1.0, scale) if self.constant else scale  # huge values that differ by rounding
            number = self.kind == "numeric"
            return ColumnEncoding(self.name, self.kind, *((self.moments.mean, scale) if number else (0.5, 0.5)))
        self._check_not_numbers()
        values = set(self.declared or self.counts)
        strange = sorted({type(value).__name__ for value in values if not isinstance(value, str | bool | int)})
        if strange:
            raise DataError(
                f"Column {self.name!r} has categories of type {list_first(strange)}: convert them to text or integers."
            )
        self._check_number_of_categories(len(values))
        categories = tuple(sorted(values, key=lambda value: (type(value).__name__, value)))
        return ColumnEncoding(self.name, "category", categories=categories)
