"""The report: scores, pictures, settings, seed and versions in one HTML file that needs nothing else to be read."""

import base64
import datetime
import importlib.metadata
import importlib.resources
import io
import math
import platform
from dataclasses import dataclass, replace

import numpy as np

from dubito import plots
from dubito.diagnostics import monte_carlo
from dubito.files import write_atomically

try:
    import jinja2
except ImportError as error:
    raise ImportError("dubito.report fills a page with jinja2: pip install 'dubito[plot]'") from error

PACKAGES = ("dubito", "jax", "numpy", "optax", "scikit-learn")
DPI = 200  # twice what a figure is laid out for, so that pictures stay sharp on dense screens and on paper
BETWEEN = " ±\u00a0"  # a narrow column breaks the line before it, not after
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

LOSS = "Both curves high: underfitting. Validation rising while training falls: overfitting."
RELIABILITY = "On the diagonal a confidence is the share of right answers; below it there is too little doubt."
COVERAGE = "On the diagonal intervals hold what they promise; below it they are too narrow."
ACTUAL = "Held-out rows, each with the interval that holds its outcome in 9 of 10 cases."
BANDS = "The inner shade would shrink with more data, the outer one is also noise."


@dataclass(frozen=True)
class Table:
    """Texts to read: ``header`` (of a name's lines the first is strong), ``rows``, and the (row, column) pairs that are
    ``best``."""

    caption: str
    header: tuple
    rows: tuple
    best: frozenset = frozenset()


@dataclass(frozen=True)
class Section:
    """``text`` has paragraphs between empty lines; ``pictures`` are (caption, alternative text, Matplotlib figure)."""

    title: str
    text: str = ""
    tables: tuple = ()
    pictures: tuple = ()


def write_report(path, title, sections, *, settings, seed):
    """Write ``sections`` with ``settings`` (name: value), ``seed`` and versions to ``path``, whole or not at all.

    The page fetches nothing, and no text in it is taken for markup. Raises OSError where it cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = importlib.resources.files("dubito").joinpath("report.html.jinja").read_text("utf-8")
    shown = [
        {"title": s.title, "text": s.text, "tables": s.tables, "pictures": [_inline(*one) for one in s.pictures]}
        for s in sections
    ]
    page = environment.from_string(source).render(
        title=title,
        date=datetime.date.today().isoformat(),
        sections=shown,
        facts=[("Settings", {**settings, "seed": seed}), ("Versions", versions())],
    )
    with write_atomically(path) as file:
        file.write(page.encode())


def data_section(title, cards, name, predictive, y, *, text="", x=None, history=None, posterior=None):
    """A section on one data set: the scores of all methods, and pictures of the one called ``name``.

    ``cards``: (method, ``metrics.scorecard``) pairs; ``predictive``: of held-out rows, whose outcomes were ``y``. ``x``
    (n,), the only column, adds the bands, ``history`` the loss curves, ``posterior`` whether its draws were enough.
    """
    if posterior is not None:
        text = f"{text}\n\n{draws_text([(name, monte_carlo(predictive, posterior, y))])}".strip()
    drawn = []
    if history is not None:
        drawn.append((LOSS, "Loss curves", plots.loss_curves(history)))
    if predictive.task == "classification":
        drawn.append((RELIABILITY, "Reliability", plots.reliability(predictive, y)))
    else:
        drawn.append((COVERAGE, "Coverage of intervals", plots.interval_coverage(predictive, y)))
        if predictive.mean.shape[1] == 1:
            drawn.append((ACTUAL, "Predicted against actual", plots.predicted_against_actual(predictive, y)))
        if x is not None:
            drawn.append((BANDS, "Prediction bands", plots.bands(x, predictive, x_train=x, y_train=y)))
    pictures = [(f"{name}. {caption}", f"{alt}, {name}", ax.figure) for caption, alt, ax in drawn]
    if len(cards) > 1 and any(math.isfinite(card["nll"]) for _, card in cards):
        ax = plots.comparison(cards, "nll")
        pictures.insert(0, ("All methods, ± one standard error.", "Negative log likelihood of all methods", ax.figure))
    return Section(title, text, (scorecard_table(cards),), tuple(pictures))


def draws_text(unsure):
    """Paragraphs on whether draws are enough, of (name, ``diagnostics.MonteCarlo``) pairs."""
    return "\n\n".join(f"{name}. {one.sentence}" for name, one in unsure)


def comparison_report(path, title, rows, *, settings, seed):
    """Write the report of ``comparison.compare``'s ``rows``, the best first."""
    cards = [(row.name, row.card()) for row in rows]
    table = scorecard_table(cards)
    gaps = ["–", *[rounded(row.difference.value, row.difference.se) for row in rows[1:]]]
    lines = [
        (*line, gap, rounded(row.seconds, math.nan)) for line, gap, row in zip(table.rows, gaps, rows, strict=True)
    ]
    table = replace(
        table,
        caption=f"{table.caption} Δ NLL: to the best method, paired by rows.",
        header=(*table.header, "Δ NLL\nnats per example", "Time\nseconds a fit"),
        rows=tuple(lines),
    )
    shown = [
        key for key in ("nll", "coverage_90", "accuracy") if any(math.isfinite(c.get(key, math.nan)) for _, c in cards)
    ]
    pictures = [("± one standard error.", plots.SCORES[k][1], plots.comparison(cards, k).figure) for k in shown]
    text = draws_text([(row.name, row.unsure) for row in rows if row.unsure.kind != "point"])
    draws = [Section("Are the draws enough?", text)] if text else []
    first = Section("Held-out scores", "", (table,), tuple(pictures))
    write_report(path, title, [first, *draws], settings=settings, seed=seed)


def scorecard_table(rows):
    """The Table of (method, ``metrics.scorecard``) pairs: scores ± standard errors, rounded to what the errors leave.

    Best are the scores that round to the best one; of coverages, those nearest to what was promised.
    """
    keys = [key for key in plots.SCORES if any(key in card for _, card in rows)]
    lines = [
        (str(name), *[rounded(card.get(key, np.nan), card.get(f"{key}_se", np.nan)) for key in keys])
        for name, card in rows
    ]
    best = {(row, 1 + column) for column, key in enumerate(keys) for row in _best(rows, key)}
    counts = {card.get("n") for _, card in rows} - {None}
    number = f"{counts.pop():,} rows. " if len(counts) == 1 else ""
    names = "; ".join(f"{short}: {name}" for short, name, _, _ in (plots.SCORES[key] for key in keys))
    caption = f"{number}Scores ± one standard error over rows{', the best in bold' if best else ''}. {names}."
    header = ("Method", *["\n".join(plots.SCORES[key][:3:2]) for key in keys])
    return Table(caption.replace(" %", "\u00a0%"), header, tuple(lines), frozenset(best))


def _best(rows, key):
    """The rows whose score rounds to the best one's."""
    values = np.array([card.get(key, np.nan) for _, card in rows], float)
    wish = plots.SCORES[key][3]
    if wish is None or len(rows) < 2 or not np.any(np.isfinite(values)):
        return []
    loss = values if wish == "low" else -values if wish == "high" else np.abs(values - wish)
    winner = int(np.nanargmin(loss))
    places = _decimals(values[winner], rows[winner][1].get(f"{key}_se", np.nan))
    return np.flatnonzero(np.round(values, places) == np.round(values[winner], places)).tolist()


def rounded(value, se):
    """``value ± se`` to the digits that ``se`` leaves; three significant ones without; – for nan."""
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


def versions():
    """What the numbers were computed with; neither a path nor a name of the host."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"Python": platform.python_version(), "machine": platform.machine()}


def _inline(caption, alt, figure):
    """(caption, alternative text, data URL of a PNG, width in CSS pixels)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    picture = buffer.getvalue()
    width = int.from_bytes(picture[16:20], "big")  # where the PNG format puts it
    return caption, alt, "data:image/png;base64," + base64.b64encode(picture).decode(), width // 2
