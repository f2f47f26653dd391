"""Tables of predictions: the columns of dubito predict, for any number of targets, classes and labels."""

import numpy as np
import pytest

import dubito

X = np.random.default_rng(0).normal(size=(40, 2))


@pytest.mark.parametrize("targets", [1, 2])
def test_to_pandas_has_the_answers_of_a_regression_as_columns(targets):
    y = X[:, 0] if targets == 1 else X
    answer = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(X, y).predictive(X[:5])
    table, (lower, upper) = answer.to_pandas(coverage=0.5), answer.columnwise.interval(0.5)
    endings = [""] if targets == 1 else ["_0", "_1"]
    assert list(table) == [
        f"{n}{e}" for e in endings for n in "mean std epistemic_std aleatoric_std lower upper".split()
    ]
    for k, ending in enumerate(endings):
        assert table[f"mean{ending}"].tolist() == answer.columnwise.mean[:, k].tolist()
        assert table[f"lower{ending}"].tolist() == lower[:, k].tolist()
        assert table[f"upper{ending}"].tolist() == upper[:, k].tolist()


@pytest.mark.parametrize("labels", [["down", "up"], [3, 7], [False, True]])
def test_to_pandas_has_the_answers_of_a_classification_as_columns(labels):
    y = np.array(labels)[(X[:, 0] > 0).astype(int)]
    model = dubito.BayesianClassifier(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(X, y)
    table = model.predictive(X[:5]).to_pandas()
    assert list(table) == ["prediction", *[f"p_{label}" for label in labels], "entropy", "mutual_information"]
    assert table["prediction"].tolist() == model.predict(X[:5]).tolist()
    assert table[f"p_{labels[1]}"].tolist() == model.predict_proba(X[:5])[:, 1].tolist()
    np.testing.assert_array_equal(model.predict_log_proba(X[:5]), np.log(model.predict_proba(X[:5])))
