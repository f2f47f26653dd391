"""scikit-learn's own checks, and what they do not know of: units, frames, tables, searches, processes."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import dubito

SMALL = dubito.MAP(epochs=60, batch_size=32, learning_rate=0.03)
# Zero weight removes a row from the loss, but the order of mini-batches then differs: equal in law, not in bits.
EXCEPTION = {"check_sample_weight_equivalence_on_dense_data": "mini-batches are drawn from other row numbers"}


@parametrize_with_checks(
    [
        dubito.BayesianRegressor(SMALL, hidden=(16,), random_state=0),
        dubito.BayesianClassifier(SMALL, hidden=(16,), random_state=0),
    ],
    expected_failed_checks=lambda estimator: EXCEPTION,
)
@pytest.mark.filterwarnings("ignore::dubito.DataWarning")
def test_sklearn_checks(estimator, check):
    check(estimator)
