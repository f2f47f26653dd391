"""The health of gradients: planted problems are found and named, and a healthy network has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito

RNG = np.random.default_rng(3)
X = RNG.normal(size=(200, 6)).astype(np.float32)
Y = (np.sin(X[:, :1]) + 0.1 * RNG.normal(size=(200, 1))).astype(np.float32)


def started(activation, hidden=(20, 10)):
    model = dubito.Model(dubito.mlp(6, hidden, 1, activation), dubito.Gaussian(precision=1.0))
    return model, model.init(jax.random.key(0))


@pytest.mark.slow
def test_health_of_a_healthy_network_equals_numpy():
    model, params = started("relu")
    found = dubito.health(model, params, X, Y)
    assert found.advice == [] and "Nothing is wrong" in str(found)
    assert [layer.name for layer in found.layers] == ["layer_0", "layer_1", "layer_2"]
    network = jax.tree.map(np.asarray, params["network"])
    before = X @ network["layer_0"]["w"] + network["layer_0"]["b"]
    first = found.layers[0]
    weights = np.concatenate([np.ravel(network["layer_0"][name]) for name in "bw"])
    assert first.weight == pytest.approx(np.sqrt(np.mean(weights**2)), rel=1e-5)
    assert first.value == pytest.approx(np.sqrt(np.mean(np.maximum(before, 0) ** 2)), rel=1e-4)
    assert first.dead == np.mean(np.all(before <= 0, axis=0))
    assert first.saturated == np.mean(np.mean(before <= 0, axis=0) >= 0.9)

    def criterion(params):
        f = model.network.apply(params["network"], X)
        return jnp.mean(0.5 * (Y - f) ** 2) - model.log_prior(params) / 200

    gradient = jax.grad(criterion)(params)["network"]["layer_1"]
    joined = np.concatenate([np.ravel(gradient[name]) for name in "bw"])
    assert found.layers[1].gradient == pytest.approx(np.sqrt(np.mean(joined**2)), rel=1e-4)


def test_health_lists_layers_in_the_order_of_the_network():
    model, params = started("silu", (4,) * 11)
    assert [layer.name for layer in dubito.health(model, params, X, Y).layers] == [f"layer_{k}" for k in range(12)]


def test_health_finds_dead_units():
    model, params = started("relu")
    bias = params["network"]["layer_0"]["b"].at[:15].set(-100.0)
    params["network"]["layer_0"]["b"] = bias
    found = dubito.health(model, params, X, Y)
    assert found.layers[0].dead == 0.75
    assert found.advice[0].startswith("75 % of the units of layer_0 are dead")


def test_health_finds_saturated_units():
    model, params = started("sigmoid")
    params["network"]["layer_1"]["b"] = jnp.array([12.0] * 4 + [-12.0] * 4 + [0.0] * 2)
    found = dubito.health(model, params, X, Y)
    assert (found.layers[1].saturated, found.layers[1].dead, found.layers[0].saturated) == (0.8, 0.0, 0.0)
    (line,) = found.advice
    assert line.startswith("80 % of the units of layer_1 are saturated: almost no gradient passes.")


@pytest.mark.parametrize(("factor", "word"), [(0.05, "vanish"), (20.0, "explode")])
def test_health_finds_vanishing_and_exploding_gradients(factor, word):
    model, params = started("tanh" if word == "vanish" else "leaky_relu", (10,) * 6)
    for number in range(1, 7):
        layer = params["network"][f"layer_{number}"]
        layer["w"] = factor * layer["w"]
    assert any(f"Gradients {word}: those of layer_0" in line for line in dubito.health(model, params, X, Y).advice)


def test_health_finds_nonfinite_numbers():
    model, params = started("relu")
    params["network"]["layer_2"]["w"] = jnp.full((10, 1), jnp.inf)
    assert "Not finite in" in dubito.health(model, params, X, Y).advice[0]


def test_health_of_a_network_without_named_layers():
    def apply(params, x):
        return jnp.tanh(x @ params["u"]) @ params["v"]

    network = dubito.Network(lambda key: {"u": jnp.full((6, 4), 50.0), "v": jnp.ones((4, 1))}, apply)
    model = dubito.Model(network, dubito.Gaussian(precision=1.0))
    found = dubito.health(model, model.init(jax.random.key(0)), X, Y)
    assert [layer.name for layer in found.layers] == ["u", "v", "tanh 0"]
    assert found.layers[-1].saturated > 0.9
