"""Hamiltonian methods: trajectories with an accept step, and Stan's adaptation of step size and mass matrix."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from dubito._check import check_choice, check_whole
from dubito._jax.pytree import static
from dubito.methods.sampling import mcmc
from dubito.methods.sampling.mcmc import Chain, Density, Mass, Vector
from dubito.methods.settings import check_intervals
from dubito.methods.types import Batch, Key, Model, Scalar

FIRST_STEP = 0.1  # the first step size, in prior standard deviations


class Adaptation(NamedTuple):
    """Stan's: the step size by dual averaging, the inverse mass matrix by the covariance of a window's positions."""

    averaging: Any
    covariance: Any
    step_size: Scalar
    inverse_mass: Mass


@dataclass(frozen=True)
class HamiltonianMethod(mcmc.MCMC):
    """Hamiltonian trajectories with Stan's adaptation of step size and mass matrix.

    Parameters
    ----------
    acceptance : float
        The acceptance rate that the step size is adapted to.
    mass : {"diagonal", "dense"}
        The mass matrix.
    anneal : int
        Draws before the warmup in which the likelihood's power rises from e⁻⁷ to 1, so that chains
        find better modes than a descent does.
    """

    acceptance: float = field(default=0.8, kw_only=True)
    mass: str = static(default="diagonal", kw_only=True)
    anneal: int = static(default=0, kw_only=True)

    cure: ClassVar[str] = "raise acceptance (to 0.95)"

    @abstractmethod
    def kernel(self, key: Key, state: Any, density: Density, step_size: Any, inverse_mass: Mass) -> tuple[Any, Any]:
        """One transition.

        Parameters
        ----------
        key : jax.Array
            A key of ``jax.random.key``.
        state : tuple
            (position, density, gradient).
        density : callable
            log p(D, θ) of u, in nats.
        step_size : array of shape ()
            The length of a leapfrog step.
        inverse_mass : array of shape (P,) or (P, P)
            The inverse mass matrix.

        Returns
        -------
        tuple
            BlackJAX's state and info.
        """

    @property
    def epochs(self) -> int:
        """The epochs of a run: of the warm start, of annealing, and draws."""
        return mcmc.warm_start_epochs(self) + self.anneal + self.warmup + self.thin * self.draws

    def init(self, model: Model, batch: Batch, key: Key) -> Chain:
        return mcmc.first_chain(self, model, key, adaptation(self)[0])

    def move(self, chain: Chain, density: Density, number: Int[Array, ""], key: Key) -> Chain:
        chain = jax.lax.cond(number <= 0, partial(mcmc.with_density, density), lambda same: same, chain)
        state, learned = (chain.position, chain.density, chain.gradient), chain.adaptation
        with mcmc.mixed_types():
            moved, info = self.kernel(key, state, density, learned.step_size, learned.inverse_mass)
        position, value, gradient = moved
        learned = adaptation(self)[1](learned, position, info.acceptance_rate, number)
        chain = chain._replace(position=position, density=value, gradient=gradient, adaptation=learned)
        after = number - self.warmup
        due = (after >= 0) & (after % self.thin == self.thin - 1)
        return mcmc.store_draw(chain, due, ((after >= 0) & info.is_divergent).astype(jnp.int32))


def check_hamiltonian(method: HamiltonianMethod, model: Model) -> None:
    """``check_chains``, and the settings of a mass matrix, an acceptance rate and annealing."""
    mcmc.check_chains(method, model)
    check_whole("anneal", method.anneal, 0)
    check_choice("mass", method.mass, ("diagonal", "dense"))
    check_intervals(method, acceptance="(0, 1)")


def adaptation(method: HamiltonianMethod) -> tuple[Callable[..., Adaptation], Callable[..., Adaptation]]:
    """(init, update) of an ``Adaptation``: init of the number of parameters; update with a draw and its acceptance rate."""
    averaging, windows, schedule = mcmc.blackjax_parts()
    start, average, averaged = averaging.dual_averaging_adaptation(method.acceptance)
    begin, add, close = windows.mass_matrix_adaptation(method.mass == "diagonal")
    with jax.ensure_compile_time_eval(), mcmc.mixed_types():
        plan = np.asarray(schedule(method.warmup), np.int32).reshape(-1, 2)

    def as_arrays(state: Any) -> Any:  # BlackJAX's counters are Python's numbers at first
        return jax.tree.map(jnp.asarray, state)

    def init(size: int) -> Adaptation:
        with mcmc.mixed_types():
            covariance = as_arrays(begin(size))
            mass = covariance.inverse_mass_matrix
            first = jnp.asarray(FIRST_STEP, mass.dtype)
            steps = as_arrays(start(first))
            steps = steps._replace(log_step_size_avg=jnp.log(first), avg_error=jnp.zeros_like(first))
            return Adaptation(steps, covariance, first, mass)

    def end_of_window(state: Adaptation) -> Adaptation:
        covariance = close(state.covariance)
        again = start(averaged(state.averaging))
        again = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), again, state.averaging)
        return Adaptation(again, covariance, jnp.exp(again.log_step_size), covariance.inverse_mass_matrix)

    def update(state: Adaptation, position: Vector, acceptance: Scalar, number: Int[Array, ""]) -> Adaptation:
        slow, last = (jnp.asarray(plan)[jnp.clip(number, 0, len(plan) - 1), column] == 1 for column in (0, 1))
        with mcmc.mixed_types():
            steps = average(state.averaging, acceptance)
            covariance = jax.lax.cond(slow, lambda: add(state.covariance, position), lambda: state.covariance)
            state = Adaptation(steps, covariance, jnp.exp(steps.log_step_size), state.inverse_mass)
            state = jax.lax.cond(last, end_of_window, lambda same: same, state)
            final = jnp.exp(state.averaging.log_step_size_avg)
        return state._replace(step_size=jnp.where(number == len(plan) - 1, final, state.step_size))

    def adapted(state: Adaptation, *draw: Any) -> Adaptation:
        return jax.lax.cond(draw[-1] < len(plan), update, lambda state, *_: state, state, *draw) if len(plan) else state

    return init, adapted
