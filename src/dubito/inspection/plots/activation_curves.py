"""A picture of the table of activations: shapes and derivatives in small panels; see ``plots`` for what all pictures share."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import did_you_mean
from dubito.inspection.plots.predictions import BLUE, GRAY, ORANGE, Axes, _axes, _legend
from dubito.models.activations import ACTIVATIONS

SPAN, POINTS = 4.0, 801  # inputs from −4 to 4, 0 among them
LOW, HIGH = -1.6, 2.6  # outputs shown
COLUMNS = 5
GAP, TITLE, TICKS = 0.02, 0.14, 0.12  # between columns, as a share of the picture; above and below a panel, of its row


def activations(names: Iterable[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """Activation functions f(x) and their derivatives, with the range of f, one small panel each.

    Parameters
    ----------
    names : names in ``ACTIVATIONS``; None is all that are functions of one number, which softmax is not.
    ax : axes to draw on, whose ``child_axes`` are the panels; None makes a figure.

    Raises
    ------
    ValueError
        For another name.
    """
    known = [name for name in ACTIVATIONS if name != "softmax"]
    names = known if names is None else list(names)
    for name in names:
        if name not in known:
            why = "is no function of one number" if name == "softmax" else "is unknown"
            raise ValueError(
                f"the activation {name!r} {why}{did_you_mean(name, known)} Choose among {', '.join(known)}"
            )
    if not names:
        raise ValueError("names is empty: a picture needs at least one activation")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    ax = _axes(ax, (max(2.0 * columns, 4.0), 0.6 + 1.6 * rows))
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    width, height = (1 + GAP) / columns - GAP, (1 - TITLE - TICKS) / rows
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        panel = ax.inset_axes((column * (width + GAP), 1 - (row + TITLE) / rows - height, width, height))
        last = number + columns >= len(names)  # nothing stands below it
        _panel(_axes(panel), name, below=last, beside=column == 0)
    ax.plot([], [], color=BLUE, lw=2, label="f(x)")
    ax.plot([], [], color=ORANGE, lw=1.5, ls="--", label="its derivative f′(x)")
    return _legend(ax, 2)


def _panel(panel, name, *, below, beside):
    """One activation; ticks have numbers where there is no panel ``below`` or ``beside`` them."""
    x = np.linspace(-SPAN, SPAN, POINTS)
    values, slopes = _curves(ACTIVATIONS[name].function, x)
    panel.axhline(0, color=GRAY, lw=0.6)
    panel.axvline(0, color=GRAY, lw=0.6)
    panel.plot(*_open(x, values), color=BLUE, lw=2)
    panel.plot(*_open(x, slopes), color=ORANGE, lw=1.5, ls="--")
    panel.set(xlim=(-SPAN, SPAN), ylim=(LOW, HIGH), xticks=[-2, 0, 2], yticks=[-1, 0, 1, 2])
    panel.tick_params(labelsize=7, length=0, labelbottom=below, labelleft=beside)
    panel.set_title(name, fontsize=9, loc="left", pad=3)
    panel.set_title(ACTIVATIONS[name].range, fontsize=7, loc="right", pad=3, color=GRAY)


def _curves(function, x):
    """(f(x), f′(x)) at points x (n,)."""
    points = jnp.asarray(x, jnp.float32)
    values, slopes = jax.jvp(function, (points,), (jnp.ones_like(points),))
    return np.asarray(values, float), np.asarray(slopes, float)


def _open(x, y):
    """The points of a curve with a gap wherever it jumps."""
    jumps = np.flatnonzero(np.abs(np.diff(y)) > 0.5) + 1
    return np.insert(x, jumps, np.nan), np.insert(y, jumps, np.nan)
