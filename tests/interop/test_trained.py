"""Dropout sites of a trained network: where they are found, the law of the masks, and that a draw is one function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dubito.interop.trained import ALPHA, MaskedWeights, as_example, outputs_of, trained_network

RNG = np.random.default_rng(0)
WEIGHTS = {"a": np.float32(RNG.normal(size=(4, 6))), "b": np.float32(RNG.normal(size=(6, 2)))}
X = np.float32(RNG.normal(size=(5, 4)))
RATE, DRAWS = 0.3, 20_000


def hidden(params, x, site):
    return site("hidden", RATE, "units")(jnp.tanh(x @ params["a"])) @ params["b"]


def images(params, x, site):
    """Channels of x repeated over places; a rate of 0 is no site."""
    values = jnp.tanh(x @ params["a"])[:, :, None] * jnp.ones((1, 1, 3))
    return site("off", 0.0, "units")(site("channels", RATE, "channels")(values)).mean(2) @ params["b"]


def heads(order):
    """Rows joined with 2 heads of 3 numbers, as attention does, the rows first or last."""

    def function(params, x, site):
        values = jnp.tanh(x @ params["a"]).reshape(len(x), 2, 3)
        joined = (values if order == "rows first" else values.swapaxes(0, 1)).reshape(-1, 3)
        joined = site("heads", RATE, "units")(joined)
        split = joined.reshape(len(x), 2, 3) if order == "rows first" else joined.reshape(2, len(x), 3).swapaxes(0, 1)
        return split.reshape(len(x), 6) @ params["b"]

    return function


def last(params, x, site):
    """The rows on the last axis."""
    return site("last", RATE, "units")(jnp.tanh(x @ params["a"]).T).T @ params["b"]


FUNCTIONS = {
    "units": hidden,
    "channels": images,
    "rows first": heads("rows first"),
    "rows last": heads("rows last"),
    "last axis": last,
}


def draws(network, x, count=DRAWS, seed=0):
    seeds = jax.random.key_data(jax.random.split(jax.random.key(seed), count))
    weights = network.weights()
    return np.asarray(jax.jit(jax.vmap(lambda one: network.apply(MaskedWeights(weights, one), x)))(seeds), float)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_of_draws_are_those_of_independent_masks(name):
    """E f = f, and Var f_j = r/(1 − r) Σ_i (h_i b_ij)², by z-tests over 20,000 draws."""
    network = trained_network(FUNCTIONS[name], WEIGHTS, X[:2], fresh=False)
    assert list(network.dropout.values()) == [RATE]
    found = draws(network, X)
    h = np.tanh(X.astype(float) @ WEIGHTS["a"])
    mean, variance = h @ WEIGHTS["b"], RATE / (1 - RATE) * h**2 @ WEIGHTS["b"].astype(float) ** 2
    np.testing.assert_allclose(network.apply(network.weights(), X), mean, rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(found.mean(0) - mean) / np.sqrt(variance / DRAWS)) < 4.5
    square = (found - mean) ** 2
    assert np.max(np.abs(square.mean(0) - variance) / (square.std(0) / np.sqrt(DRAWS))) < 4.5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_draw_is_one_function_whatever_rows_are_beside(name):
    network = trained_network(FUNCTIONS[name], WEIGHTS, X[:2], fresh=False)
    together, alone = draws(network, X, 3), draws(network, X[3:4], 3)
    np.testing.assert_allclose(together[:, 3:4], alone, rtol=1e-5, atol=1e-6)
    doubled = draws(network, np.concatenate([X, X]), 3)
    np.testing.assert_allclose(doubled[:, :5], doubled[:, 5:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fresh_masks_are_independent_between_rows(name):
    network = trained_network(FUNCTIONS[name], WEIGHTS, X[:2], fresh=True)
    found = draws(network, np.repeat(X[:1], 2, axis=0))[:, :, 0]
    assert abs(np.corrcoef(found.T)[0, 1]) < 4.5 / np.sqrt(DRAWS)
    h = np.tanh(X[0].astype(float) @ WEIGHTS["a"])
    variance = RATE / (1 - RATE) * np.sum((h * WEIGHTS["b"][:, 0]) ** 2)
    np.testing.assert_allclose(found.var(0), variance, rtol=0.06)


def test_alpha_dropout_keeps_mean_and_variance_of_standard_values():
    """Of values N(0, 1), as SELU makes them; dropped ones are at a(rα − α) (Klambauer et al. 2017)."""
    network = trained_network(
        lambda params, x, site: site("alpha", RATE, "alpha")(x) + params["a"],
        {"a": np.zeros((1, 1), "f4")},
        X[:2],
        fresh=True,
    )
    values = np.float32(RNG.normal(size=(2000, 50)))
    found = draws(network, values, 1)[0]
    assert abs(found.mean()) < 4.5 / np.sqrt(found.size)
    np.testing.assert_allclose(found.std(), 1, atol=0.015)
    a = ((ALPHA**2 * RATE + 1) * (1 - RATE)) ** -0.5
    dropped = np.isclose(found, -a * ALPHA * (1 - RATE), atol=1e-5)
    np.testing.assert_allclose(dropped.mean(), RATE, atol=0.01)


def test_weights_are_copied():
    own = {name: array.copy() for name, array in WEIGHTS.items()}
    network = trained_network(hidden, own, X[:2], fresh=False)
    before = network.apply(network.init(jax.random.key(0)), X)
    own["a"][:] = 0
    np.testing.assert_array_equal(network.apply(network.weights(), X), before)


def test_sites_need_names_of_their_own():
    def twice(params, x, site):
        return site("same", 0.1, "units")(site("same", 0.1, "units")(x @ params["a"])) @ params["b"]

    with pytest.raises(ValueError, match="same name"):
        trained_network(twice, WEIGHTS, X[:2], fresh=False)


def test_rows_that_cannot_be_found_are_refused():
    def mixed(params, x, site):
        return x @ params["a"] @ params["b"] + site("mean", 0.5, "units")(jnp.mean(x, 0))[None, :2]

    with pytest.raises(ValueError, match="depend on the rows beside it"):
        trained_network(mixed, WEIGHTS, X[:2], fresh=False)


@pytest.mark.parametrize(
    ("values", "output", "shape", "error"),
    [
        (np.zeros(3), None, (3, 1), None),
        ((np.zeros((3, 2)), np.zeros((3, 5))), 1, (3, 5), None),
        ({"mean": np.zeros((3, 2)), "other": np.zeros(3)}, "mean", (3, 2), None),
        ({"mean": np.zeros((3, 2))}, None, (3, 2), None),
        ((np.zeros(3), np.zeros(3)), None, None, r"several values, \[0, 1\]: choose one by output="),
        ({"mean": np.zeros(3)}, "sd", None, "output='sd' is none of the values"),
        (np.zeros((3, 2, 2)), None, None, "one row of numbers for each row"),
    ],
)
def test_outputs_are_rows_of_numbers(values, output, shape, error):
    if error is None:
        assert outputs_of(values, output, "Net").shape == shape
    else:
        with pytest.raises(ValueError, match=error):
            outputs_of(values, output, "Net")


def test_examples_are_rows_of_each_input():
    assert as_example([X], "from_keras") is not None and len(as_example([X, X[:, :1]], "from_keras")) == 2
    for examples in ([], [X[:1]], [3.0]):
        with pytest.raises(ValueError, match="from_keras needs at least two rows of each input"):
            as_example(examples, "from_keras")
