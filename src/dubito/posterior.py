"""Posteriors over parameters: anything that can be sampled, and the model it predicts with.

The contract: ``model`` and ``sample(key, n)``, a tree like the model's params with a leading axis of n draws. With
``n=None`` a finite posterior enumerates its members; the others give ``DRAWS``.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dubito.model import Model
from dubito.network import static
from dubito.random import fast, normals, uniforms

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
        return _normal_draws(key, self.mean, self.scale, n)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dropped:
    """Weights with their inputs dropped: W = diag(z)·w/(1 − r), z ~ Bernoulli(1 − r) on each weight's input axis.

    ``rates`` is a tree like ``params["network"]`` with a drop rate, or None where nothing is dropped; ``axes`` has for
    each of its leaves the axis of the inputs, counted from the end (None: −2 for all). A draw is one function: one set of
    masks for whatever rows it is evaluated on.
    """

    model: Model
    params: Any
    rates: Any
    axes: tuple | None = static(default=None)

    def sample(self, key, n=None):
        n = DRAWS if n is None else n
        rates = jax.tree.leaves(self.rates, is_leaf=lambda leaf: leaf is None)
        return _dropped_draws(key, self.params, rates, n, self.axes or (-2,) * len(rates))


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
            counts = [len(jax.tree.leaves(part.params)[0]) for part in self.parts] if finite else []
            shared = None if len(set(counts)) == 1 else math.lcm(*counts)  # so that each part has the same share
            each = shared if finite else -(-DRAWS // len(self.parts))
            drawn = [part.sample(k, each) for part, k in zip(self.parts, keys[1:], strict=True)]
            return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
        each = -(-n // len(self.parts))
        drawn = [part.sample(k, each) for part, k in zip(self.parts, keys[1:], strict=True)]
        member = stratified(keys[0], len(self.parts), n)
        turn = jnp.cumsum(jax.nn.one_hot(member, len(self.parts), dtype=jnp.int32), axis=0)[jnp.arange(n), member] - 1
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[member, turn], *drawn)


@partial(jax.jit, static_argnums=3)
def _normal_draws(key, mean, scale, n):
    means, tree = jax.tree.flatten(mean)
    noise = normals(fast(key), [(n, *m.shape) for m in means])
    scales = jax.tree.leaves(scale)
    return tree.unflatten([m[None] + s[None] * e for m, s, e in zip(means, scales, noise, strict=True)])


@partial(jax.jit, static_argnums=(3, 4))
def _dropped_draws(key, params, rates, n, axes):
    weights, tree = jax.tree.flatten(params["network"])
    shapes = [
        (0,) if rate is None else (n, *(size if d == w.ndim + axis else 1 for d, size in enumerate(w.shape)))
        for w, rate, axis in zip(weights, rates, axes, strict=True)
    ]
    drawn = []
    for w, rate, u in zip(weights, rates, uniforms(fast(key), shapes), strict=True):
        keep = None if rate is None else 1 - jnp.asarray(rate, w.dtype)
        drawn.append(jnp.broadcast_to(w, (n, *w.shape)) if keep is None else jnp.where(u < keep, w[None] / keep, 0.0))
    phi = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), params["likelihood"])
    return {"network": tree.unflatten(drawn), "likelihood": phi}


def stratified(key, count, n):
    """n indices out of ``count``: each appears ⌊n/count⌋ or ⌈n/count⌉ times, who gets the rest is random."""
    order = jax.random.permutation(key, count)
    return order[jnp.arange(n) % count]
