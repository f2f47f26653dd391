"""One estimator at many widths or depths: underfitting and overfitting in one table."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.base import clone, is_classifier
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

from dubito._process.threads import wait_for
from dubito._values import Column, Table
from dubito.estimators.cross_validation import start_fits
from dubito.evaluation import metrics
from dubito.tables.frames import take_rows


class SizeResult(NamedTuple):
    """The result of one network size.

    Parameters
    ----------
    hidden : widths of the hidden layers.
    train, validation : (seeds,), negative log likelihood of training and held-out rows, in nats per example.
    seconds : median time of a fit.
    """

    hidden: tuple
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
    done: Callable[[tuple, int], Any] | None = None,
) -> list[SizeResult]:
    """Fit an estimator with networks of several sizes. As many fits as there are cores run at once.

    Parameters
    ----------
    estimator : unfitted estimator.
    X : frame or array (rows, columns).
    y : (rows,) or (rows, targets).
    hidden : widths of the hidden layers, e.g. [(1,), (10,), (100,)] or [(20,), (20, 20)].
    seeds : number of initializations, each with a random split of its own (stratified for classes). They are the same for
        all sizes, so that sizes are compared in pairs.
    validation_fraction : fraction of the rows to hold out.
    seed : the first seed.
    done : called with the size and the seed's number after each fit.

    Returns
    -------
    A result for each size, in the order of ``hidden``.
    """
    hidden = [tuple(widths) for widths in hidden]
    if len(hidden) < 2 or seeds < 2:
        raise ValueError(f"a sweep needs at least 2 sizes and 2 seeds, got {len(hidden)} and {seeds!r}")
    y = np.asarray(y)
    classes = is_classifier(estimator)
    splitter = (StratifiedShuffleSplit if classes else ShuffleSplit)(
        seeds, test_size=validation_fraction, random_state=seed
    )
    splits = list(splitter.split(np.zeros(len(y)), y))
    jobs = [
        (with_size(estimator, widths, seed + number), X, y, split)
        for widths in hidden
        for number, split in enumerate(splits)
    ]
    found = []
    with start_fits(jobs) as fits:
        for widths in hidden:
            scores, seconds = [], []
            for number, rows in enumerate(splits):
                fitted, _, spent = wait_for(fits.popleft())
                scores.append([metrics.nll(fitted.predictive(take_rows(X, part)), y[part]).value for part in rows])
                seconds.append(spent)
                if done is not None:
                    done(widths, number)
            train, validation = np.transpose(scores)
            found.append(SizeResult(widths, train, validation, float(np.median(seconds))))
    return found


def with_size(estimator: Any, hidden: Sequence[int], seed: int) -> Any:
    """An unfitted copy of an estimator with hidden layers of these widths and this seed."""
    copy: Any = clone(estimator)
    return copy.set_params(hidden=hidden, random_state=seed)


def fit_verdicts(rows: Sequence[SizeResult]) -> list[str]:
    """Whether each size underfits or overfits.

    A size does when its validation NLL is worse than that of the size with the best mean, by a one-sided paired t test over
    seeds at 5 %: it overfits if its training NLL is the lower one, and underfits otherwise.

    Parameters
    ----------
    rows : results of ``sweep``.

    Returns
    -------
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
