"""Input validation of targets y at the rows of a predictive distribution: numbers of any library, class labels and codes.

The y of classes is either all labels, which are looked up in the classes that the predictive
knows, or all codes 0, 1, ..., C − 1, the positions of the classes. Labels win: where every value is
a label it is taken as one, so the integers 1 and 2 of the classes (1, 2, 3) are the first and the
second class. A predictive without labels knows only codes.
"""

from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dubito._check import DataError, list_first
from dubito._values import Column, as_array, is_missing


def outcome_array(y: Column) -> Any:
    """y as a NumPy array, with missing values as NaN or None."""
    if isinstance(y, np.ma.MaskedArray):
        masked: Any = y.astype(object)
        return masked.filled(None)
    found = as_array(y)
    return np.asarray(found) if hasattr(found, "__array__") else np.array(found, dtype=object)


def target_values(
    y: Column, rows: int, targets: int, columns: int | None = None, *, finite: bool = True, missing: bool = False
) -> Any:
    """y as float64 (rows, targets), from (n,) or (n, 1) for one target.

    ``columns`` is another possible number of columns. Raises DataError for another shape, for
    values that are missing or no numbers, and with ``finite`` for infinite ones. With ``missing``,
    some of several targets may be missing in a row, but not all: they are NaN.
    """
    values = outcome_array(y)
    table = values[:, None] if values.ndim == 1 else values
    if table.ndim != 2 or table.shape[1] not in (targets, columns):
        counts = dict.fromkeys((targets, targets if columns is None else columns))
        shapes = [f"({rows},)"] if max(counts) == 1 else []
        shapes += [f"({rows}, {count})" for count in counts]
        raise DataError(f"y has the shape {values.shape}, but this predictive needs {' or '.join(shapes)}")
    table = _as_float(table)
    absent = np.isnan(table)
    _check_rows(table, rows, absent.all(1) if missing and table.shape[1] == targets > 1 else absent.any(1))
    if finite and np.isinf(table).any():
        raise DataError(f"y is infinite in {count_rows(np.isinf(table).any(1))}")
    return table


def _as_float(values: Any) -> Any:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind not in "OUS":
        raise DataError(f"y has the dtype {values.dtype}, but this predictive is for numbers")
    found = np.empty(values.shape)
    for place, value in np.ndenumerate(values):
        if not (is_missing(value) or isinstance(value, Real | Decimal | np.bool_)):
            raise DataError(f"y has {_plain(value)!r} in row {place[0]}, but this predictive is for numbers")
        try:
            found[place] = np.nan if is_missing(value) else float(value)
        except OverflowError:
            found[place] = np.inf if value > 0 else -np.inf  # pyright: ignore[reportOperatorIssue]
    return found


def class_codes(y: Column, rows: int, count: int, classes: np.ndarray | None = None) -> Int[np.ndarray, " rows"]:
    """Codes from 0 to ``count`` − 1 of y: (n,) or (n, 1), all labels among ``classes`` or all codes."""
    values = outcome_array(y)
    flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1:
        raise DataError(f"y has the shape {values.shape}, but one class per row is needed: ({rows},)")
    missing = [is_missing(value) for value in flat] if flat.dtype.kind == "O" else flat != flat
    _check_rows(flat, rows, np.array(missing, bool))
    distinct, place = _distinct(flat)
    labels = {} if classes is None else {label: code for code, label in enumerate(classes.tolist())}
    found = [labels.get(value) for value in distinct], [_code(value, count) for value in distinct]
    for codes in found:
        if None not in codes:
            return np.array(codes, int)[place]
    known = np.array([[code is not None for code in codes] for codes in found])[:, place]
    if not known.any(0).all():
        row = int(np.argmin(known.any(0)))
        expected = [] if classes is None else [f"one of the classes {list_first(classes.tolist())}"]
        expected += [f"a code from 0 to {count - 1}"] if count else []
        raise DataError(f"y has {_plain(flat[row])!r} in row {row}, which is not {' or '.join(expected)}")
    label, code = known.argmax(1)
    places = f"(row {label} has {_plain(flat[label])!r}) with codes of classes (row {code} has {_plain(flat[code])!r})"
    raise DataError(f"y mixes labels {places}: give either labels or codes")


def _code(value: Any, count: int) -> int | None:
    return int(value) if not isinstance(value, str | bytes) and value in range(count) else None


def label_codes(y: Column, classes: np.ndarray) -> Int[np.ndarray, " rows"]:
    """Codes of ``y``, all of it labels among ``classes``. Raises DataError for anything else."""
    values = outcome_array(y)
    if not values.shape:
        raise DataError(f"y is {y!r}, but one class per row is needed")
    return class_codes(values, len(values), 0, classes)


def _distinct(values: np.ndarray) -> tuple[list[Any], Int[np.ndarray, " rows"]]:
    """(distinct values as Python objects, the position of each row's value among them)."""
    seen: dict[Any, int] = {}
    try:
        place = np.array([seen.setdefault(value, len(seen)) for value in values.tolist()], int)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise DataError(f"y has values of type {list_first(kinds)}: a class is a text, a number or a boolean") from None
    return list(seen), place


def _plain(value: Any) -> Any:
    """The value as plain Python writes it."""
    return value.item() if isinstance(value, np.generic) else value


def _check_rows(values: Sequence[Any] | np.ndarray, rows: int, missing: Bool[np.ndarray, " rows"]) -> None:
    if len(values) != rows:
        raise DataError(f"y has {len(values)} rows, but the predictive has {rows}")
    if missing.any():
        raise DataError(f"y is missing in {count_rows(missing)}: leave these rows out of X and y")


def count_rows(which: Bool[np.ndarray, " rows"]) -> str:
    """How many rows, and the first of them, in words."""
    rows = np.flatnonzero(which)
    return f"{len(rows)} of {len(which)} rows (row{'s' if len(rows) > 1 else ''} {list_first(rows.tolist())})"
