"""Checks of what a fit is given beside the table: sample weights, the target, and the task that a target is for."""

import difflib
import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from jaxtyping import Float
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from dubito._check import DataError, check_weight_sum, list_first
from dubito._values import Column, Table, as_array, is_missing
from dubito.tables.columns import ColumnValues, RowNumbers, check_complete, check_numbers
from dubito.tables.texts import count_numbers

FEW_CLASSES = 10  # so many different texts or codes can be classes of any number of rows


def check_weight(weight: Any, n: int) -> Float[np.ndarray, "rows"]:
    """Sample weights as float32; a weight of zero leaves its row out.

    Parameters
    ----------
    weight : (n,), a number for all rows, or None for ones.
    n : number of rows.

    Raises
    ------
    DataError
        In scikit-learn's words, for weights of another shape, negative, missing or infinite ones, for no weight above
        zero, and for a sum beyond what float32 can hold.
    """
    if weight is None:
        return np.ones(n, np.float32)
    weight = np.full(n, weight) if isinstance(weight, numbers.Real) else as_array(weight)
    if isinstance(weight, str | dict | set):
        raise DataError(f"Sample weights must be 1D array or scalar, got {type(weight).__name__} {weight!r:.50}.")
    exact = check_numbers(weight, "sample_weight", ensure_2d=False, ensure_min_samples=0)
    if exact.ndim != 1:
        raise DataError(f"Sample weights must be 1D array or scalar, got {exact.ndim}D array.")
    if exact.shape != (n,):
        raise DataError(f"sample_weight.shape == {exact.shape}, expected {(n,)}!")
    with np.errstate(over="ignore"):
        out = exact.astype(np.float32)
    check_complete("sample_weight", [ColumnValues("numeric", out)], ["sample_weight"], range(n))
    if (out < 0).any():
        raise DataError(f"Negative values in data passed to `sample_weight`, the first in row {(out < 0).argmax()}.")
    if not exact.any():
        raise DataError("Sample weights must contain at least one non-zero number.")
    check_weight_sum(exact, "sample_weight")
    return np.where(out < np.finfo(np.float32).tiny, np.float32(0), out)


def check_target(y: Column, n: int, task: str, rows: RowNumbers | None = None) -> tuple[np.ndarray, Any]:
    """The target as numbers or as indices of classes.

    Parameters
    ----------
    y : (n,) or, for regression, (n, targets).
    n : number of rows of the table beside it.
    task : "regression" or "classification".
    rows : numbers of the rows to use and to name in messages, all by default; the others may hold anything.

    Returns
    -------
    tuple
        Regression: float64 (rows, targets), and whether y had one dimension. Classification: the sorted classes, and
        the index of each row's class, int32 (rows,).

    Raises
    ------
    DataError
        For missing, infinite and non-numeric values, labels of mixed types, and another number of rows.
    """
    if task not in ("regression", "classification"):
        raise ValueError(f"task is 'regression' or 'classification', not {task!r}")
    if y is None:
        raise DataError("This estimator requires y to be passed, but the target y is None.")
    y = as_array(y)
    if not isinstance(y, np.ndarray):
        try:
            y = np.array(y, dtype=object) if task == "classification" else np.asarray(y)
        except ValueError as error:  # rows of different lengths
            raise DataError(str(error)) from error
    if y.ndim and len(y) != n:
        raise DataError(f"Found input variables with inconsistent numbers of samples: [{n}, {len(y)}]")
    rows, y = (range(n), y) if rows is None or y.ndim == 0 else (rows, y[rows])
    if task == "classification":
        classes, places = np.unique(_labels(y, rows), return_inverse=True)
        return classes, places.astype(np.int32)
    values = check_numbers(y, "y", ensure_2d=False, ensure_min_samples=0)
    table: Any = values[:, None] if values.ndim == 1 else values
    names = [f"target {k}" for k in range(table.shape[1])]
    check_complete("y", [ColumnValues("numeric", column) for column in table.T], names, rows)
    return table, values.ndim == 1


def _labels(y, rows):
    """Class labels (n,) of one plain type; warns for a column vector as scikit-learn does."""
    try:
        labels = column_or_1d(y, warn=True)
        if labels.dtype == object:
            check_complete(
                "y", [ColumnValues("category", [None if is_missing(label) else label for label in labels])], ["y"], rows
            )
            kinds, texts = sorted({type(label).__name__ for label in labels}), all(isinstance(v, str) for v in labels)
            labels = labels if texts else np.array(labels.tolist())
            if len(kinds) > 1 or labels.ndim > 1 or not texts and labels.dtype.kind not in "biuf":
                raise DataError(f"Unknown label type: {list_first(kinds)}. Labels are of one type: text or integers.")
        if labels.dtype.kind == "f":
            check_complete("y", [ColumnValues("numeric", labels)], ["y"], rows)
        if labels.dtype.kind not in "biufcUO":
            raise DataError(f"Unknown label type: {labels.dtype}. Convert the labels to text or integers.")
        check_classification_targets(labels)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from error
    return labels


def target_kind(table: Table, target: str) -> str:
    """The task, "regression" or "classification", that a table's column ``target`` suggests.

    Texts, truth values and categories are classes; numbers with decimals are not. Integers are classes if they look like
    codes: two values, or up to ten that are exactly 0…k−1 or 1…k, and on average at least two rows of each.

    Raises
    ------
    DataError
        For texts that are numbers, and for too many different texts to be classes.
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


def check_names_exist(names: Iterable[str], columns: Sequence[str], what: str) -> None:
    """Raise DataError for a name that is not among ``columns``; the message, which ``what`` begins, suggests the nearest."""
    for name in names:
        if name not in columns:
            close = difflib.get_close_matches(name, columns, 1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise DataError(f"{what} {name!r}{hint} The columns are {list_first([repr(each) for each in columns])}.")
