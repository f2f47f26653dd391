"""Automatic differentiation by hand: four rules on a graph of operations.

1. Nodes are simple operations. 2. An edge carries the derivative of its head with respect to its
tail. 3. Derivatives along a path are multiplied. 4. Derivatives of paths that join are added.
Reverse mode starts with ∂y/∂y = 1 and visits the nodes in reverse topological order; forward mode
goes the other way. JAX provides only the derivative of a single operation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.jaxpr import bind

Results: TypeAlias = Sequence[Sequence[Any]]  # for each node, an array (or None) for each of its results


class Source(NamedTuple):
    """A value that an operation reads.

    Attributes
    ----------
    node : int
        Number of the node.
    result : int
        Which of the node's results.
    """

    node: int
    result: int


class Node(NamedTuple):
    """One operation of a graph.

    Attributes
    ----------
    number : int
        Its index in the graph.
    name : str
        The JAX primitive, "input" or "constant".
    label : str
        The text that a picture shows.
    inputs : tuple of Source
        The values it reads.
    scope : tuple of str
        The named scopes around it: the layer, the term of Bayes' rule.
    cost : int
        Arithmetic operations; for a loop that ends by a condition, those of one iteration.
    shapes : tuple of tuple
        The shape of each result.
    content : object
        The traced equation, or the constant.
    """

    number: int
    name: str
    label: str
    inputs: tuple[Source, ...]
    scope: tuple[str, ...]
    cost: int
    shapes: tuple[tuple[int, ...], ...]
    content: Any


def result_of(table: Results, source: Source) -> Any:
    """Return the entry of a source in a table of results.

    Parameters
    ----------
    table : sequence of sequence
        An entry for each result of each node.
    source : Source
        The value to look up.

    Returns
    -------
    object
        The entry.
    """
    return table[source.node][source.result]


def is_float(value: Any) -> bool:
    """Whether a value has derivatives.

    Parameters
    ----------
    value : array or number

    Returns
    -------
    bool
        False for integers and booleans.
    """
    return bool(jnp.issubdtype(jnp.result_type(value), jnp.inexact))


def node_results(nodes: Sequence[Node], leaves: Sequence[Any]) -> list[Any]:
    """Evaluate a graph.

    Parameters
    ----------
    nodes : sequence of Node
        In topological order, the inputs first.
    leaves : sequence of array
        Values of the inputs.

    Returns
    -------
    list of tuple
        The results of each node.
    """
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
    nodes: Sequence[Node], values: Results, seeds: Mapping[Source, Any], through: Sequence[Node] | None = None
) -> list[Any]:
    """Reverse mode: the derivative of y with respect to every result of every node.

    Parameters
    ----------
    nodes, values : sequence
        The graph in topological order, and the results of its nodes.
    seeds : mapping from Source to array
        ∂y/∂result for some results.
    through : sequence of Node, optional
        The nodes that pass derivatives on; by default all.

    Returns
    -------
    list of list
        For each node ∂y/∂result of each result; None where y does not depend on it.
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


def pull(node: Node, values: Results, slopes: Sequence[Any]) -> list[tuple[int, Any]]:
    """Multiply a node's gradient by the derivatives of its edges.

    Parameters
    ----------
    node : Node
    values : sequence of sequence
        The results of all nodes.
    slopes : sequence of array or None
        The gradient with respect to each result of the node.

    Returns
    -------
    list of tuple
        Pairs (operand, its contribution to the gradient) for the operands that have derivatives.
    """
    operands = [result_of(values, source) for source in node.inputs]
    places = [place for place, operand in enumerate(operands) if is_float(operand)]
    _, back = jax.vjp(operation_at(node, operands, places), *(operands[place] for place in places))
    cotangents = [_cotangent(*pair) for pair in zip(slopes, values[node.number], strict=True)]
    return list(zip(places, back(cotangents), strict=True))


def forward(nodes: Sequence[Node], values: Results, tangents: Mapping[int, Any]) -> list[Any]:
    """Forward mode: the derivative of every node's results along one direction of the inputs.

    Parameters
    ----------
    nodes, values : sequence
        The graph in topological order, and the results of its nodes.
    tangents : mapping from int to array
        The direction: a tangent for each input, by its number.

    Returns
    -------
    list of tuple
        For each node the tangent of each result; None where it is 0.
    """
    moved: list[Any] = []
    for node in nodes:
        places = [place for place, source in enumerate(node.inputs) if result_of(moved, source) is not None]
        if not places:
            moved.append((tangents.get(node.number),) + (None,) * (len(node.shapes) - 1))
            continue
        operands = [result_of(values, source) for source in node.inputs]
        primals = tuple(operands[place] for place in places)
        directions = tuple(result_of(moved, node.inputs[place]) for place in places)
        _, ahead = jax.jvp(operation_at(node, operands, places), primals, directions)
        moved.append(tuple(t if is_float(v) else None for t, v in zip(ahead, values[node.number], strict=True)))
    return moved


def operation_at(node: Node, operands: Sequence[Any], places: Sequence[int]) -> Callable[..., list[Any]]:
    """Restrict a node's operation to some of its operands.

    Parameters
    ----------
    node : Node
    operands : sequence of array
        The values of all operands.
    places : sequence of int
        The operands that stay variable; the others are fixed.

    Returns
    -------
    callable
        A function of the operands at ``places`` that returns the node's results.
    """

    def operation(*some: Any) -> list[Any]:
        chosen = dict(zip(places, some, strict=True))
        return bind(node.content, *(chosen.get(place, operand) for place, operand in enumerate(operands)))

    return operation


def _cotangent(slope: Any, result: Any) -> Any:
    """The slope of a result in the form ``jax.vjp`` expects: zeros for None, float0 for integers."""
    if not is_float(result):
        return np.zeros(result.shape, jax.dtypes.float0)
    return jnp.zeros_like(result) if slope is None else slope
