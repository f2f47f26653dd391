"""A demonstration on bundled real data: some methods on three tables, a comparison, a report, predictions, pictures."""

import csv
import io
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from dubito._process import threads
from dubito._process.output_files import write_atomically
from dubito._process.threads import start_jobs, stop_fit
from dubito.estimators.classifier import BayesianClassifier
from dubito.estimators.regressor import BayesianRegressor
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import monte_carlo
from dubito.evaluation.interpretation import draws_setting, interpret_comparison, join_names
from dubito.inspection import report
from dubito.inspection.plots import predictions as plots
from dubito.inspection.plots.style import BLUE, GRAY, GREEN, ORANGE, RED, SKY
from dubito.methods.by_name import METHODS
from dubito.tables import datasets
from dubito.training.method import Wrapper, base_method

SEED = 0
YEAR = 1990  # the CO2 record is learned up to here
SHOWN = "rmse r2 accuracy confidence nll crps ece coverage_90 mean_width_90".split()  # scores on the terminal
COLORS = (BLUE, RED, GREEN, ORANGE, SKY, "black", GRAY)
MARKS = "osD^vPX"


@dataclass(frozen=True)
class Job:
    """A table, split into training and held-out rows.

    Parameters
    ----------
    name, text : of the table.
    make : class of the estimator.
    epochs : of the methods that can stop early.
    train, test : (X, y).
    """

    name: str
    text: str
    make: Any
    epochs: int
    train: tuple[Any, Any]
    test: tuple[Any, Any]


@dataclass(frozen=True)
class Result:
    """A method's fit to a table: the model, its scores on the held-out rows and its predictive there."""

    model: Any
    card: dict
    answer: Any


def jobs() -> list[Job]:
    """The three tables."""
    x, y = datasets.diabetes()
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=SEED)
    diabetes = Job(
        "diabetes",
        "Regression: the disease's progression a year later, from ten measurements (442 patients, a quarter held out).",
        BayesianRegressor,
        100,
        (x, y),
        (x_test, y_test),
    )
    x, y = datasets.digits()
    x = x[:, np.std(x, axis=0) > 0.1]  # pixels at the border are never inked
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=SEED, stratify=y)
    digits = Job(
        "digits",
        "Classification: handwritten digits of 8 × 8 pixels (1,797 images, a quarter held out).",
        BayesianClassifier,
        40,
        (x, y),
        (x_test, y_test),
    )
    x, y = datasets.co2()
    early = x[:, 0] < YEAR
    co2 = Job(
        "CO2",
        f"Extrapolation: monthly CO2 at Mauna Loa in ppm, learned up to {YEAR} and predicted to the end of 2001. "
        "Nothing tells a method that the curve goes on as before, so good intervals widen with the years. Errors of neighboring "
        "months are alike: their number is worth less than that of independent rows.",
        BayesianRegressor,
        300,
        (x[early], y[early]),
        (x[~early], y[~early]),
    )
    return [diabetes, digits, co2]


def fit_job(stop: Any, job: Job, name: str) -> Result:
    """The ``Result`` of the method called ``name``; the fit ends early once ``stop`` is set."""
    method: Any = with_epochs(METHODS[name], job.epochs)
    stopping = method is None or base_method(method).score is not None
    patience = 10 if method is None else 30  # each of the default's members has a fold of its own to stop on
    model = job.make(method, early_stopping=stopping, n_iter_no_change=patience, random_state=SEED)
    model.fit(*job.train, progress=stop_fit(stop))
    answer = model.predictive(job.test[0])
    return Result(model, metrics.scorecard(answer, job.test[1]), answer)


def with_epochs(method: Any, epochs: int) -> Any:
    """The method, or the one it wraps, with so many epochs if it can stop early; others run their own schedule."""
    if isinstance(method, Wrapper):
        return replace(method, method=with_epochs(method.method, epochs))
    return method if method is None or method.score is None else replace(method, epochs=epochs)


def run(folder: Path, names: Sequence[str], say: Callable[[str], Any] = print) -> list[str]:
    """Write report.html, predictions.csv and pictures to a folder.

    Parameters
    ----------
    folder : where to write.
    names : of methods, in ``by_name.METHODS``; the predictions are those of the first one.
    say : prints a note.

    Returns
    -------
    Lines with the comparison and the names of the files.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    tables = jobs()
    say(f"Fitting {len(names)} methods on {len(tables)} tables ...")
    lines, points, sections, draws, settings, written = [], [], [], [], {}, []
    with start_jobs(fit_job, [(job, name) for job in tables for name in names]) as running:
        for number, job in enumerate(tables):
            results = {display_name(name): threads.wait_for(running.popleft()) for name in names}
            cards = [(name, one.card) for name, one in results.items()]
            said = conclusion(job, results)
            lines += ["", job.text, *text_table(cards), said]
            points.append(f"{job.name}: {said}")
            pictures = draw_pictures(job, results)
            for place, (_, _, picture) in enumerate(pictures):
                path = folder / f"{job.name.lower()}{'_training' if place else ''}.png"
                with write_atomically(path) as file:
                    file.write(picture)
                written.append(path)
            sections.append(report.Section(job.name, job.text, (report.scorecard_table(cards),), pictures))
            draws += monte_carlo_errors(job, results)
            settings |= {f"{job.name}, {name}": report.describe_settings(one.model) for name, one in results.items()}
            if number == 0:
                predictions(folder / "predictions.csv", job, next(iter(results.values())).answer)
    first = report.Section("Conclusions", points=tuple(points))
    last = report.Section("Are the draws enough?", report.draws_text(draws))
    page = folder / "report.html"
    report.write_report(page, "dubito: the demo", [first, *sections, last], settings=settings, seed=SEED)
    lines += ["", f"Written in {time.perf_counter() - start:.0f} s:"]
    return lines + [f"  {path}" for path in (page, folder / "predictions.csv", *written)]


def display_name(name: str) -> str:
    """The name of a method as the demo shows it."""
    return "auto (default)" if name == "auto" else name


def conclusion(job: Job, results: Mapping[str, Result]) -> str:
    """Sentences that interpret the scores of all methods on a table."""
    order = sorted(results.items(), key=lambda item: np.nan_to_num(item[1].card["nll"], nan=np.inf))
    difference = None
    if len(order) > 1:
        best, second = (metrics.nll(result.answer, job.test[1]) for _, result in order[:2])
        difference = metrics.paired(second, best)
    return interpret_comparison([(name, result.card) for name, result in order], difference)


def monte_carlo_errors(job: Job, results: Mapping[str, Result]) -> list[tuple[str, Any, Any]]:
    """(name, Monte Carlo error, setting that would make it small enough) of each method on a table, for the report."""
    found = []
    for name, result in results.items():
        error = monte_carlo(result.answer, result.model.posterior_, job.test[1])
        found.append((f"{job.name}, {name}", error, draws_setting(error, result.model)))
    return found


def text_table(cards: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The scores of each method as aligned lines of text."""
    keys = [key for key in SHOWN if key in cards[0][1]]
    rows = [["", *keys], *[[name, *(f"{card[key]:.4g}" for key in keys)] for name, card in cards]]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def draw_pictures(job: Job, results: Mapping[str, Result]) -> tuple[tuple[str, str, bytes], ...]:
    """(caption, alternative text, PNG) of a table's pictures: the predictions, then the training."""
    caption, alt, draw = {
        "diabetes": (
            "Share of held-out patients inside central intervals, against the intervals' probability. Inside the gray band a "
            "method's intervals are right within chance; below it they are too narrow.",
            "Line chart with a line per method, a diagonal where intervals are right, and the band of chance around it",
            coverages,
        ),
        "digits": (
            "Accuracy on held-out images against the probability of the predicted class, in ten groups of equal size. Above the "
            "diagonal a method is more often right than it says, below it less often.",
            "Line chart with a line per method and a diagonal where accuracy and confidence agree",
            confidences,
        ),
        "CO2": (
            f"Predicted mean with 90 % bands; black dots are measured. Only months before {YEAR} (dotted line) were learned. The "
            "inner band is epistemic uncertainty, the outer one adds the noise.",
            f"A panel per method: CO2 from {YEAR - 10} to 2001 as dots, the predicted mean and its bands",
            extrapolations,
        ),
    }[job.name]
    training = "Negative log likelihood during training, on the rows learned and on a tenth of them held out (median over members)."
    methods = join_names(list(results))
    return (
        (caption, f"{alt}: {methods}", report.figure_png(draw(job, results))),
        (
            training,
            f"A panel per method: training and validation loss by epoch: {methods}",
            report.figure_png(losses(results)),
        ),
    )


def panels(count: int, height: float) -> tuple[Figure, Any]:
    """A figure and its axes, one below another, each as wide as a phone can show legibly."""
    figure = Figure(figsize=(5, height * count + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(count, 1, squeeze=False).ravel()


def share_legend(figure: Figure, axes: Iterable[Any], columns: int) -> Figure:
    """The figure with one legend above all panels, with each entry once."""
    named = {}
    for ax in axes:
        named |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        if ax.get_legend() is not None:
            ax.get_legend().remove()
    figure.legend(
        named.values(), named.keys(), loc="outside upper center", ncols=columns, frameon=False, fontsize="small"
    )
    return figure


def coverages(job: Job, results: Mapping[str, Result]) -> Figure:
    """Interval coverage of all methods on one axes."""
    figure, (ax,) = panels(1, 5)
    nominal = np.linspace(0, 1, 101)
    for (name, result), color in zip(results.items(), COLORS * len(results), strict=False):
        plots.interval_coverage(result.answer, job.test[1], ax=ax)
        for line in ax.get_lines()[-2:] if name != next(iter(results)) else ax.get_lines()[-1:]:
            line.remove()
        ax.plot(nominal, metrics.central_coverage(result.answer, job.test[1], nominal), color=color, lw=2, label=name)
    for band in ax.collections[1:]:
        band.remove()
    return share_legend(figure, [ax], 2)


def confidences(job: Job, results: Mapping[str, Result]) -> Figure:
    """Accuracy against confidence of all methods on one axes, in groups of equally many rows."""
    figure, (ax,) = panels(1, 5)
    ax.plot((0, 1), (0, 1), color=GRAY, lw=1, ls="--", label="calibrated")
    for place, (name, result) in enumerate(results.items()):
        probs = result.answer.probs
        order = np.argsort(probs.max(1), kind="stable")
        right = probs.argmax(1) == job.test[1]
        groups = [(probs.max(1)[group].mean(), right[group].mean()) for group in np.array_split(order, 10)]
        style = {"color": COLORS[place % len(COLORS)], "marker": MARKS[place % len(MARKS)]}
        ax.plot(*zip(*groups, strict=True), lw=1.5, ms=5, label=name, clip_on=False, **style)
    ax.set(
        xlabel="probability of the predicted class", ylabel="share predicted correctly", xlim=(0.2, 1), ylim=(0.2, 1)
    )
    ax.set_aspect("equal")
    return share_legend(figure, [ax], 2)


def extrapolations(job: Job, results: Mapping[str, Result]) -> Figure:
    """The bands of each method over the last years that were learned and those that were not."""
    figure, axes = panels(len(results), 1.9)
    recent = job.train[0][:, 0] > YEAR - 10
    x = np.concatenate([job.train[0][recent], job.test[0]])
    y = np.concatenate([job.train[1][recent], job.test[1]])
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        plots.bands(x[:, 0], result.model.predictive(x), ax=ax)
        ax.plot(x[:, 0], y, ".", color="black", markersize=2, label="measured")
        ax.axvline(YEAR, color="0.5", linestyle=":", linewidth=1)
        ax.set(xlabel="", ylabel="CO2 (ppm)", xlim=(YEAR - 10, 2002), ylim=(330, 390))
        ax.set_title(name, fontsize="medium", loc="left")
        ax.set_xticks(range(YEAR - 10, 2002, 5))
    return share_legend(figure, axes, 2)


def losses(results: Mapping[str, Result]) -> Figure:
    """The loss curves of each method."""
    figure, axes = panels(len(results), 1.6)
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        if not any(np.any(np.isfinite(np.asarray(member, float))) for member in result.model.history_):
            ax.text(0.5, 0.5, "no loss is recorded", ha="center", transform=ax.transAxes)
            continue
        plots.loss_curves(result.model.history_, ax=ax)
        for line in ax.get_lines():
            line.set_label(str(line.get_label()).removesuffix(", median"))
        ax.set(ylabel="")
        ax.set_title(name, fontsize="medium", loc="left")
        ax.set_xlabel("epoch" if ax is axes[-1] else "")
    figure.supylabel("nats per row", fontsize="medium")
    return share_legend(figure, axes, 2)


def predictions(path: Path, job: Job, answer: Any) -> None:
    """Write the held-out rows of a regression with their predictions."""
    lower, upper = answer.interval(0.9)
    columns = {
        "actual": job.test[1],
        "mean": answer.mean,
        "std": answer.std,
        "epistemic_std": answer.epistemic_std,
        "aleatoric_std": answer.aleatoric_std,
        "lower": lower,
        "upper": upper,
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" for value in row] for row in zip(*map(np.ravel, columns.values()), strict=True))
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
