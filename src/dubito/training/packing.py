"""Parameters as flat vectors, so that elementwise arithmetic is one kernel instead of one per leaf.

The loop packs the parameters; a method unpacks them to call a network. Sums over all parameters use
``jax.tree.map``, which is right for packed and for plain trees.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params

PACKED_PARAMETERS = 2**15  # at most; larger trees are not packed


@register_dataclass
@dataclass(frozen=True)
class FlatParams:
    """A tree of small arrays as one vector.

    Parameters stay in this form from step to step: where leaves are concatenated within arithmetic,
    XLA's kernel looks up for each number which leaf it comes from.

    Attributes
    ----------
    values : array of shape (P,)
        The leaves, concatenated.
    tree : PyTreeDef
    shapes : tuple of tuple of int
        The shape of each leaf.
    """

    values: jax.Array
    tree: Any = static()
    shapes: tuple[tuple[int, ...], ...] = static()


def pack(params: Params) -> Params:
    """Pack each part of ``params``, {"network": θ, "likelihood": φ, ...} or a dict of such, as ``FlatParams``.

    Parts with more than 32,768 numbers, a single leaf, or several dtypes stay as they are.
    """
    if not isinstance(params, dict):
        return params
    part = _flat if "network" in params else pack
    return {name: part(value) for name, value in params.items()}


def _flat(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    if (
        len(leaves) < 2
        or sum(leaf.size for leaf in leaves) > PACKED_PARAMETERS
        or len({leaf.dtype for leaf in leaves}) > 1
    ):
        return tree
    values = jnp.concatenate([leaf.ravel() for leaf in leaves])
    return FlatParams(values, structure, tuple(leaf.shape for leaf in leaves))


def pack_like(tree: Any, other: Any) -> Any:
    """Pack ``tree`` if ``other``, of the same structure, is packed."""
    return _flat(tree) if isinstance(other, FlatParams) else tree


def unpack(params: Any) -> Any:
    """Replace each ``FlatParams`` in ``params`` by its tree."""
    return jax.tree.map(lambda part: _tree(part) if _is_flat(part) else part, params, is_leaf=_is_flat)


def _tree(flat: FlatParams) -> Any:
    traced = isinstance(flat.values, Tracer)  # otherwise split on the host: no program for each network
    ends = np.cumsum([math.prod(shape) for shape in flat.shapes])[:-1]
    leaves = jnp.split(flat.values, ends) if traced else np.split(np.asarray(flat.values), ends)
    leaves = [leaf.reshape(shape) for leaf, shape in zip(leaves, flat.shapes, strict=True)]
    return flat.tree.unflatten(leaves if traced else jax.device_put(leaves))


def _is_flat(part: Any) -> bool:
    return isinstance(part, FlatParams)
