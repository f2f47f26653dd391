"""A whole table from a file or standard input, with inferred types, to fit a model; and opening of table files."""

import contextlib
import csv
import io
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from dubito._check import DataError, list_first
from dubito._process.output_files import is_address
from dubito.tables.csv_quotes import CheckedFile
from dubito.tables.texts import MISSING
from dubito.tables.validation import check_names_exist

Source: TypeAlias = str | Path  # of a table: a file, or "-" for CSV on standard input


def read_table(source: Source, categorical: Collection[str] = (), target: str | None = None) -> Any:
    """Read a whole table. Empty cells are missing.

    Parameters
    ----------
    source : str or Path
        A .csv, .tsv or .parquet file, or "-" for CSV on standard input.
    categorical : collection of str
        Columns that are read as texts and become categories.
    target : str, optional
        A column in which only an empty cell and the usual spellings (NA, NaN, null) are missing.
        Any other column of numbers in which some cells spell a missing value, such as "?", becomes
        numeric.

    Returns
    -------
    pyarrow.Table
        All rows.

    Raises
    ------
    DataError
        For a file that is missing, empty, not readable or of another kind, for two columns with the
        same name, and for a quoted cell that is not closed.
    """
    with reading_errors(source):
        from pyarrow import binary, parquet, string
        from pyarrow import csv as arrow

        parquet_file = table_format(source) == ".parquet"
        if parquet_file:
            with open_local(source) as file:
                table = parquet.ParquetFile(file).read()
        else:
            with open_csv(source) as (file, delimiter):
                types = dict.fromkeys(categorical, string())
                table = arrow.read_csv(
                    file,
                    parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    convert_options=arrow.ConvertOptions(strings_can_be_null=True, column_types=types),
                )
        names = table.column_names
    check_unique_names(source, names)
    if not parquet_file and binary() in table.schema.types:
        raise DataError(f"{source}: column {names[table.schema.types.index(binary())]!r} is not UTF-8 text.")
    table = encode_categories(source, table, categorical)
    for place, name in enumerate(names):
        if name not in categorical and name != target:
            table = table.set_column(place, name, parse_missing_spellings(table[name]))
    return table


@contextlib.contextmanager
def reading_errors(source: Source) -> Iterator[None]:
    """Raise DataError with the name of the file for errors while reading it.

    Parameters
    ----------
    source : str or Path
        The file.

    Raises
    ------
    DataError
        For a file that cannot be read.
    ImportError
        Without pyarrow.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("Reading tables needs pyarrow: pip install 'dubito[cli]'") from error
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, csv.Error, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def open_local(source: Source) -> Any:
    """Open a file for pyarrow, which by its name might download it.

    Parameters
    ----------
    source : str or Path
        The file.

    Returns
    -------
    pyarrow.OSFile
        A context manager.
    """
    import pyarrow

    return pyarrow.OSFile(str(source))


@contextlib.contextmanager
def open_csv(source: Source) -> Iterator[tuple["io.BufferedReader[Any]", str]]:
    """Open a CSV, in which a quoted cell must be closed.

    Parameters
    ----------
    source : str or Path
        A .csv or .tsv file, or "-" for standard input.

    Yields
    ------
    tuple
        The binary file, and the delimiter.

    Raises
    ------
    DataError
        At the end, for a quoted cell that is not closed. It is the cause of other errors of the reader.
    """
    import pyarrow

    delimiter = "\t" if table_format(source) == ".tsv" else ","
    with contextlib.nullcontext(sys.stdin.buffer) if str(source) == "-" else open(source, "rb") as raw:
        checked = CheckedFile(raw, source, delimiter)
        file = io.BufferedReader(checked, 2**20)
        try:
            yield file, delimiter
        except (DataError, pyarrow.ArrowException):
            while file.read(2**20):  # to the end, to know whether an open quote is the cause
                pass
            if checked.error is None:
                raise
        if checked.error is not None:
            raise checked.error


def encode_categories(source: Source, table: Any, names: Collection[str]) -> Any:
    """A pyarrow Table with some columns as categories.

    Parameters
    ----------
    source : str or Path
        Where the table is from, for the message.
    table : pyarrow.Table
        The table.
    names : collection of str
        The names of these columns.

    Returns
    -------
    pyarrow.Table
        The table with dictionary-encoded columns.

    Raises
    ------
    DataError
        For a name that no column has.
    """
    check_names_exist(names, table.column_names, f"{source} has no column")
    for name in names:
        column = table[name].combine_chunks().dictionary_encode()
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def parse_missing_spellings(column: Any) -> Any:
    """A column of texts as numbers, if its cells are numbers and at least one spelling of a missing value.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        A column of any type.

    Returns
    -------
    pyarrow.ChunkedArray
        float64, or the column unchanged.
    """
    from pyarrow import float64, types

    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        return column
    present = without_missing_spellings(column)
    numbers = None if present.null_count in (column.null_count, len(column)) else cast_cells(present, float64())
    return column if numbers is None else numbers


def without_missing_spellings(texts: Any) -> Any:
    """Texts without surrounding spaces, null where they spell a missing value.

    Parameters
    ----------
    texts : pyarrow.ChunkedArray
        A column of texts.

    Returns
    -------
    pyarrow.ChunkedArray
        Of the same type.
    """
    from pyarrow import array, compute

    trimmed = compute.utf8_trim_whitespace(texts)  # type: ignore[attr-defined]
    spelled = compute.is_in(compute.utf8_lower(trimmed), array(sorted(MISSING), texts.type))  # type: ignore[attr-defined]
    return compute.if_else(spelled, None, trimmed)  # type: ignore[attr-defined]


def cast_cells(cells: Any, kind: Any) -> Any:
    """Cells as another type, or None if that is impossible.

    Parameters
    ----------
    cells : pyarrow array or scalar
        Texts.
    kind : pyarrow.DataType
        The type.

    Returns
    -------
    pyarrow array or scalar, or None
        The cells as that type.
    """
    import pyarrow

    with contextlib.suppress(pyarrow.ArrowInvalid):
        return cells.cast(kind)


def table_format(source: Source) -> str:
    """The format of a table's file.

    Parameters
    ----------
    source : str or Path
        The file.

    Returns
    -------
    str
        ".csv" (also for "-"), ".tsv" or ".parquet".

    Raises
    ------
    DataError
        For any other file, and for an address.
    """
    if is_address(source):
        raise DataError(f"{source}: only local files can be read. Download the file first.")
    ending = ".csv" if str(source) == "-" else Path(source).suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{source}: only .csv, .tsv and .parquet tables can be read.")
    return ending


def check_unique_names(source: Source, names: Sequence[str]) -> None:
    """Raise DataError if two columns have the same name.

    Parameters
    ----------
    source : str or Path
        The file, for the message.
    names : sequence of str
        The names of its columns.

    Raises
    ------
    DataError
        If a name occurs twice.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source}: several columns are named {list_first(twice)}.")
