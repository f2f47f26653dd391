"""The values of a table's columns, read from a frame of any library or an array, as NumPy arrays in float64.

JAX alone would turn an identifier of 2⁴⁰ into 0 and 1e300 into infinity: numbers are centered and scaled in float64 first.
"""

import numbers
import warnings
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import narwhals as nw
import numpy as np
from jaxtyping import Float
from narwhals.exceptions import DuplicateError
from sklearn.utils.validation import check_array

from dubito._check import SHOWN, DataError, DataWarning, in_rows, list_first
from dubito._values import Table, is_missing
from dubito.tables.texts import is_plain_number, means_missing

RowNumbers: TypeAlias = Sequence[int] | np.ndarray  # numbers of rows, (rows,)


class ColumnValues(NamedTuple):
    """One column as it was read.

    Parameters
    ----------
    kind : "numeric", "boolean" or "category".
    values : float64 (rows,) with NaN where a value is missing; of a category a list, with None there.
    declared : categories of a categorical type, empty where the type does not list them; None for texts.
    """

    kind: str
    values: Any
    declared: tuple | None = None


def warn_about_columns(what: str, names: Sequence[str]) -> None:
    """Issue one DataWarning for all columns with the same problem; none without columns."""
    if names:
        warnings.warn(f"{what}: {list_first(names)}.", DataWarning, stacklevel=3)


def _without_missing_texts(name, values, rows):
    """A column of Python objects with None for the texts that mean a missing value; DataError for other texts."""
    texts = np.array([isinstance(value, str) for value in values], bool)
    for place in np.flatnonzero(texts):
        if not means_missing(values[place]):
            raise DataError(
                f"Column {name!r} has the text {values[place]!r} in row {place if rows is None else rows[place]} among "
                "values of other types.",
                f"Correct it, or make the column categorical: X[{name!r}].astype(str).astype('category').",
            )
    return np.where(texts, None, values) if texts.any() else values


def _text_error(values, where, rows):
    """The DataError for numeric ``values`` with texts among them; it names the first that is no plain number."""
    texts = [(place[0], value) for place, value in np.ndenumerate(values) if isinstance(value, str | bytes)]
    others = [(row, value) for row, value in texts if not is_plain_number(str(value))]
    row, value = (others or texts)[0]
    what = "which is no number" if others else "a number that is written as text"
    texts_allowed = " Only columns of a data frame may be texts, which become categories." if where == "Input X" else ""
    return DataError(
        f"{where} has the text {value!r} in row {row if rows is None else rows[row]}, {what}.",
        f"Convert it to numbers.{texts_allowed}",
        "Correct the cell.",
    )


def as_float64(values: np.ndarray, where: str, rows: RowNumbers | None = None) -> Float[np.ndarray, "*shape"]:
    """Real numbers of any type as float64, with NaN for None and NA.

    Parameters
    ----------
    values : array of any shape and dtype.
    where : what they are, for messages.
    rows : numbers of the rows for messages, 0, 1, ... by default.

    Raises
    ------
    DataError
        For texts, dates and other dtypes.
    TypeError
        For Python objects that are no numbers.
    """
    if values.dtype.kind != "O":
        if values.dtype.kind not in "buif":
            if values.dtype.kind == "U":
                raise _text_error(values.astype(object), where, rows)
            raise DataError(f"{where} has the dtype {values.dtype}: convert it to numbers.")
        with np.errstate(over="ignore"):
            return values.astype(np.float64, copy=False)
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
            out[place] = np.inf
    return out


def check_numbers(values: Any, name: str, **limits: Any) -> Float[np.ndarray, "*shape"]:
    """An array of numbers as float64, missing values included.

    Parameters
    ----------
    values : any array or sequence.
    name : what it is, for messages.
    **limits : options of scikit-learn's ``check_array``, whose messages the errors have.

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
    name: str, columns: Sequence[ColumnValues], labels: Sequence[str], rows: RowNumbers, option: str = ""
) -> None:
    """Check that no value is missing or infinite.

    Parameters
    ----------
    name : the input's name in the message.
    columns, labels : the columns, and what the message calls each.
    rows : numbers of the rows for the message.
    option : what to do about missing values on the command line.

    Raises
    ------
    DataError
        Names the columns, the number of such values, and the first rows.
    """
    found, missing = [], 0
    for column, label in zip(columns, labels, strict=True):
        texts = column.kind == "category"
        bad = np.array([value is None for value in column.values], bool) if texts else ~np.isfinite(column.values)
        if bad.any():
            infinite = 0 if texts else int(np.isinf(column.values).sum())
            missing += int(bad.sum()) - infinite
            found.append(f"{label}: {bad.sum() - infinite} missing, {infinite} infinite, {in_rows(bad, rows)}")
    if found:
        what = "NaN" if missing else "infinity or a value too large for dtype('float64')"
        more = [f"and {len(found) - SHOWN} more columns"] if len(found) > SHOWN else []
        lines = "\n".join([f"Input {name} contains {what}.", *found[:SHOWN], *more])
        raise DataError(
            f"{lines}.", "Fill the values in, or leave out these rows or columns.", option if missing else ""
        )


def column_values(series: nw.Series, rows: RowNumbers | None = None) -> ColumnValues:
    """The values of a frame's column.

    Parameters
    ----------
    series : the column, as narwhals gives it.
    rows : numbers of the rows for messages, 0, 1, ... by default.

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
            values = _without_missing_texts(series.name, values, rows)
        return ColumnValues(
            "boolean" if dtype == nw.Boolean else "numeric", as_float64(values, f"Column {series.name!r}", rows)
        )
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        pandas = dtype == nw.Categorical and series.implementation.is_pandas_like()
        declared = native.cat.categories.tolist() if pandas else dtype.categories if isinstance(dtype, nw.Enum) else ()
        values = [None if gone else value for value, gone in zip(series.to_list(), missing, strict=True)]
        return ColumnValues("category", values, None if dtype == nw.String else tuple(declared))
    kind = native.type if series.implementation.is_pyarrow() else native.dtype
    raise DataError(f"Column {series.name!r} has the dtype {kind}: convert it to numbers or text, or leave it out.")


def open_table(X: Table, least: int) -> tuple[Any, Any]:
    """A table's column names and its rows, of which nothing is checked yet.

    Parameters
    ----------
    X : frame of any library, or array (rows, columns).
    least : how many rows and columns there must be.

    Returns
    -------
    tuple
        (names, narwhals frame), or (None, float64 array (rows, columns)) where there are no names.

    Raises
    ------
    DataError, TypeError
        In scikit-learn's words, for what is no table of rows and columns.
    """
    limits = {"ensure_min_samples": least, "ensure_min_features": least}
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


def read_columns(names: tuple[str, ...] | None, table: Any, rows: RowNumbers, option: str = "") -> list[ColumnValues]:
    """The values of every column of an opened table, checked to be complete and finite.

    Parameters
    ----------
    names, table : as ``open_table`` returns them.
    rows : numbers of the rows for messages.
    option : what to do about missing values on the command line.

    Raises
    ------
    DataError
        For missing and infinite values, and for columns of other types.
    """
    if names is None:
        columns = [ColumnValues("numeric", column) for column in table.T]
        labels = [f"column {number}" for number in range(table.shape[1])]
    else:
        columns = [column_values(table[name], rows) for name in names]
        labels = [f"column {name!r}" for name in names]
    check_complete("X", columns, labels, rows, option)
    return columns
