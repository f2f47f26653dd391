"""Predictions of a table's file, written to a file block by block: constant memory, whole or not at all, resumable.

Predictions stay in memory until they fill a part; the parts of a long table are files (``output_parts``), which become the
one output at the end.
"""

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dubito._process import interrupts
from dubito._process.output_files import write_atomically
from dubito.cli.output_parts import ResumableOutput, add_counts

FORMULA = r"^[=+\-@\t\r]"


def predict_file(
    model: Path,
    table: str,
    output: Path,
    coverage: float,
    say: Callable[[str], None],
    safe_csv: bool = False,
    unknown: str = "ignore",
) -> int:
    """Predict the rows of a table's file. The same call resumes an interrupted run.

    Parameters
    ----------
    model, table, output : model file, table, and .csv or .parquet file to write.
    coverage : probability of the intervals.
    say : prints a note.
    safe_csv : whether texts must not be formulas in a spreadsheet, see ``with_safe_texts``.
    unknown : as for ``command_tables.load_model``.

    Returns
    -------
    The number of rows.

    Raises
    ------
    DataError, ModelFileError, OSError
    """
    from dubito.cli.command_tables import load_model, say_counts

    found = load_model(model, unknown)
    with interrupts.deferred_exit(), ResumableOutput(output, task_of(model, table, coverage, unknown), say) as parts:
        for answer, notes in predict_blocks(found, table, coverage, skip=parts.rows):
            parts.add(answer, notes)
        say_counts(parts.notes, say)
        write_tables(parts.tables(), output, parts.made_folder, safe_csv)
    return parts.rows


def predict_to_stdout(
    model: Path,
    table: str,
    coverage: float,
    say: Callable[[str], None],
    safe_csv: bool = False,
    unknown: str = "ignore",
) -> None:
    """The same as CSV to standard output, as it is computed; a closed pipe is no error."""
    from dubito.cli.command_tables import load_model, say_counts

    total = {}

    def tables():
        for answer, notes in predict_blocks(load_model(model, unknown), table, coverage):
            add_counts(total, notes)
            yield with_safe_texts(answer) if safe_csv else answer

    try:
        write_stream(tables(), sys.stdout.buffer, ".csv")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    say_counts(total, say)


def task_of(model: Path, table: str, coverage: float, unknown: str) -> dict[str, Any]:
    """What the predictions depend on, as plain values; the table is None where it cannot be read again."""
    path = Path(table)
    found = path.stat() if path.is_file() else None
    return {
        "model": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "table": found and {"name": path.name, "bytes": found.st_size, "modified": found.st_mtime_ns},
        "coverage": coverage,
        "unknown": unknown,
    }


def predict_blocks(
    found: Any, table: str, coverage: float = 0.9, skip: int = 0
) -> Iterator[tuple[Any, dict[str, dict[str, int]]]]:
    """Predict a table's rows from row ``skip`` on, with a fitted estimator.

    Yields
    ------
    A pyarrow Table, and notes {what: {column: count}} on values that were filled in and unknown categories.
    """
    import pyarrow

    from dubito.cli.command_tables import FILLED, UNKNOWN
    from dubito.estimators.checks import check_predictions
    from dubito.tables.files import read_blocks
    from dubito.tables.frames import fill_missing

    values, notes = found.summary_.get("impute"), []
    booleans = {column.name for column in found.schema_.columns if column.kind == "boolean"}
    if values is not None:
        values = {name: float(value >= 0.5) if name in booleans else value for name, value in values.items()}

    def blocks():
        target = found.summary_.get("target")
        for block, start in read_blocks(table, found.schema_, target, found.block_rows, skip):
            filled = {}
            if values is not None:
                block, _, filled = fill_missing(block, values)
            unknown = found.schema_.count_unknown(block) if found.handle_unknown == "ignore" else {}
            notes.append({FILLED: filled, UNKNOWN: unknown})
            yield block, start

    def reading(answer):
        columns = (
            class_columns(found, answer) if answer.task == "classification" else regression_columns(answer, coverage)
        )
        for values in columns.values():
            if isinstance(values, np.ndarray):
                check_predictions(values)
        return pyarrow.table(columns)

    for place, answer in enumerate(found.stream(blocks(), reading)):
        yield answer, notes[place]


def regression_columns(answer: Any, coverage: float) -> dict[str, np.ndarray]:
    """A regressor's predictions by column; with several targets the names end in _0, _1, ..."""
    answer = answer.columnwise
    names = ("mean", "std", "epistemic_std", "aleatoric_std", "lower", "upper")
    parts = (answer.mean, answer.std, answer.epistemic_std, answer.aleatoric_std, *answer.interval(coverage))
    count = answer.mean.shape[1]
    endings = [""] if count == 1 else [f"_{k}" for k in range(count)]
    return {
        f"{name}{ending}": part[:, k]
        for k, ending in enumerate(endings)
        for name, part in zip(names, parts, strict=True)
    }


def class_columns(found: Any, answer: Any) -> dict[str, Any]:
    """A classifier's predictions by column."""
    import pyarrow

    from dubito.evaluation.conformal import ConformalPredictive

    probs = answer.probs
    prediction = pyarrow.array(found.classes_).take(pyarrow.array(probs.argmax(1)))
    columns = {f"p_{label}": probs[:, place] for place, label in enumerate(found.classes_)}
    uncertainty = {"entropy": answer.entropy, "mutual_information": answer.mutual_information}
    sets = answer.sets if isinstance(answer, ConformalPredictive) else None
    if sets is not None:
        uncertainty |= {f"set_{label}": sets[:, place] for place, label in enumerate(found.classes_)}
    return {"prediction": prediction} | columns | uncertainty


def write_tables(tables: Iterable[Any], output: Path, folder: Path | None = None, safe_csv: bool = False) -> None:
    """pyarrow Tables of one schema to a .csv or .parquet file, whole or not at all; ``folder`` is for the temporary file."""
    with write_atomically(output, folder) as file:
        write_stream(map(with_safe_texts, tables) if safe_csv else tables, file, output.suffix)


def with_safe_texts(table: Any) -> Any:
    """A pyarrow Table whose names and texts no spreadsheet takes for a formula: an apostrophe stands before those that begin
    with one of = + - @, a tab or a carriage return."""
    import pyarrow
    from pyarrow import compute

    def safe(column):
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
            return column
        prefix = compute.if_else(compute.match_substring_regex(column, FORMULA), "'", "")  # type: ignore[attr-defined]
        return compute.binary_join_element_wise(prefix.cast(column.type), column, pyarrow.scalar("", column.type))  # type: ignore[attr-defined]

    names = ["'" * bool(re.match(FORMULA, name)) + name for name in table.column_names]
    return pyarrow.table([safe(column) for column in table.columns], names)


def write_stream(tables: Iterable[Any], file: Any, suffix: str) -> None:
    """Write pyarrow Tables of one schema to an open binary file, as they come; it stays open."""
    import pyarrow
    from pyarrow import csv, parquet

    tables = iter(tables)
    first = next(tables)
    if suffix == ".csv":
        writer = csv.CSVWriter(file, first.schema)
    else:  # a dictionary of different numbers costs time and saves nothing
        texts = [field.name for field in first.schema if pyarrow.types.is_string(field.type)]
        writer = parquet.ParquetWriter(file, first.schema, use_dictionary=texts or False)  # type: ignore[arg-type]
    with writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
