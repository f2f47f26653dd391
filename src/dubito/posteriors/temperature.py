"""The temperature of class probabilities, from rows that were held out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar


def best_temperature(log_probs: Callable[[float], tuple[Any, Any]], weight: np.ndarray) -> float:
    """The T within e^±4 that minimizes −Σ w log p of held-out rows and of one more row, which could be of any class.

    Of N rows of two classes that are all predicted correctly the additional row leaves a probability of 1/(2N + 2) for the other
    class; without it T would go to 0.

    Parameters
    ----------
    log_probs
        For a T, log p(y) of each row and the mean of log p(k) over all classes, (n,) each, in nats.
    weight
        Weights of the rows, (n,).
    """

    def loss(log_temperature):
        own, of_any = log_probs(np.exp(log_temperature))
        return -weight @ own - np.average(of_any, weights=weight)

    return float(np.exp(minimize_bounded(loss, 4.0)))


def minimize_bounded(loss: Callable[[float], Any], reach: float) -> float:
    """Where a function of one number is least within ±reach."""
    found: Any = minimize_scalar(loss, bounds=(-reach, reach), method="bounded")
    return found.x
