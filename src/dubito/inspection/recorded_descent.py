"""The path of an optimizer: a descent that records its parameters while ``fit`` trains it."""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.inspection import network_view
from dubito.models.model import Batch, Model
from dubito.training.data import Rows
from dubito.training.descent import Descent
from dubito.training.members import Member, Trained
from dubito.training.method import Clock, ScheduledMethod


class Path(NamedTuple):
    """The path of an optimizer.

    Attributes
    ----------
    steps : array
        Numbers of steps (points,).
    params : pytree
        The parameters after each, with a leading axis of points.
    """

    steps: np.ndarray
    params: Params


class RecordedState(NamedTuple):
    """The state of a descent, and its recorded states with a leading axis."""

    descent: Any
    recorded: Any


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class RecordedDescent(Descent):
    """A descent that also stores its states after some steps; its fit returns the ``Path``."""

    method: ScheduledMethod
    at_steps: Any

    def check(self, model: Model) -> None:
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        members = self.method.members(rows, key)
        if len(members) > 1:
            raise ValueError(f"a path needs one descent; {type(self.method).__name__} has {len(members)} members")
        return members

    def init(self, model: Model, batch: Batch, key: Key) -> RecordedState:
        state = self.method.init(model, batch, key)
        return RecordedState(state, jax.tree.map(lambda leaf: jnp.stack([leaf] * len(self.at_steps)), state))

    def step(self, model: Model, state: RecordedState, batch: Batch, clock: Clock, key: Key) -> tuple[Any, Any]:
        descent, info = self.method.step(model, state.descent, batch, clock, key)
        due = jnp.asarray(self.at_steps) == clock.step + 1

        def record() -> Any:
            return jax.tree.map(lambda old, new: old.at[jnp.argmax(due)].set(new), state.recorded, descent)

        return RecordedState(descent, jax.lax.cond(jnp.any(due), record, lambda: state.recorded)), info

    def point(self, model: Model, state: RecordedState) -> Params:
        return self.method.point(model, state.descent)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Path:
        points = []
        for number in range(len(self.at_steps)):
            state = jax.tree.map(lambda leaf, number=number: leaf[number], trained.states[0].recorded)
            posterior = self.method.finish(model, replace(trained, states=(state,)), key, run)
            points.append(network_view.point_params(posterior))
        return Path(np.asarray(self.at_steps), jax.tree.map(lambda *leaves: np.stack(leaves), *points))


def record_descent(method: ScheduledMethod, at_steps: Int[np.ndarray, "points"]) -> RecordedDescent:
    """The method's descent, recorded after these steps, with the settings that the loop reads."""
    own = vars(method)
    if own.get("noise") == "held-out":  # which is fitted after a descent
        method = replace(method, noise="training")  # type: ignore[call-arg]
    settings = {field.name: own[field.name] for field in fields(Descent) if field.name in own}
    return RecordedDescent(method=method, at_steps=at_steps, **settings)
