"""A whole table from a file or standard input, with its columns typed by guesses, to fit a model to it."""

import io
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dubito._check import DataError, list_first
from dubito._process.output_files import is_address
from dubito.tables.csv_quotes import check_quotes
from dubito.tables.texts import MISSING
from dubito.tables.validation import check_names_exist


def read_table(source: str | Path, categorical: Collection[str] = (), target: str | None = None) -> Any:
    """Read a whole table. Empty cells are missing.

    Parameters
    ----------
    source : .csv, .tsv or .parquet file, or "-" for CSV on standard input.
    categorical : columns that are read as texts and become categories.
    target : column in which only an empty cell and the usual spellings (NA, NaN, null) are missing. Any other column of
        numbers in which some cells spell a missing value, such as "?", becomes numbers.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    DataError
        For a file that is missing, empty, not readable or of another kind, for two columns of one name, and for a quoted
        cell that is not closed.
    """
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ImportError("Reading tables needs pyarrow: pip install 'dubito[cli]'") from error
    stdin, ending = str(source) == "-", table_format(source)
    try:
        if ending == ".parquet":
            table = parquet.ParquetFile(pyarrow.OSFile(str(source))).read()  # given the name it might fetch an address
        else:
            delimiter = "\t" if ending == ".tsv" else ","
            data = sys.stdin.buffer.read() if stdin else None
            with open(source, "rb") if data is None else io.BytesIO(data) as file:
                check_quotes(file, source, delimiter)
            with pyarrow.OSFile(str(source)) if data is None else pyarrow.BufferReader(data) as file:
                table = csv.read_csv(
                    file,
                    parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    convert_options=csv.ConvertOptions(
                        strings_can_be_null=True, column_types=dict.fromkeys(categorical, pyarrow.string())
                    ),
                )
        names = table.column_names
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    check_unique_names(source, names)
    if ending != ".parquet" and pyarrow.binary() in table.schema.types:
        raise DataError(f"{source}: column {names[table.schema.types.index(pyarrow.binary())]!r} is not UTF-8 text.")
    check_names_exist(categorical, names, f"{source} has no column")
    for place, name in enumerate(names):
        if name in categorical:
            table = table.set_column(place, name, table[name].combine_chunks().dictionary_encode())
        elif name != target:
            table = table.set_column(place, name, parse_missing_spellings(table[name]))
    return table


def parse_missing_spellings(column: Any) -> Any:
    """A pyarrow column of texts as numbers, if its cells are numbers and at least one spelling of a missing value."""
    import pyarrow
    from pyarrow import compute

    if not (pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)):
        return column
    texts = compute.utf8_trim_whitespace(column)  # type: ignore[attr-defined]
    lower = compute.utf8_lower(texts)  # type: ignore[attr-defined]
    spelled = compute.is_in(lower, pyarrow.array(sorted(MISSING), column.type))  # type: ignore[attr-defined]
    present = compute.if_else(spelled, None, texts)  # type: ignore[attr-defined]
    if present.null_count in (column.null_count, len(column)):
        return column
    try:
        return present.cast(pyarrow.float64())
    except pyarrow.ArrowInvalid:
        return column


def table_format(source: str | Path) -> str:
    """The format of a table's file: ".csv" (also for "-"), ".tsv" or ".parquet"; DataError for another."""
    if is_address(source):
        raise DataError(f"{source}: only local files can be read. Download the file first.")
    ending = ".csv" if str(source) == "-" else Path(source).suffix.lower()
    if ending not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{source}: only .csv, .tsv and .parquet tables can be read.")
    return ending


def check_unique_names(source: str | Path, names: Sequence[str]) -> None:
    """Raise DataError if two columns have the same name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source}: several columns are named {list_first(twice)}.")
