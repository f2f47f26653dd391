"""A model is a network, a likelihood and a prior: log p(D, θ) and its parts. The scale N/n stands here and nowhere else."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass
from dubito.models.likelihoods.base import Likelihood
from dubito.models.networks import as_network
from dubito.models.priors import Normal, Prior


class Batch(NamedTuple):
    """Rows of the data, and what they stand for.

    ``x`` (n, D); ``y`` (n, K) or class indices (n,); ``weight`` (n,), 0 for padding and rows held out; ``scale``, the
    number of blocks in an epoch (so that an epoch's gradients average to exactly the full batch's); ``size``, the sum of
    all weights of the data set.
    """

    x: Any
    y: Any
    weight: Any
    scale: Any
    size: Any


@register_dataclass
@dataclass(frozen=True)
class Model:
    """The joint density p(y, θ given x) = p(y | f(x, θ), φ) p(θ) p(φ); ``params`` = {"network": θ, "likelihood": φ}."""

    network: Any
    likelihood: Likelihood
    prior: Prior | None = Normal()

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", as_network(self.network))
        if not isinstance(self.likelihood, Likelihood):
            raise TypeError(
                f"likelihood must be a dubito.Likelihood, such as dubito.Gaussian(); got {self.likelihood!r}"
            )
        if not isinstance(self.prior, Prior | None):
            raise TypeError(f"prior must be a dubito.Prior, such as dubito.Normal(), or None; got {self.prior!r}")

    def init(self, key):
        """A random start: the network's own initialization and the likelihood's."""
        return {"network": self.network.init(key), "likelihood": self.likelihood.init()}

    def outputs(self, params, x):
        """z for rows x (n, D): the network's outputs joined with the noise; a dict of arrays with rows first."""
        f = self.network.apply(params["network"], x)
        with jax.named_scope("likelihood"):
            return self.likelihood.join(f, params["likelihood"])

    def scales(self, params):
        """The network's own prior scales, a tree like ``params["network"]``, or None if it has no opinion."""
        own = self.network.scales
        return own(params["network"]) if own is not None else None

    def log_prior(self, params):
        """log p(θ) + log p(φ), in nats. ``prior=None`` is flat."""
        with jax.named_scope("prior"):
            own = self.likelihood.log_prior(params["likelihood"])
            return own if self.prior is None else own + self.prior.log_prob(params["network"], self.scales(params))

    def weighted_sum(self, log_prob, batch):
        """scale · Σ weight · log p: an unbiased estimate, in nats, of the whole data set's log likelihood."""
        return batch.scale * jnp.sum(batch.weight * log_prob)

    def log_likelihood(self, params, batch):
        """log p(D | θ) of the whole data set estimated from a batch, in nats."""
        z = self.outputs(params, batch.x)
        with jax.named_scope("likelihood"):
            return self.weighted_sum(self.likelihood.log_prob(z, batch.y), batch)

    def log_joint(self, params, batch):
        """log p(D, θ) = log p(D | θ) + log p(θ), in nats."""
        return self.log_likelihood(params, batch) + self.log_prior(params)
