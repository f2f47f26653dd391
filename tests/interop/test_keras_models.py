"""Models of Keras as networks: the same outputs, and the moments of their own dropout."""

import os

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


def test_dropout_within_a_recurrent_layer_is_refused():
    model = keras.Sequential([keras.layers.LSTM(4, dropout=0.2), keras.layers.Dense(1)])
    model(TOKENS)
    with pytest.raises(ValueError, match="drops units by itself"):
        dubito.from_keras(model, TOKENS[:2])
