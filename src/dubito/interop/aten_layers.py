"""PyTorch's layers in JAX: convolutions, pooling, norms, attention."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dubito.interop import aten_shapes, aten_tensors  # noqa: F401, register their operations
from dubito.interop.aten import Operation, each, operation, unchanged

SLICED = 16  # values of a window whose maximum is that of slices; XLA takes several times as long for a window on CPU


@operation("conv1d.default", "conv2d.default", "conv3d.default")
def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    window = weight.ndim - 2
    pads = [(p, p) for p in each(padding, window)]
    places = "DHW"[3 - window :]
    y = lax.conv_general_dilated(
        _channels_last(x),
        jnp.moveaxis(weight, (0, 1), (-1, -2)),
        each(stride, window),
        pads,
        rhs_dilation=each(dilation, window),
        feature_group_count=groups,
        dimension_numbers=(f"N{places}C", f"{places}IO", f"N{places}C"),
    )
    return jnp.moveaxis(y if bias is None else y + bias, -1, 1)


@operation("conv1d.padding", "conv2d.padding", "conv3d.padding")
def _convolution_padded(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    window = weight.ndim - 2
    spread = [d * (size - 1) for d, size in zip(each(dilation, window), weight.shape[2:], strict=True)]
    pads = [(s // 2, s - s // 2) if padding == "same" else (0, 0) for s in spread]  # more at the end, as PyTorch has it
    x = jnp.pad(x, [(0, 0), (0, 0), *pads])
    return _convolution(x, weight, bias, stride, 0, dilation, groups)


@operation("batch_norm.default")
def _batch_norm(
    x: Array, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, *rest: Any
) -> Array:
    if training:
        raise ValueError(
            "a batch norm of this network uses the statistics of each batch, so that rows depend on each other"
        )
    shape = (1, -1, *(1,) * (x.ndim - 2))
    y = (x - mean.reshape(shape)) * lax.rsqrt(var.reshape(shape) + eps)
    return _affine(y, None if weight is None else weight.reshape(shape), None if bias is None else bias.reshape(shape))


@operation("layer_norm.default")
def _layer_norm(
    x: Array, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Array:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return _affine(_normalized(x, axes, eps), weight, bias)


@operation("rms_norm.default")
def _rms_norm(x: Array, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Array:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    return _affine(x * lax.rsqrt(jnp.mean(x**2, axes, keepdims=True) + eps), weight, None)


@operation("group_norm.default")
def _group_norm(x: Array, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any) -> Array:
    split = x.reshape(x.shape[0], groups, -1)
    y = _normalized(split, (2,), eps).reshape(x.shape)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return _affine(y, None if weight is None else weight.reshape(shape), None if bias is None else bias.reshape(shape))


@operation("instance_norm.default")
def _instance_norm(x: Array, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Array:
    use_input, _, eps = rest[0], rest[1], rest[2]
    if not use_input:
        return _batch_norm(x, weight, bias, mean, var, False, 0.0, eps)
    return _group_norm(x, x.shape[1], weight, bias, eps)


def _normalized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True) + eps)


def _affine(x: Array, weight: Any, bias: Any) -> Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@operation("max_pool1d.default", "max_pool2d.default", "max_pool3d.default")
def _max_pool(
    x: Array, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Array:
    window, strides, pads, holes = _pooling(x, size, stride, padding, dilation, ceil_mode)
    if math.prod(window) > SLICED:
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads, window_dilation=holes)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), [(a, b, 0) for a, b in pads])
    ends = [length - hole * (k - 1) for length, k, hole in zip(x.shape, window, holes, strict=True)]
    starts = itertools.product(*(range(0, k * hole, hole) for k, hole in zip(window, holes, strict=True)))
    parts = [lax.slice(x, at, [a + end for a, end in zip(at, ends, strict=True)], strides) for at in starts]
    return functools.reduce(jnp.maximum, parts)


@operation("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
def _avg_pool(
    x: Array,
    size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Array:
    window, strides, pads, _ = _pooling(x, size, stride, padding, 1, ceil_mode)
    total = lax.reduce_window(x, 0.0, lax.add, window, strides, pads)
    if divisor is not None:
        return total / divisor
    if count_include_pad and not ceil_mode:
        return total / math.prod(window)
    return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, window, strides, pads)


def _pooling(
    x: Array, size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Sequence[int], Sequence[int], list[tuple[int, int]], Sequence[int]]:
    axes = x.ndim - 2
    sizes, holes, pads = each(size, axes), each(dilation, axes), each(padding, axes)
    strides = each(stride, axes) if stride not in ((), [], None) else sizes
    ends = []
    for length, k, s, p, d in zip(x.shape[2:], sizes, strides, pads, holes, strict=True):
        left = length + 2 * p - d * (k - 1) - 1
        extra = -left % s if ceil_mode and left // s * s + s < length + p else 0
        ends.append((p, p + extra))
    return (1, 1, *sizes), (1, 1, *strides), [(0, 0), (0, 0), *ends], (1, 1, *holes)


@operation("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default")
def _adaptive_avg_pool(x: Array, size: Any) -> Array:
    return _adaptive(x, each(size, x.ndim - 2), jnp.mean)


@operation("adaptive_max_pool1d.default", "adaptive_max_pool2d.default")
def _adaptive_max_pool(x: Array, size: Any) -> tuple[Array, None]:
    return _adaptive(x, each(size, x.ndim - 2), jnp.max), None


def _adaptive(x: Array, sizes: Sequence[int], reduce: Operation) -> Array:
    for axis, count in enumerate(sizes, 2):
        length = x.shape[axis]
        edges = [(k * length // count, -(-(k + 1) * length // count)) for k in range(count)]
        parts = [reduce(lax.slice_in_dim(x, a, b, axis=axis), axis=axis, keepdims=True) for a, b in edges]
        x = jnp.concatenate(parts, axis)
    return x


@operation("upsample_nearest2d.vec")
def _upsample_nearest(x: Array, size: Any, factors: Any) -> Array:
    for axis, factor in enumerate(factors or [s / x.shape[k + 2] for k, s in enumerate(size)], 2):
        if factor != int(factor):
            raise ValueError(f"upsample_nearest2d by {factor} is not translated: only by whole numbers")
        x = jnp.repeat(x, int(factor), axis)
    return x


def attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    drop: Callable[[Array], Array] = unchanged,
    **options: Any,
) -> Array:
    """Scaled dot product attention, with a function applied to the attention weights.

    Parameters
    ----------
    query, key, value : array of shape (..., length, width)
        As in PyTorch.
    mask : array, optional
        True where a key is used, or a number added to the scores.
    dropout : float
        Not used: ``drop`` drops.
    causal : bool
        Whether each place uses those before it only.
    scale : float, optional
        Of the scores; 1/√width by default.
    drop : callable
        Applied to the weights.
    **options : object
        Refused, but for ``enable_gqa=False``.

    Returns
    -------
    array of shape (..., length, width)
        The values' weighted means.
    """
    if options.get("enable_gqa"):
        raise ValueError("attention with enable_gqa=True is not translated")
    scores = query @ jnp.swapaxes(key, -1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
    return drop(jax.nn.softmax(scores, -1)) @ value


def _channels_last(x: Array) -> Array:
    """The channels as the last axis: in a loop XLA's convolution on CPU takes twenty times as long with channels first."""
    return jnp.moveaxis(x, 1, -1)


@operation("_weight_norm.default")
def _weight_norm(v: Array, g: Array, axis: int = 0) -> Array:
    others = tuple(number for number in range(v.ndim) if number != axis)
    return v * (g / jnp.sqrt(jnp.sum(v**2, axis=others, keepdims=True)))
