"""Scores with standard errors over rows.

They are weighted means, and differentiable functions of the rows' weights by the delta method.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from dubito._check import check_whole
from dubito.evaluation.validation import row_weights
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


def power_of_two_unit(x: np.ndarray) -> np.ndarray:
    """The power of two at or below the largest |x| of each column, in which squares do not overflow or all vanish."""
    largest = np.max(np.abs(x), axis=0)
    return np.where(largest > 0, np.ldexp(1.0, np.frexp(largest)[1] - 1), 1.0)


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
