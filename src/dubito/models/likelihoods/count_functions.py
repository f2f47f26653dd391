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
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array, Float

from dubito.models.likelihoods.base import LOG_2PI

STEPS = 5000  # of a continued fraction; at the mean it takes about as many as the root of the mean


def log_probability(
    log_mean: Float[Array, "*shape"],
    mean: Float[Array, "*shape"],
    dispersion: Float[Array, "*shape"],
    y: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """log p(y) of whole numbers y ≥ 0, elementwise.

    −D = y log1p(s) + r log1p(t) with g = y − m, s = −g/(y(1 + αm)) and t = αg/(1 + αm): both terms
    are of the size of g. g comes from log m − log y, so that its rounding enters D squared.
    """
    seen = y > 0
    count = jnp.where(seen, y, 1)
    d = log_mean - jnp.log(count)
    near = seen & (jnp.abs(d) < 1)
    g = jnp.where(near, -count * jnp.expm1(jnp.clip(d, -1, 1)), y - mean)
    spread = 1 + dispersion * mean
    t = dispersion * g / spread
    log_t = jnp.where(
        t < -0.5,
        jnp.log1p(dispersion * y) - jnp.log(spread),
        jnp.log1p(jnp.maximum(t, -0.5)),
    )
    s = -g / (count * spread)
    log_s = jnp.where(s < -0.5, d + log_t, jnp.log1p(jnp.maximum(s, -0.5)))
    small = jnp.abs(t) < 0.01
    u = jnp.clip(t, -0.01, 0.01)
    r = 1 / jnp.where(small, 1, dispersion)
    deviance = jnp.where(seen, count * log_s, 0) + jnp.where(
        small, g / spread * (1 - u / 2 + u**2 / 3 - u**3 / 4 + u**4 / 5), r * log_t
    )
    many = 1 / jnp.maximum(dispersion, 1e-12)
    errors = stirling_error(count + many) - stirling_error(many) - stirling_error(count)
    level = errors - 0.5 * (LOG_2PI + jnp.log(count) + jnp.log1p(dispersion * count))
    return deviance + jnp.where(seen, level, 0)


def stirling_error(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log Γ(x + 1) − (x + ½) log x + x − ½ log 2π, the error of Stirling's formula, for x > 0."""
    few, many = jnp.minimum(x, 8), jnp.maximum(x, 8)
    exact = special.gammaln(few + 1) - (few + 0.5) * jnp.log(few) + few - 0.5 * LOG_2PI
    square = 1 / (many * many)
    return jnp.where(x < 8, exact, (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / many)


def cumulative_probability(
    log_mean: Float[Array, "*shape"],
    mean: Float[Array, "*shape"],
    dispersion: Float[Array, "*shape"],
    k: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """P(Y ≤ k) of whole numbers k ≥ 0, elementwise: p(k) times a continued fraction 1/(1 + e₁/(1 +
    e₂/(1 + ...))).

    With A = m/(1 + αm), from the mean on the fraction of the incomplete beta function (DLMF
    8.17.22) gives

        P(Y > k) = p(k) A (1 + αk)/(k + 1) · 1/(1 + ...),  e₂ₙ = n(1 − αn) A/((k + 2n)(k + 1 + 2n)),
        e₂ₙ₊₁ = −(k + 1 + n)(1 + α(k + 1 + n)) A/((k + 1 + 2n)(k + 2 + 2n)),

    and below it Gauss's for (1 + αk) F(−k, 1; r + 1; −r/m) = Σ_j≤k p(j)/p(k) (DLMF 15.7.1) gives

        P(Y ≤ k) = p(k) (1 + αk) · 1/(1 + ...),  e₂ₙ = n(1 + α(k + n))/((1 + α(2n − 1))(1 + 2αn) m),
        e₂ₙ₊₁ = −(k − n)(1 + αn)/((1 + 2αn)(1 + α(2n + 1)) m).

    1 + e₁ is nearly 0 at the mean. So it is the even part that is computed, with elements −e₂ₙ₋₁e₂ₙ
    over 1 + e₂ₙ + e₂ₙ₊₁ (n > 0), of which the differences m − k and k + 1 + 2n − m are taken out,
    and what is left is sums.
    """
    low = k < mean
    a, spread = dispersion, 1 + dispersion * mean
    scaled, q = mean / spread, dispersion * mean / spread
    safe = jnp.where(low, mean, 1)

    def numerator(n):
        one, two = 1 + a * (2 * n - 1), 1 + a * (2 * n - 2)
        below = n / safe * ((k - n + 1) / safe) * ((1 + a * (n - 1)) / two) * ((1 + a * (k + n)) / one)
        below = below / (one * (1 + a * 2 * n))
        c = k + 2 * n
        above = n / c * (1 - a * n) * ((k + n) / c) * ((scaled + q * (k + n)) / (c + 1)) * (scaled / (c - 1))
        return jnp.where(low, below, above)

    def denominator(n, last):
        """1 + e₂ₙ + e₂ₙ₊₁; ``last`` is 1/(1 + α(2n − 1)) below and 1/(k + 2n) above, which n = 0
        does not need.
        """
        below = n * (1 + a * (k + n)) * last + a * (k - n) * (n + 1) / (1 + a * (2 * n + 1))
        below = (mean - k + n + 2 * a * n * mean + below) / (safe * (1 + 2 * a * n))
        c = k + 1 + 2 * n
        above = scaled * (n * last + (n + 1) / (c + 1)) + q * ((c * (1 + 2 * n) - n * n) / (c + 1) - n * n * last)
        return jnp.where(low, below, ((c - mean) / spread + above) / c)

    def element(n):
        last = 1 / jnp.where(low, 1 + a * (2 * n - 1), k + 2 * n)
        return numerator(n), denominator(n, last)

    fraction = continued_fraction(denominator(0, 0), element)
    p = jnp.exp(log_probability(log_mean, mean, dispersion, k))
    tail = p * (1 + a * k) / fraction * jnp.where(low, 1, scaled / (k + 1))
    return jnp.clip(jnp.where(low, tail, 1 - tail), 0, 1)


def continued_fraction(
    first: Float[Array, "*shape"], element: Callable[[Any], tuple[Any, Any]]
) -> Float[Array, "*shape"]:
    """b₀ + a₁/(b₁ + a₂/(b₂ + ...)), elementwise by Lentz's method: ``first`` is b₀, ``element(n)``
    is (aₙ, bₙ).

    Each number stays as it is when it has converged, so that its bits do not depend on its
    neighbors.
    """
    eps = jnp.finfo(first.dtype).eps

    def step(state):
        n, value, c, d, done = state
        above, below = element(n)
        d = 1 / (below + above * d)
        c = below + above / c
        return n + 1, jnp.where(done, value, value * c * d), c, d, done | (jnp.abs(c * d - 1) <= 2 * eps)

    def more(state):
        return (state[0] < STEPS) & ~jnp.all(state[-1])

    start = jnp.ones((), first.dtype), first, first, jnp.zeros_like(first), jnp.zeros(first.shape, bool)
    return jax.lax.while_loop(more, step, start)[1]
