"""A network for the noise: a second network beside the one for the mean, and its training."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import OutcomeParams, WithoutParameters
from dubito.models.likelihoods.gaussian import GaussianNoise, gaussian_log_prob

BOUND = 5.0  # of |h|, the logarithm of the noise relative to its level


@register_dataclass
@dataclass(frozen=True)
class Bounded:
    """A network whose outputs h are kept within ±5.

    Parameters
    ----------
    network : network
        The network whose outputs are bounded.
    """

    network: Any

    scales: ClassVar[None] = None

    def init(self, key: Key) -> Params:
        return self.network.init(key)

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        return BOUND * jnp.tanh(self.network.apply(params, x) / BOUND)


@register_dataclass
@dataclass(frozen=True)
class MeanAndNoiseNetwork:
    """A network of outputs (mean, log σ) with log σ = level + h(x).

    Parameters
    ----------
    mean : network
        The network of the mean.
    noise : network or None
        The network of h, whose outputs are kept within ±5; None is h = 0.
    targets : int
        K, the number of targets.
    noise_std : tuple of float, optional
        For each target the standard deviation of the noise and of the error that all members have in
        common, as ``CrossFit`` estimates it. No part of the network; see ``BayesianRegressor.noise_std_``.
    """

    mean: Any
    noise: Any
    targets: int = static(default=1)
    noise_std: tuple[float, ...] | None = field(default=None, compare=False)

    scales: ClassVar[None] = None

    def init(self, key: Key) -> Params:
        key_mean, key_noise = jax.random.split(key)
        shape = {} if self.noise is None else self.noise.init(key_noise)
        noise = {"level": jnp.zeros(self.targets, jnp.float32), "shape": shape}
        return {"mean": self.mean.init(key_mean), "noise": noise}

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        with jax.named_scope("mean"):
            mean = self.mean.apply(params["mean"], x)[:, : self.targets]
        with jax.named_scope("noise"):
            log_scale = jnp.broadcast_to(params["noise"]["level"][None], mean.shape)
            if self.noise is not None:
                log_scale = log_scale + Bounded(self.noise).apply(params["noise"]["shape"], x)
        return jnp.concatenate([mean, log_scale], axis=1)


@register_dataclass
@dataclass(frozen=True)
class LogScale(WithoutParameters, GaussianNoise):
    """y ~ N(0, e^2h) with h from the network: −log p = h + ½ y² e^−2h, up to a constant.

    Parameters
    ----------
    targets : int
        K, the number of targets.
    """

    targets: int = static(default=1)

    @property
    def width(self) -> int:
        return self.targets

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        return gaussian_log_prob(z, y)

    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        return {"mean": jnp.zeros_like(f), "scale": jnp.exp(f)}


def noise_std(model: Any) -> tuple[float, ...] | None:
    """``MeanAndNoiseNetwork.noise_std`` of a model, in its units; None for models that have none."""
    return model.network.noise_std if isinstance(model.network, MeanAndNoiseNetwork) else None
