"""The continuous ranked probability score ∫ (F(t) − 1{y ≤ t})² dt of a predictive distribution.

There are three ways to compute it: a closed form for Gaussian mixtures, an integral, and a sum for
counts.
"""

from itertools import pairwise, product

import numpy as np
from jaxtyping import Float
from scipy import special

from dubito.posteriors.draw_mixture import Values
from dubito.posteriors.predictive_base import PredictiveDistribution

MAX_PAIRED = 100  # Gaussian components whose score is a sum over all pairs; beyond, it is an integral
GAUSS_LEGENDRE = np.transpose(special.roots_legendre(16))
MAX_CELLS = 2000  # on each side of y, of numbers that are counted as one


def crps_by_target(
    predictive: PredictiveDistribution, y: Values, levels: Float[np.ndarray, " levels"], knots: np.ndarray | None = None
) -> Values:
    """The score of each row and target, (n, K).

    ``levels`` are the probabilities of quantiles at which an integral is cut; ``knots`` are these
    quantiles (levels, n, K), if known.
    """
    if predictive.discrete:
        return count_crps(predictive, y)
    mixture = predictive.components() if len(predictive.draws) <= MAX_PAIRED else None
    if mixture is None:
        return integrated_crps(predictive, y, predictive.quantile(levels) if knots is None else knots)
    return gaussian_mixture_crps(*mixture, y)


def gaussian_mixture_crps(means: np.ndarray, scales: np.ndarray, y: Values) -> Values:
    """E|Y − y| − ½ E|Y − Y'| of Gaussian mixtures (S, n, K): differences of normals are normal."""
    pairs = np.sum(scales, axis=0) / np.sqrt(np.pi)  # each component with itself, halved: A(0, √2 s)/2 = s/√π
    for s in range(len(means) - 1):
        pairs += np.sum(_mean_absolute(means[s + 1 :] - means[s], np.hypot(scales[s + 1 :], scales[s])), axis=0)
    return np.mean(_mean_absolute(means - y, scales), axis=0) - pairs / len(means) ** 2


def _mean_absolute(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A(m, s) = E|X| of X ~ N(m, s²): 2sφ(m/s) + m(2Φ(m/s) − 1)."""
    ratio = mean / scale
    return scale * np.sqrt(2 / np.pi) * np.exp(-0.5 * ratio**2) + mean * special.erf(np.sqrt(0.5) * ratio)


def integrated_crps(predictive: PredictiveDistribution, y: Values, knots: np.ndarray) -> Values:
    """∫ (F − 1{y ≤ t})² dt by Gauss-Legendre between knots, to ten standard deviations: (1 − F)² < 10⁻⁴ beyond."""
    low, high = (np.clip(predictive.mean + reach * predictive.std, *predictive.mixture.bounds) for reach in (-10, 10))
    inner = np.clip(y, low, high)
    total = np.abs(y - inner)
    knots = np.sort(np.concatenate([low[None], high[None], inner[None], knots]), axis=0)
    for (left, right), (node, share) in product(pairwise(knots), GAUSS_LEGENDRE):
        t = left + 0.5 * (1 + node) * (right - left)
        total += 0.5 * share * (right - left) * (predictive.cdf(t) - (y <= t)) ** 2
    return total


def count_crps(predictive: PredictiveDistribution, y: Values) -> Values:
    """Σ_k (F(k) − 1{y ≤ k})² over whole numbers k, to ten standard deviations.

    The terms are F² below y and (1 − F)² from y on. Cells of h numbers, h odd, each count h times
    their middle one. h is at most a sixth of the narrowest draw's standard deviation, which with
    Euler and Maclaurin's correction at y (the only place where the summand does not vanish together
    with its slopes) is exact to 5·10⁻⁵. It is larger where ``MAX_CELLS`` on a side require it,
    since draws differ very much: then the error is some 10⁻³.
    """
    low = np.maximum(np.floor(predictive.mean - 10 * predictive.std), 0)
    high = np.ceil(predictive.mean + 10 * predictive.std) + 1
    start = np.clip(y, low, high)
    at, before = predictive.cdf(start), predictive.cdf(start - 1)
    total = np.abs(y - start)
    fine = np.floor(predictive.min_component_std / 12 - 0.5).clip(0)  # (h − 1)/2
    for side, count in ((-1, start - low), (1, high - start)):
        width = 2 * np.maximum(fine, np.ceil((count / MAX_CELLS - 1) / 2)) + 1
        slope = before**2 - at**2 if side < 0 else (1 - at) ** 2 - (1 - before) ** 2
        total -= (width**2 - 1) / 24 * slope
        for cell in range(int(np.max(np.ceil(count / width), initial=0))):
            k = start - 0.5 + side * width * (cell + 0.5)
            total += width * (predictive.cdf(k) - (side > 0)) ** 2
    return total
