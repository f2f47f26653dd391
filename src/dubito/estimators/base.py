"""What both estimators share: fitting the core to an encoded table, predicting rows in blocks, calibrating, saving."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from dubito._check import DataError
from dubito._jax import prng
from dubito._process.threads import check_process, in_threads
from dubito._values import Column, Table
from dubito.estimators.checks import PredictionError, check_predictions
from dubito.estimators.data import Target
from dubito.estimators.files import model_file
from dubito.estimators.table_network import table_network
from dubito.evaluation import calibration
from dubito.evaluation.conformal import cv_plus
from dubito.methods.by_name import method_params, with_setting
from dubito.methods.default import default_method
from dubito.methods.ensembles.committee import Committee
from dubito.models.model import Model
from dubito.models.priors import Normal, Prior
from dubito.posteriors import predictive
from dubito.posteriors.blocks import PIECE_ROWS
from dubito.posteriors.function_samples import check_draws, draw_functions
from dubito.tables.frames import take_rows
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema
from dubito.tables.streams import learn_table, table_pieces
from dubito.training.fit import fit
from dubito.training.reports import Report, history
from dubito.training.splits import interleaved_folds


class BayesianEstimator(BaseEstimator, ABC):
    """Base of the estimators; ``BayesianRegressor`` explains the parameters and attributes."""

    task: str
    _default_network: tuple[tuple[int, ...], str, int]  # hidden, activation and periodic beside the default method

    schema_: Schema
    scaler_: TargetScaler | None
    method_: Any
    posterior_: Any
    key_: np.ndarray
    calibration_: Any
    history_: list[np.ndarray]
    summary_: dict[str, Any]

    def __init__(
        self,
        method: Any = None,
        *,
        hidden: int | Sequence[int] | None = None,
        activation: str | None = None,
        periodic: int | None = None,
        likelihood: Any = None,
        prior: Any = None,
        draws: int | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        handle_unknown: str = "error",
        random_state: Any = None,
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

    @abstractmethod
    def _target(self, known: Any) -> Target:
        """The target, from the ``TargetScaler`` or the sorted classes that ``learn_table`` returns."""

    @abstractmethod
    def _labels(self, drawn: np.ndarray) -> np.ndarray:
        """Draws of the likelihood, as the values that y had in ``fit``."""

    @property
    @abstractmethod
    def _classes(self) -> np.ndarray | None:
        """The sorted classes; None for a regression."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor.

        Parameters
        ----------
        deep : whether to add the method's settings, as ``method__rate``.
        """
        found = BaseEstimator.get_params(self, deep=False)
        if deep and is_dataclass(self.method):
            found |= method_params(self.method, "method__")
        return found

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``method__rate=0.1`` replaces the method by one with that setting."""
        nested = {name: params.pop(name) for name in list(params) if name.startswith("method__")}
        BaseEstimator.set_params(self, **params)
        for name, value in nested.items():
            self.method = with_setting(self.method, name.split("__")[1:], value)
        return self

    def fit_file(
        self,
        path: str | Path,
        target: str,
        *,
        categorical: Sequence[str] = (),
        drop_missing: bool = False,
        progress: Callable[[Report], None] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit to a Parquet table that need not fit into memory.

        The file is read twice, and once an epoch. Rows are shuffled within pieces of 65,536, so it should not be sorted. The
        method must not hold rows out.

        Parameters
        ----------
        path : the .parquet file.
        target : column to predict from all others.
        categorical : columns that become categories whatever they hold.
        drop_missing : leave out rows without a value of the target, which are an error otherwise.
        progress, checkpoint : as for ``fit``.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        DataError
            For a table that cannot be used.
        ValueError
            For the default method, and for settings that need all rows in memory.
        """
        if self.method is None:
            raise ValueError("the default method is cross-fitted, which needs all rows in memory: choose a method")
        schema, known, rows = learn_table(path, target, self.task, categorical, drop_missing)
        found = self._target(known)
        pieces = table_pieces(path, target, schema, known if found.scaler is None else found.scaler, categorical)
        return self._fit(schema, pieces, rows, found, progress, checkpoint)

    def _fit(self, schema, x, rows, target, progress, checkpoint):
        """Train on ``x``, ``used_rows`` or a stream, of ``rows`` rows, and set the fitted attributes."""
        start = time.perf_counter()
        check_draws(self.draws)
        if self.prior is not None and not isinstance(self.prior, Prior):
            raise ValueError(f"prior is None or a prior such as dubito.Normal(scale=1.0), got {self.prior!r}")
        likelihood, scaler, fitted = target
        model_file.check_texts(schema, fitted.get("classes_"))
        method = default_method(rows, likelihood.task, self.likelihood) if self.method is None else self.method
        recipe = self._default_network if self.method is None else None
        network = table_network(schema, likelihood.width, recipe, self.hidden, self.activation, self.periodic)
        model = Model(network, likelihood, Normal(by_network=True) if self.prior is None else self.prior)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key_fit, key_predict = jax.random.split(prng.key_from_seed(seed))
        reports: list[Report] = []

        def report(one):
            reports.append(one)
            if progress is not None:
                progress(one)

        posterior = fit(
            model,
            x,
            None,
            method,
            key=key_fit,
            early_stopping=self.early_stopping,
            validation_fraction=self.validation_fraction,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
            progress=report,
            checkpoint=checkpoint,
        )
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
            self.calibration_ = self._cv_plus(x.x, x.y)
        return self

    def _cv_plus(self, x, y):
        """The CV+ of a committee's errors at its own rows; None, with a warning, where there can be none."""
        truth = y if self.scaler_ is None else self.scaler_.shift + np.multiply(self.scaler_.scale, y)
        try:
            answer = self._uncalibrated(self._functions(), x).columnwise
            return cv_plus(answer, truth, interleaved_folds(y, self.method_.folds))
        except ValueError as error:
            warnings.warn(f"intervals and sets are not CV+: {error}", stacklevel=4)
            return None

    def predictive(self, X: Table) -> Any:
        """The predictive distribution of every row, calibrated where ``calibrate`` was called.

        Parameters
        ----------
        X : frame or array (rows, columns). All draws of all rows are held in memory.

        Returns
        -------
        Predictive
            Has ``mean``, ``variance``, ``aleatoric``, ``epistemic``, ``quantile(q)``, ``interval(coverage)``,
            ``log_prob(y)``, ``cdf(y)`` and ``sample(key, n)``: (rows,) for one target, (rows, targets) for several. That of
            a classifier knows its classes, so that y may be labels or codes.
        """
        return self._calibrated(self._functions(), self._encoded(X))

    def uncalibrated(self, X: Table) -> Any:
        """The ``predictive`` distribution without any calibration."""
        return self._uncalibrated(self._functions(), self._encoded(X))

    def _functions(self):
        """The functions that the posterior's draws define, drawn once."""
        check_is_fitted(self, "posterior_")
        return draw_functions(self.posterior_, prng.fast(self.key_), self.draws)

    def _encoded(self, X, start=0):
        return self.schema_.encode(X, self.handle_unknown, type(self).__name__, start)

    def _uncalibrated(self, found, x):
        shift: Any
        scale: Any
        shift, scale = (0.0, 1.0) if self.scaler_ is None else (self.scaler_.shift, self.scaler_.scale)
        return predictive.predict_functions(found, x, shift, scale, self.description, self._classes)

    def _calibrated(self, found, x):
        answer = self._uncalibrated(found, x)
        check_predictions(answer.mean, finite=True)
        if answer.supports("variance"):  # which a likelihood of a user's, with heavy tails, may not have
            check_predictions(answer.std, finite=type(answer.likelihood).__module__.startswith("dubito."))
        return answer if self.calibration_ is None else self.calibration_(answer)

    def calibrate(self, X: Table, y: Column, method: str | None = None, **options: Any) -> Self:
        """Calibrate all predictions on rows held out of ``fit``; replaces an earlier calibration.

        Parameters
        ----------
        X, y : rows that ``fit`` has not seen.
        method : one of ``calibration.METHODS``: "temperature" (None for classes), "isotonic", "quantiles" (None for
            regression) or "conformal".
        **options : options of that method's function.

        Returns
        -------
        The estimator itself, with ``calibration_`` set. ``save`` keeps it and ``fit`` removes it.
        """
        self.calibration_ = calibration.fit_calibration(self.uncalibrated(X), y, method, **options)
        return self

    @property
    def description(self) -> str:
        """The method, its settings, the model and its calibration as text."""
        model, kind = self.posterior_.model, type(self.calibration_).__name__
        calibrated = "" if self.calibration_ is None else f"; calibrated: {kind}"
        return f"{self.method_!r}; {model.network!r}; {model.likelihood!r}; {model.prior!r}{calibrated}"

    @property
    def block_rows(self) -> int:
        """Number of rows to predict at a time, so that memory is bounded."""
        return PIECE_ROWS * max(1, min(16, 1600 // len(self._functions())))

    def stream(self, blocks: Iterable[tuple[Table, int]], reading: Callable[[Any], Any]) -> Iterator[Any]:
        """Predict blocks of rows on all cores.

        Parameters
        ----------
        blocks : pairs of a table and its first row's number.
        reading : function of the predictive distribution of a block.

        Yields
        ------
        What ``reading`` returns for each block, in order.
        """
        found = self._functions()

        def one(block):
            x, start = self._encoded(*block), block[1]
            try:
                return reading(self._calibrated(found, x))
            except PredictionError as error:
                raise PredictionError(start + error.row) from None

        return in_threads(one, blocks)

    def in_blocks(self, X: Table, *readings: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
        """Read predictions of all rows in bounded memory.

        Parameters
        ----------
        X : frame or array (rows, columns).
        *readings : functions of the predictive distribution, each giving an array with rows first.

        Returns
        -------
        The array of each reading, for all rows.
        """
        rows = _num_samples(X)

        def read(answer):
            return [check_predictions(reading(answer)) for reading in readings]

        if rows <= PIECE_ROWS or rows <= (size := self.block_rows):
            return read(self.predictive(X))
        blocks = ((take_rows(X, slice(start, start + size)), start) for start in range(0, rows, size))
        try:
            found = list(self.stream(blocks, read))
        except DataError:
            self._encoded(X)  # raises the error with the count over all rows
            raise
        return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]

    def sample_y(self, X: Table, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw targets from the predictive distribution.

        Parameters
        ----------
        X : frame or array (rows, columns).
        n_samples : number of draws. Each is one function of the posterior, with independent noise for every row.
        random_state : as in scikit-learn.

        Returns
        -------
        np.ndarray
            (rows, n_samples), or (rows, targets, n_samples) for several targets; classes for a classifier.
        """
        answer = self.predictive(X)
        key = prng.key_from_seed(check_random_state(random_state).randint(2**31 - 1))
        drawn = check_predictions(np.moveaxis(np.asarray(answer.sample(key, n_samples)), 0, -1))
        return self._labels(drawn)

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safe file, whole or not at all; ``dubito.load`` reads it.

        Raises
        ------
        ModelFileError
            For a file that cannot be written, and for an estimator that holds a function of the user's.
        """
        check_process()
        check_is_fitted(self, "posterior_")
        model_file.save(self, path)

    def __sklearn_tags__(self):
        tags = BaseEstimator.__sklearn_tags__(self)
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags
