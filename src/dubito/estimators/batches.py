"""Predictions of batches of rows in the worker processes of Dask, Ray, Spark and other engines.

A ``BatchPredictor`` travels as a path and a hash; each worker process reads the model once.
"""

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import narwhals as nw

from dubito._check import DataError, check_choice, check_number, list_first
from dubito._process.archive import ModelFileError, open_regular
from dubito.estimators.checks import PredictionError, checked_columns
from dubito.estimators.loading import file_columns, load
from dubito.tables.changes import FILLED, UNKNOWN, Changes, sum_changes
from dubito.tables.columns import warn_about_columns
from dubito.tables.reading import check_unique_names
from dubito.tables.schema import Schema
from dubito.tables.validation import check_names_exist

INSTALL = "BatchPredictor needs pyarrow: pip install 'dubito[cli]'"
MOST_LOADED = 8  # models that a process holds; the one that was used least recently is dropped first


class LoadedModel(NamedTuple):
    """A model in the memory of this process.

    Attributes
    ----------
    estimator : BayesianRegressor or BayesianClassifier
    block_rows : int
        Its number of rows to predict at a time.
    """

    estimator: Any
    block_rows: int


_loaded: OrderedDict[tuple[Any, ...], LoadedModel] = OrderedDict()
_loading = threading.Lock()  # the threads of a worker wait for one of them to read the model


def prediction_table(answer: Any, coverage: float) -> Any:
    """The predictions of some rows as a table; conformal sets of classes are further columns.

    Parameters
    ----------
    answer : PredictiveDistribution
        Of the rows.
    coverage : float
        Coverage of the intervals.

    Returns
    -------
    pyarrow.Table
        The columns of ``prediction_columns``.

    Raises
    ------
    PredictionError
        For the first row whose predictions are not finite.
    """
    import pyarrow

    return pyarrow.table(checked_columns(answer, coverage))


def put_beside(kept: Any, predictions: Any, option: str) -> Any:
    """The columns to keep, then the predictions.

    Parameters
    ----------
    kept, predictions : pyarrow.Table
        Of the same rows.
    option : str
        What the message calls the choice of the columns to keep.

    Returns
    -------
    pyarrow.Table
        All columns.

    Raises
    ------
    DataError
        If two columns have the same name.
    """
    import pyarrow

    twice = [repr(name) for name in kept.column_names if name in predictions.column_names]
    if twice:
        problem = f"{option} {list_first(twice)}: the predictions have a column of the same name."
        raise DataError(f"{problem} Rename it in the table, or do not keep it.")
    columns = [*kept.columns, *predictions.columns]
    return pyarrow.table(columns, names=[*kept.column_names, *predictions.column_names])


class OpenedBatch(NamedTuple):
    """A batch that is being predicted.

    Attributes
    ----------
    rows : RecordBatch, Table or pandas.DataFrame
        As it was given.
    inputs : pyarrow.Table
        The columns that the model reads.
    kept : pyarrow.Table
        The columns to keep.
    blocks : int
        The number of blocks into which it is cut.
    """

    rows: Any
    inputs: Any
    kept: Any
    blocks: int


class BatchPredictor:
    """Predict batches of rows with the model of a file, as ``dubito predict`` does, in any process.

    It is a function of a batch for Dask's ``map_partitions`` and Ray's ``map_batches``; ``map`` is
    one for Spark's ``mapInArrow``. Pickled, it is a path, a hash and its settings. A process reads
    the model when it first needs it. The answers for a row do not depend on the batch it is in,
    and all batches have the same columns of the same types, those without rows too.

    Parameters
    ----------
    path : str or Path
        The model file, which all machines must see at this path. It must not change until the last
        worker has read it: another model at the path is an error.
    coverage : float
        Coverage of the intervals of a regression.
    keep : sequence of str
        Columns of the batch that stand first in the answer, unchanged; "all" is all of them.
    handle_unknown : {"error", "ignore"}, optional
        What to do with categories that were not in fit; by default as in fit.
    missing : {"error", "fill"}, optional
        What to do with missing values; by default as in fit.

    Raises
    ------
    ModelFileError
        If the file cannot be read.
    ValueError
        For a setting that does not exist.

    Examples
    --------
    >>> predictor = dubito.BatchPredictor("model.dubito", keep=["id"])  # doctest: +SKIP
    >>> answers = frame.map_partitions(predictor, meta=predictor(frame.head(0)))  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | Path,
        coverage: float = 0.9,
        keep: Sequence[str] = (),
        *,
        handle_unknown: str | None = None,
        missing: str | None = None,
    ) -> None:
        check_number("coverage", coverage, "(0, 1)")
        policies = {"handle_unknown": (handle_unknown, "ignore"), "missing": (missing, "fill")}
        for name, (value, other) in policies.items():
            if value is not None:
                check_choice(name, value, ("error", other))
        self.path: str = os.path.abspath(path)
        self.coverage: float = float(coverage)
        self.keep: str | tuple[str, ...] = "all" if keep == "all" else (keep,) if isinstance(keep, str) else tuple(keep)
        self.policies: dict[str, str] = {name: value for name, (value, _) in policies.items() if value is not None}
        self.sha256: str = _hash(self.path)

    def __repr__(self) -> str:
        settings = {"coverage": self.coverage, "keep": self.keep, **self.policies}
        return f"BatchPredictor({self.path!r}, {', '.join(f'{name}={value!r}' for name, value in settings.items())})"

    def __call__(self, rows: Any) -> Any:
        """Predict the rows of a batch.

        Parameters
        ----------
        rows : pyarrow.RecordBatch, pyarrow.Table or pandas.DataFrame
            Columns are found by their names; others than those of the fit are ignored.

        Returns
        -------
        pyarrow.RecordBatch, pyarrow.Table or pandas.DataFrame
            As the rows: the columns to keep, then those of ``dubito predict``. A frame keeps its
            index.

        Raises
        ------
        DataError, PredictionError
            For rows that cannot be predicted; the message names the row in the batch, and the
            model.
        ModelFileError
            If there is another file at the path, or none.
        """
        (answer,) = self.map([rows])
        return answer

    def map(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Predict batches, a few of them at a time, as for Spark's ``mapInArrow``.

        Parameters
        ----------
        batches : iterable
            Batches as for a call.

        Yields
        ------
        pyarrow.RecordBatch, pyarrow.Table or pandas.DataFrame
            The answer to each batch, in order.

        Raises
        ------
        DataError, PredictionError, ModelFileError
            As a call does.
        """
        model, waiting, done = self._load(), deque[OpenedBatch](), list[tuple[Any, Changes]]()

        def blocks() -> Iterator[tuple[Any, int]]:
            for rows in batches:
                batch = self._open(rows, model)
                waiting.append(batch)
                for start in range(0, batch.blocks * model.block_rows, model.block_rows):
                    yield batch.inputs.slice(start, model.block_rows), start

        with self._where():
            for found in model.estimator.stream(blocks(), lambda answer: prediction_table(answer, self.coverage)):
                done.append(found)
                if len(done) == waiting[0].blocks:
                    yield self._close(waiting.popleft(), done)
                    done = []

    def schema(self, like: Any = None) -> Any:
        """The columns and types of the answers to all batches.

        Parameters
        ----------
        like : pyarrow.Schema, or a batch, optional
            The columns of the batches; needed if some are kept.

        Returns
        -------
        pyarrow.Schema
            Of the answers. ``schema(like).empty_table()`` has no rows, for Dask's ``meta`` or a
            schema of Spark.

        Raises
        ------
        DataError, ModelFileError
            As a call does.
        ValueError
            If columns are kept and ``like`` is missing.
        """
        pyarrow = _arrow()
        if like is None and self.keep:
            raise ValueError(
                f"keep={self.keep!r}: these columns have the types that they have in the batches. Pass a batch, "
                "or its pyarrow.Schema, to schema()."
            )
        if like is None:
            model = self._load().estimator.schema_
            like = pyarrow.schema([(column.name, pyarrow.null()) for column in model.columns])
        if not isinstance(like, pyarrow.Schema):
            with self._where():
                like = _as_table(like).schema
        return self(like.empty_table()).schema

    def _load(self) -> LoadedModel:
        """The model, read once in this process; ModelFileError if the file at the path is another."""
        key = self.path, self.sha256, *self.policies.items()
        with _loading:
            if key not in _loaded:
                self._check_file()
                estimator = load(self.path).set_params(**self.policies)
                self._check_file()
                _loaded[key] = LoadedModel(estimator, estimator.block_rows)
            _loaded.move_to_end(key)
            while len(_loaded) > MOST_LOADED:
                _loaded.popitem(last=False)
            return _loaded[key]

    def _check_file(self) -> None:
        """Raise ModelFileError if another file is at the path; before and after it is read, since it may change meanwhile."""
        if _hash(self.path) != self.sha256:
            raise ModelFileError(
                f"{self.path} is not the model that this BatchPredictor was made for: the file has changed, or "
                "this machine has another one at the path. Make a BatchPredictor for the file that is there now, "
                "and predict all rows with it."
            )

    def _open(self, rows: Any, model: LoadedModel) -> OpenedBatch:
        table = _as_table(rows)
        check_unique_names("The batch", table.column_names)
        names = table.column_names if self.keep == "all" else [*dict.fromkeys(self.keep)]
        check_names_exist(names, table.column_names, "keep: the batch has no column")
        inputs = file_columns(model.estimator).select(table)
        _check_texts(inputs, model.estimator.schema_)
        return OpenedBatch(rows, inputs, table.select(names), max(1, -(-len(table) // model.block_rows)))

    def _close(self, batch: OpenedBatch, found: list[tuple[Any, Changes]]) -> Any:
        """The answer to a batch, in its own kind."""
        pyarrow = _arrow()
        for what, counts in sum_changes(changes for _, changes in found).items():
            if what in (FILLED, UNKNOWN):  # without their numbers, so that a worker prints it once
                warn_about_columns(what, [repr(name) for name in counts])
        table = put_beside(batch.kept, pyarrow.concat_tables([table for table, _ in found]), "keep")
        if isinstance(batch.rows, pyarrow.Table):
            return table
        if isinstance(batch.rows, pyarrow.RecordBatch):
            return pyarrow.RecordBatch.from_arrays(
                [each.combine_chunks() for each in table.columns], schema=table.schema
            )
        answers = table.drop_columns(batch.kept.column_names).to_pandas()
        names = [str(name) for name in batch.rows.columns]  # Arrow's, which are texts
        kept = batch.rows.iloc[:, [names.index(name) for name in batch.kept.column_names]]
        return kept.assign(**{name: answers[name].array for name in answers.columns})

    @contextlib.contextmanager
    def _where(self) -> Iterator[None]:
        """Errors that say where their rows are counted, and the model."""
        try:
            yield
        except PredictionError as error:
            raise PredictionError(error.row, f" of the batch, by {self.path},") from error
        except DataError as error:
            raise DataError(f"{error} (Rows are counted from 0 in each batch; the model is {self.path}.)") from error


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return pyarrow


def _hash(path: str) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except ModelFileError as error:
        raise ModelFileError(
            f"{error}. All machines must see the model at this path, as in a shared folder."
        ) from error


def _as_table(rows: Any) -> Any:
    """A batch as a pyarrow.Table."""
    pyarrow = _arrow()
    if isinstance(rows, pyarrow.Table):
        return rows
    if isinstance(rows, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches([rows])
    if nw.dependencies.is_pandas_dataframe(rows):
        try:
            return pyarrow.Table.from_pandas(rows, preserve_index=False)
        except (pyarrow.ArrowException, ValueError, TypeError) as error:
            raise DataError(f"A batch of pandas has a column that Arrow cannot hold: {error}") from error
    remedy = "Ask the engine for batches of pyarrow, in Ray with batch_format='pyarrow'."
    raise DataError(
        f"A batch must be a RecordBatch or Table of pyarrow, or a frame of pandas, got {type(rows).__name__}.", remedy
    )


def _check_texts(inputs: Any, schema: Schema) -> None:
    """Raise DataError for numbers in a column whose categories are texts, and for the opposite: an engine may have read
    '007' as 7, and handle_unknown='ignore' would encode it as no category.
    """
    from pyarrow import types

    known = {column.name: column for column in schema.columns} if schema.named else {}
    for name in inputs.column_names:
        column, found = known.get(name), inputs[name]
        if column is None or column.kind != "category" or found.null_count == len(found):
            continue
        kind = found.type.value_type if types.is_dictionary(found.type) else found.type
        numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
        texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if numbers and all(isinstance(value, str) for value in column.categories):
            other, remedy = "text", f"Read {name!r} as text: 7 is not '007'."
        elif texts and not any(isinstance(value, str) for value in column.categories):
            other, remedy = "numbers or truth values", f"Convert {name!r} to these."
        else:
            continue
        raise DataError(f"The categories of column {name!r} were {other} at fit; now its type is {kind}.", remedy)
