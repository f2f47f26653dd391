"""A prior whose scale is shared by the weights out of one unit or column, so that those without use are switched off together."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.priors import Prior, is_bias, is_proper, leaf_scales


@register_dataclass
@dataclass(frozen=True)
class GroupedNormal(Prior):
    """w_ij given t_i ~ N(0, scale²/t_i), t_i ~ Gamma(shape, rate), with t_i integrated out: the m weights out of one input i
    of a layer have a multivariate t distribution with 2 · ``shape`` degrees of freedom. Biases are N(0, biases²).

    ``BayesByBackprop`` evaluates its KL without draws, at E_q w² = μ² + σ². This is the KL of
    q(w) Π_i Gamma(t_i; shape + m/2, rate + ½ Σ_j E_q w_ij²/scale²) to the prior of w and t.

    Parameters
    ----------
    scale : float
        The scale of weights for t = 1.
    biases : float or None
        The standard deviation of biases; None leaves them without a prior.
    shape, rate : float
        Of the Gamma distribution of t. A small rate allows groups near zero.
    by_network : bool
        As of ``Normal``.

    References
    ----------
    Louizos, Ullrich & Welling (2017), "Bayesian compression for deep learning", with a Gamma
    distribution of precisions in the place of their priors of scales.
    """

    scale: float = 1.0
    biases: float | None = 1.0
    shape: float = 0.5
    rate: float = 0.01
    by_network: bool = static(default=False)

    def log_prob(self, params: Params, scales: Params | None = None) -> Float[Array, ""]:
        return self.log_prob_of_squares(jax.tree.map(jnp.square, params), scales)

    def log_prob_of_squares(self, squares: Params, scales: Params | None = None) -> Float[Array, ""]:
        """log p of parameters with these squares; a lower bound of E_q[log p(w)] at the squares' means under q.

        Parameters
        ----------
        squares : pytree of arrays
            w², or E_q w², in a tree like the network's parameters.
        scales : pytree of numbers, optional
            As in ``log_prob``.

        Returns
        -------
        array of shape ()
            In nats.
        """
        pairs = zip(jax.tree.leaves(squares), leaf_scales(self, squares, scales), strict=True)
        return sum(
            (self._log_prob_of_leaf(w, jnp.asarray(s, w.dtype)) for w, s in pairs if s is not None), jnp.zeros(())
        )

    def _log_prob_of_leaf(self, squares: Array, scale: Array) -> Float[Array, ""]:
        scale = jnp.broadcast_to(scale, squares.shape)
        constants = -jnp.sum(jnp.log(scale)) - 0.5 * squares.size * LOG_2PI
        relative = squares / scale**2
        if is_bias(squares):
            return constants - 0.5 * jnp.sum(relative)
        a, b = jnp.asarray(self.shape, squares.dtype), jnp.asarray(self.rate, squares.dtype)
        total = jnp.sum(relative, axis=_others(squares))
        half = 0.5 * squares.size / total.size
        each = a * jnp.log(b) - gammaln(a) + gammaln(a + half) - (a + half) * jnp.log(b + 0.5 * total)
        return constants + jnp.sum(each)

    def sample(self, key: Key, like: Params, scales: Params | None = None) -> Params:
        if not is_proper(self, scales):
            raise ValueError("cannot sample from a prior with biases=None: it is improper; set a scale for the biases")
        leaves, tree = jax.tree.flatten(like)
        each = zip(jax.random.split(key, len(leaves)), leaves, leaf_scales(self, like, scales), strict=True)
        return tree.unflatten(jnp.asarray(s, w.dtype) * self._noise(k, w) for k, w, s in each)

    def _noise(self, key: Key, leaf: Array) -> Array:
        key_normal, key_gamma = jax.random.split(key)
        eps = jax.random.normal(key_normal, leaf.shape, leaf.dtype)
        if is_bias(leaf):
            return eps
        groups = [1 if axis in _others(leaf) else size for axis, size in enumerate(leaf.shape)]
        log_t = jax.random.loggamma(key_gamma, self.shape, groups, leaf.dtype) - jnp.log(self.rate)
        return eps * jnp.exp(-0.5 * log_t)


def _others(leaf: Any) -> tuple[int, ...]:
    """The axes of a weight but that of its inputs, the last but one."""
    return tuple(axis for axis in range(jnp.ndim(leaf)) if axis != jnp.ndim(leaf) - 2)
