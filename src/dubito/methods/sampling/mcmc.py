"""What chains of Markov chain Monte Carlo share: coordinates, the descent before, what is kept, and Stan's adaptation.

A chain moves in one vector u of all parameters, θ = s ∘ u with s the prior's scales: there the prior is N(0, 1) in every
direction, so that one step size serves all of them before anything has been learned. An epoch of the engine is one draw of all rows.
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito.models.priors import Laplace, Normal, check_proper, leaf_scales
from dubito.posteriors.base import Samples
from dubito.training.data import Member

DESCENTS = 25  # steps of Adam an epoch
RATE = 0.02  # of Adam, in prior standard deviations
STEP = 0.1  # the first step size, in prior standard deviations
COLDEST = 7.0  # −log of the likelihood's power where annealing begins
FAULTS = 0.01  # of the transitions after the warmup that may diverge without a warning
INSTALL = "This method needs BlackJAX: pip install 'dubito[samplers]'"


class SamplingWarning(UserWarning):
    """A sampler's draws are not to be trusted as they are: transitions diverged, or steps are too coarse."""


class Chain(NamedTuple):
    """One chain: where it is, with log p(D, θ) in nats and its gradient there; Adam's moments; what it has learned of the
    target's shape; the draws kept so far (as vectors u), and how many; ``faults``, how many transitions after the warmup were
    divergent."""

    position: Any
    density: Any
    gradient: Any
    descent: Any
    adaptation: Any
    draws: Any
    count: Any
    faults: Any


class Adaptation(NamedTuple):
    """Stan's: the step size by dual averaging, the inverse mass matrix by the covariance of a window's positions."""

    averaging: Any
    covariance: Any
    step_size: Any
    inverse_mass: Any


class Coordinates(NamedTuple):
    """``vector(params)`` is u, ``params(u)`` the tree of parameters; both in the vector's own float type."""

    vector: Any
    params: Any


def coordinates(model, like):
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


def check(method, model):
    """What all chains ask for; called once, when a fit begins."""
    for name in ("draws", "chains", "thin"):
        check_whole(name, getattr(method, name), 1)
    for name in ("warmup", "descent", "anneal"):
        check_whole(name, getattr(method, name, 0), 0)
    check_proper(method, model)


def members(self, rows, key):
    """One for each chain."""
    return [Member(k, rows.train, rows.valid) for k in prng.keys(key, self.chains)]


def epochs(method):
    """How many the engine runs: descents, warmup, and ``thin`` for each draw."""
    return descents(method) + method.anneal + method.warmup + method.thin * method.draws


def descents(method):
    return -(-method.descent // DESCENTS)


def log_density(model, where, batch, power):
    """u ↦ power · log p(D | θ) + log p(θ) in nats."""
    real = jax.dtypes.canonicalize_dtype(float)
    y = batch.y.astype(real) if jnp.issubdtype(batch.y.dtype, jnp.floating) else batch.y
    batch = batch._replace(
        x=batch.x.astype(real), y=y, weight=batch.weight.astype(real), scale=jnp.asarray(batch.scale * power, real)
    )
    return lambda u: model.log_joint(where.params(u), batch).astype(real)


def first(method, model, key, adaptation):
    """The chain at a random start. ``adaptation``: a function of the number of parameters."""
    like = model.init(key)
    position = coordinates(model, like).vector(like)
    zero = jnp.zeros((), position.dtype)
    with loose():
        descent = optax.scale_by_adam().init(position)
    learned, draws = adaptation(len(position)), jnp.zeros((method.draws, len(position)), position.dtype)
    return Chain(position, zero, jnp.zeros_like(position), descent, learned, draws, jnp.int32(0), jnp.int32(0))


def descend(density, chain, size, progress):
    """``DESCENTS`` steps of Adam up log p(D, θ), the rate falling to 0 as ``progress`` goes to 1: chains start where it is high."""

    def one(_, state):
        u, descent = state
        with loose():
            found: Any = optax.scale_by_adam().update(-jax.grad(density)(u) / size, descent)
        direction, descent = found
        rate = jnp.asarray(RATE * 0.5 * (1 + jnp.cos(jnp.pi * progress)), u.dtype)
        return u - rate * direction, descent

    position, descent = jax.lax.fori_loop(0, DESCENTS, one, (chain.position, chain.descent))
    return chain._replace(position=position, descent=descent)


def descended(method, density, chain, batch, clock, move):
    """The chain after the engine's step: of descents as long as these last, then what ``move`` makes of it."""
    before = descents(method)

    def begin(chain):
        progress = (clock.step + 1).astype(jnp.float32) / max(before, 1)
        return opened(density, descend(density, chain, batch.size, progress))

    return jax.lax.cond(clock.step < before, begin, move, chain) if before else move(chain)


def opened(density, chain):
    """The chain with density and gradient of where it is."""
    value, gradient = jax.value_and_grad(density)(chain.position)
    return chain._replace(density=value, gradient=gradient)


def kept(chain, due, faults):
    """The chain with its position among the draws, if one is ``due``. ``faults``: how many divergent transitions there are to count."""
    count = jnp.minimum(chain.count, len(chain.draws) - 1)
    taken = jnp.asarray(due).astype(jnp.int32)
    return chain._replace(
        draws=chain.draws.at[count].set(jnp.where(due, chain.position, chain.draws[count])),
        count=chain.count + taken,
        faults=chain.faults + faults,
    )


def adaptation(method):
    """(init, update) of an ``Adaptation``: init of the number of parameters; update with a draw and its acceptance rate."""
    averaging, windows, schedule = blackjax_parts()
    start, average, averaged = averaging.dual_averaging_adaptation(method.acceptance)
    begin, add, close = windows.mass_matrix_adaptation(method.mass == "diagonal")
    with jax.ensure_compile_time_eval(), loose():
        plan = np.asarray(schedule(method.warmup), np.int32).reshape(-1, 2)

    def fixed(state):  # BlackJAX's counters are Python's numbers at first
        return jax.tree.map(jnp.asarray, state)

    def init(size):
        with loose():
            covariance = fixed(begin(size))
            first = jnp.asarray(STEP, covariance.inverse_mass_matrix.dtype)
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
        with loose():
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


def blackjax_parts():
    """BlackJAX's dual averaging, its mass matrices, and Stan's schedule; ImportError that says what to install."""
    try:
        from blackjax.adaptation import mass_matrix, step_size
        from blackjax.adaptation.staged_adaptation import build_schedule
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return step_size, mass_matrix, build_schedule


def hamiltonian(method, model, chain, batch, clock, key):
    """A step of the engine for a Hamiltonian method: descents, or a transition by its kernel and what is learned of it.

    ``method.kernel(key, (position, density, gradient), density function, step size, inverse mass)`` gives BlackJAX's state and info.
    """
    where = coordinates(model, jax.eval_shape(model.init, key))
    number = clock.step - descents(method) - method.anneal  # of the draw, from 0 where the warmup begins
    annealing = (clock.step >= descents(method)) & (number < 0)
    power = jnp.where(annealing, jnp.exp(COLDEST * number.astype(jnp.float32) / max(method.anneal, 1)), 1.0)
    density = log_density(model, where, batch, power)

    def move(chain):
        chain = jax.lax.cond(number <= 0, partial(opened, density), lambda same: same, chain)
        with loose():
            state = (chain.position, chain.density, chain.gradient)
            learned = chain.adaptation
            (position, value, gradient), info = method.kernel(
                key, state, density, learned.step_size, learned.inverse_mass
            )
        learned = adaptation(method)[1](learned, position, info.acceptance_rate, number)
        chain = chain._replace(position=position, density=value, gradient=gradient, adaptation=learned)
        after = number - method.warmup
        due = (after >= 0) & (after % method.thin == method.thin - 1)
        return kept(chain, due, ((after >= 0) & info.is_divergent).astype(jnp.int32))

    chain = descended(method, density, chain, batch, clock, move)
    return chain, told(model, where, chain, batch)


def told(model, where, chain, batch):
    """What the engine logs: log likelihood and −log prior, in nats per example."""
    penalty = -model.log_prior(where.params(chain.position)).astype(chain.density.dtype)
    size = batch.size.astype(chain.density.dtype)
    return {"likelihood": (chain.density + penalty) / size, "penalty": penalty / size}


def merged(method, model, states, key):
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
        cure = "raise acceptance (to 0.95)" if hasattr(method, "acceptance") else "lower energy"
        warnings.warn(f"{wrong}: {cure}, or use shorter steps and a longer warmup", SamplingWarning, stacklevel=3)
    return Samples(model, parameters(model, np.concatenate(chains), key), len(states))


@programs.jit
def parameters(model, u, key):
    """The trees of parameters of vectors u (S, P)."""
    like = jax.eval_shape(model.init, key)
    params = jax.vmap(coordinates(model, like).params)(u)
    return jax.tree.map(lambda leaf, one: leaf.astype(one.dtype), params, like)


def loose():
    """BlackJAX's and optax's own arithmetic mixes types and ranks."""
    return jax.numpy_dtype_promotion("standard")
