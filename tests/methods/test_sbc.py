"""Simulation-based calibration (Talts et al. 2018): parameters from the prior, data from the parameters, draws from the data.

Whatever the network is, the rank of what the parameters say among what the draws say is uniform if the sampler is right. Ranks
of predictions alone miss a posterior that ignores the data, so the log likelihood is ranked too (Modrák et al. 2023), and for a
prior that is not the model's the log prior.
The sampler's own ``init`` and ``step`` run, of all simulated data sets side by side.
"""

import itertools
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import dubito
from dubito._jax.pytree import register_dataclass
from dubito.methods.sampling import mcmc
from dubito.models.model import Batch
from dubito.training.method import Clock
from dubito.training.packing import unpack

SETS, ROWS, BINS = 512, 8, 8


@dataclass(frozen=True)
class Powered(dubito.Gaussian):
    """A Gaussian to a power: 1 is the Gaussian; another one is a planted bug, in the same compiled program."""

    power: float = 1.0

    def log_prob(self, z, y):
        return self.power * dubito.Gaussian.log_prob(self, z, y)


register_dataclass(Powered)
LIKELIHOOD = Powered(shape=4.0, rate=1.0)
MODEL = dubito.Model(dubito.mlp(1, (2,), activation="tanh"), LIKELIHOOD, dubito.Normal(1.0))
X = jnp.linspace(-2, 2, ROWS)[:, None]
NEW = jnp.array([[-0.7], [3.0]])


def simulated(key):
    """(parameters, y) from the model."""
    keys = jax.random.split(key, 3)
    like = MODEL.init(keys[0])
    tau = jax.random.gamma(keys[1], LIKELIHOOD.shape, (1,)) / LIKELIHOOD.rate
    key_prior, key_noise = jax.random.split(keys[2])
    params = {"network": MODEL.prior.sample(key_prior, like["network"]), "likelihood": {"log_precision": jnp.log(tau)}}
    return params, LIKELIHOOD.sample(key_noise, MODEL.outputs(params, X))


def batch(y):
    return Batch(X, y, jnp.ones(ROWS), jnp.float32(1), jnp.float32(ROWS))


def said(params, y):
    """What is ranked: two predictions, the noise, and the log densities of the data and of the parameters."""
    f = MODEL.network.apply(params["network"], NEW)[:, 0]
    own = MODEL.log_likelihood(params, batch(y)), MODEL.log_prior(params)
    return jnp.array([f[0], f[1], params["likelihood"]["log_precision"][0], *own])


HALVES = jnp.array([*itertools.combinations(range(ROWS), ROWS // 2)])


def half(y, key):
    """Half of the rows, as a batch that stands for all."""
    rows = HALVES[jax.random.randint(key, (), 0, len(HALVES))]
    return Batch(X[rows], y[rows], jnp.ones(ROWS // 2), jnp.float32(2), jnp.float32(ROWS))


def run(method, total, model, key, y):
    """The draws of one chain by the method's own functions, as trees of parameters; from mini-batches where it takes them."""
    key_init, key_run = jax.random.split(key)

    def one(state, number):
        clock = Clock(number, (number / total).astype(jnp.float32), jnp.bool_(True), jnp.float32(1))
        key_batch, key_step = jax.random.split(jax.random.fold_in(key_run, number))
        rows = batch(y) if method.batch_size is None else half(y, key_batch)
        return method.step(model, state, rows, clock, key_step)[0], None

    state, _ = jax.lax.scan(one, method.init(model, batch(y), key_init), jnp.arange(total))
    if method.batch_size is None:
        return mcmc.to_params(model, state.draws, key)
    return jax.vmap(unpack)(state.draws)


@partial(jax.jit, static_argnums=1)
def ranks(method, total, model, key):
    """How many of each data set's draws say less than the true parameters, (sets, quantities)."""

    def one(key):
        key_data, key_run = jax.random.split(key)
        params, y = simulated(key_data)
        drawn = run(method, total, model, key_run, y)
        return jnp.sum(jax.vmap(said, (0, None))(drawn, y) < said(params, y)[None], axis=0)

    return jax.vmap(one)(jax.random.split(key, SETS))


def p_values(method, model=MODEL):
    """Of each quantity the chance of ranks so far from uniform, by χ² over ``BINS`` bins."""
    found = np.asarray(ranks(method, int(method.epochs), model, jax.random.key(7)))
    assert (method.draws + 1) % BINS == 0
    counts = np.stack([np.bincount(column * BINS // (method.draws + 1), minlength=BINS) for column in found.T])
    return scipy.stats.chisquare(counts, axis=1).pvalue


@dataclass(frozen=True)
class Accepting(dubito.HMC):
    """HMC, or with ``always`` a planted bug in the same compiled program: every proposal is accepted."""

    always: float = 0.0

    def kernel(self, key, state, density, step_size, inverse_mass):
        from blackjax.mcmc import hmc

        moved, info = dubito.HMC.kernel(self, key, state, density, step_size, inverse_mass)
        fine = jnp.isfinite(info.proposal.logdensity) & jnp.all(jnp.isfinite(info.proposal.position))
        end = hmc.HMCState(info.proposal.position, info.proposal.logdensity, info.proposal.logdensity_grad)
        faulty = jax.tree.map(lambda a, b: jnp.where(fine, a, b), end, hmc.HMCState(*state))
        return jax.tree.map(lambda a, b: jnp.where(self.always == 0, a, b), moved, faulty), info


register_dataclass(Accepting)


SAMPLERS = {
    "hmc": Accepting(draws=31, warmup=100, thin=6, chains=1, warm_start_steps=0, max_steps=16, acceptance=0.9),
    "nuts": dubito.NUTS(draws=31, warmup=100, thin=6, chains=1, warm_start_steps=0, max_depth=4, acceptance=0.9),
    # At a step that gives all directions nearly their variance, so many that draws are nearly independent; SGLD is the same with
    # friction=1, and needs ten times as many.
    "sghmc": dubito.SGHMC(draws=31, epochs=10_000, learning_rate=2e-3, burn_in=0.1, chains=1),
}


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_sbc_ranks_are_uniform(name):
    """Five quantities of each of the samplers: a false alarm once in 10,000 runs."""
    assert min(p_values(SAMPLERS[name])) > 1e-4 / (5 * len(SAMPLERS))


BUGS = {
    "prior scale times 1.25": replace(MODEL, prior=dubito.Normal(1.25, 1.25)),
    "half the likelihood": replace(MODEL, likelihood=replace(LIKELIHOOD, power=0.5)),
}


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_sbc_catches_a_planted_bug_of_the_model(bug):
    """With one exact sampler: the draws of another one are of the same wrong posterior."""
    assert min(p_values(SAMPLERS["hmc"], BUGS[bug])) < 1e-6


@pytest.mark.optimized
@pytest.mark.slow
def test_sbc_catches_a_missing_accept_step():
    """At a step size that an accept step would have to mend."""
    assert min(p_values(replace(SAMPLERS["hmc"], acceptance=0.6, always=1.0))) < 1e-6
