"""Networks against plain NumPy, and what each method does with periodic features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito import activations
from dubito._jax import jaxpr
from dubito.models import periodic

ROWS = np.arange(4.0)[:, None], np.arange(4.0)
# The default method of 120 rows with half of the folds and a third of the epochs.
DEFAULT = dubito.CrossFit(dubito.MaximumLikelihood(epochs=200, clip=5.0), 5)


def test_mlp_equals_affine_maps_and_activations_in_numpy(key):
    net = dubito.mlp(3, (5, 4), 2, "tanh")
    params = net.init(key)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    h = np.tanh(x @ p["layer_0"]["w"] + p["layer_0"]["b"])
    h = np.tanh(h @ p["layer_1"]["w"] + p["layer_1"]["b"])
    np.testing.assert_allclose(net.apply(params, x), h @ p["layer_2"]["w"] + p["layer_2"]["b"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2), ("silu", 2), ("tanh", 1), ("selu", 1)])
def test_mlp_weights_start_with_variance_gain_over_fan_in(key, activation, gain):
    params = dubito.mlp(100, (400,), 300, activation, last_variance=0.1).init(key)
    for layer, variance in (("layer_0", gain / 100), ("layer_1", 0.1 / 400)):
        w = np.asarray(params[layer]["w"])
        assert abs(w.var() / variance - 1) < 4.6 * np.sqrt(2 / w.size)
        assert np.all(np.asarray(params[layer]["b"]) == 0)


def test_periodic_features_equal_their_formula(key):
    params = periodic.init_periodic(key, 2, 8, 1.0)
    params["b"] = params["b"] + 0.5
    x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32) * 5
    p = {name: np.asarray(value, float) for name, value in params.items()}
    waves = np.cos(2 * np.pi * p["frequency"] * x[:, :, None] + p["phase"])
    exact = np.einsum("njq,jqk->nkj", waves, p["w"]) + p["b"].T
    np.testing.assert_allclose(periodic.periodic_features(params, x), exact.reshape(9, -1), atol=2e-5)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_waves_start_with_the_size_that_the_network_says(key, scale):
    """Features Σ w cos(…) of 4,000 columns: variance scale²/2, and weights as spread as their prior."""
    network = dubito.mlp(4000, (), 1, periodic=8, wave_scale=scale)
    params = network.init(key)
    found = np.asarray(periodic.periodic_features(params["periodic"], jnp.ones((1, 4000))))
    squares = found.ravel() ** 2 / (scale**2 / 2)
    assert abs(squares.mean() - 1) < 4.6 * squares.std() / np.sqrt(squares.size)
    w, prior = np.asarray(params["periodic"]["w"]), network.scales(params, 1.0)["periodic"]["w"]
    assert abs(w.var() / prior**2 - 1) < 4.6 * np.sqrt(2 / w.size)
    with pytest.raises(ValueError, match="wave_scale"):
        dubito.mlp(1, wave_scale=0)


def test_cosine_and_its_derivative_are_accurate():
    turns = np.linspace(-3, 3, 20001)
    found = periodic.cosine(jnp.asarray(turns, jnp.float32))
    np.testing.assert_allclose(found, np.cos(2 * np.pi * turns), atol=3e-6)
    slopes = jax.vmap(jax.grad(periodic.cosine))(jnp.asarray(turns, jnp.float32))
    np.testing.assert_allclose(slopes, -2 * np.pi * np.sin(2 * np.pi * turns), atol=5e-5)


def test_mlp_gives_one_hot_columns_no_periodic_features(key):
    net = dubito.mlp(3, (4,), 1, periodic=8, numeric=(1,))
    params = net.init(key)
    assert params["layer_0"]["w"].shape == (3 + periodic.FEATURES, 4)
    assert params["periodic"]["frequency"].shape == (1, 8)


@pytest.mark.slow
def test_convnet_learns_the_place_of_a_bar(key):
    """Bars at one of two places, too much noise for one pixel: a small convolutional network tells them apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=400)
    images = 0.5 * rng.normal(size=(400, 8, 8, 1))
    images[np.arange(400), 2 + 3 * y, :, 0] += 1
    net = dubito.convnet((8, 8, 1), channels=(4,), hidden=16, outputs=2)
    model = dubito.Model(net, dubito.Categorical(classes=2), dubito.Normal(by_network=True))
    for method in (dubito.MCDropout(epochs=15), dubito.BayesByBackprop(epochs=15)):
        posterior = dubito.fit(model, images[:300].reshape(300, -1), y[:300], method, key=key)
        answer = dubito.predict(posterior, images[300:].reshape(100, -1), key=key, draws=8)
        assert np.mean(answer.probs.argmax(1) == y[300:]) > 0.9
    uses = jaxpr.uses(net.apply, net.init(key), images[:2].reshape(2, -1))
    assert uses["conv_0"]["w"].treatment == "places" and uses["dense"]["w"].treatment == "product"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dubito.mlp(0), "inputs"),
        (lambda: dubito.mlp(2, (5, 0)), "hidden"),
        (lambda: dubito.mlp(2, activation="rellu"), "'relu'"),
        (lambda: dubito.mlp(2, activation="threshold"), "gradient 0"),
        (lambda: dubito.mlp(2, activation=activations.unit_step), "gradient 0"),
        (lambda: dubito.convnet((8, 8, 1), activation=jnp.sign), "gradient 0"),
        (lambda: dubito.BayesianRegressor(activation="threshold").fit(*ROWS), "gradient 0"),
        (lambda: dubito.mlp(2, periodic=-1), "periodic"),
        (lambda: dubito.mlp(2, numeric=(2,)), "numeric"),
        (lambda: dubito.convnet((2, 2, 1)), "pixels"),
    ],
)
def test_network_refuses_impossible_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "in_gap", "beyond"),
    [
        (DEFAULT, 1.5, 3.0),
        (dubito.Ensemble(dubito.MAP(epochs=300), 10), 1.5, 3.0),
        (dubito.BayesByBackprop(epochs=300), 0.5, 1.2),
    ],
    ids=["default", "ensemble", "bayes-by-backprop"],
)
def test_periodic_features_are_more_uncertain_away_from_the_data(method, in_gap, beyond):
    """sin(2x) with a gap: the spread in the gap and beyond the data against that on the data.

    A mean-field posterior is too certain between clusters, with waves as without.
    """
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-3, -0.8, 60), rng.uniform(0.8, 3, 60)])[:, None]
    y = np.sin(2 * x[:, 0]) + 0.1 * rng.normal(size=120)
    model = dubito.BayesianRegressor(method, periodic=8, random_state=0).fit(x, y)
    inside, gap, outside = (
        np.sqrt(model.predictive(np.array(at)[:, None]).epistemic).mean()
        for at in (np.linspace(1, 2.8, 40), np.linspace(-0.3, 0.3, 40), np.linspace(4.5, 5, 40))
    )
    assert gap > in_gap * inside and outside > beyond * inside


def test_inputs_beyond_the_limit_count_as_if_they_were_there():
    network = dubito.mlp(3, (8,), periodic=2, input_limit=2.0)
    params = network.init(jax.random.key(0))
    x = np.float32([[0.5, -1.9, 2.0], [7.0, -1e18, 2.1], [2.0, -2.0, 2.0]])
    f = network.apply(params, x)
    np.testing.assert_array_equal(f[1], f[2])
    np.testing.assert_allclose(f[0], dubito.mlp(3, (8,), periodic=2).apply(params, x[:1])[0], rtol=1e-6)
    with pytest.raises(ValueError, match="input_limit"):
        dubito.mlp(3, input_limit=0.0)
