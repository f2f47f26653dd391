"""The commands, of which card, export and serve have files of their own. JAX is imported inside them, never for --help."""

import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

try:
    from rich.console import Console
    from typer import Argument, Option
except ImportError:
    raise SystemExit("dubito's command line needs typer and rich: pip install 'dubito[cli]'") from None

from dubito._check import DataError
from dubito._process import interrupts, output_files
from dubito.cli import card as model_cards
from dubito.cli import comparisons, compilation_cache, export_model, progress, serve
from dubito.cli import table_options as tables
from dubito.cli.application import USAGE_ERROR, Json, app, console, print_error, say, state
from dubito.cli.terminal import escape_control, noise_card, print_text, score_table

Task = Annotated[str | None, Option(help="regression or classification; inferred from the target by default.")]
Likelihood = Annotated[str | None, Option(help="The likelihood by name, such as poisson, gamma, beta or ordered.")]
Methods = Annotated[str, Option(help="Names of methods, separated by commas, or all.")]
Hidden = Annotated[str | None, Option(help="Widths of the hidden layers, such as 50,50.")]
Seed = Annotated[int, Option(help="Random seed; the same seed gives the same results.")]
Report = Annotated[Path | None, Option(help="An HTML report to write.")]


@app.command()
@tables.with_table_options(fits=True)
def fit(
    source: tables.TableOptions,
    table: tables.TableFile,
    target: tables.Target,
    output: Annotated[Path, Option("-o", "--output", help="The model file to write.")],
    method: Annotated[str, Option(help="auto, maximum-likelihood, map, mc-dropout, ...")] = "auto",
    settings: Annotated[list[str] | None, Option("--set", metavar="FIELD=VALUE", help="A setting; repeatable.")] = None,
    likelihood: Likelihood = None,
    target_transform: tables.TargetTransform = None,
    class_weight: tables.ClassWeight = None,
    hidden: Hidden = None,
    seed: Seed = 0,
    task: Task = None,
    categorical: tables.Categorical = None,
    groups: tables.Groups = None,
    no_groups: tables.NoGroups = False,
    time: tables.Time = None,
    unknown: tables.FitUnknown = "ignore",
    missing: tables.FitMissing = "fill",
    draws: Annotated[int | None, Option(min=1, help="Draws of the weights in prediction; by default 100.")] = None,
    checkpoint: Annotated[Path | None, Option(help="A file for progress; the same command resumes from it.")] = None,
    stream: Annotated[bool, Option("--stream", help="Read a .parquet TABLE piece by piece; needs --method.")] = False,
) -> None:
    """Fit a model to TABLE and write it to one file.

    With --stream, TABLE may be larger than memory. Its rows must not be sorted: they are shuffled within pieces only.
    """
    output_files.check_outputs({"TABLE": table}, {"--output": output, "--checkpoint": checkpoint})
    from dubito.cli import command_tables
    from dubito.cli.command_tables import estimator, given_policies, given_splits, read_to_fit, task_of_likelihood
    from dubito.estimators.files.model_file import save_or_fall_back
    from dubito.inspection.summary import report_divergence
    from dubito.training.progress import fit_sentence

    task = task or task_of_likelihood(likelihood, target_transform)
    policies, splits = given_policies(unknown, missing), given_splits(groups, no_groups, time, stream)
    shared = {"likelihood": likelihood, "target_transform": target_transform, "random_state": seed, **policies}
    make = partial(estimator, hidden=hidden, draws=draws, class_weight=class_weight, **shared)
    if stream:
        from dubito.tables.streams import target_kind_of_file

        if method == "auto":
            problem = "--stream does not support --method auto, which needs all rows in memory."
            raise ValueError(f"{problem} Choose a --method.")
        task = command_tables.check_task(task or target_kind_of_file(table, target))
        model = make(task, method, settings or (), rows=None)
        columns = {"categorical": categorical or (), "drop": command_tables.columns_to_drop(table, target, source)}
        run = partial(model.fit_file, table, target, drop_missing=True, **columns)
    else:
        found = read_to_fit(table, target, task, categorical, say, source, splits, missing)
        task, model = found.task, make(found.task, method, settings or (), rows=len(found.rows))
        run = partial(model.fit, found.inputs, found.y, found.weight, **splits)
    with progress.follow_fit(console(), model.method) as report, report_divergence():
        run(progress=report, checkpoint=checkpoint)
    model.summary_ |= {"target": target} | source.found
    save_or_fall_back(model, output)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)  # the model takes its place
    say(f"{fit_sentence(task, model.summary_, model.method_)}\nWrote {output}")


@app.command()
@tables.with_table_options()
def predict(
    source: tables.TableOptions,
    model: tables.ModelFile,
    table: tables.TableFile,
    output: Annotated[Path | None, Option("-o", "--output", help="A .csv or .parquet file; by default stdout.")] = None,
    coverage: Annotated[float, Option(help="Coverage of the interval from lower to upper.")] = 0.9,
    safe_csv: Annotated[bool, Option("--safe-csv", help="In CSV, put ' before texts that look like formulas.")] = False,
    keep: tables.Keep = None,
    unknown: tables.Unknown = None,
    missing: tables.Missing = None,
) -> None:
    """Predict every row of TABLE, which may be of any size. After an interruption the same command
    resumes.

    Regression: the mean, the standard deviation and its two parts, and an interval.

    Classification: the class, and the probability of each class.
    """
    from dubito._check import check_number
    from dubito.cli import predict_file

    check_number("coverage", coverage, "(0, 1)")
    options = predict_file.PredictOptions(say, coverage, safe_csv, keep, source.dialect, unknown, missing, console())
    if output is None:
        predict_file.predict_to_stdout(model, table, options)
        return
    if output.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{output}: the output must be a .csv or .parquet file")
    if safe_csv and output.suffix != ".csv":
        problem = f"--safe-csv applies to .csv outputs only, not to {output}."
        raise ValueError(f"{problem} Leave it out; texts in Parquet are never run as formulas.")
    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    rows = predict_file.predict_file(model, table, output, options)
    say(f"Wrote {output} ({rows} rows)")


@app.command()
@tables.with_table_options()
def evaluate(
    source: tables.TableOptions,
    model: tables.ModelFile,
    table: tables.TableFile,
    unknown: tables.Unknown = None,
    missing: tables.Missing = None,
    as_json: Json = False,
) -> None:
    """Score a model on TABLE, which must contain the target's column."""
    from dubito.cli.command_tables import load_model, read_to_evaluate
    from dubito.evaluation import diagnostics, interpretation, metrics

    found = load_model(model, unknown, missing)
    inputs, y = read_to_evaluate(found, table, say, "evaluate", source.dialect)
    answer = found.predictive(inputs)
    raw = answer if found.calibration_ is None else found.uncalibrated(inputs)
    unsure = diagnostics.monte_carlo(raw, found.posterior_, y)
    card = metrics.scorecard(answer, y) | noise_card(found) | unsure.to_dict()
    if as_json:
        print(json.dumps(card | {"draws_enough": unsure.enough}))
        return
    Console().print(score_table(card))
    print_text(interpretation.interpret_predictive(answer, card))
    setting = interpretation.draws_setting(unsure, found)
    say(unsure.sentence + (f" To have enough, use dubito fit with {setting.shell}." if setting else ""))


@app.command()
@tables.with_table_options()
def calibrate(
    source: tables.TableOptions,
    model: tables.ModelFile,
    table: tables.TableFile,
    output: Annotated[Path, Option("-o", "--output", help="The calibrated model file to write.")],
    method: Annotated[
        str | None, Option(help="temperature, isotonic (classes), quantiles (numbers), conformal")
    ] = None,
    coverage: Annotated[float | None, Option(help="Coverage of conformal intervals or sets; by default 0.9.")] = None,
    unknown: tables.Unknown = None,
    missing: tables.Missing = None,
) -> None:
    """Calibrate a model on TABLE: rows that were not used in fit, with the target's column. MODEL
    does not change.
    """
    import dubito
    from dubito.cli.command_tables import given_policies, read_to_evaluate
    from dubito.estimators.files.model_file import save_or_fall_back

    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found = dubito.load(model)
    as_saved = {"handle_unknown": found.handle_unknown, "missing": found.missing}
    found.set_params(**given_policies(unknown, missing))
    inputs, y = read_to_evaluate(found, table, say, "calibrate", source.dialect)
    found.calibrate(inputs, y, method, **({} if coverage is None else {"coverage": coverage}))
    found.set_params(**as_saved)
    save_or_fall_back(found, output)
    say(f"Calibrated on {len(inputs)} rows: {type(found.calibration_).__name__}\nWrote {output}")


@app.command()
@tables.with_table_options()
def inspect(
    source: tables.TableOptions,
    model: tables.ModelFile,
    table: Annotated[
        str | None, Argument(metavar="TABLE", help="Rows with the target, to check the gradients.")
    ] = None,
    unfold: Annotated[list[str] | None, Option(help="A scope of the graph to open, such as layer_1; or all.")] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="A .svg or .dot picture of the graph.")] = None,
    unknown: tables.Unknown = None,
    missing: tables.Missing = None,
) -> None:
    """Show a model's parameters and computation graph, and with TABLE the health of its gradients."""
    from dubito.cli.command_tables import load_model, read_to_evaluate
    from dubito.inspection.summary import inspect_model

    if output is not None and output.suffix not in (".svg", ".dot"):
        raise ValueError(f"{output}: the picture must be a .svg or .dot file")
    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found = load_model(model, unknown, missing)
    inputs, y = (None, None) if table is None else read_to_evaluate(found, table, say, dialect=source.dialect)
    text, graph = inspect_model(found, inputs, y, unfold or ())
    print(escape_control(text))
    if output is not None:
        drawing = graph.svg(unfold or ()) if output.suffix == ".svg" else graph.dot(unfold or ())
        with output_files.write_atomically(output) as file:
            file.write(drawing.encode())
        say(f"Wrote {output}")


@app.command()
@tables.with_table_options(fits=True)
def compare(
    source: tables.TableOptions,
    table: tables.TableFile,
    target: tables.Target,
    methods: Methods = "auto,maximum-likelihood,mc-dropout,bayes-by-backprop,ensemble",
    folds: Annotated[int, Option(min=2, help="Number of folds.")] = 5,
    likelihood: Likelihood = None,
    target_transform: tables.TargetTransform = None,
    class_weight: tables.ClassWeight = None,
    hidden: Hidden = None,
    seed: Seed = 0,
    task: Task = None,
    categorical: tables.Categorical = None,
    groups: tables.Groups = None,
    no_groups: tables.NoGroups = False,
    time: tables.Time = None,
    missing: tables.FitMissing = "fill",
    as_json: Json = False,
    report: Report = None,
    part: Annotated[
        str | None, Option(metavar="K/N", help="Only every N-th fit from the K-th; needs --output.")
    ] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="The part's file, for dubito merge.")] = None,
) -> None:
    """Compare methods by cross-validation on the same folds of TABLE, with paired differences to
    the best.
    """
    output_files.check_outputs({"TABLE": table}, {"--report": report, "--output": output})
    from dubito.cli.command_tables import estimator, given_policies, given_splits, read_to_fit, task_of_likelihood
    from dubito.estimators import comparison_fits, cross_validation
    from dubito.methods import by_name

    comparisons.check_part_options(part, output, {"--json": as_json, "--report": report})
    splits = given_splits(groups, no_groups, time)
    task = task or task_of_likelihood(likelihood, target_transform)
    shared = {"likelihood": likelihood, "target_transform": target_transform, "class_weight": class_weight}
    options = {"target": target, "methods": by_name.parse_names(methods), "folds": folds, "seed": seed, **shared}
    options |= {"hidden": hidden, "categorical": categorical, "missing": missing, **splits, **source.given}
    contents = "" if part is None else comparisons.hash_table(table)
    found = read_to_fit(table, target, task, categorical, say, source, splits, missing)
    shared |= {"random_state": seed, **given_policies(None, missing)}
    make = partial(estimator, found.task, rows=len(found.rows), hidden=hidden, **shared)
    chosen = {name: make(name) for name in options["methods"]}
    given = {"folds": folds, "seed": seed, "rows": found.rows, **splits}
    if part is not None and output is not None:
        plan = comparison_fits.plan_comparison(chosen, found.inputs, found.y, **given)
        comparisons.run_part(part, output, plan, table, contents, options | {"task": found.task}, console(), say)
        return
    with progress.count_fits(console(), len(chosen) * folds) as done:
        rows = cross_validation.compare(chosen, found.inputs, found.y, done=done, **given)
    comparisons.show_comparison(rows, {"table": Path(table).name, **options}, as_json, report, say)


@app.command()
def merge(
    parts: Annotated[list[Path], Argument(metavar="PART...", help="The files of all parts.")],
    as_json: Json = False,
    report: Report = None,
) -> None:
    """Show the comparison whose parts are in files that dubito compare --part has written."""
    output_files.check_outputs({f"PART {path}": path for path in parts}, {"--report": report})
    from dubito.estimators.comparison_parts import merge_parts

    comparisons.show_comparison(*merge_parts(parts), as_json, report, say)


app.command()(export_model.export)


@app.command()
def demo(
    output: Annotated[Path, Option("-o", "--output", help="The folder to write to.")] = Path("dubito-demo"),
    methods: Methods = "auto,maximum-likelihood,mc-dropout,bayes-by-backprop",
) -> None:
    """Run a demonstration on bundled data, in about a minute: a comparison, a report, predictions,
    pictures.
    """
    output_files.check_output_folder("--output", output)
    from dubito.cli.demo import run
    from dubito.methods import by_name

    for line in run(output, by_name.parse_names(methods), say):
        print_text(line)


app.command()(model_cards.card)
app.command()(serve.serve)


def main() -> None:
    """The console script: messages instead of tracebacks, exit codes 0, 1 (failed), 2 (usage), 130 and 143."""
    started = interrupts.watch_signals()
    noted: set[str] = set()  # the folds of a comparison would repeat each note

    def show(message: Warning | str, *_: Any) -> None:
        if not compilation_cache.handle_warning(message) and str(message) not in noted:
            noted.add(str(message))
            say(f"dubito: note: {message}")

    warnings.showwarning = show
    try:
        sys.exit(app(standalone_mode=False))  # which is 130 after Ctrl-C
    except Exception as error:
        if state["debug"]:
            raise
        usage: Any = error
        message, code = str(error) or type(error).__name__, 1
        if isinstance(error, USAGE_ERROR):
            message, code = usage.format_message(), usage.exit_code
        elif isinstance(error, DataError) and error.option:
            message = f"{error.problem} {error.option}"
        print_error(f"dubito: {message}")
        sys.exit(code)
    except SystemExit as end:
        if end.code in (130, 143):
            print_error("Interrupted.")
        raise
    finally:
        if started:
            interrupts.restore_signals()
