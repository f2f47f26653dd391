"""A sweep gives what each fit gives alone, on splits that all sizes share, and tells the two sides of fitting apart."""

import numpy as np
import pytest
from sklearn.base import clone

import dubito
from dubito import metrics
from dubito.estimators.size_sweep import SizeResult, fit_verdicts, sweep

RNG = np.random.default_rng(0)
X = RNG.uniform(-3, 3, (160, 2))
Y = np.sin(2 * X[:, 0]) + 0.3 * RNG.normal(size=160)


@pytest.mark.slow
def test_sweep_equals_its_fits_one_by_one(monkeypatch):
    estimator = dubito.BayesianRegressor(dubito.MAP(epochs=5))
    calls, splits = [], []
    from dubito import size_sweep

    start_jobs = size_sweep.start_jobs
    monkeypatch.setattr(
        size_sweep, "start_jobs", lambda one, jobs: splits.extend(job[3][0] for job in jobs) or start_jobs(one, jobs)
    )
    rows = sweep(estimator, X, Y, [(2,), (3, 3)], seeds=2, seed=7, done=lambda *call: calls.append(call))
    assert calls == [((2,), 0), ((2,), 1), ((3, 3), 0), ((3, 3), 1)]
    assert [row.hidden for row in rows] == [(2,), (3, 3)]
    np.testing.assert_array_equal(splits[0], splits[2])
    np.testing.assert_array_equal(splits[1], splits[3])
    assert len(splits[0]) == 120 and not np.array_equal(splits[0], splits[1])
    for number in (0, 1):
        model = (
            clone(estimator)
            .set_params(hidden=(3, 3), random_state=7 + number)
            .fit(X[splits[number]], Y[splits[number]])
        )
        held = np.setdiff1d(np.arange(160), splits[number])
        for row, part in ((rows[1].train, splits[number]), (rows[1].validation, held)):
            assert row[number] == pytest.approx(metrics.nll(model.predictive(X[part]), Y[part]).value, rel=1e-6)
    with pytest.raises(ValueError, match="at least 2 sizes and 2 seeds, got 1 and 3"):
        sweep(estimator, X, Y, [(2,)])


def test_sweep_holds_the_latest_rows_out_for_all_seeds(monkeypatch):
    times = RNG.permutation(160)

    def stop(one, jobs):
        raise InterruptedError([job[3] for job in jobs])

    monkeypatch.setattr("dubito.estimators.size_sweep.start_jobs", stop)
    with pytest.raises(InterruptedError) as caught:
        sweep(dubito.BayesianRegressor(dubito.MAP()), X, Y, [(2,), (3,)], seeds=2, times=times)
    for train, held in caught.value.args[0]:
        np.testing.assert_array_equal(train, np.flatnonzero(times < 120))
        np.testing.assert_array_equal(held, np.flatnonzero(times >= 120))


def test_fit_verdicts_need_more_than_the_variation_over_seeds():
    def row(width, train, validation):
        return SizeResult((width,), np.array(train), np.array(validation), 1.0)

    rows = [
        row(1, [1.0, 1.1, 1.0], [1.0, 1.2, 1.1]),  # worse than the best in every pair, and in training too
        row(2, [0.2, 0.2, 0.3], [0.3, 0.1, 0.4]),  # worse on the mean, but not beyond chance
        row(4, [0.1, 0.2, 0.2], [0.2, 0.3, 0.2]),
        row(8, [0.0, 0.0, 0.0], [0.9, 1.0, 0.8]),
    ]
    assert fit_verdicts(rows) == ["underfitting", "fine", "fine", "overfitting"]
    assert fit_verdicts(rows[::-1]) == ["overfitting", "fine", "fine", "underfitting"]


@pytest.mark.slow
def test_fit_verdicts_find_underfitting_and_overfitting_in_real_fits():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (160, 3))
    y = 2 * np.sin(2 * x[:, 0]) + 0.6 * rng.normal(size=160)
    estimator = dubito.BayesianRegressor(dubito.MaximumLikelihood(epochs=600))
    assert fit_verdicts(sweep(estimator, x, y, [(1,), (16,), (128,)], seeds=5)) == [
        "underfitting",
        "fine",
        "overfitting",
    ]
