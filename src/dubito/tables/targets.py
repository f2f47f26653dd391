"""Which likelihood an estimator's ``likelihood`` parameter means for a target, and how the target is scaled for it."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import DataConversionWarning

from dubito._check import DataError, DataWarning, list_first
from dubito._values import Column
from dubito.models.likelihoods.base import Likelihood
from dubito.models.likelihoods.by_name import get_likelihood, target_error
from dubito.models.likelihoods.classes import Bernoulli, Categorical, Ordered
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.tables.scaling import TargetScaler
from dubito.tables.validation import check_target

NOISE_AFTER_MEAN = ("gaussian", "heteroscedastic")  # likelihoods whose noise the default method fits after the mean


def regression_target(
    likelihood: Any, y: Column, weight: Float[np.ndarray, "rows"], noise_after_mean: bool
) -> tuple[Any, TargetScaler, Float[np.ndarray, "used columns"]]:
    """The likelihood of a regression, the scaler of its target, and the scaled target.

    Parameters
    ----------
    likelihood : None, a name, or an object.
    y : (rows,) or (rows, columns).
    weight : checked sample weights; rows of weight zero may hold anything and are left out.
    noise_after_mean : whether the method is the default one, which fits squared error first and the noise afterwards.

    Returns
    -------
    tuple
        Likelihood, ``TargetScaler``, and the used rows of y as float32 (used, columns).

    Raises
    ------
    DataError
        For values that are no targets of the likelihood; the message names their rows.
    """
    rows = np.flatnonzero(weight)
    table, flat = check_target(y, len(weight), "regression", rows)
    if table.shape[1] == 1 and not flat:
        message = "A column-vector y was passed when a 1d array was expected; predictions are 1d."
        warnings.warn(message, DataConversionWarning, stacklevel=4)
    chosen = regression_likelihood(likelihood, table.shape[1], noise_after_mean)
    problem = target_error(chosen, table, rows)
    if problem is not None:
        raise DataError(problem)
    measured = table[:, : chosen.targets]  # beside them there may be marks of censored ones
    chosen, scaler = match_scale(chosen, TargetScaler.fit(measured, weight[rows], rows))
    scaled = scaler.transform(table)
    problem = target_error(chosen, scaled, rows)  # float32 may round a small positive number to 0
    if problem is not None:
        raise DataError(problem)
    return chosen, scaler, scaled


def regression_likelihood(likelihood: Any, columns: int, noise_after_mean: bool) -> Any:
    """The likelihood of a regression whose y has so many columns; arguments as for ``regression_target``."""
    if likelihood is None or noise_after_mean and isinstance(likelihood, str) and likelihood in NOISE_AFTER_MEAN:
        return Gaussian(1.0 if noise_after_mean else None, targets=columns)
    if isinstance(likelihood, str):
        return get_likelihood(likelihood, "regression").make(columns)
    return check_likelihood(likelihood, "regression")


def match_scale(likelihood: Any, scaler: TargetScaler) -> tuple[Any, TargetScaler]:
    """A likelihood and a scaler that fit one another.

    They stay as they are, unless the likelihood needs targets in their own units: then the scaler is the identity, and for
    counts the likelihood's level is the log of the mean count, which centers log means as a shift centers means.
    """
    if likelihood.standardizes_targets:
        return likelihood, scaler
    if likelihood.level is None:
        logs = [math.log(mean) for mean in scaler.shift if mean > 0]
        likelihood = replace(likelihood, level=float(np.mean(logs)) if logs else 0.0)
    return likelihood, TargetScaler((0.0,) * len(scaler.shift), (1.0,) * len(scaler.scale))


def classification_likelihood(likelihood: Any, labels: np.ndarray) -> Any:
    """The likelihood of a classification.

    Parameters
    ----------
    likelihood : None, a name, or an object.
    labels : the sorted classes.

    Raises
    ------
    DataError
        For a likelihood of another number of classes.
    """
    count = len(labels)
    if likelihood is None:
        return Bernoulli() if count == 2 else Categorical(classes=count)
    by_name = isinstance(likelihood, str)
    chosen = (
        get_likelihood(likelihood, "classification").make(count)
        if by_name
        else check_likelihood(likelihood, "classification")
    )
    wanted = chosen.classes
    if wanted != count:
        raise DataError(
            f"{type(chosen).__name__} is for {wanted} classes, and y has {count}: {list_first(list(labels))}."
        )
    if isinstance(chosen, Ordered) and labels.dtype.kind in "UO":
        message = f"The classes are ordered as texts: {list_first(list(labels))}. Use numbers for another order."
        warnings.warn(message, DataWarning, stacklevel=5)
    return chosen


def check_likelihood(likelihood: Any, task: str) -> Any:
    """The likelihood itself; ValueError for what is none, and for one of another task."""
    if not isinstance(likelihood, Likelihood):
        raise ValueError(f"likelihood is None, a name, or a likelihood such as dubito.Gaussian(); got {likelihood!r}")
    if likelihood.task != task:
        raise ValueError(f"{type(likelihood).__name__} is a likelihood for {likelihood.task}, not for {task}")
    return likelihood
