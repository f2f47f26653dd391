"""Input validation: its errors, the rows that they name, and checks of single settings."""

import contextlib
import difflib
import itertools
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SHOWN = 10  # names or values in a message
FIRST = 3  # rows in a message
LONGEST_GUESSED, MOST_GUESSED = 80, 10_000  # letters of a name, and names, among which a similar one is searched
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e30  # sum of all weights: beyond, float32 holds only the prior or only the data


class DataError(ValueError):
    """The data cannot be used: what is wrong, where, and what to do.

    Parameters
    ----------
    problem : str
        What is wrong, and where.
    remedy : str
        What to do in Python.
    option : str
        What to do on the command line, if that is different.
    """

    def __init__(self, problem: str, remedy: str = "", option: str = "") -> None:
        ValueError.__init__(self, f"{problem} {remedy}" if remedy else problem)
        self.problem, self.option = problem, option


class DataWarning(UserWarning):
    """The data can be used, but is probably not what was intended."""


# Of one thread or task, where filters of the warnings module would hold for all of them.
_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextlib.contextmanager
def without_data_warnings() -> Iterator[None]:
    """Issue no ``DataWarning`` in this thread, for rows of a table that was checked as a whole before."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


_collected: ContextVar[list[tuple[str, type[Warning]]] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collect_warnings() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Collect what this thread would issue by ``warn``, so that another process can issue it."""
    found: list[tuple[str, type[Warning]]] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called dubito, however deep inside it the warning arises.

    Parameters
    ----------
    message : str
        The text.
    category : type
        The class of the warning.
    """
    if issubclass(category, DataWarning) and _silent.get():
        return
    collected = _collected.get()
    if collected is not None:
        collected.append((message, category))
        return
    frame, level, package = sys._getframe(1), 2, os.path.dirname(__file__) + os.sep
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def list_first(names: Sequence[Any] | np.ndarray) -> str:
    """The first few names, and how many more there are, for a message.

    Parameters
    ----------
    names : sequence
        Any values.

    Returns
    -------
    str
        "a, b, c and 9 more".
    """
    return ", ".join(map(str, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def in_rows(bad: ArrayLike, rows: Sequence[Any] | np.ndarray | None = None) -> str:
    """The rows where a condition is true, for a message.

    Parameters
    ----------
    bad : bool array of shape (rows,)
        The condition, which is true somewhere.
    rows : sequence of int, optional
        The numbers of the rows; 0, 1, ... by default.

    Returns
    -------
    str
        "in row 3" or "first in rows 3, 7, 9".
    """
    places = np.flatnonzero(bad)
    first = places[:FIRST] if rows is None else [rows[place] for place in places[:FIRST]]
    text = ", ".join(map(str, first))
    return f"in row {text}" if len(places) == 1 else f"{'first ' if len(places) > FIRST else ''}in rows {text}"


def check_weight_sum(weight: ArrayLike | float, name: str) -> None:
    """Raise DataError unless weights sum to a usable number of rows.

    Parameters
    ----------
    weight : array or float
        The weights.
    name : str
        The input's name in the message.
    """
    total = float(np.sum(weight, dtype=np.float64))
    if not LEAST_WEIGHT < total < MOST_WEIGHT:
        meaning = "a weight is the number of rows that a row stands for."
        raise DataError(f"the weights in {name} sum to {total:.3g}, but {meaning}", "Divide the weights by their mean.")


def did_you_mean(name: Any, names: Iterable[str]) -> str:
    """The end of a message about an unknown name.

    Parameters
    ----------
    name : object
        What was given.
    names : iterable of str
        The names that exist.

    Returns
    -------
    str
        "; did you mean 'relu'?", or a full stop if no name is similar, or if the search could take long.
    """
    if len(str(name)) > LONGEST_GUESSED:
        return "."
    folded = {str(each).strip().casefold(): each for each in itertools.islice(names, MOST_GUESSED)}
    close = difflib.get_close_matches(str(name).strip().casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else "."


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError unless a setting has one of some values.

    Parameters
    ----------
    name : str
        The setting's name, for the message.
    value : object
        What was given.
    choices : iterable of str
        The allowed values.
    """
    choices = list(choices)
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{name}={value!r} is unknown{hint} Choose one of {', '.join(choices)}.")


def check_whole(name: str, value: Any, least: int, most: int | None = None, other: str = "") -> None:
    """Raise ValueError unless a setting is a whole number within bounds.

    Parameters
    ----------
    name : str
        The setting's name, for the message.
    value : object
        What was given.
    least, most : int
        The bounds, both allowed; ``most=None`` is no upper bound.
    other : str
        Other allowed values, for the message, such as ``"None (all rows)"``. The caller skips the
        check for them.
    """
    if not (is_whole(value, least) and (most is None or value <= most)):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise ValueError(f"{name} must be a whole number {bounds}{f' or {other}' if other else ''}, got {value!r}")


def is_whole(value: Any, least: int) -> bool:
    """Whether a value is a whole number within a bound.

    Parameters
    ----------
    value : object
        Any value; booleans are not numbers.
    least : int
        The smallest allowed number.

    Returns
    -------
    bool
        Whether it is one.
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least  # pyright: ignore[reportOperatorIssue]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number.

    Parameters
    ----------
    value : object
        A value of any library; booleans and texts are not numbers.

    Returns
    -------
    bool
        Whether it is one.
    """
    try:
        return not isinstance(value, bool | str | bytes) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def check_number(name: str, value: Any, interval: str, other: str = "") -> None:
    """Raise ValueError unless a setting is a finite number in an interval.

    Parameters
    ----------
    name : str
        The setting's name, for the message.
    value : object
        What was given.
    interval : str
        As in mathematics: ``"(0, 1)"``, ``"[0, inf)"``.
    other : str
        As for ``check_whole``.
    """
    low, high = map(float, interval[1:-1].split(","))
    closed = {low} if interval[0] == "[" else set()
    closed |= {high} if interval[-1] == "]" else set()
    if not (is_number(value) and (low < value < high or value in closed)):
        words = {"(0, inf)": "positive", "[0, inf)": "at least 0", "(0, 1)": "strictly between 0 and 1"}
        bounds = words.get(interval, f"in {interval}")
        raise ValueError(f"{name} must be {bounds}{f' or {other}' if other else ''}, got {value!r}")
