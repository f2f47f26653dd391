"""Variational inference with a Gaussian that has correlations: full (Cholesky), or of low rank (Ong, Nott & Smith 2018)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dubito._check import check_choice
from dubito._jax.prng import normals
from dubito._jax.pytree import register_dataclass, static
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.priors import Normal, is_proper, leaf_scales
from dubito.posteriors.base import log_mean_prob
from dubito.posteriors.normals import FullCovarianceNormal, LowRankNormal
from dubito.training import optimizers
from dubito.training.fit import one_member

COVARIANCES = ("full", "low-rank")
LARGEST = 2000  # parameters of a full covariance: 4 million numbers, and their gradients' averages


class State(NamedTuple):
    variational: Any
    optimizer: Any


@register_dataclass
@dataclass(frozen=True)
class VariationalGaussian:
    """q(θ) = N(μ, Σ) over weights, biases and the likelihood's own parameters, with correlations. In nats:

        ELBO = E_q[log p(D | θ)] − KL(q ‖ p),    Σ = L Lᵀ ("full") or diag(σ²) + Σ_k d_k d_kᵀ ("low-rank")

    by reparametrization, θ = μ + Lε or μ + σε + Σ_k η_k d_k; the KL to the Normal prior in closed form. ``rank``: how many
    directions d_k; ``initial_scale``: the standard deviations at the start; ``draws`` of all parameters a step.

    It keeps what a mean-field Gaussian loses, the doubt between clusters of data, around one mode. A draw serves all
    rows of a batch, so its gradient is noisier than local noise's. Full covariances are for networks of up to 2,000
    parameters; rank K costs as much as K + 2 networks.
    """

    covariance: str = static(default="low-rank")
    rank: int = static(default=10)
    epochs: int | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    initial_scale: float = 0.02
    draws: int = static(default=8)
    schedule: str = static(default="cosine")
    clip: float | None = None

    members = one_member

    def check(self, model):
        optimizers.check(self)
        check_choice("covariance", self.covariance, COVARIANCES)
        if not self.initial_scale > 0 or self.draws < 1 or self.rank < 1:
            raise ValueError(
                f"initial_scale must be positive, got {self.initial_scale!r}; draws and rank at least 1, "
                f"{self.draws} and {self.rank}"
            )
        if not isinstance(model.prior, Normal) or not is_proper(model.prior, model.network.scales):
            raise ValueError("VariationalGaussian needs a Normal prior with a scale for its biases")

    def init(self, model, batch, key):
        del batch
        key_mean, key_directions = jax.random.split(key)
        mean = model.init(key_mean)
        count = sum(leaf.size for leaf in jax.tree.leaves(mean))
        rho = jnp.full(count, jnp.log(jnp.expm1(self.initial_scale)), jnp.float32)
        if self.covariance == "full":
            if count > LARGEST:
                raise ValueError(
                    f"a full covariance is for up to {LARGEST} parameters, and the model has {count}: "
                    "use covariance='low-rank' or a smaller network"
                )
            variational = {"mean": mean, "factor": jnp.diag(rho)}
        else:
            (directions,) = normals(key_directions, [(self.rank, count)])
            directions = self.initial_scale * self.rank**-0.5 * directions
            variational = {"mean": mean, "rho": rho, "directions": directions}
        return State(variational, optimizers.start(self, variational))

    def step(self, model, state, batch, clock, key):
        def objective(variational):
            likelihood, kl = (part / batch.size for part in self.estimate(model, variational, batch, key))
            return kl - likelihood, {"likelihood": likelihood, "penalty": kl}

        gradient, info = jax.grad(objective, has_aux=True)(state.variational)
        variational, optimizer = optimizers.descend(self, gradient, state.variational, state.optimizer, clock)
        return State(variational, optimizer), info

    def estimate(self, model, variational, batch, key):
        """(E_q[log p(D | θ)], KL) from ``draws`` draws, in nats of the data set; of the KL only −log p(φ) is drawn."""
        mean, tree = ravel_pytree(variational["mean"])
        noise, variance, entropy = self.noise(variational, key, len(mean))

        def one(vector):
            params = tree(vector)
            return model.log_likelihood(params, batch), model.likelihood.log_prior(params["likelihood"])

        likelihood, own = map(jnp.mean, jax.vmap(one)(mean[None] + noise))
        weights = jax.tree.leaves(variational["mean"]["network"])
        spread = jax.tree.leaves(tree(variance)["network"])
        scales = leaf_scales(model.prior, weights, model.scales(variational["mean"]))
        each = zip(weights, spread, (jnp.asarray(scale, mean.dtype) for scale in scales), strict=True)
        prior = sum(jnp.sum(-0.5 * (m**2 + v) / p**2 - jnp.log(p) - 0.5 * LOG_2PI) for m, v, p in each)
        return likelihood, -entropy - prior - own

    def noise(self, variational, key, count):
        """θ − μ of the draws (draws, P), the parameters' variances (P,), and q's entropy ½ log |2πe Σ|."""
        shared = 0 if self.covariance == "full" else self.rank
        epsilon, eta = normals(key, [(self.draws, count), (self.draws, shared)])
        if self.covariance == "full":
            factor = cholesky(variational["factor"])
            half = jnp.sum(jnp.log(jnp.diag(factor)))
            return epsilon @ factor.T, jnp.sum(factor**2, axis=1), half + 0.5 * count * (LOG_2PI + 1)
        scale, directions = jax.nn.softplus(variational["rho"]), variational["directions"]
        ratio = directions / scale[None]
        # |Σ| = |diag(σ²)| |I + R Rᵀ| with R = d/σ, of K rows
        inner = jnp.linalg.cholesky(jnp.eye(self.rank, dtype=scale.dtype) + ratio @ ratio.T)
        half = jnp.sum(jnp.log(scale)) + jnp.sum(jnp.log(jnp.diag(inner)))
        variance = scale**2 + jnp.sum(directions**2, axis=0)
        return scale[None] * epsilon + eta @ directions, variance, half + 0.5 * count * (LOG_2PI + 1)

    def score(self, model, state, batch, key):
        return log_mean_prob(self.posterior(model, state), batch, key)

    def posterior(self, model, state):
        variational = state.variational
        if self.covariance == "full":
            return FullCovarianceNormal(model, variational["mean"], cholesky(variational["factor"]))
        _, tree = ravel_pytree(variational["mean"])
        scale = tree(jax.nn.softplus(variational["rho"]))
        return LowRankNormal(model, variational["mean"], scale, jax.vmap(tree)(variational["directions"]))

    def finish(self, model, trained, key, run):
        del key, run
        return self.posterior(model, trained.states[0])


def cholesky(free):
    """The lower triangular factor with a positive diagonal, of a square matrix of any numbers."""
    return jnp.tril(free, -1) + jnp.diag(jax.nn.softplus(jnp.diag(free)))
