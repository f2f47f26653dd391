"""The main job on bundled real data: some methods on three tables, a comparison, a report, predictions, pictures."""

import csv
import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from dubito import datasets, metrics, plots, report
from dubito.diagnostics import monte_carlo
from dubito.estimators import BayesianClassifier, BayesianRegressor
from dubito.files import write_atomically
from dubito.pieces import innermost
from dubito.recipes import METHODS

SEED = 0
YEAR = 1990  # the CO2 record is learned up to here


@dataclass(frozen=True)
class Job:
    """A table, split: what is learned and what is predicted."""

    name: str
    text: str
    make: Any
    epochs: int
    train: tuple
    test: tuple


def jobs():
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
        "No method was told that the curve goes on as it did; the question is who knows that it does not know.",
        BayesianRegressor,
        300,
        (x[early], y[early]),
        (x[~early], y[~early]),
    )
    return [diabetes, digits, co2]


def fitted(job, name):
    """(the model, its scores on the held-out rows, its answer there)."""
    method: Any = shortened(METHODS[name], job.epochs)
    stopping = method is None or hasattr(innermost(method), "score")
    model = job.make(method, early_stopping=stopping, n_iter_no_change=30, random_state=SEED).fit(*job.train)
    answer = model.predictive(job.test[0])
    return model, metrics.scorecard(answer, job.test[1]), answer


def shortened(method, epochs):
    """The method with so many epochs, or the one inside it, if it is one that can stop early: others run their own schedule."""
    if hasattr(method, "method"):
        return replace(method, method=shortened(method.method, epochs))
    return replace(method, epochs=epochs) if hasattr(method, "score") else method


def run(folder, names, say=print):
    """Write report.html, predictions.csv and pictures to ``folder``; returns lines that name them and the comparison.

    ``names``: of methods, of ``recipes.METHODS``; the predictions are those of the last one.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    tables = jobs()
    say(f"Fitting {len(names)} methods on {len(tables)} tables ...")
    with ThreadPoolExecutor(2) as pool:
        running = {(job.name, name): pool.submit(fitted, job, name) for job in tables for name in names}
        found = {key: future.result() for key, future in running.items()}
    lines, sections, written = [], [], []
    for job in tables:
        results = {name: found[job.name, name] for name in names}
        cards = [(name, card) for name, (_, card, _) in results.items()]
        lines += ["", job.text, *text_table(cards)]
        pictures = drawn(job, results)
        unsure = [(name, monte_carlo(a, model.posterior_, job.test[1])) for name, (model, _, a) in results.items()]
        text = f"{job.text}\n\n{report.draws_text(unsure)}"
        sections.append(report.Section(job.name, text, (report.scorecard_table(cards),), tuple(pictures)))
        for number, (_, _, figure) in enumerate(pictures):
            path = folder / f"{job.name.lower()}_{number + 1}.png"
            with write_atomically(path) as file:
                figure.savefig(file, format="png", dpi=150)
            written.append(path)
    settings = {f"{job.name}, {name}": found[job.name, name][0].description for job in tables for name in names}
    report.write_report(folder / "report.html", "dubito: the demo", sections, settings=settings, seed=SEED)
    predictions(folder / "predictions.csv", tables[0], found["diabetes", names[-1]][2])
    lines += ["", f"Written in {time.perf_counter() - start:.0f} s:"]
    return lines + [f"  {path}" for path in (folder / "report.html", folder / "predictions.csv", *written)]


def text_table(cards):
    """The scores of each method as aligned lines of text."""
    keys = [key for key in cards[0][1] if not key.endswith("_se") and key != "n"]
    rows = [["", *keys], *[[name, *(f"{card[key]:.4g}" for key in keys)] for name, card in cards]]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def drawn(job, results):
    """(caption, alternative text, figure) of a table's pictures."""
    captions = {
        "diabetes": "Do the intervals hold what they promise? Observed against nominal coverage of held-out rows.",
        "digits": "Are the probabilities right? Accuracy against confidence on held-out images.",
        "CO2": f"The mean, the doubt about the weights, and all of it with noise. Only months before {YEAR} were learned.",
    }
    answers = panels(results, 3.75, lambda model, answer, ax: picture(job, model, answer, ax))
    curves = panels(results, 3, lambda model, _, ax: plots.loss_curves(model.history_, ax=ax))
    for ax in curves.axes:
        ax.set_ylabel("nats per example")
    return [
        (captions[job.name], f"Predictions of {len(results)} methods on {job.name}", answers),
        (
            "Negative log likelihood while training, on the rows learned and on a tenth that was held out.",
            f"Loss curves of {len(results)} methods on {job.name}",
            curves,
        ),
    ]


def panels(results, height, draw):
    """A figure with a panel of this height for each method and one legend for all."""
    rows, named = -(-len(results) // 2), {}
    figure = Figure(figsize=(11, height * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    for ax, (name, (model, _, answer)) in zip(axes, results.items(), strict=False):
        draw(model, answer, ax)
        handles, labels = ax.get_legend_handles_labels()
        named |= {label.split(" (")[0]: handle for label, handle in zip(labels, handles, strict=True)}
        if ax.get_legend() is not None:
            ax.get_legend().remove()
        ax.set_title(name, pad=8)
    for ax in axes[len(results) :]:
        ax.remove()
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=len(named), frameon=False)
    return figure


def picture(job, model, answer, ax):
    """What one method says of one table."""
    if job.name == "digits":
        plots.reliability(answer, job.test[1], ax=ax)
    elif job.name == "diabetes":
        plots.interval_coverage(answer, job.test[1], ax=ax)
    else:
        shown = job.train[0][:, 0] > YEAR - 10
        x = np.concatenate([job.train[0][shown], job.test[0]])
        plots.bands(x[:, 0], model.predictive(x), ax=ax)
        years, y = np.concatenate([job.train[0], job.test[0]])[:, 0], np.concatenate([job.train[1], job.test[1]])
        ax.plot(years, y, ".", color="black", markersize=2.5, label="measured")
        ax.axvline(YEAR, color="0.5", linestyle=":", linewidth=1)
        ax.set(xlabel="year", ylabel="CO2 (ppm)", xlim=(YEAR - 10, 2002), ylim=(330, 385))
        ax.set_xticks(range(YEAR - 10, 2002, 5))


def predictions(path, job, answer):
    """The held-out rows of a regression with what was predicted for them."""
    lower, upper = answer.interval(0.9)
    columns = {
        "actual": job.test[1],
        "mean": answer.mean[:, 0],
        "std": answer.std[:, 0],
        "epistemic_std": answer.epistemic_std[:, 0],
        "aleatoric_std": answer.aleatoric_std[:, 0],
        "lower": lower[:, 0],
        "upper": upper[:, 0],
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([f"{value:.6g}" for value in row] for row in zip(*columns.values(), strict=True))
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
