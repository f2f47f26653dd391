"""Operations folded by scope into boxes, as a text table, in Graphviz's language, or as SVG."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeAlias

import numpy as np

from dubito.inspection.graph.autodiff import Node, is_float
from dubito.inspection.graph.layout import Box, layered_svg

SYMBOLS = dict(zip("add add_any sub mul div neg".split(), "++−×÷−", strict=True)) | {
    "dot_general": "product",
    "conv_general_dilated": "convolution",
    "logistic": "sigmoid",
    "integer_pow": "power",
    "reduce_sum": "sum",
    "reduce_max": "maximum",
    "max": "larger",
}
MOST_BOXES = 1000  # of a picture
BoxKey: TypeAlias = int | tuple[str, str]  # a node's number, or a kind of box and the path of a scope
Unfold: TypeAlias = str | Sequence[str]
Links: TypeAlias = dict[tuple[int, int], list[str]]


def fold_scopes(graph: Any, unfold: Unfold = ()) -> tuple[list[Box], Links]:
    """Fold the operations of a graph into boxes.

    Constants, which depend on no input, are left out. Boxes that would read each other in a circle
    are opened.

    Parameters
    ----------
    graph : Graph
    unfold : str or sequence of str
        Scopes to open, as "layer_1" or "layer_1/activation", or "all".

    Returns
    -------
    tuple
        The boxes in topological order, and the texts of the derivatives on each link (tail, head),
        by the boxes' numbers.

    Raises
    ------
    ValueError
        For a scope that does not exist.
    """
    opened = {unfold} if isinstance(unfold, str) else set(unfold)
    scopes = {"/".join(node.scope[:depth]) for node in graph.nodes for depth in range(1, len(node.scope) + 1)}
    unknown = opened - {"all"} - scopes
    if unknown:
        outermost = ", ".join(sorted({node.scope[0] for node in graph.nodes if node.scope})) or "none"
        wrong = ", ".join(map(repr, sorted(unknown)))
        raise ValueError(f"no scope is called {wrong}; the outermost are {outermost}")
    reached, single = reached_nodes(graph), set[BoxKey]()
    while True:
        keys = {number: box_key(graph.nodes[number], opened, single) for number in reached}
        tails: dict[BoxKey, set[BoxKey]] = {key: set() for key in keys.values()}
        for number, key in keys.items():
            tails[key] |= {keys[source.node] for source in graph.nodes[number].inputs if source.node in keys} - {key}
        try:
            order = list(TopologicalSorter(tails).static_order())
            break
        except CycleError as error:
            single |= {key for key in error.args[1] if isinstance(key, tuple)}
    members = {key: [number for number in reached if keys[number] == key] for key in order}
    place = {key: number for number, key in enumerate(order)}
    links: Links = {
        (place[tail], place[key]): [] for key in order for tail in sorted(tails[key], key=place.__getitem__)
    }
    alone = {members[key][0]: place[key] for key in order if len(members[key]) == 1}
    for edge in graph.edges:
        if edge.derivative is not None and edge.tail in alone and edge.head in alone:
            links[alone[edge.tail], alone[edge.head]].append(number_text(edge.derivative))
    return [describe_box(graph, key, members[key]) for key in order], links


def reached_nodes(graph: Any) -> list[int]:
    """The nodes that depend on an input, and the inputs that are read, by number."""
    used = {source.node for node in graph.nodes for source in node.inputs}
    reached: set[int] = set()
    for node in graph.nodes:
        if node.name == "input" and node.number in used or any(source.node in reached for source in node.inputs):
            reached.add(node.number)
    return sorted(reached)


def box_key(node: Node, opened: set[str], single: set[BoxKey]) -> BoxKey:
    """The box of a node: one of its own, or that of the outermost scope that is not opened."""
    if "all" in opened or not node.scope:
        return node.number
    if node.name == "input":
        return "input", ".".join(node.scope)
    paths = ["/".join(node.scope[:depth]) for depth in range(1, len(node.scope) + 1)]
    key = next((("scope", path) for path in paths if path not in opened), node.number)
    return node.number if key in single else key


def describe_box(graph: Any, key: BoxKey, numbers: list[int]) -> Box:
    """A box with its lines of text."""
    nodes = [graph.nodes[number] for number in numbers]
    last, output = nodes[-1], bool({source.node for source in graph.outputs} & set(numbers))
    if last.name == "input":
        if len(nodes) > 1:
            leaves = [f"{node.label} {shape_text(node.shapes[0])}" for node in nodes]
            return Box("input", numbers, [".".join(last.scope), *leaves], output)
        return Box("input", numbers, [".".join((*last.scope, last.label)), *value_lines(graph, last)], output)
    if isinstance(key, tuple) and (len(nodes) > 1 or key[1] == last.scope[-1]):
        count = f"{len(nodes)} operation{'s' if len(nodes) > 1 else ''}"
        lines = [key[1], f"{count}, {amount(sum(node.cost for node in nodes))} flops", *value_lines(graph, last)]
        return Box("scope", numbers, lines, output)
    inputs = [graph.nodes[source.node] for source in last.inputs]
    constants = [node.label for node in inputs if node.name == "constant" and node.label]
    power = [str(last.content.params["y"])] if last.name == "integer_pow" else []
    words = [SYMBOLS.get(last.label, last.label.replace("_", " ")), *power, *constants[:2]]
    return Box("operation", numbers, [" ".join(words), *value_lines(graph, last)], output)


def value_lines(graph: Any, node: Node) -> list[str]:
    """A node's value and slope where it is one number, else its shape."""
    value = np.asarray(graph.values[node.number][0])
    if len(node.shapes) > 1 or not is_float(value) or value.size > 1:
        return [shape_text(value.shape)]
    lines = [f"= {number_text(value.item())}"]
    if graph.is_scalar and graph.slopes[node.number][0] is not None:
        shares = [
            number_text(edge.derivative * np.asarray(graph.slopes[edge.head][0]).item())
            for edge in graph.edges
            if edge.tail == node.number and edge.derivative is not None and graph.slopes[edge.head][0] is not None
        ]
        total = number_text(np.asarray(graph.slopes[node.number][0]).item())
        joined = " + ".join(shares).replace("+ −", "− ")
        lines.append(f"slope {joined} = {total}" if len(shares) > 1 else f"slope {total}")
    return lines


def table(graph: Any, unfold: Unfold = ()) -> str:
    """Describe a graph as text.

    Parameters
    ----------
    graph : Graph
    unfold : str or sequence of str
        Scopes to open, as for ``svg``.

    Returns
    -------
    str
        A line for each box: its number, its name, the boxes it reads, shape, arithmetic operations, the
        root mean square of its value, and that of the slope of the function's result there.
    """
    boxes, links = fold_scopes(graph, unfold)
    rows: list[Sequence[str]] = [("", "what", "reads", "shape", "flops", "rms value", "rms slope")]
    for number, box in enumerate(boxes):
        reads = ", ".join(str(tail) for tail, head in links if head == number)
        parts = box.nodes if box.kind == "input" else box.nodes[-1:]
        shape = "; ".join(box.lines[1:]) if len(parts) > 1 else shape_text(graph.nodes[parts[0]].shapes[0])
        cost = amount(sum(graph.nodes[node].cost for node in box.nodes))
        slope = rms_text([graph.slopes[part][0] for part in parts]) if graph.is_scalar else ""
        value = rms_text([graph.values[part][0] for part in parts])
        rows.append((str(number), box.lines[0], reads, shape, cost, value, slope))
    return align_columns(rows)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of texts as lines with aligned columns.

    Parameters
    ----------
    rows : sequence of sequence of str
        Equally many texts each.

    Returns
    -------
    str
        The lines.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def rms_text(arrays: Sequence[Any]) -> str:
    """The root mean square of all numbers in some arrays, as text; empty without real numbers."""
    real = [np.ravel(np.asarray(array, float)) for array in arrays if array is not None and is_float(array)]
    return f"{np.sqrt(np.mean(np.square(np.concatenate(real)))):.3g}" if real else ""


def dot(graph: Any, unfold: Unfold = ()) -> str:
    """Describe the picture in Graphviz's language.

    Parameters
    ----------
    graph : Graph
    unfold : str or sequence of str
        Scopes to open, as for ``svg``.

    Returns
    -------
    str
        The source text for Graphviz.
    """
    boxes, links = fold_scopes(graph, unfold)
    font = 'fontname="Helvetica"'
    text = ["digraph {", f"  rankdir=LR; node [{font}, fontsize=11, style=filled]; edge [{font}, fontsize=10];"]
    for number, box in enumerate(boxes):
        shape = "ellipse" if box.kind == "operation" else "box"
        label = "\\n".join(escape_quotes(line) for line in box.lines)
        text.append(f'  n{number} [label="{label}", shape={shape}, fillcolor="{box.color}"];')
    for (tail, head), texts in links.items():
        text.append(f'  n{tail} -> n{head} [label="{escape_quotes(", ".join(texts))}"];')
    return "\n".join([*text, "}"])


def svg(graph: Any, unfold: Unfold = ()) -> str:
    """Draw a graph.

    Edges between single numbers show their derivatives; where paths join, the sum of their
    contributions is shown.

    Parameters
    ----------
    graph : Graph
    unfold : str or sequence of str
        Scopes to open, as "layer_1" or "layer_1/activation", or "all"; every other scope is one box.

    Returns
    -------
    str
        The text of an SVG.

    Raises
    ------
    ValueError
        For more than 1,000 boxes.
    """
    boxes, links = fold_scopes(graph, unfold)
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"a picture shows at most {MOST_BOXES} boxes, got {len(boxes)}: unfold fewer scopes")
    return layered_svg(boxes, links)


def escape_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def shape_text(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) if shape else "one number"


def number_text(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def amount(count: float) -> str:
    """A count in thousands, millions and so on."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)
