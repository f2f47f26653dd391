"""The values of a table's columns, read from a frame of any library or an array, as NumPy arrays in float64.

Without this, JAX would turn an identifier of 2⁴⁰ into 0 and 1e300 into infinity: numbers are centered
and scaled in float64 first.
"""

import numbers
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import narwhals as nw
import numpy as np
from jaxtyping import Float
from narwhals.exceptions import DuplicateError
from sklearn.utils.validation import check_array

from dubito._check import SHOWN, DataError, DataWarning, in_rows, list_first, warn
from dubito._values import Table, is_missing

RowNumbers: TypeAlias = Sequence[int] | np.ndarray  # numbers of rows, (rows,)

# In a column of numbers these mean a missing value, in any case. In a column of texts they are categories like any other.
MISSING = frozenset(
    "- -- . ? na n/a n.a. #na #n/a <na> nan -nan none null nil missing unknown -1.#ind 1.#ind -1.#qnan 1.#qnan".split()
) | {"", "#n/a n/a"}
PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# Grouped thousands, a decimal comma, a currency or a percent sign: numbers to a reader, texts to a parser.
_DIGITS = r"(?:\d{1,3}(?:[,.' \u00a0]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)"
_UNIT = r"(?:[$€£¥]|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|BRL|MXN|KRW|ZAR)"
FORMATTED_NUMBER = re.compile(rf"[+-]?\s*{_UNIT}?\s*[+-]?{_DIGITS}\s*(?:%|‰|{_UNIT})?")


class ColumnValues(NamedTuple):
    """The values of one column.

    Attributes
    ----------
    kind : str
        "numeric", "boolean" or "category".
    values : float64 array of shape (rows,), or list
        NaN where a value is missing; the list of a category has None there.
    declared : tuple or None
        The categories of a categorical type, empty where the type does not list them; None for
        texts.
    """

    kind: str
    values: Any
    declared: tuple[Any, ...] | None = None


class TextNumbers(NamedTuple):
    """How many cells of a column of texts look like numbers.

    Attributes
    ----------
    numbers, total : int
        The cells that look like numbers, and the cells that are not missing.
    other, row : str and int, or None
        The first cell that is not a plain number, and its row; a spelling of a missing value only
        if there is nothing else.
    """

    numbers: int
    total: int
    other: str | None
    row: int | None

    @property
    def mostly_numbers(self) -> bool:
        """Whether more than half of the cells look like numbers."""
        return 2 * self.numbers > self.total


def is_plain_number(text: str) -> bool:
    """Whether a text is a plain number, as Python and CSV files write it.

    Parameters
    ----------
    text : str
        With or without surrounding spaces.

    Returns
    -------
    bool
        False for formatted numbers such as "1,000" and "5 %".
    """
    return PLAIN_NUMBER.fullmatch(text.strip()) is not None


def means_missing(text: str) -> bool:
    """Whether a text is a common spelling of a missing value.

    Parameters
    ----------
    text : str
        With or without surrounding spaces, in any case.

    Returns
    -------
    bool
        True for "", "NA", "?" and the like.
    """
    return text.strip().lower() in MISSING


def count_numbers(counts: Mapping[Any, int], first: Mapping[Any, int]) -> TextNumbers:
    """Count the texts of a column that look like numbers.

    Parameters
    ----------
    counts : mapping
        The number of rows of each value.
    first : mapping
        The first row of each value.

    Returns
    -------
    TextNumbers
        Of the values that are texts.
    """
    texts = [text for text in counts if isinstance(text, str)]
    present = [text for text in texts if not means_missing(text)]
    numeric = (text for text in present if is_plain_number(text) or FORMATTED_NUMBER.fullmatch(text.strip()))
    others = [text for text in present if not is_plain_number(text)] or [*{*texts} - {*present}]
    other = min(others, key=first.__getitem__) if others else None
    numbers, total = (sum(counts[text] for text in group) for group in (numeric, present))
    return TextNumbers(numbers, total, other, None if other is None else first[other])


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
    name: str, columns: Sequence[ColumnValues], labels: Sequence[str], rows: RowNumbers, option: str = ""
) -> None:
    """Check that no value is missing or infinite.

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
    option : str
        What to do about missing values on the command line.

    Raises
    ------
    DataError
        Names the columns, the number of such values, and the first rows.
    """
    found, any_missing = [], False
    for column, label in zip(columns, labels, strict=True):
        texts = column.kind == "category"
        bad = np.array([value is None for value in column.values], bool) if texts else ~np.isfinite(column.values)
        if bad.any():
            infinite = 0 if texts else int(np.isinf(column.values).sum())
            missing = int(bad.sum()) - infinite
            any_missing |= missing > 0
            found.append(f"{label}: {missing} missing, {infinite} infinite, {in_rows(bad, rows)}")
    if found:
        what = "NaN" if any_missing else "infinity or a value too large for dtype('float64')"
        more = [f"and {len(found) - SHOWN} more columns"] if len(found) > SHOWN else []
        lines = "\n".join([f"Input {name} contains {what}.", *found[:SHOWN], *more])
        remedy = "Fill the values in, or leave out these rows or columns."
        raise DataError(f"{lines}.", remedy, option if any_missing else "")


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
        kind = "boolean" if dtype == nw.Boolean else "numeric"
        return ColumnValues(kind, as_float64(values, f"Column {series.name!r}", rows))
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        pandas = dtype == nw.Categorical and series.implementation.is_pandas_like()
        declared = native.cat.categories.tolist() if pandas else dtype.categories if isinstance(dtype, nw.Enum) else ()
        values = [None if gone else value for value, gone in zip(series.to_list(), missing, strict=True)]
        return ColumnValues("category", values, None if dtype == nw.String else tuple(declared))
    found = native.type if series.implementation.is_pyarrow() else native.dtype
    raise DataError(f"Column {series.name!r} has the dtype {found}: convert it to numbers or text, or leave it out.")


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
    """Read all columns of an opened table, and check that they are complete and finite.

    Parameters
    ----------
    names, table
        As returned by ``open_table``.
    rows : sequence of int
        The numbers of the rows for messages.
    option : str
        What to do about missing values on the command line.

    Returns
    -------
    list of ColumnValues
        In the table's order.

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
