"""Likelihoods of positive, skewed targets: lognormal and gamma."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Array, Bool, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import LOG_2PI, Entry, OutcomeParams
from dubito.models.likelihoods.gamma_functions import SMALLEST, gamma_cdf, gamma_log_density
from dubito.models.likelihoods.noise_parameters import FixedOrLearned, limit_softly


class PositiveLikelihood(FixedOrLearned):
    """Base of likelihoods of positive targets, with one network output and one parameter of the
    noise per target.

    Estimators divide the target by its median, so that outputs near 0 fit the data, and do not
    shift it.
    """

    task = "regression"
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    restricts_targets = True
    independent_targets = True
    target_description = "positive numbers"

    @property
    def width(self) -> int:
        return self.targets

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        return np.all(y > 0, axis=1)


@register_dataclass
@dataclass(frozen=True)
class LogNormal(PositiveLikelihood):
    """Positive y with log y ~ N(f, 1/τ) and one precision τ per target: the median is e^f, the
    mean e^(f + 1/2τ).

    The criterion is the squared error of log y. Beyond |f| = 25 the log median grows only
    logarithmically in f, so that nothing overflows.

    Parameters
    ----------
    precision : float or None
        τ, the precision of log y, which has no unit. None learns log τ with the prior
        τ ~ Gamma(shape, rate).
    shape, rate : float
        The Gamma prior of a learned τ; its density is stated for log τ.
    targets : int
        K, the number of targets.

    Examples
    --------
    >>> import dubito
    >>> dubito.LogNormal(targets=2).width
    2
    """

    precision: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    parameter = "precision"
    row_information = 0.5

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        scale = jnp.exp(-0.5 * self.log_parameter(phi, f.dtype))
        return {"log_median": limit_softly(f), "log_scale": jnp.broadcast_to(scale, f.shape)}

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        log_y, error = jnp.log(jnp.where(y > 0, y, 1)), log_ratio(z["log_median"], y) / z["log_scale"]
        each = -0.5 * error**2 - jnp.log(z["log_scale"]) - 0.5 * LOG_2PI - log_y
        return jnp.sum(jnp.where(y > 0, each, -jnp.inf), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return jnp.exp(z["log_median"] + 0.5 * z["log_scale"] ** 2)

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        square = z["log_scale"] ** 2
        return jnp.exp(2 * z["log_median"] + square) * jnp.expm1(square)

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        return jnp.where(y > 0, special.ndtr(log_ratio(z["log_median"], y) / z["log_scale"]), 0)

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        error = jax.random.normal(key, z["log_median"].shape, z["log_median"].dtype)
        return jnp.exp(z["log_median"] + z["log_scale"] * error)


def log_ratio(log_median: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log y − log median, elementwise, with the digits of a small difference of large logarithms.

    Parameters
    ----------
    log_median : array
        At most about 40 in magnitude.
    y : array
        Numbers; those of at most 0 count as 1.

    Returns
    -------
    array
        The differences.
    """
    y = jnp.where(y > 0, y, 1)
    far = jnp.log(y) - log_median
    near = jnp.abs(far) < 1
    return jnp.where(near, jnp.log(jnp.where(near, y * jnp.exp(-log_median), 1)), far)


@register_dataclass
@dataclass(frozen=True)
class Gamma(PositiveLikelihood):
    """Positive y with mean m, log m = f, and variance αm²: a gamma distribution of shape 1/α, with
    one dispersion α per target.

    The criterion is the gamma deviance, divided by 2α. Beyond |f| = 25 the log mean grows only
    logarithmically in f, so that nothing overflows.

    Parameters
    ----------
    dispersion : float or None
        α > 0, the squared coefficient of variation, which has no unit; 1 is the exponential
        distribution. None learns log α with the prior 1/α ~ Gamma(shape, rate).
    shape, rate : float
        The Gamma prior of a learned 1/α; its density is stated for log α.
    targets : int
        K, the number of targets.
    """

    dispersion: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    parameter = "dispersion"
    inverse = True

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        dispersion = jnp.exp(self.log_parameter(phi, f.dtype))
        return {"log_mean": limit_softly(f), "dispersion": jnp.broadcast_to(dispersion, f.shape)}

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        inside = jnp.where(y > 0, y, 1)
        each = gamma_log_density(1 / z["dispersion"], inside * jnp.exp(-z["log_mean"])) - jnp.log(inside)
        return jnp.sum(jnp.where(y > 0, each, -jnp.inf), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return jnp.exp(z["log_mean"])

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["dispersion"] * jnp.exp(2 * z["log_mean"])

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        return gamma_cdf(1 / z["dispersion"], y * jnp.exp(-z["log_mean"]))

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        shape = 1 / z["dispersion"]
        log_y = jax.random.loggamma(key, shape, shape.shape, shape.dtype) + jnp.log(z["dispersion"]) + z["log_mean"]
        return jnp.maximum(jnp.exp(log_y), SMALLEST)


ENTRIES: dict[str, Entry] = {
    "lognormal": Entry(
        LogNormal,
        "½τ(log y - f)² - ½ log(τ/2π) + log y",
        "squared error of the logarithm",
        "τ(f - log y)",
        "positive numbers",
        "positive and skewed, with errors that are factors: prices, incomes, concentrations",
    ),
    "gamma": Entry(
        Gamma,
        "(f + y e^-f)/α - (1/α - 1) log y + log α/α + log Γ(1/α), log m = f",
        "gamma deviance, divided by 2α",
        "(1 - y e^-f)/α",
        "positive numbers",
        "positive and skewed, with a standard deviation in proportion to the mean: amounts, claims, durations",
    ),
}
