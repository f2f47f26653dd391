"""MC dropout: dropout as a Bayesian approximation (Gal & Ghahramani, ICML 2016)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dubito._check import check_choice, is_number
from dubito._jax import jaxpr
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.methods import weight_noise
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.models.model import Batch, Model
from dubito.models.priors import Normal, leaf_scales
from dubito.posteriors.dropout import DropoutPosterior
from dubito.training import optimizers
from dubito.training.packing import pack_like, unpack


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class MCDropout(PosteriorDescent):
    """q(θ): every weight's inputs are dropped with probability r; biases are points. The objective, in nats:

        Σ_i log p(y_i | f_i) − Σ_layers [ℓ²/(2(1 − r)) ‖w‖² + ℓ²/2 ‖b‖²],    ℓ = 1/(the Normal prior's scale)

    for scaled masks m/(1 − r), as everywhere here (w = (1 − r)M in the paper's notation). τ belongs to the likelihood and
    the weight decay follows from it: λ = ℓ²/(2(1 − r)Nτ) beside a mean half squared error. Training masks each example by
    itself; a draw in prediction is one function. It is cheap, but its epistemic uncertainty does not shrink with more data
    as a posterior's does.

    Parameters
    ----------
    rate : float or tuple of float
        The probability that a unit is dropped; a tuple gives one for each masked weight, in the order of the parameters.
    input_rate : float, optional
        The same for the weights that see the raw inputs; None: no masks there.
    max_norm : float, optional
        The largest norm of the w into a hidden unit, (1 − r) times that of the paper's unscaled masks.
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    rate: Any = 0.05
    input_rate: float | None = None
    max_norm: float | None = None

    def check(self, model: Model) -> None:
        optimizers.check_descent(self)
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,)
        for rate in (*rates, 0.0 if self.input_rate is None else self.input_rate):
            if not (is_number(rate) and 0 <= rate < 1):
                raise ValueError(f"a dropout rate is a probability of dropping, at least 0 and below 1; got {rate!r}")
        if not isinstance(model.prior, Normal):
            raise ValueError(f"MCDropout ties its penalty to a Normal prior; got {type(model.prior).__name__}")

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        del batch
        return model.init(key)

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> tuple[Any, Any]:
        plain = unpack(params)
        rates = drop_rates(model, plain, batch.x, self.rate, self.input_rate)
        z = masked_outputs(model, plain, batch.x, rates, key)
        return model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch), weight_penalty(model, params, rates)

    def posterior(self, model: Model, params: Params, x: Any) -> DropoutPosterior:
        return dropout_posterior(model, params, x, drop_rates(model, params, x, self.rate, self.input_rate))


def weight_penalty(
    model: Model, params: Params, rates: Any, cost: Callable[[Any], Any] = lambda rate: 1 / (1 - rate)
) -> Any:
    """−log p(φ) + Σ cost(r) ℓ²/2 ‖w‖², in nats, with a factor of 1 where nothing is dropped; ``params`` may be packed."""
    network, params = params["network"], unpack(params)
    leaves, tree = jax.tree.flatten(params["network"])
    scales = leaf_scales(model.prior, leaves, model.scales(params))
    precisions = [
        jnp.full_like(leaf, 0 if scale is None else (1 if rate is None else cost(rate)) / scale**2)
        for leaf, scale, rate in zip(leaves, scales, tree.flatten_up_to(rates), strict=True)
    ]
    precisions = pack_like(tree.unflatten(precisions), network)
    squares = jax.tree.map(lambda w, precision: 0.5 * jnp.sum(precision * w**2), network, precisions)
    return sum(jax.tree.leaves(squares)) - model.likelihood.log_prior(params["likelihood"])


def dropout_posterior(model: Model, params: Params, x: Any, rates: Any, masks: str = "bernoulli") -> DropoutPosterior:
    """The posterior of these weights, with masks on what their products sum over."""
    uses = jax.tree.leaves(jaxpr.uses(model.network.apply, params["network"], x), is_leaf=_is_use)
    weights = {name: params[name] for name in ("network", "likelihood")}
    return DropoutPosterior(model, weights, rates, tuple(use.inputs for use in uses), masks)


def drop_rates(model: Model, params: Params, x: Any, rate: Any, input_rate: Any) -> Any:
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


def masked_outputs(model: Model, params: Params, x: Any, rates: Any, key: Key, masks: str = "bernoulli") -> Any:
    """z for rows x with masks of their own for each example, of the kind of ``weight_noise.Masked``."""
    noise = jax.tree.map(lambda r: None if r is None else weight_noise.Masked(r, masks), rates, is_leaf=_is_none)
    f = weight_noise.noisy(model.network.apply, params["network"], noise, x, key=key)
    return model.likelihood.join(f, params["likelihood"])


def precision_from_weight_decay(
    weight_decay: float, *, rate: float, length_scale: float, size: float, convention: str, outputs: int = 1
) -> float:
    """The noise precision τ that a network trained elsewhere with dropout and weight decay implies.

    Parameters
    ----------
    weight_decay : float
    rate : float
        The dropout rate r.
    length_scale : float
        ℓ, 1/(the scale of the Normal prior).
    size : float
        The number of rows N.
    convention : str
        What stands beside the criterion, a mean over the rows:

        - ``"half-squared-error"``: ½‖y − ŷ‖² + λ‖w‖², scaled masks: τ = ℓ²/(2(1 − r)Nλ)
        - ``"half-squared-error-unscaled"``: the same with unscaled masks: τ = (1 − r)ℓ²/(2Nλ)
        - ``"mse"``: un-halved error, mean over K = ``outputs`` too (MSELoss, Keras mse) + λ'‖w‖²: λ = λ'K/2
        - ``"mse-decay"``: that with an optimizer's coupled decay d (g += d·w; PyTorch's usual pair): λ = dK/4
        - ``"half-squared-error-decay"``: ½‖y − ŷ‖² with coupled decay d: λ = d/2
    outputs : int
        The number of targets K.

    Returns
    -------
    float
        τ, in units of 1/(the target as trained)².

    Raises
    ------
    ValueError
        For an unknown convention or numbers that are not positive.

    References
    ----------
    Gal, "Uncertainty in Deep Learning", 2016, eq. 7.
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
