"""Densities and distribution functions of gamma and beta distributions, accurate in float32 for any
shape.

The terms of their log densities are of the size of the shape times its logarithm, and their sum is
not, so that float32 would lose all digits for large shapes. As for counts, they are split into a
deviance, which is small near the mean, and errors of Stirling's formula.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.likelihoods.count_functions import STEPS, continued_fraction, stirling_error

Values: TypeAlias = Float[Array, "*shape"]

SMALLEST, LARGEST = 1e-37, 1e30  # ratios to the mean: float32 holds them, and products with them
TERMS = 16  # of a series in r², r² ≤ 1/9


def log_deviance(ratio: Values) -> Values:
    """log r − (r − 1) of positive ratios r, elementwise; without cancellation near r = 1.

    Parameters
    ----------
    ratio : array
        r, between 1e-37 and 1e30; others count as the nearest of them.

    Returns
    -------
    array
        At most 0.
    """
    # log r = 2 artanh(s) with s = (r − 1)/(r + 1), and its series without the first term
    ratio = jnp.clip(ratio, SMALLEST, LARGEST)
    near = (ratio > 0.5) & (ratio < 1.5)
    t = jnp.where(near, ratio, 1) - 1
    s = t / (2 + t)
    square, series = s * s, jnp.full_like(s, 1 / (2 * TERMS + 1))
    for k in range(TERMS - 1, 0, -1):
        series = series * square + 1 / (2 * k + 1)
    far = jnp.where(near, 2, ratio)
    return jnp.where(near, s * (2 * square * series - t), jnp.log(far) - (far - 1))


def gamma_log_density(shape: Values, ratio: Values) -> Values:
    """log (y p(y)) of a gamma distribution with mean m, elementwise: k log k − log Γ(k) + k (log r − r).

    Parameters
    ----------
    shape : array
        k, positive.
    ratio : array
        r = y/m.

    Returns
    -------
    array
        In nats.
    """
    return shape * log_deviance(ratio) + 0.5 * (jnp.log(shape) - LOG_2PI) - stirling_error(shape)


def gamma_cdf(shape: Values, ratio: Values) -> Values:
    """P(Y ≤ y) of a gamma distribution with mean m, elementwise.

    Below k + 1, with x = k r, it is the series Σ_n xⁿ/(k (k + 1) ... (k + n)) times xᵏ e⁻ˣ/Γ(k), and
    above one minus the continued fraction of the other tail (DLMF 8.7.1, 8.9.2).

    Parameters
    ----------
    shape : array
        k, positive.
    ratio : array
        r = y/m; the result is 0 for r ≤ 0.

    Returns
    -------
    array
        Probabilities.
    """
    inside = jnp.clip(ratio, SMALLEST, LARGEST)
    power = jnp.exp(gamma_log_density(shape, inside))
    x, excess = shape * inside, shape * (inside - 1)
    low = excess < 1
    below = power / shape * _power_series(jnp.where(low, x, 0), shape)
    excess = jnp.where(low, 1, excess)

    def element(n: Any) -> tuple[Values, Values]:
        return n * (shape - n), excess + 2 * n + 1

    above = power / continued_fraction(excess + 1, element)
    return jnp.where(ratio > SMALLEST, jnp.clip(jnp.where(low, below, 1 - above), 0, 1), 0)


def _power_series(x: Values, shape: Values) -> Values:
    """1 + x/(k + 1) + x²/((k + 1)(k + 2)) + ... for x < k + 1. A number no longer changes once it has converged."""
    eps = jnp.finfo(x.dtype).eps

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        n, total, term, done = state
        term = term * (x / (shape + n))
        return n + 1, jnp.where(done, total, total + term), term, done | (term <= 0.1 * eps * total)

    start = jnp.ones((), x.dtype), jnp.ones_like(x), jnp.ones_like(x), jnp.zeros(x.shape, bool)
    return jax.lax.while_loop(lambda state: (state[0] < STEPS) & ~jnp.all(state[-1]), step, start)[1]


def beta_log_density(mean: Values, rest: Values, total: Values, y: Values) -> Values:
    """log (y (1 − y) p(y)) of a beta distribution, elementwise.

    Parameters
    ----------
    mean, rest : array
        m and 1 − m, both positive and each accurate.
    total : array
        a + b, the precision.
    y : array
        Numbers strictly between 0 and 1.

    Returns
    -------
    array
        In nats.
    """
    a, b = total * mean, total * rest
    level = 0.5 * (jnp.log(a) + jnp.log(rest) - LOG_2PI) + stirling_error(total) - stirling_error(a) - stirling_error(b)
    return a * log_deviance(y / mean) + b * log_deviance((1 - y) / rest) + level


def beta_cdf(mean: Values, rest: Values, total: Values, y: Values) -> Values:
    """P(Y ≤ y) of a beta distribution, elementwise, by the even part of the continued fraction of DLMF 8.17.22.

    Parameters
    ----------
    mean, rest, total
        As for ``beta_log_density``.
    y : array
        Any numbers: the result is 0 for y ≤ 0 and 1 for y ≥ 1.

    Returns
    -------
    array
        Probabilities.
    """
    eps = jnp.finfo(y.dtype).eps
    inside = jnp.clip(y, SMALLEST, 1 - 0.5 * eps)
    power = jnp.exp(beta_log_density(mean, rest, total, inside))
    low = inside * (total + 2) <= total * mean + 1  # elsewhere the other tail, with a and b exchanged
    x = jnp.where(low, inside, 1 - inside)
    a, b = (jnp.where(low, one, other) for one, other in ((total * mean, total * rest), (total * rest, total * mean)))
    gap = jnp.where(low, mean - inside, inside - mean) * total

    def element(n: Any) -> tuple[Values, Values]:
        odd, even = a + 2 * n - 1, a + 2 * n + 1
        above = (a + n - 1) / odd * ((a + b + n - 1) / odd) * n * (b - n) * x * x
        below = n + n * (b - n) * x / odd + (a + n) * (gap + 1 + n * (2 - x)) / even
        return above, below

    tail = power / continued_fraction(a * (gap + 1) / (a + 1), element)
    found = jnp.clip(jnp.where(low, tail, 1 - tail), 0, 1)
    return jnp.where(y > 0, jnp.where(y < 1, found, 1), 0)
