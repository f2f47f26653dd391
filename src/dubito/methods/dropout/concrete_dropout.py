"""Concrete dropout: dropout whose rates are learned (Gal, Hron & Kendall, NeurIPS 2017)."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass, static
from dubito.methods.dropout.mc_dropout import (
    DROPOUT,
    Rates,
    check_dropout,
    drop_rates,
    dropout_posterior,
    weight_penalty,
)
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.methods.types import Batch, Inputs, Key, Model, Objective, Params, Scalar
from dubito.methods.weight_noise import mask_noise, noisy_log_likelihood
from dubito.models.partial_network import parameter_uses
from dubito.posteriors.dropout import DropoutPosterior
from dubito.training.method import Recipe
from dubito.training.packing import unpack

LARGEST_LOGIT = 8.0  # rates from 3e-4 to 1 − 3e-4


@dataclass(frozen=True, kw_only=True)
class LearnedRates(PosteriorDescent):
    """Dropout with a rate learned for each masked weight, as a logit among the parameters.

    Parameters
    ----------
    rate : float or tuple of float
        The rates at the start, as in ``MCDropout``.
    input_rate : float, optional
        The same for the weights of the raw inputs; None: no masks there.

    Attributes
    ----------
    training_masks, masks : str
        The kind of ``weight_noise.Masked`` in training, and of the posterior.
    """

    clip: float | None = 5.0
    rate: Rates = 0.1
    input_rate: float | None = None
    noise: str = static(default="held-out")

    recipes: ClassVar[dict[str, Recipe] | None] = DROPOUT
    training_masks: ClassVar[str]
    masks: ClassVar[str]

    @abstractmethod
    def penalty(self, model: Model, params: Params, x: Inputs) -> Scalar:
        """The penalty of the objective.

        Parameters
        ----------
        model : Model
            The model.
        params : dict
            Packed parameters.
        x : array of shape (rows, ...)
            Inputs; only the shape of a row matters.

        Returns
        -------
        array of shape ()
            In nats.
        """

    def check(self, model: Model) -> None:
        check_dropout(self, model, "(0, 1)")

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        params = model.init(key)
        rates = jax.tree.map(jnp.float32, drop_rates(model, params, batch.x, self.rate, self.input_rate))
        return params | {"logits": jax.tree.map(lambda r: jnp.log(r) - jnp.log1p(-r), rates)}

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> Objective:
        plain = unpack(params)
        noise = mask_noise(learned_rates(plain), self.training_masks)
        return noisy_log_likelihood(model, plain, noise, batch, key), self.penalty(model, params, batch.x)

    def posterior(self, model: Model, params: Params, x: Inputs) -> DropoutPosterior:
        return dropout_posterior(model, params, x, learned_rates(params), self.masks)


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class ConcreteDropout(LearnedRates):
    """MC dropout with a rate r learned for each layer. The objective, in nats:

        Σ_i log p(y_i | f_i) − Σ_layers [ℓ²/(2(1 − r)) ‖w‖² − D H(r)] − Σ ℓ²/2 ‖b‖²,    ℓ = 1/(the Normal prior's scale)

    D is the number of a layer's inputs and H(r) = −r log r − (1 − r) log(1 − r) the entropy of one
    mask. Training relaxes the masks to give r a gradient,
    z = 1 − sigmoid((logit r + logit u)/0.1) with u uniform; posterior masks are 0 or 1.

    Rates, and with them epistemic uncertainty, decrease with more data. But whole units vary, so
    all weights of a layer share one level of uncertainty.

    Parameters
    ----------
    rate : float or tuple of float
        The rates at the start, as in ``MCDropout``.
    input_rate : float, optional
        The same for the weights of the raw inputs; None: no masks there.
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs
        As in ``MAP``; ``epochs=None`` is the default.
    """

    training_masks: ClassVar[str] = "concrete"
    masks: ClassVar[str] = "bernoulli"

    def penalty(self, model: Model, params: Params, x: Inputs) -> Scalar:
        # −log p(φ) + Σ_layers [ℓ²/(2(1 − r)) ‖w‖² − D H(r)] + Σ ℓ²/2 ‖b‖²
        plain = unpack(params)
        rates = learned_rates(plain)
        entropy = sum_over_inputs(model, plain, x, lambda r: -r * jnp.log(r) - (1 - r) * jnp.log1p(-r), rates)
        return weight_penalty(model, params, rates) - entropy


def learned_rates(params: Params) -> Params:
    """The rates of the logits, a tree like ``params["network"]`` with None where nothing is masked."""
    return jax.tree.map(lambda logit: jax.nn.sigmoid(jnp.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT)), params["logits"])


def sum_over_inputs(model: Model, params: Params, x: Inputs, function: Callable[[Any], Any], values: Params) -> Scalar:
    """Σ D function(value) over the masked layers, D a layer's number of inputs; ``values`` is a tree like the rates."""
    weights, tree = jax.tree.flatten(params["network"])
    uses = jax.tree.leaves(parameter_uses(model.network, params["network"], x))
    each = zip(weights, uses, tree.flatten_up_to(values), strict=True)
    terms = [w.shape[w.ndim + use.inputs] * function(value) for w, use, value in each if value is not None]
    return sum(terms, jnp.zeros((), jnp.float32))
