"""A check that predictions are finite, the error that names the row otherwise, and the checked columns of a prediction."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from dubito.evaluation.conformal import ConformalPredictive
from dubito.posteriors.readings import prediction_columns


class PredictionError(ValueError):
    """A prediction is not finite: the row is too far from the training data, or the model is
    damaged.

    Parameters
    ----------
    row : int
        Number of the row.
    where : str
        Where the row is counted, for the message.
    """

    def __init__(self, row: int, where: str = "") -> None:
        problem = f"the prediction of row {row}{where} is not finite. Its values may be too far from those of fit"
        ValueError.__init__(self, f"{problem}; if other rows fail, too, the model is damaged: fit it again.")
        self.row, self.where = row, where

    def __reduce__(self) -> tuple[type["PredictionError"], tuple[int, str]]:
        return PredictionError, (self.row, self.where)


def check_predictions(values: np.ndarray, finite: bool = False) -> np.ndarray:
    """Check predictions.

    Parameters
    ----------
    values : array
        Predictions (rows, ...).
    finite : bool
        Whether infinities are an error, too.

    Returns
    -------
    array
        The predictions themselves.

    Raises
    ------
    PredictionError
        For the first row with a NaN, or with ``finite`` an infinity.
    """
    fine = np.isfinite(values) if finite else ~np.isnan(values)
    if not fine.all():
        raise PredictionError(int(np.argmin(fine.reshape(len(fine), -1).all(1))))
    return values


def checked_columns(predictive: Any, coverage: float = 0.9) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """The predictions of all rows, by the names that they have in a table, without NaN.

    Parameters
    ----------
    predictive : PredictiveDistribution
        Of a regression or a classification.
    coverage : float
        The coverage of the interval of a regression.

    Returns
    -------
    dict
        The ``prediction_columns``; conformal sets of classes are further columns, set_LABEL.

    Raises
    ------
    PredictionError
        For the first row with a NaN.
    """
    found: dict[str, Any] = prediction_columns(predictive, coverage)
    columns = {name: value if name == "prediction" else check_predictions(value) for name, value in found.items()}
    if isinstance(predictive, ConformalPredictive) and predictive.task == "classification":
        columns |= {f"set_{label}": predictive.sets[:, place] for place, label in enumerate(predictive.classes)}
    return columns
