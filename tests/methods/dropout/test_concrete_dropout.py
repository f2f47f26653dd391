"""Concrete dropout: the objective and its gradient in the rates by quadrature over masks, its optimum, its limit, its trend."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from scipy import special

import dubito
from dubito._jax.prng import fast
from dubito.methods import weight_noise
from dubito.methods.dropout.concrete_dropout import ConcreteDropout
from dubito.models.model import Batch

N, D, TAU, LENGTH = 40, 3, 0.1, 1.5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = (X @ [[1.0], [-0.5], [0.1]] + 0.5 * RNG.normal(size=(N, 1))).astype(np.float32)
LINEAR = dubito.Network(lambda key: {"w": 0.5 * jax.random.normal(key, (D, 1))}, lambda p, x: x @ p["w"])
MODEL = dubito.Model(LINEAR, dubito.Gaussian(precision=TAU), dubito.Normal(1 / LENGTH))
CLOCK = SimpleNamespace(progress=jnp.float32(0), step_factor=jnp.float32(1))
U = (np.arange(2**16) + 0.5) / 2**16


def moments(logit):
    """Mean and variance of the relaxed mask over 1 − r, by the midpoint rule over u."""
    z = special.expit(-(logit + special.logit(U)) / 0.1) / special.expit(-logit)
    return z.mean(), z.var()


def objective(w, logit):
    """−log p(D | f) + ℓ²/(2(1 − r)) ‖w‖² − D H(r) of the linear model in expectation, but for constants."""
    r, (mean, variance) = special.expit(logit), moments(logit)
    x, y = X.astype(float), Y[:, 0].astype(float)
    squares = np.sum((y - mean * (x @ w)) ** 2) + variance * np.sum(x**2 @ w**2)
    entropy = -r * np.log(r) - (1 - r) * np.log1p(-r)
    return 0.5 * TAU * squares + LENGTH**2 / (2 * (1 - r)) * np.sum(w**2) - D * entropy


def test_the_gradient_is_that_of_the_objective():
    """Steps of plain descent with rate 1 move by minus the gradient: their mean against central differences."""
    method = ConcreteDropout(input_rate=0.2, optimizer="sgd", learning_rate=1.0, schedule="constant")
    batch = Batch(jnp.asarray(X), jnp.asarray(Y), jnp.ones(N), jnp.float32(1), jnp.float32(N))
    state = method.init(MODEL, batch, jax.random.key(1))

    def gradient(key):
        moved = method.step(MODEL, state, batch, CLOCK, key)[0].params
        difference = jax.tree.map(lambda a, b: (a - b) * N, state.params, moved)
        return jnp.concatenate([difference["network"]["w"][:, 0], difference["logits"]["w"][None]])

    found = np.asarray(jax.jit(jax.vmap(gradient))(jax.random.split(fast(jax.random.key(2)), 20_000)), float)
    at = np.concatenate([np.asarray(state.params["network"]["w"], float)[:, 0], [special.logit(0.2)]])
    exact = scipy.optimize.approx_fprime(at, lambda v: objective(v[:D], v[D]), 1e-6)
    error = found.std(0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(0) - exact) < 4.6 * error + 1e-4 * np.abs(exact))
    assert abs(exact[D]) > 10 * error[D]


@pytest.mark.slow
def test_the_rate_is_the_objectives_optimum():
    method = ConcreteDropout(input_rate=0.2, epochs=800, batch_size=None, learning_rate=0.02)
    posterior = dubito.fit(
        MODEL, np.tile(X, (8, 1)), np.tile(Y, (8, 1)), method, key=jax.random.key(0), weight=[1 / 8] * 8 * N
    )
    best = scipy.optimize.minimize(lambda v: objective(v[:D], v[D]), np.zeros(D + 1), method="BFGS").x
    assert posterior.masks == "bernoulli"
    np.testing.assert_allclose(special.logit(float(posterior.rates["w"])), best[D], atol=0.05)
    np.testing.assert_allclose(posterior.params["network"]["w"][:, 0], best[:D], atol=0.01)


def test_concrete_dropout_without_noise_is_map():
    """r → 0: masks of 1, and Σ ℓ²/2 ‖w‖² for a penalty, from which −D H(r) vanishes too."""
    model = dubito.Model(dubito.mlp(3, (5,)), dubito.Gaussian(), dubito.Normal(1 / LENGTH, biases=1 / LENGTH))
    params = model.init(jax.random.key(3))
    noise = jax.tree.map(lambda w: weight_noise.Masked(1e-7, "concrete") if w.ndim > 1 else None, params["network"])
    key = fast(jax.random.key(4))
    found = jax.jit(lambda p: weight_noise.noisy(model.network.apply, p, noise, X, key=key))(params["network"])
    np.testing.assert_allclose(found, model.network.apply(params["network"], X), rtol=1e-5)
    method = ConcreteDropout(rate=4e-4)  # the least that can be learned is 3e-4
    state = method.init(model, Batch(X, Y, None, 1, N), jax.random.key(3))
    penalty = jax.jit(lambda s: method.penalty(model, s.params, X))(state)
    squares = sum(float(jnp.sum(w**2)) for w in jax.tree.leaves(params["network"]))
    exact = LENGTH**2 / 2 * squares - float(model.likelihood.log_prior(params["likelihood"]))
    np.testing.assert_allclose(penalty, exact, atol=5 * special.entr([4e-4, 1 - 4e-4]).sum() + 5e-4 * squares)


@pytest.mark.slow
def test_rates_and_epistemic_variance_fall_with_data():
    """y = 2x + 8 + ε, the paper's synthetic data: paired over sets of data, from 30 rows to 300."""
    model = dubito.Model(dubito.mlp(1, (20,)), dubito.Gaussian(), dubito.Normal(by_network=True))
    method = ConcreteDropout(epochs=200, batch_size=None, learning_rate=0.03)
    rates, epistemic = np.empty((5, 2)), np.empty((5, 2))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(300, 1))
        y = 2 * x + 8 + rng.normal(size=(300, 1))
        x, y = x / x.std(), (y - y.mean()) / y.std()
        for number, n in enumerate((30, 300)):
            posterior = dubito.fit(model, x[:n], y[:n], method, key=jax.random.key(seed))
            answer = dubito.predict(posterior, np.linspace(-2, 2, 21)[:, None], key=jax.random.key(9), draws=400)
            rates[seed, number] = np.mean([float(r) for r in jax.tree.leaves(posterior.rates)])
            epistemic[seed, number] = answer.epistemic.mean()
    for found in (rates, epistemic):
        fall = np.log(found[:, 0] / found[:, 1])
        assert fall.mean() > 4.6 * fall.std(ddof=1) / np.sqrt(len(fall))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, (0.1, 0.0)])
def test_learned_rate_that_starts_at_a_limit_is_refused(rate):
    for method in (dubito.ConcreteDropout(rate=rate), dubito.VariationalDropout(rate=rate)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            method.check(MODEL)
