"""Models of Keras as networks: the same outputs, and the moments of their own dropout."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import dubito
from dubito.interop.trained import MaskedWeights

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="networks of Keras need it")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras runs on another backend")

RNG = np.random.default_rng(0)
X, TOKENS = np.float32(RNG.normal(size=(5, 4))), np.float32(RNG.normal(size=(3, 5, 8)))
DRAWS = 3000


@pytest.fixture(autouse=True)
def rank_promotion():
    """Keras broadcasts."""
    with jax.numpy_rank_promotion("allow"):
        yield


def columns():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Dense(8, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(2),
        ]
    )


def attention():
    layers, inputs = keras.layers, keras.Input((5, 8))
    hidden = layers.MultiHeadAttention(2, 4, dropout=0.2)(inputs, inputs)
    hidden = layers.SpatialDropout1D(0.2, name="spatial")(hidden)
    return keras.Model(inputs, layers.Dense(1)(hidden[:, 0]))


@pytest.mark.parametrize(("make", "x", "rates"), [(columns, X, [0.3]), (attention, TOKENS, [0.2, 0.2])])
def test_outputs_sites_and_moments_are_those_of_the_model(make, x, rates):
    model = make()
    model(x)
    for variable in model.non_trainable_variables:
        if "moving_mean" in variable.path:
            variable.assign(variable.value + 0.2)
    before = [np.array(variable.value) for variable in model.variables if "seed" not in variable.path]
    network = dubito.from_keras(model, x[:2])
    assert list(network.dropout.values()) == rates
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(network.apply(network.weights(), x), expected, rtol=1e-5, atol=1e-5)
    after = [np.array(variable.value) for variable in model.variables if "seed" not in variable.path]
    assert all(map(np.array_equal, before, after))
    assert not any("call" in vars(layer) for layer in model._flatten_layers())
    for layer in model._flatten_layers():  # batch statistics stay, dropout is on
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    theirs = np.stack([np.asarray(model(x, training=True)) for _ in range(DRAWS)]).astype(float)
    weights = network.weights()
    seeds = jax.random.key_data(jax.random.split(jax.random.key(0), DRAWS))
    ours = np.asarray(jax.jit(jax.vmap(lambda seed: network.apply(MaskedWeights(weights, seed), x)))(seeds), float)
    for power in (1, 2):
        a, b = ((each - theirs.mean(0)) ** power for each in (theirs, ours))
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / DRAWS)
        assert np.max(np.abs(z)) < 4.5


def test_a_row_does_not_depend_on_its_neighbors():
    model = columns()
    model(X)
    network = dubito.from_keras(model, X[:2])
    together = network.apply(network.weights(), X)
    np.testing.assert_allclose(together[2:3], network.apply(network.weights(), X[2:3]), rtol=1e-5, atol=1e-6)


def test_training_goes_on_after_the_weights_were_copied():
    """The JAX backend deletes the arrays that a step replaces."""
    model = columns()
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0)
    network = dubito.from_keras(model, X[:2])
    before = np.asarray(network.apply(network.weights(), X))
    model.fit(X, X[:, :2], verbose=0)
    np.testing.assert_array_equal(network.apply(network.weights(), X), before)


class Custom(keras.layers.Layer):
    """Dropout by a function, which is no layer."""

    def call(self, values, training=False):
        return keras.random.dropout(values, 0.3, seed=1) if training else values


@pytest.mark.parametrize(
    "layer",
    [keras.layers.LSTM(4, dropout=0.2), keras.layers.GaussianDropout(0.2), Custom()],
    ids=["LSTM", "Gaussian", "own"],
)
def test_randomness_outside_of_dropout_layers_is_refused(layer):
    model = keras.Sequential([layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model(TOKENS)
    with pytest.raises(ValueError, match="draws random numbers outside of dropout layers"):
        dubito.from_keras(model, TOKENS[:2])


class Always(keras.layers.Dropout):
    """A popular subclass for MC dropout, which drops in prediction, too."""

    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


def test_a_subclass_of_dropout_is_a_site():
    model = keras.Sequential([keras.layers.Dense(8), Always(0.3, name="always"), keras.layers.Dense(1)])
    model(X)
    network = dubito.from_keras(model, X[:2])
    assert list(network.dropout.values()) == [0.3]
    first, _, last = (layer.get_weights() for layer in model.layers)
    exact = (X @ first[0] + first[1]) @ last[0] + last[1]
    np.testing.assert_allclose(network.apply(network.weights(), X), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", [("numbers", "tokens"), None])
def test_several_inputs_go_through_wrap_and_predict(names):
    layers = keras.layers
    numbers, tokens = keras.Input((4,), name="numbers"), keras.Input((2,), dtype="int32", name="tokens")
    hidden = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(9, 3)(tokens))])
    f = layers.Dense(1)(layers.Dropout(0.2)(layers.Dense(8, activation="tanh")(hidden)))
    ids = np.random.default_rng(1).integers(9, size=(60, 2))
    x = [np.tile(X, (12, 1)), ids]
    inputs = [numbers, tokens]
    if names:
        x, inputs = dict(zip(names, x, strict=True)), dict(zip(names, inputs, strict=True))
    model = keras.Model(inputs, f)
    exact = np.asarray(model(x, training=False))
    few = {name: array[:2] for name, array in x.items()} if names else [array[:2] for array in x]
    network = dubito.from_keras(model, *([few] if names else few))
    np.testing.assert_allclose(network.apply(network.weights(), x if names else tuple(x)), exact, rtol=1e-5, atol=1e-5)
    key = jax.random.key(0)
    posterior = dubito.wrap(
        network, dubito.MCDropout(), validation=(x if names else tuple(x), exact), likelihood="gaussian", key=key
    )
    answer = dubito.predict(posterior, x if names else tuple(x), key=key, draws=1000)
    assert np.max(np.abs(answer.mean - exact[:, 0]) / np.sqrt(answer.epistemic / 1000)) < 4.5


def test_checkpoints_are_an_ensemble_whatever_the_numbers_of_their_layers():
    models = [columns(), columns()]
    for model in models:
        model(X)
    networks = [dubito.from_keras(model, X[:2]) for model in models]
    y = np.asarray(models[0](X, training=False))
    posterior = dubito.wrap(networks, validation=(X, y), likelihood="gaussian", key=jax.random.key(0))
    each = np.stack([np.asarray(model(X, training=False)) for model in models])
    answer = dubito.predict(posterior, X, key=jax.random.key(0))
    np.testing.assert_allclose(answer.mean, each.mean(0), rtol=1e-4, atol=1e-5)


ON_TORCH = """
import jax, keras, numpy as np, torch, dubito
from dubito.interop.trained import MaskedWeights

keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.BatchNormalization(), layers.Dropout(0.3),
                          layers.Dense(2)])
x = np.float32(np.random.default_rng(0).normal(size=(5, 4)))
model(x, training=True)  # moves the statistics of the norm
exact = model(x, training=False).detach().numpy()
before = [variable.value.clone() for variable in model.variables]
network = dubito.from_keras(model, x[:2])
assert all(torch.equal(a, variable.value) for a, variable in zip(before, model.variables))
assert list(network.dropout.values()) == [0.3], network.dropout
weights = network.weights()
np.testing.assert_allclose(network.apply(weights, x), exact, rtol=1e-5, atol=1e-5)
first, _, _, last = model.layers
hidden = model.layers[1](first(x), training=False).detach().numpy()
variance = 0.3 / 0.7 * hidden**2 @ last.kernel.value.detach().numpy() ** 2
seeds = jax.random.key_data(jax.random.split(jax.random.key(0), 4000))
with jax.numpy_rank_promotion("allow"):
    draws = np.asarray(jax.jit(jax.vmap(lambda seed: network.apply(MaskedWeights(weights, seed), x)))(seeds))
square = (draws - exact) ** 2
assert np.max(np.abs(draws.mean(0) - exact) / np.sqrt(variance / 4000)) < 4.5
assert np.max(np.abs(square.mean(0) - variance) / (square.std(0) / np.sqrt(4000))) < 4.5
noisy = keras.Sequential([keras.Input((4,)), layers.GaussianDropout(0.2), layers.Dense(1)])
try:
    dubito.from_keras(noisy, x[:2])
except ValueError as error:
    assert "outside of dropout layers" in str(error), error
else:
    raise AssertionError("noise was left out in silence")
"""


def test_on_the_backend_of_pytorch():
    """Moments of one dropout before the last layer: f, and r/(1 − r) Σ_i (h_i w_i)²."""
    pytest.importorskip("torch", reason="the backend")
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    found = subprocess.run([sys.executable, "-c", ON_TORCH], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_tensorflow_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="set KERAS_BACKEND=jax before importing keras, and load it again"):
        dubito.from_keras(columns(), X[:2])
