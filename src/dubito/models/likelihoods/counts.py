"""Likelihoods of counts, from their log mean: Poisson and negative binomial, which is the Poisson where α = 0.

With mean m and dispersion α (variance m + αm²), r = 1/α,

    log p(y) = log Γ(y + r)/(Γ(r) y!) + r log 1/(1 + αm) + y log αm/(1 + αm).

Its terms are of the size of y log y and their sum is not, so that float32 would lose all digits for large counts. Loader
(2000, "Fast and accurate computation of binomial probabilities") splits it into a deviance, which is small, and errors of
Stirling's formula; both are computed for any α ≥ 0 here.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from dubito._jax.pytree import register_dataclass, static
from dubito.models.likelihoods.base import LOG_2PI, Gaussian, HeteroscedasticGaussian, log_gamma_density
from dubito.models.likelihoods.integer_quantiles import least

LINEAR = 25.0  # log mean from which on the mean grows linearly in f: nothing overflows, and no count is so large
STEPS = 5000  # of a continued fraction; at the mean it takes about as many as the root of the mean
LARGEST_COUNT = 7e10  # e^LINEAR, rounded down: no count above can be fitted
WHOLE = "whole numbers of at least 0, at most 7·10¹⁰"


@register_dataclass
@dataclass(frozen=True)
class Poisson:
    """Counts y ~ Poisson(m), log m = ``level`` + f, one output for each target: variance and mean are equal.

    The criterion is m − y(level + f), its gradient m − y. ``level`` takes the place that scaling has for other targets:
    None is 0, and in the estimators the log of the mean count, so that networks near 0 are near the data. Above log m =
    25 (7·10¹⁰) m goes on as a straight line.
    """

    level: float | None = None
    targets: int = static(default=1)

    task = "regression"
    moves = False
    discrete = True
    takes = WHOLE

    width = Gaussian.width
    init = HeteroscedasticGaussian.init
    log_prior = HeteroscedasticGaussian.log_prior

    def log_mean(self, f):
        g = f if self.level is None else f + jnp.asarray(self.level, f.dtype)
        return jnp.minimum(g, LINEAR) + jnp.log1p(jnp.maximum(g - LINEAR, 0))

    def join(self, f, phi):
        del phi
        return {"log_mean": self.log_mean(f)}

    def log_prob(self, z, y):
        possible = (y >= 0) & (y == jnp.floor(y)) & (y < jnp.inf)
        return jnp.sum(jnp.where(possible, log_probability(*parts(z), jnp.where(possible, y, 0)), -jnp.inf), axis=1)

    def mean(self, z):
        return jnp.exp(z["log_mean"])

    def variance(self, z):
        _, mean, dispersion = parts(z)
        return mean + dispersion * mean**2

    def cdf(self, z, y):
        inside = (y >= 0) & (y < jnp.inf)
        found = cumulative(*parts(z), jnp.where(inside, jnp.floor(y), 0))
        return jnp.where(inside, found, jnp.where(y < 0, 0, 1).astype(found.dtype))

    def sample(self, key, z):
        u = jax.random.uniform(key, z["log_mean"].shape, z["log_mean"].dtype, 6e-8, 1 - 6e-8)
        sd = jnp.sqrt(self.variance(z))
        return least(lambda y: self.cdf(z, y), u, self.mean(z), sd, jnp.sqrt((1 - u) / u), jnp.sqrt(u / (1 - u)))

    def supports(self, y):
        return np.all((y >= 0) & (y == np.floor(y)) & (y <= LARGEST_COUNT), axis=1)


@register_dataclass
@dataclass(frozen=True)
class NegativeBinomial:
    """Counts that spread more than Poisson's: mean m with log m = ``level`` + f, variance m + αm².

    ``dispersion`` fixes α > 0; None learns one for each target, with a prior α ~ Gamma(``shape``, ``rate``) that is
    stated for log α. ``level`` as for the Poisson, which is the limit α = 0.
    """

    dispersion: float | None = None
    level: float | None = None
    shape: float = 1.0
    rate: float = 1.0
    targets: int = static(default=1)

    task = "regression"
    moves = False
    discrete = True
    takes = WHOLE
    width = Gaussian.width
    log_mean = Poisson.log_mean
    log_prob = Poisson.log_prob
    mean = Poisson.mean
    variance = Poisson.variance
    cdf = Poisson.cdf
    sample = Poisson.sample
    supports = Poisson.supports

    def init(self):
        return {} if self.dispersion is not None else {"log_dispersion": jnp.zeros(self.targets, jnp.float32)}

    def log_prior(self, phi):
        if self.dispersion is not None:
            return jnp.asarray(0.0)
        return jnp.sum(log_gamma_density(phi["log_dispersion"], self.shape, self.rate))

    def join(self, f, phi):
        dispersion = (
            jnp.exp(phi["log_dispersion"]) if self.dispersion is None else jnp.asarray(self.dispersion, f.dtype)
        )
        return {"log_mean": self.log_mean(f), "dispersion": jnp.broadcast_to(dispersion, f.shape)}


def parts(z):
    """(log mean, mean, dispersion), each (n, K)."""
    log_mean = z["log_mean"]
    return log_mean, jnp.exp(log_mean), z.get("dispersion", jnp.zeros_like(log_mean))


def log_probability(log_mean, mean, dispersion, y):
    """log p(y) of whole numbers y ≥ 0, elementwise.

    −D = y log1p(s) + r log1p(t) with g = y − m, s = −g/(y(1 + αm)) and t = αg/(1 + αm): both terms are of the size of g.
    g comes from log m − log y, so that its rounding enters D squared.
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
    errors = stirling(count + many) - stirling(many) - stirling(count)
    level = errors - 0.5 * (LOG_2PI + jnp.log(count) + jnp.log1p(dispersion * count))
    return deviance + jnp.where(seen, level, 0)


def stirling(x):
    """log Γ(x + 1) − (x + ½) log x + x − ½ log 2π, the error of Stirling's formula, for x > 0."""
    few, many = jnp.minimum(x, 8), jnp.maximum(x, 8)
    exact = special.gammaln(few + 1) - (few + 0.5) * jnp.log(few) + few - 0.5 * LOG_2PI
    square = 1 / (many * many)
    return jnp.where(x < 8, exact, (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680))) / many)


def cumulative(log_mean, mean, dispersion, k):
    """P(Y ≤ k) of whole numbers k ≥ 0, elementwise: p(k) times a continued fraction 1/(1 + e₁/(1 + e₂/(1 + ...))).

    With A = m/(1 + αm), from the mean on the fraction of the incomplete beta function (DLMF 8.17.22) gives

        P(Y > k) = p(k) A (1 + αk)/(k + 1) · 1/(1 + ...),  e₂ₙ = n(1 − αn) A/((k + 2n)(k + 1 + 2n)),
        e₂ₙ₊₁ = −(k + 1 + n)(1 + α(k + 1 + n)) A/((k + 1 + 2n)(k + 2 + 2n)),

    and below it Gauss's for (1 + αk) F(−k, 1; r + 1; −r/m) = Σ_j≤k p(j)/p(k) (DLMF 15.7.1) gives

        P(Y ≤ k) = p(k) (1 + αk) · 1/(1 + ...),  e₂ₙ = n(1 + α(k + n))/((1 + α(2n − 1))(1 + 2αn) m),
        e₂ₙ₊₁ = −(k − n)(1 + αn)/((1 + 2αn)(1 + α(2n + 1)) m).

    1 + e₁ is nearly 0 at the mean. So it is the even part that is computed, with elements −e₂ₙ₋₁e₂ₙ over 1 + e₂ₙ + e₂ₙ₊₁
    (n > 0), of which the differences m − k and k + 1 + 2n − m are taken out, and what is left is sums.
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
        """1 + e₂ₙ + e₂ₙ₊₁; ``last`` is 1/(1 + α(2n − 1)) below and 1/(k + 2n) above, which n = 0 does not need."""
        below = n * (1 + a * (k + n)) * last + a * (k - n) * (n + 1) / (1 + a * (2 * n + 1))
        below = (mean - k + n + 2 * a * n * mean + below) / (safe * (1 + 2 * a * n))
        c = k + 1 + 2 * n
        above = scaled * (n * last + (n + 1) / (c + 1)) + q * ((c * (1 + 2 * n) - n * n) / (c + 1) - n * n * last)
        return jnp.where(low, below, ((c - mean) / spread + above) / c)

    def element(n):
        last = 1 / jnp.where(low, 1 + a * (2 * n - 1), k + 2 * n)
        return numerator(n), denominator(n, last)

    fraction = lentz(denominator(0, 0), element)
    p = jnp.exp(log_probability(log_mean, mean, dispersion, k))
    tail = p * (1 + a * k) / fraction * jnp.where(low, 1, scaled / (k + 1))
    return jnp.clip(jnp.where(low, tail, 1 - tail), 0, 1)


def lentz(first, element):
    """b₀ + a₁/(b₁ + a₂/(b₂ + ...)), elementwise by Lentz's method: ``first`` is b₀, ``element(n)`` is (aₙ, bₙ).

    Each number stays as it is when it has converged, so that its bits do not depend on its neighbors.
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
