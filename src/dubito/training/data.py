"""The rows of a fit on the host: validated, converted to float32, padded to one of few sizes."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from dubito._check import DataError, check_weight_sum, in_rows
from dubito._jax.types import Key
from dubito.models.inputs import joined_inputs
from dubito.models.likelihoods.by_name import round_to_float32, target_error
from dubito.models.model import Model

LEAST_ROWS = 16  # of a padded table
LEAST_HELD = 128  # of padded validation rows, or all of a smaller table


class Rows(NamedTuple):
    """The data set of N rows, on the host.

    Attributes
    ----------
    x : float32 array of shape (N, D)
    y : float32 array of shape (N, K), or int32 array of shape (N,)
        Targets, or class indices.
    train, valid : float32 array of shape (N,)
        Weights for training and validation; 0 leaves a row out.
    group : int array of shape (N,), optional
        Rows with the same number belong together: no split separates them.
    time : int array of shape (N,), optional
        Numbers in the order of time: later rows validate.
    folds : int8 array of shape (folds, N), optional
        The user's folds: in each, 1 for training rows, −1 for held-out rows, 0 for others.
    """

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    group: np.ndarray | None = None
    time: np.ndarray | None = None
    folds: np.ndarray | None = None


def check_rows(model: Model, x: Any, y: Any, weight: Any) -> Rows:
    """``float32_rows``, which also checks that there are rows and that the sum of their weights is usable."""
    rows = float32_rows(model, x, y, weight)
    if len(rows.x) == 0 and np.size(weight) > 1:
        raise ValueError(f"weight must contain a positive number; all {len(weight)} are 0")
    if len(rows.x) == 0:
        raise ValueError("there are no rows to fit")
    check_weight_sum(rows.train, "weight")
    return rows


def float32_rows(model: Model, x: Any, y: Any, weight: Any) -> Rows:
    """Validate the data of a fit and convert them to float32; rows of weight 0 are left out.

    Parameters
    ----------
    model : Model
        Its likelihood determines which targets are valid.
    x : array of shape (N, D, ...)
    y : array of shape (N, ...)
        Targets, or class indices of shape (N,).
    weight : array of shape (N,), optional
        Sample weights; None: 1.

    Returns
    -------
    Rows

    Raises
    ------
    ValueError
        If shapes or types do not match.
    DataError
        If values are missing, infinite or invalid as targets; the message names their rows.
    """
    x, y = joined_inputs(model.network, x), np.asarray(y)
    if x.ndim < 2:
        raise ValueError(f"x must have rows and columns, (N, D); got shape {x.shape}")
    if y.ndim == 0 or len(x) != len(y):
        raise ValueError(f"x and y must have the same number of rows; got shapes {x.shape} and {y.shape}")
    weight = np.ones(len(x), np.float32) if weight is None else np.asarray(weight, np.float32)
    if weight.shape != (len(x),) or not np.all(np.isfinite(weight)) or np.any(weight < 0):
        raise ValueError(f"weight must be {len(x)} finite numbers of at least 0; got shape {weight.shape}")
    used = np.flatnonzero(weight)
    x, y, weight = (array if len(used) == len(array) else array[used] for array in (x, y, weight))
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} must contain numbers, got dtype {array.dtype}")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array.astype(np.float32))
        if name == "y" and may_miss_targets(model, array):
            bad &= ~np.isnan(array) | np.isnan(array).all(axis=1, keepdims=True)
        if bad.any():
            where = in_rows(bad.reshape(len(bad), -1).any(axis=1), used)
            raise DataError(f"{name} contains {bad.sum()} value(s) that are NaN, infinite or beyond float32, {where}.")
    if model.likelihood.task == "regression":
        y = round_to_float32(model.likelihood, y.reshape(len(y), int(np.prod(y.shape[1:]))))
        problem = target_error(model.likelihood, y, used)
        if problem is not None:
            raise DataError(problem)
    elif y.ndim == 1:
        y = y.astype(np.int32 if np.all(y == np.round(y)) else np.float32)
    else:
        y = y.astype(np.float32)
    return Rows(x.astype(np.float32, copy=False), y, weight, np.zeros_like(weight))


def may_miss_targets(model: Model, y: np.ndarray) -> bool:
    """Whether entries of y can be missing: numbers of several targets that are independent given the outputs."""
    return model.likelihood.independent_targets and y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind == "f"


def padded_size(count: int) -> int:
    """The padded size for a number of rows: 2^k or 1.5·2^k, at least ``LEAST_ROWS``, so that few shapes are compiled."""
    power = max(LEAST_ROWS, 1 << (count - 1).bit_length())
    return power * 3 // 4 if LEAST_ROWS < count <= power * 3 // 4 else power


def padded_fraction(size: int, count: int) -> int:
    """The padded size for ``count`` of ``size`` rows: ``size`` halved while they fit, so that tables of
    one size with the same held-out fraction share it. It is at least ``LEAST_HELD``, so that small tables
    of one size share it whatever the fraction, also if no rows are held out.
    """
    while size // 2 >= max(count, LEAST_HELD):
        size //= 2
    return size


def permutation(key: Key, count: int) -> Int[np.ndarray, "count"]:
    """``jax.random.permutation``, bit for bit, sorted on the host, so that only random bits of few sizes are compiled."""
    order = np.arange(count)
    for _ in range(math.ceil(3 * math.log(max(count, 2)) / math.log(2**32 - 1))):
        key, key_bits = jax.random.split(key)
        bits = np.asarray(jax.random.bits(key_bits, (padded_size(count),), np.uint32))[:count]
        order = order[np.argsort(bits, kind="stable")]
    return order


def pad_rows(array: np.ndarray, total: int) -> np.ndarray:
    """Append rows of zeros to ``array``, to ``total`` rows."""
    return np.pad(array, [(0, total - len(array))] + [(0, 0)] * (array.ndim - 1))


def pad_targets(y: np.ndarray, total: int) -> np.ndarray:
    """Append copies of the last row of ``y``, to ``total`` rows: of weight 0, but values that the likelihood supports."""
    return np.pad(y, [(0, total - len(y))] + [(0, 0)] * (y.ndim - 1), mode="edge") if len(y) else pad_rows(y, total)


def pad_data(x: np.ndarray, y: np.ndarray, weight: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets and weights padded to ``total`` rows; the weights of the new ones are 0."""
    return pad_rows(x, total), pad_targets(y, total), pad_rows(weight, total)
