"""Gaussian noise: constant, input-dependent, and for censored values."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Array, Bool, Float

from dubito._check import check_choice
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods import base
from dubito.models.likelihoods.base import LOG_2PI, OutcomeParams
from dubito.models.likelihoods.noise_parameters import FixedOrLearned


class GaussianNoise(base.LocationScale):
    """Base of likelihoods with y ~ N(mean, scale²)."""

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["scale"] ** 2

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        return special.ndtr((y - z["mean"]) / z["scale"])

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"] + z["scale"] * jax.random.normal(key, z["mean"].shape, z["mean"].dtype)


@dataclass(frozen=True)
class HomoscedasticNoise(FixedOrLearned, GaussianNoise):
    """Base of likelihoods with y ~ N(f, 1/τ) and one noise precision τ per target."""

    precision: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    parameter = "precision"
    row_information = 0.5

    @property
    def width(self) -> int:
        return self.targets

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        scale = jnp.exp(-0.5 * self.log_parameter(phi, f.dtype))
        return {"mean": f, "scale": jnp.broadcast_to(scale, f.shape)}


@register_dataclass
@dataclass(frozen=True)
class Gaussian(HomoscedasticNoise):
    """y ~ N(f, 1/τ), with one noise precision τ per target.

    Parameters
    ----------
    precision : float or None
        τ, in units of 1/target² (standardized in the estimators). None learns log τ with the prior
        τ ~ Gamma(shape, rate).
    shape, rate : float
        The Gamma prior of a learned τ; its density is stated for log τ.
    targets : int
        K, the number of targets.

    Examples
    --------
    >>> import dubito
    >>> dubito.Gaussian(precision=4.0, targets=2).width
    2
    """

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        return gaussian_log_prob(z, y)


@register_dataclass
@dataclass(frozen=True)
class HeteroscedasticGaussian(base.WithoutParameters, GaussianNoise):
    """y ~ N(m, σ²), both from the network: f = (m, ρ), 2K outputs for K targets.

    Parameters
    ----------
    floor : float
        The smallest σ, in units of the target.
    targets : int
        K, the number of targets.
    link : str
        ``"softplus"``: σ = softplus(ρ) + floor; ``"exp"``: σ = e^ρ + floor.

    Raises
    ------
    ValueError
        For another ``link``.
    """

    floor: float = 1e-3
    targets: int = static(default=1)
    link: str = static(default="softplus")

    def __post_init__(self) -> None:
        check_choice("link", self.link, ("softplus", "exp"))

    @property
    def width(self) -> int:
        return 2 * self.targets

    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        positive = {"softplus": jax.nn.softplus, "exp": jnp.exp}[self.link]
        return {"mean": f[:, : self.targets], "scale": positive(f[:, self.targets :]) + self.floor}

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        return gaussian_log_prob(z, y)


@register_dataclass
@dataclass(frozen=True)
class CensoredGaussian(HomoscedasticNoise):
    """y ~ N(f, 1/τ), where some values are only known to be at least as large as recorded
    (right-censored).

    y has shape (rows, 2K): the K values, then K marks, 0 where the value was observed and 1 where
    it is censored. Scores also accept (rows, K), all observed. An observed value contributes the Gaussian
    density, a censored one log P(Y ≥ y). Mean, variance, cdf, quantiles and samples are those of
    the uncensored variable.

    Parameters
    ----------
    precision : float or None
        τ, as in ``Gaussian``.
    shape, rate : float
        The Gamma prior of a learned τ.
    targets : int
        K, the number of targets.
    """

    columns_per_target = 2
    restricts_targets = True
    independent_targets = False
    target_description = (
        "two columns for each target: all values, then all marks, 1 where the true value is at least as large, else 0"
    )

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        return np.all((y[:, self.targets :] == 0) | (y[:, self.targets :] == 1), axis=1)

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows columns"]) -> Float[Array, " rows"]:
        error = (y[:, : self.targets] - z["mean"]) / z["scale"]
        seen = -0.5 * error**2 - jnp.log(z["scale"]) - 0.5 * LOG_2PI
        if y.shape[1] > self.targets:
            seen = jnp.where(y[:, self.targets :] > 0, special.log_ndtr(-error), seen)
        return jnp.sum(seen, axis=1)


def gaussian_log_prob(z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
    """The log density Σ_k log N(y_k | mean_k, scale_k²) of each row.

    Parameters
    ----------
    z : dict of arrays
        "mean" and "scale", (rows, targets) each.
    y : array of shape (rows, targets)
        The targets.

    Returns
    -------
    array of shape (rows,)
        In nats.
    """
    error = (y - z["mean"]) / z["scale"]
    return jnp.sum(-0.5 * error**2 - jnp.log(z["scale"]) - 0.5 * LOG_2PI, axis=1)


ENTRIES: dict[str, base.Entry] = {
    "gaussian": base.Entry(
        Gaussian, "½τ(y - f)² - ½ log(τ/2π)", "squared error", "τ(f - y)", "numbers", "constant noise, no outliers"
    ),
    "heteroscedastic": base.Entry(
        HeteroscedasticGaussian,
        "½u² + log σ + ½ log 2π, u = (y - m)/σ, f = (m, ρ), σ = softplus(ρ) + floor",
        "squared error weighted by a learned precision",
        "-u/σ by m, (1 - u²)/σ · sigmoid(ρ) by ρ",
        "numbers",
        "noise that depends on the inputs",
    ),
    "censored": base.Entry(
        CensoredGaussian,
        "that of gaussian; where censored, -log Φ(u), u = √τ(f - y)",
        "squared error, and for censored rows the negative log probability of exceeding the bound (tobit)",
        "τ(f - y); where censored, -√τ φ(u)/Φ(u)",
        "numbers, and marks: 1 where the true value is at least as large",
        "some values are lower bounds: ongoing durations, saturated sensors",
    ),
}
