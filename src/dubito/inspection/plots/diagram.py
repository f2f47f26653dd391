"""The picture of a network: units as circles, weights as lines whose color, width and opacity show what is known of them."""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import special

from dubito._jax.types import ArrayLike, Key
from dubito.estimators.base import BayesianEstimator
from dubito.inspection import network_view
from dubito.inspection.plots import predictions
from dubito.inspection.plots.predictions import BLUE, GREEN, ORANGE, RED, SKY
from dubito.posteriors.dropout import DropoutPosterior

try:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle
except ImportError as error:
    raise ImportError("dubito.plots draws with matplotlib: pip install 'dubito[plot]'") from error

WHOLE, TALL, SHOWN = 200, 64, 12  # units of a network and of a layer that are all drawn; of a layer of a larger network
WIDEST, FAINTEST = 3.0, 0.06  # points; opacity
SCALE, HIGHEST = 0.33, 6.5  # inches between units of a small network, and of the tallest layer at most


class Drawing(NamedTuple):
    """What a diagram shows.

    Parameters
    ----------
    sizes, names : number of units of each layer, and what they are.
    weights, certainty : (a, b) between two layers; certainties are from 0 to 1. None where only sizes are known.
    dropped : (units,) of each layer, whether dropout drops them.
    joins : (a, b), from which input a column or periodic feature is computed.
    columns : names of the inputs.
    notes : texts for the legend.
    """

    sizes: tuple
    names: tuple
    weights: tuple | None = None
    certainty: tuple | None = None
    dropped: tuple | None = None
    joins: Any = None
    columns: tuple = ()
    notes: tuple = ()


def network_diagram(network: Any, *, member: int | None = None, key: Key | None = None, ax: Axes | None = None) -> Axes:
    """Units as circles and weights as lines, from the inputs to the outputs.

    The color of a line is its weight's sign, its width the weight's size; weights that are exactly 0 are not drawn. Of a
    distribution over weights these are the means, and opacity is the certainty of the sign, ``sign_certainty``. A network of
    up to 200 units, 64 a layer, is drawn entirely. In a larger one a layer of more than 12 units shows the first and last
    five. Periodic features stand in a layer of their own beside the columns, each joined to its column.

    Parameters
    ----------
    network : fitted estimator, posterior of a multilayer perceptron, or only the numbers of units, as [3, 50, 1].
    member : which network of an ensemble, counted from 0; None as for ``network_view.member_of``.
    key : draws the weights once, with the units that dropout drops struck out; None shows the means.
    ax : axes to draw on; None makes a figure.

    Returns
    -------
    The axes.
    """
    if isinstance(network, list | tuple | np.ndarray):
        if member is not None or key is not None:
            raise ValueError("member and key are for a fitted network; numbers of units have neither")
        sizes = tuple(int(size) for size in network)
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes are at least two layers of at least one unit, got {list(sizes)}")
        return _draw(Drawing(sizes, ("input", *["hidden unit"] * (len(sizes) - 2), "output")), ax)
    posterior, number, count = network_view.member_of(network, member)
    drawing = _read(posterior, key)
    notes = (f"member {number + 1} of {count}",) if number is not None and count > 1 else ()
    return _draw(drawing._replace(columns=_columns(network), notes=notes + drawing.notes), ax)


def _read(posterior, key):
    """The ``Drawing`` of a posterior: of its moments, or of one draw."""
    if key is None:
        mean, sd = network_view.parameter_moments(posterior)
        note = ("mean weights",) if sd is not None else ()
    else:
        mean, sd = jax.tree.map(lambda leaf: leaf[0], posterior.sample(key, 1)), None
        note = ("one draw of the weights",)
    network, params = network_view.mean_network(posterior.model.network, mean["network"])
    depth = len(network.hidden) + 1
    weights = _matrices(params, depth)
    certainty: Any = None
    if sd is not None:
        scales = _matrices(network_view.mean_network(posterior.model.network, sd["network"])[1], depth)
        certainty = [sign_certainty(w, s) for w, s in zip(weights, scales, strict=True)]
    dropped: list[Any] = [np.zeros(len(w), bool) for w in weights] + [np.zeros(network.outputs, bool)]
    if isinstance(posterior, DropoutPosterior) and key is not None:
        kept = _matrices(network_view.mean_network(posterior.model.network, posterior.params["network"])[1], depth)
        dropped[:-1] = [~w.any(axis=1) & k.any(axis=1) for w, k in zip(weights, kept, strict=True)]
        for w, lost in zip(weights, dropped[1:], strict=True):
            w[:, lost] = 0.0  # what a dropped unit is told changes nothing
    zeros = 1 - np.mean([one != 0 for w in weights for one in w.flat])
    note += (
        (f"{100 * zeros:.0f} % of the weights exactly 0, not drawn",)
        if zeros > 0 and not any(map(np.any, dropped))
        else ()
    )
    names = ["input", *["hidden unit"] * len(network.hidden), "output"]
    joins = None
    if network.periodic:
        joins = _joins(network, len(weights[0]))
        names[0:1] = ["input", "columns and waves"]
        dropped = [np.zeros(network.inputs, bool), *dropped]
    sizes = tuple(map(len, dropped))
    return Drawing(sizes, tuple(names), tuple(weights), certainty and tuple(certainty), tuple(dropped), joins, (), note)


def sign_certainty(mean: ArrayLike | float, sd: ArrayLike | float) -> np.ndarray:
    """The probability of the mean's sign minus that of the other sign: 2Φ(|mean|/sd) − 1.

    Parameters
    ----------
    mean, sd : of normal weights, arrays of one shape.

    Returns
    -------
    From 0 to 1; 0 where both are 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(special.erf(np.abs(mean) / sd / np.sqrt(2)))


def _matrices(params, depth):
    return [np.array(params[f"layer_{number}"]["w"], float) for number in range(depth)]


def _joins(network, width):
    """(inputs, inputs + waves): the columns go on as they are, then come the waves, one of each column after another."""
    own = np.eye(network.inputs, dtype=bool)
    waves = own[:, list(network.columns)]
    return np.hstack([own, *[waves] * ((width - network.inputs) // waves.shape[1])])


def _columns(network):
    """The names of an estimator's encoded columns, if its table had names."""
    if not isinstance(network, BayesianEstimator) or not network.schema_.named:
        return ()
    return tuple(
        name
        for column in network.schema_.columns
        for name in ([f"{column.name}={c}" for c in column.categories] if column.categories else [str(column.name)])
    )


def _draw(d, ax):
    whole = sum(d.sizes) <= WHOLE and max(d.sizes) <= TALL
    shown = [_shown(size, whole) for size in d.sizes]
    tallest = max(map(_extent, shown))
    heights = [_heights(places, tallest) for places in shown]
    top = max(map(max, heights))
    inch = 1 / min(SCALE, HIGHEST / max(2 * top, 1.0))  # units of height in an inch
    gap, largest = max(4.0, round(0.9 * top)), float(np.clip(tallest / 16, 1.0, 2.0))
    left = 0.7 + 0.07 * max([len(name) for name in d.columns if len(shown[0]) == d.sizes[0]], default=-3)
    limits = (-left * inch, gap * (len(d.sizes) - 1) + 0.7 * inch), (-top - 0.55 * inch, top + 0.2 * inch)
    width, height = (float(size) for size in np.ptp(limits, axis=1) / inch)
    ax = predictions._axes(ax, (width, height) if d.weights is None else (max(width, 5.0), height + 0.7))
    _lines(ax, d, shown, heights, gap)
    colors = [ORANGE, *[SKY] * (len(d.sizes) - 2), GREEN]
    colors[1] = colors[1] if d.joins is None else ORANGE
    for layer, (units, places, name, color) in enumerate(zip(d.sizes, heights, d.names, colors, strict=True)):
        lost = np.zeros(units, bool) if d.dropped is None else d.dropped[layer]
        radius = 0.34 * min(_pitch(places), largest)
        for unit, height in zip(shown[layer], places, strict=True):
            face = "white" if lost[unit] else color
            ax.add_patch(Circle((gap * layer, height), radius, fc=face, ec="black", lw=0.8, zorder=2))
        if len(places) < units:
            ax.plot([gap * layer] * 3, [-0.5, 0.0, 0.5], ls="", marker="o", ms=2.5, color="black")
        struck = [height for unit, height in zip(shown[layer], places, strict=True) if lost[unit]]
        if struck:
            ms = 72 * 2 * radius / inch
            ax.plot([gap * layer] * len(struck), struck, ls="", marker="x", ms=ms, color="black", zorder=3)
        text = f"{units:,} {name if units == 1 or name.endswith('s') else name + 's'}"
        ax.text(gap * layer, -top - 0.2 * inch, text, ha="center", va="top", fontsize="small")
    if d.columns and len(shown[0]) == d.sizes[0]:
        for height, name in zip(heights[0], d.columns, strict=True):
            ax.text(-0.4 * largest, height, f"{name} ", ha="right", va="center", fontsize="x-small")
    ax.set_axis_off()
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.set_aspect("equal")
    return ax if d.weights is None else _explained(ax, d, shown)


def _lines(ax, d, shown, heights, gap):
    """One collection of lines for the joins, one for all weights, the large ones on top."""
    matrices = [np.ones((a, b)) for a, b in pairwise(d.sizes)] if d.weights is None else list(d.weights)
    certainty = [np.ones_like(w) for w in matrices] if d.certainty is None else d.certainty
    first = 0
    if d.joins is not None:
        ends = _ends(d.joins, shown[:2], heights[:2], 0.0, gap)
        ax.add_collection(LineCollection([line for line, *_ in ends], colors="0.6", linewidths=0.6, zorder=1))
        first = 1
    lines, values, sure = [], [], []
    for layer, (w, c) in enumerate(zip(matrices, certainty, strict=True), first):
        for line, low, high in _ends(w != 0, shown[layer : layer + 2], heights[layer : layer + 2], gap * layer, gap):
            lines.append(line)
            values.append(w[low, high])
            sure.append(c[low, high])
    if d.weights is None:
        faint = predictions._opacity(len(lines))
        ax.add_collection(LineCollection(lines, colors="0.5", linewidths=0.4, alpha=faint, zorder=1))
        return
    values, order = np.array(values), np.argsort(np.abs(values))
    rgba = np.array([to_rgba(BLUE if value > 0 else RED) for value in values]).reshape(-1, 4)
    rgba[:, 3] = np.maximum(FAINTEST, sure)
    widths = WIDEST * np.abs(values) / max(np.abs(values), default=1.0)
    lines = [lines[k] for k in order]
    ax.add_collection(LineCollection(lines, colors=rgba[order], linewidths=widths[order], zorder=1))


def _ends(joined, shown, heights, x, gap):
    """(line, unit, unit) for each pair of shown units that are joined."""
    return [
        ([(x, low), (x + gap, high)], a, b)
        for a, low in zip(shown[0], heights[0], strict=True)
        for b, high in zip(shown[1], heights[1], strict=True)
        if joined[a, b]
    ]


def _explained(ax, d, shown):
    """The legend of a fitted network's weights."""
    first = len(d.sizes) - len(d.weights) - 1
    seen = [np.abs(w[np.ix_(shown[k], shown[k + 1])]) for k, w in enumerate(d.weights, first)]
    largest = max(w.max() for w in seen)
    marks = [
        Line2D([], [], color=BLUE, lw=WIDEST, label=f"positive weight, this wide: {largest:.2g}"),
        Line2D([], [], color=RED, lw=WIDEST / 2, label=f"negative weight, this wide: {-largest / 2:.2g}"),
    ]
    if d.certainty is not None:
        marks += [
            Line2D(
                [],
                [],
                color=BLUE,
                lw=WIDEST,
                alpha=max(FAINTEST, float(sign_certainty(t, 1.0))),
                label=f"|mean|/sd = {t:g}",
            )
            for t in (0.25, 1.0)
        ]
    if any(map(np.any, d.dropped)):
        marks.append(Line2D([], [], ls="", marker="x", color="black", label="dropped unit"))
    return predictions._legend(ax, 2, "; ".join(d.notes) or None, marks)


def _shown(size, whole):
    """Which units are drawn one by one."""
    few = (SHOWN - 2) // 2
    return list(range(size)) if whole or size <= SHOWN else [*range(few), *range(size - few, size)]


def _extent(places):
    """How many units' places a layer takes."""
    return len(places) if places[-1] + 1 == len(places) else SHOWN


def _heights(places, tallest):
    """Where the drawn units stand, from the top: a short layer beside a tall one is spread, and two places are left for dots."""
    count = _extent(places)
    heights = max(1.0, min(3.0, 0.6 * tallest / count)) * (0.5 * (count - 1) - np.arange(count))
    return list(heights) if count == len(places) else [height for height in heights if abs(height) > 1]


def _pitch(heights):
    return heights[0] - heights[1] if len(heights) > 1 else np.inf
