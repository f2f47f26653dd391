"""Counts of values that are encoded although there were no such values in fit."""

from collections.abc import Iterable
from typing import TypeAlias

from dubito.tables.columns import warn_about_columns

Changes: TypeAlias = dict[str, dict[str, int]]  # {what was done: {column: number of values}}

FILLED = "Missing values of columns that had none in fit, encoded as their means or as no category"
UNKNOWN = "Categories not seen in fit, encoded as zeros"


def sum_changes(found: Iterable[Changes]) -> Changes:
    """The sum of several counts.

    Parameters
    ----------
    found : iterable of Changes
        Counts of ``Schema.encode_and_count``.

    Returns
    -------
    Changes
        What was done in any of them.
    """
    total: Changes = {}
    for changes in found:
        for what, counts in changes.items():
            mine = total.setdefault(what, {})
            for name, count in counts.items():
                mine[name] = mine.get(name, 0) + count
    return total


def warn_of_filled(changes: Changes) -> None:
    """Warn of missing values in columns that had none in fit (DataWarning).

    Parameters
    ----------
    changes : Changes
        Counts of ``Schema.encode_and_count``.
    """
    counts = changes.get(FILLED, {})
    warn_about_columns(FILLED, [f"{count} of {name!r}" for name, count in counts.items()])
