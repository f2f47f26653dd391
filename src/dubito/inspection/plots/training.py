"""Plots of training: loss landscapes, optimizers' paths, network sizes, weights under priors."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator
from mpl_toolkits.mplot3d import Axes3D

from dubito.estimators.size_sweep import SizeResult, fit_verdicts
from dubito.inspection import network_view
from dubito.inspection.landscape import Landscape, Path, project
from dubito.inspection.plots.style import BLUE, GRAY, GREEN, ORANGE, RED, SKY, Axes, add_legend, new_figure, styled_axes

LEVELS = 15
CLIPPED = 0.9  # fraction of the values below the highest level, so that the valley has most of the colors
PATH_COLORS = (RED, ORANGE, "white", SKY, "black")
LOSS = {
    "joint": "−log joint density, nats per example",
    "likelihood": "negative log likelihood, nats per example",
}


def contours(landscape: Landscape, paths: Mapping[str, Path] | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot the loss on a plane as contours, with the projections of optimizers' paths.

    Levels grow with the square of their number, so that those of a bowl are evenly spaced; the
    highest tenth of the values has one color. A circle marks the start of a path, a star its end,
    the cross the network that the plane was made around. Paths leave the plane: the loss at a
    projected point is not the loss on the path.

    Parameters
    ----------
    landscape : Landscape
        From ``landscape.evaluate``.
    paths : mapping from str to Path, optional
        From ``landscape.descent_path``, by name.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    ax = styled_axes(ax, (6.0, 4.8))
    values, levels = _values_and_levels(landscape)
    grid = landscape.first, landscape.second, values
    ax.contourf(*grid, levels, cmap="viridis", extend="max")
    lines = ax.contour(*grid, levels[1::2], colors="white", linewidths=0.5, alpha=0.7)
    digits = int(np.clip(1 - np.floor(np.log10(levels[-1] - levels[0])), 0, 6))  # enough to distinguish the levels
    ax.clabel(lines, fmt=f"%.{digits}f", fontsize="x-small")
    _draw_paths(landscape, paths or {}, ax)
    ax.plot(*landscape.plane.center, ls="", marker="+", ms=9, mew=1.5, color="white", label="_center")
    ax.set(xlabel=landscape.plane.labels[0], ylabel=landscape.plane.labels[1])
    ax.set(xlim=landscape.first[[0, -1]], ylim=landscape.second[[0, -1]])
    if not paths:
        ax.set_title(LOSS[landscape.objective], loc="left", fontsize="small")
        return ax
    legend: Any = add_legend(ax, 3, LOSS[landscape.objective]).get_legend()
    legend.get_frame().set(facecolor="0.8", edgecolor="none")
    legend.set_frame_on(True)
    return ax


def surface(landscape: Landscape, *, ax: Axes3D | None = None) -> Axes3D:
    """Plot the loss on a plane as a surface.

    It is cut off at three times the height that nine tenths of the values stay below.

    Parameters
    ----------
    landscape : Landscape
        From ``landscape.evaluate``.
    ax : Axes3D, optional
        Axes with projection "3d" to draw on; by default those of a new figure.

    Returns
    -------
    Axes3D
        The axes.

    Raises
    ------
    ValueError
        For axes without projection "3d", and for a landscape without a finite value.
    """
    if ax is None:
        figure = new_figure((6.0, 4.8))
        ax = figure.add_subplot(projection="3d", computed_zorder=False)
        figure.subplots_adjust(0.0, 0.04, 0.94, 1.0)
    if not isinstance(ax, Axes3D):
        raise ValueError("a surface needs three-dimensional axes: figure.add_subplot(projection='3d')")
    values, levels = _values_and_levels(landscape)
    values = np.minimum(values, levels[0] + 3 * (levels[-1] - levels[0]))
    mesh = np.meshgrid(landscape.first, landscape.second)
    ax.plot_surface(*mesh, values, cmap="viridis", rcount=101, ccount=101, lw=0, antialiased=True, alpha=0.9, zorder=1)
    ax.set(xlabel=landscape.plane.labels[0], ylabel=landscape.plane.labels[1], zlabel="nats per example")
    ax.tick_params(labelsize="x-small")
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.label.set_fontsize("x-small")
    ax.view_init(35, -60)
    ax.set_box_aspect(None, zoom=0.9)  # pyright: ignore[reportArgumentType]
    ax.set_title(LOSS[landscape.objective], loc="left", fontsize="small", y=0.92)
    return ax


def _values_and_levels(landscape: Landscape) -> tuple[Float[np.ndarray, "m n"], Float[np.ndarray, "levels"]]:
    """The values, finite, and the levels of their contours."""
    values = landscape.values
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        raise ValueError("the landscape has no finite value")
    low, high = finite.min(), np.quantile(finite, CLIPPED)
    high = high if high > low else low + 1e-6 * max(1.0, abs(low))
    return np.where(np.isfinite(values), values, finite.max()), low + (high - low) * np.linspace(0, 1, LEVELS) ** 2


def _draw_paths(landscape: Landscape, paths: Mapping[str, Path], ax: Axes) -> None:
    """Each path as a line with its points, from a circle to a star."""
    for number, (name, path) in enumerate(paths.items()):
        points = project(landscape.plane, path.params).T
        color = PATH_COLORS[number % len(PATH_COLORS)]
        edge = [withStroke(linewidth=2.6, foreground="white" if color == "black" else "black")]
        ax.plot(*points, color=color, lw=1.4, marker=".", ms=4, label=name, path_effects=edge, zorder=3)
        for place, marker, ms in ((0, "o", 7), (-1, "*", 12)):
            ax.plot(
                *points[:, place], ls="", marker=marker, ms=ms, mfc=color, mec="black", mew=0.8, label="_end", zorder=4
            )


def size_curves(rows: Sequence[SizeResult], *, ax: Axes | None = None) -> Axes:
    """Plot training and validation NLL against the size of the network.

    Points are seeds, lines their means. The size with the best validation mean is marked, and sizes
    that are significantly worse are labeled as underfitting or overfitting
    (``size_sweep.fit_verdicts``). The axis is the width of the hidden layers if all networks are
    equally deep, their number if all are equally wide, else the number of hidden units.

    Parameters
    ----------
    rows : sequence of SizeResult
        From ``size_sweep.sweep``.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    size, label, scale = _sizes([row.hidden for row in rows])
    rows = [rows[k] for k in np.argsort(size, kind="stable")]
    size = np.sort(size)
    ax = styled_axes(ax, (6.0, 4.2))
    train, validation = np.array([row.train for row in rows]), np.array([row.validation for row in rows])
    for name, values, color in (("training", train, ORANGE), ("validation", validation, BLUE)):
        ax.plot(size, values, ls="", marker="o", ms=3.5, mew=0, color=color, alpha=0.5)
        ax.plot(size, values.mean(axis=1), color=color, lw=2, label=f"{name}, mean of {values.shape[1]} seeds")
    means, best = train.mean(axis=1), int(np.argmin(validation.mean(axis=1)))
    ax.axvline(size[best], color=GRAY, lw=1, ls="--", label=f"best validation: {size[best]:g}")
    ax.set(xlabel=label, ylabel="negative log likelihood, nats per example", xscale=scale)
    ax.xaxis.set_major_locator(FixedLocator(size.tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(size, [f"{value:g}" for value in size])
    low, top = min(train.min(), validation.min()), max(train.max(), validation.max())
    top = min(top, validation[best].mean() + 3 * np.ptp(means)) if np.ptp(means) > 0 else top
    ax.set_ylim(low - 0.05 * (top - low), top + 0.12 * (top - low))
    verdicts = np.array(fit_verdicts(rows))
    for verdict in ("underfitting", "overfitting"):
        for run in _runs(np.flatnonzero(verdicts == verdict)):
            left, right = _around(size, run, scale)
            middle = np.sqrt(left * right) if scale == "log" else 0.5 * (left + right)
            ax.axvspan(left, right, color="0.93", lw=0, zorder=0)
            text: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": "small", "color": GRAY}
            angle = 90 if len(run) == 1 and len(size) > 4 else 0
            ax.text(middle, 0.98, verdict, transform=ax.get_xaxis_transform(), rotation=angle, **text)
    return add_legend(ax, 2)


def _sizes(hidden: Sequence[tuple[int, ...]]) -> tuple[Float[np.ndarray, "networks"], str, str]:
    """The size of each network, what it is, and the scale of its axis."""
    depths, widths = {len(one) for one in hidden}, {width for one in hidden for width in one}
    if len(depths) == 1 and all(len(set(one)) == 1 for one in hidden):
        layers = "the hidden layer" if depths == {1} else "each hidden layer"
        return np.array([one[0] for one in hidden], float), f"units of {layers}", "log"
    if len(widths) == 1:
        return np.array([len(one) for one in hidden], float), f"hidden layers of {widths.pop()} units", "linear"
    return np.array([sum(one) for one in hidden], float), "hidden units", "log"


def _runs(places: Int[np.ndarray, "n"]) -> list[np.ndarray]:
    """Runs of neighbors."""
    return [run for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(run)]


def _around(size: Float[np.ndarray, "networks"], run: Int[np.ndarray, "n"], scale: str) -> tuple[float, float]:
    """The interval of the axis that is nearest to these sizes."""
    at = np.log(size) if scale == "log" else size
    between = 0.5 * (at[1:] + at[:-1])
    edges = np.concatenate([[2 * at[0] - between[0]], between, [2 * at[-1] - between[-1]]])
    edges = np.exp(edges) if scale == "log" else edges
    return float(edges[run[0]]), float(edges[run[-1] + 1])


def weight_histograms(networks: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Plot histograms of the weights of several networks, without biases, on a logarithmic axis.

    Weights that are exactly 0 are in none of the bins: their fraction is the height of the marker
    at 0.

    Parameters
    ----------
    networks : mapping from str to estimator or posterior
        For a distribution over weights the means are shown.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    ax = styled_axes(ax, (6.0, 4.2))
    values = {}
    for name, network in networks.items():
        leaves = jax.tree.leaves(network_view.point_params(network)["network"])
        values[name] = np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in leaves if np.ndim(leaf) > 1])
    reach = max(np.abs(one).max() for one in values.values()) or 1.0
    edges = np.linspace(-reach, reach, 62)  # an odd number of bins: small weights of either sign are in one
    least = min(0.5 / len(weights) for weights in values.values())
    for (name, weights), color in zip(values.items(), (BLUE, RED, GREEN, ORANGE) * len(values), strict=False):
        fraction = np.histogram(weights[weights != 0], edges)[0] / len(weights)
        zero = np.mean(weights == 0)
        numbers = f"{len(weights):,} weights, {100 * zero:.0f} % exactly 0, mean |w| {np.mean(np.abs(weights)):.2g}"
        ax.stairs(fraction, edges, fill=True, color=color, alpha=0.25)
        ax.stairs(fraction, edges, color=color, lw=1.5, label=f"{name}: {numbers}")
        if zero > 0:
            ax.plot([0, 0], [least, zero], color=color, lw=1.5, ls=":")
            ax.plot(0, zero, ls="", marker="D", ms=7, color=color, mec="black", mew=0.8)
    ax.set_yscale("log")
    ax.set(xlabel="weight", ylabel="fraction of weights, in a bin or exactly 0", ylim=(least, 1.3))
    return add_legend(ax, 1)
