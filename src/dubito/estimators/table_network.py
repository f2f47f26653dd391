"""The network for a table."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any, TypeAlias

from dubito.models.networks import MLP, mlp
from dubito.tables.schema import Schema

DefaultNetwork: TypeAlias = tuple[tuple[int, ...], str, int]  # hidden, activation, periodic


def table_network(
    schema: Schema, outputs: int, default: DefaultNetwork | None, hidden: Any, activation: Any, periodic: int | None
) -> MLP:
    """The network for a table.

    Parameters
    ----------
    schema : Schema
        The table's columns.
    outputs : int
        Number of outputs.
    default : tuple, optional
        Hidden widths, activation and periodic of the default method. None, for other methods, is
        one layer of 50 rectified units.
    hidden, activation, periodic : object
        What the user has chosen instead; None for the default.

    Returns
    -------
    MLP
        The network.
    """
    if isinstance(hidden, str) or not (hidden is None or isinstance(hidden, Integral | Iterable)):
        raise ValueError(f"hidden must be a width or a sequence of widths, such as (50, 50); got {hidden!r}")
    widths, name, frequencies = ((50,), "relu", 0) if default is None else default
    if hidden is not None:
        widths: Any = (hidden,) if isinstance(hidden, Integral) else tuple(hidden)
    name, frequencies = name if activation is None else activation, frequencies if periodic is None else periodic
    options: Any = {"numeric": schema.numeric, "last_variance": 1.0 if default is None else 0.1}
    return mlp(schema.width, widths, outputs, name, periodic=frequencies, **options)
