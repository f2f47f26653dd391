"""What happened at the rows of a predictive, checked before it is held against it."""

import numpy as np


def checked(predictive, y, weight, task, marked=False) -> tuple[np.ndarray, np.ndarray]:
    """y as numbers (n, K) or class indices (n,), and the weights; ValueError for what does not fit. ``marked``: y may have
    K more columns, where the likelihood knows such."""
    n, answers = predictive.mean.shape
    if predictive.task != task or n == 0:
        raise ValueError(f"this wants rows for {task}, but the predictive is {n} rows of {predictive.task}")
    y = np.asarray(y, np.float64)
    y = y[:, None] if task == "regression" and y.ndim == 1 else y
    shape = (n, answers) if task == "regression" else (n,)
    columns = getattr(predictive.likelihood, "columns", answers)
    if y.shape != shape and not (marked and task == "regression" and y.shape == (n, columns)):
        raise ValueError(f"y has the shape {y.shape}, but the predictive wants {shape}")
    bad = np.flatnonzero(~np.isfinite(np.column_stack([y, predictive.mean])).all(1))
    if len(bad):
        raise ValueError(f"y or its prediction is not finite in {len(bad)} of {n} rows, first in row {bad[0]}")
    weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    if weight.shape != (n,) or not np.all(np.isfinite(weight) & (weight >= 0)) or not weight.any():
        raise ValueError(f"weight is {n} finite numbers, none of them negative and not all 0")
    if task == "regression":
        return y, weight
    wrong = y[(y < 0) | (y >= answers) | (y != np.floor(y))]
    if len(wrong):
        raise ValueError(f"y is class indices from 0 to {answers - 1}, got {wrong[0]:g}")
    return y.astype(int), weight
