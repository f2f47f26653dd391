"""All likelihoods that have a name, and what a likelihood says of targets that it cannot have
made.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dubito._check import did_you_mean, list_first
from dubito.models.likelihoods import classes, counts, gaussian, robust
from dubito.models.likelihoods.base import Entry, Likelihood

LIKELIHOODS: dict[str, Entry] = {
    "gaussian": gaussian.GAUSSIAN,
    "heteroscedastic": gaussian.HETEROSCEDASTIC,
    "student-t": robust.STUDENT_T,
    "laplace": robust.LAPLACE,
    "censored": gaussian.CENSORED,
    "poisson": counts.POISSON,
    "negative-binomial": counts.NEGATIVE_BINOMIAL,
    "bernoulli": classes.BERNOULLI,
    "categorical": classes.CATEGORICAL,
    "ordered": classes.ORDERED,
}


def get_likelihood(name: str, task: str | None = None) -> Entry:
    """The table's entry of a name.

    Raises
    ------
    ValueError
        If there is no such name, or its likelihood is not for the ``task``.
    """
    names = [each for each, entry in LIKELIHOODS.items() if task in (None, entry.task)]
    if name in names:
        return LIKELIHOODS[name]
    if name in LIKELIHOODS:
        raise ValueError(f"likelihood {name!r} is for {LIKELIHOODS[name].task}. Choose one of {', '.join(names)}.")
    raise ValueError(f"likelihood {name!r} is unknown{did_you_mean(name, names)} Choose one of {', '.join(names)}.")


def target_error(
    likelihood: Likelihood, y: Float[np.ndarray, "rows columns"], numbers: Int[np.ndarray, " rows"] | None = None
) -> str | None:
    """Why some rows of y cannot be targets of a likelihood for regression, in words; None if all
    can.

    Parameters
    ----------
    likelihood : Likelihood
        A likelihood for regression.
    y : array of shape (rows, columns)
        The targets, in their own units.
    numbers : array of shape (rows,), optional
        The numbers of the rows for the message; 0, 1, ... by default.
    """
    name, description = type(likelihood).__name__, likelihood.target_description
    if y.shape[1] != likelihood.columns:
        return (
            f"{name} for {likelihood.targets} target(s) takes {description}: y must have shape "
            f"(n, {likelihood.columns}), got {y.shape}"
        )
    bad: Any = np.flatnonzero(~likelihood.supports(y)) if likelihood.restricts_targets else ()
    if len(bad) == 0:
        return None
    rows = list_first(bad if numbers is None else np.asarray(numbers)[bad])
    first = ", ".join(f"{value:g}" for value in y[bad[0]])
    return f"{name} takes {description}; y is not that in row(s) {rows}: the first has {first}"
