"""Variational dropout: the KL by quadrature, both forms' optima on a linear model by scipy, pruning, moments of its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy import stats

import dubito
from dubito.methods.dropout.variational_dropout import log_uniform_kl
from dubito.methods.variational.bayes_by_backprop import IndependentNormals

N, D, TAU = 64, 12, 4.0
TRUE = np.array([1.0, -0.7, 0.4] + [0.0] * (D - 3))
LINEAR = dubito.Network(lambda key: {"w": 0.3 * jax.random.normal(key, (D, 1))}, lambda p, x: x @ p["w"])
MODEL = dubito.Model(LINEAR, dubito.Gaussian(precision=TAU), dubito.Normal())


@pytest.fixture(scope="module")
def rows():
    """Orthogonal columns with xᵀx = N·I, so that the weights do not depend on one another; and their least squares."""
    rng = np.random.default_rng(2)
    x = np.linalg.qr(rng.normal(size=(N, D)))[0] * np.sqrt(N)
    y = x @ TRUE[:, None] + rng.normal(size=(N, 1)) / np.sqrt(TAU)
    return x, y, (x.T @ y)[:, 0] / N


EPS = (np.arange(10**6) + 0.5) * 24e-6 - 12
DENSITY = stats.norm.pdf(EPS) * 24e-6


def exact_kl(log_alpha):
    """−½ log α + E log|1 + √α ε| + c with c = (γ + log 2)/2, which makes it 0 for α → ∞, by the midpoint rule."""
    expected = np.sum(DENSITY * np.log(np.abs(1 + np.exp(log_alpha / 2) * EPS)))
    return -0.5 * log_alpha + expected + (np.euler_gamma + np.log(2)) / 2


def test_the_kl_is_the_integral():
    grid = np.linspace(-8, 8, 41)
    found = np.asarray(log_uniform_kl(jnp.float32(grid)))
    np.testing.assert_allclose(found, [exact_kl(one) for one in grid], atol=0.01)
    assert np.all(np.diff(found) < 0) and found[-1] < 0.001


def kl(log_alpha):
    """The approximation again, as printed."""
    sigmoid = 1 / (1 + np.exp(-(1.87320 + 1.48695 * log_alpha)))
    return -(0.63576 * sigmoid - 0.5 * np.log1p(np.exp(-log_alpha)) - 0.63576)


@pytest.mark.slow
def test_variational_dropout_is_the_optimum_of_its_objective(rows):
    """½τN Σ [(w − ŵ)² + α w²] + D k(log α): α by scipy, and the posterior's draws have these masks' moments."""
    x, y, least = rows
    method = dubito.VariationalDropout(input_rate=0.3, epochs=800, batch_size=None, learning_rate=0.02)
    weight = np.full(8 * N, 1 / 8)  # each row eight times with noise of its own: less noise in the gradient
    posterior = dubito.fit(MODEL, np.tile(x, (8, 1)), np.tile(y, (8, 1)), method, key=jax.random.key(0), weight=weight)

    def objective(v):
        w = least / (1 + np.exp(v))  # the optimum for this α
        return 0.5 * TAU * N * np.sum((w - least) ** 2 + np.exp(v) * w**2) + D * kl(v)

    best = scipy.optimize.minimize_scalar(objective, bounds=(-7, 7), method="bounded").x
    rate, w = float(posterior.rates["w"]), np.asarray(posterior.params["network"]["w"], float)[:, 0]
    assert posterior.masks == "normal"
    np.testing.assert_allclose(np.log(rate / (1 - rate)), best, atol=0.03)
    np.testing.assert_allclose(w, least / (1 + np.exp(best)), atol=0.01)
    draws = np.asarray(posterior.sample(jax.random.key(1), 20_000)["network"]["w"], float)[:, :, 0]
    alpha, error = rate / (1 - rate), np.sqrt(2 / len(draws))
    assert np.all(np.abs(draws.mean(0) - w) < 4.9 * np.abs(w) * np.sqrt(alpha / len(draws)))
    assert np.all(np.abs(draws.var(0) / (alpha * w**2) - 1) < 4.9 * error)


def sparse_optimum(least):
    """(μ, log σ) of ½τN[(μ − ŵ)² + σ²] + k(log σ²/μ²), from several starts."""

    def objective(v):
        return 0.5 * TAU * N * ((v[0] - least) ** 2 + np.exp(2 * v[1])) + kl(2 * v[1] - np.log(v[0] ** 2 + 1e-16))

    starts = [(least, -3.0), (0.5 * least, -2.0), (0.1 * least, -2.0)]
    return min((scipy.optimize.minimize(objective, s, method="Nelder-Mead") for s in starts), key=lambda r: r.fun).x


@pytest.mark.slow
def test_sparse_variational_dropout_keeps_weights_that_the_data_determine(rows):
    """Relevant weights at scipy's optimum for each alone; of irrelevant ones most exactly 0, mean and scale."""
    x, y, least = rows
    method = dubito.SparseVariationalDropout(epochs=4000, batch_size=None, learning_rate=0.02)
    posterior = dubito.fit(MODEL, x, y, method, key=jax.random.key(0))
    mean, scale = (np.asarray(part["network"]["w"], float)[:, 0] for part in (posterior.mean, posterior.scale))
    for number in range(3):
        best = sparse_optimum(least[number])
        np.testing.assert_allclose(mean[number], best[0], atol=0.1 * np.exp(best[1]))
        np.testing.assert_allclose(scale[number], np.exp(best[1]), rtol=0.05)
    zero = (mean == 0) & (scale == 0)
    assert not zero[:3].any() and zero[3:].sum() >= 7
    assert dubito.sparsity(posterior)["w"] == zero.mean()
    drawn = np.asarray(posterior.sample(jax.random.key(1), 5)["network"]["w"])
    assert np.all(drawn[:, zero] == 0) and np.all(drawn[:, ~zero] != 0)


def test_the_kl_of_a_network_is_of_its_weights_and_of_its_biases():
    """Weights of products: the log-uniform KL; biases: the closed form to the model's Normal; φ: log q − log p at the draw."""
    model = dubito.Model(dubito.mlp(3, (4,)), dubito.Gaussian(), dubito.Normal(0.7, biases=0.5))
    params = model.init(jax.random.key(2))
    mean = jax.tree.map(lambda leaf: leaf + 0.2, params)
    scale = jax.tree.map(lambda leaf: 0.1 + 0.05 * jnp.cos(leaf), params)
    method = dubito.SparseVariationalDropout()
    found = jax.jit(lambda m, s: method.divergence(model, IndependentNormals(m, s), m, jnp.ones((1, 3))))(mean, scale)
    exact = 0.0
    for layer in ("layer_0", "layer_1"):
        m, s = (np.asarray(part["network"][layer]["w"], float) for part in (mean, scale))
        exact += np.sum(kl(np.log(s**2 / m**2)))
        m, s = (np.asarray(part["network"][layer]["b"], float) for part in (mean, scale))
        exact += np.sum(np.log(0.5 / s) + (s**2 + m**2) / (2 * 0.25) - 0.5)
    phi, sd = (float(part["likelihood"]["log_precision"][0]) for part in (mean, scale))
    exact -= 0.5 * np.log(2 * np.pi * np.e * sd**2) + stats.gamma(1.0, scale=100.0).logpdf(np.exp(phi)) + phi
    np.testing.assert_allclose(found, exact, rtol=2e-5)


@pytest.mark.parametrize("kind", [dubito.VariationalDropout, dubito.SparseVariationalDropout])
def test_prior_that_is_not_normal_is_refused(kind):
    model = dubito.Model(LINEAR, dubito.Gaussian(), dubito.Laplace())
    with pytest.raises(ValueError, match="Normal prior"):
        kind().check(model)
