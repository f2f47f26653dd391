"""Classification of a table."""

from collections.abc import Sequence
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
    method, hidden, activation, periodic, likelihood, prior, draws, random_state, verbose : object
        As in ``BayesianRegressor``.
    early_stopping, validation_fraction, n_iter_no_change, tol, handle_unknown, missing : object
        As in ``BayesianRegressor``.
    class_weight : dict or "balanced", optional
        Weights of the classes, {label: weight}, which multiply ``sample_weight``: a row of weight 2
        counts as two rows. Classes without an entry have weight 1. "balanced" gives all classes the
        same total weight: N/(C·N_c) for the N_c of N rows in one of C classes, counted by
        ``sample_weight``. The probabilities are then those of the reweighted classes, not those
        of the rows.

    Attributes
    ----------
    classes_ : array
        The sorted classes.
    posterior_, method_, schema_, key_, calibration_, held_out_uncertainty_, history_, summary_ : object
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
    classes_: np.ndarray

    def __init__(
        self,
        method: Any = None,
        *,
        hidden: int | Sequence[int] | None = None,
        activation: str | None = None,
        periodic: int | None = None,
        likelihood: Any = None,
        class_weight: Any = None,
        prior: Any = None,
        draws: int | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        handle_unknown: str = "error",
        missing: str = "fill",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.hidden = hidden
        self.activation = activation
        self.periodic = periodic
        self.likelihood = likelihood
        self.class_weight = class_weight
        self.prior = prior
        self.draws = draws
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.handle_unknown = handle_unknown
        self.missing = missing
        self.random_state = random_state
        self.verbose = verbose

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
        if len(known) < 2:
            raise ValueError("BayesianClassifier needs at least 2 classes; the rows with positive weight have 1 class")
        return Target(classification_likelihood(self.likelihood, known), None, known)
