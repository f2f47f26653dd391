"""Likelihoods of counts, from their log mean: Poisson and negative binomial, with and without excess zeros."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import Entry, Likelihood, OutcomeParams, WithoutParameters
from dubito.models.likelihoods.count_functions import CountMoments, cumulative_probability, log_probability
from dubito.models.likelihoods.integer_quantiles import smallest_reaching
from dubito.models.likelihoods.noise_parameters import LINEAR, FixedOrLearned

LARGEST_COUNT = 7e10  # e^LINEAR, rounded down: larger counts cannot be fitted


class CountLikelihood(Likelihood):
    """Base of likelihoods of counts, with "log_mean" and "dispersion" of ``CountMoments`` in z."""

    task = "regression"
    standardizes_targets = False
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    discrete = True
    restricts_targets = True
    independent_targets = True
    target_description = "whole numbers from 0 to 7·10¹⁰"

    def log_mean(self, f: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        """log m = level + f up to 25; beyond, m grows linearly."""
        g = f if self.level is None else f + jnp.asarray(self.level, f.dtype)
        return jnp.minimum(g, LINEAR) + jnp.log1p(jnp.maximum(g - LINEAR, 0))

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        u = jax.random.uniform(key, z["log_mean"].shape, z["log_mean"].dtype, 6e-8, 1 - 6e-8)
        sd, below, above = jnp.sqrt(self.variance(z)), jnp.sqrt((1 - u) / u), jnp.sqrt(u / (1 - u))
        return smallest_reaching(lambda y: self.cdf(z, y), u, self.mean(z), sd, below, above)

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        return np.all((y >= 0) & (y == np.floor(y)) & (y <= LARGEST_COUNT), axis=1)


class PlainCounts(CountLikelihood):
    """Base of counts without excess zeros: z = {"log_mean": (rows, K)}, and "dispersion" α, (rows,
    K), unless it is 0. The mean is m = e^log_mean, the variance m + αm².
    """

    @property
    def width(self) -> int:
        return self.targets

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        return jnp.sum(log_probability_of_number(z, y), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return jnp.exp(z["log_mean"])

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        moments = CountMoments.of(z)
        return moments.mean + moments.dispersion * moments.mean**2

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        return cdf_of_number(z, y)


class ZeroInflatedCounts(CountLikelihood):
    """Base of counts that are 0 with probability π, and else counts as of ``PlainCounts``: z has
    "zero_logit", logit π, (rows, K), beside these.

    The mean is (1 − π)m, the variance (1 − π)(m + (α + π)m²).
    """

    @property
    def width(self) -> int:
        return 2 * self.targets

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        logit = z["zero_logit"]
        counted = log_probability_of_number(z, y) - jax.nn.softplus(logit)
        zero = jnp.logaddexp(-jax.nn.softplus(-logit), jnp.where(y == 0, counted, 0))
        return jnp.sum(jnp.where(y == 0, zero, counted), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return jax.nn.sigmoid(-z["zero_logit"]) * jnp.exp(z["log_mean"])

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        moments, share = CountMoments.of(z), jax.nn.sigmoid(z["zero_logit"])
        square = moments.mean**2
        return jax.nn.sigmoid(-z["zero_logit"]) * (moments.mean + (moments.dispersion + share) * square)

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        share, rest = jax.nn.sigmoid(z["zero_logit"]), jax.nn.sigmoid(-z["zero_logit"])
        return jnp.where(y < 0, 0, jnp.clip(share + rest * cdf_of_number(z, y), 0, 1))


def log_probability_of_number(z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
    """log p(y) of each target without excess zeros, in nats; −∞ where y is no count.

    Parameters
    ----------
    z : dict of arrays
        "log_mean", and "dispersion" unless it is 0.
    y : array of shape (rows, targets)
        Any numbers.

    Returns
    -------
    array of shape (rows, targets)
        Logarithms of probabilities.
    """
    possible = (y >= 0) & (y == jnp.floor(y)) & (y < jnp.inf)
    each = log_probability(CountMoments.of(z), jnp.where(possible, y, 0))
    return jnp.where(possible, each, -jnp.inf)


def cdf_of_number(z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
    """P(Y ≤ y) of each target without excess zeros.

    Parameters
    ----------
    z, y
        As for ``log_probability_of_number``.

    Returns
    -------
    array of shape (rows, targets)
        Probabilities.
    """
    inside = (y >= 0) & (y < jnp.inf)
    values = cumulative_probability(CountMoments.of(z), jnp.where(inside, jnp.floor(y), 0))
    return jnp.where(inside, values, jnp.where(y < 0, 0, 1).astype(values.dtype))


@register_dataclass
@dataclass(frozen=True)
class Poisson(WithoutParameters, PlainCounts):
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
class NegativeBinomial(FixedOrLearned, PlainCounts):
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
        return {"log_mean": self.log_mean(f), "dispersion": dispersion_of_rows(self, phi, f)}


@register_dataclass
@dataclass(frozen=True)
class ZeroInflatedPoisson(WithoutParameters, ZeroInflatedCounts):
    """Counts with excess zeros: 0 with probability π, else Poisson(m); f = (log m − level, logit π),
    2K outputs for K targets.

    Both depend on the inputs. Outputs near 0 mean π = ½, and the prior of the network is that of π,
    too. The mean is (1 − π)m.

    Parameters
    ----------
    level : float or None
        The log mean m where f = 0, as in ``Poisson``.
    targets : int
        K, the number of targets.
    """

    level: float | None = None
    targets: int = static(default=1)

    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        return {"log_mean": self.log_mean(f[:, : self.targets]), "zero_logit": f[:, self.targets :]}


@register_dataclass
@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(FixedOrLearned, ZeroInflatedCounts):
    """Overdispersed counts with excess zeros: 0 with probability π, else ``NegativeBinomial`` with
    mean m and dispersion α; f = (log m − level, logit π), 2K outputs for K targets.

    Parameters
    ----------
    dispersion : float or None
        α > 0. None learns log α per target, with the prior α ~ Gamma(shape, rate).
        ``ZeroInflatedPoisson`` is the limit α = 0.
    level : float or None
        The log mean m where f = 0, as in ``Poisson``.
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

    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        counted, zero_logit = f[:, : self.targets], f[:, self.targets :]
        return {
            "log_mean": self.log_mean(counted),
            "dispersion": dispersion_of_rows(self, phi, counted),
            "zero_logit": zero_logit,
        }


def dispersion_of_rows(
    likelihood: FixedOrLearned, phi: Params, f: Float[Array, "rows targets"]
) -> Float[Array, "rows targets"]:
    """The dispersion α at every row.

    Parameters
    ----------
    likelihood : FixedOrLearned
        A likelihood whose ``parameter`` is the dispersion.
    phi : dict of arrays
        Its parameters.
    f : array of shape (rows, targets)
        Outputs, for the shape and the dtype.

    Returns
    -------
    array of shape (rows, targets)
        Positive numbers.
    """
    fixed = likelihood.fixed
    dispersion = jnp.exp(phi["log_dispersion"]) if fixed is None else jnp.asarray(fixed, f.dtype)
    return jnp.broadcast_to(dispersion, f.shape)


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
    "zero-inflated-poisson": Entry(
        ZeroInflatedPoisson,
        "-log(1 - π) + m - y log m + log y!, at 0 -log(π + (1 - π) e^-m); log m = level + g, f = (g, logit π)",
        "negative log probability of a mixture of 0 and a Poisson distribution",
        "m - y by g and π by logit π; at 0, with w = (1 - π)e^-m/(π + (1 - π)e^-m), wm by g and π + w - 1 by logit π",
        "whole numbers of at least 0",
        "counts with more zeros than a Poisson distribution has: nothing could happen in some rows",
    ),
    "zero-inflated-negative-binomial": Entry(
        ZeroInflatedNegativeBinomial,
        "-log(1 - π) - log p(y), at 0 -log(π + (1 - π) p(0)), p as of negative-binomial; f = (g, logit π)",
        "negative log probability of a mixture of 0 and a negative binomial distribution",
        "(m - y)/(1 + αm) by g and π by logit π; at 0, with w = (1 - π)p(0)/(π + (1 - π)p(0)), "
        "wm/(1 + αm) by g and π + w - 1 by logit π",
        "whole numbers of at least 0",
        "overdispersed counts with excess zeros: visits, claims, catches",
    ),
}
