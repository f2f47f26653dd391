"""The epistemic uncertainty that rows of the fit's own kind have: a quantile over held-out rows.

Where more than one row in a hundred is above it, the rows are unlike those of the fit, or at least more uncertain.
"""

import numpy as np
from jaxtyping import Float, Int

from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.training.data import Rows

QUANTILE = 0.99
MOST_ROWS = 2048  # whose predictions a fit reads; the quantile of more is hardly more precise


def epistemic_uncertainty(predictive: PredictiveDistribution) -> Float[np.ndarray, "rows columns"]:
    """The epistemic uncertainty of each row, as the columns of a prediction have it.

    Parameters
    ----------
    predictive : PredictiveDistribution
        Of a regression or a classification.

    Returns
    -------
    array
        Of a regression the epistemic standard deviation of each target, in its unit; of classes, in one
        column, the mutual information of the class and the weights, in nats.
    """
    if predictive.task == "regression":
        return predictive.columnwise.epistemic_std
    return predictive.mutual_information[:, None]


def uncertainty_quantile(predictive: PredictiveDistribution) -> Float[np.ndarray, " columns"] | None:
    """The 99 % quantile of the ``epistemic_uncertainty`` of held-out rows.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of the rows.

    Returns
    -------
    array or None
        One number for each target, one for classes; None without rows, with a single draw of the
        weights, which has no epistemic uncertainty, and where it is not finite.
    """
    if len(predictive) == 0 or len(predictive.draws) < 2:
        return None
    with np.errstate(all="ignore"):
        found = np.quantile(epistemic_uncertainty(predictive), QUANTILE, axis=0, method="higher")
    return found.astype(float) if np.all(np.isfinite(found)) else None


def rows_to_read(rows: Rows, folds: bool) -> Int[np.ndarray, " n"]:
    """The rows of a fit whose uncertainty is that of held-out rows, evenly chosen if they are many.

    Parameters
    ----------
    rows : Rows
        The rows of the fit.
    folds : bool
        Whether each part of the method held out a fold of them; then all rows were held out by some.

    Returns
    -------
    array
        Their numbers.
    """
    held_out = rows.train > 0 if folds else (rows.valid > 0) & (rows.train == 0)
    found = np.flatnonzero(held_out)
    return found if len(found) <= MOST_ROWS else found[np.linspace(0, len(found) - 1, MOST_ROWS).astype(int)]
