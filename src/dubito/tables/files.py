"""A table's file read some rows at a time, in constant memory.

A fitted model determines the types of a CSV's columns, so the values do not depend on how many rows are read at a time: what
was a number at fit must be one, and what was text stays text even where it looks like a number. (Reading to fit must guess
the types: ``reading.read_table``.)
"""

import contextlib
import csv
import io
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dubito._check import DataError
from dubito.tables.csv_quotes import CheckedFile
from dubito.tables.encoding import ColumnEncoding
from dubito.tables.frames import split_target
from dubito.tables.reading import check_unique_names, table_format
from dubito.tables.schema import Schema
from dubito.tables.texts import MISSING


def read_blocks(
    source: str | Path,
    schema: Schema | None,
    target: str | None = None,
    rows: int = 16384,
    skip: int = 0,
    categorical: Collection[str] = (),
) -> Iterator[tuple[Any, int]]:
    """Read a table's file some rows at a time.

    Parameters
    ----------
    source : .csv, .tsv or .parquet file, or "-" for CSV on standard input.
    schema : a model's, which says what the columns of a CSV are; None for Parquet.
    target : column to leave out.
    rows : number of rows in a block; the last may have fewer.
    skip : number of rows to leave out at the beginning.
    categorical : columns of a Parquet file that become categories.

    Yields
    ------
    tuple
        A pyarrow Table and the number of its first row; at least one.

    Raises
    ------
    DataError
        As ``read_table`` does, and for texts among numbers.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("Reading tables needs pyarrow: pip install 'dubito[cli]'") from error
    parquet = table_format(source) == ".parquet"
    start, waiting, count = skip, [], 0

    def block(table):
        if target in table.column_names:
            table = table.drop_columns(target)
        for name in categorical:
            column = table[name].combine_chunks().dictionary_encode()
            table = table.set_column(table.column_names.index(name), name, column)
        return table if parquet else _with_types(source, table, schema, start)

    try:
        for table in read_parquet(source, rows) if parquet else _csv(source):
            rest = table.slice(min(skip, len(table)))
            skip -= len(table) - len(rest)
            waiting, count = [*waiting, rest], count + len(rest)
            while count >= rows:
                whole = pyarrow.concat_tables(waiting)
                yield block(whole.slice(0, rows)), start
                start, waiting, count = start + rows, [whole.slice(rows)], count - rows
        if count or not start:
            yield block(pyarrow.concat_tables(waiting)), start
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def read_parquet(source: str | Path, rows: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """pyarrow Tables of a Parquet file's rows, of all columns or some; the first has no rows, so that there is one."""
    import pyarrow
    from pyarrow import parquet

    # not buffered ahead: a group of rows may be as large as the file
    with pyarrow.OSFile(str(source)) as local, parquet.ParquetFile(local, pre_buffer=False, buffer_size=2**20) as file:
        check_unique_names(source, file.schema_arrow.names)
        yield file.schema_arrow.empty_table()
        for batch in file.iter_batches(rows, columns=columns):
            yield pyarrow.Table.from_batches([batch])


def _csv(source):
    """Tables of the file's cells as bytes, null where they are missing; the first is empty, so that there is one."""
    import pyarrow

    delimiter = "\t" if table_format(source) == ".tsv" else ","
    stdin = contextlib.nullcontext(sys.stdin.buffer)
    with stdin if str(source) == "-" else open(source, "rb") as opened_file:
        checked = CheckedFile(opened_file, source, delimiter)
        file = io.BufferedReader(checked, 2**20)
        try:
            yield from _csv_tables(source, file, delimiter)
        except (DataError, pyarrow.ArrowException):
            if checked.error is None:
                raise
        if checked.error is not None:  # which is why there are too few cells in the last row, or names in the header
            raise checked.error


def _csv_tables(source, file, delimiter):
    """The tables of ``_csv`` from an open file."""
    import pyarrow
    from pyarrow import csv as arrow

    names = _header(source, file, delimiter)
    check_unique_names(source, names)
    cells = pyarrow.schema([(name, pyarrow.binary()) for name in names])
    yield cells.empty_table()
    if file.peek(1):  # pyarrow has an error for no bytes at all
        reader = arrow.open_csv(
            file,
            read_options=arrow.ReadOptions(column_names=names, block_size=2**22),
            parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(column_types=cells, strings_can_be_null=True),
        )
        for batch in reader:
            yield pyarrow.Table.from_batches([batch])


def _header(source, file, delimiter):
    """The names of a CSV's columns; ``file`` then stands where the rows begin."""
    lines = (line.decode("utf-8-sig" if place == 0 else "utf-8") for place, line in enumerate(file))
    try:
        for names in csv.reader(lines, delimiter=delimiter):
            if names:
                return names
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} cannot be read: its first line is no header in UTF-8 ({error})") from error
    raise DataError(f"{source} cannot be read: it is empty")


def read_labeled(
    source: str | Path, schema: Schema, target: str | None, classes: np.ndarray | None = None
) -> tuple[Any, np.ndarray | None]:
    """Read a whole table with the column types that a model was fitted to.

    Parameters
    ----------
    source, schema : as for ``read_blocks``.
    target : name of the target's column.
    classes : the model's classes, whose type the target gets; None for numbers.

    Returns
    -------
    tuple
        A pyarrow Table of the inputs, and the target (rows,) with None or NaN where it is missing; None without a target.

    Raises
    ------
    DataError
        As ``read_blocks`` does, and for a target that is text among numbers.
    """
    import pyarrow

    table = pyarrow.concat_tables([block for block, _ in read_blocks(source, schema)])
    if target is None or target not in table.column_names:
        return table, None
    if table_format(source) == ".parquet":
        return split_target(table, target)
    kind = "f" if classes is None else np.asarray(classes).dtype.kind
    if kind not in "UO":
        column = ColumnEncoding(target, "boolean" if kind == "b" else "numeric")
        place = table.column_names.index(target)
        table = table.set_column(place, target, _with_type(table[target], column, 0))
    return split_target(table, target)


def _with_types(source, table, schema, start):
    """Cells with the types of their columns at fit. Columns that the model does not know stay texts: it rejects them."""
    import pyarrow

    names = table.column_names
    known = dict(zip(schema.names or names, schema.columns, strict=False))
    arrays = []
    for name, cells in zip(names, table.columns, strict=True):
        try:
            texts = cells.cast(pyarrow.string())
        except pyarrow.ArrowInvalid:
            raise DataError(f"{source}: column {name!r} is not UTF-8 text.") from None
        arrays.append(_with_type(texts, known[name], start) if name in known else texts)
    return pyarrow.table(arrays, names)


def _with_type(texts, column, start):
    """Texts of one column as numbers or truth values, unless its categories are texts."""
    import pyarrow
    from pyarrow import compute

    if any(isinstance(value, str) for value in column.categories):
        return texts
    trimmed = compute.utf8_trim_whitespace(texts)  # type: ignore[attr-defined]
    spelled = compute.is_in(compute.utf8_lower(trimmed), pyarrow.array(sorted(MISSING)))  # type: ignore[attr-defined]
    trimmed = compute.if_else(spelled, None, trimmed)  # type: ignore[attr-defined]
    kinds = [pyarrow.float64()] if column.kind == "numeric" else [pyarrow.bool_(), pyarrow.float64()]
    for kind in kinds:
        with contextlib.suppress(pyarrow.ArrowInvalid):
            return trimmed.cast(kind)
    for row, text in enumerate(trimmed):
        if not any(_casts(text, kind) for kind in kinds):
            was = "of numbers" if column.kind == "category" else column.kind
            raise DataError(
                f"Column {column.name!r} was {was} at fit; now row {start + row} has {text.as_py()!r}. Correct the cell, or "
                "leave it empty and fit with --impute."
            )
    raise DataError(f"Column {column.name!r} was {column.kind} at fit; now it has both truth values and numbers.")


def _casts(text, kind):
    import pyarrow

    try:
        text.cast(kind)
    except pyarrow.ArrowInvalid:
        return False
    return True
