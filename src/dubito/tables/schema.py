"""The columns of a table: learned from its rows, matched with those of other tables, and encoded as float32.

Scales and categories are learned from rows with a weight above zero and from no others.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dubito._check import SHOWN, DataError, DataWarning, check_choice, list_first, warn
from dubito._values import Table
from dubito.tables.changes import FILLED, UNKNOWN, Changes
from dubito.tables.columns import ColumnValues, open_table, read_columns, warn_about_columns
from dubito.tables.dates import CYCLES, TIMES
from dubito.tables.encoding import FEW_CATEGORIES, MOST_CATEGORIES, ColumnEncoding, ColumnStatistics, Encoded
from dubito.tables.scaling import CONSTANT, OUTLIER
from dubito.tables.validation import check_weight

UNREAD = {
    "date": "Dates in a notation that is not read are texts; write them as 2024-01-31",
    "number": "Numbers with a unit are texts; write them without",
}
LEAST_COUNTED = 10  # fewer rows may increase by chance
BY_REQUEST = "by request"  # why a column is left out


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
    def fit(cls, X: Table, weight: Any = None, missing: str = "fill") -> "Schema":
        """Learn the schema of a table from its rows; see ``fit_encode``.

        Parameters
        ----------
        X, weight, missing
            As in ``fit_encode``.

        Returns
        -------
        Schema
            The schema.
        """
        return cls._learn(X, weight, missing)[0]

    @classmethod
    def fit_encode(
        cls, X: Table, weight: Any = None, missing: str = "fill", left_out: Collection[str] = ()
    ) -> tuple["Schema", np.ndarray, np.ndarray]:
        """Learn the schema of a table and encode its rows, reading the table once.

        Warns once for all columns with the same peculiarity (DataWarning): those that are constant,
        left out, pool their rarer categories, count the rows, or have one absurd outlier.

        Parameters
        ----------
        X : frame of any library, or array of shape (rows, columns)
            The table.
        weight : array of shape (rows,), float or None
            Sample weights. Rows of weight zero may contain anything and are left out.
        missing : str
            "fill" encodes missing values, see ``ColumnEncoding``; "error" refuses them.
        left_out : collection of str
            Columns that are no inputs.

        Returns
        -------
        tuple
            The schema; the used rows, float32 (used, width); the weights of all rows, float32
            (rows,).

        Raises
        ------
        DataError, TypeError
            For anything but a table of finite numbers, times, truth values and categories with at
            least two rows.
        """
        schema, columns, weight = cls._learn(X, weight, missing, left_out)
        return schema, schema._encode(columns, int(np.count_nonzero(weight)), "ignore", 0)[0], weight

    @classmethod
    def _learn(
        cls, X: Table, weight: Any, missing: str, left_out: Collection[str] = ()
    ) -> tuple["Schema", list[ColumnValues | None], np.ndarray]:
        """(schema, the values of the used rows or None for columns ``left_out``, the weights of all rows)."""
        check_choice("missing", missing, ("fill", "error"))
        names, table = open_table(X, least=1)
        weight = check_weight(weight, table.shape[0])
        rows = np.flatnonzero(weight)
        used = table if len(rows) == table.shape[0] else table[rows]
        read = None if names is None else tuple(name for name in names if name not in left_out)
        columns: Any = read_columns(read, used, rows, missing)
        if names is not None:
            found = dict(zip(read or (), columns, strict=True))
            columns = [found.get(name) for name in names]
        if len(rows) < 2:
            raise DataError("n_samples = 1: at least two rows (with a weight above zero) are needed to fit.")
        statistics = [ColumnStatistics(name) for name in names or [f"x{i}" for i in range(len(columns))]]
        for column, values in zip(statistics, columns, strict=True):
            if values is None:
                column.left_out = BY_REQUEST
            else:
                column.add(values, weight[rows].astype(np.float64), rows)
        return cls.of(statistics, names is not None, len(rows)), columns, weight

    @classmethod
    def of(cls, statistics: Sequence[ColumnStatistics], named: bool, rows: int) -> "Schema":
        """The schema of columns with these statistics.

        Parameters
        ----------
        statistics : sequence of ColumnStatistics
            In the table's order.
        named : bool
            Whether the columns have names.
        rows : int
            The number of rows.

        Returns
        -------
        Schema
            The schema.

        Raises
        ------
        DataError
            If all columns are left out, and as ``ColumnStatistics.encoding`` does.
        """
        for column in statistics:
            if column.is_index:
                column.left_out = "an index of rows, without a name"
        columns = tuple(column.encoding() for column in statistics)
        left = [f"{column.name!r} ({column.left_out})" for column in statistics if column.left_out]
        if len(left) == len(columns):
            raise DataError(f"No column can be used. Left out: {list_first(left)}.")
        unasked = [
            f"{column.name!r} ({column.left_out})" for column in statistics if column.left_out not in ("", BY_REQUEST)
        ]
        warn_about_columns("Left out of the inputs", unasked)
        found = [(each.name, *each.unread) for each in statistics if each.left_out != BY_REQUEST]
        for what, text in UNREAD.items():
            warn_about_columns(text, [f"{name!r} (such as {value!r})" for name, kind, value in found if kind == what])
        pooled = [repr(column.name) for column in columns if column.pooled]
        warn_about_columns("The commonest categories have a column each, all rarer ones share one", pooled)
        most = 1.1 * rows if named and rows >= LEAST_COUNTED and len(columns) > len(left) + 1 else 0
        counters = [repr(column.name) for column in statistics if not column.left_out and column.counts_rows(most)]
        warn_about_columns(
            "The values increase from row to row like row numbers, which say nothing about new rows", counters
        )
        constant = [repr(c.name) for c in statistics if (c.moments.constant if c.moments else len(c.counts) == 1)]
        moments = ((c.name, c.moments.outlier) for c in statistics if c.moments)
        far = [f"{name!r} (row {row})" for name, row in moments if row is not None]
        warn_about_columns(f"Constant columns (sd ≤ {CONSTANT:.0e} of the largest value) are uninformative", constant)
        warn_about_columns(f"One value is over {OUTLIER:.0e} sd from all others, which become nearly equal", far)
        return cls(columns, named)

    @property
    def width(self) -> int:
        """The number of encoded columns."""
        return sum(column.width for column in self.columns)

    @property
    def numeric(self) -> tuple[int, ...]:
        """The indices of the encoded columns that are numbers or the seconds of times."""
        starts = np.cumsum([0, *(column.width for column in self.columns)]).tolist()
        numbers = ("numeric", *TIMES)
        return tuple(start for start, column in zip(starts, self.columns, strict=False) if column.kind in numbers)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The columns' names, or None for arrays."""
        return tuple(column.name for column in self.columns) if self.named else None

    def encode(
        self,
        X: Table,
        handle_unknown: str = "error",
        missing: str = "fill",
        owner: str = "Schema",
        start: int = 0,
    ) -> Encoded:
        """Encode rows, each independently: the same numbers in any order or slice.

        Parameters
        ----------
        X : frame, or array of shape (rows, columns)
            The table; it may have no rows. Other columns of a frame are ignored.
        handle_unknown : str
            "error", or "ignore" to encode categories not seen in fit as zeros.
        missing : str
            "error", or "fill" to encode missing values, see ``ColumnEncoding``.
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
        return self.encode_and_count(X, handle_unknown, missing, owner, start)[0]

    def encode_and_count(
        self, X: Table, handle_unknown: str, missing: str, owner: str = "Schema", start: int = 0
    ) -> tuple[Encoded, Changes]:
        """Encode rows, and count the values that are encoded although there were no such values in fit.

        Parameters
        ----------
        X, handle_unknown, missing, owner, start
            As for ``encode``.

        Returns
        -------
        tuple
            The encoded rows, and {what was done: {column: number of values}} of the columns with
            missing values or categories that were not in fit.
        """
        check_choice("handle_unknown", handle_unknown, ("error", "ignore"))
        columns, count = self.read(X, missing, owner, start)
        return self._encode(columns, count, handle_unknown, start)

    def read(
        self, X: Table, missing: str, owner: str = "Schema", start: int = 0
    ) -> tuple[list[ColumnValues | None], int]:
        """Read the columns of rows, and check that they are those of the fit.

        Parameters
        ----------
        X, missing, owner, start
            As for ``encode``.

        Returns
        -------
        tuple
            The values of each column of the schema, None for one that is left out, and the number of rows.
        """
        check_choice("missing", missing, ("fill", "error"))
        names, table = open_table(X, least=0)
        count = table.shape[0]
        self._match(names, table.shape[1], owner)
        keys = [
            column.name
            for column in self.columns
            if not (names is not None and self.named and column.kind == "left out")
        ]
        read = None if names is None else tuple(keys) if self.named else names
        found = dict(zip(keys, read_columns(read, table, range(start, start + count), missing), strict=True))
        return [found.get(column.name) for column in self.columns], count

    def _encode(
        self, columns: Sequence[ColumnValues | None], count: int, handle_unknown: str, start: int
    ) -> tuple[Encoded, Changes]:
        """Encode columns that are those of the schema, each with ``count`` rows; None for one that is left out."""
        out, place = np.empty((count, self.width), np.float32), 0
        changes: Changes = {FILLED: {}, UNKNOWN: {}}
        for column, values in zip(self.columns, columns, strict=True):
            if values is None or column.kind == "left out":
                continue
            found = column.encode(values, handle_unknown, start)
            out[:, place : place + column.width] = found.values
            place += column.width
            for what, changed in ((FILLED, found.missing), (UNKNOWN, found.unknown)):
                if changed:
                    changes[what][column.name] = changed
        return out, changes

    def _match(self, names: tuple[str, ...] | None, count: int, owner: str) -> None:
        """Raise DataError, in scikit-learn's words, unless the columns of the fit are here, in their order."""
        if names is not None and self.named:
            needed = [column.name for column in self.columns if column.kind != "left out"]
            known = {column.name for column in self.columns}
            others = [name for name in names if name not in known]
            if [name for name in names if name in set(needed)] != needed:
                why = _listed("Feature names unseen at fit time", others)
                why += _listed("Feature names seen at fit time, yet now missing", {*needed} - {*names})
                why = why or "Feature names must be in the same order as they were in fit.\n"
                raise DataError(f"The feature names should match those that were passed during fit.\n{why}")
            warn_about_columns("Ignored columns that were not in fit", [repr(name) for name in others])
        elif count != len(self.columns):
            raise DataError(f"X has {count} features, but {owner} is expecting {len(self.columns)} features as input.")
        if (names is not None) != self.named:
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
        return {
            "named": self.named,
            "columns": [
                {**asdict(c), "categories": list(c.categories), "cycles": list(c.cycles)} for c in self.columns
            ],
        }

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
            columns = (
                ColumnEncoding(**each | {name: tuple(each[name]) for name in ("categories", "cycles")})
                for each in d["columns"]
            )
            schema = cls(tuple(columns), d["named"])
            if schema.to_dict() == d and type(schema.named) is bool and schema._could_be_fitted():
                return schema
        except (TypeError, KeyError):
            pass
        raise DataError("Not a table schema: a key, type or value is not one that Schema.to_dict writes.")

    def _could_be_fitted(self) -> bool:
        """Whether columns made of untrusted values could have come from a fit."""
        if not all(_could_be_encoding(column) for column in self.columns):
            return False
        return self.width > 0 and len(self.columns) == len({column.name for column in self.columns})


def _could_be_encoding(column: ColumnEncoding) -> bool:
    """Whether an encoding made of untrusted values could have come from a fit."""
    finite = all(type(number) is float and abs(number) < np.inf for number in (column.shift, column.scale))
    plain = all(type(value) in (str, bool, int) for value in column.categories)
    differ = len(set(column.categories)) == len(column.categories)
    flags = type(column.pooled) is bool and type(column.missing) is bool
    if not (finite and column.scale > 0 and plain and differ and flags and type(column.name) is str):
        return False
    if column.kind == "category":
        full = len(column.categories) >= FEW_CATEGORIES or not column.pooled and column.categories
        return bool(full) and len(column.categories) <= MOST_CATEGORIES and not column.cycles
    cycles = column.cycles == tuple(name for name in CYCLES if name in column.cycles)
    if column.categories or column.pooled or not cycles or (column.cycles and column.kind not in TIMES):
        return False
    if column.kind == "clock" and column.cycles not in ((), ("day",)):
        return False
    return column.kind in ("numeric", "boolean", *TIMES) or (column.kind == "left out" and not column.missing)


def _listed(title: str, names: Collection[str]) -> str:
    return f"{title}:\n" + "".join(f"- {name}\n" for name in sorted(names)[:SHOWN]) if names else ""
