"""PyTorch's operations in JAX, by their ATen names: those of perceptrons, convolutional networks and transformer encoders.

``OPERATIONS`` maps a name to a function of the same arguments. To translate another operation, add it there, or pass it to
``from_torch`` as ``operations={"aten.name.overload": function}``.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

Operation: TypeAlias = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Operation], Operation]:
    """Register a function under names of ATen.

    Parameters
    ----------
    *names : str
        Such as ``"linear.default"``.

    Returns
    -------
    callable
        A decorator.
    """

    def register(function: Operation) -> Operation:
        OPERATIONS.update({f"aten.{name}": function for name in names})
        return function

    return register


def _same(x: Array, *rest: Any, **options: Any) -> Array:
    return x


ELEMENTWISE: dict[str, Operation] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "selu": jax.nn.selu,
    "mish": jax.nn.mish,
    "log_sigmoid": jax.nn.log_sigmoid,
    "neg": jnp.negative,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "abs": jnp.abs,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "erf": lax.erf,
    "square": jnp.square,
    "reciprocal": jnp.reciprocal,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "logical_not": jnp.logical_not,
    "bitwise_not": jnp.invert,
    "isnan": jnp.isnan,
}
for _name, _function in ELEMENTWISE.items():
    operation(f"{_name}.default", f"{_name}_.default")(_function)
for _name in ("contiguous", "clone", "detach", "detach_", "alias", "lift_fresh_copy", "_assert_tensor_metadata"):
    operation(f"{_name}.default")(_same)

BINARY: dict[str, Operation] = {
    "mul": jnp.multiply,
    "pow": jnp.power,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "remainder": jnp.remainder,
    "floor_divide": jnp.floor_divide,
}
for _name, _function in BINARY.items():
    _kinds = ("default", "Tensor", "Scalar", "Tensor_Tensor", "Tensor_Scalar")
    operation(*(f"{_name}{end}.{kind}" for end in ("", "_") for kind in _kinds))(_function)


@operation("add.Tensor", "add_.Tensor", "add.Scalar", "add_.Scalar")
def add(x: Array, y: Any, alpha: Any = 1) -> Array:
    return x + (y if alpha == 1 else alpha * y)


@operation("sub.Tensor", "sub_.Tensor", "sub.Scalar", "sub_.Scalar")
def sub(x: Array, y: Any, alpha: Any = 1) -> Array:
    return x - (y if alpha == 1 else alpha * y)


@operation("rsub.Scalar", "rsub.Tensor")
def rsub(x: Array, y: Any, alpha: Any = 1) -> Array:
    return y - (x if alpha == 1 else alpha * x)


@operation("div.Tensor", "div_.Tensor", "div.Scalar", "div.Tensor_mode", "div_.Scalar")
def div(x: Array, y: Any, rounding_mode: str | None = None) -> Array:
    ratio = x / y
    return {"floor": jnp.floor, "trunc": jnp.trunc}.get(rounding_mode or "", _same)(ratio)


@operation("gelu.default")
def gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@operation("leaky_relu.default", "leaky_relu_.default")
def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return jax.nn.leaky_relu(x, slope)


@operation("elu.default", "elu_.default")
def elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.where(x > 0, 0, x)))


@operation("celu.default", "celu_.default")
def celu(x: Array, alpha: float = 1.0) -> Array:
    return jax.nn.celu(x, alpha)


@operation("prelu.default")
def prelu(x: Array, weight: Array) -> Array:
    shape = [weight.size if axis == 1 else 1 for axis in range(x.ndim)] if weight.size > 1 else []
    return jnp.where(x > 0, x, weight.reshape(shape) * x)


@operation("softplus.default")
def softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return jnp.where(beta * x > threshold, x, jax.nn.softplus(beta * x) / beta)


@operation("hardtanh.default", "hardtanh_.default", "clamp.default", "clamp_.default", "clamp.Tensor")
def clamp(x: Array, least: Any = None, most: Any = None) -> Array:
    return jnp.clip(x, least, most)


@operation("clamp_min.default")
def clamp_min(x: Array, least: Any) -> Array:
    return jnp.maximum(x, least)


@operation("glu.default")
def glu(x: Array, dim: int = -1) -> Array:
    return jax.nn.glu(x, dim)


@operation("softmax.int", "_softmax.default")
def softmax(x: Array, dim: int, *rest: Any) -> Array:
    return jax.nn.softmax(x, dim)


@operation("log_softmax.int", "_log_softmax.default")
def log_softmax(x: Array, dim: int, *rest: Any) -> Array:
    return jax.nn.log_softmax(x, dim)


@operation("linear.default")
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    product = x @ weight.T
    return product if bias is None else product + bias


@operation("matmul.default", "mm.default", "bmm.default")
def matmul(x: Array, y: Array) -> Array:
    return x @ y


@operation("addmm.default", "baddbmm.default")
def addmm(bias: Array, x: Array, y: Array, beta: Any = 1, alpha: Any = 1) -> Array:
    return beta * bias + alpha * (x @ y)


@operation("einsum.default")
def einsum(equation: str, operands: Sequence[Array], path: Any = None) -> Array:
    return jnp.einsum(equation, *operands)


@operation("conv1d.default", "conv2d.default", "conv3d.default")
def convolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    window = weight.ndim - 2
    pads = [(p, p) for p in _each(padding, window)]
    y = lax.conv_general_dilated(
        x,
        weight,
        _each(stride, window),
        pads,
        rhs_dilation=_each(dilation, window),
        feature_group_count=groups,
        dimension_numbers=lax.conv_dimension_numbers(x.shape, weight.shape, _axes(window)),
    )
    return y if bias is None else y + bias.reshape(-1, *(1,) * window)


@operation("conv1d.padding", "conv2d.padding", "conv3d.padding")
def convolution_padded(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: str = "valid",
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    window = weight.ndim - 2
    spread = [d * (size - 1) for d, size in zip(_each(dilation, window), weight.shape[2:], strict=True)]
    pads = [(s // 2, s - s // 2) if padding == "same" else (0, 0) for s in spread]  # more at the end, as PyTorch has it
    x = jnp.pad(x, [(0, 0), (0, 0), *pads])
    return convolution(x, weight, bias, stride, 0, dilation, groups)


@operation("batch_norm.default")
def batch_norm(
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
def layer_norm(
    x: Array, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Array:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return _affine(_normalized(x, axes, eps), weight, bias)


@operation("rms_norm.default")
def rms_norm(x: Array, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Array:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    eps = float(jnp.finfo(x.dtype).eps) if eps is None else eps
    return _affine(x * lax.rsqrt(jnp.mean(x**2, axes, keepdims=True) + eps), weight, None)


@operation("group_norm.default")
def group_norm(x: Array, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any) -> Array:
    split = x.reshape(x.shape[0], groups, -1)
    y = _normalized(split, (2,), eps).reshape(x.shape)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return _affine(y, None if weight is None else weight.reshape(shape), None if bias is None else bias.reshape(shape))


@operation("instance_norm.default")
def instance_norm(x: Array, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Array:
    use_input, _, eps = rest[0], rest[1], rest[2]
    if not use_input:
        return batch_norm(x, weight, bias, mean, var, False, 0.0, eps)
    return group_norm(x, x.shape[1], weight, bias, eps)


def _normalized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True) + eps)


def _affine(x: Array, weight: Any, bias: Any) -> Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@operation("max_pool1d.default", "max_pool2d.default", "max_pool3d.default")
def max_pool(
    x: Array, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Array:
    window, strides, pads, holes = _pooling(x, size, stride, padding, dilation, ceil_mode)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads, window_dilation=holes)


@operation("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
def avg_pool(
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
    sizes, holes, pads = _each(size, axes), _each(dilation, axes), _each(padding, axes)
    strides = _each(stride, axes) if stride not in ((), [], None) else sizes
    ends = []
    for length, k, s, p, d in zip(x.shape[2:], sizes, strides, pads, holes, strict=True):
        left = length + 2 * p - d * (k - 1) - 1
        extra = -left % s if ceil_mode and left // s * s + s < length + p else 0
        ends.append((p, p + extra))
    return (1, 1, *sizes), (1, 1, *strides), [(0, 0), (0, 0), *ends], (1, 1, *holes)


@operation("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default")
def adaptive_avg_pool(x: Array, size: Any) -> Array:
    return _adaptive(x, _each(size, x.ndim - 2), jnp.mean)


@operation("adaptive_max_pool1d.default", "adaptive_max_pool2d.default")
def adaptive_max_pool(x: Array, size: Any) -> tuple[Array, None]:
    return _adaptive(x, _each(size, x.ndim - 2), jnp.max), None


def _adaptive(x: Array, sizes: Sequence[int], reduce: Operation) -> Array:
    for axis, count in enumerate(sizes, 2):
        length = x.shape[axis]
        edges = [(k * length // count, -(-(k + 1) * length // count)) for k in range(count)]
        parts = [reduce(lax.slice_in_dim(x, a, b, axis=axis), axis=axis, keepdims=True) for a, b in edges]
        x = jnp.concatenate(parts, axis)
    return x


@operation("flatten.using_ints")
def flatten(x: Array, start: int = 0, end: int = -1) -> Array:
    start, end = start % x.ndim, end % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


@operation("unflatten.int")
def unflatten(x: Array, dim: int, sizes: Sequence[int]) -> Array:
    dim %= x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@operation("view.default", "reshape.default", "_unsafe_view.default")
def reshape(x: Array, shape: Sequence[int]) -> Array:
    return x.reshape(tuple(shape))


@operation("permute.default")
def permute(x: Array, dims: Sequence[int]) -> Array:
    return jnp.transpose(x, dims)


@operation("transpose.int")
def transpose(x: Array, a: int, b: int) -> Array:
    return jnp.swapaxes(x, a, b)


@operation("t.default", "numpy_T.default")
def matrix_transpose(x: Array) -> Array:
    return x.T


@operation("expand.default")
def expand(x: Array, sizes: Sequence[int], *rest: Any, **options: Any) -> Array:
    own = (1,) * (len(sizes) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [b if a == -1 else a for a, b in zip(sizes, own, strict=True)])


@operation("repeat.default")
def repeat(x: Array, counts: Sequence[int]) -> Array:
    return jnp.tile(x, counts)


@operation("unsqueeze.default")
def unsqueeze(x: Array, dim: int) -> Array:
    return jnp.expand_dims(x, dim)


@operation("squeeze.dim", "squeeze.dims")
def squeeze(x: Array, dim: Any) -> Array:
    dims = [d % x.ndim for d in _each(dim, 1)] if isinstance(dim, int) else [d % x.ndim for d in dim]
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


@operation("cat.default")
def cat(parts: Sequence[Array], dim: int = 0) -> Array:
    return jnp.concatenate(parts, dim)


@operation("stack.default")
def stack(parts: Sequence[Array], dim: int = 0) -> Array:
    return jnp.stack(parts, dim)


@operation("chunk.default")
def chunk(x: Array, count: int, dim: int = 0) -> list[Array]:
    return split(x, -(-x.shape[dim] // count), dim)


@operation("split.Tensor", "split.sizes", "split_with_sizes.default")
def split(x: Array, size: Any, dim: int = 0) -> list[Array]:
    if isinstance(size, int):
        ends = list(range(size, x.shape[dim], size))
    else:
        ends = [sum(size[: k + 1]) for k in range(len(size) - 1)]
    return jnp.split(x, ends, dim)


@operation("unbind.int")
def unbind(x: Array, dim: int = 0) -> list[Array]:
    return [jnp.squeeze(part, dim) for part in jnp.split(x, x.shape[dim], dim)]


@operation("select.int")
def select(x: Array, dim: int, index: int) -> Array:
    return lax.index_in_dim(x, index % x.shape[dim], dim % x.ndim, keepdims=False)


@operation("slice.Tensor")
def slice_tensor(x: Array, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    where = [slice(None)] * x.ndim
    where[dim] = slice(start, end, step)
    return x[tuple(where)]


@operation("index_select.default")
def index_select(x: Array, dim: int, index: Array) -> Array:
    return jnp.take(x, index, dim)


@operation("index.Tensor")
def index_tensor(x: Array, indices: Sequence[Any]) -> Array:
    return x[tuple(slice(None) if index is None else index for index in indices)]


@operation("embedding.default")
def embedding(weight: Array, index: Array, *rest: Any) -> Array:
    return weight[index]


def _reduction(function: Operation) -> Operation:
    def reduce(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
        return function(x, axis=None if dim in (None, []) else tuple(_each(dim, 1)), keepdims=keepdim)

    return reduce


for _name, _function in {"mean": jnp.mean, "sum": jnp.sum, "amax": jnp.max, "amin": jnp.min}.items():
    operation(f"{_name}.dim", f"{_name}.dim_IntList", f"{_name}.default")(_reduction(_function))


@operation("var.correction")
def var(x: Array, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Array:
    return jnp.var(x, axis=None if dim is None else tuple(_each(dim, 1)), ddof=correction, keepdims=keepdim)


@operation("max.dim")
def max_along(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return jnp.max(x, dim, keepdims=keepdim), jnp.argmax(x, dim, keepdims=keepdim)


@operation("where.self", "where.ScalarSelf", "where.ScalarOther")
def where(condition: Array, x: Any, y: Any) -> Array:
    return jnp.where(condition, x, y)


@operation("masked_fill.Scalar", "masked_fill_.Scalar", "masked_fill.Tensor")
def masked_fill(x: Array, mask: Array, value: Any) -> Array:
    return jnp.where(mask, value, x)


@operation("constant_pad_nd.default", "pad.default")
def pad(x: Array, pads: Sequence[int], *rest: Any) -> Array:
    mode, value = (
        (rest[0], rest[1] if len(rest) > 1 else None)
        if rest and isinstance(rest[0], str)
        else ("constant", rest[0] if rest else 0)
    )
    pairs = [(0, 0)] * (x.ndim - len(pads) // 2) + [(pads[k], pads[k + 1]) for k in range(len(pads) - 2, -1, -2)]
    if mode == "constant":
        return jnp.pad(x, pairs, constant_values=0 if value is None else value)
    return jnp.pad(x, pairs, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


@operation("arange.default", "arange.start", "arange.start_step")
def arange(*limits: Any, **options: Any) -> Array:
    return jnp.arange(*limits)


@operation("zeros.default", "new_zeros.default")
def zeros(*args: Any, **options: Any) -> Array:
    return jnp.zeros(tuple(args[-1]))


@operation("ones.default", "new_ones.default")
def ones(*args: Any, **options: Any) -> Array:
    return jnp.ones(tuple(args[-1]))


@operation("full.default")
def full(shape: Sequence[int], value: Any, **options: Any) -> Array:
    return jnp.full(tuple(shape), value)


@operation("zeros_like.default")
def zeros_like(x: Array, **options: Any) -> Array:
    return jnp.zeros_like(x)


@operation("ones_like.default")
def ones_like(x: Array, **options: Any) -> Array:
    return jnp.ones_like(x)


@operation("full_like.default")
def full_like(x: Array, value: Any, **options: Any) -> Array:
    return jnp.full_like(x, value)


@operation("scalar_tensor.default")
def scalar_tensor(value: Any, **options: Any) -> Array:
    return jnp.asarray(value)


@operation("triu.default")
def triu(x: Array, diagonal: int = 0) -> Array:
    return jnp.triu(x, diagonal)


@operation("tril.default")
def tril(x: Array, diagonal: int = 0) -> Array:
    return jnp.tril(x, diagonal)


@operation("cumsum.default")
def cumsum(x: Array, dim: int, **options: Any) -> Array:
    return jnp.cumsum(x, dim)


@operation("sym_size.int")
def sym_size(x: Array, dim: int) -> int:
    return x.shape[dim]


@operation("upsample_nearest2d.vec")
def upsample_nearest(x: Array, size: Any, factors: Any) -> Array:
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
    drop: Callable[[Array], Array] = _same,
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


SYMBOLIC: dict[Any, Operation] = {
    getattr(operator, name): getattr(operator, name)
    for name in (
        "getitem",
        "mul",
        "add",
        "sub",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "pow",
        "eq",
        "ge",
        "le",
        "lt",
        "gt",
    )
}


def _each(value: Any, count: int) -> tuple[int, ...]:
    """One number, or a sequence of one or ``count``, for each of ``count`` axes."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * count if len(values) == 1 else values


def _axes(window: int) -> tuple[str, str, str]:
    places = "DHW"[3 - window :]
    return f"NC{places}", f"OI{places}", f"NC{places}"
