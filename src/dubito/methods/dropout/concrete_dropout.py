"""Concrete dropout: dropout whose rates are learned (Gal, Hron & Kendall, NeurIPS 2017)."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dubito._jax import jaxpr
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.methods.dropout.mc_dropout import drop_rates, dropout_posterior, masked_outputs, weight_penalty
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.models.model import Batch, Model
from dubito.models.priors import Normal
from dubito.posteriors.dropout import DropoutPosterior
from dubito.training import optimizers
from dubito.training.packing import unpack

LIMIT = 8.0  # of a logit: rates from 3e-4 to 1 − 3e-4


@dataclass(frozen=True, kw_only=True)
class LearnedRates(PosteriorDescent):
    """Dropout with a rate learned for each masked weight, as a logit among the parameters.

    Parameters
    ----------
    rate : float or tuple of float
        The rates at the start, as in ``MCDropout``.
    input_rate : float, optional
        The same for the weights that see the raw inputs; None: no masks there.

    Attributes
    ----------
    training_masks, masks : str
        The kind of ``weight_noise.Masked`` in training, and of the posterior.
    """

    rate: Any = 0.1
    input_rate: float | None = None

    training_masks: ClassVar[str]
    masks: ClassVar[str]

    @abstractmethod
    def penalty(self, model: Model, params: Params, x: Any) -> Any:
        """The penalty of packed parameters, a scalar in nats."""

    def check(self, model: Model) -> None:
        optimizers.check_descent(self)
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,)
        for rate in (*rates, 0.5 if self.input_rate is None else self.input_rate):
            if not 0 < rate < 1:
                raise ValueError(f"a rate that is learned starts between 0 and 1, both excluded; got {rate!r}")
        if not isinstance(model.prior, Normal):
            name = type(self).__name__
            raise ValueError(f"{name} ties its penalty to a Normal prior; got {type(model.prior).__name__}")

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        params = model.init(key)
        rates = drop_rates(model, params, batch.x, self.rate, self.input_rate)
        logits = jax.tree.map(lambda r: jnp.log(r) - jnp.log1p(-r), jax.tree.map(jnp.float32, rates))
        return params | {"logits": logits}

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> tuple[Any, Any]:
        plain = unpack(params)
        z = masked_outputs(model, plain, batch.x, learned_rates(plain), key, self.training_masks)
        likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch)
        return likelihood, self.penalty(model, params, batch.x)

    def posterior(self, model: Model, params: Params, x: Any) -> DropoutPosterior:
        return dropout_posterior(model, params, x, learned_rates(params), self.masks)


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class ConcreteDropout(LearnedRates):
    """MC dropout with a rate r learned for each layer. The objective, in nats:

        Σ_i log p(y_i | f_i) − Σ_layers [ℓ²/(2(1 − r)) ‖w‖² − D H(r)] − Σ ℓ²/2 ‖b‖²,    ℓ = 1/(the Normal prior's scale)

    D is the number of a layer's inputs and H(r) = −r log r − (1 − r) log(1 − r) the entropy of one mask. In training a mask
    is relaxed so that r has a gradient, z = 1 − sigmoid((logit r + logit u)/0.1) with u uniform; the posterior drops.

    Rates fall with more data, and epistemic uncertainty with them; but what varies are whole units, so the uncertainty has
    one level for all the weights of a layer.

    Parameters
    ----------
    rate : float or tuple of float
        The rates at the start, as in ``MCDropout``.
    input_rate : float, optional
        The same for the weights that see the raw inputs; None: no masks there.
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    training_masks: ClassVar[str] = "concrete"
    masks: ClassVar[str] = "bernoulli"

    def penalty(self, model: Model, params: Params, x: Any) -> Any:
        """−log p(φ) + Σ_layers [ℓ²/(2(1 − r)) ‖w‖² − D H(r)] + Σ ℓ²/2 ‖b‖², in nats."""
        plain = unpack(params)
        rates = learned_rates(plain)
        entropy = sum_over_inputs(model, plain, x, lambda r: -r * jnp.log(r) - (1 - r) * jnp.log1p(-r), rates)
        return weight_penalty(model, params, rates) - entropy


def learned_rates(params: Params) -> Any:
    """The rates of a state's logits, a tree like ``params["network"]`` with None where nothing is masked."""
    return jax.tree.map(lambda logit: jax.nn.sigmoid(jnp.clip(logit, -LIMIT, LIMIT)), params["logits"])


def sum_over_inputs(model: Model, params: Params, x: Any, function: Callable[[Any], Any], values: Any) -> Any:
    """Σ D function(value) over the masked layers, D a layer's number of inputs; ``values`` is a tree like that of rates."""
    uses = jaxpr.uses(model.network.apply, params["network"], x)
    weights, tree = jax.tree.flatten(params["network"])
    each = zip(weights, tree.flatten_up_to(uses), tree.flatten_up_to(values), strict=True)
    terms = [w.shape[w.ndim + use.inputs] * function(value) for w, use, value in each if value is not None]
    return sum(terms, jnp.zeros((), jnp.float32))
