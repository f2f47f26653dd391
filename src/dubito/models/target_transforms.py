"""Increasing transforms g of a target: a model with Gaussian noise is fitted to g(y), and predictions are in the units of y."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import optimize

from dubito._check import DataError, check_choice, in_rows

Values: TypeAlias = Float[np.ndarray, "*shape targets"]
Weight: TypeAlias = Float[np.ndarray, " rows"]

NAMES = ("log", "box-cox", "yeo-johnson")
REACH = 12.0  # standard deviations of the noise over which moments are integrated
GAUSS_LEGENDRE = np.transpose(np.polynomial.legendre.leggauss(64))
LAMBDAS = (0.0, 2.0)  # between these the moments of the target are finite
CLOSE = 1e-6  # how well an inverse must reproduce y, relative to its largest magnitude


class TargetTransform(abc.ABC):
    """An increasing function g of each target, with inverse and derivative. All arrays have the targets as last axis.

    Attributes
    ----------
    lowest : float
        The values of y are larger.
    """

    lowest: ClassVar[float] = -np.inf

    @abc.abstractmethod
    def forward(self, y: Values) -> Values:
        """g(y)."""

    @abc.abstractmethod
    def inverse(self, t: Values) -> Values:
        """The y with g(y) = t; beyond the range of g the end of the range of y."""

    @abc.abstractmethod
    def log_slope(self, y: Values) -> Values:
        """log g'(y)."""

    @abc.abstractmethod
    def kinks(self) -> Float[np.ndarray, " targets"] | None:
        """The t of each target where the inverse is not smooth, if there is one."""

    @property
    @abc.abstractmethod
    def targets(self) -> int | None:
        """The number of targets that the transform was fitted to; None for any number."""


@dataclass(frozen=True)
class LogTransform(TargetTransform):
    """g(y) = log y of positive targets: with Gaussian noise y is lognormal."""

    lowest: ClassVar[float] = 0.0

    @property
    def targets(self) -> None:
        return None

    def forward(self, y: Values) -> Values:
        return np.log(y)

    def inverse(self, t: Values) -> Values:
        with np.errstate(over="ignore"):
            return np.exp(t)

    def log_slope(self, y: Values) -> Values:
        return -np.log(y)

    def kinks(self) -> None:
        return None


@dataclass(frozen=True)
class BoxCoxTransform(TargetTransform):
    """g(y) = (y^λ − 1)/λ of positive targets, log y for λ = 0. What Gaussian noise has below the range of g is at y = 0.

    Parameters
    ----------
    lambdas : tuple of float
        λ of each target, from 0 to 2.
    """

    lambdas: tuple[float, ...]

    lowest: ClassVar[float] = 0.0

    @property
    def targets(self) -> int:
        return len(self.lambdas)

    def forward(self, y: Values) -> Values:
        return power_of_log(np.log(y), np.array(self.lambdas))

    def inverse(self, t: Values) -> Values:
        with np.errstate(over="ignore"):
            return np.exp(log_of_power(t, np.array(self.lambdas)))

    def log_slope(self, y: Values) -> Values:
        return (np.array(self.lambdas) - 1) * np.log(y)

    def kinks(self) -> Float[np.ndarray, " targets"]:
        return np.array([-1 / each if each > 0 else -np.inf for each in self.lambdas])


@dataclass(frozen=True)
class YeoJohnsonTransform(TargetTransform):
    """g(y) = ((1 + y)^λ − 1)/λ for y ≥ 0 and −((1 − y)^(2 − λ) − 1)/(2 − λ) for y < 0.

    Parameters
    ----------
    lambdas : tuple of float
        λ of each target, from 0 to 2.
    """

    lambdas: tuple[float, ...]

    @property
    def targets(self) -> int:
        return len(self.lambdas)

    def forward(self, y: Values) -> Values:
        powers = np.where(y < 0, 2 - np.array(self.lambdas), self.lambdas)
        return np.sign(y) * power_of_log(np.log1p(np.abs(y)), powers)

    def inverse(self, t: Values) -> Values:
        powers = np.where(t < 0, 2 - np.array(self.lambdas), self.lambdas)
        with np.errstate(over="ignore"):
            return np.sign(t) * np.expm1(log_of_power(np.abs(t), powers))

    def log_slope(self, y: Values) -> Values:
        return (np.array(self.lambdas) - 1) * np.sign(y) * np.log1p(np.abs(y))

    def kinks(self) -> Float[np.ndarray, " targets"]:
        return np.zeros(self.targets)


@dataclass(frozen=True)
class CustomTransform(TargetTransform):
    """A transform of your own. A model file cannot hold it.

    Parameters
    ----------
    function, inverse_function : callable
        g and its inverse, of arrays.
    derivative : callable, optional
        g'. By default JAX differentiates ``function``, which must then be written in jax.numpy.
    """

    function: Callable[[Any], Any]
    inverse_function: Callable[[Any], Any]
    derivative: Callable[[Any], Any] | None = None

    @property
    def targets(self) -> None:
        return None

    def forward(self, y: Values) -> Values:
        with jax.enable_x64(True):  # in case the functions use jax.numpy
            return np.asarray(self.function(y), np.float64)

    def inverse(self, t: Values) -> Values:
        with jax.enable_x64(True):
            return np.asarray(self.inverse_function(t), np.float64)

    def log_slope(self, y: Values) -> Values:
        if self.derivative is not None:
            return np.log(np.asarray(self.derivative(y), np.float64))
        with jax.enable_x64(True):
            at = jnp.asarray(y)
            return np.log(np.asarray(jax.jvp(self.function, (at,), (jnp.ones_like(at),))[1]))

    def kinks(self) -> None:
        return None


def power_of_log(x: np.ndarray, power: Any) -> np.ndarray:
    """(e^(λx) − 1)/λ, elementwise; x for λ = 0."""
    return np.where(np.equal(power, 0), x, np.expm1(power * x) / np.where(np.equal(power, 0), 1, power))


def log_of_power(t: np.ndarray, power: Any) -> np.ndarray:
    """The inverse of ``power_of_log``, elementwise; −∞ below its range."""
    with np.errstate(divide="ignore"):
        log = np.log1p(np.maximum(power * t, -1.0))
    return np.where(np.equal(power, 0), t, log / np.where(np.equal(power, 0), 1, power))


def fit_target_transform(
    choice: Any, y: Float[np.ndarray, "rows targets"], weight: Weight, numbers: np.ndarray
) -> TargetTransform | None:
    """The transform that an estimator's ``target_transform`` means, fitted to the training rows.

    Parameters
    ----------
    choice : None, str or tuple of callable
        A name in ``NAMES``, or (function, inverse) or (function, inverse, derivative).
    y : array of shape (rows, targets)
        The targets; missing entries are NaN.
    weight : array of shape (rows,)
        Positive weights.
    numbers : array of shape (rows,)
        The numbers of the rows, for messages.

    Returns
    -------
    TargetTransform or None
        None for None.

    Raises
    ------
    ValueError
        For any other choice, and for functions that are not increasing or not inverse to each other.
    DataError
        For targets without a logarithm; the message names their rows.
    """
    if choice is None:
        return None
    if not isinstance(choice, str):
        return _checked_functions(choice, y)
    check_choice("target_transform", choice, NAMES)
    if choice != "yeo-johnson" and np.any(y <= 0):
        bad = (y <= 0).any(axis=1)
        where = f"{in_rows(bad, numbers)}: the first has {y[bad][0].min():g}"
        raise DataError(
            f"target_transform={choice!r} needs positive targets, but y has others, {where}.",
            'Choose "yeo-johnson", or leave these rows out.',
            "Choose --target-transform yeo-johnson, or leave these rows out.",
        )
    if choice == "log":
        return LogTransform()
    best = best_box_cox if choice == "box-cox" else best_yeo_johnson
    known = [~np.isnan(column) for column in y.T]
    lambdas = tuple(best(column[rows], weight[rows]) for column, rows in zip(y.T, known, strict=True))
    return BoxCoxTransform(lambdas) if choice == "box-cox" else YeoJohnsonTransform(lambdas)


def _checked_functions(choice: Any, y: Float[np.ndarray, "rows targets"]) -> CustomTransform:
    if not (isinstance(choice, tuple) and len(choice) in (2, 3) and all(map(callable, choice))):
        raise ValueError(
            f"target_transform must be None, one of {', '.join(NAMES)}, or a tuple of functions "
            f"(function, inverse) or (function, inverse, derivative); got {choice!r}"
        )
    found = CustomTransform(*choice)
    for column in y.T:
        values = np.unique(column[~np.isnan(column)])[:, None]
        t = found.forward(values)
        if t.shape != values.shape or not np.all(np.isfinite(t)) or np.any(np.diff(t[:, 0]) <= 0):
            raise ValueError("target_transform: the function must be finite and increasing at all targets of fit")
        back, largest = found.inverse(t), np.abs(values).max()
        if back.shape != values.shape or not np.all(np.abs(back - values) <= CLOSE * largest):
            raise ValueError("target_transform: the second function must be the inverse of the first")
    return found


def best_box_cox(y: Float[np.ndarray, " rows"], weight: Weight) -> float:
    """The λ from 0 to 2 of the Box-Cox transform that maximizes the likelihood of a Gaussian for g(y).

    Below 0 the mean of y would be infinite.

    Parameters
    ----------
    y, weight : array of shape (rows,)
        Positive targets, and their weights.

    Returns
    -------
    float
        λ.
    """
    x = np.log(y)
    x = x - np.average(x, weights=weight)
    return _best_lambda(lambda power: power_of_log(x, power), 0.0, weight)


def best_yeo_johnson(y: Float[np.ndarray, " rows"], weight: Weight) -> float:
    """The λ from 0 to 2 of the Yeo-Johnson transform that maximizes the likelihood of a Gaussian for g(y).

    Outside the range of g would not be all numbers.

    Parameters
    ----------
    y, weight : array of shape (rows,)
        Targets, and their weights.

    Returns
    -------
    float
        λ.
    """
    slope = np.average(np.sign(y) * np.log1p(np.abs(y)), weights=weight)
    return _best_lambda(lambda power: YeoJohnsonTransform((power,)).forward(y[:, None])[:, 0], float(slope), weight)


def _best_lambda(transformed: Callable[[float], np.ndarray], slope: float, weight: Weight) -> float:
    """The λ that maximizes −½ log Var g(y) + (λ − 1)·slope."""

    def loss(power: float) -> float:
        t = transformed(power)
        variance = np.average((t - np.average(t, weights=weight)) ** 2, weights=weight)
        return 0.5 * np.log(max(variance, np.finfo(float).tiny)) - (power - 1) * slope

    found: Any = optimize.minimize_scalar(loss, bounds=LAMBDAS, method="bounded", options={"xatol": 1e-9})
    ends = [(loss(end), end) for end in LAMBDAS]
    return float(min([(found.fun, float(found.x)), *ends])[1])


def gaussian_moments(transform: TargetTransform, mean: Values, scale: Values) -> tuple[Values, Values]:
    """Mean and variance of y where g(y) ~ N(mean, scale²).

    Those of ``LogTransform`` are closed forms. Others are integrals over ±12 standard deviations, by
    64 Gauss-Legendre nodes on each side of the mean, or of the place where the inverse is not
    smooth, with relative errors below 1e-6.

    Parameters
    ----------
    transform : TargetTransform
        g.
    mean, scale : array of shape (..., targets)
        In units of g(y).

    Returns
    -------
    tuple of two arrays of shape (..., targets)
        In units of y, and their square.
    """
    if isinstance(transform, LogTransform):
        with np.errstate(over="ignore"):
            found = np.exp(mean + 0.5 * scale**2)
            return found, found**2 * np.expm1(scale**2)
    kinks = transform.kinks()
    middle = np.zeros_like(mean) if kinks is None else np.clip((kinks - mean) / scale, -REACH, REACH)
    points = []
    for end in (-REACH, REACH):  # x = middle + (end − middle) v², since the inverse may begin like a root there
        for node, share in GAUSS_LEGENDRE:
            v = 0.5 * (1 + node)
            x = middle + (end - middle) * v**2
            points.append((x, share * v * np.abs(end - middle) * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)))
    first, total = np.zeros_like(mean), np.zeros_like(mean)
    for x, share in points:
        first, total = first + share * transform.inverse(mean + scale * x), total + share
    first = first / total
    second = np.zeros_like(mean)
    for x, share in points:
        second = second + share * (transform.inverse(mean + scale * x) - first) ** 2
    return first, second / total
