"""One estimator at many widths or depths: underfitting and overfitting in one table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.base import is_classifier

from dubito._process.threads import start_jobs, wait_for
from dubito._values import Column, Table
from dubito.estimators.comparison_fits import clone_with, fit_fold
from dubito.estimators.row_splits import table_splits
from dubito.evaluation import metrics
from dubito.tables.frames import take_rows
from dubito.tables.validation import check_lengths


class SizeResult(NamedTuple):
    """The result of one network size.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    train, validation : array
        Negative log likelihood of the training and of the held-out rows for each seed, in nats per
        row.
    seconds : float
        Median time of a fit.
    """

    hidden: tuple[int, ...]
    train: np.ndarray
    validation: np.ndarray
    seconds: float


def sweep(
    estimator: Any,
    X: Table,
    y: Column,
    hidden: Iterable[Sequence[int]],
    *,
    seeds: int = 3,
    validation_fraction: float = 0.25,
    seed: int = 0,
    groups: Any = None,
    times: Any = None,
    done: Callable[[tuple[int, ...], int], Any] | None = None,
) -> list[SizeResult]:
    """Fit an estimator with networks of several sizes. As many fits as there are cores run at once.

    Parameters
    ----------
    estimator : BayesianRegressor or BayesianClassifier
        An unfitted estimator.
    X : frame or array
        Inputs (rows, columns).
    y : array
        Targets (rows,) or (rows, targets).
    hidden : iterable of sequence of int
        Widths of the hidden layers, e.g. [(1,), (10,), (100,)] or [(20,), (20, 20)].
    seeds : int
        Number of initializations, each with its own random split (stratified for classes). They are
        the same for all sizes, so that sizes are compared in pairs.
    validation_fraction : float
        Fraction of the rows to hold out.
    seed : int
        The first seed.
    groups : array, str or False, optional
        As in ``fit`` of the estimators: no split separates rows of one group, or rows that repeat
        one another.
    times : array or str, optional
        As in ``fit`` of the estimators: the latest rows are held out for all seeds.
    done : callable, optional
        Called with the size and the number of the seed after each fit.

    Returns
    -------
    list of SizeResult
        A result for each size, in the order of ``hidden``.

    Raises
    ------
    DataError
        If X and y have different numbers of rows.
    ValueError
        For fewer than two sizes or seeds.
    """
    sizes = [tuple(widths) for widths in hidden]
    if len(sizes) < 2 or seeds < 2:
        raise ValueError(f"a sweep needs at least 2 sizes and 2 seeds, got {len(sizes)} and {seeds!r}")
    y = check_lengths(X, y)
    table = table_splits(X, y, groups, times)
    splits = list(enumerate(table.holdout_splits(y, is_classifier(estimator), validation_fraction, seeds, seed)))
    X = table.X
    jobs = [
        (
            clone_with(estimator, hidden=widths, random_state=seed + number),
            X,
            y,
            rows,
            table.fit_options(estimator, rows[0]),
        )
        for widths in sizes
        for number, rows in splits
    ]
    found = []
    with start_jobs(fit_fold, jobs) as fits:
        for widths in sizes:
            scores, seconds = [], []
            for number, rows in splits:
                fitted, _, spent = wait_for(fits.popleft())
                scores.append([metrics.nll(fitted.predictive(take_rows(X, part)), y[part]).value for part in rows])
                seconds.append(spent)
                if done is not None:
                    done(widths, number)
            train, validation = np.transpose(scores)
            found.append(SizeResult(widths, train, validation, float(np.median(seconds))))
    return found


def fit_verdicts(rows: Sequence[SizeResult]) -> list[str]:
    """Whether each size underfits or overfits.

    A size does if its validation NLL is worse than that of the size with the best mean, by a
    one-sided paired t test over seeds at 5 %: it overfits if its training NLL is the lower one, and
    underfits otherwise.

    Parameters
    ----------
    rows : sequence of SizeResult
        Results of ``sweep``.

    Returns
    -------
    list of str
        "fine", "underfitting" or "overfitting" for each.
    """
    best = min(rows, key=lambda row: row.validation.mean())
    seeds = len(best.train)
    limit = stats.t.ppf(0.95, seeds - 1) / np.sqrt(seeds)
    found = []
    for row in rows:
        worse = row.validation - best.validation
        if row is best or not worse.mean() > limit * worse.std(ddof=1):
            found.append("fine")
        else:
            found.append("overfitting" if row.train.mean() < best.train.mean() else "underfitting")
    return found
