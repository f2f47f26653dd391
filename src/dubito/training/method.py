"""The contract of a method: what the loop and the rest of the library may ask of one, each declared once.

    Method                    what ``fit`` calls: ``check``, ``members``, ``finish``
    ├── Wrapper               runs another method, its field ``method``, once or several times
    └── LoopMethod            what the loop drives: ``init``, ``step``, and ``score`` where early stopping is possible
        └── ScheduledMethod   steps on batches, with a learning rate times a schedule

These are abstract; every class that can be fitted is final. A method is a frozen dataclass registered as a pytree: its
numbers are traced, so that other values of them compile nothing, and its static fields shape the program.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from dubito._check import did_you_mean
from dubito._jax.pytree import static
from dubito._jax.types import Key, Params
from dubito.models.model import Batch, Model
from dubito.training.data import Rows
from dubito.training.members import Member, Trained


class Clock(NamedTuple):
    """Where in a run a step is.

    Attributes
    ----------
    step : int32 scalar
        Steps before this one.
    progress : float32 scalar
        ``step`` over the run's number of steps, in [0, 1).
    epoch_end : bool scalar
        Whether this is the last step of its epoch.
    step_factor : float32 scalar
        Multiplies the step size: 1, halved after each divergence.
    """

    step: Any
    progress: Any
    epoch_end: Any
    step_factor: Any


class Method(ABC):
    """How a model is inferred from rows.

    Attributes
    ----------
    every_row : bool
        Whether all rows must be in memory, so that data larger than memory are refused.
    validates : bool
        Whether ``members`` sets validation rows aside itself, so that ``fit`` holds none out.
    """

    every_row: ClassVar[bool] = False
    validates: ClassVar[bool] = False

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        check_call(cls, args, settings)
        return object.__new__(cls)

    @abstractmethod
    def check(self, model: Model) -> None:
        """Raise ValueError if a setting is invalid or the method cannot infer ``model``. Called once, before a fit."""

    @abstractmethod
    def members(self, rows: Rows, key: Key) -> list[Member]:
        """The runs of the loop that make one posterior: a key and weights of the ``rows`` for each."""

    @abstractmethod
    def finish(self, model: Model, trained: Trained, key: Key, run: Callable[..., Trained]) -> Any:
        """The posterior of the members' final states. ``run(model, method, members=members)`` trains again."""


def check_call(kind: type, args: tuple[Any, ...], settings: dict[str, Any]) -> None:
    """Raise TypeError that says how to write the settings, where a class cannot be called with these arguments."""
    signature = inspect.signature(kind.__init__)
    try:
        signature.bind(None, *args, **settings)
    except TypeError as error:
        names = list(signature.parameters)[1:]
        call = f"{kind.__name__}({', '.join(f'{name}=...' for name in names)})"
        unknown = next((name for name in settings if name not in names), None)
        if unknown is not None:
            hint = did_you_mean(unknown, names)
            raise TypeError(f"{kind.__name__} has no setting {unknown!r}{hint} It has {call}") from None
        if len(args) > 0:
            raise TypeError(f"{kind.__name__} takes its settings by name: {call}") from None
        raise TypeError(f"{kind.__name__}: {error}. Write {call}") from None


@dataclass(frozen=True)
class Wrapper(Method):
    """A method that runs another one.

    Parameters
    ----------
    method : Method
        The method that is run; it may be a wrapper, too.

    Attributes
    ----------
    runs_field : str or None
        The name of the field that is the number of runs; None: one run.
    """

    method: Any

    runs_field: ClassVar[str | None] = None


class LoopMethod(Method):
    """A method that the loop drives, step by step.

    Attributes
    ----------
    epochs : int or None
        Passes over the rows; None: ``least_epochs``, or as many as show 400,000 rows.
    batch_size : int or None
        Rows of a step; None: all.
    least_epochs : int
        The number of epochs where ``epochs`` is None and rows are many.
    score : callable or None
        ``score(model, state, batch, key)`` gives log p(y | x) of each row of held-out data, (n,), in nats. None: the method
        runs its whole schedule, and early stopping is refused.
    thin : int or None
        Every ``thin``-th draw of a chain is stored; None: no such setting.
    cycles : int
        The draws of a chain are a multiple of it.
    """

    epochs: Any
    batch_size: Any
    thin: Any = None
    cycles: Any = 1
    least_epochs: ClassVar[int] = 400
    score: ClassVar[Callable[..., Any] | None] = None

    @abstractmethod
    def init(self, model: Model, batch: Batch, key: Key) -> Any:
        """The first state, a pytree of arrays. Of ``batch`` only the shapes of the rows have a meaning."""

    @abstractmethod
    def step(self, model: Model, state: Any, batch: Batch, clock: Clock, key: Key) -> tuple[Any, dict[str, Any]]:
        """The state after one batch, and {"likelihood", "penalty"}: scalars in nats per example."""

    @abstractmethod
    def point(self, model: Model, state: Any) -> Params:
        """The model's parameters at a state; of a distribution its mean."""


@dataclass(frozen=True, kw_only=True)
class ScheduledMethod(LoopMethod):
    """A method that steps on batches: by ``learning_rate`` · ``schedule`` · the clock's step factor.

    Parameters
    ----------
    epochs : int, optional
        Passes over the rows. None: ``least_epochs``, or on fewer rows as many as show 400,000 in all.
    batch_size : int or None
        Rows of a step; None: all.
    learning_rate : float or None
        Multiplies the gradient of the objective per example; None: the optimizer's usual one.
    schedule : {"constant", "cosine", "linear"}
        How the rate falls over a run.
    """

    epochs: int | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    schedule: str = static(default="cosine")

    optimizer: ClassVar[Any] = "sgd"  # plain steps; ``Descent`` lets users choose
    clip: ClassVar[Any] = None
    max_norm: ClassVar[Any] = None


def base_method(method: Any) -> Any:
    """The method that the loop drives, inside all wrappers."""
    while isinstance(method, Wrapper):
        method = method.method
    return method


def check_method(method: Any) -> None:
    """Raise ValueError unless ``method``, and what it wraps, are methods and not their classes or names."""
    inner = base_method(method)
    if not isinstance(inner, LoopMethod):
        raise ValueError(f"method must be a method such as MAP() or Ensemble(MAP(), 5), got {inner!r}")
