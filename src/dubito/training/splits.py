"""Splits of rows: held-out validation rows, and folds."""

import numpy as np
from jaxtyping import Int

from dubito._check import check_number
from dubito._jax.types import Key
from dubito.training.data import Rows, permutation


def hold_out(rows: Rows, fraction: float, key: Key) -> Rows:
    """Move a random ``fraction`` of the rows (stratified for classes) from training to validation."""
    check_number("validation_fraction", fraction, "(0, 1)")
    used = np.flatnonzero(rows.train > 0)
    order = used[permutation(key, len(used))]
    if rows.y.ndim == 1:
        order = order[np.argsort(rows.y[order], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, max(1, round(fraction * len(used)))).astype(int))]
    else:
        chosen = order[: max(1, round(fraction * len(used)))]
    if len(chosen) == len(used):
        raise ValueError(f"early_stopping needs at least 2 rows, got {len(used)}")
    valid = np.zeros_like(rows.train)
    valid[chosen] = rows.train[chosen]
    return rows._replace(valid=valid, train=np.where(valid > 0, 0, rows.train).astype(np.float32))


def random_folds(rows: Rows, folds: int, key: Key) -> Int[np.ndarray, "rows"]:
    """Assign each row to a random fold, stratified for classes; −1 for rows of weight 0."""
    used = np.flatnonzero(rows.train > 0)
    if len(used) < 2:
        raise ValueError(f"cross-fitting needs at least 2 rows, got n_samples = {len(used)}")
    order = used[permutation(key, len(used))]
    if rows.y.ndim == 1:
        order = order[np.argsort(rows.y[order], kind="stable")]
    fold = np.full(len(rows.x), -1)
    fold[order] = np.arange(len(used)) % min(folds, len(used))
    return fold


def interleaved_folds(y: np.ndarray, folds: int) -> Int[np.ndarray, "rows"]:
    """Assign row i to fold i mod ``folds``, counted within each class for class indices (rows,)."""
    fold = np.empty(len(y), int)
    order = np.argsort(y, kind="stable") if y.ndim == 1 else np.arange(len(y))
    fold[order] = np.arange(len(y)) % folds
    return fold
