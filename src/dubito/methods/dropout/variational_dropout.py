"""Variational dropout (Kingma, Salimans & Welling, NeurIPS 2015), and its sparse form (Molchanov, Ashukha & Vetrov, ICML 2017)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dubito._jax import jaxpr
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Params
from dubito.methods.dropout.concrete_dropout import LearnedRates, sum_over_inputs
from dubito.methods.dropout.mc_dropout import weight_penalty
from dubito.methods.variational.bayes_by_backprop import (
    FactorizedGaussian,
    check_variational,
    independent_normals,
    negative_entropy,
    normal_kl,
)
from dubito.models.model import Model
from dubito.models.priors import Normal, leaf_scales
from dubito.posteriors.normals import DiagonalNormal
from dubito.training.packing import unpack


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class VariationalDropout(LearnedRates):
    """Gaussian dropout with a variance α learned for each layer (type A: one noise for all the weights of an input).

    Each input of a layer is multiplied by z ~ N(1, α), so W = diag(z)·w. The objective, in nats:

        E_q[log p(D | θ)] − Σ_layers D k(log α) − Σ ℓ²/2 ‖b‖²,    ℓ = 1/(the Normal prior's scale)

    D is the number of a layer's inputs, k the KL of N(1, α) to a log-uniform prior of z (``log_uniform_kl``). That prior is improper:
    k is known up to a constant, the objective is no bound of an evidence, and the weights w have no prior. Biases, weights
    whose inputs have no noise and the likelihood's parameters are points under the model's prior.

    In training each example has noise of its own, a posterior's draw has one set of masks for all rows. Limits: only the
    likelihood keeps α from growing, and as in all dropout epistemic uncertainty has one level for a layer. Choose
    ``ConcreteDropout`` for a proper prior.

    Parameters
    ----------
    rate : float or tuple of float
        At the start, as in ``MCDropout``: α = r/(1 − r).
    input_rate : float, optional
        The same for the raw inputs; None: no noise there.
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    training_masks: ClassVar[str] = "normal"
    masks: ClassVar[str] = "normal"

    def penalty(self, model: Model, params: Params, x: Any) -> Any:
        """−log p(φ) + Σ_layers D k(log α) + Σ ℓ²/2 ‖b‖², in nats; the logit of r is log α."""
        plain = unpack(params)
        kl = sum_over_inputs(model, plain, x, log_uniform_kl, plain["logits"])
        return weight_penalty(model, params, plain["logits"], lambda _: 0.0) + kl


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class SparseVariationalDropout(FactorizedGaussian):
    """Bayes by Backprop under a log-uniform prior, by which most weights become exactly 0. In nats:

        E_q[log p(D | θ)] − Σ_j k(log α_j) − KL of the biases,    q(θ_j) = N(θ_j; μ_j, σ_j²),  α_j = σ_j²/μ_j²

    with k of ``log_uniform_kl``: a weight that the data do not determine gets all noise and no mean, and costs nothing. The
    prior takes the place of the model's for weights of products; biases and the likelihood's parameters keep the model's, a
    Normal. It is improper, so the objective is no bound of an evidence and must not be compared with one.

    Limits: the posterior under this prior need not be proper either (Hron, Matthews & Ghahramani 2018), and with few rows for
    the network's size all weights may be removed before they have learned. Choose it for small networks after training; for
    uncertainty choose a proper prior.

    Parameters
    ----------
    threshold : float
        The posterior has neither mean nor scale where log α is larger; ``sparsity`` gives their fraction.
    initial_scale, gradient_estimator, draws
        As in ``BayesByBackprop``.
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    threshold: float = 3.0

    def check(self, model: Model) -> None:
        check_variational(self, model)
        if not isinstance(model.prior, Normal):
            raise ValueError(
                f"SparseVariationalDropout wants a Normal prior for the biases; got {type(model.prior).__name__}"
            )

    def divergence(self, model: Model, q: Any, draw: Params, x: Any) -> Any:
        """KL in nats: k(log α) for weights of products, closed form for the other leaves, at the draw for φ."""
        mean, scale = unpack(q.mean), unpack(q.scale)
        own = negative_entropy(scale["likelihood"]) - model.likelihood.log_prior(draw["likelihood"])
        means, tree = jax.tree.flatten(mean["network"])
        priors = leaf_scales(model.prior, means, model.scales(mean))
        each = zip(means, tree.flatten_up_to(scale["network"]), priors, of_products(model, mean, x), strict=True)
        return own + sum(
            jnp.sum(log_uniform_kl(log_alpha(m, s))) if w else normal_kl(m, s, jnp.asarray(p, m.dtype))
            for m, s, p, w in each
        )

    def posterior(self, model: Model, params: Params, x: Any) -> DiagonalNormal:
        """Independent normals, with neither mean nor scale where log α is above the threshold."""
        full = independent_normals(model, params)
        means, tree = jax.tree.flatten(full.mean["network"])
        scales, chosen = tree.flatten_up_to(full.scale["network"]), of_products(model, full.mean, x)
        kept = [
            log_alpha(m, s) <= self.threshold if w else jnp.ones_like(m, bool)
            for m, s, w in zip(means, scales, chosen, strict=True)
        ]

        def cut(values):
            return tree.unflatten([jnp.where(k, v, 0.0) for k, v in zip(kept, values, strict=True)])

        mean, scale = (full.mean | {"network": cut(means)}), (full.scale | {"network": cut(scales)})
        return DiagonalNormal(model, mean, scale)


def of_products(model: Model, params: Params, x: Any) -> list[bool]:
    """For each leaf of the network whether it is a weight that multiplies."""
    uses = jaxpr.uses(model.network.apply, params["network"], x)
    leaves, tree = jax.tree.flatten(params["network"])
    return [w.ndim > 1 and use.multiplies for w, use in zip(leaves, tree.flatten_up_to(uses), strict=True)]


def log_alpha(mean: Any, scale: Any) -> Any:
    """log α = log(σ²/μ²); the mean's square is held above 1e-16, where the KL is flat."""
    return 2 * jnp.log(scale) - jnp.log(mean**2 + 1e-16)


def log_uniform_kl(log_alpha: Any) -> Any:
    """KL of N(θ, αθ²) to the log-uniform prior, p(|w|) ∝ 1/|w|, in nats up to the constant that makes it 0 for α → ∞.

    0.63576·sigmoid(−1.87320 − 1.48695 log α) + ½ log(1 + 1/α): within 0.01 of the integral (Molchanov et al. 2017, eq. 14).
    """
    return 0.63576 * jax.nn.sigmoid(-1.87320 - 1.48695 * log_alpha) + 0.5 * jax.nn.softplus(-log_alpha)
