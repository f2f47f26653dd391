"""Variational inference with a Gaussian that has correlations: full (Cholesky), or of low rank (Ong, Nott & Smith 2018)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dubito._jax.prng import normals
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.model import Batch, Model
from dubito.models.priors import Normal, is_proper, leaf_scales
from dubito.posteriors.normals import FullCovarianceNormal, LowRankNormal
from dubito.training import optimizers

COVARIANCES = ("full", "low-rank")
LARGEST = 2000  # parameters of a full covariance: 4 million numbers, and their gradients' averages


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class VariationalGaussian(PosteriorDescent):
    """q(θ) = N(μ, Σ) over weights, biases and the likelihood's own parameters, with correlations. In nats:

        ELBO = E_q[log p(D | θ)] − KL(q ‖ p),    Σ = L Lᵀ ("full") or diag(σ²) + Σ_k d_k d_kᵀ ("low-rank")

    by reparametrization, θ = μ + Lε or μ + σε + Σ_k η_k d_k; the KL to the Normal prior in closed form. It keeps what a
    mean-field Gaussian loses, the epistemic uncertainty between clusters of data, around one mode. A draw serves all rows of
    a batch, so its gradient is noisier than local noise's.

    Parameters
    ----------
    covariance : {"low-rank", "full"}
        "full" is for networks of up to 2,000 parameters; rank K costs as much as K + 2 networks.
    rank : int
        The number of directions d_k.
    initial_scale : float
        The standard deviations at the start.
    draws : int
        Draws of all parameters for each step.
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    covariance: str = static(default="low-rank")
    rank: int = static(default=10)
    initial_scale: float = 0.02
    draws: int = static(default=8)

    flat: ClassVar[bool] = False  # its objective makes one vector of all parameters itself

    def check(self, model: Model) -> None:
        optimizers.check_descent(self)
        if self.covariance not in COVARIANCES:
            raise ValueError(f"covariance={self.covariance!r} is unknown. Choose one of {', '.join(COVARIANCES)}.")
        if not self.initial_scale > 0 or self.draws < 1 or self.rank < 1:
            raise ValueError(
                f"initial_scale must be positive, got {self.initial_scale!r}; draws and rank at least 1, "
                f"{self.draws} and {self.rank}"
            )
        if not isinstance(model.prior, Normal) or not is_proper(model.prior, model.network.scales):
            raise ValueError("VariationalGaussian needs a Normal prior with a scale for its biases")

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
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
            return {"mean": mean, "factor": jnp.diag(rho)}
        (directions,) = normals(key_directions, [(self.rank, count)])
        directions = self.initial_scale * self.rank**-0.5 * directions
        return {"mean": mean, "rho": rho, "directions": directions}

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> tuple[Any, Any]:
        """(E_q[log p(D | θ)], KL) from ``draws`` draws, in nats of the data set; of the KL only −log p(φ) is drawn."""
        mean, tree = ravel_pytree(params["mean"])
        noise, variance, entropy = self.noise(params, key, len(mean))

        def one(vector):
            theta = tree(vector)
            return model.log_likelihood(theta, batch), model.likelihood.log_prior(theta["likelihood"])

        likelihood, own = map(jnp.mean, jax.vmap(one)(mean[None] + noise))
        weights = jax.tree.leaves(params["mean"]["network"])
        spread = jax.tree.leaves(tree(variance)["network"])
        scales = leaf_scales(model.prior, weights, model.scales(params["mean"]))
        each = zip(weights, spread, (jnp.asarray(scale, mean.dtype) for scale in scales), strict=True)
        prior = sum(jnp.sum(-0.5 * (m**2 + v) / p**2 - jnp.log(p) - 0.5 * LOG_2PI) for m, v, p in each)
        return likelihood, -entropy - prior - own

    def noise(self, variational: Params, key: Key, count: int) -> tuple[Any, Any, Any]:
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

    def posterior(self, model: Model, params: Params, x: Any) -> FullCovarianceNormal | LowRankNormal:
        del x
        if self.covariance == "full":
            return FullCovarianceNormal(model, params["mean"], cholesky(params["factor"]))
        _, tree = ravel_pytree(params["mean"])
        scale = tree(jax.nn.softplus(params["rho"]))
        return LowRankNormal(model, params["mean"], scale, jax.vmap(tree)(params["directions"]))


def cholesky(free: Any) -> Any:
    """The lower triangular factor with a positive diagonal, of a square matrix of any numbers."""
    return jnp.tril(free, -1) + jnp.diag(jax.nn.softplus(jnp.diag(free)))
