"""Automatic differentiation by hand: four rules on a graph of operations.

1. Nodes are simple operations. 2. An edge carries the derivative of its head with respect to its tail. 3. Derivatives along a
path are multiplied. 4. Those of branches that join are added. Reverse mode starts with ∂y/∂y = 1 and visits the nodes
in reverse topological order; forward mode goes the other way. The derivative of one operation is all that JAX gives here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.jaxpr import bind


class Source(NamedTuple):
    """A value that an operation reads: result number ``result`` of node number ``node``."""

    node: int
    result: int


class Node(NamedTuple):
    """One operation of a graph.

    Parameters
    ----------
    number : its index in the graph.
    name : of the primitive, "input" or "constant".
    label : the text that a picture shows.
    inputs : the values it reads.
    scope : the named scopes around it (the layer, the term of Bayes' rule).
    cost : arithmetic operations; of a loop that ends by a condition those of one iteration.
    shapes : of its results.
    content : the traced equation, or the constant.
    """

    number: int
    name: str
    label: str
    inputs: tuple[Source, ...]
    scope: tuple[str, ...]
    cost: int
    shapes: tuple[tuple[int, ...], ...]
    content: Any


def result_of(table: Sequence[Sequence[Any]], source: Source) -> Any:
    """The entry of a source in a table with an entry for each node and, in it, one for each result."""
    return table[source.node][source.result]


def is_float(value: Any) -> bool:
    """Whether a value has derivatives."""
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def node_results(nodes: Sequence[Node], leaves: Sequence[Any]) -> list[Any]:
    """The results of each node, from the values of the inputs, which are the first nodes."""
    values: list[Any] = []
    for node in nodes:
        if node.name == "input":
            values.append((leaves[node.number],))
        elif node.name == "constant":
            values.append((jnp.asarray(node.content),))
        else:
            values.append(tuple(bind(node.content, *(result_of(values, source) for source in node.inputs))))
    return values


def backward(
    nodes: Sequence[Node],
    values: Sequence[Any],
    seeds: Mapping[Source, Any],
    through: Sequence[Node] | None = None,
) -> list[Any]:
    """Reverse mode: ∂y/∂result of every result of every node.

    Parameters
    ----------
    nodes, values : the graph in topological order, and the results of its nodes.
    seeds : ∂y/∂result of some results.
    through : the nodes that pass derivatives on; None is all.

    Returns
    -------
    For each node a list over its results; None where y does not depend on them.
    """
    slopes: list[Any] = [[None] * len(node.shapes) for node in nodes]
    for source, seed in seeds.items():
        slopes[source.node][source.result] = seed
    for node in reversed(nodes if through is None else through):
        if not node.inputs or all(slope is None for slope in slopes[node.number]):
            continue
        for position, share in pull(node, values, slopes[node.number]):
            tail = node.inputs[position]
            before = slopes[tail.node][tail.result]
            slopes[tail.node][tail.result] = share if before is None else before + share
    return slopes


def pull(node: Node, values: Sequence[Any], slopes: Sequence[Any]) -> list[tuple[int, Any]]:
    """Pairs (operand, its contribution to the gradient): the node's gradient times the derivatives of its edges."""
    operands = [result_of(values, source) for source in node.inputs]
    places = [position for position, operand in enumerate(operands) if is_float(operand)]
    _, back = jax.vjp(operation_at(node, operands, places), *(operands[position] for position in places))
    return list(
        zip(places, back([_slope(*pair) for pair in zip(slopes, values[node.number], strict=True)]), strict=True)
    )


def forward(nodes: Sequence[Node], values: Sequence[Any], tangents: Mapping[int, Any]) -> list[Any]:
    """Forward mode: the tangent of every node's results, from those of the inputs by number; None where it is 0."""
    moved: list[Any] = []
    for node in nodes:
        places = [p for p, source in enumerate(node.inputs) if result_of(moved, source) is not None]
        if not node.inputs or not places:
            moved.append((tangents.get(node.number),) + (None,) * (len(node.shapes) - 1))
            continue
        operands = [result_of(values, source) for source in node.inputs]
        there = tuple(operands[position] for position in places)
        _, ahead = jax.jvp(
            operation_at(node, operands, places), there, tuple(result_of(moved, node.inputs[p]) for p in places)
        )
        moved.append(tuple(t if is_float(v) else None for t, v in zip(ahead, values[node.number], strict=True)))
    return moved


def operation_at(node: Node, operands: Sequence[Any], places: Sequence[int]) -> Callable[..., Any]:
    """A node's operation as a function of its operands at ``places``, with the others fixed."""

    def operation(*some):
        chosen = dict(zip(places, some, strict=True))
        return bind(node.content, *(chosen.get(position, operand) for position, operand in enumerate(operands)))

    return operation


def _slope(slope, result):
    """A result's slope as JAX wants it: zeros where there is none, and of no numbers for whole numbers."""
    if not is_float(result):
        return np.zeros(result.shape, jax.dtypes.float0)
    return jnp.zeros_like(result) if slope is None else slope
