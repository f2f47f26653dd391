"""Gradient descent by name: optax does the work, with the papers' defaults; and the proximal step that makes exact zeros.

Rates stand outside optax: an update is ``learning_rate · schedule(progress) · step_factor`` times the optimizer's direction,
so that another learning rate compiles nothing new and the loop can halve the step of any optimizer. An optax transformation
of the user's own brings its own rate; then only schedule and step factor multiply it.
"""

import difflib
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dubito._check import is_number, is_whole
from dubito._jax import jaxpr
from dubito._jax.types import Params
from dubito.models.model import Model
from dubito.training.method import Clock, LoopMethod, ScheduledMethod
from dubito.training.packing import pack_like, unpack

SEEN = 400_000  # rows that a fit shows at least where the method leaves its epochs open


class Optimizer(NamedTuple):
    """``direction``: optax's, of ascent on the gradient, before the rate; ``rate``: the learning rate its source names, or
    names as usual; ``update``: the formula, g the gradient and α the rate."""

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
    """Raise ValueError for an unknown optimizer or schedule, or numbers that no descent can use. Called once, before a fit."""
    for name, value, table in (
        ("optimizer", method.optimizer, OPTIMIZERS),
        ("schedule", method.schedule, SCHEDULES),
    ):
        if isinstance(value, str) and value not in table:
            near = difflib.get_close_matches(value, table, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name}={value!r} is unknown{hint or '.'} Choose one of {', '.join(table)}.")
    if method.learning_rate is not None and not (is_number(method.learning_rate) and method.learning_rate > 0):
        raise ValueError(
            f"learning_rate must be positive or None (the optimizer's usual), got {method.learning_rate!r}"
        )
    for name, limit in (("clip", method.clip), ("max_norm", method.max_norm)):
        if limit is not None and not (is_number(limit) and limit > 0):
            raise ValueError(f"{name} must be positive or None (no limit), got {limit!r}")
    if method.epochs is not None and not is_whole(method.epochs, 1):
        raise ValueError(f"epochs must be a whole number of at least 1 or None (by rows), got {method.epochs!r}")
    if method.batch_size is not None and not is_whole(method.batch_size, 1):
        raise ValueError(
            f"batch_size must be a whole number of at least 1 or None (all rows), got {method.batch_size!r}"
        )


def with_epochs(method: LoopMethod, rows: int) -> Any:
    """The method with a number of epochs for so many rows, if it leaves that open (None)."""
    if method.epochs is not None:
        return method
    return replace(method, epochs=max(method.least_epochs, SEEN // rows))  # type: ignore[type-var]


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
        Optimizer, learning rate, schedule and clip.
    gradient, params : pytree
        The gradient of the objective per example, and where it was taken.
    state : pytree
        The optimizer's, of ``start``.
    clock : Clock
    strengths : pytree like ``params``, optional
        Adds the proximal step of Σ strength·|w|; 0 leaves a number without it.

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
    """−learning_rate · schedule · step_factor; without −learning_rate for an optimizer of the user's own, which has rate and sign."""
    factor, rate = SCHEDULES[method.schedule](clock.progress) * clock.step_factor, learning_rate(method)
    return factor if rate is None else -rate * factor


def learning_rate(method: ScheduledMethod) -> Any:
    """The method's learning rate, or its optimizer's usual one where that is None; None for an optimizer of the user's own."""
    if not isinstance(method.optimizer, str):
        return None
    return OPTIMIZERS[method.optimizer].rate if method.learning_rate is None else method.learning_rate


def soft_threshold(method: ScheduledMethod, params: Params, strengths: Params, state: Any, clock: Clock) -> Params:
    """The proximal step of Σ strength·|w| after a step of descent: exact zeros (mathematics: L1).

    The threshold is the optimizer's own step: α·strength for SGD, /(1 − momentum) with a heavy ball, /(√v̂ + ε) per
    coordinate with Adam; unscaled, Adam's fixed point would be wrong.
    """
    alpha = -step_size(method, clock)
    if method.optimizer == "adam":
        correction = 1 - 0.999 ** state.count.astype(jnp.float32)
        steps = jax.tree.map(lambda v: alpha / (jnp.sqrt(v / correction) + 1e-8), state.nu)
    else:
        steps = jax.tree.map(lambda p: alpha / (1 - (0.9 if method.optimizer == "momentum" else 0.0)), params)

    def shrink(strength, p, step):
        return jnp.where(strength > 0, jnp.sign(p) * jnp.maximum(jnp.abs(p) - step * strength, 0.0), p)

    return jax.tree.map(shrink, strengths, params, steps)


def limit_norms(method: ScheduledMethod, model: Model, params: Params, x: Any) -> Params:
    """``params`` with the weights into each hidden unit scaled to norm ``max_norm`` where theirs is larger.

    Max-norm (Srivastava et al., JMLR 2014, section 5.1): a projection after each step. Biases and the weights into the
    outputs stay. Raises ValueError where there are no hidden units. ``x``: rows, of which only the shape is looked at.
    """
    if method.max_norm is None:
        return params
    plain = unpack(params)
    uses = jaxpr.uses(model.network.apply, plain["network"], x)
    into_hidden = jax.tree.map(lambda w, use: w.ndim > 1 and use.multiplies and use.hidden, plain["network"], uses)
    if not any(jax.tree.leaves(into_hidden)):
        raise ValueError("max_norm limits the weights into hidden units, and this network has none: use max_norm=None")

    def scaled(w, chosen, use):
        if not chosen:
            return w
        norm = jnp.sqrt(jnp.sum(w**2, axis=use.incoming, keepdims=True))
        return w * jnp.minimum(1.0, method.max_norm / norm).astype(w.dtype)  # a norm of 0 gives min(1, ∞)

    network = jax.tree.map(scaled, plain["network"], into_hidden, uses)
    return {**params, "network": pack_like(network, params["network"])}
