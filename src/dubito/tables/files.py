"""A table's file read some rows at a time, in constant memory.

A fitted model determines the types of a CSV's columns, so the values do not depend on the number of
rows that are read at a time: what was a number in fit must be one, and what was text stays text
even where it looks like a number. (``reading.read_table``, which reads a table to fit a model,
infers the types.)
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dubito._check import DataError, list_first
from dubito.tables import reading
from dubito.tables.dates import TIMES
from dubito.tables.dialects import GROUPED, Dialect
from dubito.tables.encoding import ColumnEncoding
from dubito.tables.frames import split_target
from dubito.tables.schema import Schema
from dubito.tables.text_files import Source, check_no_text_options, open_text, table_format
from dubito.tables.validation import check_names_exist

BLOCK_BYTES = 2**22  # of a CSV, parsed at a time


@dataclass(frozen=True)
class FileColumns:
    """The columns of a file that a model reads.

    Parameters
    ----------
    schema : Schema or None
        The model's, which determines the types of a text's columns; None for Parquet, of which all
        columns are read.
    target : str, optional
        The target's column.
    dropped : collection of str
        Columns that were left out on purpose in fit, of which nothing is said.
    with_target : bool
        Whether the target is read, as text from a file of text.
    """

    schema: Schema | None
    target: str | None = None
    dropped: Collection[str] = ()
    with_target: bool = False

    def select(self, table: Any) -> Any:
        """The columns of a table that the model reads, in the order of the fit: in a file it has no meaning."""
        names = table.column_names
        target = [self.target] if self.with_target and self.target in names else []
        if self.schema is not None and self.schema.names is not None:
            return table.select([*(name for name in self.schema.names if name in names), *target])
        return table if self.with_target or self.target not in names else table.drop_columns(self.target)

    def note_others(self, names: Sequence[str], dialect: Dialect) -> None:
        """Add a note on the columns of a file that were not in fit."""
        if self.schema is not None and self.schema.names is not None:
            known = {*self.schema.names, *self.dropped, self.target}
            others = [repr(name) for name in names if name not in known]
            if others:
                dialect.notes.append(f"Ignored columns that were not in fit: {list_first(others)}.")


def read_blocks(
    source: Source,
    columns: FileColumns,
    rows: int = 16384,
    skip: int = 0,
    categorical: Collection[str] = (),
    dialect: Dialect | None = None,
) -> Iterator[tuple[Any, int]]:
    """Read a table's file some rows at a time.

    Parameters
    ----------
    source : str or Path
        A file of text, an .xlsx or a .parquet file, or "-" for text on standard input.
    columns : FileColumns
        The columns to read.
    rows : int
        The number of rows of a block; the last may have fewer.
    skip : int
        The number of rows to skip at the beginning.
    categorical : collection of str
        Columns of a Parquet file that become categories.
    dialect : Dialect, optional
        How the file is written, as far as that is known; receives what is found.

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
    for table, _, start in read_and_keep(source, columns, None, rows, skip, categorical, dialect):
        yield table, start


def read_and_keep(
    source: Source,
    columns: FileColumns,
    keep: Sequence[str] | None,
    rows: int = 16384,
    skip: int = 0,
    categorical: Collection[str] = (),
    dialect: Dialect | None = None,
) -> Iterator[tuple[Any, Any, int]]:
    """Read a table's file some rows at a time, with some of its columns unchanged.

    Parameters
    ----------
    source, columns, rows, skip, categorical, dialect
        As for ``read_blocks``.
    keep : sequence of str, optional
        Names of columns, as ``resolve_names`` reads them; "all" means all.

    Yields
    ------
    tuple
        The table of ``read_blocks``; the columns to keep, or None; the number of the first row. The
        cells of a text stay texts, null where they are empty.

    Raises
    ------
    DataError
        As ``read_blocks`` does, and for a column to keep that is not there.
    """
    dialect = dialect or Dialect()
    with reading.reading_errors(source):
        is_parquet = table_format(source) == ".parquet"
        if is_parquet:
            check_no_text_options(source, dialect, "sheet")
        known = () if columns.schema is None else columns.schema.names or ()
        tables = read_parquet(source, rows) if is_parquet else _read_text(source, dialect, known)
        for place, (table, start) in enumerate(_in_blocks(tables, rows, skip)):
            names = table.column_names
            if place == 0:
                columns.note_others(names, dialect)
            kept = None
            if keep is not None:
                kept = table.select(names if [*keep] == ["all"] else resolve_names(keep, names, f"--keep: {source}"))
                kept = _plain_columns(kept) if is_parquet else _without_empty(kept)
            table = columns.select(table)
            table = reading.encode_categories(source, table, categorical)
            yield table if is_parquet else _with_types(table, columns.schema, start, dialect), kept, start


def _in_blocks(tables: Iterator[Any], rows: int, skip: int) -> Iterator[tuple[Any, int]]:
    """Tables of ``rows`` rows each, and the numbers of their first rows."""
    import pyarrow

    start, waiting = skip, []
    for table in tables:
        rest = table.slice(min(skip, len(table)))
        skip -= len(table) - len(rest)
        waiting = pyarrow.concat_tables([*waiting, rest])
        while len(waiting) >= rows:
            yield waiting.slice(0, rows), start
            start, waiting = start + rows, waiting.slice(rows)
        waiting = [waiting]
    if len(waiting[0]) or not start:
        yield waiting[0], start


def resolve_names(given: Sequence[str], columns: Sequence[str], what: str) -> list[str]:
    """The columns that a user has named.

    Parameters
    ----------
    given : sequence of str
        Names of columns, or several in one text with commas between them.
    columns : sequence of str
        The names that exist.
    what : str
        The beginning of a message about another name: the option, and the file.

    Returns
    -------
    list of str
        The names, each once, in the user's order.

    Raises
    ------
    DataError
        For a name that no column has; suggests the nearest.
    """
    names: list[str] = []
    for text in given:
        names += [text] if text in columns else [name.strip() for name in text.split(",") if name.strip()]
    check_names_exist(names, columns, f"{what} has no column")
    return list(dict.fromkeys(names))


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


def _read_text(source: Source, dialect: Dialect, columns: Collection[str]) -> Iterator[Any]:
    """Tables of the cells as texts; the first has no rows, so that there is at least one."""
    import pyarrow
    from pyarrow import csv as arrow

    with open_text(source, dialect, columns) as opened:
        reading.check_unique_names(source, opened.names)
        cells = pyarrow.schema([(name, pyarrow.string()) for name in opened.names])
        yield cells.empty_table()
        if opened.file.peek(1):  # pyarrow raises an error for no bytes at all
            reader = arrow.open_csv(
                opened.file,
                read_options=arrow.ReadOptions(column_names=opened.names, block_size=BLOCK_BYTES),
                parse_options=arrow.ParseOptions(delimiter=opened.separator, newlines_in_values=True),
                convert_options=arrow.ConvertOptions(column_types=cells),
            )
            for batch in reader:
                yield pyarrow.Table.from_batches([batch])


def _plain_columns(table: Any) -> Any:
    """Columns of a Parquet file that any output can hold: categories as their values."""
    from pyarrow import types

    for place, field in enumerate(table.schema):
        if types.is_nested(field.type):
            raise DataError(f"--keep: column {field.name!r} has the type {field.type}. Keep columns of single values.")
        if types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(field.type.value_type))
    return table


def _without_empty(table: Any) -> Any:
    """Texts with null for the empty ones."""
    from pyarrow import compute

    columns = [compute.if_else(compute.equal(column, ""), None, column) for column in table.columns]  # type: ignore[attr-defined]
    return type(table).from_arrays(columns, names=table.column_names)


def read_labeled(
    source: Source, columns: FileColumns, classes: np.ndarray | None = None, dialect: Dialect | None = None
) -> tuple[Any, np.ndarray | None]:
    """Read a whole table with the column types that a model was fitted to.

    Parameters
    ----------
    source, columns, dialect
        As in ``read_blocks``.
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

    columns, target, dialect = replace(columns, with_target=True), columns.target, dialect or Dialect()
    table = pyarrow.concat_tables([block for block, _ in read_blocks(source, columns, dialect=dialect)])
    if target is None or target not in table.column_names:
        return table, None
    kind = "f" if classes is None else np.asarray(classes).dtype.kind
    if kind not in "UO" and table_format(source) != ".parquet":
        column = ColumnEncoding(target, "boolean" if kind == "b" else "numeric")
        place = table.column_names.index(target)
        table = table.set_column(place, target, _with_type(table[target], column, 0, dialect.found["decimal"]))
    return split_target(table, target)


def _with_types(table: Any, schema: Schema | None, start: int, dialect: Dialect) -> Any:
    """Texts with the types of their columns in fit, null where pyarrow reads a missing value; the target stays text."""
    import pyarrow
    from pyarrow import compute
    from pyarrow import csv as arrow

    assert schema is not None  # for a file of text
    nulls = pyarrow.array(arrow.ConvertOptions().null_values)
    known = dict(zip(schema.names or table.column_names, schema.columns, strict=False))
    for place, name in enumerate(table.column_names):
        texts: Any = compute.if_else(compute.is_in(table[name], nulls), None, table[name])  # type: ignore[attr-defined]
        if name in known:
            texts = _with_type(texts, known[name], start, dialect.found["decimal"])
        table = table.set_column(place, name, texts)
    return table


def _with_type(texts: Any, column: ColumnEncoding, start: int, decimal: str) -> Any:
    """Texts of one column as numbers or truth values, unless its categories are texts, or it was times or left out."""
    import pyarrow

    if column.kind in (*TIMES, "left out") or any(isinstance(value, str) for value in column.categories):
        return texts
    present = reading.without_missing_spellings(texts)

    def numbers(cells: Any) -> Any:
        return reading.parse_numbers(cells, decimal)

    def truth_values(cells: Any) -> Any:
        return reading.cast_cells(cells, pyarrow.bool_())

    kinds = [numbers] if column.kind == "numeric" else [truth_values, numbers]
    for kind in kinds:
        typed = kind(present)
        if typed is not None:
            return typed
    for row, text in enumerate(present.to_pylist()):
        if text is not None and all(kind(pyarrow.chunked_array([[text]], present.type)) is None for kind in kinds):
            was = "of numbers" if column.kind == "category" else column.kind
            other = "," if decimal == "." else "."
            hint = f" If {other!r} separates decimals, use --decimal {other}." if GROUPED.fullmatch(text) else ""
            raise DataError(
                f"Column {column.name!r} was {was} at fit; now row {start + row} has {text!r}. Correct the cell, or "
                f"leave it empty.{hint}"
            )
    raise DataError(f"Column {column.name!r} was {column.kind} at fit; now it has both truth values and numbers.")
