"""The tables of the commands: read to fit a model or to evaluate one, with a note on every row and value that is not used as it is.

``say`` prints a note.
"""

import numpy as np

from dubito._check import DataError, list_first
from dubito._values import is_missing_in
from dubito.estimators.regressor import load
from dubito.tables.files import read_labeled
from dubito.tables.schema import fill_missing, read_table, split_target, target_kind, with_target

FILLED, UNKNOWN = "Filled in", "Categories not seen at fit, taken as none of the known"


def read_to_fit(table, target, task, categorical, say):
    """(inputs, y, task) of a table to fit to its column ``target``, without the rows that have no value of it."""
    frame = read_table(table, categorical or (), target)
    if len(frame) == 0:
        raise DataError(f"{table} has a header but no rows.")
    inputs, _ = split_target(frame, target)
    if inputs.num_columns == 0:
        raise DataError(f"{table} has no column beside the target {target!r}.")
    kind = check_task(target_kind(frame, target) if task is None else task)
    frame, missing = with_target(frame, target)
    _say_missing_targets(missing, missing + len(frame), target, say)
    inputs, y = split_target(frame, target)
    if kind == "classification":
        classes = np.unique(y).tolist()
        say(f"Classification: {target!r} has {len(classes)} classes: {list_first(classes)}.")
    return inputs, y, kind


def check_task(task):
    """``task``, or ValueError."""
    if task not in ("regression", "classification"):
        raise ValueError(f"--task is regression or classification, got {task!r}")
    return task


def load_model(path, unknown):
    """The estimator in the file ``path``, which takes categories not seen at fit as ``unknown`` says: "ignore" or "error"."""
    if unknown not in ("ignore", "error"):
        raise ValueError(f"--unknown is ignore or error, got {unknown!r}")
    model = load(path)
    model.handle_unknown = unknown
    return model


def read_to_evaluate(model, table, say, wanted=None):
    """(inputs, the target's column or None) of a table for ``model``. ``wanted`` names the command that cannot do without the
    target: rows without a value of it are left out."""
    target = model.summary_.get("target")
    inputs, y = read_labeled(table, model.schema_, target, getattr(model, "classes_", None))
    if y is None and wanted is not None:
        name = "whose name only a model of `dubito fit` knows" if target is None else repr(target)
        raise ValueError(f"{wanted} needs the target's column, {name}, in {table}")
    if y is not None:
        if wanted is not None and len(y) == 0:
            raise DataError(f"{table} has a header but no rows.")
        missing = is_missing_in(y)
        _say_missing_targets(int(missing.sum()), len(y), target, say)
        inputs, y = inputs.filter(~missing), y[~missing]
    if "impute" in model.summary_:
        inputs, _ = fill_inputs(inputs, say, model.summary_["impute"])
    if model.handle_unknown == "ignore":
        say_counts({UNKNOWN: model.schema_.count_unknown(inputs)}, say)
    return inputs, y


def _say_missing_targets(missing, rows, target, say):
    if rows and missing == rows:
        raise DataError(f"No row has a value of the target {target!r}.")
    if missing:
        say(f"Left out {missing} of {rows} rows, which have no value of the target {target!r}.")


def fill_inputs(inputs, say, values=None):
    """(the inputs with their missing values filled in, the value for each column)."""
    inputs, values, counts = fill_missing(inputs, values)
    say_counts({FILLED: counts}, say)
    return inputs, values


def say_counts(notes, say):
    """Say what was done to how many values of which column: ``notes`` are {what: {column: count}}."""
    for what, counts in notes.items():
        if counts:
            say(f"{what}: {', '.join(f'{count} of {name!r}' for name, count in counts.items())}.")
