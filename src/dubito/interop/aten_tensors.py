"""PyTorch's operations in JAX that make or choose tensors: constants, types, indices."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dubito.interop.aten import each, operation

HALVES = ("float16", "bfloat16", "float64")  # which are float32 here, as the weights are


def jax_dtype(dtype: Any) -> Any:
    """The dtype of JAX for one of PyTorch.

    Parameters
    ----------
    dtype : torch.dtype, str or None
        Such as ``torch.float64``.

    Returns
    -------
    dtype or None
        Of 32 bits at most; None for None.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    return jnp.dtype("float32") if name in HALVES else jax.dtypes.canonicalize_dtype(name)


@operation("to.dtype", "to.dtype_layout", "to.device", "_to_copy.default")
def _to(x: Array, *args: Any, dtype: Any = None, **options: Any) -> Array:
    given = [one for one in args if str(one).startswith("torch.")]
    dtype = dtype or next(iter(given), None)
    return x if dtype is None else x.astype(jax_dtype(dtype))


@operation("type_as.default", "to.other")
def _type_as(x: Array, other: Array, *rest: Any, **options: Any) -> Array:
    return x.astype(other.dtype)


@operation("arange.default", "arange.start", "arange.start_step")
def _arange(*limits: Any, dtype: Any = None, **options: Any) -> Array:
    return jnp.arange(*limits, dtype=jax_dtype(dtype))


@operation("linspace.default")
def _linspace(start: Any, end: Any, steps: int, dtype: Any = None, **options: Any) -> Array:
    return jnp.linspace(start, end, steps, dtype=jax_dtype(dtype))


@operation("zeros.default", "new_zeros.default", "empty.memory_format", "new_empty.default")
def _zeros(*args: Any, dtype: Any = None, **options: Any) -> Array:
    return jnp.zeros(tuple(args[-1]), jax_dtype(dtype))


@operation("ones.default", "new_ones.default")
def _ones(*args: Any, dtype: Any = None, **options: Any) -> Array:
    return jnp.ones(tuple(args[-1]), jax_dtype(dtype))


@operation("full.default", "new_full.default")
def _full(*args: Any, dtype: Any = None, **options: Any) -> Array:
    shape, value = args[-2:]
    return jnp.full(tuple(shape), value, jax_dtype(dtype))


@operation("zeros_like.default")
def _zeros_like(x: Array, dtype: Any = None, **options: Any) -> Array:
    return jnp.zeros_like(x, jax_dtype(dtype))


@operation("ones_like.default")
def _ones_like(x: Array, dtype: Any = None, **options: Any) -> Array:
    return jnp.ones_like(x, jax_dtype(dtype))


@operation("full_like.default", "fill_.Scalar", "fill_.Tensor")
def _full_like(x: Array, value: Any, dtype: Any = None, **options: Any) -> Array:
    return jnp.full_like(x, value, jax_dtype(dtype))


@operation("scalar_tensor.default")
def _scalar_tensor(value: Any, dtype: Any = None, **options: Any) -> Array:
    return jnp.asarray(value, jax_dtype(dtype))


@operation("gather.default")
def _gather(x: Array, dim: int, index: Array, **options: Any) -> Array:
    x = x[tuple(slice(None) if axis == dim % x.ndim else slice(size) for axis, size in enumerate(index.shape))]
    return jnp.take_along_axis(x, index, dim)


@operation("topk.default")
def _topk(x: Array, k: int, dim: int = -1, largest: bool = True, sort: bool = True) -> tuple[Array, Array]:
    values, places = jax.lax.top_k(jnp.moveaxis(x if largest else -x, dim, -1), k)
    return jnp.moveaxis(values if largest else -values, -1, dim), jnp.moveaxis(places, -1, dim)


@operation("flip.default")
def _flip(x: Array, dims: Sequence[int]) -> Array:
    return jnp.flip(x, tuple(dims))


@operation("roll.default")
def _roll(x: Array, shifts: Sequence[int], dims: Sequence[int] = ()) -> Array:
    return (
        jnp.roll(x, tuple(shifts), tuple(each(dims, len(shifts))))
        if dims
        else jnp.roll(x.ravel(), shifts[0]).reshape(x.shape)
    )
