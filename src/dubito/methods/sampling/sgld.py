"""Stochastic gradient Langevin dynamics (Welling & Teh, ICML 2011), with cycles (Zhang et al., ICLR 2020).

Also what samplers with stochastic gradients share: storage of draws, merging of chains, and how
coarse the steps are.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.linalg import solve_discrete_lyapunov

from dubito._check import check_whole, warn
from dubito._jax import prng, programs
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling.mcmc import SamplingWarning, chain_members
from dubito.methods.settings import check_intervals
from dubito.methods.types import Batch, Clock, Key, Member, Model, Params, Rows, Scalar, Trained
from dubito.models.priors import check_proper
from dubito.posteriors.base import Samples
from dubito.training import optimizers
from dubito.training.data import pad_data, padded_size
from dubito.training.method import TASKS, Recipe, ScheduledMethod
from dubito.training.optimizers import check_descent
from dubito.training.packing import pack, unpack

COARSE = 2.0  # a warning is given where draws have this many times the posterior's variance
FINE = 1.25  # the same for the learning rate that the warning suggests
CURVATURE_ROWS = 1024  # the most rows on which the curvature is measured
POWER_ITERATIONS = 30


class SGLDState(NamedTuple):
    """A chain of ``SGLD`` or ``SGHMC``.

    Attributes
    ----------
    params, momentum : pytree
        Packed; the momentum of SGLD is empty.
    draws : pytree
        Like ``params``, with a leading axis.
    filled : bool array of shape (draws,)
        Which of them are there.
    rate : array of shape ()
        The largest learning rate at which some were stored.
    size, blocks : array of shape ()
        N, and the steps of an epoch.
    """

    params: Params
    momentum: Params
    draws: Params
    filled: Bool[Array, " draws"]
    rate: Scalar
    size: Scalar
    blocks: Scalar


class Phase(NamedTuple):
    """The learning rate of a step, whether its point is stored, and in which place."""

    rate: Scalar
    late: Bool[Array, ""]
    place: Int[Array, ""]


class Recursion(NamedTuple):
    """The motion along one direction of the parameters, (θ, ...) ← M (θ, ...) + b·(noise − rate · noise of the gradient).

    Attributes
    ----------
    matrix, kick : array of shape (k, k), array of shape (k,)
        M and b.
    injected : float
        The variance of the noise.
    """

    matrix: np.ndarray
    kick: np.ndarray
    injected: float


@dataclass(frozen=True, kw_only=True)
class StochasticGradientSampler(ScheduledMethod):
    """Chains of descent with noise, from mini-batches.

    Parameters
    ----------
    draws : int
        Points that each chain stores.
    burn_in : float
        The fraction of a run, or of each cycle, that is left out.
    chains : int
        The number of chains.
    cycles : int
        How often the schedule starts anew.
    temperature : float
        Multiplies the variance of the noise; 1: the posterior.
    """

    schedule: str = static(default="constant")
    draws: int = static(default=100)
    burn_in: float = 0.5
    chains: int = static(default=4)
    cycles: int = 1
    temperature: float = 1.0

    friction = 1.0  # 1 − the momentum; without annotation, since it is a field of ``SGHMC``

    @abstractmethod
    def recursion(self, rate: float, curvature: float, size: float) -> Recursion:
        """The motion along a direction of a quadratic log density.

        Parameters
        ----------
        rate : float
            The learning rate.
        curvature : float
            The second derivative of −log p(D, θ)/N, per example.
        size : float
            N.

        Returns
        -------
        Recursion
            Without the noise of mini-batches.
        """

    @abstractmethod
    def move(self, state: SGLDState, gradient: Params, noise: Params, rate: Scalar) -> tuple[Params, Params]:
        """The next point.

        Parameters
        ----------
        state : SGLDState
            The chain.
        gradient, noise : pytree like ``state.params``
            The gradient of −log p(D, θ)/N, and noise of the variance of a step.
        rate : array of shape ()
            The learning rate.

        Returns
        -------
        tuple of two pytrees
            Parameters and momentum.
        """

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return chain_members(self.chains, rows, key)

    def step(self, model: Model, state: SGLDState, batch: Batch, clock: Clock, key: Key) -> tuple[SGLDState, Any]:
        gradient, info = slope(model, state.params, batch)
        now = phase(self, clock)
        width = jnp.sqrt(2 * self.friction * now.rate * self.temperature / batch.size)
        noise = jax.tree.map(lambda e: width * e, prng.normal_like(key, state.params))
        params, momentum = self.move(state, gradient, noise, now.rate)
        return store_point(state, params, momentum, batch, now), info

    def point(self, model: Model, state: SGLDState) -> Params:
        return unpack(state.params)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples:
        warn_if_coarse(self, model, trained, key)
        return merge_sgld_chains(model, trained.states)


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class SGLD(StochasticGradientSampler):
    """Draws by gradient descent with noise, from mini-batches. With ε = 2·``learning_rate``/N (Welling & Teh, eq. 4):

        θ ← θ + (ε/2) ∇ log p̂(D, θ) + N(0, ε·``temperature``),    log p̂ in nats, estimated from a batch

    so that a learning rate means what it means in training: it multiplies the gradient per example.
    All parameters are drawn, log τ of the likelihood too. Three copies of all draws are held in
    training.

    There is no Metropolis correction, but the bias can be quantified. Where log p is quadratic with
    precision Λ, draws of full batches have the covariance (Λ − εΛ²/4)⁻¹, and none if εΛ ≥ 4;
    mini-batches add ε²/4 times their gradients' covariance to the noise ε of a step (Vollmer,
    Zygalakis & Teh 2016). A fit measures both along the direction of largest curvature and gives a
    ``SamplingWarning`` if the variance there may be twice the posterior's. It is slow:
    along a direction of precision λ the autocorrelation time is 2/(ελ) steps. Choose it if the
    data are too large for full-batch MCMC.

    Parameters
    ----------
    draws : int
        Points that each chain stores, evenly spaced after ``burn_in``; fewer if
        there are fewer steps.
    burn_in : float
        The fraction of the run, or of each cycle, that is left out.
    chains : int
        The number of chains.
    cycles : int
        How often the schedule starts anew. With ``schedule`` "cosine" or "linear" the rate falls to
        0 over each cycle, so that each finds a different mode; unlike in Zhang et al. there is
        noise from the start of a cycle.
    temperature : float
        Multiplies the variance of the noise; 1: the posterior.
    epochs : int, optional
        None: at least 2,000, and enough to process 400,000 rows.
    batch_size, learning_rate, schedule
        As in ``MAP``; the schedule is "constant" by default.
    """

    learning_rate: float | None = 3e-3

    recipes: ClassVar[dict[str, Recipe] | None] = dict.fromkeys(TASKS, Recipe(least_epochs=2000))

    def check(self, model: Model) -> None:
        check_sampler(self, model)

    def init(self, model: Model, batch: Batch, key: Key) -> SGLDState:
        return first_state(self, pack(model.init(key)), ())

    def move(self, state: SGLDState, gradient: Params, noise: Params, rate: Scalar) -> tuple[Params, Params]:
        def moved(p: Array, g: Array, e: Array) -> Array:
            return p + (e - rate * g).astype(p.dtype)

        return jax.tree.map(moved, state.params, gradient, noise), ()

    def recursion(self, rate: float, curvature: float, size: float) -> Recursion:
        return Recursion(np.array([[1 - rate * curvature]]), np.ones(1), 2 * rate * self.temperature / size)


def check_sampler(method: StochasticGradientSampler, model: Model) -> None:
    """Raise ValueError for settings or a prior with which no chain can run."""
    check_descent(method)
    check_intervals(method, learning_rate="(0, inf)", burn_in="[0, 1)", temperature="(0, inf)")  # no rate is usual here
    for name in ("chains", "draws", "cycles"):
        check_whole(name, vars(method)[name], 1)
    if method.draws % method.cycles != 0:
        raise ValueError(f"draws must be a multiple of cycles={method.cycles!r}, got {method.draws!r}")
    check_proper(method, model)


def first_state(method: StochasticGradientSampler, params: Params, momentum: Params) -> SGLDState:
    """The state at the start of a chain."""
    draws = jax.tree.map(lambda p: jnp.zeros((method.draws, *p.shape), p.dtype), params)
    zero = jnp.float32(0)
    return SGLDState(params, momentum, draws, jnp.zeros(method.draws, bool), zero, zero, zero)


def slope(model: Model, params: Params, batch: Batch) -> tuple[Params, dict[str, Scalar]]:
    """The gradient of −log p(D, θ)/N, estimated from a batch, in nats per example; and the values for the log."""

    def objective(packed: Params) -> tuple[Scalar, dict[str, Scalar]]:
        plain = unpack(packed)
        likelihood = model.log_likelihood(plain, batch) / batch.size
        penalty = -model.log_prior(plain) / batch.size
        return penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

    return jax.grad(objective, has_aux=True)(params)


def phase(method: StochasticGradientSampler, clock: Clock) -> Phase:
    """The position of a step in its cycle."""
    passed = clock.progress * method.cycles
    number = jnp.floor(passed)
    within = passed - number
    sampled = jnp.maximum(within - method.burn_in, 0) / (1 - method.burn_in)
    place = jnp.floor(method.draws * (number + sampled) / method.cycles).astype(jnp.int32)
    rate = -optimizers.step_size(method, clock._replace(progress=within))
    return Phase(rate, within >= method.burn_in, jnp.minimum(place, method.draws - 1))


def store_point(state: SGLDState, params: Params, momentum: Params, batch: Batch, now: Phase) -> SGLDState:
    """The state at the next point, which is stored; a later one in the same place overwrites it."""
    rate, late, place = now
    draws = jax.tree.map(lambda all_, p: jax.lax.dynamic_update_index_in_dim(all_, p, place, 0), state.draws, params)
    filled = state.filled.at[place].set(state.filled[place] | late)
    rate = jnp.maximum(state.rate, jnp.where(late, rate, 0.0))
    return SGLDState(params, momentum, draws, filled, rate, batch.size, batch.scale)


def merge_sgld_chains(model: Model, states: Any) -> Samples:
    """The draws of all chains that have some, equally many of each, one chain's after another's."""
    states = [state for state in states if np.any(state.filled)]
    if not states:
        raise KeyboardInterrupt("stopped before the first draw")
    places = [np.flatnonzero(np.asarray(state.filled)) for state in states]
    count, chains = min(map(len, places)), []
    for state, filled in zip(states, places, strict=True):
        last = filled[-count:]
        chains.append(jax.tree.map(lambda leaf, last=last: np.asarray(leaf)[last], jax.vmap(unpack)(state.draws)))
    return Samples(model, jax.device_put(jax.tree.map(lambda *a: np.concatenate(a), *chains)), len(chains))


def warn_if_coarse(method: StochasticGradientSampler, model: Model, trained: Trained, key: Key) -> None:
    """SamplingWarning if draws of the first chain vary too much where the log density is most curved."""
    state, rows, weight = trained.states[0], trained.rows, trained.members[0].train
    blocks, size, rate = float(state.blocks), float(state.size), float(state.rate)
    used = np.flatnonzero(weight > 0)
    used = used[np.unique(np.linspace(0, len(used) - 1, CURVATURE_ROWS).astype(int))]
    weight = (weight[used] * (size / weight[used].sum())).astype(np.float32)
    x, y, weight = pad_data(rows.x[used], rows.y[used], weight, padded_size(len(used)))
    batch = Batch(x, y, weight, jnp.float32(1), state.size)
    curvature, noise = map(float, stiffest(model, state.params, batch, jnp.float32(len(used)), key))
    noise *= blocks - 1

    def factor(rate: float) -> float:
        variance = inflation(*method.recursion(rate, curvature, size), rate**2 * noise)
        return variance * size * curvature / method.temperature

    found = factor(rate)
    if found > COARSE:
        fine = next((r for r in rate * 0.5 ** np.arange(40) if factor(r) < FINE), rate * 0.5**40)
        given: Any = method.learning_rate
        most = "is unstable" if np.isinf(found) else f"may have {found:.2g} times the posterior's variance"
        warn(
            f"the steps of {type(method).__name__} are coarse: the direction of largest curvature {most}. "
            f"Try learning_rate={float(given) * fine / rate:.2g}" + (" or a larger batch_size" if blocks > 1 else ""),
            SamplingWarning,
        )


@programs.jit
def stiffest(model: Model, params: Params, batch: Batch, rows: Scalar, key: Key) -> tuple[Scalar, Scalar]:
    """The largest curvature of −log p(D, θ)/N, by power iteration, and the variance of a batch's gradient along its
    direction if an epoch has two blocks (of b blocks: b − 1 times that), both per example.

    Blocks of n of the ``rows`` M are drawn without replacement: (b/N)² n (1 − n/M) s², n = M/b,
    with s² the rows' variance.
    """

    def gradient(packed: Params) -> Params:
        return slope(model, packed, batch)[0]

    def unit(tree: Params) -> tuple[Params, Scalar]:
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
        return jax.tree.map(lambda leaf: leaf / jnp.maximum(norm, 1e-30), tree), norm

    def turn(_: Any, direction_norm: tuple[Params, Scalar]) -> tuple[Params, Scalar]:
        return unit(jax.jvp(gradient, (params,), (direction_norm[0],))[1])

    def by_rows(packed: Params) -> Float[Array, " rows"]:
        return batch.weight * model.likelihood.log_prob_observed(model.outputs(unpack(packed), batch.x), batch.y)

    direction, curvature = jax.lax.fori_loop(0, POWER_ITERATIONS, turn, unit(prng.normal_like(key, params)))
    slopes = jax.jvp(by_rows, (params,), (direction,))[1]
    squares = jnp.where(batch.weight > 0, (slopes - jnp.sum(slopes) / rows) ** 2, 0.0)
    return curvature, rows * (jnp.sum(squares) / jnp.maximum(rows - 1, 1)) / batch.size**2


def inflation(matrix: np.ndarray, kick: np.ndarray, injected: float, noise: float) -> float:
    """The stationary variance of θ where gradients have independent noise: an upper bound, for an epoch takes each row once."""
    if np.max(np.abs(np.linalg.eigvals(matrix))) >= 1:
        return np.inf
    return (injected + noise) * solve_discrete_lyapunov(matrix, np.outer(kick, kick))[0, 0]
