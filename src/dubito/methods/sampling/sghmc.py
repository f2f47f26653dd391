"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin, ICML 2014), with cycles (Zhang et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key
from dubito.methods.sampling.sgld import (
    SGLDState,
    StochasticGradientSampler,
    check_sampler,
    first_state,
    phase,
    slope,
    store_point,
)
from dubito.models.model import Batch, Model
from dubito.training.method import Clock
from dubito.training.packing import pack


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class SGHMC(StochasticGradientSampler):
    """Draws by momentum descent with noise, from mini-batches. With ℓ = ``learning_rate``/N, α = ``friction``, T =
    ``temperature`` (Chen et al., eq. 15, taking the gradients' own noise as none):

        v ← (1 − α) v + ℓ ∇ log p̂(D, θ) + N(0, 2αℓT),    θ ← θ + v,    log p̂ in nats, estimated from a batch

    This is training with momentum 1 − α and a learning rate per example, and noise; with α = 1 it is SGLD, and the bias and
    the warning of it are SGLD's. At one rate a direction is forgotten about 1/α times as fast, and the noise of mini-batches,
    which counts against 2αℓT, is 1/α times as bad; what the momentum gains is in the discretization, whose error grows with
    ℓΛ and not with ℓΛ/α.

    Parameters
    ----------
    friction : float
        α, 1 − the momentum.
    epochs : int, optional
        None: 1,000, or on fewer rows as many as show 400,000 in all.
    draws, burn_in, chains, cycles, temperature, batch_size, learning_rate, schedule
        As in ``SGLD``.
    """

    learning_rate: float | None = 1e-3
    friction: float = 0.1

    least_epochs: ClassVar[int] = 1000

    def check(self, model: Model) -> None:
        check_sampler(self, model)
        if not 0 < self.friction <= 1:
            raise ValueError(f"friction is 1 − the momentum, above 0 and at most 1; got {self.friction!r}")

    def init(self, model: Model, batch: Batch, key: Key) -> SGLDState:
        del batch
        params = pack(model.init(key))
        return first_state(self, params, jax.tree.map(jnp.zeros_like, params))

    def step(self, model: Model, state: SGLDState, batch: Batch, clock: Clock, key: Key) -> tuple[SGLDState, Any]:
        gradient, info = slope(model, state.params, batch)
        now = phase(self, clock)
        width = jnp.sqrt(2 * self.friction * now.rate * self.temperature / batch.size)
        noise = prng.normal_like(key, state.params)
        momentum = jax.tree.map(
            lambda v, g, e: ((1 - self.friction) * v + width * e - now.rate * g).astype(v.dtype),
            state.momentum,
            gradient,
            noise,
        )
        params = jax.tree.map(jnp.add, state.params, momentum)
        return store_point(state, params, momentum, batch, now), info

    def recursion(self, rate: float, curvature: float, size: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Of (θ, v)."""
        a, decay = rate * curvature, 1 - self.friction
        return np.array([[1 - a, decay], [-a, decay]]), np.ones(2), 2 * self.friction * rate * self.temperature / size
