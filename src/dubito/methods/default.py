"""The estimators' default method."""

from typing import Any

from dubito.methods.ensembles.cross_fit import CrossFit
from dubito.methods.map import MaximumLikelihood
from dubito.training.method import Recipe

LARGE = 4000  # rows, from which a table is large
BATCH = {"regression": (32, 64), "classification": (64, 256)}  # of a small and a large table
EMA_EPOCHS = 3.0
# By the name of a likelihood that is asked for: the noise of cross-fitting, where it is not Student's t with σ(x).
CROSS_FIT_NOISE: dict[str, dict[str, Any]] = {
    "gaussian": {"noise": "constant", "df": None},
    "heteroscedastic": {"df": None},
}


def default_recipe(size: int, task: str = "regression") -> Recipe:
    """The network of the default, deeper for a large table; its epochs are those of ``default_method``.

    Parameters
    ----------
    size : int
        The number of rows.
    task : {"regression", "classification"}
        What is predicted.

    Returns
    -------
    Recipe
        The recipe.
    """
    if task == "classification":
        return Recipe((256, 256), "silu", last_variance=0.1)
    return Recipe((128,) * (3 if size >= LARGE else 2), "silu", 8, last_variance=0.1, wave_scale=0.3)


def default_method(size: int, task: str = "regression", likelihood: str | Any = None) -> CrossFit:
    """The cross-fitted ensemble that is best in the committed benchmark.

    A member sees about 300,000 rows in training (550,000 of a large table; 120,000 with classes,
    where dropout keeps it from overfitting), whatever the size, within limits. For regression it sees
    a tenth of that first, and up to three times as many, as long as the held-out curve gains.

    Parameters
    ----------
    size : int
        The number of rows.
    task : {"regression", "classification"}
        What is predicted.
    likelihood : str, optional
        The name of the likelihood, if it was asked for by name.

    Returns
    -------
    CrossFit
        A method for the estimators.

    Examples
    --------
    >>> import dubito
    >>> dubito.default_method(442).folds
    10
    """
    small = size < LARGE
    seen = 120_000 if task == "classification" else 300_000 if small else 550_000
    least, most = (100, 600) if small and task == "regression" else (20, 200)
    epochs = min(max(seen // size, least), most)
    member = MaximumLikelihood(
        epochs=epochs if task == "classification" else (max(epochs // 10, 1), epochs, 3 * epochs),
        batch_size=BATCH[task][not small],
        learning_rate=3e-3 if task == "classification" else 1e-2,
        clip=5.0,
        ema_epochs=EMA_EPOCHS if task == "regression" else None,
        dropout=0.2 if task == "classification" else None,
    )
    return CrossFit(member, 10, **(CROSS_FIT_NOISE.get(likelihood, {}) if isinstance(likelihood, str) else {}))
