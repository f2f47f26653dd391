"""The predictive distribution of y, from that of an increasing transform g(y)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from dubito._jax.types import Key
from dubito.models.target_transforms import TargetTransform, gaussian_moments
from dubito.posteriors.draw_mixture import (
    ALL_DRAWS,
    LOG_MEAN_EXP,
    Distribution,
    DrawMixture,
    Moments,
    Reduction,
    Values,
)
from dubito.posteriors.predictive import shared_fields
from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.posteriors.readings import equal_tailed


@dataclass(frozen=True)
class TransformedMixture(Distribution):
    """The distribution of y, where g(y) has the mixture of Gaussians ``before``.

    Densities change variables, log p(y) = log p(g(y)) + Σ log g'(y); quantiles and samples are mapped
    by the inverse of g; moments are those of ``gaussian_moments`` for each draw.

    Parameters
    ----------
    before : DrawMixture
        The distribution of g(y).
    transform : TargetTransform
        g.
    """

    before: DrawMixture
    transform: TargetTransform

    def __len__(self) -> int:
        return len(self.before)

    @property
    def columns(self) -> int:
        """The number of targets."""
        return self.before.columns

    @property
    def scale(self) -> Float[np.ndarray, " targets"]:
        """1: moments are in the target's units."""
        return np.ones(self.columns)

    @property
    def unit(self) -> Float[np.ndarray, " targets"]:
        """The scale of each g(y) as a difference of y where y is typical, to compare targets."""
        center = self.transform.inverse(np.broadcast_to(self.before.shift, self.columns))
        return self.before.scale * np.exp(-self.transform.log_slope(center))

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that contains y."""
        return self.transform.lowest, np.inf

    @cached_property
    def _of_draws(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, variance) of each draw, (draws, rows, targets)."""
        components = self.before.components()
        if components is None:
            raise ValueError("moments of a transformed target need Gaussian noise")
        return gaussian_moments(self.transform, *components)

    @cached_property
    def _moments(self) -> tuple[Values, Values, Values]:
        means, variances = self._of_draws
        mean = _mean_over_draws(means)
        return mean, _mean_over_draws(variances), _mean_over_draws((means - mean) ** 2)

    @property
    def mean(self) -> Values:
        return self._moments[0]

    @property
    def variances(self) -> tuple[Values, Values]:
        return self._moments[1:]

    def moments_of_draws(self) -> tuple[Moments, Moments]:
        """(mean, variance) of each draw, in the target's units."""
        means, variances = self._of_draws
        return means.swapaxes(0, 1), variances.swapaxes(0, 1)

    def min_component_std(self) -> Values:
        """The smallest standard deviation of any draw, in the target's units."""
        return np.sqrt(self._of_draws[1].min(0))

    def supports(self, name: str) -> bool:
        return self.before.supports(name)

    def log_densities(self, reduction: Reduction, y: np.ndarray) -> np.ndarray:
        """A ``reduction``, the mean or all draws, of log p(y | θ_s), in nats of the target's units."""
        possible, t = self._inside(y)
        filled = np.where(np.isnan(y) | ~possible, 1.0, y)
        slopes = np.where(np.isnan(y), 0, self.transform.log_slope(filled) - np.log(self.before.scale)).sum(axis=1)
        units = np.where(possible.all(axis=1), slopes, -np.inf)
        found = self.before.log_densities(reduction, t)
        return found + units.reshape(-1, *[1] * (found.ndim - 1))

    def log_density(self, y: Values) -> Float[np.ndarray, " rows"]:
        return self.log_densities(LOG_MEAN_EXP, y)

    def log_densities_of_draws(self, y: Values) -> Float[np.ndarray, "rows draws"]:
        """log p(y | θ_s) of each draw, in nats of the target's units."""
        return self.log_densities(ALL_DRAWS, y)

    def cdf(self, y: Values) -> Values:
        possible, t = self._inside(y)
        return np.where(possible, self.before.cdf(t), 0)

    def _inside(self, y: Values) -> tuple[np.ndarray, Values]:
        """(which values y can have, missing ones among them; g(y) of these, g(1) of others)."""
        possible = ~(y <= self.transform.lowest)
        return possible, self.transform.forward(np.where(possible, y, 1.0))

    def quantiles(self, q: Float[np.ndarray, " levels"]) -> Float[np.ndarray, "levels rows targets"]:
        return self.transform.inverse(self.before.quantiles(q))

    def sample(self, key: Key, n: int) -> Float[np.ndarray, "n rows targets"]:
        return self.transform.inverse(self.before.sample(key, n))

    def sample_each(self, key: Key) -> Float[np.ndarray, "draws rows targets"]:
        """One joint draw of y from each function, in their order."""
        return self.transform.inverse(self.before.sample_each(key))

    def components(self) -> None:
        return None


@dataclass(frozen=True, repr=False)
class TransformedPredictive(PredictiveDistribution):
    """The predictive distribution of y, where the model was fitted to g(y).

    Made by ``transformed``.

    Parameters
    ----------
    predictive : Predictive
        The distribution of g(y).
    transform : TargetTransform
        g.
    """

    predictive: Any = field(kw_only=True)
    transform: TargetTransform = field(kw_only=True)

    @property
    def mixture(self) -> Any:
        return self.columnwise._mixture

    @cached_property
    def _mixture(self) -> TransformedMixture:
        return TransformedMixture(self.predictive.mixture, self.transform)

    @property
    def distribution(self) -> Distribution:
        return self.mixture

    def by_rows(self) -> Iterator["TransformedPredictive"]:
        return (replace(self, draws=part.draws, predictive=part) for part in self.predictive.by_rows())

    def _interval(self, coverage: float) -> tuple[Values, Values]:
        return equal_tailed(self, coverage)


def transformed(predictive: PredictiveDistribution, transform: TargetTransform) -> TransformedPredictive:
    """The predictive distribution of y.

    Parameters
    ----------
    predictive : Predictive
        The predictive distribution of g(y), with Gaussian noise.
    transform : TargetTransform
        g.

    Returns
    -------
    TransformedPredictive
        In the units of y.
    """
    columns = predictive.columns
    own: dict[str, Any] = {**shared_fields(predictive), "shift": np.zeros(columns), "scale": np.ones(columns)}
    return TransformedPredictive(**own, predictive=predictive, transform=transform)


def _mean_over_draws(values: Float[np.ndarray, "draws rows targets"]) -> Values:
    """The mean over draws, added in their order, so that a row's bits do not depend on other rows."""
    total = np.zeros(values.shape[1:])
    for one in values:
        total = total + one
    return total / len(values)
