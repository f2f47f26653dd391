"""A predictive distribution whose cdf is mapped by an increasing function, and the quantiles, density, moments and draws of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, ndtr, ndtri

from dubito._jax.types import Key
from dubito.posteriors.draw_mixture import DrawMixture
from dubito.posteriors.predictive import Predictive
from dubito.posteriors.predictive_base import PredictiveDistribution, equal_tailed

REACH = 5.2  # normal score of the probability 1e-7: float32 hardly tells a larger cdf from 1
NODES = np.linspace(-4, 4, 25)  # normal scores at which moments are summed; beyond, quantiles are slow to find
SHARES = np.exp(-0.5 * NODES**2)
SHARES[[0, -1]] = (
    np.sum(SHARES[1:-1] * (1 - NODES[1:-1] ** 2)) / 30
)  # then ΣSHARES·(NODES² − 1) = 0: right for a Gaussian
SHARES /= SHARES.sum()
FINE = np.linspace(-4, 4, 161)  # normal scores between which draws are moved along straight lines


def normal_scores(f: np.ndarray) -> np.ndarray:
    """Φ⁻¹ of a cdf's values, within ±REACH."""
    return np.clip(ndtri(f), -REACH, REACH)


@dataclass(frozen=True, repr=False)
class RecalibratedPredictive(PredictiveDistribution):
    """A predictive distribution with the calibrated cdf R(F(mean + (y − mean)/c)); everything else follows from that.

    Moments are sums over 25 quantiles; ``epistemic`` keeps its share of the variance, as rows alone do not tell which of the
    two was wrong. The density is that of one target: with several the map leaves the dependence open. Quantiles end where F
    is 1e-7 from 0 or 1.

    Parameters
    ----------
    predictive
        The distribution before calibration, with cdf F.
    calibration
        The ``Quantiles`` with the maps R and the factors c.
    """

    predictive: Predictive = field(kw_only=True)
    calibration: Any = field(kw_only=True)

    @property
    def mixture(self) -> DrawMixture:
        return self.predictive.mixture

    @property
    def columnwise(self) -> Any:
        return self._columnwise if self.squeeze else self

    @cached_property
    def _columnwise(self) -> Any:
        return replace(self, squeeze=False, classes=None)

    def by_rows(self) -> Iterator[Any]:
        return (replace(self, draws=part.draws, predictive=part) for part in self.predictive.by_rows())

    def supports(self, name: str) -> bool:
        return self.mixture.supports(name) and (name != "log_prob" or self.columns == 1)

    def components(self) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    @property
    def _factors(self) -> Float[np.ndarray, "targets"]:
        return np.array(self.calibration.factors)

    def _before(self, y: np.ndarray) -> np.ndarray:
        """Where y was before the distribution was widened."""
        center = self.mixture.mean
        return center + (y - center) / self._factors

    def _mapped(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """R(F) and log dR/dF at values y (n, K) from before, each (n, K)."""
        f = self.mixture.cdf(y)
        u = normal_scores(f)
        v, slope = np.empty_like(u), np.empty_like(u)
        for k, (x, g) in enumerate(self.calibration.lines):
            v[:, k] = np.interp(u[:, k], x, g)
            slope[:, k] = (np.diff(g) / np.diff(x))[np.clip(np.searchsorted(x, u[:, k]) - 1, 0, len(x) - 2)]
        outside, low = np.abs(u) >= REACH, u < 0
        part = np.where(low, f, 1 - f) / ndtr(-REACH)  # of the outermost 1e-7
        edge = log_ndtr(np.where(low, v, -v))
        outer = np.exp(edge) * part
        value = np.where(outside, np.where(low, outer, 1 - outer), ndtr(v))
        return value, np.where(outside, edge - log_ndtr(-REACH), np.log(slope) + 0.5 * (u**2 - v**2))

    def _cdf(self, y: np.ndarray) -> np.ndarray:
        return self._mapped(self._before(y))[0]

    def _log_density(self, y: np.ndarray) -> np.ndarray:
        y, units = self._before(y), np.log(self.calibration.factors[0])
        return self._mapped(y)[1][:, 0] + self.mixture.log_density(y) - units

    def _quantiles(self, q: np.ndarray) -> np.ndarray:
        v = ndtri(q)
        found = []
        for k, (x, g) in enumerate(self.calibration.lines):
            u = np.clip(np.interp(v, g, x), -REACH, REACH)
            found.append(self.mixture.quantiles(ndtr(u))[..., k])
        center, before = self.mixture.mean, np.stack(found, axis=-1)
        return center + self._factors * (before - center)

    def _interval(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        return equal_tailed(self, coverage)

    @cached_property
    def _levels(self) -> Float[np.ndarray, "nodes rows targets"]:
        """The quantiles at the normal scores NODES from the center, in the model's units."""
        return (self._quantiles(ndtr(NODES)) - self.mixture.mean) / self.scale

    @cached_property
    def _gap(self) -> Float[np.ndarray, "rows targets"]:
        """The mean from the center, in the model's units."""
        return np.einsum("q,qnk->nk", SHARES, self._levels)

    def _mean(self) -> np.ndarray:
        return self.mixture.mean + self.scale * self._gap

    @cached_property
    def _variance_factor(self) -> Float[np.ndarray, "rows targets"]:
        """The variance over what it was."""
        variance = np.einsum("q,qnk->nk", SHARES, (self._levels - self._gap) ** 2)
        return variance / (self.mixture.moments[1] + self.mixture.moments[2])

    def _variances(self) -> tuple[np.ndarray, np.ndarray]:
        return self._variance_factor * self.mixture.moments[1], self._variance_factor * self.mixture.moments[2]

    def _sample(self, key: Key, n: int) -> np.ndarray:
        """n joint draws of y, (n, rows, K): those from before calibration, each moved to where R takes its probability.

        F and its inverse are straight lines between 161 quantiles of each row.
        """
        drawn, table = self.mixture.sample(key, n), self.mixture.quantiles(ndtr(FINE))
        for row, k in np.ndindex(drawn.shape[1:]):
            line, (x, g) = table[:, row, k], self.calibration.lines[k]
            u = np.interp(drawn[:, row, k], line, FINE)
            drawn[:, row, k] += np.interp(np.interp(u, g, x), FINE, line) - np.interp(u, FINE, line)
        center = self.mixture.mean
        return center + self._factors * (drawn - center)
