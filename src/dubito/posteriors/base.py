"""Posteriors over parameters: anything that can be sampled, and the model it predicts with.

The contract: ``model`` and ``sample(key, n)``, a tree like the model's params with a leading axis of n draws. With
``n=None`` a finite posterior enumerates its members; the others give ``DRAWS``.

Those of this file and their like are drawn from a few at a time, so that draws need not all be held: ``sources(key, n)``
is a list of pairs (part, seeds), and ``part.draw(seed)`` is one draw.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dubito._jax import programs
from dubito._jax.prng import fast, normals, uniforms
from dubito._jax.pytree import register_dataclass, static
from dubito.models.model import Model

DRAWS = 100
SCORED = 8  # draws for a score in training


def sample(self, key, n=None):
    """``n`` draws: a tree like the model's params with a leading axis."""
    drawn = [drawn_from(part, seeds) for part, seeds in self.sources(fast(key), n)]
    return drawn[0] if len(drawn) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)


@programs.jit
def drawn_from(part, seeds):
    """The draws of these seeds, with a leading axis."""
    return jax.vmap(part.draw)(seeds)


def log_mean_prob(posterior, batch, key):
    """log (1/8) Σ_s p(y | θ_s) of each row of a batch, (n,), in nats, over 8 draws: by what training stops early."""
    model, draws = posterior.model, posterior.sample(key, SCORED)
    rows = jax.vmap(lambda one: model.likelihood.log_prob(model.outputs(one, batch.x), batch.y))(draws)
    return jax.nn.logsumexp(rows, axis=0) - jnp.log(float(SCORED))


@register_dataclass
@dataclass(frozen=True)
class Samples:
    """Equally weighted parameters, with a leading axis: one for a point estimate, many for a sampler's.

    ``chains``: how many independent runs they are of, equally many of each, one run's after another's.
    """

    model: Model
    params: Any
    chains: int = static(default=1)

    sample = sample

    def __len__(self):
        return len(jax.tree.leaves(self.params)[0])

    @property
    def by_chains(self):
        """Whether the draws are several of each run, which resemble each other, and not points, one of each."""
        return len(self) > self.chains

    def sources(self, key, n=None):
        return [(self, jnp.arange(len(self)) if n is None else stratified(key, len(self), n))]

    def draw(self, seed):
        return jax.tree.map(lambda leaf: leaf[seed], self.params)


@register_dataclass
@dataclass(frozen=True)
class Normals:
    """Independent normals: mean and standard deviation of every parameter, trees like the model's params."""

    model: Model
    mean: Any
    scale: Any

    sample = sample

    def sources(self, key, n=None):
        return [(self, jax.random.key_data(jax.random.split(key, DRAWS if n is None else n)))]

    def draw(self, seed):
        means, tree = jax.tree.flatten(self.mean)
        noise = normals(fast(seed), [mean.shape for mean in means])
        scales = jax.tree.leaves(self.scale)
        return tree.unflatten([m + s * e for m, s, e in zip(means, scales, noise, strict=True)])


@register_dataclass
@dataclass(frozen=True)
class LowRank:
    """A normal with correlations of low rank: θ = mean + scale·ε + Σ_k η_k directions_k, ε and η standard normals.

    ``mean`` and ``scale`` are trees like the model's params; ``directions`` is one whose leaves have a leading axis of rank K.
    """

    model: Model
    mean: Any
    scale: Any
    directions: Any

    sample = sample
    sources = Normals.sources

    def draw(self, seed):
        means, tree = jax.tree.flatten(self.mean)
        scales, directions = jax.tree.leaves(self.scale), jax.tree.leaves(self.directions)
        *noise, eta = normals(fast(seed), [*(mean.shape for mean in means), (len(directions[0]),)])
        parts = zip(means, scales, noise, directions, strict=True)
        return tree.unflatten([m + s * e + jnp.tensordot(eta, d, 1) for m, s, e, d in parts])


@register_dataclass
@dataclass(frozen=True)
class Dense:
    """A normal with all correlations: θ = mean + factor ε as one vector of P parameters, the tree's leaves one after another.

    ``mean``: a tree like the model's params; ``factor`` (P, P): any F with F Fᵀ the covariance.
    """

    model: Model
    mean: Any
    factor: Any

    sample = sample
    sources = Normals.sources

    def draw(self, seed):
        mean, tree = ravel_pytree(self.mean)
        (noise,) = normals(fast(seed), [mean.shape])
        return tree(mean + self.factor @ noise)


@register_dataclass
@dataclass(frozen=True)
class GammaPrecision:
    """Another posterior's draws with a noise precision of their own: τ_k ~ Gamma(shape_k, rate_k), in place of theirs.

    ``model.likelihood`` is a Gaussian that learns τ. With such draws the predictive of one function is Student's t. Unasked, each of
    a chain's draws has one τ, and each of a few points as many as make 100 draws. A point's draws follow each other.
    """

    model: Model
    part: Any
    shape: Any
    rate: Any

    sample = sample

    def sources(self, key, n=None):
        key_part, key_noise = jax.random.split(key)
        if n is None and isinstance(self.part, Samples) and not self.part.by_chains:
            n = -(-DRAWS // len(self.part)) * len(self.part)
        found = []
        for part, seeds in self.part.sources(key_part, n):
            seeds = jnp.sort(seeds) if isinstance(part, Samples) else jnp.asarray(seeds)
            key_noise, key_own = jax.random.split(key_noise)
            own = jax.random.key_data(jax.random.split(key_own, len(seeds)))
            columns = seeds.astype(jnp.uint32).reshape(len(seeds), -1)  # a key's data, or an index
            found.append(
                (GammaPrecision(self.model, part, self.shape, self.rate), jnp.concatenate([columns, own], axis=1))
            )
        return found

    def draw(self, seed):
        seed_part = seed[:-2] if len(seed) > 3 else seed[0].astype(jnp.int32)
        log_tau = jax.random.loggamma(fast(seed[-2:]), self.shape, dtype=self.shape.dtype) - jnp.log(self.rate)
        return {**self.part.draw(seed_part), "likelihood": {"log_precision": log_tau}}


@register_dataclass
@dataclass(frozen=True)
class Dropped:
    """Weights with their inputs dropped: W = diag(z)·w/(1 − r), z ~ Bernoulli(1 − r) on each weight's input axis.

    ``rates`` is a tree like ``params["network"]`` with a drop rate, or None where nothing is dropped; ``axes`` has for
    each of its leaves the axis of the inputs, counted from the end (None: −2 for all). ``masks="normal"``: W = diag(z)·w with
    z ~ N(1, r/(1 − r)). A draw is one function: one set of masks for whatever rows it is evaluated on.
    """

    model: Model
    params: Any
    rates: Any
    axes: tuple | None = static(default=None)
    masks: str = static(default="bernoulli")

    sample = sample
    sources = Normals.sources

    def draw(self, seed):
        weights, tree = jax.tree.flatten(self.params["network"])
        rates = tree.flatten_up_to(self.rates)
        shapes = [
            (0,) if rate is None else tuple(size if d == w.ndim + axis else 1 for d, size in enumerate(w.shape))
            for w, rate, axis in zip(weights, rates, self.axes or (-2,) * len(rates), strict=True)
        ]
        noise = (normals if self.masks == "normal" else uniforms)(fast(seed), shapes)
        drawn = []
        for w, rate, e in zip(weights, rates, noise, strict=True):
            r = 0 if rate is None else jnp.asarray(rate, w.dtype)
            if rate is not None and self.masks == "normal":
                w = w * (1 + jnp.sqrt(r / (1 - r)) * e)
            elif rate is not None:
                w = jnp.where(e < 1 - r, w / (1 - r), 0.0)
            drawn.append(w)
        return {"network": tree.unflatten(drawn), "likelihood": self.params["likelihood"]}


@register_dataclass
@dataclass(frozen=True)
class Mixture:
    """Equal shares of other posteriors of one model: an ensemble of anything."""

    model: Model
    parts: tuple

    sample = sample

    def sources(self, key, n=None):
        keys = jax.random.split(key, len(self.parts) + 1)
        if n is not None:
            shares = np.bincount(np.asarray(stratified(keys[0], len(self.parts), n)), minlength=len(self.parts))
        elif all(isinstance(part, Samples) for part in self.parts):
            sizes = [len(part) for part in self.parts]
            shares = [None if len(set(sizes)) == 1 else math.lcm(*sizes)] * len(sizes)  # each the same share
        else:
            shares = [-(-DRAWS // len(self.parts))] * len(self.parts)
        each = zip(self.parts, keys[1:], shares, strict=True)
        return [source for part, k, n in each if n is None or n > 0 for source in part.sources(k, n)]


def unwrapped(posterior):
    """The posterior inside those that put a noise or another network beside it."""
    while hasattr(posterior, "part"):
        posterior = posterior.part
    return posterior


def stratified(key, count, n):
    """n indices out of ``count``: each appears ⌊n/count⌋ or ⌈n/count⌉ times, who gets the rest is random."""
    order = jax.random.permutation(key, count)
    return order[jnp.arange(n) % count]


def sparsity(posterior):
    """The share of weights that are exactly 0, by their name, and of all of them as ``"all"``: what L1 or ``prune`` has made.

    Biases and the likelihood's parameters are left out, and so are masks of dropout. Averaged over draws and members; a weight
    of a ``Normals`` is 0 if it has neither mean nor scale. Raises ValueError for a network without weights.
    """
    shares: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for zeros in _zeros(posterior):
        for path, leaf in jax.tree_util.tree_flatten_with_path(zeros)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if leaf.ndim > 1:
                shares[name] = [*shares.get(name, []), float(np.mean(leaf))]
                sizes[name] = leaf.size
    if not shares:
        raise ValueError("sparsity is of weights, arrays with at least two axes, and this network has none")
    found = {name: float(np.mean(each)) for name, each in shares.items()}
    return found | {"all": sum(found[name] * size for name, size in sizes.items()) / sum(sizes.values())}


def _zeros(posterior):
    """Of each part of a posterior a tree that says which weights are 0, of several draws in what share of them."""
    match posterior:
        case Mixture():
            return [zeros for part in posterior.parts for zeros in _zeros(part)]
        case Samples():
            return [jax.tree.map(lambda leaf: np.mean(np.asarray(leaf) == 0, axis=0), posterior.params["network"])]
        case Normals() | LowRank():
            mean, scale = posterior.mean["network"], posterior.scale["network"]
            return [jax.tree.map(lambda m, s: (np.asarray(m) == 0) & (np.asarray(s) == 0), mean, scale)]
        case Dropped():
            return [jax.tree.map(lambda leaf: np.asarray(leaf) == 0, posterior.params["network"])]
    if hasattr(posterior, "mean"):  # another normal
        return [jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), posterior.mean["network"])]
    return _zeros(posterior.part)  # with noise beside it
