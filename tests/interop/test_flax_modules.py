"""Modules of Flax as networks: the same outputs, and the moments of their own dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito.interop.trained import MaskedWeights

pytest.importorskip("flax", reason="networks of Flax need it")
from flax import linen, nnx

X = np.float32(np.random.default_rng(0).normal(size=(5, 4)))
DRAWS = 4000


@pytest.fixture(autouse=True)
def rank_promotion():
    """Flax broadcasts."""
    with jax.numpy_rank_promotion("allow"):
        yield


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        x = linen.BatchNorm(use_running_average=not train)(linen.tanh(linen.Dense(8)(x)))
        x = linen.Dropout(0.3)(x, deterministic=not train)
        return linen.Dense(2)(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(self.norm(jnp.tanh(self.first(x)))))


def moments_agree(network, theirs):
    """z-tests of means and variances against draws of another framework, with a mask for each row."""
    weights = network.weights()
    seeds = jax.random.key_data(jax.random.split(jax.random.key(0), DRAWS))
    ours = np.asarray(jax.jit(jax.vmap(lambda seed: network.apply(MaskedWeights(weights, seed), X)))(seeds), float)
    for power in (1, 2):
        a, b = ((np.asarray(each, float) - theirs.mean(0)) ** power for each in (theirs, ours))
        z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / DRAWS)
        assert theirs.std(0).min() > 0 and np.max(np.abs(z)) < 4.5


def test_linen():
    module = Linen()
    variables = module.init(jax.random.key(0), X)
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.2, variables["batch_stats"])
    network = dubito.from_flax(module, variables, X[:2], train=False)
    assert network.dropout == {"Dropout_0": 0.3}
    np.testing.assert_allclose(network.apply(network.weights(), X), module.apply(variables, X), rtol=1e-6)

    class WithDropout(Linen):
        @linen.compact
        def __call__(self, x):
            x = linen.BatchNorm(use_running_average=True)(linen.tanh(linen.Dense(8)(x)))
            return linen.Dense(2)(linen.Dropout(0.3)(x, deterministic=False))

    keys = jax.random.split(jax.random.key(1), DRAWS)
    theirs = jax.jit(jax.vmap(lambda key: WithDropout().apply(variables, X, rngs={"dropout": key})))(keys)
    moments_agree(network, np.asarray(theirs))


def test_nnx():
    module = Nnx(nnx.Rngs(0))
    module(X)  # moves the statistics
    training = module.drop.deterministic
    network = dubito.from_flax(module, X[:2])
    assert module.drop.deterministic == training and isinstance(module.drop, nnx.Dropout)
    assert network.dropout == {"drop": 0.3}
    module.eval()
    np.testing.assert_allclose(network.apply(network.weights(), X), module(X), rtol=1e-5, atol=1e-6)
    module.drop.deterministic = False
    theirs = np.stack([np.asarray(module(X)) for _ in range(DRAWS)])
    moments_agree(network, theirs)


def test_sequential_parts_are_reached():
    rngs = nnx.Rngs(0)
    module = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.2, rngs=rngs), nnx.Linear(8, 1, rngs=rngs))
    assert dubito.from_flax(module, X[:2]).dropout == {"layers.1": 0.2}


def test_dropout_of_attention_weights_is_refused():
    class Attention(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=True)(x)[:, 0]

    tokens = np.zeros((2, 3, 4), np.float32)
    module = Attention()
    with pytest.raises(ValueError, match="drops attention weights with dropout_rate"):
        dubito.from_flax(module, module.init(jax.random.key(0), tokens), tokens)
    with pytest.raises(TypeError, match=r"a module of flax\.linen or flax\.nnx, got a int"):
        dubito.from_flax(3, X)


def test_norms_by_the_statistics_of_a_batch_are_refused():
    class Batch(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(linen.Dropout(0.1)(x - x.mean(0, keepdims=True), deterministic=True))

    module = Batch()
    with pytest.raises(ValueError, match="depend on the rows beside it"):
        dubito.from_flax(module, module.init(jax.random.key(0), X), X)
