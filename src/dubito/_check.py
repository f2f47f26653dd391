"""What input validation shares: the errors it raises, the rows they name, and the size of sample weights."""

import math
from numbers import Integral

import numpy as np

SHOWN = 10  # how many names or values a message lists
FIRST = 3  # how many rows a message names
LEAST, MOST = (
    1e-6,
    1e30,
)  # of the sum of all weights: beyond, float32 holds nothing but the prior or nothing but the data


class DataError(ValueError):
    """The data cannot be used: what is wrong, where, and what to do.

    ``problem`` is the message without what to do in Python; ``option`` is what to do on the command line, where that differs.
    """

    def __init__(self, problem, remedy="", option=""):
        ValueError.__init__(self, f"{problem} {remedy}" if remedy else problem)
        self.problem, self.option = problem, option


class DataWarning(UserWarning):
    """The data can be used but is probably not what was meant."""


def shorten_list(names):
    """The first few of ``names`` for a message."""
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def in_rows(bad, rows=None):
    """Where ``bad`` (n,) is true, in words: "in row 3" or "first in rows 3, 7, 9"; ``rows`` are the rows' numbers."""
    places = np.flatnonzero(bad)
    first = places[:FIRST] if rows is None else [rows[place] for place in places[:FIRST]]
    text = ", ".join(map(str, first))
    return f"in row {text}" if len(places) == 1 else f"{'first ' if len(places) > FIRST else ''}in rows {text}"


def check_weight_sum(weight, name):
    """Raise DataError unless weights, each of which counts a row as so many rows, sum to a usable number of rows."""
    total = float(np.sum(weight, dtype=np.float64))
    if not LEAST < total < MOST:
        raise DataError(
            f"The sum of {name} is {total:.3g}; a weight counts a row as that many rows.",
            "Divide the weights by their mean.",
        )


def is_whole(value, least):
    """Whether ``value`` is a whole number of at least ``least``; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def is_number(value):
    """Whether ``value`` is a finite number of any library; truth values and texts are none."""
    try:
        return not isinstance(value, bool | str | bytes) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def check_coverage(coverage):
    """Raise ValueError unless ``coverage`` is a probability strictly between 0 and 1."""
    if not (is_number(coverage) and 0 < coverage < 1):
        raise ValueError(f"coverage is a probability strictly between 0 and 1, got {coverage!r}")
