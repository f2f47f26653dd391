"""The contract of calibrations, and the predictive distributions that they make: recalibrated and conformal ones."""

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_ndtr, ndtr, ndtri

from dubito._jax.types import Key
from dubito.posteriors.draw_mixture import Distribution, DrawMixture, Values
from dubito.posteriors.predictive import shared_fields
from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.posteriors.readings import equal_tailed

Sets: TypeAlias = Bool[np.ndarray, "rows classes"]

REACH = 5.2  # normal score of the probability 1e-7: float32 hardly distinguishes a larger cdf from 1
NODES = np.linspace(-4, 4, 25)  # normal scores at which moments are summed; beyond, quantiles are slow to find
SHARES = np.exp(-0.5 * NODES**2)
# The ends make Σ SHARES·(NODES² − 1) = 0, which is exact for a Gaussian.
SHARES[[0, -1]] = np.sum(SHARES[1:-1] * (1 - NODES[1:-1] ** 2)) / 30
SHARES /= SHARES.sum()
FINE = np.linspace(-4, 4, 161)  # normal scores between which draws are moved along straight lines


class Calibration(abc.ABC):
    """A map, learned from held-out rows, from predictive distributions to calibrated ones.

    Subclasses are frozen dataclasses of plain numbers, texts and tuples, which a model file can
    hold.
    """

    @abc.abstractmethod
    def check(self, likelihood: Any, columns: int) -> None:
        """Check that this calibration is possible for a likelihood.

        Parameters
        ----------
        likelihood : Likelihood
            The likelihood of the predictive distributions to be calibrated.
        columns : int
            How many targets or classes they have.

        Raises
        ------
        ValueError
            If it is not possible.
        """

    @abc.abstractmethod
    def __call__(self, predictive: Any) -> PredictiveDistribution:
        """The calibrated distribution. Raises ValueError if the calibration does not fit it."""


@dataclass(frozen=True, repr=False)
class CalibratedPredictive(PredictiveDistribution):
    """A predictive distribution made from another one.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The distribution before calibration.
    """

    predictive: PredictiveDistribution = field(kw_only=True)

    @property
    def mixture(self) -> DrawMixture:
        return self.predictive.mixture

    def by_rows(self) -> Iterator[Any]:
        return (replace(self, draws=part.draws, predictive=part) for part in self.predictive.by_rows())


@dataclass(frozen=True, repr=False)
class ConformalPredictive(CalibratedPredictive):
    """A predictive distribution with conformal intervals or sets; everything else is that of ``predictive``.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The distribution whose intervals or sets become conformal.
    conformal : ConformalRule
        The ``Conformal`` or ``CVPlus`` that makes them.
    """

    conformal: "ConformalRule" = field(kw_only=True)

    @property
    def distribution(self) -> Distribution:
        return self.predictive.distribution

    @property
    def sets(self) -> Sets:
        """Which classes are in the conformal set of each row."""
        return self.conformal.sets(self.predictive)

    def _interval(self, coverage: float) -> tuple[Values, Values]:
        lower, upper = self.conformal.interval(self.predictive.columnwise, coverage)
        return np.clip(lower, *self.mixture.bounds), np.clip(upper, *self.mixture.bounds)


class ConformalRule(Calibration):
    """A calibration that makes conformal intervals and sets.

    Attributes
    ----------
    coverage : float
        The probability with which an interval or a set contains y.
    """

    coverage: float

    @abc.abstractmethod
    def interval(self, predictive: Any, coverage: float) -> tuple[Values, Values]:
        """The intervals of a ``columnwise`` predictive.

        Parameters
        ----------
        predictive : PredictiveDistribution
            A predictive, ``columnwise``.
        coverage : float
            The probability with which they contain y.

        Returns
        -------
        (lower, upper)
            Each (n, K).
        """

    @abc.abstractmethod
    def sets(self, predictive: Any) -> Sets:
        """Which classes are in the set of each row.

        Parameters
        ----------
        predictive : PredictiveDistribution
            A predictive of classes.

        Returns
        -------
        array
            (n, C) of bool. The most probable class always is in the set, so that none is empty.
        """

    def __call__(self, predictive: Any) -> ConformalPredictive:
        self.check(predictive.likelihood, predictive.columns)
        shared: dict[str, Any] = shared_fields(predictive) | {"coverage": self.coverage}
        return ConformalPredictive(**shared, predictive=predictive, conformal=self)


def normal_scores(f: np.ndarray) -> np.ndarray:
    """Φ⁻¹ of a cdf's values, within ±REACH."""
    return np.clip(ndtri(f), -REACH, REACH)


@dataclass(frozen=True)
class RecalibratedMixture(Distribution):
    """The distribution with the cdf R(F(mean + (y − mean)/c)), for the F of a mixture.

    Parameters
    ----------
    mixture : DrawMixture
        The mixture before calibration.
    calibration : Quantiles
        The maps R and the factors c.
    """

    mixture: DrawMixture
    calibration: Any

    def supports(self, name: str) -> bool:
        return self.mixture.supports(name) and (name != "log_prob" or self.mixture.columns == 1)

    def components(self) -> None:
        return None

    @property
    def _factors(self) -> Float[np.ndarray, " targets"]:
        return np.array(self.calibration.factors)

    def _before(self, y: Values) -> Values:
        """Where y was before the distribution was widened."""
        center = self.mixture.mean
        return center + (y - center) / self._factors

    def _mapped(self, y: Values) -> tuple[Values, Values]:
        """R(F) and log dR/dF at values y from before."""
        f = self.mixture.cdf(y)
        u = normal_scores(f)
        v, slope = np.empty_like(u), np.empty_like(u)
        for k, (x, g) in enumerate(self.calibration.lines):
            v[:, k] = np.interp(u[:, k], x, g)
            slope[:, k] = (np.diff(g) / np.diff(x))[np.clip(np.searchsorted(x, u[:, k]) - 1, 0, len(x) - 2)]
        beyond, low = np.abs(u) >= REACH, u < 0
        part = np.where(low, f, 1 - f) / ndtr(-REACH)  # of the outermost 1e-7
        edge = log_ndtr(np.where(low, v, -v))
        outer = np.exp(edge) * part
        value = np.where(beyond, np.where(low, outer, 1 - outer), ndtr(v))
        return value, np.where(beyond, edge - log_ndtr(-REACH), np.log(slope) + 0.5 * (u**2 - v**2))

    def cdf(self, y: Values) -> Values:
        return self._mapped(self._before(y))[0]

    def log_density(self, y: Values) -> Float[np.ndarray, " rows"]:
        y, units = self._before(y), np.log(self.calibration.factors[0])
        return self._mapped(y)[1][:, 0] + self.mixture.log_density(y) - units

    def quantiles(self, q: Float[np.ndarray, " levels"]) -> Float[np.ndarray, "levels rows targets"]:
        v, found = ndtri(q), []
        for k, (x, g) in enumerate(self.calibration.lines):
            found.append(self.mixture.quantiles(ndtr(np.clip(np.interp(v, g, x), -REACH, REACH)))[..., k])
        center, before = self.mixture.mean, np.stack(found, axis=-1)
        return center + self._factors * (before - center)

    @cached_property
    def _moments(self) -> tuple[Values, Values]:
        """(mean from the center, variance) in the model's units, from the quantiles at NODES."""
        levels = (self.quantiles(ndtr(NODES)) - self.mixture.mean) / self.mixture.scale
        gap = np.einsum("q,qnk->nk", SHARES, levels)
        return gap, np.einsum("q,qnk->nk", SHARES, (levels - gap) ** 2)

    @property
    def mean(self) -> Values:
        return self.mixture.mean + self.mixture.scale * self._moments[0]

    @property
    def variances(self) -> tuple[Values, Values]:
        noise, epistemic = self.mixture.variances
        factor = self._moments[1] / (noise + epistemic)
        return factor * noise, factor * epistemic

    def sample(self, key: Key, n: int) -> Float[np.ndarray, "n rows targets"]:
        # draws from before calibration, each moved to where R takes its probability; F and its inverse are straight
        # lines between 161 quantiles of each row
        drawn, table = self.mixture.sample(key, n), self.mixture.quantiles(ndtr(FINE))
        for row, k in np.ndindex(drawn.shape[1:]):
            line, (x, g) = table[:, row, k], self.calibration.lines[k]
            u = np.interp(drawn[:, row, k], line, FINE)
            drawn[:, row, k] += np.interp(np.interp(u, g, x), FINE, line) - np.interp(u, FINE, line)
        center = self.mixture.mean
        return center + self._factors * (drawn - center)


@dataclass(frozen=True, repr=False)
class RecalibratedPredictive(CalibratedPredictive):
    """A predictive distribution with the calibrated cdf R(F(mean + (y − mean)/c)), from which everything else follows.

    Moments are sums over 25 quantiles; ``epistemic`` keeps its share of the variance, as rows alone
    do not tell which of the two was wrong. The density is that of one target: with several the map
    leaves the dependence open. Quantiles end where F is 1e-7 from 0 or 1.

    Parameters
    ----------
    predictive : Predictive
        The distribution before calibration, with cdf F.
    calibration : Quantiles
        The maps R and the factors c.
    """

    calibration: Any = field(kw_only=True)

    @property
    def distribution(self) -> RecalibratedMixture:
        return self.columnwise._distribution

    @cached_property
    def _distribution(self) -> RecalibratedMixture:
        return RecalibratedMixture(self.mixture, self.calibration)

    def _interval(self, coverage: float) -> tuple[Values, Values]:
        return equal_tailed(self, coverage)
