"""Classification of a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from dubito._values import Column, Table
from dubito.estimators.base import BayesianEstimator
from dubito.estimators.data import Target, used_rows
from dubito.evaluation.conformal import Conformal, CVPlus
from dubito.tables.schema import Schema
from dubito.tables.targets import classification_likelihood
from dubito.tables.validation import check_target
from dubito.training.reports import Report


class BayesianClassifier(ClassifierMixin, BayesianEstimator):
    """Classification of a table, with class probabilities and their epistemic uncertainty.

    The parameters are those of ``BayesianRegressor``. ``likelihood=None`` is the Bernoulli for two classes and the
    Categorical for more; the default method calibrates them with one temperature from held-out rows. "ordered" uses the
    order of the sorted classes.

    Parameters
    ----------
    method, hidden, activation, periodic, likelihood, prior, draws, early_stopping, validation_fraction, n_iter_no_change, tol, handle_unknown, random_state
        As in ``BayesianRegressor``.

    Attributes
    ----------
    classes_ : the sorted classes.
    posterior_, method_, schema_, calibration_, history_, summary_, n_features_in_, feature_names_in_
        As in ``BayesianRegressor``.

    Examples
    --------
    >>> import dubito, numpy as np
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> model = dubito.BayesianClassifier(dubito.MAP(epochs=20), hidden=8, random_state=0).fit(X, X[:, 0] > 0)
    >>> model.predict_proba(X[:3]).shape
    (3, 2)
    """

    task = "classification"
    classes_: np.ndarray
    _default_network = ((256, 256), "silu", 0)

    def fit(
        self,
        X: Table,
        y: Column,
        sample_weight: Any = None,
        *,
        progress: Callable[[Report], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit the posterior; the classes are the sorted values of y.

        Parameters
        ----------
        X : frame or array (rows, columns).
        y : labels (rows,) of one type: texts, integers, truth values.
        sample_weight, progress, checkpoint : as for ``BayesianRegressor.fit``.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        DataError
            For values that cannot be used; the message names rows and columns.
        ValueError
            For fewer than two classes.
        """
        schema, x, weight = Schema.fit_encode(X, sample_weight)
        classes, codes = check_target(y, len(weight), "classification", np.flatnonzero(weight))
        return self._fit(schema, used_rows(x, codes, weight), len(x), self._target(classes), progress, checkpoint)

    def predict(self, X: Table) -> Shaped[np.ndarray, "rows"]:
        """The most probable class of each row.

        Parameters
        ----------
        X : frame or array (rows, columns).
        """
        check_is_fitted(self, "posterior_")
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Table) -> Float[np.ndarray, "rows classes"]:
        """Class probabilities, in the order of ``classes_``: the mean over draws.

        Parameters
        ----------
        X : frame or array (rows, columns).
        """
        return self.in_blocks(X, lambda answer: answer.probs)[0]

    def predict_set(self, X: Table) -> Bool[np.ndarray, "rows classes"]:
        """Which classes are in each row's conformal set.

        Parameters
        ----------
        X : frame or array (rows, columns).

        Raises
        ------
        ValueError
            Unless the method is a ``Committee``, whose sets are CV+, or ``calibrate(..., method="conformal")`` was called.
        """
        check_is_fitted(self, "posterior_")
        if not isinstance(self.calibration_, Conformal | CVPlus):
            raise ValueError(
                'conformal sets come after calibrate(X, y, method="conformal") on held-out rows, or of a Committee'
            )
        return self.in_blocks(X, lambda answer: answer.sets)[0]

    def _target(self, known):
        if len(known) < 2:
            raise ValueError("BayesianClassifier needs at least 2 classes; the data (of positive weight) have 1 class")
        return Target(classification_likelihood(self.likelihood, known), None, {"classes_": known})

    def _labels(self, drawn):
        return self.classes_[drawn]

    @property
    def _classes(self):
        return self.classes_
