"""Concrete dropout: dropout whose rates are learned (Gal, Hron & Kendall, NeurIPS 2017)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._jax import jaxpr
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.dropout.mc_dropout import drop_rates, dropped, dropped_outputs, weight_penalty
from dubito.models.priors import Normal
from dubito.posteriors.base import log_mean_prob
from dubito.training import optimizers
from dubito.training.fit import one_member

LIMIT = 8.0  # of a logit: rates from 3e-4 to 1 − 3e-4


class State(NamedTuple):
    params: Any  # network, likelihood, and the logits of the rates
    optimizer: Any


@register_dataclass
@dataclass(frozen=True)
class ConcreteDropout:
    """MC dropout with a rate r learned for each layer. The objective, in nats:

        Σ_i log p(y_i | f_i) − Σ_layers [ℓ²/(2(1 − r)) ‖w‖² − D H(r)] − Σ ℓ²/2 ‖b‖²,    ℓ = 1/(the Normal prior's scale)

    D is the number of a layer's inputs and H(r) = −r log r − (1 − r) log(1 − r) the entropy of one mask. In training a mask
    is relaxed so that r has a gradient, z = 1 − sigmoid((logit r + logit u)/0.1) with u uniform; the posterior drops.

    ``rate`` and ``input_rate`` are the rates at the start, as in ``MCDropout``: weights that see the raw inputs have no
    masks where ``input_rate`` is None. Rates fall with more data, and the doubt with them; but what varies are whole units,
    so doubt has one level for all the weights of a layer.
    """

    rate: Any = 0.1
    input_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    schedule: str = static(default="cosine")
    clip: float | None = None

    members = one_member
    relaxed, masks = "concrete", "bernoulli"  # in training, and in the posterior

    def check(self, model):
        optimizers.check(self)
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,)
        for rate in (*rates, 0.5 if self.input_rate is None else self.input_rate):
            if not 0 < rate < 1:
                raise ValueError(f"a rate that is learned starts between 0 and 1, both excluded; got {rate!r}")
        if not isinstance(model.prior, Normal):
            name = type(self).__name__
            raise ValueError(f"{name} ties its penalty to a Normal prior; got {type(model.prior).__name__}")

    def init(self, model, batch, key):
        params = model.init(key)
        rates = drop_rates(model, params, batch.x, self.rate, self.input_rate)
        logits = jax.tree.map(lambda r: jnp.log(r) - jnp.log1p(-r), jax.tree.map(jnp.float32, rates))
        packed = optimizers.packed(self, params | {"logits": logits})
        return State(packed, optimizers.start(self, packed))

    def penalty(self, model, packed, params, x):
        """−log p(φ) + Σ_layers [ℓ²/(2(1 − r)) ‖w‖² − D H(r)] + Σ ℓ²/2 ‖b‖², in nats."""
        rates = learned_rates(params)
        entropy = sum_over_inputs(model, params, x, lambda r: -r * jnp.log(r) - (1 - r) * jnp.log1p(-r), rates)
        return weight_penalty(model, packed, rates) - entropy

    def step(self, model, state, batch, clock, key):
        def objective(packed):
            params = optimizers.unpacked(packed)
            z = dropped_outputs(model, params, batch.x, learned_rates(params), key, self.relaxed)
            likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch) / batch.size
            penalty = self.penalty(model, packed, params, batch.x) / batch.size
            return penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

        gradient, info = jax.grad(objective, has_aux=True)(state.params)
        params, optimizer = optimizers.descend(self, gradient, state.params, state.optimizer, clock)
        return State(params, optimizer), info

    def score(self, model, state, batch, key):
        return log_mean_prob(self.posterior(model, state, batch.x), batch, key)

    def posterior(self, model, state, x):
        params = optimizers.unpacked(state.params)
        return dropped(model, params, x, learned_rates(params), self.masks)

    def finish(self, model, trained, key, run):
        del key, run
        return self.posterior(model, trained.states[0], trained.rows.x[:1])


def learned_rates(params):
    """The rates of a state's logits, a tree like ``params["network"]`` with None where nothing is masked."""
    return jax.tree.map(lambda logit: jax.nn.sigmoid(jnp.clip(logit, -LIMIT, LIMIT)), params["logits"])


def sum_over_inputs(model, params, x, function, values):
    """Σ D function(value) over the masked layers, D a layer's number of inputs; ``values`` is a tree like that of rates."""
    uses = jaxpr.uses(model.network.apply, params["network"], x)
    weights, tree = jax.tree.flatten(params["network"])
    each = zip(weights, tree.flatten_up_to(uses), tree.flatten_up_to(values), strict=True)
    terms = [w.shape[w.ndim + use.inputs] * function(value) for w, use, value in each if value is not None]
    return sum(terms, jnp.zeros((), jnp.float32))
