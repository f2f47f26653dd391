"""Hamiltonian methods: trajectories with an accept step, and Stan's adaptation of step size and mass matrix."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import static
from dubito._jax.types import Key
from dubito.methods.sampling.mcmc import (
    MCMC,
    Chain,
    blackjax_parts,
    check_chains,
    coordinates,
    first_chain,
    log_density,
    log_info,
    mixed_types,
    store_draw,
    warm_start_epochs,
    warm_start_or,
    with_density,
)
from dubito.models.model import Batch, Model
from dubito.training.method import Clock

FIRST_STEP = 0.1  # the first step size, in prior standard deviations
COLDEST = 7.0  # −log of the likelihood's power where annealing begins


class Adaptation(NamedTuple):
    """Stan's: the step size by dual averaging, the inverse mass matrix by the covariance of a window's positions."""

    averaging: Any
    covariance: Any
    step_size: Any
    inverse_mass: Any


@dataclass(frozen=True)
class HamiltonianMethod(MCMC):
    """Hamiltonian trajectories with Stan's adaptation of step size and mass matrix.

    Parameters
    ----------
    acceptance : float
        The acceptance rate that the step size is adapted to.
    mass : {"diagonal", "dense"}
        The mass matrix.
    anneal : int
        Draws before the warmup in which the likelihood's power rises from e⁻⁷ to 1, so that chains find better modes than a
        descent does.
    """

    acceptance: float = field(default=0.8, kw_only=True)
    mass: str = static(default="diagonal", kw_only=True)
    anneal: int = static(default=0, kw_only=True)

    cure: ClassVar[str] = "raise acceptance (to 0.95)"

    @abstractmethod
    def kernel(self, key: Key, state: Any, density: Callable[[Any], Any], step_size: Any, inverse_mass: Any) -> Any:
        """BlackJAX's (state, info) after one transition from ``state`` = (position, density, gradient)."""

    @property
    def epochs(self) -> int:
        return warm_start_epochs(self) + self.anneal + self.warmup + self.thin * self.draws

    def init(self, model: Model, batch: Batch, key: Key) -> Chain:
        del batch
        return first_chain(self, model, key, adaptation(self)[0])

    def step(self, model: Model, state: Chain, batch: Batch, clock: Clock, key: Key) -> tuple[Chain, Any]:
        return hamiltonian_step(self, model, state, batch, clock, key)


def check_hamiltonian(method: HamiltonianMethod, model: Model) -> None:
    """``check_chains``, and the settings of a mass matrix, an acceptance rate and annealing."""
    check_chains(method, model)
    if not (isinstance(method.anneal, int) and method.anneal >= 0):
        raise ValueError(f"anneal must be a whole number of at least 0, got {method.anneal!r}")
    if method.mass not in ("diagonal", "dense"):
        raise ValueError(f"mass={method.mass!r} is unknown. Choose 'diagonal' or 'dense'.")
    if not 0 < method.acceptance < 1:
        raise ValueError(f"acceptance is a rate strictly between 0 and 1, got {method.acceptance!r}")


def adaptation(method: HamiltonianMethod) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(init, update) of an ``Adaptation``: init of the number of parameters; update with a draw and its acceptance rate."""
    averaging, windows, schedule = blackjax_parts()
    start, average, averaged = averaging.dual_averaging_adaptation(method.acceptance)
    begin, add, close = windows.mass_matrix_adaptation(method.mass == "diagonal")
    with jax.ensure_compile_time_eval(), mixed_types():
        plan = np.asarray(schedule(method.warmup), np.int32).reshape(-1, 2)

    def fixed(state):  # BlackJAX's counters are Python's numbers at first
        return jax.tree.map(jnp.asarray, state)

    def init(size):
        with mixed_types():
            covariance = fixed(begin(size))
            first = jnp.asarray(FIRST_STEP, covariance.inverse_mass_matrix.dtype)
            return Adaptation(
                fixed(start(first))._replace(log_step_size_avg=jnp.log(first), avg_error=jnp.zeros_like(first)),
                covariance,
                first,
                covariance.inverse_mass_matrix,
            )

    def end_of_window(state):
        covariance = close(state.covariance)
        again = start(averaged(state.averaging))
        again = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), again, state.averaging)
        return Adaptation(again, covariance, jnp.exp(again.log_step_size), covariance.inverse_mass_matrix)

    def update(state, position, acceptance, number):
        slow, last = (jnp.asarray(plan)[jnp.clip(number, 0, len(plan) - 1), column] == 1 for column in (0, 1))
        with mixed_types():
            averaged_on = average(state.averaging, acceptance)
            covariance = jax.lax.cond(slow, lambda: add(state.covariance, position), lambda: state.covariance)
            state = Adaptation(averaged_on, covariance, jnp.exp(averaged_on.log_step_size), state.inverse_mass)
            state = jax.lax.cond(last, end_of_window, lambda same: same, state)
            final = jnp.exp(state.averaging.log_step_size_avg)
        return state._replace(step_size=jnp.where(number == len(plan) - 1, final, state.step_size))

    def adapted(state, position, acceptance, number):
        if len(plan) == 0:
            return state
        return jax.lax.cond(number < len(plan), update, lambda state, *_: state, state, position, acceptance, number)

    return init, adapted


def hamiltonian_step(
    method: HamiltonianMethod, model: Model, chain: Chain, batch: Batch, clock: Clock, key: Key
) -> tuple[Chain, dict[str, Any]]:
    """A step of the loop: of the warm start, or a transition by the method's kernel and what is learned of it."""
    where = coordinates(model, jax.eval_shape(model.init, key))
    number = clock.step - warm_start_epochs(method) - method.anneal  # of the draw, from 0 where the warmup begins
    annealing = (clock.step >= warm_start_epochs(method)) & (number < 0)
    power = jnp.where(annealing, jnp.exp(COLDEST * number.astype(jnp.float32) / max(method.anneal, 1)), 1.0)
    density = log_density(model, where, batch, power)

    def move(chain):
        chain = jax.lax.cond(number <= 0, partial(with_density, density), lambda same: same, chain)
        with mixed_types():
            state = (chain.position, chain.density, chain.gradient)
            learned = chain.adaptation
            (position, value, gradient), info = method.kernel(
                key, state, density, learned.step_size, learned.inverse_mass
            )
        learned = adaptation(method)[1](learned, position, info.acceptance_rate, number)
        chain = chain._replace(position=position, density=value, gradient=gradient, adaptation=learned)
        after = number - method.warmup
        due = (after >= 0) & (after % method.thin == method.thin - 1)
        return store_draw(chain, due, ((after >= 0) & info.is_divergent).astype(jnp.int32))

    chain = warm_start_or(move, method, density, chain, batch.size, clock.step)
    return chain, log_info(model, where, chain, batch)
