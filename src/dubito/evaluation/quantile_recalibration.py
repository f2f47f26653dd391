"""A predictive whose cdf is sent through a rising map: quantiles, density, moments and draws that follow from that."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from dubito.posteriors.predictive import Predictive

REACH = 5.2  # normal score of the probability 1e-7: float32 hardly tells a larger cdf from 1
NODES = np.linspace(-4, 4, 25)  # normal scores at which moments are summed; beyond, quantiles are slow to find
SHARES = np.exp(-0.5 * NODES**2)
SHARES[[0, -1]] = (
    np.sum(SHARES[1:-1] * (1 - NODES[1:-1] ** 2)) / 30
)  # then ΣSHARES·(NODES² − 1) = 0: right for a Gaussian
SHARES /= SHARES.sum()
FINE = np.linspace(-4, 4, 161)  # normal scores between which draws are moved along straight lines


def scores(f):
    """Φ⁻¹ of a cdf's values, within ±REACH."""
    return np.clip(ndtri(f), -REACH, REACH)


@dataclass(frozen=True, repr=False)
class RecalibratedPredictive(Predictive):
    """A predictive whose cdf R(F(mean + (y − mean)/c)) is calibrated; everything else follows from that.

    Moments are sums over 25 quantiles; ``epistemic`` keeps its share of the variance, as rows alone do not tell which of the
    two was wrong. The density is that of one target: of several the map leaves the dependence open. Quantiles end where F
    is 1e-7 from 0 or 1.
    """

    calibration: Any = None

    def offers(self, name):
        return Predictive.offers(self, name) and (name != "log_prob" or self.columns == 1)

    @property
    def _center(self):
        return self.shift + self.scale * self._moments[0]

    def _before(self, y):
        """Where y was before the distribution was widened."""
        return self._center + (y - self._center) / np.array(self.calibration.factors)

    def _mapped(self, y):
        """R(F) and log dR/dF at values y (n, K) from before, each (n, K)."""
        f = Predictive._cumulative(self, y)
        u = scores(f)
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

    def _need(self, name):
        if name == "log_prob" and self.columns != 1:
            raise ValueError(
                f"recalibrated quantiles of {self.columns} targets have no joint density, only of one target"
            )
        Predictive._need(self, name)

    def _cumulative(self, y):
        return self._mapped(self._before(y))[0]

    def _log_density(self, y):
        y, units = self._before(y), np.log(self.calibration.factors[0])
        return self._mapped(y)[1][:, 0] + Predictive._log_density(self, y) - units

    def _quantiles(self, q):
        v = ndtri(q)
        found = []
        for k, (x, g) in enumerate(self.calibration.lines):
            u = np.clip(np.interp(v, g, x), -REACH, REACH)
            found.append(Predictive._quantiles(self, ndtr(u))[..., k])
        before = np.stack(found, axis=-1)
        return self._center + np.array(self.calibration.factors) * (before - self._center)

    def components(self):
        return None

    @cached_property
    def _levels(self):
        """The quantiles at the normal scores NODES from the center, (25, n, K), in the model's units."""
        return (self._quantiles(ndtr(NODES)) - self._center) / self.scale

    @cached_property
    def _gap(self):
        """The mean from the center, (n, K), in the model's units."""
        return np.einsum("q,qnk->nk", SHARES, self._levels)

    @cached_property
    def _mean(self) -> Any:
        return self._center + self.scale * self._gap

    @cached_property
    def _factor(self):
        """The variance over what it was, (n, K)."""
        variance = np.einsum("q,qnk->nk", SHARES, (self._levels - self._gap) ** 2)
        return variance / (self._moments[1] + self._moments[2])

    @property
    def _noise(self):
        return self._factor * self._moments[1]

    @property
    def _doubt(self):
        return self._factor * self._moments[2]

    def _sample(self, key, n):
        """n joint draws of y, (n, rows, K): those of the predictive as it was, each moved to where R takes its probability.

        F and its inverse are straight lines between 161 quantiles of each row.
        """
        drawn, table = Predictive._sample(self, key, n), Predictive._quantiles(self, ndtr(FINE))
        for row, k in np.ndindex(drawn.shape[1:]):
            line, (x, g) = table[:, row, k], self.calibration.lines[k]
            u = np.interp(drawn[:, row, k], line, FINE)
            drawn[:, row, k] += np.interp(np.interp(u, g, x), FINE, line) - np.interp(u, FINE, line)
        return self._center + np.array(self.calibration.factors) * (drawn - self._center)
