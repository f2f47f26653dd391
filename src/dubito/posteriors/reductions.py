"""What is taken over draws, some at a time: moments, least values, means of densities from their logarithms."""

import numpy as np


class Moments:
    """Mean and variance over draws of each of a reading's arrays: pairs (mean, variance)."""

    @staticmethod
    def within(values):
        means = [value.mean(0) for value in values]
        return [(mean, ((value - mean) ** 2).sum(0)) for mean, value in zip(means, values, strict=True)]

    @staticmethod
    def across(groups):
        """Chan, Golub & LeVeque 1979."""
        (total, found), *others = groups
        for count, parts in others:
            total += count
            found = [
                (mean + step * (count / total), squares + more + step**2 * (count * (total - count) / total))
                for (mean, squares), (part, more) in zip(found, parts, strict=True)
                for step in [part - mean]
            ]
        return [(mean, squares / total) for mean, squares in found]


class LogMeanExp:
    """log (1/S) Σ exp over draws of a reading's one array; all of it may be −∞."""

    @staticmethod
    def within(values):
        (terms,) = values
        top = np.maximum(terms.max(0), -np.finfo(float).max)
        return top, np.exp(terms - top).sum(0)

    @staticmethod
    def across(groups):
        tops, sums = (np.stack(parts) for parts in zip(*(found for _, found in groups), strict=True))
        top = tops.max(0)
        with np.errstate(divide="ignore"):
            return top + np.log((sums * np.exp(tops - top)).sum(0) / sum(count for count, _ in groups))


class Least:
    """The least over draws of each of a reading's arrays."""

    @staticmethod
    def within(values):
        return [value.min(0) for value in values]

    @staticmethod
    def across(groups):
        return [np.min(parts, axis=0) for parts in zip(*(found for _, found in groups), strict=True)]


class Kept:
    """All draws of each of a reading's arrays, in their order: (rows, S, ·)."""

    @staticmethod
    def within(values):
        return [np.moveaxis(value, 0, 1) for value in values]

    @staticmethod
    def across(groups):
        return [np.concatenate(parts, axis=1) for parts in zip(*(found for _, found in groups), strict=True)]
