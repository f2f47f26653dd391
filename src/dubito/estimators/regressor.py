"""Regression on a table."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from sklearn.base import RegressorMixin

from dubito._values import Column, Table
from dubito.estimators.base import BayesianEstimator, Target
from dubito.methods.ensembles.cross_fit import CrossFit
from dubito.models.noise_network import noise_std
from dubito.tables import targets

Values: TypeAlias = Float[np.ndarray, "rows *targets"]


class BayesianRegressor(RegressorMixin, BayesianEstimator):
    """Regression on a table, with a predictive distribution in the target's units.

    Features and target are standardized internally, with statistics of the training rows only. Text
    columns of a frame are categories.

    Parameters
    ----------
    method : Method or str, optional
        How to infer, e.g. ``MCDropout(rate=0.05)``, or a name in ``dubito.METHODS``, such as
        "mc-dropout". The default is a cross-fitted ensemble of
        networks with periodic features, whose noise is estimated from held-out residuals.
    hidden : int or sequence of int, optional
        Widths of the hidden layers, or the width of the only one. The default is that of the method's
        recipe, which the guide to priors and schedules lists.
    activation : str, optional
        Name of an activation. The default is that of the recipe.
    periodic : int, optional
        Number of trained frequencies of a numeric column, 0 for none. The default is that of the
        recipe.
    likelihood : str or Likelihood, optional
        A name in ``dubito.LIKELIHOODS``, which says when to use which, or an object. The default is
        Gaussian noise; with the default method noise that depends on the row, with Student's t.
    target_transform : str or tuple of callable, optional
        An increasing transform g: the model is fitted to g(y), with Gaussian noise, and all
        predictions are those of y. ``"log"`` and ``"box-cox"`` for positive targets,
        ``"yeo-johnson"`` for any, or functions (g, inverse) or (g, inverse, derivative).
    prior : Prior, optional
        The default is ``Normal`` with the scale of the recipe and the network's own scales.
    draws : int, optional
        Number of functions drawn in prediction. The default is all of a finite posterior, 100 of
        another.
    early_stopping : bool
        Whether to hold out rows and to stop when their score no longer improves.
    validation_fraction : float
        Fraction of the rows to hold out.
    n_iter_no_change : int
        Number of epochs without improvement after which training stops.
    tol : float
        Smallest change of the score, in nats per row, that is an improvement.
    handle_unknown : {"error", "ignore"}
        How to treat categories not seen in ``fit``: refuse them, or encode them as none of the
        known.
    missing : {"fill", "error"}
        How to treat missing inputs: encode them, with a column that marks them where there were
        some in ``fit``, or refuse them.
    random_state : int, RandomState or None
        Seed; the same number gives the same predictions.
    verbose : bool
        Whether a fit prints how far it is every ten seconds, and at the end its time and its
        method, to standard output. A model file does not hold this setting.

    Attributes
    ----------
    posterior_ : Posterior
        The posterior over the network's parameters.
    method_ : Method
        The method that was used.
    schema_ : Schema
        The columns and their encoding.
    scaler_ : TargetScaler
        Shift and scale of each target.
    transform_ : TargetTransform or None
        The fitted transform of the target, which comes before shift and scale.
    key_ : array
        The key of the random numbers of predictions.
    calibration_ : Calibration or None
        The calibration that ``calibrate`` has set.
    held_out_uncertainty_ : array or None
        The 99 % quantile of the epistemic standard deviation of each target, in its unit, over rows
        that were held out: by early stopping, by the folds of the method, or those of ``calibrate``;
        None without any, and for a single draw of the weights. For classes it is one quantile, of
        the mutual information.
    history_ : list of array
        For each member (epochs, 3): the likelihood, the penalty and the validation score, in nats
        per row.
    summary_ : dict
        Rows and seconds of the fit, when it was finished (UTC), and the versions of the libraries.
    noise_std_ : float or array of shape (targets,)
        The estimated standard deviation of the noise, which includes the error that all members
        have in common, in the target's unit (for a transformed target, in that of the transform).
        Only fits by the default method or by another ``CrossFit`` with Gaussian noise have it. The
        ``aleatoric_std`` of a prediction is usually smaller: the epistemic variance of the members,
        of which most cancels in their mean, is part of the same calibrated total.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : array
        Names of the columns, if they have names.

    Examples
    --------
    >>> import dubito, numpy as np
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> model = dubito.BayesianRegressor(dubito.MAP(epochs=20), hidden=8, random_state=0).fit(X, X[:, 0] ** 2)
    >>> model.predict(X[:3]).shape
    (3,)
    """

    task = "regression"

    def __init__(
        self,
        method: Any = None,
        *,
        hidden: int | Sequence[int] | None = None,
        activation: str | None = None,
        periodic: int | None = None,
        likelihood: Any = None,
        target_transform: Any = None,
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
        self.target_transform = target_transform
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

    def predict(self, X: Table, return_std: bool = False) -> Any:
        """The predictive mean.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).
        return_std : bool
            Whether to return the predictive standard deviation, too.

        Returns
        -------
        array or tuple of array
            Mean, or mean and standard deviation: each (rows,) or (rows, targets), in the target's
            units.
        """
        if not return_std:
            return self.in_blocks(X, lambda answer: answer.mean)[0]
        return tuple(self.in_blocks(X, lambda answer: answer.mean, lambda answer: answer.std))

    def predict_interval(self, X: Table, coverage: float = 0.9) -> tuple[Values, Values]:
        """Intervals that contain y with probability ``coverage``.

        They are equal-tailed; after conformal calibration, and for a ``Committee``
        (``conformal.cv_plus``), they are conformal.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).
        coverage : float
            Strictly between 0 and 1.

        Returns
        -------
        lower, upper : array
            Each (rows,) or (rows, targets), in the target's units.
        """
        (both,) = self.in_blocks(X, lambda answer: np.stack(answer.interval(coverage), axis=1))
        return both[:, 0], both[:, 1]

    @property
    def noise_std_(self) -> Any:
        """See Attributes."""
        known = noise_std(self.posterior_.model) if "posterior_" in vars(self) else None
        if known is None:
            raise AttributeError(
                "only a fit by the default method, or by another CrossFit with Gaussian noise, has noise_std_"
            )
        scaler: Any = self.scaler_
        found = np.array(known) * np.array(scaler.scale)
        return float(found[0]) if len(found) == 1 else found

    def _encoded_target(self, y: Column, weight: Float[np.ndarray, "rows"]) -> tuple[Target, np.ndarray]:
        method = self._resolved_method()
        likelihood, scaler, transform, scaled = targets.regression_target(
            self.likelihood, y, weight, noise_after_mean=method is None, transform=self.target_transform
        )
        if transform is not None and isinstance(method, CrossFit) and method.df is not None:
            problem = "target_transform needs Gaussian noise, and CrossFit estimates Student's t noise."
            raise ValueError(f"{problem} Set df=None, or leave the method out.")
        return Target(likelihood, scaler, None, transform), scaled

    def _streamed_target(self, known: Any) -> Target:
        if self.target_transform is not None:
            raise ValueError(
                "target_transform needs all rows in memory: use fit, without --stream, or transform the file"
            )
        likelihood = targets.regression_likelihood(self.likelihood, 1, noise_after_mean=False)
        return Target(*targets.match_scale(likelihood, known), None)
