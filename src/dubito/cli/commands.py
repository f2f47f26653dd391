"""The commands: demo, fit, predict, evaluate, calibrate, inspect, compare. JAX is imported inside them, never for --help."""

import contextlib
import importlib.metadata
import json
import os
import sys
import warnings
from collections.abc import Sequence
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

from dubito._check import DataError
from dubito._process import interrupts, output_files
from dubito.cli import compilation_cache, progress
from dubito.cli.terminal import comparison_table, escape_control, print_text, score_table

app = typer.Typer(
    help="Neural networks that know what they don't know: predictions with honest uncertainty from a table.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
errors = Console(stderr=True)
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer does not name it, and may bring a click of its own
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
    str, typer.Option(help="Categories not seen at fit: ignore (encode as zeros) or error.", metavar="WHAT")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Hidden = Annotated[str | None, typer.Option(help="Widths of the hidden layers, as in 50,50.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
):
    if version or context.invoked_subcommand is None:
        print(f"dubito {importlib.metadata.version('dubito')}" if version else context.get_help())
        raise typer.Exit
    state.update(debug=debug, quiet=quiet)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    compilation_cache.enable(say)


def say(text: object) -> None:
    """Print a note to standard error, unless --quiet."""
    if not state["quiet"]:
        errors.print(escape_control(text), markup=False, highlight=False, soft_wrap=True)


def estimator(
    kind: str,
    method: str,
    settings: Sequence[str],
    hidden: str | None,
    seed: int,
    rows: int | None,
    likelihood: str | None = None,
    draws: int | None = None,
) -> Any:
    """The estimator of a task that the options describe; ``rows`` is the table's number of rows, if it is known."""
    import dubito
    from dubito.methods.by_name import get_method

    try:
        widths = None if hidden is None else tuple(int(width) for width in hidden.split(",") if width.strip())
    except ValueError:
        raise ValueError(f"--hidden is widths separated by commas, as in 50,50; got {hidden!r}") from None
    chosen = get_method(method, settings, size=1000 if rows is None else rows, task=kind)
    make: Any = {"regression": dubito.BayesianRegressor, "classification": dubito.BayesianClassifier}[kind]
    return make(chosen, hidden=widths, likelihood=likelihood, draws=draws, random_state=seed)


def task_of_likelihood(likelihood: str | None) -> str | None:
    """The task of a likelihood's name, None without one. Counts would be taken for classes otherwise."""
    from dubito.models.likelihoods.by_name import get_likelihood

    return None if likelihood is None else get_likelihood(likelihood).task


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
    output_files.check_outputs({"TABLE": table}, {"--output": output, "--checkpoint": checkpoint})
    from dubito.cli.command_tables import check_task, fill_inputs, read_to_fit
    from dubito.estimators.files.model_file import save_or_fall_back
    from dubito.inspection.summary import report_divergence

    values, task = None, task_of_likelihood(likelihood) if task is None else task
    if stream:
        from dubito.tables.streams import target_kind_of_file

        if fill or method == "auto":
            raise ValueError("--stream needs a --method other than auto, which is cross-fitted, and no --impute")
        kind = check_task(target_kind_of_file(table, target) if task is None else task)
        model = estimator(kind, method, settings or (), hidden, seed, None, likelihood, draws)
        fitting = partial(model.fit_file, table, target, categorical=categorical or (), drop_missing=True)
    else:
        inputs, y, kind = read_to_fit(table, target, task, categorical, say)
        if fill:
            inputs, values = fill_inputs(inputs, say)
        model = estimator(kind, method, settings or (), hidden, seed, len(y), likelihood, draws)
        fitting = partial(model.fit, inputs, y)
    with progress.progress_bar(None if state["quiet"] else errors) as report, report_divergence():
        fitting(progress=report, checkpoint=checkpoint)
    rows = model.summary_["rows"]
    model.summary_ |= {"target": target} | ({} if values is None else {"impute": values})
    save_or_fall_back(model, output)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)  # it has done its work
    say(f"{kind.capitalize()} on {rows} rows in {model.summary_['seconds']:.1f} s: {model.method_!r}\nWrote {output}")


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
    unknown: Unknown = "ignore",
):
    """Predict every row of TABLE, of any size: mean, std and its parts, an interval; or classes and their probabilities.
    After an interruption the same command goes on."""
    from dubito._check import check_coverage
    from dubito.cli import predict_file

    check_coverage(coverage)
    if output is None:
        predict_file.predict_to_stdout(model, table, coverage, say, safe_csv, unknown)
        return
    if output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: the output is .csv or .parquet")
    if safe_csv and output.suffix != ".csv":
        raise ValueError(
            f"--safe-csv is for a .csv output, not for {output}: leave it out, no program runs Parquet's texts"
        )
    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    rows = predict_file.predict_file(model, table, output, coverage, say, safe_csv, unknown)
    say(f"Wrote {output} ({rows} rows)")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: TableFile,
    unknown: Unknown = "ignore",
    as_json: Json = False,
):
    """Score the model on TABLE, which has the target's column too."""
    from dubito.cli.command_tables import load_model, read_to_evaluate
    from dubito.evaluation.conformal import ConformalPredictive
    from dubito.evaluation.diagnostics import monte_carlo
    from dubito.evaluation.interpretation import draws_setting, interpret_scorecard
    from dubito.evaluation.metrics import scorecard

    found = load_model(model, unknown)
    inputs, y = read_to_evaluate(found, table, say, "evaluate")
    unsure = monte_carlo(found.uncalibrated(inputs), found.posterior_, y)
    answer = found.predictive(inputs)
    card = scorecard(answer, y) | unsure.to_dict()
    if as_json:
        print(json.dumps(card | {"draws_enough": unsure.enough}))
        return
    Console().print(score_table(card))
    conformal = answer.conformal.coverage if isinstance(answer, ConformalPredictive) else None
    print_text(interpret_scorecard(card, discrete=answer.discrete, conformal=conformal))
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
    """Calibrate the model on TABLE, rows that fit has not seen, with the target's column. The output is another file than
    MODEL, which stays as it is."""
    import dubito
    from dubito.cli.command_tables import load_model, read_to_evaluate
    from dubito.estimators.files.model_file import save_or_fall_back

    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found, as_saved = load_model(model, unknown), dubito.load(model)
    inputs, y = read_to_evaluate(found, table, say, "calibrate")
    found.calibrate(inputs, y, method, **({} if coverage is None else {"coverage": coverage}))
    found.handle_unknown = as_saved.handle_unknown
    save_or_fall_back(found, output)
    say(f"Calibrated on {len(inputs)} rows: {type(found.calibration_).__name__}\nWrote {output}")


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="Rows, with the target for its gradients.")
    ] = None,
    unfold: Annotated[list[str] | None, typer.Option(help="A scope to open, as layer_1, or all.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The graph's picture: .svg, or .dot.")] = None,
    unknown: Unknown = "ignore",
):
    """The model's parameters and computation graph; with TABLE also the health of its gradients."""
    from dubito.cli.command_tables import load_model, read_to_evaluate
    from dubito.inspection.summary import inspect_model

    if output is not None and output.suffix not in (".svg", ".dot"):
        raise ValueError(f"{output}: the picture is .svg or .dot")
    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found = load_model(model, unknown)
    inputs, y = (None, None) if table is None else read_to_evaluate(found, table, say)
    text, graph = inspect_model(found, inputs, y, unfold or ())
    print(escape_control(text))
    if output is not None:
        drawing = graph.svg(unfold or ()) if output.suffix == ".svg" else graph.dot(unfold or ())
        with output_files.write_atomically(output) as file:
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
    fill: Impute = False,
    categorical: Categorical = None,
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(help="Also write this HTML report.")] = None,
):
    """Cross-validate methods on the same folds of TABLE: one table, with paired differences to the best."""
    output_files.check_outputs({"TABLE": table}, {"--report": report})
    from dubito.cli.command_tables import read_to_fit
    from dubito.estimators import cross_validation
    from dubito.methods import by_name

    inputs, y, kind = read_to_fit(
        table, target, task_of_likelihood(likelihood) if task is None else task, categorical, say
    )
    names = by_name.parse_names(methods)
    chosen = {name: estimator(kind, name, (), hidden, seed, len(y), likelihood) for name in names}
    total, count = len(names) * folds, iter(range(1, len(names) * folds + 1))
    with errors.status("") if errors.is_terminal and not state["quiet"] else contextlib.nullcontext() as status:

        def done(name, fold):
            if status is not None:
                status.update(f"{next(count)}/{total} fits ({name}, fold {fold + 1})")

        rows = cross_validation.compare(chosen, inputs, y, folds=folds, seed=seed, done=done, fill=fill)
    if as_json:
        print(json.dumps({row.name: row.to_dict() for row in rows}))
    else:
        Console().print(comparison_table(rows))
        print_text(cross_validation.interpretation(rows))
    if report is not None:
        from dubito.inspection.report import comparison_report

        settings = {"table": Path(table).name, "target": target, "folds": str(folds)}
        comparison_report(report, f"{target}: {len(names)} methods", rows, settings=settings, seed=seed)
        say(f"Wrote {report}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="The folder to write to.")] = Path("dubito-demo"),
    methods: Methods = "auto,maximum-likelihood,mc-dropout,bayes-by-backprop",
):
    """The main job on bundled real data, in under a minute: a comparison, a report, predictions, pictures."""
    output_files.check_output_folder("--output", output)
    from dubito.cli.demo import run
    from dubito.methods import by_name

    for line in run(output, by_name.parse_names(methods), say):
        print_text(line)


def _print_error(message):
    errors.print(escape_control(f"dubito: {message}"), markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """The console script: messages instead of tracebacks, exit codes 0, 1 (failed), 2 (usage), 130 and 143."""
    started = interrupts.watch_signals()
    warnings.showwarning = lambda message, *_: (
        compilation_cache.handle_warning(message) or say(f"dubito: note: {message}")
    )
    try:
        sys.exit(app(standalone_mode=False))  # which is 130 after Ctrl-C
    except USAGE_ERROR as error:
        if state["debug"]:
            raise
        _print_error(error.format_message())
        sys.exit(error.exit_code)
    except Exception as error:
        if state["debug"]:
            raise
        message = str(error) or type(error).__name__
        if isinstance(error, DataError) and error.option:
            message = f"{error.problem} {error.option}"
        _print_error(message)
        sys.exit(1)
    except SystemExit as end:
        if end.code in (130, 143):
            errors.print("Interrupted.")
        raise
    finally:
        if started:
            interrupts.restore_signals()
