"""Bayes by Backprop (Blundell et al., ICML 2015), with local reparametrization (Kingma et al., NeurIPS 2015)."""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dubito._check import check_choice, check_whole
from dubito._jax.prng import normal_like
from dubito._jax.pytree import register_dataclass, static
from dubito._process.threads import check_process
from dubito.methods import weight_noise
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.methods.priors import map_prior
from dubito.methods.settings import check_intervals
from dubito.methods.types import Batch, Inputs, Key, Model, Objective, Params, Scalar
from dubito.models.grouped_prior import GroupedNormal
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.priors import Normal, check_proper
from dubito.posteriors.normals import DiagonalNormal
from dubito.training.method import Recipe
from dubito.training.optimizers import check_descent
from dubito.training.packing import pack_like, unpack

MEAN_FIELD = {  # recipes of methods with independent weights: a wide network costs them more than it gains
    "regression": Recipe((32, 32), "silu", prior_scale=3.0, rows_seen=2_400_000, least_epochs=100),
    "classification": Recipe((128, 128), "silu", prior_scale=5.0, rows_seen=300_000, least_epochs=100),
}
GRADIENT_ESTIMATORS = (*weight_noise.PRODUCTS, "draw", "fisher")


class IndependentNormals(NamedTuple):
    """q(θ): trees of means μ and standard deviations σ, which may be packed."""

    mean: Params
    scale: Params


@dataclass(frozen=True, kw_only=True)
class FactorizedGaussian(PosteriorDescent):
    """q(θ) = Π N(θ_j; μ_j, σ_j²), σ = softplus(ρ), by gradients at draws.

    Parameters
    ----------
    warm_up : float
        See ``BayesByBackprop``.
    initial_scale : float
        σ at the start.
    gradient_estimator : str
        See ``BayesByBackprop``.
    draws : int
        Draws for each step.
    """

    clip: float | None = 5.0
    warm_up: float = 0.5
    initial_scale: float = 0.02
    gradient_estimator: str = static(default="local")
    draws: int = static(default=1)

    penalty_name: ClassVar[str] = "KL"
    recipes: ClassVar[dict[str, Recipe] | None] = MEAN_FIELD

    @abstractmethod
    def divergence(self, model: Model, q: IndependentNormals, draw: Params, x: Inputs) -> Scalar:
        """KL(q ‖ p).

        Parameters
        ----------
        model : Model
            The model, with the prior p.
        q : IndependentNormals
            Packed.
        draw : dict
            A draw of q, for the terms without a closed form.
        x : array of shape (rows, ...)
            Inputs; only the shape of a row matters.

        Returns
        -------
        array of shape ()
            In nats.
        """

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        mean = model.init(key)
        rho = jax.tree.map(lambda m: jnp.full_like(m, jnp.log(jnp.expm1(self.initial_scale))), mean)
        return {"mean": mean, "rho": rho}

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> Objective:
        q = IndependentNormals(params["mean"], jax.tree.map(jax.nn.softplus, params["rho"]))
        estimates = [self.estimate(model, q, batch, keys) for keys in jax.random.split(key, (self.draws, 2))]
        averages: Any = [sum(values) / self.draws for values in zip(*estimates, strict=True)]
        likelihood, kl = averages
        return likelihood, kl

    def estimate(self, model: Model, q: IndependentNormals, batch: Batch, keys: Any) -> Objective:
        """One draw's log p(D | θ) and KL(q ‖ p).

        Parameters
        ----------
        model : Model
            The model.
        q : IndependentNormals
            Packed.
        batch : Batch
            The rows.
        keys : pair of keys
            Of the noise on products, and of the draw of θ.

        Returns
        -------
        tuple of two arrays of shape ()
            In nats of the data set.
        """
        key_noise, key_draw = keys
        products = self.gradient_estimator in weight_noise.PRODUCTS
        closed = products and isinstance(
            model.prior, Normal | GroupedNormal
        )  # only the likelihood's parameters need a draw
        drawn = [{"likelihood": tree["likelihood"]} for tree in q] if closed else q
        draw = unpack(perturb(key_draw, *drawn))
        if products:
            mean, scale = (unpack(tree)["network"] for tree in q)
            noise, params = jax.tree.map(weight_noise.NormalNoise, scale), {**draw, "network": mean}
            likelihood = weight_noise.noisy_log_likelihood(
                model, params, noise, batch, key_noise, self.gradient_estimator
            )
        elif self.gradient_estimator == "draw":
            likelihood = model.log_likelihood(draw, batch)
        else:
            likelihood = practical(model, q, batch, key_draw)
        return likelihood, self.divergence(model, q, draw, batch.x)


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class BayesByBackprop(FactorizedGaussian):
    """q(θ) = Π N(θ_j; μ_j, σ_j²), σ = softplus(ρ), over weights, biases and the likelihood's own parameters. In nats:

        ELBO = E_q[log p(D | θ)] − KL(q ‖ p)

    with the KL in closed form for a Normal or GroupedNormal prior and from the same draws for another; there is no
    KL weight to choose. The mean-field family has no correlations: it underestimates epistemic
    uncertainty between clusters of data.

    Parameters
    ----------
    warm_up : float
        The fraction of the steps in which the weight of the KL rises from 0 to 1, in [0, 1); the
        ELBO is the objective from then on. With the full KL from the first step, units are switched
        off before the data have used them, and do not come back (Sønderby et al., NeurIPS 2016).
    initial_scale : float
        σ at the start.
    gradient_estimator : str
        How the gradient is estimated, in the order of increasing variance:

        - ``"local"``: independent noise for each example on products instead of weights (flipout
          for a weight that an example uses at many places)
        - ``"flipout"`` (Wen et al., ICLR 2018): one draw of the deviations, with random signs for
          each example
        - ``"draw"``: one draw of the weights for all examples of a step, as in Blundell et al.

        and ``"fisher"``, the gradient of practical VI (Graves, NeurIPS 2011): one draw, but the
        gradient in σ² is that of the curvature ½ Σ_i (∂ log p(y_i | θ)/∂θ)² in place of
        −½ ∂² log p/∂θ². It is biased where the noise differs from the model's.
    draws : int
        Draws for each step.
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs
        As in ``MAP``; ``epochs=None`` is the default.
    """

    def check(self, model: Model) -> None:
        check_variational(self, model)

    def divergence(self, model: Model, q: IndependentNormals, draw: Params, x: Inputs) -> Scalar:
        return divergence(model, q, draw)

    def posterior(self, model: Model, params: Params, x: Inputs) -> DiagonalNormal:
        return independent_normals(model, params)


def check_variational(method: FactorizedGaussian, model: Model) -> None:
    """Raise ValueError for invalid settings, or a prior under which the KL is infinite."""
    check_descent(method)
    check_intervals(method, initial_scale="(0, inf)", warm_up="[0, 1)")
    check_whole("draws", method.draws, 1)
    check_choice("gradient_estimator", method.gradient_estimator, GRADIENT_ESTIMATORS)
    check_proper(method, model)


def independent_normals(model: Model, params: Params) -> DiagonalNormal:
    """The posterior of {"mean": μ, "rho": ρ}: standard deviations softplus(ρ)."""
    return DiagonalNormal(model, params["mean"], jax.tree.map(jax.nn.softplus, params["rho"]))


def perturb(key: Key, mean: Params, scale: Params) -> Params:
    """θ = μ + σε for a whole tree."""
    return jax.tree.map(lambda m, s, e: m + s * e, mean, scale, normal_like(key, mean))


def practical(model: Model, q: IndependentNormals, batch: Batch, key: Key) -> Scalar:
    """log p(D | θ) at a draw, with Graves' gradient: in σ² it is −½ Σ_i (∂ log p(y_i | θ)/∂θ)², in μ that of the draw."""
    draw = perturb(key, q.mean, jax.lax.stop_gradient(q.scale))

    def log_prob(packed: Params, x: Array, y: Array) -> Array:
        return model.likelihood.log_prob_observed(model.outputs(unpack(packed), x[None]), y[None])[0]

    def curvature(slopes: Array) -> Array:  # of each parameter, of the whole data set
        columns = slopes.reshape(len(slopes), -1) ** 2
        return jax.vmap(lambda column: model.weighted_sum(column, batch), 1)(columns).reshape(slopes.shape[1:])

    def change(scale: Array, fisher: Array) -> Array:  # 0, but for its gradient
        return jnp.sum((scale**2 - jax.lax.stop_gradient(scale**2)) * jax.lax.stop_gradient(fisher))

    slopes = jax.vmap(jax.grad(log_prob), (None, 0, 0))(jax.lax.stop_gradient(draw), batch.x, batch.y)
    changes = jax.tree.map(change, q.scale, jax.tree.map(curvature, slopes))
    return model.log_likelihood(unpack(draw), batch) - 0.5 * sum(jax.tree.leaves(changes))


def divergence(model: Model, q: IndependentNormals, draw: Params) -> Scalar:
    """KL(q ‖ p) in nats: closed form for a Normal prior's weights and for a GroupedNormal's with their t, log q − log p at
    the draw for everything else.
    """
    own = negative_entropy(q.scale["likelihood"]) - model.likelihood.log_prior(draw["likelihood"])
    if isinstance(model.prior, GroupedNormal):
        means, stds = (unpack(tree)["network"] for tree in q)
        squares = jax.tree.map(lambda mean, std: mean**2 + std**2, means, stds)
        scales = model.scales(unpack(q.mean))
        return own + negative_entropy(q.scale["network"]) - model.prior.log_prob_of_squares(squares, scales)
    if not isinstance(model.prior, Normal):
        prior = model.prior.log_prob(draw["network"], model.scales(draw))
        return own + negative_entropy(q.scale["network"]) - prior
    scales = map_prior(lambda w, scale: jnp.full_like(w, jnp.asarray(scale, w.dtype)), model, unpack(q.mean))
    packed = pack_like(scales, q.mean["network"])
    return own + sum(jax.tree.leaves(jax.tree.map(normal_kl, q.mean["network"], q.scale["network"], packed)))


def normal_kl(mean: Array, scale: Array, prior_scale: Array) -> Scalar:
    """Σ KL(N(μ, σ²) ‖ N(0, σ_p²)) = Σ [log(σ_p/σ) + (σ² + μ²)/(2σ_p²) − ½]."""
    return jnp.sum(jnp.log(prior_scale / scale) + (scale**2 + mean**2) / (2 * prior_scale**2) - 0.5)


def negative_entropy(scale: Params) -> Scalar:
    """E_q[log q] of independent normals; its gradient by the path of the draw is exact, so no draw is needed."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(scale):
        total = total - jnp.sum(jnp.log(leaf) + 0.5 * (LOG_2PI + 1))
    return total


def prune(posterior: DiagonalNormal, fraction: float) -> DiagonalNormal:
    """Set the weights with the lowest signal-to-noise ratio |μ|/σ to exactly 0.

    Biases and the likelihood's parameters stay.

    Parameters
    ----------
    posterior : DiagonalNormal
        The posterior, as of ``BayesByBackprop``.
    fraction : float
        The fraction of weights to remove, in [0, 1].

    Returns
    -------
    DiagonalNormal
        The posterior with means and scales of 0 there.

    Raises
    ------
    ValueError
        For another posterior, or a fraction outside [0, 1].

    References
    ----------
    Blundell et al., "Weight uncertainty in neural networks", ICML 2015, section 5.1.
    """
    check_process()
    if not isinstance(posterior, DiagonalNormal) or not 0 <= fraction <= 1:
        raise ValueError(
            "prune needs a DiagonalNormal, as of BayesByBackprop, and a fraction in [0, 1]; "
            f"got a {type(posterior).__name__} and {fraction!r}"
        )
    mean, scale = posterior.mean["network"], posterior.scale["network"]
    ratios = jax.tree.map(lambda m, s: jnp.abs(m) / s, mean, scale)
    ranked = jnp.sort(jnp.concatenate([ratio.ravel() for ratio in jax.tree.leaves(ratios) if ratio.ndim > 1]))
    count = math.floor(fraction * len(ranked))
    limit = ranked[count] if count < len(ranked) else jnp.inf

    def keep(values: Params) -> Params:
        network = jax.tree.map(lambda v, r: jnp.where((r < limit) & (r.ndim > 1), 0, v), values["network"], ratios)
        return {**values, "network": network}

    return replace(posterior, mean=keep(posterior.mean), scale=keep(posterior.scale))
