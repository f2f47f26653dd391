"""The predictive distribution of draws of functions, in the target's own units, and the function that makes it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dubito._jax.types import ArrayLike, Key
from dubito.posteriors.draw_mixture import DrawMixture
from dubito.posteriors.function_samples import Functions, draw_functions
from dubito.posteriors.predictive_base import PredictiveDistribution, equal_tailed


@dataclass(frozen=True, repr=False)
class Predictive(PredictiveDistribution):
    """A mixture over S draws: p(y) = (1/S) Σ p(y given z_s), never one density with averaged parameters.

    ``variance = aleatoric + epistemic``: noise in the data, and uncertainty about the weights. For its fields and the shapes of
    its answers see ``PredictiveDistribution``.
    """

    @cached_property
    def mixture(self) -> DrawMixture:
        if self.squeeze:
            return self.columnwise.mixture
        return DrawMixture(self.likelihood, self.draws, self.shift, self.scale)

    @property
    def columnwise(self) -> Any:
        return self._columnwise if self.squeeze else self

    @cached_property
    def _columnwise(self) -> Any:
        return replace(self, squeeze=False, classes=None)

    def by_rows(self) -> Iterator[Any]:
        return (replace(self, draws=draws) for draws in self.draws.by_rows())

    def supports(self, name: str) -> bool:
        return self.mixture.supports(name)

    def components(self) -> tuple[np.ndarray, np.ndarray] | None:
        found = self.mixture.components()
        return None if found is None else (self._squeezed(found[0]), self._squeezed(found[1]))

    def _mean(self) -> np.ndarray:
        return self.mixture.mean

    def _variances(self) -> tuple[np.ndarray, np.ndarray]:
        return self.mixture.moments[1], self.mixture.moments[2]

    def _log_density(self, y: np.ndarray) -> np.ndarray:
        return self.mixture.log_density(y)

    def _cdf(self, y: np.ndarray) -> np.ndarray:
        return self.mixture.cdf(y)

    def _quantiles(self, q: np.ndarray) -> np.ndarray:
        return self.mixture.quantiles(q)

    def _interval(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        return equal_tailed(self, coverage)

    def _sample(self, key: Key, n: int) -> np.ndarray:
        return self.mixture.sample(key, n)


def predict(
    posterior: Any,
    x: ArrayLike,
    *,
    key: Key,
    draws: int | None = None,
    shift: float | ArrayLike = 0.0,
    scale: float | ArrayLike = 1.0,
    description: str = "",
) -> Predictive:
    """The predictive distribution of a posterior at rows.

    The functions are evaluated at once where their values are few (2²⁴ numbers); else whenever something is asked, and
    only moments and densities of some rows are held then (quantiles: the values at 1,024 rows).

    Parameters
    ----------
    posterior
        A ``Posterior``, or an object with a ``model`` and ``sample(key, n)``.
    x
        Rows (n, D).
    key
        Key of the random numbers: the same key gives the same functions for any rows.
    draws
        How many parameters to draw; None enumerates a finite posterior and takes 100 draws of another.
    shift, scale
        (K,) or numbers: y in the user's units is shift + scale·(y in the model's units).
    description
        The method and the model, in words.
    """
    return predict_functions(draw_functions(posterior, key, draws), x, shift, scale, description)


def predict_functions(
    found: Functions,
    x: ArrayLike,
    shift: float | ArrayLike = 0.0,
    scale: float | ArrayLike = 1.0,
    description: str = "",
    classes: Any = None,
) -> Predictive:
    """The predictive distribution of functions that were drawn before; see ``predict``, and ``Predictive`` for ``classes``."""
    likelihood, shift, scale = found.model.likelihood, np.asarray(shift, float), np.asarray(scale, float)
    if not likelihood.standardizes_targets and (np.any(shift != 0) or np.any(scale != 1)):
        raise ValueError(
            f"the targets of {type(likelihood).__name__} have no other units: shift 0 and scale 1, no others"
        )
    return Predictive(likelihood, found.at(x), shift, scale, description, classes)
