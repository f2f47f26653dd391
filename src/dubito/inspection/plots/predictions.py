"""Pictures of a predictive distribution and of training, each on one Matplotlib axes.

Every function draws on ``ax`` and returns it; without one it makes a figure, ``ax.figure``, that pyplot does not manage, so
nothing stays open and no setting changes. The colors are Okabe and Ito's, which are distinguishable for color-blind readers.
Arguments that do not fit raise ValueError.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from dubito._jax.types import ArrayLike, Params
from dubito.evaluation import decisions, metrics
from dubito.evaluation.validation import check_predictive

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("dubito.plots draws with matplotlib: pip install 'dubito[plot]'") from error

BLUE, SKY, GREEN, ORANGE, RED, GRAY = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "0.35"
SPAN = (0.0, 1.0)

# Name, full name, unit, and what is best: "low", "high", or the nearest to a number. A width alone is none of these.
SCORES = {
    "rmse": ("RMSE", "root mean squared error", "target's unit", "low"),
    "mae": ("MAE", "mean absolute error", "target's unit", "low"),
    "r2": ("R²", "share of the variance that the mean explains", "up to 1", "high"),
    "nll": ("NLL", "negative log likelihood", "nats per example", "low"),
    "crps": ("CRPS", "continuous ranked probability score", "target's unit", "low"),
    "coverage_50": ("In 50 %", "coverage of 50 % intervals", "share of rows", 0.5),
    "coverage_80": ("In 80 %", "coverage of 80 % intervals", "share of rows", 0.8),
    "coverage_90": ("In 90 %", "coverage of 90 % intervals", "share of rows", 0.9),
    "coverage_95": ("In 95 %", "coverage of 95 % intervals", "share of rows", 0.95),
    "mean_width_90": ("Width", "mean width of 90 % intervals", "target's unit", None),
    "accuracy": ("Accuracy", "share of rows predicted right", "up to 1", "high"),
    "confidence": ("Confidence", "mean probability of the predicted class", "near the accuracy", None),
    "brier": ("Brier", "Brier score over all classes", "0 to 2", "low"),
    "ece": ("ECE", "expected calibration error", "share of rows", "low"),
    "auroc": ("AUROC", "area under the ROC curve", "0.5 is chance", "high"),
}


def bands(
    x: ArrayLike,
    predictive: Any,
    *,
    x_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    coverage: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """The predictive distribution over one input.

    The outer band is the interval for a new y. The inner one is the same interval for its mean, which varies between draws
    of the weights: the epistemic part, without noise.

    Parameters
    ----------
    x : (n,), the input of each row, in any order.
    predictive : the predictive distribution of these rows.
    x_train, y_train : (m,), data to draw as dots.
    coverage : probability of the intervals.
    ax : axes to draw on; None makes a figure.
    """
    _one_target(predictive)
    x = np.ravel(np.asarray(x, float))
    if len(x) != len(predictive):
        raise ValueError(f"x has {len(x)} values, but the predictive {len(predictive)} rows")
    if (x_train is None) != (y_train is None):
        raise ValueError("x_train and y_train are given together or not at all")
    order = np.argsort(x, kind="stable")
    lower, upper = predictive.interval(coverage)
    draws = np.sort(_means(predictive), axis=0)
    outside = max(math.ceil(0.5 * (1 - coverage) * len(draws) - 1e-9) - 1, 0)  # draws left out at each end
    columns = (lower, upper, draws[outside], draws[-1 - outside], predictive.mean)
    x, (lower, upper, low, high, mean) = x[order], (np.reshape(column, len(order))[order] for column in columns)
    ax = _axes(ax)
    share = f"{100 * coverage:g} %"
    ax.fill_between(x, lower, upper, color=SKY, alpha=0.35, lw=0, label=f"total: {share} of new observations")
    ax.fill_between(x, low, high, color=BLUE, alpha=0.45, lw=0, label=f"epistemic: {share} for their mean")
    ax.plot(x, mean, color=BLUE, lw=2, label="mean")
    if x_train is not None:
        points = np.ravel(np.asarray(x_train, float)), np.ravel(np.asarray(y_train, float))
        ax.plot(*points, ls="", marker="o", ms=3, color="black", alpha=_opacity(len(points[0])), mew=0, label="data")
    ax.set(xlabel="x", ylabel="y")
    ax.margins(x=0)
    return _legend(ax, 2)


def reliability(predictive: Any, y: ArrayLike, *, bins: int = 15, ax: Axes | None = None) -> Axes:
    """Accuracy against confidence, in bins of equal width.

    A point stands at its bin's mean confidence and accuracy, so its distance from the diagonal is its contribution to the
    calibration error; its line is the 95 % Clopper-Pearson interval of the accuracy. The bar behind it is as high as the
    accuracy, and its width shows the bin's share of the rows.

    Parameters
    ----------
    predictive : that of a classifier, of held-out rows.
    y : their classes (n,).
    bins : number of bins.
    ax : axes to draw on; None makes a figure.
    """
    predictive, y, _ = check_predictive(predictive, y, None, "classification")
    error, probs = metrics.ece(predictive, y, bins), predictive.probs
    confidence, right = probs.max(1), probs.argmax(1) == y
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    count = np.bincount(place, minlength=bins)
    used = np.flatnonzero(count)
    count, hits = count[used], np.bincount(place, right)[used]
    center = np.bincount(place, confidence)[used] / count
    accuracy = hits / count
    low = stats.beta.ppf(0.025, hits, count - hits + 1)  # nan without a hit, where the interval begins at 0
    high = stats.beta.ppf(0.975, hits + 1, count - hits)
    reach = [accuracy - np.where(hits == 0, 0.0, low), np.where(hits == count, 1.0, high) - accuracy]
    ax = _axes(ax, (5.0, 5.0))
    ax.plot(SPAN, SPAN, color=GRAY, lw=1, ls="--", label="calibrated")
    found = f"{error.value:.3f}" if np.isnan(error.se) else f"{error.value:.3f} ± {error.se:.3f}"
    width = count / count.max() / bins
    middle = np.clip(center, used / bins + 0.5 * width, (used + 1) / bins - 0.5 * width)  # a bar stays in its bin
    ax.bar(middle, accuracy, width, color=SKY, alpha=0.45, label="share of rows (width)")
    ax.errorbar(
        center, accuracy, reach, fmt="o", ms=5, color=BLUE, elinewidth=1, clip_on=False, label="accuracy, 95 % interval"
    )
    ax.set(xlabel="confidence: probability of the predicted class", ylabel="accuracy: share of rows predicted right")
    ax.set(xlim=(np.floor(bins / probs.shape[1]) / bins, 1.0), ylim=SPAN)
    return _legend(ax, 2, title=f"calibration error {found}")


def interval_coverage(predictive: Any, y: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """The share of observations inside central intervals against the intervals' probability.

    An observation is inside where |2F(y) − 1| is at most the probability. The band contains, at each probability, 95 % of
    the shares that a calibrated predictive would show on as many rows; below the diagonal intervals are too narrow.

    Parameters
    ----------
    predictive : that of a regression, of held-out rows.
    y : their targets (n,) or (n, targets).
    ax : axes to draw on; None makes a figure.
    """
    nominal = np.linspace(0, 1, 101)
    observed, rows = metrics.central_coverage(predictive, y, nominal), len(predictive)
    low, high = (stats.binom.ppf(q, rows, nominal) / rows for q in (0.025, 0.975))
    ax = _axes(ax, (5.0, 5.0))
    ax.fill_between(nominal, low, high, color="0.85", lw=0, label=f"95 % band if calibrated ({rows:,} rows)")
    ax.plot(SPAN, SPAN, color=GRAY, lw=1, ls="--", label="calibrated")
    ax.plot(nominal, observed, color=BLUE, lw=2, label="observed")
    ax.set(xlabel="probability of the central interval", ylabel="share of observations inside", xlim=SPAN, ylim=SPAN)
    ax.set_aspect("equal")
    return _legend(ax, 2)


def risk_coverage_curve(
    predictive: Any,
    y: ArrayLike,
    *,
    score: decisions.UncertaintyScore = None,
    loss: ArrayLike | Callable | str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The mean loss when only the most certain rows are predicted, against the share of rows predicted.

    The dashed line is the loss of a random order, the gray one that of the order of the losses themselves, the best possible.

    Parameters
    ----------
    predictive : the predictive distribution of held-out rows.
    y : their targets or classes.
    score, loss : as for ``decisions.risk_coverage``.
    ax : axes to draw on; None makes a figure.
    """
    curve = decisions.risk_coverage(predictive, y, score=score, loss=loss)
    error = decisions.losses(predictive, y, loss)
    best = np.cumsum(np.sort(error)) / np.arange(1, len(error) + 1)
    ax = _axes(ax)
    ax.axhline(curve.risk[-1], color=GRAY, lw=1, ls="--", label="random order")
    ax.plot(np.arange(1, len(error) + 1) / len(error), best, color="0.6", lw=1, label="best order")
    ax.plot(curve.coverage, curve.risk, color=BLUE, lw=2, label="by uncertainty")
    unit = "error rate" if loss is None and predictive.task == "classification" else "loss"
    unit = "mean squared error" if loss is None and predictive.task == "regression" else unit
    ax.set(
        xlabel="coverage: share of rows predicted, most certain first", ylabel=f"risk: {unit} of these rows", xlim=SPAN
    )
    ax.set_ylim(bottom=min(0.0, best.min()))
    found = f"{curve.area.value:.3g}" if np.isnan(curve.area.se) else f"{curve.area.value:.3g} ± {curve.area.se:.2g}"
    return _legend(ax, 3, title=f"area {found}")


def loss_curves(history: Sequence[ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Training and validation loss by epoch, in nats per example.

    Thin lines are members, thick ones the median of those still training. Both high: underfitting; validation rising while
    training falls: overfitting. The steep fall in the first tenth may leave the picture.

    Parameters
    ----------
    history : ``history_`` of an estimator: for each member (epochs, 3), the likelihood, the penalty and the validation
        score, which may be nan. Members should train the same thing: show those of a noise network separately.
    ax : axes to draw on; None makes a figure.
    """
    ax = _axes(ax)
    shown = []
    for column, color, label in ((0, ORANGE, "training"), (2, BLUE, "validation")):
        curves = [-np.asarray(member, float)[:, column] for member in history]
        longest = max((len(curve) for curve in curves), default=0)
        table = np.full((len(curves), longest), np.nan)
        for row, curve in zip(table, curves, strict=True):
            row[: len(curve)] = curve
        table[~np.isfinite(table)] = np.nan
        if np.all(np.isnan(table)):
            continue
        epoch = np.arange(1, longest + 1)
        if len(curves) > 1:
            ax.plot(epoch, table.T, color=color, lw=0.6, alpha=0.35)
        median = np.ma.median(np.ma.masked_invalid(table), axis=0).filled(np.nan)
        ax.plot(epoch, median, color=color, lw=2, label=label if len(curves) == 1 else f"{label}, median")
        shown += [table, table[:, longest // 10 :]]
    if not shown:
        raise ValueError("history holds no finite loss")
    low = min(np.nanmin(table) for table in shown)
    high = max((np.nanmax(late) for late in shown[1::2] if not np.all(np.isnan(late))), default=low)
    room = 0.05 * (high - low) or 0.5
    ax.set(xlabel="epoch", ylabel="negative log likelihood, nats per example")
    ax.set(xlim=(1, max(2, *map(len, history))), ylim=(low - room, high + room))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _legend(ax, 2)


def weights(params: Params, *, ax: Axes | None = None) -> Axes:
    """A histogram of all weights, without biases.

    Parameters
    ----------
    params : draws as ``posterior.sample(key, n)`` gives them.
    ax : axes to draw on; None makes a figure.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params["network"]) if np.ndim(leaf) > 2]  # draws come first
    if not leaves:
        raise ValueError("params have no weights with a leading axis of draws, as posterior.sample gives them")
    values = np.concatenate([leaf.ravel() for leaf in leaves])
    count, edges = np.histogram(values, bins=81)
    draws = len(leaves[0])
    label = f"{values.size // draws:,} weights" + (f" in {draws:,} draws" if draws > 1 else "")
    zeros = np.mean(values == 0)
    label += f", {100 * zeros:.1f} % exactly 0" if zeros > 0 else ""
    ax = _axes(ax)
    ax.stairs(count / values.size, edges, fill=True, color=BLUE, alpha=0.8, label=label)
    ax.set(xlabel="weight", ylabel="share of weights in a bin", ylim=(0, None))
    return _legend(ax, 1)


def predicted_against_actual(predictive: Any, y: ArrayLike, *, coverage: float = 0.9, ax: Axes | None = None) -> Axes:
    """Predicted means against actual values, one point per row.

    Parameters
    ----------
    predictive : that of a regression with one target, of held-out rows.
    y : their targets (n,).
    coverage : probability of the intervals, which are thin bars.
    ax : axes to draw on; None makes a figure.
    """
    _one_target(predictive)
    predictive, y, _ = check_predictive(predictive, y, None, "regression")
    actual, mean, (lower, upper) = y[:, 0], predictive.mean[:, 0], (end[:, 0] for end in predictive.interval(coverage))
    ax = _axes(ax, (5.0, 5.0))
    reach = np.maximum([mean - lower, upper - mean], 0.0)  # an ill-shaped mixture's mean may lie outside
    opacity = _opacity(len(mean))
    label = f"mean and {100 * coverage:g} % interval"
    ax.errorbar(
        actual, mean, reach, fmt="o", ms=3, mew=0, elinewidth=0.6, color=BLUE, ecolor=SKY, alpha=opacity, label=label
    )
    ends = np.array([actual.min(), actual.max()])
    ax.plot(ends, ends, color=GRAY, lw=1, ls="--", label="predicted = actual")
    span = np.ptp(np.append(ends, mean)) or 1.0
    lowest, highest = min(actual.min(), mean.min()), max(actual.max(), mean.max())  # no bar, however long, hides these
    bottom, top = max(lower.min(), lowest - span), min(upper.max(), highest + span)
    ax.set(
        xlabel="actual", ylabel="predicted", ylim=(min(bottom, lowest) - 0.03 * span, max(top, highest) + 0.03 * span)
    )
    return _legend(ax, 2)


def comparison(rows: Sequence[tuple[str, dict[str, Any]]], key: str, *, ax: Axes | None = None) -> Axes:
    """One score of several methods, with ± one standard error.

    Parameters
    ----------
    rows : pairs of a method's name and its ``metrics.scorecard``.
    key : the score, such as "nll".
    ax : axes to draw on; None makes a figure.
    """
    values = np.array([card.get(key, np.nan) for _, card in rows], float)
    errors = np.array([card.get(f"{key}_se", np.nan) for _, card in rows], float)
    values[~np.isfinite(values)] = np.nan
    if np.all(np.isnan(values)):
        raise ValueError(f"no row has a finite {key!r}")
    _, name, unit, best = SCORES.get(key, (key, key, "", None))
    ax = _axes(ax, (5.0, 1.2 + 0.32 * len(rows)))
    place = np.arange(len(rows))
    ax.errorbar(values, place, xerr=np.nan_to_num(errors), fmt="o", ms=6, color=BLUE, elinewidth=1.5)
    if isinstance(best, float):
        ax.axvline(best, color=GRAY, lw=1, ls="--")
    notes = [note for note in (unit, f"{best}er is better" if isinstance(best, str) else "") if note]
    ax.set(xlabel=f"{name}\n{', '.join(notes)}".strip(), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(place, [str(method) for method, _ in rows], parse_math=False)
    return ax


def _axes(ax, size=(5.0, 4.0)):
    """``ax``, or the axes of a new figure that only its caller holds; with a quiet grid behind the data."""
    if ax is None:
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", lw=0.8)
    ax.set_axisbelow(True)
    return ax


def _legend(ax, columns, title=None, handles=None):
    """A legend above the axes, where no data are."""
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "alignment": "left"}
    ax.legend(
        handles=handles, **place, ncols=columns, frameon=False, fontsize="small", title=title, title_fontsize="small"
    )
    return ax


def _opacity(count):
    """Of points, so that thousands of them still show where they are dense."""
    return float(np.clip(20 / np.sqrt(max(count, 1)), 0.15, 0.8))


def _means(predictive):
    """E[y | θ] of every draw, (S, n), in the target's units."""
    means = jax.vmap(predictive.likelihood.mean)(predictive.z)
    return (predictive.shift + predictive.scale * np.asarray(means, float))[..., 0]


def _one_target(predictive):
    if predictive.task != "regression" or predictive.columns != 1:
        raise ValueError(
            f"this picture is of one target of regression, not of {predictive.columns} ({predictive.task})"
        )
