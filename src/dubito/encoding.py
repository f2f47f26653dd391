"""How a column is encoded, and how that is learned from its rows, all at once or some at a time."""

from dataclasses import dataclass

import numpy as np

from dubito.columns import CATEGORIES, DataError, listed, merged, moments, standardized


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
            raise DataError(
                f"Column {self.name!r} was {self.kind} at fit; now it has texts, such as {part.values[0]!r}."
            )
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
                f"{listed([repr(value) for value in self.categories])}. Replace it, or set handle_unknown='ignore'."
            )
        return (found[:, None] == np.arange(self.width)).astype(np.float32)


class Learned:
    """What the rows of one column, some at a time, tell about its encoding."""

    def __init__(self, name):
        self.name, self.kind = name, "numeric"
        self.moments, self.values, self.declared = None, set(), ()

    def add(self, part, weight, start=0):
        """Learn from a ``Part``, from its rows whose ``weight`` (n,) is above zero; ``start`` is the first row's number."""
        rows = np.flatnonzero(weight)
        if len(rows) == 0:
            return
        self.kind = part.kind
        if part.kind == "category":
            self.values.update(part.values[row] for row in rows)
            self.declared = part.declared
            self._few(self.values)
            return
        found = moments(part.values[rows], weight[rows])
        if found.outlier is not None:
            found = found._replace(outlier=start + int(rows[found.outlier]))
        self.moments = found if self.moments is None else merged(self.moments, found)

    @property
    def constant(self):
        return len(self.values) == 1 if self.moments is None else self.moments.constant

    @property
    def outlier(self):
        """The row of an absurd outlier among the rows that came with it, or None."""
        return None if self.moments is None else self.moments.outlier

    def _few(self, values):
        if len(values) > CATEGORIES:
            raise DataError(
                f"Column {self.name!r} has {len(values)} different texts, more than {CATEGORIES}: leave it out."
            )

    def encoding(self):
        """The ``Column``. The categories are the declared ones, otherwise those seen, sorted."""
        if self.moments is not None:
            scale = (
                max(1.0, self.moments.sd) if self.constant else self.moments.sd
            )  # huge values that differ by rounding
            number = self.kind == "numeric"
            return Column(self.name, self.kind, *((self.moments.mean, scale) if number else (0.5, 0.5)))
        values = set(self.declared or self.values)
        strange = sorted({type(value).__name__ for value in values if not isinstance(value, str | bool | int)})
        if strange:
            raise DataError(
                f"Column {self.name!r} has categories of type {listed(strange)}: convert them to text or integers."
            )
        self._few(values)
        categories = tuple(sorted(values, key=lambda value: (type(value).__name__, value)))
        return Column(self.name, "category", categories=categories)
