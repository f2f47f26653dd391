"""Scorers of whole distributions for scikit-learn's searches, and predictive distributions through pipelines."""

from typing import Any

from sklearn.pipeline import Pipeline

from dubito._values import Column, Table
from dubito.evaluation import metrics


def predictive_of(estimator: Any, X: Table) -> Any:
    """The predictive distribution of every row, also of a fitted pipeline that ends in an estimator of dubito's.

    Parameters
    ----------
    estimator : BayesianRegressor, BayesianClassifier or Pipeline
        A fitted estimator.
    X : frame or array
        Inputs (rows, columns), as the pipeline takes them.

    Returns
    -------
    PredictiveDistribution
        As of ``BayesianRegressor.predictive``.
    """
    if isinstance(estimator, Pipeline):
        return predictive_of(estimator.steps[-1][1], estimator[:-1].transform(X) if len(estimator) > 1 else X)
    return estimator.predictive(X)


def nll_scorer(estimator: Any, X: Table, y: Column) -> float:
    """Minus the negative log-likelihood, for the ``scoring`` of scikit-learn's searches: higher is better.

    Parameters
    ----------
    estimator : BayesianRegressor, BayesianClassifier or Pipeline
        A fitted estimator.
    X, y : frame or array, array
        Held-out rows.

    Returns
    -------
    float
        The mean log predictive density, in nats per row.
    """
    return -metrics.nll(predictive_of(estimator, X), y).value


def crps_scorer(estimator: Any, X: Table, y: Column) -> float:
    """Minus the continuous ranked probability score, for the ``scoring`` of scikit-learn's searches: higher is better.

    Parameters
    ----------
    estimator : BayesianRegressor or Pipeline
        A fitted estimator.
    X, y : frame or array, array
        Held-out rows.

    Returns
    -------
    float
        −CRPS, the mean over rows, in the target's units.
    """
    return -metrics.crps(predictive_of(estimator, X), y).value
