"""Likelihoods of classes against scipy.stats and the naive formulas of cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from dubito import Bernoulli, Categorical, HeteroscedasticGaussian

EPS = np.finfo(np.float32).eps
LOGITS = np.array([0.0, 0.3, -2.0, 80.0, -80.0, 1e4, -1e4])


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_link_and_temperature_equal_their_formulas():
    """σ = e^ρ + floor; logits are divided by the temperature."""
    f = jnp.asarray(rows(5, 2))
    z = HeteroscedasticGaussian(link="exp").join(f, {})
    np.testing.assert_allclose(z["scale"][:, 0], np.exp(f[:, 1]) + 1e-3, rtol=1e-6)
    for likelihood in (Bernoulli(temperature=2.5), Categorical(2, temperature=2.5)):
        np.testing.assert_allclose(likelihood.join(f, {})["logits"], np.asarray(f) / 2.5, rtol=1e-6)


def test_bernoulli_accepts_class_numbers_and_probabilities():
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


def test_bernoulli_mean_and_variance_equal_their_formulas():
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
def test_categorical_accepts_indices_one_hot_and_soft_targets(name):
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


def test_categorical_accepts_integer_one_hot_targets():
    z = {"logits": jnp.asarray(CLASSES["moderate"])}
    y = np.eye(4, dtype=np.int32)[[0, 1, 2, 3, 0]]
    exact = special.log_softmax(CLASSES["moderate"].astype(float), axis=1)[y == 1]
    np.testing.assert_allclose(Categorical(4).log_prob(z, jnp.asarray(y)), exact, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSES)
def test_categorical_mean_and_variance_equal_their_formulas(name):
    f, likelihood = CLASSES[name], Categorical(4)
    z, p = {"logits": jnp.asarray(f)}, special.softmax(f.astype(float), axis=1)
    np.testing.assert_allclose(likelihood.mean(z), p, rtol=2e-5, atol=1e-37)
    np.testing.assert_allclose(likelihood.variance(z), p * (1 - p), atol=2 * EPS)


def test_class_samples_have_their_frequencies():
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


def test_class_criteria_are_the_cross_entropies():
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


def test_cross_entropy_gradients_are_finite_at_extreme_logits():
    """d/df is y − p, and nothing overflows."""
    f = jnp.float32(LOGITS)
    slope = jax.vmap(jax.grad(lambda one, y: Bernoulli().log_prob({"logits": one[None, None]}, y[None])[0]))
    np.testing.assert_allclose(slope(f, jnp.ones(7)), special.expit(-LOGITS), rtol=1e-5, atol=EPS)
    g = jax.grad(lambda one: jnp.sum(Categorical(4).log_prob({"logits": one}, jnp.zeros(5, jnp.int32))))
    for logits in CLASSES.values():
        exact = np.eye(4)[0] - special.softmax(logits.astype(float), axis=1)
        np.testing.assert_allclose(g(jnp.asarray(logits)), exact, atol=4e-6)
