"""Dates and times as numbers: seconds since 1970 in UTC, or of the day, and phases of the day, the week and the year.

A time is encoded as its standardized seconds, which let a network follow a trend, and for each cycle
that the training rows cover as √2 sin φ and √2 cos φ of its phase φ, which let it follow a season
beyond the last row. (Years are 365.2425 days long and may begin a day late: no network sees that.)
"""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
from jaxtyping import Float

from dubito.tables.texts import means_missing

TIMES = ("time", "clock")  # kinds of columns: dates with or without a time of the day, and times of the day alone
CYCLES = {"day": 86_400.0, "week": 604_800.0, "year": 31_556_952.0}  # lengths in seconds
LEAST_PHASES = 0.04  # of a cycle: an hour of a day, two weeks of a year; rows within less have no season

ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?")
SLASHED = re.compile(r"^(\d{4})/(\d\d)/(\d\d)")
MONTH = re.compile(r"\d{4}-\d\d")
CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d(?:\.\d{1,9})?))?")
DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")  # the day first, wherever dots are written
NAMED = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
# Dates in other notations, most of which have several meanings.
OTHER_DATE = re.compile(
    rf"(?:\d{{1,4}}([-/.])\d\d?\1\d{{2,4}}|\d\d?[ -]?{NAMED}[ ,-]*\d{{2,4}}|{NAMED}[ -]?(?:\d\d?,? )?\d{{2,4}})(?:[T ,].*)?",
    re.IGNORECASE,
)


def seconds_of(moment: date | time) -> float:
    """Seconds since 1970 in UTC, or since midnight.

    Parameters
    ----------
    moment : date, datetime or time
        Without a time zone, a date is in UTC.

    Returns
    -------
    float
        The seconds.
    """
    if isinstance(moment, time):
        return moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_time(text: str) -> float | None:
    """The time that a text states in an unambiguous notation.

    Parameters
    ----------
    text : str
        As in ISO 8601, such as 2024-01-31, 2024-01-31T12:00Z or 2024-01, or 2024/01/31, or 31.1.2024.

    Returns
    -------
    float or None
        Seconds since 1970 in UTC, NaN for a spelling of a missing value; None for any other text.
    """
    text = SLASHED.sub(r"\1-\2-\3", text.strip(), count=1)
    if found := DOTTED.fullmatch(text):
        text = f"{found[3]}-{found[2]:0>2}-{found[1]:0>2}"
    text += "-01" * bool(MONTH.fullmatch(text))
    if ISO.fullmatch(text):
        try:
            return seconds_of(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            return None
    return float("nan") if means_missing(text) else None


def parse_clock(text: str) -> float | None:
    """The time of the day that a text states.

    Parameters
    ----------
    text : str
        Such as 7:30, 13:45 or 13:45:10.5.

    Returns
    -------
    float or None
        Seconds since midnight, NaN for a spelling of a missing value; None for any other text.
    """
    if found := CLOCK.fullmatch(text.strip()):
        hours, minutes, seconds = found.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds or 0)
    return float("nan") if means_missing(text) else None


def parse_times(texts: Sequence[Any], kind: str = "time") -> Float[np.ndarray, " rows"] | None:
    """Times of texts; see ``parse_time`` and ``parse_clock``.

    Parameters
    ----------
    texts : sequence of str or None
        None where a value is missing.
    kind : str
        One of ``TIMES``.

    Returns
    -------
    float64 array or None
        Seconds since 1970 in UTC or since midnight, NaN where a value is missing; None if a text is
        no such time.
    """
    parse = parse_clock if kind == "clock" else parse_time
    seconds = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text is not None:
            found = parse(text) if isinstance(text, str) else None
            if found is None:
                return None
            seconds[row] = found
    return seconds


def looks_like_date(text: str) -> bool:
    """Whether a text that ``parse_time`` does not read is probably a date.

    Parameters
    ----------
    text : str
        Such as 01/31/2024 or 31 Jan 2024.

    Returns
    -------
    bool
        Whether it is one to a reader.
    """
    return OTHER_DATE.fullmatch(text.strip()) is not None


def phases(seconds: Float[np.ndarray, " rows"], cycle: str) -> Float[np.ndarray, " rows"]:
    """The phases of times in a cycle.

    Parameters
    ----------
    seconds : float64 array
        Since 1970 in UTC.
    cycle : str
        "day", "week" or "year".

    Returns
    -------
    float64 array
        Fractions of the cycle, in [0, 1).
    """
    return np.mod(seconds / CYCLES[cycle], 1.0)


def waves(seconds: Float[np.ndarray, " rows"], cycle: str) -> Float[np.ndarray, "rows 2"]:
    """√2 sin φ and √2 cos φ of the phases φ, which have mean square 1 over a whole cycle.

    Parameters
    ----------
    seconds : float64 array
        Since 1970 in UTC.
    cycle : str
        "day", "week" or "year".

    Returns
    -------
    float64 array
        The encoded columns (rows, 2).
    """
    angle = 2 * np.pi * phases(seconds, cycle)
    return np.sqrt(2) * np.stack([np.sin(angle), np.cos(angle)], axis=1)
