"""The command line as its users meet it: with real files, exit codes and messages."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
from command_line import SMALL, commands_of_shells, run
from sklearn.datasets import load_diabetes, load_iris

import dubito
from dubito.cli import commands, demo
from dubito.methods import by_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a regression table, a classification table, and a model for each."""
    folder = tmp_path_factory.mktemp("cli")
    x, y = load_diabetes(return_X_y=True, scaled=False)
    table = [[*map("{:.4f}".format, row), f"{value:.1f}"] for row, value in zip(x, y, strict=True)]
    write(folder / "diabetes.csv", [*"abcdefghij", "progression"], table)
    x, y = load_iris(return_X_y=True)
    names = ("setosa", "versicolor", "virginica")
    write(folder / "iris.tsv", [*"abcd", "species"], [[*row, names[k]] for row, k in zip(x, y, strict=True)], "\t")
    run("fit", folder / "diabetes.csv", "--target", "progression", *SMALL, "-o", folder / "d.dubito")
    run("fit", folder / "iris.tsv", "--target", "species", *SMALL, "-o", folder / "i.dubito")
    return folder


def write(path, header, rows, delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def test_help_imports_no_jax():
    code = (
        "import sys; sys.argv = ['dubito', '--help']\n"
        "from dubito.cli.commands import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'jax', 'sklearn', 'matplotlib', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "fit", "predict", "evaluate", "calibrate", "inspect", "compare", "card"):
        assert command in done.stdout


@pytest.mark.slow
def test_predict_gives_the_predictions_of_the_estimator(folder):
    out, _ = run("predict", folder / "d.dubito", folder / "diabetes.csv", "--coverage", "0.8")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["mean", "std", "epistemic_std", "aleatoric_std", "lower", "upper"]
    model = dubito.load(folder / "d.dubito")
    table = np.genfromtxt(folder / "diabetes.csv", delimiter=",", skip_header=1)
    import pandas as pd

    frame = pd.DataFrame(table[:, :10], columns=list("abcdefghij"))
    mean, std = model.predict(frame, return_std=True)
    lower, upper = model.predict_interval(frame, 0.8)
    for name, values in {"mean": mean, "std": std, "lower": lower, "upper": upper}.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-12)


def test_predict_writes_classes_probabilities_and_uncertainty(folder):
    _, text = run("predict", folder / "i.dubito", folder / "iris.tsv", "-o", folder / "out.parquet")
    assert "out.parquet" in text
    table = pyarrow.parquet.read_table(folder / "out.parquet").to_pandas()
    classes = ["p_setosa", "p_versicolor", "p_virginica"]
    assert list(table) == ["prediction", *classes, "entropy", "mutual_information"]
    np.testing.assert_allclose(table[classes].sum(axis=1), 1, atol=1e-6)
    assert (table[classes].idxmax(axis=1).str[2:] == table["prediction"]).all()


@pytest.mark.slow
def test_predict_from_standard_input_equals_predict_from_a_file(folder):
    whole, _ = run("predict", folder / "d.dubito", folder / "diabetes.csv")
    piped, _ = run("predict", folder / "d.dubito", "-", data=(folder / "diabetes.csv").read_bytes())
    assert whole == piped


def test_evaluate_prints_scores_and_their_interpretation(folder):
    card = json.loads(run("evaluate", folder / "d.dubito", folder / "diabetes.csv", "--json")[0])
    wanted = {"rmse", "mae", "r2", "nll", "crps", "coverage_50", "coverage_90", "coverage_95", "mean_width_90", "n"}
    assert wanted <= set(card) and {"rmse_se", "nll_se"} <= set(card) and card["n"] == 442
    card = json.loads(run("evaluate", folder / "i.dubito", folder / "iris.tsv", "--json")[0])
    assert {"accuracy", "nll", "brier", "ece", "auroc", "n", "accuracy_se"} <= set(card)
    assert card["draws"] == 1 and card["draws_enough"] is True
    out, told = run("evaluate", folder / "i.dubito", folder / "iris.tsv")
    assert "accuracy" in out and "nothing is drawn" in told
    assert re.search(r"\d+ of 150 rows \(\d+ %\) are classified correctly", out)
    out, told = run("evaluate", folder / "d.dubito", folder / "diabetes.csv")
    assert re.search(r"90 % intervals contain \d+ of 442 rows", out) and "of the target's standard deviation" in out


@pytest.mark.slow
def test_evaluate_names_an_option_that_gives_enough_draws(folder):
    fit = ("fit", folder / "diabetes.csv", "--target", "progression", "--hidden", "8", "--method", "mc-dropout")
    out = folder / "drops.dubito"
    fit += ("--set", "epochs=3", "--set", "rate=0.5")
    run(*fit, "--draws", "2", "-o", out)
    _, told = run("evaluate", out, folder / "diabetes.csv")
    option = re.search(r"To have enough, use dubito fit with --draws (\d+)\.", " ".join(told.split()))
    run(*fit, "--draws", 4 * int(option[1]), "-o", out)  # two draws tell the error to a factor
    _, told = run("evaluate", out, folder / "diabetes.csv")
    assert "are enough" in " ".join(told.split())


@pytest.mark.slow
def test_calibrate_writes_a_model_with_calibrated_intervals_and_sets(folder):
    """The model on its own training rows, which is enough to see that the estimator's method is what runs."""
    _, text = run("calibrate", folder / "d.dubito", folder / "diabetes.csv", "-o", folder / "dc.dubito")
    assert "Calibrated on 442 rows: Quantiles" in text
    before, after = (
        json.loads(run("evaluate", folder / name, folder / "diabetes.csv", "--json")[0])
        for name in ("d.dubito", "dc.dubito")
    )
    assert abs(after["coverage_90"] - 0.9) < 0.01 and after["nll"] < before["nll"]
    options = ("--method", "conformal", "--coverage", "0.8")
    run("calibrate", folder / "i.dubito", folder / "iris.tsv", *options, "-o", folder / "ic.dubito")
    run("predict", folder / "ic.dubito", folder / "iris.tsv", "-o", folder / "sets.csv")
    with (folder / "sets.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = [row[f"set_{row['prediction']}"] for row in rows]
    assert set(held) == {"true"}  # the most probable class is in every set
    assert dubito.load(folder / "ic.dubito").calibration_.coverage == 0.8
    _, text = run("calibrate", folder / "d.dubito", folder / "iris.tsv", "-o", folder / "x", code=1)
    assert "calibrate needs the target's column, 'progression'" in text


@pytest.mark.slow
def test_compare_reports_paired_differences_to_the_best(folder):
    arguments = ("--target", "progression", "--methods", "map,maximum-likelihood", "--folds", "3", "--hidden", "8")
    report = folder / "report.html"
    out, _ = run("compare", folder / "diabetes.csv", *arguments, "--json", "--report", report)
    found = json.loads(out)
    assert set(found) == {"map", "maximum-likelihood"}
    best = min(found, key=lambda name: found[name]["nll"])
    assert found[best]["nll_difference"] == 0
    other = max(found, key=lambda name: found[name]["nll"])
    np.testing.assert_allclose(found[other]["nll_difference"], found[other]["nll"] - found[best]["nll"], rtol=1e-6)
    assert found[other]["nll_difference_se"] > 0
    assert "<html" in report.read_text() and "Conclusions" in report.read_text()
    out, _ = run("compare", folder / "diabetes.csv", *arguments)
    assert "Best by negative log likelihood" in out.splitlines()[-1] and "90 % intervals are" in out.splitlines()[-1]


def test_compare_all_runs_every_method_and_refuses_unknown_names(folder, monkeypatch):
    def compare(estimators, *rest, **options):
        raise ValueError(",".join(estimators))

    monkeypatch.setattr("dubito.cross_validation.compare", compare)
    with pytest.raises(ValueError, match=",".join(by_name.METHODS)):
        commands.compare(str(folder / "diabetes.csv"), "progression", "all")
    for wrong, words in (
        ("map, mapp", "did you mean 'map'"),
        ("zzz", r"'zzz' is unknown\. Choose"),
        ("map,swag,map", "'map' is named twice"),
    ):
        with pytest.raises(ValueError, match=words):
            commands.compare(str(folder / "diabetes.csv"), "progression", wrong)


def test_notes_print_brackets_literally(monkeypatch):
    """A note on what to install would lose the very thing that is missing."""
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    commands.say("pip install 'dubito[samplers]'")
    assert told.getvalue() == "pip install 'dubito[samplers]'\n"


@pytest.mark.slow
def test_demo_fits_the_given_methods(tmp_path, monkeypatch):
    """A sampler too, which runs its own schedule; here on the first of the tables, and on few rows of it."""
    first = demo.jobs()[0]
    monkeypatch.setattr(demo, "jobs", lambda: [replace(first, train=tuple(part[:60] for part in first.train))])
    monkeypatch.setitem(by_name.METHODS, "nuts", dubito.NUTS(draws=40, warmup=100, chains=2, warm_start_steps=250))
    lines = demo.run(tmp_path / "new", ["nuts", "map"], say=lambda line: None)
    page = (tmp_path / "new" / "report.html").read_text()
    assert "Conclusions" in page and "diabetes, nuts: 2 chains of 40 draws" in page
    assert any("90 % intervals are" in line for line in lines) and "0, 1, 2, 3" not in page
    with open(tmp_path / "new" / "predictions.csv") as file:
        means = [float(row["mean"]) for row in csv.DictReader(file)]
    pictures = sorted(path.name for path in (tmp_path / "new").glob("*.png"))
    assert pictures == ["diabetes.png", "diabetes_training.png"] and page.count("<img") == len(pictures)
    assert sum(line.split()[:1] == ["nuts"] for line in lines) == 1
    assert len(means) == len(first.test[1]) and np.corrcoef(means, first.test[1])[0, 1] > 0.3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("fit", "{}/diabetes.csv", "-o", "x"), 2, "--target"),
        (("fit", "{}/diabetes.csv", "--target", "progresion", "-o", "x"), 1, "did you mean 'progression'"),
        (("fit", "{}/none.csv", "--target", "y", "-o", "x"), 1, "none.csv"),
        (("fit", "{}/diabetes.csv", "--target", "a", "--method", "mapp", "-o", "x"), 1, "did you mean 'map'"),
        (("fit", "{}/diabetes.csv", "--target", "a", "--set", "ratte=3", "-o", "x"), 1, "ratte"),
        (
            ("fit", "{}/diabetes.csv", "--target", "a", "--method", "nuts", "--set", "acceptance=x", "-o", "x"),
            1,
            "acceptance is a number, such as 0.8; got 'x'",
        ),
        (("predict", "{}/diabetes.csv", "{}/diabetes.csv"), 1, "model file"),
        (("predict", "{}/d.dubito", "{}/iris.tsv"), 1, "feature names"),
        (("evaluate", "{}/i.dubito", "{}/none.csv"), 1, "none.csv"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_commands_print_errors_as_messages(folder, arguments, code, message):
    _, text = run(*(argument.format(folder) for argument in arguments), code=code)
    assert message in " ".join(text.split()) and "Traceback" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "{t}", "-t", "a", *SMALL, "-o", "{t}"),
        ("fit", "{t}", "-t", "a", *SMALL, "-o", "{m}", "--checkpoint", "{t}"),
        ("fit", "{t}", "-t", "a", *SMALL, "-o", "{m}", "--checkpoint", "{m}"),
        ("predict", "{m}", "{t}", "-o", "{t}"),
        ("predict", "{m}", "{t}", "-o", "{m}"),
        ("calibrate", "{m}", "{t}", "-o", "{t}"),
        ("calibrate", "{m}", "{t}", "-o", "{m}"),
        ("inspect", "{g}", "{t}", "-o", "{g}"),
        ("inspect", "{m}", "{s}", "-o", "{s}"),
        ("card", "{m}", "{t}", "-o", "{t}"),
        ("compare", "{t}", "-t", "a", "--report", "{t}"),
    ],
)
def test_commands_refuse_an_output_that_is_an_input(folder, tmp_path, arguments):
    paths = {name: tmp_path / file for name, file in zip("tmgs", ("t.csv", "m.csv", "g.svg", "s.dot"), strict=True)}
    for name, source in zip("tmgs", ("diabetes.csv", "d.dubito", "d.dubito", "diabetes.csv"), strict=True):
        paths[name].write_bytes((folder / source).read_bytes())
    before = {path: path.read_bytes() for path in paths.values()}
    _, text = run(*(argument.format(**paths) for argument in arguments), code=1)
    assert "is the same file as" in " ".join(text.split())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fit", "none.csv", "-t", "a", "-o", "{}/none/m"), "there is no folder"),
        (("fit", "none.csv", "-t", "a", "-o", "{}"), "it is a folder"),
        (("fit", "none.csv", "-t", "a", "-o", "{}/m", "--checkpoint", "{}/none/c"), "--checkpoint"),
        (("predict", "none", "none.csv", "-o", "{}/none/p.csv"), "there is no folder"),
        (
            ("predict", "none", "none.csv", "-o", "{}/p.parquet", "--safe-csv"),
            "--safe-csv applies to .csv outputs only",
        ),
        (("calibrate", "none", "none.csv", "-o", "{}/none/m"), "there is no folder"),
        (("inspect", "none", "-o", "{}/none/m.svg"), "there is no folder"),
        (("card", "none", "-o", "{}/none/c.md"), "there is no folder"),
        (("compare", "none.csv", "-t", "a", "--report", "{}/none/r.html"), "there is no folder"),
        (("demo", "--output", "{}/file"), "is not a folder"),
        (("demo", "--output", "{}/file/demo"), "is not a folder"),
    ],
)
def test_commands_check_their_outputs_before_their_inputs(tmp_path, arguments, words):
    (tmp_path / "file").touch()
    _, text = run(*(argument.format(tmp_path) for argument in arguments), code=1)
    assert words in " ".join(text.split()) and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_fit_whose_output_has_become_impossible_still_saves_the_model(folder, tmp_path, monkeypatch):
    """The folder is deleted while the fit runs."""
    (tmp_path / "there").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    original = dubito.BayesianRegressor.fit

    def fit(self, *arguments, **options):
        found = original(self, *arguments, **options)
        (tmp_path / "there").rmdir()
        return found

    monkeypatch.setattr(dubito.BayesianRegressor, "fit", fit)
    output = tmp_path / "there" / "m"
    _, text = run("fit", folder / "diabetes.csv", "-t", "progression", *SMALL, "-o", output, code=1)
    (saved,) = (tmp_path / "tmp").iterdir()
    assert "No such file" in text and f"The model was written to '{saved}' instead" in text
    assert dubito.load(saved).summary_["target"] == "progression"


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    evil = "\x1b]0;owned\x07"
    (tmp_path / "t.csv").write_text(f"{evil},y\n{evil},1\n{evil}a,2\n")
    for target, words in (("z", "There is no column 'z'"), (evil, "")):
        out, text = run("fit", tmp_path / "t.csv", "-t", target, *SMALL, "-o", tmp_path / "m", code=1 if words else 0)
        assert words in text and "\x1b" not in out + text and "\x07" not in out + text
    (tmp_path / "u.csv").write_text(f"{evil},y\n{evil},5\n")
    out, text = run("predict", tmp_path / "m", tmp_path / "t.csv")
    assert evil in out  # a file holds what it holds
    out, text = run("inspect", tmp_path / "m", tmp_path / "u.csv")
    assert "\x1b" not in out + text


def test_predict_safe_csv_escapes_class_labels(tmp_path):
    rows = "\n".join(f"{k % 2},{'=1+1' if k % 2 else '-x'}" for k in range(20))
    (tmp_path / "t.csv").write_text(f"a,y\n{rows}\n")
    run("fit", tmp_path / "t.csv", "-t", "y", *SMALL, "-o", tmp_path / "m")
    plain, _ = run("predict", tmp_path / "m", tmp_path / "t.csv")
    safe, _ = run("predict", tmp_path / "m", tmp_path / "t.csv", "--safe-csv")
    run("predict", tmp_path / "m", tmp_path / "t.csv", "--safe-csv", "-o", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == safe
    for row, other in zip(csv.DictReader(io.StringIO(plain)), csv.DictReader(io.StringIO(safe)), strict=True):
        assert other.pop("prediction") == "'" + row.pop("prediction") and row == other


def test_debug_lets_the_error_through(folder):
    with pytest.raises(dubito.DataError, match=r"none\.csv"):
        run("--debug", "fit", folder / "none.csv", "--target", "y", "-o", "x", code=1)


@pytest.mark.slow
def test_fit_marks_missing_values_quietly(folder):
    rows = (folder / "diabetes.csv").read_text().splitlines()
    rows[1] = "," + rows[1].split(",", 1)[1]
    (folder / "holes.csv").write_text("\n".join(rows))
    arguments = ("fit", folder / "holes.csv", "--target", "progression", *SMALL, "-o", folder / "h.dubito")
    _, text = run(*arguments, "--missing", "error", code=1)
    assert "'a'" in text and "1 missing" in text
    _, text = run(*arguments)
    assert "1 of 'a'" in text
    _, text = run("--quiet", *arguments)
    assert text == ""
    out, _ = run("predict", folder / "h.dubito", folder / "holes.csv")
    assert len(out.splitlines()) == 443


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(folder):
    lines = (folder / "diabetes.csv").read_text().splitlines()
    (folder / "long.csv").write_text("\n".join([lines[0], *lines[1:] * 10]))  # more than a pipe holds
    script = f"set -o pipefail; dubito predict {folder}/d.dubito {folder}/long.csv | head -1"
    with commands_of_shells() as path:
        environment = os.environ | {"PATH": path}
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith('"mean"') and "Traceback" not in done.stderr and done.returncode == 0


ENDLESS = """
import contextlib
from dubito.cli import progress
follow = progress.follow_fit
@contextlib.contextmanager
def reporting(*given):
    with follow(*given) as report:
        def tell(one):
            print(one.epoch, flush=True)
            if report is not None:
                report(one)
        yield tell
progress.follow_fit = reporting
from dubito.__main__ import main
main()
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_fit_soon_and_leaves_nothing(folder):
    """In the middle of the training; tests/_process/test_interrupts.py does the same with SIGTERM, and with other commands."""
    output = folder / "never.dubito"
    arguments = ["fit", folder / "diabetes.csv", "--target", "progression", *SMALL, "--set", "epochs=1000000"]
    program = [sys.executable, "-c", ENDLESS, *map(str, [*arguments, "-o", output])]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while int(process.stdout.readline()) < 100:
                pass
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130  # two seconds on an idle machine
        finally:
            process.kill()
    assert not output.exists()


def test_set_reaches_the_fields_of_every_method():
    """``--method`` knows each method, and ``--set`` each of its fields, by the dataclasses alone."""
    assert by_name.get_method("mc-dropout", ["rate=0.2"]) == dubito.MCDropout(rate=0.2)
    assert by_name.get_method("ensemble", ["size=3", "method.epochs=7"]) == dubito.Ensemble(
        dubito.MAP(epochs=7, noise="held-out"), 3
    )
    assert by_name.get_method("auto", ["folds=5"], size=100).folds == 5
    assert by_name.get_method("auto") is None
    assert {command.name or command.callback.__name__ for command in commands.app.registered_commands} == set(
        "demo fit predict evaluate calibrate inspect compare export card serve merge".split()
    )


def test_a_streamed_table_gives_the_model_of_the_table(tmp_path):
    """Also when it is one of integers, whose task must be found out; what cannot be streamed says so."""
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=99), "color": rng.choice(["red", "green"], 99), "y": rng.integers(0, 3, 99)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    for stream, name in ((["--stream"], "a"), ([], "b")):
        _, text = run("fit", tmp_path / "t.parquet", "-t", "y", *SMALL, *stream, "-o", tmp_path / name)
        assert "Classification on 99 rows" in text
    a, b = (dubito.load(tmp_path / name) for name in "ab")
    assert np.array_equal(
        a.posterior_.params["network"]["layer_0"]["w"], b.posterior_.params["network"]["layer_0"]["w"]
    )
    _, text = run("fit", tmp_path / "t.parquet", "-t", "y", "--stream", "-o", tmp_path / "c", code=1)
    assert "--stream does not support --method auto" in text
    _, text = run("fit", tmp_path / "t.csv", "-t", "y", "--stream", *SMALL, "-o", tmp_path / "c", code=1)
    assert "only .parquet tables can be streamed" in text


@pytest.mark.slow
def test_inspect_prints_and_draws_the_graph(folder):
    out, _ = run(
        "inspect", folder / "d.dubito", folder / "diabetes.csv", "-o", folder / "graph.svg", "--unfold", "layer_0"
    )
    assert "relu" in out and "rms gradient" in out
    assert (folder / "graph.svg").read_text().startswith("<svg")
    out, _ = run("inspect", folder / "i.dubito", "-o", folder / "graph.dot")
    assert "16 rows" in out and (folder / "graph.dot").read_text().startswith("digraph {")
    _, error = run("inspect", folder / "d.dubito", "--unfold", "layer_7", code=1)
    assert "no scope is called 'layer_7'; the outermost are layer_0, layer_1" in error
    _, error = run("inspect", folder / "d.dubito", "-o", folder / "graph.png", code=1)
    assert "the picture must be a .svg or .dot file" in error
    options = (*SMALL, "--set", "learning_rate=1e30", "-o", folder / "none.dubito")
    _, error = run("fit", folder / "diabetes.csv", "--target", "progression", *options, code=1)
    assert "Try learning_rate=" in error and "The gradients at the last finite state:" in error


def test_card_describes_a_model_and_measures_its_scores(folder, tmp_path):
    out, _ = run("card", folder / "d.dubito", "--unit", "points")
    assert out.startswith("# Model card: `progression`\n") and "in points: mean" in out
    assert "None were measured" in out and "dubito predict d.dubito new.csv" in out
    _, error = run("card", folder / "i.dubito", folder / "iris.tsv", "-o", tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert error == f"Wrote {tmp_path / 'card.md'}\n" and "Measured on 150 rows" in text
    model = dubito.load(folder / "i.dubito")
    x, y = load_iris(return_X_y=True)
    accuracy = np.mean(model.predict(dict_frame(x)) == np.array(model.classes_)[y])
    assert f"| `accuracy` | {accuracy:.4g} |" in text
    (tmp_path / "t.csv").write_text("a,b,c,d\n1,2,3,4\n")
    _, error = run("card", folder / "i.dubito", tmp_path / "t.csv", code=1)
    assert "card needs the target's column, 'species'" in " ".join(error.split())


def dict_frame(x):
    return pyarrow.table(dict(zip("abcd", x.T, strict=True)))
