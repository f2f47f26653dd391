"""Likelihoods of counts, from their log mean: Poisson and negative binomial."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import Entry, FixedOrLearned, Likelihood, OutcomeParams, WithoutParameters
from dubito.models.likelihoods.count_functions import CountMoments, cumulative_probability, log_probability
from dubito.models.likelihoods.integer_quantiles import smallest_reaching

LINEAR = 25.0  # log mean above which the mean grows linearly in f, so that nothing overflows
LARGEST_COUNT = 7e10  # e^LINEAR, rounded down: larger counts cannot be fitted


class CountLikelihood(Likelihood):
    """Base of likelihoods of counts, with z = {"log_mean": (rows, K)}, and "dispersion" α, (rows,
    K), unless it is 0.

    The mean is m = e^log_mean, the variance m + αm².
    """

    task = "regression"
    standardizes_targets = False
    discrete = True
    restricts_targets = True
    target_description = "whole numbers from 0 to 7·10¹⁰"

    @property
    def width(self) -> int:
        return self.targets

    def log_mean(self, f: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        """log m = level + f up to 25; beyond, m grows linearly."""
        g = f if self.level is None else f + jnp.asarray(self.level, f.dtype)
        return jnp.minimum(g, LINEAR) + jnp.log1p(jnp.maximum(g - LINEAR, 0))

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        possible = (y >= 0) & (y == jnp.floor(y)) & (y < jnp.inf)
        each = log_probability(CountMoments.of(z), jnp.where(possible, y, 0))
        return jnp.sum(jnp.where(possible, each, -jnp.inf), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return jnp.exp(z["log_mean"])

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        moments = CountMoments.of(z)
        return moments.mean + moments.dispersion * moments.mean**2

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        inside = (y >= 0) & (y < jnp.inf)
        values = cumulative_probability(CountMoments.of(z), jnp.where(inside, jnp.floor(y), 0))
        return jnp.where(inside, values, jnp.where(y < 0, 0, 1).astype(values.dtype))

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        u = jax.random.uniform(key, z["log_mean"].shape, z["log_mean"].dtype, 6e-8, 1 - 6e-8)
        sd, below, above = jnp.sqrt(self.variance(z)), jnp.sqrt((1 - u) / u), jnp.sqrt(u / (1 - u))
        return smallest_reaching(lambda y: self.cdf(z, y), u, self.mean(z), sd, below, above)

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        return np.all((y >= 0) & (y == np.floor(y)) & (y <= LARGEST_COUNT), axis=1)


@register_dataclass
@dataclass(frozen=True)
class Poisson(WithoutParameters, CountLikelihood):
    """Counts y ~ Poisson(m) with log m = level + f, one output per target: the variance equals the
    mean.

    The criterion is m − y(level + f), its gradient m − y. Above log m = 25 (7·10¹⁰) m grows
    linearly in f.

    Parameters
    ----------
    level : float or None
        The log mean where f = 0, which has the role of standardization for other targets. None is
        0; estimators set it to the log of the mean count, so that outputs near 0 fit the data.
    targets : int
        K, the number of targets.
    """

    level: float | None = None
    targets: int = static(default=1)

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        return {"log_mean": self.log_mean(f)}


@register_dataclass
@dataclass(frozen=True)
class NegativeBinomial(FixedOrLearned, CountLikelihood):
    """Overdispersed counts: mean m with log m = level + f, variance m + αm².

    Parameters
    ----------
    dispersion : float or None
        α > 0. None learns log α per target, with the prior α ~ Gamma(shape, rate). ``Poisson`` is
        the limit α = 0.
    level : float or None
        As in ``Poisson``.
    shape, rate : float
        The Gamma prior of a learned α; its density is stated for log α.
    targets : int
        K, the number of targets.
    """

    dispersion: float | None = None
    level: float | None = None
    shape: float = 1.0
    rate: float = 1.0
    targets: int = static(default=1)

    parameter = "dispersion"

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        fixed = self.dispersion
        dispersion = jnp.exp(phi["log_dispersion"]) if fixed is None else jnp.asarray(fixed, f.dtype)
        return {"log_mean": self.log_mean(f), "dispersion": jnp.broadcast_to(dispersion, f.shape)}


ENTRIES: dict[str, Entry] = {
    "poisson": Entry(
        Poisson,
        "m - y log m + log y!, log m = level + f",
        "Poisson deviance, halved",
        "m - y",
        "whole numbers of at least 0",
        "counts of independent events",
    ),
    "negative-binomial": Entry(
        NegativeBinomial,
        "(y + 1/α) log(1 + αm) - y log αm - log Γ(y + 1/α)/(Γ(1/α) y!), log m = level + f",
        "negative binomial deviance, halved",
        "(m - y)/(1 + αm)",
        "whole numbers of at least 0",
        "overdispersed counts: variance larger than the mean",
    ),
}
