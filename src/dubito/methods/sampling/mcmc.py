"""Shared by the MCMC methods: whitened coordinates, the Adam warm start, storage of draws.

A chain moves in one vector u of all parameters, θ = s ∘ u with s the prior's scales: there the prior is N(0, 1) in every
direction, so that one step size serves all of them before anything has been learned. An epoch of the loop is one draw.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito._jax.pytree import static
from dubito._jax.types import Key, Params
from dubito.models.model import Batch, Model
from dubito.models.priors import Laplace, Normal, check_proper, leaf_scales
from dubito.posteriors.base import Samples
from dubito.training.data import Rows
from dubito.training.members import Member, Trained
from dubito.training.method import LoopMethod

ADAM_STEPS = 25  # in an epoch of the warm start
ADAM_RATE = 0.02  # in prior standard deviations
FAULTS = 0.01  # of the transitions after the warmup that may diverge without a warning
INSTALL = "This method needs BlackJAX: pip install 'dubito[samplers]'"


class SamplingWarning(UserWarning):
    """A sampler's draws are not to be trusted as they are: transitions diverged, or steps are too coarse."""


class Chain(NamedTuple):
    """The state of one chain.

    Attributes
    ----------
    position : (P,) array
        u.
    density, gradient : scalar, (P,) array
        log p(D, θ) in nats and its gradient there.
    adam : pytree
        The moments of the warm start.
    adaptation : pytree
        What has been learned of the target's shape.
    draws : (draws, P) array
        The positions stored so far.
    count, faults : int32 scalar
        How many draws are stored; divergent transitions after the warmup.
    """

    position: Any
    density: Any
    gradient: Any
    adam: Any
    adaptation: Any
    draws: Any
    count: Any
    faults: Any


class Coordinates(NamedTuple):
    """``vector(params)`` is u, ``params(u)`` the tree of parameters; both in the vector's own float type."""

    vector: Any
    params: Any


def coordinates(model: Model, like: Params) -> Coordinates:
    """The ``Coordinates`` of a model whose parameters are a tree like ``like``."""
    leaves, tree = jax.tree.flatten(like["network"])
    if isinstance(model.prior, Normal | Laplace):
        scales = leaf_scales(model.prior, leaves, model.scales(like))
    else:
        scales = [1.0] * len(leaves)
    full = [jnp.full(leaf.shape, jnp.asarray(s, float)) for leaf, s in zip(leaves, scales, strict=True)]
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, float), like["likelihood"])
    scale, unravel = ravel_pytree({"likelihood": ones, "network": tree.unflatten(full)})

    def vector(params):
        return ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(float), params))[0] / scale

    return Coordinates(vector, lambda u: unravel(u * scale))


@dataclass(frozen=True)
class MCMC(LoopMethod):
    """Chains in whitened coordinates, on all rows, from an Adam warm start. An epoch is one draw, or 25 steps of Adam.

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
    """

    draws: int = static(default=1000)
    warmup: int = static(default=500)
    chains: int = static(default=4)
    thin: int = static(default=1, kw_only=True)
    warm_start_steps: int = static(default=500, kw_only=True)

    batch_size: ClassVar[None] = None
    cure: ClassVar[str]

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return chain_members(self.chains, rows, key)

    def point(self, model: Model, state: Chain) -> Params:
        data = jax.ShapeDtypeStruct((2,), np.uint32)
        like = jax.eval_shape(lambda data: model.init(prng.fast(data)), data)
        return coordinates(model, like).params(state.position)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples:
        del run
        return merge_chains(self, model, trained.states, key)


def check_chains(method: MCMC, model: Model) -> None:
    """Raise ValueError for settings or a prior with which no chain can run."""
    for name, value in (("draws", method.draws), ("chains", method.chains), ("thin", method.thin)):
        check_whole(name, value, 1)
    for name, value in (("warmup", method.warmup), ("warm_start_steps", method.warm_start_steps)):
        check_whole(name, value, 0)
    check_proper(method, model)


def chain_members(chains: int, rows: Rows, key: Key) -> list[Member]:
    """One member for each chain."""
    return [Member(k, rows.train, rows.valid) for k in prng.keys(key, chains)]


def warm_start_epochs(method: MCMC) -> int:
    """Epochs of the loop that the warm start takes."""
    return -(-method.warm_start_steps // ADAM_STEPS)


def log_density(model: Model, where: Coordinates, batch: Batch, power: Any) -> Callable[[Any], Any]:
    """u ↦ power · log p(D | θ) + log p(θ) in nats."""
    real = jax.dtypes.canonicalize_dtype(float)
    y = batch.y.astype(real) if jnp.issubdtype(batch.y.dtype, jnp.floating) else batch.y
    batch = batch._replace(
        x=batch.x.astype(real), y=y, weight=batch.weight.astype(real), scale=jnp.asarray(batch.scale * power, real)
    )
    return lambda u: model.log_joint(where.params(u), batch).astype(real)


def first_chain(method: MCMC, model: Model, key: Key, adaptation: Callable[[int], Any]) -> Chain:
    """The chain at a random start. ``adaptation``: a function of the number of parameters."""
    like = model.init(key)
    position = coordinates(model, like).vector(like)
    zero = jnp.zeros((), position.dtype)
    with mixed_types():
        adam = optax.scale_by_adam().init(position)
    learned, draws = adaptation(len(position)), jnp.zeros((method.draws, len(position)), position.dtype)
    return Chain(position, zero, jnp.zeros_like(position), adam, learned, draws, jnp.int32(0), jnp.int32(0))


def warm_start(density: Callable[[Any], Any], chain: Chain, size: Any, progress: Any) -> Chain:
    """``ADAM_STEPS`` steps of Adam up log p(D, θ), the rate falling to 0 as ``progress`` goes to 1: chains start where it is high."""

    def one(_, state):
        u, adam = state
        with mixed_types():
            found: Any = optax.scale_by_adam().update(-jax.grad(density)(u) / size, adam)
        direction, adam = found
        rate = jnp.asarray(ADAM_RATE * 0.5 * (1 + jnp.cos(jnp.pi * progress)), u.dtype)
        return u - rate * direction, adam

    position, adam = jax.lax.fori_loop(0, ADAM_STEPS, one, (chain.position, chain.adam))
    return chain._replace(position=position, adam=adam)


def warm_start_or(
    move: Callable[[Chain], Chain], method: MCMC, density: Callable[[Any], Any], chain: Chain, size: Any, step: Any
) -> Chain:
    """The chain after the loop's ``step``: of the warm start as long as it lasts, then what ``move`` makes of it."""
    before = warm_start_epochs(method)

    def begin(chain):
        progress = (step + 1).astype(jnp.float32) / max(before, 1)
        return with_density(density, warm_start(density, chain, size, progress))

    return jax.lax.cond(step < before, begin, move, chain) if before else move(chain)


def with_density(density: Callable[[Any], Any], chain: Chain) -> Chain:
    """The chain with density and gradient of where it is."""
    value, gradient = jax.value_and_grad(density)(chain.position)
    return chain._replace(density=value, gradient=gradient)


def store_draw(chain: Chain, due: Any, faults: Any) -> Chain:
    """The chain with its position among the draws, if one is ``due``; ``faults``: divergent transitions to count."""
    count = jnp.minimum(chain.count, len(chain.draws) - 1)
    taken = jnp.asarray(due).astype(jnp.int32)
    return chain._replace(
        draws=chain.draws.at[count].set(jnp.where(due, chain.position, chain.draws[count])),
        count=chain.count + taken,
        faults=chain.faults + faults,
    )


def blackjax_parts() -> tuple[Any, Any, Any]:
    """BlackJAX's dual averaging, its mass matrices, and Stan's schedule; ImportError that says what to install."""
    try:
        from blackjax.adaptation import mass_matrix, step_size
        from blackjax.adaptation.staged_adaptation import build_schedule
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return step_size, mass_matrix, build_schedule


def log_info(model: Model, where: Coordinates, chain: Chain, batch: Batch) -> dict[str, Any]:
    """What the loop logs: log likelihood and −log prior, in nats per example."""
    penalty = -model.log_prior(where.params(chain.position)).astype(chain.density.dtype)
    size = batch.size.astype(chain.density.dtype)
    return {"likelihood": (chain.density + penalty) / size, "penalty": penalty / size}


def merge_chains(method: MCMC, model: Model, states: Any, key: Key) -> Samples:
    """The chains' draws, one chain's after another's; of chains interrupted, where they have some, as many of each as all have."""
    states = [state for state in states if int(state.count) > 0]
    if not states:
        raise KeyboardInterrupt("stopped before the first draw")
    counts, faults = [int(state.count) for state in states], sum(int(state.faults) for state in states)
    chains = [np.asarray(state.draws)[: min(counts)] for state in states]
    still = sum(len(u) > 1 and not np.ptp(u, axis=0).any() for u in chains)
    wrong = None
    if faults > FAULTS * method.thin * sum(counts):
        wrong = f"{faults} of {method.thin * sum(counts)} transitions diverged, whose steps were too long for where they were"
    elif still:
        wrong = f"{still} of {len(chains)} chains never moved, as their steps were too long for any to be taken"
    if wrong is not None:
        warnings.warn(
            f"{wrong}: {method.cure}, or use shorter steps and a longer warmup", SamplingWarning, stacklevel=3
        )
    return Samples(model, to_params(model, np.concatenate(chains), key), len(states))


@programs.jit
def to_params(model: Model, u: Any, key: Key) -> Params:
    """The trees of parameters of vectors u (S, P)."""
    like = jax.eval_shape(model.init, key)
    params = jax.vmap(coordinates(model, like).params)(u)
    return jax.tree.map(lambda leaf, one: leaf.astype(one.dtype), params, like)


def mixed_types() -> Any:
    """A context for BlackJAX's and optax's own arithmetic, which mixes types and ranks."""
    return jax.numpy_dtype_promotion("standard")
