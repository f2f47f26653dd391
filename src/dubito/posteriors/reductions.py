"""Reductions over draws, some draws at a time: moments, minima, means of densities, and all draws."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

Values: TypeAlias = Float[np.ndarray, "draws rows ..."]
Groups: TypeAlias = Sequence[tuple[int, Any]]


class Reduction(NamedTuple):
    """A function of an array of all draws, computed from groups of draws.

    Attributes
    ----------
    map : callable
        Takes an array (draws, rows, ...) of one group to what is kept of the group.
    combine : callable
        Takes pairs (number of draws, what was kept) of all groups to the result, rows first.
    """

    map: Callable[[Values], Any]
    combine: Callable[[Groups], Any]


def _map_moments(values: Values) -> tuple[np.ndarray, np.ndarray]:
    mean = values.mean(0)
    return mean, ((values - mean) ** 2).sum(0)


def _combine_moments(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    (total, (mean, squares)), *others = groups
    for count, (part, more) in others:
        total += count
        step = part - mean
        mean = mean + step * (count / total)
        squares = squares + more + step**2 * (count * (total - count) / total)
    return mean, squares / total


def _map_log_mean_exp(terms: Values) -> tuple[np.ndarray, np.ndarray]:
    top = np.maximum(terms.max(0), -np.finfo(float).max)
    return top, np.exp(terms - top).sum(0)


def _combine_log_mean_exp(groups: Groups) -> np.ndarray:
    tops, sums = (np.stack(parts) for parts in zip(*(kept for _, kept in groups), strict=True))
    top = tops.max(0)
    with np.errstate(divide="ignore"):
        return top + np.log((sums * np.exp(tops - top)).sum(0) / sum(count for count, _ in groups))


# (mean, variance), by the updating formulas of Chan, Golub & LeVeque 1979
MEAN_AND_VARIANCE = Reduction(_map_moments, _combine_moments)
# log (1/S) Σ exp, of terms all of which may be −∞
LOG_MEAN_EXP = Reduction(_map_log_mean_exp, _combine_log_mean_exp)
MINIMUM = Reduction(lambda values: values.min(0), lambda groups: np.min([kept for _, kept in groups], axis=0))
# all draws in their order, (rows, S, ...)
ALL_DRAWS = Reduction(
    lambda values: np.moveaxis(values, 0, 1), lambda groups: np.concatenate([kept for _, kept in groups], axis=1)
)
