"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import time
import warnings
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from dubito._process.threads import result, start_jobs, stop_fit
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import MonteCarloError, monte_carlo
from dubito.evaluation.interpretation import Setting, draws_setting, interpret_comparison
from dubito.evaluation.metrics import Score
from dubito.tables.schema import DataWarning, fill_missing, list_first, taken

REGRESSION = {
    "rmse": metrics.rmse,
    "mae": metrics.mae,
    "nll": metrics.nll,
    "crps": metrics.crps,
    "coverage_90": metrics.coverage,
    "mean_width_90": metrics.width,
}
CLASSIFICATION = {
    "accuracy": metrics.accuracy,
    "confidence": metrics.confidence,
    "nll": metrics.nll,
    "brier": metrics.brier,
    "ece": metrics.ece,
}


class Compared(NamedTuple):
    """One estimator: its scores over all folds, its ``nll`` minus the best one's (paired by rows), seconds per fit, the Monte Carlo
    error in the fold where it is largest with the ``Setting`` that would make it small enough, and whether the target is whole
    numbers."""

    name: str
    scores: dict[str, Score]
    difference: Score
    seconds: float
    unsure: MonteCarloError
    setting: Setting | None = None
    discrete: bool = False

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


def compare(estimators, X, y, *, folds=5, seed=0, done=None, fill=False):
    """Score each of ``estimators`` (a dict by name) on the same ``folds``; a list of ``Compared``, best ``nll`` first.

    Folds are stratified for classes. A score is the mean over folds, its standard error over all held-out rows.
    ``done(name, fold)`` is called after each. Estimators that cannot be fitted are left out with a warning, unless all cannot: then
    the first one's error is raised. As many fits as there are cores run at once, to the same bits as one after
    another; ``seconds`` is the median time of a fit with others beside it.

    A category that the rows a fold is fitted to do not have counts as none of the known, with a warning that counts them.
    ``fill``: missing inputs are filled in, with values from the rows that a fold is fitted to.
    """
    y = np.asarray(y)
    classes = all(hasattr(estimator, "predict_proba") for estimator in estimators.values())
    splitter = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(np.zeros(len(y)), y))
    wanted = CLASSIFICATION if classes else REGRESSION
    found, refused, unknown = {}, {}, {}
    chosen: list[Any] = [clone(each) for each in estimators.values()]
    for each in chosen:
        each.set_params(handle_unknown="ignore")
    with fitting([(clone(each), X, y, split, fill) for each in chosen for split in splits]) as fits:
        for name in estimators:
            own = [fits.popleft() for _ in splits]
            try:
                targets = [y[test] for _, test in splits]
                found[name] = scored(own, targets, wanted, done and partial(done, name), unknown)
            except (ValueError, ImportError) as error:
                refused[name] = error
                for one in own:
                    one.cancel()
    if not found:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    columns = sorted({column for _, column in unknown})
    counts = [
        f"{sum(count for (_, name), count in unknown.items() if name == column)} of {column!r}" for column in columns
    ]
    if counts:
        text = f"categories that a fold was not fitted to count as none of the known: {list_first(counts)}"
        warnings.warn(text, DataWarning, stacklevel=2)
    best = min(found, key=lambda name: found[name][0]["nll"].value)
    rows = [
        Compared(name, scores, metrics.paired(scores["nll"], found[best][0]["nll"]), *rest)
        for name, (scores, *rest) in found.items()
    ]
    return sorted(rows, key=lambda row: row.scores["nll"].value)


def split_inputs(X, train, test, fill):
    """The inputs to fit to and those to predict at; with ``fill`` without missing values, from those of the first."""
    inputs, held_out = taken(X, train), taken(X, test)
    if fill:
        inputs, values, _ = fill_missing(inputs)
        held_out = fill_missing(held_out, values)[0]
    return inputs, held_out


def interpretation(rows):
    """What ``compare``'s rows say, in sentences."""
    cards = [(row.name, row.card()) for row in rows]
    return interpret_comparison(cards, rows[1].difference if len(rows) > 1 else None, discrete=rows[0].discrete)


def scored(fits, targets, wanted, done, unknown):
    """(pooled scores, median seconds, the largest ``MonteCarloError`` error of a fold, its ``Setting``, whether the target is whole
    numbers) of an estimator's fits, each at its held-out rows, which have these ``targets``; ``unknown`` is given their counts of
    unknown categories, {(fold, column): count}."""
    parts, seconds, unsure, discrete = {key: [] for key in wanted}, [], [], False
    for number, (fit, y) in enumerate(zip(fits, targets, strict=True)):
        fitted, inputs, spent = result(fit)
        unknown |= {(number, column): count for column, count in fitted.schema_.count_unknown(inputs).items()}
        answer = fitted.predictive(inputs)
        for key, score in wanted.items():
            parts[key].append(score(answer, y))
        seconds.append(spent)
        error = monte_carlo(answer, fitted.posterior_, y)
        unsure.append((error, draws_setting(error, fitted)))
        discrete = answer.discrete
        if done is not None:
            done(number)

    def size(one):
        return (not one[0].enough, np.nan_to_num(one[0].excess)) if one[0].kind != "point" else (False, 0.0)

    pooled_scores = {key: pooled(scores) for key, scores in parts.items()}
    return pooled_scores, float(np.median(seconds)), *max(unsure, key=size), discrete


def fitting(jobs):
    """Futures of ``timed`` fits; see ``start_jobs``."""
    return start_jobs(timed, jobs)


def timed(stop, estimator, X, y, split, fill=False):
    """(the estimator fitted to the first rows of ``split``, the inputs of the second, seconds of the fit). The rows are taken here,
    not before, so that memory holds those of running fits only."""
    train, test = split
    inputs, held_out = split_inputs(X, train, test, fill)
    start = time.perf_counter()
    fitted = estimator.fit(inputs, y[train], progress=stop_fit(stop))
    return fitted, held_out, time.perf_counter() - start


def pooled(scores):
    """Scores of separate rows as one: the mean over all rows, which every score has one of for each."""
    rows = np.concatenate([score.rows for score in scores])
    return Score(float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows))), rows)
