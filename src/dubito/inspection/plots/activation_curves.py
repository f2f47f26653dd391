"""A plot of the table of activations: functions and derivatives in small panels."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dubito._check import did_you_mean
from dubito.inspection.plots.style import BLUE, GRAY, ORANGE, Axes, add_legend, styled_axes
from dubito.models.activations import ACTIVATIONS

SPAN, POINTS = 4.0, 801  # inputs from −4 to 4, 0 among them
LOW, HIGH = -1.6, 2.6  # outputs shown
COLUMNS = 5
GAP, TITLE, TICKS = 0.02, 0.14, 0.12  # between columns, as a fraction of the plot; above and below a panel, of its row


def activations(names: Iterable[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot activation functions f(x), their derivatives and the range of f, one small panel each.

    Parameters
    ----------
    names : iterable of str, optional
        Names in ``ACTIVATIONS``; by default all functions of one number, which softmax is not.
    ax : Axes, optional
        Axes to draw on, whose ``child_axes`` are the panels; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.

    Raises
    ------
    ValueError
        For an unknown name, and for no name.
    """
    known = [name for name in ACTIVATIONS if name != "softmax"]
    names = known if names is None else list(names)
    for name in names:
        if name not in known:
            why = "is not a function of one number" if name == "softmax" else "is unknown"
            hint = did_you_mean(name, known)
            raise ValueError(f"the activation {name!r} {why}{hint} Choose one of {', '.join(known)}.")
    if not names:
        raise ValueError("names is empty: choose at least one activation")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    ax = styled_axes(ax, (max(2.0 * columns, 4.0), 0.6 + 1.6 * rows))
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    width, height = (1 + GAP) / columns - GAP, (1 - TITLE - TICKS) / rows
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        panel = ax.inset_axes((column * (width + GAP), 1 - (row + TITLE) / rows - height, width, height))
        is_lowest = number + columns >= len(names)
        _draw_panel(styled_axes(panel), name, labelbottom=is_lowest, labelleft=column == 0)
    ax.plot([], [], color=BLUE, lw=2, label="f(x)")
    ax.plot([], [], color=ORANGE, lw=1.5, ls="--", label="its derivative f′(x)")
    return add_legend(ax, 2)


def _draw_panel(panel: Axes, name: str, **ticks: Any) -> None:
    """One activation; ``ticks`` say which ticks have numbers."""
    x = np.linspace(-SPAN, SPAN, POINTS)
    values, slopes = _curves(ACTIVATIONS[name].function, x)
    panel.axhline(0, color=GRAY, lw=0.6)
    panel.axvline(0, color=GRAY, lw=0.6)
    panel.plot(*_with_gaps(x, values), color=BLUE, lw=2)
    panel.plot(*_with_gaps(x, slopes), color=ORANGE, lw=1.5, ls="--")
    panel.set(xlim=(-SPAN, SPAN), ylim=(LOW, HIGH), xticks=[-2, 0, 2], yticks=[-1, 0, 1, 2])
    panel.tick_params(labelsize=7, length=0, **ticks)
    panel.set_title(name, fontsize=9, loc="left", pad=3)
    panel.set_title(ACTIVATIONS[name].range, fontsize=7, loc="right", pad=3, color=GRAY)


def _curves(function: Callable[[Any], Any], x: Float[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray]:
    """f(x) and f′(x)."""
    points = jnp.asarray(x, jnp.float32)
    values, slopes = jax.jvp(function, (points,), (jnp.ones_like(points),))
    return np.asarray(values, float), np.asarray(slopes, float)


def _with_gaps(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve with a gap wherever it jumps."""
    jumps = np.flatnonzero(np.abs(np.diff(y)) > 0.5) + 1
    return np.insert(x, jumps, np.nan), np.insert(y, jumps, np.nan)
