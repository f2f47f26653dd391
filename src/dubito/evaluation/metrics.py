"""Scores of a predictive distribution against observed targets, each with its standard error over rows.

Scores are functions ``(predictive, y, *, weight=None) -> Score``, some with a setting after y:

- ``predictive``: the predictive distribution of n rows;
- ``y``: their targets, (n,) or (n, K) in the target's units, or codes 0, ..., C − 1 of classes
  (n,), or labels if the predictive distribution knows its classes;
- ``weight``: weights of the rows, (n,); None: all 1. A row of weight 0 counts as absent.

With K > 1 targets a score is the average over the targets. ValueError is raised if y does not fit
the predictive distribution, if something is not finite, or if there is nothing to score. Of several
targets some may be missing (NaN) in a row, but not all: each target is scored on the rows that have
it, and the NLL is that of the targets that a row has.

Scores that are not plain means (RMSE, R², AUROC, ...) are differentiable functions T of the rows'
weights, and then ``rows`` = T + Σw · ∂T/∂w_i: their weighted mean is the value, and its standard
error that of the delta method.
"""

from typing import Any

import numpy as np

from dubito._check import DataError
from dubito.evaluation.calibrated import ConformalPredictive, Sets
from dubito.evaluation.crps import crps_by_target
from dubito.evaluation.integral_transform import central_coverage as central_coverage
from dubito.evaluation.integral_transform import pit as pit
from dubito.evaluation.standard_errors import Score as Score
from dubito.evaluation.standard_errors import (
    area_under_roc,
    average_observed,
    calibration_error,
    power_of_two_unit,
    root_mean_square,
    target_mean,
    weighted_mean,
)
from dubito.evaluation.standard_errors import ood_aupr as ood_aupr
from dubito.evaluation.standard_errors import ood_auroc as ood_auroc
from dubito.evaluation.standard_errors import ood_fpr95 as ood_fpr95
from dubito.evaluation.standard_errors import paired as paired
from dubito.evaluation.validation import check_observed, check_predictive
from dubito.posteriors.predictive_base import PredictiveDistribution

COVERAGES = (0.5, 0.8, 0.9, 0.95)
LEVELS = np.array([0.5 - 0.5 * c for c in COVERAGES] + [0.5 + 0.5 * c for c in COVERAGES])


def rmse(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Root mean squared error of the mean, in the target's units.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, y, weight, observed = check_observed(predictive, y, weight)
    return root_mean_square(y - predictive.mean, observed, weight)


def mae(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Mean absolute error of the mean, in the target's units.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, y, weight, observed = check_observed(predictive, y, weight)
    return target_mean(np.abs(y - predictive.mean), observed, weight)


def r2(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """R² = 1 − (mean squared error of the mean)/(variance of y), nan if a target does not vary.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, y, weight, observed = check_observed(predictive, y, weight)
    known = observed & (weight > 0)[:, None]
    if any(np.ptp(column[rows]) == 0 for column, rows in zip(y.T, known.T, strict=True)):
        return Score(np.nan, np.nan, None)
    center = average_observed(y, observed, weight)
    unit = power_of_two_unit((y - center)[weight > 0])
    squared, deviation = ((y - predictive.mean) / unit) ** 2, ((y - center) / unit) ** 2
    error, variance = (average_observed(rows, observed, weight) for rows in (squared, deviation))
    slopes = error / variance * (deviation / variance - 1)
    return target_mean(1 - squared / variance + slopes, observed, weight)


def nll(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Negative log likelihood −log p(y): the joint density of all targets, or the probability of counts and classes.

    y may have K more columns that mark censored targets, if the likelihood has such.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module

    Returns
    -------
    Score
        In nats per example, in the target's units.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, predictive.task, marked=True, missing=True)
    return weighted_mean(-predictive.log_prob(y), weight)


def crps(predictive: PredictiveDistribution, y: Any, *, weight: Any = None, knots: np.ndarray | None = None) -> Score:
    """Continuous ranked probability score ∫ (F(t) − 1{y ≤ t})² dt, in the target's units.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    knots : array, optional
        The quantiles at ``LEVELS``, (levels, n) or (levels, n, K), if they are known.
    """
    predictive, y, weight, observed = check_observed(predictive, y, weight)
    if knots is not None:
        knots = np.asarray(knots, float)
        if knots.ndim < 2 or knots.size != len(knots) * y.size:
            raise DataError(f"knots must be quantiles, then the {len(y)} rows, then targets; got shape {knots.shape}")
        knots = knots.reshape(-1, *y.shape)
    parts, start = [], 0
    for part in predictive.by_rows():  # so that memory is bounded
        rows = slice(start, start := start + len(part))
        parts.append(crps_by_target(part, y[rows], LEVELS, None if knots is None else knots[:, rows]))
    return target_mean(np.concatenate(parts), observed, weight)


def pinball(predictive: PredictiveDistribution, y: Any, quantile: float = 0.5, *, weight: Any = None) -> Score:
    """Pinball loss of one quantile, in the target's units; half the absolute error of the median at 0.5.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    quantile : float
        Its probability.
    """
    predictive, y, weight, observed = check_observed(predictive, y, weight)
    error = y - predictive.quantile(float(quantile))
    return target_mean(np.maximum(quantile * error, (quantile - 1) * error), observed, weight)


def coverage(predictive: PredictiveDistribution, y: Any, level: float = 0.9, *, weight: Any = None) -> Score:
    """Fraction of rows inside the interval of probability ``level``.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    level : float
        The probability of the equal-tailed interval, or that of the conformal calibration.
    """
    predictive, y, weight, observed = check_observed(predictive, y, weight)
    lower, upper = predictive.interval(level)
    return target_mean((lower <= y) & (y <= upper), observed, weight)


def width(predictive: PredictiveDistribution, y: Any, level: float = 0.9, *, weight: Any = None) -> Score:
    """Mean width of the interval of probability ``level``, in the target's units.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    level : float
        The probability of the equal-tailed interval, or that of the conformal calibration.
    """
    predictive, _, weight = check_predictive(predictive, y, weight, "regression", missing=True)
    return weighted_mean(np.mean(np.ptp(predictive.interval(level), axis=0), axis=1), weight)


def _sets(predictive: Any) -> Sets:
    if not isinstance(predictive, ConformalPredictive):
        raise ValueError("the predictive has no conformal sets: calibrate with split_conformal or cv_plus first")
    return predictive.sets


def accuracy(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Fraction of rows whose most probable class is y.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    return weighted_mean((predictive.probs.argmax(1) == y).astype(float), weight)


def confidence(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Mean probability of the predicted class: for a calibrated classifier the expected accuracy.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, _, weight = check_predictive(predictive, y, weight, "classification")
    return weighted_mean(predictive.probs.max(1), weight)


def brier(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Brier score Σ_k (p_k − 1{y = k})², from 0 to 2.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    return weighted_mean(np.sum((predictive.probs - np.eye(predictive.columns)[y]) ** 2, axis=1), weight)


def ece(predictive: PredictiveDistribution, y: Any, bins: int = 15, *, weight: Any = None) -> Score:
    """Expected calibration error: mean |accuracy − confidence| over bins of equal width of the confidence.

    By chance it is above 0 even for a calibrated classifier.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    bins : int
        How many bins.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    confidence, right = predictive.probs.max(1)[:, None], predictive.probs.argmax(1) == y
    return calibration_error(right[:, None] - confidence, np.ceil(confidence * bins) - 1, bins, weight)


def adaptive_ece(predictive: PredictiveDistribution, y: Any, bins: int = 15, *, weight: Any = None) -> Score:
    """Expected calibration error over bins of equal mass.

    Equal confidences share a bin; the jackknife of the standard error keeps the bins.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    bins : int
        How many bins.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    confidence, right = predictive.probs.max(1)[:, None], predictive.probs.argmax(1) == y
    _, place = np.unique(confidence[:, 0], return_inverse=True)
    mass = np.bincount(place, weight)
    below = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    return calibration_error(right[:, None] - confidence, np.floor(below * bins)[place, None], bins, weight)


def classwise_ece(predictive: PredictiveDistribution, y: Any, bins: int = 15, *, weight: Any = None) -> Score:
    """Mean over classes of |frequency − probability| over bins of equal width of the class's probability.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    bins : int
        How many bins.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    probs = predictive.probs
    return calibration_error(np.eye(predictive.columns)[y] - probs, np.ceil(probs * bins) - 1, bins, weight)


def set_coverage(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Fraction of rows whose class is in the conformal set, for a ``ConformalPredictive``.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    return weighted_mean(_sets(predictive)[np.arange(len(y)), y].astype(float), weight)


def set_size(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Mean number of classes in the conformal set, for a ``ConformalPredictive``.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module
    """
    predictive, _, weight = check_predictive(predictive, y, weight, "classification")
    return weighted_mean(_sets(predictive).sum(1).astype(float), weight)


def auroc(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> Score:
    """Area under the ROC curve of class 1, or the mean of each present class against the rest.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module

    Returns
    -------
    Score
        With DeLong's standard error.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    probs = predictive.probs
    count = np.bincount(y[weight > 0], minlength=predictive.columns)
    if np.count_nonzero(count) < 2:
        return Score(np.nan, np.nan, None)
    chosen = [1] if len(count) == 2 else np.flatnonzero(count)
    values, slopes = zip(*[area_under_roc(probs[:, k], y == k, weight) for k in chosen], strict=True)
    value, slope = float(np.mean(values)), np.mean(slopes, axis=0)
    share = count / np.where(count > 1, count - 1, np.nan)  # of each class, as in DeLong's estimator for two
    se = np.sqrt(np.sum(share[y] * (weight * slope) ** 2, where=weight > 0))
    return Score(value, float(se), value + weight.sum() * slope)


def scorecard(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> dict[str, float]:
    """The usual scores by name, each with ``<name>_se``, and ``n``.

    What is not defined for these rows is left out: for y with marks of censored targets all but
    ``nll``, for a criterion without a density all but errors of the mean. Conformal intervals and
    sets have their own coverage and width or size. If entries of y are missing, ``missing`` is
    their number.

    Parameters
    ----------
    predictive, y, weight : as for all scores, see the module

    Returns
    -------
    dict
        Numbers by name.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, predictive.task, marked=True, missing=True)
    conformal = predictive.conformal if isinstance(predictive, ConformalPredictive) else None
    if predictive.task == "regression":
        marked = y.shape[1] > predictive.columns
        usual = [*(() if marked else (rmse, mae, r2)), *((nll,) if predictive.supports("log_prob") else ())]
    else:
        marked, usual = True, [accuracy, confidence, nll, brier, ece, auroc]
        usual += [] if conformal is None else [set_coverage, set_size]
    scores = {f.__name__: f(predictive, y, weight=weight) for f in usual}
    if not marked and predictive.supports("cdf"):
        scores |= _distribution_scores(predictive, y, weight)
    if not marked and conformal is not None:
        scores["conformal_coverage"] = coverage(predictive, y, conformal.coverage, weight=weight)
        scores["conformal_width"] = width(predictive, y, conformal.coverage, weight=weight)
    values = {name: score.value for name, score in scores.items() if score.rows is not None}
    errors = {f"{name}_se": score.se for name, score in scores.items() if not np.isnan(score.se)}
    absent = int(np.isnan(y).sum())
    return values | errors | {"n": len(y)} | ({"missing": absent} if absent else {})


def _distribution_scores(predictive: Any, y: np.ndarray, weight: np.ndarray) -> dict[str, Score]:
    """CRPS, coverages and width."""
    found = predictive.quantile(LEVELS)  # once for all: finding them is the most expensive part
    scores = {"crps": crps(predictive, y, weight=weight, knots=found)}
    lower, upper = np.split(found, 2)
    for level, low, high in zip(COVERAGES, lower, upper, strict=True):
        scores[f"coverage_{round(100 * level)}"] = target_mean((low <= y) & (y <= high), ~np.isnan(y), weight)
    return scores | {"mean_width_90": weighted_mean(np.mean((upper - lower)[COVERAGES.index(0.9)], axis=1), weight)}
