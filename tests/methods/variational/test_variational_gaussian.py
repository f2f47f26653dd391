"""Gaussian variational inference with correlations: exact on conjugate linear regression, ELBO = log evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree

import dubito
from dubito._jax.prng import fast
from dubito.models.model import Batch

TAU, N, D, PRIOR = 4.0, 40, 4, 0.7
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D)) @ (np.eye(D) + 0.7 * np.eye(D, k=1))
Y = X @ RNG.normal(size=(D, 1)) + RNG.normal(size=(N, 1)) / np.sqrt(TAU)
LINEAR = dubito.Network(lambda key: {"w": 0.1 * jax.random.normal(key, (D, 1))}, lambda p, x: x @ p["w"])
MODEL = dubito.Model(LINEAR, dubito.Gaussian(precision=TAU), dubito.Normal(PRIOR))
PRECISION = np.eye(D) / PRIOR**2 + TAU * X.T @ X
MEAN = np.linalg.solve(PRECISION, TAU * X.T @ Y)[:, 0]
BATCH = Batch(jnp.float32(X), jnp.float32(Y), jnp.ones(N), jnp.float32(1), jnp.float32(N))
TRAINING = {
    "epochs": 800,
    "batch_size": None,
    "learning_rate": 0.02,
    "draws": 32,
    "warm_up": 0.25,
    "initial_scale": 0.02,
}


def kl(mean, covariance):
    """KL(q ‖ the exact posterior)."""
    d, product = mean - MEAN, PRECISION @ covariance
    return 0.5 * (np.trace(product) + d @ PRECISION @ d - D - np.linalg.slogdet(product)[1])


def moments(posterior):
    mean = np.asarray(ravel_pytree(posterior.mean)[0], float)
    if isinstance(posterior, dubito.FullCovarianceNormal):
        factor = np.asarray(posterior.factor, float)
        return mean, factor @ factor.T
    scale = np.asarray(ravel_pytree(posterior.scale)[0], float)
    directions = np.asarray(posterior.directions["network"]["w"], float)[:, :, 0]
    return mean, np.diag(scale**2) + directions.T @ directions


def least_kl(rank):
    """The least KL of a low-rank q with the exact mean, from several starts."""

    def objective(v):
        directions = v[D:].reshape(rank, D)
        return kl(MEAN, np.diag(np.exp(2 * v[:D])) + directions.T @ directions)

    rng = np.random.default_rng(0)
    starts = [np.concatenate([np.full(D, -2.0), 0.3 * rng.normal(size=rank * D)]) for _ in range(4)]
    return min(scipy.optimize.minimize(objective, s, method="BFGS").fun for s in starts)


@pytest.mark.slow
def test_full_covariance_is_the_exact_posterior_and_its_elbo_the_log_evidence():
    method = dubito.VariationalGaussian(covariance="full", **TRAINING)
    posterior = dubito.fit(MODEL, X, Y, method, key=jax.random.key(0))
    mean, covariance = moments(posterior)
    exact = np.linalg.inv(PRECISION)
    sd = np.sqrt(np.diag(exact))
    np.testing.assert_allclose(mean, MEAN, atol=0.05 * sd.min())
    np.testing.assert_allclose(covariance / np.outer(sd, sd), exact / np.outer(sd, sd), atol=0.05)
    evidence = scipy.stats.multivariate_normal.logpdf(Y[:, 0], cov=np.eye(N) / TAU + PRIOR**2 * X @ X.T)
    assert 0 <= kl(mean, covariance) < 0.01
    free = np.tril(posterior.factor, -1) + np.diag(np.log(np.expm1(np.diag(posterior.factor))))
    found = elbos(method, {"mean": posterior.mean, "factor": jnp.float32(free)})
    # ELBO = log evidence − KL(q ‖ posterior)
    assert abs(found.mean() - (evidence - kl(mean, covariance))) < 4.6 * found.std() / np.sqrt(len(found)) + 1e-3


def elbos(method, variational):
    keys = jax.random.split(fast(jax.random.key(4)), 1000)
    both = jax.jit(jax.vmap(lambda key: method.objective(MODEL, variational, BATCH, key)))(keys)
    return np.asarray(both[0] - both[1], float)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_covariance_is_the_optimum_of_its_family(rank):
    """To within 0.02 nats; three directions and a diagonal suffice for the exact posterior."""
    method = dubito.VariationalGaussian(covariance="low-rank", rank=rank, **TRAINING)
    posterior = dubito.fit(MODEL, X, Y, method, key=jax.random.key(0))
    mean, covariance = moments(posterior)
    best = least_kl(rank)
    assert best - 1e-6 <= kl(mean, covariance) < best + 0.02
    if rank == 3:
        assert best < 1e-3
    rho = jax.tree.map(lambda s: jnp.log(jnp.expm1(s)), ravel_pytree(posterior.scale)[0])
    directions = posterior.directions["network"]["w"][:, :, 0]
    found = elbos(method, {"mean": posterior.mean, "rho": rho, "directions": directions})
    evidence = scipy.stats.multivariate_normal.logpdf(Y[:, 0], cov=np.eye(N) / TAU + PRIOR**2 * X @ X.T)
    assert abs(found.mean() - (evidence - kl(mean, covariance))) < 4.6 * found.std() / np.sqrt(len(found)) + 1e-3


def test_learned_noise_is_in_the_kl():
    """KL of q(w, log τ) to a Normal and a log-Gamma prior against draws of log q − log p in NumPy."""
    model = dubito.Model(LINEAR, dubito.Gaussian(shape=2.0, rate=0.5), dubito.Normal(PRIOR))
    method = dubito.VariationalGaussian(covariance="full", draws=64)
    mean = {"network": {"w": jnp.float32(RNG.normal(size=(D, 1)))}, "likelihood": {"log_precision": jnp.float32([0.3])}}
    free = jnp.float32(0.3 * RNG.normal(size=(D + 1, D + 1)))
    keys = jax.random.split(fast(jax.random.key(5)), 200)
    variational = {"mean": mean, "factor": free}
    found = np.asarray(jax.jit(jax.vmap(lambda key: method.objective(model, variational, BATCH, key)[1]))(keys), float)
    factor = np.tril(np.asarray(free, float), -1) + np.diag(np.logaddexp(0, np.diag(free)))
    center, covariance = np.asarray(ravel_pytree(mean)[0], float), factor @ factor.T
    q = scipy.stats.multivariate_normal(center, covariance)
    draws = q.rvs(100_000, random_state=1)  # the leaves in order: log τ, then w
    prior = scipy.stats.norm.logpdf(draws[:, 1:], scale=PRIOR).sum(1)
    noise = scipy.stats.gamma.logpdf(np.exp(draws[:, 0]), 2.0, scale=2.0) + draws[:, 0]
    exact = q.logpdf(draws) - prior - noise
    error = np.hypot(exact.std() / np.sqrt(len(exact)), found.std() / np.sqrt(len(found)))
    assert abs(found.mean() - exact.mean()) < 4.6 * error


def test_a_large_network_has_no_full_covariance(key):
    model = dubito.Model(dubito.mlp(10, (200,)), dubito.Gaussian())
    with pytest.raises(ValueError, match="up to 2000 parameters, and the model has 2402"):
        dubito.fit(model, np.zeros((9, 10)), np.arange(9.0), dubito.VariationalGaussian(covariance="full"), key=key)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"covariance": "dense"}, "full, low-rank"), ({"rank": 0}, "rank"), ({"initial_scale": 0.0}, "initial_scale")],
)
def test_invalid_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dubito.VariationalGaussian(**change).check(MODEL)
