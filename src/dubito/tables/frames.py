"""Rows and columns of frames of any library: chosen and split off."""

from typing import Any

import narwhals as nw
import numpy as np
import scipy.sparse

from dubito._values import Table, as_array, is_missing_in
from dubito.tables.columns import RowNumbers
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
    frame, array or sparse matrix
        Of the same library.
    """
    if scipy.sparse.issparse(X):
        return X.tocsr()[rows]
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


def drop_column(X: Table, name: str) -> Any:
    """A frame without a column.

    Parameters
    ----------
    X : frame of any library
        The table.
    name : str
        The name of the column.

    Returns
    -------
    frame
        Of the same library.
    """
    return nw.from_native(X, eager_only=True).drop(name).to_native()


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
