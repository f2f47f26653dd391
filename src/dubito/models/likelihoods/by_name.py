"""All likelihoods by name, and what concerns their targets: the message about those that are not accepted, and rounding."""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dubito._check import did_you_mean, in_rows
from dubito.models.likelihoods.base import Entry, Likelihood

# To name a likelihood, describe it by an ``Entry`` in the dictionary ``ENTRIES`` of its file, and add the file here.
FILES = ("gaussian", "robust", "positive", "shares", "counts", "classes")
ALIASES = {"log-normal": "lognormal", "zip": "zero-inflated-poisson", "zinb": "zero-inflated-negative-binomial"}

LIKELIHOODS: dict[str, Entry] = {
    name: entry
    for file in FILES
    for name, entry in importlib.import_module(f"dubito.models.likelihoods.{file}").ENTRIES.items()
}


def get_likelihood(name: str, task: str | None = None) -> Entry:
    """Look up a likelihood.

    Parameters
    ----------
    name : str
        A name in ``LIKELIHOODS`` or ``ALIASES``.
    task : str, optional
        ``"regression"`` or ``"classification"``, if it must be for that task.

    Returns
    -------
    Entry
        The likelihood and its description.

    Raises
    ------
    ValueError
        If the name is unknown, or its likelihood is for the other task.
    """
    name = ALIASES.get(name, name)
    names = [each for each, entry in LIKELIHOODS.items() if task in (None, entry.task)]
    if name in names:
        return LIKELIHOODS[name]
    if name in LIKELIHOODS:
        raise ValueError(f"likelihood {name!r} is for {LIKELIHOODS[name].task}. Choose one of {', '.join(names)}.")
    raise ValueError(f"likelihood {name!r} is unknown{did_you_mean(name, names)} Choose one of {', '.join(names)}.")


def target_error(
    likelihood: Likelihood, y: Float[np.ndarray, "rows columns"], numbers: Int[np.ndarray, " rows"] | None = None
) -> str | None:
    """Explain why a likelihood for regression does not accept some rows of y.

    Parameters
    ----------
    likelihood : Likelihood
        A likelihood for regression.
    y : array of shape (rows, columns)
        The targets in their original units.
    numbers : array of shape (rows,), optional
        The numbers of the rows for the message; 0, 1, ... by default.

    Returns
    -------
    str or None
        The message, or None if all rows are accepted.
    """
    name, description = type(likelihood).__name__, likelihood.target_description
    if y.shape[1] != likelihood.columns:
        return (
            f"{name}(targets={likelihood.targets}) takes {description}: y must have shape "
            f"(n, {likelihood.columns}), got {y.shape}"
        )
    numbers = np.arange(len(y)) if numbers is None else np.asarray(numbers)
    missing = np.isnan(y)
    if missing.any() and not (likelihood.independent_targets and likelihood.targets > 1):
        where = in_rows(missing.any(axis=1), numbers)
        return f"{name} needs all targets of every row; y has missing ones, {where}. Leave these rows out"
    filled = np.where(missing, likelihood.possible_target, y)
    bad: Any = ~np.asarray(likelihood.supports(filled)) if likelihood.restricts_targets else np.zeros(len(y), bool)
    if not bad.any():
        return None
    first = ", ".join(f"{value:g}" for value in y[bad.argmax()])
    return f"{name} takes {description}; y has other values, {in_rows(bad, numbers)}: the first has {first}"


def round_to_float32(likelihood: Likelihood, y: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """y in float32; shares that it would round to 1 become the largest number below 1.

    Parameters
    ----------
    likelihood : Likelihood
        The distribution of the values.
    y : array
        Numbers.

    Returns
    -------
    float32 array
        The same shape.
    """
    with np.errstate(over="ignore"):
        near = np.asarray(y).astype(np.float32)
    return np.where((y < 1) & (near >= 1), np.float32(1 - 2**-24), near) if likelihood.bounds[1] == 1 else near
