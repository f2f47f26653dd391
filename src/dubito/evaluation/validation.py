"""What every score is given: a predictive, outcomes and weights that fit together."""

from typing import Any

import numpy as np

from dubito._check import DataError
from dubito.posteriors.outcomes import class_codes, count_rows, target_values


def checked(predictive, y, weight, task, marked=False) -> tuple[Any, Any, Any]:
    """(predictive, y, weight): the predictive as ``columnwise``, y as numbers (n, K) or class codes (n,), weights float64 (n,).

    ``marked``: y may have K more columns, where the likelihood knows such. DataError for what does not fit.
    """
    classes, predictive = predictive.classes, predictive.columnwise
    n, answers = predictive.mean.shape
    if predictive.task != task or n == 0:
        raise DataError(f"this wants rows for {task}, but the predictive is {n} rows of {predictive.task}")
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
