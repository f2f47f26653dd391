"""Randomized MAP: draws of the posterior where that is Gaussian, and of the bootstrap's distribution elsewhere."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

import dubito

problem, with_noise = problems.problem, problems.with_noise
MEMBERS = 1000  # in one fit: of a network of as many independent parts, whose data are the same
GROUPS = 400  # of rows, each with a parameter of its own
METHOD = dubito.RandomizedMAP(epochs=200, batch_size=None, learning_rate=0.05)


def many(model, problem, weight=None):
    """The params of linear members (D, MEMBERS), each a target of one fit."""

    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (3, MEMBERS), jnp.float32)}

    network, likelihood = dubito.Network(init, problems.apply), replace(model.likelihood, targets=MEMBERS)
    y = np.broadcast_to(problem.y, (len(problem.x), MEMBERS))
    model = dubito.Model(network, likelihood, model.prior)
    found = dubito.fit(model, problem.x, y, METHOD, key=jax.random.key(0), weight=weight).params
    return jax.tree.map(lambda leaf: np.asarray(leaf, float)[0], found)


def test_members_are_draws_of_the_exact_posterior(problem):
    """With small sample weights, so that the prior matters; a row of weight w has noise of precision wτ."""
    weight = np.linspace(0.002, 0.05, len(problem.x))
    prior, tau = problem.model.prior.scale, problems.TAU
    covariance = np.linalg.inv(np.eye(3) / prior**2 + tau * problem.x.T @ (weight[:, None] * problem.x))
    mean = tau * covariance @ problem.x.T @ (weight * problem.y[:, 0])
    found = many(problem.model, problem, weight)["network"]["w"]
    variance = np.diag(covariance)
    assert np.all(np.abs(found.mean(1) - mean) < 4.6 * np.sqrt(variance / MEMBERS))
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / MEMBERS)
    assert np.all(np.abs(np.cov(found) - covariance) < 4.6 * error)


@pytest.mark.slow
def test_learned_noise_is_near_the_exact_one(problem, with_noise):
    """The mean of log τ errs by less than 0.05 of its standard deviation, which is between 0.93 and 1 of the exact one."""
    model, mean, sd = with_noise
    found = many(model, problem)
    log_tau = found["likelihood"]["log_precision"]
    assert abs(log_tau.mean() - mean) < sd * (0.05 + 4.6 / np.sqrt(MEMBERS))
    assert abs(log_tau.std() / sd - 0.965) < 0.035 + 4.6 / np.sqrt(2 * MEMBERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("likelihood", "slope"), [(dubito.Bernoulli(), lambda f: 1 / (1 + np.exp(-f))), (dubito.Poisson(), np.exp)]
)
def test_members_of_other_likelihoods_have_the_moments_of_the_bootstrap(likelihood, slope):
    """One parameter f: Σ e_i (y_i − p(f)) = f − a, with e_i from Exp(1) and a from N(0, 1), solved by itself."""
    rng = np.random.default_rng(0)
    y = np.array([0, 1, 1, 0, 1, 1, 1, 1])

    def init(key):
        return {"b": jax.random.normal(key, (GROUPS,), jnp.float32)}

    def apply(params, x):
        return params["b"][x[:, 0].astype(jnp.int32), None]

    model = dubito.Model(dubito.Network(init, apply), likelihood, dubito.Normal(1.0))
    x = np.repeat(np.arange(GROUPS), 8)[:, None]
    found = dubito.fit(model, x, np.tile(y, GROUPS), METHOD, key=jax.random.key(0)).params["network"]["b"]
    found = np.asarray(found, float)[0]

    e, a = rng.exponential(size=(20_000, 8)), rng.normal(size=20_000)
    low, high = np.full(len(a), -9.0), np.full(len(a), 9.0)
    for _ in range(50):
        f = (low + high) / 2
        rises = np.sum(e * (y - slope(f)[:, None]), axis=1) > f - a
        low, high = np.where(rises, f, low), np.where(rises, high, f)
    exact = (low + high) / 2
    assert abs(found.mean() - exact.mean()) < 4.6 * exact.std() * np.sqrt(1 / GROUPS + 1 / len(exact))
    squares = (exact - exact.mean()) ** 2
    assert abs(found.var() - exact.var()) < 4.6 * squares.std() * np.sqrt(1 / GROUPS + 1 / len(exact))


def test_invalid_settings_are_refused(key):
    model = dubito.Model(dubito.mlp(2, (3,)), dubito.Gaussian(), None)
    with pytest.raises(ValueError, match="proper"):
        dubito.fit(model, np.zeros((4, 2)), np.zeros(4), METHOD, key=key)
    x = np.zeros((70_000, 2), np.float32)
    model = dubito.Model(dubito.mlp(2, (3,)), dubito.Gaussian())
    with pytest.raises(ValueError, match="RandomizedMAP needs all rows in memory"):
        dubito.fit(model, lambda: iter([(x, x[:, :1])]), None, dubito.RandomizedMAP(), key=key)
