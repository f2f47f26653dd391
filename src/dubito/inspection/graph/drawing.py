"""What a computation graph shows: its operations folded by scope into boxes, as a text table, in Graphviz's language, as SVG."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from dubito.inspection.graph import layout
from dubito.inspection.graph.autodiff import Node, is_float

SYMBOLS = {
    "add": "+",
    "add_any": "+",
    "sub": "−",
    "mul": "×",
    "div": "÷",
    "neg": "−",
    "dot_general": "product",
    "logistic": "sigmoid",
}
SYMBOLS |= {
    "reduce_sum": "sum",
    "integer_pow": "power",
    "conv_general_dilated": "convolution",
    "reduce_max": "maximum",
    "max": "larger",
}
MOST = 1000  # boxes of a picture
Unfold: TypeAlias = str | Sequence[str]


@dataclass
class Box:
    """What is drawn as one box.

    Parameters
    ----------
    name : of the scope or operation.
    kind : "input", "operation" or "scope".
    nodes : numbers of the graph's nodes in it.
    lines : of text.
    output : whether it contains a result of the function.
    """

    name: str
    kind: str
    nodes: list[int]
    lines: list[str] = field(default_factory=list)
    output: bool = False


def fold_scopes(graph: Any, unfold: Unfold = ()) -> tuple[list[Box], dict[tuple[int, int], list[str]]]:
    """Fold the operations of a graph into boxes.

    Constants, which no input reaches, are left out. Boxes that would read each other in a circle are opened.

    Parameters
    ----------
    graph : the ``Graph``.
    unfold : scopes to open, as "layer_1" or "layer_1/activation", or "all".

    Returns
    -------
    The boxes in topological order, and the texts of the derivatives on each link (tail, head), by the boxes' numbers.
    """
    opened = {unfold} if isinstance(unfold, str) else set(unfold)
    unknown = (
        opened - {"all"} - {"/".join(node.scope[:k]) for node in graph.nodes for k in range(1, len(node.scope) + 1)}
    )
    if unknown:
        known = sorted({node.scope[0] for node in graph.nodes if node.scope})
        raise ValueError(
            f"no scope is called {', '.join(map(repr, sorted(unknown)))}; the outermost are {', '.join(known) or 'none'}"
        )
    kept = reached_nodes(graph)
    single: set[Any] = set()
    while True:
        keys = {number: box_key(graph.nodes[number], opened, single) for number in kept}
        order = topological_order(graph, keys)
        if isinstance(order, list):
            break
        single |= order
    boxes = {one: Box(one[-1] if isinstance(one, tuple) else graph.nodes[one].label, "operation", []) for one in order}
    for number, one in keys.items():
        boxes[one].nodes.append(number)
    place = {one: number for number, one in enumerate(order)}
    links: dict[Any, list] = {}
    for edge in graph.edges:
        if edge.tail in keys and edge.head in keys and keys[edge.tail] != keys[edge.head]:
            texts = links.setdefault((place[keys[edge.tail]], place[keys[edge.head]]), [])
            alone = len(boxes[keys[edge.tail]].nodes) == len(boxes[keys[edge.head]].nodes) == 1
            texts += [number_text(edge.derivative)] if alone and edge.derivative is not None else []
    for number in kept:
        for source in graph.nodes[number].inputs:
            if source.node in keys and keys[source.node] != keys[number]:
                links.setdefault((place[keys[source.node]], place[keys[number]]), [])
    ends = {source.node for source in graph.outputs}
    for box in boxes.values():
        describe_box(graph, box, ends)
    return list(boxes.values()), links


def reached_nodes(graph: Any) -> list[int]:
    """The nodes that an input reaches, and the inputs that are read, by number."""
    found, used = set(), {source.node for node in graph.nodes for source in node.inputs}
    for node in graph.nodes:
        if node.name == "input" and node.number in used or any(source.node in found for source in node.inputs):
            found.add(node.number)
    return sorted(found)


def box_key(node: Node, opened: set[str], single: set[Any]) -> Any:
    """What a node is drawn in: its own number, or ("input" or "scope", the path of the scope it is folded into)."""
    kind = "input" if node.name == "input" else "scope"
    if "all" in opened or not node.scope:
        return node.number
    if kind == "input":
        folded_into = (kind, ".".join(node.scope))
    else:
        depth = next((k for k in range(1, len(node.scope) + 1) if "/".join(node.scope[:k]) not in opened), None)
        if depth is None:
            return node.number
        folded_into = (kind, "/".join(node.scope[:depth]))
    return node.number if folded_into in single else folded_into


def topological_order(graph: Any, keys: dict[int, Any]) -> list[Any] | set[Any]:
    """The keys in topological order; or, if they read one another in a circle, the set of the folded ones in it."""
    tails: dict[Any, set] = {one: set() for one in keys.values()}
    for number, one in keys.items():
        tails[one] |= {keys[s.node] for s in graph.nodes[number].inputs if s.node in keys and keys[s.node] != one}
    order: list[Any] = []
    waiting = dict.fromkeys(keys.values())
    while waiting:
        free = [one for one in waiting if not tails[one] & waiting.keys()]
        if not free:
            return {one for one in waiting if isinstance(one, tuple)}
        order += free
        for one in free:
            del waiting[one]
    return order


def describe_box(graph: Any, box: Box, ends: set[int]) -> None:
    """Set the kind of a box and its lines of text."""
    nodes = [graph.nodes[number] for number in box.nodes]
    box.output = bool(ends & set(box.nodes))
    if all(node.name == "input" for node in nodes):
        box.kind = "input"
        if len(nodes) > 1 or nodes[0].scope:
            box.name = ".".join(nodes[0].scope if len(nodes) > 1 else (*nodes[0].scope, nodes[0].label))
        box.lines = [box.name, *(f"{node.label} {shape_text(node.shapes[0])}" for node in nodes if len(nodes) > 1)]
        box.lines += single_lines(graph, nodes[0]) if len(nodes) == 1 else []
    elif len(nodes) == 1 and not (nodes[0].scope and box.name == nodes[0].scope[-1]):
        node = nodes[0]
        constants = [
            graph.nodes[s.node].label
            for s in node.inputs
            if graph.nodes[s.node].name == "constant" and graph.nodes[s.node].label
        ]
        power = [str(node.content.params["y"])] if node.name == "integer_pow" else []
        words: list[Any] = [SYMBOLS.get(node.label, node.label.replace("_", " ")), *power, *constants[:2]]
        box.lines = [" ".join(words)]
        box.lines += single_lines(graph, node)
    else:
        box.kind = "scope"
        last = nodes[-1]
        count = sum(node.name != "constant" for node in nodes)
        box.lines = [
            box.name,
            f"{count} operation{'s' if count > 1 else ''}, {amount(sum(node.cost for node in nodes))} flops",
        ]
        box.lines += single_lines(graph, last)


def single_lines(graph: Any, node: Any) -> list[str]:
    """A node's value and slope where it is one number, else its shape."""
    if len(node.shapes) > 1 or not is_float(graph.values[node.number][0]):
        return [shape_text(node.shapes[0])]
    value = np.asarray(graph.values[node.number][0])
    if value.size > 1:
        return [shape_text(value.shape)]
    lines = [f"= {number_text(value.item())}"]
    if graph.is_scalar and graph.slopes[node.number][0] is not None:
        shares = [
            number_text(edge.derivative * float(np.ravel(graph.slopes[edge.head][0])[0]))
            for edge in graph.edges
            if edge.tail == node.number and edge.derivative is not None and graph.slopes[edge.head][0] is not None
        ]
        total = number_text(float(np.ravel(graph.slopes[node.number][0])[0]))
        joined = " + ".join(shares).replace("+ −", "− ")
        lines.append(f"slope {joined} = {total}" if len(shares) > 1 else f"slope {total}")
    return lines


def table(graph: Any, unfold: Unfold = ()) -> str:
    """A line for each box: its number, what it is, the boxes it reads, shape, arithmetic, the root mean square of its value
    and of the slope of the function's result there."""
    boxes, links = fold_scopes(graph, unfold)
    rows: list[Any] = [("", "what", "reads", "shape", "flops", "rms value", "rms slope")]
    for number, box in enumerate(boxes):
        reads = ", ".join(str(tail) for tail, head in links if head == number)
        parts = box.nodes if box.kind == "input" else box.nodes[-1:]
        sizes = [
            rms_text([table[part][0] for part in parts])
            for table in [graph.values, *([graph.slopes] if graph.is_scalar else [])]
        ]
        cost = amount(sum(graph.nodes[node].cost for node in box.nodes))
        shape = "; ".join(box.lines[1:]) if len(parts) > 1 else shape_text(graph.nodes[parts[0]].shapes[0])
        rows.append((str(number), box.lines[0], reads, shape, cost, *[*sizes, ""][:2]))
    return align_columns(rows)


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def rms_text(arrays: Sequence[Any]) -> str:
    """The root mean square of all numbers of some arrays, as text; empty without real numbers."""
    found = [np.ravel(np.asarray(one, float)) for one in arrays if one is not None and is_float(one)]
    return f"{np.sqrt(np.mean(np.square(np.concatenate(found)))):.3g}" if found else ""


def dot(graph: Any, unfold: Unfold = ()) -> str:
    """The picture in Graphviz's language."""
    boxes, links = fold_scopes(graph, unfold)
    text = [
        "digraph {",
        '  rankdir=LR; node [fontname="Helvetica", fontsize=11, style=filled]; edge [fontname="Helvetica", fontsize=10];',
    ]
    for number, box in enumerate(boxes):
        shape = "ellipse" if box.kind == "operation" else "box"
        label = "\\n".join(escape_quotes(line) for line in box.lines)
        text.append(f'  n{number} [label="{label}", shape={shape}, fillcolor="{layout.color(box)}"];')
    for (tail, head), texts in links.items():
        text.append(f'  n{tail} -> n{head} [label="{escape_quotes(", ".join(texts))}"];')
    return "\n".join([*text, "}"])


def svg(graph: Any, unfold: Unfold = ()) -> str:
    """The picture as SVG: laid out by Graphviz if its ``dot`` is installed, else by ``layout``."""
    boxes, links = fold_scopes(graph, unfold)
    if len(boxes) > MOST:
        raise ValueError(f"{len(boxes)} boxes are too many for a picture, {MOST} at most; unfold fewer scopes")
    program = shutil.which("dot")
    if program is None:
        return layout.layered_svg(boxes, links)
    done = subprocess.run([program, "-Tsvg"], input=dot(graph, unfold), capture_output=True, text=True, timeout=60)
    return done.stdout[done.stdout.index("<svg") :] if done.returncode == 0 else layout.layered_svg(boxes, links)


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
