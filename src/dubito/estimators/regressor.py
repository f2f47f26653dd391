"""Regression on a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import RegressorMixin

from dubito._values import Column, Table
from dubito.estimators.base import BayesianEstimator
from dubito.estimators.data import Target, used_rows
from dubito.tables import targets
from dubito.tables.schema import Schema
from dubito.training.reports import Report


class BayesianRegressor(RegressorMixin, BayesianEstimator):
    """Regression on a table, with a predictive distribution in the target's units.

    Features and target are standardized internally, with statistics of the training rows only. Text columns of a frame are
    categories.

    Parameters
    ----------
    method : how to infer, e.g. ``MCDropout(rate=0.05)``. None is the default: a cross-fitted ensemble of networks with
        periodic features, its noise from held-out residuals.
    hidden : widths of the hidden layers, or the width of the only one. None is (128, 128), for classes (256, 256), with the
        default method, and (50,) with another.
    activation : name of an activation. None is "silu" with the default method, "relu" with another.
    periodic : number of trained frequencies of a numeric column, 0 for none. None is 8 with the default method of a
        regression, 0 otherwise.
    likelihood : None, an object, or a name in ``dubito.LIKELIHOODS``, which says when to use which. None is Gaussian noise;
        with the default method noise that depends on the row, with Student's t.
    prior : None is ``Normal`` with the network's own scales, 1/√fan-in.
    draws : number of functions drawn in prediction. None is all of a finite posterior, 100 of another.
    early_stopping, validation_fraction, n_iter_no_change, tol : as in scikit-learn's ``MLPRegressor``.
    handle_unknown : "error" or "ignore", for categories not seen in ``fit``.
    random_state : seed; the same number gives the same predictions.

    Attributes
    ----------
    posterior_ : the posterior over the network's parameters.
    method_ : the method that was used.
    schema_ : the columns and their encoding.
    scaler_ : shift and scale of each target.
    calibration_ : what ``calibrate`` has set, or None.
    history_ : for each member (epochs, 3), the likelihood, the penalty and the validation score in nats per example.
    summary_ : number of rows and seconds of the fit.
    n_features_in_, feature_names_in_ : as in scikit-learn.

    Examples
    --------
    >>> import dubito, numpy as np
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> model = dubito.BayesianRegressor(dubito.MAP(epochs=20), hidden=8, random_state=0).fit(X, X[:, 0] ** 2)
    >>> model.predict(X[:3]).shape
    (3,)
    """

    task = "regression"
    _flat: bool
    _default_network = ((128, 128), "silu", 8)

    def fit(
        self,
        X: Table,
        y: Column,
        sample_weight: Any = None,
        *,
        progress: Callable[[Report], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit the posterior.

        Parameters
        ----------
        X : frame or array (rows, columns).
        y : (rows,) or (rows, targets).
        sample_weight : (rows,); a row of weight zero is left out.
        progress : called with a ``Report`` several times a second.
        checkpoint : file from which the same fit (with a number as ``random_state``) continues after an interruption.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        DataError
            For values that cannot be used; the message names rows and columns.
        DivergenceError
            For training that does not converge with smaller steps either.
        """
        schema, x, weight = Schema.fit_encode(X, sample_weight)
        default = self.method is None
        likelihood, scaler, scaled = targets.regression_target(self.likelihood, y, weight, noise_after_mean=default)
        target = Target(likelihood, scaler, {"_flat": len(scaler.shift) == 1})
        return self._fit(schema, used_rows(x, scaled, weight), len(x), target, progress, checkpoint)

    def predict(self, X: Table, return_std: bool = False) -> Any:
        """The predictive mean.

        Parameters
        ----------
        X : frame or array (rows, columns).
        return_std : whether to return the predictive standard deviation, too.

        Returns
        -------
        Mean, or (mean, std): each (rows,) or (rows, targets), in the target's units.
        """
        if not return_std:
            return self.in_blocks(X, lambda answer: answer.mean)[0]
        return tuple(self.in_blocks(X, lambda answer: answer.mean, lambda answer: answer.std))

    def predict_interval(
        self, X: Table, coverage: float = 0.9
    ) -> tuple[Float[np.ndarray, "rows *targets"], Float[np.ndarray, "rows *targets"]]:
        """Intervals that contain y with probability ``coverage``.

        They are equal-tailed; after conformal calibration, and of a ``Committee`` (``conformal.cv_plus``), conformal.

        Parameters
        ----------
        X : frame or array (rows, columns).
        coverage : strictly between 0 and 1.

        Returns
        -------
        lower, upper : each (rows,) or (rows, targets), in the target's units.
        """
        (both,) = self.in_blocks(X, lambda answer: np.stack(answer.interval(coverage), axis=1))
        return both[:, 0], both[:, 1]

    def _target(self, known):
        likelihood = targets.regression_likelihood(self.likelihood, 1, noise_after_mean=False)
        return Target(*targets.match_scale(likelihood, known), {"_flat": True})

    def _labels(self, drawn):
        return drawn

    @property
    def _classes(self):
        return None
