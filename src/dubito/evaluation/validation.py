"""Input validation of scores: a predictive distribution, outcomes and weights that fit together."""

from typing import Any

import numpy as np
from jaxtyping import Float

from dubito._check import DataError
from dubito.posteriors.outcomes import class_codes, count_rows, target_values


def check_predictive(
    predictive: Any, y: Any, weight: Any, task: str, marked: bool = False
) -> tuple[Any, np.ndarray, Float[np.ndarray, "rows"]]:
    """Check and convert what a score is computed from.

    Parameters
    ----------
    predictive
        A predictive distribution.
    y
        Its targets, labels or codes.
    weight
        Weights of the rows, (n,); None: all 1.
    task
        The task that the score is for.
    marked
        Whether y may have K more columns that mark censored targets, where the likelihood has such.

    Returns
    -------
    (predictive, y, weight)
        The predictive as ``columnwise``, y as numbers (n, K) or class codes (n,), float64 weights (n,).

    Raises
    ------
    DataError
        For what does not fit, for predictions that are not finite, and for no rows.
    """
    classes, predictive = predictive.classes, predictive.columnwise
    n, answers = predictive.mean.shape
    if predictive.task != task or n == 0:
        raise DataError(f"this needs rows for {task}, but the predictive is {n} rows of {predictive.task}")
    if task == "regression":
        columns = predictive.likelihood.columns if marked else answers
        y = target_values(y, n, answers, columns)
    else:
        y = class_codes(y, n, answers, classes)
    bad = ~np.isfinite(predictive.mean).all(1)
    if bad.any():
        raise DataError(f"the prediction is not finite in {count_rows(bad)}")
    weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != (n,) or not np.all(np.isfinite(weight) & (weight >= 0)) or not weight.any():
        raise DataError(f"weight is {n} finite numbers, none of them negative and not all 0")
    return predictive, y, weight
