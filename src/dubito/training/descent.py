"""Gradient descent on an objective: the shared settings, and one step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from dubito._jax.pytree import static
from dubito._jax.types import Params
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
    """

    params: Any
    optimizer: Any


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


def start_descent(method: ScheduledMethod, params: Params) -> DescentState:
    """The first state of a descent from ``params``, which are not packed for a user's optimizer: it may use the leaves."""
    params = pack(params) if isinstance(method.optimizer, str) else params
    return DescentState(params, optimizers.init_state(method, params))


def objective_step(
    method: ScheduledMethod,
    objective: Callable[[Params], tuple[Any, Any]],
    state: DescentState,
    clock: Clock,
    size: Any,
    strengths: Params | None = None,
) -> tuple[DescentState, dict[str, Any]]:
    """One step of ascent on log likelihood − penalty.

    Parameters
    ----------
    method : ScheduledMethod
        The settings of the descent.
    objective : callable
        A function from packed parameters to log likelihood and penalty, in nats of the data set.
    state : DescentState
    clock : Clock
    size : scalar
        The sum of the data set's weights, which divides both.
    strengths : pytree, optional
        Strengths of a proximal step (see ``optimizers.descend``).

    Returns
    -------
    tuple
        The new state, and {"likelihood", "penalty"} before the step, in nats per example.
    """

    def loss(params: Params) -> tuple[Any, dict[str, Any]]:
        likelihood, penalty = (value / size for value in objective(params))
        return penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

    gradient, info = jax.grad(loss, has_aux=True)(state.params)
    return DescentState(*optimizers.descend(method, gradient, state.params, state.optimizer, clock, strengths)), info
