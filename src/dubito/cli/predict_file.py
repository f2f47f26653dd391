"""Predictions of a table's file, written to a file block by block: constant memory, whole or not at
all, resumable.

Predictions stay in memory until they fill a part; the parts of a long table are stored beside the
output (``output_parts``), and become the output at the end.
"""

import hashlib
import itertools
import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow
from pyarrow import compute, csv, parquet
from rich.console import Console

from dubito._process import interrupts
from dubito._process.output_files import write_atomically
from dubito.cli.command_tables import as_fitted, load_model, say_counts, say_notes
from dubito.cli.output_parts import Counts, ResumableOutput, add_counts
from dubito.cli.progress import line_writer
from dubito.cli.terminal import Say
from dubito.estimators.batches import prediction_table, put_beside
from dubito.estimators.loading import file_columns
from dubito.tables.dialects import Dialect
from dubito.tables.files import read_and_keep
from dubito.training.progress import print_lines

FORMULA = r"^[=+\-@\t\r]"


class PredictOptions(NamedTuple):
    """How to predict a table's file.

    Attributes
    ----------
    say : callable
        Prints a note.
    coverage : float
        Coverage of the intervals.
    safe_csv : bool
        Whether to keep spreadsheets from reading texts as formulas, see ``with_safe_texts``.
    keep : sequence of str, optional
        Columns of the table that stand first in the output, unchanged; "all" is all of them.
    dialect : Dialect, optional
        How the table is written, as far as that is known.
    unknown, missing : str, optional
        As for ``command_tables.load_model``.
    console : Console, optional
        Where to tell the number of rows now and then, unless it is a terminal.
    """

    say: Say
    coverage: float = 0.9
    safe_csv: bool = False
    keep: Sequence[str] | None = None
    dialect: Dialect | None = None
    unknown: str | None = None
    missing: str | None = None
    console: Console | None = None


def predict_file(model: Path, table: str, output: Path, options: PredictOptions) -> int:
    """Predict the rows of a table's file. The same call resumes an interrupted run.

    Parameters
    ----------
    model, output : Path
        Model file, and .csv or .parquet file to write.
    table : str
        The table's file.
    options : PredictOptions
        How to predict it.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    DataError, ModelFileError, OSError
        For a table or a model that cannot be used, and an output that cannot be written.
    """
    estimator = load_model(model, options.unknown, options.missing)
    dialect, say = as_fitted(options.dialect, estimator), options.say
    with interrupts.deferred_exit(), ResumableOutput(output, task_of(model, table, options, dialect), say) as parts:
        with print_lines(line_writer(options.console), lambda: f"{parts.rows:,} rows predicted"):
            for answer, notes in predict_blocks(
                estimator, table, options.coverage, skip=parts.rows, keep=options.keep, dialect=dialect
            ):
                say_notes(dialect, say)
                parts.add(answer, notes)
        say_notes(dialect, say)
        say_counts(parts.notes, say)
        with write_atomically(output) as file:
            write_stream(parts.tables(), file, output.suffix, options.safe_csv)
    return parts.rows


def predict_to_stdout(model: Path, table: str, options: PredictOptions) -> None:
    """Write the predictions as CSV to standard output, as they are computed; a closed pipe is no
    error.

    The parameters are those of ``predict_file``.
    """
    total: Counts = {}
    estimator = load_model(model, options.unknown, options.missing)
    dialect, say = as_fitted(options.dialect, estimator), options.say

    rows = 0

    def tables() -> Iterator[pyarrow.Table]:
        nonlocal rows
        for answer, notes in predict_blocks(estimator, table, options.coverage, keep=options.keep, dialect=dialect):
            say_notes(dialect, say)
            add_counts(total, notes)
            rows += len(answer)
            yield answer

    try:
        with print_lines(line_writer(options.console), lambda: f"{rows:,} rows predicted"):
            write_stream(tables(), sys.stdout.buffer, ".csv", options.safe_csv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader needs no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    say_notes(dialect, say)
    say_counts(total, say)


def task_of(model: Path, table: str, options: PredictOptions, dialect: Dialect) -> dict[str, Any]:
    """What the predictions depend on, as plain values; the table is None if it cannot be read
    again.
    """
    path = Path(table)
    found = path.stat() if path.is_file() else None
    return {
        "model": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "table": found and {"name": path.name, "bytes": found.st_size, "modified": found.st_mtime_ns},
        **{"coverage": options.coverage, "unknown": options.unknown, "missing": options.missing},
        **dialect.named,
        **({} if options.keep is None else {"keep": [*options.keep]}),
    }


def predict_blocks(
    estimator: Any,
    table: str,
    coverage: float = 0.9,
    skip: int = 0,
    keep: Sequence[str] | None = None,
    dialect: Dialect | None = None,
) -> Iterator[tuple[pyarrow.Table, Counts]]:
    """Predict a table's rows from row ``skip`` on.

    Parameters
    ----------
    estimator : BayesianRegressor or BayesianClassifier
        A fitted estimator.
    table : str
        The table's file.
    coverage : float
        Coverage of the intervals.
    skip : int
        The first row to predict.
    keep, dialect
        As for ``predict_file``.

    Yields
    ------
    tuple
        A table of predictions and the counts of ``Schema.encode_and_count``, for each block.
    """
    waiting: deque[Any] = deque()  # columns to keep of the blocks whose predictions are being computed

    def blocks() -> Iterator[tuple[Any, int]]:
        found = read_and_keep(table, file_columns(estimator), keep, estimator.block_rows, skip, dialect=dialect)
        for inputs, kept, start in found:
            waiting.append(kept)
            yield inputs, start

    for predictions, changes in estimator.stream(blocks(), lambda answer: prediction_table(answer, coverage)):
        kept = waiting.popleft()
        yield predictions if kept is None else put_beside(kept, predictions, "--keep"), changes


def with_safe_texts(table: pyarrow.Table) -> pyarrow.Table:
    """A table whose names and texts no spreadsheet takes for a formula.

    An apostrophe is put before those that begin with one of = + - @, a tab or a carriage return.
    """

    def safe(column: Any) -> Any:
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
            return column
        prefix = compute.if_else(compute.match_substring_regex(column, FORMULA), "'", "")  # type: ignore[attr-defined]
        return compute.binary_join_element_wise(prefix.cast(column.type), column, pyarrow.scalar("", column.type))  # type: ignore[attr-defined]

    names = ["'" * bool(re.match(FORMULA, name)) + name for name in table.column_names]
    return pyarrow.table([safe(column) for column in table.columns], names)


def write_stream(tables: Iterable[pyarrow.Table], file: BinaryIO, suffix: str, safe_csv: bool) -> None:
    """Write tables of one schema to an open .csv or .parquet file, as they come; it stays open."""
    tables = map(with_safe_texts, tables) if safe_csv else iter(tables)
    first = next(tables)
    if suffix == ".csv":
        writer = csv.CSVWriter(file, first.schema)
    else:  # a dictionary of different numbers costs time and saves nothing
        texts = [field.name for field in first.schema if pyarrow.types.is_string(field.type)]
        writer = parquet.ParquetWriter(file, first.schema, use_dictionary=texts or False)  # type: ignore[arg-type]
    with writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
