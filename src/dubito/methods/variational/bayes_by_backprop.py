"""Bayes by Backprop (Blundell et al., ICML 2015), with local reparametrization (Kingma et al., NeurIPS 2015)."""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._jax.prng import normal_like
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito._process.threads import check_process
from dubito.methods import weight_noise
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.model import Batch, Model
from dubito.models.priors import Normal, check_proper, leaf_scales
from dubito.posteriors.normals import DiagonalNormal
from dubito.training import optimizers
from dubito.training.packing import pack_like, unpack

GRADIENT_ESTIMATORS = (*weight_noise.PRODUCTS, "draw", "fisher")


class IndependentNormals(NamedTuple):
    """q(θ): packed trees of means μ and standard deviations σ."""

    mean: Params
    scale: Params


@dataclass(frozen=True, kw_only=True)
class FactorizedGaussian(PosteriorDescent):
    """q(θ) = Π N(θ_j; μ_j, σ_j²), σ = softplus(ρ), by gradients of draws.

    Parameters
    ----------
    initial_scale : float
        σ at the start.
    gradient_estimator : str
        See ``BayesByBackprop``.
    draws : int
        Draws for each step.
    """

    initial_scale: float = 0.02
    gradient_estimator: str = static(default="local")
    draws: int = static(default=1)

    @abstractmethod
    def divergence(self, model: Model, q: IndependentNormals, draw: Params, x: Any) -> Any:
        """KL(q ‖ p), a scalar in nats; ``draw`` is one of q, where a closed form is missing."""

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        del batch
        mean = model.init(key)
        rho = jax.tree.map(lambda m: jnp.full_like(m, jnp.log(jnp.expm1(self.initial_scale))), mean)
        return {"mean": mean, "rho": rho}

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> tuple[Any, Any]:
        q = IndependentNormals(params["mean"], jax.tree.map(jax.nn.softplus, params["rho"]))
        parts = [self.estimate(model, q, batch, k) for k in jax.random.split(key, (self.draws, 2))]
        likelihood, kl = (sum(part) / self.draws for part in zip(*parts, strict=True))
        return likelihood, kl

    def estimate(self, model: Model, q: IndependentNormals, batch: Batch, keys: Any) -> tuple[Any, Any]:
        """One draw's (log p(D | θ), KL), both in nats of the data set."""
        key_noise, key_draw = keys
        on_products = self.gradient_estimator in weight_noise.PRODUCTS
        if on_products and isinstance(model.prior, Normal):  # only the likelihood's own parameters need a draw
            drawn = [{"likelihood": tree["likelihood"]} for tree in q]
        else:
            drawn = [*q]
        draw = unpack(perturb(key_draw, *drawn))
        if on_products:
            center, spread = (unpack(tree)["network"] for tree in q)
            noise, how = jax.tree.map(weight_noise.GaussianNoise, spread), self.gradient_estimator
            f = weight_noise.noisy(model.network.apply, center, noise, batch.x, key=key_noise, products=how)
            z = model.likelihood.join(f, draw["likelihood"])
            likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch)
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

    with the KL in closed form for a Normal prior and from the same draws for another; there is no KL weight to choose. The
    mean-field family has no correlations: it underestimates epistemic uncertainty between clusters of data.

    Parameters
    ----------
    initial_scale : float
        σ at the start.
    gradient_estimator : str
        How the gradient is estimated, with the less variance the earlier it stands here:

        - ``"local"``: noise on products instead of weights, each example's own (flipout where it uses a weight at many places)
        - ``"separate"``: weights drawn anew for each example; n times the memory and slow, for comparison
        - ``"flipout"`` (Wen et al., ICLR 2018): one draw of the deviations, with random signs for each example
        - ``"draw"``: one draw of the weights for all examples of a step, as in Blundell et al.

        and ``"fisher"``, the gradient of practical VI (Graves, NeurIPS 2011): one draw, but the gradient in σ² is that of the
        curvature ½ Σ_i (∂ log p(y_i | θ)/∂θ)² in place of −½ ∂² log p/∂θ². It is biased where the noise is not the model's.
    draws : int
        Draws for each step.
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    def check(self, model: Model) -> None:
        check_variational(self, model)

    def divergence(self, model: Model, q: IndependentNormals, draw: Params, x: Any) -> Any:
        del x
        return divergence(model, q, draw)

    def posterior(self, model: Model, params: Params, x: Any) -> DiagonalNormal:
        del x
        return independent_normals(model, params)


def check_variational(method: FactorizedGaussian, model: Model) -> None:
    """Raise ValueError for invalid settings, or a prior under which the KL is infinite."""
    optimizers.check_descent(method)
    if not method.initial_scale > 0 or method.draws < 1:
        raise ValueError(
            f"initial_scale must be positive, got {method.initial_scale!r}; draws at least 1, {method.draws}"
        )
    if method.gradient_estimator not in GRADIENT_ESTIMATORS:
        raise ValueError(
            f"gradient_estimator={method.gradient_estimator!r} is unknown. "
            f"Choose one of {', '.join(GRADIENT_ESTIMATORS)}."
        )
    check_proper(method, model)


def practical(model: Model, q: IndependentNormals, batch: Batch, key: Key) -> Any:
    """log p(D | θ) at a draw, with Graves' gradient: in σ² it is −½ Σ_i (∂ log p(y_i | θ)/∂θ)², in μ that of the draw."""
    draw = perturb(key, q.mean, jax.lax.stop_gradient(q.scale))

    def one(packed, x, y):
        return model.likelihood.log_prob(model.outputs(unpack(packed), x[None]), y[None])[0]

    def curvature(slopes):  # of each parameter, of the whole data set
        columns = slopes.reshape(len(slopes), -1) ** 2
        return jax.vmap(lambda column: model.weighted_sum(column, batch), 1)(columns).reshape(slopes.shape[1:])

    fisher = jax.tree.map(
        curvature, jax.vmap(jax.grad(one), (None, 0, 0))(jax.lax.stop_gradient(draw), batch.x, batch.y)
    )
    change = jax.tree.map(
        lambda s, f: jnp.sum((s**2 - jax.lax.stop_gradient(s**2)) * jax.lax.stop_gradient(f)), q.scale, fisher
    )
    return model.log_likelihood(unpack(draw), batch) - 0.5 * sum(jax.tree.leaves(change))  # change is 0


def independent_normals(model: Model, params: Params) -> DiagonalNormal:
    """The posterior of {"mean": μ, "rho": ρ}: standard deviations softplus(ρ)."""
    return DiagonalNormal(model, params["mean"], jax.tree.map(jax.nn.softplus, params["rho"]))


def perturb(key: Key, mean: Any, scale: Any) -> Any:
    """θ = μ + σε for a whole tree."""
    return jax.tree.map(lambda m, s, e: m + s * e, mean, scale, normal_like(key, mean))


def divergence(model: Model, q: IndependentNormals, draw: Params) -> Any:
    """KL(q ‖ p) in nats: closed form for a Normal prior's weights, log q − log p at the draw for everything else."""
    own = negative_entropy(q.scale["likelihood"]) - model.likelihood.log_prior(draw["likelihood"])
    if not isinstance(model.prior, Normal):
        prior = model.prior.log_prob(draw["network"], model.scales(draw))
        return own + negative_entropy(q.scale["network"]) - prior
    center = unpack(q.mean)
    leaves, tree = jax.tree.flatten(center["network"])
    scales = leaf_scales(model.prior, leaves, model.scales(center))
    full = [jnp.full_like(leaf, jnp.asarray(scale, leaf.dtype)) for leaf, scale in zip(leaves, scales, strict=True)]
    priors = pack_like(tree.unflatten(full), q.mean["network"])
    return own + sum(jax.tree.leaves(jax.tree.map(normal_kl, q.mean["network"], q.scale["network"], priors)))


def normal_kl(mean: Any, scale: Any, prior_scale: Any) -> Any:
    """Σ KL(N(μ, σ²) ‖ N(0, σ_p²)) = Σ [log(σ_p/σ) + (σ² + μ²)/(2σ_p²) − ½]."""
    return jnp.sum(jnp.log(prior_scale / scale) + (scale**2 + mean**2) / (2 * prior_scale**2) - 0.5)


def negative_entropy(scale: Any) -> Any:
    """E_q[log q] of independent normals; its gradient by the draw's path is exact, so no draw is needed."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(scale):
        total = total - jnp.sum(jnp.log(leaf) + 0.5 * (LOG_2PI + 1))
    return total


def prune(posterior: DiagonalNormal, fraction: float) -> DiagonalNormal:
    """Set the weights of lowest signal to noise |μ|/σ to exactly 0.

    Biases and the likelihood's parameters stay.

    Parameters
    ----------
    posterior : DiagonalNormal
        Of ``BayesByBackprop``.
    fraction : float
        The fraction of weights to remove, in [0, 1].

    Returns
    -------
    DiagonalNormal
        With means and scales of 0 there.

    Raises
    ------
    ValueError
        For another posterior or fraction.

    References
    ----------
    Blundell et al., "Weight uncertainty in neural networks", ICML 2015, section 5.1.
    """
    check_process()
    if not isinstance(posterior, DiagonalNormal) or not 0 <= fraction <= 1:
        raise ValueError(f"prune wants a posterior of BayesByBackprop and a fraction in [0, 1], got {fraction!r}")
    mean, scale = posterior.mean["network"], posterior.scale["network"]
    ratios = [jnp.abs(m) / s for m, s in zip(jax.tree.leaves(mean), jax.tree.leaves(scale), strict=True) if m.ndim > 1]
    ranked = jnp.sort(jnp.concatenate([ratio.ravel() for ratio in ratios]))
    count = math.floor(fraction * len(ranked))
    limit = ranked[count] if count < len(ranked) else jnp.inf

    def keep(values):
        return jax.tree.map(
            lambda v, m, s: v if v.ndim <= 1 else jnp.where(jnp.abs(m) / s < limit, 0, v).astype(v.dtype),
            values,
            mean,
            scale,
        )

    return replace(
        posterior,
        mean={**posterior.mean, "network": keep(mean)},
        scale={**posterior.scale, "network": keep(scale)},
    )
