"""Classification of a table."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from dubito._values import Column, Table
from dubito.estimators.base import BayesianEstimator, Target
from dubito.evaluation.conformal import Conformal, CVPlus
from dubito.tables.targets import classification_likelihood
from dubito.tables.validation import check_target


class BayesianClassifier(ClassifierMixin, BayesianEstimator):
    """Classification of a table, with class probabilities and their epistemic uncertainty.

    By default, the likelihood is Bernoulli for two classes and Categorical for more; the default
    method calibrates their probabilities with one temperature, estimated from held-out rows. The
    likelihood "ordered" uses the order of the sorted classes.

    Parameters
    ----------
    method, hidden, activation, periodic, likelihood, prior, draws, random_state : object
        As in ``BayesianRegressor``.
    early_stopping, validation_fraction, n_iter_no_change, tol, handle_unknown, missing : object
        As in ``BayesianRegressor``.

    Attributes
    ----------
    classes_ : array
        The sorted classes.
    posterior_, method_, schema_, key_, calibration_, history_, summary_ : object
        As in ``BayesianRegressor``.
    n_features_in_, feature_names_in_ : object
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
    _default_network = ((256, 256), "silu", 0)
    classes_: np.ndarray

    def predict(self, X: Table) -> Shaped[np.ndarray, "rows"]:
        """The most probable class of each row.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).

        Returns
        -------
        array
            Labels (rows,).
        """
        check_is_fitted(self, "posterior_")
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Table) -> Float[np.ndarray, "rows classes"]:
        """Class probabilities: the mean over draws.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).

        Returns
        -------
        array
            Probabilities (rows, classes), in the order of ``classes_``.
        """
        return self.in_blocks(X, lambda answer: answer.probs)[0]

    def predict_log_proba(self, X: Table) -> Float[np.ndarray, "rows classes"]:
        """The logarithms of the class probabilities.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).

        Returns
        -------
        array
            log p (rows, classes), −∞ where p is 0 in float64.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict_set(self, X: Table) -> Bool[np.ndarray, "rows classes"]:
        """The conformal set of each row.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).

        Returns
        -------
        array
            Whether each class is in the set, (rows, classes).

        Raises
        ------
        ValueError
            Unless the method is a ``Committee``, whose sets are CV+, or
            ``calibrate(..., method="conformal")`` was called.
        """
        check_is_fitted(self, "posterior_")
        if not isinstance(self.calibration_, Conformal | CVPlus):
            remedy = 'call calibrate(X, y, method="conformal") with held-out rows first, or use a Committee'
            raise ValueError(f"there are no conformal sets: {remedy}")
        return self.in_blocks(X, lambda answer: answer.sets)[0]

    def _encoded_target(self, y: Column, weight: Float[np.ndarray, "rows"]) -> tuple[Target, np.ndarray]:
        classes, codes = check_target(y, len(weight), "classification", np.flatnonzero(weight))
        return self._streamed_target(classes), codes

    def _streamed_target(self, known: Any) -> Target:
        if self.target_transform is not None:
            raise ValueError("target_transform is for numbers, not for classes. Leave it out.")
        if len(known) < 2:
            raise ValueError("BayesianClassifier needs at least 2 classes; the rows with positive weight have 1 class")
        return Target(classification_likelihood(self.likelihood, known), None, known)
