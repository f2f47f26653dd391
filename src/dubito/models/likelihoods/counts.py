"""Likelihoods of counts, from their log mean: Poisson and negative binomial."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import Entry, Likelihood, OutcomeParams, WithoutParameters, log_gamma_density
from dubito.models.likelihoods.count_functions import cumulative_probability, log_probability
from dubito.models.likelihoods.integer_quantiles import smallest_reaching

LINEAR = 25.0  # log mean from which on the mean grows linearly in f: nothing overflows, and no count is so large
LARGEST_COUNT = 7e10  # e^LINEAR, rounded down: no count above can be fitted


class CountLikelihood(Likelihood):
    """What likelihoods of counts share: z = {"log_mean": (rows, K)}, and {"dispersion": (rows, K)}
    where α is not 0.

    The mean is m = e^log_mean, the variance m + αm².
    """

    task = "regression"
    standardizes_targets = False
    discrete = True
    restricts_targets = True
    target_description = "whole numbers of at least 0, at most 7·10¹⁰"

    @property
    def width(self) -> int:
        return self.targets

    def log_mean(self, f: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        """level + f up to log m = 25, from where m goes on as a straight line."""
        g = f if self.level is None else f + jnp.asarray(self.level, f.dtype)
        return jnp.minimum(g, LINEAR) + jnp.log1p(jnp.maximum(g - LINEAR, 0))

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        possible = (y >= 0) & (y == jnp.floor(y)) & (y < jnp.inf)
        each = log_probability(*mean_and_dispersion(z), jnp.where(possible, y, 0))
        return jnp.sum(jnp.where(possible, each, -jnp.inf), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return jnp.exp(z["log_mean"])

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        _, mean, dispersion = mean_and_dispersion(z)
        return mean + dispersion * mean**2

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        inside = (y >= 0) & (y < jnp.inf)
        values = cumulative_probability(*mean_and_dispersion(z), jnp.where(inside, jnp.floor(y), 0))
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
    """Counts y ~ Poisson(m), log m = level + f, with one output for each target: the variance
    equals the mean.

    The criterion is m − y(level + f), its gradient m − y. Above log m = 25 (7·10¹⁰) m goes on as a
    straight line.

    Parameters
    ----------
    level : float or None
        The log mean where f = 0; it takes the place that standardization has for other targets.
        None is 0, and in the estimators the log of the mean count, so that networks near 0 are near
        the data.
    targets : int
        K, the number of targets.
    """

    level: float | None = None
    targets: int = static(default=1)

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        del phi
        return {"log_mean": self.log_mean(f)}


@register_dataclass
@dataclass(frozen=True)
class NegativeBinomial(CountLikelihood):
    """Counts that spread more than Poisson's: mean m with log m = level + f, variance m + αm².

    Parameters
    ----------
    dispersion : float or None
        α > 0. None learns log α for each target, with the prior α ~ Gamma(shape, rate). The
        ``Poisson`` is the limit α = 0.
    level : float or None
        As for the ``Poisson``.
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

    def init(self) -> Params:
        return {} if self.dispersion is not None else {"log_dispersion": jnp.zeros(self.targets, jnp.float32)}

    def log_prior(self, phi: Params) -> Float[Array, ""]:
        if self.dispersion is not None:
            return jnp.asarray(0.0)
        return jnp.sum(log_gamma_density(phi["log_dispersion"], self.shape, self.rate))

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        dispersion = (
            jnp.exp(phi["log_dispersion"]) if self.dispersion is None else jnp.asarray(self.dispersion, f.dtype)
        )
        return {"log_mean": self.log_mean(f), "dispersion": jnp.broadcast_to(dispersion, f.shape)}


def mean_and_dispersion(z: OutcomeParams) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(log mean, mean, dispersion), each (rows, K)."""
    log_mean = z["log_mean"]
    return log_mean, jnp.exp(log_mean), z.get("dispersion", jnp.zeros_like(log_mean))


POISSON = Entry(
    lambda columns: Poisson(targets=columns),
    "regression",
    "m - y log m + log y!, log m = level + f",
    "Poisson deviance, halved",
    "m - y",
    "whole numbers of at least 0",
    "counts of independent events",
)
NEGATIVE_BINOMIAL = Entry(
    lambda columns: NegativeBinomial(targets=columns),
    "regression",
    "(y + 1/α) log(1 + αm) - y log αm - log Γ(y + 1/α)/(Γ(1/α) y!), log m = level + f",
    "negative binomial deviance, halved",
    "(m - y)/(1 + αm)",
    "whole numbers of at least 0",
    "overdispersed counts: variance larger than the mean",
)
