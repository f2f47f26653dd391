"""A report: scores, pictures, settings, seed and versions in one self-contained HTML file."""

import base64
import datetime
import importlib.metadata
import importlib.resources
import io
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dubito._jax.types import ArrayLike
from dubito._process.output_files import write_atomically
from dubito.estimators.base import BayesianEstimator
from dubito.estimators.cross_validation import CrossValidationResult, interpretation
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import monte_carlo
from dubito.evaluation.interpretation import interpret_scorecard, join_names
from dubito.inspection.plots import predictions
from dubito.inspection.plots.predictions import Figure

try:
    import jinja2
except ImportError as error:
    raise ImportError("dubito.report fills a page with jinja2: pip install 'dubito[plot]'") from error

PACKAGES = ("dubito", "jax", "numpy", "optax", "scikit-learn")
DPI = 200  # twice what a figure is laid out for, so that pictures stay sharp on dense screens and on paper
BETWEEN = " ±\u00a0"  # a narrow column breaks the line before it, not after
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

LOSS = "Both curves high: underfitting. Validation loss rising while training loss falls: overfitting."
RELIABILITY = "On the diagonal the accuracy equals the confidence; below it the classifier is overconfident."
COVERAGE = "On the diagonal intervals hold as many rows as they promise; below it they are too narrow."
ACTUAL = "Held-out rows, each with its 90 % interval."
BANDS = "The inner band is epistemic uncertainty, which more data would reduce; the outer one adds the noise."


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Parameters
    ----------
    caption : text above the table.
    header : names of the columns; the first line of each is strong.
    rows : tuples of cells.
    best : (row, column) pairs to emphasize.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Parameters
    ----------
    title : heading.
    text : paragraphs separated by empty lines.
    tables : below the text.
    pictures : (caption, alternative text, a Matplotlib figure or the bytes of ``figure_png``).
    points : items of a list below the text.
    """

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    pictures: tuple[tuple[str, str, Any], ...] = ()
    points: tuple[str, ...] = ()


def write_report(
    path: str | Path, title: str, sections: Sequence[Section], *, settings: Mapping[str, Any], seed: Any
) -> None:
    """Write a report, whole or not at all. The page loads nothing, and no text is interpreted as markup.

    Parameters
    ----------
    path : .html file.
    title : heading.
    sections : in order.
    settings, seed : shown below the sections, with the versions of the libraries.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = importlib.resources.files("dubito.inspection").joinpath("report.html.jinja").read_text("utf-8")
    shown = [{**vars(section), "pictures": [_inline(*one) for one in section.pictures]} for section in sections]
    page = environment.from_string(source).render(
        title=title,
        date=datetime.date.today().isoformat(),
        sections=shown,
        facts=[("Settings", {**settings, "seed": seed}), ("Versions", versions())],
    )
    with write_atomically(path) as file:
        file.write(page.encode())


def data_section(
    title: str,
    cards: Sequence[tuple[str, Mapping[str, Any]]],
    name: str,
    predictive: Any,
    y: ArrayLike,
    *,
    text: str = "",
    x: ArrayLike | None = None,
    history: Sequence[np.ndarray] | None = None,
    posterior: Any = None,
) -> Section:
    """A section on one data set: the scores of all methods, their interpretation for one, and pictures of it.

    Parameters
    ----------
    title, text : heading and first paragraphs.
    cards : pairs of a method's name and its ``metrics.scorecard``.
    name : the method that the pictures show.
    predictive, y : its predictive distribution of held-out rows, and their targets.
    x : (n,), the only input; adds the bands.
    history : adds the loss curves.
    posterior : adds whether its draws were enough.
    """
    read = interpret_scorecard(metrics.scorecard(predictive, y), discrete=predictive.discrete)
    paragraphs = [text, f"{name}: {read}" if read else ""]
    if posterior is not None:
        paragraphs.append(draws_text([(name, monte_carlo(predictive, posterior, y))]))
    drawn = []
    if history is not None:
        alt = "Training and validation loss by epoch"
        drawn.append((LOSS, alt, predictions.loss_curves(history)))
    if predictive.task == "classification":
        alt = "Accuracy against confidence, with a diagonal where both agree"
        drawn.append((RELIABILITY, alt, predictions.reliability(predictive, y)))
    else:
        alt = "Share of held-out rows inside central intervals against their probability, with a diagonal where both agree"
        drawn.append((COVERAGE, alt, predictions.interval_coverage(predictive, y)))
        if predictive.columns == 1:
            alt = "Predicted means with 90 % intervals against actual values, with a diagonal where both agree"
            drawn.append((ACTUAL, alt, predictions.predicted_against_actual(predictive, y)))
        if x is not None:
            alt = "Predicted mean with its epistemic and its whole 90 % band over the input, and the data as dots"
            drawn.append((BANDS, alt, predictions.bands(x, predictive, x_train=x, y_train=y)))
    pictures = [(f"{name}. {caption}", f"{alt}: {name}", ax.figure) for caption, alt, ax in drawn]
    if len(cards) > 1 and any(math.isfinite(card["nll"]) for _, card in cards):
        pictures.insert(0, _scores_picture(cards, "nll"))
    return Section(title, "\n\n".join(filter(None, paragraphs)), (scorecard_table(cards),), tuple(pictures))


def draws_text(unsure: Sequence[tuple]) -> str:
    """Paragraphs on whether draws are enough.

    Parameters
    ----------
    unsure : tuples of a name, a ``diagnostics`` Monte Carlo error and, optionally, the setting that would make it small
        enough.
    """
    parts = []
    for name, error, *setting in unsure:
        advice = [f"To have enough, use {one.python}." for one in setting if one is not None]
        parts.append(" ".join([f"{name}: {error.sentence}", *advice]))
    return "\n\n".join(parts)


def comparison_report(
    path: str | Path, title: str, rows: Sequence[CrossValidationResult], *, settings: Mapping[str, Any], seed: Any
) -> None:
    """Write a report on cross-validation results.

    Parameters
    ----------
    path, title, settings, seed : as for ``write_report``.
    rows : of ``cross_validation.compare``, the best first.
    """
    cards = [(row.name, row.to_dict()) for row in rows]
    table = scorecard_table(cards)
    gaps = ["–", *[round_to_error(row.difference.value, row.difference.se) for row in rows[1:]]]
    lines = [
        (*line, gap, round_to_error(row.seconds, math.nan))
        for line, gap, row in zip(table.rows, gaps, rows, strict=True)
    ]
    table = replace(
        table,
        caption=f"{table.caption} Δ NLL: difference to the best method, paired by rows.",
        header=(*table.header, "Δ NLL\nnats per row", "Time\nseconds per fit"),
        rows=tuple(lines),
    )
    shown = [
        key for key in ("nll", "coverage_90", "accuracy") if any(math.isfinite(c.get(key, math.nan)) for _, c in cards)
    ]
    read = interpretation(rows)
    first = [Section("Conclusions", read)] if read else []
    scores = Section("Held-out scores", "", (table,), tuple(_scores_picture(cards, key) for key in shown))
    text = draws_text([(row.name, row.unsure, row.setting) for row in rows if row.unsure.kind != "point"])
    draws = [Section("Are the draws enough?", text)] if text else []
    write_report(path, title, [*first, scores, *draws], settings=settings, seed=seed)


def _scores_picture(cards, key):
    """(caption, alternative text, figure) of one score of all methods."""
    name = predictions.SCORES[key][1]
    caption = f"{name[0].upper()}{name[1:]} of each method, ± one standard error."
    return (
        caption,
        f"A dot and an error bar per method: {name} of {join_names([name for name, _ in cards])}",
        predictions.comparison(cards, key).figure,
    )


def scorecard_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """A table of scores ± standard errors, rounded to the digits that the errors leave.

    Best are the scores that round to the best one; of coverages, those nearest to the nominal one.

    Parameters
    ----------
    rows : pairs of a method's name and its ``metrics.scorecard``.
    """
    keys = [key for key in predictions.SCORES if any(key in card for _, card in rows)]
    lines = [
        (str(name), *[round_to_error(card.get(key, np.nan), card.get(f"{key}_se", np.nan)) for key in keys])
        for name, card in rows
    ]
    best = {(row, 1 + column) for column, key in enumerate(keys) for row in _best(rows, key)}
    counts = {card.get("n") for _, card in rows} - {None}
    number = f"{counts.pop():,} rows. " if len(counts) == 1 else ""
    names = "; ".join(f"{short}: {name}" for short, name, _, _ in (predictions.SCORES[key] for key in keys))
    caption = f"{number}Scores ± one standard error over rows{', the best in bold' if best else ''}. {names}."
    header = ("Method", *["\n".join(predictions.SCORES[key][:3:2]) for key in keys])
    return Table(caption.replace(" %", "\u00a0%"), header, tuple(lines), frozenset(best))


def _best(rows, key):
    """The rows whose score rounds to the best one's."""
    values = np.array([card.get(key, np.nan) for _, card in rows], float)
    wish = predictions.SCORES[key][3]
    if wish is None or len(rows) < 2 or not np.any(np.isfinite(values)):
        return []
    loss = values if wish == "low" else -values if wish == "high" else np.abs(values - wish)
    winner = int(np.nanargmin(loss))
    places = _decimals(values[winner], rows[winner][1].get(f"{key}_se", np.nan))
    return np.flatnonzero(np.round(values, places) == np.round(values[winner], places)).tolist()


def round_to_error(value: float, se: float) -> str:
    """The text of ``value ± se``.

    Parameters
    ----------
    value : a number; – stands for nan.
    se : its standard error, which leaves the digits that are shown; three significant ones if it is not finite.
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    places = _decimals(value, se)
    numbers = [value, se] if math.isfinite(se) else [value]
    power = math.floor(math.log10(max(map(abs, numbers)) or 1))
    if places <= 5 and power <= 6:
        return BETWEEN.join(f"{round(one, places) + 0.0:,.{max(places, 0)}f}" for one in numbers)
    texts = [f"{one / 10.0**power:.{max(places + power, 0)}f}" for one in numbers]
    return f"({BETWEEN.join(texts)})·10{str(power).translate(RAISED)}"


def _decimals(value, se):
    """Decimal places that a standard error leaves: one significant digit of it, two where it begins with 1.

    At most five significant digits of the value: an error smaller than that is float32's.
    """
    most = 4 - math.floor(math.log10(abs(value))) if math.isfinite(value) and value else 4
    if not (math.isfinite(se) and se > 0):
        return most - 2
    power = math.floor(math.log10(se))
    return min(most, -power + (se < 2 * 10.0**power))


def versions() -> dict[str, str]:
    """Versions of the libraries, of Python, and the kind of machine.

    Returns
    -------
    Versions by name, without paths or host names.
    """
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"Python": platform.python_version(), "machine": platform.machine()}


def figure_png(figure: Figure) -> bytes:
    """A figure as a PNG with twice the pixels of its layout.

    Parameters
    ----------
    figure : a Matplotlib figure.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def describe_settings(value: Any) -> str:
    """The settings of a fitted estimator or a dataclass that differ from their defaults, as a short text.

    Parameters
    ----------
    value : fitted estimator, dataclass, or anything with a ``repr``.
    """
    if isinstance(value, BayesianEstimator):
        model = value.posterior_.model
        calibrated = [] if value.calibration_ is None else [f"calibrated: {type(value.calibration_).__name__}"]
        return "; ".join(
            [*map(describe_settings, (value.method_, model.network, model.likelihood, model.prior)), *calibrated]
        )
    if not is_dataclass(value):
        return repr(value)
    own = vars(value)
    given = [(one.name, own[one.name]) for one in fields(value) if _differs(own[one.name], one)]
    return f"{type(value).__name__}({', '.join(f'{name}={_short(name, one)}' for name, one in given)})"


def _differs(value, field):
    return field.default is MISSING or type(value) is not type(field.default) or value != field.default


def _short(name, value):
    return f"{len(value)} columns" if name == "numeric" and isinstance(value, tuple) else describe_settings(value)


def _inline(caption, alt, picture):
    """(caption, alternative text, data URL of a PNG, width in CSS pixels)."""
    picture = picture if isinstance(picture, bytes) else figure_png(picture)
    width = int.from_bytes(picture[16:20], "big")  # where the PNG format puts it
    return caption, alt, "data:image/png;base64," + base64.b64encode(picture).decode(), width // 2
