"""Columns of any library as NumPy arrays, and which of their values are missing."""

from typing import Any, TypeAlias

import narwhals as nw
import numpy as np
from jaxtyping import Bool, Shaped

Table: TypeAlias = Any  # a frame of pandas, polars or pyarrow, or an array (rows, columns)
Column: TypeAlias = Any  # a series of any library, an array (rows,) or (rows, targets), or a list


def is_missing(value: object) -> bool:
    """Whether a Python object stands for a missing value, in any library.

    Parameters
    ----------
    value : object
        One value.

    Returns
    -------
    bool
        True for None, NaN, NA and NaT.
    """
    return value is None or type(value).__name__ in ("NAType", "NaTType") or isinstance(value, float) and value != value


def as_array(values: Column) -> Any:
    """A column as a NumPy array.

    Parameters
    ----------
    values : series or frame of any library, array, or sequence
        One column, or several.

    Returns
    -------
    array of shape (rows,) or (rows, columns)
        Of a series or a frame, with None for missing values that are not floating-point numbers.
        An array of pyarrow becomes a list. Anything else is returned unchanged.
    """
    series = nw.from_native(values, allow_series=True, eager_only=True, pass_through=True)
    if isinstance(series, nw.DataFrame):
        columns = [as_array(series[name].to_native()) for name in series.columns]
        return np.stack(columns, axis=1) if columns else series.to_numpy()
    if not isinstance(series, nw.Series):
        return values.to_pylist() if hasattr(values, "to_pylist") else values  # narwhals does not know pyarrow's arrays
    missing = series.is_null().to_numpy()
    if not missing.any() or series.dtype.is_float():
        return series.to_numpy()
    out = np.empty(len(missing), object)  # NumPy has no missing integers, and of categories it would take the last one
    out[:] = [None if gone else value for value, gone in zip(series.to_list(), missing, strict=True)]
    return out


def is_missing_in(values: Shaped[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Which entries of a column are missing.

    Parameters
    ----------
    values : array of shape (rows,)
        Any dtype.

    Returns
    -------
    bool array of shape (rows,)
        True for missing values.
    """
    if values.dtype == object:
        return np.array([is_missing(value) for value in values], bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
