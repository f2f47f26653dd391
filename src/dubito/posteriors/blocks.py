"""Rows in blocks of one size, evaluated by compiled programs that are compiled once."""

import jax
import jax.numpy as jnp
import numpy as np

# Rows are evaluated in padded blocks of this one size: a row's answer then depends neither on its neighbors nor on the
# number of rows in the call (the last bits do depend on a block's size), memory is bounded, and one program serves all.
BLOCK_ROWS = 128
PIECE_ROWS = 8 * BLOCK_ROWS  # of one call of a compiled program, which evaluates only the blocks that are needed
SMALL_PIECE_ROWS = (
    2 * BLOCK_ROWS
)  # of the call for no more rows than a block; not one block, whose loop XLA would take apart


def row_pieces(array, axis=0):
    """Pieces of ``PIECE_ROWS`` rows, or one of ``SMALL_PIECE_ROWS``; the last is filled with its last row (or zeros when there is none)."""
    rows = array.shape[axis]
    size = SMALL_PIECE_ROWS if rows <= BLOCK_ROWS else PIECE_ROWS
    total = max(-(-rows // size), 1) * size
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, total - rows)
    filled = np.pad(array, widths, mode="edge" if rows else "constant")
    return np.split(filled, total // size, axis=axis)


def piece_sizes(rows):
    """How many of each piece's rows are real."""
    return [real_rows(rows, piece) for piece in range(-(-max(rows, 1) // PIECE_ROWS))]


def real_rows(rows, piece):
    """How many of one piece's rows are real."""
    return np.int32(min(PIECE_ROWS, rows - piece * PIECE_ROWS))


def rows_of_whole_blocks(rows):
    """The rows of the blocks that hold so many; at least one block's."""
    return max(-(-int(rows) // BLOCK_ROWS), 1) * BLOCK_ROWS


def map_blocks(function, rows, axis, *trees):
    """function(*trees) on the blocks of a piece that hold its first ``rows`` rows, one after another, zeros beyond.

    ``trees``: pairs of a tree of arrays and the axis of its rows; ``axis`` is that of the answer's.
    """

    def block(number):
        return function(
            *(
                jax.tree.map(
                    lambda leaf, at=at: jax.lax.dynamic_slice_in_dim(leaf, number * BLOCK_ROWS, BLOCK_ROWS, at), tree
                )
                for tree, at in trees
            )
        )

    def put(number, found):
        return jax.tree.map(
            lambda to, new: jax.lax.dynamic_update_slice_in_dim(to, new, number * BLOCK_ROWS, axis),
            found,
            block(number),
        )

    def room(one):
        return jnp.zeros((*one.shape[:axis], size, *one.shape[axis + 1 :]), one.dtype)

    tree, at = trees[0]
    size = jax.tree.leaves(tree)[0].shape[at]
    start = jax.tree.map(room, jax.eval_shape(block, 0))
    return jax.lax.fori_loop(0, jnp.maximum(-(-rows // BLOCK_ROWS), 1), put, start)
