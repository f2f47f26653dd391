"""The unchanged bytes of a CSV, and an error where a quoted cell swallows the rows after it.

CSV readers silently take an opening quote without a closing one for a cell that ends with the file, or at the next quote.
Cells that end properly are accepted, and those that span lines on purpose.
"""

import io
from typing import Any, BinaryIO

import numpy as np

from dubito._check import DataError

QUOTE, NEWLINE, RETURN, SPACE, TAB = b'"\n\r \t'
SHOWN = 40  # bytes of a cell in the message
CHUNK = 2**22


class QuoteScanner:
    """Follows the quoted cells of a CSV's bytes.

    ``feed`` and ``close`` raise DataError for a quoted cell that is not closed, or that is closed on a later line in the
    middle of another cell; the message names its row, counted from 0 after the header.

    Parameters
    ----------
    source : name of the file, for messages.
    delimiter : the character between cells.
    """

    def __init__(self, source: object, delimiter: str):
        self.source, self.delimiter = source, ord(delimiter)
        self.waiting = b""  # not scanned yet: what a quote means depends on the byte after it
        self.before = NEWLINE  # the byte before ``waiting``
        self.inside = False  # whether ``waiting`` begins inside a quoted cell
        self.crosses = False  # whether the open cell has a line break
        self.records = 0  # lines that have begun, without those inside quoted cells
        self.cell, self.record = b"", 0  # how the open cell begins, and the number of its line

    def feed(self, data: bytes) -> None:
        """Scan the next bytes."""
        data = self.waiting + data
        cut = min(len(data.rstrip(b'"')), len(data) - 1)  # quotes side by side stay together
        self._scan(data[:cut], data[cut])
        self.waiting = data[cut:]

    def close(self) -> None:
        """Scan the end of the file."""
        self._scan(self.waiting, NEWLINE)
        if self.inside:
            self._refuse("is never closed, so that the rest of the file would be one cell")

    def _scan(self, data, following):
        """Move over ``data``, which the byte ``following`` comes after."""
        if not data:
            return
        if self.inside:
            self.cell = (self.cell + data)[:SHOWN]
        if (
            QUOTE not in data and RETURN not in data and self.before != RETURN and not self.inside
        ):  # nothing to look at, at a tenth of the time
            lines = bytes([self.before]) + data
            self.records += lines.count(b"\n") - (lines[-1] == NEWLINE) - lines.count(b"\n\n")
            self.before = data[-1]
            return
        around = np.frombuffer(bytes([self.before]) + data + bytes([following]), np.uint8)
        breaks = (around == NEWLINE) | (around == RETURN)
        starts = np.flatnonzero(breaks[:-2] & ~breaks[1:-1])  # of lines that are not empty
        quotes = np.flatnonzero(around[1:-1] == QUOTE)
        opens = (np.arange(len(quotes)) + self.inside) % 2 == 0  # if quotes open and close cells in turn
        begins = breaks[quotes] | np.isin(around[quotes], (self.delimiter, QUOTE))
        ends = breaks[quotes + 2] | np.isin(around[quotes + 2], (self.delimiter, QUOTE, SPACE, TAB))
        if not np.all(np.where(opens, begins, ends)):
            quotes = self._one_by_one(data, around, breaks, starts, quotes)
        still = (len(quotes) + self.inside) % 2 == 1
        first = len(quotes) - 1  # of the open cell, but for the quotes in its text, which come in pairs
        while first > 0 and quotes[first] == quotes[first - 1] + 1:
            first -= 2
        if still and first >= 0:
            self._open(data, int(quotes[first]), starts, quotes)
        rest = breaks[1 + (quotes[-1] if len(quotes) else 0) : -1]
        self.crosses = still and bool(rest.any() or (self.crosses and not len(quotes)))
        self.records += int(np.sum(self._outside(starts, quotes)))
        self.inside, self.before = still, data[-1]

    def _one_by_one(self, data, around, breaks, starts, quotes):
        """Those of ``quotes`` that open or close a cell, where others stand in the midst of an unquoted one."""
        found, place, inside, opened = [], 0, self.inside, -1
        while place < len(quotes):
            at = int(quotes[place])
            place += 1
            if not inside:
                if breaks[at] or around[at] == self.delimiter:
                    inside, opened = True, at
                    found.append(at)
            elif around[at + 2] == QUOTE and place < len(quotes):  # two are one quote in the text
                found += [at, at + 1]
                place += 1
            else:
                proper = breaks[at + 2] or around[at + 2] in (self.delimiter, SPACE, TAB)
                if not proper and (breaks[max(opened, 0) + 1 : at + 1].any() or (opened < 0 and self.crosses)):
                    if opened >= 0:
                        self._open(data, opened, starts, np.array(found))
                    self._refuse("ends on a later line, in the midst of another cell")
                inside = False
                found.append(at)
        return np.array(found, int)

    def _outside(self, places, quotes):
        """Which of ``places`` are not inside quoted cells."""
        return (np.searchsorted(quotes, places) + self.inside) % 2 == 0

    def _open(self, data, at, starts, quotes):
        """Remember the cell that the quote ``at`` opens."""
        self.cell = data[at : at + SHOWN]
        self.record = self.records + int(np.sum(self._outside(starts, quotes) & (starts <= at)))

    def _refuse(self, what):
        cell = self.cell.splitlines()[0].decode(errors="replace")
        row = f"row {self.record - 2}" if self.record > 1 else "the header"
        raise DataError(
            f"{self.source}: the quoted cell that begins in {row} with {cell} {what}. Close the quote, or remove it."
        )


def check_quotes(file: BinaryIO, source: object, delimiter: str) -> None:
    """Raise DataError if a quoted cell of the CSV ``file`` (binary, read to its end) is not closed."""
    scanner = QuoteScanner(source, delimiter)
    while data := file.read(CHUNK):
        scanner.feed(data)
    scanner.close()


class CheckedFile(io.RawIOBase):
    """The binary ``file`` unchanged, up to a quoted cell that is not closed: ``error`` then is the DataError to raise.

    It is not raised here, since a reader's threads may be left in the midst of their work.
    """

    def __init__(self, file: BinaryIO, source: object, delimiter: str):
        self.file, self.scanner, self.error = file, QuoteScanner(source, delimiter), None

    def readable(self):
        return True

    def readinto(self, buffer: Any, /):
        data = self.file.read(len(buffer)) if self.error is None else b""
        try:
            self.scanner.feed(data) if data else self.scanner.close()
        except DataError as error:
            self.error, data = error, b""
        buffer[: len(data)] = data
        return len(data)
