"""The command line: demo, fit, predict, evaluate, calibrate, explain, compare. JAX is imported inside the commands, never for --help."""

import contextlib
import json
import os
import signal
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

from dubito import cache, files, grids, progress
from dubito.terminal import escape_control

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
Impute = Annotated[bool, typer.Option("--impute", help="Fill missing values: medians, and a category of their own.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Hidden = Annotated[str | None, typer.Option(help="Widths of the hidden layers, as in 50,50.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")] = False,
):
    state.update(debug=debug, quiet=quiet)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    cache.use(say)


def opened(table, impute, values=None):
    """The table and the values that fill its holes, if that is wanted."""
    from dubito.tables import fill_missing, read_table

    frame = read_table(table)
    if not impute:
        return frame, None
    frame, given, counts = fill_missing(frame, values)
    if counts:
        say(f"Filled in: {', '.join(f'{count} of {name!r}' for name, count in counts.items())}.")
    return frame, given


def say(text):
    if not state["quiet"]:
        errors.print(escape_control(text), markup=False, highlight=False, soft_wrap=True)


def estimator(kind, method, settings, hidden, seed, rows, likelihood=None):
    """An estimator for the task from the options."""
    import dubito
    from dubito.recipes import named

    widths = None if hidden is None else tuple(int(width) for width in hidden.split(",") if width.strip())
    chosen = named(method, settings, size=rows, task=kind)
    make: Any = {"regression": dubito.BayesianRegressor, "classification": dubito.BayesianClassifier}[kind]
    return make(chosen, hidden=widths, likelihood=likelihood, random_state=seed)


def task_of(frame, target, task):
    """(inputs, target's values, task); the target's own column is set aside."""
    from dubito.tables import split_target, target_kind

    inputs, y = split_target(frame, target)
    return inputs, y, one_of_two(target_kind(frame[target]) if task is None else task)


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
    impute: Impute = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Written now and then; the same fit goes on from it.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read a .parquet TABLE piece by piece; name a --method.")
    ] = False,
):
    """Fit TABLE and write the model to one file. With --stream TABLE may be larger than the memory; it should not be
    sorted, as rows are shuffled within pieces only."""
    files.check_outputs({"TABLE": table}, {"--output": output, "--checkpoint": checkpoint})
    from dubito.explain import divergence_explained
    from dubito.model_file import save_or_fall_back

    values, task = None, implied(likelihood) if task is None else task
    if stream:
        from dubito.batches import kind_in_file

        if impute or method == "auto":
            raise ValueError("--stream needs a --method other than auto, which is cross-fitted, and no --impute")
        kind = one_of_two(kind_in_file(table, target) if task is None else task)
        model = estimator(kind, method, settings or (), hidden, seed, None, likelihood)
        fitting = partial(model.fit_file, table, target)
    else:
        frame, values = opened(table, impute)
        inputs, y, kind = task_of(frame, target, task)
        model = estimator(kind, method, settings or (), hidden, seed, len(y), likelihood)
        fitting = partial(model.fit, inputs, y)
    with progress.bar(None if state["quiet"] else errors) as report, divergence_explained():
        fitting(progress=report, checkpoint=checkpoint)
    rows = model.summary_["rows"]
    model.summary_ |= {"target": target} | ({} if values is None else {"impute": values})
    save_or_fall_back(model, output)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)  # it has done its work
    say(f"{kind.capitalize()} on {rows} rows in {model.summary_['seconds']:.1f} s: {model.method_!r}\nWrote {output}")


def answered(path, table, impute=False, wanted=None):
    """(the model in ``path``, inputs, the target's column or None) for a table that may hold the target or not; ``wanted``
    names the command that cannot do without."""
    import dubito
    from dubito.tables import split_target

    model = dubito.load(path)
    frame, _ = opened(table, impute or "impute" in model.summary_, model.summary_.get("impute"))
    target = model.summary_.get("target")
    if target in frame.column_names:
        return model, *split_target(frame, target)
    if wanted is not None:
        name = "whose name only a model of `dubito fit` knows" if target is None else repr(target)
        raise ValueError(f"{wanted} needs the target's column, {name}, in {table}")
    return model, frame, None


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: TableFile,
    output: Annotated[Path | None, typer.Option("-o", "--output", help=".csv or .parquet; stdout by default.")] = None,
    coverage: Annotated[float, typer.Option(help="The probability that lower and upper enclose.")] = 0.9,
    safe_csv: Annotated[
        bool,
        typer.Option(
            "--safe-csv",
            help="In CSV, put ' before texts that begin with = + - @ and would be formulas in a spreadsheet.",
        ),
    ] = False,
):
    """Predict every row of TABLE, of any size: mean, std and its parts, an interval; or classes and their probabilities.
    After an interruption the same command goes on."""
    from dubito import streaming

    if output is None:
        streaming.predict_to_stdout(model, table, coverage, say, safe_csv)
        return
    if output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: the output is .csv or .parquet")
    if safe_csv and output.suffix != ".csv":
        raise ValueError(
            f"--safe-csv is for a .csv output, not for {output}: leave it out, no program runs Parquet's texts"
        )
    files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    rows = streaming.predict_file(model, table, output, coverage, say, safe_csv)
    say(f"Wrote {output} ({rows} rows)")


@app.command()
def evaluate(model: Annotated[Path, typer.Argument(help="A model file.")], table: TableFile, as_json: Json = False):
    """Score the model on TABLE, which has the target's column too."""
    from dubito.diagnostics import monte_carlo
    from dubito.metrics import scorecard
    from dubito.targets import codes

    found, inputs, y = answered(model, table, wanted="evaluate")
    truth = codes(found.classes_, y) if hasattr(found, "classes_") else y
    unsure = monte_carlo(found.uncalibrated(inputs), found.posterior_, truth)
    card = scorecard(found.predictive(inputs), truth) | unsure.card()
    if as_json:
        print(json.dumps(card | {"draws_enough": unsure.enough}))
        return
    Console().print(grids.of_scores(card))
    say(unsure.sentence)


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
):
    """Calibrate the model on TABLE, rows that fit has not seen, with the target's column. The output is another file than
    MODEL, which stays as it is."""
    from dubito.model_file import save_or_fall_back

    files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found, inputs, y = answered(model, table, wanted="calibrate")
    found.calibrate(inputs, y, method, **({} if coverage is None else {"coverage": coverage}))
    save_or_fall_back(found, output)
    say(f"Calibrated on {len(inputs)} rows: {type(found.calibration_).__name__}\nWrote {output}")


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="Rows, with the target for its gradients.")
    ] = None,
    unfold: Annotated[list[str] | None, typer.Option(help="A scope to open, as layer_1, or all.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The graph's picture: .svg, or .dot.")] = None,
):
    """The model's parameters and computation graph; with TABLE also the health of its gradients."""
    import dubito
    from dubito.explain import explained

    if output is not None and output.suffix not in (".svg", ".dot"):
        raise ValueError(f"{output}: the picture is .svg or .dot")
    files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found, inputs, y = (dubito.load(model), None, None) if table is None else answered(model, table)
    text, graph = explained(found, inputs, y, unfold or ())
    print(escape_control(text))
    if output is not None:
        drawing = graph.svg(unfold or ()) if output.suffix == ".svg" else graph.dot(unfold or ())
        with files.write_atomically(output) as file:
            file.write(drawing.encode())
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
    impute: Impute = False,
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(help="Also write this HTML report.")] = None,
):
    """Cross-validate methods on the same folds of TABLE: one table, with paired differences to the best."""
    files.check_outputs({"TABLE": table}, {"--report": report})
    from dubito import comparison, recipes

    frame, _ = opened(table, impute)
    inputs, y, kind = task_of(frame, target, implied(likelihood) if task is None else task)
    names = recipes.chosen(methods)
    chosen = {name: estimator(kind, name, (), hidden, seed, len(y), likelihood) for name in names}
    total, count = len(names) * folds, iter(range(1, len(names) * folds + 1))
    with errors.status("") if errors.is_terminal and not state["quiet"] else contextlib.nullcontext() as status:

        def done(name, fold):
            if status is not None:
                status.update(f"{next(count)}/{total} fits ({name}, fold {fold + 1})")

        rows = comparison.compare(chosen, inputs, y, folds=folds, seed=seed, done=done)
    if as_json:
        print(json.dumps({row.name: row.card() for row in rows}))
    else:
        Console().print(grids.of_methods(rows))
    if report is not None:
        from dubito.report import comparison_report

        settings = {"table": Path(table).name, "target": target, "folds": str(folds)}
        comparison_report(report, f"{target}: {len(names)} methods", rows, settings=settings, seed=seed)
        say(f"Wrote {report}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="The folder to write to.")] = Path("dubito-demo"),
    methods: Methods = "maximum-likelihood,mc-dropout,bayes-by-backprop,ensemble",
):
    """The main job on bundled real data, in under a minute: a comparison, a report, predictions, pictures."""
    files.check_output_folder("--output", output)
    from dubito import recipes
    from dubito.demo import run

    for line in run(output, recipes.chosen(methods), say):
        print(line)


def main():
    """The console script: messages instead of tracebacks, exit codes 0, 1 (failed), 2 (usage), 130 and 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.showwarning = lambda message, *_: cache.forget(message) or say(f"dubito: note: {message}")
    try:
        code = app(standalone_mode=False)  # which is 130 after Ctrl-C
        if code == 130:
            errors.print("Interrupted.")
        sys.exit(code)
    except Exception as error:
        if state["debug"]:
            raise
        usage = getattr(error, "exit_code", 1)  # click's usage errors say 2
        message = error.format_message() if hasattr(error, "format_message") else str(error)  # type: ignore[attr-defined]
        text = escape_control(f"dubito: {message or type(error).__name__}")
        errors.print(text, markup=False, highlight=False, soft_wrap=True)
        sys.exit(usage)
