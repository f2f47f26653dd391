"""A model ready to answer: its predictions of a request, and what a client needs to know about it."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from dubito._check import DataError, without_data_warnings
from dubito.estimators.checks import checked_columns
from dubito.estimators.held_out import QUANTILE, epistemic_uncertainty
from dubito.posteriors.blocks import BLOCK_ROWS
from dubito.serving.rows import BadRequestError, PredictRequest, as_table, beside, in_form_of
from dubito.tables.changes import FILLED, UNKNOWN, sum_changes
from dubito.tables.encoding import ColumnEncoding

IGNORED = "Columns that were not in fit, ignored"
CHANGES = {FILLED: "missing", UNKNOWN: "unknown"}  # their labels in the metrics
EXAMPLES = {"boolean": True, "time": "2024-01-31", "clock": "12:00"}  # values of kinds of columns


@dataclass(frozen=True)
class Answer:
    """The answer to a request for predictions.

    Attributes
    ----------
    document : dict
        Plain values, as JSON has them.
    changes : dict
        Counts of ``Schema.encode_and_count``.
    uncertain : dict
        The number of rows above ``quantiles``, for each target.
    """

    document: dict[str, Any]
    changes: dict[str, dict[str, int]]
    uncertain: dict[str, int]


@dataclass(frozen=True)
class ServedModel:
    """A fitted estimator, ready to answer.

    Parameters
    ----------
    estimator : BayesianRegressor or BayesianClassifier
        The estimator.
    coverage : float
        Of intervals, if a request names none.
    digest : str
        The SHA-256 of its file.
    loaded : float
        When it was loaded, in seconds since 1970.
    """

    estimator: Any
    coverage: float
    digest: str
    loaded: float

    @classmethod
    def load(cls, path: Path, load: Callable[[Path], Any], coverage: float) -> "ServedModel":
        """Load a model, and predict example rows, so that no request waits for a compilation.

        Parameters
        ----------
        path : Path
            The model file.
        load : callable
            Loads the estimator.
        coverage : float
            As of the class.

        Returns
        -------
        ServedModel
            The model.

        Raises
        ------
        ModelFileError, ValueError
            For a file that cannot be loaded, and a coverage that the model does not have.
        """
        estimator = load(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = cls(estimator, coverage, digest, time.time())
        row = {column.name: _example(column) for column in estimator.schema_.columns}
        for count in (1, 1, BLOCK_ROWS + 1):  # of the two programs, the one for single rows twice: it must be fast
            columns = {name: [value] * count for name, value in row.items()}
            found.predict(PredictRequest(columns, count, False, coverage, ()))
        return found

    def predict(self, request: PredictRequest) -> Answer:
        """Predict the rows of a request, as ``dubito predict`` does.

        Parameters
        ----------
        request : PredictRequest
            The request.

        Returns
        -------
        Answer
            Its answer.

        Raises
        ------
        BadRequestError
            With status 422 and the library's message, for rows that the model does not take.
        """
        estimator, size = self.estimator, self._block_rows
        try:
            table = as_table(request.columns, estimator.schema_, request.count)
            starts = range(0, max(request.count, 1), size)
            blocks = ((table[start : start + size], start) for start in starts)
            with without_data_warnings():
                reading = partial(self._read, coverage=request.coverage)
                found = list(estimator.stream(blocks, reading, self._functions))
            columns, uncertainty = zip(*(each for each, _ in found), strict=True)
            joined = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
            document = in_form_of(request, beside(request, joined))
        except DataError as error:
            raise BadRequestError(422, f"{error.problem} {error.option}" if error.option else str(error)) from None
        except ValueError as error:  # a coverage that the calibration does not have, a prediction that is not finite
            raise BadRequestError(422, str(error)) from None
        changes = sum_changes(each for _, each in found)
        notes: dict[str, Any] = {what: counts for what, counts in changes.items() if counts}
        known = self._known | {*request.keep}
        if others := [name for name in request.columns if name not in known]:
            notes[IGNORED] = others
        above = sum(uncertainty)
        uncertain = dict(zip(self.quantiles, map(int, np.atleast_1d(above)), strict=True)) if self.quantiles else {}
        return Answer(document | {"notes": notes, "model": self.digest[:12]}, changes, uncertain)

    def _read(self, answer: Any, coverage: float) -> tuple[dict[str, np.ndarray], Any]:
        """(the columns of a prediction, how many rows are uncertain for each target)."""
        limit = self.estimator.held_out_uncertainty_
        above = 0 if limit is None else np.sum(epistemic_uncertainty(answer) > limit, axis=0)
        return checked_columns(answer, coverage), above

    @cached_property
    def _block_rows(self) -> int:
        return self.estimator.block_rows

    @cached_property
    def _functions(self) -> Any:
        return self.estimator._functions()

    @cached_property
    def _known(self) -> set[str]:
        """Names of columns of which nothing is said: those of the fit, the target, and those left out on purpose."""
        summary = self.estimator.summary_
        dropped = summary.get("dropped")
        return {
            *(column.name for column in self.estimator.schema_.columns),
            *(dropped if isinstance(dropped, list) else ()),
            *([summary["target"]] if isinstance(summary.get("target"), str) else ()),
        }

    @cached_property
    def targets(self) -> list[str]:
        """The names of the targets: that of the table's column, or target_0, target_1, ..."""
        name = self.estimator.summary_.get("target")
        count = 1 if self.estimator.scaler_ is None else len(self.estimator.scaler_.shift)
        if count == 1:
            return [name if isinstance(name, str) else "target"]
        return [f"target_{k}" for k in range(count)]

    @cached_property
    def quantiles(self) -> dict[str, float]:
        """The 99 % quantile of the epistemic uncertainty of held-out rows, for each target; empty if it is unknown."""
        known = self.estimator.held_out_uncertainty_
        return {} if known is None else dict(zip(self.targets, known.tolist(), strict=True))

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns that a request must have."""
        return [column.name for column in self.estimator.schema_.columns if column.kind != "left out"]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """What a client needs to know.

        Returns
        -------
        dict
            Plain values: the columns to send, what is predicted, and how.
        """
        estimator = self.estimator
        regression = estimator.task == "regression"
        columns = {column.name: [_example(column)] for column in estimator.schema_.columns}
        example = self.predict(PredictRequest(columns, 1, False, self.coverage, ())).document["columns"]
        measure = "epistemic_std" if regression else "mutual_information"
        return {
            "model": self.digest[:12],
            "task": estimator.task,
            "description": estimator.description,
            "columns": [_described(column) for column in estimator.schema_.columns if column.kind != "left out"],
            "left_out": [column.name for column in estimator.schema_.columns if column.kind == "left out"],
            "targets": self.targets,
            "classes": None if regression else estimator.classes_.tolist(),
            "predictions": {name: _unit(name, regression, self.targets) for name in example},
            "coverage": self.coverage,
            "unknown": estimator.handle_unknown,
            "missing": estimator.missing,
            "held_out_uncertainty": {"column": measure, "quantile": QUANTILE, "values": self.quantiles or None},
        }


def _example(column: ColumnEncoding) -> Any:
    """A value that a column may have."""
    return column.categories[0] if column.categories else EXAMPLES.get(column.kind, column.shift)


def _described(column: ColumnEncoding) -> dict[str, Any]:
    """What a client needs to know about a column."""
    found: dict[str, Any] = {"name": column.name, "kind": column.kind, "missing_in_fit": column.missing}
    if column.kind == "category":
        found |= {"categories": list(column.categories), "others_in_fit": column.pooled}
    if column.kind == "numeric":
        found |= {"mean_in_fit": column.shift, "std_in_fit": column.scale}
    return found


def _unit(name: str, regression: bool, targets: Sequence[str]) -> str:
    """The unit of a column of the predictions."""
    if regression:
        number = name.rpartition("_")[2]
        target = targets[int(number)] if len(targets) > 1 else targets[0]
        return f"the unit of {target}"
    if name in ("entropy", "mutual_information"):
        return "nats"
    return "class" if name == "prediction" else "true or false" if name.startswith("set_") else "probability"
