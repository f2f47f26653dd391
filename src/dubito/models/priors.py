"""Priors p(params): the regularizer of the weights. L2 regularization is the Normal prior, L1 the Laplace prior.

Leaves with at most one axis are biases; ``biases`` is their prior scale, and None leaves them
without a prior (improper).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import LOG_2PI


class Prior(ABC):
    """p(params) of a network's parameters.

    To write a prior, subclass this, make it a frozen dataclass, and register it as a pytree with
    ``dubito._jax.pytree.register_dataclass``. Methods that need only its density and its samples
    accept any prior; others require a ``Normal``.

    Attributes
    ----------
    scale : float
        The standard deviation or scale of weights.
    biases : float or None
        That of biases, the leaves with at most one axis; None leaves them without a prior.
    by_network : bool
        Whether the network turns ``scale`` into the scale of each leaf; ``biases`` has no effect then.
    """

    scale: float = 1.0
    biases: float | None = 1.0
    by_network: bool = False

    @abstractmethod
    def log_prob(self, params: Params, scales: Params | None = None) -> Float[Array, ""]:
        """The log density of parameters.

        Parameters
        ----------
        params : pytree of arrays
            A network's parameters.
        scales : pytree of numbers, optional
            The network's standard deviations for the prior's ``scale``, a tree like ``params``, as of
            ``Model.scales``; None for a network without them.

        Returns
        -------
        array of shape ()
            log p(params), in nats.
        """

    @abstractmethod
    def sample(self, key: Key, like: Params, scales: Params | None = None) -> Params:
        """One draw of parameters.

        Parameters
        ----------
        key : jax.Array
            A key of ``jax.random.key``.
        like : pytree of arrays
            The tree whose shapes and dtypes the draw has.
        scales : pytree of numbers, optional
            As in ``log_prob``.

        Returns
        -------
        pytree of arrays
            The draw.

        Raises
        ------
        ValueError
            If the prior is improper.
        """


def is_bias(leaf: Any) -> bool:
    """Whether a leaf counts as a bias.

    Parameters
    ----------
    leaf : array
        Parameters.

    Returns
    -------
    bool
        True if it has at most one axis.
    """
    return jnp.ndim(leaf) <= 1


def leaf_scales(prior: Prior, params: Params, scales: Params | None) -> list[Any]:
    """The prior scale of each leaf.

    Parameters
    ----------
    prior : Prior
        The prior.
    params : pytree of arrays
        A network's parameters.
    scales : pytree of numbers, or None
        The network's own, as of ``Model.scales``.

    Returns
    -------
    list
        In the order of ``jax.tree.leaves(params)``; None for a leaf without a prior.
    """
    leaves = jax.tree.leaves(params)
    if prior.by_network and scales is not None:
        return jax.tree.leaves(scales)
    return [prior.biases if is_bias(leaf) else prior.scale for leaf in leaves]


def is_proper(prior: Prior | None, scales: Any = None) -> bool:
    """Whether every leaf has a density that integrates to one.

    Parameters
    ----------
    prior : Prior or None
        The prior; None is flat.
    scales : object
        The network's own scales; None if it has none.

    Returns
    -------
    bool
        Whether the prior is proper.
    """
    return prior is not None and (prior.biases is not None or prior.by_network and scales is not None)


def check_proper(method: Any, model: Any) -> None:
    """Raise ValueError if a leaf of the model's network has no proper prior.

    Parameters
    ----------
    method : Method
        The method that needs it, for the message.
    model : Model
        The model.
    """
    if not is_proper(model.prior, model.network.scales):
        raise ValueError(
            f"{type(method).__name__} needs a proper prior: set a prior scale for the biases, e.g. "
            "Normal(scale=1.0, biases=1.0)"
        )


class IndependentPrior(Prior):
    """Base of priors under which all parameters are independent."""

    @abstractmethod
    def log_density(self, w: Array, scale: Array) -> Array:
        """The log density of parameters.

        Parameters
        ----------
        w : array
            Of one leaf.
        scale : array of shape ()
            The prior scale of the leaf.

        Returns
        -------
        array
            Elementwise, in nats.
        """

    @abstractmethod
    def noise(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        """A draw of a leaf with scale 1.

        Parameters
        ----------
        key : jax.Array
            A key of ``jax.random.key``.
        shape : tuple of int
            That of the leaf.
        dtype : dtype
            That of the leaf.

        Returns
        -------
        array
            The draw.
        """

    def log_prob(self, params: Params, scales: Params | None = None) -> Float[Array, ""]:
        pairs = zip(jax.tree.leaves(params), leaf_scales(self, params, scales), strict=True)
        densities = (self.log_density(w, jnp.asarray(s, w.dtype)) for w, s in pairs if s is not None)
        return sum(map(jnp.sum, densities), jnp.asarray(0.0))

    def sample(self, key: Key, like: Params, scales: Params | None = None) -> Params:
        if not is_proper(self, scales):
            raise ValueError("cannot sample from a prior with biases=None: it is improper; set a scale for the biases")
        leaves, tree = jax.tree.flatten(like)
        each = zip(jax.random.split(key, len(leaves)), leaves, leaf_scales(self, like, scales), strict=True)
        return tree.unflatten(jnp.asarray(s, w.dtype) * self.noise(k, w.shape, w.dtype) for k, w, s in each)


def _check_regularizer(name: str, strength: float, size: float) -> None:
    if not strength * size > 0:
        raise ValueError(
            f"{name} and size must be positive, got {strength!r} and {size!r}; for no regularizer use prior=None"
        )


@register_dataclass
@dataclass(frozen=True)
class Normal(IndependentPrior):
    """θ ~ N(0, scale²): the weight penalty θ²/(2 scale²). The length scale of the dropout
    literature is ℓ = 1/scale.

    Parameters
    ----------
    scale : float
        The standard deviation of weights.
    biases : float or None
        The standard deviation of biases; None leaves them without a prior.
    by_network : bool
        The network turns ``scale`` into the standard deviation of each of its leaves. In the library's
        networks it is scale/√fan-in for the weights of layers, which keeps the outputs of wide
        networks of the order of ``scale``; 1 for their biases; and that at the start for periodic
        features.
    """

    scale: float = 1.0
    biases: float | None = 1.0
    by_network: bool = static(default=False)

    @classmethod
    def from_l2(cls, l2: float, size: float) -> "Normal":
        """The prior equivalent to the regularizer λΣw² of a mean criterion: variance 1/(2λN), biases
        without a prior.

        Parameters
        ----------
        l2 : float
            λ, positive.
        size : float
            N, the number of rows that the criterion (in nats) averages over.

        Returns
        -------
        Normal
            The prior whose MAP estimate minimizes criterion + λΣw².

        Examples
        --------
        >>> import dubito
        >>> dubito.Normal.from_l2(0.5, 100).scale
        0.1
        """
        _check_regularizer("l2", l2, size)
        return cls(scale=1 / math.sqrt(2 * l2 * size), biases=None)

    def log_density(self, w: Array, scale: Array) -> Array:
        return normal_log_density(w, scale)

    def noise(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.normal(key, shape, dtype)


@register_dataclass
@dataclass(frozen=True)
class Laplace(IndependentPrior):
    """θ ~ Laplace(0, scale): the weight penalty |θ|/scale.

    ``LaplaceApproximation`` is a method, and ``LaplaceNoise`` a likelihood.

    Parameters
    ----------
    scale : float
        The scale b of weights; their standard deviation is √2 b.
    biases : float or None
        The scale of biases; None leaves them without a prior.
    """

    scale: float = 1.0
    biases: float | None = 1.0

    @classmethod
    def from_l1(cls, l1: float, size: float) -> "Laplace":
        """The prior equivalent to the regularizer λΣ|w| of a mean criterion: b = 1/(λN), biases
        without a prior.

        Parameters
        ----------
        l1 : float
            λ, positive.
        size : float
            N, the number of rows that the criterion (in nats) averages over.

        Returns
        -------
        Laplace
            The prior whose MAP estimate minimizes criterion + λΣ|w|.
        """
        _check_regularizer("l1", l1, size)
        return cls(scale=1 / (l1 * size), biases=None)

    def log_density(self, w: Array, scale: Array) -> Array:
        # where, not abs: d|w|/dw must be sign(w) with 0 at 0 (equation 19 of docs/mathematics.md); jax.grad(abs)(0) is 1.
        return -jnp.where(w == 0, 0.0, jnp.abs(w)).astype(w.dtype) / scale - jnp.log(2 * scale)

    def noise(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.laplace(key, shape, dtype)


@register_dataclass
@dataclass(frozen=True)
class ScaleMixture(IndependentPrior):
    """θ ~ π N(0, scale²) + (1 − π) N(0, narrow²) for each weight; biases are N(0, biases²).

    Parameters
    ----------
    mixing : float
        π, the weight of the wide component.
    scale, narrow : float
        The standard deviations of the wide and the narrow component.
    biases : float or None
        The standard deviation of biases; None leaves them without a prior.

    References
    ----------
    Blundell et al. (2015), "Weight uncertainty in neural networks", eq. 7.
    """

    mixing: float = 0.5
    scale: float = 1.0
    narrow: float = 0.0025
    biases: float | None = 1.0

    def log_density(self, w: Array, scale: Array) -> Array:
        if is_bias(w):
            return normal_log_density(w, scale)
        narrow, mixing = jnp.asarray(self.narrow, w.dtype), jnp.asarray(self.mixing, w.dtype)
        wide = jnp.log(mixing) + normal_log_density(w, scale)
        return jnp.logaddexp(wide, jnp.log1p(-mixing) + normal_log_density(w, narrow))

    def noise(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        key_component, key_noise = jax.random.split(key)
        eps = jax.random.normal(key_noise, shape, dtype)
        if len(shape) <= 1:
            return eps
        ratio = jnp.asarray(self.narrow / self.scale, dtype)
        return jnp.where(jax.random.bernoulli(key_component, self.mixing, shape), eps, ratio * eps)


def normal_log_density(w: Float[Array, "*shape"], scale: Any) -> Float[Array, "*shape"]:
    """log N(w | 0, scale²), elementwise.

    Parameters
    ----------
    w : array
        Any shape.
    scale : array or float
        The standard deviation.

    Returns
    -------
    array
        The same shape, in nats.
    """
    return -0.5 * (w / scale) ** 2 - jnp.log(scale) - 0.5 * LOG_2PI
