"""What a fitted estimator answers: predictives of its rows, all at once or by blocks, calibrated where that is wanted."""

from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from dubito._jax import prng
from dubito._process.threads import in_threads
from dubito.evaluation import calibration
from dubito.posteriors import predictive
from dubito.posteriors.blocks import PIECE_ROWS
from dubito.posteriors.function_samples import draw_functions
from dubito.tables.schema import DataError, Schema, taken


class PredictionError(ValueError):
    """A row's prediction is not finite: its values are too far from those of ``fit``, or the model is not one of ``fit``.

    ``row`` is its number.
    """

    def __init__(self, row):
        ValueError.__init__(
            self,
            f"the prediction of row {row} is not finite. Its values may be too far from those of fit; if other rows fail, "
            "too, the model is damaged: fit it again.",
        )
        self.row = row


def check_answers(values, finite=False):
    """``values`` (n, ...); PredictionError for the first row with a NaN, or with ``finite`` also one with an infinity."""
    fine = np.isfinite(values) if finite else ~np.isnan(values)
    if not fine.all():
        raise PredictionError(int(np.argmin(fine.reshape(len(fine), -1).all(1))))
    return values


class Answering:
    """The part of an estimator that predicts, from what its fit has left."""

    schema_: Schema
    scaler_: Any
    method_: Any
    posterior_: Any
    key_: Any
    calibration_: Any
    draws: Any
    handle_unknown: Any

    def predictive(self, X):
        """The predictive distribution of every row of X: ``mean``, ``variance``, ``aleatoric``, ``epistemic``,
        ``quantile(q)``, ``interval(coverage)``, ``log_prob(y)``, ``cdf(y)``, ``sample(key, n)``; all draws are held.

        For one target results are (n,), for K ≥ 2 targets (n, K); see ``Predictive``. A classifier's knows its classes, so
        that y may be labels or codes."""
        return self._answer(self._functions(), self._encoded(X))

    def uncalibrated(self, X):
        """What ``predictive`` would answer if nothing had been calibrated."""
        return self._raw(self._functions(), self._encoded(X))

    def _functions(self):
        """The posterior's functions, drawn once."""
        check_is_fitted(self, "posterior_")
        return draw_functions(self.posterior_, prng.fast(self.key_), self.draws)

    def _encoded(self, X, start=0):
        return self.schema_.encode(X, self.handle_unknown, type(self).__name__, start)

    def _raw(self, found, x):
        shift, scale = (0.0, 1.0) if self.scaler_ is None else (self.scaler_.shift, self.scaler_.scale)
        return predictive.predict_functions(found, x, shift, scale, self.description, getattr(self, "classes_", None))

    def _answer(self, found, x):
        answer = self._raw(found, x)
        check_answers(answer.mean, finite=True)
        if answer.supports("variance"):  # which a likelihood of a user's, with heavy tails, may not have
            check_answers(answer.std, finite=type(answer.likelihood).__module__.startswith("dubito."))
        return answer if self.calibration_ is None else self.calibration_(answer)

    def calibrate(self, X, y, method=None, **options):
        """Calibrate all answers on rows held out of ``fit``, by one of ``calibration.METHODS``: "temperature" (None for
        classes), "isotonic", "quantiles" (None for regression) or "conformal", with the ``options`` of its function. It
        takes the place of an earlier one. Sets ``calibration_``, which ``save`` keeps and ``fit`` removes."""
        self.calibration_ = calibration.fit_calibration(self.uncalibrated(X), y, method, **options)
        return self

    @property
    def description(self):
        """The method, its settings, the model and its calibration, in words."""
        model, kind = self.posterior_.model, type(self.calibration_).__name__
        calibrated = "" if self.calibration_ is None else f"; calibrated: {kind}"
        return f"{self.method_!r}; {model.network!r}; {model.likelihood!r}; {model.prior!r}{calibrated}"

    @property
    def block_rows(self):
        """How many rows to predict at a time, so that memory is bounded."""
        return PIECE_ROWS * max(1, min(16, 1600 // len(self._functions())))

    def stream(self, blocks, reading):
        """reading(predictive) of each of ``blocks``, pairs of a table and its first row's number, in order, by threads."""
        found = self._functions()

        def one(block):
            x, start = self._encoded(*block), block[1]
            try:
                return reading(self._answer(found, x))
            except PredictionError as error:
                raise PredictionError(start + error.row) from None

        return in_threads(one, blocks)

    def in_blocks(self, X, *readings):
        """Each reading, a function of the predictive giving an array with rows first, for all rows of X."""
        rows = _num_samples(X)

        def read(answer):
            return [check_answers(reading(answer)) for reading in readings]

        if rows <= PIECE_ROWS or rows <= (size := self.block_rows):
            return read(self.predictive(X))
        blocks = ((taken(X, slice(start, start + size)), start) for start in range(0, rows, size))
        try:
            parts = list(self.stream(blocks, read))
        except DataError:
            self._encoded(X)  # which tells of all rows
            raise
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def sample_y(self, X, n_samples=1, random_state=0):
        """Draws of the target: (n, n_samples), or (n, K, n_samples) for several targets; classes for a classifier.

        Each draw is one function of the posterior, with noise for every row.
        """
        answer = self.predictive(X)
        key = prng.key_from_seed(check_random_state(random_state).randint(2**31 - 1))
        drawn = check_answers(np.moveaxis(np.asarray(answer.sample(key, n_samples)), 0, -1))
        return self._labels(drawn)

    def _labels(self, drawn):
        raise NotImplementedError
