"""Tables in, float32 out: reading files, what the columns are, one-hot encoding, and scaling in float64.

No JAX here. JAX alone turns an id of 2⁴⁰ into 0 and 1e300 into ∞, so numbers are centered and scaled in float64 before
it sees them. Scales are learned from rows with a weight above zero and from no others.
"""

import io
import sys
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import narwhals as nw
import numpy as np

from dubito._check import did_you_mean
from dubito._process.output_files import is_address
from dubito._values import as_array, is_missing, is_missing_in
from dubito.tables.columns import (
    CONSTANT,
    OUTLIER,
    SHOWN,
    DataError,
    DataWarning,
    as_part,
    as_parts,
    list_first,
    opened,
    warn_of,
)
from dubito.tables.columns import TargetScaler as TargetScaler
from dubito.tables.columns import check_target as check_target
from dubito.tables.columns import check_weight as check_weight
from dubito.tables.csv_quotes import check_quotes
from dubito.tables.encoding import Column, Learned
from dubito.tables.texts import MISSING, count_numbers

FEW_CLASSES = 10  # so many different texts or codes can be classes of any number of rows


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
        weight = check_weight(weight, table.shape[0]).astype(np.float64)
        rows = np.flatnonzero(weight)
        used = table if len(rows) == table.shape[0] else table[rows]
        parts = as_parts(names, used, rows, "Fill them in with --impute, or leave out these rows or columns.")
        if len(rows) < 2:
            raise DataError("n_samples = 1: at least two rows (with a weight above zero) are needed to fit.")
        learned = [Learned(name) for name in names or [f"x{i}" for i in range(len(parts))]]
        for column, part in zip(learned, parts, strict=True):
            column.add(part, weight[rows], rows)
        return cls.of(learned, names is not None)

    @classmethod
    def of(cls, learned, named=True):
        """The schema of columns that have been ``Learned``."""
        constant = [repr(column.name) for column in learned if column.constant]
        far = [f"{column.name!r} (row {column.outlier})" for column in learned if column.outlier is not None]
        columns = tuple(column.encoding() for column in learned)
        warn_of(f"Constant columns (sd at most {CONSTANT:.0e} of the largest value) tell nothing", constant)
        warn_of(f"One value is over {OUTLIER:.0e} sd from all others, which become nearly equal", far)
        return cls(columns, named)

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
        parts = as_parts(
            names,
            table,
            range(start, start + table.shape[0]),
            "Fill them in, or fit the model with --impute, which fills them in here too.",
        )
        for column, part in zip(self.columns, parts, strict=True):
            out[:, place : place + column.width] = column.encode(part, handle_unknown, start)
            place += column.width
        return out

    def count_unknown(self, X):
        """How many values of each category column of X, a frame, the fit did not see: {name: count} where there are some."""
        names, table = opened(X, least=0)
        found = {}
        for column in self.columns:
            if column.kind == "category" and column.name in (names or ()):
                known = {None, *column.categories}
                if set(table[column.name].unique().to_list()) - known:
                    values = as_part(table[column.name]).values
                    found[column.name] = sum(value not in known for value in values)
        return {name: count for name, count in found.items() if count}

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


def target_kind(table, target):
    """Either "regression" or "classification", read off a table's column ``target``.

    Texts, truth values and categories are classes; numbers with decimals are not. Integers are classes if they look like
    codes: two values, or up to ten that are exactly 0…k−1 or 1…k, and on average two rows or more of each.

    Raises DataError for texts that are numbers, and for texts of which there are too many to be classes.
    """
    column = nw.from_native(table, eager_only=True)[target]
    if column.dtype == nw.String:
        _check_classes(column)
    series = column.drop_nulls()
    if series.dtype in (nw.String, nw.Boolean, nw.Categorical, nw.Enum):
        return "classification"
    if not series.dtype.is_integer():
        if series.dtype.is_numeric() or series.dtype == nw.Object:
            return "regression"
        raise DataError(f"The target {series.name!r} has the dtype {series.dtype}: neither numbers nor classes.")
    codes = sorted(series.unique().to_list())
    run = 0 < len(codes) <= 10 and codes[0] in (0, 1) and codes[-1] - codes[0] == len(codes) - 1
    return "classification" if (run or len(codes) == 2) and len(series) >= 2 * len(codes) else "regression"


def _check_classes(column):
    """Raise DataError if texts cannot well be classes: if they are numbers, or nearly all different."""
    values = column.to_list()
    counts = Counter(value for value in values if value is not None)
    found = count_numbers(counts, {value: row for row, value in reversed([*enumerate(values)])})
    problem, total = None, sum(counts.values())
    few = len(counts) <= FEW_CLASSES and 2 * len(counts) <= total
    if found.mostly_numbers and found.other is not None:
        problem = (
            f"but {found.numbers} of its {found.total} values are numbers; {found.other!r} in row {found.row} is none."
        )
    elif found.mostly_numbers and not few:
        problem = f"but all its values are numbers, such as {next(iter(counts))!r}."
    elif len(counts) > max(FEW_CLASSES, total // 2):
        problem = f"and has {len(counts)} different values in {total} rows: too many to be classes."
    if problem is not None:
        raise DataError(
            f"The target {column.name!r} is text, {problem}",
            "Convert it to numbers, or say that it is a class.",
            "Correct it, choose another --target, or take its texts as classes with --task classification.",
        )


def check_names_exist(names, columns, what):
    """Raise DataError for one of ``names`` that is not among the ``columns``, with the nearest one that is."""
    for name in names:
        if name not in columns:
            hint = did_you_mean(name, columns)
            raise DataError(f"{what} {name!r}{hint} The columns are {list_first([repr(each) for each in columns])}.")


def taken(X, rows):
    """Rows (their numbers, or a slice) of an array or of any frame."""
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    return frame[rows].to_native() if isinstance(frame, nw.DataFrame) else np.asarray(X)[rows]


def split_target(table, target):
    """(the table without the column ``target``, that column as a NumPy array)."""
    frame = nw.from_native(table, eager_only=True)
    check_names_exist([target], frame.columns, "There is no column")
    return frame.drop(target).to_native(), as_array(frame[target].to_native())


def with_target(table, target):
    """(the rows of ``table`` that have a value in the column ``target``, how many have none)."""
    frame = nw.from_native(table, eager_only=True)
    check_names_exist([target], frame.columns, "There is no column")
    missing = is_missing_in(as_array(frame[target].to_native()))
    return (frame[np.flatnonzero(~missing)].to_native(), int(missing.sum())) if missing.any() else (table, 0)


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


def read_table(source, categorical=(), target=None):
    """A pyarrow Table from a .csv, .tsv or .parquet file, or CSV from standard input for "-". Empty cells are missing.

    The columns ``categorical`` are read as texts and become categories. Other columns of numbers in which some cells spell a
    missing value, such as "?", become numbers, except the ``target``, in which nothing but an empty cell and its usual
    spellings (NA, NaN, null) is missing.

    Raises DataError that names the file: missing, empty, not readable, of another kind, two columns of one name, a quoted cell
    that is not closed.
    """
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ImportError("Reading tables needs pyarrow: pip install 'dubito[cli]'") from error
    stdin, ending = str(source) == "-", ending_of(source)
    try:
        if ending == ".parquet":
            table = parquet.ParquetFile(pyarrow.OSFile(str(source))).read()  # a name might be taken for an address
        else:
            delimiter = "\t" if ending == ".tsv" else ","
            data = sys.stdin.buffer.read() if stdin else None
            with open(source, "rb") if data is None else io.BytesIO(data) as file:
                check_quotes(file, source, delimiter)
            with pyarrow.OSFile(str(source)) if data is None else pyarrow.BufferReader(data) as file:
                table = csv.read_csv(
                    file,
                    parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    convert_options=csv.ConvertOptions(
                        strings_can_be_null=True, column_types=dict.fromkeys(categorical, pyarrow.string())
                    ),
                )
        names = table.column_names
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    check_names(source, names)
    if ending != ".parquet" and pyarrow.binary() in table.schema.types:
        raise DataError(f"{source}: column {names[table.schema.types.index(pyarrow.binary())]!r} is not UTF-8 text.")
    check_names_exist(categorical, names, f"{source} has no column")
    for place, name in enumerate(names):
        if name in categorical:
            table = table.set_column(place, name, table[name].combine_chunks().dictionary_encode())
        elif name != target:
            table = table.set_column(place, name, with_missing_spelled(table[name]))
    return table


def with_missing_spelled(column):
    """A pyarrow column of texts as numbers, if its cells are numbers and at least one spelling of a missing value."""
    import pyarrow
    from pyarrow import compute

    if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
        return column
    texts = compute.utf8_trim_whitespace(column)  # type: ignore[attr-defined]
    lower = compute.utf8_lower(texts)  # type: ignore[attr-defined]
    spelled = compute.is_in(lower, pyarrow.array(sorted(MISSING), column.type))  # type: ignore[attr-defined]
    present = compute.if_else(spelled, None, texts)  # type: ignore[attr-defined]
    if present.null_count in (column.null_count, len(column)):
        return column
    try:
        return present.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        return column


def ending_of(source):
    """How to read a table's file: .csv (also for "-"), .tsv or .parquet; DataError for another."""
    if is_address(source):
        raise DataError(f"{source}: only local files can be read. Download the file first.")
    ending = ".csv" if str(source) == "-" else Path(source).suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{source}: only .csv, .tsv and .parquet tables can be read.")
    return ending


def check_names(source, names):
    """DataError where two columns have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source}: several columns are named {list_first(twice)}.")
