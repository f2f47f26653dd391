"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal, "MCMC using Hamiltonian dynamics", 2011), with BlackJAX's kernel."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dubito._check import check_whole
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling.hamiltonian import HamiltonianMethod, check_hamiltonian
from dubito.methods.sampling.mcmc import Density, Mass
from dubito.methods.settings import check_intervals
from dubito.methods.types import Key, Model


@register_dataclass
@dataclass(frozen=True)
class HMC(HamiltonianMethod):
    """Draws from p(θ | D) itself: the parameters move as a body does in the potential −log p(D, θ), in nats,

        H(θ, m) = −log p(D, θ) + ½ mᵀM⁻¹m,    accepted with probability min(1, e^−ΔH)

    Each chain starts with ``warm_start_steps`` of Adam and adapts step size and mass matrix as Stan
    does. Exact for enough draws, at many gradients of all rows each; for small networks, as a
    reference. Chains that disagree (R-hat of predictions, ``diagnostics``) have each found a
    different mode.

    Parameters
    ----------
    draws, warmup, chains : int
        Draws that each chain stores, draws of adaptation before, and chains.
    trajectory : float
        The length of trajectories in time units (π/2 turns a standard normal into an independent
        one), redrawn between 0.5 and 1.5 times it.
    max_steps : int
        The largest number of gradients of all rows in a trajectory.
    acceptance : float
        The acceptance rate that the step size is adapted to.
    mass : {"diagonal", "dense"}
        The mass matrix.
    thin : int
        Every ``thin``-th draw is stored.
    anneal : int
        Draws before the warmup in which the likelihood's power rises from e⁻⁷ to 1, so that chains
        find better modes than a descent does.
    warm_start_steps : int
        Steps of Adam before annealing and warmup.
    """

    trajectory: float = math.pi / 2
    max_steps: int = static(default=256)

    def check(self, model: Model) -> None:
        check_hamiltonian(self, model)
        check_intervals(self, trajectory="(0, inf)")
        check_whole("max_steps", self.max_steps, 1)

    def kernel(self, key: Key, state: Any, density: Density, step_size: Any, inverse_mass: Mass) -> tuple[Any, Any]:
        from blackjax.mcmc import hmc

        key_length, key_move = jax.random.split(key)
        length = self.trajectory * jax.random.uniform(key_length, (), step_size.dtype, 0.5, 1.5)
        steps: Any = jnp.clip(jnp.round(length / step_size).astype(jnp.int32), 1, self.max_steps)
        return hmc.build_kernel()(key_move, hmc.HMCState(*state), density, step_size, inverse_mass, steps)
