"""What an estimator's ``likelihood`` makes of a table's target: which likelihood it is, and how targets are scaled for it."""

import math
import warnings
from dataclasses import replace

import numpy as np
from sklearn.exceptions import DataConversionWarning

from dubito.models.likelihoods.base import Likelihood
from dubito.models.likelihoods.by_name import get_likelihood, target_error
from dubito.models.likelihoods.classes import Bernoulli, Categorical, Ordered
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.tables.columns import DataError, DataWarning, TargetScaler, check_target, list_first

LATER = ("gaussian", "heteroscedastic")  # whose noise the default method finds after the mean


def numbers(likelihood, y, weight, later):
    """(likelihood, its ``TargetScaler``, y as float32 (n, columns)) for the target y of a regression, in its n rows whose
    ``weight`` is above zero.

    ``likelihood``: None, a name or an object; ``later``: the method is the default one, which fits squared error and finds
    the noise after. Raises DataError that names the rows which the likelihood cannot have made.
    """
    rows = np.flatnonzero(weight)
    table, flat = check_target(y, len(weight), "regression", rows)
    if table.shape[1] == 1 and not flat:
        message = "A column-vector y was passed when a 1d array was expected; predictions are 1d."
        warnings.warn(message, DataConversionWarning, stacklevel=3)
    chosen = of_columns(likelihood, table.shape[1], later)
    problem = target_error(chosen, table, rows)
    if problem is not None:
        raise DataError(problem)
    measured = table[:, : chosen.targets]  # beside them there may be marks of censored ones
    chosen, scaler = scaled(chosen, TargetScaler.fit(measured, weight[rows], rows))
    return chosen, scaler, scaler.transform(table)


def of_columns(likelihood, columns, later):
    """The likelihood for so many columns of y."""
    if likelihood is None or later and isinstance(likelihood, str) and likelihood in LATER:
        return Gaussian(1.0 if later else None, targets=columns)
    if isinstance(likelihood, str):
        return get_likelihood(likelihood, "regression").make(columns)
    return checked(likelihood, "regression")


def scaled(likelihood, scaler):
    """(likelihood, scaler) as they are, or for targets that must not move: with no change of units, and counts with the log
    of the mean count as their level, which does for a log mean what shifting does for a mean."""
    if likelihood.standardizes_targets:
        return likelihood, scaler
    if likelihood.level is None:
        logs = [math.log(mean) for mean in scaler.shift if mean > 0]
        likelihood = replace(likelihood, level=float(np.mean(logs)) if logs else 0.0)
    return likelihood, TargetScaler((0.0,) * len(scaler.shift), (1.0,) * len(scaler.scale))


def classes(likelihood, labels):
    """The likelihood for the sorted ``labels`` of a classifier: None, a name or an object."""
    count = len(labels)
    if likelihood is None:
        return Bernoulli() if count == 2 else Categorical(classes=count)
    by_name = isinstance(likelihood, str)
    chosen = (
        get_likelihood(likelihood, "classification").make(count) if by_name else checked(likelihood, "classification")
    )
    wanted = chosen.classes
    if wanted != count:
        raise DataError(
            f"{type(chosen).__name__} is for {wanted} classes, and y has {count}: {list_first(list(labels))}."
        )
    if isinstance(chosen, Ordered) and labels.dtype.kind in "UO":
        message = (
            f"The order of the classes is that of their texts: {list_first(list(labels))}. Numbers say another one."
        )
        warnings.warn(message, DataWarning, stacklevel=4)
    return chosen


def checked(likelihood, task):
    """An object as the likelihood that it should be; ValueError if it is none, or one of another task."""
    if not isinstance(likelihood, Likelihood):
        raise ValueError(f"likelihood is None, a name, or a likelihood such as dubito.Gaussian(); got {likelihood!r}")
    if likelihood.task != task:
        raise ValueError(f"{type(likelihood).__name__} is a likelihood for {likelihood.task}, not for {task}")
    return likelihood
