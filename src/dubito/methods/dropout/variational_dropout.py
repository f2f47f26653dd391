"""Variational dropout (Kingma, Salimans & Welling, NeurIPS 2015), and its sparse form (Molchanov, Ashukha & Vetrov, ICML 2017)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass
from dubito.methods.dropout.concrete_dropout import LearnedRates, sum_over_inputs
from dubito.methods.dropout.mc_dropout import weight_penalty
from dubito.methods.priors import map_prior
from dubito.methods.settings import check_normal_prior
from dubito.methods.types import Inputs, Model, Params, Scalar
from dubito.methods.variational import bayes_by_backprop as bayes
from dubito.models.partial_network import parameter_uses
from dubito.posteriors.normals import DiagonalNormal
from dubito.training.packing import unpack


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class VariationalDropout(LearnedRates):
    """Gaussian dropout with a variance α learned for each layer (type A: one noise for all the weights of an input).

    Each input of a layer is multiplied by z ~ N(1, α), so W = diag(z)·w. The objective, in nats:

        E_q[log p(D | θ)] − Σ_layers D k(log α) − Σ ℓ²/2 ‖b‖²,    ℓ = 1/(the Normal prior's scale)

    D is the number of a layer's inputs, k the KL of N(1, α) to a log-uniform prior of z
    (``log_uniform_kl``). That prior is improper: k is known up to a constant, the objective is no
    bound of an evidence, and the weights w have no prior. Biases, weights whose inputs have no
    noise and the likelihood's parameters are points under the model's prior.

    In training each example has its own noise; a draw of the posterior has one set of masks for all
    rows. Limits: only the likelihood keeps α from growing, and as in all dropout epistemic
    uncertainty has one level for a layer. Choose ``ConcreteDropout`` for a proper prior.

    Parameters
    ----------
    rate : float or tuple of float
        At the start, as in ``MCDropout``: α = r/(1 − r).
    input_rate : float, optional
        The same for the raw inputs; None: no noise there.
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs
        As in ``MAP``; ``epochs=None`` is the default.
    """

    penalty_name: ClassVar[str] = "KL"
    training_masks: ClassVar[str] = "normal"
    masks: ClassVar[str] = "normal"

    def penalty(self, model: Model, params: Params, x: Inputs) -> Scalar:
        # −log p(φ) + Σ_layers D k(log α) + Σ ℓ²/2 ‖b‖²; the logit of r is log α
        plain = unpack(params)
        kl = sum_over_inputs(model, plain, x, log_uniform_kl, plain["logits"])
        return weight_penalty(model, params, plain["logits"], lambda _: 0.0) + kl


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class SparseVariationalDropout(bayes.FactorizedGaussian):
    """Bayes by Backprop under a log-uniform prior, by which most weights become exactly 0. In nats:

        E_q[log p(D | θ)] − Σ_j k(log α_j) − KL of the biases,    q(θ_j) = N(θ_j; μ_j, σ_j²),  α_j = σ_j²/μ_j²

    with k of ``log_uniform_kl``: a weight that the data do not determine gets all noise and no
    mean, and costs nothing. The prior takes the place of the model's for weights of products;
    biases and the likelihood's parameters keep the model's, a Normal. It is improper, so the
    objective is no bound of an evidence and must not be compared with one.

    Limits: the posterior under this prior need not be proper either (Hron, Matthews & Ghahramani
    2018), and with few rows for the network's size all weights may be removed before they have
    learned. Choose it for small networks after training; for uncertainty choose a proper prior.

    Parameters
    ----------
    threshold : float
        The posterior has neither mean nor scale where log α is larger; ``sparsity`` gives their
        fraction.
    initial_scale, gradient_estimator, draws
        As in ``BayesByBackprop``.
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs
        As in ``MAP``; ``epochs=None`` is the default.
    """

    threshold: float = 3.0

    def check(self, model: Model) -> None:
        bayes.check_variational(self, model)
        check_normal_prior(self, model)

    def divergence(self, model: Model, q: bayes.IndependentNormals, draw: Params, x: Inputs) -> Scalar:
        # k(log α) for weights of products, closed form for the other leaves, at the draw for φ
        mean, scale = unpack(q.mean), unpack(q.scale)

        def kl(m: Array, prior_scale: Any, s: Array, multiplies: bool) -> Scalar:
            if multiplies:
                return jnp.sum(log_uniform_kl(log_alpha(m, s)))
            return bayes.normal_kl(m, s, jnp.asarray(prior_scale, m.dtype))

        own = bayes.negative_entropy(scale["likelihood"]) - model.likelihood.log_prior(draw["likelihood"])
        return own + sum(jax.tree.leaves(map_prior(kl, model, mean, scale["network"], of_products(model, mean, x))))

    def posterior(self, model: Model, params: Params, x: Inputs) -> DiagonalNormal:
        full = bayes.independent_normals(model, params)

        def is_kept(m: Array, s: Array, multiplies: bool) -> Array:
            return log_alpha(m, s) <= self.threshold if multiplies else jnp.ones_like(m, bool)

        chosen = of_products(model, full.mean, x)
        kept = jax.tree.map(is_kept, full.mean["network"], full.scale["network"], chosen)

        def cut(values: Params) -> Params:
            return {**values, "network": jax.tree.map(lambda k, v: jnp.where(k, v, 0.0), kept, values["network"])}

        return DiagonalNormal(model, cut(full.mean), cut(full.scale))


def of_products(model: Model, params: Params, x: Inputs) -> Params:
    """For each leaf of the network whether it is a weight that multiplies."""
    uses = parameter_uses(model.network, params["network"], x)
    return jax.tree.map(lambda w, use: w.ndim > 1 and use.multiplies, params["network"], uses)


def log_alpha(mean: Float[Array, "*shape"], scale: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log α = log(σ²/μ²); the mean's square is held above 1e-16, where the KL is flat."""
    return 2 * jnp.log(scale) - jnp.log(mean**2 + 1e-16)


def log_uniform_kl(log_alpha: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """KL of N(θ, αθ²) to the log-uniform prior, p(|w|) ∝ 1/|w|, in nats up to the constant that makes it 0 for α → ∞.

    0.63576·sigmoid(−1.87320 − 1.48695 log α) + ½ log(1 + 1/α): within 0.01 of the integral
    (Molchanov et al. 2017, eq. 14).
    """
    return 0.63576 * jax.nn.sigmoid(-1.87320 - 1.48695 * log_alpha) + 0.5 * jax.nn.softplus(-log_alpha)
