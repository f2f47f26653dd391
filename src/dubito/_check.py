"""What input validation shares: the errors it raises, the rows they name, and checks of single
settings.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SHOWN = 10  # how many names or values a message lists
FIRST = 3  # how many rows a message names
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e30  # sum of all weights: beyond, float32 holds only the prior or only the data


class DataError(ValueError):
    """The data cannot be used: what is wrong, where, and what to do.

    Parameters
    ----------
    problem : str
        The message without what to do.
    remedy : str
        What to do in Python.
    option : str
        What to do on the command line, where that differs.
    """

    def __init__(self, problem: str, remedy: str = "", option: str = "") -> None:
        ValueError.__init__(self, f"{problem} {remedy}" if remedy else problem)
        self.problem, self.option = problem, option


class DataWarning(UserWarning):
    """The data can be used but is probably not what was meant."""


def list_first(names: Sequence[Any] | np.ndarray) -> str:
    """The first few of ``names``, and how many more there are, for a message."""
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def in_rows(bad: ArrayLike, rows: Sequence[Any] | np.ndarray | None = None) -> str:
    """Where ``bad`` is true, in words: "in row 3" or "first in rows 3, 7, 9"; ``rows`` are the
    rows' numbers.
    """
    places = np.flatnonzero(bad)
    first = places[:FIRST] if rows is None else [rows[place] for place in places[:FIRST]]
    text = ", ".join(map(str, first))
    return f"in row {text}" if len(places) == 1 else f"{'first ' if len(places) > FIRST else ''}in rows {text}"


def check_weight_sum(weight: ArrayLike | float, name: str) -> None:
    """Raise DataError unless weights, each of which counts a row as so many rows, sum to a usable
    number of rows.
    """
    total = float(np.sum(weight, dtype=np.float64))
    if not LEAST_WEIGHT < total < MOST_WEIGHT:
        raise DataError(
            f"The sum of {name} is {total:.3g}; a weight counts a row as that many rows.",
            "Divide the weights by their mean.",
        )


def did_you_mean(name: Any, names: Iterable[str]) -> str:
    """The end of a message about an unknown ``name``: "; did you mean 'relu'?", or a full stop if
    none is similar.
    """
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError unless the setting ``name`` has a ``value`` among the ``choices``."""
    choices = list(choices)
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{name}={value!r} is unknown{hint} Choose one of {', '.join(choices)}.")


def check_whole(name: str, value: Any, least: int, most: int | None = None, other: str = "") -> None:
    """Raise ValueError unless the setting ``name`` has a ``value`` that is a whole number from
    ``least`` to ``most``.

    Parameters
    ----------
    name : str
        The setting's name, for the message.
    value : object
        What was given.
    least, most : int
        The bounds, both allowed; ``most=None`` is no upper bound.
    other : str
        What else is allowed, for the message, such as ``"None (all rows)"``. The caller does not
        call for that.
    """
    if not (is_whole(value, least) and (most is None or value <= most)):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"{name} must be a whole number {bounds}{f' or {other}' if other else ''}, got {value!r}")


def is_whole(value: Any, least: int) -> bool:
    """Whether ``value`` is a whole number of at least ``least``; a boolean is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least  # pyright: ignore[reportOperatorIssue]


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number of any library; booleans and texts are none."""
    try:
        return not isinstance(value, bool | str | bytes) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def check_coverage(coverage: Any) -> None:
    """Raise ValueError unless ``coverage`` is a probability strictly between 0 and 1."""
    if not (is_number(coverage) and 0 < coverage < 1):
        raise ValueError(f"coverage is a probability strictly between 0 and 1, got {coverage!r}")
