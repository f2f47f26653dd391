"""A diagram of a network: units as circles, weights as lines that show their posterior."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from scipy import special

from dubito._jax.types import ArrayLike, Key, Params
from dubito.estimators.base import BayesianEstimator
from dubito.inspection import network_view
from dubito.inspection.plots.style import BLUE, GREEN, ORANGE, RED, SKY, Axes, add_legend, point_opacity, styled_axes
from dubito.posteriors.dropout import DropoutPosterior

WHOLE, TALL, SHOWN = 200, 64, 12  # units of a network and of a layer that are all drawn; of a layer of a larger network
WIDEST, FAINTEST = 3.0, 0.06  # points; opacity
SCALE, HIGHEST = 0.33, 6.5  # inches between units of a small network, and of the tallest layer at most


class Drawing(NamedTuple):
    """What a diagram shows.

    Attributes
    ----------
    sizes : tuple of int
        The number of units of each layer.
    names : tuple of str
        What the units of each layer are.
    weights : tuple of array, optional
        The weights (a, b) between two layers of a and b units; None where only sizes are known.
    certainty : tuple of array, optional
        The certainty of their signs, from 0 to 1; None for a point.
    dropped : tuple of array
        For each layer, which units dropout drops (units,).
    joins : array, optional
        The inputs (a, b) from which columns and periodic features are computed.
    columns : tuple of str
        Names of the inputs.
    notes : tuple of str
        Texts for the legend.
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[np.ndarray, ...] | None = None
    certainty: tuple[np.ndarray, ...] | None = None
    dropped: tuple[np.ndarray, ...] = ()
    joins: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _LayerPlaces(NamedTuple):
    """The units of a layer that are drawn one by one, and their heights from the top."""

    units: list[int]
    heights: list[float]

    @property
    def pitch(self) -> float:
        """The distance of two units."""
        return self.heights[0] - self.heights[1] if len(self.heights) > 1 else np.inf


def network_diagram(network: Any, *, member: int | None = None, key: Key | None = None, ax: Axes | None = None) -> Axes:
    """Draw units as circles and weights as lines, from the inputs to the outputs.

    The color of a line is the sign of its weight, its width the absolute value; weights that are
    exactly 0 are not drawn. For a distribution over weights these are the means, and opacity is the
    certainty of the sign, ``sign_certainty``. A network of up to 200 units, 64 per layer, is drawn
    completely. In a larger one a layer of more than 12 units shows the first and last five.
    Periodic features form a layer with the columns, each joined to its column.

    Parameters
    ----------
    network : estimator, posterior or sequence of int
        A fitted estimator, the posterior of a multilayer perceptron, or only the numbers of units, as
        [3, 50, 1].
    member : int, optional
        Which network of an ensemble, counted from 0; by default as for ``network_view.member_of``.
    key : Key, optional
        Draws the weights once; units that dropout drops are crossed out. By default the means.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.

    Raises
    ------
    ValueError
        For a network that is not a multilayer perceptron, for fewer than two layers, and for a member
        that does not exist.
    """
    if isinstance(network, list | tuple | np.ndarray):
        if member is not None or key is not None:
            raise ValueError("member and key need a fitted network, not numbers of units")
        sizes = tuple(int(size) for size in network)
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"a network has at least two layers of at least one unit, got {list(sizes)}")
        return _draw(Drawing(sizes, ("input", *["hidden unit"] * (len(sizes) - 2), "output")), ax)
    posterior, number, count = network_view.member_of(network, member)
    drawing = _read(posterior, key)
    notes = (f"member {number + 1} of {count}",) if number is not None and count > 1 else ()
    return _draw(drawing._replace(columns=_column_names(network), notes=notes + drawing.notes), ax)


def _read(posterior: Any, key: Key | None) -> Drawing:
    """The drawing of a posterior: of its moments, or of one draw."""
    if key is None:
        mean, sd = network_view.parameter_moments(posterior)
        notes = ["mean weights"] if sd is not None else []
    else:
        mean, sd = jax.tree.map(lambda leaf: leaf[0], posterior.sample(key, 1)), None
        notes = ["one draw of the weights"]
    network, _ = network_view.mean_network(posterior.model.network, mean["network"])
    weights, certainty = _matrices(posterior, mean), None
    if sd is not None:
        certainty = tuple(sign_certainty(w, s) for w, s in zip(weights, _matrices(posterior, sd), strict=True))
    dropped: list[Any] = [np.zeros(len(w), bool) for w in weights] + [np.zeros(network.outputs, bool)]
    if isinstance(posterior, DropoutPosterior) and key is not None:
        undropped = _matrices(posterior, posterior.params)
        dropped[:-1] = [~w.any(axis=1) & u.any(axis=1) for w, u in zip(weights, undropped, strict=True)]
        for w, lost in zip(weights, dropped[1:], strict=True):
            w[:, lost] = 0.0  # the weights into a dropped unit have no effect
    zeros = 1 - np.mean(np.concatenate([w.ravel() for w in weights]) != 0)
    if zeros > 0 and not any(map(np.any, dropped)):
        notes.append(f"{100 * zeros:.0f} % of the weights exactly 0, not drawn")
    names, joins = ["input", *["hidden unit"] * len(network.hidden), "output"], None
    if network.periodic:
        # The columns stay as they are; then come the waves, one of each column after another.
        own = np.eye(network.inputs, dtype=bool)
        waves = own[:, list(network.columns)]
        joins = np.hstack([own, *[waves] * ((len(weights[0]) - network.inputs) // waves.shape[1])])
        names[0:1] = ["input", "columns and waves"]
        dropped.insert(0, np.zeros(network.inputs, bool))
    sizes = tuple(map(len, dropped))
    return Drawing(sizes, tuple(names), weights, certainty, tuple(dropped), joins, notes=tuple(notes))


def sign_certainty(mean: ArrayLike | float, sd: ArrayLike | float) -> np.ndarray:
    """Compute the probability of the mean's sign minus that of the other sign: 2Φ(|mean|/sd) − 1.

    Parameters
    ----------
    mean, sd : array
        Means and standard deviations of normal weights, of one shape.

    Returns
    -------
    array
        From 0 to 1; 0 where both are 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(special.erf(np.abs(mean) / sd / np.sqrt(2)))


def _matrices(posterior: Any, params: Params) -> tuple[Float[np.ndarray, "a b"], ...]:
    """Copies of the weights of each layer."""
    network, params = network_view.mean_network(posterior.model.network, params["network"])
    return tuple(np.array(params[f"layer_{number}"]["w"], float) for number in range(len(network.hidden) + 1))


def _column_names(network: Any) -> tuple[str, ...]:
    """The names of an estimator's encoded columns, if its table had names."""
    if not isinstance(network, BayesianEstimator) or not network.schema_.named:
        return ()
    return tuple(name for column in network.schema_.columns for name in column.labels)


def _draw(d: Drawing, ax: Axes | None) -> Axes:
    places = _places(d.sizes)
    tallest, top = max(_extent(layer.units) for layer in places), max(max(layer.heights) for layer in places)
    inch = 1 / min(SCALE, HIGHEST / max(2 * top, 1.0))  # units of height in an inch
    gap, largest = max(4.0, round(0.9 * top)), float(np.clip(tallest / 16, 1.0, 2.0))
    columns = d.columns if len(places[0].units) == d.sizes[0] else ()
    left = 0.7 + 0.07 * max(map(len, columns), default=-3)
    limits = (-left * inch, gap * (len(d.sizes) - 1) + 0.7 * inch), (-top - 0.55 * inch, top + 0.2 * inch)
    width, height = (float(size) for size in np.ptp(limits, axis=1) / inch)
    ax = styled_axes(ax, (width, height) if d.weights is None else (max(width, 5.0), height + 0.7))
    _draw_lines(ax, d, places, gap)
    colors = [ORANGE, *[SKY] * (len(d.sizes) - 2), GREEN]
    colors[1] = colors[1] if d.joins is None else ORANGE
    for number, (size, name, color, layer) in enumerate(zip(d.sizes, d.names, colors, places, strict=True)):
        x, radius = gap * number, 0.34 * min(layer.pitch, largest)
        lost = d.dropped[number] if d.dropped else np.zeros(size, bool)
        for unit, y in zip(*layer, strict=True):
            face = "white" if lost[unit] else color
            ax.add_patch(Circle((x, y), radius, fc=face, ec="black", lw=0.8, zorder=2))
        if len(layer.units) < size:
            ax.plot([x] * 3, [-0.5, 0.0, 0.5], ls="", marker="o", ms=2.5, color="black")
        crossed = [y for unit, y in zip(*layer, strict=True) if lost[unit]]
        if crossed:
            ax.plot([x] * len(crossed), crossed, ls="", marker="x", ms=144 * radius / inch, color="black", zorder=3)
        text = f"{size:,} {name if size == 1 or name.endswith('s') else name + 's'}"
        ax.text(x, -top - 0.2 * inch, text, ha="center", va="top", fontsize="small")
    for y, name in zip(places[0].heights if columns else (), columns, strict=True):
        ax.text(-0.4 * largest, y, f"{name} ", ha="right", va="center", fontsize="x-small")
    ax.set_axis_off()
    ax.set(xlim=limits[0], ylim=limits[1], aspect="equal")
    return ax if d.weights is None else _add_weight_legend(ax, d, d.weights, places)


def _draw_lines(ax: Axes, d: Drawing, places: list[_LayerPlaces], gap: float) -> None:
    """One collection of lines for the joins, one for all weights, the large ones on top."""
    if d.weights is None:
        ends = [end for k, pair in enumerate(pairwise(places)) for end in _ends(None, pair, gap * k, gap)]
        opacity = point_opacity(len(ends))
        ax.add_collection(LineCollection([e[0] for e in ends], colors="0.5", linewidths=0.4, alpha=opacity, zorder=1))
        return
    first = 0 if d.joins is None else 1
    if d.joins is not None:
        lines = [line for line, *_ in _ends(d.joins, places[:2], 0.0, gap)]
        ax.add_collection(LineCollection(lines, colors="0.6", linewidths=0.6, zorder=1))
    lines, values, opacities = [], [], []
    for layer, w in enumerate(d.weights, first):
        certainty = np.ones_like(w) if d.certainty is None else d.certainty[layer - first]
        for line, low, high in _ends(w != 0, places[layer : layer + 2], gap * layer, gap):
            lines.append(line)
            values.append(w[low, high])
            opacities.append(max(FAINTEST, certainty[low, high]))
    order = np.argsort(np.abs(values))
    colors = [to_rgba(BLUE if values[k] > 0 else RED, opacities[k]) for k in order]
    widths = WIDEST * np.abs(values)[order] / max(np.abs(values), default=1.0)
    ax.add_collection(LineCollection([lines[k] for k in order], colors=colors, linewidths=widths, zorder=1))


def _ends(
    joined: np.ndarray | None, places: Sequence[_LayerPlaces], x: float, gap: float
) -> list[tuple[Any, int, int]]:
    """(line, unit, unit) for each pair of drawn units that are joined; None: all."""
    return [
        ([(x, low), (x + gap, high)], a, b)
        for a, low in zip(*places[0], strict=True)
        for b, high in zip(*places[1], strict=True)
        if joined is None or joined[a, b]
    ]


def _add_weight_legend(ax: Axes, d: Drawing, weights: Sequence[np.ndarray], places: Sequence[_LayerPlaces]) -> Axes:
    pairs = list(pairwise(places))[len(d.sizes) - len(weights) - 1 :]
    largest = max(np.abs(w[np.ix_(a.units, b.units)]).max() for w, (a, b) in zip(weights, pairs, strict=True))
    marks = [
        Line2D([], [], color=BLUE, lw=WIDEST, label=f"positive weight, this wide: {largest:.2g}"),
        Line2D([], [], color=RED, lw=WIDEST / 2, label=f"negative weight, this wide: {-largest / 2:.2g}"),
    ]
    for ratio in () if d.certainty is None else (0.25, 1.0):
        opacity = max(FAINTEST, float(sign_certainty(ratio, 1.0)))
        marks.append(Line2D([], [], color=BLUE, lw=WIDEST, alpha=opacity, label=f"|mean|/sd = {ratio:g}"))
    if any(map(np.any, d.dropped)):
        marks.append(Line2D([], [], ls="", marker="x", color="black", label="dropped unit"))
    return add_legend(ax, 2, "; ".join(d.notes) or None, marks)


def _places(sizes: Sequence[int]) -> list[_LayerPlaces]:
    """Where units are drawn: short layers are spread, and two places are left for dots."""
    whole, few = sum(sizes) <= WHOLE and max(sizes) <= TALL, (SHOWN - 2) // 2
    shown = [list(range(size)) if whole or size <= SHOWN else [*range(few), *range(size - few, size)] for size in sizes]
    tallest, places = max(map(_extent, shown)), []
    for units in shown:
        count = _extent(units)
        heights = max(1.0, min(3.0, 0.6 * tallest / count)) * (0.5 * (count - 1) - np.arange(count))
        places.append(_LayerPlaces(units, [y for y in heights if count == len(units) or abs(y) > 1]))
    return places


def _extent(units: list[int]) -> int:
    """How many units' places a layer takes."""
    return len(units) if units[-1] + 1 == len(units) else SHOWN
