"""What is read from a predictive distribution: equal-tailed intervals, and columns for a table."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from dubito._check import check_number


def equal_tailed(
    predictive: Any, coverage: float
) -> tuple[Float[np.ndarray, "rows *targets"], Float[np.ndarray, "rows *targets"]]:
    """The equal-tailed interval (lower, upper). Raises ValueError unless 0 < coverage < 1."""
    check_number("coverage", coverage, "(0, 1)")
    lower, upper = predictive.quantile([(1 - coverage) / 2, (1 + coverage) / 2])
    return lower, upper


def prediction_columns(predictive: Any, coverage: float = 0.9) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """The predictions of all rows, by the names that they have in a table.

    Parameters
    ----------
    predictive : PredictiveDistribution
        Of a regression or a classification.
    coverage : float
        The coverage of the interval of a regression.

    Returns
    -------
    dict
        For a regression mean, std, epistemic_std, aleatoric_std, lower and upper, whose names end in
        _0, _1, ... for several targets; for classes prediction, p_LABEL of each class, entropy and
        mutual_information.
    """
    if predictive.task == "regression":
        each = predictive.columnwise
        lower, upper = each.interval(coverage)
        found = {"mean": each.mean, "std": each.std, "epistemic_std": each.epistemic_std}
        found |= {"aleatoric_std": each.aleatoric_std, "lower": lower, "upper": upper}
        endings = [""] if each.columns == 1 else [f"_{k}" for k in range(each.columns)]
        return {f"{name}{ending}": value[:, k] for k, ending in enumerate(endings) for name, value in found.items()}
    probs = predictive.probs
    labels = np.arange(probs.shape[1]) if predictive.classes is None else np.asarray(predictive.classes)
    columns = {"prediction": labels[probs.argmax(1)]}
    columns |= {f"p_{label}": probs[:, place] for place, label in enumerate(labels.tolist())}
    return columns | {"entropy": predictive.entropy, "mutual_information": predictive.mutual_information}


def square(sd: np.ndarray) -> np.ndarray:
    """sd², ∞ where it overflows without a warning; 0 stays 0."""
    with np.errstate(over="ignore", under="ignore"):
        return sd**2
