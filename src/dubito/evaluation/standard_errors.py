"""Scores with standard errors over rows.

They are weighted means, differentiable functions of the rows' weights by the delta method, and
scores of out-of-distribution detection, from one uncertainty score for each row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dubito._check import DataError, check_whole
from dubito.evaluation.validation import number_array, row_weights
from dubito.posteriors.predictive_base import Rows


class Score(NamedTuple):
    """A score with its standard error.

    Attributes
    ----------
    value : float
        The score.
    se : float
        Its standard error over rows; nan if it is not defined.
    rows : array or None
        (n,), whose weighted mean is the value; None if there are no such values.
    """

    value: float
    se: float
    rows: np.ndarray | None


def weighted_mean(rows: Rows, weight: Rows) -> Score:
    """The weighted mean with its standard error, √(n/(n − 1) Σ w²(r − mean)²)/Σw; nan for one row."""
    value, n, se = np.average(rows, weights=weight), np.count_nonzero(weight), np.nan
    if n > 1 and np.isfinite(value):
        deviation = weight * (rows - value)
        unit = power_of_two_unit(deviation)
        se = np.sqrt(n / (n - 1)) * np.linalg.norm(deviation / unit) / weight.sum() * unit
    return Score(float(value), float(se), rows)


def average_observed(
    values: Float[np.ndarray, "rows targets"], observed: Bool[np.ndarray, "rows targets"], weight: Rows
) -> Float[np.ndarray, " targets"]:
    """The weighted mean of each target over the rows that have it."""
    if observed.all():
        return np.average(values, axis=0, weights=weight)
    share = weight[:, None] * observed
    return np.sum(share * np.where(observed, values, 0), axis=0) / share.sum(0)


def target_mean(
    values: Shaped[np.ndarray, "rows targets"], observed: Bool[np.ndarray, "rows targets"], weight: Rows
) -> Score:
    """The mean over targets of each one's weighted mean over the rows that have it, as a mean over rows by the delta method."""
    if observed.all():
        return weighted_mean(np.mean(values, axis=1), weight)
    means, parts = average_observed(values, observed, weight), weight.sum() / np.sum(weight[:, None] * observed, axis=0)
    return weighted_mean(np.mean(means + parts * np.where(observed, values - means, 0), axis=1), weight)


def power_of_two_unit(x: np.ndarray) -> np.ndarray:
    """The power of two at or below the largest |x| of each column, in which squares do not overflow or all vanish."""
    largest = np.max(np.abs(x), axis=0)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


def root_mean_square(
    error: Float[np.ndarray, "rows targets"], observed: Bool[np.ndarray, "rows targets"], weight: Rows
) -> Score:
    """The mean over targets of √(Σ w error² / Σ w) over the rows that have the target, by the delta method."""
    unit = power_of_two_unit(error[weight > 0])
    squared = (error / unit) ** 2
    root = np.sqrt(average_observed(squared, observed, weight))
    return target_mean(0.5 * unit * (squared / np.where(root > 0, root, 1.0) + root), observed, weight)


def calibration_error(gap: Float[np.ndarray, "rows columns"], index: np.ndarray, bins: int, weight: Rows) -> Score:
    """Σ_b |Σ_{i in b} w_i gap_i| / Σw, the mean over columns. A row left out changes one bin of each column: O(n)."""
    check_whole("bins", bins, 1)
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


def area_under_roc(score: Rows, positive: np.ndarray, weight: Rows) -> tuple[float, Rows]:
    """The area under the ROC curve, and its derivative by each row's weight: DeLong's structural components."""
    _, place = np.unique(score, return_inverse=True)
    ones, zeros = np.bincount(place, weight * positive), np.bincount(place, weight * (1 - positive))
    below = (np.cumsum(zeros) - 0.5 * zeros) / zeros.sum()
    above = (np.cumsum(ones[::-1])[::-1] - 0.5 * ones) / ones.sum()
    value = np.sum(ones * below) / ones.sum()
    return float(value), np.where(positive, (below[place] - value) / ones.sum(), (above[place] - value) / zeros.sum())


def precision_above(score: Rows, hit: Rows, weight: Rows, among: Rows) -> tuple[float, Rows]:
    """The fraction of hits in the rows that score at least as high as a row, averaged over ``among`` of 0 and 1.

    This is T = Σ_g M_g R_g / ΣM over distinct scores g, where R_g = H_g/C_g is hits/mass from g
    upwards; and ∂T/∂w_i. A row's weight moves its own term of T, and R_h of every threshold h up
    to its score, by (hit_i − R_h)/C_h.
    """
    _, place = np.unique(score, return_inverse=True)
    mass = np.maximum(np.cumsum(np.bincount(place, weight)[::-1])[::-1], np.finfo(float).tiny)
    share = np.cumsum(np.bincount(place, weight * hit)[::-1])[::-1] / mass
    counted = np.bincount(place, weight * among)
    value = np.sum(counted * share) / counted.sum()
    moved = hit * np.cumsum(counted / mass)[place] - np.cumsum(counted * share / mass)[place]
    return float(value), (among * (share[place] - value) + moved) / counted.sum()


def paired(first: Score, second: Score, *, weight: Any = None) -> Score:
    """first − second, with the standard error of the difference on the same rows.

    Parameters
    ----------
    first, second : Score
        Scores that have ``rows``, of the same rows.
    weight : array, optional
        The weights with which both were computed, (n,); None: all 1.

    Returns
    -------
    Score
        The difference.

    Raises
    ------
    ValueError
        For scores without rows, or of other rows or weights.
    """
    if first.rows is None or second.rows is None or len(first.rows) != len(second.rows):
        raise ValueError("paired needs two scores of the same rows")
    difference = weighted_mean(first.rows - second.rows, row_weights(weight, len(first.rows)))
    if not np.isclose(difference.value, first.value - second.value, rtol=1e-6, atol=1e-9 * abs(first.value)):
        raise ValueError("paired needs the weights with which both scores were computed")
    return difference


def ood_auroc(in_distribution: Any, out_of_distribution: Any) -> Score:
    """P(an out-of-distribution row scores higher than an in-distribution one), the area under the ROC curve.

    Parameters
    ----------
    in_distribution, out_of_distribution : array
        Uncertainty scores of the rows, 1-D, higher for out-of-distribution rows.

    Returns
    -------
    Score
        With DeLong's standard error.

    Raises
    ------
    DataError
        For no rows, for NaN, and for anything but numbers.
    """
    return _ood_score(in_distribution, out_of_distribution, area_under_roc)


def ood_aupr(in_distribution: Any, out_of_distribution: Any) -> Score:
    """Average precision of detecting out-of-distribution rows; it depends on their fraction of all rows.

    Parameters
    ----------
    in_distribution, out_of_distribution : array
        As for ``ood_auroc``.

    Returns
    -------
    Score
        With its standard error for samples of fixed sizes.
    """

    def average_precision(score: Rows, found: Rows, weight: Rows) -> tuple[float, Rows]:
        return precision_above(score, found, weight, found)

    return _ood_score(in_distribution, out_of_distribution, average_precision)


def ood_fpr95(in_distribution: Any, out_of_distribution: Any) -> Score:
    """Fraction of in-distribution rows that are flagged by the highest threshold that flags 95 % of the others.

    Parameters
    ----------
    in_distribution, out_of_distribution : array
        As for ``ood_auroc``.

    Returns
    -------
    Score
        Without a standard error.
    """
    score, found = _two_samples(in_distribution, out_of_distribution)
    threshold = np.sort(score[found > 0])[np.count_nonzero(found) // 20]
    return Score(float(np.mean(score[found == 0] >= threshold)), np.nan, None)


def _ood_score(in_distribution: Any, out_of_distribution: Any, measure: Callable[..., tuple[float, Rows]]) -> Score:
    """The score of a measure(score, found, weight) -> (value, slope); the two samples are of fixed sizes."""
    score, found = _two_samples(in_distribution, out_of_distribution)
    value, slope = measure(score, found, np.ones(len(score)))
    parts = slope[found == 0], slope[found > 0]
    se = np.sqrt(sum(len(part) * np.var(part, ddof=1) for part in parts)) if min(map(len, parts)) > 1 else np.nan
    return Score(value, float(se), value + len(score) * slope)


def _two_samples(in_distribution: Any, out_of_distribution: Any) -> tuple[Rows, Rows]:
    """(scores, 1.0 for out-of-distribution rows and else 0.0)."""
    names = {"in_distribution": in_distribution, "out_of_distribution": out_of_distribution}
    parts = [number_array(name, values) for name, values in names.items()]
    if any(len(part) == 0 or np.any(np.isnan(part)) for part in parts):
        raise DataError("in_distribution and out_of_distribution need at least one number each, and no NaN")
    return np.concatenate(parts), np.repeat([0.0, 1.0], [len(part) for part in parts])
