"""Chains: their draws against exact posteriors, what they keep, and what they refuse."""

import builtins
import functools
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import dubito
from dubito.methods.sampling import mclmc, mcmc
from dubito.models.model import Batch
from dubito.training.method import Clock

TAU, N, D = 4.0, 40, 3
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D)) @ np.array([[1.0, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
Y = X @ np.array([[1.0], [-0.5], [0.2]]) + RNG.normal(size=(N, 1)) / np.sqrt(TAU)


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (D, 1), jnp.float32)}


def apply(params, x):
    return x @ params["w"]


def linear(likelihood):
    return dubito.Model(dubito.Network(init, apply), likelihood, dubito.Normal(0.7))


def z_scores(values, chains, exact, batches=25):
    """(mean − exact)/its standard error, from the means of batches of each chain; values (S, ·)."""
    means = values.reshape(chains * batches, -1, values.shape[-1]).mean(1)
    return (means.mean(0) - exact) / (means.std(0, ddof=1) / np.sqrt(len(means)))


DENSE = {
    "hmc": dubito.HMC(draws=1500, warmup=300, chains=2, warm_start_steps=0, mass="dense", anneal=50),
    "nuts": dubito.NUTS(draws=1500, warmup=300, chains=2, warm_start_steps=50, mass="dense"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_mean_and_covariance_of_the_conjugate_posterior(name):
    precision = np.eye(D) / 0.7**2 + TAU * X.T @ X
    mean, covariance = np.linalg.solve(precision, TAU * X.T @ Y)[:, 0], np.linalg.inv(precision)
    found = dubito.fit(linear(dubito.Gaussian(precision=TAU)), X, Y, DENSE[name], key=jax.random.key(1))
    assert found.chains == 2 and len(found) == 3000
    assert np.all(np.abs(z_of_weights(found, mean, covariance)) < 4.6)


def z_of_weights(found, mean, covariance):
    w = np.asarray(found.params["network"]["w"], float)[:, :, 0]
    products = ((w - mean)[:, :, None] * (w - mean)[:, None, :]).reshape(len(w), -1)
    return z_scores(np.hstack([w, products]), 2, np.append(mean, covariance))


MICROCANONICAL = dubito.MCLMC(draws=4000, warmup=1000, chains=2, thin=5, warm_start_steps=0)
METHODS = {
    "hmc": dubito.HMC(draws=1500, warmup=300, chains=2, warm_start_steps=1500),
    "nuts": dubito.NUTS(draws=1500, warmup=300, chains=2, warm_start_steps=50),
    "mclmc": MICROCANONICAL,
}
LEARNED = linear(dubito.Gaussian(shape=2.0, rate=0.5))  # its noise
GRID = np.linspace(-2, 5, 2001)  # of log τ


@functools.cache
def learned(name):
    """The posterior, and log likelihood and penalty after each epoch."""
    reports = []
    found = dubito.fit(LEARNED, X, Y, METHODS[name], key=jax.random.key(2), progress=reports.append)
    return found, [np.concatenate([getattr(r, each) for r in reports]) for each in ("likelihood", "penalty")]


def given(log_tau):
    """Mean and covariance of the weights at this noise."""
    tau = np.exp(log_tau)
    precision = np.eye(D) / 0.7**2 + tau * X.T @ X
    return np.linalg.solve(precision, tau * X.T @ Y)[:, 0], np.linalg.inv(precision)


def log_prior(log_tau):
    return scipy.stats.gamma.logpdf(np.exp(log_tau), 2.0, scale=2.0) + log_tau


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_learned_noise_and_weights_have_the_moments_by_quadrature(name):
    """log τ with the weights integrated out is a one-dimensional density on a grid; the weights are normal at each of its points."""

    def log_density(log_tau):
        covariance = np.eye(N) / np.exp(log_tau) + X @ X.T * 0.7**2
        return scipy.stats.multivariate_normal.logpdf(Y[:, 0], cov=covariance) + log_prior(log_tau)

    density = np.array([log_density(one) for one in GRID])
    density = np.exp(density - density.max()) / np.exp(density - density.max()).sum()
    mean = GRID @ density
    variance = (GRID - mean) ** 2 @ density
    found, _ = learned(name)
    log_tau = np.asarray(found.params["likelihood"]["log_precision"], float)
    z = z_scores(np.concatenate([log_tau, (log_tau - mean) ** 2], axis=1), 2, np.array([mean, variance]))
    assert np.all(np.abs(z) < 4.6)
    means, covariances = (np.stack(each) for each in zip(*map(given, GRID), strict=True))
    center = density @ means
    spread = np.einsum("g,gij->ij", density, covariances) + (density * (means - center).T) @ (means - center)
    assert np.all(np.abs(z_of_weights(found, center, spread)) < 4.6)


@pytest.mark.parametrize("name", ["hmc", "nuts"])
def test_divergent_transitions_are_warned_of(name):
    """Step sizes for an acceptance of one in a hundred are so long that every transition diverges, and no chain moves. The
    case without a warning, which would be an error, is the test above, in the same program."""
    method = replace(METHODS[name], acceptance=0.01)
    with pytest.warns(dubito.SamplingWarning, match="3000 of 3000 transitions diverged"):
        found = dubito.fit(LEARNED, X, Y, method, key=jax.random.key(2))
    assert len(np.unique(np.asarray(found.params["likelihood"]["log_precision"]))) == 2


def test_a_chain_that_never_moves_is_warned_of():
    model, key = linear(dubito.Gaussian(precision=TAU)), jax.random.key(0)
    one = mcmc.Chain(0, 0, 0, 0, 0, draws=np.arange(9.0)[:, None] * np.ones(D), count=9, faults=0)
    mcmc.merge_chains(MICROCANONICAL, model, [one, one], key)
    mcmc.merge_chains(MICROCANONICAL, model, [one._replace(count=1)], key)
    with pytest.warns(dubito.SamplingWarning, match="1 of 2 chains never moved.*: lower energy"):
        mcmc.merge_chains(MICROCANONICAL, model, [one, one._replace(draws=np.ones((9, D)))], key)


def test_microcanonical_tuning_begins_at_the_true_density(monkeypatch):
    """Also without a warm start, whose steps would have set density and gradient."""
    started = []

    def tune(kernel, steps, state, *rest):
        started.append(state)
        raise InterruptedError

    monkeypatch.setattr("blackjax.adaptation.mclmc_adaptation.mclmc_find_L_and_step_size", tune)
    chain = mcmc.Chain(jnp.ones(D), 0.0, jnp.zeros(D), (), mclmc.Tuned(jnp.ones(D), 1.0, 1.0, jnp.ones(D)), (), 0, 0)
    with pytest.raises(InterruptedError):
        mclmc.tune_chain(MICROCANONICAL, lambda u: -0.5 * jnp.sum(u**2), chain, jax.random.key(0))
    assert float(started[0].logdensity) == -0.5 * D and np.all(np.asarray(started[0].logdensity_grad) == -1)


@pytest.mark.slow
def test_microcanonical_steps_to_where_there_is_no_density_are_counted():
    """A density on a cube: short steps stay in it, long ones all leave it, and the chain stays where it was."""

    def density(u):
        return jnp.where(jnp.all(jnp.abs(u) < 1), -0.5 * jnp.sum(u**2), jnp.nan)

    @jax.jit
    def counted(step):
        tuned = mclmc.Tuned(jnp.array([0.6, 0.0, 0.8]), jnp.float32(1), step, jnp.ones(D))
        chain = mcmc.Chain(
            0.1 * jnp.ones(D), 0.0, jnp.zeros(D), (), tuned, jnp.zeros((4, D)), jnp.int32(0), jnp.int32(0)
        )
        chain = mcmc.with_density(density, chain)
        for key in jax.random.split(jax.random.key(0), 4):
            chain = mclmc.move_chain(MICROCANONICAL, density, chain, key)
        return chain.count, chain.faults, chain.draws

    for step, faults in ((0.01, 0), (30.0, 4 * MICROCANONICAL.thin)):
        count, found, draws = counted(jnp.float32(step))
        assert (int(count), int(found)) == (4, faults)
        assert np.all(np.asarray(draws) == np.float32(0.1)) == (faults > 0)


def test_one_divergent_transition_in_a_hundred_is_no_reason_to_warn():
    """Of all chains together, also of transitions between draws: 2 of 200, but not 3."""
    model, key = linear(dubito.Gaussian(precision=TAU)), jax.random.key(0)
    one = mcmc.Chain(0, 0, 0, 0, 0, draws=np.arange(150.0)[:, None] * np.ones(D), count=100, faults=2)
    every, third = dubito.HMC(), dubito.HMC(thin=3)
    mcmc.merge_chains(every, model, [one, one._replace(faults=0)], key)
    mcmc.merge_chains(third, model, [one, one._replace(faults=4)], key)
    with pytest.warns(dubito.SamplingWarning, match="3 of 200 transitions"):
        mcmc.merge_chains(every, model, [one, one._replace(faults=1)], key)
    with pytest.warns(dubito.SamplingWarning, match="7 of 600 transitions"):
        mcmc.merge_chains(third, model, [one, one._replace(faults=5)], key)


def test_coordinates_make_the_prior_standard():
    """u of draws of the prior is N(0, 1) in every direction, and log p(D, θ) is the model's own."""
    model = dubito.Model(dubito.mlp(3, (4,), periodic=2), dubito.Gaussian(), dubito.Normal(2.0, by_network=True))
    like = model.init(jax.random.key(0))
    where = mcmc.coordinates(model, like)
    keys = jax.random.split(jax.random.key(1), 400)

    def drawn(key):
        return where.vector({**like, "network": model.prior.sample(key, like["network"], model.scales(like))})

    u = np.asarray(jax.jit(jax.vmap(drawn))(keys))[:, 1:]
    assert np.all(np.abs(u.mean(0)) < 4.9 / 20) and np.all(np.abs(u.var(0) - 1) < 4.9 * np.sqrt(2 / 400))
    back = where.params(where.vector(like))
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(like), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
def test_chains_start_where_the_density_is_high():
    """The descents end at the mode: there log p(D, θ)/N is that of the closed form."""

    def log_joint(log_tau):
        w = given(log_tau)[0][:, None]
        density = np.sum(scipy.stats.norm.logpdf(Y, X @ w, np.exp(-0.5 * log_tau)))
        return density + np.sum(scipy.stats.norm.logpdf(w, scale=0.7)) + log_prior(log_tau)

    _, (likelihood, penalty) = learned("hmc")
    end = mcmc.warm_start_epochs(METHODS["hmc"]) - 1
    np.testing.assert_allclose((likelihood - penalty)[end], max(map(log_joint, GRID)) / N, atol=1e-4)


@pytest.mark.slow
def test_draws_are_every_thin_th_after_the_warmup():
    """With another thinning the chain is the same one: its draws are a part of the other's."""
    thinned = dubito.fit(LEARNED, X, Y, replace(METHODS["hmc"], draws=500, thin=3), key=jax.random.key(2))
    every, some = (np.reshape(each.params["network"]["w"], (2, -1, D)) for each in (learned("hmc")[0], thinned))
    np.testing.assert_array_equal(every[:, 2::3], some)


@pytest.mark.slow
def test_an_interrupted_run_gives_as_many_draws_of_each_chain_as_all_have():
    once = iter([None])

    def stop(report):
        if report.epoch > 60:
            for _ in once:
                signal.raise_signal(signal.SIGINT)

    method = dubito.HMC(draws=10**5, warmup=20, chains=2, warm_start_steps=0)
    model = linear(dubito.Gaussian())
    found = dubito.fit(model, X, Y, method, key=jax.random.key(0), progress=stop, keep_on_interrupt=True)
    each = len(found) // found.chains
    assert 1 <= each < 10**5 and len(found) == each * found.chains
    w = np.asarray(found.params["network"]["w"]).reshape(len(found), -1)
    assert len(np.unique(w, axis=0)) > len(w) / 2  # draws, not what was there before


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (dubito.NUTS(draws=0), "draws must be a whole number of at least 1, got 0"),
        (dubito.NUTS(warmup=-1), "warmup must be a whole number of at least 0, got -1"),
        (dubito.NUTS(max_depth=0), "max_depth must be a whole number from 1 to 15, got 0"),
        (dubito.HMC(mass="full"), "mass='full' is unknown. Choose one of diagonal, dense."),
        (dubito.HMC(acceptance=1.0), "acceptance must be strictly between 0 and 1, got 1.0"),
        (dubito.HMC(trajectory=0.0), "trajectory must be positive"),
        (dubito.MCLMC(warmup=10), "warmup must be a whole number of at least 100"),
        (dubito.MCLMC(energy_variance=0.0), "energy_variance must be positive"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_invalid_settings_are_refused(method, words):
    with pytest.raises(ValueError, match=words):
        dubito.fit(linear(dubito.Gaussian()), X, Y, method, key=jax.random.key(0))


def test_an_improper_prior_and_early_stopping_are_refused():
    method = dubito.NUTS(draws=5, warmup=5)
    free = dubito.Model(linear(dubito.Gaussian()).network, dubito.Gaussian(), dubito.Normal(biases=None))
    with pytest.raises(ValueError, match="NUTS needs a proper prior"):
        dubito.fit(free, X, Y, method, key=jax.random.key(0))
    with pytest.raises(ValueError, match="NUTS does not support early stopping, since it runs its whole schedule"):
        dubito.fit(linear(dubito.Gaussian()), X, Y, method, key=jax.random.key(0), early_stopping=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nuts", "mclmc"])
def test_a_diverging_chain_raises_divergence_error(name):
    """The log density of outputs whose squares overflow in float32 is not finite: a message in words, no NaN draws."""
    with pytest.raises(dubito.DivergenceError, match=r"diverged at epoch 1 .* the log density is not finite there"):
        dubito.fit(LEARNED, 1e30 * X, Y, METHODS[name], key=jax.random.key(0))


def test_without_blackjax_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("blackjax"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'dubito\[samplers\]'"):
        dubito.fit(linear(dubito.Gaussian()), X, Y, dubito.NUTS(draws=5), key=jax.random.key(0))


@pytest.fixture
def double_precision():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dubito.SamplingWarning")  # so short a warmup finds no step size
@pytest.mark.parametrize("method", [dubito.HMC(20, 30, 1, warm_start_steps=0), dubito.MCLMC(20, 100, 1)])
def test_with_double_precision_chains_move_in_it(method, double_precision, key):
    """By the types in the traced programs; a fit of HMC returns float32 parameters all the same."""
    model = linear(dubito.Gaussian())
    batch = Batch(*(jnp.asarray(each, jnp.float32) for each in (X, Y, np.ones(N), 1, N)))
    clock = Clock(jnp.int32(0), jnp.float32(0), jnp.bool_(True), jnp.float32(1))
    state = jax.eval_shape(functools.partial(method.init, model, batch), key)
    moved, _ = jax.eval_shape(lambda state, key: method.step(model, state, batch, clock, key), state, key)
    assert jax.tree.map(lambda leaf: leaf.dtype, moved) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert {str(leaf.dtype) for leaf in (moved.position, moved.density, moved.gradient, moved.draws)} == {"float64"}
    if isinstance(method, dubito.HMC):
        found = dubito.fit(model, X, Y, method, key=key)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(found.params)} == {"float32"}
