"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from dubito import metrics
from dubito.columns import check_target
from dubito.conformal import cv_plus
from dubito.metrics import Score
from dubito.tables import taken
from dubito.targets import codes
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
    """One estimator: its scores over all folds, its ``nll`` minus the best one's (paired by rows), seconds a fit."""

    name: str
    scores: dict[str, Score]
    difference: Score
    seconds: float

    def card(self):
        """The scores as a flat dictionary, ``<key>`` and ``<key>_se``."""
        found: dict[str, Any] = {}
        for key, score in self.scores.items():
            found |= {key: score.value} | ({f"{key}_se": score.se} if np.isfinite(score.se) else {})
        return found | {
            "nll_difference": self.difference.value,
            "nll_difference_se": self.difference.se,
            "seconds": self.seconds,
            "n": len(self.difference.rows) if self.difference.rows is not None else 0,
        }


def compare(estimators, X, y, *, folds=5, seed=0, done=None):
    """Score each of ``estimators`` (a dict by name) on the same ``folds``; a list of ``Compared``, best ``nll`` first.

    Folds are stratified for classes. A score is the mean over folds, its standard error over all held-out rows.
    ``done(name, fold)`` is called after each. As many fits as there are cores run at once, to the same bits as one after
    another; ``seconds`` is the median time of a fit with others beside it.
    """
    y = np.asarray(y)
    classes = all(hasattr(estimator, "predict_proba") for estimator in estimators.values())
    splitter = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(np.zeros(len(y)), y))
    wanted = CLASSIFICATION if classes else REGRESSION
    found = {}
    with fitting([(clone(each), X, y, train) for each in estimators.values() for train, _ in splits]) as fits:
        for name in estimators:
            parts, seconds = {key: [] for key in wanted}, []
            for number, (_, test) in enumerate(splits):
                ((fitted, spent),) = results([fits.popleft()])
                answer = fitted.predictive(taken(X, test))
                truth = codes(fitted.classes_, y[test]) if classes else y[test]
                for key, score in wanted.items():
                    parts[key].append(score(answer, truth))
                seconds.append(spent)
                if done is not None:
                    done(name, number)
            found[name] = ({key: pooled(scores) for key, scores in parts.items()}, float(np.median(seconds)))
    best = min(found, key=lambda name: found[name][0]["nll"].value)
    rows = [
        Compared(name, scores, metrics.paired(scores["nll"], found[best][0]["nll"]), seconds)
        for name, (scores, seconds) in found.items()
    ]
    return sorted(rows, key=lambda row: row.scores["nll"].value)


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


def cross_validated(estimator, X, y, *, folds=10, seed=0):
    """A ``CrossValidated`` regressor: one clone of ``estimator`` fitted without each of ``folds``, and its errors there."""
    truth, _ = check_target(y, len(np.asarray(y)), "regression")
    splits = list(KFold(folds, shuffle=True, random_state=seed).split(truth))
    fold, residuals, members = np.empty(len(truth), int), np.empty(truth.shape), []
    with fitting([(clone(estimator), X, np.asarray(y), train) for train, _ in splits]) as fits:
        for number, (_, test) in enumerate(splits):
            ((fitted, _),) = results([fits.popleft()])
            fold[test] = number
            residuals[test] = np.abs(truth[test] - fitted.predictive(taken(X, test)).mean)
            members.append(fitted)
    return CrossValidated(tuple(members), residuals, fold)


@dataclass(frozen=True)
class CrossValidated:
    """``members``: fitted estimators; ``residuals`` (n, K): the errors, without sign, of the member ``fold`` (n,) at the rows
    that it was fitted without."""

    members: tuple
    residuals: np.ndarray
    fold: np.ndarray

    def interval(self, X, coverage=0.9):
        """CV+ intervals (lower, upper), each (n,) or (n, K): they hold y with the probability 2 coverage − 1 at least, and
        usually with ``coverage``; see ``conformal.cv_plus``."""
        means = np.stack([member.predictive(X).mean for member in self.members])
        lower, upper = cv_plus(means, self.residuals, self.fold, coverage)
        return (lower[:, 0], upper[:, 0]) if lower.shape[1] == 1 else (lower, upper)
