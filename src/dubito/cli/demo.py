"""A demonstration on bundled real data: some methods on three tables, a comparison, a report,
predictions, pictures.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from dubito._process import threads
from dubito._process.output_files import write_atomically
from dubito.cli.terminal import Say, noise_card
from dubito.estimators.classifier import BayesianClassifier
from dubito.estimators.regressor import BayesianRegressor
from dubito.evaluation import interpretation, metrics
from dubito.evaluation.diagnostics import monte_carlo
from dubito.inspection import report
from dubito.inspection.plots import predictions as plots
from dubito.inspection.plots import style
from dubito.methods.by_name import METHODS
from dubito.posteriors.readings import prediction_columns
from dubito.tables import datasets
from dubito.training.method import Wrapper, base_method

SEED = 0
YEAR = 1990  # the CO2 record is used for training up to here
TRAINING = "Negative log likelihood during training, on the training rows and on a tenth of them held out (median over members)."
SHOWN = "rmse r2 accuracy confidence nll crps ece coverage_90 mean_width_90".split()  # scores on the terminal


@dataclass(frozen=True)
class Result:
    """A method's fit to a table: the model, its scores on the held-out rows and its predictive
    there.
    """

    model: Any
    card: dict[str, Any]
    answer: Any


Results: TypeAlias = Mapping[str, Result]  # by the name of the method
Draw: TypeAlias = Callable[["Job", Results], Figure]  # the predictions of all methods
COLORS = (style.BLUE, style.RED, style.GREEN, style.ORANGE, style.SKY, "black", style.GRAY)
MARKS = "osD^vPX"


@dataclass(frozen=True)
class Job:
    """A table, split into training and held-out rows.

    Parameters
    ----------
    name, text : str
        Name and description of the table.
    make : type
        Class of the estimator.
    epochs : int
        Epochs of the methods that can stop early.
    train, test : tuple of array
        X and y.
    draw : callable
        Draws the predictions of all methods.
    caption, alt : str
        Caption and alternative text of that picture.
    """

    name: str
    text: str
    make: Any
    epochs: int
    train: tuple[Any, Any]
    test: tuple[Any, Any]
    draw: Draw
    caption: str
    alt: str


def jobs() -> list[Job]:
    """The three tables."""
    x, y = datasets.diabetes()
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=SEED)
    diabetes = Job(
        "diabetes",
        "Regression: the disease's progression after one year, from ten measurements (442 patients, a quarter held out).",
        *(BayesianRegressor, 100, (x, y), (x_test, y_test), draw_coverages),
        "Fraction of held-out patients inside central intervals, against the coverage of the intervals. The gray band is the "
        "sampling error of calibrated intervals; below it a method's intervals are too narrow.",
        "Line chart with a line per method, a diagonal for calibrated intervals, and the band of their sampling error",
    )
    x, y = datasets.digits()
    x = x[:, np.std(x, axis=0) > 0.1]  # pixels at the border never have ink
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=SEED, stratify=y)
    digits = Job(
        "digits",
        "Classification: handwritten digits of 8 × 8 pixels (1,797 images, a quarter held out).",
        *(BayesianClassifier, 40, (x, y), (x_test, y_test), draw_reliabilities),
        "Accuracy on held-out images against the probability of the predicted class, in ten groups of equal size. Above "
        "the diagonal a method is underconfident, below it overconfident.",
        "Line chart with a line per method and a diagonal where accuracy and confidence agree",
    )
    x, y = datasets.co2()
    early = x[:, 0] < YEAR
    co2 = Job(
        "CO2",
        f"Extrapolation: monthly CO2 at Mauna Loa in ppm, trained up to {YEAR} and predicted to the end of 2001. No method "
        "knows that the trend continues, so good intervals widen with the years. Errors of neighboring months are "
        "correlated, so they carry less information than as many independent rows.",
        *(BayesianRegressor, 300, (x[early], y[early]), (x[~early], y[~early]), draw_extrapolations),
        f"Predicted mean with 90 % bands; black dots are measurements. Only months before {YEAR} (dotted line) were used for "
        "training. The inner band is epistemic uncertainty, the outer one adds the noise.",
        f"A panel per method: CO2 from {YEAR - 10} to 2001 as dots, the predicted mean and its bands",
    )
    return [diabetes, digits, co2]


def fit_job(stop: Any, job: Job, name: str) -> Result:
    """The ``Result`` of the method called ``name``; the fit ends early once ``stop`` is set."""
    method = with_epochs(METHODS[name], job.epochs)
    stopping = method is None or base_method(method).score is not None
    patience = 10 if method is None else 30  # each member of the default stops on its own fold
    model = job.make(method, early_stopping=stopping, n_iter_no_change=patience, random_state=SEED)
    model.fit(*job.train, progress=threads.stop_fit(stop))
    answer = model.predictive(job.test[0])
    return Result(model, metrics.scorecard(answer, job.test[1]), answer)


def with_epochs(method: Any, epochs: int) -> Any:
    """The method, or the one it wraps, with so many epochs if it can stop early; others run their
    own schedule.
    """
    if isinstance(method, Wrapper):
        return replace(method, method=with_epochs(method.method, epochs))
    return method if method is None or method.score is None else replace(method, epochs=epochs)


def run(folder: Path, names: Sequence[str], say: Say = print) -> list[str]:
    """Write report.html, predictions.csv and pictures to a folder.

    Parameters
    ----------
    folder : Path
        Where to write.
    names : sequence of str
        Names of methods, from ``by_name.METHODS``; the predictions are those of the first one.
    say : callable
        Prints a note.

    Returns
    -------
    list of str
        Lines with the comparison and the names of the files.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    tables = jobs()
    say(f"Fitting {len(names)} methods on {len(tables)} tables ...")
    lines, points, sections, draws, settings, written = [], [], [], [], {}, []
    with threads.start_jobs(fit_job, [(job, name) for job in tables for name in names]) as running:
        for job in tables:
            results = {display_name(name): threads.wait_for(running.popleft()) for name in names}
            cards = [(name, one.card) for name, one in results.items()]
            text = conclusion(job, results) + noise_text(results)
            lines += ["", job.text, *text_table(cards), text]
            points.append(f"{job.name}: {text}")
            methods = interpretation.join_names(list(results))
            pictures = (
                (job.caption, f"{job.alt}: {methods}", report.figure_png(job.draw(job, results))),
                (TRAINING, f"A panel per method: losses by epoch: {methods}", report.figure_png(draw_losses(results))),
            )
            for name, (*_, picture) in zip((job.name, f"{job.name}_training"), pictures, strict=True):
                written.append(write(folder / f"{name.lower()}.png", picture))
            sections.append(report.Section(job.name, job.text, (report.scorecard_table(cards),), pictures))
            for name, one in results.items():
                error = monte_carlo(one.answer, one.model.posterior_, job.test[1])
                draws.append((f"{job.name}, {name}", error, interpretation.draws_setting(error, one.model)))
                settings[f"{job.name}, {name}"] = report.describe_settings(one.model)
            if job is tables[0]:
                write_predictions(folder / "predictions.csv", job, next(iter(results.values())).answer)
    first = report.Section("Conclusions", points=tuple(points))
    last = report.Section("Are the draws enough?", report.draws_text(draws))
    page = folder / "report.html"
    report.write_report(page, "dubito: the demo", [first, *sections, last], settings=settings, seed=SEED)
    lines += ["", f"Written in {time.perf_counter() - start:.0f} s:"]
    return lines + [f"  {path}" for path in (page, folder / "predictions.csv", *written)]


def display_name(name: str) -> str:
    """The name of a method as the demo shows it."""
    return "auto (default)" if name == "auto" else name


def conclusion(job: Job, results: Results) -> str:
    """Sentences that interpret the scores of all methods on a table."""
    order = sorted(results.items(), key=lambda item: np.nan_to_num(item[1].card["nll"], nan=np.inf))
    scores = [metrics.nll(result.answer, job.test[1]) for _, result in order[:2]]
    difference = metrics.paired(scores[1], scores[0]) if len(scores) > 1 else None
    return interpretation.interpret_comparison([(name, result.card) for name, result in order], difference)


def noise_text(results: Results) -> str:
    """A sentence on the noise that methods have estimated."""
    cards = {name: noise_card(result.model) for name, result in results.items()}
    found = [
        f"{name} estimates noise with a standard deviation of {card['noise_std']:.3g}"
        for name, card in cards.items()
        if card
    ]
    return f" {interpretation.join_names(found)}." if found else ""


def text_table(cards: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The scores of each method as aligned lines of text."""
    keys = [key for key in SHOWN if key in cards[0][1]]
    rows = [["", *keys], *[[name, *(f"{card[key]:.4g}" for key in keys)] for name, card in cards]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def panels(count: int, height: float) -> tuple[Figure, Any]:
    """Panels one below another, each as wide as a phone can show legibly."""
    figure = style.new_figure((5, height * count + 0.6), layout="constrained")
    return figure, figure.subplots(count, 1, squeeze=False).ravel()


def share_legend(figure: Figure) -> Figure:
    """Move the legends of all panels above them, each entry once."""
    named = {}
    for ax in figure.axes:
        named |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
    place = {"loc": "outside upper center", "ncols": 2, "frameon": False, "fontsize": "small"}
    figure.legend(named.values(), named.keys(), **place)
    return figure


def draw_coverages(job: Job, results: Results) -> Figure:
    """Coverage of the intervals of all methods on one axes."""
    figure, (ax,) = panels(1, 5)
    nominal = np.linspace(0, 1, 101)
    plots.interval_coverage(next(iter(results.values())).answer, job.test[1], ax=ax)
    ax.get_lines()[-1].remove()  # the band and the diagonal are the same for all methods
    for (name, result), color in zip(results.items(), cycle(COLORS), strict=False):
        ax.plot(nominal, metrics.central_coverage(result.answer, job.test[1], nominal), color=color, lw=2, label=name)
    return share_legend(figure)


def draw_reliabilities(job: Job, results: Results) -> Figure:
    """Accuracy against confidence of all methods on one axes, in groups of equally many rows."""
    figure, (ax,) = panels(1, 5)
    style.styled_axes(ax).plot((0, 1), (0, 1), color=style.GRAY, lw=1, ls="--", label="calibrated")
    for (name, result), color, marker in zip(results.items(), cycle(COLORS), cycle(MARKS), strict=False):
        probs = result.answer.probs
        correct = probs.argmax(1) == job.test[1]
        groups = np.array_split(np.argsort(probs.max(1), kind="stable"), 10)
        points = [(probs[group].max(1).mean(), correct[group].mean()) for group in groups]
        ax.plot(*zip(*points, strict=True), color=color, marker=marker, lw=1.5, ms=5, label=name, clip_on=False)
    ax.set(xlabel="confidence: probability of the predicted class", ylabel="fraction of rows predicted correctly")
    ax.set(xlim=(0.2, 1), ylim=(0.2, 1), aspect="equal")
    return share_legend(figure)


def draw_extrapolations(job: Job, results: Results) -> Figure:
    """The bands of each method over the last years of training and the years after."""
    figure, axes = panels(len(results), 1.9)
    recent = job.train[0][:, 0] > YEAR - 10
    x = np.concatenate([job.train[0][recent], job.test[0]])
    y = np.concatenate([job.train[1][recent], job.test[1]])
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        plots.bands(x[:, 0], result.model.predictive(x), ax=ax)
        ax.plot(x[:, 0], y, ".", color="black", markersize=2, label="measured")
        ax.axvline(YEAR, color="0.5", linestyle=":", linewidth=1)
        ax.set(xlabel="", ylabel="CO2 (ppm)", xlim=(YEAR - 10, 2002), ylim=(330, 390), xticks=range(YEAR - 10, 2002, 5))
        ax.set_title(name, fontsize="medium", loc="left")
    return share_legend(figure)


def draw_losses(results: Results) -> Figure:
    """The loss curves of each method."""
    figure, axes = panels(len(results), 1.6)
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        ax.set_title(name, fontsize="medium", loc="left")
        if not any(np.any(np.isfinite(member)) for member in result.model.history_):
            ax.text(0.5, 0.5, "no loss is recorded", ha="center", transform=ax.transAxes)
            continue
        plots.loss_curves(result.model.history_, ax=ax)
        for line in ax.get_lines():
            line.set_label(str(line.get_label()).removesuffix(", median"))
        ax.set(xlabel="epoch" if ax is axes[-1] else "", ylabel="")
    figure.supylabel("nats per row", fontsize="medium")
    return share_legend(figure)


def write(path: Path, data: bytes) -> Path:
    """Write a file, whole or not at all, and return its path."""
    with write_atomically(path) as file:
        file.write(data)
    return path


def write_predictions(path: Path, job: Job, answer: Any) -> None:
    """Write the held-out targets of a regression with their predictions."""
    columns = {"actual": job.test[1]} | prediction_columns(answer)
    with write_atomically(path) as file:
        np.savetxt(file, np.stack(list(columns.values()), 1), "%.6g", ",", header=",".join(columns), comments="")
