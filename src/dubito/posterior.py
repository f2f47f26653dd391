"""Posteriors over parameters: anything that can be sampled, and the model it predicts with.

The contract: ``model`` and ``sample(key, n)``, a tree like the model's params with a leading axis of n draws. With
``n=None`` a finite posterior enumerates its members; the others give ``DRAWS``.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dubito.model import Model

DRAWS = 100


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Samples:
    """Equally weighted parameters, with a leading axis: one for a point estimate, many for a sampler's."""

    model: Model
    params: Any

    def sample(self, key, n=None):
        if n is None:
            return self.params
        index = stratified(key, len(jax.tree.leaves(self.params)[0]), n)
        return jax.tree.map(lambda leaf: leaf[index], self.params)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normals:
    """Independent normals: mean and standard deviation of every parameter, trees like the model's params."""

    model: Model
    mean: Any
    scale: Any

    def sample(self, key, n=None):
        n = DRAWS if n is None else n
        means, tree = jax.tree.flatten(self.mean)
        keys = jax.random.split(key, max(len(means), 1))
        drawn = [
            mean[None] + scale[None] * jax.random.normal(k, (n, *mean.shape), mean.dtype)
            for k, mean, scale in zip(keys, means, jax.tree.leaves(self.scale), strict=False)
        ]
        return jax.tree.unflatten(tree, drawn)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dropped:
    """Weights with their inputs dropped: W = diag(z)·w/(1 − r), z ~ Bernoulli(1 − r) on each weight's input axis.

    ``rates`` is a tree like ``params["network"]`` with a drop rate, or None where nothing is dropped. A draw is one
    function: one set of masks for whatever rows it is evaluated on.
    """

    model: Model
    params: Any
    rates: Any

    def sample(self, key, n=None):
        n = DRAWS if n is None else n
        weights, tree = jax.tree.flatten(self.params["network"])
        rates = jax.tree.leaves(self.rates, is_leaf=lambda leaf: leaf is None)
        keys = jax.random.split(key, len(weights))
        drawn = [drop(k, w, rate, n) for k, w, rate in zip(keys, weights, rates, strict=True)]
        phi = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), self.params["likelihood"])
        return {"network": jax.tree.unflatten(tree, drawn), "likelihood": phi}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixture:
    """Equal shares of other posteriors of one model: an ensemble of anything."""

    model: Model
    parts: tuple

    def sample(self, key, n=None):
        keys = jax.random.split(key, len(self.parts) + 1)
        if n is None:
            finite = all(isinstance(part, Samples) for part in self.parts)
            each = None if finite else -(-DRAWS // len(self.parts))
            drawn = [part.sample(k, each) for part, k in zip(self.parts, keys[1:], strict=True)]
            return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
        each = -(-n // len(self.parts))
        drawn = [part.sample(k, each) for part, k in zip(self.parts, keys[1:], strict=True)]
        member = stratified(keys[0], len(self.parts), n)
        turn = jnp.cumsum(jax.nn.one_hot(member, len(self.parts), dtype=jnp.int32), axis=0)[jnp.arange(n), member] - 1
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[member, turn], *drawn)


def stratified(key, count, n):
    """n indices out of ``count``: each appears ⌊n/count⌋ or ⌈n/count⌉ times, who gets the rest is random."""
    order = jax.random.permutation(key, count)
    return order[jnp.arange(n) % count]


def drop(key, weight, rate, n):
    """n masked copies of a weight, (n, *weight.shape); the mask runs over its input axis (the last but one)."""
    if rate is None:
        return jnp.broadcast_to(weight, (n, *weight.shape))
    kept = jax.random.bernoulli(key, 1 - rate, (n, *([1] * (weight.ndim - 2)), weight.shape[-2], 1))
    return jnp.where(kept, weight[None] / jnp.asarray(1 - rate, weight.dtype), jnp.zeros((), weight.dtype))
