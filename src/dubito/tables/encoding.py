"""How a column is encoded, and how that is learned from its rows, all at once or some at a time."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from dubito.tables.columns import CATEGORIES, DataError, list_first, merged, moments, standardized
from dubito.tables.texts import count_numbers, is_number, means_missing


@dataclass(frozen=True)
class Column:
    """A column: numbers become (x − shift) / scale, booleans ±1, categories one 0/1 column each, in sorted order."""

    name: str
    kind: str
    shift: float = 0.0
    scale: float = 1.0
    categories: tuple = ()

    @property
    def width(self):
        """How many encoded columns this is."""
        return len(self.categories) if self.kind == "category" else 1

    def encode(self, part, handle_unknown, start=0):
        """float32 (n, width) of a ``Part``; E if it is of another kind or has values that the fit did not have.

        ``start`` is the first row's number, for the messages.
        """
        if self.kind == "category":
            return self._one_hot(
                part.values if part.kind == "category" else part.values.tolist(), handle_unknown, start
            )
        if part.kind == "category":
            row = next((row for row, value in enumerate(part.values) if not is_number(str(value))), 0)
            found = f"{part.values[row]!r} in row {start + row}"
            raise DataError(f"Column {self.name!r} was {self.kind} at fit; now it is text, such as {found}.")
        if self.kind == "boolean" and not np.isin(part.values, (0, 1)).all():
            row = np.isin(part.values, (0, 1)).argmin()
            value = part.values[row]
            raise DataError(f"Column {self.name!r} was boolean at fit; now row {start + row} has the value {value}.")
        return standardized(part.values, self.shift, self.scale)[:, None]

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


class Learned:
    """What the rows of one column, some at a time, tell about its encoding."""

    def __init__(self, name):
        self.name, self.kind = name, "numeric"
        self.moments, self.declared = None, None
        self.counts, self.first = Counter(), {}  # of each category: how many rows, and the first one

    def add(self, part, weight, rows):
        """Learn from a ``Part`` whose rows have weights (n,) above zero; ``rows`` are their numbers."""
        if len(weight) == 0:
            return
        self.kind = part.kind
        if part.kind == "category":
            self.declared = part.declared
            self.counts.update(part.values)
            self.first = dict(zip(reversed(part.values), reversed(rows), strict=True)) | self.first
            self._limit(self.counts)
            return
        found = moments(part.values, weight)
        if found.outlier is not None:
            found = found._replace(outlier=int(rows[found.outlier]))
        self.moments = found if self.moments is None else merged(self.moments, found)

    @property
    def constant(self):
        return len(self.counts) == 1 if self.moments is None else self.moments.constant

    @property
    def outlier(self):
        """The row of an absurd outlier among the rows that came with it, or None."""
        return None if self.moments is None else self.moments.outlier

    def _limit(self, values):
        if len(values) > CATEGORIES:
            self._refuse_numbers()
            raise DataError(
                f"Column {self.name!r} has {len(values)} different texts, more than {CATEGORIES}: leave it out."
            )

    def _refuse_numbers(self):
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

    def encoding(self):
        """The ``Column``. The categories are the declared ones, otherwise those seen, sorted."""
        if self.moments is not None:
            scale = (
                max(1.0, self.moments.sd) if self.constant else self.moments.sd
            )  # huge values that differ by rounding
            number = self.kind == "numeric"
            return Column(self.name, self.kind, *((self.moments.mean, scale) if number else (0.5, 0.5)))
        self._refuse_numbers()
        values = set(self.declared or self.counts)
        strange = sorted({type(value).__name__ for value in values if not isinstance(value, str | bool | int)})
        if strange:
            raise DataError(
                f"Column {self.name!r} has categories of type {list_first(strange)}: convert them to text or integers."
            )
        self._limit(values)
        categories = tuple(sorted(values, key=lambda value: (type(value).__name__, value)))
        return Column(self.name, "category", categories=categories)
