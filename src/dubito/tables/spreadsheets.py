"""A sheet of an .xlsx file as a table of text, so that all commands read it as they read a CSV."""

import csv
import io
from datetime import date, datetime, time, timedelta
from typing import Any

from dubito._check import DataError, did_you_mean, list_first

INSTALL = "Reading .xlsx tables needs python-calamine: pip install 'dubito[xlsx]'"
LARGEST = 2**53  # whole numbers above it are not exact in a spreadsheet


def sheet_as_csv(data: bytes, source: object, sheet: str | None) -> bytes:
    """The cells of a sheet as a CSV in UTF-8. Rows without any value are left out.

    Parameters
    ----------
    data : bytes
        An .xlsx file.
    source : str or Path
        Its name, for messages.
    sheet : str or None
        The name of the sheet; None is the first.

    Returns
    -------
    bytes
        With commas between cells.

    Raises
    ------
    DataError
        For a sheet that is not there, and a file that cannot be read.
    ImportError
        Without python-calamine.
    """
    try:
        import python_calamine as calamine  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(INSTALL) from error
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        names = book.sheet_names
        if sheet is not None and sheet not in names:
            known = list_first([repr(name) for name in names])
            raise DataError(f"{source} has no sheet {sheet!r}{did_you_mean(sheet, names)} The sheets are {known}.")
        rows = book.get_sheet_by_name(names[0] if sheet is None else sheet).to_python()
    except (calamine.CalamineError, IndexError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(cells for row in rows if any(cells := [_as_text(value) for value in row]))
    return text.getvalue().encode()


def _as_text(value: Any) -> str:
    """A cell's value as a CSV has it."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < LARGEST else repr(value)
    if isinstance(value, timedelta):
        return repr(value.total_seconds())
    if isinstance(value, datetime) and value == datetime(value.year, value.month, value.day):
        value = value.date()
    return value.isoformat() if isinstance(value, date | time) else str(value)
