"""A Parquet table that need not fit into memory, to fit a model to: its columns learned, and its rows as a stream."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dubito._check import DataError, in_rows, list_first
from dubito._values import is_missing_in
from dubito.tables.columns import ColumnValues, open_table, read_columns
from dubito.tables.encoding import ColumnStatistics
from dubito.tables.files import read_blocks, read_parquet
from dubito.tables.frames import drop_missing_target, split_target
from dubito.tables.reading import table_format
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema
from dubito.tables.validation import check_target, target_kind

PIECE_ROWS = 2**16  # rows in memory at a time


def learn_table(
    path: str | Path, target: str, task: str, categorical: Collection[str] = (), drop_missing: bool = False
) -> tuple[Schema, Any, int]:
    """Learn the columns and the target of a Parquet table, in one reading.

    Parameters
    ----------
    path : .parquet file.
    target : name of the target's column.
    task : "regression" or "classification".
    categorical : columns that become categories whatever they hold.
    drop_missing : leave out the rows that have no value of the target, which are an error otherwise.

    Returns
    -------
    tuple
        The ``Schema``; the ``TargetScaler``, or the sorted labels of the classes; the number of rows used. They are those
        of ``Schema.fit`` and ``TargetScaler.fit`` on the whole table, up to rounding; an absurd outlier is detected among
        the 65,536 rows around it.

    Raises
    ------
    DataError
        As ``Schema.fit`` and ``check_target`` do, and for any other file.
    """
    _check_parquet(path)
    statistics: dict[Any, ColumnStatistics] = {}
    labels, count, missing = [], 0, []
    for table, start in read_blocks(path, None, rows=PIECE_ROWS, categorical=categorical):
        inputs, y = split_target(table, target)
        absent = is_missing_in(y)
        missing += (start + np.flatnonzero(absent)).tolist()
        rows = start + np.flatnonzero(~absent)
        names, frame = open_table(inputs, least=0)
        for name, column in zip(names, read_columns(names, frame[rows - start], rows), strict=True):
            statistics.setdefault(name, ColumnStatistics(name)).add(column, np.ones(len(rows)), rows)
        if task == "classification":
            labels = np.unique(np.concatenate([labels, y[~absent]]) if len(labels) else y[~absent])
        elif len(rows):
            column = ColumnValues("numeric", check_target(y, len(y), task, rows - start)[0][:, 0])
            statistics.setdefault(None, ColumnStatistics(target)).add(column, np.ones(len(rows)), rows)
        count += len(rows)
    if missing and not drop_missing:
        where = in_rows(np.ones(len(missing), bool), missing)
        raise DataError(
            f"{len(missing)} values of the target {target!r} are missing, {where}.", "Leave these rows out."
        )
    if count < 2:
        raise DataError(f"{path} has {count} rows with a target; at least two are needed to fit.")
    if task == "classification":
        classes, _ = check_target(np.repeat(labels, 3), 3 * len(labels), task)  # else they might be too many for so few
        return Schema.of([*statistics.values()]), classes, count
    moments = statistics.pop(None).moments
    assert moments is not None  # there are rows
    return Schema.of([*statistics.values()]), TargetScaler.of([moments]), count


def target_kind_of_file(path: str | Path, target: str) -> str:
    """``target_kind`` of a column of a Parquet file, in constant memory; DataError for another file."""
    import pyarrow

    _check_parquet(path)
    codes, count = set(), 0
    for table, _ in read_blocks(path, None, rows=PIECE_ROWS):
        split_target(table, target)
        column = table.column(target)
        if not pyarrow.types.is_integer(column.type):
            return target_kind(table, target)
        codes.update(column.drop_null().unique().to_pylist())
        count += len(column) - column.null_count
        if len(codes) > 10:
            return "regression"
    few = pyarrow.table({target: sorted(codes) * 2})
    return target_kind(few, target) if count >= 2 * len(codes) else "regression"


def _check_parquet(path):
    if table_format(path) != ".parquet":
        raise DataError(f"{path}: only a .parquet table can be read piece by piece to fit; convert it.")


def table_pieces(
    path: str | Path, target: str, schema: Schema, known: Any, categorical: Collection[str] = ()
) -> Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """A Parquet table as the stream that ``fit`` takes for ``x``.

    Parameters
    ----------
    path, target, categorical : as for ``learn_table``; rows without a value of ``target`` are left out.
    schema, known : what ``learn_table`` returned; ``known`` is the ``TargetScaler`` or the sorted classes.
    """

    def pieces():
        for table, start in read_blocks(path, schema, rows=PIECE_ROWS, categorical=categorical):
            inputs, values = split_target(drop_missing_target(table, target)[0], target)
            scaled = isinstance(known, TargetScaler)
            y = known.transform(values[:, None]) if scaled else np.searchsorted(known, values).astype(np.int32)
            yield schema.encode(inputs, start=start), y

    return pieces


def parquet_pieces(
    path: str | Path, inputs: Sequence[str], target: str | Sequence[str], weight: str | None = None
) -> Callable[[], Iterator[tuple[np.ndarray, ...]]]:
    """A Parquet file as the stream that ``fit`` takes for ``x``, to train without loading it whole.

    Parameters
    ----------
    path : the file. It should not be sorted: ``fit`` shuffles rows only within pieces of 65,536.
    inputs : columns of numbers or truth values, in the order of the network's inputs. Nothing is scaled.
    target : such a column, or several for y (rows, targets).
    weight : column of the sample weights.

    Returns
    -------
    callable
        Each call reads the file anew: an iterator of (x, y) or (x, y, weight).

    Raises
    ------
    DataError
        For a file that cannot be read, and for a column that is missing or not of numbers; the callable also for missing
        values.
    """
    import pyarrow
    from pyarrow import parquet, types

    several = not isinstance(target, str)
    columns = [*inputs, *([target] if isinstance(target, str) else target), *([] if weight is None else [weight])]
    try:
        with pyarrow.OSFile(str(path)) as file:  # a name might be taken for an address
            schema = parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for name in columns:
        if name not in schema.names:
            raise DataError(f"{path} has no column {name!r}. The columns are {list_first([*map(repr, schema.names)])}.")
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(f"{path}: column {name!r} is of {kind}, not of numbers.")

    def pieces():
        start, end = 0, len(columns) - (weight is not None)
        try:
            for table in read_parquet(path, PIECE_ROWS, list(dict.fromkeys(columns))):
                arrays = [_complete_column(path, table, name, start) for name in columns]
                y = _side_by_side(arrays[len(inputs) : end]) if several else arrays[len(inputs)]
                yield (_side_by_side(arrays[: len(inputs)]), y, *arrays[end:])
                start += len(table)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    return pieces


def _complete_column(path, table, name, start):
    """A column's values (n,); DataError where some are missing. ``start``: the number of the first row."""
    column = table.column(name)
    if column.null_count:
        row = start + int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{path}: column {name!r} has no value in row {row}. Fill it in, or leave the row out.")
    return column.to_numpy()


def _side_by_side(columns):
    """Columns (n,) as one float32 array (n, K); what exceeds float32 becomes infinite, which ``fit`` rejects."""
    out = np.empty((len(columns[0]), len(columns)), np.float32)
    with np.errstate(over="ignore"):
        for place, column in enumerate(columns):
            out[:, place] = column
    return out
