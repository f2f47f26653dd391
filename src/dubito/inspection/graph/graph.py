"""The computation graph of any JAX function: its operations, values, derivatives and costs."""

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
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dubito._check import check_choice
from dubito._jax.jaxpr import INLINED, body
from dubito._process.threads import check_process
from dubito.inspection.graph import autodiff, drawing
from dubito.inspection.graph.autodiff import Node, Source, is_float, node_results, result_of

LARGEST_JACOBIAN = 10**7  # numbers
MOVES = set(  # operations that only move data
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice concatenate pad gather "
    "rev copy copy_p convert_element_type split stack iota stop_gradient".split()
)


class Edge(NamedTuple):
    """An edge of a graph.

    Attributes
    ----------
    tail, head : int
        Numbers of the nodes.
    position : int
        Which operand of the head the tail is.
    derivative : float or None
        The derivative of the head with respect to the tail; None unless both are single numbers.
    """

    tail: int
    head: int
    position: int
    derivative: float | None


class Costs(NamedTuple):
    """Arithmetic operations of a function and of its derivatives, as XLA counts them.

    Attributes
    ----------
    function : float
        Operations of the function.
    reverse : float
        Operations of its gradient or Jacobian by reverse mode.
    rows : int
        The number of passes that reverse mode needs, one for each output.
    forward : float
        Operations of the same derivatives by forward mode.
    columns : int
        The number of passes that forward mode needs, one for each input.
    """

    function: float
    reverse: float
    rows: int
    forward: float
    columns: int


@dataclass(frozen=True, eq=False)
class Graph:
    """A computation graph; a notebook displays it as a picture.

    Attributes
    ----------
    nodes : tuple of Node
        In topological order, the leaves of the arguments first.
    arguments : tuple
        Arguments of the function.
    outputs : tuple of Source
        Where the results come from.
    tree : PyTreeDef
        Structure of the results.
    """

    nodes: tuple[Node, ...]
    arguments: tuple[Any, ...]
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
        return len(results) == 1 and results[0].shape == () and is_float(results[0])

    @cached_property
    def slopes(self) -> list[Any]:
        """The derivative of the function with respect to each result of each node.

        Returns
        -------
        list of list
            None where the function does not depend on a result.

        Raises
        ------
        ValueError
            If the function does not return one real number.
        """
        if not self.is_scalar:
            shapes = [result_of(self.values, source).shape for source in self.outputs]
            raise ValueError(f"gradient needs a function that returns one real number; got arrays of shapes {shapes}")
        seeds = {self.outputs[0]: jnp.ones_like(result_of(self.values, self.outputs[0]))}
        return jax.jit(lambda values, seeds: autodiff.backward(self.nodes, values, seeds))(self.values, seeds)

    def gradient(self) -> Any:
        """Compute the gradient of the function by the four rules of ``autodiff``.

        Returns
        -------
        pytree
            Like the argument, or a tuple of trees for several arguments; None for integers.

        Raises
        ------
        ValueError
            If the function does not return one real number.
        """
        leaves, tree = jax.tree.flatten(self.arguments)
        zeros = [jnp.zeros_like(leaf) if is_float(leaf) else None for leaf in leaves]
        slopes = [slope for (slope,) in self.slopes[: len(leaves)]]
        trees = tree.unflatten([zero if slope is None else slope for slope, zero in zip(slopes, zeros, strict=True)])
        return trees[0] if len(trees) == 1 else trees

    def jacobian(self, mode: str = "reverse") -> Float[np.ndarray, "results inputs"]:
        """Compute the derivatives of all results with respect to all real numbers in the arguments.

        Parameters
        ----------
        mode : {"reverse", "forward"}
            "reverse" computes the matrix row by row, in one pass for each result; "forward" column
            by column.

        Returns
        -------
        array
            The Jacobian (results, inputs), both flattened.

        Raises
        ------
        ValueError
            For another mode, and for more than 10⁷ numbers.
        """
        columns, rows = self._sizes
        check_choice("mode", mode, ("reverse", "forward"))
        if rows * columns > LARGEST_JACOBIAN:
            raise ValueError(f"a Jacobian of {rows} × {columns} numbers is too large: at most {LARGEST_JACOBIAN:,}")
        one_pass, count, axis = (self._row, rows, 0) if mode == "reverse" else (self._column, columns, 1)
        compiled = jax.jit(one_pass)
        return np.stack([compiled(self.values, seed) for seed in np.eye(count, dtype=np.float32)], axis)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges between real numbers, in the order of their heads."""
        ends = [
            (source.node, node.number, position)
            for node in self.nodes
            for position, source in enumerate(node.inputs)
            if is_float(result_of(self.values, source)) and is_float(self.values[node.number][0])
        ]
        heads = {head for tail, head, _ in ends if self.values[tail][0].size == self.values[head][0].size == 1}

        def pull_ones(values: list[Any]) -> dict[int, dict[int, Any]]:
            ones = {head: [jnp.ones_like(values[head][0])] + [None] * (len(values[head]) - 1) for head in heads}
            return {head: dict(autodiff.pull(self.nodes[head], values, ones[head])) for head in heads}

        known = jax.jit(pull_ones)(self.values)
        slopes = [known.get(head, {}).get(position) for _, head, position in ends]
        numbers = [None if slope is None or slope.size != 1 else float(slope.reshape(())) for slope in slopes]
        return tuple(Edge(*each, number) for each, number in zip(ends, numbers, strict=True))

    @cached_property
    def costs(self) -> Costs:
        """Arithmetic operations of the function and of its derivatives by both modes."""
        columns, rows = self._sizes
        leaves = jax.tree.leaves(self.arguments)

        def with_pass(one_pass: Callable[..., Any], size: int) -> float:
            return count_flops(lambda x, seed: one_pass(node_results(self.nodes, x), seed), leaves, jnp.zeros(size))

        function = count_flops(lambda leaves: node_results(self.nodes, leaves), leaves)
        reverse = function + rows * (with_pass(self._row, rows) - function)
        return Costs(function, reverse, rows, columns * with_pass(self._column, columns), columns)

    table = drawing.table
    dot = drawing.dot
    svg = drawing.svg
    _repr_svg_ = drawing.svg

    @property
    def _inputs(self) -> list[Source]:
        leaves = jax.tree.leaves(self.arguments)
        return [Source(number, 0) for number, leaf in enumerate(leaves) if is_float(leaf)]

    @property
    def _sizes(self) -> tuple[int, int]:
        """(numbers in the arguments, numbers in the results)"""
        inputs, outputs = (
            sum(math.prod(self.nodes[source.node].shapes[source.result]) for source in sources)
            for sources in (self._inputs, self.outputs)
        )
        return inputs, outputs

    def _row(self, values: list[Any], seed: Float[Array, "results"]) -> Float[Array, "inputs"]:
        seeds: dict[Source, Any] = {}
        for source, share in zip(self.outputs, split_like(seed, values, self.outputs), strict=True):
            seeds[source] = seeds[source] + share if source in seeds else share
        return join_sources(autodiff.backward(self.nodes, values, seeds), values, self._inputs)

    def _column(self, values: list[Any], seed: Float[Array, "inputs"]) -> Float[Array, "results"]:
        given = split_like(seed, values, self._inputs)
        tangents = {source.node: tangent for source, tangent in zip(self._inputs, given, strict=True)}
        return join_sources(autodiff.forward(self.nodes, values, tangents), values, self.outputs)


def graph(function: Callable[..., Any], *arguments: Any) -> Graph:
    """Trace a function into its computation graph.

    Parameters
    ----------
    function : callable
        Anything JAX can trace: a network, a log joint density, any function of yours.
    *arguments : pytree
        Trees of arrays and numbers, whose values the graph shows.

    Returns
    -------
    Graph
        The graph with its values.

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

    def constant(value: Any, scope: tuple[str, ...]) -> Source:
        label = f"{float(value):.4g}" if is_float(value) and np.ndim(value) == 0 else ""
        nodes.append(Node(len(nodes), "constant", label, (), scope, 0, (np.shape(value),), value))
        return Source(nodes[-1].number, 0)

    def walk(jaxpr: Any, consts: Sequence[Any], sources: list[Source], outer: tuple[str, ...]) -> list[Source]:
        known = dict(zip(jaxpr.invars, sources, strict=True))
        known.update({var: constant(value, outer) for var, value in zip(jaxpr.constvars, consts, strict=True)})

        def source(atom: Any, scope: tuple[str, ...]) -> Source:
            return constant(atom.val, scope) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            scope = outer + tuple(filter(None, str(eqn.source_info.name_stack).split("/")))
            inputs = [source(atom, scope) for atom in eqn.invars]
            if eqn.primitive.name in INLINED:
                results = walk(*body(eqn), inputs, scope)
            else:
                number, shapes = len(nodes), tuple(var.aval.shape for var in eqn.outvars)
                label, cost = operation_name(eqn), flops(eqn)
                nodes.append(Node(number, eqn.primitive.name, label, tuple(inputs), scope, cost, shapes, eqn))
                results = [Source(number, result) for result in range(len(shapes))]
            known.update(zip(eqn.outvars, results, strict=True))
        return [source(atom, outer) for atom in jaxpr.outvars]

    code = function.__code__ if isinstance(function, FunctionType | MethodType) else None
    names = code.co_varnames if code is not None and code.co_argcount >= len(arguments) else ()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        first = path[0].idx
        inner = [jax.tree_util.keystr((key,), simple=True) for key in path[1:]]
        *scope, label = [names[first] if names else f"argument {first}", *inner]
        nodes.append(Node(len(nodes), "input", label, (), tuple(scope), 0, (leaf.shape,), None))
    outputs = walk(closed.jaxpr, closed.consts, [Source(number, 0) for number in range(len(nodes))], ())
    return Graph(tuple(nodes), arguments, tuple(outputs), jax.tree.structure(shape))


def operation_name(eqn: Any) -> str:
    """The usual name of an operation; for one with a custom derivative the name of its function."""
    if not eqn.primitive.name.startswith("custom_"):
        return eqn.primitive.name
    inner = body(eqn)[0].eqns
    return eqn.params.get("name") or (inner[0].params.get("name", "function") if len(inner) == 1 else "function")


def split_like(vector: Any, values: autodiff.Results, sources: Sequence[Source]) -> list[jax.Array]:
    """Split a vector into arrays of the shapes and dtypes of the sources' values."""
    flat, unravel = ravel_pytree([result_of(values, source) for source in sources])
    return unravel(jnp.asarray(vector, flat.dtype))


def join_sources(table: autodiff.Results, values: autodiff.Results, sources: Sequence[Source]) -> Float[Array, "n"]:
    """The entries of a table for the sources as one vector, with zeros for None."""
    entries = [(result_of(table, source), result_of(values, source)) for source in sources]
    return ravel_pytree([jnp.zeros_like(value) if entry is None else entry for entry, value in entries])[0]


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Arithmetic operations of a function, as XLA counts them before it optimizes."""
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    return float((analysis or {}).get("flops", math.nan))


def flops(eqn: Any) -> int:
    """Count the arithmetic operations of one equation.

    A product counts 2 for each multiplication with its addition; any other operation 1 for each
    number that it makes or reduces; moving data counts 0.

    Parameters
    ----------
    eqn : jax.extend.core.JaxprEqn

    Returns
    -------
    int
        The number of operations.
    """
    name, params = eqn.primitive.name, eqn.params
    made = sum(math.prod(var.aval.shape) for var in eqn.outvars)
    if name == "dot_general":
        shape = eqn.invars[0].aval.shape
        return 2 * made * math.prod(shape[axis] for axis in params["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        shape = eqn.invars[1].aval.shape
        return 2 * made * math.prod(shape) // shape[params["dimension_numbers"].rhs_spec[0]]
    if name == "scan":
        return params["length"] * body_flops(params["jaxpr"].jaxpr)
    if name == "while":
        return body_flops(params["cond_jaxpr"].jaxpr) + body_flops(params["body_jaxpr"].jaxpr)
    if name == "cond":
        return max(body_flops(branch.jaxpr) for branch in params["branches"])
    if "call_jaxpr" in params or name in INLINED:
        return body_flops(body(eqn)[0])
    if name in MOVES:
        return 0
    if name.startswith(("reduce_", "arg", "cum")):
        return sum(math.prod(var.aval.shape) for var in eqn.invars)
    return made


def body_flops(jaxpr: Any) -> int:
    """Arithmetic operations of all equations of a jaxpr."""
    return sum(map(flops, jaxpr.eqns))
