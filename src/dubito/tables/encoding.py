"""The encoding of a column, and the statistics that determine it, collected at once or piece by piece."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from dubito._check import DataError, list_first
from dubito.tables.columns import ColumnValues, RowNumbers, count_numbers, is_plain_number, means_missing
from dubito.tables.scaling import ColumnMoments, column_moments, merge_moments, standardize

Encoded: TypeAlias = Float[np.ndarray, "rows width"]
MOST_CATEGORIES = 10_000  # more in one column is an id, not a category; one-hot encoding would fill the memory


@dataclass(frozen=True)
class ColumnEncoding:
    """The encoding of a column: numbers become (x − shift) / scale, booleans ±1, each category a 0/1 column.

    Parameters
    ----------
    name : str
        The column's name.
    kind : str
        "numeric", "boolean" or "category".
    shift, scale : float
        Of numbers, in the column's units.
    categories : tuple
        Sorted by type and value.
    """

    name: str
    kind: str
    shift: float = 0.0
    scale: float = 1.0
    categories: tuple[Any, ...] = ()

    @property
    def width(self) -> int:
        """The number of encoded columns."""
        return len(self.categories) if self.kind == "category" else 1

    def encode(self, column: ColumnValues, handle_unknown: str, start: int = 0) -> Encoded:
        """Encode values as float32.

        Parameters
        ----------
        column : ColumnValues
            Without missing values.
        handle_unknown : str
            "error", or "ignore" to encode categories not seen in fit as zeros.
        start : int
            The number of the first row, for messages.

        Returns
        -------
        float32 array of shape (rows, width)
            The encoded columns.

        Raises
        ------
        DataError
            For values of another kind, and for unseen categories.
        """
        values, where = column.values, f"Column {self.name!r} was {self.kind} at fit; now"
        if self.kind == "category":
            return self._one_hot(values if column.kind == "category" else values.tolist(), handle_unknown, start)
        if column.kind == "category":
            row = next((row for row, value in enumerate(values) if not is_plain_number(str(value))), 0)
            raise DataError(f"{where} it is text, such as {values[row]!r} in row {start + row}.")
        if self.kind == "boolean" and not np.isin(values, (0, 1)).all():
            row = np.isin(values, (0, 1)).argmin()
            raise DataError(f"{where} row {start + row} has the value {values[row]}.")
        return standardize(values, self.shift, self.scale)[:, None]

    def _one_hot(self, values: list[Any], handle_unknown: str, start: int) -> Encoded:
        places = {value: place for place, value in enumerate(self.categories)}
        found = np.array([places.get(value, -1) for value in values], dtype=np.int64)
        if handle_unknown == "error" and (found < 0).any():
            row, known = int((found < 0).argmax()), list_first([repr(value) for value in self.categories])
            what = (
                f"Column {self.name!r} has the value {values[row]!r} (row {start + row}), which it did not have at fit"
            )
            remedy = "Replace it, or set handle_unknown='ignore'."
            raise DataError(f"{what}; it had {known}.", remedy, "Replace it, or leave out --unknown error.")
        return (found[:, None] == np.arange(self.width)).astype(np.float32)


class ColumnStatistics:
    """The statistics of a column that determine its encoding, collected piece by piece.

    Parameters
    ----------
    name : str
        The column's name.

    Attributes
    ----------
    moments : ColumnMoments or None
        Of numbers and truth values.
    """

    def __init__(self, name: str) -> None:
        self.name, self.kind = name, "numeric"
        self.moments: ColumnMoments | None = None
        self.declared: tuple[Any, ...] | None = None
        self.counts: Counter[Any] = Counter()  # number of rows of each category
        self.first: dict[Any, int] = {}  # first row of each category

    def add(self, column: ColumnValues, weight: Float[np.ndarray, " rows"], rows: RowNumbers) -> None:
        """Add some rows.

        Parameters
        ----------
        column : ColumnValues
            Their values, none missing.
        weight : array of shape (rows,)
            Their weights, all above zero.
        rows : sequence of int
            Their numbers.
        """
        if len(weight) == 0:
            return
        self.kind = column.kind
        if column.kind == "category":
            self.declared = column.declared
            self.counts.update(column.values)
            self.first = dict(zip(reversed(column.values), reversed(rows), strict=True)) | self.first
            self._check_number_of_categories(len(self.counts))
        else:
            found = column_moments(column.values, weight, rows)
            self.moments = found if self.moments is None else merge_moments(self.moments, found)

    def _check_number_of_categories(self, count: int) -> None:
        if count > MOST_CATEGORIES:
            self._check_not_numbers()
            what = f"has {count} different texts, more than {MOST_CATEGORIES}"
            raise DataError(f"Column {self.name!r} {what}: leave it out.")

    def _check_not_numbers(self) -> None:
        """Raise DataError for a column of numbers that a few texts have made a column of texts."""
        found = count_numbers(self.counts, self.first)
        if self.declared is not None or found.other is None or not found.mostly_numbers:
            return
        what = "stands for a missing value" if means_missing(found.other) else "is not a plain number"
        raise DataError(
            f"Column {self.name!r} is text, but {found.numbers} of its {found.total} values are numbers; "
            f"{found.other!r} in row {found.row} {what}.",
            f"Convert the column to numbers, or make it categorical: X[{self.name!r}].astype('category').",
            f"Correct the cells that are not numbers, or name the column with --categorical {self.name}.",
        )

    def encoding(self) -> ColumnEncoding:
        """Determine the column's encoding; its categories are the declared ones, otherwise those seen, sorted.

        Returns
        -------
        ColumnEncoding
            The encoding of all rows that were added.

        Raises
        ------
        DataError
            For too many categories, categories of other types, and numbers that are written as text.
        """
        if self.moments is not None:
            if self.kind == "boolean":
                return ColumnEncoding(self.name, self.kind, 0.5, 0.5)
            least = 1.0 if self.moments.constant else 0.0  # huge values may differ by rounding
            return ColumnEncoding(self.name, self.kind, self.moments.mean, max(least, self.moments.sd))
        self._check_not_numbers()
        values = set(self.declared or self.counts)
        others = sorted({type(value).__name__ for value in values if not isinstance(value, str | bool | int)})
        if others:
            what = f"has categories of type {list_first(others)}"
            raise DataError(f"Column {self.name!r} {what}: convert them to text or integers.")
        self._check_number_of_categories(len(values))
        categories = tuple(sorted(values, key=lambda value: (type(value).__name__, value)))
        return ColumnEncoding(self.name, "category", categories=categories)
