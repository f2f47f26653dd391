"""The tables of the commands: read to fit a model or to evaluate one, with a note on every row and
value that is changed.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import compute
from sklearn.base import is_classifier

from dubito._check import DataError, list_first
from dubito._values import as_array, is_missing_in
from dubito.cli.table_options import TableOptions
from dubito.cli.terminal import Say
from dubito.estimators.loading import load
from dubito.tables.dialects import Dialect
from dubito.tables.files import FileColumns, read_blocks, read_labeled
from dubito.tables.frames import drop_missing_target, split_target
from dubito.tables.reading import check_decimals, read_table
from dubito.tables.schema import UNKNOWN
from dubito.tables.text_files import table_format
from dubito.tables.validation import target_kind

MISSING = "Missing inputs, marked by a column of their own"


def read_to_fit(
    table: str,
    target: str,
    task: str | None,
    categorical: Collection[str] | None,
    say: Say,
    source: TableOptions | None = None,
    splits: dict[str, Any] | None = None,
) -> tuple[Any, np.ndarray, str]:
    """Read a table to fit a model, without the rows that have no value of the target.

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

    Returns
    -------
    tuple
        The inputs as a pyarrow Table, the target (rows,), and the task.
    """
    source = source or TableOptions()
    frame = read_table(table, categorical or (), target, source.dialect)
    say_notes(source.dialect, say)
    if len(frame) == 0:
        raise DataError(f"{table} has a header but no rows.")
    inputs, _ = split_target(frame, target)
    if inputs.num_columns == 0:
        raise DataError(f"{table} has no column beside the target {target!r}.")
    chosen = source.choose_inputs(frame.column_names, target, table)
    if not chosen:
        raise DataError(f"--drop and --inputs leave no column of {table} beside the target {target!r}.")
    found = source.dialect.found
    if task is None and found.get("separator", ",") != ",":  # commas between digits are no separators
        check_decimals(table, frame.select([target]), found["decimal"])
    task = check_task(target_kind(frame, target) if task is None else task)
    frame, missing = drop_missing_target(frame, target)
    _say_missing_targets(missing, missing + len(frame), target, say)
    inputs, y = split_target(frame, target)
    for kind, name in (splits or {}).items():
        if isinstance(name, str) and name in inputs.column_names and name not in chosen:
            splits[kind] = as_array(inputs[name])  # type: ignore[index]
    inputs = inputs.select(chosen)
    check_decimals(table, inputs, found.get("decimal", "."))
    say_counts({MISSING: count_missing(inputs)}, say)
    if task == "classification":
        classes = np.unique(y).tolist()
        say(f"Classification: {target!r} has {len(classes)} classes: {list_first(classes)}.")
    return inputs, y, task


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
        inputs, y = inputs.filter(~missing), y[~missing]
    if model.handle_unknown == "ignore":
        _, changes = model.schema_.encode_and_count(inputs, "ignore", model.missing)
        say_counts({UNKNOWN: changes[UNKNOWN]}, say)
    return inputs, y


def as_fitted(dialect: Dialect | None, model: Any) -> Dialect:
    """A dialect that the table of a model's fit decides where a file leaves it open."""
    return replace(dialect or Dialect(), fitted=model.summary_.get("dialect") or {})


def file_columns(model: Any) -> FileColumns:
    """The columns of a file that a model reads."""
    target, dropped = model.summary_.get("target"), model.summary_.get("dropped")
    return FileColumns(model.schema_, target, dropped if isinstance(dropped, list) else ())


def say_notes(dialect: Dialect, say: Say) -> None:
    """Print the notes on a file that were not printed yet."""
    while dialect.notes:
        say(dialect.notes.pop(0))


def count_missing(inputs: Any) -> dict[str, int]:
    """The number of missing values of each column of a pyarrow Table that has some."""
    pairs = zip(inputs.column_names, inputs.columns, strict=True)
    counts = {name: compute.sum(column.is_null(nan_is_null=True)).as_py() or 0 for name, column in pairs}  # type: ignore[attr-defined]
    return {name: count for name, count in counts.items() if count}


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
