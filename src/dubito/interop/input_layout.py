"""The inputs of a trained network: arrays of several dtypes in tuples and dicts, and the same as one array of float32.

Everything in the library handles inputs as one array of float32: training, curvature, prediction in blocks of rows.
Images and tables are such an array already. Tokens, and several inputs, are laid side by side, each integer of more
than 16 bits as two numbers, so that it stays exact; the network takes them apart again.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HALF = 16  # bits of an integer in one float32


class InputLayout(NamedTuple):
    """The structure of a network's inputs, and of each array the shape of a row and the dtype.

    Attributes
    ----------
    tree : jax.tree_util.PyTreeDef
        The structure.
    shapes : tuple of tuple of int
        The shape of a row of each array.
    dtypes : tuple of str
        The dtype of each array.
    """

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many numbers of float32 hold a row of each array."""
        return tuple(
            math.prod(shape) * (2 if _is_wide(dtype) else 1)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )

    @property
    def is_joined(self) -> bool:
        """Whether ``join`` lays arrays side by side: for one of few bits it does not change the shape."""
        return len(self.shapes) > 1 or any(map(_is_wide, self.dtypes))

    def join(self, x: Any) -> np.ndarray:
        """The inputs as one array of float32.

        Parameters
        ----------
        x : pytree of arrays
            Inputs of this structure.

        Returns
        -------
        float32 array
            Of shape (rows, the sum of ``widths``), or (rows, ...) if nothing is joined.

        Raises
        ------
        ValueError
            For another structure or shape, and for numbers that the dtype cannot hold.
        """
        leaves = [np.asarray(leaf) for leaf in self._leaves(x)]
        names = self._names()
        for name, leaf, shape in zip(names, leaves, self.shapes, strict=True):
            if leaf.ndim == 0 or leaf.shape[1:] != shape:
                rows = ", ".join(map(str, ("rows", *shape)))
                raise ValueError(f"the network takes {name} of shape ({rows}), as its example; got {leaf.shape}")
        if len({len(leaf) for leaf in leaves}) > 1:
            raise ValueError(f"the arrays of x must have the same number of rows; got {[len(leaf) for leaf in leaves]}")
        numbers = [_numbers(*each) for each in zip(names, leaves, self.dtypes, strict=True)]
        if not self.is_joined:
            return numbers[0]
        return np.concatenate([array.reshape(len(array), -1) for array in numbers], axis=1)

    def restore(self, x: Any) -> Any:
        """The inputs in their structure and dtypes, from the joined array or as they are.

        Parameters
        ----------
        x : array or pytree of arrays
            Of ``join``, or inputs of this structure.

        Returns
        -------
        pytree of arrays
            For the network.
        """
        if self._was_joined(x):
            return self.tree.unflatten(self._split(x))
        leaves = [jnp.asarray(leaf) for leaf in self._leaves(x)]
        return self.tree.unflatten([leaf.astype(dtype) for leaf, dtype in zip(leaves, self.dtypes, strict=True)])

    def _leaves(self, x: Any) -> list[Any]:
        kind = type(jax.tree.unflatten(self.tree, self.shapes))
        try:
            return self.tree.flatten_up_to(tuple(x) if kind is tuple and len(self.shapes) > 1 else x)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"x must have the structure of the example, with {', '.join(self._names())}; got {_described(x)}"
            ) from error

    def _names(self) -> list[str]:
        paths, _ = jax.tree_util.tree_flatten_with_path(self.tree.unflatten(range(len(self.shapes))))
        return [f"x{jax.tree_util.keystr(path)}" for path, _ in paths]

    def _was_joined(self, x: Any) -> bool:
        if not self.is_joined or not isinstance(x, np.ndarray | jax.Array):
            return False
        as_example = len(self.shapes) == 1 and x.shape[1:] == self.shapes[0]
        return x.ndim == 2 and x.shape[1] == sum(self.widths) and not as_example

    def _split(self, x: Any) -> list[Any]:
        leaves, start = [], 0
        for width, shape, dtype in zip(self.widths, self.shapes, self.dtypes, strict=True):
            part = jnp.asarray(x)[:, start : start + width]
            start += width
            if _is_wide(dtype):
                high, low = (half.astype(dtype) for half in jnp.split(part, 2, axis=1))
                part = jnp.left_shift(high, jnp.asarray(HALF, dtype)) | low
            leaves.append(part.reshape(len(part), *shape).astype(dtype))
        return leaves


def input_layout(example: Any) -> InputLayout:
    """The layout of inputs like an example.

    Parameters
    ----------
    example : pytree of arrays
        Some rows.

    Returns
    -------
    InputLayout
        With JAX's dtypes: of 32 bits for those of 64.
    """
    leaves, tree = jax.tree.flatten(example)
    arrays = [np.asarray(leaf) for leaf in leaves]
    dtypes = tuple(str(jax.dtypes.canonicalize_dtype(array.dtype)) for array in arrays)
    return InputLayout(tree, tuple(array.shape[1:] for array in arrays), dtypes)


def _is_wide(dtype: str) -> bool:
    """Whether it has integers that are not all float32."""
    return jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).bits > HALF


def _numbers(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """An array as float32, integers of more than 16 bits as two."""
    if not jnp.issubdtype(array.dtype, jnp.number) and array.dtype.kind != "b":
        raise ValueError(f"{name} must contain numbers, got dtype {array.dtype}")
    if not jnp.issubdtype(dtype, jnp.integer):
        return array.astype(np.float32)
    limits = jnp.iinfo(dtype)
    if array.dtype.kind != "b" and array.size:
        wrong = ~((array >= limits.min) & (array <= limits.max) & (array == np.round(array)))
        if wrong.any():
            row = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0])
            raise ValueError(
                f"{name} must contain integers of {dtype}, as its example; row {row} has {array[row][wrong[row]].ravel()[0]}"
            )
    if not _is_wide(dtype):
        return array.astype(np.float32)
    whole = array.astype(np.int64).reshape(len(array), -1)
    return np.concatenate([whole >> HALF, whole & (2**HALF - 1)], axis=1).astype(np.float32)


def _described(x: Any) -> str:
    if isinstance(x, dict):
        return f"a dict with {sorted(map(str, x))}"
    return f"a {type(x).__name__} of {len(x)}" if isinstance(x, tuple | list) else f"a {type(x).__name__}"
