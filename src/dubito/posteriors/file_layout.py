"""What a model file holds of a posterior.

The shapes of its arrays follow from the model and a few numbers; the other fields are given.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from dubito._jax.types import Params
from dubito._process.archive import expect

LARGEST_SIDE = 10_000  # rows of a dense matrix in a model file


class FileLayout(NamedTuple):
    """The contents of a posterior in a model file, beside its model and its parts.

    Attributes
    ----------
    arrays : dict
        For each field of arrays a tree of ``jax.ShapeDtypeStruct``.
    fields : dict
        The values of all other fields, by name.
    """

    arrays: dict[str, Params]
    fields: dict[str, Any]


def float32_shape(*shape: int) -> jax.ShapeDtypeStruct:
    """The shape and type of a float32 array."""
    return jax.ShapeDtypeStruct(shape, np.float32)


def stacked_shapes(params: Params, count: int) -> Params:
    """The shapes of a tree of arrays with a leading axis of length ``count``."""
    return jax.tree.map(lambda leaf: float32_shape(count, *leaf.shape), params)


def check_positive(values: dict[str, Any], name: str) -> int:
    """The whole number ``values[name]``. Raises ModelFileError unless it is at least 1."""
    expect(type(values[name]) is int and values[name] > 0, f"{values[name]!r} {name}, at least 1 is needed")
    return values[name]
