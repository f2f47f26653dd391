"""Parameters as flat vectors, so that arithmetic on each of their numbers is one kernel and not one for each leaf.

The loop packs what descends; a method unpacks it where it calls a network. Sums over all parameters are written with
``jax.tree.map`` and hold for packed and for plain trees.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params

SMALL = 2**15  # parameters: larger trees stay as they are


@register_dataclass
@dataclass(frozen=True)
class FlatParams:
    """A tree of small arrays as one vector.

    It is kept as such from step to step: where leaves are concatenated in the midst of arithmetic, XLA's kernel looks up
    for every number which leaf it is of.

    Attributes
    ----------
    values : (P,) array
        The leaves, one after another.
    tree : PyTreeDef
    shapes : tuple of tuple
        The shape of each leaf.
    """

    values: jax.Array
    tree: Any = static()
    shapes: tuple = static()


def pack(params: Params) -> Params:
    """``params`` for training: {"network": θ, "likelihood": φ, ...}, or a dict of such, with each part as ``FlatParams``.

    A part of more than 32,768 numbers, of one leaf or of several dtypes stays as it is.
    """
    if not isinstance(params, dict):
        return params
    part = _flat if "network" in params else pack
    return {name: part(value) for name, value in params.items()}


def _flat(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) < 2 or sum(leaf.size for leaf in leaves) > SMALL or len({leaf.dtype for leaf in leaves}) > 1:
        return tree
    values = jnp.concatenate([leaf.ravel() for leaf in leaves])
    return FlatParams(values, structure, tuple(leaf.shape for leaf in leaves))


def pack_like(tree: Any, other: Any) -> Any:
    """``tree`` as ``FlatParams`` where ``other``, of the same structure, is one."""
    return _flat(tree) if isinstance(other, FlatParams) else tree


def unpack(params: Any) -> Any:
    """``params`` with every ``FlatParams`` in it as the tree that it was made of."""
    return jax.tree.map(lambda part: _tree(part) if _is_flat(part) else part, params, is_leaf=_is_flat)


def _tree(flat: FlatParams) -> Any:
    ends = np.cumsum([math.prod(shape) for shape in flat.shapes])
    leaves = jnp.split(flat.values, ends[:-1])
    return flat.tree.unflatten([leaf.reshape(shape) for leaf, shape in zip(leaves, flat.shapes, strict=True)])


def _is_flat(part: Any) -> bool:
    return isinstance(part, FlatParams)
