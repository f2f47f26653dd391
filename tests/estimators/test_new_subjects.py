"""Coverage of subjects and of days that come after the fit, where rows of one subject, or of days in a row, are alike."""

from dataclasses import replace

import numpy as np
import pytest

import dubito
from dubito.methods.default import default_method

pytestmark = pytest.mark.slow


def subjects(rng, count, rows, inputs):
    """Inputs and an effect of each subject, a time in each row, and noise."""
    z, effect, subject = rng.normal(size=(count, inputs)), rng.normal(size=count), np.repeat(np.arange(count), rows)
    t = rng.uniform(-1, 1, size=len(subject))
    y = z[subject, 0] + t + effect[subject] + 0.3 * rng.normal(size=len(subject))
    return np.column_stack([z[subject], t]), y, subject


def coverage(model, X, y, **options):
    train, new = X
    lower, upper = model.fit(train, y[: len(train)], **options).predict_interval(new)
    return np.mean((lower <= y[len(train) :]) & (y[len(train) :] <= upper))


def with_new_subjects(seed, count, rows, inputs):
    rng = np.random.default_rng(seed)
    (X, y, subject), (new, y_new, _) = subjects(rng, count, rows, inputs), subjects(rng, 1000, 1, inputs)
    return (X, new), np.concatenate([y, y_new]), subject


def test_intervals_of_committees_hold_new_subjects_with_groups_only():
    found = {True: [], False: []}
    for seed in range(4):
        X, y, subject = with_new_subjects(seed, 100, 8, 8)
        method = dubito.Committee(dubito.MaximumLikelihood(epochs=60), 10)
        for grouped, values in found.items():
            model = dubito.BayesianRegressor(method, hidden=(64,), random_state=seed)
            values.append(coverage(model, X, y, groups=subject if grouped else None))
    assert 0.88 <= np.mean(found[True]) <= 0.96  # CV+ guarantees 0.8, and has 0.9 or more where members differ
    assert np.mean(found[False]) < 0.6


def test_intervals_of_the_default_hold_new_subjects_with_groups_only(monkeypatch):
    """The default method with 3 folds, a fifth of its epochs and half as wide a network, which memorizes subjects, too."""

    def short(*given):
        method = default_method(*given)
        return replace(method, folds=3, method=replace(method.method, epochs=method.method.epochs[1] // 5))

    monkeypatch.setattr("dubito.estimators.base.default_method", short)
    X, y, subject = with_new_subjects(1, 125, 8, 4)
    model = dubito.BayesianRegressor(hidden=(64, 64), random_state=1)
    assert 0.86 <= coverage(model, X, y, groups=subject) <= 0.94
    assert coverage(model, X, y) < 0.7


def series(seed, days, ahead):
    """A trend, and deviations of which those of days in a row are alike."""
    rng = np.random.default_rng(seed)
    deviation = np.zeros(days + ahead)
    for day in range(1, days + ahead):
        deviation[day] = 0.97 * deviation[day - 1] + 0.3 * rng.normal()
    time = np.arange(float(days + ahead))
    return time, 0.01 * time + deviation + 0.1 * rng.normal(size=len(time))


def test_intervals_hold_later_days_with_times_only():
    found = {True: [], False: []}
    for seed in range(6):
        time, y = series(seed, 300, 20)
        method = dubito.Committee(dubito.MaximumLikelihood(epochs=100), 5)
        for ordered, values in found.items():
            model = dubito.BayesianRegressor(method, hidden=(32,), activation="tanh", periodic=8, random_state=seed)
            X = time[:300, None], time[300:, None]
            values.append(coverage(model, X, y, times=time[:300] if ordered else None))
    assert np.mean(found[True]) >= 0.85
    assert np.mean(found[False]) < 0.7
