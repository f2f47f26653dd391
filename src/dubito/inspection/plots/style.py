"""What all plots share: axes, legends and colors.

Every function draws on ``ax`` and returns it; by default it makes a figure, ``ax.figure``, that
pyplot does not manage, so nothing stays open and no setting changes. The colors are those of Okabe
and Ito, which color-blind readers can distinguish. Invalid arguments raise ValueError.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, SKY, GREEN, ORANGE, RED, GRAY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "0.35"


def new_figure(size: tuple[float, float], **settings: Any) -> Figure:
    """Make a figure that pyplot does not manage.

    Parameters
    ----------
    size : tuple of float
        Width and height in inches.
    **settings
        Other arguments of Matplotlib's ``Figure``.

    Returns
    -------
    Figure
        The figure.
    """
    figure = Figure(figsize=size, **settings)
    FigureCanvasAgg(figure)
    return figure


def styled_axes(ax: Axes | None, size: tuple[float, float] = (5.0, 4.0)) -> Axes:
    """Style axes with a light grid behind the data.

    Parameters
    ----------
    ax : Axes, optional
        The axes; by default those of a new figure.
    size : tuple of float
        Width and height of a new figure in inches.

    Returns
    -------
    Axes
        The axes.
    """
    ax = new_figure(size, layout="constrained").add_subplot() if ax is None else ax
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", lw=0.8)
    ax.set_axisbelow(True)
    return ax


def add_legend(ax: Axes, columns: int, title: str | None = None, handles: Sequence[Any] | None = None) -> Axes:
    """Add a legend above the axes, where it hides no data.

    Parameters
    ----------
    ax : Axes
    columns : int
        The number of columns.
    title : str, optional
        Text above the entries.
    handles : sequence of artists, optional
        The entries; by default the labeled artists of ``ax``.

    Returns
    -------
    Axes
        The axes.
    """
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "alignment": "left"}
    text: dict[str, Any] = {"fontsize": "small", "title": title, "title_fontsize": "small"}
    ax.legend(handles=handles, ncols=columns, frameon=False, **place, **text)
    return ax


def point_opacity(count: int) -> float:
    """Choose the opacity of points, so that thousands of them still show where they are dense.

    Parameters
    ----------
    count : int
        How many points there are.

    Returns
    -------
    float
        From 0.15 to 0.8.
    """
    return float(np.clip(20 / np.sqrt(max(count, 1)), 0.15, 0.8))
