"""Noise with heavier tails than a Gaussian's: Student's t and Laplace."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._check import is_whole
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import Entry, LocationScale, OutcomeParams, WithoutParameters
from dubito.models.likelihoods.noise_parameters import FixedOrLearned

LARGEST_ERROR = 1e18  # of Student's t, in units of the noise: its square fits into float32


@register_dataclass
@dataclass(frozen=True)
class StudentT(WithoutParameters, LocationScale):
    """y ~ m + σ t_ν, for errors with heavier tails than a Gaussian's; f = (m, log σ), 2K outputs
    for K targets.

    Parameters
    ----------
    df : int
        ν, an even number of at least 4: the variance σ²ν/(ν − 2) is finite and the cdf is
        algebraic.
    targets : int
        K, the number of targets.

    Raises
    ------
    ValueError
        For another ``df``.
    """

    df: int = static(default=4)
    targets: int = static(default=1)

    def __post_init__(self) -> None:
        if not (is_whole(self.df, 4) and self.df % 2 == 0):
            raise ValueError(f"df must be an even whole number of at least 4, got {self.df!r}")

    @property
    def width(self) -> int:
        return 2 * self.targets

    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        return {"mean": f[:, : self.targets], "scale": jnp.exp(f[:, self.targets :])}

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        error = (y - z["mean"]) / z["scale"]
        half = 0.5 * (self.df + 1)
        level = math.lgamma(half) - math.lgamma(0.5 * self.df) - 0.5 * math.log(math.pi * self.df)
        return jnp.sum(level - half * jnp.log1p(error**2 / self.df) - jnp.log(z["scale"]), axis=1)

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["scale"] ** 2 * (self.df / (self.df - 2))

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        # F(u) = ½ + ½ s Σ_{k<ν/2} C(2k, k) (q/4)^k with q = ν/(ν + u²) and s = sign(u) √(1 − q), for even ν
        u = (y - z["mean"]) / z["scale"]
        u = jnp.clip(u, -LARGEST_ERROR, LARGEST_ERROR)
        q = self.df / (self.df + u**2)
        highest, *others = (math.comb(2 * k, k) for k in reversed(range(self.df // 2)))
        series: Any = float(highest)
        for coefficient in others:
            series = series * (q / 4) + coefficient
        return 0.5 + 0.5 * u / jnp.sqrt(self.df + u**2) * series

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"] + z["scale"] * jax.random.t(key, self.df, z["mean"].shape, z["mean"].dtype)


@register_dataclass
@dataclass(frozen=True)
class LaplaceNoise(FixedOrLearned, LocationScale):
    """y ~ Laplace(f, b), with one scale b per target: the criterion is the absolute error
    |y − f|/b, and f is the median.

    Parameters
    ----------
    scale : float or None
        b, in units of the target (standardized in the estimators). None learns log b with the prior
        1/b ~ Gamma(shape, rate).
    shape, rate : float
        The Gamma prior of a learned 1/b; its density is stated for log b.
    targets : int
        K, the number of targets.
    """

    scale: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    parameter = "scale"
    inverse = True

    @property
    def width(self) -> int:
        return self.targets

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        return {"mean": f, "scale": jnp.broadcast_to(jnp.exp(self.log_parameter(phi, f.dtype)), f.shape)}

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        return jnp.sum(-jnp.abs((y - z["mean"]) / z["scale"]) - jnp.log(2 * z["scale"]), axis=1)

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return 2 * z["scale"] ** 2

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        u = (y - z["mean"]) / z["scale"]  # a separate exponential for each tail: neither loses digits nor overflows
        return 0.5 * jnp.exp(jnp.minimum(u, 0)) - 0.5 * jnp.expm1(-jnp.maximum(u, 0))

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"] + z["scale"] * jax.random.laplace(key, z["mean"].shape, z["mean"].dtype)


ENTRIES: dict[str, Entry] = {
    "student-t": Entry(
        StudentT,
        "½(ν + 1) log(1 + u²/ν) + log σ + log √(πν) Γ(ν/2)/Γ(ν/2 + ½), u = (y - m)/σ, f = (m, log σ)",
        "a robust criterion, logarithmic in large errors",
        "-(ν + 1)u/(σ(ν + u²)) by m, 1 - (ν + 1)u²/(ν + u²) by log σ",
        "numbers",
        "outliers that should have little influence",
    ),
    "laplace": Entry(
        LaplaceNoise,
        "|y - f|/b + log 2b",
        "absolute error",
        "sign(f - y)/b",
        "numbers",
        "the median is of interest; some errors are large",
    ),
}
