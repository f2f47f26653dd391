"""A check that predictions are finite, and the error that names the row otherwise."""

import numpy as np


class PredictionError(ValueError):
    """A row's prediction is not finite: its values are too far from those of ``fit``, or the model is damaged.

    Parameters
    ----------
    row : number of the row.
    """

    def __init__(self, row: int):
        ValueError.__init__(
            self,
            f"the prediction of row {row} is not finite. Its values may be too far from those of fit; if other rows fail, "
            "too, the model is damaged: fit it again.",
        )
        self.row = row


def check_predictions(values: np.ndarray, finite: bool = False) -> np.ndarray:
    """The predictions (rows, ...) themselves.

    Raises
    ------
    PredictionError
        For the first row with a NaN, or with ``finite`` also with an infinity.
    """
    fine = np.isfinite(values) if finite else ~np.isnan(values)
    if not fine.all():
        raise PredictionError(int(np.argmin(fine.reshape(len(fine), -1).all(1))))
    return values
