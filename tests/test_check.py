"""Checks of settings: what they accept, and what their messages say."""

import warnings

import numpy as np
import pytest

import dubito
from dubito import _check


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_check_whole_accepts_whole_numbers(value):
    _check.check_whole("size", value, 1, 7)


@pytest.mark.parametrize("value", [0, 8, 1.0, True, "2", None, np.nan])
def test_check_whole_refuses_other_values(value):
    with pytest.raises(ValueError, match=f"size must be a whole number from 1 to 7, got {value!r}"):
        _check.check_whole("size", value, 1, 7)


def test_check_whole_message_names_other_allowed_values():
    with pytest.raises(ValueError, match=r"^size must be a whole number of at least 1 or None \(all rows\), got -1$"):
        _check.check_whole("size", -1, 1, other="None (all rows)")
    with pytest.raises(ValueError, match="from 1 to 1,000,000"):
        _check.check_whole("size", -1, 1, 1_000_000)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("reul", r"^activation='reul' is unknown; did you mean 'relu'\? Choose one of relu, tanh\.$"),
        ("xyz", r"^activation='xyz' is unknown\. Choose one of relu, tanh\.$"),
        (None, r"^activation=None is unknown\. Choose one of relu, tanh\.$"),
    ],
)
def test_check_choice_message_names_the_nearest_and_all(value, words):
    _check.check_choice("activation", "tanh", ("relu", "tanh"))
    with pytest.raises(ValueError, match=words):
        _check.check_choice("activation", value, {"relu": 1, "tanh": 2})


def test_list_first_shows_ten():
    assert _check.list_first(range(3)) == "0, 1, 2"
    assert _check.list_first(np.arange(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


@pytest.mark.slow
def test_warnings_name_the_line_that_called_dubito():
    """Wherever they arise: columns, targets, labels and shapes, of both estimators."""
    rng = np.random.default_rng(0)
    x, short = rng.normal(size=(20, 2)), dubito.MAP(epochs=1, batch_size=None)
    regressor, classifier = dubito.BayesianRegressor(short, hidden=(2,)), dubito.BayesianClassifier(short, hidden=(2,))
    ordered = dubito.BayesianClassifier(short, hidden=(2,), likelihood="ordered")
    cases = {
        "Constant columns": lambda: regressor.fit(x * [1, 0], x[:, 0]),
        "Constant targets": lambda: regressor.fit(x, np.ones(20)),
        "column-vector": lambda: classifier.fit(x, np.arange(20)[:, None] % 2),
        "ordered as texts": lambda: ordered.fit(x, np.array([*"abcd"] * 5)),
    }
    for words, case in cases.items():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            case()
        assert {warning.filename for warning in found} == {__file__}, words
        assert any(words in str(warning.message) for warning in found)
