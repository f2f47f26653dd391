"""Plots of a predictive distribution, of loss curves and of scores, each on one Matplotlib axes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy import stats

from dubito._jax.types import ArrayLike, Params
from dubito._values import Column
from dubito.evaluation import decisions, metrics
from dubito.evaluation.validation import check_predictive
from dubito.inspection.plots.style import BLUE, GRAY, ORANGE, SKY, Axes, add_legend, point_opacity, styled_axes

UNIT_RANGE = (0.0, 1.0)

# Name, full name, unit, and what is best: "low", "high", or the nearest to a number. A width alone is none of these.
SCORES: dict[str, tuple[str, str, str, Any]] = {
    "rmse": ("RMSE", "root mean squared error", "target's unit", "low"),
    "mae": ("MAE", "mean absolute error", "target's unit", "low"),
    "r2": ("R²", "fraction of the variance that the mean explains", "up to 1", "high"),
    "nll": ("NLL", "negative log likelihood", "nats per example", "low"),
    "crps": ("CRPS", "continuous ranked probability score", "target's unit", "low"),
    "coverage_50": ("In 50 %", "coverage of 50 % intervals", "fraction of rows", 0.5),
    "coverage_80": ("In 80 %", "coverage of 80 % intervals", "fraction of rows", 0.8),
    "coverage_90": ("In 90 %", "coverage of 90 % intervals", "fraction of rows", 0.9),
    "coverage_95": ("In 95 %", "coverage of 95 % intervals", "fraction of rows", 0.95),
    "mean_width_90": ("Width", "mean width of 90 % intervals", "target's unit", None),
    "accuracy": ("Accuracy", "fraction of rows predicted correctly", "up to 1", "high"),
    "confidence": ("Confidence", "mean probability of the predicted class", "near the accuracy", None),
    "brier": ("Brier", "Brier score over all classes", "0 to 2", "low"),
    "ece": ("ECE", "expected calibration error", "fraction of rows", "low"),
    "auroc": ("AUROC", "area under the ROC curve", "0.5 is chance", "high"),
}


def bands(
    x: Column,
    predictive: Any,
    *,
    x_train: Column = None,
    y_train: Column = None,
    coverage: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Plot a predictive distribution over one input.

    The outer band is the interval for a new y. The inner one is the same interval for the mean of
    y, which varies between draws of the weights: the epistemic part, without noise.

    Parameters
    ----------
    x : array
        The input of each row (n,), in any order.
    predictive : Predictive
        The predictive distribution of these rows.
    x_train, y_train : array, optional
        Data (m,) to draw as dots.
    coverage : float
        Probability of the intervals.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    _check_one_target(predictive)
    x = np.ravel(np.asarray(x, float))
    if len(x) != len(predictive):
        raise ValueError(f"x has {len(x)} values, but the predictive {len(predictive)} rows")
    if (x_train is None) != (y_train is None):
        raise ValueError("x_train and y_train must be given together or not at all")
    order = np.argsort(x, kind="stable")
    means = predictive.means(len(predictive.draws)).reshape(-1, len(predictive))  # E[y | θ] of each draw
    draws = np.sort(means, axis=0)
    outside = max(math.ceil(0.5 * (1 - coverage) * len(draws) - 1e-9) - 1, 0)  # draws left out at each end
    columns = (*predictive.interval(coverage), draws[outside], draws[-1 - outside], predictive.mean)
    x, (lower, upper, low, high, mean) = x[order], (np.reshape(column, len(order))[order] for column in columns)
    ax = styled_axes(ax)
    percent = f"{100 * coverage:g} %"
    ax.fill_between(x, lower, upper, color=SKY, alpha=0.35, lw=0, label=f"total: {percent} of new observations")
    ax.fill_between(x, low, high, color=BLUE, alpha=0.45, lw=0, label=f"epistemic: {percent} for their mean")
    ax.plot(x, mean, color=BLUE, lw=2, label="mean")
    if x_train is not None:
        points = np.ravel(np.asarray(x_train, float)), np.ravel(np.asarray(y_train, float))
        opacity = point_opacity(len(points[0]))
        ax.plot(*points, ls="", marker="o", ms=3, color="black", alpha=opacity, mew=0, label="data")
    ax.set(xlabel="x", ylabel="y")
    ax.margins(x=0)
    return add_legend(ax, 2)


def reliability(predictive: Any, y: Column, *, bins: int = 15, ax: Axes | None = None) -> Axes:
    """Plot accuracy against confidence, in bins of equal width.

    A point is at its bin's mean confidence and accuracy, so its distance from the diagonal is its
    contribution to the calibration error; its line is the 95 % Clopper-Pearson interval of the
    accuracy. The height of the bar behind it is the accuracy, its width the fraction of the rows in
    the bin.

    Parameters
    ----------
    predictive : Predictive
        Of a classifier, for held-out rows.
    y : array
        Their classes (n,).
    bins : int
        Number of bins.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    predictive, y, _ = check_predictive(predictive, y, None, "classification")
    error, probs = metrics.ece(predictive, y, bins), predictive.probs
    confidence, is_right = probs.max(1), probs.argmax(1) == y
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    count = np.bincount(place, minlength=bins)
    used = np.flatnonzero(count)
    count, hits = count[used], np.bincount(place, is_right)[used]
    center = np.bincount(place, confidence)[used] / count
    accuracy = hits / count
    low = stats.beta.ppf(0.025, hits, count - hits + 1)  # nan without a hit, where the interval begins at 0
    high = stats.beta.ppf(0.975, hits + 1, count - hits)
    reach = [accuracy - np.where(hits == 0, 0.0, low), np.where(hits == count, 1.0, high) - accuracy]
    ax = styled_axes(ax, (5.0, 5.0))
    ax.plot(UNIT_RANGE, UNIT_RANGE, color=GRAY, lw=1, ls="--", label="calibrated")
    width = count / count.max() / bins
    middle = np.clip(center, used / bins + 0.5 * width, (used + 1) / bins - 0.5 * width)  # a bar stays in its bin
    ax.bar(middle, accuracy, width, color=SKY, alpha=0.45, label="fraction of rows (width)")
    dots: dict[str, Any] = {"fmt": "o", "ms": 5, "color": BLUE, "elinewidth": 1, "clip_on": False}
    ax.errorbar(center, accuracy, reach, label="accuracy, 95 % interval", **dots)
    ax.set(
        xlabel="confidence: probability of the predicted class", ylabel="accuracy: fraction of rows predicted correctly"
    )
    ax.set(xlim=(np.floor(bins / probs.shape[1]) / bins, 1.0), ylim=UNIT_RANGE)
    se = "" if np.isnan(error.se) else f" ± {error.se:.3f}"
    return add_legend(ax, 2, title=f"calibration error {error.value:.3f}{se}")


def interval_coverage(predictive: Any, y: Column, *, ax: Axes | None = None) -> Axes:
    """Plot the coverage of central intervals against their probability.

    An observation is inside an interval where |2F(y) − 1| is at most the probability. The band
    contains, at each probability, 95 % of the coverages that a calibrated predictive would show on
    as many rows; below the diagonal intervals are too narrow.

    Parameters
    ----------
    predictive : Predictive
        Of a regression, for held-out rows.
    y : array
        Their targets (n,) or (n, targets).
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    nominal = np.linspace(0, 1, 101)
    observed, rows = metrics.central_coverage(predictive, y, nominal), len(predictive)
    low, high = (stats.binom.ppf(q, rows, nominal) / rows for q in (0.025, 0.975))
    ax = styled_axes(ax, (5.0, 5.0))
    ax.fill_between(nominal, low, high, color="0.85", lw=0, label=f"95 % band if calibrated ({rows:,} rows)")
    ax.plot(UNIT_RANGE, UNIT_RANGE, color=GRAY, lw=1, ls="--", label="calibrated")
    ax.plot(nominal, observed, color=BLUE, lw=2, label="observed")
    ax.set(xlabel="probability of the central interval", ylabel="fraction of observations inside")
    ax.set(xlim=UNIT_RANGE, ylim=UNIT_RANGE, aspect="equal")
    return add_legend(ax, 2)


def risk_coverage_curve(
    predictive: Any, y: Column, *, score: decisions.UncertaintyScore = None, loss: Any = None, ax: Axes | None = None
) -> Axes:
    """Plot the mean loss when only the most certain rows are predicted, against their fraction.

    The dashed line is the loss of a random order, the gray one that of the order of the losses
    themselves, the best possible.

    Parameters
    ----------
    predictive : Predictive
        The predictive distribution of held-out rows.
    y : array
        Their targets or classes.
    score, loss : optional
        As for ``decisions.risk_coverage``.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    curve = decisions.risk_coverage(predictive, y, score=score, loss=loss)
    error = decisions.losses(predictive, y, loss)
    answered = np.arange(1, len(error) + 1)
    best = np.cumsum(np.sort(error)) / answered
    ax = styled_axes(ax)
    ax.axhline(curve.risk[-1], color=GRAY, lw=1, ls="--", label="random order")
    ax.plot(answered / len(error), best, color="0.6", lw=1, label="best order")
    ax.plot(curve.coverage, curve.risk, color=BLUE, lw=2, label="by uncertainty")
    default = {"classification": "error rate", "regression": "mean squared error"}
    unit = default[predictive.task] if loss is None else "loss"
    ax.set(xlabel="coverage: fraction of rows predicted, most certain first", ylabel=f"risk: {unit} of these rows")
    ax.set(xlim=UNIT_RANGE)
    ax.set_ylim(bottom=min(0.0, best.min()))
    se = "" if np.isnan(curve.area.se) else f" ± {curve.area.se:.2g}"
    return add_legend(ax, 3, title=f"area {curve.area.value:.3g}{se}")


def predicted_against_actual(predictive: Any, y: Column, *, coverage: float = 0.9, ax: Axes | None = None) -> Axes:
    """Plot predicted means against actual values, one point per row.

    Parameters
    ----------
    predictive : Predictive
        Of a regression with one target, for held-out rows.
    y : array
        Their targets (n,).
    coverage : float
        Probability of the intervals, which are thin bars.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    _check_one_target(predictive)
    predictive, y, _ = check_predictive(predictive, y, None, "regression")
    actual, mean, (lower, upper) = y[:, 0], predictive.mean[:, 0], (end[:, 0] for end in predictive.interval(coverage))
    ax = styled_axes(ax, (5.0, 5.0))
    reach = np.maximum([mean - lower, upper - mean], 0.0)  # the mean of a skewed mixture may lie outside
    dots: dict[str, Any] = {"fmt": "o", "ms": 3, "mew": 0, "elinewidth": 0.6, "color": BLUE, "ecolor": SKY}
    label = f"mean and {100 * coverage:g} % interval"
    ax.errorbar(actual, mean, reach, alpha=point_opacity(len(mean)), label=label, **dots)
    ends = np.array([actual.min(), actual.max()])
    ax.plot(ends, ends, color=GRAY, lw=1, ls="--", label="predicted = actual")
    # Long bars are cut off, so that the points stay distinguishable.
    span = np.ptp(np.append(ends, mean)) or 1.0
    lowest, highest = min(ends[0], mean.min()), max(ends[1], mean.max())
    bottom, top = min(max(lower.min(), lowest - span), lowest), max(min(upper.max(), highest + span), highest)
    ax.set(xlabel="actual", ylabel="predicted", ylim=(bottom - 0.03 * span, top + 0.03 * span))
    return add_legend(ax, 2)


def loss_curves(history: Sequence[ArrayLike], *, ax: Axes | None = None) -> Axes:
    """Plot training and validation loss by epoch, in nats per example.

    Thin lines are members, thick ones the median of those still training. Both high: underfitting;
    validation rising while training falls: overfitting. The steep fall in the first tenth of the
    epochs may leave the plot.

    Parameters
    ----------
    history : sequence of array
        ``history_`` of an estimator: for each member (epochs, 3), the likelihood, the penalty and the
        validation score, which may be nan. Members should train the same thing: plot those of a noise
        network separately.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    longest = max(map(len, history), default=0)
    losses = np.full((3, len(history), longest), np.nan)
    for number, member in enumerate(history):
        losses[:, number, : len(member)] = -np.asarray(member, float).T
    losses[~np.isfinite(losses)] = np.nan
    ax = styled_axes(ax)
    shown = []
    for table, color, label in ((losses[0], ORANGE, "training"), (losses[2], BLUE, "validation")):
        if np.all(np.isnan(table)):
            continue
        epoch = np.arange(1, longest + 1)
        if len(history) > 1:
            ax.plot(epoch, table.T, color=color, lw=0.6, alpha=0.35)
        median = np.ma.median(np.ma.masked_invalid(table), axis=0).filled(np.nan)
        ax.plot(epoch, median, color=color, lw=2, label=label if len(history) == 1 else f"{label}, median")
        shown.append(table)
    if not shown:
        raise ValueError("history holds no finite loss")
    low, late = np.nanmin(shown), np.ravel([table[:, longest // 10 :] for table in shown])
    high = np.max(late[np.isfinite(late)], initial=low)
    room = 0.05 * (high - low) or 0.5
    ax.set(xlabel="epoch", ylabel="negative log likelihood, nats per example")
    ax.set(xlim=(1, max(2, longest)), ylim=(low - room, high + room))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return add_legend(ax, 2)


def weights(params: Params, *, ax: Axes | None = None) -> Axes:
    """Plot a histogram of all weights, without biases.

    Parameters
    ----------
    params : pytree
        Draws as ``posterior.sample(key, n)`` returns them.
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params["network"]) if np.ndim(leaf) > 2]  # draws come first
    if not leaves:
        raise ValueError("params have no weights with a leading axis of draws, as posterior.sample returns them")
    values = np.concatenate([leaf.ravel() for leaf in leaves])
    count, edges = np.histogram(values, bins=81)
    draws = len(leaves[0])
    label = f"{values.size // draws:,} weights" + (f" in {draws:,} draws" if draws > 1 else "")
    zeros = np.mean(values == 0)
    label += f", {100 * zeros:.1f} % exactly 0" if zeros > 0 else ""
    ax = styled_axes(ax)
    ax.stairs(count / values.size, edges, fill=True, color=BLUE, alpha=0.8, label=label)
    ax.set(xlabel="weight", ylabel="fraction of weights in a bin", ylim=(0, None))
    return add_legend(ax, 1)


def comparison(rows: Sequence[tuple[str, Any]], key: str, *, ax: Axes | None = None) -> Axes:
    """Plot one score of several methods, with ± one standard error.

    Parameters
    ----------
    rows : sequence of tuple
        Pairs of a method's name and its ``metrics.scorecard``.
    key : str
        The score, such as "nll".
    ax : Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    Axes
        The axes.
    """
    values, errors = (np.array([card.get(name, np.nan) for _, card in rows], float) for name in (key, f"{key}_se"))
    values[~np.isfinite(values)] = np.nan
    if np.all(np.isnan(values)):
        raise ValueError(f"no row has a finite {key!r}")
    _, name, unit, best = SCORES.get(key, (key, key, "", None))
    ax = styled_axes(ax, (5.0, 1.2 + 0.32 * len(rows)))
    place = np.arange(len(rows))
    ax.errorbar(values, place, xerr=np.nan_to_num(errors), fmt="o", ms=6, color=BLUE, elinewidth=1.5)
    if isinstance(best, float):
        ax.axvline(best, color=GRAY, lw=1, ls="--")
    notes = [note for note in (unit, f"{best}er is better" if isinstance(best, str) else "") if note]
    ax.set(xlabel=f"{name}\n{', '.join(notes)}".strip(), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(place, [str(method) for method, _ in rows], parse_math=False)
    return ax


def _check_one_target(predictive: Any) -> None:
    if predictive.task != "regression" or predictive.columns != 1:
        got = f"{predictive.columns} ({predictive.task})"
        raise ValueError(f"this plot needs a regression with one target; the number of targets is {got}")
