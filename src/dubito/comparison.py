"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import contextlib
import threading
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from dubito import archive, metrics
from dubito.columns import check_target
from dubito.conformal import Conformal, cv_plus, cv_plus_sets
from dubito.diagnostics import MonteCarlo, monte_carlo
from dubito.estimators import load
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
FOLDS = "folds.dubito"
ADAPTIVE = Conformal("adaptive", 0.9, None)  # for its scores, which no coverage enters
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
        truth = codes(fitted.classes_, y[test]) if hasattr(fitted, "classes_") else y[test]
        for key, score in wanted.items():
            parts[key].append(score(answer, truth))
        seconds.append(spent)
        unsure.append(monte_carlo(answer, fitted.posterior_, truth))
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


def cross_validated(estimator, X, y, *, folds=10, seed=0):
    """A ``CrossValidated`` estimator: one clone of ``estimator`` fitted without each of ``folds``, and its errors there.

    Folds are stratified for classes. Raises ValueError where a class has a single row, which no member would know and have left out.
    """
    y, classes = np.asarray(y), hasattr(estimator, "predict_proba")
    truth: Any
    if classes:
        names, truth, counts = np.unique(y, return_inverse=True, return_counts=True)
        if counts.min() < 2:
            raise ValueError(f"class {str(names[counts.argmin()])!r} has one row: CV+ wants two of each at least")
        splitter, residuals = StratifiedKFold, np.empty((len(y), 1))
    else:
        truth, _ = check_target(y, len(y), "regression")
        splitter, residuals = KFold, np.empty(truth.shape)
    splits = list(splitter(folds, shuffle=True, random_state=seed).split(truth, truth if classes else None))
    fold, members = np.empty(len(truth), int), []
    with fitting([(clone(estimator), X, y, train) for train, _ in splits]) as fits:
        for number, (_, test) in enumerate(splits):
            ((fitted, _),) = results([fits.popleft()])
            answer = fitted.predictive(taken(X, test))
            fold[test] = number
            if classes:
                residuals[test, 0] = ADAPTIVE.classes(answer)[np.arange(len(test)), truth[test]]
            else:
                residuals[test] = np.abs(truth[test] - answer.mean)
            members.append(fitted)
    return CrossValidated(tuple(members), residuals, fold)


@dataclass(frozen=True)
class CrossValidated:
    """``members``: fitted estimators; ``residuals`` (n, K): the errors, without sign, of the member ``fold`` (n,) at the rows
    that it was fitted without; for classes (n, 1) the adaptive scores of ``conformal.split_conformal`` there."""

    members: tuple
    residuals: np.ndarray
    fold: np.ndarray

    def save(self, folder):
        """Write the members' model files and the folds to ``folder``, which ``load`` reads. OSError or ModelFileError where that
        is impossible; interrupted, it leaves nothing that could be read."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FOLDS).unlink(missing_ok=True)  # which is written last: members of two fits are never taken together
        for number, member in enumerate(self.members):
            member.save(folder / f"member_{number}.dubito")
        config = {"members": len(self.members), "rows": len(self.fold), "columns": self.residuals.shape[1]}
        archive.write(folder / FOLDS, config, {"residuals": self.residuals, "fold": self.fold.astype(np.uint32)})

    @staticmethod
    def load(folder):
        """What ``save`` wrote to ``folder``. Raises ModelFileError for anything else; nothing is imported or run."""

        def expected(config):
            fine = set(config) == {"members", "rows", "columns"} and all(type(n) is int for n in config.values())
            archive.expect(fine and min(config.values()) > 0 and config["members"] <= config["rows"], "its numbers")
            rows, columns = config["rows"], config["columns"]
            return {"residuals": ("float64", (rows, columns)), "fold": ("uint32", (rows,))}

        config, found = archive.read(Path(folder) / FOLDS, expected)
        archive.expect(bool(np.all(found["fold"] < config["members"])), "its folds")
        members = tuple(load(Path(folder) / f"member_{number}.dubito") for number in range(config["members"]))
        return CrossValidated(members, found["residuals"], found["fold"].astype(int))

    def interval(self, X, coverage=0.9):
        """CV+ intervals (lower, upper), each (n,) or (n, K): they hold y with the probability 2 coverage − 1 at least, and
        usually with ``coverage``; see ``conformal.cv_plus``."""
        means = np.stack([member.predictive(X).mean for member in self.members])
        lower, upper = cv_plus(means, self.residuals, self.fold, coverage)
        return (lower[:, 0], upper[:, 0]) if lower.shape[1] == 1 else (lower, upper)

    def sets(self, X, coverage=0.9):
        """CV+ sets, bool (n, C) in the order of the members' ``classes_``, which promise the same; see ``conformal.cv_plus_sets``.
        The class most probable on average is always in: no set is empty."""
        answers = [member.predictive(X) for member in self.members]
        scores = np.stack([ADAPTIVE.classes(answer) for answer in answers])
        best = np.mean([answer.probs for answer in answers], axis=0).argmax(1)
        found = cv_plus_sets(scores, self.residuals[:, 0], self.fold, coverage)
        return found | (np.arange(scores.shape[2]) == best[:, None])
