"""scikit-learn's own checks, and what they do not know of: units, frames, tables, searches, processes."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from short_default import short_default
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import dubito
from dubito.methods.default import default_method
from dubito.tables.columns import column_values

pytestmark = pytest.mark.usefixtures("one_size")

SMALL = dubito.MAP(epochs=60, batch_size=32, learning_rate=0.03)
# Zero weight removes a row from the loss, but the order of mini-batches then differs: equal in law, not in bits. A weight of 2 and two
# rows are equal up to float32's rounding, 1e-5 after training; the check wants 1e-7.
EXCEPTIONS = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")
OF_BOTH = [
    pytest.param(*pair, id=f"{name}-{number}")
    for number, pair in enumerate(
        estimator_checks_generator(dubito.BayesianRegressor(SMALL, hidden=(16,), random_state=0))
    )
    if (name := getattr(pair[1], "func", pair[1]).__name__) not in EXCEPTIONS
]


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "check"), OF_BOTH)
@pytest.mark.filterwarnings("ignore::dubito.DataWarning")
def test_regressor_passes_the_sklearn_checks(estimator, check):
    check(estimator)


# What both estimators share is checked above; these checks are of classes, or of what each estimator does by itself.
ITS_OWN = {"parameters_default_constructible", "estimators_unfitted", "fit_score_takes_y", "methods_subset_invariance"}
ITS_OWN |= {"requires_y_none", "supervised_y_2d", "supervised_y_no_nan", "sample_weights_list", "estimators_pickle"}
OF_CLASSES = [
    pytest.param(*pair, id=pair[1].func.__name__)
    for pair in estimator_checks_generator(dubito.BayesianClassifier(SMALL, hidden=(16,), random_state=0))
    if "classif" in (name := pair[1].func.__name__) or "proba" in name or name.removeprefix("check_") in ITS_OWN
]


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "check"), OF_CLASSES)
@pytest.mark.filterwarnings("ignore::dubito.DataWarning")
def test_classifier_passes_the_sklearn_checks(estimator, check):
    check(estimator)


# Input validation is checked above, whatever the method, also of memory maps and float32; these look at what is learned.
LOOKED_AT = {f"check_{name}" for name in "classifiers_train regressors_train fit_idempotent fit2d_1sample".split()}
LEARNED = [
    pytest.param(*pair, id=f"{kind.__name__}-{pair[1].func.__name__}")
    for kind in (dubito.BayesianRegressor, dubito.BayesianClassifier)
    for pair in estimator_checks_generator(kind(random_state=0))
    if pair[1].func.__name__ in LOOKED_AT and not pair[1].keywords
]


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "check"), LEARNED)
@pytest.mark.filterwarnings("ignore::dubito.DataWarning")
def test_default_method_passes_the_sklearn_checks(estimator, check, monkeypatch):
    monkeypatch.setattr("dubito.estimators.base.default_method", lambda *given: replace(short_default(*given), folds=2))
    check(estimator)


@pytest.mark.slow
def test_default_method_fits_and_predicts(monkeypatch):
    """With 3 of its folds and a third of its epochs."""

    def short(*given):
        method = default_method(*given)
        return replace(method, folds=3, method=replace(method.method, epochs=method.method.epochs[1] // 3))

    monkeypatch.setattr("dubito.estimators.base.default_method", short)
    X, y = (part[:64] for part in load_diabetes(return_X_y=True))  # a batch in each epoch
    model = dubito.BayesianRegressor(random_state=0).fit(X, y)
    again = clone(model).fit(X, y)
    assert np.array_equal(model.predict(X), again.predict(X))
    assert model.score(X, y) > 0.5
    assert "CrossFit" in model.description


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(diabetes):
    return dubito.BayesianRegressor(SMALL, hidden=(16,), random_state=0).fit(*diabetes)


def test_predictions_agree_with_the_predictive(fitted, diabetes):
    X, _ = diabetes
    answer = fitted.predictive(X)
    mean, std = fitted.predict(X, return_std=True)
    assert np.array_equal(mean, answer.mean) and np.array_equal(std, answer.std)
    lower, upper = fitted.predict_interval(X, coverage=0.8)
    exact = answer.interval(0.8)
    assert np.array_equal(lower, exact[0]) and np.array_equal(upper, exact[1])
    drawn = fitted.sample_y(X[:50], 4000, random_state=1)
    assert drawn.shape == (50, 4000)
    assert np.all(np.abs(drawn.mean(1) - mean[:50]) < 4.6 * std[:50] / np.sqrt(4000))
    assert np.all(np.abs(drawn.var(1) / std[:50] ** 2 - 1) < 4.6 * np.sqrt(2 / 4000))


def test_predictions_have_the_units_of_the_target(diabetes):
    """y in other units: the same standardized problem, so means follow and densities change by −log of the factor."""
    X, y = diabetes
    one, other = (
        dubito.BayesianRegressor(SMALL, hidden=(16,), random_state=0).fit(X, a * y + b)
        for a, b in ((1, 0), (1024, 512))
    )
    np.testing.assert_allclose(other.predict(X), 1024 * one.predict(X) + 512, rtol=1e-5)
    densities = one.predictive(X).log_prob(y), other.predictive(X).log_prob(1024 * y + 512)
    np.testing.assert_allclose(densities[1], densities[0] - np.log(1024), atol=1e-3)


def test_regressor_predicts_several_targets(diabetes):
    X, y = diabetes
    model = dubito.BayesianRegressor(SMALL, hidden=(16,), random_state=0).fit(X, np.stack([y, -10 * y], axis=1))
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (442, 2) and np.corrcoef(mean.T)[0, 1] < -0.9
    assert model.sample_y(X[:5], 3).shape == (5, 2, 3)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_estimator_checks_columns_and_categories_of_frames(make):
    rng = np.random.default_rng(0)
    color = rng.choice(["red", "green", "blue"], size=200)
    frame = make({"size": rng.normal(size=200), "color": color})
    y = frame["size"].to_numpy() + 3.0 * (color == "red")
    model = dubito.BayesianRegressor(dubito.MAP(epochs=200, batch_size=32), hidden=(16,), random_state=0).fit(frame, y)
    assert model.score(frame, y) > 0.95
    assert list(model.feature_names_in_) == ["size", "color"]
    with pytest.raises(dubito.DataError, match="feature names"):
        model.predict(make({"color": color, "size": frame["size"].to_numpy()}))
    strange = make({"size": [0.0], "color": ["mauve"]})
    with pytest.raises(dubito.DataError, match="mauve"):
        model.predict(strange)
    assert np.isfinite(model.set_params(handle_unknown="ignore").predict(strange)).all()


@pytest.mark.slow
def test_estimators_work_in_searches_and_pipelines(diabetes):
    X, y = diabetes
    method = dubito.Ensemble(dubito.MCDropout(epochs=20, batch_size=64), 2)
    model = dubito.BayesianRegressor(method, hidden=(16,), random_state=0)
    assert model.get_params()["method__method__rate"] == 0.05
    copy = clone(model).set_params(method__method__rate=0.2, method__size=3, hidden=(8,))
    assert copy.method == dubito.Ensemble(dubito.MCDropout(rate=0.2, epochs=20, batch_size=64), 3)
    assert model.method == method and copy.hidden == (8,)
    with pytest.raises(ValueError, match="rat'"):
        model.set_params(method__method__rat=0.2)
    model = dubito.BayesianRegressor(dubito.MCDropout(epochs=20), hidden=(16,), random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    search = GridSearchCV(pipeline, {"bayesianregressor__method__rate": [0.01, 0.9]}, cv=3).fit(X, y)
    assert search.best_params_ == {"bayesianregressor__method__rate": 0.01}
    assert cross_val_score(search.best_estimator_, X, y, cv=3).min() > 0.2


@pytest.mark.slow
def test_classifier_returns_the_labels_of_fit():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])
    by_name, by_number = (
        dubito.BayesianClassifier(SMALL, hidden=(16,), random_state=0).fit(X, labels) for labels in (names[y], y)
    )
    assert np.array_equal(by_name.predict_proba(X), by_number.predict_proba(X))
    assert np.array_equal(by_name.predict(X), names[by_number.predict(X)])
    assert by_name.score(X, names[y]) > 0.9 and list(by_name.classes_) == list(names)
    assert set(by_name.sample_y(X[:3], 20).ravel()) <= set(names)
    np.testing.assert_allclose(by_name.predict_proba(X).sum(1), 1, atol=1e-6)


def test_early_stopping_ends_a_fit_early(diabetes):
    X, y = diabetes
    method = dubito.MAP(epochs=3000, batch_size=64)
    model = dubito.BayesianRegressor(method, hidden=(16,), early_stopping=True, random_state=0).fit(X, y)
    (epochs,) = [len(member) for member in model.history_]
    assert epochs < 3000 and np.all(np.isfinite(model.history_[0]))


def test_pickled_estimators_predict_the_same(fitted, diabetes):
    X, _ = diabetes
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


@pytest.mark.parametrize("weighted", [False, True])
def test_fit_reads_every_column_once(monkeypatch, weighted):
    frame = pd.DataFrame({"a": np.arange(40.0) ** 2, "b": ["u", "v"] * 20})
    weight = np.r_[0.0, np.ones(39)] if weighted else None
    read = []

    def counted(series, rows=None):
        read.append(series.name)
        return column_values(series, rows)

    monkeypatch.setattr("dubito.tables.columns.column_values", counted)
    method = dubito.MAP(epochs=1, batch_size=16)
    dubito.BayesianRegressor(method, hidden=(4,), random_state=0).fit(frame, frame["a"], weight)
    assert read == ["a", "b"]


def test_estimators_raise_not_fitted_before_fit():
    with pytest.raises(NotFittedError):
        dubito.BayesianRegressor().predict([[1.0]])
