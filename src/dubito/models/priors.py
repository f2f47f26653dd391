"""Priors p(params): the regularizer. L2 *is* the Normal, L1 *is* the Laplace (mathematics: L1 and L2).

The contract: ``log_prob(params, scales)``, a scalar in nats, and ``sample(key, like, scales)``. ``scales`` is the
network's opinion, a tree like ``params`` of standard deviations (or None: it has none). Leaves with at most one axis are
biases; ``biases`` is their own prior scale, and None leaves them free of any prior (improper).
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass, static
from dubito.models.likelihoods.base import LOG_2PI


def is_bias(leaf):
    return jnp.ndim(leaf) <= 1


def leaf_scales(prior, params, scales):
    """The prior scale of each leaf, a list in the order of ``jax.tree.leaves(params)``; None for a free leaf."""
    leaves = jax.tree.leaves(params)
    if getattr(prior, "by_network", False) and scales is not None:
        return [prior.scale * s for s in jax.tree.leaves(scales)]
    return [prior.biases if is_bias(leaf) else prior.scale for leaf in leaves]


def is_proper(prior, scales=None):
    """Whether every leaf has a density that integrates to one. ``scales``: the network's opinion, None if it has none."""
    by_network = getattr(prior, "by_network", False) and scales is not None
    return prior is not None and (prior.biases is not None or by_network)


def need_proper(method, model):
    """ValueError where a parameter of the model's network has no prior that integrates to one, which ``method`` needs."""
    if not is_proper(model.prior, getattr(model.network, "scales", None)):
        raise ValueError(
            f"{type(method).__name__} needs a proper prior: give the model one, with a scale for its biases"
        )


def _total(prior, params, scales, density):
    terms = [
        jnp.sum(density(leaf, jnp.asarray(scale, leaf.dtype)))
        for leaf, scale in zip(jax.tree.leaves(params), leaf_scales(prior, params, scales), strict=True)
        if scale is not None
    ]
    return sum(terms, jnp.asarray(0.0))


def _draw(prior, key, like, scales, noise):
    if not is_proper(prior, scales):
        raise ValueError("cannot sample from a prior with biases=None: it is improper; give the biases a scale")
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jnp.asarray(scale, leaf.dtype) * noise(k, leaf.shape, leaf.dtype)
        for k, leaf, scale in zip(keys, leaves, leaf_scales(prior, like, scales), strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


@register_dataclass
@dataclass(frozen=True)
class Normal:
    """θ ~ N(0, scale²): the weight penalty θ²/(2 scale²); the lecture's length scale is ℓ = 1/scale.

    ``by_network=True`` multiplies ``scale`` by the network's own scales (1/√fan-in for weights), which keeps the outputs
    of wide networks of order one; biases then follow the network too.
    """

    scale: float = 1.0
    biases: float | None = 1.0
    by_network: bool = static(default=False)

    @classmethod
    def from_l2(cls, l2, size):
        """The Normal that is the regularizer λΣw² beside a mean criterion in nats: variance 1/(2λN), biases free."""
        if not l2 * size > 0:
            raise ValueError(
                f"l2 and size must be positive, got {l2!r} and {size!r}; for no regularizer use prior=None"
            )
        return cls(scale=1 / math.sqrt(2 * l2 * size), biases=None)

    def log_prob(self, params, scales=None):
        return _total(self, params, scales, normal_log_density)

    def sample(self, key, like, scales=None):
        return _draw(self, key, like, scales, jax.random.normal)


@register_dataclass
@dataclass(frozen=True)
class Laplace:
    """θ ~ Laplace(0, scale): the weight penalty |θ|/scale. The prior; not the method or the likelihood of that name."""

    scale: float = 1.0
    biases: float | None = 1.0

    @classmethod
    def from_l1(cls, l1, size):
        """The Laplace that is the regularizer λΣ|w| beside a mean criterion in nats: b = 1/(λN), biases free."""
        if not l1 * size > 0:
            raise ValueError(
                f"l1 and size must be positive, got {l1!r} and {size!r}; for no regularizer use prior=None"
            )
        return cls(scale=1 / (l1 * size), biases=None)

    def log_prob(self, params, scales=None):
        # where, not abs: d|w|/dw must be sign(w) with 0 at 0 (mathematics 22); jax.grad(abs)(0) is 1.
        def density(w, b):
            return -jnp.where(w == 0, 0.0, jnp.abs(w)).astype(w.dtype) / b - jnp.log(2 * b)

        return _total(self, params, scales, density)

    def sample(self, key, like, scales=None):
        return _draw(self, key, like, scales, jax.random.laplace)


@register_dataclass
@dataclass(frozen=True)
class ScaleMixture:
    """θ ~ π N(0, scale²) + (1 − π) N(0, narrow²) for each weight (Blundell et al. 2015, eq. 7); π is ``mixing``.

    Biases are N(0, s²) with s = ``biases``.
    """

    mixing: float = 0.5
    scale: float = 1.0
    narrow: float = 0.0025
    biases: float | None = 1.0

    def log_prob(self, params, scales=None):
        def density(w, scale):
            if is_bias(w):
                return normal_log_density(w, scale)
            narrow, mixing = jnp.asarray(self.narrow, w.dtype), jnp.asarray(self.mixing, w.dtype)
            return jnp.logaddexp(
                jnp.log(mixing) + normal_log_density(w, scale), jnp.log1p(-mixing) + normal_log_density(w, narrow)
            )

        return _total(self, params, scales, density)

    def sample(self, key, like, scales=None):
        def noise(k, shape, dtype):
            k_part, k_noise = jax.random.split(k)
            eps = jax.random.normal(k_noise, shape, dtype)
            if len(shape) <= 1:
                return eps
            ratio = jnp.asarray(self.narrow / self.scale, dtype)
            return jnp.where(jax.random.bernoulli(k_part, self.mixing, shape), eps, ratio * eps)

        return _draw(self, key, like, scales, noise)


def normal_log_density(w, scale):
    return -0.5 * (w / scale) ** 2 - jnp.log(scale) - 0.5 * LOG_2PI
