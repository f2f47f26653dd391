"""PyTorch's operations on shapes in JAX."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dubito.interop.aten import each, operation


@operation("flatten.using_ints")
def _flatten(x: Array, start: int = 0, end: int = -1) -> Array:
    start, end = start % x.ndim, end % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


@operation("unflatten.int")
def _unflatten(x: Array, dim: int, sizes: Sequence[int]) -> Array:
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@operation("view.default", "reshape.default", "_unsafe_view.default")
def _reshape(x: Array, shape: Sequence[int]) -> Array:
    return x.reshape(tuple(shape))


@operation("permute.default")
def _permute(x: Array, dims: Sequence[int]) -> Array:
    return jnp.transpose(x, dims)


@operation("transpose.int")
def _transpose(x: Array, a: int, b: int) -> Array:
    return jnp.swapaxes(x, a, b)


@operation("t.default", "numpy_T.default")
def _matrix_transpose(x: Array) -> Array:
    return x.T


@operation("expand.default")
def _expand(x: Array, sizes: Sequence[int], *rest: Any, **options: Any) -> Array:
    own = (1,) * (len(sizes) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [b if a == -1 else a for a, b in zip(sizes, own, strict=True)])


@operation("repeat.default")
def _repeat(x: Array, counts: Sequence[int]) -> Array:
    return jnp.tile(x, counts)


@operation("unsqueeze.default")
def _unsqueeze(x: Array, dim: int) -> Array:
    return jnp.expand_dims(x, dim)


@operation("squeeze.dim", "squeeze.dims")
def _squeeze(x: Array, dim: Any) -> Array:
    dims = [d % x.ndim for d in each(dim, 1)] if isinstance(dim, int) else [d % x.ndim for d in dim]
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


@operation("cat.default")
def _cat(parts: Sequence[Array], dim: int = 0) -> Array:
    return jnp.concatenate(parts, dim)


@operation("stack.default")
def _stack(parts: Sequence[Array], dim: int = 0) -> Array:
    return jnp.stack(parts, dim)


@operation("chunk.default")
def _chunk(x: Array, count: int, dim: int = 0) -> list[Array]:
    return _split(x, -(-x.shape[dim] // count), dim)


@operation("split.Tensor", "split.sizes", "split_with_sizes.default")
def _split(x: Array, size: Any, dim: int = 0) -> list[Array]:
    if isinstance(size, int):
        ends = list(range(size, x.shape[dim], size))
    else:
        ends = [sum(size[: k + 1]) for k in range(len(size) - 1)]
    return jnp.split(x, ends, dim)


@operation("unbind.int")
def _unbind(x: Array, dim: int = 0) -> list[Array]:
    return [jnp.squeeze(part, dim) for part in jnp.split(x, x.shape[dim], dim)]


@operation("select.int")
def _select(x: Array, dim: int, index: int) -> Array:
    return lax.index_in_dim(x, index % x.shape[dim], dim % x.ndim, keepdims=False)


@operation("slice.Tensor")
def _slice_tensor(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    where = [slice(None)] * x.ndim
    where[dim] = slice(start, end, step)
    return x[tuple(where)]


@operation("index_select.default")
def _index_select(x: Array, dim: int, index: Array) -> Array:
    return jnp.take(x, index, dim)


@operation("index.Tensor")
def _index_tensor(x: Array, indices: Sequence[Any]) -> Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


@operation("embedding.default")
def _embedding(weight: Array, index: Array, *rest: Any) -> Array:
    return weight[index]
