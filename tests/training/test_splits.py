"""Splits of rows: whole groups, later rows, copies of rows, and the user's own folds."""

import itertools

import jax
import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, TimeSeriesSplit

import dubito
from dubito.methods.by_name import METHODS
from dubito.training import splits
from dubito.training.data import Rows

SIZES = (1, 1, 1, 2, 3, 5, 8, 13, 1, 4, 4, 6, 9, 20, 2)


def rows(y, **fields):
    ones = np.ones(len(y), np.float32)
    return Rows(np.arange(len(y), dtype=np.float32)[:, None], y, ones, np.zeros_like(ones), **fields)


def labels(seed=0, classes=0):
    """(groups of various sizes, in random order; classes or numbers)."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    y = rng.integers(0, classes, len(group)).astype(np.int32) if classes else np.zeros((len(group), 1), np.float32)
    return group, y


def shared(group, one, other):
    """The groups on both sides of a split."""
    return np.intersect1d(group[one], group[other]).tolist()


def spread(fold, y, folds):
    """The largest difference between folds in rows, and in rows of a class as a part of the class."""
    kinds = np.unique(y) if y.ndim == 1 else [None]
    counts = np.array([np.bincount(fold[y == k] if k is not None else fold, minlength=folds) for k in kinds])
    return np.ptp(counts.sum(0)), np.max(np.ptp(counts, axis=1) / counts.sum(1))


@pytest.mark.parametrize(("seed", "classes"), [*itertools.product(range(3), (0, 3))])
def test_group_folds_are_as_balanced_as_those_of_sklearn(seed, classes):
    group, y = labels(seed, classes)
    order = np.random.default_rng(seed).permutation(len(y))
    fold = splits.group_folds(group, y, np.full(4, 0.25), order)
    assert all(len(np.unique(fold[group == each])) == 1 for each in range(len(SIZES)))
    splitter = StratifiedGroupKFold(4) if classes else GroupKFold(4)
    reference = np.empty(len(y), int)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(y)), y if classes else None, group)):
        reference[test] = number
    ours, theirs = spread(fold, y, 4), spread(reference, y, 4)
    if not classes:
        assert ours[0] <= theirs[0]  # in one class the algorithm is GroupKFold's
    assert ours[0] <= theirs[0] + 6 and ours[1] <= theirs[1] + 0.2


def test_group_folds_of_single_rows_are_balanced_and_stratified():
    y = np.repeat(np.arange(3, dtype=np.int32), [40, 20, 10])
    fold = splits.group_folds(np.arange(70), y, np.full(10, 0.1), np.random.default_rng(0).permutation(70))
    for k, size in ((0, 4), (1, 2), (2, 1)):
        assert np.array_equal(np.bincount(fold[y == k]), np.full(10, size))


def members_of(method, data, key):
    """Members, after the split of early stopping where there is one."""
    return method.members(data if method.validates else splits.hold_out(data, 0.3, key), key)


SPLITTING = [METHODS[name] for name in METHODS if METHODS[name] is not None]
SPLITTING += [
    dubito.CrossFit(dubito.MAP(), 4),
    dubito.CrossFit(dubito.Ensemble(dubito.MAP(), 2), 3),
    dubito.Committee(dubito.MAP(), 3),
    dubito.Committee(dubito.Ensemble(dubito.MCDropout(), 2), 4),
    dubito.Ensemble(dubito.CrossFit(dubito.MAP(), 3), 2),
]


@pytest.mark.parametrize("method", SPLITTING, ids=str)
@pytest.mark.parametrize("classes", [0, 3])
def test_no_method_separates_rows_of_a_group(method, classes, key):
    group, y = labels(1, classes)
    members = members_of(method, rows(y, group=group), key)
    inner = method
    while isinstance(inner, dubito.Ensemble):
        inner = inner.method
    for member in members:
        assert member.valid.any()
        for part in np.atleast_2d(member.valid):
            assert shared(group, member.train > 0, part > 0) == []
        if member.valid.ndim == 2:
            assert shared(group, *(member.valid > 0)) == []
        if isinstance(inner, dubito.Committee):
            out = (member.train == 0) & (member.valid == 0)
            assert out.any() and shared(group, ~out, out) == []
    if isinstance(method, dubito.CrossFit):
        held = [set(np.flatnonzero(member.valid.any(0))) for member in members]
        assert set.union(*held) == set(range(len(y)))


def test_few_groups_make_few_folds_and_one_group_is_refused(key):
    group, y = np.repeat([0, 1, 2], 10), np.zeros((30, 1), np.float32)
    assert len(dubito.CrossFit(dubito.MAP(), 10).members(rows(y, group=group), key)) == 3
    assert len(dubito.Committee(dubito.MAP(), 10).members(rows(y, group=group), key)) == 3
    one = rows(y, group=np.zeros(30, int))
    for split in (
        lambda: dubito.CrossFit(dubito.MAP(), 10).members(one, key),
        lambda: dubito.Committee(dubito.MAP(), 10).members(one, key),
        lambda: splits.hold_out(one, 0.1, key),
    ):
        with pytest.raises(ValueError, match=r"whole groups.*at least 2, got 1.*groups=False"):
            split()


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.9, 0.99])
def test_held_out_groups_are_neither_none_nor_all(fraction, key):
    for sizes in ((10, 10), (3, 40), (5,) * 20):
        group = np.repeat(np.arange(len(sizes)), sizes)
        found = splits.hold_out(rows(np.zeros((len(group), 1), np.float32), group=group), fraction, key)
        assert found.valid.any() and found.train.any() and shared(group, found.valid > 0, found.train > 0) == []
    assert found.valid.mean() == pytest.approx(min(max(fraction, 0.05), 0.95), abs=0.03)


def test_committee_refuses_validation_rows_in_one_fold(key):
    group = np.repeat(np.arange(3), 10)
    with pytest.raises(ValueError, match=r"all in one fold of the committee.*leave out early_stopping"):
        members_of(dubito.Committee(dubito.MAP(), 3), rows(np.zeros((30, 1), np.float32), group=group), key)


def test_time_blocks_are_those_of_sklearn():
    found = splits.member_folds(rows(np.zeros((40, 1)), time=np.arange(40)), 5)
    reference = list(TimeSeriesSplit(5, test_size=4).split(np.zeros(40)))
    assert len(found) == len(reference)
    for fold, (train, test) in zip(found, reference, strict=True):
        assert np.array_equal(np.flatnonzero(fold.train), train) and np.array_equal(np.flatnonzero(fold.held_out), test)


@pytest.mark.parametrize("seed", range(5))
def test_later_rows_validate_and_equal_times_stay_together(seed, key):
    rng = np.random.default_rng(seed)
    time = rng.integers(0, (3, 30, 1000)[seed % 3], 100)
    data = rows(np.zeros((100, 1), np.float32), time=time)
    held = splits.hold_out(data, 0.2, key)
    assert time[held.train > 0].max() < time[held.valid > 0].min()
    for method in (dubito.CrossFit(dubito.MAP(), 5), dubito.Committee(dubito.MAP(), 5)):
        folds = splits.member_folds(data, 5)
        assert len(method.members(data, key)) == len(folds) == splits.fold_count(data, 5)
        for fold, member in zip(folds, method.members(data, key), strict=True):
            assert time[fold.train].max() < time[fold.held_out].min()
            assert np.array_equal(member.train > 0, fold.train)
            assert not isinstance(method, dubito.CrossFit) or np.array_equal(member.valid.any(0), fold.held_out)


def test_one_time_is_refused(key):
    data = rows(np.zeros((10, 1), np.float32), time=np.zeros(10, int))
    for split in (lambda: splits.hold_out(data, 0.2, key), lambda: splits.member_folds(data, 5)):
        with pytest.raises(ValueError, match="times must have at least 2 different values"):
            split()


def test_own_folds_are_the_folds_of_members(key):
    given = np.array([[1, 1, 1, -1, 0], [0, 1, 1, 1, -1]], np.int8)
    data = rows(np.zeros((5, 1), np.float32), folds=given)
    for method in (dubito.CrossFit(dubito.MAP(), 10), dubito.Committee(dubito.MAP(), 10)):
        members = method.members(data, key)
        assert [np.array_equal(m.train > 0, fold > 0) for m, fold in zip(members, given, strict=True)] == [True, True]


def test_repeated_rows_are_those_that_are_equal_in_everything():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)).astype(np.float32), rng.normal(size=(200, 1)).astype(np.float32)
    assert splits.repeated_rows(x, y) is None
    x[3], y[3], x[50], y[50], x[60], y[60] = x[7], y[7], x[9], y[9], x[9], y[9]
    x[100] = x[101]  # another target: a second measurement, and no copy
    x[110], x[111] = 0.0, -0.0
    y[111] = y[110]
    group = splits.repeated_rows(x, y)
    found = [sorted(np.flatnonzero(group == k).tolist()) for k in np.unique(group) if np.sum(group == k) > 1]
    assert sorted(found) == [[3, 7], [9, 50, 60], [110, 111]]
    assert splits.repeated_rows(x[:99], np.arange(99, dtype=np.int32) // 99) is not None


def test_values_of_a_discrete_table_are_no_copies():
    """Four cells of two inputs: rows are equal because there are few values, and a cell must stay in every fold."""
    x = np.random.default_rng(0).integers(0, 2, (200, 2)).astype(np.float32)
    assert splits.repeated_rows(x, (x[:, 0] != x[:, 1]).astype(np.int32)) is None


def test_checkpoint_of_other_groups_is_refused(tmp_path):
    model = dubito.Model(dubito.mlp(1, (4,)), dubito.Gaussian(precision=1.0))
    y = np.zeros((20, 1), np.float32)
    fields = [{}, {"group": np.arange(20) // 2}, {"group": np.arange(20) // 5}, {"time": np.arange(20)}]
    fields += [{"folds": np.where(np.arange(20) < 10, 1, -1)[None].astype(np.int8)}]
    seen = set()
    for number, each in enumerate(fields):
        saved = dubito.training.checkpoint.Checkpoint(tmp_path / str(number), {"model": model, "data": rows(y, **each)})
        seen.add(saved.parts["data"])
    assert len(seen) == len(fields)


def test_folds_without_groups_are_those_of_random_rows():
    """The bits that published results depend on: balanced, and different for another key."""
    data = rows(np.zeros((53, 1), np.float32))
    one, other = (splits.random_folds(data, 10, jax.random.key(seed)) for seed in (0, 1))
    assert one.tolist()[:12] == [0, 2, 7, 9, 0, 3, 5, 8, 9, 2, 3, 8] and not np.array_equal(one, other)
