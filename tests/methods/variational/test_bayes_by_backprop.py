"""How Bayes by Backprop's gradient is estimated: the variance of each estimator, and what falls with more rows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito._jax import prng
from dubito.methods.variational.bayes_by_backprop import IndependentNormals
from dubito.models.model import Batch

ROWS, DRAWS = 8, 2000
ESTIMATORS = ("draw", "flipout", "local")
MODEL = dubito.Model(dubito.mlp(3, (6,), 2, activation="tanh"), dubito.Gaussian(precision=4.0, targets=2))
RNG = np.random.default_rng(0)
X, Y = (jnp.float32(RNG.normal(size=(ROWS, k))) for k in (3, 2))
MEAN = MODEL.init(jax.random.key(1))
RHO = jax.tree.map(lambda m: 0.3 * jnp.cos(7 * m) - 1, MEAN)


def gradients(noise, times):
    """DRAWS gradients of the likelihood per example, each row taken ``times`` times: of the first layer's μ and all ρ."""
    method, n = dubito.BayesByBackprop(gradient_estimator=noise), times * ROWS
    batch = Batch(jnp.tile(X, (times, 1)), jnp.tile(Y, (times, 1)), jnp.ones(n), jnp.float32(1), jnp.float32(n))

    def objective(mean, rho, key):
        scale = jax.tree.map(jax.nn.softplus, rho)
        return method.estimate(MODEL, IndependentNormals(mean, scale), batch, jax.random.split(key))[0] / n

    gradient = jax.vmap(jax.grad(objective, argnums=(0, 1)), (None, None, 0))
    keys = jax.random.split(prng.fast(jax.random.key(2)), DRAWS)
    of_mean, of_rho = jax.jit(gradient)(MEAN, RHO, keys)
    parts = of_mean["network"]["layer_0"], of_rho["network"]
    return [np.concatenate([np.reshape(leaf, (DRAWS, -1)) for leaf in jax.tree.leaves(part)], axis=1) for part in parts]


def spread(draws):
    """Total variance over a gradient's entries, and the standard error of that."""
    square = np.sum((draws - draws.mean(0, dtype=float)) ** 2, axis=1)
    return square.mean(), square.std() / np.sqrt(len(draws))


@pytest.fixture(scope="module")
def found():
    """{estimator: for each row once, and four times: the draws of (the first layer's μ, all ρ)}."""
    return {noise: [gradients(noise, times) for times in (1, 4)] for noise in ESTIMATORS}


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=["means of the first layer", "rhos"])
def test_variance_falls_from_one_draw_to_local(found, part):
    """One draw for all rows > flipout > local > 0, the variance without noise."""
    each = [*(spread(found[noise][0][part]) for noise in ESTIMATORS), (0.0, 0.0)]
    for (more, se_more), (less, se_less) in itertools.pairwise(each):
        assert more - less > 4.6 * np.hypot(se_more, se_less)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=["means of the first layer", "rhos"])
def test_only_noise_of_a_rows_own_averages_out(found, part):
    """Each row four times: a quarter of the variance where its noise is its own, all of it where one draw serves all rows."""
    for noise, quarter in (("draw", 1), ("local", 4)):
        (a, se_a), (b, se_b) = (spread(draws[part]) for draws in found[noise])
        assert abs(a - quarter * b) < 4.6 * np.hypot(se_a, quarter * se_b), noise
    (a, se_a), (b, se_b) = (spread(draws[part]) for draws in found["flipout"])
    assert a - 2 * b > 4.6 * np.hypot(se_a, 2 * se_b)  # between: its random signs part the rows, but not wholly
    assert 4 * b - a > -4.6 * np.hypot(se_a, 4 * se_b)


@pytest.mark.parametrize("part", [0, 1], ids=["means of the first layer", "rhos"])
def test_all_gradient_estimators_have_one_expectation(found, part):
    draws = [found[noise][0][part] for noise in ESTIMATORS]
    for one in draws[1:]:
        difference = one.mean(0, dtype=float) - draws[0].mean(0, dtype=float)
        assert np.all(np.abs(difference) < 4.9 * np.sqrt((one.var(0) + draws[0].var(0)) / DRAWS))


@pytest.mark.parametrize("noise", ["Local", "", "weights"])
def test_an_unknown_estimator_is_refused(noise):
    with pytest.raises(ValueError, match="local, flipout, draw, fisher"):
        dubito.BayesByBackprop(gradient_estimator=noise).check(MODEL)
