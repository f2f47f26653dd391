"""A traced program as nodes of an ONNX graph: each operation of JAX that networks, likelihoods and their moments use.

The program is a function of one array whose first axis, of rows, has any length; all else in it is known. Operations
on constants alone are computed here.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from dubito._jax.jaxpr import CALLS, bind, body
from dubito.estimators.onnx_files.graph import ROWS, TYPES, OnnxGraph

Translation: TypeAlias = Callable[[OnnxGraph, Any, list[Any]], Any]  # of an equation, given its operands

INDEXING = "this way of indexing has no translation to ONNX"
SAME: dict[str, str] = {
    **{
        "add": "Add",
        "add_any": "Add",
        "sub": "Sub",
        "mul": "Mul",
        "div": "Div",
        "neg": "Neg",
        "exp": "Exp",
        "log": "Log",
        "tanh": "Tanh",
    },
    **{"logistic": "Sigmoid", "erf": "Erf", "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "floor": "Floor"},
    **{"ceil": "Ceil", "sin": "Sin", "cos": "Cos", "tan": "Tan", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh"},
    **{"max": "Max", "min": "Min", "pow": "Pow", "eq": "Equal", "lt": "Less", "gt": "Greater", "le": "LessOrEqual"},
    **{"ge": "GreaterOrEqual", "and": "And", "or": "Or", "not": "Not", "is_finite": "IsFinite"},
}
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
OPERATIONS: dict[str, Translation] = {}


def translates(*names: str) -> Callable[[Translation], Translation]:
    """Register the translation of operations of JAX.

    Parameters
    ----------
    *names : str
        Names of primitives.

    Returns
    -------
    callable
        A decorator.
    """

    def register(function: Translation) -> Translation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


@translates(*SAME)
def _same(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node(SAME[eqn.primitive.name], *_of_one_rank(eqn, operands))


def _of_one_rank(eqn: Any, operands: list[Any]) -> list[Any]:
    """Constants of one number get as many axes as the other operands: onnxruntime is 30 times as fast with (1, 1, 1) as with ()."""
    rank = max(len(each.aval.shape) for each in eqn.invars)
    return [each if isinstance(each, str) or each.size > 1 else each.reshape((1,) * rank) for each in operands]


@translates("stop_gradient", "copy", "copy_p", "optimization_barrier", "reduce_precision")
def _unchanged(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> Any:
    return operands[0]


@translates("ne")
def _not_equal(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Not", graph.node("Equal", *operands))


@translates("square")
def _square(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Mul", operands[0], operands[0])


@translates("rsqrt")
def _rsqrt(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Reciprocal", graph.node("Sqrt", operands[0]))


@translates("log1p", "expm1", "erfc")
def _near_one(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    one = np.ones((1,) * len(eqn.invars[0].aval.shape), eqn.invars[0].aval.dtype)
    name = eqn.primitive.name
    if name == "log1p":
        return graph.node("Log", graph.node("Add", operands[0], one))
    if name == "expm1":
        return graph.node("Sub", graph.node("Exp", operands[0]), one)
    return graph.node("Sub", one, graph.node("Erf", operands[0]))


@translates("round")
def _round(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    if eqn.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise ValueError("rounding away from zero has no translation to ONNX")
    return graph.node("Round", operands[0])


@translates("integer_pow")
def _integer_pow(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    """By squares: the operator Pow takes some ten times as long as a product."""
    left, power, result = abs(eqn.params["y"]), operands[0], None
    while left:
        if left % 2:
            result = power if result is None else graph.node("Mul", result, power)
        left //= 2
        power = graph.node("Mul", power, power) if left else power
    if result is None:
        return graph.node("Pow", operands[0], np.zeros((), eqn.invars[0].aval.dtype))
    return result if eqn.params["y"] > 0 else graph.node("Reciprocal", result)


@translates("clamp")
def _clamp(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    low, x, high = _of_one_rank(eqn, operands)
    return graph.node("Min", graph.node("Max", x, low), high)


@translates("select_n")
def _select(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    which, *cases = operands
    if len(cases) != 2 or str(eqn.invars[0].aval.dtype) != "bool":
        raise ValueError("a choice among more than two cases has no translation to ONNX")
    which, *cases = _of_one_rank(eqn, operands)
    return graph.node("Where", which, cases[1], cases[0])


@translates("convert_element_type")
def _convert(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> Any:
    old, new = str(eqn.invars[0].aval.dtype), str(eqn.params["new_dtype"])
    return operands[0] if old == new else graph.node("Cast", operands[0], to=TYPES[new])


@translates("broadcast_in_dim")
def _broadcast(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    own = eqn.invars[0].aval.shape
    wide = [own[places.index(axis)] if axis in places else 1 for axis in range(len(shape))]
    x = operands[0] if list(own) == wide else graph.node("Reshape", operands[0], graph.shape(wide))
    return x if wide == list(shape) else graph.node("Expand", x, graph.shape(shape))


@translates("reshape")
def _reshape(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Reshape", operands[0], graph.shape(eqn.params["new_sizes"]))


@translates("squeeze")
def _squeeze(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Squeeze", operands[0], np.array(eqn.params["dimensions"], np.int64))


@translates("expand_dims")
def _expand_dims(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Unsqueeze", operands[0], np.array(eqn.params["dimensions"], np.int64))


@translates("transpose")
def _transpose(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Transpose", operands[0], perm=list(eqn.params["permutation"]))


@translates("concatenate")
def _concatenate(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    return graph.node("Concat", *operands, axis=eqn.params["dimension"])


@translates("slice")
def _slice(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    own, starts, ends = eqn.invars[0].aval.shape, eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(own)
    axes = [axis for axis, size in enumerate(own) if (starts[axis], ends[axis], steps[axis]) != (0, size, 1)]
    numbers = [np.array([sizes[axis] for axis in axes], np.int64) for sizes in (starts, ends)]
    return graph.node(
        "Slice", operands[0], *numbers, np.array(axes), np.array([steps[axis] for axis in axes], np.int64)
    )


@translates("split")
def _split(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> list[str]:
    ends, axis = np.cumsum(eqn.params["sizes"]), eqn.params["axis"]
    starts = ends - np.array(eqn.params["sizes"])
    at = np.array([axis])
    return [
        graph.node("Slice", operands[0], np.array([a]), np.array([b]), at) for a, b in zip(starts, ends, strict=True)
    ]


@translates("gather")
def _gather(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    """Entries along one axis at known places, as of ``x[:, places]``, or a part that begins at a known place."""
    numbers, own, sizes = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    axes, places = [int(axis) for axis in numbers.start_index_map], operands[1]
    if isinstance(places, str) or any(
        a != b for axis, (a, b) in enumerate(zip(own, sizes, strict=True)) if axis not in axes
    ):
        raise ValueError(INDEXING)
    if places.ndim == 1:
        ends = np.array([start + sizes[axis] for start, axis in zip(places, axes, strict=True)], np.int64)
        part = graph.node("Slice", operands[0], places.astype(np.int64), ends, np.array(axes))
        dropped = np.array(numbers.collapsed_slice_dims, np.int64)
        return graph.node("Squeeze", part, dropped) if len(dropped) else part
    others = tuple(at for at in range(len(own)) if at not in axes)
    if len(axes) > 1 or places.ndim != 2 or tuple(numbers.offset_dims) != others:
        raise ValueError(INDEXING)
    return graph.node("Gather", operands[0], places[:, 0].astype(np.int64), axis=axes[0])


@translates(*REDUCTIONS)
def _reduce(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    axes, kind = eqn.params["axes"], REDUCTIONS[eqn.primitive.name]
    return graph.node(kind, operands[0], np.array(axes, np.int64), keepdims=0)


@translates("reduce_and", "reduce_or")
def _reduce_truth(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    kind = "ReduceMin" if eqn.primitive.name == "reduce_and" else "ReduceMax"
    numbers = graph.node("Cast", operands[0], to=TYPES["int32"])
    found = graph.node(kind, numbers, np.array(eqn.params["axes"], np.int64), keepdims=0)
    return graph.node("Cast", found, to=TYPES["bool"])


@translates("argmax")
def _argmax(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    (axis,) = eqn.params["axes"]
    found = graph.node("ArgMax", operands[0], axis=axis, keepdims=0)
    return graph.node("Cast", found, to=TYPES[str(np.dtype(eqn.params["index_dtype"]))])


@translates("dot_general")
def _dot(graph: OnnxGraph, eqn: Any, operands: list[Any]) -> str:
    (sum_a, sum_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    a = {axis: next(letters) for axis in range(len(eqn.invars[0].aval.shape))}
    shared = dict(zip((*sum_b, *batch_b), (a[axis] for axis in (*sum_a, *batch_a)), strict=True))
    b = {axis: shared.get(axis) or next(letters) for axis in range(len(eqn.invars[1].aval.shape))}
    out = [a[axis] for axis in batch_a]
    out += [letter for axis, letter in a.items() if axis not in (*sum_a, *batch_a)]
    out += [letter for axis, letter in b.items() if axis not in (*sum_b, *batch_b)]
    equation = f"{''.join(a.values())},{''.join(b.values())}->{''.join(out)}"
    return graph.node("Einsum", *operands, equation=equation)


def add_program(graph: OnnxGraph, function: Callable[[Any], dict[str, Any]], x: str, width: int) -> dict[str, str]:
    """Add a function of one float32 array (rows, width) to a graph.

    Parameters
    ----------
    graph : OnnxGraph
        The graph.
    function : callable
        It returns a dict of arrays.
    x : str
        The name of its argument in the graph.
    width : int
        The columns of x.

    Returns
    -------
    dict of str
        The names of its results in the graph.

    Raises
    ------
    ValueError
        For an operation that is not translated.
    """
    (rows,) = jax.export.symbolic_shape(ROWS)
    example = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    program, shapes = jax.make_jaxpr(function, return_shape=True)(example)
    return jax.tree.unflatten(jax.tree.structure(shapes), [graph.name(value) for value in _run(graph, program, [x])])


def _run(graph: OnnxGraph, program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip(program.jaxpr.constvars, map(np.asarray, program.consts), strict=True))
    values |= dict(zip(program.jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        kind: Any = atom.aval
        return np.asarray(atom.val, kind.dtype) if isinstance(atom, Literal) else values[atom]

    for eqn in program.jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in CALLS:
            jaxpr, consts = body(eqn)
            results = _run(graph, ClosedJaxpr(jaxpr, list(consts)), operands)
        elif not any(isinstance(operand, str) for operand in operands) and _is_known(eqn):
            results = [np.asarray(result) for result in bind(eqn, *map(jnp.asarray, operands))]
        elif name in OPERATIONS:
            found = OPERATIONS[name](graph, eqn, operands)
            results = found if isinstance(found, list) else [found]
        else:
            raise ValueError(f"JAX's operation {name} has no translation to ONNX")
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in program.jaxpr.outvars]


def _is_known(eqn: Any) -> bool:
    """Whether no size depends on the number of rows."""
    return all(isinstance(size, int) for out in eqn.outvars for size in out.aval.shape)
