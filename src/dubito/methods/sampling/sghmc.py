"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin, ICML 2014), with cycles (Zhang et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling.sgld import SGLD, begun, kept, phase, slope
from dubito.training import optimizers


@register_dataclass
@dataclass(frozen=True)
class SGHMC:
    """Draws by momentum descent with noise, from mini-batches. With ℓ = ``learning_rate``/N, α = ``friction``, T =
    ``temperature`` (Chen et al., eq. 15, taking the gradients' own noise as none):

        v ← (1 − α) v + ℓ ∇ log p̂(D, θ) + N(0, 2αℓT),    θ ← θ + v,    log p̂ in nats, estimated from a batch

    This is training with momentum 1 − α and a learning rate per example, and noise; with α = 1 it is SGLD. ``draws``,
    ``chains``, ``burn_in``, ``cycles`` and ``schedule`` are as for ``SGLD``, and so are what is wrong and the warning of it.
    At one rate a direction is forgotten about 1/α times as fast, and the noise of mini-batches, which counts against 2αℓT,
    is 1/α times as bad; what the momentum gains is in the discretization, whose error grows with ℓΛ and not with ℓΛ/α.
    """

    learning_rate: float = 1e-3
    friction: float = 0.1
    epochs: int | None = None
    batch_size: int | None = static(default=64)
    draws: int = static(default=100)
    burn_in: float = 0.5
    chains: int = static(default=4)
    cycles: int = 1
    schedule: str = static(default="constant")
    temperature: float = 1.0

    optimizer = "sgd"
    least_epochs = 1000  # where epochs is None
    members = SGLD.members
    finish = SGLD.finish

    def check(self: Any, model):
        SGLD.check(self, model)
        if not 0 < self.friction <= 1:
            raise ValueError(f"friction is 1 − the momentum, above 0 and at most 1; got {self.friction!r}")

    def init(self, model, batch, key):
        del batch
        params = optimizers.packed(self, model.init(key))
        return begun(self, params, jax.tree.map(jnp.zeros_like, params))

    def step(self, model, state, batch, clock, key):
        gradient, info = slope(model, state.params, batch)
        rate, late, place = phase(self, clock)
        width = jnp.sqrt(2 * self.friction * rate * self.temperature / batch.size)
        noise = prng.normal_like(key, state.params)
        momentum = jax.tree.map(
            lambda v, g, e: ((1 - self.friction) * v + width * e - rate * g).astype(v.dtype),
            state.momentum,
            gradient,
            noise,
        )
        params = jax.tree.map(jnp.add, state.params, momentum)
        return kept(state, params, momentum, batch, rate, late, place), info

    def recursion(self, rate, curvature, size):
        """As SGLD's, of (θ, v)."""
        a, decay = rate * curvature, 1 - self.friction
        return np.array([[1 - a, decay], [-a, decay]]), np.ones(2), 2 * self.friction * rate * self.temperature / size
