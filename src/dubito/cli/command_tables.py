"""The tables of the commands: read to fit a model or to evaluate one, with a note on every row and
value that is changed; and the estimators that their options describe.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
from sklearn.base import is_classifier

from dubito._check import DataError, list_first
from dubito._values import as_array, is_missing_in
from dubito.cli.table_options import TableOptions
from dubito.cli.terminal import Say
from dubito.estimators.classifier import BayesianClassifier
from dubito.estimators.loading import file_columns, load
from dubito.estimators.regressor import BayesianRegressor
from dubito.estimators.row_splits import place_rows
from dubito.methods.by_name import get_method
from dubito.models.likelihoods.by_name import get_likelihood
from dubito.posteriors.outcomes import class_codes
from dubito.tables.changes import UNKNOWN
from dubito.tables.columns import column_values
from dubito.tables.dialects import Dialect
from dubito.tables.encoding import ColumnStatistics
from dubito.tables.files import FileColumns, read_blocks, read_labeled
from dubito.tables.frames import split_target, take_rows
from dubito.tables.reading import check_decimals, read_table
from dubito.tables.text_files import table_format
from dubito.tables.validation import target_kind

MISSING = "Missing inputs, marked by a column of their own"


class TableToFit(NamedTuple):
    """A table to fit a model to.

    Attributes
    ----------
    inputs : pyarrow.Table
        The inputs in all rows of the file, so that messages name its rows.
    y : array of shape (rows,)
        The target; any value where it is missing.
    rows : array
        The numbers of the rows that have a value of the target.
    task : str
        "regression" or "classification".
    """

    inputs: Any
    y: np.ndarray
    rows: np.ndarray
    task: str

    @property
    def weight(self) -> np.ndarray | None:
        """Sample weights that leave out the rows without a value of the target; None if there are none."""
        return None if len(self.rows) == len(self.y) else np.isin(np.arange(len(self.y)), self.rows).astype(np.float32)


def read_to_fit(
    table: str,
    target: str,
    task: str | None,
    categorical: Collection[str] | None,
    say: Say,
    source: TableOptions | None = None,
    splits: dict[str, Any] | None = None,
    missing: str = "fill",
) -> TableToFit:
    """Read a table to fit a model.

    Parameters
    ----------
    table : str
        The file.
    target : str
        Name of the target's column.
    task : {"regression", "classification"}, optional
        Inferred from the target by default.
    categorical : collection of str, optional
        Columns that become categories.
    say : callable
        Prints a note.
    source : TableOptions, optional
        How to read the table, and the choice of inputs; receives what is found.
    splits : dict, optional
        As returned by ``given_splits``; receives the values of named columns that are no inputs.
    missing : str
        The option --missing.

    Returns
    -------
    TableToFit
        The inputs, the target, the rows that have it, and the task.
    """
    source = source or TableOptions()
    frame = read_table(table, categorical or (), target, source.dialect)
    say_notes(source.dialect, say)
    if len(frame) == 0:
        raise DataError(f"{table} has a header but no rows.")
    inputs, y = split_target(frame, target)
    if inputs.num_columns == 0:
        raise DataError(f"{table} has no column beside the target {target!r}.")
    chosen = source.choose_inputs(frame.column_names, target, table)
    if not chosen:
        raise DataError(f"--drop and --inputs leave no column of {table} beside the target {target!r}.")
    found = source.dialect.found
    if task is None and found.get("separator", ",") != ",":  # commas between digits are no separators
        check_decimals(table, frame.select([target]), found["decimal"])
    task = check_task(target_kind(frame, target) if task is None else task)
    rows = np.flatnonzero(~is_missing_in(y))
    _say_missing_targets(len(y) - len(rows), len(y), target, say)
    known = split_target(take_rows(frame, rows), target)[1]
    for kind, name in (splits or {}).items():
        if isinstance(name, str) and name in inputs.column_names and name not in chosen:
            splits[kind] = as_array(inputs[name])  # type: ignore[index]
    inputs = inputs.select(chosen)
    check_decimals(table, inputs, found.get("decimal", "."))
    if missing == "fill":
        groups = (splits or {}).get("groups")
        say_counts({MISSING: count_missing(inputs, rows, (groups,) if isinstance(groups, str) else ())}, say)
    if task == "classification":
        classes = np.unique(known).tolist()
        count = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
        say(f"Classification: {target!r} has {count}: {list_first(classes)}.")
    return TableToFit(inputs, place_rows(known, rows, len(y)), rows, task)


def columns_to_drop(table: str, target: str, source: TableOptions) -> list[str]:
    """The columns of a Parquet file that are no inputs by the options --drop and --inputs."""
    if table_format(table) != ".parquet" or not (source.drop or source.inputs):
        return []
    first = next(read_blocks(table, FileColumns(None, with_target=True), 1))[0]
    source.choose_inputs(first.column_names, target, table)
    return source.dropped


def check_task(task: str) -> str:
    """The task itself; ValueError unless it is one."""
    if task not in ("regression", "classification"):
        raise ValueError(f"--task must be regression or classification, got {task!r}")
    return task


def load_model(path: str | Path, unknown: str | None, missing: str | None) -> Any:
    """Load an estimator.

    Parameters
    ----------
    path : str or Path
        The model file.
    unknown, missing : str, optional
        The options --unknown and --missing; by default as in fit.

    Returns
    -------
    BayesianRegressor or BayesianClassifier
        The estimator.
    """
    return load(path).set_params(**given_policies(unknown, missing))


def given_policies(unknown: str | None, missing: str | None) -> dict[str, str]:
    """The parameters of an estimator that the options --unknown and --missing set; ValueError for other values."""
    given = {"handle_unknown": (unknown, "--unknown", "ignore"), "missing": (missing, "--missing", "fill")}
    for value, option, other in given.values():
        if value not in (None, "error", other):
            raise ValueError(f"{option} must be {other} or error, got {value!r}")
    return {name: value for name, (value, *_) in given.items() if value is not None}


def given_splits(groups: str | None, no_groups: bool, time: str | None, stream: bool = False) -> dict[str, Any]:
    """The arguments of ``fit`` that --groups, --no-groups and --time set; ValueError if they do not go together.

    ``stream`` is whether the rows are read piece by piece.
    """
    given = [name for name, value in (("--groups", groups), ("--no-groups", no_groups), ("--time", time)) if value]
    if stream and given:
        raise ValueError(
            f"--stream does not support {given[0]}, since rows of a stream are never held out. Leave it out."
        )
    if len(given) > 1 and given != ["--no-groups", "--time"]:
        raise ValueError(f"{given[0]} and {given[1]} exclude one another. Leave one out.")
    return {"groups": False if no_groups else groups, "times": time}


def parameters_of_task(task: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a task's estimator, without the option of the other task, --target-transform or
    --class-weight; ValueError if that is given.
    """
    found = dict(parameters)
    transform, weight = found.get("target_transform"), found.get("class_weight")
    if weight not in (None, "balanced"):
        raise ValueError(
            f"--class-weight must be balanced, got {weight!r}. Set other weights in Python, with "
            "BayesianClassifier(class_weight={label: weight})."
        )
    if task == "classification" and transform is not None:
        raise ValueError("--target-transform is for numbers, not for classes. Leave it out.")
    if task == "regression" and weight is not None:
        remedy = "Leave it out, or set --task classification if the values of the target are classes."
        raise ValueError(f"--class-weight is for classes, not for numbers. {remedy}")
    found.pop("target_transform" if task == "classification" else "class_weight", None)
    return found


def estimator(
    task: str, method: str, settings: Sequence[str] = (), *, rows: int | None, hidden: str | None, **parameters: Any
) -> Any:
    """The estimator that the options describe; ValueError for widths that are none.

    Parameters
    ----------
    task, method : str
        "regression" or "classification", and the name of a method.
    settings : sequence of str
        The options --set.
    rows : int, optional
        The table's number of rows, if it is known.
    hidden : str, optional
        The option --hidden.
    **parameters : object
        Other parameters.

    Returns
    -------
    BayesianRegressor or BayesianClassifier
        The estimator, not fitted.
    """
    try:
        widths = None if hidden is None else tuple(int(width) for width in hidden.split(",") if width.strip())
    except ValueError:
        raise ValueError(f"--hidden must be widths separated by commas, such as 50,50; got {hidden!r}") from None
    chosen = get_method(method, settings, size=1000 if rows is None else rows, task=task)
    make: Any = {"regression": BayesianRegressor, "classification": BayesianClassifier}[task]
    return make(chosen, hidden=widths, **parameters_of_task(task, parameters))


def task_of_likelihood(likelihood: str | None, target_transform: str | None = None) -> str | None:
    """The task that other options imply, so that counts are not taken for classes.

    Parameters
    ----------
    likelihood, target_transform : str, optional
        The options of these names.

    Returns
    -------
    str or None
        That of the likelihood, or of a transform of numbers; None without both.
    """
    if target_transform is not None:
        return "regression"
    return None if likelihood is None else get_likelihood(likelihood).task


def read_to_evaluate(
    model: Any, table: str, say: Say, needs_target: str | None = None, dialect: Dialect | None = None
) -> tuple[Any, np.ndarray | None]:
    """Read a table for a fitted model, without the rows that have no value of the target.

    Parameters
    ----------
    model : BayesianRegressor or BayesianClassifier
        A fitted estimator.
    table : str
        The file.
    say : callable
        Prints a note.
    needs_target : str, optional
        Name of the command, if it needs the target.
    dialect : Dialect, optional
        How the table is written, as far as that is known.

    Returns
    -------
    tuple
        The inputs as a pyarrow Table, and the target (rows,) or None.
    """
    target, dialect = model.summary_.get("target"), as_fitted(dialect, model)
    inputs, y = read_labeled(table, file_columns(model), model.classes_ if is_classifier(model) else None, dialect)
    say_notes(dialect, say)
    if y is None and needs_target is not None:
        name = "whose name only `dubito fit` stores" if target is None else repr(target)
        raise ValueError(f"{needs_target} needs the target's column, {name}, in {table}")
    if y is not None:
        if needs_target is not None and len(y) == 0:
            raise DataError(f"{table} has a header but no rows.")
        missing = is_missing_in(y)
        _say_missing_targets(int(missing.sum()), len(y), target, say)
        if missing.any():
            _check_rows(model, inputs, y, missing)
        inputs, y = inputs.filter(~missing), y[~missing]
    if model.handle_unknown == "ignore":
        _, changes = model.schema_.encode_and_count(inputs, "ignore", model.missing)
        say_counts({UNKNOWN: changes[UNKNOWN]}, say)
    return inputs, y


def _check_rows(model: Any, inputs: Any, y: np.ndarray, missing: np.ndarray) -> None:
    """Raise the errors of inputs and classes before rows without a target are left out, so that they name the file's rows."""
    rows = np.where(missing, np.argmin(missing), np.arange(len(y)))  # another row in place of each of those
    model.schema_.encode(take_rows(inputs, rows), model.handle_unknown, model.missing)
    if is_classifier(model):
        class_codes(y[rows], len(y), len(model.classes_), model.classes_)


def as_fitted(dialect: Dialect | None, model: Any) -> Dialect:
    """A dialect that the table of a model's fit decides where a file leaves it open."""
    return replace(dialect or Dialect(), fitted=model.summary_.get("dialect") or {})


def say_notes(dialect: Dialect, say: Say) -> None:
    """Print the notes on a file that were not printed yet."""
    while dialect.notes:
        say(dialect.notes.pop(0))


def count_missing(inputs: Any, rows: np.ndarray, left_out: Collection[str] = ()) -> dict[str, int]:
    """The number of missing values of each column of a pyarrow Table that a fit to some rows marks.

    Columns that the fit leaves out are not counted.
    """
    used, counts = nw.from_native(take_rows(inputs, rows), eager_only=True), {}
    for name in used.columns:
        if name in left_out or not (used[name].is_null().any() or used[name].dtype == nw.String):
            continue
        column = ColumnStatistics(name)
        column.add(column_values(used[name], rows), np.ones(len(rows)), rows)
        if column.missing and column.encoding().kind != "left out":
            counts[name] = column.missing
    return counts


def _say_missing_targets(missing: int, rows: int, target: str, say: Say) -> None:
    if rows and missing == rows:
        raise DataError(f"No row has a value of the target {target!r}.")
    if missing:
        say(f"Left out {missing} of {rows} rows, which have no value of the target {target!r}.")


def say_counts(notes: Mapping[str, Mapping[str, int]], say: Say) -> None:
    """Print how many values of which columns were changed; ``notes`` are {what: {column: count}}."""
    for what, counts in notes.items():
        if counts:
            say(f"{what}: {', '.join(f'{count} of {name!r}' for name, count in counts.items())}.")
