"""Outcomes y at the rows of a predictive, checked and converted: numbers of any library's column, class labels and codes.

The y of classes is either entirely labels, which are looked up in the classes that the predictive knows, or entirely codes
0, 1, ..., C − 1, the places of the classes. Labels win: where every value is a label it is taken as one, so the integers
1 and 2 of the classes (1, 2, 3) are the first and the second class. A predictive of the core knows no labels, only codes.

DataError names the value and the row of what is neither, and the rows with missing values.
"""

from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from dubito._check import DataError, shorten_list
from dubito._values import as_array, is_missing


def outcome_array(y) -> Any:
    """y as a NumPy array: a NumPy, pandas, polars or pyarrow column, a frame, or a sequence. Missing values are NaN or None."""
    if isinstance(y, np.ma.MaskedArray):
        masked: Any = y.astype(object)
        return masked.filled(None)
    found = as_array(y)
    return np.asarray(found) if hasattr(found, "__array__") else np.array(found, dtype=object)


def target_values(y, rows, targets, columns=None, *, finite=True) -> Any:
    """y as float64 (rows, targets), from (n,) or (n, 1) for one target. ``columns``: how many columns y may have instead.

    DataError for another shape, for what is no number or missing, and with ``finite`` for what is infinite.
    """
    values = _as_float(outcome_array(y))
    table = values[:, None] if values.ndim == 1 else values
    if table.ndim != 2 or table.shape[1] not in (targets, columns):
        columns = targets if columns is None else columns
        wanted = f"({rows},) or ({rows}, 1)" if targets == columns == 1 else f"({rows}, {targets})"
        wanted += f" or ({rows}, {columns})" if columns != targets else ""
        raise DataError(f"y has the shape {values.shape}, but this predictive takes {wanted}")
    _check_rows(table, rows)
    _refuse_missing(np.isnan(table).any(1))
    if finite and not np.all(np.isfinite(table)):
        raise DataError(f"y is infinite in {count_rows(np.isinf(table).any(1))}")
    return table


def _as_float(values: Any) -> Any:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind not in "OUS":
        raise DataError(f"y has the dtype {values.dtype}, but this predictive is of numbers")
    found = np.empty(values.shape)
    for place, value in np.ndenumerate(values):
        if not (is_missing(value) or isinstance(value, Real | Decimal | np.bool_)):
            raise DataError(f"y has {_plain(value)!r} in row {place[0]}, but this predictive is of numbers")
        try:
            found[place] = np.nan if is_missing(value) else float(value)
        except OverflowError:
            found[place] = np.inf if value > 0 else -np.inf  # pyright: ignore[reportOperatorIssue]
    return found


def class_codes(y, rows, count, classes=None):
    """Codes from 0 to ``count`` − 1, int (rows,), of y: (n,) or (n, 1), entirely labels among ``classes`` or entirely codes."""
    values = outcome_array(y)
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise DataError(f"y has the shape {values.shape}, but one class per row is wanted: ({rows},)")
    _check_rows(flat, rows)
    objects = flat.dtype.kind == "O"
    missing = np.array([is_missing(value) for value in flat], bool) if objects else flat != flat
    _refuse_missing(missing)
    distinct, place = _distinct(flat)
    labels = {} if classes is None else {label: code for code, label in enumerate(classes.tolist())}
    by_label = [labels.get(value) for value in distinct]
    if None not in by_label:
        return np.array(by_label, int)[place]
    by_code = [_code(value, count) for value in distinct]
    if None not in by_code:
        return np.array(by_code, int)[place]
    neither = np.array([label is None and code is None for label, code in zip(by_label, by_code, strict=True)])[place]
    if not neither.any():
        label, code = (
            np.flatnonzero(np.array([c is not None for c in each])[place])[0] for each in (by_label, by_code)
        )
        raise DataError(
            f"y mixes labels (row {label} has {_plain(flat[label])!r}) with codes of classes (row {code} has "
            f"{_plain(flat[code])!r}): give either labels or codes"
        )
    row = int(np.flatnonzero(neither)[0])
    wanted = [] if classes is None else [f"one of the classes {shorten_list(classes.tolist())}"]
    wanted += [f"a code from 0 to {count - 1}"] if count else []
    raise DataError(f"y has {_plain(flat[row])!r} in row {row}, which is not {' or '.join(wanted)}")


def _code(value: Any, count):
    """The code that a value is, None for anything else."""
    return int(value) if not isinstance(value, str | bytes) and value in range(count) else None


def label_codes(y, classes):
    """Codes int (n,) of ``y``, all of it labels among ``classes``. DataError for anything else."""
    values = outcome_array(y)
    if not values.shape:
        raise DataError(f"y is {y!r}, but one class per row is wanted")
    return class_codes(values, len(values), 0, classes)


def _distinct(values) -> tuple[list[Any], Any]:
    """(distinct values as Python objects, the place of each row's value among them)."""
    if values.dtype.kind != "O":
        distinct, place = np.unique(values, return_inverse=True)
        return distinct.tolist(), place
    seen = {}
    try:
        place = [seen.setdefault(value, len(seen)) for value in values]
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise DataError(
            f"y has values of type {shorten_list(kinds)}: a class is a text, a number or a truth value"
        ) from None
    return list(seen), np.array(place, int)


def _plain(value):
    """The value as plain Python writes it."""
    return value.item() if isinstance(value, np.generic) else value


def _check_rows(values, rows):
    if len(values) != rows:
        raise DataError(f"y has {len(values)} rows, but the predictive has {rows}")


def _refuse_missing(missing):
    if missing.any():
        raise DataError(f"y is missing in {count_rows(missing)}: leave these rows out of X and y")


def count_rows(which):
    """How many rows, and the first of them, in words."""
    rows = np.flatnonzero(which)
    return f"{len(rows)} of {len(which)} rows (row{'s' if len(rows) > 1 else ''} {shorten_list(rows.tolist())})"
