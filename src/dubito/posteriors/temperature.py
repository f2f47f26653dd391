"""The temperature of class probabilities, from rows that were held out."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar


def best_temperature(log_probs, weight):
    """The T within e^±4 that minimizes −Σ w log p of held-out rows and of one row more, which could be of any class.

    ``log_probs(T)``: of each row log p(y) and the mean of log p(k) over all classes, (n,) each, in nats. Of N rows of two
    classes that are all right the row more leaves a doubt of 1/(2N + 2); without it T would go to 0.
    """

    def loss(log_temperature):
        own, of_any = log_probs(np.exp(log_temperature))
        return -weight @ own - np.average(of_any, weights=weight)

    return float(np.exp(minimize_bounded(loss, 4.0)))


def minimize_bounded(loss, reach):
    """Where a function of one number is least within ±reach."""
    found: Any = minimize_scalar(loss, bounds=(-reach, reach), method="bounded")
    return found.x
