"""Microcanonical Langevin Monte Carlo (Robnik et al., JMLR 2023; Robnik & Seljak 2024), with BlackJAX's kernel and tuning.

For networks from an ensemble of optimized starts, as Sommer et al. do ("Microcanonical Langevin ensembles", ICLR 2025).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling import mcmc
from dubito.methods.sampling.hmc import HMC


class Tuned(NamedTuple):
    """The direction of motion, a unit vector; the momentum's decoherence length L, step size and diagonal inverse mass."""

    momentum: Any
    length: Any
    step_size: Any
    inverse_mass: Any


@register_dataclass
@dataclass(frozen=True)
class MCLMC:
    """Draws from p(θ | D) by motion at a constant speed, whose direction ∇ log p(D, θ) turns and noise scatters:

        dθ = u dt,    du = (I − uuᵀ)(∇ log p(D, θ)/(P − 1) dt + √(2/L)-noise),    P parameters

    No step is ever rejected, so each costs two gradients of all rows whatever P is; what a finite step size brings is a bias, held
    small by an energy error of variance ``energy`` for each parameter and step. Each chain descends by Adam first (``descent``
    steps), so that the chains are an ensemble of optimized networks; tunes step size, mass and L in ``warmup`` steps, which the
    engine sees as one; and keeps every ``thin``-th step after.

    Cheaper than NUTS where parameters are many; the draws are not exact, and chains stay in the modes in which they start.
    """

    draws: int = static(default=250)
    warmup: int = static(default=3000)
    chains: int = static(default=4)
    thin: int = static(default=20)
    energy: float = 5e-4
    descent: int = static(default=1000)

    batch_size = None
    members = mcmc.members
    finish = HMC.finish

    @property
    def epochs(self):
        return mcmc.descents(self) + 1 + self.draws

    def check(self, model):
        mcmc.check(self, model)
        if self.warmup < 100:
            raise ValueError(f"warmup must be at least 100 steps, to find the step size in; got {self.warmup}")
        if not self.energy > 0:
            raise ValueError(f"energy, an error's variance, must be positive, got {self.energy!r}")

    def init(self, model, batch, key):
        del batch
        mcmc.blackjax_parts()
        key_model, key_momentum = jax.random.split(key)

        def start(size):
            momentum = jax.random.normal(key_momentum, (size,), float)
            one = jnp.ones((), momentum.dtype)
            return Tuned(momentum / jnp.linalg.norm(momentum), one, one, jnp.ones_like(momentum))

        return mcmc.first(self, model, key_model, start)

    def step(self, model, state, batch, clock, key):
        where = mcmc.coordinates(model, jax.eval_shape(model.init, key))
        density = mcmc.log_density(model, where, batch, 1.0)
        number = clock.step - mcmc.descents(self)

        def move(chain):
            tune, sample = (lambda chain, f=f: f(self, density, chain, key) for f in (tuned, moved))
            return jax.lax.cond(number == 0, tune, sample, chain)

        chain = mcmc.descended(self, density, state, batch, clock, move)
        return chain, mcmc.told(model, where, chain, batch)


def tuned(method, density, chain, key):
    """The chain with step size, mass and L, after ``warmup`` steps in which BlackJAX has found them."""
    from blackjax.adaptation.mclmc_adaptation import mclmc_find_L_and_step_size
    from blackjax.mcmc import mclmc

    chain = mcmc.opened(density, chain)  # without a descent before it nobody has
    with mcmc.loose():
        tune: Any = mclmc_find_L_and_step_size
        state, found, _ = tune(
            mclmc.build_kernel(), method.warmup, state_of(chain), key, density, 0.3, 0.3, 0.3, method.energy
        )
    length, step_size = (jnp.asarray(value, chain.position.dtype) for value in (found.L, found.step_size))
    return placed(chain, state, Tuned(state.momentum, length, step_size, found.inverse_mass_matrix))


def moved(method, density, chain, key):
    """The chain ``thin`` steps on, its last position kept."""
    from blackjax.mcmc import mclmc

    learned: Tuned = chain.adaptation
    kernel: Any = mclmc.build_kernel()

    def one(number, loop):
        state, faults = loop
        with mcmc.loose():
            state, info = kernel(
                jax.random.fold_in(key, number), state, density, learned.inverse_mass, learned.length, learned.step_size
            )
        return state, faults + (~info.nonans).astype(jnp.int32)

    state, faults = jax.lax.fori_loop(0, method.thin, one, (state_of(chain), jnp.int32(0)))
    chain = placed(chain, state, learned._replace(momentum=state.momentum))
    return mcmc.kept(chain, True, faults)


def state_of(chain):
    """BlackJAX's state."""
    from blackjax.mcmc.integrators import IntegratorState

    return IntegratorState(chain.position, chain.adaptation.momentum, chain.density, chain.gradient)


def placed(chain, state, learned):
    return chain._replace(
        position=state.position, density=state.logdensity, gradient=state.logdensity_grad, adaptation=learned
    )
