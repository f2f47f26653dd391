"""A table's file read some rows at a time, in constant memory.

A fitted model determines the types of a CSV's columns, so the values do not depend on the number of
rows that are read at a time: what was a number in fit must be one, and what was text stays text
even where it looks like a number. (``reading.read_table``, which reads a table to fit a model,
infers the types.)
"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from dubito._check import DataError
from dubito.tables import reading
from dubito.tables.encoding import ColumnEncoding
from dubito.tables.frames import split_target
from dubito.tables.reading import Source
from dubito.tables.schema import Schema

BLOCK_BYTES = 2**22  # of a CSV, parsed at a time


def read_blocks(
    source: Source,
    schema: Schema | None,
    target: str | None = None,
    rows: int = 16384,
    skip: int = 0,
    categorical: Collection[str] = (),
) -> Iterator[tuple[Any, int]]:
    """Read a table's file some rows at a time.

    Parameters
    ----------
    source : str or Path
        A .csv, .tsv or .parquet file, or "-" for CSV on standard input.
    schema : Schema or None
        A model's, which determines the types of a CSV's columns; None for Parquet.
    target : str, optional
        A column to leave out.
    rows : int
        The number of rows of a block; the last may have fewer.
    skip : int
        The number of rows to skip at the beginning.
    categorical : collection of str
        Columns of a Parquet file that become categories.

    Yields
    ------
    tuple
        A pyarrow Table and the number of its first row; at least one, unless ``skip`` leaves out all
        rows.

    Raises
    ------
    DataError
        As ``read_table`` does, and for texts among numbers.
    """
    with reading.reading_errors(source):
        import pyarrow

        is_parquet = reading.table_format(source) == ".parquet"

        def block(table: Any) -> Any:
            if target in table.column_names:
                table = table.drop_columns(target)
            table = reading.encode_categories(source, table, categorical)
            table = table if is_parquet else _with_types(source, table, schema, start)
            return table if schema is None else _in_order(table, schema)

        start, waiting = skip, []
        for table in read_parquet(source, rows) if is_parquet else _read_csv(source):
            rest = table.slice(min(skip, len(table)))
            skip -= len(table) - len(rest)
            waiting = pyarrow.concat_tables([*waiting, rest])
            while len(waiting) >= rows:
                yield block(waiting.slice(0, rows)), start
                start, waiting = start + rows, waiting.slice(rows)
            waiting = [waiting]
        if len(waiting[0]) or not start:
            yield block(waiting[0]), start


def read_parquet(source: Source, rows: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Read the rows of a Parquet file.

    Parameters
    ----------
    source : str or Path
        The file.
    rows : int
        The largest number of rows of a table.
    columns : sequence of str, optional
        The columns to read; all by default.

    Yields
    ------
    pyarrow.Table
        The first has no rows, so that there is at least one.
    """
    import pyarrow
    from pyarrow import parquet

    # not buffered ahead: a group of rows may be as large as the file
    with reading.open_local(source) as local, parquet.ParquetFile(local, pre_buffer=False, buffer_size=2**20) as file:
        reading.check_unique_names(source, file.schema_arrow.names)
        yield file.schema_arrow.empty_table()
        for batch in file.iter_batches(rows, columns=columns):
            yield pyarrow.Table.from_batches([batch])


def _read_csv(source: Source) -> Iterator[Any]:
    """Tables of the cells as bytes, null where they are empty; the first has no rows, so that there is at least one."""
    import pyarrow
    from pyarrow import csv as arrow

    with reading.open_csv(source) as (file, delimiter):
        names = _header(source, file, delimiter)
        reading.check_unique_names(source, names)
        cells = pyarrow.schema([(name, pyarrow.binary()) for name in names])
        yield cells.empty_table()
        if file.peek(1):  # pyarrow raises an error for no bytes at all
            reader = arrow.open_csv(
                file,
                read_options=arrow.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
                parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=arrow.ConvertOptions(column_types=cells, strings_can_be_null=True),
            )
            for batch in reader:
                yield pyarrow.Table.from_batches([batch])


def _header(source: Source, file: io.BufferedReader, delimiter: str) -> list[str]:
    """The names of a CSV's columns; leaves ``file`` where the rows begin."""
    lines = (line.decode("utf-8-sig" if place == 0 else "utf-8") for place, line in enumerate(file))
    for names in csv.reader(lines, delimiter=delimiter):
        if names:
            return names
    raise DataError(f"{source} cannot be read: it is empty")


def read_labeled(
    source: Source, schema: Schema, target: str | None, classes: np.ndarray | None = None
) -> tuple[Any, np.ndarray | None]:
    """Read a whole table with the column types that a model was fitted to.

    Parameters
    ----------
    source : str or Path
        As in ``read_blocks``.
    schema : Schema
        The model's.
    target : str or None
        The name of the target's column.
    classes : array, optional
        The model's classes, whose type the target gets; None for numbers.

    Returns
    -------
    tuple
        A pyarrow Table of the inputs, and the target (rows,) with None or NaN where it is missing;
        None without a target.

    Raises
    ------
    DataError
        As ``read_blocks`` does, and for a target that is text among numbers.
    """
    import pyarrow

    table = pyarrow.concat_tables([block for block, _ in read_blocks(source, schema)])
    if target is None or target not in table.column_names:
        return table, None
    kind = "f" if classes is None else np.asarray(classes).dtype.kind
    if kind not in "UO" and reading.table_format(source) != ".parquet":
        column = ColumnEncoding(target, "boolean" if kind == "b" else "numeric")
        place = table.column_names.index(target)
        table = table.set_column(place, target, _with_type(table[target], column, 0))
    return split_target(table, target)


def _with_types(source: Source, table: Any, schema: Schema | None, start: int) -> Any:
    """Cells with the types of their columns in fit. Columns that the model does not know stay texts: it rejects them."""
    import pyarrow

    assert schema is not None  # for CSV
    known = dict(zip(schema.names or table.column_names, schema.columns, strict=False))
    for place, name in enumerate(table.column_names):
        texts = reading.cast_cells(table[name], pyarrow.string())
        if texts is None:
            raise DataError(f"{source}: column {name!r} is not UTF-8 text.")
        typed = _with_type(texts, known[name], start) if name in known else texts
        table = table.set_column(place, name, typed)
    return table


def _in_order(table: Any, schema: Schema) -> Any:
    """A table with the columns of the fit first, in its order: in a file their order has no meaning."""
    names = [name for name in schema.names or () if name in table.column_names]
    return table.select([*names, *(name for name in table.column_names if name not in names)])


def _with_type(texts: Any, column: ColumnEncoding, start: int) -> Any:
    """Texts of one column as numbers or truth values, unless its categories are texts, or it was times or left out."""
    import pyarrow

    if column.kind in ("time", "left out") or any(isinstance(value, str) for value in column.categories):
        return texts
    present = reading.without_missing_spellings(texts)
    kinds = [pyarrow.float64()] if column.kind == "numeric" else [pyarrow.bool_(), pyarrow.float64()]
    for kind in kinds:
        typed = reading.cast_cells(present, kind)
        if typed is not None:
            return typed
    for row, text in enumerate(present):
        if all(reading.cast_cells(text, kind) is None for kind in kinds):
            was = "of numbers" if column.kind == "category" else column.kind
            raise DataError(
                f"Column {column.name!r} was {was} at fit; now row {start + row} has {text.as_py()!r}. Correct the cell, or "
                "leave it empty."
            )
    raise DataError(f"Column {column.name!r} was {column.kind} at fit; now it has both truth values and numbers.")
