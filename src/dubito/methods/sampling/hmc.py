"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal, "MCMC using Hamiltonian dynamics", 2011), with BlackJAX's kernel."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling import mcmc


@register_dataclass
@dataclass(frozen=True)
class HMC:
    """Draws from p(θ | D) itself: the parameters move as a body in the potential −log p(D, θ), in nats,

        H(θ, m) = −log p(D, θ) + ½ mᵀM⁻¹m,    accepted with probability min(1, e^−ΔH)

    along trajectories of ``trajectory`` time units (π/2 turns a standard normal into an independent one), their length
    drawn anew within a half of it up and down, of at most ``max_steps`` gradients of all rows. Each chain descends by Adam
    first (``descent`` steps), learns step size (for the acceptance rate ``acceptance``) and mass matrix (``mass``:
    "diagonal" or "dense") in ``warmup`` draws as Stan does, and keeps every ``thin``-th of those after. ``anneal``: so many draws
    before the warmup, in which the likelihood's power rises from e⁻⁷ to 1, so that chains find better modes than a descent does.

    Exact for enough draws, at many gradients of all rows each; for small networks, as the yardstick. Chains that do not meet
    (R-hat of predictions, ``diagnostics``) have each found a mode of its own.
    """

    draws: int = static(default=1000)
    warmup: int = static(default=500)
    chains: int = static(default=4)
    trajectory: float = math.pi / 2
    max_steps: int = static(default=256)
    acceptance: float = 0.8
    mass: str = static(default="diagonal")
    thin: int = static(default=1)
    anneal: int = static(default=0)
    descent: int = static(default=500)

    batch_size = None
    epochs = property(mcmc.epochs)
    members = mcmc.members

    def check(self, model):
        mcmc.check(self, model)
        check_energy(self)
        if not self.trajectory > 0 or not self.max_steps >= 1:
            raise ValueError(
                f"trajectory and max_steps must be positive, got {self.trajectory!r} and {self.max_steps!r}"
            )

    def init(self, model, batch, key):
        del batch
        return mcmc.first(self, model, key, mcmc.adaptation(self)[0])

    def step(self, model, state, batch, clock, key):
        return mcmc.hamiltonian(self, model, state, batch, clock, key)

    def kernel(self, key, state, density, step_size, inverse_mass):
        from blackjax.mcmc import hmc

        key_length, key_move = jax.random.split(key)
        length = self.trajectory * jax.random.uniform(key_length, (), step_size.dtype, 0.5, 1.5)
        steps: Any = jnp.clip(jnp.round(length / step_size).astype(jnp.int32), 1, self.max_steps)
        return hmc.build_kernel()(key_move, hmc.HMCState(*state), density, step_size, inverse_mass, steps)

    def finish(self, model, trained, key, run):
        del run
        return mcmc.merged(self, model, trained.states, key)


def check_energy(method):
    """What methods with a mass matrix and an acceptance rate ask for."""
    if method.mass not in ("diagonal", "dense"):
        raise ValueError(f"mass={method.mass!r} is unknown. Choose 'diagonal' or 'dense'.")
    if not 0 < method.acceptance < 1:
        raise ValueError(f"acceptance is a rate strictly between 0 and 1, got {method.acceptance!r}")
