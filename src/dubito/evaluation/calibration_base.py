"""The contract of calibrations: maps, learned from held-out rows, from predictive distributions to calibrated ones."""

import abc
from typing import Any

from dubito.posteriors.predictive_base import PredictiveDistribution


class Calibration(abc.ABC):
    """A calibration. Subclasses are frozen dataclasses of plain numbers, texts and tuples, which a model file can hold."""

    @abc.abstractmethod
    def check(self, likelihood: Any, columns: int) -> None:
        """Raise ValueError unless this calibration is possible for a likelihood.

        Parameters
        ----------
        likelihood
            The likelihood of the predictive distributions to be calibrated.
        columns
            How many targets or classes they have.
        """

    @abc.abstractmethod
    def __call__(self, predictive: Any) -> PredictiveDistribution:
        """The calibrated distribution. Raises ValueError where the calibration is for another kind of predictive."""
