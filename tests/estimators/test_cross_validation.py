"""Comparisons: fits side by side give what they give one after another, and stop together."""

import _thread
import threading
import time

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import KFold

import dubito
from dubito import cross_validation, diagnostics, size_sweep
from dubito._process import threads

X = np.random.default_rng(0).normal(size=(120, 3))
Y = X[:, 0] + 0.1 * X[:, 1]
SMALL = {
    "map": dubito.BayesianRegressor(dubito.MAP(epochs=20), hidden=(8,), random_state=0),
    "ensemble": dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=20), 3), hidden=(8,), random_state=1),
    "mc-dropout": dubito.BayesianRegressor(dubito.MCDropout(epochs=20), hidden=(8,), random_state=0),
}


@pytest.mark.slow
def test_compare_gives_the_same_scores_for_any_number_of_threads(monkeypatch, compiled):
    runs = []
    for count in (3, 1):
        monkeypatch.setattr(threads, "cores", lambda count=count: count)
        calls = []

        def done(name, fold, calls=calls):
            assert threading.current_thread() is threading.main_thread()
            calls.append((name, fold))

        with compiled() as names:
            rows = cross_validation.compare(SMALL, X, Y, folds=3, done=done)
        if count == 3:  # an ensemble's program is its members': map's
            assert names.count("jit(begin)") == names.count("jit(chunk)") == 2
        assert calls == [(name, fold) for name in SMALL for fold in range(3)]
        runs.append(rows)
    for row, other in zip(*runs, strict=True):
        assert row.name == other.name and row.scores.keys() == other.scores.keys()
        assert all(np.array_equal(score.rows, other.scores[key].rows) for key, score in row.scores.items())


@pytest.mark.slow
def test_compare_on_an_engine_gives_the_same_scores(monkeypatch):
    """Also if an estimator fails, in each fold; and what a comparison starts in a worker stays there."""
    estimators = {"ill": dubito.BayesianRegressor(dubito.MAP(optimizer="adm"), random_state=0), **SMALL}
    found = []
    for backend in ("threading", "loky"):
        calls = []
        with joblib.parallel_config(backend, n_jobs=2), pytest.warns(UserWarning, match="ill is left out: .*adm"):
            found.append(cross_validation.compare(estimators, X, Y, folds=3, done=lambda *at: calls.append(at)))  # noqa: B023
        assert sorted(calls) == sorted((name, fold) for name in SMALL for fold in range(3))
    for row, other in zip(*found, strict=True):
        assert row.name == other.name and row.scores.keys() == other.scores.keys()
        assert all(np.array_equal(score.rows, other.scores[key].rows) for key, score in row.scores.items())


@pytest.mark.slow
def test_compare_warns_once_of_columns_and_counts_the_rows_of_the_whole_table():
    table = pd.DataFrame(
        {"id": [f"C{row}" for row in range(120)], "x": X[:, 0], "z": np.where(np.arange(120) == 71, 1e12, X[:, 1])}
    )
    estimators = {name: SMALL[name] for name in ("map", "ensemble")}
    for options in ({}, {"groups": np.arange(120) // 4}, {"times": np.arange(120)}, {"rows": np.arange(10, 118)}):
        with pytest.warns() as found:
            cross_validation.compare(estimators, table, Y, folds=2, **options)
        assert [str(each.message) for each in found] == [
            "Left out of the inputs: 'id' (nearly every row has another text).",
            "One value is over 1e+06 sd from all others, which become nearly equal: 'z' (row 71).",
        ]


@pytest.mark.slow
def test_compare_leaves_out_the_rows_that_are_not_to_be_used():
    """Whatever they contain, as if the table did not have them."""
    rows = np.flatnonzero(np.arange(120) % 3)
    x, y = X.copy(), Y.copy()
    x[::3] = y[::3] = np.nan
    (found,) = cross_validation.compare({"map": SMALL["map"]}, x, y, folds=2, rows=rows)
    (other,) = cross_validation.compare({"map": SMALL["map"]}, X[rows], Y[rows], folds=2)
    assert len(found.difference.rows) == 80
    assert all(np.array_equal(score.rows, other.scores[key].rows) for key, score in found.scores.items())


@pytest.mark.slow
def test_rmse_of_a_comparison_is_that_of_all_held_out_rows():
    """With a fold for each pair of rows the mean of the folds' RMSEs would be near the MAE."""
    splits = [(np.arange(20, 120), [2 * fold, 2 * fold + 1]) for fold in range(4)]
    (row,) = cross_validation.compare({"map": SMALL["map"]}, X, Y, cv=splits)
    error = [Y[test] - clone(SMALL["map"]).fit(X[train], Y[train]).predict(X[test]) for train, test in splits]
    expected = np.sqrt(np.mean(np.concatenate(error) ** 2))
    assert row.scores["rmse"].value == pytest.approx(expected, rel=1e-6)
    assert np.mean(row.scores["rmse"].rows) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_compare_ends_all_fits_on_ctrl_c():
    slow = dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=10**6), 3), hidden=(8,), random_state=0)
    pressed = []

    def done(name, fold):
        def press():
            time.sleep(1)  # within the fits that follow
            pressed.append(time.perf_counter())
            _thread.interrupt_main()

        threading.Thread(target=press).start()

    with pytest.raises(KeyboardInterrupt):
        cross_validation.compare(
            {"map": SMALL["map"], "slow": slow}, X, Y, folds=2, done=lambda *at: at[1] or done(*at)
        )
    assert time.perf_counter() - pressed[0] < 2
    assert threading.active_count() < 4


def test_compare_leaves_out_estimators_that_fail_with_a_warning():
    ill = dubito.BayesianRegressor(dubito.MAP(optimizer="adm"), random_state=0)
    with pytest.warns(UserWarning, match="ill is left out: .*adm"):
        rows = cross_validation.compare({"ill": ill, "map": SMALL["map"]}, X, Y, folds=2)
    assert [row.name for row in rows] == ["map"]
    with pytest.raises(ValueError, match="adm"):
        cross_validation.compare({"ill": ill, "worse": ill}, X, Y, folds=2)


def test_compare_reports_the_largest_monte_carlo_error_of_all_folds():
    rows = {row.name: row.unsure for row in cross_validation.compare(SMALL, X, Y, folds=3)}
    assert (rows["map"].kind, rows["ensemble"].draws, rows["mc-dropout"].draws) == ("point", 3, 100)
    folds = []
    for train, test in KFold(3, shuffle=True, random_state=0).split(X):
        fitted = clone(SMALL["ensemble"]).fit(X[train], Y[train])
        folds.append(diagnostics.monte_carlo(fitted.predictive(X[test]), fitted.posterior_, Y[test]).excess)
    assert len(set(folds)) == 3 and rows["ensemble"].excess == max(folds)


def as_dict(x):
    return {f"x{k}": column for k, column in enumerate(x.T)}


@pytest.mark.parametrize("make", ["array", "pandas", "polars", "pyarrow"])
def test_compare_and_sweep_refuse_a_target_of_another_length(make):
    x = X if make == "array" else as_dict(X)
    if make != "array":
        library = pytest.importorskip(make)
        x = library.table(x) if make == "pyarrow" else library.DataFrame(x)
    for y, words in ((Y[:100], "X has 120 rows, but y has 100"), (1.5, "X has 120 rows, but y is 1.5")):
        with pytest.raises(dubito.DataError, match=words):
            cross_validation.compare(SMALL, x, y)
        with pytest.raises(dubito.DataError, match=words):
            size_sweep.sweep(SMALL["map"], x, y, [(2,), (4,)])
