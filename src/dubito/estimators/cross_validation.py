"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import KFold, StratifiedKFold

from dubito._check import DataWarning, list_first
from dubito._process.threads import start_jobs, stop_fit, wait_for
from dubito._values import Column, Table
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import MonteCarloError, monte_carlo
from dubito.evaluation.interpretation import Setting, draws_setting, interpret_comparison
from dubito.evaluation.metrics import Score
from dubito.tables.frames import fill_missing, take_rows

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


class CrossValidationResult(NamedTuple):
    """The result of one estimator.

    Parameters
    ----------
    name : the estimator's name.
    scores : mean over all held-out rows of each score, with its standard error.
    difference : its ``nll`` minus the best estimator's, paired by rows, in nats per row.
    seconds : median time of a fit.
    unsure : Monte Carlo error in the fold where it is largest.
    setting : the setting that would make that error small enough, if there is one.
    discrete : whether the target is whole numbers.
    """

    name: str
    scores: dict[str, Score]
    difference: Score
    seconds: float
    unsure: MonteCarloError
    setting: Setting | None = None
    discrete: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The scores as a flat dictionary.

        Returns
        -------
        dict
            Each score as ``<key>`` and its standard error as ``<key>_se``; the difference to the best, seconds, whether the
            draws are enough, and the number of rows ``n``.
        """
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


def compare(
    estimators: Mapping[str, Any],
    X: Table,
    y: Column,
    *,
    folds: int = 5,
    seed: int = 0,
    done: Callable[[str, int], Any] | None = None,
    fill: bool = False,
) -> list[CrossValidationResult]:
    """Score several estimators on the same folds.

    Folds are stratified for classes. As many fits as there are cores run at once, to the same bits as one after another.
    Warns of categories that a fold's training rows lack, and of estimators that cannot be fitted, which are left out.

    Parameters
    ----------
    estimators : unfitted estimators by name.
    X : frame or array (rows, columns).
    y : (rows,) or (rows, targets).
    folds : number of folds.
    seed : of the random folds.
    done : called with the name and the fold's number after each fit.
    fill : whether to fill in missing inputs, with values from the training rows of each fold.

    Returns
    -------
    The results, the best ``nll`` first.

    Raises
    ------
    ValueError, ImportError
        That of the first estimator, if none can be fitted.
    """
    y = np.asarray(y)
    classes = all(is_classifier(estimator) for estimator in estimators.values())
    splitter = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(np.zeros(len(y)), y))
    wanted = CLASSIFICATION if classes else REGRESSION
    found, refused, unknown = {}, {}, {}
    chosen: list[Any] = [clone(each) for each in estimators.values()]
    for each in chosen:
        each.set_params(handle_unknown="ignore")
    with start_fits([(clone(each), X, y, split, fill) for each in chosen for split in splits]) as fits:
        for name in estimators:
            own = [fits.popleft() for _ in splits]
            try:
                targets = [y[test] for _, test in splits]
                found[name] = score_fits(own, targets, wanted, done and partial(done, name), unknown)
            except (ValueError, ImportError) as error:
                refused[name] = error
                for one in own:
                    one.cancel()
    if not found:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    if unknown:
        _warn_of_unknown(unknown)
    best = min(found, key=lambda name: found[name][0]["nll"].value)
    rows = [
        CrossValidationResult(name, scores, metrics.paired(scores["nll"], found[best][0]["nll"]), *rest)
        for name, (scores, *rest) in found.items()
    ]
    return sorted(rows, key=lambda row: row.scores["nll"].value)


def _warn_of_unknown(unknown):
    """Warn of values of unknown categories, counted by (fold, column)."""
    totals = Counter()
    for (_, column), count in unknown.items():
        totals[column] += count
    counts = [f"{totals[column]} of {column!r}" for column in sorted(totals)]
    text = f"categories that the training rows of a fold do not have are encoded as zeros: {list_first(counts)}"
    warnings.warn(text, DataWarning, stacklevel=3)


def split_inputs(X: Table, train: np.ndarray, test: np.ndarray, fill: bool) -> tuple[Any, Any]:
    """The training and the held-out rows; with ``fill``, missing values are filled in from the training rows."""
    inputs, held_out = take_rows(X, train), take_rows(X, test)
    if fill:
        inputs, values, _ = fill_missing(inputs)
        held_out = fill_missing(held_out, values)[0]
    return inputs, held_out


def interpretation(rows: Sequence[CrossValidationResult]) -> str:
    """Sentences that interpret the results of ``compare``."""
    cards = [(row.name, row.to_dict()) for row in rows]
    return interpret_comparison(cards, rows[1].difference if len(rows) > 1 else None, discrete=rows[0].discrete)


def score_fits(
    fits: Sequence[Any],
    targets: Sequence[np.ndarray],
    wanted: Mapping[str, Callable],
    done: Callable[[int], Any] | None,
    unknown: dict[tuple[int, str], int],
) -> tuple[Any, ...]:
    """Score one estimator's fits, each at its held-out rows.

    Parameters
    ----------
    fits : a future of ``fit_fold`` for each fold.
    targets : y of the held-out rows of each fold.
    wanted : the scores' functions by name.
    done : called with the fold's number after each.
    unknown : gets the number of values of unknown categories, by (fold, column).

    Returns
    -------
    The fields of ``CrossValidationResult`` without ``name`` and ``difference``.
    """
    parts, seconds, unsure, discrete = {key: [] for key in wanted}, [], [], False
    for number, (fit, y) in enumerate(zip(fits, targets, strict=True)):
        fitted, inputs, spent = wait_for(fit)
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

    pooled = {key: pool_scores(scores) for key, scores in parts.items()}
    return pooled, float(np.median(seconds)), *max(unsure, key=size), discrete


def start_fits(jobs: Sequence[tuple]) -> AbstractContextManager[Any]:
    """Futures of ``fit_fold`` for each job, a tuple of its arguments after ``stop``; see ``start_jobs``."""
    return start_jobs(fit_fold, jobs)


def fit_fold(
    stop: Any, estimator: Any, X: Table, y: np.ndarray, split: tuple[np.ndarray, np.ndarray], fill: bool = False
) -> tuple[Any, Any, float]:
    """Fit an estimator to the training rows of a split.

    Rows are selected here, so that memory holds those of running fits only.

    Returns
    -------
    The fitted estimator, the held-out inputs, and the seconds of the fit.
    """
    train, test = split
    inputs, held_out = split_inputs(X, train, test, fill)
    start = time.perf_counter()
    fitted = estimator.fit(inputs, y[train], progress=stop_fit(stop))
    return fitted, held_out, time.perf_counter() - start


def pool_scores(scores: Sequence[Score]) -> Score:
    """The scores of disjoint rows as one score of all rows."""
    rows = np.concatenate([score.rows for score in scores if score.rows is not None])
    return Score(float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows))), rows)
