"""Rows and columns of frames of any library: chosen, split off, and imputed where values are missing."""

from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np

from dubito._check import DataError
from dubito._values import Table, as_array, is_missing, is_missing_in
from dubito.tables.columns import RowNumbers, column_values
from dubito.tables.validation import check_names_exist


def take_rows(X: Table, rows: RowNumbers | slice) -> Any:
    """Select rows of an array or of any frame.

    Parameters
    ----------
    X : frame of any library, or array
        The table.
    rows : sequence of int, or slice
        The rows.

    Returns
    -------
    frame or array
        Of the same library.
    """
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    return frame[rows].to_native() if isinstance(frame, nw.DataFrame) else np.asarray(X)[rows]


def split_target(table: Table, target: str) -> tuple[Any, np.ndarray]:
    """Split a column off a frame.

    Parameters
    ----------
    table : frame of any library
        The table.
    target : str
        The name of the column.

    Returns
    -------
    tuple
        The frame without the column, and the column as an array (rows,).

    Raises
    ------
    DataError
        If there is no such column.
    """
    frame = nw.from_native(table, eager_only=True)
    check_names_exist([target], frame.columns, "There is no column")
    return frame.drop(target).to_native(), as_array(frame[target].to_native())


def drop_missing_target(table: Table, target: str) -> tuple[Any, int]:
    """Drop the rows of a frame without a value in a column.

    Parameters
    ----------
    table : frame of any library
        The table.
    target : str
        The name of the column.

    Returns
    -------
    tuple
        The frame, and the number of rows dropped.

    Raises
    ------
    DataError
        If there is no such column.
    """
    missing = is_missing_in(split_target(table, target)[1])
    if not missing.any():
        return table, 0
    return take_rows(table, np.flatnonzero(~missing)), int(missing.sum())


def fill_missing(
    table: Table, values: Mapping[str, float | str] | None = None
) -> tuple[Any, dict[str, float | str], dict[str, int]]:
    """Impute the missing values of a frame of inputs.

    Parameters
    ----------
    table : frame of any library
        The inputs.
    values : mapping, optional
        The value for each column, from an earlier call. Otherwise numbers and truth values get the
        column's median, texts the category "missing".

    Returns
    -------
    tuple
        The frame, the value for each column, and the number of missing values of each column that
        had some.

    Raises
    ------
    DataError
        For a column without any value.
    """
    frame, given, counts = nw.from_native(table, eager_only=True), dict(values or {}), {}
    for name in frame.columns:
        column = column_values(frame[name])
        missing = np.array([is_missing(value) for value in column.values], bool)
        if name not in given:
            if missing.all():
                raise DataError(f"Column {name!r} has no value at all: leave it out.")
            if column.kind == "category":
                given[name] = "missing"
            else:
                median = float(np.median(column.values[~missing]))
                given[name] = float(median >= 0.5) if column.kind == "boolean" else median
        if not missing.any():
            continue
        counts[name] = int(missing.sum())
        if column.kind == "category" or isinstance(given[name], str):
            pairs = zip(column.values, missing, strict=True)
            filled, kind = [given[name] if hole else str(value) for value, hole in pairs], nw.String
        else:
            filled, kind = np.where(missing, given[name], column.values), nw.Float64
            filled, kind = (filled >= 0.5, nw.Boolean) if column.kind == "boolean" else (filled, kind)
        frame = frame.with_columns(nw.new_series(name, filled, kind, backend=frame.implementation))
    return frame.to_native(), given, counts
