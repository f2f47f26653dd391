"""The epistemic uncertainty of held-out rows: which rows they are, and their quantile."""

import pickle

import numpy as np
import pytest

import dubito
from dubito.estimators.held_out import MOST_ROWS, epistemic_uncertainty, rows_to_read, uncertainty_quantile
from dubito.training import splits
from dubito.training.data import Rows

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
Y = X[:, 0] + 0.1 * RNG.normal(size=60)
SMALL = {"hidden": (4,), "random_state": 0}
MEMBERS = dubito.Ensemble(dubito.MAP(epochs=3), 2)


def rows(train, valid):
    x = np.zeros((len(train), 1), np.float32)
    return Rows(x, x, np.asarray(train, np.float32), np.asarray(valid, np.float32))


def test_rows_to_read_are_those_that_were_held_out():
    found = rows([1, 0, 1, 0], [0, 1, 1, 0])
    assert rows_to_read(found, False).tolist() == [1]  # row 2 trains, too
    assert rows_to_read(found, True).tolist() == [0, 2]
    many = rows(np.ones(5 * MOST_ROWS), np.zeros(5 * MOST_ROWS))
    chosen = rows_to_read(many, True)
    assert len(chosen) == len(np.unique(chosen)) == MOST_ROWS and (chosen[0], chosen[-1]) == (0, 5 * MOST_ROWS - 1)


def test_a_fit_reads_the_rows_that_early_stopping_held_out():
    given = dubito.BayesianRegressor(MEMBERS, early_stopping=True, **SMALL).fit(
        X[:40], Y[:40], X_val=X[40:], y_val=Y[40:]
    )
    spread = given.predictive(X[40:]).epistemic_std
    np.testing.assert_allclose(given.held_out_uncertainty_, [spread.max()], rtol=1e-6)  # of 20 rows the largest
    drawn = dubito.BayesianRegressor(MEMBERS, early_stopping=True, validation_fraction=0.1, **SMALL).fit(X, Y)
    spread = drawn.predictive(X).epistemic_std
    (place,) = np.flatnonzero(np.isclose(spread, drawn.held_out_uncertainty_[0], rtol=1e-6))
    assert np.sum(spread > spread[place]) > 0  # the largest of 6 rows is hardly that of 60


def test_with_folds_all_rows_are_read_and_the_members_are_the_same():
    model = dubito.BayesianRegressor(dubito.Committee(dubito.MAP(epochs=3), 3), **SMALL).fit(X, Y)
    expected = np.quantile(model.predictive(X).epistemic_std, 0.99, method="higher")
    np.testing.assert_allclose(model.held_out_uncertainty_, [expected], rtol=1e-6)
    classes = dubito.BayesianClassifier(dubito.CrossFit(dubito.MAP(epochs=3), 3), **SMALL).fit(X, Y > 0)
    expected = np.quantile(classes.predictive(X).mutual_information, 0.99, method="higher")
    np.testing.assert_allclose(classes.held_out_uncertainty_, [expected], rtol=1e-5, atol=1e-9)


def test_it_is_computed_when_it_is_read_and_no_row_is_pickled():
    model = dubito.BayesianRegressor(dubito.Committee(dubito.MAP(epochs=3), 3), **SMALL)
    with pytest.raises(AttributeError, match="only a fitted estimator"):
        _ = model.held_out_uncertainty_
    assert not hasattr(pickle.loads(pickle.dumps(model)), "held_out_uncertainty_")
    model.fit(X, Y)
    encoded = model._held_out_rows
    assert len(encoded) == len(X)
    again = pickle.loads(pickle.dumps(model))
    assert again._held_out_rows is None and model._held_out_rows is None
    assert np.array_equal(again.held_out_uncertainty_, model.held_out_uncertainty_)


def test_several_targets_have_one_quantile_each_in_their_units():
    method = dubito.Committee(dubito.MAP(epochs=3), 2)
    model = dubito.BayesianRegressor(method, **SMALL).fit(X, np.stack([Y, 1000 * Y], axis=1))
    one, other = model.held_out_uncertainty_
    expected = np.quantile(model.predictive(X).epistemic_std, 0.99, axis=0, method="higher")
    np.testing.assert_allclose([one, other], expected, rtol=1e-6)
    assert other > 10 * one


@pytest.mark.parametrize(
    "model",
    [
        dubito.BayesianRegressor(MEMBERS, **SMALL),
        dubito.BayesianRegressor(dubito.MCDropout(epochs=3), **SMALL),
        dubito.BayesianRegressor(dubito.MAP(epochs=3), early_stopping=True, **SMALL),
    ],
    ids=["an ensemble without held-out rows", "dropout", "a single draw"],
)
def test_without_held_out_rows_or_draws_it_is_none(model):
    assert model.fit(X, Y).held_out_uncertainty_ is None


def test_calibrate_takes_its_own_rows_and_fit_forgets_them():
    model = dubito.BayesianRegressor(dubito.MCDropout(epochs=3), draws=6, **SMALL).fit(X[:40], Y[:40])
    model.calibrate(X[40:], Y[40:], "conformal", coverage=0.8)
    spread = model.predictive(X[40:]).epistemic_std
    np.testing.assert_allclose(model.held_out_uncertainty_, [spread.max()], rtol=1e-6)
    assert model.fit(X[:40], Y[:40]).held_out_uncertainty_ is None
    classes = dubito.BayesianClassifier(MEMBERS, **SMALL).fit(X[:40], Y[:40] > 0)
    classes.calibrate(X[40:], Y[40:] > 0, "temperature")
    assert classes.held_out_uncertainty_.shape == (1,)
    classes.calibrate(X[40:], Y[40:] > 0, "isotonic")  # whose probabilities are one draw's
    assert classes.held_out_uncertainty_ is None


def test_the_quantile_of_many_rows_leaves_one_in_a_hundred_above():
    model = dubito.BayesianRegressor(MEMBERS, **SMALL).fit(X, Y)
    answer = model.predictive(RNG.normal(size=(1000, 2)))
    found = uncertainty_quantile(answer)
    assert 5 <= np.sum(epistemic_uncertainty(answer)[:, 0] > found[0]) <= 10
    assert uncertainty_quantile(model.predictive(X[:0])) is None


def test_the_rows_read_are_those_that_the_fit_held_out(monkeypatch):
    found, original = [], splits.hold_out

    def hold_out(*arguments):
        found.append(original(*arguments))
        return found[-1]

    monkeypatch.setattr(splits, "hold_out", hold_out)
    dubito.BayesianRegressor(MEMBERS, early_stopping=True, **SMALL).fit(X, Y)
    of_the_fit, read = found
    assert of_the_fit.valid.sum() == 6
    assert np.array_equal(of_the_fit.valid, read.valid) and np.array_equal(of_the_fit.train, read.train)
