"""Densities and distribution functions of counts from their log mean, accurate in float32 for large
counts.

With mean m and dispersion α (variance m + αm²; α = 0 is the Poisson distribution), r = 1/α,

    log p(y) = log Γ(y + r)/(Γ(r) y!) + r log 1/(1 + αm) + y log αm/(1 + αm).

Its terms are of the size of y log y and their sum is not, so that float32 would lose all digits for
large counts. Loader (2000, "Fast and accurate computation of binomial probabilities") splits it
into a deviance, which is small, and errors of Stirling's formula; both are computed for any α ≥ 0
here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array, Float

from dubito.models.likelihoods.base import LOG_2PI, OutcomeParams

STEPS = 5000  # of a continued fraction; near the mean it needs about the square root of the mean

Values: TypeAlias = Float[Array, "*shape"]


class CountMoments(NamedTuple):
    """The parameters of distributions of counts.

    Attributes
    ----------
    log_mean, mean, dispersion : array of shape (rows, targets)
        log m, m and α: the variance is m + αm².
    """

    log_mean: Values
    mean: Values
    dispersion: Values

    @classmethod
    def of(cls, z: OutcomeParams) -> "CountMoments":
        """The parameters in z, the outcome parameters of a likelihood of counts."""
        log_mean = z["log_mean"]
        return cls(log_mean, jnp.exp(log_mean), z.get("dispersion", jnp.zeros_like(log_mean)))


def log_probability(moments: CountMoments, y: Values) -> Values:
    """log p(y) of whole numbers y ≥ 0, elementwise.

    Parameters
    ----------
    moments : CountMoments
        Mean and dispersion.
    y : array
        The counts.

    Returns
    -------
    array
        In nats.
    """
    # −D = y log1p(s) + r log1p(t) with g = y − m, s = −g/(y(1 + αm)) and t = αg/(1 + αm): both terms are of the
    # size of g. g is computed from log m − log y, so that its rounding error enters D squared.
    log_mean, mean, dispersion = moments
    seen = y > 0
    count = jnp.where(seen, y, 1)
    d = log_mean - jnp.log(count)
    near = seen & (jnp.abs(d) < 1)
    g = jnp.where(near, -count * jnp.expm1(jnp.clip(d, -1, 1)), y - mean)
    spread = 1 + dispersion * mean
    t = dispersion * g / spread
    log_t = jnp.where(t < -0.5, jnp.log1p(dispersion * y) - jnp.log(spread), jnp.log1p(jnp.maximum(t, -0.5)))
    s = -g / (count * spread)
    log_s = jnp.where(s < -0.5, d + log_t, jnp.log1p(jnp.maximum(s, -0.5)))
    small = jnp.abs(t) < 0.01
    u = jnp.clip(t, -0.01, 0.01)
    r = 1 / jnp.where(small, 1, dispersion)
    series = g / spread * (1 - u / 2 + u**2 / 3 - u**3 / 4 + u**4 / 5)
    deviance = jnp.where(seen, count * log_s, 0) + jnp.where(small, series, r * log_t)
    many = 1 / jnp.maximum(dispersion, 1e-12)
    errors = stirling_error(count + many) - stirling_error(many) - stirling_error(count)
    level = errors - 0.5 * (LOG_2PI + jnp.log(count) + jnp.log1p(dispersion * count))
    return deviance + jnp.where(seen, level, 0)


def stirling_error(x: Values) -> Values:
    """The error of Stirling's formula, log Γ(x + 1) − (x + ½) log x + x − ½ log 2π, elementwise.

    Parameters
    ----------
    x : array
        Positive numbers.

    Returns
    -------
    array
        About 1/(12 x) for large x.
    """
    few, many = jnp.minimum(x, 8), jnp.maximum(x, 8)
    exact = special.gammaln(few + 1) - (few + 0.5) * jnp.log(few) + few - 0.5 * LOG_2PI
    square = 1 / (many * many)
    return jnp.where(x < 8, exact, (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / many)


def cumulative_probability(moments: CountMoments, k: Values) -> Values:
    """P(Y ≤ k) of whole numbers k ≥ 0, elementwise: p(k) times a continued fraction 1/(1 + e₁/(1 +
    e₂/(1 + ...))).

    Parameters
    ----------
    moments : CountMoments
        Mean and dispersion.
    k : array
        The counts.

    Returns
    -------
    array
        Probabilities.

    Notes
    -----
    With A = m/(1 + αm), from the mean on the fraction of the incomplete beta function (DLMF
    8.17.22) gives

        P(Y > k) = p(k) A (1 + αk)/(k + 1) · 1/(1 + ...),  e₂ₙ = n(1 − αn) A/((k + 2n)(k + 1 + 2n)),
        e₂ₙ₊₁ = −(k + 1 + n)(1 + α(k + 1 + n)) A/((k + 1 + 2n)(k + 2 + 2n)),

    and below it Gauss's for (1 + αk) F(−k, 1; r + 1; −r/m) = Σ_j≤k p(j)/p(k) (DLMF 15.7.1) gives

        P(Y ≤ k) = p(k) (1 + αk) · 1/(1 + ...),  e₂ₙ = n(1 + α(k + n))/((1 + α(2n − 1))(1 + 2αn) m),
        e₂ₙ₊₁ = −(k − n)(1 + αn)/((1 + 2αn)(1 + α(2n + 1)) m).

    1 + e₁ is nearly 0 at the mean. Therefore the even part is computed, with elements −e₂ₙ₋₁e₂ₙ
    over 1 + e₂ₙ + e₂ₙ₊₁ (n > 0), in a form where only the differences m − k and k + 1 + 2n − m can
    cancel.
    """
    _, mean, dispersion = moments
    low = k < mean
    a, spread = dispersion, 1 + dispersion * mean
    scaled, q = mean / spread, dispersion * mean / spread
    safe = jnp.where(low, mean, 1)

    def numerator(n: Any) -> Values:
        one, two = 1 + a * (2 * n - 1), 1 + a * (2 * n - 2)
        below = n / safe * ((k - n + 1) / safe) * ((1 + a * (n - 1)) / two) * ((1 + a * (k + n)) / one)
        below = below / (one * (1 + a * 2 * n))
        c = k + 2 * n
        above = n / c * (1 - a * n) * ((k + n) / c) * ((scaled + q * (k + n)) / (c + 1)) * (scaled / (c - 1))
        return jnp.where(low, below, above)

    def denominator(n: Any, last: Any) -> Values:
        """1 + e₂ₙ + e₂ₙ₊₁; ``last`` is 1/(1 + α(2n − 1)) below and 1/(k + 2n) above, any number for n = 0."""
        below = n * (1 + a * (k + n)) * last + a * (k - n) * (n + 1) / (1 + a * (2 * n + 1))
        below = (mean - k + n + 2 * a * n * mean + below) / (safe * (1 + 2 * a * n))
        c = k + 1 + 2 * n
        above = scaled * (n * last + (n + 1) / (c + 1)) + q * ((c * (1 + 2 * n) - n * n) / (c + 1) - n * n * last)
        return jnp.where(low, below, ((c - mean) / spread + above) / c)

    def element(n: Any) -> tuple[Values, Values]:
        last = 1 / jnp.where(low, 1 + a * (2 * n - 1), k + 2 * n)
        return numerator(n), denominator(n, last)

    fraction = continued_fraction(denominator(0, 0), element)
    p = jnp.exp(log_probability(moments, k))
    tail = p * (1 + a * k) / fraction * jnp.where(low, 1, scaled / (k + 1))
    return jnp.clip(jnp.where(low, tail, 1 - tail), 0, 1)


def continued_fraction(first: Values, element: Callable[[Any], tuple[Any, Any]]) -> Values:
    """b₀ + a₁/(b₁ + a₂/(b₂ + ...)), elementwise by Lentz's method.

    A number no longer changes once it has converged, so that its bits do not depend on its
    neighbors.

    Parameters
    ----------
    first : array
        b₀.
    element : callable
        ``element(n)`` returns (aₙ, bₙ), for n from 1.

    Returns
    -------
    array
        The values.
    """
    eps = jnp.finfo(first.dtype).eps

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        n, value, c, d, done = state
        above, below = element(n)
        d = 1 / (below + above * d)
        c = below + above / c
        return n + 1, jnp.where(done, value, value * c * d), c, d, done | (jnp.abs(c * d - 1) <= 2 * eps)

    def more(state: tuple[Any, ...]) -> jax.Array:
        return (state[0] < STEPS) & ~jnp.all(state[-1])

    start = jnp.ones((), first.dtype), first, first, jnp.zeros_like(first), jnp.zeros(first.shape, bool)
    return jax.lax.while_loop(more, step, start)[1]
