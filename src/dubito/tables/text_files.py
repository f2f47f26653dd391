"""The bytes of a table's file as UTF-8 text: unpacked, decoded, and with its header and dialect.

The encoding is UTF-8, or that of a byte order mark. At the first byte that is not UTF-8 after nothing
but ASCII, a file is read as windows-1252 from there on, so that one pass is enough.
"""

import codecs
import contextlib
import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from dubito._check import DataError
from dubito._process.output_files import is_address
from dubito.tables.csv_quotes import CheckedFile
from dubito.tables.dialects import Dialect, read_cells
from dubito.tables.spreadsheets import sheet_as_csv

Source: TypeAlias = str | Path  # of a table: a file, or "-" for standard input

FORMATS = (".csv", ".tsv", ".txt", ".xlsx", ".parquet")
HEAD_BYTES = 2**20  # of a file, to find its dialect
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
STATED = re.compile(rb'"?sep=([,;|\t])"?(?:\r\n|\n|\r)', re.IGNORECASE)  # a first line for Excel: the separator
GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
LEGACY = "cp1252"
# What browsers read as latin-1: the five bytes without a character in cp1252 are those of latin-1.
LEGACY_TABLE = {byte: ord(bytes([byte]).decode("cp1252", "ignore") or chr(byte)) for byte in range(256)}


class TextTable(NamedTuple):
    """An opened table of text.

    Attributes
    ----------
    file : binary file
        UTF-8, where the rows begin.
    names : list of str
        The columns' names.
    separator, decimal : str
        The dialect.
    """

    file: "io.BufferedReader[Any]"
    names: list[str]
    separator: str
    decimal: str


def table_format(source: Source) -> str:
    """The format of a table's file.

    Parameters
    ----------
    source : str or Path
        The file.

    Returns
    -------
    str
        One of ``FORMATS``; ".csv" for "-" and for a pipe without a known ending.

    Raises
    ------
    DataError
        For any other file, and for an address.
    """
    if is_address(source):
        raise DataError(f"{source}: only local files can be read. Download the file first.")
    if str(source) == "-":
        return ".csv"
    path = Path(source)
    packed = path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    if ending in (FORMATS[:3] if packed else FORMATS):
        return ending
    if _is_pipe(path):
        return ".csv"
    raise DataError(
        f"{source}: only .csv, .tsv, .txt, .xlsx and .parquet tables can be read, and .csv.gz, .tsv.gz and .txt.gz."
    )


def _is_pipe(path: Path) -> bool:
    """Whether a path is a pipe, such as the shell's <(command), or an open file of this process."""
    with contextlib.suppress(OSError, ValueError):
        return str(path).startswith("/dev/") and path.is_file() or stat.S_ISFIFO(os.stat(path).st_mode)
    return False


@contextlib.contextmanager
def open_text(source: Source, dialect: Dialect, columns: Collection[str] = ()) -> Iterator[TextTable]:
    """Open a table of text, in which a quoted cell must be closed.

    Parameters
    ----------
    source : str or Path
        A file of text or an .xlsx file, either also as "-" for standard input.
    dialect : Dialect
        What is known about the file; receives what is found.
    columns : collection of str
        Names that the header probably has.

    Yields
    ------
    TextTable
        The opened file.

    Raises
    ------
    DataError
        For a file without a header; at the end, for a quoted cell that is not closed and for bytes
        that are not text, which are the cause of other errors of the reader.
    """
    import csv

    import pyarrow

    with contextlib.nullcontext(sys.stdin.buffer) if str(source) == "-" else open(source, "rb") as raw:
        text = Utf8File(unpacked(raw, source, dialect), source, dialect)
        if stated := STATED.match(text.head()):
            text.read(stated.end())
        head = text.head().decode(errors="replace")
        lines = head if text.ended else head[: max(head.rfind("\n"), head.rfind("\r")) + 1]
        default = "\t" if table_format(source) == ".tsv" else ","
        dialect.choose(source, lines or head, "," if text.is_sheet else default, columns, stated and stated[1].decode())
        separator = dialect.found["separator"]
        checked = CheckedFile(text, source, separator)
        file = io.BufferedReader(checked, HEAD_BYTES)
        try:
            yield TextTable(
                file, _read_header(source, file, text.head(), separator), separator, dialect.found["decimal"]
            )
        except (DataError, pyarrow.ArrowException, csv.Error):
            while file.read(HEAD_BYTES):  # to the end, to know whether an open quote is the cause
                pass
            if checked.error is None:
                raise
        if checked.error is not None:
            raise checked.error


def _read_header(source: Source, file: BinaryIO, head: bytes, separator: str) -> list[str]:
    """The names of the columns; leaves ``file`` where the rows begin."""
    size = 0

    def lines() -> Iterator[str]:
        nonlocal size
        for line in head.splitlines(keepends=True):
            size += len(line)
            yield line.decode(errors="replace")

    names = next(read_cells(lines(), separator), None)
    if names is None:
        raise DataError(f"{source} cannot be read: it is empty")
    file.read(size)
    return names


def unpacked(raw: BinaryIO, source: Source, dialect: Dialect) -> Any:
    """The text in a file, which may be packed by gzip or be a spreadsheet.

    Parameters
    ----------
    raw : binary file
        The file, read once from its beginning.
    source : str or Path
        Its name.
    dialect : Dialect
        The sheet to read.

    Returns
    -------
    binary file
        It has ``read``.

    Raises
    ------
    DataError
        For a Parquet file under another name, and for options that the file cannot have.
    """
    file = _Rewound(raw)
    if file.start.startswith(GZIP):
        file = _Rewound(gzip.GzipFile(fileobj=file))  # pyright: ignore[reportArgumentType] (it needs only read)
    if file.start.startswith(PARQUET):
        raise DataError(f"{source} is a Parquet file. Store it as a file whose name ends in .parquet.")
    if file.start.startswith(ZIP) or table_format(source) == ".xlsx":
        check_no_text_options(source, dialect)
        return Sheet(sheet_as_csv(file.read(-1), source, dialect.sheet))
    if dialect.sheet is not None:
        raise DataError(f"{source} is no .xlsx file and has no sheets. Leave out --sheet.")
    return file


def check_no_text_options(source: Source, dialect: Dialect, *others: str) -> None:
    """Raise DataError if an option for tables of text was given for another file.

    Parameters
    ----------
    source : str or Path
        The file.
    dialect : Dialect
        The options.
    *others : str
        Other options that do not apply.

    Raises
    ------
    DataError
        Names the option.
    """
    for name in ("separator", "decimal", "encoding", *others):
        if name in dialect.named:
            raise DataError(f"{source} is not a table of text. Leave out --{name}.")


class Sheet(io.BytesIO):
    """The cells of a spreadsheet as a CSV."""


class _Rewound:
    """A file that is read once, whose first bytes are known."""

    def __init__(self, file: Any) -> None:
        self.file, self.start = file, b""
        while len(self.start) < 4 and (data := file.read(4 - len(self.start))):
            self.start += data
        self.rest = self.start

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            data, self.rest = self.rest + self.file.read(), b""
        elif self.rest:
            data, self.rest = self.rest[:size], self.rest[size:]
        else:
            data = self.file.read(size)
        return data


class Utf8File:
    """The bytes of a text in UTF-8, whatever its encoding is; without a byte order mark.

    Parameters
    ----------
    file : binary file
        The text.
    source : str or Path
        Its name.
    dialect : Dialect
        The encoding; receives the one found.

    Attributes
    ----------
    ended : bool
        Whether all bytes of ``file`` are read.
    is_sheet : bool
        Whether the text is a spreadsheet's.
    """

    def __init__(self, file: Any, source: Source, dialect: Dialect) -> None:
        self.file: Any = file
        self.source: Source = source
        self.dialect: Dialect = dialect
        self.pending: bytes = b""  # converted
        self.tail: bytes = b""  # not yet converted
        self.place: int = 0  # bytes before the tail
        self.ended: bool = False
        self.ascii: bool = True
        self.is_sheet: bool = isinstance(file, Sheet)
        self.decoder: Any = None
        self._start()

    def _start(self) -> None:
        """Choose the encoding by the first bytes."""
        first = self._read()
        mark = next((mark for mark in MARKS if first.startswith(mark)), b"")
        named = self.dialect.encoding
        fitted = self.dialect.fitted.get("encoding", "utf-8")
        wide = b"\0" in first and not mark and fitted.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))
        encoding = named or (MARKS[mark] if mark else fitted if wide else "utf-8")
        self.dialect.found["encoding"] = encoding
        if named is not None or encoding != "utf-8":
            self.decoder = codecs.getincrementaldecoder(encoding)("strict")
        elif b"\0" in first:
            raise DataError(
                f"{self.source}: bytes of value 0 are not UTF-8 text. Name the encoding: --encoding utf-16-le"
            )
        self.pending = self._convert(first)
        if self.pending.startswith(codecs.BOM_UTF8):
            self.pending = self.pending[len(codecs.BOM_UTF8) :]

    def head(self) -> bytes:
        """The first bytes, at most ``HEAD_BYTES``; they stay."""
        while len(self.pending) < HEAD_BYTES and not self.ended:
            self.pending += self._convert(self._read())
        return self.pending[:HEAD_BYTES]

    def read(self, size: int) -> bytes:
        """The next bytes.

        Parameters
        ----------
        size : int
            The largest number of bytes.

        Returns
        -------
        bytes
            None at the end.

        Raises
        ------
        DataError
            For bytes that are not text, and damaged gzip data.
        """
        while not self.pending and not self.ended:
            self.pending = self._convert(self._read())
        data, self.pending = self.pending[:size], self.pending[size:]
        return data

    def _read(self) -> bytes:
        try:
            data = self.file.read(HEAD_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self.source} cannot be read: its gzip data is damaged or cut off ({error})") from error
        self.ended = not data
        return data

    def _convert(self, data: bytes) -> bytes:
        if self.decoder is None:
            return self._check_utf8(self.tail + data)
        try:
            return self.decoder.decode(data, not data).encode()
        except UnicodeError as error:
            encoding = self.dialect.found["encoding"]
            what = f"{self.source} is not text in {encoding}: {error}."
            raise DataError(f"{what} Name another --encoding, such as latin-1.") from error

    def _check_utf8(self, data: bytes) -> bytes:
        """UTF-8 up to an unfinished character; after a byte that is not UTF-8, the older encoding."""
        try:
            size = len(data) if data.isascii() else codecs.utf_8_decode(data, "strict", self.ended)[1]
        except UnicodeDecodeError as error:
            return self._fall_back(data, error.start)
        good, self.tail = data[:size], data[size:]
        self.ascii, self.place = self.ascii and good.isascii(), self.place + size
        return good

    def _fall_back(self, data: bytes, start: int) -> bytes:
        found = f"{self.source}: byte {data[start]:#x} at position {self.place + start}"
        if not (self.ascii and data[:start].isascii()):
            raise DataError(f"{found} is not UTF-8, as the text before it is. Correct it, or name the --encoding.")
        fitted = self.dialect.fitted.get("encoding", "utf-8")
        encoding = LEGACY if fitted.startswith("utf") else fitted
        self.decoder = LegacyDecoder() if encoding == LEGACY else codecs.getincrementaldecoder(encoding)("strict")
        self.dialect.found["encoding"], self.tail = encoding, b""
        name = "windows-1252, an extended latin-1" if encoding == LEGACY else encoding
        if encoding != fitted:
            self.dialect.notes.append(f"{found} is not UTF-8: read the file as {name}; --encoding would change that.")
        return self._convert(data)


class LegacyDecoder:
    """Decodes windows-1252 with latin-1 for the bytes that it leaves out."""

    def decode(self, data: bytes, final: bool = False) -> str:
        """Decode bytes.

        Parameters
        ----------
        data : bytes
            Any bytes.
        final : bool
            Without effect.

        Returns
        -------
        str
            One character for each byte.
        """
        return codecs.charmap_decode(data, "strict", LEGACY_TABLE)[0]
