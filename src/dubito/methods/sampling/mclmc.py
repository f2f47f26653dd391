"""Microcanonical Langevin Monte Carlo (Robnik et al., JMLR 2023; Robnik & Seljak 2024), with BlackJAX's kernel and tuning.

Chains start from an ensemble of optimized networks (Sommer et al., "Microcanonical Langevin
ensembles", ICLR 2025).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dubito._check import check_whole
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling import mcmc
from dubito.methods.sampling.mcmc import MCMC, Chain, Density, Vector
from dubito.methods.settings import check_intervals
from dubito.methods.types import Batch, Key, Model, Scalar


class Tuned(NamedTuple):
    """The direction of motion, a unit vector; the momentum's decoherence length L, step size and diagonal inverse mass."""

    momentum: Vector
    length: Scalar
    step_size: Scalar
    inverse_mass: Vector


@register_dataclass
@dataclass(frozen=True)
class MCLMC(MCMC):
    """Draws from p(θ | D) by motion at constant speed, in a direction turned by ∇ log p(D, θ) and by noise:

        dθ = u dt,    du = (I − uuᵀ)(∇ log p(D, θ)/(P − 1) dt + √(2/L)-noise),    P parameters

    No step is rejected, so each costs two gradients of all rows for any P. A finite step size
    causes a bias, which is limited by the energy error's variance. Chains start with
    ``warm_start_steps`` of Adam, so that they are an ensemble of optimized networks; then they tune
    step size, mass and L.

    Cheaper than NUTS for many parameters; the draws are not exact, and chains stay in the
    modes in which they start.

    Parameters
    ----------
    draws, chains : int
        Draws that each chain stores, and chains.
    warmup : int
        Steps of the tuning, one epoch of the loop.
    thin : int
        Every ``thin``-th step is stored.
    energy_variance : float
        The variance of the energy error per parameter and step, to which the step size is tuned.
    warm_start_steps : int
        Steps of Adam before the warmup.
    """

    draws: int = static(default=250)
    warmup: int = static(default=3000)
    thin: int = static(default=20, kw_only=True)
    energy_variance: float = 5e-4
    warm_start_steps: int = static(default=1000, kw_only=True)

    cure: ClassVar[str] = "lower energy_variance"

    @property
    def epochs(self) -> int:
        """The epochs of a run: of the warm start, one of the tuning, and draws."""
        return mcmc.warm_start_epochs(self) + 1 + self.draws

    def check(self, model: Model) -> None:
        mcmc.check_chains(self, model)
        check_whole("warmup", self.warmup, 100)  # steps to find the step size in
        check_intervals(self, energy_variance="(0, inf)")

    def init(self, model: Model, batch: Batch, key: Key) -> Chain:
        mcmc.blackjax_parts()
        key_model, key_momentum = jax.random.split(key)

        def start(size: int) -> Tuned:
            momentum = jax.random.normal(key_momentum, (size,), float)
            one = jnp.ones((), momentum.dtype)
            return Tuned(momentum / jnp.linalg.norm(momentum), one, one, jnp.ones_like(momentum))

        return mcmc.first_chain(self, model, key_model, start)

    def move(self, chain: Chain, density: Density, number: Int[Array, ""], key: Key) -> Chain:
        tune, sample = (partial(function, self, density, key=key) for function in (tune_chain, move_chain))
        return jax.lax.cond(number == 0, tune, sample, chain)


def tune_chain(method: MCLMC, density: Density, chain: Chain, key: Key) -> Chain:
    """The chain with step size, mass and L, after ``warmup`` steps in which BlackJAX has found them."""
    from blackjax.adaptation.mclmc_adaptation import mclmc_find_L_and_step_size
    from blackjax.mcmc import mclmc

    chain = mcmc.with_density(density, chain)  # without a warm start they are not known
    with mcmc.mixed_types():
        tune: Any = partial(mclmc_find_L_and_step_size, mclmc.build_kernel(), method.warmup, state_of(chain), key)
        state, found, _ = tune(density, 0.3, 0.3, 0.3, method.energy_variance)
    length, step_size = (jnp.asarray(value, chain.position.dtype) for value in (found.L, found.step_size))
    return with_state(chain, state, Tuned(state.momentum, length, step_size, found.inverse_mass_matrix))


def move_chain(method: MCLMC, density: Density, chain: Chain, key: Key) -> Chain:
    """The chain ``thin`` steps on, its last position stored."""
    from blackjax.mcmc import mclmc

    kernel, learned = mclmc.build_kernel(), chain.adaptation

    def one(number: Any, loop: Any) -> Any:
        state, faults = loop
        step: Any = partial(kernel, jax.random.fold_in(key, number), state, density)
        with mcmc.mixed_types():
            state, info = step(learned.inverse_mass, learned.length, learned.step_size)
        return state, faults + (~info.nonans).astype(jnp.int32)

    state, faults = jax.lax.fori_loop(0, method.thin, one, (state_of(chain), jnp.int32(0)))
    chain = with_state(chain, state, learned._replace(momentum=state.momentum))
    return mcmc.store_draw(chain, True, faults)


def state_of(chain: Chain) -> Any:
    """BlackJAX's state."""
    from blackjax.mcmc.integrators import IntegratorState

    density: Any = chain.density
    return IntegratorState(chain.position, chain.adaptation.momentum, density, chain.gradient)


def with_state(chain: Chain, state: Any, learned: Tuned) -> Chain:
    """The chain at BlackJAX's ``state``."""
    chain = chain._replace(position=state.position, adaptation=learned)
    return chain._replace(density=state.logdensity, gradient=state.logdensity_grad)
