"""Checks of the other inputs of a fit: sample weights, the target, and its task."""

import numbers
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from jaxtyping import Float
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, column_or_1d

from dubito._check import DataError, check_choice, check_weight_sum, did_you_mean, in_rows, list_first, warn
from dubito._values import Column, Table, as_array, is_missing
from dubito.tables.columns import ColumnValues, RowNumbers, check_complete, check_numbers
from dubito.tables.texts import count_numbers

FEW_CLASSES = 10  # so many different texts or codes can be classes of any number of rows


def check_weight(weight: Any, n: int) -> Float[np.ndarray, " rows"]:
    """Check sample weights; a weight of zero leaves its row out.

    Parameters
    ----------
    weight : array of shape (n,), float or None
        A number is that of all rows; None is ones.
    n : int
        The number of rows.

    Returns
    -------
    float32 array of shape (n,)
        The weights.

    Raises
    ------
    DataError
        In scikit-learn's words, for weights of another shape, for negative, missing or infinite
        ones, if none is above zero, and for a sum beyond what float32 can hold.
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
    """Read the target as numbers, or as indices of classes.

    Parameters
    ----------
    y : array of shape (n,) or, for regression, (n, targets)
        The target.
    n : int
        The number of rows of the table.
    task : str
        ``"regression"`` or ``"classification"``.
    rows : sequence of int, optional
        The numbers of the rows to use and to name in messages, all by default; the others may
        contain anything.

    Returns
    -------
    tuple
        Regression: float64 (rows, targets), and whether y had one dimension. Classification: the
        sorted classes, and the index of each row's class, int32 (rows,).

    Raises
    ------
    DataError
        For missing, infinite and non-numeric values, labels of mixed types, and another number of
        rows. Of several targets some may be missing (NaN) in a row, but not all.
    """
    check_choice("task", task, ("regression", "classification"))
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
        try:
            classes, places = np.unique(_labels(y, rows), return_inverse=True)
        except ValueError as error:
            raise error if isinstance(error, DataError) else DataError(str(error)) from error
        return classes, places.astype(np.int32)
    values = check_numbers(y, "y", ensure_2d=False, ensure_min_samples=0)
    table: Any = values[:, None] if values.ndim == 1 else values
    missing = np.isnan(table)
    if table.shape[1] > 1 and missing.any():
        _check_some_targets(missing, rows)
    else:
        missing = np.zeros_like(missing)
    columns = [ColumnValues("numeric", column) for column in np.where(missing, 0, table).T]
    check_complete("y", columns, [f"target {k}" for k in range(len(columns))], rows)
    return table, values.ndim == 1


def _check_some_targets(missing: np.ndarray, rows: RowNumbers) -> None:
    """Raise DataError for rows without any target, and for targets without any row."""
    empty = missing.all(axis=1)
    if empty.any():
        raise DataError(f"y has no value of any target {in_rows(empty, rows)}.", "Leave these rows out.")
    columns = [f"target {k}" for k in np.flatnonzero(missing.all(axis=0))]
    if columns:
        raise DataError(f"y has no value of {list_first(columns)} in any row.", "Leave these targets out.")


def _labels(y: np.ndarray, rows: RowNumbers) -> np.ndarray:
    """Class labels (n,) of one plain type; warns for a column vector as scikit-learn does."""
    labels = column_or_1d(y)
    if y.ndim > 1:
        warn("A column-vector y was passed when a 1d array was expected.", DataConversionWarning)
    if labels.dtype == object:
        present = [None if is_missing(label) else label for label in labels]
        check_complete("y", [ColumnValues("category", present)], ["y"], rows)
        kinds, texts = sorted({type(label).__name__ for label in labels}), all(isinstance(v, str) for v in labels)
        labels = labels if texts else np.array(labels.tolist())
        if len(kinds) > 1 or labels.ndim > 1 or not texts and labels.dtype.kind not in "biuf":
            raise DataError(f"Unknown label type: {list_first(kinds)}. Labels are of one type: text or integers.")
    if labels.dtype.kind == "f":
        check_complete("y", [ColumnValues("numeric", labels)], ["y"], rows)
    if labels.dtype.kind not in "biufcUO":
        raise DataError(f"Unknown label type: {labels.dtype}. Convert the labels to text or integers.")
    check_classification_targets(labels)
    return labels


def target_kind(table: Table, target: str) -> str:
    """The task that a column of a table suggests.

    Texts, truth values and categories are classes; numbers with decimals are not. For integers see
    ``integer_target_kind``.

    Parameters
    ----------
    table : frame of any library
        The table.
    target : str
        The name of the column.

    Returns
    -------
    str
        ``"regression"`` or ``"classification"``.

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
    if series.dtype.is_integer():
        return integer_target_kind(sorted(series.unique().to_list()), len(series))
    if series.dtype.is_numeric() or series.dtype == nw.Object:
        return "regression"
    raise DataError(f"The target {series.name!r} has the dtype {series.dtype}: neither numbers nor classes.")


def integer_target_kind(codes: Sequence[int], count: int) -> str:
    """The task that integers suggest.

    They are classes if they look like codes: two values, or up to ten that are exactly 0…k−1 or
    1…k, and on average at least two rows of each.

    Parameters
    ----------
    codes : sequence of int
        The different values, sorted.
    count : int
        The number of rows.

    Returns
    -------
    str
        ``"regression"`` or ``"classification"``.
    """
    run = 0 < len(codes) <= FEW_CLASSES and codes[0] in (0, 1) and codes[-1] - codes[0] == len(codes) - 1
    return "classification" if (run or len(codes) == 2) and count >= 2 * len(codes) else "regression"


def _check_classes(column: nw.Series) -> None:
    """Raise DataError if texts cannot well be classes: if they are numbers, or nearly all different."""
    values = column.to_list()
    counts = Counter(value for value in values if value is not None)
    found = count_numbers(counts, {value: row for row, value in reversed([*enumerate(values)])})
    problem, total = None, sum(counts.values())
    few = len(counts) <= FEW_CLASSES and 2 * len(counts) <= total
    if found.mostly_numbers and found.other is not None:
        numeric = f"but {found.numbers} of its {found.total} values are numbers"
        problem = f"{numeric}; {found.other!r} in row {found.row} is not one."
    elif found.mostly_numbers and not few:
        problem = f"but all its values are numbers, such as {next(iter(counts))!r}."
    elif len(counts) > max(FEW_CLASSES, total // 2):
        problem = f"and has {len(counts)} different values in {total} rows: too many to be classes."
    if problem is not None:
        raise DataError(
            f"The target {column.name!r} is text, {problem}",
            "Convert it to numbers, or say that it is a class.",
            "Correct it or leave its cell empty, choose another --target, or take its texts as classes with --task "
            "classification.",
        )


def check_names_exist(names: Iterable[str], columns: Sequence[str], what: str) -> None:
    """Raise DataError for a name that is not among the columns; the message suggests the nearest.

    Parameters
    ----------
    names : iterable of str
        The names.
    columns : sequence of str
        Those that exist.
    what : str
        The beginning of the message.

    Raises
    ------
    DataError
        For the first such name.
    """
    known = {*columns}
    for name in names:
        if name not in known:
            listed = list_first([repr(each) for each in columns])
            raise DataError(f"{what} {name!r}{did_you_mean(name, columns)} The columns are {listed}.")


def check_lengths(X: Table, y: Column) -> np.ndarray:
    """Check that a target has as many rows as its table.

    Parameters
    ----------
    X : frame or array
        The table.
    y : array
        The target (rows,) or (rows, targets).

    Returns
    -------
    array
        The target.

    Raises
    ------
    DataError
        If the numbers of rows differ.
    """
    y = np.asarray(as_array(y))
    rows = _num_samples(X)
    if y.ndim == 0 or rows != len(y):
        count = f"has {len(y)}" if y.ndim else f"is {y.item()!r}"
        raise DataError(f"X has {rows} rows, but y {count}. Pass one target for each row.")
    return y
