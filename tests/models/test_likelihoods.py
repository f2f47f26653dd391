"""Likelihoods against scipy.stats, quadrature, and the naive formulas of the criteria."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from dubito import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, StudentT

EPS = np.finfo(np.float32).eps
LOGITS = np.array([0.0, 0.3, -2.0, 80.0, -80.0, 1e4, -1e4])


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
def test_gaussians_are_scipys(name):
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


def test_width_is_the_number_of_outputs():
    assert (Gaussian(targets=3).width, HeteroscedasticGaussian(targets=3).width, StudentT(targets=3).width) == (3, 6, 6)
    assert (Bernoulli().width, Categorical(5).width) == (1, 5)


@pytest.mark.parametrize("name", ["fixed", "learned", "heteroscedastic"])
def test_samples_of_gaussians(name):
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


@pytest.mark.parametrize("df", [4, 6, 10])
def test_student_t_is_scipys(df):
    likelihood, f = StudentT(df, targets=2), rows(9, 4)
    z, mean, scale = likelihood.join(jnp.asarray(f), {}), f[:, :2].astype(float), np.exp(f[:, 2:].astype(float))
    law = stats.t(df, mean, scale)
    np.testing.assert_allclose(likelihood.mean(z), mean)
    np.testing.assert_allclose(likelihood.variance(z), law.var(), rtol=2e-6)
    for deviation in (0, 0.4, -1.5, 6, -6, 1e4):
        y = (mean + deviation * scale).astype(np.float32)
        np.testing.assert_allclose(likelihood.log_prob(z, y), law.logpdf(y).sum(1), rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(likelihood.cdf(z, y), law.cdf(y), atol=4 * EPS)
    many = {"mean": jnp.full((20_000, 2), 3.0), "scale": jnp.full((20_000, 2), 0.5)}
    drawn = np.asarray(likelihood.sample(jax.random.key(3), many), float)
    assert min(stats.kstest((column - 3) / 0.5, "t", (df,)).pvalue for column in drawn.T) > 4e-6
    assert stats.spearmanr(*drawn.T).pvalue > 4e-6


def test_links_and_temperatures():
    """σ = e^ρ + floor; logits are divided by the temperature."""
    f = jnp.asarray(rows(5, 2))
    z = HeteroscedasticGaussian(link="exp").join(f, {})
    np.testing.assert_allclose(z["scale"][:, 0], np.exp(f[:, 1]) + 1e-3, rtol=1e-6)
    for likelihood in (Bernoulli(temperature=2.5), Categorical(2, temperature=2.5)):
        np.testing.assert_allclose(likelihood.join(f, {})["logits"], np.asarray(f) / 2.5, rtol=1e-6)


def test_targets_in_bernoulli_are_numbers_or_probabilities():
    """Exact: y f − log(1 + e^f). The difference of two numbers near |f| is right to a bit of |f|."""
    likelihood, z = Bernoulli(), {"logits": jnp.float32(LOGITS[:, None])}
    f = LOGITS.astype(np.float32).astype(float)
    bound = EPS * (1 + np.abs(f))
    for y in (0, 1):
        exact = np.where(y == 1, -np.logaddexp(0, -f), -np.logaddexp(0, f))
        found = likelihood.log_prob(z, jnp.full(len(f), y, jnp.int32))
        assert np.all(np.abs(np.asarray(found, float) - exact) <= bound)
        moderate = np.abs(f) < 30
        truth = stats.bernoulli.logpmf(y, special.expit(f[moderate]))
        np.testing.assert_allclose(np.asarray(found)[moderate], truth, rtol=1e-6, atol=1e-6)
    soft = np.float32(0.25)
    exact = -soft * np.logaddexp(0, -f) - (1 - soft) * np.logaddexp(0, f)
    found = np.asarray(likelihood.log_prob(z, jnp.full(len(f), soft)), float)
    assert np.all(np.abs(found - exact) <= bound)


def test_mean_and_variance_of_bernoulli():
    z = {"logits": jnp.float32(LOGITS[:, None])}
    p = special.expit(LOGITS)
    exact = np.stack([special.expit(-LOGITS), p], axis=1)
    np.testing.assert_allclose(Bernoulli().mean(z), exact, rtol=1e-5, atol=1e-37)
    np.testing.assert_allclose(Bernoulli().variance(z), (p * (1 - p))[:, None] * np.ones(2), atol=2 * EPS)
    np.testing.assert_allclose(np.sum(Bernoulli().mean(z), axis=1), 1, atol=EPS)


CLASSES = {
    "moderate": rows(5, 4, seed=2) * 3,
    "large": np.float32([[80, -80, 0, 1], [-80, -80, -81, -80], [80, 80, 79, 0], [0, -80, 80, 80], [1, 2, 3, 80]]),
    "huge": np.float32(
        [[1e4, -1e4, 0, 1], [-1e4, -1e4, -1e4, 0], [1e4, 1e4, 0, -1e4], [0, 0, 0, 0], [-1e4, 0, 5, 1e4]]
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_categorical_from_indices_one_hot_and_soft_targets(name):
    f, likelihood = CLASSES[name], Categorical(4)
    z, exact = {"logits": jnp.asarray(f)}, special.log_softmax(f.astype(float), axis=1)
    bound = 3 * EPS * (1 + np.abs(f).max(1))
    for k in range(4):
        chosen = np.full(5, k)
        for y in (jnp.asarray(chosen, jnp.int32), jnp.float32(np.eye(4)[chosen])):
            found = np.asarray(likelihood.log_prob(z, y), float)
            assert np.all(np.abs(found - exact[:, k]) <= bound)
        if name == "moderate":
            p = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
            truth = [stats.multinomial.logpmf(np.eye(4)[k], 1, row) for row in p]
            np.testing.assert_allclose(found, truth, rtol=1e-6, atol=2e-6)
    soft = np.float32(np.random.default_rng(3).dirichlet(np.ones(4), 5))
    found = np.asarray(likelihood.log_prob(z, jnp.asarray(soft)), float)
    assert np.all(np.abs(found - (soft * exact).sum(1)) <= 2 * bound)


def test_one_hot_targets_may_be_integers():
    z = {"logits": jnp.asarray(CLASSES["moderate"])}
    y = np.eye(4, dtype=np.int32)[[0, 1, 2, 3, 0]]
    exact = special.log_softmax(CLASSES["moderate"].astype(float), axis=1)[y == 1]
    np.testing.assert_allclose(Categorical(4).log_prob(z, jnp.asarray(y)), exact, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_mean_and_variance_of_categorical(name):
    f, likelihood = CLASSES[name], Categorical(4)
    z, p = {"logits": jnp.asarray(f)}, special.softmax(f.astype(float), axis=1)
    np.testing.assert_allclose(likelihood.mean(z), p, rtol=2e-5, atol=1e-37)
    np.testing.assert_allclose(likelihood.variance(z), p * (1 - p), atol=2 * EPS)


def test_samples_of_classes_have_their_frequencies():
    count = 20_000
    f = CLASSES["moderate"]
    keys = jax.random.split(jax.random.key(2), count)
    cases = (
        (Categorical(4), f, special.softmax(f.astype(float), axis=1)),
        (Bernoulli(), f[:, :1], np.stack([special.expit(-f[:, 0]), special.expit(f[:, 0])], axis=1)),
    )
    for likelihood, logits, p in cases:
        z = {"logits": jnp.asarray(logits)}
        drawn = np.asarray(jax.jit(jax.vmap(lambda k, z=z, one=likelihood: one.sample(k, z)))(keys))
        assert drawn.dtype == np.int32 and drawn.shape == (count, 5)
        shares = np.stack([(drawn == k).mean(0) for k in range(p.shape[1])], axis=1)
        assert np.all(np.abs(shares - p) < 4.6 * np.sqrt(p * (1 - p) / count))
        a, b = drawn[:, 0] - drawn[:, 0].mean(), drawn[:, 3] - drawn[:, 3].mean()
        assert abs((a * b).mean()) < 4.6 * a.std() * b.std() / np.sqrt(count)
        certain = likelihood.sample(keys[0], {"logits": jnp.asarray(1e4 * logits)})
        np.testing.assert_array_equal(certain, p.argmax(1))


@pytest.mark.parametrize(("shape", "rate"), [(1.0, 0.01), (6.0, 6.0), (0.5, 3.0)])
def test_prior_of_log_precision_is_a_gamma_with_its_jacobian(shape, rate):
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
def test_squared_error_is_the_gaussian(tau):
    """½τ‖y − ŷ‖² = −log N(y | ŷ, 1/τ) + K/2 log τ − K/2 log 2π, K = 2."""
    f, y = rows(6, 2, seed=4), rows(6, 2, seed=5)
    likelihood = Gaussian(precision=tau, targets=2)
    criterion = 0.5 * tau * np.sum((y.astype(float) - f) ** 2, axis=1)
    found = -np.asarray(likelihood.log_prob(likelihood.join(f, {}), y), float) + np.log(tau) - np.log(2 * np.pi)
    np.testing.assert_allclose(found, criterion, rtol=2e-6, atol=2e-6)


def test_cross_entropies_are_the_classes():
    f, y = rows(6, 1, seed=6).astype(float), np.array([0, 1, 1, 0, 1, 0])
    p = 1 / (1 + np.exp(-f[:, 0]))
    binary = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    found = Bernoulli().log_prob({"logits": jnp.float32(f)}, jnp.int32(y))
    np.testing.assert_allclose(-found, binary, rtol=2e-6)
    f, y = rows(6, 3, seed=7).astype(float), np.random.default_rng(8).dirichlet(np.ones(3), 6)
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    found = Categorical(3).log_prob({"logits": jnp.float32(f)}, jnp.float32(y))
    np.testing.assert_allclose(-found, -np.sum(y * np.log(p), axis=1), rtol=2e-6)
    two = Categorical(2).log_prob({"logits": jnp.float32(np.c_[0 * f[:, 0], f[:, 0]])}, jnp.int32([0, 1, 0, 1, 0, 1]))
    one = Bernoulli().log_prob({"logits": jnp.float32(f[:, :1])}, jnp.int32([0, 1, 0, 1, 0, 1]))
    np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-7)


def test_gradients_of_cross_entropies_are_finite_at_extreme_logits():
    """d/df is y − p, and nothing overflows."""
    f = jnp.float32(LOGITS)
    slope = jax.vmap(jax.grad(lambda one, y: Bernoulli().log_prob({"logits": one[None, None]}, y[None])[0]))
    np.testing.assert_allclose(slope(f, jnp.ones(7)), special.expit(-LOGITS), rtol=1e-5, atol=EPS)
    g = jax.grad(lambda one: jnp.sum(Categorical(4).log_prob({"logits": one}, jnp.zeros(5, jnp.int32))))
    for logits in CLASSES.values():
        exact = np.eye(4)[0] - special.softmax(logits.astype(float), axis=1)
        np.testing.assert_allclose(g(jnp.asarray(logits)), exact, atol=4e-6)
