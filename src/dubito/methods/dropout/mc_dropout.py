"""MC dropout: dropout as a Bayesian approximation (Gal & Ghahramani, ICML 2016)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._check import check_choice, is_number
from dubito._jax import jaxpr
from dubito._jax.pytree import register_dataclass, static
from dubito.methods import weight_noise
from dubito.models.priors import Normal, leaf_scales
from dubito.posteriors.base import log_mean_prob
from dubito.posteriors.dropout import DropoutPosterior
from dubito.training import optimizers
from dubito.training.fit import one_member


class State(NamedTuple):
    params: Any
    optimizer: Any


@register_dataclass
@dataclass(frozen=True)
class MCDropout:
    """q(θ): every weight's inputs are dropped with probability r; biases are points. The objective, in nats:

        Σ_i log p(y_i | f_i) − Σ_layers [ℓ²/(2(1 − r)) ‖w‖² + ℓ²/2 ‖b‖²],    ℓ = 1/(the Normal prior's scale)

    for scaled masks m/(1 − r), as everywhere here (w = (1 − r)M in the paper's notation). τ belongs to the likelihood and
    the weight decay follows from it: λ = ℓ²/(2(1 − r)Nτ) beside a mean half squared error.

    ``rate``: the probability that a unit is dropped; a tuple gives one for each masked weight, in the order of the
    params. ``input_rate`` is for the weights that see the raw inputs. ``max_norm``: the largest norm of the w into a hidden
    unit, (1 − r) times that of the paper's unscaled masks. Training masks each example by itself; a draw in
    prediction is one function. Cheap, and its doubt does not shrink with the data as a posterior's does.
    """

    rate: Any = 0.05
    input_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    schedule: str = static(default="cosine")
    clip: float | None = None
    max_norm: float | None = None

    members = one_member

    def check(self, model):
        optimizers.check(self)
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,)
        for rate in (*rates, 0.0 if self.input_rate is None else self.input_rate):
            if not (is_number(rate) and 0 <= rate < 1):
                raise ValueError(f"a dropout rate is a probability of dropping, at least 0 and below 1; got {rate!r}")
        if not isinstance(model.prior, Normal):
            raise ValueError(f"MCDropout ties its penalty to a Normal prior; got {type(model.prior).__name__}")

    def init(self, model, batch, key):
        del batch
        params = optimizers.packed(self, model.init(key))
        return State(params, optimizers.start(self, params))

    def step(self, model, state, batch, clock, key):
        def objective(packed):
            params = optimizers.unpacked(packed)
            rates = drop_rates(model, params, batch.x, self.rate, self.input_rate)
            z = dropped_outputs(model, params, batch.x, rates, key)
            likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch) / batch.size
            penalty = weight_penalty(model, packed, rates) / batch.size
            return penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

        gradient, info = jax.grad(objective, has_aux=True)(state.params)
        params, optimizer = optimizers.descend(self, gradient, state.params, state.optimizer, clock)
        return State(optimizers.limited(self, model, params, batch.x), optimizer), info

    def score(self, model, state, batch, key):
        params = optimizers.unpacked(state.params)
        rates = drop_rates(model, params, batch.x, self.rate, self.input_rate)
        return log_mean_prob(dropped(model, params, batch.x, rates), batch, key)

    def finish(self, model, trained, key, run):
        del key, run
        params, x = optimizers.unpacked(trained.states[0].params), trained.rows.x[:1]
        return dropped(model, params, x, drop_rates(model, params, x, self.rate, self.input_rate))


def weight_penalty(model, params, rates, cost=lambda rate: 1 / (1 - rate)):
    """−log p(φ) + Σ cost(r) ℓ²/2 ‖w‖², in nats, with a factor of 1 where nothing is dropped; ``params`` may be packed."""
    network, params = params["network"], optimizers.unpacked(params)
    leaves, tree = jax.tree.flatten(params["network"])
    scales = leaf_scales(model.prior, leaves, model.scales(params))
    precisions = [
        jnp.full_like(leaf, 0 if scale is None else (1 if rate is None else cost(rate)) / scale**2)
        for leaf, scale, rate in zip(leaves, scales, tree.flatten_up_to(rates), strict=True)
    ]
    precisions = optimizers.alike(tree.unflatten(precisions), network)
    squares = jax.tree.map(lambda w, precision: 0.5 * jnp.sum(precision * w**2), network, precisions)
    return sum(jax.tree.leaves(squares)) - model.likelihood.log_prior(params["likelihood"])


def dropped(model, params, x, rates, masks="bernoulli"):
    """The posterior of these weights, with masks on what their products sum over."""
    uses = jax.tree.leaves(jaxpr.uses(model.network.apply, params["network"], x), is_leaf=_is_use)
    weights = {name: params[name] for name in ("network", "likelihood")}
    return DropoutPosterior(model, weights, rates, tuple(use.inputs for use in uses), masks)


def drop_rates(model, params, x, rate, input_rate):
    """The rate of each leaf of ``params["network"]``: weights of a product, by the traced program; None for the others."""
    uses = jax.tree.leaves(jaxpr.uses(model.network.apply, params["network"], x), is_leaf=_is_use)
    leaves, tree = jax.tree.flatten(params["network"])
    hidden = iter(rate) if isinstance(rate, tuple) else None
    rates = []
    for leaf, use in zip(leaves, uses, strict=True):
        if leaf.ndim < 2 or not use.multiplies:
            rates.append(None)
        elif use.raw:
            rates.append(input_rate)
        else:
            rates.append(rate if hidden is None else next(hidden, 0.0))
    wanted = sum(leaf.ndim > 1 and use.multiplies and not use.raw for leaf, use in zip(leaves, uses, strict=True))
    if hidden is not None and len(rate) != wanted:
        raise ValueError(f"rate has {len(rate)} entries; it must have {wanted}, one for each weight after the inputs'")
    return jax.tree.unflatten(tree, rates)


def dropped_outputs(model, params, x, rates, key, masks="bernoulli"):
    """z for rows x with masks of their own for each example, of the kind of ``noisy.Masked``."""
    noise = jax.tree.map(lambda r: None if r is None else weight_noise.Masked(r, masks), rates, is_leaf=_is_none)
    f = weight_noise.noisy(model.network.apply, params["network"], noise, x, key=key)
    return model.likelihood.join(f, params["likelihood"])


def precision_from_weight_decay(weight_decay, *, rate, length_scale, size, convention, outputs=1):
    """The noise precision τ that a network trained elsewhere with dropout and weight decay implies (Gal 2016, eq. 7).

    ``convention`` names what stands beside the criterion (mean over the N = ``size`` rows):

    - ``"half-squared-error"``: ½‖y − ŷ‖² + λ‖w‖², scaled masks: τ = ℓ²/(2(1 − r)Nλ)
    - ``"half-squared-error-unscaled"``: the same with unscaled masks (the lecture's): τ = (1 − r)ℓ²/(2Nλ)
    - ``"mse"``: un-halved error, mean over K = ``outputs`` too (MSELoss, Keras mse) + λ'‖w‖²: λ = λ'K/2
    - ``"mse-decay"``: that with an optimizer's coupled decay d (g += d·w; PyTorch's usual pair): λ = dK/4
    - ``"half-squared-error-decay"``: ½‖y − ŷ‖² with coupled decay d: λ = d/2

    τ is in units of 1/(the target as trained)². Raises ValueError for an unknown convention or non-positive numbers.
    """
    factors = {
        "half-squared-error": 1.0,
        "half-squared-error-unscaled": 1.0,
        "mse": outputs / 2,
        "mse-decay": outputs / 4,
        "half-squared-error-decay": 0.5,
    }
    check_choice("convention", convention, factors)
    if not (weight_decay > 0 and length_scale > 0 and size > 0 and 0 <= rate < 1):
        raise ValueError("weight_decay, length_scale and size must be positive and 0 <= rate < 1")
    penalty = weight_decay * factors[convention]
    if convention.endswith("unscaled"):
        return (1 - rate) * length_scale**2 / (2 * size * penalty)
    return length_scale**2 / (2 * (1 - rate) * size * penalty)


def _is_none(leaf):
    return leaf is None


def _is_use(leaf):
    return isinstance(leaf, jaxpr.Use)
