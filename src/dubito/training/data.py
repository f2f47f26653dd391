"""The data of a fit on the host: checked at the door, held out, padded to few sizes."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from dubito._check import DataError, check_weight_sum, in_rows, is_number
from dubito.models.likelihoods.by_name import target_error


class Rows(NamedTuple):
    """The data set on the host: x (N, D), y (N, K) or (N,), weights for training and validation (N,)."""

    x: np.ndarray
    y: np.ndarray
    train: np.ndarray
    valid: np.ndarray


class Member(NamedTuple):
    """A key and two weight vectors over the same rows: what it trains on, what it is validated on.

    ``y``: targets of its own, like the rows' (None: theirs).
    """

    key: Any
    train: np.ndarray
    valid: np.ndarray
    y: np.ndarray | None = None


def check_rows(model, x, y, weight):
    """``checked``, and that there are rows whose weights sum to a usable number."""
    rows = checked(model, x, y, weight)
    if len(rows.x) == 0 and np.size(weight) > 1:
        raise ValueError(f"weight must have a number above 0; all {len(weight)} are 0")
    if len(rows.x) == 0:
        raise ValueError("there are no rows to fit")
    check_weight_sum(rows.train, "weight")
    return rows


def checked(model, x, y, weight):
    """Float32 arrays of the rows whose weight is above 0, ready for the loop. Raises ValueError for wrong shapes, and
    DataError that names rows for values that are missing, infinite or none of the model's targets."""
    x, y = np.asarray(x), np.asarray(y)
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
            raise ValueError(f"{name} must hold numbers, got dtype {array.dtype}")
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(array.astype(np.float32))
        if bad.any():
            where = in_rows(bad.reshape(len(bad), -1).any(axis=1), used)
            raise DataError(f"{name} holds {bad.sum()} value(s) that are NaN, infinite or beyond float32, {where}.")
    if model.likelihood.task == "regression":
        y = y.reshape(len(y), int(np.prod(y.shape[1:]))).astype(np.float32)
        problem = target_error(model.likelihood, y, used)
        if problem is not None:
            raise DataError(problem)
    elif y.ndim == 1:
        y = y.astype(np.int32 if np.all(y == np.round(y)) else np.float32)
    else:
        y = y.astype(np.float32)
    return Rows(x.astype(np.float32, copy=False), y, weight, np.zeros_like(weight))


def hold_out(rows, fraction, key):
    """Move a random ``fraction`` of the rows (stratified for classes) from training to validation."""
    if not (is_number(fraction) and 0 < fraction < 1):
        raise ValueError(f"validation_fraction must be strictly between 0 and 1, got {fraction!r}")
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


def bucket(count):
    """The padded size for a number of rows: 2^k or 1.5·2^k, at least 16, so that few shapes are compiled."""
    power = max(16, 1 << (count - 1).bit_length())
    return power * 3 // 4 if 16 < count <= power * 3 // 4 else power


def part(size, count):
    """The padded size for ``count`` of ``size`` rows: halved as often as they fit, so that tables of one size that hold
    the same share out have one size of it too."""
    while size // 2 >= max(count, 1):
        size //= 2
    return size


def permutation(key, count):
    """``jax.random.permutation``, bit for bit, sorted on the host: random bits of few sizes are all that is compiled."""
    order = np.arange(count)
    for _ in range(math.ceil(3 * math.log(max(count, 2)) / math.log(2**32 - 1))):
        key, key_bits = jax.random.split(key)
        bits = np.asarray(jax.random.bits(key_bits, (bucket(count),), np.uint32))[:count]
        order = order[np.argsort(bits, kind="stable")]
    return order


def padded(array, total):
    return np.pad(array, [(0, total - len(array))] + [(0, 0)] * (array.ndim - 1))
