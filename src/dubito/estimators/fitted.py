"""What both estimators share, apart from fitting and parameters: predictions in blocks of rows,
calibration, saving.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from dubito._check import DataError
from dubito._jax import prng
from dubito._process.threads import check_process, in_threads
from dubito._values import Column, Table
from dubito.estimators.checks import PredictionError, check_predictions
from dubito.estimators.files import model_file
from dubito.estimators.held_out import uncertainty_quantile
from dubito.estimators.model_card import Subject, model_card
from dubito.estimators.onnx_files.export import OnnxFile, export_onnx
from dubito.estimators.parameters import EstimatorParameters
from dubito.evaluation import calibration
from dubito.models.target_transforms import TargetTransform
from dubito.posteriors import predictive
from dubito.posteriors.blocks import PIECE_ROWS
from dubito.posteriors.function_samples import draw_functions
from dubito.posteriors.transformed import transformed
from dubito.tables.changes import Changes, sum_changes, warn_of_filled
from dubito.tables.encoding import Encoded
from dubito.tables.frames import take_rows
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema

Reading: TypeAlias = Callable[[Any], Any]  # a function of a predictive distribution


class FittedEstimator(EstimatorParameters):
    """Base of the estimators without ``fit``; ``BayesianRegressor`` explains the parameters and
    attributes.
    """

    _classes: np.ndarray | None  # ``classes_`` of a classifier

    hidden: int | Sequence[int] | None
    activation: str | None
    periodic: int | None
    likelihood: Any
    prior: Any
    draws: int | None
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    handle_unknown: str
    missing: str
    random_state: Any
    verbose: bool
    class_weight: Any = None  # a parameter of the classifier only

    schema_: Schema
    scaler_: TargetScaler | None
    transform_: TargetTransform | None
    method_: Any
    posterior_: Any
    key_: np.ndarray
    calibration_: Any
    _held_out_rows: np.ndarray | None  # encoded, until their uncertainty is read
    _held_out_uncertainty: np.ndarray | None
    history_: list[np.ndarray]
    summary_: dict[str, Any]
    n_features_in_: int
    feature_names_in_: np.ndarray

    def _set_fitted(self, schema: Schema, classes: np.ndarray | None, **attributes: Any) -> None:
        """Set the fitted attributes, in place of those of an earlier fit."""
        vars(self).pop("feature_names_in_", None)
        if schema.named:
            self.feature_names_in_ = np.array(schema.names, dtype=object)
        attributes |= {} if classes is None else {"classes_": classes}
        vars(self).update(attributes, schema_=schema, n_features_in_=len(schema.columns), _classes=classes)

    def predictive(self, X: Table) -> Any:
        """The predictive distribution of every row, calibrated if ``calibrate`` was called.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns). All draws of all rows are held in memory.

        Returns
        -------
        Predictive
            Has ``mean``, ``variance``, ``aleatoric``, ``epistemic``, ``quantile(q)``,
            ``interval(coverage)``, ``log_prob(y)``, ``cdf(y)`` and ``sample(key, n)``: (rows,) for
            one target, (rows, targets) for several. That of a classifier knows its classes, so y
            may be labels or codes.
        """
        return self._calibrated(self._functions(), self._encoded(X))

    def uncalibrated(self, X: Table) -> Any:
        """The ``predictive`` distribution without any calibration.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).

        Returns
        -------
        Predictive
            As ``predictive``.
        """
        return self._uncalibrated(self._functions(), self._encoded(X))

    def _functions(self, draws: int | None = None) -> Any:
        """The functions that the posterior's draws define, drawn once; ``draws`` of them instead of ``self.draws``."""
        check_is_fitted(self, "posterior_")
        return draw_functions(self.posterior_, prng.fast(self.key_), self.draws if draws is None else draws)

    def _encode_and_count(self, X: Table, start: int = 0) -> tuple[Encoded, Changes]:
        return self.schema_.encode_and_count(X, self.handle_unknown, self.missing, type(self).__name__, start)

    def _encoded(self, X: Table) -> Encoded:
        x, changes = self._encode_and_count(X)
        warn_of_filled(changes)
        return x

    def _uncalibrated(self, functions: Any, x: Float[np.ndarray, "rows width"]) -> Any:
        units: tuple[predictive.Unit, predictive.Unit] = (
            (0.0, 1.0) if self.scaler_ is None else (self.scaler_.shift, self.scaler_.scale)
        )
        answer = predictive.predict_functions(functions, x, *units, self.description, self._classes)
        return answer if self.transform_ is None else transformed(answer, self.transform_)

    def _calibrated(self, functions: Any, x: Float[np.ndarray, "rows width"]) -> Any:
        answer = self._uncalibrated(functions, x)
        check_predictions(answer.mean, finite=True)
        if answer.supports("variance"):  # a user's likelihood with heavy tails may have none, or an infinite one
            check_predictions(answer.std, finite=type(answer.likelihood).__module__.startswith("dubito."))
        return answer if self.calibration_ is None else self.calibration_(answer)

    def calibrate(self, X: Table, y: Column, method: str | None = None, **options: Any) -> Self:
        """Calibrate all predictions on held-out rows; this replaces an earlier calibration.

        Parameters
        ----------
        X, y : frame or array, array
            Rows that were not used in ``fit``.
        method : str, optional
            One of ``calibration.METHODS``: "temperature" (the default for classes), "isotonic",
            "quantiles" (the default for regression) or "conformal" (that for counts).
        **options : object
            Options of that method's function.

        Returns
        -------
        Self
            The estimator itself, with ``calibration_`` and, from these rows, ``held_out_uncertainty_``
            set. ``save`` keeps them and ``fit`` replaces them.
        """
        answer = self.uncalibrated(X)
        self.calibration_ = calibration.fit_calibration(answer, y, method, **options)
        self._held_out_rows, self._held_out_uncertainty = None, uncertainty_quantile(self.calibration_(answer))
        return self

    @property
    def held_out_uncertainty_(self) -> Float[np.ndarray, " columns"] | None:
        """See Attributes. It is computed when it is first read or saved: its programs take longer to compile than to run."""
        if "posterior_" not in vars(self):
            raise AttributeError("only a fitted estimator has held_out_uncertainty_")
        rows = self._held_out_rows
        if rows is not None:
            functions = self._functions()
            known = len(rows) > 0 and len(functions) > 1
            self._held_out_uncertainty = uncertainty_quantile(self._uncalibrated(functions, rows)) if known else None
            self._held_out_rows = None
        return self._held_out_uncertainty

    def __getstate__(self) -> Any:
        if "posterior_" in vars(self):
            _ = self.held_out_uncertainty_  # so that no rows of the fit are pickled
        return BaseEstimator.__getstate__(self)

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

    def stream(
        self, blocks: Iterable[tuple[Table, int]], reading: Reading, functions: Any = None
    ) -> Iterator[tuple[Any, Changes]]:
        """Predict blocks of rows on all cores.

        Parameters
        ----------
        blocks : iterable of tuple
            Pairs of a table and the number of its first row.
        reading : callable
            Function of the predictive distribution of a block.
        functions : Functions, optional
            Those of an earlier call, to draw them once for many calls; they are always the same.

        Yields
        ------
        tuple
            The value of ``reading`` for each block, in order, and the counts of
            ``Schema.encode_and_count``.
        """
        functions = self._functions() if functions is None else functions

        def one(block: tuple[Table, int]) -> tuple[Any, Changes]:
            (x, changes), start = self._encode_and_count(*block), block[1]
            try:
                return reading(self._calibrated(functions, x)), changes
            except PredictionError as error:
                raise PredictionError(start + error.row) from None

        return in_threads(one, blocks)

    def in_blocks(self, X: Table, *readings: Reading) -> list[np.ndarray]:
        """Read predictions of all rows in bounded memory.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).
        *readings : callable
            Functions of the predictive distribution, each returning an array with rows first.

        Returns
        -------
        list of array
            The array of each reading, for all rows.
        """
        rows = _num_samples(X)

        def read(answer: Any) -> list[np.ndarray]:
            return [check_predictions(reading(answer)) for reading in readings]

        if rows <= PIECE_ROWS or rows <= (size := self.block_rows):
            return read(self.predictive(X))
        blocks = ((take_rows(X, slice(start, start + size)), start) for start in range(0, rows, size))
        try:
            found = list(self.stream(blocks, read))
        except DataError:
            self._encoded(X)  # raises the error with the count over all rows
            raise
        warn_of_filled(sum_changes(changes for _, changes in found))
        return [np.concatenate(arrays) for arrays in zip(*(arrays for arrays, _ in found), strict=True)]

    def sample_y(self, X: Table, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw targets from the predictive distribution.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).
        n_samples : int
            Number of draws. Each is one function of the posterior, with independent noise for every
            row.
        random_state : int, RandomState or None
            As in scikit-learn.

        Returns
        -------
        array
            (rows, n_samples), or (rows, targets, n_samples) for several targets; classes for a
            classifier.
        """
        answer = self.predictive(X)
        key = prng.key_from_seed(check_random_state(random_state).randint(2**31 - 1))
        drawn = check_predictions(np.moveaxis(np.asarray(answer.sample(key, n_samples)), 0, -1))
        return drawn if self._classes is None else self._classes[drawn]

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safe file, whole or not at all; ``dubito.load`` reads
        it.

        Parameters
        ----------
        path : str or Path
            The file.

        Raises
        ------
        ModelFileError
            If the file cannot be written, or the estimator holds a function of the user's.
        """
        check_process()
        check_is_fitted(self, "posterior_")
        model_file.save(self, path)

    def to_onnx(
        self, path: str | Path, X: Table = None, *, coverage: float | None = None, draws: int | None = None
    ) -> OnnxFile:
        """Write the fitted estimator as an ONNX model: a graph from a table's columns to predictions.

        The graph has everything in it: the encoding of the columns, with missing values, the draws of the
        posterior, moments and intervals, a temperature or split conformal calibration, and the target's
        units. Its inputs are the columns by their names, (rows, 1): texts, with an empty one for a missing
        value, or float64, with NaN for one, also for truth values; for a model of an array ``x`` (rows,
        columns). Its outputs, (rows,), have the names of the columns of ``dubito predict``. Before it is
        written it is compared with ``predictive`` at made-up rows, and at ``X``.

        Parameters
        ----------
        path : str or Path
            The file.
        X : frame or array, optional
            Rows to compare at, such as held-out ones, besides 64 that are made up; at most 1,000 of them, evenly
            spaced, are used.
        coverage : float, optional
            Of the interval from lower to upper, 0.9 by default or that of a conformal calibration.
        draws : int, optional
            How many functions of a posterior that is not finite are in the file; ``self.draws`` by default.

        Returns
        -------
        OnnxFile
            Its size, the largest difference from ``predictive``, and notes on what it does not do.

        Raises
        ------
        ImportError
            Without the package onnx.
        ValueError
            For dates, transformed targets, isotonic and quantile calibrations and CV+, which are not
            exported, and if the graph differs from ``predictive``.
        """
        check_is_fitted(self, "posterior_")
        return export_onnx(self, path, X, coverage, draws)

    def card(
        self,
        X: Table = None,
        y: Column = None,
        *,
        target: str | None = None,
        unit: str | None = None,
        path: str = "model.dubito",
    ) -> str:
        """A model card: what the model predicts, from which columns, how it was fitted, how well it predicts, and its
        limits.

        Parameters
        ----------
        X, y : frame or array, array
            Held-out rows on which the card's scores are measured; without them it has none.
        target, unit : str, optional
            The target's name and unit. Models of ``dubito fit`` know the name.
        path : str
            The model file in the card's instructions.

        Returns
        -------
        str
            Markdown.
        """
        check_is_fitted(self, "posterior_")
        return model_card(self, X, y, Subject(target, unit, path))

    def __sklearn_tags__(self) -> Tags:
        tags = BaseEstimator.__sklearn_tags__(self)
        tags.input_tags.string = True
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.missing == "fill"
        tags.non_deterministic = False
        return tags
