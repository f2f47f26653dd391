"""The evidence log p(D) of a Normal approximation, and the scales of prior and noise that maximize it (MacKay 1992).

With the eigenvalues λ of S G S (see ``structures``), the prior's variance times u and the noise's precision times t, at a
point θ* and in nats:

    log p(D | u, t) ≈ log p(D | θ*, t) − ½ ‖θ*/S‖²/u − ½ Σ log(1 + u t λ).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

from dubito.models.likelihoods.base import LOG_2PI

LOG_RANGE = 25.0  # of the logarithms of u and t


class Noise(NamedTuple):
    """A Gaussian's learned precisions τ (K,) at the point, with the ``squares`` Σ w (y − f)² (K,) of ``size`` = Σ w rows, and
    their prior Gamma(shape, rate)."""

    tau: np.ndarray
    squares: np.ndarray
    size: float
    shape: float
    rate: float

    def gamma(self, determined: float) -> tuple[np.ndarray, np.ndarray]:
        """(shape, rate), each (K,), of the Gamma of τ when ``determined`` parameters are: as many rows less, half of them at most.

        No more than all can be determined, but a diagonal or Kronecker-factored Λ may count more, and τ would go to 0.
        """
        count = self.size - min(determined / len(self.tau), 0.5 * self.size)
        return np.full_like(self.squares, self.shape + 0.5 * count), self.rate + 0.5 * self.squares


@dataclass(frozen=True)
class Evidence:
    """What it depends on: ``values`` λ, ``norm`` ‖θ*/S‖², the log likelihood at θ*, a learned ``noise`` or None, and what the
    likelihood's other parameters add, in nats."""

    values: np.ndarray
    norm: float
    log_likelihood: float
    noise: Any
    own: float

    def determined(self, u: float, t: float) -> float:
        """γ = tr(G Λ⁻¹): how many parameters the data determine."""
        return float(np.sum(u * t * self.values / (1 + u * t * self.values)))

    def optimum(self, u: float | None = None) -> tuple[float, float]:
        """(u, t) of the maximum; with ``u`` given (u, t) of that over t. t is 1 if no noise is learned."""
        best, t = 1.0 if u is None else u, 1.0
        for _ in range(200):  # each in turn, which never lowers the evidence
            before = best, t
            if self.noise is not None:
                t = _root(lambda t, u=best: self._surplus(u, t))
            if u is None:
                best = _root(lambda u, t=t: u * self.determined(u, t) - self.norm)
            if max(abs(math.log(best / before[0])), abs(math.log(t / before[1]))) < 1e-10:
                break
        return best, t

    def _surplus(self, u, t):
        """−2 ∂ log p(D | u, t) p(τ)/∂ log t."""
        shape, rate = self.noise.gamma(self.determined(u, t))
        return 2 * float(np.sum(t * self.noise.tau * rate - shape))

    def log(self, u: float, t: float) -> float:
        """log p(D) in nats, a learned τ integrated over by the curvature in log τ."""
        values = u * t * self.values
        total = self.log_likelihood - 0.5 * self.norm / u - 0.5 * float(np.sum(np.log1p(values))) + self.own
        if self.noise is None:
            return total
        tau, squares, size, a, b = self.noise
        shape, rate = self.noise.gamma(self.determined(u, t))
        best = shape / rate
        total += float(np.sum(0.5 * size * np.log(best / tau) - 0.5 * (best - tau) * squares))
        prior = a * math.log(b) - math.lgamma(a) + a * np.log(best) - b * best
        second = shape + 0.5 * float(np.sum(values / (1 + values) ** 2)) / len(tau)
        return total + float(np.sum(prior + 0.5 * LOG_2PI - 0.5 * np.log(second)))


def _root(function):
    """Where an increasing function of a positive number is 0, or the end of the reach where it is nowhere."""
    if function(math.exp(-LOG_RANGE)) >= 0:
        return math.exp(-LOG_RANGE)
    if function(math.exp(LOG_RANGE)) <= 0:
        return math.exp(LOG_RANGE)
    found: Any = brentq(lambda log: function(math.exp(log)), -LOG_RANGE, LOG_RANGE, xtol=1e-12)
    return math.exp(found)
