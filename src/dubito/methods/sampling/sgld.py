"""Stochastic gradient Langevin dynamics (Welling & Teh, ICML 2011), with cycles (Zhang et al., ICLR 2020).

Here also what its relative with momentum shares: where draws are kept, how chains become one, and how coarse the steps are.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling import mcmc
from dubito.models.model import Batch
from dubito.models.priors import check_proper
from dubito.posteriors.base import Samples
from dubito.training import optimizers
from dubito.training.data import bucket, padded

COARSE = 2.0  # times the variance that draws should have: from here on a warning
FINE = 1.25  # times that: what the rate suggested in it gives
ROWS = 1024  # that the curvature is measured on at most
TURNS = 30  # of the power iteration


class State(NamedTuple):
    params: Any
    momentum: Any  # of SGLD none
    draws: Any  # with a leading axis
    filled: Any  # which of them are there, (draws,)
    rate: Any  # the largest at which some were kept
    size: Any
    blocks: Any  # of an epoch


@register_dataclass
@dataclass(frozen=True)
class SGLD:
    """Draws by gradient descent with noise, from mini-batches. With ε = 2·``learning_rate``/N (Welling & Teh, eq. 4):

        θ ← θ + (ε/2) ∇ log p̂(D, θ) + N(0, ε·``temperature``),    log p̂ in nats, estimated from a batch

    so that a learning rate means what it means in training: it multiplies the gradient per example. All parameters are
    drawn, log τ of the likelihood too. Each of ``chains`` runs keeps ``draws`` points, evenly spread over what follows the
    share ``burn_in`` of the run, or of each of its ``cycles``; where these have fewer steps, it keeps as many as there are.
    ``schedule`` "cosine" or "linear" lets the rate fall to 0 over each cycle, so that each finds a mode of its own; unlike
    in Zhang et al. the noise is there from the start of a cycle. Three copies of all draws are held in training.

    There is no accept step, and what is wrong has a size. Where log p is quadratic with precision Λ, draws of full batches
    have the covariance (Λ − εΛ²/4)⁻¹, and none if εΛ ≥ 4; mini-batches add ε²/4 times their gradients' covariance to the
    noise ε of a step (Vollmer, Zygalakis & Teh 2016). A fit measures both along the direction of largest curvature and
    gives a ``SamplingWarning`` if the variance there may be twice the posterior's. Slow: in a direction of precision λ it
    takes 2/(ελ) steps to forget. To choose where the data are too many for MCMC with all rows a step.
    """

    learning_rate: float = 3e-3
    epochs: int | None = None
    batch_size: int | None = static(default=64)
    draws: int = static(default=100)
    burn_in: float = 0.5
    chains: int = static(default=4)
    cycles: int = 1
    schedule: str = static(default="constant")
    temperature: float = 1.0

    optimizer = "sgd"
    least_epochs = 2000  # where epochs is None
    members = mcmc.members

    def check(self, model):
        if self.learning_rate is None:
            raise ValueError("learning_rate must be positive: a sampler has no usual one; got None")
        optimizers.check(self)
        if not 0 <= self.burn_in < 1:
            raise ValueError(
                f"burn_in is the share of a run that is left out, at least 0 and below 1; got {self.burn_in!r}"
            )
        check_whole("chains", self.chains, 1)
        if self.cycles < 1 or self.cycles != round(self.cycles):
            raise ValueError(f"cycles must be a whole number of at least 1, got {self.cycles!r}")
        if not (isinstance(self.draws, int) and self.draws >= 1 and self.draws % self.cycles == 0):
            raise ValueError(
                f"draws must be a multiple of cycles={self.cycles!r}, the same in each; got {self.draws!r}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature!r}")
        check_proper(self, model)

    def init(self, model, batch, key):
        del batch
        return begun(self, optimizers.packed(self, model.init(key)), ())

    def step(self, model, state, batch, clock, key):
        gradient, info = slope(model, state.params, batch)
        rate, late, place = phase(self, clock)
        width = jnp.sqrt(2 * rate * self.temperature / batch.size)
        noise = prng.normal_like(key, state.params)
        params = jax.tree.map(lambda p, g, e: p + (width * e - rate * g).astype(p.dtype), state.params, gradient, noise)
        return kept(state, params, (), batch, rate, late, place), info

    def finish(self, model, trained, key, run):
        del run
        warn_if_coarse(self, model, trained, key)
        return merged(model, trained.states)

    def recursion(self, rate, curvature, size):
        """(M, b, variance): (θ, ...) ← M (θ, ...) + b·(noise of this variance − rate · noise of the gradient) along a
        direction of this curvature per example."""
        return np.array([[1 - rate * curvature]]), np.ones(1), 2 * rate * self.temperature / size


def begun(method, params, momentum):
    """The state at the start of a chain."""
    draws = jax.tree.map(lambda p: jnp.zeros((method.draws, *p.shape), p.dtype), params)
    zero = jnp.float32(0)
    return State(params, momentum, draws, jnp.zeros(method.draws, bool), zero, zero, zero)


def slope(model, params, batch):
    """The gradient of −log p(D, θ)/N, estimated from a batch, in nats per example; and what is reported of it."""

    def objective(packed):
        plain = optimizers.unpacked(packed)
        likelihood = model.log_likelihood(plain, batch) / batch.size
        penalty = -model.log_prior(plain) / batch.size
        return penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

    return jax.grad(objective, has_aux=True)(params)


def phase(method, clock):
    """The rate at this time, whether points are kept now, and in which place."""
    passed = clock.progress * method.cycles
    number = jnp.floor(passed)
    within = passed - number
    sampled = jnp.maximum(within - method.burn_in, 0) / (1 - method.burn_in)
    place = jnp.floor(method.draws * (number + sampled) / method.cycles).astype(jnp.int32)
    rate = -optimizers.step_size(method, clock._replace(progress=within))
    return rate, within >= method.burn_in, jnp.minimum(place, method.draws - 1)


def kept(state, params, momentum, batch, rate, late, place):
    """The state at the next point, which is written where it stands if no later one takes the place."""
    draws = jax.tree.map(lambda all_, p: jax.lax.dynamic_update_index_in_dim(all_, p, place, 0), state.draws, params)
    filled = state.filled.at[place].set(state.filled[place] | late)
    rate = jnp.maximum(state.rate, jnp.where(late, rate, 0.0))
    return State(params, momentum, draws, filled, rate, batch.size, batch.scale)


def merged(model, states):
    """The draws of all chains that have some, equally many of each, one chain's after another's."""
    states = [state for state in states if np.any(state.filled)]
    if not states:
        raise KeyboardInterrupt("stopped before the first draw")
    filled = [np.flatnonzero(np.asarray(state.filled)) for state in states]
    count = min(map(len, filled))
    chains = [
        jax.tree.map(
            lambda leaf, places=places: np.asarray(leaf)[places[-count:]], jax.vmap(optimizers.unpacked)(s.draws)
        )
        for s, places in zip(states, filled, strict=True)
    ]
    return Samples(model, jax.device_put(jax.tree.map(lambda *a: np.concatenate(a), *chains)), len(chains))


def warn_if_coarse(method, model, trained, key):
    """SamplingWarning if draws of the first chain vary too much where the log density is most curved."""
    state, rows = trained.states[0], trained.rows
    used = np.flatnonzero(trained.members[0].train > 0)
    used = used[np.unique(np.linspace(0, len(used) - 1, ROWS).astype(int))]
    weight = trained.members[0].train[used]
    weight = weight * (float(state.size) / weight.sum())
    x, y, weight = (padded(a, bucket(len(used))) for a in (rows.x[used], rows.y[used], weight.astype(np.float32)))
    batch = Batch(x, y, weight, jnp.float32(1), state.size)
    curvature, noise = map(float, stiffest(model, state.params, batch, jnp.float32(len(used)), key))
    blocks, size, rate = float(state.blocks), float(state.size), float(state.rate)
    noise *= blocks - 1

    def factor(rate):
        matrix, kick, injected = method.recursion(rate, curvature, size)
        return inflation(matrix, kick, injected, rate**2 * noise) * size * curvature / method.temperature

    found = factor(rate)
    fine = next((r for r in rate * 0.5 ** np.arange(40) if factor(r) < FINE), rate * 0.5**40)
    if found > COARSE:
        most = "is unstable" if np.isinf(found) else f"may have {found:.2g} times the posterior's variance"
        suggestion = float(method.learning_rate) * fine / rate
        warnings.warn(
            f"the steps of {type(method).__name__} are coarse: the direction of largest curvature {most}. "
            f"Try learning_rate={suggestion:.2g}" + (" or a larger batch_size" if blocks > 1 else ""),
            mcmc.SamplingWarning,
            stacklevel=4,
        )


@programs.jit
def stiffest(model, params, batch, rows, key):
    """The largest curvature of −log p(D, θ)/N, by power iteration, and the variance of a batch's gradient along its
    direction if an epoch has two blocks (of b blocks: b − 1 times that), both per example.

    Blocks of n of the ``rows`` M are drawn without replacement: (b/N)² n (1 − n/M) s², n = M/b, with s² the rows' variance.
    """

    def gradient(packed):
        return slope(model, packed, batch)[0]

    def unit(tree):
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
        return jax.tree.map(lambda leaf: leaf / jnp.maximum(norm, 1e-30), tree), norm

    def turn(_, direction_norm):
        return unit(jax.jvp(gradient, (params,), (direction_norm[0],))[1])

    direction, curvature = jax.lax.fori_loop(0, TURNS, turn, unit(prng.normal_like(key, params)))

    def by_rows(packed):
        plain = optimizers.unpacked(packed)
        return batch.weight * model.likelihood.log_prob(model.outputs(plain, batch.x), batch.y)

    slopes = jax.jvp(by_rows, (params,), (direction,))[1]
    used = batch.weight > 0
    mean = jnp.sum(slopes) / rows
    variance = jnp.sum(jnp.where(used, (slopes - mean) ** 2, 0.0)) / jnp.maximum(rows - 1, 1)
    return curvature, rows * variance / batch.size**2


def inflation(matrix, kick, injected, noise):
    """The stationary variance of θ where gradients have independent noise: an upper bound, for an epoch takes each row once."""
    if np.max(np.abs(np.linalg.eigvals(matrix))) >= 1:
        return np.inf
    return (injected + noise) * solve_discrete_lyapunov(matrix, np.outer(kick, kick))[0, 0]
