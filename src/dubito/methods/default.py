"""The method that estimators use unless told otherwise."""

from typing import Any

from dubito.methods.ensembles.cross_fit import CrossFit
from dubito.methods.map import MaximumLikelihood

# What a likelihood asked for by name says of the noise that cross-fitting finds, where that is not Student's of each row.
CROSS_FIT_NOISE: dict[str, dict[str, Any]] = {
    "gaussian": {"noise": "constant", "df": None},
    "heteroscedastic": {"df": None},
}


def default_method(size: int, task: str = "regression", likelihood: str | Any = None) -> CrossFit:
    """The cross-fitted ensemble that the committed benchmark shows best.

    A member sees some 300,000 rows in training (550,000 of a large table; 120,000 with classes, where dropout keeps it
    from overfitting), whatever the size, within limits.

    Parameters
    ----------
    size : int
        The number of rows.
    task : {"regression", "classification"}
    likelihood : str, optional
        Its name, if it was asked for by name.

    Returns
    -------
    CrossFit
    """
    small = size < 4000
    seen = 120_000 if task == "classification" else 300_000 if small else 550_000
    least, most = (100, 600) if small and task == "regression" else (20, 200)
    member = MaximumLikelihood(
        epochs=min(max(seen // size, least), most),
        batch_size=64 if small else 256,
        learning_rate=3e-3 if task == "classification" else 1e-2,
        clip=5.0,
        dropout=0.2 if task == "classification" else None,
    )
    return CrossFit(member, 10, **(CROSS_FIT_NOISE.get(likelihood, {}) if isinstance(likelihood, str) else {}))
