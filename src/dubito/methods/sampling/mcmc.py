"""Shared by the MCMC methods: whitened coordinates, the Adam warm start, storage of draws.

A chain moves in one vector u of all parameters, θ = s ∘ u with s the prior's scales: there the
prior is N(0, 1) in every direction, so that one step size serves all of them before anything has
been learned. An epoch of the loop is one transition (``MCLMC``: ``thin`` steps).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from dubito._check import check_whole, warn
from dubito._jax import prng, programs
from dubito._jax.pytree import static
from dubito.methods.priors import map_prior
from dubito.methods.types import Batch, Clock, Key, Member, Model, Params, Rows, Scalar, Trained
from dubito.models.priors import Laplace, Normal, check_proper
from dubito.posteriors.base import Samples
from dubito.training.method import LoopMethod

ADAM_STEPS = 25  # in an epoch of the warm start
ADAM_RATE = 0.02  # in prior standard deviations
COLDEST = 7.0  # −log of the likelihood's power where annealing begins
LARGEST_DIVERGENT = 0.01  # fraction of the transitions after the warmup that may diverge without a warning
INSTALL = "This method needs BlackJAX: pip install 'dubito[samplers]'"

Vector: TypeAlias = Float[Array, " P"]  # of all parameters
Density: TypeAlias = Callable[[Vector], Scalar]
Mass: TypeAlias = Float[Array, "P *P"]  # a diagonal, or a matrix


class SamplingWarning(UserWarning):
    """A sampler's draws cannot be trusted: transitions diverged, or steps are too coarse."""


class Chain(NamedTuple):
    """The state of one chain.

    Attributes
    ----------
    position : array of shape (P,)
        u.
    density, gradient : array of shape (), array of shape (P,)
        log p(D, θ) in nats and its gradient at u.
    adam : pytree
        The moments of the warm start.
    adaptation : pytree
        What has been learned of the target's shape.
    draws : array of shape (draws, P)
        The positions stored so far.
    count, faults : int32 array of shape ()
        How many draws are stored; divergent transitions after the warmup.
    """

    position: Vector
    density: Scalar
    gradient: Vector
    adam: Any
    adaptation: Any
    draws: Float[Array, "draws P"]
    count: Any
    faults: Int[Array, ""]


class Coordinates(NamedTuple):
    """``vector(params)`` is u, ``params(u)`` the tree of parameters; both in the vector's own float type."""

    vector: Callable[[Params], Vector]
    params: Callable[[Vector], Params]


@dataclass(frozen=True)
class MCMC(LoopMethod):
    """Chains in whitened coordinates, on all rows, from an Adam warm start. An epoch is one transition, or 25 steps of Adam.

    Parameters
    ----------
    draws, warmup, chains : int
        Draws that each chain stores, draws or steps of adaptation before, and chains.
    thin : int
        Every ``thin``-th draw is stored.
    warm_start_steps : int
        Steps of Adam before the warmup.

    Attributes
    ----------
    cure : str
        What to do where transitions diverge.
    anneal : int
        Draws before the warmup in which the likelihood's power rises from e⁻⁷ to 1.
    """

    draws: int = static(default=1000)
    warmup: int = static(default=500)
    chains: int = static(default=4)
    thin: int = static(default=1, kw_only=True)
    warm_start_steps: int = static(default=500, kw_only=True)

    cure: ClassVar[str]
    batch_size = None  # all rows
    anneal = 0  # without annotation, since it is a field of some subclasses

    @abstractmethod
    def move(self, chain: Chain, density: Density, number: Int[Array, ""], key: Key) -> Chain:
        """The chain after an epoch that follows the warm start.

        Parameters
        ----------
        chain : Chain
            The chain before it.
        density : callable
            log p(D, θ) of u, in nats.
        number : int32 array of shape ()
            The number of the epoch, 0 where the warmup begins.
        key : jax.Array
            A key of ``jax.random.key``.

        Returns
        -------
        Chain
            With the draw stored, where one is due.
        """

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return chain_members(self.chains, rows, key)

    def step(self, model: Model, state: Chain, batch: Batch, clock: Clock, key: Key) -> tuple[Chain, Any]:
        where, before = coordinates(model, jax.eval_shape(model.init, key)), warm_start_epochs(self)
        number = clock.step - before - self.anneal
        annealing = (clock.step >= before) & (number < 0)
        power = jnp.where(annealing, jnp.exp(COLDEST * number.astype(jnp.float32) / max(self.anneal, 1)), 1.0)
        density = log_density(model, where, batch, power)

        def warm(chain: Chain) -> Chain:
            progress = (clock.step + 1).astype(jnp.float32) / max(before, 1)
            return with_density(density, warm_start(density, chain, batch.size, progress))

        def move(chain: Chain) -> Chain:
            return self.move(chain, density, number, key)

        chain = jax.lax.cond(clock.step < before, warm, move, state) if before else move(state)
        penalty = -model.log_prior(where.params(chain.position)).astype(chain.density.dtype)
        size = batch.size.astype(chain.density.dtype)
        return chain, {"likelihood": (chain.density + penalty) / size, "penalty": penalty / size}

    def point(self, model: Model, state: Chain) -> Params:
        data = jax.ShapeDtypeStruct((2,), np.uint32)
        like = jax.eval_shape(lambda data: model.init(prng.fast(data)), data)
        return coordinates(model, like).params(state.position)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples:
        return merge_chains(self, model, trained.states, key)


def coordinates(model: Model, like: Params) -> Coordinates:
    """The ``Coordinates`` of a model whose parameters are a tree like ``like``."""
    whitened = isinstance(model.prior, Normal | Laplace)

    def full(leaf: Any, scale: Any) -> Array:
        return jnp.full(leaf.shape, jnp.asarray(scale if whitened else 1.0, float))

    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, float), like["likelihood"])
    scale, unravel = ravel_pytree({"likelihood": ones, "network": map_prior(full, model, like)})

    def vector(params: Params) -> Vector:
        return ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(float), params))[0] / scale

    return Coordinates(vector, lambda u: unravel(u * scale))


def check_chains(method: MCMC, model: Model) -> None:
    """Raise ValueError for settings or a prior with which no chain can run."""
    for name, least in (("draws", 1), ("chains", 1), ("thin", 1), ("warmup", 0), ("warm_start_steps", 0)):
        check_whole(name, vars(method)[name], least)
    check_proper(method, model)


def chain_members(chains: int, rows: Rows, key: Key) -> list[Member]:
    """One member for each chain."""
    return [Member(k, rows.train, rows.valid) for k in prng.keys(key, chains)]


def warm_start_epochs(method: MCMC) -> int:
    """Epochs of the loop that the warm start takes."""
    return -(-method.warm_start_steps // ADAM_STEPS)


def log_density(model: Model, where: Coordinates, batch: Batch, power: Scalar) -> Density:
    """u ↦ power · log p(D | θ) + log p(θ) in nats."""
    real = jax.dtypes.canonicalize_dtype(float)
    y = batch.y.astype(real) if jnp.issubdtype(batch.y.dtype, jnp.floating) else batch.y
    scale = jnp.asarray(batch.scale * power, real)
    batch = batch._replace(x=batch.x.astype(real), y=y, weight=batch.weight.astype(real), scale=scale)
    return lambda u: model.log_joint(where.params(u), batch).astype(real)


def first_chain(method: MCMC, model: Model, key: Key, adaptation: Callable[[int], Any]) -> Chain:
    """The chain at a random start; ``adaptation(number of parameters)`` is what it has learned there."""
    like = model.init(key)
    position = coordinates(model, like).vector(like)
    zero = jnp.zeros((), position.dtype)
    with mixed_types():
        adam = optax.scale_by_adam().init(position)
    learned, draws = adaptation(len(position)), jnp.zeros((method.draws, len(position)), position.dtype)
    return Chain(position, zero, jnp.zeros_like(position), adam, learned, draws, jnp.int32(0), jnp.int32(0))


def warm_start(density: Density, chain: Chain, size: Scalar, progress: Scalar) -> Chain:
    """25 steps of Adam up log p(D, θ), with a rate that falls to 0 as ``progress`` goes to 1: chains start where it is high."""

    def one(_: Any, state: tuple[Vector, Any]) -> tuple[Vector, Any]:
        u, adam = state
        with mixed_types():
            found: Any = optax.scale_by_adam().update(-jax.grad(density)(u) / size, adam)
        direction, adam = found
        rate = jnp.asarray(ADAM_RATE * 0.5 * (1 + jnp.cos(jnp.pi * progress)), u.dtype)
        return u - rate * direction, adam

    position, adam = jax.lax.fori_loop(0, ADAM_STEPS, one, (chain.position, chain.adam))
    return chain._replace(position=position, adam=adam)


def with_density(density: Density, chain: Chain) -> Chain:
    """The chain with the density and the gradient at its position."""
    value, gradient = jax.value_and_grad(density)(chain.position)
    return chain._replace(density=value, gradient=gradient)


def store_draw(chain: Chain, due: Any, faults: Int[Array, ""]) -> Chain:
    """The chain with its position among the draws, if one is ``due``; ``faults``: divergent transitions to count."""
    count = jnp.minimum(chain.count, len(chain.draws) - 1)
    draws = chain.draws.at[count].set(jnp.where(due, chain.position, chain.draws[count]))
    taken = jnp.asarray(due).astype(jnp.int32)
    return chain._replace(draws=draws, count=chain.count + taken, faults=chain.faults + faults)


def blackjax_parts() -> tuple[Any, Any, Any]:
    """BlackJAX's dual averaging, its mass matrices, and Stan's schedule; ImportError that says what to install."""
    try:
        from blackjax.adaptation import mass_matrix, step_size
        from blackjax.adaptation.staged_adaptation import build_schedule
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return step_size, mass_matrix, build_schedule


def merge_chains(method: MCMC, model: Model, states: Any, key: Key) -> Samples:
    """The chains' draws, chain by chain; if interrupted, equally many from each chain that has any."""
    states = [state for state in states if int(state.count) > 0]
    if not states:
        raise KeyboardInterrupt("stopped before the first draw")
    counts, faults = [int(state.count) for state in states], sum(int(state.faults) for state in states)
    chains = [np.asarray(state.draws)[: min(counts)] for state in states]
    transitions, wrong = method.thin * sum(counts), None
    still = sum(len(u) > 1 and not np.ptp(u, axis=0).any() for u in chains)
    if faults > LARGEST_DIVERGENT * transitions:
        wrong = f"{faults} of {transitions} transitions diverged, since their steps were too long"
    elif still:
        wrong = f"{still} of {len(chains)} chains never moved, since their steps were too long to be accepted"
    if wrong is not None:
        words = f"{wrong}: {method.cure}, or use shorter steps and a longer warmup"
        warn(words, SamplingWarning)
    return Samples(model, to_params(model, np.concatenate(chains), key), len(states))


@programs.jit
def to_params(model: Model, u: Float[Array, "draws P"], key: Key) -> Params:
    """The trees of parameters of vectors u, with a leading axis of draws."""
    like = jax.eval_shape(model.init, key)
    params = jax.vmap(coordinates(model, like).params)(u)
    return jax.tree.map(lambda leaf, one: leaf.astype(one.dtype), params, like)


def mixed_types() -> Any:
    """A context for BlackJAX's and optax's own arithmetic, which mixes types and ranks."""
    return jax.numpy_dtype_promotion("standard")
