"""One network with the same weights in PyTorch and in Keras: the same outputs and dropout moments there and here."""

import os

import jax
import numpy as np
import pytest

import dubito
from dubito.interop.trained import MaskedWeights

os.environ.setdefault("KERAS_BACKEND", "jax")
torch = pytest.importorskip("torch", reason="compares with PyTorch")
keras = pytest.importorskip("keras", reason="compares with Keras")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras runs on another backend")

DRAWS = 4000
IMAGES = np.float32(np.random.default_rng(0).normal(size=(4, 1, 8, 8)))
PLACES = np.moveaxis(IMAGES, 1, -1)  # channels last, as in Keras


@pytest.fixture(autouse=True)
def rank_promotion():
    """Keras broadcasts."""
    with jax.numpy_rank_promotion("allow"):
        yield


def in_torch():
    nn = torch.nn
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1)
    )
    module = nn.Sequential(features, nn.Flatten(), nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.4), nn.Linear(16, 3))
    for _ in range(3):  # moves the statistics of the norm
        module(torch.as_tensor(1 + 2 * IMAGES))
    return module


def in_keras(module):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3),
            layers.BatchNormalization(epsilon=1e-5),
            layers.ReLU(),
            layers.SpatialDropout2D(0.2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(16, activation="gelu"),
            layers.Dropout(0.4),
            layers.Dense(3),
        ]
    )
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    norm = [state[f"0.1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    dense = [array for layer in (2, 5) for array in (state[f"{layer}.weight"].T, state[f"{layer}.bias"])]
    model.set_weights([state["0.0.weight"].transpose(2, 3, 1, 0), state["0.0.bias"], *norm, *dense])
    return model


def exact_gelu(model):
    """Keras's GELU is that of PyTorch, without the approximation by tanh."""
    model.layers[-3].activation = lambda values: keras.ops.gelu(values, approximate=False)
    return model


@pytest.fixture(scope="module")
def both():
    with jax.numpy_rank_promotion("allow"):
        module = in_torch()
        return module, exact_gelu(in_keras(module))


def test_outputs_are_the_same(both):
    module, model = both
    ours = [dubito.from_torch(module, IMAGES[:2]), dubito.from_keras(model, PLACES[:2])]
    assert [list(one.dropout.values()) for one in ours] == [[0.2, 0.4], [0.2, 0.4]]
    with torch.no_grad():
        exact = module.eval()(torch.as_tensor(IMAGES)).numpy()
    for found in (
        np.asarray(model(PLACES, training=False)),
        ours[0].apply(ours[0].weights(), IMAGES),
        ours[1].apply(ours[1].weights(), PLACES),
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def draws_of(network, x):
    weights, seeds = network.weights(), jax.random.key_data(jax.random.split(jax.random.key(1), DRAWS))
    return np.asarray(jax.jit(jax.vmap(lambda seed: network.apply(MaskedWeights(weights, seed), x)))(seeds), float)


def dropped_in_keras(model):
    """Draws of the model's own dropout, with the statistics of its norm as in evaluation."""
    model.layers[1].trainable = False  # a norm that is frozen uses its moving statistics
    one = np.repeat(PLACES, DRAWS, axis=0)  # each row of a batch has masks of its own
    return np.asarray(model(one, training=True), float).reshape(len(PLACES), DRAWS, 3).swapaxes(0, 1)


def dropped_in_torch(module):
    module.train()
    module[0][1].eval()
    with torch.no_grad():
        many = module(torch.as_tensor(np.repeat(IMAGES, DRAWS, axis=0))).numpy()
    return many.astype(float).reshape(len(IMAGES), DRAWS, 3).swapaxes(0, 1)


def test_dropout_moments_are_the_same(both):
    """Two-sample z-tests of means and variances, 72 in all."""
    module, model = both
    ours = [
        draws_of(dubito.from_torch(module, IMAGES[:2]), IMAGES),
        draws_of(dubito.from_keras(model, PLACES[:2]), PLACES),
    ]
    theirs = [dropped_in_torch(module), dropped_in_keras(model)]
    for a, b in ((ours[0], theirs[0]), (ours[1], theirs[1]), (ours[0], theirs[1])):
        for one, other in ((a, b), ((a - a.mean(0)) ** 2, (b - b.mean(0)) ** 2)):
            error = np.sqrt((one.var(0) + other.var(0)) / DRAWS)
            assert np.max(np.abs(one.mean(0) - other.mean(0)) / error) < 4.5
