"""The evidence log p(D) of a Normal approximation, and the scales of prior and noise that maximize it (MacKay 1992).

With the eigenvalues λ of S G S (see ``structures``), the prior's variance times u and the noise's
precision times t, at a point θ* and in nats:

    log p(D | u, t) ≈ log p(D | θ*, t) − ½ ‖θ*/S‖²/u − ½ Σ log(1 + u t λ).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from dubito.models.likelihoods.base import LOG_2PI

LOG_RANGE = 25.0  # of the logarithms of u and t

Targets: TypeAlias = Float[np.ndarray, " K"]


class Noise(NamedTuple):
    """A Gaussian's learned precisions at the point, and their prior.

    Attributes
    ----------
    tau, squares : array of shape (K,)
        τ, and Σ w (y − f)² over the rows.
    size : float
        Σ w.
    shape, rate : float
        Of the prior Gamma(shape, rate) of τ.
    """

    tau: Targets
    squares: Targets
    size: float
    shape: float
    rate: float

    def gamma(self, determined: float) -> tuple[Targets, Targets]:
        """The Gamma of τ, given the number of parameters that the data determine.

        Each determined parameter reduces the number of rows by one, down to half of them: a
        diagonal or Kronecker-factored Λ may count more parameters than there are rows, and τ would
        go to 0.

        Parameters
        ----------
        determined : float
            γ.

        Returns
        -------
        two arrays of shape (K,)
            Shape and rate.
        """
        count = self.size - min(determined / len(self.tau), 0.5 * self.size)
        return np.full_like(self.squares, self.shape + 0.5 * count), self.rate + 0.5 * self.squares


@dataclass(frozen=True)
class Evidence:
    """log p(D) as a function of the scales of prior and noise.

    Attributes
    ----------
    values : array of shape (P,)
        λ.
    norm : float
        ‖θ*/S‖².
    log_likelihood : float
        log p(D | θ*), in nats.
    noise : Noise or None
        The noise of a Gaussian that learns its precision.
    own : float
        The term of the likelihood's other parameters, in nats.
    """

    values: Float[np.ndarray, " P"]
    norm: float
    log_likelihood: float
    noise: Noise | None
    own: float

    def determined(self, u: float, t: float) -> float:
        """γ = tr(G Λ⁻¹), the number of parameters that the data determine.

        Parameters
        ----------
        u, t : float
            The factors of the prior's variance and of the noise's precision.

        Returns
        -------
        float
            Between 0 and P.
        """
        return float(np.sum(u * t * self.values / (1 + u * t * self.values)))

    def optimum(self, u: float | None = None) -> tuple[float, float]:
        """The maximum of the evidence.

        Parameters
        ----------
        u : float, optional
            A given factor of the prior's variance; then the maximum is over t only.

        Returns
        -------
        two floats
            u and t; t is 1 if no noise is learned.
        """
        best, t = 1.0 if u is None else u, 1.0
        for _ in range(200):  # each in turn, which never lowers the evidence
            before = best, t
            if self.noise is not None:
                t = _root(partial(self._surplus, best, self.noise))
            if u is None:
                best = _root(lambda u, t=t: u * self.determined(u, t) - self.norm)
            if max(abs(math.log(best / before[0])), abs(math.log(t / before[1]))) < 1e-10:
                break
        return best, t

    def _surplus(self, u: float, noise: Noise, t: float) -> float:
        """−2 ∂ log p(D | u, t) p(τ)/∂ log t."""
        shape, rate = noise.gamma(self.determined(u, t))
        return 2 * float(np.sum(t * noise.tau * rate - shape))

    def log(self, u: float, t: float) -> float:
        """log p(D | u, t), with a learned τ integrated out by Laplace in log τ.

        Parameters
        ----------
        u, t : float
            The factors of the prior's variance and of the noise's precision.

        Returns
        -------
        float
            In nats.
        """
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


def _root(function: Callable[[float], float]) -> float:
    """The root of an increasing function of a positive number, or the end of the range if it has none there."""
    low, high = math.exp(-LOG_RANGE), math.exp(LOG_RANGE)
    if function(low) >= 0:
        return low
    if function(high) <= 0:
        return high
    found: Any = brentq(lambda log: function(math.exp(log)), -LOG_RANGE, LOG_RANGE, xtol=1e-12)
    return math.exp(found)
