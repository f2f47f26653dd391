"""Tables in, float32 out: reading files, what the columns are, one-hot encoding, and scaling in float64.

No JAX here. JAX alone turns an id of 2⁴⁰ into 0 and 1e300 into ∞, so numbers are centered and scaled in float64 before
it sees them. Scales are learned from rows with a weight above zero and from no others.
"""

import difflib
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import narwhals as nw
import numpy as np

from dubito.columns import (
    CATEGORIES,
    CONSTANT,
    OUTLIER,
    SHOWN,
    DataError,
    DataWarning,
    as_part,
    as_parts,
    is_missing,
    listed,
    moments,
    opened,
    standardized,
    warn_of,
)
from dubito.columns import TargetScaler as TargetScaler
from dubito.columns import check_target as check_target
from dubito.columns import check_weight as check_weight


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


def _categories(name, part, rows):
    """The sorted categories: the declared ones, otherwise those in ``rows``."""
    found = set(part.declared or (part.values[row] for row in rows))
    strange = sorted({type(value).__name__ for value in found if not isinstance(value, str | bool | int)})
    if strange:
        raise DataError(f"Column {name!r} has categories of type {listed(strange)}: convert them to text or integers.")
    if len(found) > CATEGORIES:
        raise DataError(f"Column {name!r} has {len(found)} different texts, more than {CATEGORIES}: leave it out.")
    return tuple(sorted(found, key=lambda value: (type(value).__name__, value)))


@dataclass(frozen=True)
class Schema:
    """The columns of a table and how each is encoded. ``named`` is False for bare arrays."""

    columns: tuple[Column, ...]
    named: bool

    @classmethod
    def fit(cls, X, weight=None):
        """Learn from X (n, D), an array or any frame: from the rows whose ``weight`` (n,) is above zero.

        Categories are the declared ones where the column has such (pandas, Enum), otherwise those seen. Raises DataError
        or TypeError; warns once for all constant columns and once for all absurd outliers.
        """
        names, table = opened(X, least=1)
        parts = as_parts(names, table)
        weight = check_weight(weight, table.shape[0]).astype(np.float64)
        rows = np.flatnonzero(weight)
        if len(rows) < 2:
            raise DataError("n_samples = 1: at least two rows (with a weight above zero) are needed to fit.")
        columns, constant, far = [], [], []
        for name, part in zip(names or [f"x{i}" for i in range(len(parts))], parts, strict=True):
            if part.kind == "category":
                column = Column(name, "category", categories=_categories(name, part, rows))
                dull = len({part.values[row] for row in rows}) == 1
            else:
                found = moments(part.values[rows], weight[rows])
                dull = found.constant
                scale = max(1.0, found.sd) if dull else found.sd  # above 1: huge values that differ by rounding
                number = part.kind == "numeric"
                column = Column(name, part.kind, *((found.mean, scale) if number else (0.5, 0.5)))
                far += [] if found.outlier is None else [f"{name!r} (row {rows[found.outlier]})"]
            columns.append(column)
            constant += [repr(name)] if dull else []
        warn_of(f"Constant columns (sd at most {CONSTANT:.0e} of the largest value) tell nothing", constant)
        warn_of(f"One value is over {OUTLIER:.0e} sd from all others, which become nearly equal", far)
        return cls(tuple(columns), names is not None)

    @property
    def width(self):
        """Number of encoded columns."""
        return sum(column.width for column in self.columns)

    @property
    def numeric(self):
        """Indices of the encoded columns that are numbers (neither booleans nor categories)."""
        starts = np.cumsum([0, *(column.width for column in self.columns)]).tolist()
        return tuple(start for start, column in zip(starts, self.columns, strict=False) if column.kind == "numeric")

    @property
    def names(self):
        """The columns' names, or None for bare arrays."""
        return tuple(column.name for column in self.columns) if self.named else None

    def encode(self, X, handle_unknown="error", owner="Schema", start=0):
        """X (n, D) as float32 (n, width); n may be 0. Each row by itself: the same numbers in any order or slice.

        Raises DataError for other columns than at fit (``owner`` is who complains), missing values and unseen categories
        (``handle_unknown="ignore"`` encodes those as all zeros). Messages count rows from ``start``, that of the first.
        """
        if handle_unknown not in ("error", "ignore"):
            raise ValueError(f"handle_unknown is 'error' or 'ignore', not {handle_unknown!r}")
        names, table = opened(X, least=0)
        self._match(names, table.shape[1], owner)
        out = np.empty((table.shape[0], self.width), np.float32)
        place = 0
        for column, part in zip(self.columns, as_parts(names, table, start), strict=True):
            out[:, place : place + column.width] = column.encode(part, handle_unknown, start)
            place += column.width
        return out

    def _match(self, names, count, owner):
        """E, in scikit-learn's words, unless these are the columns of the fit, in their order."""
        if names and self.named and names != self.names:
            mine = {column.name for column in self.columns}
            lists = (
                ("Feature names unseen at fit time", sorted(set(names) - mine)),
                ("Feature names seen at fit time, yet now missing", sorted(mine - set(names))),
            )
            lines = [
                f"{title}:\n" + "".join(f"- {name}\n" for name in found[:SHOWN]) for title, found in lists if found
            ]
            why = "".join(lines) or "Feature names must be in the same order as they were in fit.\n"
            raise DataError(f"The feature names should match those that were passed during fit.\n{why}")
        if count != len(self.columns):
            raise DataError(f"X has {count} features, but {owner} is expecting {len(self.columns)} features as input.")
        if bool(names) != self.named:
            has, was = ("has", "without") if names else ("does not have valid", "with")
            warnings.warn(
                f"X {has} feature names, but {owner} was fitted {was} feature names", DataWarning, stacklevel=3
            )

    def to_dict(self):
        """Plain lists, numbers and strings."""
        return {"named": self.named, "columns": [{**asdict(c), "categories": list(c.categories)} for c in self.columns]}

    @classmethod
    def from_dict(cls, d):
        """The inverse of ``to_dict``; DataError for anything that ``to_dict`` would not have written."""
        try:
            columns = tuple(Column(**{**each, "categories": tuple(each["categories"])}) for each in d["columns"])
            schema = cls(columns, d["named"])
            if schema.to_dict() == d and type(schema.named) is bool and _valid(columns):
                return schema
        except (TypeError, KeyError):
            pass
        raise DataError("Not a table schema: a key, type or value is not one that Schema.to_dict writes.")


def _valid(columns):
    """Whether columns made of untrusted values could have come from a fit."""
    for column in columns:
        finite = all(type(x) is float and abs(x) < np.inf for x in (column.shift, column.scale)) and column.scale > 0
        plain = all(type(value) in (str, bool, int) for value in column.categories)
        differ = len(set(column.categories)) == len(column.categories)
        kinds = ("category",) if column.categories else ("numeric", "boolean")
        if not (finite and plain and differ and type(column.name) is str and column.kind in kinds):
            return False
    return 0 < len(columns) == len({column.name for column in columns})


def target_kind(column):
    """Either "regression" or "classification", read off a table's column.

    Text, truth values and categories are classes; numbers with decimals are not. Integers are classes if they look like
    codes: two values, or up to ten that are exactly 0…k−1 or 1…k, and on average two rows or more of each.
    """
    series = nw.from_native(column, series_only=True).drop_nulls()
    if series.dtype in (nw.String, nw.Boolean, nw.Categorical, nw.Enum):
        return "classification"
    if not series.dtype.is_integer():
        if series.dtype.is_numeric() or series.dtype == nw.Object:
            return "regression"
        raise DataError(f"The target {series.name!r} has the dtype {series.dtype}: neither numbers nor classes.")
    codes = sorted(series.unique().to_list())
    run = 0 < len(codes) <= 10 and codes[0] in (0, 1) and codes[-1] - codes[0] == len(codes) - 1
    return "classification" if (run or len(codes) == 2) and len(series) >= 2 * len(codes) else "regression"


def taken(X, rows):
    """Rows (their numbers, or a slice) of an array or of any frame."""
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    return frame[rows].to_native() if isinstance(frame, nw.DataFrame) else np.asarray(X)[rows]


def split_target(table, target):
    """(the table without the column ``target``, that column as a NumPy array)."""
    frame = nw.from_native(table, eager_only=True)
    if target not in frame.columns:
        close = difflib.get_close_matches(target, frame.columns, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        names = listed([repr(name) for name in frame.columns])
        raise DataError(f"There is no column {target!r}{hint} The columns are {names}.")
    return frame.drop(target).to_native(), frame[target].to_numpy()


def fill_missing(table, values=None):
    """(a table of inputs whose missing values are filled in, {column: the value for it}, {column: how many were missing}).

    ``values`` are those of an earlier table; without them numbers and truth values get the column's median, texts the
    category "missing". E for a column without any value.
    """
    frame, given, counts = nw.from_native(table, eager_only=True), dict(values or {}), {}
    for name in frame.columns:
        part = as_part(frame[name])
        gone = np.array([is_missing(value) for value in part.values], bool)
        if name not in given:
            if gone.all():
                raise DataError(f"Column {name!r} has no value at all: leave it out.")
            given[name] = "missing" if part.kind == "category" else float(np.median(part.values[~gone]))
        if not gone.any():
            continue
        counts[name] = int(gone.sum())
        if part.kind == "category" or isinstance(given[name], str):
            filled, kind = (
                [given[name] if hole else str(v) for v, hole in zip(part.values, gone, strict=True)],
                nw.String,
            )
        else:
            filled, kind = np.where(gone, given[name], part.values), nw.Float64
            filled, kind = (filled >= 0.5, nw.Boolean) if part.kind == "boolean" else (filled, kind)
        frame = frame.with_columns(nw.new_series(name, filled, kind, backend=frame.implementation))
    return frame.to_native(), given, counts


def read_table(source):
    """A pyarrow Table from a .csv, .tsv or .parquet file, or CSV from standard input for "-". Empty cells are missing.

    Raises DataError that names the file: missing, empty, not readable, of another kind, two columns of one name.
    """
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ImportError("Reading tables needs pyarrow: pip install 'dubito[cli]'") from error
    stdin, ending = str(source) == "-", ending_of(source)
    try:
        if ending == ".parquet":
            table = parquet.ParquetFile(source).read()
        else:
            table = csv.read_csv(
                pyarrow.BufferReader(sys.stdin.buffer.read()) if stdin else str(source),
                parse_options=csv.ParseOptions(delimiter="\t" if ending == ".tsv" else ",", newlines_in_values=True),
                convert_options=csv.ConvertOptions(strings_can_be_null=True),
            )
        names = table.column_names
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    check_names(source, names)
    if ending != ".parquet" and pyarrow.binary() in table.schema.types:
        raise DataError(f"{source}: column {names[table.schema.types.index(pyarrow.binary())]!r} is not UTF-8 text.")
    return table


def ending_of(source):
    """How to read a table's file: .csv (also for "-"), .tsv or .parquet; DataError for another."""
    ending = ".csv" if str(source) == "-" else Path(source).suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{source}: only .csv, .tsv and .parquet tables can be read.")
    return ending


def check_names(source, names):
    """DataError where two columns have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source}: several columns are named {listed(twice)}.")
