"""A check that predictions are finite, and the error that names the row otherwise."""

import numpy as np


class PredictionError(ValueError):
    """A prediction is not finite: the row is too far from the training data, or the model is
    damaged.

    Parameters
    ----------
    row : int
        Number of the row.
    """

    def __init__(self, row: int) -> None:
        problem = f"the prediction of row {row} is not finite. Its values may be too far from those of fit"
        ValueError.__init__(self, f"{problem}; if other rows fail, too, the model is damaged: fit it again.")
        self.row = row


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
