"""A model is a network, a likelihood and a prior: log p(D, θ) and its parts. The scale N/n is applied only here."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import Likelihood, OutcomeParams
from dubito.models.networks import as_network
from dubito.models.priors import Normal, Prior


class Batch(NamedTuple):
    """Rows of the data, and their weight in the data set.

    Attributes
    ----------
    x : array of shape (rows, columns)
        The inputs.
    y : array of shape (rows, targets) or (rows,)
        The targets, or the class numbers.
    weight : array of shape (rows,)
        The weight of each row; 0 for padding and for held-out rows.
    scale : float32 array of shape ()
        N/n: the number of batches in an epoch, so that the mean gradient of an epoch is exactly
        that of the full batch.
    size : float32 array of shape ()
        The sum of all weights of the data set.
    """

    x: Any
    y: Any
    weight: Any
    scale: Any
    size: Any


@register_dataclass
@dataclass(frozen=True)
class Model:
    """The joint density p(y, θ, φ | x) = p(y | f(x, θ), φ) p(θ) p(φ); its params are {"network": θ,
    "likelihood": φ}.

    Parameters
    ----------
    network : object
        Any object with ``init(key)`` and ``apply(params, x)``, and ``scales(params, scale)`` if it has
        prior scales of its own; such as ``mlp(...)`` or ``Network(init, apply)``.
    likelihood : Likelihood
        p(y given z), where z joins the network's outputs with φ.
    prior : Prior or None
        p(θ); None is flat, which is maximum likelihood.

    Raises
    ------
    TypeError
        If the network does not have both functions, or for another likelihood or prior.

    Examples
    --------
    >>> import dubito, jax
    >>> model = dubito.Model(dubito.mlp(2), dubito.Gaussian())
    >>> sorted(model.init(jax.random.key(0)))
    ['likelihood', 'network']
    """

    network: Any
    likelihood: Any  # a Likelihood; methods read the fields of the class that they have checked for
    prior: Any = Normal()  # a Prior, or None

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", as_network(self.network))
        if not isinstance(self.likelihood, Likelihood):
            raise TypeError(
                f"likelihood must be a dubito.Likelihood, such as dubito.Gaussian(); got {self.likelihood!r}"
            )
        if not isinstance(self.prior, Prior | None):
            raise TypeError(f"prior must be a dubito.Prior, such as dubito.Normal(), or None; got {self.prior!r}")

    def init(self, key: Key) -> Params:
        """Random initial parameters.

        Parameters
        ----------
        key : jax.Array
            A key of ``jax.random.key``.

        Returns
        -------
        dict
            {"network": θ, "likelihood": φ}.
        """
        return {"network": self.network.init(key), "likelihood": self.likelihood.init()}

    def outputs(self, params: Params, x: Float[Array, "rows *columns"]) -> OutcomeParams:
        """The network's outputs joined with the noise.

        Parameters
        ----------
        params : dict
            {"network": θ, "likelihood": φ}, as returned by ``init``.
        x : array of shape (rows, columns)
            The inputs.

        Returns
        -------
        dict of arrays
            z, the parameters of p(y) at each row, with rows first in each array.
        """
        f = self.network.apply(params["network"], x)
        with jax.named_scope("likelihood"):
            return self.likelihood.join(f, params["likelihood"])

    def scales(self, params: Params) -> Params | None:
        """The network's own scales for the scale of the prior.

        Parameters
        ----------
        params : dict
            {"network": θ, "likelihood": φ}, as returned by ``init``.

        Returns
        -------
        pytree of numbers, or None
            The standard deviation of each leaf, a tree like ``params["network"]``; None if the
            network has none.
        """
        own = self.network.scales
        return own(params["network"], 1.0 if self.prior is None else self.prior.scale) if own is not None else None

    def log_prior(self, params: Params) -> Float[Array, ""]:
        """The log prior density; ``prior=None`` is flat.

        Parameters
        ----------
        params : dict
            {"network": θ, "likelihood": φ}, as returned by ``init``.

        Returns
        -------
        array of shape ()
            log p(θ) + log p(φ), in nats.
        """
        with jax.named_scope("prior"):
            own = self.likelihood.log_prior(params["likelihood"])
            return own if self.prior is None else own + self.prior.log_prob(params["network"], self.scales(params))

    def weighted_sum(self, log_prob: Float[Array, " rows"], batch: Batch) -> Float[Array, ""]:
        """The log likelihood of the whole data set, estimated without bias from a batch.

        Parameters
        ----------
        log_prob : array of shape (rows,)
            The log density of each row of the batch, in nats.
        batch : Batch
            Its weight and scale are used.

        Returns
        -------
        array of shape ()
            scale · Σ weight · log p, in nats.
        """
        return batch.scale * jnp.sum(batch.weight * log_prob)

    def log_likelihood(self, params: Params, batch: Batch) -> Float[Array, ""]:
        """The log likelihood of the whole data set, estimated from a batch.

        Parameters
        ----------
        params : dict
            {"network": θ, "likelihood": φ}, as returned by ``init``.
        batch : Batch
            The rows.

        Returns
        -------
        array of shape ()
            log p(D | θ, φ), in nats.
        """
        z = self.outputs(params, batch.x)
        with jax.named_scope("likelihood"):
            return self.weighted_sum(self.likelihood.log_prob_observed(z, batch.y), batch)

    def log_joint(self, params: Params, batch: Batch) -> Float[Array, ""]:
        """The log joint density, estimated from a batch.

        Parameters
        ----------
        params : dict
            {"network": θ, "likelihood": φ}, as returned by ``init``.
        batch : Batch
            The rows.

        Returns
        -------
        array of shape ()
            log p(D | θ, φ) + log p(θ) + log p(φ), in nats.
        """
        return self.log_likelihood(params, batch) + self.log_prior(params)
