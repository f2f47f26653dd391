"""The unchanged bytes of a CSV, and an error where an unclosed quoted cell swallows the rows after it.

CSV readers silently extend a cell without a closing quote to the end of the file, or to the next
quote. Properly closed cells are accepted, also those that span several lines.
"""

import io
import re
from typing import Any

from dubito._check import DataError

MESSAGE_BYTES = 40  # of a cell in the message
LONGEST_RECORD = 2**22  # bytes of a record with an open quote: no reader accepts a longer one
QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'  # a quoted cell; two quotes are one in its text


class QuoteScanner:
    """Follows the quoted cells in the bytes of a CSV.

    ``feed`` and ``close`` raise DataError for a quoted cell that is not closed, or that is closed
    on a later line inside another cell. The message names its row, counted from 0 after the header.

    Parameters
    ----------
    source : str or Path
        The name of the file, for messages.
    delimiter : str
        The character between cells.
    """

    def __init__(self, source: object, delimiter: str) -> None:
        self.source = source
        self.records = 0  # complete ones, without empty lines
        self.rest, self.opening = b"", 0  # the incomplete record after them, and the place of its open quote
        delimiter_pattern = re.escape(delimiter.encode())
        ends = rb"[%b\r\n]" % delimiter_pattern
        # A quote opens a cell only where one begins. A cell that spans lines must be followed by the end of the cell.
        one_line = QUOTED.replace(rb'[^"]', rb'[^"\r\n]')
        cells = rb'(?:[^"\r\n]++|(?<!%b)(?!\A)"|%b(?=%b|[ \t])|%b)++' % (ends, QUOTED, ends, one_line)
        self.record_pattern, self.cells_pattern = re.compile(cells + rb"[\r\n]++"), re.compile(cells)
        self.closed_pattern = re.compile(QUOTED + rb'(?=[^"])')

    def feed(self, data: bytes) -> None:
        """Scan the next bytes.

        Parameters
        ----------
        data : bytes
            Any number of them.

        Raises
        ------
        DataError
            For a quoted cell that ends on a later line inside another cell.
        """
        data = (self.rest + data).lstrip(b"\r\n")
        if b'"' not in data:  # faster
            end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            self.records += sum(map(bool, data[:end].splitlines()))
            self.rest = data[end:]
            return
        end = 0
        for record in self.record_pattern.finditer(data):
            if record.start() != end:
                break
            end = record.end()
            self.records += 1
        self.rest = data[end:]
        cells = self.cells_pattern.match(self.rest)
        self.opening = cells.end() if cells else 0
        if self.closed_pattern.match(self.rest, self.opening):
            self._refuse("ends on a later line, in the middle of another cell")
        if self.opening < len(self.rest) > LONGEST_RECORD:
            self._refuse("is never closed, so that the rest of the file would be one cell")

    def close(self) -> None:
        """Scan the end of the file.

        Raises
        ------
        DataError
            For a quoted cell that is not closed.
        """
        self.feed(b"\n")
        if self.rest:
            self._refuse("is never closed, so that the rest of the file would be one cell")

    def _refuse(self, what: str) -> None:
        cell = self.rest[self.opening :][:MESSAGE_BYTES].splitlines()[0].decode(errors="replace")
        row = f"row {self.records - 1}" if self.records else "the header"
        raise DataError(
            f"{self.source}: the quoted cell that begins in {row} with {cell} {what}. Close the quote, or remove it."
        )


class CheckedFile(io.RawIOBase):
    """The bytes of a CSV, which end at a quoted cell that is not closed.

    The error is not raised while reading, because it would interrupt the reader's threads.

    Parameters
    ----------
    file : binary file
        Where the bytes come from.
    source, delimiter
        As in ``QuoteScanner``.

    Attributes
    ----------
    error : DataError or None
        The error to raise after reading.
    """

    def __init__(self, file: Any, source: object, delimiter: str) -> None:
        self.file, self.scanner = file, QuoteScanner(source, delimiter)
        self.error: DataError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = b""
        try:
            if self.error is None:
                data = self.file.read(len(buffer))
                self.scanner.feed(data) if data else self.scanner.close()
        except DataError as error:
            self.error, data = error, b""
        buffer[: len(data)] = data
        return len(data)
