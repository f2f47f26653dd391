"""Boxes and links in layers from left to right, as SVG (Sugiyama, Tagawa & Toda 1981, in short).

Each box stands in the layer after the last one it reads. A link across several layers bends at a
point in each of them. Points of a layer are sorted by the mean height of their neighbors and drawn
towards it.
"""

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.optimize import isotonic_regression

COLORS = {"input": "#f6dcae", "operation": "#ffffff", "scope": "#cfe6f5", "output": "#bfe5d6"}
LINE, CHARACTER, MARGIN, GAP, SPACE = 15, 6.6, 10, 34, 22  # pixels
SORTING, PLACING = 12, 24  # sweeps over the layers
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" height="{1:.0f}" '
    'font-family="Helvetica, Arial, sans-serif" font-size="12"><style>text {{ text-anchor: middle }} '
    ".edge {{ font-size: 11px; fill: #0072b2; paint-order: stroke; stroke: white; stroke-width: 3px }}</style>"
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs><rect width="100%" height="100%" fill="white"/>'
)
Links: TypeAlias = Mapping[tuple[int, int], Sequence[str]]  # texts by (tail, head)
Chains: TypeAlias = Mapping[tuple[int, int], Sequence[int]]  # points by (tail, head)


class Box(NamedTuple):
    """What is drawn as one box.

    Attributes
    ----------
    kind : {"input", "operation", "scope"}
        An operation is an ellipse, the others are rectangles.
    nodes : list of int
        Numbers of the graph's nodes in it.
    lines : list of str
        Its text, the name first.
    output : bool
        Whether it contains a result of the function.
    """

    kind: str
    nodes: list[int]
    lines: list[str]
    output: bool

    @property
    def color(self) -> str:
        """The fill of the box."""
        return COLORS["output" if self.output else self.kind]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        round_ = self.kind == "operation"
        characters = max(1.15 * len(self.lines[0]), *map(len, self.lines))  # the first line is bold
        width = CHARACTER * characters + 2 * MARGIN + 12 * round_
        return width, LINE * len(self.lines) + 1.2 * MARGIN + 8 * round_

    def svg(self, x: float, y: float) -> str:
        """Draw the box.

        Parameters
        ----------
        x, y : float
            Its center.

        Returns
        -------
        str
            SVG elements.
        """
        width, height = self.size
        style = f'fill="{self.color}" stroke="#333"'
        if self.kind == "operation":
            shape = f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{width / 2:.1f}" ry="{height / 2:.1f}" {style}/>'
        else:
            corner = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}"'
            shape = f'<rect {corner} width="{width:.1f}" height="{height:.1f}" rx="5" {style}/>'
        first = y - LINE * (len(self.lines) - 1) / 2 + 4
        for number, line in enumerate(self.lines):
            weight = "" if number else ' font-weight="bold"'
            shape += f'<text x="{x:.1f}" y="{first + LINE * number:.1f}"{weight}>{html.escape(line)}</text>'
        return shape


def layers(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """The layer of each box: after all it reads, and inputs right before their first reader."""
    tails, heads = defaultdict(list), defaultdict(list)
    for tail, head in links:
        tails[head].append(tail)
        heads[tail].append(head)
    layer = [0] * count
    for box in range(count):  # in topological order
        layer[box] = max((layer[tail] + 1 for tail in tails[box]), default=0)
    for box in range(count):
        if not tails[box] and heads[box]:
            layer[box] = min(layer[head] for head in heads[box]) - 1
    return layer


def with_bends(layer: Sequence[int], links: Iterable[tuple[int, int]]) -> tuple[list[list[int]], Chains]:
    """The points of each layer, boxes and then bends; and the chain of points of each link."""
    where, chains = list(layer), {}
    for tail, head in links:
        bends = range(layer[tail] + 1, layer[head])
        chains[tail, head] = [tail, *range(len(where), len(where) + len(bends)), head]
        where += bends
    rows: list[list[int]] = [[] for _ in range(max(where) + 1)]
    for point, number in enumerate(where):
        rows[number].append(point)
    return rows, chains


def vertical_positions(rows: list[list[int]], chains: Chains, heights: Mapping[int, float]) -> dict[int, float]:
    """The height of each point, near the mean of its neighbors', without overlap; sorts ``rows``."""
    before, after = defaultdict(list), defaultdict(list)
    for chain in chains.values():
        for one, following in pairwise(chain):
            after[one].append(following)
            before[following].append(one)
    y = {point: float(number) for row in rows for number, point in enumerate(row)}
    for sweep in range(SORTING + PLACING):
        forward, sorting = sweep % 2 == 0, sweep < SORTING
        for row in rows if forward else rows[::-1]:
            near = {p: (before[p] if forward else after[p]) if sorting else before[p] + after[p] for p in row}
            wanted = {p: float(np.mean([y[n] for n in near[p]])) if near[p] else y[p] for p in row}
            if sorting:
                row.sort(key=wanted.__getitem__)
            size = np.array([heights[p] + SPACE for p in row])
            offset = np.cumsum(size) - size / 2
            placed = isotonic_regression(np.array([wanted[p] for p in row]) - offset).x + offset
            y.update(zip(row, placed.tolist(), strict=True))
    return y


def layered_svg(boxes: Sequence[Box], links: Links) -> str:
    """Draw boxes and links.

    Parameters
    ----------
    boxes : sequence of Box
        In topological order.
    links : mapping
        The texts on each link, by the numbers of its tail and head.

    Returns
    -------
    str
        A self-contained SVG.
    """
    rows, chains = with_bends(layers(len(boxes), links), links)
    widths, heights = defaultdict(float), defaultdict(lambda: 6.0)  # bends are points
    for number, box in enumerate(boxes):
        widths[number], heights[number] = box.size
    labels = {pair: ", ".join(texts) for pair, texts in links.items()}
    y = vertical_positions(rows, chains, heights)
    low = min(y[point] - heights[point] / 2 for point in y) - MARGIN
    high = max(y[point] + heights[point] / 2 for point in y) + MARGIN
    x, left = {}, float(MARGIN)
    for row in rows:
        wide = max(widths[point] for point in row)
        text = max((len(labels[pair]) for pair in links if pair[0] in row), default=0)
        x.update({point: left + wide / 2 for point in row})
        left += wide + GAP + CHARACTER * text
    parts = [HEAD.format(left - GAP + MARGIN, high - low)]
    for pair, chain in chains.items():
        points = [(x[p], y[p] - low) for p in chain]
        points[0] = (points[0][0] + widths[chain[0]] / 2, points[0][1])
        points[-1] = (points[-1][0] - widths[chain[-1]] / 2 - 1, points[-1][1])
        parts.append(f'<path d="{curve(points)}" fill="none" stroke="#555" marker-end="url(#arrow)"/>')
        if labels[pair]:
            (ax, ay), (bx, by) = points[:2]
            spot = f'x="{(ax + bx) / 2:.1f}" y="{(ay + by) / 2 - 3:.1f}"'
            parts.append(f'<text {spot} class="edge">{html.escape(labels[pair])}</text>')
    parts += [box.svg(x[number], y[number] - low) for number, box in enumerate(boxes)]
    return "\n".join([*parts, "</svg>"])


def curve(points: Sequence[tuple[float, float]]) -> str:
    """A path through points from left to right that is horizontal in each."""
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by) in pairwise(points):
        middle = (ax + bx) / 2
        text += f" C{middle:.1f} {ay:.1f} {middle:.1f} {by:.1f} {bx:.1f} {by:.1f}"
    return text
