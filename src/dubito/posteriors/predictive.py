"""The predictive distribution of draws of functions, in the target's own units, and the function that makes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from dubito._jax.types import ArrayLike, Inputs, Key
from dubito.posteriors.draw_mixture import DrawMixture
from dubito.posteriors.function_samples import Functions, draw_functions
from dubito.posteriors.predictive_base import PredictiveDistribution, Values
from dubito.posteriors.readings import equal_tailed

Unit: TypeAlias = float | Sequence[float] | ArrayLike


@dataclass(frozen=True, repr=False)
class Predictive(PredictiveDistribution):
    """A mixture over S draws: p(y) = (1/S) Σ p(y given z_s), never one density with averaged parameters.

    ``variance = aleatoric + epistemic``: noise in the data, and uncertainty about the weights.

    Parameters
    ----------
    likelihood, draws, shift, scale, description, classes, squeeze
        As for ``PredictiveDistribution``, which describes the shapes of the answers.
    """

    @property
    def mixture(self) -> DrawMixture:
        return self.columnwise._mixture

    @cached_property
    def _mixture(self) -> DrawMixture:
        return DrawMixture(self.likelihood, self.draws, self.shift, self.scale)

    @property
    def distribution(self) -> DrawMixture:
        return self.mixture

    def by_rows(self) -> Iterator["Predictive"]:
        return (replace(self, draws=draws) for draws in self.draws.by_rows())

    def _interval(self, coverage: float) -> tuple[Values, Values]:
        return equal_tailed(self, coverage)


def predict(
    posterior: Any,
    x: Inputs,
    *,
    key: Key,
    draws: int | None = None,
    shift: Unit = 0.0,
    scale: Unit = 1.0,
    description: str = "",
) -> Predictive:
    """The predictive distribution of a posterior at rows.

    The functions are evaluated at once if their values are few (2²⁴ numbers). Otherwise they are
    evaluated for every answer, and only moments and densities of some rows are held (for quantiles
    the values at 1,024 rows).

    Parameters
    ----------
    posterior : Posterior
        The posterior, or any object with a ``model`` and ``sample(key, n)``.
    x : array
        Rows (n, D); for a trained network of another framework whatever it takes, such as a dict of arrays.
    key : jax.Array
        Key of the random numbers: the same key gives the same functions for any rows.
    draws : int, optional
        How many parameters to draw; None enumerates a finite posterior and takes 100 draws of
        another.
    shift, scale : float, sequence of float or array
        (K,) or numbers: y in the user's units is shift + scale·(y in the model's units).
    description : str
        The method and the model, in words.

    Returns
    -------
    Predictive
        The distribution of each row.

    Raises
    ------
    ValueError
        For an invalid number of draws, and for a shift or scale of targets that are not
        standardized.
    """
    return predict_functions(draw_functions(posterior, key, draws), x, shift, scale, description)


def predict_functions(
    found: Functions, x: Inputs, shift: Unit = 0.0, scale: Unit = 1.0, description: str = "", classes: Any = None
) -> Predictive:
    """The predictive distribution of functions that were drawn before.

    Parameters
    ----------
    found : Functions
        The functions, from ``draw_functions``.
    x : array
        Rows (n, D).
    shift, scale : float, sequence of float or array
        As for ``predict``.
    description : str
        The method and the model, in words.
    classes : array, optional
        The labels of the classes, as for ``PredictiveDistribution``.

    Returns
    -------
    Predictive
        The distribution of each row.
    """
    likelihood, shift, scale = found.model.likelihood, np.asarray(shift, float), np.asarray(scale, float)
    if not likelihood.standardizes_targets and (np.any(shift != 0) or np.any(scale != 1)):
        raise ValueError(f"targets of {type(likelihood).__name__} are not standardized: shift must be 0 and scale 1")
    if likelihood.bounds[0] == 0 and np.any(shift != 0):
        raise ValueError(f"targets of {type(likelihood).__name__} are scaled but not shifted: shift must be 0")
    return Predictive(likelihood, found.at(x), shift, scale, description, classes)


def shared_fields(predictive: PredictiveDistribution) -> dict[str, Any]:
    """The fields that all predictive distributions have, by name, to wrap ``predictive`` in another."""
    return {field.name: vars(predictive)[field.name] for field in fields(PredictiveDistribution)}
