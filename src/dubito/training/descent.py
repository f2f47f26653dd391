"""Gradient descent on an objective: the shared settings, and one step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._jax.pytree import static
from dubito._jax.types import Params
from dubito.models.likelihoods.noise_parameters import FixedOrLearned
from dubito.models.model import Batch, Model
from dubito.training import optimizers
from dubito.training.method import Clock, ScheduledMethod
from dubito.training.packing import pack


class DescentState(NamedTuple):
    """The state of a descent.

    Attributes
    ----------
    params : pytree
        The parameters of the descent, packed (see ``packing``).
    optimizer : pytree
        The optimizer's state.
    noise_gradient : pytree like the likelihood's parameters, or None
        The mean gradient of the objective in them over the steps of this epoch so far, in nats per example; None if
        the optimizer moves them, too.
    average : pytree like ``params``, or None
        Their exponential moving average (see ``ScheduledMethod.ema_epochs``).
    """

    params: Any
    optimizer: Any
    noise_gradient: Any = None
    average: Any = None

    @property
    def result(self) -> Any:
        """The packed parameters that are scored and kept."""
        return self.params if self.average is None else self.average


@dataclass(frozen=True, kw_only=True)
class Descent(ScheduledMethod):
    """A method that follows the gradient of an objective.

    Parameters
    ----------
    optimizer : str or optax.GradientTransformation
        "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", or an optax
        transformation, which includes the learning rate.
    clip : float, optional
        The largest norm of the gradient per example; None: no limit.
    """

    optimizer: Any = static(default="adam")
    clip: float | None = None


def start_descent(method: ScheduledMethod, params: Params, likelihood: Any = None) -> DescentState:
    """The first state of a descent.

    Parameters
    ----------
    method : ScheduledMethod
        The settings of the descent.
    params : pytree
        Where it starts; not packed for a user's optimizer, which may use the leaves.
    likelihood : Likelihood, optional
        The model's, if its noise parameter is to have a step of its own.

    Returns
    -------
    DescentState
    """
    own = isinstance(likelihood, FixedOrLearned) and bool(params["likelihood"])
    noise_gradient = jax.tree.map(jnp.zeros_like, params["likelihood"]) if own else None
    params = pack(params) if isinstance(method.optimizer, str) else params
    average = None if method.ema_epochs is None else params
    return DescentState(params, optimizers.init_state(method, params), noise_gradient, average)


def objective_step(
    method: ScheduledMethod,
    objective: Callable[[Params], tuple[Any, Any]],
    state: DescentState,
    clock: Clock,
    model: Model,
    batch: Batch,
    strengths: Params | None = None,
) -> tuple[DescentState, dict[str, Any]]:
    """One step of ascent on log likelihood − penalty.

    A noise parameter with a step of its own stays during an epoch. At its end it moves to the
    maximum, given the epoch's mean gradient; an optimizer such as Adam, which moves every parameter
    at the same pace, would need thousands of steps for a small noise.

    Parameters
    ----------
    method : ScheduledMethod
        The settings of the descent.
    objective : callable
        A function from packed parameters to log likelihood and penalty, in nats of the data set.
    state : DescentState
    clock : Clock
    model : Model
    batch : Batch
        The rows of the objective; their weight in the data set is used.
    strengths : pytree, optional
        Strengths of a proximal step (see ``optimizers.descend``).

    Returns
    -------
    tuple
        The new state, and {"likelihood", "penalty"} before the step, in nats per example.
    """

    def loss(params: Params) -> tuple[Any, dict[str, Any]]:
        likelihood, penalty = (value / batch.size for value in objective(params))
        return penalty_weight(method, clock) * penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

    gradient, info = jax.grad(loss, has_aux=True)(state.params)
    total = state.noise_gradient
    if total is not None:
        total = jax.tree.map(lambda sum_, g: sum_ + g / batch.scale, total, gradient["likelihood"])
        gradient = {**gradient, "likelihood": jax.tree.map(jnp.zeros_like, total)}
    params, optimizer = optimizers.descend(method, gradient, state.params, state.optimizer, clock, strengths)
    if total is not None:
        uphill = jax.tree.map(lambda g: -batch.size * g, total)
        improved = model.likelihood.improved(params["likelihood"], uphill, batch.size)
        params = {**params, "likelihood": _where(clock.epoch_end, improved, params["likelihood"])}
        total = jax.tree.map(lambda g: jnp.where(clock.epoch_end, 0, g), total)
    return DescentState(params, optimizer, total, updated_average(method, state.average, params, clock, batch)), info


def updated_average(method: ScheduledMethod, average: Params | None, params: Params, clock: Clock, batch: Batch) -> Any:
    """The exponential moving average after a step; as long as it has fewer steps than its horizon, the plain average."""
    if average is None:
        return None
    steps = jnp.clip(method.ema_epochs * batch.scale, 1, 1 + clock.step.astype(jnp.float32))
    return jax.tree.map(lambda a, p: a + (p - a) / steps, average, params)


def penalty_weight(method: ScheduledMethod, clock: Clock) -> Any:
    """min(1, progress/warm_up): the weight of the penalty in a step."""
    warm_up = jnp.asarray(method.warm_up, jnp.float32)
    return jnp.where(clock.progress < warm_up, clock.progress / jnp.where(warm_up > 0, warm_up, 1), 1)


def _where(chosen: Any, one: Params, other: Params) -> Params:
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), one, other)
