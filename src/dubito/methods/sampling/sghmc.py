"""Stochastic gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin, ICML 2014), with cycles (Zhang et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dubito._jax.pytree import register_dataclass
from dubito.methods.sampling.sgld import Recursion, SGLDState, StochasticGradientSampler, check_sampler, first_state
from dubito.methods.settings import check_intervals
from dubito.methods.types import Batch, Key, Model, Params, Scalar
from dubito.training.method import TASKS, Recipe
from dubito.training.packing import pack


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class SGHMC(StochasticGradientSampler):
    """Draws by momentum descent with noise, from mini-batches. With ℓ = ``learning_rate``/N, α = ``friction``, T =
    ``temperature`` (Chen et al., eq. 15, neglecting the gradients' own noise):

        v ← (1 − α) v + ℓ ∇ log p̂(D, θ) + N(0, 2αℓT),    θ ← θ + v,    log p̂ in nats, estimated from a batch

    This is training with momentum 1 − α and a learning rate per example, and noise; with α = 1 it
    is SGLD, and the bias and the warning of it are SGLD's. At the same rate chains mix about
    1/α times as fast, but the noise of mini-batches, relative to 2αℓT, is 1/α times as large.
    Momentum improves the discretization, whose error grows with ℓΛ instead of ℓΛ/α.

    Parameters
    ----------
    friction : float
        α, 1 − the momentum.
    epochs : int, optional
        None: at least 1,000, and enough to process 400,000 rows.
    draws, burn_in, chains, cycles, temperature, batch_size, learning_rate, schedule
        As in ``SGLD``.
    """

    learning_rate: float | None = 1e-3
    friction: float = 0.1

    recipes: ClassVar[dict[str, Recipe] | None] = dict.fromkeys(TASKS, Recipe(least_epochs=1000))

    def check(self, model: Model) -> None:
        check_sampler(self, model)
        check_intervals(self, friction="(0, 1]")

    def init(self, model: Model, batch: Batch, key: Key) -> SGLDState:
        params = pack(model.init(key))
        return first_state(self, params, jax.tree.map(jnp.zeros_like, params))

    def move(self, state: SGLDState, gradient: Params, noise: Params, rate: Scalar) -> tuple[Params, Params]:
        def kicked(v: Array, g: Array, e: Array) -> Array:
            return ((1 - self.friction) * v + e - rate * g).astype(v.dtype)

        momentum = jax.tree.map(kicked, state.momentum, gradient, noise)
        return jax.tree.map(jnp.add, state.params, momentum), momentum

    def recursion(self, rate: float, curvature: float, size: float) -> Recursion:
        # of (θ, v)
        a, decay = rate * curvature, 1 - self.friction
        matrix = np.array([[1 - a, decay], [-a, decay]])
        return Recursion(matrix, np.ones(2), 2 * self.friction * rate * self.temperature / size)
