"""MC dropout: dropout as a Bayesian approximation (Gal & Ghahramani, ICML 2016)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dubito._check import check_choice, check_number
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.held_out_noise import NOISES
from dubito.methods.posterior_descent import PosteriorDescent
from dubito.methods.priors import map_prior
from dubito.methods.settings import check_normal_prior
from dubito.methods.types import Batch, Inputs, Key, Model, Objective, Params, Scalar
from dubito.methods.weight_noise import mask_noise, noisy_log_likelihood
from dubito.models.partial_network import parameter_uses
from dubito.posteriors.dropout import DropoutPosterior
from dubito.training.method import Recipe
from dubito.training.optimizers import check_descent
from dubito.training.packing import pack_like, unpack

Rates: TypeAlias = (
    float | Array | tuple[float | Array, ...]
)  # of all masked weights, or of each in the order of the parameters


DROPOUT = {  # recipes of methods that drop units
    "regression": Recipe((128, 128), "silu", 8, prior_scale=3.0, rows_seen=300_000, least_epochs=100),
    "classification": Recipe(prior_scale=8.0, rows_seen=300_000, least_epochs=100),
}


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class MCDropout(PosteriorDescent):
    """q(θ): each weight's inputs are dropped with probability r, biases are points. In nats:

        Σ_i log p(y_i | f_i) − Σ_layers [ℓ²/(2(1 − r)) ‖w‖² + ℓ²/2 ‖b‖²],    ℓ = 1/(the Normal prior's scale)

    for masks scaled by 1/(1 − r), as everywhere in the library (w = (1 − r)M in the paper's
    notation). τ belongs to the likelihood, and the weight decay follows from it:
    λ = ℓ²/(2(1 − r)Nτ) beside half the mean squared error. In training each example has its own
    mask; in prediction a draw is one function. The method is cheap, but its epistemic uncertainty
    does not decrease with more data as that of a posterior does.

    Parameters
    ----------
    rate : float or tuple of float
        The probability that a unit is dropped; a tuple has one for each masked weight, in the order
        of the parameters.
    input_rate : float, optional
        The same for the weights of the raw inputs; None: no masks there.
    max_norm : float, optional
        The largest norm of the weights into a hidden unit: (1 − r) times that of the paper, whose
        masks are not scaled.
    noise : {"held-out", "training"}
        "held-out" fits the likelihood's own parameters once more, after training, by the predictive
        mixture's likelihood of held-out rows: those of early stopping, or two tenths that two more
        runs leave out. The weights stay. Fewer than 40 rows and streams keep the "training" noise, in
        which the variance of the masks counts as noise, and which the mixture adds once more.
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs
        As in ``MAP``; ``epochs=None`` is the default.
    """

    clip: float | None = 5.0
    rate: Rates = 0.05
    input_rate: float | None = None
    max_norm: float | None = None
    noise: str = static(default="held-out")

    recipes: ClassVar[dict[str, Recipe] | None] = DROPOUT

    def check(self, model: Model) -> None:
        check_dropout(self, model, "[0, 1)")

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        return model.init(key)

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> Objective:
        plain = unpack(params)
        rates = drop_rates(model, plain, batch.x, self.rate, self.input_rate)
        return noisy_log_likelihood(model, plain, mask_noise(rates), batch, key), weight_penalty(model, params, rates)

    def posterior(self, model: Model, params: Params, x: Inputs) -> DropoutPosterior:
        rates = drop_rates(model, params, x, self.rate, self.input_rate)
        return dropout_posterior(model, params, x, rates)


def weight_penalty(
    model: Model, params: Params, rates: Params, cost: Callable[[Any], Any] = lambda rate: 1 / (1 - rate)
) -> Scalar:
    """−log p(φ) + Σ cost(r) ℓ²/2 ‖w‖², in nats, with cost 1 where nothing is dropped; ``params`` may be packed."""
    plain = unpack(params)

    def precision(w: Array, scale: Any, rate: Any) -> Array:
        return jnp.full_like(w, 0 if scale is None else (1 if rate is None else cost(rate)) / scale**2)

    precisions = pack_like(map_prior(precision, model, plain, rates), params["network"])
    squares = jax.tree.map(lambda w, precision: 0.5 * jnp.sum(precision * w**2), params["network"], precisions)
    return sum(jax.tree.leaves(squares)) - model.likelihood.log_prior(plain["likelihood"])


def drop_rates(model: Model, params: Params, x: Inputs, rate: Rates, input_rate: float | Array | None) -> Params:
    """The rate of each leaf of ``params["network"]`` that multiplies in the traced program; None for the others."""
    leaves, tree = jax.tree.flatten(params["network"])
    uses = jax.tree.leaves(parameter_uses(model.network, params["network"], x))
    masked = [leaf.ndim > 1 and use.multiplies for leaf, use in zip(leaves, uses, strict=True)]
    hidden = sum(some and not use.raw for some, use in zip(masked, uses, strict=True))
    if isinstance(rate, tuple) and len(rate) != hidden:
        raise ValueError(f"rate has {len(rate)} entries; it must have {hidden}, one for each weight after the inputs'")
    rates = iter(rate if isinstance(rate, tuple) else [rate] * hidden)
    chosen = zip(masked, uses, strict=True)
    return tree.unflatten([None if not some else input_rate if use.raw else next(rates) for some, use in chosen])


def dropout_posterior(
    model: Model, params: Params, x: Inputs, rates: Params, kind: str = "bernoulli"
) -> DropoutPosterior:
    """The posterior of these weights, with masks on the inputs of their products."""
    uses = jax.tree.leaves(parameter_uses(model.network, params["network"], x))
    weights = {name: params[name] for name in ("network", "likelihood")}
    return DropoutPosterior(model, weights, rates, tuple(use.inputs for use in uses), kind)


def check_dropout(method: Any, model: Model, interval: str) -> None:
    """Raise ValueError for invalid descent settings or rates, or a prior without a length scale."""
    check_descent(method)
    check_choice("noise", method.noise, NOISES)
    for rate in method.rate if isinstance(method.rate, tuple) else (method.rate,):
        check_number("rate", rate, interval)
    if method.input_rate is not None:
        check_number("input_rate", method.input_rate, interval)
    check_normal_prior(method, model)


def precision_from_weight_decay(
    weight_decay: float, *, rate: float, length_scale: float, size: float, convention: str, outputs: int = 1
) -> float:
    """The noise precision τ that is implied by dropout and weight decay in another program.

    Parameters
    ----------
    weight_decay : float
        λ, or d, of the convention.
    rate : float
        The dropout rate r.
    length_scale : float
        ℓ, 1/(the scale of the Normal prior).
    size : float
        The number of rows N.
    convention : str
        What is minimized, where the criterion is a mean over the rows:

        - ``"half-squared-error"``: ½‖y − ŷ‖² + λ‖w‖², scaled masks: τ = ℓ²/(2(1 − r)Nλ)
        - ``"half-squared-error-unscaled"``: the same with unscaled masks: τ = (1 − r)ℓ²/(2Nλ)
        - ``"mse"``: squared error, mean over K = ``outputs`` too (MSELoss, Keras mse), + λ'‖w‖²:
          λ = λ'K/2
        - ``"mse-decay"``: that with an optimizer's coupled decay d (g += d·w; PyTorch's usual
          pair): λ = dK/4
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
