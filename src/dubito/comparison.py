"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import contextlib
import threading
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from dubito import metrics
from dubito.diagnostics import MonteCarlo, monte_carlo
from dubito.metrics import Score
from dubito.tables import taken
from dubito.threads import cores, results

REGRESSION = {
    "rmse": metrics.rmse,
    "mae": metrics.mae,
    "nll": metrics.nll,
    "crps": metrics.crps,
    "coverage_90": metrics.coverage,
    "mean_width_90": metrics.width,
}
CLASSIFICATION = {"accuracy": metrics.accuracy, "nll": metrics.nll, "brier": metrics.brier, "ece": metrics.ece}


class Compared(NamedTuple):
    """One estimator: its scores over all folds, its ``nll`` minus the best one's (paired by rows), seconds a fit, and what its
    draws leave unsure in the fold where that is most."""

    name: str
    scores: dict[str, Score]
    difference: Score
    seconds: float
    unsure: MonteCarlo

    def card(self):
        """The scores as a flat dictionary, ``<key>`` and ``<key>_se``."""
        found: dict[str, Any] = {}
        for key, score in self.scores.items():
            found |= {key: score.value} | ({f"{key}_se": score.se} if np.isfinite(score.se) else {})
        return found | {
            "nll_difference": self.difference.value,
            "nll_difference_se": self.difference.se,
            "seconds": self.seconds,
            "draws_enough": self.unsure.enough,
            "n": len(self.difference.rows) if self.difference.rows is not None else 0,
        }


def compare(estimators, X, y, *, folds=5, seed=0, done=None):
    """Score each of ``estimators`` (a dict by name) on the same ``folds``; a list of ``Compared``, best ``nll`` first.

    Folds are stratified for classes. A score is the mean over folds, its standard error over all held-out rows.
    ``done(name, fold)`` is called after each. Estimators that cannot be fitted are left out with a warning, unless all cannot: then
    the first one's error is raised. As many fits as there are cores run at once, to the same bits as one after
    another; ``seconds`` is the median time of a fit with others beside it.
    """
    y = np.asarray(y)
    classes = all(hasattr(estimator, "predict_proba") for estimator in estimators.values())
    splitter = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(np.zeros(len(y)), y))
    wanted = CLASSIFICATION if classes else REGRESSION
    found, refused = {}, {}
    with fitting([(clone(each), X, y, train) for each in estimators.values() for train, _ in splits]) as fits:
        for name in estimators:
            own = [fits.popleft() for _ in splits]
            try:
                found[name] = scored(own, X, y, [test for _, test in splits], wanted, done and partial(done, name))
            except (ValueError, ImportError) as error:
                refused[name] = error
                for one in own:
                    one.cancel()
    if not found:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    best = min(found, key=lambda name: found[name][0]["nll"].value)
    rows = [
        Compared(name, scores, metrics.paired(scores["nll"], found[best][0]["nll"]), seconds, unsure)
        for name, (scores, seconds, unsure) in found.items()
    ]
    return sorted(rows, key=lambda row: row.scores["nll"].value)


def scored(fits, X, y, tests, wanted, done):
    """(pooled scores, median seconds, the fold's ``MonteCarlo`` that is most unsure) of an estimator's fits without each of ``tests``."""
    parts, seconds, unsure = {key: [] for key in wanted}, [], []
    for number, (fit, test) in enumerate(zip(fits, tests, strict=True)):
        ((fitted, spent),) = results([fit])
        answer = fitted.predictive(taken(X, test))
        for key, score in wanted.items():
            parts[key].append(score(answer, y[test]))
        seconds.append(spent)
        unsure.append(monte_carlo(answer, fitted.posterior_, y[test]))
        if done is not None:
            done(number)
    most = max(
        unsure, key=lambda one: (not one.enough, np.nan_to_num(one.excess)) if one.kind != "point" else (False, 0.0)
    )
    return {key: pooled(scores) for key, scores in parts.items()}, float(np.median(seconds)), most


@contextlib.contextmanager
def fitting(jobs):
    """Futures of ``timed`` fits, on a thread a core; when the block is left by an exception, each ends its chunk."""
    stop = threading.Event()
    with ThreadPoolExecutor(cores()) as pool:
        fits = deque(pool.submit(timed, stop, *job) for job in jobs)
        try:
            yield fits
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def timed(stop, estimator, X, y, train):
    """(the estimator fitted to the rows ``train``, seconds it took)."""

    def progress(report):
        if stop.is_set():
            raise KeyboardInterrupt(f"stopped at epoch {report.epoch}")

    start = time.perf_counter()
    fitted = estimator.fit(taken(X, train), y[train], progress=progress)
    return fitted, time.perf_counter() - start


def pooled(scores):
    """Scores of separate rows as one: the mean over all rows, which every score has one of for each."""
    rows = np.concatenate([score.rows for score in scores])
    return Score(float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows))), rows)
