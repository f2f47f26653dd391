"""How a table of text is written: the separator, the decimal separator and the encoding, named by the user or found in
the file.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dubito._check import list_first
from dubito.tables.texts import is_plain_number, means_missing

SEPARATORS = (",", ";", "\t", "|")
NAMES = {"\t": "tab"}  # not printable
SPELLED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
MOSTLY, HALF = 0.9, 0.5  # shares of lines with as many cells as the header

QUOTED = re.compile(r'(?:(?<=[,;\t|\r\n])|\A)"[^"]*+(?:""[^"]*+)*+"(?=[,;\t|\r\n]|\Z)')
LINE_END = re.compile(r"[\r\n]+")
COMMA_NUMBER = re.compile(r"[+-]?(?:\d+|\d*,\d+)(?:[eE][+-]?\d+)?")  # a decimal comma, or a whole number
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,]\d{3})+")  # may be thousands, or three decimals
GROUPED_BY_DOTS = r"^\s*[+-]?[1-9]\d{0,2}(?:\.\d{3})+\s*$"  # the same, for pyarrow


@dataclass
class Dialect:
    """How a table of text is written.

    Parameters
    ----------
    separator, decimal, encoding : str, optional
        As the user names them: the character between cells, "." or ",", and a codec of Python. None:
        as found in the file.
    sheet : str, optional
        The sheet of an .xlsx file; None is the first.
    fitted : mapping, optional
        ``found`` of the table that a model was fitted to. It decides what the file leaves open.

    Attributes
    ----------
    found : dict
        "separator", "decimal" and "encoding" of the file that was read; empty for other files.
    notes : list of str
        What to tell the user about the file.

    Raises
    ------
    ValueError
        For values that no file can have.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    sheet: str | None = None
    fitted: Mapping[str, Any] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.separator is not None:
            self.separator = SPELLED.get(self.separator, self.separator)
            if not _is_separator(self.separator):
                raise ValueError(
                    f"--separator must be one character between cells, such as ';' or tab, got {self.separator!r}"
                )
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"--decimal must be . or a comma, got {self.decimal!r}")
        if self.decimal is not None and self.decimal == self.separator:
            raise ValueError(f"--separator and --decimal are both {self.decimal!r}. Choose two characters.")
        if self.encoding is not None and not is_encoding(self.encoding):
            raise ValueError(f"--encoding {self.encoding!r} is unknown. Name one such as utf-8, latin-1 or utf-16.")
        fitted = self.fitted if isinstance(self.fitted, Mapping) else {}
        good = {"separator": _is_separator, "decimal": (".", ",").__contains__, "encoding": is_encoding}
        self.fitted = {
            name: fitted[name]
            for name, fits in good.items()
            if isinstance(fitted.get(name), str) and fits(fitted[name])
        }

    @property
    def named(self) -> dict[str, str]:
        """The options that the user gave."""
        values = {"separator": self.separator, "decimal": self.decimal, "encoding": self.encoding, "sheet": self.sheet}
        return {name: value for name, value in values.items() if value is not None}

    def choose(
        self, source: object, head: str, default: str, columns: Collection[str], stated: str | None = None
    ) -> None:
        """Find the separators of a file, with a note if they are not those that its name suggests.

        Parameters
        ----------
        source : str or Path
            The file, for the note.
        head : str
            The first lines, the last one complete.
        default : str
            The separator that the file's name suggests.
        columns : collection of str
            Names that the header probably has.
        stated : str, optional
            The separator that the file itself names.
        """
        usual = self.fitted.get("separator", default)
        separator = self.separator or stated or find_separator(head, default, {*SEPARATORS, usual}, columns)
        found, names = find_decimal(head, separator, self.fitted.get("decimal", "."))
        decimal = self.decimal or found
        self.found |= {"separator": separator, "decimal": decimal}
        said = {}
        if separator not in (default, usual) and self.separator is None:
            said["--separator"] = f"with the separator {NAMES.get(separator, repr(separator))}"
        if decimal not in (".", self.fitted.get("decimal")) and self.decimal is None:
            where = f" in {list_first([repr(name) for name in names])}" if names else ""
            said["--decimal"] = f"with decimal commas{where}"
        if said:
            self.notes.append(f"Read {source} {' and '.join(said.values())}; {' and '.join(said)} would change that.")


def _is_separator(text: str) -> bool:
    return (
        len(text) == 1
        and text.isascii()
        and (text.isprintable() or text == "\t")
        and not (text.isalnum() or text in "\"'.+-_")
    )


def is_encoding(name: str) -> bool:
    """Whether Python knows an encoding of texts.

    Parameters
    ----------
    name : str
        Any text.

    Returns
    -------
    bool
        False also for codecs that do not encode texts.
    """
    try:
        return codecs.lookup(name)._is_text_encoding  # Python has no public way to ask
    except (LookupError, ValueError):
        return False


def find_separator(head: str, default: str, candidates: Collection[str], columns: Collection[str] = ()) -> str:
    """The character between the cells of a table of text.

    It is the one that cuts at least nine of ten lines into as many cells as the header, with the
    most of ``columns`` and then the most cells in the header. Quoted cells count as one.

    Parameters
    ----------
    head : str
        The first lines.
    default : str
        The answer where nothing speaks for another character.
    candidates : collection of str
        The characters to choose from.
    columns : collection of str
        Names that the header probably has.

    Returns
    -------
    str
        One character.
    """
    lines = [line for line in LINE_END.split(QUOTED.sub("q", head)) if line]
    if not lines:
        return default
    cells = {mark: lines[0].count(mark) + 1 for mark in candidates}
    names = {mark: {*next(read_cells(head, mark), [])} & {*columns} for mark in candidates}
    body = lines[1:] or lines[:1]
    share = {mark: sum(line.count(mark) + 1 == cells[mark] for line in body) / len(body) for mark in candidates}

    def rank(mark: str) -> tuple[int, int, bool, str]:
        return len(names[mark]), cells[mark], mark == default, mark

    for least in (MOSTLY, HALF):
        good = [mark for mark in candidates if cells[mark] > 1 and share[mark] >= least]
        if good:
            return max(good, key=rank)
        if cells.get(default, 1) > 1:
            return default
    return default


def find_decimal(head: str, separator: str, usual: str = ".") -> tuple[str, list[str]]:
    """The decimal separator of a table of text, and the columns that show it.

    A comma, if it is not between the cells and all values of a column are numbers with it. Numbers
    such as 1,234 alone, which may be thousands, show nothing.

    Parameters
    ----------
    head : str
        The first lines.
    separator : str
        The character between cells.
    usual : str
        The answer where no column shows another.

    Returns
    -------
    tuple
        "." or ","; the names of the columns with decimal commas.
    """
    if separator == ",":
        return ".", []
    rows = read_cells(head, separator)
    header = next(rows, [])
    columns: dict[int, list[str]] = {}
    for row in rows:
        for place, cell in enumerate(row):
            if not means_missing(cell):
                columns.setdefault(place, []).append(cell.strip())
    commas = {place: cells for place, cells in columns.items() if all(map(COMMA_NUMBER.fullmatch, cells))}
    names = [header[place] for place, cells in sorted(commas.items()) if place < len(header) and "," in "".join(cells)]
    if any("," in cell and not GROUPED.fullmatch(cell) for cells in commas.values() for cell in cells):
        return ",", names
    dots = [cells for cells in columns.values() if all(map(is_plain_number, cells))]
    if any("." in cell and not GROUPED.fullmatch(cell) for cells in dots for cell in cells):
        return ".", []
    return usual, names if usual == "," else []


def read_cells(text: str | Iterable[str], separator: str) -> Iterator[list[str]]:
    """The records of a table of text, without empty lines, up to one that no reader accepts.

    Parameters
    ----------
    text : str or iterable of str
        The table or its first lines, whole or line by line.
    separator : str
        The character between cells.

    Yields
    ------
    list of str
        The cells of a record.
    """
    lines = io.StringIO(text, newline="") if isinstance(text, str) else text
    try:
        yield from filter(None, csv.reader(lines, delimiter=separator))
    except csv.Error:
        return


def odd_number(cells: Iterable[str | None], decimal: str) -> tuple[int, str] | None:
    """The first cell that keeps a column of text from being numbers, if most of its cells are numbers.

    Parameters
    ----------
    cells : iterable of str or None
        The column.
    decimal : str
        The decimal separator of the table. If it is a dot, only columns of nothing but numbers with
        commas are judged.

    Returns
    -------
    tuple or None
        The row and the cell; one that matches ``GROUPED`` may have thousands or decimals.
    """
    found, numbers, total = None, 0, 0
    for row, cell in enumerate(cells):
        if cell is None or means_missing(cell):
            continue
        cell, total = cell.strip(), total + 1
        grouped = GROUPED.fullmatch(cell) is not None
        if decimal == ".":
            if not (COMMA_NUMBER.fullmatch(cell) or grouped) or "." in cell:
                return None
            odd = "," in cell
        else:
            odd = not (COMMA_NUMBER.fullmatch(cell) or is_plain_number(cell) and not grouped)
        numbers += grouped or not odd or decimal == "."
        if odd and found is None:
            found = row, cell
    return found if 2 * numbers > total else None
