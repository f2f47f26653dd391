"""Scores of a predictive distribution against what happened, each with its standard error over rows.

Every score is ``(predictive, y, *, weight=None) -> Score``. y is (n,) or (n, K) in the target's units, or (n,) classes. With K > 1 targets a score is the average of the targets' own. A row of ``weight`` 0 might as well be absent.
y of classes is codes 0, ..., C − 1, or labels where the predictive knows its classes (see ``dubito.outcomes``).
ValueError where y does not fit the predictive, where something is not finite, or where there is nothing to score.

Scores that are no plain means (RMSE, R², AUROC, ...) are differentiable functions T of the rows' weights, and then
``rows`` = T + Σw · ∂T/∂w_i: their weighted mean is the value, and its standard error the delta method's.
"""

from typing import NamedTuple

import numpy as np

from dubito.crps import by_target
from dubito.outcomes import checked

COVERAGES = (0.5, 0.8, 0.9, 0.95)
LEVELS = np.array([0.5 - 0.5 * c for c in COVERAGES] + [0.5 + 0.5 * c for c in COVERAGES])


class Score(NamedTuple):
    """``se`` is nan where none makes sense; ``rows`` (n,) have the value as their weighted mean, or are None."""

    value: float
    se: float
    rows: np.ndarray | None


def paired(first, second, *, weight=None):
    """first − second with the standard error of the difference on the same rows, under the weights both were given."""
    if first.rows is None or second.rows is None or len(first.rows) != len(second.rows):
        raise ValueError("paired wants two scores that have rows, and the same rows")
    difference = _average(first.rows - second.rows, np.ones(len(first.rows)) if weight is None else np.asarray(weight))
    if not np.isclose(difference.value, first.value - second.value, rtol=1e-6, atol=1e-9 * abs(first.value)):
        raise ValueError("paired wants the weights that both scores were computed with")
    return difference


def rmse(predictive, y, *, weight=None):
    """Root mean squared error of the mean, in the target's units."""
    predictive, y, weight = checked(predictive, y, weight, "regression")
    error = y - predictive.mean
    unit = _unit(error[weight > 0])
    squared = (error / unit) ** 2
    root = np.sqrt(np.average(squared, axis=0, weights=weight))
    return _average(np.mean(0.5 * unit * (squared / np.where(root > 0, root, 1.0) + root), axis=1), weight)


def mae(predictive, y, *, weight=None):
    """Mean absolute error of the mean, in the target's units."""
    predictive, y, weight = checked(predictive, y, weight, "regression")
    return _average(np.mean(np.abs(y - predictive.mean), axis=1), weight)


def r2(predictive, y, *, weight=None):
    """R² = 1 − M/V, M the squared error of the mean and V the variance of y; nan where a target does not vary."""
    predictive, y, weight = checked(predictive, y, weight, "regression")
    if np.any(np.ptp(y[weight > 0], axis=0) == 0):
        return Score(np.nan, np.nan, None)
    center = np.average(y, axis=0, weights=weight)
    unit = _unit((y - center)[weight > 0])
    squared, deviation = ((y - predictive.mean) / unit) ** 2, ((y - center) / unit) ** 2
    error, variance = (np.average(rows, axis=0, weights=weight) for rows in (squared, deviation))
    return _average(np.mean(1 - squared / variance + error / variance * (deviation / variance - 1), axis=1), weight)


def nll(predictive, y, *, weight=None):
    """−log p(y) in nats per example, in the target's units; the joint density of all targets, or of counts their probability.

    y may have K more columns that mark censored targets, where the likelihood knows such.
    """
    predictive, y, weight = checked(predictive, y, weight, predictive.task, marked=True)
    return _average(-predictive.log_prob(y), weight)


def crps(predictive, y, *, weight=None, knots=None):
    """Continuous ranked probability score ∫ (F(t) − 1{y ≤ t})² dt; ``knots``: the quantiles at LEVELS, if known."""
    predictive, y, weight = checked(predictive, y, weight, "regression")
    knots = None if knots is None else np.reshape(knots, (len(knots), *y.shape))
    parts = []
    start = 0
    for part in predictive.by_rows():  # so that memory is bounded
        rows = slice(start, start := start + len(part))
        parts.append(by_target(part, y[rows], LEVELS, None if knots is None else knots[:, rows]))
    return _average(np.mean(np.concatenate(parts), axis=1), weight)


def pinball(predictive, y, quantile=0.5, *, weight=None):
    """Pinball loss of one quantile, in the target's units; half the absolute error of the median at 0.5."""
    predictive, y, weight = checked(predictive, y, weight, "regression")
    error = y - predictive.quantile(float(quantile))
    return _average(np.mean(np.maximum(quantile * error, (quantile - 1) * error), axis=1), weight)


def coverage(predictive, y, level=0.9, *, weight=None):
    """Share of rows inside the equal-tailed interval of probability ``level``."""
    predictive, y, weight = checked(predictive, y, weight, "regression")
    lower, upper = predictive.interval(level)
    return _average(np.mean((lower <= y) & (y <= upper), axis=1), weight)


def width(predictive, y, level=0.9, *, weight=None):
    """Mean width of the equal-tailed interval of probability ``level``, in the target's units."""
    predictive, _, weight = checked(predictive, y, weight, "regression")
    return _average(np.mean(np.ptp(predictive.interval(level), axis=0), axis=1), weight)


def pit(predictive, y):
    """F(y), (n,) or (n, K): uniform between 0 and 1 when the predictive is calibrated. Of counts (F(y − 1) + F(y))/2, the mid-P
    value, whose mean is then ½ and whose spread is that of the uniform, less what steps take."""
    values = np.mean(_steps(predictive, y), axis=0)
    return values[:, 0] if predictive.squeeze and values.shape[1] == 1 else values


def inside(predictive, y, nominal):
    """The share of observations in the central interval of each probability ``nominal`` (m,); its diagonal is calibration.

    A count lies in it by the part of [F(y − 1), F(y)] that does, the mean of a randomized F(y) (Czado et al. 2009).
    """
    before, at = _steps(predictive, y)
    if not predictive.discrete:
        return np.searchsorted(np.sort(np.abs(2 * at - 1), axis=None), nominal, side="right") / at.size
    ends = ((0.5 - 0.5 * c, 0.5 + 0.5 * c) for c in nominal)
    parts = (np.minimum(at, high) - np.maximum(before, low) for low, high in ends)
    return np.array([np.mean(np.maximum(part, 0) / np.maximum(at - before, 1e-300)) for part in parts])


def _steps(predictive, y):
    """P(Y < y) and P(Y ≤ y), each (n, K)."""
    predictive, y, _ = checked(predictive, y, None, "regression")
    at = predictive.cdf(y)
    return (predictive.cdf(y - 1) if predictive.discrete else at), at


def accuracy(predictive, y, *, weight=None):
    """Share of rows whose most probable class is y."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    return _average((predictive.probs.argmax(1) == y).astype(float), weight)


def confidence(predictive, y, *, weight=None):
    """Mean probability of the predicted class: of a calibrated predictive it is the accuracy, within chance."""
    predictive, _, weight = checked(predictive, y, weight, "classification")
    return _average(predictive.probs.max(1), weight)


def brier(predictive, y, *, weight=None):
    """Σ_k (p_k − 1{y = k})², from 0 to 2."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    return _average(np.sum((predictive.probs - np.eye(predictive.probs.shape[1])[y]) ** 2, axis=1), weight)


def ece(predictive, y, bins=15, *, weight=None):
    """Mean |accuracy − confidence| over ``bins`` equal widths of confidence; by chance above 0 even when calibrated."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    confidence, right = predictive.probs.max(1)[:, None], predictive.probs.argmax(1) == y
    return _calibration(right[:, None] - confidence, np.ceil(confidence * bins) - 1, bins, weight)


def adaptive_ece(predictive, y, bins=15, *, weight=None):
    """``ece`` over bins of equal mass. Equal confidences share a bin; the jackknife keeps the bins as they are."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    confidence, right = predictive.probs.max(1)[:, None], predictive.probs.argmax(1) == y
    _, place = np.unique(confidence[:, 0], return_inverse=True)
    mass = np.bincount(place, weight)
    below = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    return _calibration(right[:, None] - confidence, np.floor(below * bins)[place, None], bins, weight)


def classwise_ece(predictive, y, bins=15, *, weight=None):
    """The mean over classes of |frequency − probability| over ``bins`` equal widths of the class's probability."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    probs = predictive.probs
    return _calibration(np.eye(probs.shape[1])[y] - probs, np.ceil(probs * bins) - 1, bins, weight)


def set_coverage(predictive, y, *, weight=None):
    """Share of rows whose class is in the conformal set; the predictive is one with ``sets``."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    return _average(predictive.sets[np.arange(len(y)), y].astype(float), weight)


def set_size(predictive, y, *, weight=None):
    """Mean number of classes in the conformal set."""
    predictive, _, weight = checked(predictive, y, weight, "classification")
    return _average(predictive.sets.sum(1).astype(float), weight)


def auroc(predictive, y, *, weight=None):
    """Area under the ROC curve of class 1, or the mean of each present class against the rest; DeLong's error."""
    predictive, y, weight = checked(predictive, y, weight, "classification")
    probs = predictive.probs
    count = np.bincount(y[weight > 0], minlength=probs.shape[1])
    if np.count_nonzero(count) < 2:
        return Score(np.nan, np.nan, None)
    chosen = [1] if len(count) == 2 else np.flatnonzero(count)
    values, slopes = zip(*[_roc(probs[:, k], y == k, weight) for k in chosen], strict=True)
    value, slope = float(np.mean(values)), np.mean(slopes, axis=0)
    share = count / np.where(count > 1, count - 1, np.nan)  # of each class, as in DeLong's estimator for two
    se = np.sqrt(np.sum(share[y] * (weight * slope) ** 2, where=weight > 0))
    return Score(value, float(se), value + weight.sum() * slope)


def ood_auroc(inside, outside):
    """P(a row outside scores higher than one inside); scores are 1-D, higher meaning outside. DeLong's error."""
    return _detection(inside, outside, _roc)


def ood_aupr(inside, outside):
    """Average precision at finding the rows outside; it depends on their share of all. Scores as in ``ood_auroc``."""
    return _detection(inside, outside, lambda score, found, weight: _above(score, found, weight, found))


def ood_fpr95(inside, outside):
    """Share of rows inside that are flagged by the highest threshold that flags 95 % of the rows outside."""
    score, found = _two_samples(inside, outside)
    threshold = np.sort(score[found > 0])[np.count_nonzero(found) // 20]
    return Score(float(np.mean(score[found == 0] >= threshold)), np.nan, None)


def scorecard(predictive, y, *, weight=None):
    """The usual scores by name, each with ``<name>_se``, and ``n``; what is not defined for these rows is left out.

    Of y with marks of censored targets only ``nll`` is defined; of a criterion without a density only errors of the mean.
    Conformal intervals and sets have a coverage and a width or size of their own.
    """
    predictive, y, weight = checked(predictive, y, weight, predictive.task, marked=True)
    conformal = getattr(predictive, "conformal", None)
    if predictive.task == "regression":
        marked = y.shape[1] > predictive.mean.shape[1]
        usual = (() if marked else (rmse, mae, r2)) + ((nll,) if predictive.offers("log_prob") else ())
        scores = {f.__name__: f(predictive, y, weight=weight) for f in usual}
        if predictive.offers("cdf") and not marked:
            scores |= _of_distribution(predictive, y, weight)
        if conformal is not None and not marked:
            level = conformal.coverage
            scores["conformal_coverage"] = coverage(predictive, y, level, weight=weight)
            scores["conformal_width"] = width(predictive, y, level, weight=weight)
    else:
        scores = {f.__name__: f(predictive, y, weight=weight) for f in (accuracy, confidence, nll, brier, ece, auroc)}
        if conformal is not None:
            scores |= {f.__name__: f(predictive, y, weight=weight) for f in (set_coverage, set_size)}
    values = {name: score.value for name, score in scores.items() if score.rows is not None}
    errors = {f"{name}_se": score.se for name, score in scores.items() if not np.isnan(score.se)}
    return values | errors | {"n": len(y)}


def _of_distribution(predictive, y, weight):
    """CRPS, coverages and width."""
    found = predictive.quantile(LEVELS)  # once for all: searching them is the dearest part
    scores = {"crps": crps(predictive, y, weight=weight, knots=found)}
    lower, upper = np.split(found, 2)
    for level, low, high in zip(COVERAGES, lower, upper, strict=True):
        scores[f"coverage_{round(100 * level)}"] = _average(np.mean((low <= y) & (y <= high), axis=1), weight)
    return scores | {"mean_width_90": _average(np.mean((upper - lower)[COVERAGES.index(0.9)], axis=1), weight)}


def _average(rows, weight):
    """The weighted mean with its standard error, √(n/(n − 1) Σ w²(r − mean)²)/Σw; nan for one row."""
    value, n = np.average(rows, weights=weight), np.count_nonzero(weight)
    if n > 1 and np.isfinite(value):
        deviation = weight * (rows - value)
        unit = _unit(deviation)
        se = np.sqrt(n / (n - 1)) * np.linalg.norm(deviation / unit) / weight.sum() * unit
    else:
        se = np.nan
    return Score(float(value), float(se), rows)


def _unit(x):
    """The power of two at or below the largest |x| of each column: in this unit squares neither overflow nor all vanish. 1 where all x are 0."""
    largest = np.max(np.abs(x), axis=0)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def _calibration(gap, index, bins, weight):
    """Σ_b |Σ_{i in b} w_i gap_i| / Σw, mean over columns of gap (n, C). A row left out changes one bin of each: O(n)."""
    if bins < 1 or bins != int(bins):
        raise ValueError(f"bins is a whole number of at least 1, got {bins!r}")
    index = np.clip(index, 0, bins - 1).astype(int)
    drop, rows = np.zeros(len(gap)), np.zeros(len(gap))
    for column, place in zip(gap.T, index.T, strict=True):
        sums = np.bincount(place, weight * column)[place]
        drop += (np.abs(sums) - np.abs(sums - weight * column)) / gap.shape[1]
        rows += np.sign(sums) * column / gap.shape[1]
    total, used = weight.sum(), weight > 0
    n, value = np.count_nonzero(used), np.sum(weight * rows)
    without = (value - drop[used]) / (total - weight[used]) if n > 1 else np.full(1, np.nan)
    return Score(float(value / total), float(np.sqrt((n - 1) * np.var(without))), rows)


def _roc(score, positive, weight):
    """The area under the ROC curve, and its derivative by each row's weight, (n,): DeLong's structural components."""
    _, place = np.unique(score, return_inverse=True)
    ones, zeros = np.bincount(place, weight * positive), np.bincount(place, weight * (1 - positive))
    below = (np.cumsum(zeros) - 0.5 * zeros) / zeros.sum()
    above = (np.cumsum(ones[::-1])[::-1] - 0.5 * ones) / ones.sum()
    value = np.sum(ones * below) / ones.sum()
    return float(value), np.where(positive, (below[place] - value) / ones.sum(), (above[place] - value) / zeros.sum())


def _above(score, hit, weight, among):
    """The share of hits in the rows that score at least as high as a row, averaged over ``among`` (n,) of 0 and 1.

    T = Σ_g M_g R_g / ΣM over distinct scores g, where R_g = H_g/C_g is hits/mass from g upwards; and ∂T/∂w_i (n,). A
    row's weight moves its own share of T, and R_h of every threshold h up to its score, by (hit_i − R_h)/C_h.
    """
    _, place = np.unique(score, return_inverse=True)
    mass = np.maximum(np.cumsum(np.bincount(place, weight)[::-1])[::-1], np.finfo(float).tiny)
    share = np.cumsum(np.bincount(place, weight * hit)[::-1])[::-1] / mass
    counted = np.bincount(place, weight * among)
    value = np.sum(counted * share) / counted.sum()
    moved = hit * np.cumsum(counted / mass)[place] - np.cumsum(counted * share / mass)[place]
    return float(value), (among * (share[place] - value) + moved) / counted.sum()


def _detection(inside, outside, measure):
    """The score of a measure(score, found, weight) -> (value, slope); the two samples are of fixed sizes."""
    score, found = _two_samples(inside, outside)
    value, slope = measure(score, found, np.ones(len(score)))
    parts = (slope[found == 0], slope[found > 0])
    se = np.sqrt(sum(len(part) * np.var(part, ddof=1) for part in parts)) if min(map(len, parts)) > 1 else np.nan
    return Score(value, float(se), value + len(score) * slope)


def _two_samples(inside, outside):
    parts = [np.asarray(part, np.float64) for part in (inside, outside)]
    if any(part.ndim != 1 or len(part) == 0 or np.any(np.isnan(part)) for part in parts):
        raise ValueError("scores inside and outside are 1-D arrays of at least one number, none of them NaN")
    return np.concatenate(parts), np.repeat([0.0, 1.0], [len(part) for part in parts])
