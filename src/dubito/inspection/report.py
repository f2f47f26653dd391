"""A report: scores, plots, settings, seed and versions in one self-contained HTML file."""

import base64
import datetime
import importlib.metadata
import importlib.resources
import io
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dubito._jax.types import ArrayLike
from dubito._process.output_files import write_atomically
from dubito._process.versions import library_versions
from dubito.estimators.base import BayesianEstimator
from dubito.estimators.cross_validation import CrossValidationResult, interpretation
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import monte_carlo
from dubito.evaluation.interpretation import interpret_predictive, join_names
from dubito.inspection.plots import predictions
from dubito.inspection.plots.style import Axes, Figure

try:
    import jinja2
except ImportError as error:
    raise ImportError("dubito.report needs jinja2: pip install 'dubito[plot]'") from error

Cards: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]  # methods' names and their ``metrics.scorecard``s
DPI = 200  # twice what a figure is laid out for, so that pictures stay sharp on dense screens and on paper
PLUS_MINUS = " ±\u00a0"  # a narrow column breaks the line before it, not after
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

LOSS = "Both curves high: underfitting. Validation loss rising while training loss falls: overfitting."
RELIABILITY = "On the diagonal the accuracy equals the confidence; below it the classifier is overconfident."
COVERAGE = "On the diagonal intervals have their nominal coverage; below it they are too narrow."
ACTUAL = "Held-out rows, each with its 90 % interval."
BANDS = "The inner band is epistemic uncertainty, which more data would reduce; the outer one adds the noise."


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes
    ----------
    caption : str
        Text below the table.
    header : tuple of str
        Names of the columns; the first line of each is bold.
    rows : tuple of tuple
        The cells.
    best : frozenset of tuple
        (row, column) pairs to emphasize.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes
    ----------
    title, text : str
        The heading, and paragraphs separated by empty lines.
    tables : tuple of Table
        Below the text.
    pictures : tuple of tuple
        (caption, alternative text, a Matplotlib figure or the bytes of ``figure_png``).
    points : tuple of str
        Items of a list below the text.
    """

    title: str
    text: str = ""
    tables: tuple[Table, ...] = ()
    pictures: tuple[tuple[str, str, Any], ...] = ()
    points: tuple[str, ...] = ()


def write_report(
    path: str | Path, title: str, sections: Sequence[Section], *, settings: Mapping[str, Any], seed: Any
) -> None:
    """Write a report atomically; the page loads nothing and interprets no text as markup.

    Parameters
    ----------
    path, title : path-like, str
        An .html file, and its heading.
    sections : sequence of Section
        In order.
    settings, seed : mapping, object
        Shown below the sections, with the versions of the libraries.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    source = importlib.resources.files("dubito.inspection").joinpath("report.html.jinja").read_text("utf-8")
    page = (
        jinja2.Environment(**strict)
        .from_string(source)
        .render(
            title=title,
            date=datetime.date.today().isoformat(),
            sections=[
                vars(section) | {"pictures": [_inline(*one) for one in section.pictures]} for section in sections
            ],
            facts=[("Settings", {**settings, "seed": seed}), ("Versions", versions())],
        )
    )
    with write_atomically(path) as file:
        file.write(page.encode())


def data_section(
    title: str,
    cards: Cards,
    name: str,
    predictive: Any,
    y: ArrayLike,
    *,
    text: str = "",
    x: ArrayLike | None = None,
    history: Sequence[np.ndarray] | None = None,
    posterior: Any = None,
) -> Section:
    """Describe one data set: the scores of all methods, and an interpretation and plots of one.

    Parameters
    ----------
    title, text : str
        The heading and the first paragraphs.
    cards : sequence of tuple
        Pairs of a method's name and its ``metrics.scorecard``.
    name, predictive, y : str, Predictive, array
        The method that the plots show, its predictive distribution of held-out rows, and their targets.
    x : array, optional
        The only input (n,); adds the bands.
    history : sequence of array, optional
        Adds the loss curves.
    posterior : Posterior, optional
        Adds whether its draws were enough.

    Returns
    -------
    Section
        The section.
    """
    read = interpret_predictive(predictive, metrics.scorecard(predictive, y))
    paragraphs = [text, f"{name}: {read}" if read else ""]
    if posterior is not None:
        paragraphs.append(draws_text([(name, monte_carlo(predictive, posterior, y))]))
    pictures: list[tuple[str, str, Any]] = []

    def add(caption: str, alt: str, ax: Axes) -> None:
        pictures.append((f"{name}. {caption}", f"{alt}: {name}", ax.figure))

    if len(cards) > 1 and any(math.isfinite(card["nll"]) for _, card in cards):
        pictures.append(_scores_picture(cards, "nll"))
    if history is not None:
        add(LOSS, "Training and validation loss by epoch", predictions.loss_curves(history))
    if predictive.task == "classification":
        add(RELIABILITY, "Accuracy against confidence, with the diagonal", predictions.reliability(predictive, y))
    else:
        alt = "Coverage of central intervals against their probability, with the diagonal"
        add(COVERAGE, alt, predictions.interval_coverage(predictive, y))
        if predictive.columns == 1:
            alt = "Predicted means with 90 % intervals against actual values, with the diagonal"
            add(ACTUAL, alt, predictions.predicted_against_actual(predictive, y))
        if x is not None:
            alt = "Predicted mean with its epistemic and total 90 % bands over the input, and the data as dots"
            add(BANDS, alt, predictions.bands(x, predictive, x_train=x, y_train=y))
    return Section(title, "\n\n".join(filter(None, paragraphs)), (scorecard_table(cards),), tuple(pictures))


def draws_text(unsure: Sequence[tuple[Any, ...]]) -> str:
    """Describe whether draws are enough.

    Parameters
    ----------
    unsure : sequence of tuple
        A name, a ``diagnostics`` Monte Carlo error and, optionally, the setting that would make it small
        enough.

    Returns
    -------
    str
        Paragraphs.
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
    path, title, settings, seed
        As for ``write_report``.
    rows : sequence of CrossValidationResult
        From ``cross_validation.compare``, the best first.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    cards = [(row.name, row.to_dict()) for row in rows]
    table = scorecard_table(cards)
    gaps = ["–", *[round_to_error(row.difference.value, row.difference.se) for row in rows[1:]]]
    times = [round_to_error(row.seconds, math.nan) for row in rows]
    table = replace(
        table,
        caption=f"{table.caption} Δ NLL: difference to the best method, paired by rows.",
        header=(*table.header, "Δ NLL\nnats per row", "Time\nseconds per fit"),
        rows=tuple((*line, *more) for line, *more in zip(table.rows, gaps, times, strict=True)),
    )
    shown = [
        key for key in ("nll", "coverage_90", "accuracy") if any(math.isfinite(c.get(key, math.nan)) for _, c in cards)
    ]
    read = interpretation(rows)
    draws = draws_text([(row.name, row.unsure, row.setting) for row in rows if row.unsure.kind != "point"])
    sections = [
        *([Section("Conclusions", read)] if read else []),
        Section("Held-out scores", "", (table,), tuple(_scores_picture(cards, key) for key in shown)),
        *([Section("Are the draws enough?", draws)] if draws else []),
    ]
    write_report(path, title, sections, settings=settings, seed=seed)


def _scores_picture(cards: Cards, key: str) -> tuple[str, str, Figure]:
    """(caption, alternative text, figure) of one score of all methods."""
    name, methods = predictions.SCORES[key][1], join_names([name for name, _ in cards])
    caption = f"{name[0].upper()}{name[1:]} of each method, ± one standard error."
    figure: Any = predictions.comparison(cards, key).figure
    return caption, f"A dot and an error bar per method: {name} of {methods}", figure


def scorecard_table(rows: Cards) -> Table:
    """Tabulate scores ± standard errors, rounded to the digits that the errors leave.

    The best scores are those that round to the best one, which is the nearest to a nominal
    coverage.

    Parameters
    ----------
    rows : sequence of tuple
        Pairs of a method's name and its ``metrics.scorecard``.

    Returns
    -------
    Table
        One row per method.
    """
    keys = [key for key in predictions.SCORES if any(key in card for _, card in rows)]
    lines = [
        (str(name), *[round_to_error(card.get(key, np.nan), card.get(f"{key}_se", np.nan)) for key in keys])
        for name, card in rows
    ]
    best = {(row, 1 + column) for column, key in enumerate(keys) for row in _best(rows, key)}
    counts = {card.get("n") for _, card in rows} - {None}
    number = f"{counts.pop():,} rows. " if len(counts) == 1 else ""
    names = "; ".join("{}: {}".format(*predictions.SCORES[key][:2]) for key in keys)
    caption = f"{number}Scores ± one standard error over rows{', the best in bold' if best else ''}. {names}."
    header = ("Method", *["\n".join(predictions.SCORES[key][:3:2]) for key in keys])
    return Table(caption.replace(" %", "\u00a0%"), header, tuple(lines), frozenset(best))


def _best(rows: Cards, key: str) -> list[int]:
    """The rows whose score rounds to the best one's."""
    values = np.array([card.get(key, np.nan) for _, card in rows], float)
    best = predictions.SCORES[key][3]
    if best is None or len(rows) < 2 or not np.any(np.isfinite(values)):
        return []
    loss = values if best == "low" else -values if best == "high" else np.abs(values - best)
    winner = int(np.nanargmin(loss))
    places = _decimals(values[winner], rows[winner][1].get(f"{key}_se", np.nan))
    return np.flatnonzero(np.round(values, places) == np.round(values[winner], places)).tolist()


def round_to_error(value: float, se: float) -> str:
    """Format ``value ± se``.

    Parameters
    ----------
    value, se : float
        A number, or nan, and its standard error, which determines the number of digits; three
        significant ones if it is not finite.

    Returns
    -------
    str
        The text.
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    places = _decimals(value, se)
    numbers = [value, se] if math.isfinite(se) else [value]
    power = math.floor(math.log10(max(map(abs, numbers)) or 1))
    if places <= 5 and power <= 6:
        return PLUS_MINUS.join(f"{round(one, places) + 0.0:,.{max(places, 0)}f}" for one in numbers)
    texts = [f"{one / 10.0**power:.{max(places + power, 0)}f}" for one in numbers]
    return f"({PLUS_MINUS.join(texts)})·10{str(power).translate(RAISED)}"


def _decimals(value: float, se: float) -> int:
    """Decimal places for one significant digit of a standard error, two where it begins with 1."""
    # At most five significant digits of the value: an error smaller than that is float32's.
    most = 4 - math.floor(math.log10(abs(value))) if math.isfinite(value) and value else 4
    if not (math.isfinite(se) and se > 0):
        return most - 2
    power = math.floor(math.log10(se))
    return min(most, -power + (se < 2 * 10.0**power))


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries, and the kind of machine.

    Returns
    -------
    dict
        Versions by name, without paths or host names.
    """
    return library_versions() | {"machine": platform.machine()}


def figure_png(figure: Figure) -> bytes:
    """Render a figure as a PNG with twice the pixels of its layout.

    Parameters
    ----------
    figure : Figure

    Returns
    -------
    bytes
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def describe_settings(value: Any) -> str:
    """Describe the settings of a fitted estimator or a dataclass that differ from their defaults.

    Parameters
    ----------
    value : object
        A fitted estimator, a dataclass, or anything with a ``repr``.

    Returns
    -------
    str
        A short text.
    """
    if isinstance(value, BayesianEstimator):
        model = value.posterior_.model
        texts = [describe_settings(part) for part in (value.method_, model.network, model.likelihood, model.prior)]
        calibration = value.calibration_
        return "; ".join([*texts, *([] if calibration is None else [f"calibrated: {type(calibration).__name__}"])])
    if not is_dataclass(value):
        return repr(value)
    own = vars(value)
    given = [(field.name, own[field.name]) for field in fields(value) if _differs(own[field.name], field)]
    return f"{type(value).__name__}({', '.join(f'{name}={_short(name, one)}' for name, one in given)})"


def _differs(value: Any, field: Field[Any]) -> bool:
    return field.default is MISSING or type(value) is not type(field.default) or value != field.default


def _short(name: str, value: Any) -> str:
    return f"{len(value)} columns" if name == "numeric" and isinstance(value, tuple) else describe_settings(value)


def _inline(caption: str, alt: str, picture: Figure | bytes) -> tuple[str, str, str, int]:
    """(caption, alternative text, data URL of a PNG, width in CSS pixels)."""
    picture = picture if isinstance(picture, bytes) else figure_png(picture)
    width = int.from_bytes(picture[16:20], "big")  # where the PNG format has it
    return caption, alt, "data:image/png;base64," + base64.b64encode(picture).decode(), width // 2
