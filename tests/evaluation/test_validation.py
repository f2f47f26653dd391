"""Targets, weights, losses and scores of all libraries are accepted; sizes that do not match are errors in words."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import dubito
from dubito import calibration, conformal, decisions, diagnostics, metrics
from dubito.posteriors.predictive import Predictive

Y = [0.5, -1.0, 2.0, 0.0]
WEIGHT = [1.0, 2.0, 0.0, 1.0]


def regression(targets=1):
    mean = np.float32(np.random.default_rng(0).normal(size=(3, 4, targets)))
    z = {"mean": mean, "scale": np.ones_like(mean)}
    return Predictive(dubito.Gaussian(targets=targets), z, np.zeros(targets), np.ones(targets))


def classes():
    logits = np.float32(np.random.default_rng(1).normal(size=(3, 4, 3)))
    return Predictive(dubito.Categorical(classes=3), {"logits": logits}, np.zeros(1), np.ones(1))


@pytest.mark.parametrize(
    "make", [list, tuple, np.array, pd.Series, pl.Series, pa.array, lambda v: pa.chunked_array([v])]
)
def test_numbers_of_all_libraries_give_the_same_score(make):
    expected = metrics.rmse(regression(), np.array(Y), weight=np.array(WEIGHT)).value
    assert metrics.rmse(regression(), make(Y), weight=make(WEIGHT)).value == expected
    risk = decisions.risk_coverage(regression(), Y, loss=make([0.0, 1.0, 0.0, 1.0])).risk[-1]
    assert risk == 0.5
    assert metrics.ood_auroc(make([0.0, 1.0]), make([2.0, 3.0])).value == 1


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_frames_are_several_targets(make):
    y = {"a": Y, "b": Y[::-1]}
    expected = metrics.nll(regression(2), np.column_stack([Y, Y[::-1]])).value
    assert metrics.nll(regression(2), make(y)).value == expected


MAKERS = [list, np.array, pd.Series, pl.Series, pa.array]
Y_FUNCTIONS = [metrics.rmse, metrics.scorecard, metrics.pit, decisions.losses, conformal.split_conformal]
CLASS_FUNCTIONS = [metrics.ece, metrics.scorecard, decisions.losses, calibration.temperature, calibration.isotonic]


@pytest.mark.parametrize("make", MAKERS)
def test_targets_of_another_size_are_rejected_in_words(make):
    for function in Y_FUNCTIONS:
        with pytest.raises(ValueError, match="y has 3 rows, but the predictive has 4"):
            function(regression(), make(Y[:3]))
        with pytest.raises(ValueError, match=r"y has the shape \(4,\), but this predictive needs \(4, 2\)"):
            function(regression(2), make(Y))
    for function in CLASS_FUNCTIONS:
        with pytest.raises(ValueError, match="y has 3 rows, but the predictive has 4"):
            function(classes(), make([0, 1, 2]))


@pytest.mark.parametrize("y", [{"a": Y}, 1.0, None, "abc"], ids=["dict", "number", "None", "text"])
def test_targets_that_are_no_column_are_rejected_in_words(y):
    for function in Y_FUNCTIONS:
        with pytest.raises(ValueError, match=r"y has the shape \(\), but this predictive needs \(4,\) or \(4, 1\)"):
            function(regression(), y)
    for function in CLASS_FUNCTIONS:
        with pytest.raises(ValueError, match=r"y has the shape \(\), but one class per row is needed: \(4,\)"):
            function(classes(), y)


@pytest.mark.parametrize(
    "wrong",
    [WEIGHT[:3], pd.Series(WEIGHT[:3]), pa.array(WEIGHT[:3]), {"a": WEIGHT}, ["x"] * 4, 1.0, [1.0, None, 1.0, 1.0]],
)
def test_numbers_that_do_not_fit_the_rows_are_rejected_in_words(wrong):
    for call, words in (
        (lambda: metrics.rmse(regression(), Y, weight=wrong), "weight must be 4 finite numbers"),
        (lambda: calibration.temperature(classes(), [0, 1, 2, 0], weight=wrong), "weight must be 4 finite numbers"),
        (lambda: decisions.losses(regression(), Y, wrong), "loss must be 4 finite numbers"),
        (lambda: decisions.uncertainty_score(regression(), lambda _: wrong), "an uncertainty score must be"),
        (lambda: metrics.paired(*[metrics.mae(regression(), Y)] * 2, weight=wrong), "weight must be 4 finite numbers"),
        (lambda: conformal.cv_plus(regression(), Y, wrong), "fold must be a member's number for each of 4 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_arrays_of_another_shape_are_rejected_in_words():
    for call, words in (
        (lambda: metrics.ood_auroc({"a": [1.0]}, [1.0]), "in_distribution must be finite numbers"),
        (lambda: metrics.ood_aupr([1.0], [[1.0]]), r"out_of_distribution must be .* got list of shape \(1, 1\)"),
        (lambda: metrics.crps(regression(), Y, knots=np.zeros((8, 3))), "knots must be quantiles, then the 4 rows"),
        (lambda: diagnostics.rhat([1.0, 2.0]), r"draws must be an array \(chains, draws, columns\), got shape \(2,\)"),
        (lambda: diagnostics.ess(np.zeros((4, 10))), r"got shape \(4, 10\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
