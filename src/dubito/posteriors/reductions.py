"""Reductions over draws, some draws at a time: moments, minima, means of densities from their logarithms, and all draws."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Reduction(NamedTuple):
    """A function of all draws, from groups of them.

    Attributes
    ----------
    map
        Takes a list of arrays (draws, rows, ...) of one group to what is kept of the group.
    combine
        Takes pairs (number of draws, what was kept) of all groups to the list of results, rows first.
    """

    map: Callable[[Sequence[np.ndarray]], Any]
    combine: Callable[[Sequence[tuple[int, Any]]], list[Any]]


def _map_moments(values: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    means = [value.mean(0) for value in values]
    return [(mean, ((value - mean) ** 2).sum(0)) for mean, value in zip(means, values, strict=True)]


def _combine_moments(groups: Sequence[tuple[int, Any]]) -> list[Any]:
    (total, found), *others = groups
    for count, parts in others:
        total += count
        found = [
            (mean + step * (count / total), squares + more + step**2 * (count * (total - count) / total))
            for (mean, squares), (part, more) in zip(found, parts, strict=True)
            for step in [part - mean]
        ]
    return [(mean, squares / total) for mean, squares in found]


def _map_log_mean_exp(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    (terms,) = values
    top = np.maximum(terms.max(0), -np.finfo(float).max)
    return top, np.exp(terms - top).sum(0)


def _combine_log_mean_exp(groups: Sequence[tuple[int, Any]]) -> list[Any]:
    tops, sums = (np.stack(parts) for parts in zip(*(found for _, found in groups), strict=True))
    top = tops.max(0)
    with np.errstate(divide="ignore"):
        return [top + np.log((sums * np.exp(tops - top)).sum(0) / sum(count for count, _ in groups))]


def _map_minimum(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [value.min(0) for value in values]


def _combine_minimum(groups: Sequence[tuple[int, Any]]) -> list[Any]:
    return [np.min(parts, axis=0) for parts in zip(*(found for _, found in groups), strict=True)]


def _map_all_draws(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.moveaxis(value, 0, 1) for value in values]


def _combine_all_draws(groups: Sequence[tuple[int, Any]]) -> list[Any]:
    return [np.concatenate(parts, axis=1) for parts in zip(*(found for _, found in groups), strict=True)]


# (mean, variance) of each array, by the updating formulas of Chan, Golub & LeVeque 1979
MEAN_AND_VARIANCE = Reduction(_map_moments, _combine_moments)
# log (1/S) Σ exp of one array, all of which may be −∞
LOG_MEAN_EXP = Reduction(_map_log_mean_exp, _combine_log_mean_exp)
# the minimum of each array
MINIMUM = Reduction(_map_minimum, _combine_minimum)
# each array with all draws in their order, (rows, S, ...)
ALL_DRAWS = Reduction(_map_all_draws, _combine_all_draws)
