"""Fitting of both estimators: the core, fitted to an encoded table."""

import datetime
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import jax
import numpy as np
from jaxtyping import Float
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from dubito._check import DataError, check_weight_sum, is_whole, warn
from dubito._jax import prng
from dubito._process.versions import library_versions
from dubito._values import Column, Table
from dubito.estimators.files.model_file import check_texts
from dubito.estimators.fitted import FittedEstimator
from dubito.estimators.held_out import rows_to_read
from dubito.estimators.row_splits import SplitOptions, has_folds
from dubito.estimators.table_network import table_network
from dubito.evaluation import conformal
from dubito.methods.default import default_method, default_recipe
from dubito.methods.ensembles.committee import Committee
from dubito.models.likelihoods.base import Likelihood
from dubito.models.model import Model
from dubito.models.priors import Normal, Prior
from dubito.models.target_transforms import TargetTransform
from dubito.posteriors.function_samples import check_draws
from dubito.posteriors.outcomes import label_codes
from dubito.tables.changes import warn_of_filled
from dubito.tables.class_weights import class_weights
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema
from dubito.tables.streams import learn_table, table_pieces
from dubito.tables.targets import scaled_target
from dubito.tables.validation import check_target, check_weight
from dubito.training.data import Rows
from dubito.training.fit import fit
from dubito.training.method import base_method, get_recipe
from dubito.training.progress import FitProgress, fit_sentence, print_lines
from dubito.training.reports import Report, history
from dubito.training.splits import member_folds, with_validation

Progress: TypeAlias = Callable[[Report], None] | None

STOPPING = ("early_stopping", "validation_fraction", "n_iter_no_change", "tol")  # parameters of ``training.fit``, too


class Target(NamedTuple):
    """What a fit knows about the target.

    Attributes
    ----------
    likelihood : Likelihood
        The model's likelihood.
    scaler : TargetScaler or None
        Standardizes the targets of a regression; None for classes.
    classes : array or None
        The sorted classes; None for a regression.
    transform : TargetTransform or None
        Transforms the targets of a regression before they are standardized.
    """

    likelihood: Likelihood
    scaler: TargetScaler | None
    classes: np.ndarray | None
    transform: TargetTransform | None = None


def _summary(rows: int, seconds: float) -> dict[str, Any]:
    """What a fit was, for ``summary_``."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"rows": rows, "seconds": seconds, "finished": now, "versions": library_versions()}


class BayesianEstimator(FittedEstimator):
    """Base of the estimators: ``fit`` to a table in memory or in a file."""

    @abstractmethod
    def _encoded_target(self, y: Column, weight: Float[np.ndarray, "rows"]) -> tuple[Target, np.ndarray]:
        """The target, and its values in the rows of positive weight, as the likelihood takes them."""

    @abstractmethod
    def _streamed_target(self, known: Any) -> Target:
        """The target, from the ``TargetScaler`` or the sorted classes that ``learn_table`` returns."""

    def fit(
        self,
        X: Table,
        y: Column,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        times: Any = None,
        cv: Any = None,
        X_val: Table = None,
        y_val: Column = None,
        progress: Progress = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit the posterior to a table.

        The arguments from ``groups`` to ``y_val`` say which rows may be held out from which: by early
        stopping, by the default method and by a ``Committee``. Other fits hold no rows out.

        Parameters
        ----------
        X : frame or array
            Inputs (rows, columns).
        y : array
            For regression numbers (rows,) or (rows, targets); for classification labels (rows,) of
            one type: texts, integers or booleans.
        sample_weight : array, optional
            Weights (rows,); a row of weight zero is left out.
        groups : array, str or False, optional
            A label of each row: rows with the same one, such as those of one patient, are never
            separated. A name is that of a column of X, which is no input then. By default, rows that
            repeat another row in all inputs and the target are kept together, and a DataWarning
            counts them; False turns this off.
        times : array or str, optional
            A number, date or time of each row: later rows are held out from earlier ones, the last
            ``validation_fraction`` by early stopping, blocks of the later half by folds. A name is
            that of a column of X, which stays an input.
        cv : splitter or iterable, optional
            The folds of the default method, of CrossFit or of a Committee: a splitter of
            scikit-learn, or pairs (train, test) of row numbers. No row may be held out twice.
        X_val, y_val : frame or array, array
            Rows for early stopping, in place of a part of the rows.
        progress : callable, optional
            Called with a ``Report`` several times per second.
        checkpoint : str or Path, optional
            File from which the same fit (with a number as ``random_state``) resumes after an
            interruption.

        Returns
        -------
        Self
            The estimator itself.

        Raises
        ------
        DataError
            For values that cannot be used; the message names rows and columns.
        ValueError
            For fewer than two classes or groups, and for arguments that exclude one another.
        DivergenceError
            If training diverges even with smaller steps.
        """
        options = SplitOptions(groups, times, cv, X_val, y_val)
        method = self._resolved_method()
        options.check(method, self.early_stopping)
        sample_weight, of_class = self._multiply_class_weights(X, y, sample_weight)
        schema, x, weight = Schema.fit_encode(X, sample_weight, self.missing, options.left_out)
        target, encoded = self._encoded_target(y, weight)
        used = weight[weight > 0]
        divides = has_folds(method) or self.early_stopping
        rows = options.divide(X, Rows(x, encoded, used, np.zeros_like(used)), weight, divides)
        if X_val is not None:
            rows = self._with_validation(rows, schema, target, X_val, y_val, of_class)
        return self._fit(schema, rows, len(x), target, progress, checkpoint)

    def _multiply_class_weights(
        self, X: Table, y: Column, sample_weight: Any
    ) -> tuple[Any, Float[np.ndarray, " classes"] | None]:
        """The sample weights times those of the classes; and the weight of each class, None without."""
        if self.class_weight is None:
            return sample_weight, None
        weight = check_weight(sample_weight, _num_samples(X)).astype(np.float64)
        used = np.flatnonzero(weight)
        classes, codes = check_target(y, len(weight), self.task, used)
        of_class = class_weights(self.class_weight, classes, np.bincount(codes, weight[used]))
        weight[used] *= of_class[codes]
        check_weight_sum(weight, "sample_weight times class_weight")
        return weight, of_class

    def _with_validation(
        self, rows: Rows, schema: Schema, target: Target, X_val: Table, y_val: Column, of_class: np.ndarray | None
    ) -> Rows:
        """The rows of a fit, followed by the user's validation rows, with the weights of their classes."""
        x, changes = schema.encode_and_count(X_val, self.handle_unknown, self.missing, type(self).__name__)
        warn_of_filled(changes)
        if target.classes is not None:
            y = label_codes(y_val, target.classes).astype(np.int32)
        else:
            assert target.scaler is not None  # of a regression
            y = scaled_target(target.likelihood, target.scaler, y_val, len(x), rows.y.shape[1])
        if len(x) == 0 or len(x) != len(y):
            raise DataError(
                f"X_val has {len(x)} rows, and y_val has {len(y)}: pass at least one, and a target for each."
            )
        none = np.zeros(len(x), np.float32)
        weight = np.ones(len(x), np.float32) if of_class is None else of_class[y].astype(np.float32)
        pairs = zip(rows[:4], (x, y, none, weight), strict=True)
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def fit_file(
        self,
        path: str | Path,
        target: str,
        *,
        categorical: Sequence[str] = (),
        drop_missing: bool = False,
        drop: Sequence[str] = (),
        progress: Progress = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Fit to a Parquet table that may be larger than memory.

        The file is read twice, and then once per epoch. Rows are shuffled within pieces of 65,536,
        so it should not be sorted. The method must not hold rows out. Columns are standardized with
        all rows alike, whatever ``class_weight`` is.

        Parameters
        ----------
        path : str or Path
            The .parquet file.
        target : str
            Column to predict from all others.
        categorical : sequence of str
            Columns that become categories, whatever their values are.
        drop_missing : bool
            Whether to leave out rows without a value of the target, which are an error otherwise.
        drop : sequence of str
            Columns that are no inputs.
        progress, checkpoint : callable, str or Path, optional
            As for ``fit``.

        Returns
        -------
        Self
            The estimator itself.

        Raises
        ------
        DataError
            For a table that cannot be used.
        ValueError
            For the default method, and for settings that need all rows in memory.
        """
        if self._resolved_method() is None:
            raise ValueError("the default method is cross-fitted, which needs all rows in memory: choose a method")
        learned = learn_table(path, target, self.task, categorical, drop_missing, self.missing, drop)
        found, of_class = self._streamed_target(learned.known), None
        if self.class_weight is not None and learned.class_counts is not None:
            of_class = class_weights(self.class_weight, learned.known, learned.class_counts)
        scaler = learned.known if found.scaler is None else found.scaler
        pieces = table_pieces(path, target, learned.schema, scaler, categorical, of_class)
        return self._fit(learned.schema, pieces, learned.rows, found, progress, checkpoint)

    def _fit(
        self,
        schema: Schema,
        x: Any,
        rows: int,
        target: Target,
        progress: Progress,
        checkpoint: str | Path | None,
    ) -> Self:
        """Train on ``x``, ``Rows`` or a stream, of ``rows`` rows, and set the fitted attributes."""
        start = time.perf_counter()
        if not (isinstance(self.verbose, bool) or is_whole(self.verbose, 0)):
            raise ValueError(f"verbose must be True or False, got {self.verbose!r}")
        check_draws(self.draws)
        if self.prior is not None and not isinstance(self.prior, Prior):
            raise ValueError(f"prior must be None or a prior such as dubito.Normal(scale=1.0), got {self.prior!r}")
        likelihood = target.likelihood
        check_texts(schema, target.classes)
        noise = self.likelihood
        if target.transform is not None and noise is None:
            noise = "heteroscedastic"  # Student's t noise has no moments after most transforms
        chosen = self._resolved_method()
        method = default_method(rows, likelihood.task, noise) if chosen is None else chosen
        recipe = default_recipe(rows, likelihood.task) if chosen is None else get_recipe(method, likelihood.task)
        network = table_network(schema, likelihood.width, recipe, self.hidden, self.activation, self.periodic)
        prior = Normal(recipe.prior_scale, by_network=True) if self.prior is None else self.prior
        model = Model(network, likelihood, prior)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        key_fit, key_predict = jax.random.split(prng.key_from_seed(seed))
        reports: list[Report] = []
        shown = FitProgress("" if chosen is None else base_method(method).penalty_name)

        def report(one: Report) -> None:
            reports.append(one)
            shown.add(one)
            if progress is not None:
                progress(one)

        stopping = {name: vars(self)[name] for name in STOPPING}
        with print_lines(partial(print, flush=True) if self.verbose else None, shown.describe):
            posterior = fit(model, x, None, method, key=key_fit, progress=report, checkpoint=checkpoint, **stopping)
        self._set_fitted(
            schema,
            target.classes,
            scaler_=target.scaler,
            transform_=target.transform,
            method_=method,
            posterior_=posterior,
            key_=np.asarray(jax.random.key_data(key_predict)),
            calibration_=None,
            _held_out_rows=self._rows_held_out(x, method, key_fit) if isinstance(x, Rows) else None,
            _held_out_uncertainty=None,
            history_=history(reports),
            summary_=_summary(rows, time.perf_counter() - start),
        )
        if isinstance(method, Committee):
            self.calibration_ = self._cv_plus(x)
        if self.verbose:
            print(fit_sentence(self.task, self.summary_, method), flush=True)
        return self

    def _rows_held_out(self, rows: Rows, method: Any, key: Any) -> Float[np.ndarray, "n width"]:
        """The encoded rows that a fit to ``rows`` with a ``key`` held out, a part of them if they are many."""
        if self.early_stopping:
            rows = with_validation(rows, method.validates, self.validation_fraction, key)
        return rows.x[rows_to_read(rows, has_folds(method))]

    def _cv_plus(self, rows: Rows) -> conformal.CVPlus | None:
        """The CV+ of a committee's errors on the rows that its members held out; None, with a warning,
        if that is impossible.
        """
        held_out = np.stack([fold.held_out for fold in member_folds(rows, self.method_.folds)])
        chosen = held_out.any(axis=0)
        x, y = (rows.x, rows.y) if chosen.all() else (rows.x[chosen], rows.y[chosen])
        truth = y if self.scaler_ is None else self.scaler_.shift + np.multiply(self.scaler_.scale, y)
        truth = truth if self.transform_ is None else self.transform_.inverse(truth)
        try:
            answer = self._uncalibrated(self._functions(), x).columnwise
            return conformal.cv_plus(answer, truth, held_out[:, chosen].argmax(axis=0))
        except ValueError as error:
            warn(f"intervals and sets are not CV+: {error}")
            return None
