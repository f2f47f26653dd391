"""Rows in blocks of one size, evaluated by compiled programs that are compiled once.

A row's answer depends neither on its neighbors nor on the number of rows in the call, since rows
are evaluated in padded blocks of one size. (The last bits depend on the size of a block.) Memory is
bounded, and one program serves all calls.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from dubito._jax.types import Params

BLOCK_ROWS = 128
PIECE_ROWS = 8 * BLOCK_ROWS  # of one call of a compiled program, which evaluates only the blocks that are needed
# Of the call for no more rows than a block; not one block, whose loop XLA would unroll.
SMALL_PIECE_ROWS = 2 * BLOCK_ROWS


def row_pieces(array: Shaped[np.ndarray, "..."], axis: int = 0) -> list[Shaped[np.ndarray, "..."]]:
    """Pieces of ``PIECE_ROWS`` rows, or one of ``SMALL_PIECE_ROWS``.

    The last piece is filled with its last row, or with zeros if there is none.
    """
    rows = array.shape[axis]
    size = SMALL_PIECE_ROWS if rows <= BLOCK_ROWS else PIECE_ROWS
    count = max(-(-rows // size), 1)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, count * size - rows)
    return np.split(np.pad(array, widths, mode="edge" if rows else "constant"), count, axis=axis)


def piece_sizes(rows: int) -> list[np.int32]:
    """How many rows of each piece are real."""
    return [np.int32(min(PIECE_ROWS, rows - start)) for start in range(0, max(rows, 1), PIECE_ROWS)]


def rows_of_whole_blocks(rows: int | np.integer) -> int:
    """The rows of as many blocks as hold ``rows``; at least one block's."""
    return max(-(-int(rows) // BLOCK_ROWS), 1) * BLOCK_ROWS


def map_blocks(function: Callable[..., Params], rows: Any, axis: int, *trees: tuple[Params, int]) -> Params:
    """function(*trees) on the blocks of a piece that hold its first ``rows`` rows, zeros beyond.

    Each of ``trees`` is a pair of a tree of arrays and the axis of its rows; ``axis`` is the axis
    of the rows in the result.
    """

    def block(number: Any) -> Params:
        def cut(leaf: Any, along: int) -> Any:
            return jax.lax.dynamic_slice_in_dim(leaf, number * BLOCK_ROWS, BLOCK_ROWS, along)

        return function(*(jax.tree.map(partial(cut, along=at), tree) for tree, at in trees))

    def put(number: Any, found: Params) -> Params:
        insert = partial(jax.lax.dynamic_update_slice_in_dim, start_index=number * BLOCK_ROWS, axis=axis)
        return jax.tree.map(insert, found, block(number))

    size = jax.tree.leaves(trees[0][0])[0].shape[trees[0][1]]
    shapes = jax.eval_shape(block, 0)
    start = jax.tree.map(lambda one: jnp.zeros((*one.shape[:axis], size, *one.shape[axis + 1 :]), one.dtype), shapes)
    return jax.lax.fori_loop(0, jnp.maximum(-(-rows // BLOCK_ROWS), 1), put, start)
