"""The scores of one fit on its held-out rows, and those of all folds together."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dubito._check import DataWarning, list_first, warn, without_data_warnings
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import MonteCarloError, monte_carlo
from dubito.evaluation.interpretation import Setting, draws_setting
from dubito.evaluation.metrics import Score
from dubito.evaluation.standard_errors import root_mean_square
from dubito.evaluation.validation import check_observed
from dubito.tables.changes import FILLED, UNKNOWN
from dubito.tables.columns import warn_about_columns

Metrics: TypeAlias = Mapping[str, Callable[..., Score]]
Fit: TypeAlias = tuple[Any, Any, float]  # the fitted estimator, the held-out inputs, the seconds of the fit

LEFT_OUT = "Left out in a fold, of which nearly every training row has another text, or none has a value"
REGRESSION: Metrics = {score.__name__: score for score in (metrics.rmse, metrics.mae, metrics.nll, metrics.crps)}
REGRESSION = {**REGRESSION, "coverage_90": metrics.coverage, "mean_width_90": metrics.width}
PROBABILITIES = (metrics.accuracy, metrics.confidence, metrics.nll, metrics.brier, metrics.ece)
CLASSIFICATION: Metrics = {score.__name__: score for score in PROBABILITIES}


class FoldScores(NamedTuple):
    """What one fit says of its held-out rows.

    Attributes
    ----------
    scores : dict
        Each score of the held-out rows.
    residuals : tuple of array, or None
        y minus the mean, which entries were observed, and the weights, for a root of a mean.
    changes : dict
        The counts of ``Schema.encode_and_count``, and the columns that were left out.
    seconds : float
        The time of the fit.
    unsure : MonteCarloError
        The Monte Carlo error.
    setting : Setting or None
        The setting that would make it small enough, if there is one.
    discrete : bool
        Whether the target consists of whole numbers.
    """

    scores: dict[str, Score]
    residuals: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    changes: dict[str, dict[str, int]]
    seconds: float
    unsure: MonteCarloError
    setting: Setting | None
    discrete: bool


def score_fold(fit: Fit, y: np.ndarray, wanted: Metrics) -> FoldScores:
    """Score a fit on its held-out rows.

    Parameters
    ----------
    fit : tuple
        The result of ``fit_fold``.
    y : array
        The target of the held-out rows.
    wanted : mapping
        Functions of the scores by name.

    Returns
    -------
    FoldScores
        The scores.
    """
    fitted, inputs, seconds = fit
    _, changes = fitted.schema_.encode_and_count(inputs, "ignore", fitted.missing)
    changes |= {LEFT_OUT: {column.name: 1 for column in fitted.schema_.columns if column.kind == "left out"}}
    with without_data_warnings():
        answer = fitted.predictive(inputs)
    scores, residuals = {key: score(answer, y) for key, score in wanted.items()}, None
    if "rmse" in wanted:
        each, values, weight, observed = check_observed(answer, y, None)
        residuals = values - each.mean, observed, weight
    error = monte_carlo(answer, fitted.posterior_, y)
    return FoldScores(scores, residuals, changes, seconds, error, draws_setting(error, fitted), bool(answer.discrete))


def pool_folds(folds: Sequence[FoldScores]) -> tuple[Any, ...]:
    """The scores of one estimator over all held-out rows.

    Parameters
    ----------
    folds : sequence of FoldScores
        Of each fold.

    Returns
    -------
    tuple
        The scores by name, the median time of a fit, the largest Monte Carlo error with its setting, and
        whether the target consists of whole numbers.
    """

    def size(one: FoldScores) -> tuple[bool, float]:
        return (not one.unsure.enough, np.nan_to_num(one.unsure.excess)) if one.unsure.kind != "point" else (False, 0.0)

    pooled = {key: pool_scores([fold.scores[key] for fold in folds]) for key in folds[0].scores}
    if residuals := [fold.residuals for fold in folds if fold.residuals is not None]:
        # the root is not a mean over rows: that of all rows is above the mean of the folds' roots
        pooled["rmse"] = root_mean_square(*(np.concatenate(arrays) for arrays in zip(*residuals, strict=True)))
    largest = max(folds, key=size)
    seconds = float(np.median([fold.seconds for fold in folds]))
    return pooled, seconds, largest.unsure, largest.setting, folds[-1].discrete


def pool_scores(scores: Sequence[Score]) -> Score:
    """The scores of disjoint rows as one score of all rows.

    Parameters
    ----------
    scores : sequence of Score
        A score of each set of rows.

    Returns
    -------
    Score
        Their mean over all rows.
    """
    rows = np.concatenate([score.rows for score in scores if score.rows is not None])
    return Score(float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows))), rows)


def warn_of_changes(changes: Mapping[str, Mapping[tuple[int, str], int]], left_out: Collection[str]) -> None:
    """Warn of what the training rows of a fold lack.

    Parameters
    ----------
    changes : mapping
        The numbers of missing values and categories that no training row of a fold has, by (fold,
        column), and the columns that a fold leaves out.
    left_out : collection of str
        The columns that all folds leave out.
    """
    others = sorted({column for _, column in changes.get(LEFT_OUT, {})} - {*left_out})
    warn_about_columns(LEFT_OUT, [repr(name) for name in others])
    what = {
        FILLED: "missing values of columns that have none in the training rows of a fold are encoded as means or no category",
        UNKNOWN: "categories that the training rows of a fold do not have are encoded as zeros",
    }
    for kind, text in what.items():
        totals = Counter()
        for (_, column), count in changes.get(kind, {}).items():
            totals[column] += count
        if totals:
            warn(f"{text}: {list_first([f'{totals[column]} of {column!r}' for column in sorted(totals)])}", DataWarning)
