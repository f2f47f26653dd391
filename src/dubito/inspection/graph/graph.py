"""The computation graph of any JAX function: its operations, values, derivatives and costs, as tables and pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Float

from dubito._jax.jaxpr import INLINED, body
from dubito._process.threads import check_process
from dubito.inspection.graph import drawing
from dubito.inspection.graph.autodiff import (
    Node,
    Source,
    backward,
    forward,
    is_float,
    node_results,
    operation_at,
    pull,
    result_of,
)

LARGEST = 10**7  # numbers of a Jacobian
MOVES = set(  # operations that only move data
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice concatenate pad gather "
    "rev copy copy_p convert_element_type split stack iota stop_gradient".split()
)


class Edge(NamedTuple):
    """An edge of a graph.

    Parameters
    ----------
    tail, head : numbers of the nodes.
    position : which operand of the head the tail is.
    derivative : of the head with respect to the tail, if both are single numbers; ``Graph.local`` computes it as an array.
    """

    tail: int
    head: int
    position: int
    derivative: float | None


class Costs(NamedTuple):
    """Arithmetic operations, as XLA counts them.

    Parameters
    ----------
    function : of the function.
    reverse, rows : of the gradient or Jacobian by reverse mode, in ``rows`` passes, one for each output.
    forward, columns : of the same by forward mode, in ``columns`` passes, one for each input.
    """

    function: float
    reverse: float
    rows: int
    forward: float
    columns: int


@dataclass(frozen=True, eq=False)
class Graph:
    """A computation graph; in a notebook it displays as a picture.

    Parameters
    ----------
    nodes : in topological order, the arguments' leaves first.
    arguments : of the function.
    outputs : the sources of the results.
    tree : structure of the results.
    """

    nodes: tuple[Node, ...]
    arguments: tuple
    outputs: tuple[Source, ...]
    tree: Any

    @cached_property
    def values(self) -> list[Any]:
        """The results of each node."""
        return jax.jit(lambda leaves: node_results(self.nodes, leaves))(jax.tree.leaves(self.arguments))

    @property
    def value(self) -> Any:
        """The value of the function."""
        return self.tree.unflatten([result_of(self.values, source) for source in self.outputs])

    @property
    def is_scalar(self) -> bool:
        """Whether the function returns one real number, so that it has a gradient."""
        results = [result_of(self.values, source) for source in self.outputs]
        return len(results) == 1 and results[0].shape == () and bool(is_float(results[0]))

    @cached_property
    def slopes(self) -> list[Any]:
        """∂y/∂result of each result of each node; None where y does not depend on it.

        Raises ValueError unless the function returns one real number y.
        """
        if not self.is_scalar:
            shapes = [result_of(self.values, source).shape for source in self.outputs]
            raise ValueError(f"a gradient is of one real number; the function returns arrays of shapes {shapes}")
        seeds = {self.outputs[0]: jnp.ones_like(result_of(self.values, self.outputs[0]))}
        return jax.jit(lambda values, seeds: backward(self.nodes, values, seeds))(self.values, seeds)

    def gradient(self) -> Any:
        """The gradient of the function, by the four rules of ``autodiff``.

        Returns
        -------
        A tree like the argument, or a tuple of trees for several; None for whole numbers.

        Raises
        ------
        ValueError
            Unless the function returns one real number.
        """
        leaves, tree = jax.tree.flatten(self.arguments)
        zeros = [jnp.zeros_like(leaf) if is_float(leaf) else None for leaf in leaves]
        found = [slopes[0] for slopes in self.slopes[: len(leaves)]]
        trees = tree.unflatten([zero if slope is None else slope for slope, zero in zip(found, zeros, strict=True)])
        return trees[0] if len(trees) == 1 else trees

    def jacobian(self, mode: str = "reverse") -> Float[np.ndarray, "results inputs"]:
        """The derivatives of all results with respect to all real numbers of the arguments, flattened.

        Parameters
        ----------
        mode : "reverse", row by row, one pass for each result; "forward", column by column.

        Raises
        ------
        ValueError
            For another mode, and for more than 10⁷ numbers.
        """
        columns, rows = self._sizes
        if mode not in ("reverse", "forward"):
            raise ValueError(f"mode is 'reverse' or 'forward', got {mode!r}")
        if rows * columns > LARGEST:
            raise ValueError(f"a Jacobian of {rows} × {columns} numbers is too large to write down; at most {LARGEST}")
        if mode == "reverse":
            back = jax.jit(self._row)
            return np.stack([back(self.values, seed) for seed in np.eye(rows, dtype=np.float32)])
        ahead = jax.jit(self._column)
        return np.stack([ahead(self.values, seed) for seed in np.eye(columns, dtype=np.float32)], axis=1)

    def local(self, edge: Edge) -> jax.Array:
        """The derivative of an edge's head (its first result) with respect to its tail.

        Parameters
        ----------
        edge : one of ``edges``.

        Returns
        -------
        An array of shape head.shape + tail.shape.

        Raises
        ------
        ValueError
            For more than 10⁷ numbers.
        """
        node = self.nodes[edge.head]
        operands = [result_of(self.values, source) for source in node.inputs]
        shape = node.shapes[0] + operands[edge.position].shape
        if math.prod(shape) > LARGEST:
            raise ValueError(f"a derivative of shape {shape} is too large to write down; at most {LARGEST} numbers")
        operation = operation_at(node, operands, [edge.position])
        return jax.jacrev(lambda tail: operation(tail)[0])(operands[edge.position])

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges between real numbers, in the order of their heads."""
        found = [
            (source.node, node.number, position)
            for node in self.nodes
            for position, source in enumerate(node.inputs)
            if is_float(result_of(self.values, source)) and is_float(self.values[node.number][0])
        ]
        heads = {head for tail, head, _ in found if self.values[tail][0].size == self.values[head][0].size == 1}

        def numbers(values):
            ones = {head: [jnp.ones_like(values[head][0])] + [None] * (len(values[head]) - 1) for head in heads}
            return {head: dict(pull(self.nodes[head], values, ones[head])) for head in heads}

        known = jax.jit(numbers)(self.values)
        shares = [known.get(head, {}).get(position) for _, head, position in found]
        slopes = [float(share.reshape(())) if share is not None and share.size == 1 else None for share in shares]
        return tuple(Edge(*edge, slope) for edge, slope in zip(found, slopes, strict=True))

    @cached_property
    def costs(self) -> Costs:
        """Arithmetic operations of the function and of its derivatives by both modes."""
        columns, rows = self._sizes
        leaves = jax.tree.leaves(self.arguments)

        def through(one_pass, size):
            return count_flops(
                lambda leaves, seed: one_pass(node_results(self.nodes, leaves), seed), leaves, jnp.zeros(size)
            )

        function = count_flops(lambda leaves: node_results(self.nodes, leaves), leaves)
        reverse = function + rows * (through(self._row, rows) - function)
        return Costs(function, reverse, rows, columns * through(self._column, columns), columns)

    def table(self, unfold: str | Sequence[str] = ()) -> str:
        """The graph as text, a line for each operation or folded scope; ``unfold`` as for ``svg``."""
        return drawing.table(self, unfold)

    def dot(self, unfold: str | Sequence[str] = ()) -> str:
        """The graph in Graphviz's language."""
        return drawing.dot(self, unfold)

    def svg(self, unfold: str | Sequence[str] = ()) -> str:
        """The picture of the graph, as the text of an SVG.

        Edges between single numbers show their derivatives, and joins their sums.

        Parameters
        ----------
        unfold : scopes to open, as "layer_1" or "layer_1/activation", or "all"; every other scope is one box.
        """
        return drawing.svg(self, unfold)

    def _repr_svg_(self):
        return self.svg()

    @property
    def _inputs(self):
        leaves = jax.tree.leaves(self.arguments)
        return [Source(number, 0) for number, leaf in enumerate(leaves) if is_float(leaf)]

    @property
    def _sizes(self):
        """(numbers in the arguments, numbers in the results)"""
        shapes = [[self.nodes[s.node].shapes[s.result] for s in sources] for sources in (self._inputs, self.outputs)]
        return tuple(sum(map(math.prod, group)) for group in shapes)

    def _row(self, values, seed):
        seeds: dict[Any, Any] = {}
        for source, share in zip(
            self.outputs, split_vector(seed, [result_of(values, s) for s in self.outputs]), strict=True
        ):
            seeds[source] = seeds[source] + share if source in seeds else share
        return join_sources(backward(self.nodes, values, seeds), values, self._inputs)

    def _column(self, values, seed):
        given = split_vector(seed, [result_of(values, source) for source in self._inputs])
        tangents = {source.node: tangent for source, tangent in zip(self._inputs, given, strict=True)}
        return join_sources(forward(self.nodes, values, tangents), values, self.outputs)


def graph(function: Callable[..., Any], *arguments: Any) -> Graph:
    """Trace a function into its computation graph.

    Parameters
    ----------
    function : anything JAX can trace: a network, a log joint density, a function of the user's.
    *arguments : trees of arrays and numbers, whose values the graph shows.

    Examples
    --------
    >>> import dubito
    >>> picture = dubito.graph(lambda a, b: (a + b) * (b + 1), 2.0, 1.0)
    >>> float(picture.value), [float(slope) for slope in picture.gradient()]
    (6.0, [2.0, 5.0])
    """
    check_process()
    arguments = jax.tree.map(jnp.asarray, arguments)
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    nodes: list[Node] = []

    def add(name, label, inputs, scope, cost, shapes, content):
        nodes.append(Node(len(nodes), name, label, tuple(inputs), scope, cost, tuple(shapes), content))
        return nodes[-1].number

    def constant(value, scope):
        label = f"{float(value):.4g}" if is_float(value) and np.ndim(value) == 0 else ""
        return Source(add("constant", label, (), scope, 0, [np.shape(value)], value), 0)

    def walk(jaxpr, consts, sources, outer):
        known = dict(zip(jaxpr.invars, sources, strict=True))
        known.update({var: constant(value, outer) for var, value in zip(jaxpr.constvars, consts, strict=True)})

        def source(atom, scope):
            return constant(atom.val, scope) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            scope = outer + tuple(filter(None, str(eqn.source_info.name_stack).split("/")))
            inputs = [source(atom, scope) for atom in eqn.invars]
            if eqn.primitive.name in INLINED:
                found = walk(*body(eqn), inputs, scope)
            else:
                name = eqn.primitive.name
                number = add(
                    name, operation_name(eqn), inputs, scope, flops(eqn), [v.aval.shape for v in eqn.outvars], eqn
                )
                found = [Source(number, result) for result in range(len(eqn.outvars))]
            known.update(zip(eqn.outvars, found, strict=True))
        return [source(atom, outer) for atom in jaxpr.outvars]

    code = function.__code__ if isinstance(function, FunctionType | MethodType) else None
    names = code.co_varnames if code is not None and code.co_argcount >= len(arguments) else ()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        first = path[0].idx
        keys = [
            names[first] if names else f"argument {first}",
            *(jax.tree_util.keystr((key,), simple=True) for key in path[1:]),
        ]
        add("input", keys[-1], (), tuple(keys[:-1]), 0, [leaf.shape], None)
    outputs = walk(closed.jaxpr, closed.consts, [Source(number, 0) for number in range(len(nodes))], ())
    return Graph(tuple(nodes), arguments, tuple(outputs), jax.tree.structure(shape))


def operation_name(eqn: Any) -> str:
    """The usual name of an operation; of one with a custom derivative the name of its function."""
    if not eqn.primitive.name.startswith("custom_"):
        return eqn.primitive.name
    inner = body(eqn)[0].eqns
    return eqn.params.get("name") or (inner[0].params.get("name", "function") if len(inner) == 1 else "function")


def split_vector(vector: jax.Array, like: Sequence[Any]) -> list[jax.Array]:
    """The pieces of a vector as arrays of the shapes and types of ``like``."""
    ends = np.cumsum([0, *(one.size for one in like)])
    pieces = zip(ends[:-1], ends[1:], like, strict=True)
    return [vector[a:b].reshape(one.shape).astype(one.dtype) for a, b, one in pieces]


def join_sources(table: Sequence[Any], values: Sequence[Any], sources: Sequence[Source]) -> jax.Array:
    """The entries of ``table`` for the sources as one vector, with zeros for None."""
    found = [(result_of(table, source), result_of(values, source)) for source in sources]
    return jnp.concatenate([(jnp.zeros_like(value) if one is None else one).ravel() for one, value in found])


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Arithmetic operations of ``function``, as XLA counts them before it optimizes."""
    found = jax.jit(function).lower(*arguments).cost_analysis()
    return float((found or {}).get("flops", math.nan))


def flops(eqn: Any) -> int:
    """Arithmetic operations of one equation: 2 for each multiplication with its addition in products, 1 for each number that
    any other operation makes or reduces, none for moving data."""
    name, p = eqn.primitive.name, eqn.params
    made = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    if name == "dot_general":
        shape = eqn.invars[0].aval.shape
        return 2 * made * math.prod(shape[axis] for axis in p["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        shape = eqn.invars[1].aval.shape
        return 2 * made * math.prod(shape) // shape[p["dimension_numbers"].rhs_spec[0]]
    if name == "scan":
        return p["length"] * body_flops(p["jaxpr"].jaxpr)
    if name == "while":
        return body_flops(p["cond_jaxpr"].jaxpr) + body_flops(p["body_jaxpr"].jaxpr)
    if name == "cond":
        return max(body_flops(branch.jaxpr) for branch in p["branches"])
    if "call_jaxpr" in p or name in INLINED:
        return body_flops(body(eqn)[0])
    if name in MOVES:
        return 0
    if name.startswith(("reduce_", "arg", "cum")):
        return sum(math.prod(v.aval.shape) for v in eqn.invars)
    return made


def body_flops(jaxpr: Any) -> int:
    """Arithmetic operations of all equations of a jaxpr."""
    return sum(map(flops, jaxpr.eqns))
