"""The contracts of calibrations, and of the predictive distributions that they make, conformal ones in particular."""

import abc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool

from dubito.posteriors.draw_mixture import Distribution, DrawMixture, Values
from dubito.posteriors.predictive_base import PredictiveDistribution, shared_fields

Sets: TypeAlias = Bool[np.ndarray, "rows classes"]


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
        return self.conformal.interval(self.predictive.columnwise, coverage)


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
        return ConformalPredictive(**shared_fields(predictive), predictive=predictive, conformal=self)
