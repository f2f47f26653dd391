"""Scores of whole distributions in scikit-learn's searches, through pipelines too."""

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dubito
from dubito import metrics

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
Y = X[:, 0] + 0.1 * RNG.normal(size=90)


def regressor(**settings):
    return dubito.BayesianRegressor(dubito.MAP(epochs=5), hidden=(4,), random_state=0, **settings)


def test_scorers_are_the_scores_of_the_predictive_distribution_through_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), regressor()).fit(X, Y)
    answer = pipeline[-1].predictive(StandardScaler().fit_transform(X))
    assert np.array_equal(dubito.predictive_of(pipeline, X).mean, answer.mean)
    assert np.array_equal(dubito.predictive_of(make_pipeline(pipeline[-1]), X).mean, pipeline[-1].predictive(X).mean)
    assert dubito.nll_scorer(pipeline, X, Y) == -metrics.nll(answer, Y).value
    assert dubito.crps_scorer(pipeline, X, Y) == -metrics.crps(answer, Y).value


@pytest.mark.slow
def test_a_search_by_likelihood_prefers_the_trained_network():
    grid = {"method__epochs": [1, 100]}
    for estimator, y in (
        (regressor(), Y),
        (dubito.BayesianClassifier(dubito.MAP(), hidden=(4,), random_state=0), np.where(Y > 0, "up", "down")),
    ):
        search = GridSearchCV(estimator, grid, scoring=dubito.nll_scorer, cv=2).fit(X, y)
        assert search.best_params_ == {"method__epochs": 100}
