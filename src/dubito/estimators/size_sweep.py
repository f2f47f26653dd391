"""One estimator at many widths or depths: both sides of fitting, too little and too much, in one table."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

from dubito._process.threads import result
from dubito.estimators.cross_validation import fitting
from dubito.evaluation import metrics
from dubito.tables.schema import taken


class Swept(NamedTuple):
    """One size: widths of the hidden layers, NLL of training and held-out rows in nats per example (one a seed), seconds."""

    hidden: tuple
    train: np.ndarray
    validation: np.ndarray
    seconds: float


def sweep(estimator, X, y, hidden, *, seeds=3, validation_fraction=0.25, seed=0, done=None):
    """Fit ``estimator`` with each of ``hidden``, e.g. [(1,), (10,), (100,)] or [(20,), (20, 20)]: a list of ``Swept``.

    Each of ``seeds`` has a start and a random split of its own (stratified for classes), the same for all sizes, so sizes
    are compared in pairs. As many fits as there are cores run at once; ``done(hidden, number)`` is called after each.
    """
    hidden = [tuple(widths) for widths in hidden]
    if len(hidden) < 2 or seeds < 2:
        raise ValueError(f"a sweep needs at least 2 sizes and 2 seeds, got {len(hidden)} and {seeds!r}")
    y = np.asarray(y)
    classes = hasattr(estimator, "predict_proba")
    splitter = (StratifiedShuffleSplit if classes else ShuffleSplit)(
        seeds, test_size=validation_fraction, random_state=seed
    )
    splits = list(splitter.split(np.zeros(len(y)), y))
    jobs = [
        (copied(estimator, widths, seed + number), X, y, split)
        for widths in hidden
        for number, split in enumerate(splits)
    ]
    found = []
    with fitting(jobs) as fits:
        for widths in hidden:
            scores, seconds = [], []
            for number, rows in enumerate(splits):
                fitted, _, spent = result(fits.popleft())
                scores.append([metrics.nll(fitted.predictive(taken(X, part)), y[part]).value for part in rows])
                seconds.append(spent)
                if done is not None:
                    done(widths, number)
            train, validation = np.transpose(scores)
            found.append(Swept(widths, train, validation, float(np.median(seconds))))
    return found


def copied(estimator: Any, hidden, seed):
    """An unfitted copy with that size and start."""
    copy: Any = clone(estimator)
    return copy.set_params(hidden=hidden, random_state=seed)


def sides(rows):
    """For each ``Swept`` "fine", or "underfitting" or "overfitting".

    A size is not fine when its validation NLL is worse than that of the size with the best mean, in pairs of seeds: a
    one-sided t test at 5 %. It overfits where its training NLL is the lower one, and underfits where that is higher too.
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
