"""Optimizers by name, by optax with the papers' defaults; and the proximal step for exact zeros.

An update is ``learning_rate · schedule(progress) · step_factor`` times the direction by optax: so
another learning rate needs no compilation, and the loop can halve the step of any optimizer. A
user's optax transformation includes the learning rate; only schedule and step factor multiply it.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dubito._check import check_choice, check_number, check_whole
from dubito._jax.types import Params
from dubito.models.model import Model
from dubito.models.partial_network import parameter_uses
from dubito.training.method import Clock, Method, ScheduledMethod, base_method, get_recipe
from dubito.training.packing import pack_like, unpack


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes
    ----------
    direction : optax.GradientTransformation
        The update without the learning rate.
    rate : float
        The default learning rate, from the source if it names one.
    update : str
        The formula, with gradient g and learning rate α.
    source : str
        The paper.
    """

    direction: Any
    rate: float
    update: str
    source: str


# Adagrad and RMSprop have ε outside the root (or none worth the name inside it), Adagrad starts at 0, Adadelta has the
# paper's ρ: optax's own defaults differ (mathematics: descent). Adadelta's paper has no rate: its rate is 1.
OPTIMIZERS = {
    "sgd": Optimizer(optax.identity(), 1e-2, "θ ← θ - αg", "Robbins & Monro 1951"),
    "momentum": Optimizer(optax.trace(decay=0.9), 1e-2, "v ← 0.9v + g, θ ← θ - αv", "Polyak 1964"),
    "nesterov": Optimizer(
        optax.trace(decay=0.9, nesterov=True), 1e-2, "v ← 0.9v + g, θ ← θ - α(g + 0.9v)", "Nesterov 1983"
    ),
    "adagrad": Optimizer(
        optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-16),
        1e-2,
        "G ← G + g², θ ← θ - αg/√G",
        "Duchi, Hazan & Singer 2011",
    ),
    "rmsprop": Optimizer(
        optax.scale_by_rms(decay=0.9, eps=1e-8, eps_in_sqrt=False),
        1e-3,
        "G ← 0.9G + 0.1g², θ ← θ - αg/(√G + 1e-8)",
        "Hinton 2012, lecture 6",
    ),
    "adadelta": Optimizer(
        optax.scale_by_adadelta(rho=0.95, eps=1e-6),
        1.0,
        "G ← 0.95G + 0.05g², d = g√((D + 1e-6)/(G + 1e-6)), D ← 0.95D + 0.05d², θ ← θ - αd",
        "Zeiler 2012",
    ),
    "adam": Optimizer(
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        1e-3,
        "m ← 0.9m + 0.1g, v ← 0.999v + 0.001g², θ ← θ - α m̂/(√v̂ + 1e-8), m̂ = m/(1 - 0.9ᵗ), v̂ = v/(1 - 0.999ᵗ)",
        "Kingma & Ba 2015",
    ),
}
SCHEDULES = {
    "constant": jnp.ones_like,
    "cosine": lambda progress: 0.5 * (1 + jnp.cos(jnp.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


def check_descent(method: ScheduledMethod) -> None:
    """Raise ValueError if a setting of a descent is invalid. Called once, before a fit."""
    if isinstance(method.optimizer, str):
        check_choice("optimizer", method.optimizer, OPTIMIZERS)
    check_choice("schedule", method.schedule, SCHEDULES)
    if method.learning_rate is not None:
        check_number("learning_rate", method.learning_rate, "(0, inf)", other="None (the optimizer's default)")
    for name, limit in (("clip", method.clip), ("max_norm", method.max_norm)):
        if limit is not None:
            check_number(name, limit, "(0, inf)", other="None (no limit)")
    if method.ema_epochs is not None:
        check_number("ema_epochs", method.ema_epochs, "(0, inf)", other="None (no average)")
    if method.epochs is not None:
        check_epochs(method, method.epochs if isinstance(method.epochs, tuple) else (method.epochs,))
    if method.batch_size is not None:
        check_whole("batch_size", method.batch_size, 1, other="None (all rows)")


def check_epochs(method: ScheduledMethod, lengths: tuple[int, ...]) -> None:
    """Raise ValueError if ``epochs`` is invalid."""
    other = "None (by rows)" if method.score is None else "None (by rows) or a tuple of several"
    for epochs in lengths:
        check_whole("epochs", epochs, 1, other=other)
    if not lengths or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"epochs must be one number, or several from the smallest to the largest; got {lengths}")
    if isinstance(method.epochs, tuple) and method.score is None:
        name = type(method).__name__
        raise ValueError(f"epochs of {name} must be one number, since it has no validation score; got {lengths}")


def each_length(method: Method, rows: int, task: str) -> list[Any]:
    """The method that the loop drives for each length of training that may be tried, for so many rows.

    Each has one number of ``epochs``, the shortest first.
    """
    inner = base_method(method)
    if inner.epochs is None:
        return [replace(inner, epochs=get_recipe(method, task).epochs(rows))]
    return [replace(inner, epochs=epochs) for epochs in inner.epochs] if isinstance(inner.epochs, tuple) else [inner]


def _transformation(method: ScheduledMethod) -> Any:
    return OPTIMIZERS[method.optimizer].direction if isinstance(method.optimizer, str) else method.optimizer


def init_state(method: ScheduledMethod, params: Params) -> Any:
    """The optimizer's state for a tree of parameters."""
    with jax.numpy_dtype_promotion("standard"):  # optax counts in int32
        return _transformation(method).init(params)


def descend(
    method: ScheduledMethod, gradient: Params, params: Params, state: Any, clock: Clock, strengths: Params | None = None
) -> tuple[Params, Any]:
    """One step of descent.

    Parameters
    ----------
    method : ScheduledMethod
        Its optimizer, learning rate, schedule and clip.
    gradient, params : pytree
        The gradient of the objective per example, and the point where it was computed.
    state : pytree
        The optimizer's state.
    clock : Clock
    strengths : pytree like ``params``, optional
        Adds the proximal step for Σ strength·|w|; 0 for parameters without it.

    Returns
    -------
    tuple
        The new parameters, and the optimizer's new state.
    """
    with jax.numpy_dtype_promotion("standard"):
        if method.clip is not None:
            norm = optax.tree.norm(gradient)
            gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, method.clip / (norm + 1e-12)), gradient)
        direction, state = _transformation(method).update(gradient, state, params)
    rate = step_size(method, clock)
    params = jax.tree.map(lambda p, d: p + (rate * d).astype(p.dtype), params, direction)
    return (params if strengths is None else soft_threshold(method, params, strengths, state, clock)), state


def step_size(method: ScheduledMethod, clock: Clock) -> Any:
    """−learning_rate · schedule · step_factor; schedule · step_factor for a user's optimizer, which has rate and sign."""
    factor, rate = SCHEDULES[method.schedule](clock.progress) * clock.step_factor, learning_rate(method)
    return factor if rate is None else -rate * factor


def learning_rate(method: ScheduledMethod) -> Any:
    """The learning rate, by default that of the optimizer; None for a user's optimizer."""
    if not isinstance(method.optimizer, str):
        return None
    return OPTIMIZERS[method.optimizer].rate if method.learning_rate is None else method.learning_rate


def soft_threshold(method: ScheduledMethod, params: Params, strengths: Params, state: Any, clock: Clock) -> Params:
    """The proximal step for Σ strength·|w| after a step of descent, which makes exact zeros (mathematics: L1).

    The threshold is strength times the optimizer's step: α for SGD, α/(1 − momentum) with a heavy
    ball, α/(√v̂ + ε) for each coordinate with Adam, whose fixed point would otherwise be wrong.
    """
    alpha = -step_size(method, clock)
    if method.optimizer == "adam":
        correction = 1 - 0.999 ** state.count.astype(jnp.float32)
        steps = jax.tree.map(lambda v: alpha / (jnp.sqrt(v / correction) + 1e-8), state.nu)
    else:
        steps = jax.tree.map(lambda p: alpha / (1 - (0.9 if method.optimizer == "momentum" else 0.0)), params)

    def shrink(strength: jax.Array, p: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.where(strength > 0, jnp.sign(p) * jnp.maximum(jnp.abs(p) - step * strength, 0.0), p)

    return jax.tree.map(shrink, strengths, params, steps)


def limit_norms(method: ScheduledMethod, model: Model, params: Params, x: Any) -> Params:
    """Scale the weights into each hidden unit to a norm of at most ``max_norm``, after each step.

    Biases and the weights into the outputs stay.

    Parameters
    ----------
    method : ScheduledMethod
    model : Model
    params : pytree
    x : array
        Only its shape is used.

    Returns
    -------
    pytree
        ``params`` with projected weights.

    Raises
    ------
    ValueError
        If the network has no hidden units.

    References
    ----------
    Srivastava et al., "Dropout", JMLR 2014, section 5.1 (max-norm).
    """
    if method.max_norm is None:
        return params
    plain = unpack(params)
    uses = parameter_uses(model.network, plain["network"], x)
    into_hidden = jax.tree.map(lambda w, use: w.ndim > 1 and use.multiplies and use.hidden, plain["network"], uses)
    if not any(jax.tree.leaves(into_hidden)):
        raise ValueError(
            "max_norm limits the weights into hidden units, but this network has none. Leave out max_norm."
        )

    def scaled(w: jax.Array, chosen: bool, use: Any) -> jax.Array:
        if not chosen:
            return w
        norm = jnp.sqrt(jnp.sum(w**2, axis=use.incoming, keepdims=True))
        return w * jnp.minimum(1.0, method.max_norm / norm).astype(w.dtype)  # a norm of 0 gives min(1, ∞)

    network = jax.tree.map(scaled, plain["network"], into_hidden, uses)
    return {**params, "network": pack_like(network, params["network"])}
