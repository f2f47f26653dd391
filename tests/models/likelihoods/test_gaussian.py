"""Gaussian noise against scipy.stats, quadrature, and the naive formula of squared error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dubito import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, StudentT

EPS = np.finfo(np.float32).eps


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gaussians():
    """(likelihood, z, mean, scale): fixed, learned for two targets, and heteroscedastic for two targets."""
    f = rows(9, 2)
    learned = {"log_precision": jnp.float32([1.5, -0.7])}
    rho = np.linspace(-6, 30, 18, dtype=np.float32).reshape(9, 2)
    fixed, two, hetero = Gaussian(precision=4.0, targets=2), Gaussian(targets=2), HeteroscedasticGaussian(targets=2)
    wide = np.logaddexp(0, rho.astype(float)) + 1e-3
    return {
        "fixed": (fixed, fixed.join(f, {}), f, np.full((9, 2), 0.5)),
        "learned": (two, two.join(f, learned), f, np.exp(-0.5 * np.tile([1.5, -0.7], (9, 1)))),
        "heteroscedastic": (hetero, hetero.join(jnp.concatenate([f, rho], axis=1), {}), f, wide),
    }


@pytest.mark.parametrize("name", ["fixed", "learned", "heteroscedastic"])
def test_gaussian_likelihoods_equal_scipy(name):
    likelihood, z, mean, scale = gaussians()[name]
    normal = stats.norm(mean.astype(float), scale)
    np.testing.assert_allclose(likelihood.mean(z), mean)
    np.testing.assert_allclose(likelihood.variance(z), scale**2, rtol=2e-6)
    for deviation in (0, 0.3, -1.5, 8, -8, 100):
        y = (mean + deviation * scale).astype(np.float32)
        np.testing.assert_allclose(likelihood.log_prob(z, y), normal.logpdf(y).sum(1), rtol=5e-6, atol=5e-6)
    for deviation in (0, 0.3, -1.5, 5, -5, -8):
        y = (mean + deviation * scale).astype(np.float32)
        # the error of (y − mean)/scale is a few bits of y: times the density, relative to the tail
        bound = 4 * EPS * (np.abs(y) + np.abs(mean)) * normal.pdf(y) + 4 * EPS * normal.cdf(y) * (1 + deviation**2)
        assert np.all(np.abs(np.asarray(likelihood.cdf(z, y), float) - normal.cdf(y)) <= bound)


@pytest.mark.parametrize("name", ["fixed", "learned", "heteroscedastic"])
def test_gaussian_samples_are_independent_normals(name):
    likelihood, z, mean, scale = gaussians()[name]
    count = 20_000
    keys = jax.random.split(jax.random.key(1), count)
    standard = (np.asarray(jax.jit(jax.vmap(lambda k: likelihood.sample(k, z)))(keys), float) - mean) / scale
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        found = standard**power
        assert np.all(np.abs(found.mean(0) - moment) < 4.6 * found.std(0) / np.sqrt(count))
    first = standard[:, 0, 0]
    for other in (standard[:, 0, 1], standard[:, 5, 0], standard[:, 5, 1]):
        assert abs((first * other).mean()) < 4.6 / np.sqrt(count)
    assert stats.kstest(first, "norm").pvalue > 4e-6


def test_likelihood_width_is_the_number_of_outputs():
    assert (Gaussian(targets=3).width, HeteroscedasticGaussian(targets=3).width, StudentT(targets=3).width) == (3, 6, 6)
    assert (Bernoulli().width, Categorical(5).width) == (1, 5)


@pytest.mark.parametrize(("shape", "rate"), [(1.0, 0.01), (6.0, 6.0), (0.5, 3.0)])
def test_prior_of_log_precision_is_a_gamma_with_the_jacobian(shape, rate):
    likelihood = Gaussian(shape=shape, rate=rate)

    def log_prior(value):
        return float(likelihood.log_prior({"log_precision": jnp.float32([value])}))

    for value in (-6.0, -1.0, 0.0, 1.3, 4.0, 7.0):
        tau = np.exp(value)
        exact = stats.gamma(shape, scale=1 / rate).logpdf(tau) + value
        np.testing.assert_allclose(log_prior(value), exact, rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(exact, stats.loggamma(shape, loc=-np.log(rate)).logpdf(value))
    density = jax.vmap(lambda v: jnp.exp(likelihood.log_prior({"log_precision": v[None]})))
    grid = np.linspace(-40, 16, 40_001)
    np.testing.assert_allclose(integrate.trapezoid(np.asarray(density(jnp.float32(grid)), float), grid), 1, atol=1e-5)


def test_priors_of_several_targets_add_and_fixed_noise_has_none():
    values = jnp.float32([0.3, -1.2])
    parts = [Gaussian().log_prior({"log_precision": v[None]}) for v in values]
    np.testing.assert_allclose(Gaussian(targets=2).log_prior({"log_precision": values}), sum(parts), rtol=1e-6)
    for likelihood in (Gaussian(precision=2.0), HeteroscedasticGaussian(), StudentT(), Bernoulli(), Categorical(3)):
        assert likelihood.init() == {} and likelihood.log_prior({}) == 0
    assert Gaussian(targets=2).init()["log_precision"].shape == (2,)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_gaussian_criterion_is_the_squared_error(tau):
    """½τ‖y − ŷ‖² = −log N(y | ŷ, 1/τ) + K/2 log τ − K/2 log 2π, K = 2."""
    f, y = rows(6, 2, seed=4), rows(6, 2, seed=5)
    likelihood = Gaussian(precision=tau, targets=2)
    criterion = 0.5 * tau * np.sum((y.astype(float) - f) ** 2, axis=1)
    found = -np.asarray(likelihood.log_prob(likelihood.join(f, {}), y), float) + np.log(tau) - np.log(2 * np.pi)
    np.testing.assert_allclose(found, criterion, rtol=2e-6, atol=2e-6)


def test_heteroscedastic_gaussian_refuses_another_link():
    with pytest.raises(ValueError, match=r"link='log' is unknown\. Choose one of softplus, exp"):
        HeteroscedasticGaussian(link="log")
