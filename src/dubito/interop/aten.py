"""PyTorch's operations in JAX, by their ATen names: those of perceptrons, convolutional networks and transformer encoders.

``OPERATIONS`` maps a name to a function of the same arguments. To translate another operation, add it there, or pass it to
``from_torch`` as ``operations={"aten.name.overload": function}``.
"""

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


def unchanged(x: Array, *rest: Any, **options: Any) -> Array:
    """x, whatever else an operation is given."""
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
    operation(f"{_name}.default")(unchanged)

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
def _add(x: Array, y: Any, alpha: Any = 1) -> Array:
    return x + (y if alpha == 1 else alpha * y)


@operation("sub.Tensor", "sub_.Tensor", "sub.Scalar", "sub_.Scalar", "subtract.Tensor", "subtract.Scalar")
def _sub(x: Array, y: Any, alpha: Any = 1) -> Array:
    return x - (y if alpha == 1 else alpha * y)


@operation("rsub.Scalar", "rsub.Tensor")
def _rsub(x: Array, y: Any, alpha: Any = 1) -> Array:
    return y - (x if alpha == 1 else alpha * x)


@operation(
    "div.Tensor", "div_.Tensor", "div.Scalar", "div.Tensor_mode", "div_.Scalar", "divide.Tensor", "true_divide.Tensor"
)
def _div(x: Array, y: Any, rounding_mode: str | None = None) -> Array:
    ratio = x / y
    return {"floor": jnp.floor, "trunc": jnp.trunc}.get(rounding_mode or "", unchanged)(ratio)


@operation("gelu.default")
def _gelu(x: Array, approximate: str = "none") -> Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@operation("leaky_relu.default", "leaky_relu_.default")
def _leaky_relu(x: Array, slope: float = 0.01) -> Array:
    return jax.nn.leaky_relu(x, slope)


@operation("elu.default", "elu_.default")
def _elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.where(x > 0, 0, x)))


@operation("celu.default", "celu_.default")
def _celu(x: Array, alpha: float = 1.0) -> Array:
    return jax.nn.celu(x, alpha)


@operation("prelu.default")
def _prelu(x: Array, weight: Array) -> Array:
    shape = [weight.size if axis == 1 else 1 for axis in range(x.ndim)] if weight.size > 1 else []
    return jnp.where(x > 0, x, weight.reshape(shape) * x)


@operation("softplus.default")
def _softplus(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    return jnp.where(beta * x > threshold, x, jax.nn.softplus(beta * x) / beta)


@operation("hardtanh.default", "hardtanh_.default", "clamp.default", "clamp_.default", "clamp.Tensor")
def _clamp(x: Array, least: Any = None, most: Any = None) -> Array:
    return jnp.clip(x, least, most)


@operation("clamp_min.default")
def _clamp_min(x: Array, least: Any) -> Array:
    return jnp.maximum(x, least)


@operation("glu.default")
def _glu(x: Array, dim: int = -1) -> Array:
    return jax.nn.glu(x, dim)


@operation("softmax.int", "_softmax.default")
def _softmax(x: Array, dim: int, *rest: Any) -> Array:
    return jax.nn.softmax(x, dim)


@operation("log_softmax.int", "_log_softmax.default")
def _log_softmax(x: Array, dim: int, *rest: Any) -> Array:
    return jax.nn.log_softmax(x, dim)


@operation("linear.default")
def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    # without a transpose of its own, so that Laplace's structures find the product
    product = lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return product if bias is None else product + bias


@operation("matmul.default", "mm.default", "bmm.default", "mv.default", "vdot.default")
def _matmul(x: Array, y: Array) -> Array:
    return x @ y


@operation("addmm.default", "baddbmm.default")
def _addmm(bias: Array, x: Array, y: Array, beta: Any = 1, alpha: Any = 1) -> Array:
    return beta * bias + alpha * (x @ y)


@operation("einsum.default")
def _einsum(equation: str, operands: Sequence[Array], path: Any = None) -> Array:
    return jnp.einsum(equation, *operands)


def _reduction(function: Operation) -> Operation:
    def reduce(x: Array, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Array:
        return function(x, axis=None if dim in (None, []) else tuple(each(dim, 1)), keepdims=keepdim)

    return reduce


for _name, _function in {"mean": jnp.mean, "sum": jnp.sum, "amax": jnp.max, "amin": jnp.min}.items():
    operation(f"{_name}.dim", f"{_name}.dim_IntList", f"{_name}.default")(_reduction(_function))


@operation("var.correction")
def _var(x: Array, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Array:
    return jnp.var(x, axis=None if dim is None else tuple(each(dim, 1)), ddof=correction, keepdims=keepdim)


@operation("var.dim")
def _var_along(x: Array, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> Array:
    return _var(x, dim, correction=int(unbiased), keepdim=keepdim)


@operation("std.dim", "std.correction")
def _std(x: Array, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None) -> Array:
    return jnp.sqrt(_var(x, dim, correction=int(unbiased) if correction is None else correction, keepdim=keepdim))


@operation("linalg_vector_norm.default", "norm.ScalarOpt_dim")
def _vector_norm(x: Array, order: Any = 2, dim: Any = None, keepdim: bool = False, **options: Any) -> Array:
    axes = tuple(range(x.ndim)) if dim is None else each(dim, 1)
    return jnp.sum(jnp.abs(x) ** order, axis=axes, keepdims=keepdim) ** (1 / order)


@operation("logsumexp.default")
def _logsumexp(x: Array, dim: Any, keepdim: bool = False) -> Array:
    return jax.nn.logsumexp(x, axis=each(dim, 1), keepdims=keepdim)


@operation("max.dim")
def _max_along(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return jnp.max(x, dim, keepdims=keepdim), jnp.argmax(x, dim, keepdims=keepdim)


@operation("min.dim")
def _min_along(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
    return jnp.min(x, dim, keepdims=keepdim), jnp.argmin(x, dim, keepdims=keepdim)


@operation("argmax.default")
def _argmax(x: Array, dim: int | None = None, keepdim: bool = False) -> Array:
    return jnp.argmax(x, dim, keepdims=keepdim)


@operation("where.self", "where.ScalarSelf", "where.ScalarOther")
def _where(condition: Array, x: Any, y: Any) -> Array:
    return jnp.where(condition, x, y)


@operation("masked_fill.Scalar", "masked_fill_.Scalar", "masked_fill.Tensor")
def _masked_fill(x: Array, mask: Array, value: Any) -> Array:
    return jnp.where(mask, value, x)


@operation("constant_pad_nd.default", "pad.default")
def _pad(x: Array, pads: Sequence[int], *rest: Any) -> Array:
    mode, value = (
        (rest[0], rest[1] if len(rest) > 1 else None)
        if rest and isinstance(rest[0], str)
        else ("constant", rest[0] if rest else 0)
    )
    pairs = [(0, 0)] * (x.ndim - len(pads) // 2) + [(pads[k], pads[k + 1]) for k in range(len(pads) - 2, -1, -2)]
    if mode == "constant":
        return jnp.pad(x, pairs, constant_values=0 if value is None else value)
    return jnp.pad(x, pairs, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


@operation("bilinear.default")
def _bilinear(x: Array, y: Array, weight: Array, bias: Array | None = None) -> Array:
    product = jnp.einsum("...i,oij,...j->...o", x, weight, y)
    return product if bias is None else product + bias


@operation("triu.default")
def _triu(x: Array, diagonal: int = 0) -> Array:
    return jnp.triu(x, diagonal)


@operation("tril.default")
def _tril(x: Array, diagonal: int = 0) -> Array:
    return jnp.tril(x, diagonal)


@operation("cumsum.default")
def _cumsum(x: Array, dim: int, **options: Any) -> Array:
    return jnp.cumsum(x, dim)


@operation("sym_size.int")
def _sym_size(x: Array, dim: int) -> int:
    return x.shape[dim]


_OPERATORS = (
    *(operator.getitem, operator.mul, operator.add, operator.sub, operator.floordiv, operator.truediv, operator.mod),
    *(operator.neg, operator.pow, operator.eq, operator.ge, operator.le, operator.lt, operator.gt),
)
SYMBOLIC: dict[Any, Operation] = {function: function for function in _OPERATORS}


def each(value: Any, count: int) -> tuple[int, ...]:
    """One number, or a sequence of one or ``count``, for each of ``count`` axes."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * count if len(values) == 1 else values
