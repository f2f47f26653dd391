"""Gradient descent by name: optax does the work, with the papers' defaults; and the proximal step that makes exact zeros.

Rates stand outside optax: an update is ``learning_rate · schedule(progress) · brake`` times the optimizer's direction, so
that another learning rate compiles nothing new and the engine's brake needs no cooperation from the optimizer. An optax
transformation of the user's own brings its own rate; then only schedule and brake multiply it.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dubito.network import static

SMALL = 2**15  # parameters: up to here arithmetic on them is done on one vector

# Directions of ascent on the gradient, before the rate. Adagrad and RMSprop have ε outside the root (or none worth the
# name inside it), Adagrad starts at 0, Adadelta has the paper's ρ: optax's own defaults differ (mathematics: descent).
OPTIMIZERS = {
    "sgd": optax.identity(),
    "momentum": optax.trace(decay=0.9),
    "nesterov": optax.trace(decay=0.9, nesterov=True),
    "adagrad": optax.scale_by_rss(initial_accumulator_value=0.0, eps=1e-16),
    "rmsprop": optax.scale_by_rms(decay=0.9, eps=1e-8, eps_in_sqrt=False),
    "adadelta": optax.scale_by_adadelta(rho=0.95, eps=1e-6),
    "adam": optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
}
SCHEDULES = {
    "constant": jnp.ones_like,
    "cosine": lambda progress: 0.5 * (1 + jnp.cos(jnp.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


def check(method):
    """Refuse an unknown optimizer or schedule, or numbers no descent can use; called once, when a fit begins."""
    for name, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        value = getattr(method, name)
        if isinstance(value, str) and value not in table:
            near = difflib.get_close_matches(value, table, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name}={value!r} is unknown{hint} Choose one of {', '.join(table)}.")
    if not method.learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {method.learning_rate!r}")
    if not (isinstance(method.epochs, int) and method.epochs >= 1):
        raise ValueError(f"epochs must be a whole number of at least 1, got {method.epochs!r}")
    if method.batch_size is not None and not (isinstance(method.batch_size, int) and method.batch_size >= 1):
        raise ValueError(
            f"batch_size must be a whole number of at least 1 or None (all rows), got {method.batch_size!r}"
        )


def _transformation(method):
    return OPTIMIZERS[method.optimizer] if isinstance(method.optimizer, str) else method.optimizer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Vector:
    """A tree of small arrays as one vector, so that what is done to each of its numbers is one kernel, not one a leaf.

    It is kept as such from step to step: where leaves are put together in the midst of arithmetic, XLA's kernel looks up
    for every number which leaf it is of.
    """

    values: jax.Array
    tree: Any = static()
    shapes: tuple = static()


def packed(method, params):
    """``params`` = {"network": θ, "likelihood": φ} for training, each part as a ``Vector``.

    A part that is large stays as it is, and so do all with an optimizer of the user's own, which may look at leaves.
    """
    return {name: _packed(part) if isinstance(method.optimizer, str) else part for name, part in params.items()}


def _packed(tree):
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) < 2 or sum(leaf.size for leaf in leaves) > SMALL or len({leaf.dtype for leaf in leaves}) > 1:
        return tree
    return Vector(jnp.concatenate([leaf.ravel() for leaf in leaves]), structure, tuple(leaf.shape for leaf in leaves))


def alike(tree, other):
    """``tree`` as a ``Vector`` where ``other``, of the same structure, is one."""
    return _packed(tree) if isinstance(other, Vector) else tree


def unpacked(params):
    """What ``packed`` was given."""
    return {name: _unpacked(part) if isinstance(part, Vector) else part for name, part in params.items()}


def _unpacked(vector):
    ends = np.cumsum([math.prod(shape) for shape in vector.shapes])
    leaves = jnp.split(vector.values, ends[:-1])
    return vector.tree.unflatten([leaf.reshape(shape) for leaf, shape in zip(leaves, vector.shapes, strict=True)])


def start(method, params):
    """The optimizer's state for a tree of parameters."""
    with jax.numpy_dtype_promotion("standard"):  # optax counts in int32
        return _transformation(method).init(params)


def descend(method, gradient, params, state, clock, strengths=None):
    """One step down: new params and optimizer state. ``gradient`` is of the objective per example.

    ``strengths``, a tree like ``params`` (0: none), asks for the proximal step of Σ strength·|w|.
    """
    with jax.numpy_dtype_promotion("standard"):
        if method.clip is not None:
            norm = optax.tree.norm(gradient)
            gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, method.clip / (norm + 1e-12)), gradient)
        direction, state = _transformation(method).update(gradient, state, params)
    rate = step_size(method, clock)
    params = jax.tree.map(lambda p, d: p + (rate * d).astype(p.dtype), params, direction)
    return (params if strengths is None else soft_threshold(method, params, strengths, state, clock)), state


def step_size(method, clock):
    """learning_rate · schedule · brake with descent's sign; an optimizer of the user's own has rate and sign in it."""
    factor = SCHEDULES[method.schedule](clock.progress) * clock.brake
    return -method.learning_rate * factor if isinstance(method.optimizer, str) else factor


def soft_threshold(method, params, strengths, state, clock):
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
