"""Weights of classes: the fit is that with sample weights of the same size, in memory, from a file and by the command line."""

import csv

import jax
import numpy as np
import pandas as pd
import pytest
from command_line import SMALL, run
from short_default import short_default
from sklearn.base import clone
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

import dubito
from dubito.tables.class_weights import class_weights

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2))
CODES = ((X[:, 0] + rng.normal(size=60) > 1).astype(int) + (X[:, 1] > 1.2)).astype(int)
QUICK = dubito.MAP(epochs=3, batch_size=16)


def classifier(method=QUICK, **parameters):
    return dubito.BayesianClassifier(method, hidden=(4,), random_state=0, **parameters)


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model.posterior_)]


def assert_same_fit(one, other):
    assert all(np.array_equal(*pair) for pair in zip(leaves(one), leaves(other), strict=True))
    assert np.array_equal(one.predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize("names", [[0, 1, 2], ["0", "1", "2"], ["a", "b", "c"], [0.0, 1.0, 2.0]])
@pytest.mark.parametrize("choice", ["balanced", {0: 2.0, 1: 0.5, 2: 8.0}, {1: 4}])
def test_fit_with_class_weight_is_the_fit_with_sample_weights(names, choice):
    y = np.array(names)[CODES]
    by_hand = compute_sample_weight(choice, CODES)
    given = choice if choice == "balanced" else {names[code]: weight for code, weight in choice.items()}
    weighted = classifier(class_weight=given).fit(X, y)
    assert_same_fit(weighted, classifier().fit(X, y, by_hand))
    assert not np.array_equal(weighted.predict_proba(X), classifier().fit(X, y).predict_proba(X))


def test_class_weight_multiplies_sample_weight():
    """ "balanced" counts rows by their weights, so that a row of weight two is two rows."""
    weight = rng.integers(0, 4, size=60)
    both = classifier(class_weight={0: 2.0, 2: 0.25}).fit(X, CODES, weight)
    assert_same_fit(both, classifier().fit(X, CODES, weight * np.array([2, 1, 0.25])[CODES]))
    repeated = np.repeat(CODES, weight)
    of_class = compute_class_weight("balanced", classes=np.arange(3), y=repeated)
    balanced = classifier(class_weight="balanced").fit(X, CODES, weight)
    assert_same_fit(balanced, classifier().fit(X, CODES, weight * of_class[CODES]))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_default_method_takes_class_weight(early_stopping, monkeypatch):
    monkeypatch.setattr("dubito.estimators.base.default_method", short_default)
    y = np.array(["no", "yes"])[(CODES > 0).astype(int)]
    choice = {"no": 1.0, "yes": 16.0}
    weighted = classifier(None, class_weight=choice, early_stopping=early_stopping).fit(X, y)
    by_hand = classifier(None, early_stopping=early_stopping).fit(X, y, compute_sample_weight(choice, y))
    assert_same_fit(weighted, by_hand)
    plain = classifier(None, early_stopping=early_stopping).fit(X, y)
    assert not np.array_equal(weighted.predict_proba(X), plain.predict_proba(X))


def test_probabilities_are_those_of_the_reweighted_classes():
    """At the maximum of the weighted likelihood of a model with a bias, mean probabilities are the weighted frequencies."""
    y = (CODES > 0).astype(int)
    method = dubito.MaximumLikelihood(epochs=300, batch_size=None, learning_rate=0.05)
    for choice, share in (("balanced", 0.5), (None, y.mean())):
        model = dubito.BayesianClassifier(method, hidden=(), random_state=0, class_weight=choice).fit(X, y)
        weight = np.ones(60) if choice is None else compute_sample_weight(choice, y)
        assert abs(np.average(model.predict_proba(X)[:, 1], weights=weight) - share) < 0.01


def test_class_weight_applies_to_validation_rows():
    """Early stopping maximizes the weighted score of the user's own validation rows."""
    method = dubito.MAP(epochs=1, batch_size=16)
    fits = [
        classifier(method, early_stopping=True, class_weight=choice).fit(
            X[:40], CODES[:40], X_val=X[40:], y_val=CODES[40:]
        )
        for choice in (None, {0: 1.0, 1: 1.0, 2: 1.0}, {0: 1e-3, 1: 1e-3, 2: 1.0})
    ]
    score, same, rare = (fit.history_[0][0, 2] for fit in fits)
    assert score == same
    log_probs = np.log(fits[2].predict_proba(X[40:]))[np.arange(20), CODES[40:]]
    weight = np.array([1e-3, 1e-3, 1.0])[CODES[40:]]
    assert CODES[40:].max() == 2
    np.testing.assert_allclose(rare, np.average(log_probs, weights=weight), rtol=1e-4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("balance", "class_weight must be None, 'balanced' or a dict {label: weight}, got 'balance'"),
        ([1, 2, 3], "class_weight must be None, 'balanced' or a dict"),
        ({0: 1.0, 7: 2.0}, "class_weight has 7, but the classes of y are 0, 1, 2."),
        ({"0": 1.0, "1": 2.0, "2": 1.0}, "class_weight has '0', '1', '2', but the classes of y are 0, 1, 2."),
        ({0: 0.0}, "class_weight must hold positive finite numbers, got 0.0 for the label 0"),
        ({0: -1}, "got -1 for the label 0"),
        ({0: np.nan}, "got nan for the label 0"),
        ({1: np.inf}, "got inf for the label 1"),
        ({1: 1e-60}, "got 1e-60 for the label 1"),
        ({1: "2"}, "got '2' for the label 1"),
        ({0: 1e35}, "the weights in sample_weight times class_weight sum to"),
    ],
)
def test_class_weights_that_cannot_be_used_are_refused(choice, message):
    with pytest.raises(ValueError) as error:
        classifier(class_weight=choice).fit(X, CODES)
    assert message in str(error.value)


def test_class_weight_of_a_class_without_rows_is_ignored_if_all_others_have_one():
    """A fold may lack a rare class."""
    weights = class_weights({0: 1, 1: 2, 7: 3}, np.array([0, 1]), np.array([5.0, 5.0]))
    assert weights.tolist() == [1, 2]


def test_class_weight_is_a_parameter_of_the_classifier_only():
    with pytest.raises(TypeError, match="BayesianRegressor has no setting 'class_weight'"):
        dubito.BayesianRegressor(class_weight="balanced")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="class_weight"):
        dubito.BayesianRegressor().set_params(class_weight="balanced")
    assert "class_weight" not in dubito.BayesianRegressor().get_params()
    assert clone(classifier(class_weight={0: 2.0})).get_params()["class_weight"] == {0: 2.0}


@pytest.mark.parametrize("choice", [None, "balanced", {"a": 2, "b": np.float64(0.5), "c": 1.0}, {np.str_("b"): 3.0}])
def test_model_file_keeps_class_weight(choice, tmp_path):
    model = classifier(class_weight=choice).fit(X, np.array(["a", "b", "c"])[CODES])
    model.save(tmp_path / "m.dubito")
    again = dubito.load(tmp_path / "m.dubito")
    assert again.class_weight == choice
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert_same_fit(clone(again).fit(X, np.array(["a", "b", "c"])[CODES]), model)


@pytest.mark.parametrize("choice", ["balanced", {"a": 4.0, "c": 0.5}, {"a": 1.0}])
def test_fit_file_takes_class_weight(choice, tmp_path):
    """The weights of the rows are those of a fit in memory; only the columns' scales are not weighted."""
    y = np.array(["a", "b", "c"])[CODES]
    frame = pd.DataFrame({"u": X[:, 0], "v": X[:, 1], "y": y})
    frame.to_parquet(tmp_path / "t.parquet")
    file = classifier(class_weight=choice).fit_file(tmp_path / "t.parquet", "y")
    assert np.isfinite(file.predict_proba(frame[["u", "v"]])).all()
    plain = classifier().fit_file(tmp_path / "t.parquet", "y")
    same = all(np.array_equal(*pair) for pair in zip(leaves(file), leaves(plain), strict=True))
    assert same == (choice == {"a": 1.0})
    by_hand = compute_sample_weight(choice, y)
    weighted = dubito.fit(
        file.posterior_.model,
        file.schema_.encode(frame[["u", "v"]]),
        CODES,
        QUICK,
        key=jax.random.split(jax.random.key(np.random.RandomState(0).randint(2**31 - 1)))[0],
        weight=by_hand,
    )
    found = [np.asarray(leaf) for leaf in jax.tree.leaves(weighted)]
    assert all(np.array_equal(*pair) for pair in zip(found, leaves(file), strict=True))


def test_command_line_balances_classes(tmp_path):
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as file:
        rows = [[*row, "abc"[code], value] for row, code, value in zip(X, CODES, X[:, 0] + 0.5, strict=True)]
        csv.writer(file).writerows([["u", "v", "y", "z"], *rows])
    fit = ("fit", table, *SMALL, "-o", tmp_path / "m.dubito")
    run(*fit, "-t", "y", "--drop", "z", "--class-weight", "balanced")
    assert dubito.load(tmp_path / "m.dubito").class_weight == "balanced"
    for arguments, words in (
        ((*fit, "-t", "y", "--class-weight", "2"), "--class-weight must be balanced, got '2'"),
        ((*fit, "-t", "z", "--class-weight", "balanced"), "--class-weight is for classes, not for numbers"),
        ((*fit, "-t", "y", "--task", "classification", "--target-transform", "log"), "not for classes"),
        (("compare", table, "-t", "z", "--class-weight", "balanced"), "or set --task classification"),
    ):
        assert words in run(*arguments, code=1)[1]


@pytest.mark.slow
def test_command_line_compares_with_balanced_classes(tmp_path):
    table = tmp_path / "t.csv"
    pd.DataFrame({"u": X[:, 0], "y": np.where(CODES > 0, "yes", "no")}).to_csv(table, index=False)
    compare = ("compare", table, "-t", "y", "--methods", "map", "--folds", 2, "--hidden", "4", "--json")
    assert run(*compare)[0] != run(*compare, "--class-weight", "balanced")[0]
