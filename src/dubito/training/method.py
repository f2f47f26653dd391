"""The contract of a method: all that the loop and the rest of the library may ask of one.

    Method                    called by ``fit``: ``check``, ``members``, ``finish``
    ├── Wrapper               runs another method, its field ``method``, once or several times
    └── LoopMethod            driven by the loop: ``init``, ``step``, and ``score`` for early stopping
        └── ScheduledMethod   steps on batches, with a learning rate times a schedule

These classes are abstract; a class that can be fitted is final. A method is a frozen dataclass
registered as a pytree: its numbers are traced, so that other values need no compilation, and its
static fields determine the program.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from dubito._check import did_you_mean
from dubito._jax.pytree import static
from dubito._jax.types import Key, Params
from dubito.models.model import Batch, Model
from dubito.training.data import Rows
from dubito.training.members import Member, Trained

TASKS = ("regression", "classification")


class Clock(NamedTuple):
    """The position of a step in its run.

    Attributes
    ----------
    step : int32 scalar
        The number of steps before this one.
    progress : float32 scalar
        ``step`` divided by the number of steps of the run, in [0, 1).
    epoch_end : bool scalar
        Whether this is the last step of its epoch.
    step_factor : float32 scalar
        A factor of the step size: 1, halved after each divergence.
    """

    step: Any
    progress: Any
    epoch_end: Any
    step_factor: Any


class Recipe(NamedTuple):
    """The network, prior and length of training with which a method predicts best on tables, as far
    as users do not choose.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    activation : str
        Between the layers.
    periodic : int
        Trained frequencies of each numeric column.
    last_variance : float
        The weights of the last layer start with variance last_variance/fan-in.
    wave_scale : float
        Multiplies the weights of the waves at the start.
    prior_scale : float
        That of the ``Normal`` prior with the network's own scales.
    rows_seen : int
        Rows to process in training, where the method's ``epochs`` is None.
    least_epochs : int
        Epochs at least, where it is None.
    """

    hidden: tuple[int, ...] = (50,)
    activation: str = "relu"
    periodic: int = 0
    last_variance: float = 1.0
    wave_scale: float = 1.0
    prior_scale: float = 1.0
    rows_seen: int = 400_000
    least_epochs: int = 400

    def epochs(self, rows: int) -> int:
        """The epochs for so many rows, where the method leaves them open."""
        return max(self.least_epochs, self.rows_seen // rows)


class Method(ABC):
    """How to infer a model's parameters from data.

    Attributes
    ----------
    recipes : dict of Recipe, or None
        By task; None for a wrapper that has those of the method that it runs.
    every_row : bool
        Whether all rows must be in memory, so that streams are refused.
    validates : bool
        Whether ``members`` chooses validation rows, so that ``fit`` does not.
    has_folds : bool
        Whether ``members`` divides the rows by ``splits.member_folds``.
    allows_missing_targets : bool
        Whether some of several targets may be missing (NaN), which ``log_prob_observed`` leaves
        out. False for methods that compute with y in other ways.
    """

    recipes: ClassVar[dict[str, Recipe] | None] = None
    every_row: ClassVar[bool] = False
    validates: ClassVar[bool] = False
    has_folds: ClassVar[bool] = False
    allows_missing_targets: ClassVar[bool] = True

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        check_call(cls, args, settings)
        return object.__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), vars(self)  # for copies and pickles

    @abstractmethod
    def check(self, model: Model) -> None:
        """Validate the settings; called once, before a fit.

        Parameters
        ----------
        model : Model

        Raises
        ------
        ValueError
            If a setting is invalid, or the method does not support the model.
        """

    @abstractmethod
    def members(self, rows: Rows, key: Key) -> list[Member]:
        """Choose the runs of the loop that make up one posterior.

        Parameters
        ----------
        rows : Rows
        key : Key

        Returns
        -------
        list of Member
            A key and weights of ``rows`` for each run.
        """

    @abstractmethod
    def finish(self, model: Model, trained: Trained, key: Key, run: Callable[..., Trained]) -> Any:
        """Build the posterior from the members' final states.

        Parameters
        ----------
        model : Model
        trained : Trained
            The members that did not diverge.
        key : Key
        run : callable
            ``run(model, method, members=members)`` trains again and returns ``Trained``.

        Returns
        -------
        Posterior
        """


def check_call(kind: type, args: tuple[Any, ...], settings: dict[str, Any]) -> None:
    """Raise a TypeError that shows the settings, if a class cannot be called with these arguments."""
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
        The method to run, which may be a wrapper.

    Attributes
    ----------
    runs_field : str or None
        The name of the field with the number of runs; None: one run.
    """

    method: Any

    runs_field: ClassVar[str | None] = None


class LoopMethod(Method):
    """A method that the loop drives step by step.

    Attributes
    ----------
    epochs : int or None
        Passes over the rows; None: by the method's ``Recipe``.
    batch_size : int or None
        The number of rows of a step; None: all.
    penalty_name : str
        What reports call the penalty of the objective, such as "KL"; empty: they leave it out.
    score : callable or None
        ``score(model, state, batch, key)`` returns log p(y | x) of each held-out row, (n,), in
        nats. None: the method runs its whole schedule, and early stopping is refused.
    thin : int or None
        Every ``thin``-th draw of a chain is stored; None if the method has no such setting.
    cycles : int
        The number of draws of a chain is a multiple of it.
    """

    epochs: Any
    batch_size: Any
    thin: Any = None
    cycles: Any = 1
    recipes: ClassVar[dict[str, Recipe] | None] = dict.fromkeys(TASKS, Recipe())
    penalty_name: ClassVar[str] = ""
    score: ClassVar[Callable[..., Any] | None] = None

    @abstractmethod
    def init(self, model: Model, batch: Batch, key: Key) -> Any:
        """The first state.

        Parameters
        ----------
        model : Model
        batch : Batch
            Only its shapes are meaningful.
        key : Key

        Returns
        -------
        pytree of arrays
        """

    @abstractmethod
    def step(self, model: Model, state: Any, batch: Batch, clock: Clock, key: Key) -> tuple[Any, dict[str, Any]]:
        """One step.

        Parameters
        ----------
        model : Model
        state : pytree of arrays
        batch : Batch
        clock : Clock
        key : Key

        Returns
        -------
        tuple
            The new state, and {"likelihood", "penalty"}: scalars in nats per example.
        """

    @abstractmethod
    def point(self, model: Model, state: Any) -> Params:
        """The parameters of the model in a state; for a distribution, its mean.

        Parameters
        ----------
        model : Model
        state : pytree of arrays

        Returns
        -------
        pytree of arrays
        """


@dataclass(frozen=True, kw_only=True)
class ScheduledMethod(LoopMethod):
    """A method that steps on batches, with step size ``learning_rate`` · ``schedule`` · the clock's step factor.

    Parameters
    ----------
    epochs : int or tuple of int, optional
        Passes over the rows. With several numbers, from the smallest to the largest, held-out rows
        choose: all members are trained for the first number, and anew for the next as long as the
        median of their best epochs lies in the second half of the run. None: by the method's
        ``Recipe``, enough to process so many rows.
    batch_size : int or None
        The number of rows of a step; None: all.
    learning_rate : float or None
        Multiplies the gradient of the objective per example; None: the optimizer's default.
    schedule : {"cosine", "constant", "linear"}
        How the learning rate decreases during a run.
    """

    epochs: int | tuple[int, ...] | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    schedule: str = static(default="cosine")

    optimizer: ClassVar[Any] = "sgd"  # plain steps; ``Descent`` lets users choose
    clip: ClassVar[Any] = None
    max_norm: ClassVar[Any] = None
    ema_epochs: ClassVar[Any] = None  # the horizon of an exponential moving average of the parameters
    warm_up: ClassVar[Any] = 0.0  # the fraction of the steps in which the penalty's weight rises from 0 to 1


def base_method(method: Any) -> Any:
    """The method inside all wrappers, which the loop drives."""
    while isinstance(method, Wrapper):
        method = method.method
    return method


def get_recipe(method: Method, task: str) -> Recipe:
    """The recipe of a method, or of the one that it wraps, for a task."""
    found: Any = method
    while found.recipes is None:
        found = found.method
    return found.recipes[task]


def check_missing_targets(method: Any, rows: Rows) -> None:
    """Raise ValueError if some targets are missing (NaN), and the method or one that it wraps does not allow it."""
    if rows.y.dtype.kind != "f" or not np.isnan(rows.y).any():
        return
    while method.allows_missing_targets and isinstance(method, Wrapper):
        method = method.method
    if not method.allows_missing_targets:
        raise ValueError(
            f"{type(method).__name__} needs all targets of every row, and y has {np.isnan(rows.y).sum()} missing ones. "
            "Leave these rows out, fit each target alone, or choose another method, such as MAP or MCDropout."
        )


def check_method(method: Any) -> None:
    """Raise ValueError unless ``method`` and the method that it wraps are instances of methods."""
    inner = base_method(method)
    if not isinstance(inner, LoopMethod):
        raise ValueError(f"method must be a method such as MAP() or Ensemble(MAP(), 5), got {inner!r}")
