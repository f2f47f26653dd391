"""The contract of a likelihood p(y given z), and what several likelihoods share.

A likelihood is the criterion of training and the noise of prediction in one object: squared error
is the Gaussian, cross-entropy the Bernoulli or Categorical. Its functions work on z, the parameters
of the distribution of y at each row: a dictionary of arrays with rows first. Targets are
standardized internally, so z, y and all results are in standardized units.

To write a likelihood, subclass ``Likelihood``, make it a frozen dataclass, and register it as a
pytree with ``dubito._jax.pytree.register_dataclass``. To name it, see ``by_name``.
"""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from dubito._jax.types import ArrayLike, Key, Params

LOG_2PI: float = 1.8378770664093453

# z: the parameters of p(y) at each row, arrays of JAX or NumPy (or their shapes) with rows first.
OutcomeParams: TypeAlias = dict[str, Any]


class Likelihood(ABC):
    """p(y given z) for rows with K targets or C classes.

    A subclass sets the attributes that differ from their defaults, also as fields.

    Attributes
    ----------
    task : str
        ``"regression"`` or ``"classification"``; has no default.
    targets : int
        K, the number of targets in regression.
    classes : int
        C, the number of classes; 0 in regression.
    columns_per_target : int
        Columns of y per target. With 2, the K values are followed by K marks, which are 1 for a
        censored value.
    standardizes_targets : bool
        Whether y may be shifted and scaled before training; where ``bounds`` are finite, only
        scaled. False for counts and shares.
    bounds : tuple of float
        The smallest and the largest value that y can approach: (0, ∞) for positive numbers and
        counts, (0, 1) for shares. Scaling does not move them, and intervals do not exceed them.
    discrete : bool
        Whether y is a whole number, with probabilities in place of densities.
    normalized : bool
        Whether ``log_prob`` includes all constants, so that it can be reported as a log density.
    has_noise : bool
        Whether ``variance``, ``sample`` and, for regression, ``cdf`` are defined.
    is_location_family : bool
        Whether ``recenter`` is defined, so that float32 resolves y − mean for any mean.
    restricts_targets : bool
        Whether ``supports`` is defined, because y cannot be any number.
    independent_targets : bool
        Whether the targets are independent given z, all arrays of which are (rows, K): then some
        entries of y may be missing.
    level : float or None
        An offset of the linear predictor. Estimators set None to the log of the mean target.
    target_description : str
        The values that y can have, in words, for messages.
    """

    task: str
    targets: int = 1
    classes: int = 0
    columns_per_target: int = 1
    standardizes_targets: bool = True
    bounds: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    discrete: bool = False
    normalized: bool = True
    has_noise: bool = True
    is_location_family: bool = False
    restricts_targets: bool = False
    independent_targets: bool = False
    level: float | None = 0.0
    target_description: str = "one column for each target"

    @property
    @abstractmethod
    def width(self) -> int:
        """The number of network outputs that the likelihood needs."""

    @property
    def columns(self) -> int:
        """The number of columns of a regression's y."""
        return self.columns_per_target * self.targets

    @abstractmethod
    def init(self) -> Params:
        """The initial values of the likelihood's parameters φ.

        Returns
        -------
        dict of arrays
            φ; empty if there are none.
        """

    @abstractmethod
    def log_prior(self, phi: Params) -> Float[Array, ""]:
        """The log prior density of φ.

        Parameters
        ----------
        phi : dict of arrays
            φ, as returned by ``init``.

        Returns
        -------
        array of shape ()
            log p(φ), in nats.
        """

    @abstractmethod
    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        """The parameters of p(y): the network's outputs joined with the noise.

        Parameters
        ----------
        f : array of shape (rows, width)
            The network's outputs.
        phi : dict of arrays
            φ, as returned by ``init``.

        Returns
        -------
        dict of arrays
            z, with rows first in each array.
        """

    @abstractmethod
    def log_prob(self, z: OutcomeParams, y: Shaped[Array, "rows *columns"]) -> Float[Array, " rows"]:
        """The log density of each row.

        Parameters
        ----------
        z : dict of arrays
            As returned by ``join``.
        y : array of shape (rows, columns), or (rows,) or (rows, C) for classes
            The targets in standardized units; class numbers, or probabilities of the classes.

        Returns
        -------
        array of shape (rows,)
            log p(y given z), in nats.
        """

    def log_prob_observed(self, z: OutcomeParams, y: Shaped[Array, "rows *columns"]) -> Float[Array, " rows"]:
        """The log density of the targets that each row has: entries of y that are NaN are left out.

        Parameters
        ----------
        z, y
            As for ``log_prob``. Entries can be missing where there are several
            ``independent_targets``.

        Returns
        -------
        array of shape (rows,)
            log p(observed entries of y given z), in nats; 0 where there are none.
        """
        if not self.independent_targets or self.targets == 1:
            return self.log_prob(z, y)
        missing = jnp.isnan(y)
        filled = jnp.where(missing, self.possible_target, y)

        def one_target(z: OutcomeParams, y: Array) -> Array:
            return self.log_prob({name: values[:, None] for name, values in z.items()}, y[:, None])

        each = jax.vmap(one_target, in_axes=1, out_axes=1)(z, filled)
        return jnp.sum(jnp.where(missing, 0, each), axis=1)

    @property
    def possible_target(self) -> float:
        """A value that y can have, in the place of missing entries."""
        low, high = self.bounds
        return 0.0 if low != 0 else 0.5 if high == 1 else 1.0

    @abstractmethod
    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        """The mean of y at each row.

        Parameters
        ----------
        z : dict of arrays
            As returned by ``join``.

        Returns
        -------
        array of shape (rows, targets), or (rows, C) for classes
            E[y given z]; for classes their probabilities.
        """

    def variance(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        """The variance of y at each row; needed where ``has_noise``.

        Parameters
        ----------
        z : dict of arrays
            As returned by ``join``.

        Returns
        -------
        array of shape (rows, targets), or (rows, C) for classes
            Var[y given z], inf where there is none; for classes p(1 − p).
        """
        raise NotImplementedError

    def cdf(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, "rows targets"]:
        """The cumulative distribution of each target; needed for regression where ``has_noise``.

        Parameters
        ----------
        z : dict of arrays
            As returned by ``join``.
        y : array of shape (rows, targets)
            Where to evaluate it, in standardized units.

        Returns
        -------
        array of shape (rows, targets)
            P(Y ≤ y given z).
        """
        raise NotImplementedError

    def sample(self, key: Key, z: OutcomeParams) -> Shaped[Array, "rows *targets"]:
        """One draw of y for each row; needed where ``has_noise``.

        Parameters
        ----------
        key : jax.Array
            A key of ``jax.random.key``.
        z : dict of arrays
            As returned by ``join``.

        Returns
        -------
        array of shape (rows, targets), or int (rows,) for classes
            The draws in standardized units, or class numbers.
        """
        raise NotImplementedError

    def recenter(self, z: OutcomeParams, origin: Float[Array, "rows targets"]) -> OutcomeParams:
        """z of Y − origin; needed where ``is_location_family``.

        Parameters
        ----------
        z : dict of arrays
            As returned by ``join``.
        origin : array of shape (rows, targets)
            What to subtract from Y, in standardized units.

        Returns
        -------
        dict of arrays
            The parameters of the distribution of Y − origin.
        """
        raise NotImplementedError

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        """Which rows of y have a density; needed where ``restricts_targets``.

        Parameters
        ----------
        y : array of shape (rows, columns)
            The targets in their original units.

        Returns
        -------
        bool array of shape (rows,)
            False for rows without a density, whatever z is.
        """
        raise NotImplementedError


class WithoutParameters(Likelihood):
    """A likelihood without parameters of its own: φ is an empty dictionary."""

    def init(self) -> Params:
        return {}

    def log_prior(self, phi: Params) -> Float[Array, ""]:
        return jnp.asarray(0.0)


class LocationScale(Likelihood):
    """Regression with "mean" and "scale" in z, (rows, K) each: (y − mean)/scale has one distribution."""

    task = "regression"
    is_location_family = True
    independent_targets = True

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"]

    def recenter(self, z: OutcomeParams, origin: Float[Array, "rows targets"]) -> OutcomeParams:
        return {**z, "mean": z["mean"] - origin}


class Entry(NamedTuple):
    """A named likelihood and its description.

    Attributes
    ----------
    kind : type
        The ``Likelihood``.
    formula, gradient : str
        −log p of one target as a function of the network's outputs f, and its derivative.
    criterion : str
        The usual name of the loss.
    targets, use : str
        The values that y can have, and when to use the likelihood.
    """

    kind: type[Any]
    formula: str
    criterion: str
    gradient: str
    targets: str
    use: str

    @property
    def task(self) -> str:
        """``"regression"`` or ``"classification"``."""
        return self.kind.task

    def make(self, count: int) -> Likelihood:
        """Make the likelihood for a number of columns of y, or of classes.

        Parameters
        ----------
        count : int
            Of columns in regression, otherwise of classes.

        Returns
        -------
        Likelihood
            Its other fields have their defaults.
        """
        name = "targets" if self.task == "regression" else "classes"
        number = max(count // self.kind.columns_per_target, 1)
        return self.kind(**{name: number} if name in {field.name for field in fields(self.kind)} else {})


def recenter(likelihood: Likelihood, z: OutcomeParams, origin: Float[Array, "rows targets"]) -> OutcomeParams:
    """z of Y − origin for a location family, otherwise z unchanged.

    Parameters
    ----------
    likelihood : Likelihood
        The distribution of Y.
    z : dict of arrays
        Its parameters.
    origin : array of shape (rows, targets)
        What to subtract from Y, as returned by ``origin_near``.

    Returns
    -------
    dict of arrays
        The parameters of the distribution of Y − origin.
    """
    return likelihood.recenter(z, origin) if likelihood.is_location_family else z


def origin_near(likelihood: Likelihood, y: ArrayLike) -> Float[np.ndarray, "*levels rows targets"]:
    """The origin from which values near ``y`` are measured.

    Parameters
    ----------
    likelihood : Likelihood
        The distribution of the values.
    y : array of shape (rows, targets)
        Finite numbers.

    Returns
    -------
    array of shape (rows, targets)
        y in float32 for a location family, otherwise 0.
    """
    with np.errstate(over="ignore"):
        near = np.asarray(y).astype(np.float32)
    return near if likelihood.is_location_family else np.zeros_like(near)
