"""The network for a table."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from dubito.models.networks import MLP, mlp
from dubito.tables.schema import Schema
from dubito.training.method import Recipe

INPUT_LIMIT = 10.0  # in standard deviations: training rows rarely say what lies farther away


def table_network(
    schema: Schema, outputs: int, recipe: Recipe, hidden: Any, activation: Any, periodic: int | None
) -> MLP:
    """The network for a table.

    Parameters
    ----------
    schema : Schema
        The table's columns.
    outputs : int
        Number of outputs.
    recipe : Recipe
        The method's.
    hidden, activation, periodic : object
        What the user has chosen instead; None for the recipe's.

    Returns
    -------
    MLP
        The network.
    """
    if isinstance(hidden, str) or not (hidden is None or isinstance(hidden, Integral | Iterable)):
        raise ValueError(f"hidden must be a width or a sequence of widths, such as (50, 50); got {hidden!r}")
    widths: Any = recipe.hidden if hidden is None else (hidden,) if isinstance(hidden, Integral) else tuple(hidden)
    return mlp(
        schema.width,
        widths,
        outputs,
        recipe.activation if activation is None else activation,
        periodic=recipe.periodic if periodic is None else periodic,
        numeric=schema.numeric,
        last_variance=recipe.last_variance,
        wave_scale=recipe.wave_scale,
        input_limit=INPUT_LIMIT,
    )
