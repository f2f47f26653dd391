"""Labels of rows that say how the rows may be split: groups that belong together, and times.

They are columns of the table, by name, or arrays beside it.
"""

from datetime import date
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
from jaxtyping import Int, Shaped

from dubito._check import DataError, in_rows
from dubito._values import Column, Table, as_array, is_missing_in
from dubito.tables.columns import RowNumbers
from dubito.tables.dates import parse_time, seconds_of
from dubito.tables.validation import check_names_exist


def row_labels(X: Table, given: Column | str, name: str) -> Shaped[np.ndarray, " rows"]:
    """The labels of the rows of a table.

    Parameters
    ----------
    X : frame or array
        The table.
    given : str or array
        The name of a column of a frame, or a value for each row.
    name : str
        The parameter, for messages.

    Returns
    -------
    array
        The values, unchecked.

    Raises
    ------
    DataError
        If there is no such column, or another number of values.
    """
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if isinstance(given, str):
        if not isinstance(frame, nw.DataFrame):
            problem = f"{name}={given!r} is the name of a column, but X is an array without names."
            raise DataError(problem, f"Pass a data frame, or the values themselves as {name}.")
        check_names_exist([given], frame.columns, f"{name}: there is no column")
        given = frame[given].to_native()
    values = as_array(given)
    if not isinstance(values, np.ndarray):
        listed = list(values) if isinstance(values, list | tuple | range) else [values]
        values = np.empty(len(listed), object)
        values[:] = listed
    rows = len(frame) if isinstance(frame, nw.DataFrame) else np.shape(X)[0]
    if values.shape != (rows,):
        raise DataError(f"{name} must have a value for each of the {rows} rows of X; got the shape {values.shape}.")
    return values


def group_numbers(values: Shaped[np.ndarray, " rows"], rows: RowNumbers, name: str) -> Int[np.ndarray, " rows"]:
    """A number of each row, the same for equal labels.

    Parameters
    ----------
    values : array
        The labels of some rows.
    rows : sequence of int
        The numbers of these rows, for messages.
    name : str
        What they are, for messages.

    Returns
    -------
    array
        From 0.

    Raises
    ------
    DataError
        For missing labels, and for lists and other values that cannot be labels.
    """
    _check_no_missing(values, rows, name)
    if values.dtype != object:
        return np.unique(values, return_inverse=True)[1]
    seen: dict[Any, int] = {}
    try:
        return np.array([seen.setdefault(value, len(seen)) for value in values.tolist()], int)
    except TypeError as error:
        raise DataError(f"{name} must be numbers or texts: {error}.") from error


def time_numbers(values: Shaped[np.ndarray, " rows"], rows: RowNumbers, name: str) -> Int[np.ndarray, " rows"]:
    """A number of each row in the order of time, the same for equal times.

    Parameters
    ----------
    values, rows, name
        As for ``group_numbers``; the values are numbers, dates and times, or texts of them.

    Returns
    -------
    array
        From 0, the earliest.

    Raises
    ------
    DataError
        For missing values, and for those that are not times.
    """
    _check_no_missing(values, rows, name)
    if values.dtype.kind not in "biufM":
        moments = [_moment(value) for value in values.tolist()]
        for row, value, moment in zip(rows, values, moments, strict=True):
            if moment is None:
                problem = f"{name} has {value!r} in row {row}, which is neither a number nor a date or time."
                raise DataError(problem, "Write times as 2024-01-31 or 2024-01-31T12:00.")
        values = np.array(moments, object)
    return np.unique(values, return_inverse=True)[1]


def _moment(value: Any) -> Any:
    """A number that orders times, or None."""
    if isinstance(value, str):
        seconds = parse_time(value)
        return None if seconds is None or seconds != seconds else seconds
    if isinstance(value, date):
        return seconds_of(value)
    return value if isinstance(value, Real | Decimal) else None


def _check_no_missing(values: np.ndarray, rows: RowNumbers, name: str) -> None:
    missing = np.isnat(values) if values.dtype.kind in "mM" else is_missing_in(values)
    if missing.any():
        problem = f"{name} has no value {in_rows(missing, rows)}."
        raise DataError(problem, "Give each row one, or leave these rows out.")
