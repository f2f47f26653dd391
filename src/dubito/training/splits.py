"""Splits of rows: held-out validation rows, and folds.

Rows of one group, see ``Rows``, are on the same side of every split. With times, later rows validate
what is trained on earlier ones.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from dubito._check import check_number
from dubito._jax import prng
from dubito._jax.types import Key
from dubito.training.data import Rows, permutation

MOST_REPEATS = 10  # rows per distinct row: with more, equal rows are values of a discrete table, not copies


class Fold(NamedTuple):
    """One split of N rows.

    Attributes
    ----------
    train, held_out : bool array of shape (N,)
        No row is in both; with times, some are in neither.
    """

    train: Bool[np.ndarray, " N"]
    held_out: Bool[np.ndarray, " N"]


def with_validation(rows: Rows, validates: bool, fraction: float, key: Key) -> Rows:
    """The rows of a fit with early stopping, which holds out a fraction of them.

    Parameters
    ----------
    rows : Rows
        If some are held out already, they stay as they are.
    validates : bool
        Whether the method chooses its validation rows itself; then they stay as they are, too.
    fraction : float
        Of the rows.
    key : Key
        The key of the fit.

    Returns
    -------
    Rows
    """
    if validates or rows.valid.any():
        return rows
    return hold_out(rows, fraction, jax.random.split(prng.fast(key), 3)[0])


def hold_out(rows: Rows, fraction: float, key: Key) -> Rows:
    """Move a ``fraction`` of the rows from training to validation: the latest ones, or whole random
    groups, or random rows; stratified for classes.
    """
    check_number("validation_fraction", fraction, "(0, 1)")
    used = np.flatnonzero(rows.train > 0)
    if rows.time is not None:
        chosen = used[latest(rows.time[used], fraction)]
    elif rows.group is not None:
        chosen = used[held_out_groups(rows.group[used], rows.y[used], fraction, permutation(key, len(used)))]
    else:
        order = used[permutation(key, len(used))]
        count = max(1, round(fraction * len(used)))
        if rows.y.ndim == 1:
            order = order[np.argsort(rows.y[order], kind="stable")]
            chosen = order[np.unique(np.linspace(0, len(order) - 1, count).astype(int))]
        else:
            chosen = order[:count]
    if len(chosen) == len(used):
        raise ValueError(f"early_stopping needs at least 2 rows, got {len(used)}")
    valid = np.zeros_like(rows.train)
    valid[chosen] = rows.train[chosen]
    return rows._replace(valid=valid, train=np.where(valid > 0, 0, rows.train).astype(np.float32))


def member_folds(rows: Rows, folds: int, key: Key | None = None) -> list[Fold]:
    """The folds of cross-fitting and of committees.

    Parameters
    ----------
    rows : Rows
        With ``folds``, these are the folds; with ``time``, each fold is a block of rows later than
        its training rows; otherwise the folds are disjoint and hold all rows of positive weight.
    folds : int
        The number of folds; there are fewer if there are fewer rows or groups.
    key : Key, optional
        Determines random folds; None: ``interleaved_folds``.

    Returns
    -------
    list of Fold
        ``fold_count`` of them if a key is given.
    """
    if rows.folds is not None:
        return [Fold(fold > 0, fold < 0) for fold in rows.folds]
    if rows.time is not None:
        number = time_blocks(rows.time, folds)
        return [Fold(number < k, number == k) for k in range(number.max() + 1)]
    number = interleaved_folds(rows.y, folds, rows.group) if key is None else random_folds(rows, folds, key)
    return [Fold(number != k, number == k) for k in range(number.max() + 1)]


def halves(rows: Rows, held_out: Bool[np.ndarray, " N"], order: Int[np.ndarray, " N"]) -> Bool[np.ndarray, "2 N"]:
    """Divide held-out rows into two random halves, stratified for classes, of whole groups.

    Parameters
    ----------
    rows : Rows
    held_out : bool array of shape (N,)
    order : array of shape (N,)
        A random permutation of all rows.

    Returns
    -------
    bool array of shape (2, N)
        The second half is empty if there is only one row or group.
    """
    chosen, second = order[held_out[order]], np.zeros(len(held_out), bool)
    if rows.group is not None:
        each = group_folds(rows.group[chosen], rows.y[chosen], np.array([0.5, 0.5]), np.arange(len(chosen)))
        second[chosen[each == 1]] = True
    else:
        if rows.y.ndim == 1:
            chosen = chosen[np.argsort(rows.y[chosen], kind="stable")]
        second[chosen[1::2]] = True
    return np.stack([held_out & ~second, second])


def overlaps(rows: Rows, folds: list[Fold], fraction: float, order: Int[np.ndarray, " N"]) -> Bool[np.ndarray, "M N"]:
    """For each of random folds, rows of the next one; after the last comes the first.

    Parameters
    ----------
    rows : Rows
        With classes, ``folds`` or ``time`` there are no overlaps.
    folds : list of Fold
        M ``member_folds``.
    fraction : float
        Of the next fold. Of groups, as many whole ones as have at most twice that fraction of its rows.
    order : array of shape (N,)
        A random permutation of all rows.

    Returns
    -------
    bool array of shape (M, N)
    """
    found = np.zeros((len(folds), len(rows.x)), bool)
    if rows.y.ndim == 1 or rows.folds is not None or rows.time is not None or len(folds) == 1:
        return found
    for number in range(len(folds)):
        following = folds[(number + 1) % len(folds)].held_out
        chosen = order[following[order]]
        if rows.group is None:
            found[number, chosen[: round(fraction * len(chosen))]] = True
        else:
            _, first, group, sizes = np.unique(
                rows.group[chosen], return_index=True, return_inverse=True, return_counts=True
            )
            queue = np.argsort(first)
            fits = np.cumsum(sizes[queue]) <= 2 * fraction * len(chosen)
            found[number, chosen[np.isin(group, queue[fits])]] = True
    return found


def fold_count(rows: Rows, folds: int) -> int:
    """The number of random ``member_folds``, which is the same for every key."""
    if rows.folds is not None:
        return len(rows.folds)
    if rows.time is not None:
        return int(time_blocks(rows.time, folds).max()) + 1
    used = rows.train > 0
    return min(folds, int(np.sum(used)) if rows.group is None else len(np.unique(rows.group[used])))


def random_folds(rows: Rows, folds: int, key: Key) -> Int[np.ndarray, "rows"]:
    """Assign each row, or each group of rows, to a random fold, stratified for classes; −1 for rows
    of weight 0.
    """
    used = np.flatnonzero(rows.train > 0)
    if len(used) < 2:
        raise ValueError(f"cross-fitting needs at least 2 rows, got n_samples = {len(used)}")
    fold, order = np.full(len(rows.x), -1), permutation(key, len(used))
    if rows.group is not None:
        count = min(folds, _group_count(rows.group[used], "cross-fitting"))
        fold[used] = group_folds(rows.group[used], rows.y[used], np.full(count, 1 / count), order)
        return fold
    order = used[order]
    if rows.y.ndim == 1:
        order = order[np.argsort(rows.y[order], kind="stable")]
    fold[order] = np.arange(len(used)) % min(folds, len(used))
    return fold


def interleaved_folds(y: np.ndarray, folds: int, group: np.ndarray | None = None) -> Int[np.ndarray, "rows"]:
    """Assign row i to fold i mod ``folds``, counted within each class for class indices (rows,); with
    a ``group`` of each row, whole groups without randomness.
    """
    if group is not None:
        count = min(folds, _group_count(group, "a committee"))
        return group_folds(group, y, np.full(count, 1 / count), np.arange(len(y)))
    fold = np.empty(len(y), int)
    order = np.argsort(y, kind="stable") if y.ndim == 1 else np.arange(len(y))
    fold[order] = np.arange(len(y)) % folds
    return fold


def group_folds(
    group: Int[np.ndarray, " rows"], y: np.ndarray, shares: Float[np.ndarray, " folds"], order: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Assign whole groups to folds with given shares of the rows, stratified for class indices (rows,).

    As scikit-learn's GroupKFold and StratifiedGroupKFold: groups are assigned from the largest to
    the smallest, each to the fold in which the sum over folds and classes of the squared number of
    rows, relative to the share and the class, increases least.

    Parameters
    ----------
    group : array
        A number of each row.
    y : array
        Class indices, or any array with more axes.
    shares : array
        They sum to 1.
    order : array
        A permutation of the rows: groups of one size are assigned as they occur in it.

    Returns
    -------
    array
        The fold of each row.
    """
    kind = np.unique(y, return_inverse=True)[1] if y.ndim == 1 else np.zeros(len(y), int)
    group = np.unique(group, return_inverse=True)[1]
    sizes, totals = np.bincount(group), np.bincount(kind)
    place = np.empty(len(sizes), int)
    place[group[order[::-1]]] = np.arange(len(order))[::-1]  # of a group's first row
    queue = np.lexsort((place, -sizes))
    large = queue[sizes[queue] > 1]
    slot = np.full(len(sizes), -1)
    slot[large] = np.arange(len(large))
    counts, members = np.zeros((len(large), len(totals))), sizes[group] > 1
    np.add.at(counts, (slot[group[members]], kind[members]), 1)
    held, found = np.zeros((len(shares), len(totals))), np.empty(len(sizes), int)
    for number, rows in zip(large, counts, strict=True):
        cost = np.sum((2 * held + rows) * rows / totals**2, axis=1) / shares
        found[number] = np.lexsort((held.sum(1) / shares, cost))[0]
        held[found[number]] += rows
    single = order[~members[order]]
    for each in range(len(totals)):  # groups of one row fill up the folds, without a loop over rows
        own = single[kind[single] == each]
        room = np.ceil(shares * (held[:, each].sum() + len(own)) - held[:, each]).astype(int) + 1
        room = np.clip(room, 0, len(own))
        fold = np.repeat(np.arange(len(shares)), room)
        level = (np.concatenate([np.arange(n) for n in room]) + held[fold, each] + 0.5) / shares[fold]
        fold = fold[np.lexsort(((held.sum(1) / shares)[fold], level))[: len(own)]]
        found[group[own]] = fold
        held[:, each] += np.bincount(fold, minlength=len(shares))
    return found[group]


def held_out_groups(
    group: Int[np.ndarray, " rows"], y: np.ndarray, fraction: float, order: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Which rows to hold out: about a ``fraction``, in whole groups, at least one and not all; arguments as in ``group_folds``."""
    _group_count(group, "early stopping")
    held = group_folds(group, y, np.array([fraction, 1 - fraction]), order) == 0
    if held.all() or not held.any():  # all groups are larger than the smaller of the shares
        sizes = np.bincount(group)[group[order]]
        moved = order[np.argmax(sizes) if held.all() else np.argmin(sizes)]
        held = held ^ (group == group[moved])
    return held


def time_blocks(time: Int[np.ndarray, " rows"], folds: int) -> Int[np.ndarray, " rows"]:
    """The later half of the rows in blocks, as scikit-learn's TimeSeriesSplit with that test size.

    Parameters
    ----------
    time : array
        A number of each row; equal ones stay in one block.
    folds : int
        The number of blocks; there are fewer if there are fewer times.

    Returns
    -------
    array
        The block of each row, the earliest 0; −1 for the earlier half.
    """
    _, number, counts = np.unique(time, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError(f"times must have at least 2 different values, so that some rows are later; got {len(counts)}")
    before = np.cumsum(counts) - counts  # rows that are earlier
    first = len(time) - len(time) // 2
    block = np.where(before >= first, (before - first) * folds // max(1, len(time) - first), -1)
    if block[-1] < 0:  # the last time has more than half of the rows
        block[-1] = 0
    later = block >= 0
    block[later] = np.unique(block[later], return_inverse=True)[1]
    return block[number]


def latest(time: Int[np.ndarray, " rows"], fraction: float) -> Bool[np.ndarray, " rows"]:
    """Which rows are the latest ``fraction``, at least those of one time and not all; equal times stay together."""
    _, number, counts = np.unique(time, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError(f"times must have at least 2 different values, so that some rows are later; got {len(counts)}")
    later = len(time) - (np.cumsum(counts) - counts)[1:]  # rows from a time on, for every time but the first
    return number > np.argmin(np.abs(later - fraction * len(time)))


def repeated_rows(x: np.ndarray, y: np.ndarray) -> Int[np.ndarray, " rows"] | None:
    """Numbers of groups of rows that are copies of one another: equal in all inputs and the target.

    Rows with equal inputs and different targets show that these inputs do not identify a row, so
    none of them is a copy; nor is any row of a table that has few distinct rows.

    Parameters
    ----------
    x, y : array
        Inputs (rows, columns) and targets.

    Returns
    -------
    array or None
        The number of each row's group; None if no row repeats another.
    """
    inputs = _equal_numbers(x)
    if inputs.max() + 1 == len(x):
        return None
    both = _equal_numbers(np.column_stack([inputs, _equal_numbers(y)]))
    targets = np.bincount(inputs[np.unique(both, return_index=True)[1]])  # different targets of equal inputs
    single = targets[inputs] > 1
    both[single] = both.max() + 1 + np.arange(np.sum(single))
    distinct = len(np.unique(both))
    return None if distinct == len(x) or (inputs.max() + 1) * MOST_REPEATS < len(x) else both


def _equal_numbers(values: np.ndarray) -> Int[np.ndarray, " rows"]:
    """A number of each row of an array, the same for equal rows: that of a hash of 64 bits."""
    plain = values.reshape(len(values), -1)
    plain = plain + np.zeros((), plain.dtype)  # −0 is 0
    hashes = np.zeros(len(plain), np.uint64)
    for word in np.ascontiguousarray(plain).view(np.uint32).T:
        hashes = (hashes ^ word) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
    return np.unique(hashes, return_inverse=True)[1]


def _group_count(group: np.ndarray, what: str) -> int:
    """The number of groups; ValueError for one."""
    count = len(np.unique(group))
    if count < 2:
        raise ValueError(
            f"{what} holds whole groups out, so it needs at least 2, got {count}: choose other groups, or groups=False"
        )
    return count
