"""The command line: demo, fit, predict, evaluate, calibrate, explain, compare. JAX is imported inside the commands, never for --help."""

import contextlib
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
except ImportError:
    raise SystemExit(
        "dubito's command line needs typer and rich. Install them with: pip install 'dubito[cli]'"
    ) from None

from dubito import cache, grids, interrupts, progress

app = typer.Typer(
    help="Neural networks that know what they don't know: predictions with honest uncertainty from a table.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
errors = Console(stderr=True)
state: dict[str, bool] = {"debug": False, "quiet": False}

TableFile = Annotated[
    str, typer.Argument(metavar="TABLE", help="A .csv, .tsv or .parquet file, or - for CSV on stdin.")
]
Target = Annotated[str, typer.Option("--target", "-t", help="The column to predict.")]
Task = Annotated[str | None, typer.Option(help="regression or classification; read off the target by default.")]
Likelihood = Annotated[
    str | None, typer.Option("--likelihood", help="The criterion by name, such as poisson, laplace or ordered.")
]
Methods = Annotated[str, typer.Option("--methods", help="Names of methods, separated by commas, or all.")]
Seed = Annotated[int, typer.Option(help="The same seed, the same numbers.")]
Impute = Annotated[
    bool, typer.Option("--impute", help="Fill missing inputs: medians, and a category of their own. Never the target.")
]
Categorical = Annotated[
    list[str] | None, typer.Option("--categorical", metavar="COLUMN", help="A column to take as categories.")
]
Unknown = Annotated[
    str, typer.Option(help="Categories not seen at fit: ignore (count as none of the known) or error.", metavar="WHAT")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Hidden = Annotated[str | None, typer.Option(help="Widths of the hidden layers, as in 50,50.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")] = False,
):
    state.update(debug=debug, quiet=quiet)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cache.use()


def read_labeled_table(table, target, task, categorical):
    """(inputs, y, task) of a table to fit to its column ``target``, without the rows that have no value of it."""
    from dubito.tables import DataError, read_table, split_target, target_kind, with_target

    frame = read_table(table, categorical or (), target)
    if len(frame) == 0:
        raise DataError(f"{table} has a header but no rows.")
    inputs, _ = split_target(frame, target)
    if inputs.num_columns == 0:
        raise DataError(f"{table} has no column beside the target {target!r}.")
    kind = one_of_two(target_kind(frame, target) if task is None else task)
    frame, missing = with_target(frame, target)
    report_missing_targets(missing, missing + len(frame), target)
    inputs, y = split_target(frame, target)
    if kind == "classification":
        from dubito.checks import listed

        classes = sorted({*y.tolist()}, key=str)
        say(f"Classification: {target!r} has {len(classes)} classes: {listed(classes)}.")
    return inputs, y, kind


def report_missing_targets(missing, rows, target):
    """Say how many rows are left out; DataError if all are."""
    from dubito.tables import DataError

    if rows and missing == rows:
        raise DataError(f"No row has a value of the target {target!r}.")
    if missing:
        say(f"Left out {missing} of {rows} rows, which have no value of the target {target!r}.")


def impute(inputs, values=None):
    """(the inputs with their missing values filled in, the value for each column)."""
    from dubito.tables import fill_missing

    inputs, values, counts = fill_missing(inputs, values)
    say_counts("Filled in", counts)
    return inputs, values


def say_counts(what, counts):
    if counts:
        say(f"{what}: {', '.join(f'{count} of {name!r}' for name, count in counts.items())}.")


def say(text):
    if not state["quiet"]:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)


def estimator(kind, method, settings, hidden, seed, rows, likelihood=None, draws=None):
    """An estimator for the task from the options."""
    import dubito
    from dubito.recipes import named

    widths = None if hidden is None else tuple(int(width) for width in hidden.split(",") if width.strip())
    chosen = named(method, settings, size=rows, task=kind)
    make: Any = {"regression": dubito.BayesianRegressor, "classification": dubito.BayesianClassifier}[kind]
    return make(chosen, hidden=widths, likelihood=likelihood, draws=draws, random_state=seed)


def implied(likelihood):
    """The task that a likelihood's name says, None without one: counts look like classes."""
    from dubito.criteria import known

    return None if likelihood is None else known(likelihood).task


def one_of_two(task):
    if task not in ("regression", "classification"):
        raise ValueError(f"--task is regression or classification, got {task!r}")
    return task


@app.command()
def fit(
    table: TableFile,
    target: Target,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the model.")],
    method: Annotated[str, typer.Option(help="auto, maximum-likelihood, map, mc-dropout, ...")] = "auto",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field.")] = None,
    likelihood: Likelihood = None,
    hidden: Hidden = None,
    seed: Seed = 0,
    task: Task = None,
    fill: Impute = False,
    categorical: Categorical = None,
    draws: Annotated[
        int | None, typer.Option(min=1, help="Draws of the weights in prediction; by default 100.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Written now and then; the same fit goes on from it.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read a .parquet TABLE piece by piece; name a --method.")
    ] = False,
):
    """Fit TABLE and write the model to one file. With --stream TABLE may be larger than the memory; it should not be
    sorted, as rows are shuffled within pieces only."""
    if checkpoint is not None and checkpoint.resolve() == output.resolve():
        raise ValueError(f"{output} cannot be both the model and its checkpoint: name another file with --checkpoint")
    from dubito.explain import divergence_explained

    values, task = None, implied(likelihood) if task is None else task
    if stream:
        from dubito.batches import kind_in_file

        if fill or method == "auto":
            raise ValueError("--stream needs a --method other than auto, which is cross-fitted, and no --impute")
        kind = one_of_two(kind_in_file(table, target) if task is None else task)
        model = estimator(kind, method, settings or (), hidden, seed, None, likelihood, draws)
        fitting = partial(model.fit_file, table, target, categorical=categorical or (), drop_missing=True)
    else:
        inputs, y, kind = read_labeled_table(table, target, task, categorical)
        if fill:
            inputs, values = impute(inputs)
        model = estimator(kind, method, settings or (), hidden, seed, len(y), likelihood, draws)
        fitting = partial(model.fit, inputs, y)
    with progress.bar(None if state["quiet"] else errors) as report, divergence_explained():
        fitting(progress=report, checkpoint=checkpoint)
    rows = model.summary_["rows"]
    model.summary_ |= {"target": target} | ({} if values is None else {"impute": values})
    model.save(output)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)  # it has done its work
    say(f"{kind.capitalize()} on {rows} rows in {model.summary_['seconds']:.1f} s: {model.method_!r}\nWrote {output}")


def answered(path, table, unknown, wanted=None):
    """(the model in ``path``, inputs, the target's column or None) for a table that may hold the target or not; ``wanted``
    names the command that cannot do without. Rows without a value of the target are left out."""
    import dubito
    from dubito.batches import read_labeled
    from dubito.columns import is_missing_in

    if unknown not in ("ignore", "error"):
        raise ValueError(f"--unknown is ignore or error, got {unknown!r}")
    model = dubito.load(path)
    model.handle_unknown = unknown
    target = model.summary_.get("target")
    inputs, y = read_labeled(table, model.schema_, target, getattr(model, "classes_", None))
    if y is None and wanted is not None:
        name = "whose name only a model of `dubito fit` knows" if target is None else repr(target)
        raise ValueError(f"{wanted} needs the target's column, {name}, in {table}")
    if wanted is not None and len(y) == 0:
        raise ValueError(f"{table} has a header but no rows")
    if y is not None:
        missing = is_missing_in(y)
        report_missing_targets(int(missing.sum()), len(y), target)
        inputs, y = inputs.filter(~missing), y[~missing]
    if "impute" in model.summary_:
        inputs, _ = impute(inputs, model.summary_["impute"])
    if unknown == "ignore":
        say_counts("Categories not seen at fit, taken as none of the known", model.schema_.count_unknown(inputs))
    return model, inputs, y


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: TableFile,
    output: Annotated[Path | None, typer.Option("-o", "--output", help=".csv or .parquet; stdout by default.")] = None,
    coverage: Annotated[float, typer.Option(help="The probability that lower and upper enclose.")] = 0.9,
):
    """Predict every row of TABLE, of any size: mean, std and its parts, an interval; or classes and their probabilities.
    After an interruption the same command goes on."""
    from dubito import streaming

    if output is None:
        streaming.predict_to_stdout(model, table, coverage, say)
        return
    if output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: the output is .csv or .parquet")
    rows = streaming.predict_file(model, table, output, coverage, say)
    say(f"Wrote {output} ({rows} rows)")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: TableFile,
    unknown: Unknown = "ignore",
    as_json: Json = False,
):
    """Score the model on TABLE, which has the target's column too."""
    from dubito.diagnostics import monte_carlo
    from dubito.interpretation import draws_setting, interpret_scorecard
    from dubito.metrics import scorecard

    found, inputs, y = answered(model, table, unknown, "evaluate")
    unsure = monte_carlo(found.uncalibrated(inputs), found.posterior_, y)
    answer = found.predictive(inputs)
    card = scorecard(answer, y) | unsure.card()
    if as_json:
        print(json.dumps(card | {"draws_enough": unsure.enough}))
        return
    Console().print(grids.of_scores(card))
    conformal = getattr(getattr(answer, "conformal", None), "coverage", None)
    grids.print_text(interpret_scorecard(card, discrete=answer.discrete, conformal=conformal))
    setting = draws_setting(unsure, found)
    say(unsure.sentence + (f" To have enough, use dubito fit with {setting.shell}." if setting else ""))


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: TableFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write the calibrated model.")],
    method: Annotated[
        str | None, typer.Option(help="temperature or isotonic for classes, quantiles for numbers, conformal for both.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="What conformal intervals or sets hold; 0.9 by default.")
    ] = None,
    unknown: Unknown = "ignore",
):
    """Calibrate the model on TABLE, rows that fit has not seen, with the target's column."""
    found, inputs, y = answered(model, table, unknown, "calibrate")
    found.calibrate(inputs, y, method, **({} if coverage is None else {"coverage": coverage}))
    found.save(output)
    say(f"Calibrated on {len(inputs)} rows: {type(found.calibration_).__name__}\nWrote {output}")


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="Rows, with the target for its gradients.")
    ] = None,
    unfold: Annotated[list[str] | None, typer.Option(help="A scope to open, as layer_1, or all.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The graph's picture: .svg, or .dot.")] = None,
    unknown: Unknown = "ignore",
):
    """The model's parameters and computation graph; with TABLE also the health of its gradients."""
    import dubito
    from dubito.explain import explained

    if output is not None and output.suffix not in (".svg", ".dot"):
        raise ValueError(f"{output}: the picture is .svg or .dot")
    found, inputs, y = (dubito.load(model), None, None) if table is None else answered(model, table, unknown)
    text, graph = explained(found, inputs, y, unfold or ())
    print(text)
    if output is not None:
        picture = graph.svg(unfold or ()) if output.suffix == ".svg" else graph.dot(unfold or ())
        with interrupts.deferred():  # whole, or not there
            output.write_text(picture)
        say(f"Wrote {output}")


@app.command()
def compare(
    table: TableFile,
    target: Target,
    methods: Methods = "auto,maximum-likelihood,mc-dropout,bayes-by-backprop,ensemble",
    folds: Annotated[int, typer.Option(min=2)] = 5,
    likelihood: Likelihood = None,
    hidden: Hidden = None,
    seed: Seed = 0,
    task: Task = None,
    fill: Impute = False,
    categorical: Categorical = None,
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(help="Also write this HTML report.")] = None,
):
    """Cross-validate methods on the same folds of TABLE: one table, with paired differences to the best."""
    from dubito import comparison, recipes

    inputs, y, kind = read_labeled_table(table, target, implied(likelihood) if task is None else task, categorical)
    names = recipes.chosen(methods)
    chosen = {name: estimator(kind, name, (), hidden, seed, len(y), likelihood) for name in names}
    total, count = len(names) * folds, iter(range(1, len(names) * folds + 1))
    with errors.status("") if errors.is_terminal and not state["quiet"] else contextlib.nullcontext() as status:

        def done(name, fold):
            if status is not None:
                status.update(f"{next(count)}/{total} fits ({name}, fold {fold + 1})")

        rows = comparison.compare(chosen, inputs, y, folds=folds, seed=seed, done=done, fill=fill)
    if as_json:
        print(json.dumps({row.name: row.card() for row in rows}))
    else:
        Console().print(grids.of_methods(rows))
        grids.print_text(comparison.interpretation(rows))
    if report is not None:
        from dubito.report import comparison_report

        settings = {"table": Path(table).name, "target": target, "folds": str(folds)}
        comparison_report(report, f"{target}: {len(names)} methods", rows, settings=settings, seed=seed)
        say(f"Wrote {report}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="The folder to write to.")] = Path("dubito-demo"),
    methods: Methods = "auto,maximum-likelihood,mc-dropout,bayes-by-backprop",
):
    """The main job on bundled real data, in under a minute: a comparison, a report, predictions, pictures."""
    from dubito import recipes
    from dubito.demo import run

    for line in run(output, recipes.chosen(methods), say):
        grids.print_text(line)


def main():
    """The console script: messages instead of tracebacks, exit codes 0, 1 (failed), 2 (usage), 130 and 143."""
    started = interrupts.start()
    warnings.showwarning = lambda message, *_: cache.forget(message) or say(f"dubito: note: {message}")
    try:
        sys.exit(app(standalone_mode=False))  # which is 130 after Ctrl-C
    except Exception as error:
        if state["debug"]:
            raise
        usage = getattr(error, "exit_code", 1)  # click's usage errors say 2
        message = error.format_message() if hasattr(error, "format_message") else str(error)  # type: ignore[attr-defined]
        message = f"{error.problem} {error.option}" if getattr(error, "option", "") else message  # type: ignore[attr-defined]
        errors.print(f"dubito: {message or type(error).__name__}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(usage)
    except SystemExit as end:
        if end.code in (130, 143):
            errors.print("Interrupted.")
        raise
    finally:
        if started:
            interrupts.stop()
