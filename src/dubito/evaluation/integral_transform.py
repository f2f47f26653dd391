"""The probability integral transform F(y) of observed targets, and the coverage of central intervals that follows from it."""

from typing import Any

import numpy as np
from jaxtyping import Float

from dubito.evaluation.validation import check_observed
from dubito.posteriors.draw_mixture import Values
from dubito.posteriors.predictive_base import PredictiveDistribution


def pit(predictive: PredictiveDistribution, y: Any) -> np.ndarray:
    """Probability integral transform F(y): uniform between 0 and 1 for a calibrated predictive distribution.

    For counts it is the mid-P value (F(y − 1) + F(y))/2, whose mean is then ½, with a spread slightly
    below that of the uniform distribution.

    Parameters
    ----------
    predictive, y : as for all scores, see the module

    Returns
    -------
    array
        (n,) or (n, K); NaN where y is missing.
    """
    values = np.mean(_steps(predictive, y), axis=0)
    return values[:, 0] if predictive.squeeze and values.shape[1] == 1 else values


def central_coverage(
    predictive: PredictiveDistribution, y: Any, nominal: Float[np.ndarray, " levels"]
) -> Float[np.ndarray, " levels"]:
    """Fraction of observations inside the central interval of each probability.

    It equals the probability for a calibrated distribution. A count contributes the fraction
    of [F(y − 1), F(y)] that is inside, the mean of a randomized F(y).

    Parameters
    ----------
    predictive, y : as for all scores, see the module
    nominal : array
        The probabilities of the intervals.

    Returns
    -------
    array
        A fraction for each of them.

    References
    ----------
    Czado, Gneiting & Held, Predictive model assessment for count data, Biometrics 2009.
    """
    before, at = _steps(predictive, y)
    before, at = before[~np.isnan(at)], at[~np.isnan(at)]
    if not predictive.discrete:
        return np.searchsorted(np.sort(np.abs(2 * at - 1), axis=None), nominal, side="right") / at.size
    ends = ((0.5 - 0.5 * c, 0.5 + 0.5 * c) for c in nominal)
    parts = (np.minimum(at, high) - np.maximum(before, low) for low, high in ends)
    return np.array([np.mean(np.maximum(part, 0) / np.maximum(at - before, 1e-300)) for part in parts])


def _steps(predictive: Any, y: Any) -> tuple[Values, Values]:
    """P(Y < y) and P(Y ≤ y)."""
    predictive, y, _, observed = check_observed(predictive, y, None)
    at = np.where(observed, predictive.cdf(y), np.nan)
    return (predictive.cdf(y - 1) if predictive.discrete else at), at
