"""How a fit or a comparison may split its rows: by groups, by time, by the user's own folds or validation rows."""

import warnings
from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit, check_cv

from dubito._check import DataError, DataWarning, in_rows, warn
from dubito._values import Table
from dubito.tables.frames import drop_column
from dubito.tables.row_labels import group_numbers, row_labels, time_numbers
from dubito.tables.schema import Schema
from dubito.training.data import Rows
from dubito.training.method import Method, Wrapper
from dubito.training.splits import group_folds, held_out_groups, latest, repeated_rows, time_blocks

Split: TypeAlias = tuple[np.ndarray, np.ndarray]  # numbers of the training and of the held-out rows
Numbers: TypeAlias = Int[np.ndarray, " rows"]

FEW_REPEATS = 0.01  # of the rows: so few that repeat another may do so by chance, and are not worth a note


class SplitOptions(NamedTuple):
    """The arguments of ``fit`` that say which rows may be held out from which.

    Attributes
    ----------
    groups : array, str, False or None
    times : array, str or None
    cv : splitter, iterable of (train, test), or None
    X_val, y_val : frame or array, array
        Rows for early stopping; None: a part of the training rows.
    """

    groups: Any = None
    times: Any = None
    cv: Any = None
    X_val: Any = None
    y_val: Any = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """The column of the groups, which is no input, if they are one."""
        return (self.groups,) if isinstance(self.groups, str) else ()

    @property
    def grouped(self) -> bool:
        """Whether there are groups of the user's."""
        return self.groups is not None and not is_false(self.groups)

    def check(self, method: Any, early_stopping: bool) -> None:
        """Check that the options go together and with the method; warn of those without effect.

        Parameters
        ----------
        method : Method or None
            The estimator's; None is the default one, which has folds.
        early_stopping : bool
            Whether the fit stops early.

        Raises
        ------
        ValueError
            If they do not.
        """
        check_groups_or_times(self.groups, self.times, self.cv)
        folds, name = has_folds(method), "the default method" if method is None else type(method).__name__
        if self.cv is not None and not folds:
            raise ValueError(f"cv sets the folds of CrossFit and Committee; {name} has none. Leave out cv.")
        if self.times is not None and early_stopping and folds and not (method is None or method.validates):
            problem = f"{name} with times has no rows for early stopping beside its folds."
            raise ValueError(f"{problem} Leave out early_stopping, or times.")
        if (self.X_val is None) != (self.y_val is None):
            raise ValueError(f"X_val and y_val go together; {'X_val' if self.X_val is None else 'y_val'} is missing")
        if self.X_val is not None:
            if folds:
                raise ValueError(
                    f"{name} holds its folds out and takes no X_val and y_val. Set its folds with cv instead."
                )
            if not early_stopping:
                raise ValueError("X_val and y_val are the rows for early stopping: set early_stopping=True")
            if self.grouped or self.times is not None:
                raise ValueError("with X_val and y_val no training row is held out: leave out groups and times")
        elif (self.grouped or self.times is not None) and not (folds or early_stopping):
            what = "groups" if self.grouped else "times"
            warn(f"{what} has no effect on this fit: {name} without early stopping holds no rows out", DataWarning)

    def divide(self, X: Table, rows: Rows, weight: Float[np.ndarray, " all"], divides: bool) -> Rows:
        """Add groups, times and folds to the rows of a fit.

        Parameters
        ----------
        X : frame or array
            The table.
        rows : Rows
            Its rows of positive weight, encoded.
        weight : array
            The weights of all rows.
        divides : bool
            Whether the fit holds rows out, so that it matters whether rows repeat one another.

        Returns
        -------
        Rows
            With ``group``, ``time`` and ``folds``.

        Raises
        ------
        DataError
            For labels and folds that do not fit the table.
        """
        used = np.flatnonzero(weight)
        group = time = folds = None
        if self.grouped:
            group = group_numbers(row_labels(X, self.groups, "groups")[used], used, "groups")
        elif self.groups is None and self.times is None and self.cv is None and self.X_val is None and divides:
            group = repeats(rows.x, rows.y)
        if self.times is not None:
            time = time_numbers(row_labels(X, self.times, "times")[used], used, "times")
        if self.cv is not None:
            every = None if group is None else place_rows(group, used, len(weight))
            splits = read_cv(self.cv, len(weight), place_rows(rows.y, used, len(weight)), every)
            folds = np.zeros((len(splits), len(weight)), np.int8)
            for fold, (train, test) in zip(folds, splits, strict=True):
                fold[train], fold[test] = 1, -1
            folds = folds[:, used]
            if not all((fold > 0).any() and (fold < 0).any() for fold in folds):
                raise DataError("cv has a fold without training or without held-out rows of positive weight.")
        return rows._replace(group=group, time=time, folds=folds)


def is_false(groups: Any) -> bool:
    """Whether groups are turned off."""
    return isinstance(groups, bool | np.bool_) and not groups


def has_folds(method: Any) -> bool:
    """Whether a method, or one that it wraps, divides the rows into folds; None is the default method."""
    while isinstance(method, Wrapper) and not method.has_folds:
        method = method.method
    return method is None or isinstance(method, Method) and method.has_folds


def check_groups_or_times(groups: Any, times: Any, cv: Any) -> None:
    """Raise ValueError for options that exclude one another."""
    if isinstance(groups, bool | np.bool_) and groups:
        raise ValueError("groups must be None, False, the name of a column, or a value for each row; got True")
    if times is not None and groups is not None and not is_false(groups):
        raise ValueError("groups and times cannot be combined: pass groups, or times, or your own folds as cv")
    if times is not None and cv is not None:
        raise ValueError("cv and times both choose the folds: pass one of them")


def place_rows(values: np.ndarray, used: np.ndarray, count: int) -> np.ndarray:
    """The values of some rows among all ``count`` rows; the others have the first value."""
    found = np.repeat(values[:1], count, axis=0)
    found[used] = values
    return found


def repeats(x: np.ndarray, y: np.ndarray) -> Numbers | None:
    """``repeated_rows``, with a warning that counts them if they are more than one in a hundred."""
    group = repeated_rows(x, y)
    if group is not None:
        count = len(group) - len(np.unique(group))
        if count > len(group) * FEW_REPEATS:
            what = "1 row repeats another row: it is" if count == 1 else f"{count} rows repeat another row: they are"
            warn(f"{what} kept in one fold with it; groups=False (--no-groups) lets folds separate them", DataWarning)
    return group


def read_cv(cv: Any, count: int, y: np.ndarray, group: Numbers | None) -> list[Split]:
    """The folds of ``cv``, checked.

    Parameters
    ----------
    cv : splitter or iterable
        With ``split(X, y, groups)``, as in scikit-learn, or of (train, test), numbers of rows.
    count : int
        The number of rows.
    y : array
        Targets, which a splitter may stratify.
    group : array or None
        A number of each row; no fold may separate rows with the same one.

    Returns
    -------
    list of tuple
        Numbers of the training and of the held-out rows of each fold.

    Raises
    ------
    DataError
        For anything else, and if a row is held out twice: its errors would count twice.
    """
    found = (
        list(cv)
        if isinstance(cv, Iterable) and not isinstance(cv, str | dict)
        else _splitter_folds(cv, count, y, group)
    )
    if not found:
        raise DataError("cv has no folds.")
    splits, times = [], np.zeros(count, int)
    for number, pair in enumerate(found):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise DataError(f"fold {number} of cv must be (train, test), got {type(pair).__name__}.")
        train, test = (_row_numbers(part, count, f"fold {number} of cv") for part in pair)
        if len(np.intersect1d(train, test)) or len(train) == 0 or len(test) == 0:
            problem = f"fold {number} of cv has {len(train)} training and {len(test)} held-out rows"
            raise DataError(
                f"{problem}, {len(np.intersect1d(train, test))} of them in both; both need rows of their own."
            )
        if group is not None and len(torn := np.intersect1d(group[train], group[test])):
            raise DataError(
                f"fold {number} of cv separates the rows of {len(torn)} {'group' if len(torn) == 1 else 'groups'}.",
                "Use GroupKFold, or leave out groups.",
            )
        times[test] += 1
        splits.append((train, test))
    if times.max() > 1:
        problem = f"cv holds rows out more than once, {in_rows(times > 1)}."
        raise DataError(problem, "Use folds that hold each row out at most once, such as KFold.")
    return splits


def _splitter_folds(cv: Any, count: int, y: np.ndarray, group: Numbers | None) -> list[Any]:
    """The folds of a splitter of scikit-learn; DataError for another object."""
    given: Any = None if isinstance(cv, Number | str | dict) else cv
    try:
        splitter: Any = check_cv(given)
    except ValueError:
        splitter = None
    if splitter is not cv:
        problem = f"cv must be a scikit-learn splitter or an iterable of (train, test), got {cv!r:.50}."
        raise DataError(problem, "A number of folds is a setting of the method, or folds= of a comparison.")
    flat = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    with warnings.catch_warnings():  # that a splitter ignores groups, which the caller checks
        warnings.filterwarnings("ignore", "The groups parameter is ignored")
        return list(splitter.split(np.zeros((count, 1)), flat, group))


def _row_numbers(part: Any, count: int, where: str) -> Numbers:
    """Distinct row numbers from numbers or a mask; DataError for anything else."""
    rows = np.asarray(part)
    if rows.dtype == bool and rows.shape == (count,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise DataError(f"{where} must contain row numbers, got an array of {rows.dtype} of shape {rows.shape}.")
    rows = rows.astype(np.int64)
    if rows.size and not (rows.min() >= 0 and rows.max() < count and len(np.unique(rows)) == len(rows)):
        raise DataError(f"{where} must contain different row numbers from 0 to {count - 1}.")
    return rows


class TableSplits(NamedTuple):
    """What a comparison knows about the rows that it splits.

    Attributes
    ----------
    X : frame or array
        The inputs, without a column of groups.
    rows : array
        The numbers of the rows to split. All other attributes and all splits count these rows only.
    group, time : array or None
        A number of each row.
    schema : Schema
        Of these rows.
    """

    X: Any
    rows: Numbers
    group: Numbers | None
    time: Numbers | None
    schema: Schema

    def fit_options(self, estimator: Any, train: Numbers) -> dict[str, Any]:
        """The arguments of ``fit`` for some rows; none that would have no effect."""
        if not (has_folds(estimator._resolved_method()) or estimator.early_stopping):
            return {"groups": False}
        if self.time is not None:
            return {"times": self.time[train]}
        return {"groups": False if self.group is None else self.group[train]}

    def folds(self, y: np.ndarray, classes: bool, folds: int, seed: int, cv: Any = None) -> list[Split]:
        """The folds of a comparison, random unless the rows have times, and stratified for classes."""
        if cv is not None:
            return read_cv(cv, len(y), y, self.group)
        if self.time is not None:
            block = time_blocks(self.time, folds)
            return [(np.flatnonzero(block < k), np.flatnonzero(block == k)) for k in range(block.max() + 1)]
        if self.group is None:
            if folds > len(y):
                raise DataError(f"folds={folds} is more than the number of rows, {len(y)}.", "Use fewer folds.")
            splitter = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed)
            with warnings.catch_warnings():  # of a class with fewer rows than folds: its folds are checked later
                warnings.filterwarnings("ignore", "The least populated class")
                return list(splitter.split(np.zeros(len(y)), y))
        count = len(np.unique(self.group))
        if count < 2:
            raise DataError(
                f"the folds hold whole groups out, so they need at least 2, got {count}.", "Choose other groups."
            )
        codes, order = _codes(y) if classes else np.zeros((len(y), 1)), np.random.default_rng(seed).permutation(len(y))
        folds = min(folds, count)
        fold = group_folds(self.group, codes, np.full(folds, 1 / folds), order)
        return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]

    def holdout_splits(self, y: np.ndarray, classes: bool, fraction: float, count: int, seed: int) -> list[Split]:
        """``count`` splits that hold about a ``fraction`` of the rows out: the latest ones if the rows have times, and
        otherwise random ones, stratified for classes.
        """
        if self.time is not None:
            later = latest(self.time, fraction)
            return [(np.flatnonzero(~later), np.flatnonzero(later))] * count
        if self.group is None:
            splitter = (StratifiedShuffleSplit if classes else ShuffleSplit)(
                count, test_size=fraction, random_state=seed
            )
            return list(splitter.split(np.zeros(len(y)), y))
        codes, random = _codes(y) if classes else np.zeros((len(y), 1)), np.random.default_rng(seed)
        held = [held_out_groups(self.group, codes, fraction, random.permutation(len(y))) for _ in range(count)]
        return [(np.flatnonzero(~each), np.flatnonzero(each)) for each in held]


def table_splits(
    X: Table,
    y: np.ndarray,
    groups: Any,
    times: Any = None,
    cv: Any = None,
    rows: Any = None,
    missing: str = "fill",
) -> TableSplits:
    """Read the options of a comparison, and check its table as a whole, with the warnings of a fit to it.

    Parameters
    ----------
    X : frame or array
        The table.
    y : array
        Its targets.
    groups, times, cv : object
        As in ``fit`` of the estimators.
    rows : array, optional
        The numbers of the rows to use, in order; all by default.
    missing : str
        As of ``Schema.fit_encode``.

    Returns
    -------
    TableSplits
        Without times, rows that repeat one another are groups by default.

    Raises
    ------
    DataError, ValueError
        As ``SplitOptions``.
    """
    check_groups_or_times(groups, times, cv)
    used = np.arange(len(y)) if rows is None else np.asarray(rows, int)
    name = groups if isinstance(groups, str) else None
    group = time = None
    if times is not None:
        time = time_numbers(row_labels(X, times, "times")[used], used, "times")
    elif groups is not None and not is_false(groups):
        group = group_numbers(row_labels(X, groups, "groups")[used], used, "groups")
    weight = np.isin(np.arange(len(y)), used).astype(np.float32)
    schema, x, _ = Schema.fit_encode(X, weight, missing, () if name is None else (name,))
    if times is None and groups is None:
        group = repeats(x, _codes(y[used]))
    return TableSplits(X if name is None else drop_column(X, name), used, group, time, schema)


def check_held_out_classes(y: np.ndarray, rows: np.ndarray, splits: Sequence[Split]) -> None:
    """Raise DataError for a class that a fold holds out but has in no training row; ``splits`` count ``rows`` of y."""
    labels = y[rows].tolist()
    for number, (train, test) in enumerate(splits):
        known = {labels[row] for row in train}
        for row in test:
            if labels[row] not in known:
                raise DataError(
                    f"Fold {number} holds out row {rows[row]} of the class {labels[row]!r}, which none of its training rows "
                    f"has: {labels.count(labels[row])} of {len(labels)} rows have it.",
                    "Leave them out, join the class with another, or choose other folds.",
                )


def _codes(y: np.ndarray) -> Numbers:
    """A number of each row, the same for equal targets; missing ones are an error later."""
    if y.dtype.kind in "biufUSMm":
        return np.unique(y, axis=0, return_inverse=True)[1].reshape(-1)
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(repr(value), len(seen)) for value in y.tolist()], int)
