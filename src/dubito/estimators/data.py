"""The data of an estimator's fit: the target, and the checked rows."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from dubito.tables.scaling import TargetScaler
from dubito.training.data import Rows


class Target(NamedTuple):
    """What a fit knows about the target.

    Parameters
    ----------
    likelihood : the model's.
    scaler : standardizes the targets of a regression; None for classes.
    attributes : attributes of the estimator to set when the fit has succeeded.
    """

    likelihood: Any
    scaler: TargetScaler | None
    attributes: dict[str, Any]


def used_rows(
    x: Float[np.ndarray, "used width"], y: Shaped[np.ndarray, "used *targets"], weight: Float[np.ndarray, "rows"]
) -> Rows:
    """Checked rows as ``fit`` takes them, so that it does not check them again.

    Parameters
    ----------
    x, y : encoded inputs and targets of the rows with a weight above zero.
    weight : weights of all rows.
    """
    weight = weight[weight > 0]
    return Rows(x, y, weight, np.zeros_like(weight))
