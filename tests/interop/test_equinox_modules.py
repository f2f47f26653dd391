"""Modules of Equinox as networks: the same outputs, and the moments of their own dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito.interop.trained import MaskedWeights

equinox = pytest.importorskip("equinox", reason="networks of Equinox need it")
X = np.float32(np.random.default_rng(0).normal(size=(5, 4)))
DRAWS = 4000


@pytest.fixture(autouse=True)
def rank_promotion():
    """Equinox broadcasts."""
    with jax.numpy_rank_promotion("allow"):
        yield


class Attention(equinox.Module):
    attention: equinox.nn.MultiheadAttention
    last: equinox.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.attention = equinox.nn.MultiheadAttention(2, 4, dropout_p=0.3, key=one)
        self.last = equinox.nn.Linear(4, 1, key=two)

    def __call__(self, x, key=None):
        return self.last(self.attention(x, x, x, key=key).mean(0))


def columns():
    one, two = jax.random.split(jax.random.key(0))
    layers = [equinox.nn.Linear(4, 8, key=one), equinox.nn.Lambda(jnp.tanh), equinox.nn.Dropout(0.3)]
    return equinox.nn.Sequential([*layers, equinox.nn.Linear(8, 2, key=two)])


CASES = {
    "columns": (columns, X, {"layers[2]": 0.3}),
    "attention": (
        lambda: Attention(jax.random.key(1)),
        np.float32(np.random.default_rng(1).normal(size=(3, 5, 4))),
        {"attention.dropout": 0.3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_sites_and_moments_are_those_of_the_module(name):
    make, x, sites = CASES[name]
    module = make()
    network = dubito.from_equinox(module, x[:2])
    assert network.dropout == sites
    expected = jax.vmap(equinox.nn.inference_mode(module))(x)
    np.testing.assert_allclose(network.apply(network.weights(), x), expected, rtol=1e-5, atol=1e-6)
    weights = network.weights()
    seeds = jax.random.key_data(jax.random.split(jax.random.key(0), DRAWS))
    ours = np.asarray(jax.jit(jax.vmap(lambda seed: network.apply(MaskedWeights(weights, seed), x)))(seeds), float)
    keys = jax.random.split(jax.random.key(2), (DRAWS, len(x)))
    theirs = jax.jit(jax.vmap(lambda row: jax.vmap(lambda one, key: module(one, key=key))(x, row)))(keys)
    theirs = np.asarray(theirs, float)
    for power in (1, 2):
        a, b = ((each - theirs.mean(0)) ** power for each in (theirs, ours))
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / DRAWS)
        assert np.max(np.abs(z)) < 4.5


def test_a_module_of_one_number_has_a_column():
    module = equinox.nn.MLP(4, "scalar", 8, 1, key=jax.random.key(0))
    network = dubito.from_equinox(module, X[:2])
    np.testing.assert_allclose(network.apply(network.weights(), X)[:, 0], jax.vmap(module)(X), rtol=1e-5, atol=1e-6)
