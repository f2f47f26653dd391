"""Texts of a table's column that stand for numbers, and texts that stand for a missing value."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# In a column of numbers these read as missing, in any case. In a column of texts they are categories like any other.
MISSING = frozenset(
    "- -- . ? na n/a n.a. #na #n/a <na> nan -nan none null nil missing unknown -1.#ind 1.#ind -1.#qnan 1.#qnan".split()
) | {"", "#n/a n/a"}
PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# Grouped thousands, a decimal comma, a currency or a percent sign: numbers to a reader, texts to a parser.
_DIGITS = r"(?:\d{1,3}(?:[,.' \u00a0]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)"
_UNIT = r"(?:[$€£¥]|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|BRL|MXN|KRW|ZAR)"
FORMATTED = re.compile(rf"[+-]?\s*{_UNIT}?\s*[+-]?{_DIGITS}\s*(?:%|‰|{_UNIT})?")


class TextNumbers(NamedTuple):
    """How many cells of a column of texts are numbers to a reader.

    Parameters
    ----------
    numbers, total : cells that are numbers, and cells that are not missing.
    other, row : text and row of the first cell that is no plain number, or None; a spelling of a missing value only if
        there is nothing else.
    """

    numbers: int
    total: int
    other: str | None
    row: int | None

    @property
    def mostly_numbers(self) -> bool:
        """Whether more than half of the cells are numbers to a reader."""
        return 2 * self.numbers > self.total


def is_plain_number(text: str) -> bool:
    """Whether ``text`` is a plain number, as Python and CSV files write it."""
    return PLAIN.fullmatch(text.strip()) is not None


def means_missing(text: str) -> bool:
    """Whether ``text`` is a common spelling of a missing value."""
    return text.strip().lower() in MISSING


def count_numbers(counts: Mapping[Any, int], first: Mapping[Any, int]) -> TextNumbers:
    """How many of a column's texts are numbers, from the number of rows and the first row of each text."""
    texts = {text: count for text, count in counts.items() if isinstance(text, str)}
    missing = {text for text in texts if means_missing(text)}
    present = {text: count for text, count in texts.items() if text not in missing}
    numbers = sum(
        count for text, count in present.items() if is_plain_number(text) or FORMATTED.fullmatch(text.strip())
    )
    others = [text for text in present if not is_plain_number(text)] or [*missing]
    other = min(others, key=first.__getitem__) if others else None
    return TextNumbers(numbers, sum(present.values()), other, None if other is None else first[other])
