"""A layered drawing of boxes and links as SVG, from left to right (Sugiyama, Tagawa & Toda 1981, in short).

Each box stands in the layer after the last it reads; a link over several layers bends at a point in each; boxes of a layer
are sorted by the middle of their neighbors, and then drawn towards them.
"""

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

COLORS = {"input": "#f6dcae", "operation": "#ffffff", "scope": "#cfe6f5", "output": "#bfe5d6"}
Links: TypeAlias = Iterable[tuple[int, int]]
BOLD = ' font-weight="bold"'
LINE, CHARACTER, MARGIN, GAP, SPACE = 15, 6.6, 10, 34, 22


def color(box: Any) -> str:
    """The fill of a box, by its kind, or of the one with the function's result."""
    return COLORS["output" if box.output else box.kind]


def layers(count: int, links: Links) -> list[int]:
    """The layer of each box: after all it reads, and inputs right before their first reader."""
    tails, heads = defaultdict(list), defaultdict(list)
    for tail, head in links:
        tails[head].append(tail)
        heads[tail].append(head)
    layer = [0] * count
    for box in range(count):  # they are in topological order
        layer[box] = max((layer[tail] + 1 for tail in tails[box]), default=0)
    for box in range(count):
        if not tails[box] and heads[box]:
            layer[box] = min(layer[head] for head in heads[box]) - 1
    return layer


def arrange(count: int, links: Links) -> tuple[list[list[int]], dict[tuple[int, int], list[int]], Any, Any]:
    """(the layers, lists of points; the chain of points of each link). The first ``count`` points are boxes, others bends."""
    layer = layers(count, links)
    chains, where = {}, list(layer)
    for tail, head in links:
        bends = range(layer[tail] + 1, layer[head])
        chains[tail, head] = [tail, *range(len(where), len(where) + len(bends)), head]
        where += bends
    rows = [[point for point, at in enumerate(where) if at == number] for number in range(max(where) + 1)]
    before, after = defaultdict(list), defaultdict(list)
    for chain in chains.values():
        for one, next_one in pairwise(chain):
            after[one].append(next_one)
            before[next_one].append(one)
    for sweep in range(12):
        neighbors = before if sweep % 2 == 0 else after
        for row in rows if sweep % 2 == 0 else reversed(rows):
            place = {point: number for points in rows for number, point in enumerate(points)}
            middle = {p: np.mean([place[n] for n in neighbors[p]]) if neighbors[p] else place[p] for p in row}
            row.sort(key=middle.__getitem__)
    return rows, chains, before, after


def positions(
    rows: Sequence[Sequence[int]],
    before: Mapping[int, list[int]],
    after: Mapping[int, list[int]],
    heights: Mapping[int, float],
) -> dict[int, float]:
    """The height at which each point stands: near the mean of its neighbors', no nearer to the next than they are high."""
    y = {}
    for row in rows:
        top = 0.0
        for point in row:
            y[point] = top + heights[point] / 2
            top += heights[point] + SPACE
        for point in row:
            y[point] -= top / 2
    for sweep in range(24):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [np.mean([y[n] for n in before[p] + after[p]]) if before[p] + after[p] else y[p] for p in row]
            placed = spread(np.array(wanted), np.array([heights[p] for p in row]))
            y.update(zip(row, placed, strict=True))
    return y


def spread(wanted: Float[np.ndarray, "points"], heights: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
    """Positions near ``wanted``, in order, that leave ``SPACE`` between: the least squares, by pooling those that collide."""
    offset = np.concatenate([[0.0], np.cumsum((heights[:-1] + heights[1:]) / 2 + SPACE)])
    pools = []
    for value in wanted - offset:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            last, count = pools.pop()
            pools[-1] = [(pools[-1][0] * pools[-1][1] + last * count) / (pools[-1][1] + count), pools[-1][1] + count]
    return np.concatenate([np.full(count, value) for value, count in pools]) + offset


def layered_svg(boxes: Sequence[Any], links: Mapping[tuple[int, int], Sequence[str]]) -> str:
    """The drawing of boxes and links, as the text of a self-contained SVG."""
    rows, chains, before, after = arrange(len(boxes), links)
    widths, heights = defaultdict(lambda: 0.0), defaultdict(lambda: 6.0)
    for number, box in enumerate(boxes):
        widths[number] = (
            CHARACTER * max(1.15 * len(box.lines[0]), *map(len, box.lines))
            + 2 * MARGIN
            + (12 if box.kind == "operation" else 0)
        )
        heights[number] = LINE * len(box.lines) + 1.2 * MARGIN + (8 if box.kind == "operation" else 0)
    labels = {pair: ", ".join(texts) for pair, texts in links.items()}
    y = positions(rows, before, after, heights)
    x, left = {}, MARGIN
    for row in rows:
        wide = max(widths[point] for point in row)
        text = max((len(labels[pair]) for pair, chain in chains.items() if chain[0] in row), default=0)
        x.update({point: left + wide / 2 for point in row})
        left += wide + GAP + CHARACTER * text
    low = min(y[point] - heights[point] / 2 for row in rows for point in row) - MARGIN
    high = max(y[point] + heights[point] / 2 for row in rows for point in row) + MARGIN
    parts = []
    for pair, chain in chains.items():
        points = [(x[p], y[p] - low) for p in chain]
        points[0] = (points[0][0] + widths[chain[0]] / 2, points[0][1])
        points[-1] = (points[-1][0] - widths[chain[-1]] / 2 - 1, points[-1][1])
        parts.append(f'<path d="{curve(points)}" fill="none" stroke="#555" marker-end="url(#arrow)"/>')
        if labels[pair]:
            (ax, ay), (bx, by) = points[:2]
            spot = f'x="{(ax + bx) / 2:.1f}" y="{(ay + by) / 2 - 3:.1f}"'
            parts.append(f'<text {spot} class="edge">{html.escape(labels[pair])}</text>')
    parts += [box_svg(box, x[k], y[k] - low, widths[k], heights[k]) for k, box in enumerate(boxes)]
    width, height = left - GAP + MARGIN, high - low
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12"><style>text { text-anchor: middle } '
        ".edge { font-size: 11px; fill: #0072b2; paint-order: stroke; stroke: white; stroke-width: 3px }</style>"
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>"])


def curve(points: Sequence[tuple[float, float]]) -> str:
    """A path through points from left to right that leaves and enters each level."""
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by) in pairwise(points):
        middle = (ax + bx) / 2
        text += f" C{middle:.1f} {ay:.1f} {middle:.1f} {by:.1f} {bx:.1f} {by:.1f}"
    return text


def box_svg(box: Any, x: float, y: float, width: float, height: float) -> str:
    """One box: an ellipse for an operation, a rectangle for inputs and scopes, with its lines of text."""
    style = f'fill="{color(box)}" stroke="#333"'
    if box.kind == "operation":
        shape = f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{width / 2:.1f}" ry="{height / 2:.1f}" {style}/>'
    else:
        corner = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}"'
        shape = f'<rect {corner} width="{width:.1f}" height="{height:.1f}" rx="5" {style}/>'
    first = y - LINE * (len(box.lines) - 1) / 2 + 4
    texts = [
        f'<text x="{x:.1f}" y="{first + LINE * k:.1f}"{BOLD if k == 0 else ""}>{html.escape(line)}</text>'
        for k, line in enumerate(box.lines)
    ]
    return shape + "".join(texts)
