"""Variational inference with a Gaussian that has correlations: full (Cholesky), or of low rank (Ong, Nott & Smith 2018)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dubito._check import check_choice, check_whole
from dubito._jax.prng import normals
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.methods.priors import map_prior
from dubito.methods.settings import check_intervals, check_normal_prior
from dubito.methods.types import Batch, Inputs, Key, Model, Objective, Params, Scalar
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.priors import check_proper
from dubito.posteriors.normals import FullCovarianceNormal, LowRankNormal
from dubito.training.method import Recipe
from dubito.training.optimizers import check_descent

COVARIANCES = ("full", "low-rank")
LARGEST_FULL = 2000  # parameters of a full covariance: 4 million numbers, and as many for each moment of the optimizer


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class VariationalGaussian(PosteriorDescent):
    """q(θ) = N(μ, Σ) over weights, biases and the likelihood's own parameters, with correlations. In nats:

        ELBO = E_q[log p(D | θ)] − KL(q ‖ p),    Σ = L Lᵀ ("full") or diag(σ²) + Σ_k d_k d_kᵀ ("low-rank")

    by reparametrization, θ = μ + Lε or μ + σε + Σ_k η_k d_k; the KL to the Normal prior in closed
    form. It represents what a mean-field Gaussian does not, the epistemic uncertainty between
    clusters of data, around one mode. A draw serves all rows of a batch, so its gradient has more
    variance than that of local reparametrization.

    Parameters
    ----------
    warm_up : float
        The fraction of the steps in which the weight of the KL rises from 0 to 1, in [0, 1). Shared
        draws are noisy, and with the full KL too early their noise, not the data, decides which units are used.
    covariance : {"low-rank", "full"}
        "full" is for networks of up to 2,000 parameters; rank K costs as much as K + 2 networks.
    rank : int
        The number of directions d_k.
    initial_scale : float
        The standard deviations at the start.
    draws : int
        Draws of all parameters for each step.
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs
        As in ``MAP``; ``epochs=None`` is the default.
    """

    clip: float | None = 5.0
    warm_up: float = 0.8
    covariance: str = static(default="low-rank")
    rank: int = static(default=10)
    initial_scale: float = 0.005
    draws: int = static(default=16)

    penalty_name: ClassVar[str] = "KL"
    recipes: ClassVar[dict[str, Recipe] | None] = {
        "regression": Recipe((32, 32), "silu", prior_scale=3.0, rows_seen=1_200_000, least_epochs=100),
        "classification": Recipe(prior_scale=5.0),
    }
    flat: ClassVar[bool] = False  # its objective makes one vector of all parameters itself

    def check(self, model: Model) -> None:
        check_descent(self)
        check_choice("covariance", self.covariance, COVARIANCES)
        check_intervals(self, initial_scale="(0, inf)", warm_up="[0, 1)")
        for name, value in (("draws", self.draws), ("rank", self.rank)):
            check_whole(name, value, 1)
        check_normal_prior(self, model)
        check_proper(self, model)

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        key_mean, key_directions = jax.random.split(key)
        mean = model.init(key_mean)
        count = sum(leaf.size for leaf in jax.tree.leaves(mean))
        rho = jnp.full(count, jnp.log(jnp.expm1(self.initial_scale)), jnp.float32)
        if self.covariance == "low-rank":
            (directions,) = normals(key_directions, [(self.rank, count)])
            return {"mean": mean, "rho": rho, "directions": self.initial_scale * self.rank**-0.5 * directions}
        if count > LARGEST_FULL:
            raise ValueError(
                f"covariance='full' is for up to {LARGEST_FULL} parameters, and the model has {count}. "
                "Use covariance='low-rank' or a smaller network."
            )
        return {"mean": mean, "factor": jnp.diag(rho)}

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> Objective:
        # E_q[log p(D | θ)] and the KL, in closed form but for −log p(φ)
        mean, tree = ravel_pytree(params["mean"])
        deviations, variance, entropy = self.deviations(params, key, len(mean))

        def one(vector: Float[Array, " P"]) -> Objective:
            theta = tree(vector)
            return model.log_likelihood(theta, batch), model.likelihood.log_prior(theta["likelihood"])

        def expected_log_prior(m: Array, scale: Any, v: Array) -> Scalar:
            p = jnp.asarray(scale, mean.dtype)
            return jnp.sum(-0.5 * (m**2 + v) / p**2 - jnp.log(p) - 0.5 * LOG_2PI)

        likelihood, own = map(jnp.mean, jax.vmap(one)(mean[None] + deviations))
        prior = map_prior(expected_log_prior, model, params["mean"], tree(variance)["network"])
        return likelihood, -entropy - sum(jax.tree.leaves(prior)) - own

    def deviations(self, params: Params, key: Key, count: int) -> tuple[Array, Array, Scalar]:
        """The draws' deviations from the mean, the variances, and the entropy of q.

        Parameters
        ----------
        params : dict
            The parameters of q, as of ``initial``.
        key : jax.Array
            A key of ``jax.random.key``.
        count : int
            P, the number of parameters of the model.

        Returns
        -------
        array of shape (draws, P)
            θ − μ.
        array of shape (P,)
            The diagonal of Σ.
        array of shape ()
            ½ log |2πe Σ|, in nats.
        """
        shared = 0 if self.covariance == "full" else self.rank
        epsilon, eta = normals(key, [(self.draws, count), (self.draws, shared)])
        if self.covariance == "full":
            factor = cholesky(params["factor"])
            half = jnp.sum(jnp.log(jnp.diag(factor)))
            return epsilon @ factor.T, jnp.sum(factor**2, axis=1), half + 0.5 * count * (LOG_2PI + 1)
        scale, directions = jax.nn.softplus(params["rho"]), params["directions"]
        ratio = directions / scale[None]
        # |Σ| = |diag(σ²)| |I + R Rᵀ| with R = d/σ, of K rows
        inner = jnp.linalg.cholesky(jnp.eye(self.rank, dtype=scale.dtype) + ratio @ ratio.T)
        half = jnp.sum(jnp.log(scale)) + jnp.sum(jnp.log(jnp.diag(inner)))
        variance = scale**2 + jnp.sum(directions**2, axis=0)
        return scale[None] * epsilon + eta @ directions, variance, half + 0.5 * count * (LOG_2PI + 1)

    def posterior(self, model: Model, params: Params, x: Inputs) -> FullCovarianceNormal | LowRankNormal:
        if self.covariance == "full":
            return FullCovarianceNormal(model, params["mean"], cholesky(params["factor"]))
        _, tree = ravel_pytree(params["mean"])
        scale = tree(jax.nn.softplus(params["rho"]))
        return LowRankNormal(model, params["mean"], scale, jax.vmap(tree)(params["directions"]))


def cholesky(free: Float[Array, "P P"]) -> Float[Array, "P P"]:
    """A lower triangular factor with a positive diagonal, from any square matrix."""
    return jnp.tril(free, -1) + jnp.diag(jax.nn.softplus(jnp.diag(free)))
