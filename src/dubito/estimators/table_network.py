"""The network for a table."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from dubito.models.networks import MLP, mlp
from dubito.tables.schema import Schema


def table_network(
    schema: Schema, outputs: int, recipe: Any, hidden: Any = None, activation: Any = None, periodic: int | None = None
) -> MLP:
    """The network for a table: of ``recipe`` (hidden, activation, periodic) where the method is the default, else (None)
    one layer of 50 rectified units; what is given comes first."""
    usual = ((50,), "relu", 0) if recipe is None else recipe
    if isinstance(hidden, str) or not (hidden is None or isinstance(hidden, Integral | Iterable)):
        raise ValueError(f"hidden is the width of a hidden layer or a sequence of widths, as (50, 50); got {hidden!r}")
    widths = (hidden,) if isinstance(hidden, Integral) else hidden
    return mlp(
        schema.width,
        usual[0] if widths is None else tuple(widths),
        outputs,
        usual[1] if activation is None else activation,
        periodic=usual[2] if periodic is None else periodic,
        numeric=schema.numeric,
        last_variance=1.0 if recipe is None else 0.1,
    )
