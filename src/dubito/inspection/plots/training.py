"""Pictures of training: the loss around a network and optimizers' paths, sweeps of network size, the effect of priors on weights.

They draw on ``ax``, which they return, or on a figure of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.interpolate import RegularGridInterpolator

from dubito.estimators.size_sweep import SizeResult, fit_verdicts
from dubito.inspection import network_view
from dubito.inspection.landscape import Landscape, Path, project
from dubito.inspection.plots import predictions
from dubito.inspection.plots.predictions import BLUE, GRAY, GREEN, ORANGE, RED, SKY

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FixedLocator, NullLocator
    from mpl_toolkits.mplot3d import Axes3D
except ImportError as error:
    raise ImportError("dubito.plots draws with matplotlib: pip install 'dubito[plot]'") from error

LEVELS = 15
CLIPPED = 0.9  # of the values: what is higher than this share of them has one color, so that the valley has the others
WAYS = (RED, ORANGE, "white", SKY, "black")
LOSS = {"joint": "−log joint density, nats per example", "likelihood": "negative log likelihood, nats per example"}


def contours(landscape: Landscape, paths: Mapping[str, Path] | None = None, *, ax: Axes | None = None) -> Axes:
    """The loss on a plane as contours, with the projections of optimizers' paths.

    Levels grow with the square of their number, so that those of a bowl are evenly spaced; the highest tenth of the values
    has one color. A circle is a path's start, a star its end, the cross the network that the plane was made around. A path
    leaves the plane: the loss at a projected point is not the loss on the path.

    Parameters
    ----------
    landscape : of ``landscape.evaluate``.
    paths : of ``landscape.descent_path``, by name.
    ax : axes to draw on; None makes a figure.
    """
    ax = predictions._axes(ax, (6.0, 4.8))
    values, levels = _leveled(landscape)
    grid = landscape.first, landscape.second, values
    ax.contourf(*grid, levels, cmap="viridis", extend="max")
    lines = ax.contour(*grid, levels[1::2], colors="white", linewidths=0.5, alpha=0.7)
    ax.clabel(lines, fmt=_digits(levels), fontsize="x-small")
    _ways(landscape, paths, lambda points: points.T, ax)
    ax.plot(*landscape.plane.center, ls="", marker="+", ms=9, mew=1.5, color="white", label="_center")
    ax.set(xlabel=landscape.plane.labels[0], ylabel=landscape.plane.labels[1])
    ax.set(xlim=landscape.first[[0, -1]], ylim=landscape.second[[0, -1]])
    if paths:
        return _titled(predictions._legend(ax, 3, LOSS[landscape.objective]))
    ax.set_title(LOSS[landscape.objective], loc="left", fontsize="small")
    return ax


def surface(landscape: Landscape, paths: Mapping[str, Path] | None = None, *, ax: Axes3D | None = None) -> Axes3D:
    """The loss on a plane as a surface, cut off at three times the height of nine tenths of it.

    Parameters
    ----------
    landscape : of ``landscape.evaluate``.
    paths : of ``landscape.descent_path``, by name; they lie on the surface above their projections.
    ax : axes with projection "3d" to draw on; None makes a figure.
    """
    if ax is None:
        figure = Figure(figsize=(6.5, 5.5))
        FigureCanvasAgg(figure)
        ax = figure.add_subplot(projection="3d", computed_zorder=False)
        figure.subplots_adjust(0.02, 0.04, 0.96, 0.9)
    if not isinstance(ax, Axes3D):
        raise ValueError("a surface needs axes in space: figure.add_subplot(projection='3d')")
    values, levels = _leveled(landscape)
    top = min(values.max(), levels[0] + 3 * (levels[-1] - levels[0]))
    values = np.minimum(values, top)
    mesh = np.meshgrid(landscape.first, landscape.second)
    ax.plot_surface(
        mesh[0], mesh[1], values, cmap="viridis", rcount=101, ccount=101, lw=0, antialiased=True, alpha=0.9, zorder=1
    )
    height = RegularGridInterpolator((landscape.second, landscape.first), values, bounds_error=False)
    lift = 0.01 * (top - levels[0])
    _ways(landscape, paths, lambda points: (points[:, 0], points[:, 1], height(points[:, ::-1]) + lift), ax)
    ax.set(xlabel=landscape.plane.labels[0], ylabel=landscape.plane.labels[1], zlabel="nats per example")
    ax.tick_params(labelsize="x-small")
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.label.set_fontsize("x-small")
    ax.view_init(35, -60)
    ax.set_box_aspect(None, zoom=0.85)  # type: ignore[arg-type]
    if paths:
        ax.legend(loc="upper left", frameon=False, fontsize="small")
    ax.set_title(LOSS[landscape.objective], loc="left", fontsize="small")
    return ax


def _leveled(landscape):
    """The values, finite, and the levels of their contours."""
    values = landscape.values
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        raise ValueError("the landscape has no finite value")
    low, high = finite.min(), np.quantile(finite, CLIPPED)
    high = high if high > low else low + 1e-6 * max(1.0, abs(low))
    return np.where(np.isfinite(values), values, finite.max()), low + (high - low) * np.linspace(0, 1, LEVELS) ** 2


def _digits(levels):
    """A format with as many digits as tell two levels apart."""
    return f"%.{int(np.clip(1 - np.floor(np.log10(levels[-1] - levels[0])), 0, 6))}f"


def _ways(landscape, paths, placed, ax):
    """Each path as a line with its points, from a circle to a star; ``placed`` gives its points on the axes."""
    for number, (name, path) in enumerate((paths or {}).items()):
        columns = placed(project(landscape.plane, path.params))
        color = WAYS[number % len(WAYS)]
        edge = [withStroke(linewidth=2.6, foreground="white" if color == "black" else "black")]
        ax.plot(*columns, color=color, lw=1.4, marker=".", ms=4, label=name, path_effects=edge, zorder=3)
        for place, marker, ms in ((0, "o", 7), (-1, "*", 12)):
            end = [column[[place]] for column in columns]
            ax.plot(*end, ls="", marker=marker, ms=ms, mfc=color, mec="black", mew=0.8, label="_end", zorder=4)


def _titled(ax):
    legend = ax.get_legend()
    legend.get_frame().set(facecolor="0.8", edgecolor="none")
    legend.set_frame_on(True)
    return ax


def size_curves(rows: Sequence[SizeResult], *, ax: Axes | None = None) -> Axes:
    """Training and validation NLL against the size of the network.

    Points are seeds, lines their means. The size with the best validation mean is marked, and sizes that are significantly
    worse are labeled as underfitting or overfitting (``size_sweep.fit_verdicts``). The axis is the hidden layers' width
    where all networks are equally deep, their number where all are equally wide, else the number of hidden units.

    Parameters
    ----------
    rows : of ``size_sweep.sweep``.
    ax : axes to draw on; None makes a figure.
    """
    size, label, logarithmic = _sizes([row.hidden for row in rows])
    rows = [rows[k] for k in np.argsort(size, kind="stable")]
    size = np.sort(size)
    ax = predictions._axes(ax, (6.0, 4.2))
    train, validation = (np.array([row.train for row in rows]), np.array([row.validation for row in rows]))
    for name, values, color in (("training", train, ORANGE), ("validation", validation, BLUE)):
        ax.plot(size, values, ls="", marker="o", ms=3.5, mew=0, color=color, alpha=0.5)
        text = f"{name}, mean of {values.shape[1]} seeds"
        ax.plot(size, values.mean(axis=1), color=color, lw=2, label=text)
    best = int(np.argmin([row.validation.mean() for row in rows]))
    ax.axvline(size[best], color=GRAY, lw=1, ls="--", label=f"best validation: {size[best]:g}")
    if logarithmic:
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(size.tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(size, [f"{value:g}" for value in size])
    ax.set(xlabel=label, ylabel="negative log likelihood, nats per example")
    low, top = (float(end([[*row.train, *row.validation] for row in rows])) for end in (np.min, np.max))
    means = [row.train.mean() for row in rows]
    top = min(top, rows[best].validation.mean() + 3 * np.ptp(means)) if np.ptp(means) > 0 else top
    ax.set_ylim(low - 0.05 * (top - low), top + 0.12 * (top - low))
    found = np.array(fit_verdicts(rows))
    for verdict in ("underfitting", "overfitting"):
        for places in _stretches(np.flatnonzero(found == verdict)):
            low, high = _around(size, places, logarithmic)
            ax.axvspan(low, high, color="0.93", lw=0, zorder=0)
            middle = np.sqrt(low * high) if logarithmic else 0.5 * (low + high)
            ax.text(
                middle,
                0.98,
                verdict,
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize="small",
                rotation=90 if len(places) == 1 and len(size) > 4 else 0,
                color=GRAY,
            )
    return predictions._legend(ax, 2)


def _sizes(hidden):
    """(size of each network, what it is, whether its axis is logarithmic)."""
    depths, widths = {len(one) for one in hidden}, {width for one in hidden for width in one}
    if len(depths) == 1 and all(len(set(one)) == 1 for one in hidden):
        deep = next(iter(depths))
        return (
            np.array([one[0] for one in hidden], float),
            f"units of {'the' if deep == 1 else 'each'} hidden layer",
            True,
        )
    if len(widths) == 1:
        return np.array([len(one) for one in hidden], float), f"hidden layers of {next(iter(widths))} units", False
    return np.array([sum(one) for one in hidden], float), "hidden units", True


def _stretches(places):
    """Runs of neighbors."""
    return [run for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(run)]


def _around(size, places, logarithmic):
    """The stretch of the axis that is nearest to these sizes."""
    scale, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    at = scale(size)
    between = 0.5 * (at[1:] + at[:-1])
    edges = np.concatenate([[2 * at[0] - between[0]], between, [2 * at[-1] - between[-1]]])
    return float(back(edges[places[0]])), float(back(edges[places[-1] + 1]))


def weight_histograms(networks: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Histograms of the weights of several networks, without biases, on a logarithmic axis.

    Weights that are exactly 0 are in none of the bins: their share is the height of the marker at 0.

    Parameters
    ----------
    networks : fitted estimators or posteriors by name; of a distribution over weights the means are shown.
    ax : axes to draw on; None makes a figure.
    """
    ax = predictions._axes(ax, (6.0, 4.2))
    values = {}
    for name, network in networks.items():
        leaves = jax.tree.leaves(network_view.point_params(network)["network"])
        values[name] = np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in leaves if np.ndim(leaf) > 1])
    reach = max(np.abs(one).max() for one in values.values()) or 1.0
    edges = np.linspace(-reach, reach, 62)  # an odd number of bins: small weights of either sign are in one
    least = 1.0
    for (name, weights), color in zip(values.items(), (BLUE, RED, GREEN, ORANGE) * len(values), strict=False):
        count, _ = np.histogram(weights[weights != 0], edges)
        zero = np.mean(weights == 0)
        label = (
            f"{name}: {len(weights):,} weights, {100 * zero:.0f} % exactly 0, mean |w| {np.mean(np.abs(weights)):.2g}"
        )
        ax.stairs(count / len(weights), edges, fill=True, color=color, alpha=0.25)
        ax.stairs(count / len(weights), edges, color=color, lw=1.5, label=label)
        least = min(least, 0.5 / len(weights))
        if zero > 0:
            ax.plot([0, 0], [least, zero], color=color, lw=1.5, ls=":")
            ax.plot(0, zero, ls="", marker="D", ms=7, color=color, mec="black", mew=0.8)
    ax.set_yscale("log")
    ax.set(xlabel="weight", ylabel="share of weights, in a bin or exactly 0", ylim=(least, 1.3))
    return predictions._legend(ax, 1)
