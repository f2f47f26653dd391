"""The likelihood that an estimator's ``likelihood`` parameter means for a target, and the scaling of the target for it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import DataConversionWarning

from dubito._check import DataError, DataWarning, list_first, warn
from dubito._values import Column
from dubito.models.likelihoods import by_name, classes, gaussian
from dubito.models.likelihoods.base import Likelihood
from dubito.models.target_transforms import TargetTransform, fit_target_transform
from dubito.tables.scaling import TargetScaler
from dubito.tables.validation import check_target

NOISE_AFTER_MEAN = ("gaussian", "heteroscedastic")  # likelihoods whose noise the default method fits after the mean


def regression_target(
    likelihood: Any, y: Column, weight: Float[np.ndarray, " rows"], noise_after_mean: bool, transform: Any = None
) -> tuple[Any, TargetScaler, TargetTransform | None, Float[np.ndarray, "used columns"]]:
    """The likelihood of a regression, the scaler of its target, its transform, and the scaled target.

    Parameters
    ----------
    likelihood : None, str or Likelihood
        The parameter of the estimator.
    y : array of shape (rows,) or (rows, columns)
        The target.
    weight : array of shape (rows,)
        Checked sample weights; rows of weight zero may contain anything and are left out.
    noise_after_mean : bool
        Whether the method is the default one, which fits squared error first and the noise
        afterwards.
    transform : None, str or tuple of callable
        The parameter ``target_transform`` of the estimator.

    Returns
    -------
    tuple
        The likelihood, the ``TargetScaler``, the fitted ``TargetTransform`` or None, and the used
        rows of y, transformed and scaled, as float32 (used, columns).

    Raises
    ------
    DataError
        For values that are not targets of the likelihood; the message names their rows.
    """
    rows = np.flatnonzero(weight)
    table, flat = check_target(y, len(weight), "regression", rows)
    if table.shape[1] == 1 and not flat:
        message = "A column-vector y was passed when a 1d array was expected; predictions are 1d."
        warn(message, DataConversionWarning)
    chosen = regression_likelihood(likelihood, table.shape[1], noise_after_mean)
    _check_supported(chosen, table, rows)
    if transform is not None and not isinstance(chosen, gaussian.Gaussian | gaussian.HeteroscedasticGaussian):
        name = type(chosen).__name__
        raise ValueError(
            f"target_transform needs Gaussian noise, since other noise may have infinite moments; got {name}. "
            "Leave likelihood out, or use one of gaussian and heteroscedastic."
        )
    fitted = fit_target_transform(transform, table, weight[rows].astype(np.float64), rows)
    table = table if fitted is None else fitted.forward(table)
    measured = table[:, : chosen.targets]  # beside them there may be marks of censored ones
    scaler = TargetScaler.fit(measured, weight[rows], rows)
    chosen, scaler = match_scale(chosen, scaler, [median(column, weight[rows]) for column in measured.T])
    scaled = scaler.transform(table)
    scaled = by_name.round_to_float32(chosen, table) if chosen.bounds[1] == 1 else scaled
    _check_supported(chosen, scaled, rows)  # float32 may round a small positive number to 0
    return chosen, scaler, fitted, scaled


def scaled_target(
    likelihood: Likelihood, scaler: TargetScaler, y: Column, rows: int, columns: int
) -> Float[np.ndarray, "rows columns"]:
    """The target of other rows than those that determined its scale.

    Parameters
    ----------
    likelihood, scaler : Likelihood, TargetScaler
        As ``regression_target`` returns them.
    y : array of shape (rows,) or (rows, columns)
        The target.
    rows, columns : int
        Their numbers.

    Returns
    -------
    float32 array of shape (rows, columns)
        The scaled target.

    Raises
    ------
    DataError
        For another shape, and for values that are not targets of the likelihood.
    """
    table, _ = check_target(y, rows, "regression")
    if table.shape[1] != columns:
        raise DataError(f"y_val has the shape (n, {table.shape[1]}), and y has (n, {columns}).")
    scaled = scaler.transform(table)
    for values in (table, scaled):
        _check_supported(likelihood, values, np.arange(rows))
    return scaled


def _check_supported(likelihood: Likelihood, table: Float[np.ndarray, "used columns"], rows: np.ndarray) -> None:
    problem = by_name.target_error(likelihood, table, rows)
    if problem is not None:
        raise DataError(problem)


def regression_likelihood(likelihood: Any, columns: int, noise_after_mean: bool) -> Any:
    """The likelihood of a regression.

    Parameters
    ----------
    likelihood, noise_after_mean
        As in ``regression_target``.
    columns : int
        The number of columns of y.

    Returns
    -------
    Likelihood
        A Gaussian by default.
    """
    by_default = (
        likelihood is None or noise_after_mean and isinstance(likelihood, str) and likelihood in NOISE_AFTER_MEAN
    )
    if by_default:
        return gaussian.Gaussian(1.0 if noise_after_mean else None, targets=columns)
    return _named_or_own(likelihood, "regression", columns)


def match_scale(
    likelihood: Any, scaler: TargetScaler, medians: Sequence[float] | None = None
) -> tuple[Any, TargetScaler]:
    """Match a likelihood and a scaler to one another.

    They are unchanged for targets that may be any numbers. Positive targets are not shifted, and
    divided by their median, or, if it is unknown, by that of the lognormal distribution with their
    mean and sd. If the likelihood needs targets in their original units, the scaler is the
    identity, and for counts the likelihood's level is the log of the mean count, which centers log
    means as a shift centers means.

    Parameters
    ----------
    likelihood : Likelihood
        A likelihood for regression.
    scaler : TargetScaler
        As fitted.
    medians : sequence of float, optional
        The median of each target, unless the rows are streamed.

    Returns
    -------
    tuple
        The likelihood and the scaler to use.
    """
    if likelihood.standardizes_targets and likelihood.bounds[0] == 0:
        sizes = map(_lognormal_median, scaler.shift, scaler.scale) if medians is None else medians
        sizes = tuple(size if size > 0 else 1.0 for size in sizes)  # of targets that will be refused
        return likelihood, TargetScaler((0.0,) * len(sizes), sizes)
    if likelihood.standardizes_targets:
        return likelihood, scaler
    if likelihood.level is None:
        logs = [math.log(mean) for mean in scaler.shift if mean > 0]
        likelihood = replace(likelihood, level=float(np.mean(logs)) if logs else 0.0)
    return likelihood, TargetScaler((0.0,) * len(scaler.shift), (1.0,) * len(scaler.scale))


def median(values: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]) -> float:
    """The lower weighted median of the values that are not missing (NaN).

    Parameters
    ----------
    values, weight : array of shape (rows,)
        Numbers and their weights.

    Returns
    -------
    float
        One of the values.
    """
    known = ~np.isnan(values)
    order = np.argsort(values[known], kind="stable")
    below = np.cumsum(weight[known][order].astype(np.float64))
    return float(values[known][order][np.searchsorted(below, 0.5 * below[-1])])


def _lognormal_median(mean: float, sd: float) -> float:
    """The median of the lognormal distribution with this mean and sd; 0 for a mean that no positive target has."""
    return mean / math.hypot(1, sd / mean) if mean > 0 else 0.0


def classification_likelihood(likelihood: Any, labels: np.ndarray) -> Any:
    """The likelihood of a classification.

    Parameters
    ----------
    likelihood : None, str or Likelihood
        The parameter of the estimator.
    labels : array of shape (classes,)
        The sorted classes.

    Returns
    -------
    Likelihood
        Bernoulli or Categorical by default.

    Raises
    ------
    DataError
        For a likelihood with another number of classes.
    """
    count = len(labels)
    if likelihood is None:
        return classes.Bernoulli() if count == 2 else classes.Categorical(classes=count)
    chosen, names = _named_or_own(likelihood, "classification", count), list_first(list(labels))
    if chosen.classes != count:
        raise DataError(f"{type(chosen).__name__} is for {chosen.classes} classes, and y has {count}: {names}.")
    if isinstance(chosen, classes.Ordered) and labels.dtype.kind in "UO":
        message = f"The classes are ordered as texts: {names}. Use numbers for another order."
        warn(message, DataWarning)
    return chosen


def _named_or_own(likelihood: Any, task: str, count: int) -> Likelihood:
    """A likelihood by name for so many columns or classes, or the object itself; ValueError for one of another task."""
    if isinstance(likelihood, str):
        return by_name.get_likelihood(likelihood, task).make(count)
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"likelihood must be None, a name, or a likelihood such as dubito.Gaussian(); got {likelihood!r}"
        )
    if likelihood.task != task:
        raise ValueError(f"{type(likelihood).__name__} is a likelihood for {likelihood.task}, not for {task}")
    return likelihood
