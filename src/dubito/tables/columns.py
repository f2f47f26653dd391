"""The values of a table's columns, read from a frame of any library or an array, as NumPy arrays in float64.

Without this, JAX would turn an identifier of 2⁴⁰ into 0 and 1e300 into infinity: numbers are centered
and scaled in float64 first.
"""

import math
import numbers
from collections.abc import Iterable, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import narwhals as nw
import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float
from narwhals.exceptions import DuplicateError
from sklearn.utils.validation import check_array

from dubito._check import SHOWN, DataError, DataWarning, in_rows, list_first, warn
from dubito._values import Table, is_missing
from dubito.tables.dates import seconds_of
from dubito.tables.texts import is_plain_number, means_missing

DENSE_NUMBERS = 2**26  # of a sparse matrix, at most: 512 MB

RowNumbers: TypeAlias = Sequence[int] | np.ndarray  # numbers of rows, (rows,)


class ColumnValues(NamedTuple):
    """The values of one column.

    Attributes
    ----------
    kind : str
        "numeric", "boolean", "time", "clock" or "category".
    values : float64 array of shape (rows,), or list
        NaN where a value is missing; the list of a category has None there. Times are seconds since
        1970 in UTC, those of the day since midnight.
    declared : tuple or None
        The categories of a categorical type, empty where the type does not list them; None for
        texts.
    """

    kind: str
    values: Any
    declared: tuple[Any, ...] | None = None


def warn_about_columns(what: str, names: Sequence[str]) -> None:
    """Issue one DataWarning for all columns with the same problem; none without columns.

    Parameters
    ----------
    what : str
        The problem.
    names : sequence of str
        The columns.
    """
    if names:
        warn(f"{what}: {list_first(names)}.", DataWarning)


def as_float64(values: np.ndarray, where: str, rows: RowNumbers | None = None) -> Float[np.ndarray, "*shape"]:
    """Real numbers of any type as float64, with NaN for None and NA.

    Parameters
    ----------
    values : array
        Any shape and dtype.
    where : str
        What they are, for messages.
    rows : sequence of int, optional
        The numbers of the rows for messages; 0, 1, ... by default.

    Returns
    -------
    float64 array
        The same shape.

    Raises
    ------
    DataError
        For texts, dates and other dtypes.
    TypeError
        For Python objects that are not numbers.
    """
    if values.dtype.kind in "buif":
        with np.errstate(over="ignore"):
            return values.astype(np.float64, copy=False)
    if values.dtype.kind not in "OU":
        raise DataError(f"{where} has the dtype {values.dtype}: convert it to numbers.")
    out = np.empty(values.shape)
    for place, value in np.ndenumerate(values):
        if isinstance(value, str | bytes):
            raise _text_error(values, where, rows)
        if not (is_missing(value) or isinstance(value, numbers.Real | Decimal | np.bool_)):
            row = place[0] if rows is None else rows[place[0]]
            found = f"not {type(value).__name__!r} as in row {row}"
            raise TypeError(f"{where}: argument must be a string (in a table) or a real number, {found}.")
        try:
            out[place] = np.nan if is_missing(value) else float(value)
        except OverflowError:
            out[place] = np.inf if value > 0 else -np.inf  # pyright: ignore[reportOperatorIssue] (Real has no order in typeshed)
    return out


def _text_error(values: np.ndarray, where: str, rows: RowNumbers | None) -> DataError:
    """The error for numeric ``values`` with texts among them; it names the first that is not a plain number."""
    texts = [
        (place[0], value) for place, value in np.ndenumerate(values.astype(object)) if isinstance(value, str | bytes)
    ]
    others = [(row, value) for row, value in texts if not is_plain_number(str(value))]
    row, value = (others or texts)[0]
    what = "which is not a number" if others else "a number that is written as text"
    remedies = {"Input X": " Only columns of a data frame may be texts, which become categories."}
    if where.startswith("Column"):
        remedies[where] = f" Or make the column categorical: X[{where[7:]}].astype(str).astype('category')."
    return DataError(
        f"{where} has the text {value!r} in row {row if rows is None else rows[row]}, {what}.",
        f"Convert it to numbers.{remedies.get(where, '')}",
        "Correct the cell.",
    )


def check_numbers(values: Any, name: str, **limits: Any) -> Float[np.ndarray, "*shape"]:
    """Convert an array of numbers, missing values included, to float64.

    Parameters
    ----------
    values : array or sequence
        The numbers.
    name : str
        What they are, for messages.
    **limits
        Options of scikit-learn's ``check_array``, whose messages the errors have.

    Returns
    -------
    float64 array
        The numbers.

    Raises
    ------
    DataError
        For masked values, wrong dimensions, too few rows or columns, and anything but numbers.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(f"Input {name} is an array with masked values: fill them, or leave out their rows.")
    try:
        array = check_array(values, dtype=None, ensure_all_finite=False, input_name=name, **limits)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise DataError(str(error)) from error
    return as_float64(array, f"Input {name}")


def check_complete(
    name: str,
    columns: Sequence[ColumnValues],
    labels: Sequence[str],
    rows: RowNumbers,
    missing: str = "error",
) -> None:
    """Check that no value is infinite, and that none is missing.

    Parameters
    ----------
    name : str
        The input's name in the message.
    columns : sequence of ColumnValues
        The columns.
    labels : sequence of str
        What the message calls each.
    rows : sequence of int
        The numbers of the rows for the message.
    missing : str
        "fill" allows missing values.

    Raises
    ------
    DataError
        Names the columns, the number of such values, and the first rows.
    """
    found, any_missing = [], False
    for column, label in zip(columns, labels, strict=True):
        absent = is_missing_in_column(column)
        infinite = np.zeros(len(absent), bool) if column.kind == "category" else np.isinf(column.values)
        bad = infinite if missing == "fill" else absent | infinite
        if bad.any():
            any_missing |= bool(absent.any())
            counts = f"{absent.sum()} missing, {infinite.sum()} infinite"
            found.append(f"{label}: {counts}, {in_rows(bad, rows)}")
    if found:
        what = "NaN" if any_missing else "infinity or a value too large for dtype('float64')"
        more = [f"and {len(found) - SHOWN} more columns"] if len(found) > SHOWN else []
        lines = "\n".join([f"Input {name} contains {what}.", *found[:SHOWN], *more])
        remedy = "Fill the values in, or leave out these rows or columns."
        filled = any_missing and name == "X" and missing == "error"
        raise DataError(
            f"{lines}.",
            f"{remedy[:-1]}, or set missing='fill'." if filled else remedy,
            f"{remedy[:-1]} (--drop), or leave out --missing error." if filled else "",
        )


def is_missing_in_column(column: ColumnValues) -> Bool[np.ndarray, " rows"]:
    """Which values of a column are missing.

    Parameters
    ----------
    column : ColumnValues
        The column.

    Returns
    -------
    bool array of shape (rows,)
        True for missing values.
    """
    if column.kind == "category":
        return np.array([value is None for value in column.values], bool)
    return np.isnan(column.values)


def column_values(series: nw.Series, rows: RowNumbers | None = None) -> ColumnValues:
    """Read the values of a frame's column.

    Parameters
    ----------
    series : narwhals.Series
        The column.
    rows : sequence of int, optional
        The numbers of the rows for messages; 0, 1, ... by default.

    Returns
    -------
    ColumnValues
        Texts and categorical types are categories.

    Raises
    ------
    DataError
        For types that are neither numbers, truth values nor categories.
    """
    missing, dtype, native = series.is_null().to_numpy(), series.dtype, series.to_native()
    if missing.all():  # a column without any value, or any row, may have any type
        return ColumnValues("numeric", np.full(len(missing), np.nan))
    if dtype == nw.Boolean or dtype == nw.Object or dtype.is_numeric():
        plain = series.cast(nw.Float64) if dtype in (nw.Int128, nw.UInt128) else series  # NumPy has no such integers
        values = plain.to_numpy()
        if dtype == nw.Object:
            spelled = [isinstance(value, str) and means_missing(value) for value in values]
            values = np.where(spelled, np.array(None), values)
            for kind, moment in (("time", date), ("clock", time)):
                if all(is_missing(value) or isinstance(value, moment) for value in values):
                    return ColumnValues(kind, _seconds(values))
        truth = dtype == nw.Object and all(is_missing(value) or isinstance(value, bool | np.bool_) for value in values)
        kind = "boolean" if dtype == nw.Boolean or truth else "numeric"
        return ColumnValues(kind, as_float64(values, f"Column {series.name!r}", rows))
    if dtype in (nw.Date, nw.Datetime):
        return ColumnValues("time", _with_nan(series.dt.timestamp("us"), missing) / 1e6)
    if dtype == nw.Time:
        return ColumnValues("clock", _seconds(series.to_list()))
    if dtype == nw.Duration:
        return ColumnValues("numeric", _with_nan(series.dt.total_microseconds(), missing) / 1e6)
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        pandas = dtype == nw.Categorical and series.implementation.is_pandas_like()
        declared = native.cat.categories.tolist() if pandas else dtype.categories if isinstance(dtype, nw.Enum) else ()
        values = [None if gone else value for value, gone in zip(series.to_list(), missing, strict=True)]
        return ColumnValues("category", values, None if dtype == nw.String else tuple(declared))
    found = native.type if series.implementation.is_pyarrow() else native.dtype
    raise DataError(f"Column {series.name!r} has the dtype {found}: convert it to numbers or text, or leave it out.")


def _seconds(moments: Iterable[Any]) -> Float[np.ndarray, " rows"]:
    """Dates or times of the day as seconds, with NaN where they are missing."""
    return np.array([np.nan if is_missing(moment) else seconds_of(moment) for moment in moments])


def _with_nan(series: nw.Series, missing: Bool[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Integers as float64, with NaN where they are missing."""
    return np.where(missing, np.nan, series.fill_null(0).to_numpy()).astype(np.float64)


def _as_dense(X: Any) -> np.ndarray:
    """A sparse matrix as an array, if that fits into memory."""
    numbers = math.prod(X.shape)
    if numbers > DENSE_NUMBERS:
        raise DataError(
            f"X is sparse, with {X.shape[0]:,} × {X.shape[1]:,} values: networks need them all, and more than "
            f"{DENSE_NUMBERS:,} are not made dense by themselves.",
            "Reduce its columns, such as with sklearn.decomposition.TruncatedSVD, or pass X.toarray().",
        )
    return X.toarray()


def open_table(X: Table, least: int) -> tuple[Any, Any]:
    """A table's column names and its rows, whose values are not checked yet.

    Parameters
    ----------
    X : frame of any library, or array of shape (rows, columns)
        The table.
    least : int
        The smallest number of rows and of columns.

    Returns
    -------
    tuple
        (names, narwhals frame), or (None, float64 array (rows, columns)) if there are no names.

    Raises
    ------
    DataError, TypeError
        In scikit-learn's words, for an input without rows and columns.
    """
    limits = {"ensure_min_samples": least, "ensure_min_features": least}
    if scipy.sparse.issparse(X):
        X = _as_dense(X)
    try:
        frame = nw.from_native(X, pass_through=True)
    except DuplicateError as error:
        raise DataError(f"Two columns have the same name. {error}") from error
    if isinstance(frame, nw.DataFrame):
        kinds = sorted({"str" if isinstance(name, str) else type(name).__name__ for name in frame.columns})
        if kinds in ([], ["str"]):
            if 0 in frame.shape:
                check_numbers(np.empty(frame.shape), "X", **limits)
            return tuple(frame.columns), frame
        if "str" in kinds:
            raise TypeError(
                "Feature names are only supported if all input features have string names, but your input has "
                f"{kinds} as feature name / column name types. Convert them with X.columns = X.columns.astype(str)."
            )
    if isinstance(frame, nw.LazyFrame):
        raise DataError(f"X is a {type(X).__name__}, which holds no rows yet: pass X.collect().")
    return None, check_numbers(X, "X", **limits)


def read_columns(
    names: tuple[str, ...] | None, table: Any, rows: RowNumbers, missing: str = "error"
) -> list[ColumnValues]:
    """Read all columns of an opened table, and check their values; see ``check_complete``.

    Parameters
    ----------
    names, table
        As returned by ``open_table``.
    rows : sequence of int
        The numbers of the rows for messages.
    missing : str
        "fill" allows missing values.

    Returns
    -------
    list of ColumnValues
        In the table's order.

    Raises
    ------
    DataError
        For infinite values, for missing ones unless they are allowed, and for columns of other types.
    """
    if names is None:
        columns = [ColumnValues("numeric", column) for column in table.T]
        labels = [f"column {number}" for number in range(table.shape[1])]
    else:
        columns = [column_values(table[name], rows) for name in names]
        labels = [f"column {name!r}" for name in names]
    check_complete("X", columns, labels, rows, missing)
    return columns
