"""Parquet tables that need not fit into memory: learning their columns, and streaming their rows to a fit."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from dubito._check import DataError, in_rows
from dubito._values import is_missing_in
from dubito.tables.columns import ColumnValues, open_table, read_columns
from dubito.tables.encoding import ColumnStatistics
from dubito.tables.files import FileColumns, read_blocks, read_parquet
from dubito.tables.frames import drop_missing_target, split_target
from dubito.tables.reading import open_local, reading_errors
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema
from dubito.tables.text_files import Source, table_format
from dubito.tables.validation import FEW_CLASSES, check_names_exist, check_target, integer_target_kind, target_kind

Pieces: TypeAlias = Callable[[], Iterator[tuple[np.ndarray, ...]]]  # a stream of rows, which can be read again

PIECE_ROWS = 2**16  # rows in memory at a time


class LearnedTable(NamedTuple):
    """What one reading of a table finds.

    Attributes
    ----------
    schema : Schema
        The columns.
    known : TargetScaler or array
        The scale of the target, or the sorted classes.
    rows : int
        The number of rows used.
    class_counts : array of shape (classes,) or None
        The number of rows of each class; None for a regression.
    """

    schema: Schema
    known: Any
    rows: int
    class_counts: Float[np.ndarray, " classes"] | None


def learn_table(
    path: Source,
    target: str,
    task: str,
    categorical: Collection[str] = (),
    drop_missing: bool = False,
    missing: str = "fill",
    drop: Collection[str] = (),
) -> LearnedTable:
    """Learn the columns and the target of a Parquet table, in one reading.

    The results are those of ``Schema.fit`` and ``TargetScaler.fit`` on the whole table, up to
    rounding; an absurd outlier is detected among the 65,536 rows around it.

    Parameters
    ----------
    path : str or Path
        A .parquet file.
    target : str
        The name of the target's column.
    task : str
        ``"regression"`` or ``"classification"``.
    categorical : collection of str
        Columns that become categories, whatever they contain.
    drop_missing : bool
        Leave out the rows without a value of the target, which are an error otherwise.
    missing : str
        As for ``Schema.fit``.
    drop : collection of str
        Columns to leave out.

    Returns
    -------
    LearnedTable
        Columns, target and numbers of rows.

    Raises
    ------
    DataError
        As ``Schema.fit`` and ``check_target`` do, and for any other file.
    """
    _check_parquet(path)
    statistics: dict[str, ColumnStatistics] = {}
    of_target, labels, count, targetless = ColumnStatistics(target), [], 0, []
    class_counts: Counter[Any] = Counter()
    for table, start in read_blocks(path, FileColumns(None, with_target=True), PIECE_ROWS, categorical=categorical):
        check_names_exist(drop, table.column_names, f"{path} has no column")
        inputs, y = split_target(table.drop_columns([*drop]), target)
        absent = is_missing_in(y)
        targetless += (start + np.flatnonzero(absent)).tolist()
        used = np.flatnonzero(~absent)
        count, rows, weight = count + len(used), start + used, np.ones(len(used))
        names, frame = open_table(inputs, least=0)
        for name, column in zip(names, read_columns(names, frame[used], rows, missing), strict=True):
            statistics.setdefault(name, ColumnStatistics(name)).add(column, weight, rows)
        if task == "classification":
            found, numbers = np.unique(y[used], return_counts=True)
            labels = np.unique(np.concatenate([labels, found])) if len(labels) else found
            class_counts.update(dict(zip(found.tolist(), numbers.tolist(), strict=True)))
        elif len(used):
            of_target.add(ColumnValues("numeric", check_target(y, len(y), task, used)[0][:, 0]), weight, rows)
    if targetless and not drop_missing:
        where = in_rows(np.ones(len(targetless), bool), targetless)
        what = f"{len(targetless)} values of the target {target!r} are missing, {where}."
        raise DataError(what, "Leave these rows out, or set drop_missing=True.")
    if count < 2:
        raise DataError(f"{path} has {count} rows with a target; at least two are needed to fit.")
    schema = Schema.of([*statistics.values()], True, count)
    if of_target.moments is not None:
        return LearnedTable(schema, TargetScaler.of([of_target.moments]), count, None)
    classes, _ = check_target(np.repeat(labels, 3), 3 * len(labels), task)  # else they might be too many for so few
    return LearnedTable(schema, classes, count, np.array([class_counts[label] for label in classes.tolist()], float))


def target_kind_of_file(path: Source, target: str) -> str:
    """The task that a column of a Parquet file suggests, in constant memory; see ``target_kind``.

    Parameters
    ----------
    path : str or Path
        A .parquet file.
    target : str
        The name of the column.

    Returns
    -------
    str
        ``"regression"`` or ``"classification"``.

    Raises
    ------
    DataError
        As ``target_kind`` does, and for any other file.
    """
    from pyarrow import types

    _check_parquet(path)
    codes, count = set(), 0
    for table, _ in read_blocks(path, FileColumns(None, with_target=True), PIECE_ROWS):
        check_names_exist([target], table.column_names, "There is no column")
        column = table.column(target)
        if not types.is_integer(column.type):
            return target_kind(table, target)
        codes.update(column.drop_null().unique().to_pylist())
        count += len(column) - column.null_count
        if len(codes) > FEW_CLASSES:
            return "regression"
    return integer_target_kind(sorted(codes), count)


def _check_parquet(path: Source) -> None:
    if table_format(path) != ".parquet":
        raise DataError(f"{path}: only .parquet tables can be streamed. Convert the table.")


def table_pieces(
    path: Source,
    target: str,
    schema: Schema,
    known: Any,
    categorical: Collection[str] = (),
    class_weight: Float[np.ndarray, " classes"] | None = None,
) -> Pieces:
    """A Parquet table as the stream that ``fit`` takes for ``x``.

    Parameters
    ----------
    path : str or Path
        A .parquet file.
    target : str
        The name of the target's column; rows without a value of it are left out.
    schema, known
        As returned by ``learn_table``; ``known`` is the ``TargetScaler`` or the sorted classes.
    categorical : collection of str
        As in ``learn_table``.
    class_weight : array of shape (classes,), optional
        The weight of each class.

    Returns
    -------
    callable
        Each call reads the file again: an iterator of (x, y), or of (x, y, weight) with a
        ``class_weight``.
    """

    columns = FileColumns(schema, target, with_target=True)

    def pieces() -> Iterator[tuple[np.ndarray, ...]]:
        for table, start in read_blocks(path, columns, PIECE_ROWS, categorical=categorical):
            inputs, values = split_target(drop_missing_target(table, target)[0], target)
            scaled = isinstance(known, TargetScaler)
            y = known.transform(values[:, None]) if scaled else np.searchsorted(known, values).astype(np.int32)
            yield schema.encode(inputs, start=start), y, *([] if class_weight is None else [class_weight[y]])

    return pieces


def parquet_pieces(
    path: Source, inputs: Sequence[str], target: str | Sequence[str], weight: str | None = None
) -> Pieces:
    """A Parquet file as the stream that ``fit`` takes for ``x``, to train without loading it whole.

    Parameters
    ----------
    path : str or Path
        The file. It should not be sorted: ``fit`` shuffles rows only within pieces of 65,536.
    inputs : sequence of str
        Columns of numbers or truth values, in the order of the network's inputs. Nothing is scaled.
    target : str or sequence of str
        Such a column, or several for y (rows, targets).
    weight : str, optional
        The column of the sample weights.

    Returns
    -------
    callable
        Each call reads the file again: an iterator of (x, y) or (x, y, weight).

    Raises
    ------
    DataError
        For a file that cannot be read, and for a column that is missing or not numeric; the
        callable also for missing values.
    """
    several = not isinstance(target, str)
    targets = [target] if isinstance(target, str) else [*target]
    columns = [*inputs, *targets, *([] if weight is None else [weight])]
    with reading_errors(path):
        from pyarrow import parquet, types

        with open_local(path) as file:
            schema = parquet.read_schema(file)
    check_names_exist(columns, schema.names, f"{path} has no column")
    for name in columns:
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(f"{path}: column {name!r} has the type {kind} and is not numeric.")

    def pieces() -> Iterator[tuple[np.ndarray, ...]]:
        start, end = 0, len(inputs) + len(targets)
        with reading_errors(path):
            for table in read_parquet(path, PIECE_ROWS, list(dict.fromkeys(columns))):
                arrays = [_complete_column(path, table, name, start) for name in columns]
                y = _side_by_side(arrays[len(inputs) : end]) if several else arrays[len(inputs)]
                yield (_side_by_side(arrays[: len(inputs)]), y, *arrays[end:])
                start += len(table)

    return pieces


def _complete_column(path: Source, table: Any, name: str, start: int) -> np.ndarray:
    """A column's values (rows,); DataError where some are missing. ``start``: the number of the first row."""
    column = table.column(name)
    if column.null_count:
        row = start + int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{path}: column {name!r} has no value in row {row}. Fill it in, or leave the row out.")
    return column.to_numpy()


def _side_by_side(columns: Sequence[np.ndarray]) -> Float[np.ndarray, "rows columns"]:
    """Columns (rows,) as one float32 array; what exceeds float32 becomes infinite, which ``fit`` rejects."""
    with np.errstate(over="ignore"):
        return np.stack([column.astype(np.float32) for column in columns], axis=1)
