"""The temperature of class probabilities, from held-out rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

MAX_LOG_TEMPERATURE = 4.0


def best_temperature(log_probs: Callable[[float], tuple[Any, Any]], weight: Float[np.ndarray, " rows"]) -> float:
    """The T within e^±4 that minimizes −Σ w log p over held-out rows and one pseudo-row of a uniform class.

    If all of N rows of two classes are predicted correctly, the pseudo-row leaves an error
    probability of 1/(2N + 2); without it T would go to 0.

    Parameters
    ----------
    log_probs : callable
        For a T, log p(y) of each row and the mean of log p(k) over all classes, (n,) each, in nats.
    weight : array
        Weights of the rows, (n,).

    Returns
    -------
    float
        T.
    """

    def loss(log_temperature: float) -> float:
        own, uniform = log_probs(np.exp(log_temperature))
        return -weight @ own - np.average(uniform, weights=weight)

    return float(np.exp(minimize_bounded(loss, MAX_LOG_TEMPERATURE)))


def minimize_bounded(loss: Callable[[float], Any], reach: float) -> float:
    """Where a function of one number is smallest within ±reach.

    Parameters
    ----------
    loss : callable
        The function.
    reach : float
        The bound on both sides.

    Returns
    -------
    float
        The minimizer.
    """
    found: Any = minimize_scalar(loss, bounds=(-reach, reach), method="bounded")
    return found.x
