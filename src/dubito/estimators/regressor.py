"""scikit-learn's regressor and classifier around the core: tables in, predictions in the target's own units out."""

import time
import warnings
from dataclasses import is_dataclass
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from dubito._jax import prng
from dubito._process.threads import check_process
from dubito.estimators.base import Answering
from dubito.estimators.files import model_file
from dubito.estimators.table_network import table_network
from dubito.evaluation.conformal import ConformalRule, cv_plus
from dubito.methods.by_name import method_params, with_setting
from dubito.methods.default import default_method
from dubito.methods.ensembles.committee import Committee
from dubito.models.model import Model
from dubito.models.priors import Normal, Prior
from dubito.posteriors.function_samples import check_draws
from dubito.tables import targets
from dubito.tables.files import learn_table, table_pieces
from dubito.tables.schema import Schema, check_target, check_weight, taken
from dubito.training.fit import fit, history
from dubito.training.splits import interleaved_folds


class _Estimator(Answering, BaseEstimator):
    """What both estimators share; the parameters are explained there."""

    _flat: bool
    _target: Any
    _task = "regression"
    _recipe = ((128, 128), "silu", 8)  # hidden, activation and periodic beside the default method

    def __init__(
        self,
        method=None,
        *,
        hidden=None,
        activation=None,
        periodic=None,
        likelihood=None,
        prior=None,
        draws=None,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        handle_unknown="error",
        random_state=None,
    ):
        self.method = method
        self.hidden = hidden
        self.activation = activation
        self.periodic = periodic
        self.likelihood = likelihood
        self.prior = prior
        self.draws = draws
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.handle_unknown = handle_unknown
        self.random_state = random_state

    def get_params(self, deep=True):
        """The constructor's parameters; with ``deep`` also ``method__rate`` and the like."""
        found = BaseEstimator.get_params(self, deep=False)
        if deep and is_dataclass(self.method):
            found |= method_params(self.method, "method__")
        return found

    def set_params(self, **params):
        """Set parameters; ``method__rate=0.1`` replaces the method by one with that field."""
        nested = {name: params.pop(name) for name in list(params) if name.startswith("method__")}
        BaseEstimator.set_params(self, **params)
        for name, value in nested.items():
            self.method = with_setting(self.method, name.split("__")[1:], value)
        return self

    def _table(self, X, sample_weight):
        """(schema, encoded rows, weights of all rows) of a table to fit. Rows of weight 0 may hold anything: they are left out."""
        weight = check_weight(sample_weight, _num_samples(X))
        schema = Schema.fit(X, weight)
        X = X if weight.all() else taken(X, np.flatnonzero(weight))
        return schema, schema.encode(X, handle_unknown="ignore"), weight

    def fit_file(self, path, target, *, categorical=(), drop_missing=False, progress=None, checkpoint=None):
        """Fit to a Parquet table that need not fit into memory: to the column ``target`` from all others. The file is read
        twice, and once an epoch; rows are shuffled within pieces of 65,536, so it should not be sorted. It needs a method
        that does not hold rows out. The columns ``categorical`` become categories whatever they hold; ``drop_missing`` leaves
        rows out that have no value of the target, which are a DataError otherwise. The rest is as for ``fit``."""
        if self.method is None:
            raise ValueError("the default method is cross-fitted, which needs all rows in memory: choose a method")
        schema, known, rows = learn_table(path, target, self._task, categorical, drop_missing)
        fitted = self._target(known)
        scaler = known if fitted[1] is None else fitted[1]
        table = schema, table_pieces(path, target, schema, scaler, categorical), None, rows
        return self._fit(table, None, fitted, progress, checkpoint)

    def _fit(self, table, y, target, progress, checkpoint):
        """Train on the encoded table; a ``target`` has the attributes to set when all has gone well."""
        start = time.perf_counter()
        check_draws(self.draws)
        if self.prior is not None and not isinstance(self.prior, Prior):
            raise ValueError(f"prior is None or a prior such as dubito.Normal(scale=1.0), got {self.prior!r}")
        (schema, x, weight, rows), (likelihood, scaler, fitted) = table, target
        model_file.check_texts(schema, fitted.get("classes_"))
        method = default_method(rows, likelihood.task, self.likelihood) if self.method is None else self.method
        recipe = self._recipe if self.method is None else None
        network = table_network(schema, likelihood.width, recipe, self.hidden, self.activation, self.periodic)
        model = Model(network, likelihood, Normal(by_network=True) if self.prior is None else self.prior)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key_fit, key_predict = jax.random.split(prng.key_from_seed(seed))
        reports = []

        def report(one):
            reports.append(one)
            if progress is not None:
                progress(one)

        stopping = ("early_stopping", "validation_fraction", "n_iter_no_change", "tol")
        options = {name: getattr(self, name) for name in stopping} | {"progress": report, "checkpoint": checkpoint}
        posterior = fit(model, x, y, method, key=key_fit, weight=weight, **options)
        fitted |= {
            "schema_": schema,
            "scaler_": scaler,
            "method_": method,
            "posterior_": posterior,
            "key_": np.asarray(jax.random.key_data(key_predict)),
            "calibration_": None,
            "history_": history(reports),
            "summary_": {"rows": rows, "seconds": time.perf_counter() - start},
            "n_features_in_": len(schema.columns),
        }
        if schema.named:
            fitted["feature_names_in_"] = np.array([column.name for column in schema.columns], dtype=object)
        else:
            vars(self).pop("feature_names_in_", None)
        for name, value in fitted.items():
            setattr(self, name, value)
        if isinstance(method, Committee):
            self.calibration_ = self._cv_plus(x, np.asarray(y))
        return self

    def _cv_plus(self, x, y):
        """The CV+ of a committee's errors at its own rows; None, with a warning, where there can be none."""
        truth = y if self.scaler_ is None else self.scaler_.shift + np.multiply(self.scaler_.scale, y)
        try:
            answer = self._raw(self._functions(), x).columnwise
            return cv_plus(answer, truth, interleaved_folds(y, self.method_.folds))
        except ValueError as error:
            warnings.warn(f"intervals and sets are not CV+: {error}", stacklevel=4)
            return None

    def save(self, path):
        """Write the fitted estimator to one safe file, whole or not at all; ``dubito.load`` reads it.

        Raises ModelFileError where it cannot be written, or holds a callable of yours.
        """
        check_process()
        check_is_fitted(self, "posterior_")
        model_file.save(self, path)

    def __sklearn_tags__(self):
        tags = BaseEstimator.__sklearn_tags__(self)
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags


class BayesianRegressor(RegressorMixin, _Estimator):
    """Regression on a table, with a predictive distribution in the target's units.

    Parameters
    ----------
    method : how to infer, e.g. ``MCDropout(rate=0.05)``; None is the default: a cross-fitted ensemble of networks with
        periodic features, its noise from held-out residuals.
    hidden : widths of the hidden layers, or the width of the only one; None is (128, 128), of classes (256, 256), for the default method, (50,) for another.
    activation : a name; None is "silu" for the default method, "relu" for another.
    periodic : trained frequencies a numeric column, 0 for none; None is 8 for the default method's regression, else 0.
    likelihood : the criterion: None, an object, or a name of ``dubito.LIKELIHOODS``, the table that says which to
        use when. None is Gaussian noise; of the default method noise that depends on the row, with Student's t.
    prior : None is Normal with the network's own scales, 1/√fan-in.
    draws : functions drawn in prediction; None is all of a finite posterior, 100 of another.
    early_stopping, validation_fraction, n_iter_no_change, tol : as in scikit-learn's MLPRegressor.
    handle_unknown : "error" or "ignore", for categories not seen in ``fit``.
    random_state : the same number, the same answers.

    Columns and target are standardized inside, from the training rows only; text columns of a frame are categories.
    """

    def fit(self, X, y, sample_weight=None, *, progress=None, checkpoint=None):
        """Fit to X (n, d), a frame or array, and y (n,) or (n, K). ``progress`` is called with the engine's reports; from
        the file ``checkpoint`` the same fit (a number as ``random_state``) goes on after an interruption."""
        schema, x, weight = self._table(X, sample_weight)
        likelihood, scaler, target = targets.numbers(self.likelihood, y, weight, self.method is None)
        fitted = likelihood, scaler, {"_flat": len(scaler.shift) == 1}
        return self._fit((schema, x, weight[weight > 0], len(x)), target, fitted, progress, checkpoint)

    def _target(self, scaler):
        """(likelihood, scaler, attributes) for a single target of that scale."""
        likelihood = targets.of_columns(self.likelihood, 1, later=False)
        return *targets.scaled(likelihood, scaler), {"_flat": True}

    def predict(self, X, return_std=False):
        """The predictive mean, (n,) or (n, K), and with ``return_std`` its standard deviation, in the target's units."""
        if not return_std:
            return self.in_blocks(X, lambda answer: answer.mean)[0]
        return tuple(self.in_blocks(X, lambda answer: answer.mean, lambda answer: answer.std))

    def predict_interval(self, X, coverage=0.9):
        """(lower, upper), each (n,) or (n, K), that hold y with probability ``coverage``: equal-tailed, conformal, or of a
        ``Committee`` CV+ (``conformal.cv_plus``)."""
        (both,) = self.in_blocks(X, lambda answer: np.stack(answer.interval(coverage), axis=1))
        return both[:, 0], both[:, 1]

    def _labels(self, drawn):
        return drawn


class BayesianClassifier(ClassifierMixin, _Estimator):
    """Classification of a table, with probabilities and their doubt.

    The parameters are those of ``BayesianRegressor``; ``likelihood=None`` is the Bernoulli for two classes, the
    Categorical for more, and the default method calibrates them with one temperature from held-out rows; "ordered" takes
    the classes in their sorted order.
    """

    classes_: Any
    _task = "classification"
    _recipe = ((256, 256), "silu", 0)

    def fit(self, X, y, sample_weight=None, *, progress=None, checkpoint=None):
        """Fit to X (n, d), a frame or array, and labels y (n,) of any plain type; ``classes_`` are sorted."""
        schema, x, weight = self._table(X, sample_weight)
        classes, index = check_target(y, len(weight), "classification", np.flatnonzero(weight))
        return self._fit((schema, x, weight[weight > 0], len(x)), index, self._target(classes), progress, checkpoint)

    def _target(self, classes):
        """(likelihood, no scaler, attributes) for these classes."""
        if len(classes) < 2:
            raise ValueError("BayesianClassifier needs at least 2 classes; the data (of positive weight) have 1 class")
        return targets.classes(self.likelihood, classes), None, {"classes_": classes}

    def predict(self, X):
        """The most probable class of each row, (n,)."""
        check_is_fitted(self, "posterior_")
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X):
        """Class probabilities, (n, C), in the order of ``classes_``: the mean over draws."""
        return self.in_blocks(X, lambda answer: answer.probs)[0]

    def predict_set(self, X):
        """Which classes are in each row's conformal set, bool (n, C); of a ``Committee`` CV+, of other methods after
        ``calibrate(..., method="conformal")``."""
        if not isinstance(vars(self).get("calibration_"), ConformalRule):
            raise ValueError(
                'conformal sets come after calibrate(X, y, method="conformal") on held-out rows, or of a Committee'
            )
        return self.in_blocks(X, lambda answer: answer.sets)[0]

    def _labels(self, drawn):
        return self.classes_[drawn]


def load(path) -> Any:
    """The estimator in the file at ``path``, with the same answers bit for bit. Raises ModelFileError for anything that
    ``save`` has not written; nothing is imported, run or fetched."""
    check_process()
    return model_file.read_estimator(path, {kind.__name__: kind for kind in (BayesianRegressor, BayesianClassifier)})
