"""The contract of a likelihood p(y given z), and what several likelihoods share.

A likelihood is the criterion of training and the noise of prediction in one object: squared error
is the Gaussian, cross-entropy the Bernoulli or Categorical. Its functions work on z, the parameters
of the distribution of y at each row: a dictionary of arrays with rows first. Targets are
standardized inside, so z, y and all results are in standardized units.

To write a likelihood, subclass ``Likelihood``, make it a frozen dataclass, and register it as a
pytree with ``dubito._jax.pytree.register_dataclass``. To give it a name, add one line to
``by_name``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Array, Bool, Float, Shaped

from dubito._jax.types import ArrayLike, Key, Params

LOG_2PI = 1.8378770664093453

OutcomeParams: TypeAlias = dict[str, jax.Array]  # z: the parameters of p(y) at each row, arrays with rows first


class Likelihood(ABC):
    """p(y given z): n rows; K targets or C classes.

    The attributes that follow have defaults; a subclass sets those that differ, as class attributes
    or as fields.

    Attributes
    ----------
    task : str
        ``"regression"`` or ``"classification"``; has no default.
    targets : int
        K, the number of targets of a regression.
    classes : int
        C, the number of classes; 0 for a regression.
    columns_per_target : int
        Columns of y for each target. With 2, the K values are followed by K marks, which are 1 for
        a censored value.
    standardizes_targets : bool
        Whether y may be shifted and scaled before training. False for counts.
    discrete : bool
        Whether y is whole numbers, with probabilities in place of densities.
    normalized : bool
        Whether ``log_prob`` has all its constants, so that it may be reported as a log density.
    has_noise : bool
        Whether there is a ``variance``, a ``sample`` and, for regression, a ``cdf``. False for a
        cost that knows no noise.
    is_location_family : bool
        Whether there is a ``recenter``. float32 then holds the digits of y − mean, however far from
        0 the mean is.
    restricts_targets : bool
        Whether there is a ``supports``, because y may not be any number.
    level : float or None
        An offset of the linear predictor. None is an offset that an estimator sets to the log of
        the mean target.
    target_description : str
        What y may hold, in words, for messages.
    """

    task: str
    targets: int = 1
    classes: int = 0
    columns_per_target: int = 1
    standardizes_targets: bool = True
    discrete: bool = False
    normalized: bool = True
    has_noise: bool = True
    is_location_family: bool = False
    restricts_targets: bool = False
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
        """The start of the likelihood's own parameters φ.

        Returns
        -------
        pytree of arrays
            φ; an empty dictionary if there are none.
        """

    @abstractmethod
    def log_prior(self, phi: Params) -> Float[Array, ""]:
        """The log prior density of φ.

        Parameters
        ----------
        phi : pytree of arrays
            The likelihood's own parameters, as of ``init``.

        Returns
        -------
        array of shape ()
            log p(φ), in nats.
        """

    @abstractmethod
    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        """The network's outputs joined with the noise, so that each draw of parameters carries
        both.

        Parameters
        ----------
        f : array of shape (rows, width)
            The network's outputs.
        phi : pytree of arrays
            The likelihood's own parameters, as of ``init``.

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
            As of ``join``.
        y : array of shape (rows, columns), or (rows,) or (rows, C) for classes
            The targets in standardized units; class numbers, or probabilities of the classes.

        Returns
        -------
        array of shape (rows,)
            log p(y given z), in nats.
        """

    @abstractmethod
    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        """The mean of y at each row.

        Parameters
        ----------
        z : dict of arrays
            As of ``join``.

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
            As of ``join``.

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
            As of ``join``.
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
            As of ``join``.

        Returns
        -------
        array of shape (rows, targets), or int (rows,) for classes
            The draws in standardized units; for classes their numbers.
        """
        raise NotImplementedError

    def recenter(self, z: OutcomeParams, origin: Float[Array, "rows targets"]) -> OutcomeParams:
        """z of Y − origin; needed where ``is_location_family``.

        Parameters
        ----------
        z : dict of arrays
            As of ``join``.
        origin : array of shape (rows, targets)
            What to subtract from Y, in standardized units.

        Returns
        -------
        dict of arrays
            The parameters of the distribution of Y − origin.
        """
        raise NotImplementedError

    def supports(self, y: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, " rows"]:
        """Which rows of y the likelihood can have made; needed where ``restricts_targets``.

        Parameters
        ----------
        y : array of shape (rows, columns)
            The targets in their own units.

        Returns
        -------
        bool array of shape (rows,)
            False for rows that have no density, whatever z is.
        """
        raise NotImplementedError


class WithoutParameters(Likelihood):
    """A likelihood with no parameters of its own: φ is an empty dictionary."""

    def init(self) -> Params:
        return {}

    def log_prior(self, phi: Params) -> Float[Array, ""]:
        del phi
        return jnp.asarray(0.0)


class LocationScale(Likelihood):
    """Regression with z = {"mean": (rows, K), "scale": (rows, K)}, where (y − mean)/scale has one
    distribution.
    """

    task = "regression"
    is_location_family = True

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        return z["mean"]

    def recenter(self, z: OutcomeParams, origin: Float[Array, "rows targets"]) -> OutcomeParams:
        return {**z, "mean": z["mean"] - origin}


class Entry(NamedTuple):
    """A likelihood that has a name: how to make it, and what to say of it.

    Attributes
    ----------
    make : callable
        ``make(columns)`` for y's number of columns, or ``make(classes)``, gives the ``Likelihood``.
    task : str
        ``"regression"`` or ``"classification"``.
    formula : str
        −log p of one target, in terms of the network's outputs f.
    criterion : str
        The usual name of the loss.
    gradient : str
        The derivative of ``formula`` by f.
    targets : str
        What y may be.
    use : str
        When to use it.
    """

    make: Callable[[int], Likelihood]
    task: str
    formula: str
    criterion: str
    gradient: str
    targets: str
    use: str


def recenter(likelihood: Likelihood, z: OutcomeParams, origin: Float[Array, "rows targets"]) -> OutcomeParams:
    """z of Y − origin for a location family, else z as it is; ``origin_near`` gives an origin for
    both.
    """
    return likelihood.recenter(z, origin) if likelihood.is_location_family else z


def origin_near(likelihood: Likelihood, y: ArrayLike) -> Float[np.ndarray, "rows targets"]:
    """The origin from which to measure values near ``y``: y in float32 for a location family, else
    0.
    """
    with np.errstate(over="ignore"):
        near = np.asarray(y).astype(np.float32)
    return near if likelihood.is_location_family else np.zeros_like(near)


def log_gamma_density(log_value: Float[Array, "*shape"], shape: Any, rate: Any) -> Float[Array, "*shape"]:
    """The log density of log v where v ~ Gamma(shape, rate): the Jacobian of the logarithm turns
    v^(a−1) into v^a.

    A shape of at most 0 is improper, and has no constant.
    """
    shape, rate = jnp.asarray(shape, log_value.dtype), jnp.asarray(rate, log_value.dtype)
    return (
        shape * (jnp.log(rate) + log_value)
        - rate * jnp.exp(log_value)
        - special.gammaln(jnp.where(shape > 0, shape, 1))
    )
