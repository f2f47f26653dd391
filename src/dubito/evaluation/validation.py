"""Input validation of scores: a predictive distribution, targets and weights that fit together."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dubito._check import DataError
from dubito.posteriors.outcomes import class_codes, count_rows, outcome_array, target_values
from dubito.posteriors.predictive_base import Rows


def check_predictive(
    predictive: Any, y: Any, weight: Any, task: str, marked: bool = False, missing: bool = False
) -> tuple[Any, np.ndarray, Rows]:
    """Check and convert what a score is computed from.

    Parameters
    ----------
    predictive : PredictiveDistribution
        A predictive distribution.
    y : array
        Its targets, labels or codes, of any library.
    weight : array, optional
        Weights of the rows, (n,); None: all 1.
    task : str
        The task that the score is for.
    marked : bool
        Whether y may have K more columns that mark censored targets, if the likelihood has such.
    missing : bool
        Whether some of several targets may be missing in a row: they are NaN.

    Returns
    -------
    (predictive, y, weight)
        The predictive as ``columnwise``, y as numbers (n, K) or class codes (n,), and float64
        weights (n,).

    Raises
    ------
    DataError
        If these do not fit together, if predictions are not finite, and for no rows.
    """
    classes, predictive = predictive.classes, predictive.columnwise
    n, answers = predictive.mean.shape
    if predictive.task != task or n == 0:
        raise DataError(f"this needs rows for {task}, but the predictive is {n} rows of {predictive.task}")
    if task == "regression":
        y = target_values(y, n, answers, predictive.likelihood.columns if marked else answers, missing=missing)
    else:
        y = class_codes(y, n, answers, classes)
    bad = ~np.isfinite(predictive.mean).all(1)
    if bad.any():
        raise DataError(f"the prediction is not finite in {count_rows(bad)}")
    return predictive, y, row_weights(weight, n)


def check_observed(
    predictive: Any, y: Any, weight: Any
) -> tuple[Any, Float[np.ndarray, "rows targets"], Rows, Bool[np.ndarray, "rows targets"]]:
    """Check and convert what a score of a regression is computed from; entries of several targets may be missing.

    Parameters
    ----------
    predictive, y, weight
        As for ``check_predictive``.

    Returns
    -------
    (predictive, y, weight, observed)
        As of ``check_predictive``, with the means in the place of missing entries, and which
        entries of y are observed, (n, K).

    Raises
    ------
    DataError
        As ``check_predictive``, and if a target is missing in all rows.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "regression", missing=True)
    observed = ~np.isnan(y)
    empty = np.flatnonzero(~np.any(observed & (weight > 0)[:, None], axis=0))
    if len(empty):
        raise DataError(f"y has no value of target {', '.join(map(str, empty))} in any row")
    return predictive, y if observed.all() else np.where(observed, y, predictive.mean), weight, observed


def row_weights(weight: Any, rows: int) -> Rows:
    """Weights of ``rows`` rows as float64, all 1 for None. Raises DataError unless they are finite and not negative."""
    weight = np.ones(rows) if weight is None else number_array("weight", weight, rows)
    if not np.all(np.isfinite(weight) & (weight >= 0)) or not weight.any():
        raise DataError(f"weight must be {rows} finite numbers, none of them negative and not all 0")
    return weight


def number_array(name: str, values: Any, rows: int | None = None) -> Rows:
    """Numbers of any library as float64 (rows,). Raises DataError for another number of them, and for other values."""
    found = outcome_array(values)
    wanted = f"{name} must be {'' if rows is None else f'{rows} '}finite numbers, one for each row"
    if found.ndim != 1 or rows not in (None, len(found)):
        raise DataError(f"{wanted}; got {type(values).__name__} of shape {found.shape}")
    try:
        return found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{wanted}; {error}") from None
