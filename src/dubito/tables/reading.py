"""A whole table from a file or standard input, with inferred types, to fit a model; and opening of table files."""

import contextlib
import csv
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from dubito._check import DataError, list_first
from dubito.tables.dialects import GROUPED, GROUPED_BY_DOTS, Dialect, odd_number
from dubito.tables.text_files import Source, check_no_text_options, open_text, table_format
from dubito.tables.texts import MISSING
from dubito.tables.validation import check_names_exist


def read_table(
    source: Source, categorical: Collection[str] = (), target: str | None = None, dialect: Dialect | None = None
) -> Any:
    """Read a whole table. Empty cells are missing.

    Parameters
    ----------
    source : str or Path
        A file of text, an .xlsx or a .parquet file, or "-" for text on standard input.
    categorical : collection of str
        Columns that are read as texts and become categories.
    target : str, optional
        A column in which only an empty cell and the usual spellings (NA, NaN, null) are missing.
        Any other column of numbers in which some cells spell a missing value, such as "?", becomes
        numeric.
    dialect : Dialect, optional
        How the file is written, as far as that is known; receives what is found.

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
    dialect = dialect or Dialect()
    with reading_errors(source):
        from pyarrow import parquet

        if parquet_file := table_format(source) == ".parquet":
            check_no_text_options(source, dialect, "sheet")
            with open_local(source) as file:
                table = parquet.ParquetFile(file).read()
        else:
            table = _read_text(source, categorical, dialect)
        names = table.column_names
    check_unique_names(source, names)
    table = encode_categories(source, table, categorical)
    decimal = "." if parquet_file else dialect.found["decimal"]
    for place, name in enumerate(names):
        if name not in categorical:
            table = table.set_column(place, name, parse_missing_spellings(table[name], decimal, name == target))
    return table


def _read_text(source: Source, categorical: Collection[str], dialect: Dialect) -> Any:
    """A table of text, with inferred types."""
    import pyarrow
    from pyarrow import csv as arrow

    with open_text(source, dialect) as opened:
        check_unique_names(source, opened.names)
        types = {name: pyarrow.string() for name in categorical}
        if not opened.file.peek(1):  # pyarrow raises an error for no bytes at all
            return pyarrow.table({name: pyarrow.nulls(0, types.get(name)) for name in opened.names})
        return arrow.read_csv(
            opened.file,
            read_options=arrow.ReadOptions(column_names=opened.names),
            parse_options=arrow.ParseOptions(delimiter=opened.separator, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(
                strings_can_be_null=True, column_types=types, decimal_point=opened.decimal
            ),
        )


def check_decimals(source: Source, table: Any, decimal: str) -> None:
    """Raise DataError for a cell that keeps a column of numbers from being read with the table's decimal separator.

    Parameters
    ----------
    source : str or Path
        The file, for the message.
    table : pyarrow.Table
        Columns as ``read_table`` returns them.
    decimal : str
        The decimal separator of the file.

    Raises
    ------
    DataError
        Names the column, the cell and its row: one such as 1,234, which may have thousands or
        decimals, or one among numbers with decimal commas.
    """
    from pyarrow import types

    other = {".": ",", ",": "."}[decimal]
    for name in table.column_names:
        if types.is_string(table[name].type):
            # most columns of texts are left at their first cell
            found = odd_number((cell.as_py() for cell in table[name]), decimal)
            if found is None:
                continue
            row, cell = found
            if decimal == "." or GROUPED.fullmatch(cell):
                what = f"has only numbers, but {cell!r} in row {row} may have thousands or decimals"
                cure = f"If {other!r} separates decimals, use --decimal {other}; otherwise remove it from the numbers"
            else:
                what = f"has numbers with decimal commas, but {cell!r} in row {row} is not a number"
                cure = "Correct the cell, or leave it empty"
            raise DataError(f"{source}: column {name!r} {what}. {cure}, or name the column with --categorical {name}.")


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
        hint = ". Correct the row, or name the --separator." if " columns, got " in str(error) else ""
        raise DataError(f"{source} cannot be read: {error}{hint}") from error


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


def parse_missing_spellings(column: Any, decimal: str = ".", is_target: bool = False) -> Any:
    """A column of texts as numbers, if its cells are numbers and at least one spelling of a missing value.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        A column of any type.
    decimal : str
        The decimal separator. If it is a comma, no spelling is needed, since pyarrow takes numbers
        such as 0.5 for texts.
    is_target : bool
        Whether spellings are texts.

    Returns
    -------
    pyarrow.ChunkedArray
        float64, or the column unchanged.
    """
    from pyarrow import types

    if not (types.is_string(column.type) or types.is_large_string(column.type)) or is_target and decimal == ".":
        return column
    present = column if is_target else without_missing_spellings(column)
    same = () if decimal == "," else (column.null_count,)
    numbers = None if present.null_count in (*same, len(column)) else parse_numbers(present, decimal)
    return column if numbers is None else numbers


def parse_numbers(texts: Any, decimal: str = ".") -> Any:
    """Texts as numbers, or None if that is impossible.

    Parameters
    ----------
    texts : pyarrow.ChunkedArray
        Null where a value is missing.
    decimal : str
        The decimal separator. If it is a comma, 1.234 is not a number, since it may be 1234.

    Returns
    -------
    pyarrow.ChunkedArray or None
        float64.
    """
    from pyarrow import compute, float64

    if decimal == ",":
        grouped: Any = compute.match_substring_regex(texts, GROUPED_BY_DOTS)  # type: ignore[attr-defined]
        if compute.any(grouped).as_py():  # type: ignore[attr-defined]
            return None
        texts = compute.replace_substring(texts, ",", ".")  # type: ignore[attr-defined]
    return cast_cells(texts, float64())


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
