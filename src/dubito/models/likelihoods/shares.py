"""The likelihood of shares, numbers strictly between 0 and 1: beta."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import Entry, OutcomeParams
from dubito.models.likelihoods.gamma_functions import SMALLEST, beta_cdf, beta_log_density
from dubito.models.likelihoods.noise_parameters import FixedOrLearned, limit_softly


@register_dataclass
@dataclass(frozen=True)
class Beta(FixedOrLearned):
    """Shares y ~ Beta(mφ, (1 − m)φ) with mean m, logit m = f, and one precision φ per target: the
    variance is m(1 − m)/(φ + 1).

    Shares are not scaled, and shares nearer to 1 than 6e-8 count as 1 − 6e-8, since float32 rounds
    them to 1. 0 and 1 have no density: shares that reach them are counts of a total, or
    need to be moved inside. Beyond |f| = 25 the logit grows only logarithmically in f.

    Parameters
    ----------
    precision : float or None
        φ > 0. None learns log φ with the prior φ ~ Gamma(shape, rate).
    shape, rate : float
        The Gamma prior of a learned φ; its density is stated for log φ.
    targets : int
        K, the number of targets.
    """

    precision: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    task = "regression"
    parameter = "precision"
    standardizes_targets = False
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    restricts_targets = True
    independent_targets = True
    target_description = "numbers strictly between 0 and 1"

    @property
    def width(self) -> int:
        return self.targets

    def join(self, f: Float[Array, "rows targets"], phi: Params) -> OutcomeParams:
        precision, logit = jnp.exp(self.log_parameter(phi, f.dtype)), limit_softly(f)
        return {
            "mean": jax.nn.sigmoid(logit),
            "rest": jax.nn.sigmoid(-logit),  # 1 − m, which keeps its digits where m is nearly 1
            "precision": jnp.broadcast_to(precision, f.shape),
        }

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        possible = (y > 0) & (y < 1)
        inside = jnp.where(possible, y, 0.5)
        each = beta_log_density(z["mean"], z["rest"], z["precision"], inside) - jnp.log(inside) - jnp.log1p(-inside)
        return jnp.sum(jnp.where(possible, each, -jnp.inf), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"]

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"] * z["rest"] / (z["precision"] + 1)

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        return beta_cdf(z["mean"], z["rest"], z["precision"], y)

    def sample(self, key: Key, z: OutcomeParams) -> Float[Array, "rows targets"]:
        mean, rest, precision = z["mean"], z["rest"], z["precision"]
        drawn = jax.random.beta(key, precision * mean, precision * rest, mean.shape, mean.dtype)
        return jnp.clip(drawn, SMALLEST, 1 - 0.5 * jnp.finfo(mean.dtype).eps)

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        return np.all((y > 0) & (y < 1), axis=1)


ENTRIES: dict[str, Entry] = {
    "beta": Entry(
        Beta,
        "log B(mφ, (1 - m)φ) - (mφ - 1) log y - ((1 - m)φ - 1) log(1 - y), m = sigmoid(f)",
        "negative log density of the beta distribution",
        "φm(1 - m)(ψ(mφ) - ψ((1 - m)φ) - log y + log(1 - y)), ψ the digamma function",
        "numbers strictly between 0 and 1",
        "shares and rates: percentages of a whole, never exactly 0 or 1",
    ),
}
