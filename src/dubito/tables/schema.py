"""The columns of a table: learned from its rows, matched with those of other tables, and encoded as float32.

Scales and categories are learned from rows with a weight above zero and from no others.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dubito._check import SHOWN, DataError, DataWarning, check_choice, warn
from dubito._values import Table
from dubito.tables.columns import ColumnValues, column_values, open_table, read_columns, warn_about_columns
from dubito.tables.encoding import ColumnEncoding, ColumnStatistics, Encoded
from dubito.tables.scaling import CONSTANT, OUTLIER
from dubito.tables.validation import check_weight


@dataclass(frozen=True)
class Schema:
    """The columns of a table and how each is encoded.

    Parameters
    ----------
    columns : tuple of ColumnEncoding
        In the table's order.
    named : bool
        False for arrays, whose columns have no names.
    """

    columns: tuple[ColumnEncoding, ...]
    named: bool

    @classmethod
    def fit(cls, X: Table, weight: Any = None) -> "Schema":
        """Learn the schema of a table from its rows; see ``fit_encode``.

        Parameters
        ----------
        X, weight
            As in ``fit_encode``.

        Returns
        -------
        Schema
            The schema.
        """
        return cls._learn(X, weight)[0]

    @classmethod
    def fit_encode(cls, X: Table, weight: Any = None) -> tuple["Schema", np.ndarray, np.ndarray]:
        """Learn the schema of a table and encode its rows, reading the table once.

        Warns once for all constant columns and once for all absurd outliers (DataWarning).

        Parameters
        ----------
        X : frame of any library, or array of shape (rows, columns)
            The table.
        weight : array of shape (rows,), float or None
            Sample weights. Rows of weight zero may contain anything and are left out.

        Returns
        -------
        tuple
            The schema; the used rows, float32 (used, width); the weights of all rows, float32
            (rows,).

        Raises
        ------
        DataError, TypeError
            For anything but a table of complete, finite numbers, truth values and categories with at
            least two rows.
        """
        schema, columns, weight = cls._learn(X, weight)
        return schema, schema._encode(columns, int(np.count_nonzero(weight)), "ignore", 0), weight

    @classmethod
    def _learn(cls, X: Table, weight: Any) -> tuple["Schema", list[ColumnValues], np.ndarray]:
        """(schema, the values of the used rows, the weights of all rows)."""
        names, table = open_table(X, least=1)
        weight = check_weight(weight, table.shape[0])
        rows = np.flatnonzero(weight)
        used = table if len(rows) == table.shape[0] else table[rows]
        option = "Fill them in with --impute, or leave out these rows or columns."
        columns = read_columns(names, used, rows, option)
        if len(rows) < 2:
            raise DataError("n_samples = 1: at least two rows (with a weight above zero) are needed to fit.")
        statistics = [ColumnStatistics(name) for name in names or [f"x{i}" for i in range(len(columns))]]
        for column, values in zip(statistics, columns, strict=True):
            column.add(values, weight[rows].astype(np.float64), rows)
        return cls.of(statistics, names is not None), columns, weight

    @classmethod
    def of(cls, statistics: Sequence[ColumnStatistics], named: bool = True) -> "Schema":
        """The schema of columns with these statistics.

        Parameters
        ----------
        statistics : sequence of ColumnStatistics
            In the table's order.
        named : bool
            Whether the columns have names.

        Returns
        -------
        Schema
            The schema.
        """
        constant = [repr(c.name) for c in statistics if (c.moments.constant if c.moments else len(c.counts) == 1)]
        moments = ((c.name, c.moments.outlier) for c in statistics if c.moments)
        far = [f"{name!r} (row {row})" for name, row in moments if row is not None]
        columns = tuple(column.encoding() for column in statistics)
        warn_about_columns(f"Constant columns (sd ≤ {CONSTANT:.0e} of the largest value) are uninformative", constant)
        warn_about_columns(f"One value is over {OUTLIER:.0e} sd from all others, which become nearly equal", far)
        return cls(columns, named)

    @property
    def width(self) -> int:
        """The number of encoded columns."""
        return sum(column.width for column in self.columns)

    @property
    def numeric(self) -> tuple[int, ...]:
        """The indices of the encoded columns that are numbers (neither booleans nor categories)."""
        starts = np.cumsum([0, *(column.width for column in self.columns)]).tolist()
        return tuple(start for start, column in zip(starts, self.columns, strict=False) if column.kind == "numeric")

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns' names, or None for arrays."""
        return tuple(column.name for column in self.columns) if self.named else None

    def encode(self, X: Table, handle_unknown: str = "error", owner: str = "Schema", start: int = 0) -> Encoded:
        """Encode rows, each independently: the same numbers in any order or slice.

        Parameters
        ----------
        X : frame, or array of shape (rows, columns)
            The table; it may have no rows.
        handle_unknown : str
            "error", or "ignore" to encode categories not seen in fit as zeros.
        owner : str
            The name of the estimator, for messages.
        start : int
            The number of the first row, for messages.

        Returns
        -------
        float32 array of shape (rows, width)
            The encoded rows.

        Raises
        ------
        DataError
            For other columns than in fit, missing values, and unseen categories.
        """
        check_choice("handle_unknown", handle_unknown, ("error", "ignore"))
        names, table = open_table(X, least=0)
        count = table.shape[0]
        self._match(names, table.shape[1], owner)
        option = "Fill them in, or fit the model with --impute, which fills them in here too."
        columns = read_columns(names, table, range(start, start + count), option)
        return self._encode(columns, count, handle_unknown, start)

    def _encode(self, columns: Sequence[ColumnValues], count: int, handle_unknown: str, start: int) -> Encoded:
        """Encode columns that are those of the schema, each with ``count`` rows."""
        out, place = np.empty((count, self.width), np.float32), 0
        for column, values in zip(self.columns, columns, strict=True):
            out[:, place : place + column.width] = column.encode(values, handle_unknown, start)
            place += column.width
        return out

    def count_unknown(self, X: Table) -> dict[str, int]:
        """Count the values of a frame's category columns that were not seen in fit.

        Parameters
        ----------
        X : frame of any library
            The table.

        Returns
        -------
        dict
            {name: count} of the columns that have some.
        """
        names, table = open_table(X, least=0)
        counts = {}
        for column in self.columns:
            if column.kind == "category" and column.name in (names or ()):
                known = {None, *column.categories}
                if set(table[column.name].unique().to_list()) - known:
                    values = column_values(table[column.name]).values
                    counts[column.name] = sum(value not in known for value in values)
        return {name: count for name, count in counts.items() if count}

    def _match(self, names: tuple[str, ...] | None, count: int, owner: str) -> None:
        """Raise DataError, in scikit-learn's words, unless these are the columns of the fit, in their order."""
        if names and self.named and names != self.names:
            mine = {column.name for column in self.columns}
            why = _listed("Feature names unseen at fit time", set(names) - mine)
            why += _listed("Feature names seen at fit time, yet now missing", mine - set(names))
            why = why or "Feature names must be in the same order as they were in fit.\n"
            raise DataError(f"The feature names should match those that were passed during fit.\n{why}")
        if count != len(self.columns):
            raise DataError(f"X has {count} features, but {owner} is expecting {len(self.columns)} features as input.")
        if bool(names) != self.named:
            has, was = ("has", "without") if names else ("does not have valid", "with")
            message = f"X {has} feature names, but {owner} was fitted {was} feature names"
            warn(message, DataWarning)

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain lists, numbers and strings.

        Returns
        -------
        dict
            As JSON can represent it.
        """
        return {"named": self.named, "columns": [{**asdict(c), "categories": list(c.categories)} for c in self.columns]}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "Schema":
        """The inverse of ``to_dict``.

        Parameters
        ----------
        d : dict
            Untrusted values.

        Returns
        -------
        Schema
            The schema.

        Raises
        ------
        DataError
            For anything that ``to_dict`` would not have written.
        """
        try:
            columns = (ColumnEncoding(**{**each, "categories": tuple(each["categories"])}) for each in d["columns"])
            schema = cls(tuple(columns), d["named"])
            if schema.to_dict() == d and type(schema.named) is bool and schema._could_be_fitted():
                return schema
        except (TypeError, KeyError):
            pass
        raise DataError("Not a table schema: a key, type or value is not one that Schema.to_dict writes.")

    def _could_be_fitted(self) -> bool:
        """Whether columns made of untrusted values could have come from a fit."""
        for column in self.columns:
            finite = all(type(number) is float and abs(number) < np.inf for number in (column.shift, column.scale))
            plain = all(type(value) in (str, bool, int) for value in column.categories)
            differ = len(set(column.categories)) == len(column.categories)
            kinds = ("category",) if column.categories else ("numeric", "boolean")
            if not (
                finite and column.scale > 0 and plain and differ and type(column.name) is str and column.kind in kinds
            ):
                return False
        return 0 < len(self.columns) == len({column.name for column in self.columns})


def _listed(title: str, names: set[str]) -> str:
    return f"{title}:\n" + "".join(f"- {name}\n" for name in sorted(names)[:SHOWN]) if names else ""
