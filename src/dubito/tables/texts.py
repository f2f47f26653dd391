"""Texts that stand for numbers or for missing values."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

# In a column of numbers or dates these mean a missing value, in any case. In a column of texts they are categories like any other.
MISSING = frozenset(
    "- -- . ? na n/a n.a. #na #n/a <na> nan -nan none null nil missing unknown -1.#ind 1.#ind -1.#qnan 1.#qnan".split()
) | {"", "#n/a n/a"}
PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# Grouped thousands, a decimal comma, a currency or a percent sign: numbers to a reader, texts to a parser.
_DIGITS = r"(?:\d{1,3}(?:[,.' \u00a0]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d*)?|[.,]\d+)"
_UNIT = r"(?:[$€£¥]|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|CZK|BRL|MXN|KRW|ZAR)"
FORMATTED_NUMBER = re.compile(rf"[+-]?\s*{_UNIT}?\s*[+-]?{_DIGITS}\s*(?:%|‰|{_UNIT})?")
# A number and a unit, such as 5.2 kg or 10km/h, but no ordinal such as 5th.
NUMBER_WITH_UNIT = re.compile(rf"[+-]?{_DIGITS}\s*(?!(?:th|st|nd|rd)$)((?:[^\W\d_]|°)[^\s,;]{{0,7}})")


class TextNumbers(NamedTuple):
    """How many cells of a column of texts look like numbers.

    Attributes
    ----------
    numbers, total : int
        The cells that look like numbers, and the cells that are not missing.
    other, row : str and int, or None
        The first cell that is not a plain number, and its row; a spelling of a missing value only
        if there is nothing else.
    """

    numbers: int
    total: int
    other: str | None
    row: int | None

    @property
    def mostly_numbers(self) -> bool:
        """Whether more than half of the cells look like numbers."""
        return 2 * self.numbers > self.total


def is_plain_number(text: str) -> bool:
    """Whether a text is a plain number, as Python and CSV files write it.

    Parameters
    ----------
    text : str
        With or without surrounding spaces.

    Returns
    -------
    bool
        False for formatted numbers such as "1,000" and "5 %".
    """
    return PLAIN_NUMBER.fullmatch(text.strip()) is not None


def means_missing(text: str) -> bool:
    """Whether a text is a common spelling of a missing value.

    Parameters
    ----------
    text : str
        With or without surrounding spaces, in any case.

    Returns
    -------
    bool
        True for "", "NA", "?" and the like.
    """
    return text.strip().lower() in MISSING


def shared_unit(texts: Collection[str]) -> str | None:
    """The unit with which all of several texts are numbers.

    Parameters
    ----------
    texts : collection of str
        Different texts.

    Returns
    -------
    str or None
        Such as "kg"; None if there is none.
    """
    found = {match and match[1] for match in (NUMBER_WITH_UNIT.fullmatch(text.strip()) for text in texts)}
    return found.pop() if len(found) == 1 and len(texts) > 1 else None


def count_numbers(counts: Mapping[Any, int], first: Mapping[Any, int]) -> TextNumbers:
    """Count the texts of a column that look like numbers.

    Parameters
    ----------
    counts : mapping
        The number of rows of each value.
    first : mapping
        The first row of each value.

    Returns
    -------
    TextNumbers
        Of the values that are texts.
    """
    texts = [text for text in counts if isinstance(text, str)]
    present = [text for text in texts if not means_missing(text)]
    numeric = (text for text in present if is_plain_number(text) or FORMATTED_NUMBER.fullmatch(text.strip()))
    others = [text for text in present if not is_plain_number(text)] or [*{*texts} - {*present}]
    other = min(others, key=first.__getitem__) if others else None
    numbers, total = (sum(counts[text] for text in group) for group in (numeric, present))
    return TextNumbers(numbers, total, other, None if other is None else first[other])
