"""Rows in blocks of one size, evaluated by compiled programs that are compiled once."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

# Rows are evaluated in padded blocks of this one size: a row's answer then depends neither on its neighbors nor on the
# number of rows in the call (the last bits do depend on a block's size), memory is bounded, and one program serves all.
BLOCK = 128
ROWS = 8 * BLOCK  # of one call of a compiled program, which evaluates only the blocks that are needed


def padded(array, axis=0):
    """Pieces of ``ROWS`` rows; the last is filled with its last row (or zeros when there is no row at all)."""
    rows = array.shape[axis]
    total = max(-(-rows // ROWS), 1) * ROWS
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, total - rows)
    filled = np.pad(array, widths, mode="edge" if rows else "constant")
    return np.split(filled, total // ROWS, axis=axis)


def counts(rows):
    """How many blocks of each piece hold rows; at least one."""
    blocks, most = max(-(-rows // BLOCK), 1), ROWS // BLOCK
    return [np.int32(min(most, blocks - done)) for done in range(0, blocks, most)]


def by_blocks(function, count, axis, *trees):
    """function(*trees) on the first ``count`` blocks, one after another, zeros beyond: arrays with rows on ``axis``.

    ``trees``: pairs of a tree of arrays and the axis of its rows.
    """

    def block(number):
        return function(
            *(
                jax.tree.map(lambda leaf, at=at: jax.lax.dynamic_slice_in_dim(leaf, number * BLOCK, BLOCK, at), tree)
                for tree, at in trees
            )
        )

    def put(number, found):
        return jax.tree.map(
            lambda to, new: jax.lax.dynamic_update_slice_in_dim(to, new, number * BLOCK, axis), found, block(number)
        )

    def room(one):
        return jnp.zeros((*one.shape[:axis], ROWS, *one.shape[axis + 1 :]), one.dtype)

    return jax.lax.fori_loop(0, count, put, jax.tree.map(room, jax.eval_shape(block, 0)))


def cores():
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function, items):
    """function(item) for each item, in their order, by as many threads as there are cores; a few items are held."""
    with ThreadPoolExecutor(cores()) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
