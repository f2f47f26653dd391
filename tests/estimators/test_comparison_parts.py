"""Parts of a comparison: together the whole run, byte for byte but for the seconds; none missing, doubled, foreign or damaged."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from command_line import SMALL, run

from dubito._process.archive import canonical
from dubito._process.versions import library_versions
from dubito.cli import comparisons
from dubito.estimators import comparison_fits, comparison_parts
from dubito.estimators.fold_scores import FoldScores
from dubito.evaluation.diagnostics import MonteCarloError
from dubito.evaluation.interpretation import Setting
from dubito.evaluation.metrics import Score

OPTIONS = ("--target", "y", "--methods", "map,mc-dropout,laplace", "--folds", "3", "--hidden", *SMALL[-1:])
PARTS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory, short):
    """A table with a rare category and a missing value, its whole comparison, and the files of all parts."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60), "kind": ["x"] * 59 + ["rare"]})
    table.assign(y=table["a"] + 0.1 * rng.normal(size=60)).to_csv(folder / "t.csv", index=False)
    table.assign(y=np.where(table["a"] > 0, "up", "down")).to_csv(folder / "classes.csv", index=False)
    for number in range(1, PARTS + 1):
        run("compare", folder / "t.csv", *OPTIONS, "--part", f"{number}/{PARTS}", "-o", folder / f"part-{number}.json")
    return folder


@pytest.fixture(scope="module")
def short():
    """Fits of few epochs."""
    from dubito.methods.by_name import METHODS
    from dubito.methods.dropout.mc_dropout import MCDropout
    from dubito.methods.laplace.laplace import LaplaceApproximation
    from dubito.methods.map import MAP

    quick = {"map": MAP(epochs=3), "mc-dropout": MCDropout(epochs=3), "laplace": LaplaceApproximation(MAP(epochs=3))}
    with pytest.MonkeyPatch.context() as patch:
        for name, method in quick.items():
            patch.setitem(METHODS, name, method)
        yield


def without_seconds(text):
    return re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0', text)


def parts(folder):
    return [folder / f"part-{number}.json" for number in range(1, PARTS + 1)]


def refusal(*files):
    """The message about files that are no whole comparison."""
    out, said = run("merge", *files, code=1)
    assert out == "" and "Traceback" not in said
    return said


@pytest.mark.slow
def test_merged_parts_are_the_whole_comparison(folder, short, tmp_path):
    whole, notes = run("compare", folder / "t.csv", *OPTIONS, "--json")
    merged, said = run("merge", *reversed(parts(folder)), "--json", "--report", tmp_path / "r.html")
    assert without_seconds(merged) == without_seconds(whole)
    assert '"seconds"' in whole and len(json.loads(whole)) == 3
    note = next(line for line in notes.splitlines() if "categories that the training rows of a fold" in line)
    assert note in said
    run("compare", folder / "t.csv", *OPTIONS, "--report", tmp_path / "whole.html")
    title = "<title>y: 3 methods"
    assert title in (tmp_path / "r.html").read_text() and title in (tmp_path / "whole.html").read_text()
    printed, expected = (
        run(*command)[0] for command in (("merge", *parts(folder)), ("compare", folder / "t.csv", *OPTIONS))
    )
    assert re.sub(r"[\d.]+ *$", "", printed, flags=re.M) == re.sub(r"[\d.]+ *$", "", expected, flags=re.M)


@pytest.mark.slow
def test_methods_that_cannot_be_fitted_are_left_out_of_the_merged_comparison_too(folder, short, tmp_path):
    options = ("--target", "y", "--methods", "conjugate-noise,map", "--folds", "2", "--hidden", "8")
    whole, notes = run("compare", folder / "classes.csv", *options, "--json")
    files = [tmp_path / f"{number}.json" for number in (1, 2)]
    for number, file in enumerate(files, 1):
        run("compare", folder / "classes.csv", *options, "--part", f"{number}/2", "-o", file)
    merged, said = run("merge", *files, "--json")
    assert without_seconds(merged) == without_seconds(whole) and list(json.loads(whole)) == ["map"]
    left = [line for line in notes.splitlines() if "conjugate-noise is left out" in line]
    assert left and left[0] in said


def test_missing_parts_are_named(folder, short):
    first, _, third, _ = parts(folder)
    assert "Parts 2, 4 of 4 are missing. Run the comparison with --part 2/4" in refusal(first, third)
    assert "Part 4 of 4 is missing." in refusal(*parts(folder)[:3])


def test_doubled_parts_are_named(folder, short, tmp_path):
    again = shutil.copy(folder / "part-2.json", tmp_path / "again.json")
    said = refusal(*parts(folder), again)
    assert f"Some parts are there twice: part 2 is in {folder / 'part-2.json'} and in {again}." in said
    assert "is given twice" in refusal(*parts(folder), folder / "part-2.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", "1"), "seed is 0 in {first}, 1 in {other}"),
        (("--part", "2/5"), "number of parts is 4 in {first}, 5 in {other}"),
        (("--methods", "map,laplace"), "methods is ['map', 'mc-dropout', 'laplace'] in {first}, ['map', 'laplace'] in"),
        (("--drop", "b"), "drop is [] in {first}, ['b'] in {other}"),
    ],
)
def test_parts_of_another_comparison_are_named_with_what_differs(folder, short, tmp_path, change, message):
    other, first = tmp_path / "other.json", folder / "part-1.json"
    run("compare", folder / "t.csv", *OPTIONS, "--part", "2/4", "-o", other, *change)
    said = refusal(first, other, *parts(folder)[2:])
    assert f"{other} is a part of another comparison than {first}: {message.format(first=first, other=other)}" in said


def test_parts_of_a_changed_table_or_another_version_are_named(folder, short, tmp_path, monkeypatch):
    first, other = folder / "part-1.json", tmp_path / "other.json"
    (tmp_path / "t.csv").write_text((folder / "t.csv").read_text() + "0.5,0.5,x,0.5\n")
    run("compare", tmp_path / "t.csv", *OPTIONS, "--part", "2/4", "-o", other)
    assert "SHA-256 of the table is " in refusal(first, other)
    monkeypatch.setattr(comparisons, "library_versions", lambda: library_versions() | {"numpy": "9.9"})
    run("compare", folder / "t.csv", *OPTIONS, "--part", "2/4", "-o", other)
    assert f"version of numpy is '{np.__version__}' in {first}, '9.9' in {other}" in refusal(first, other)


def test_a_table_that_changes_during_the_fits_is_an_error(folder, short, tmp_path, monkeypatch):
    table, plan_comparison = tmp_path / "t.csv", comparison_fits.plan_comparison
    shutil.copy(folder / "t.csv", table)

    def plan(*given, **options):
        table.write_text(table.read_text() + "0.5,0.5,x,0.5\n")
        return plan_comparison(*given, **options)

    monkeypatch.setattr(comparison_fits, "plan_comparison", plan)
    _, said = run("compare", table, *OPTIONS, "--part", "2/4", "-o", tmp_path / "part.json", code=1)
    assert "has changed since it was read" in said and not (tmp_path / "part.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"part": 5},
        {"part": [1]},
        {"parts": 10**12},
        {"part": True},
        {"names": "map"},
        {"names": [["map"]]},
        {"experiment": {"table": "t.csv"}},
        {"experiment": []},
        {"outcomes": {}},
        {"outcomes": {"map": {"0": 3}}},
        {"outcomes": []},
        {"tasks": [["other", 0]]},
        {"tasks": 3},
        {"refused": {"other": {"error": ["ValueError", "x"]}}},
    ],
)
def test_files_of_another_form_with_a_right_hash_are_named(folder, short, tmp_path, change):
    document = json.loads((folder / "part-2.json").read_text())
    del document["sha256"]
    document |= change
    file = tmp_path / "part-2.json"
    file.write_text(canonical(document | {"sha256": comparison_parts._hash(document)}))
    assert f"{file} is not a complete part of a comparison" in refusal(folder / "part-1.json", file)


def test_a_comparison_that_fits_nothing_says_why(folder, short, tmp_path):
    options = ("--target", "y", "--methods", "map", "--likelihood", "poisson", "--folds", "2", "--hidden", "8")
    said = [
        run("compare", folder / "t.csv", *options, *part, code=1)[1]
        for part in ((), ("--part", "1/2", "-o", tmp_path / "part.json"))
    ]
    assert said[0] == said[1] and "whole numbers" in said[0] and "Traceback" not in said[0]


@pytest.mark.parametrize("damage", ["short", "changed", "foreign", "binary", "absent"])
def test_damaged_files_are_named(folder, short, tmp_path, damage):
    file, text = tmp_path / "part-2.json", (folder / "part-2.json").read_text()
    if damage != "absent":
        changed = text.replace('"part":2', '"part":3')
        contents = {"short": text[:-9], "changed": changed, "foreign": "[1, 2]", "binary": "\0\x01"}[damage]
        file.write_text(contents)
    said = refusal(folder / "part-1.json", file)
    assert (
        f"{file} cannot be read" if damage == "absent" else f"{file} is not a complete part of a comparison"
    ) in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--part", "0/3", "-o", "p.json"), "--part must be a number and the number of parts, such as 3/10; got '0/3'"),
        (("--part", "4/3", "-o", "p.json"), "got '4/3'"),
        (("--part", "three", "-o", "p.json"), "got 'three'"),
        (("--part", "1/3"), "--part 1/3 needs --output"),
        (("-o", "p.json"), "--output is for a --part"),
        (
            ("--part", "1/3", "-o", "p.json", "--json"),
            "--json needs the results of all parts. Give it to `dubito merge`",
        ),
        (("--part", "1/10", "-o", "p.json"), "there are only 9 fits"),
    ],
)
def test_options_of_a_part_are_checked(folder, short, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    _, said = run("compare", folder / "t.csv", *OPTIONS, *options, code=1)
    assert message in said and not list(tmp_path.iterdir())


def test_results_are_written_without_loss():
    numbers = np.array([[np.nan, 0.1], [-np.inf, 1e-310]])
    error = MonteCarloError(
        "chains", 3, 2, numbers, numbers[0], None, None, float("nan"), np.zeros((0, 2), np.float32), None
    )
    setting = Setting("Ensemble(size=20)", "--set size=20")
    scores = {"nll": Score(0.1, float("inf"), numbers[:, 0]), "ece": Score(1e-3, 0.0, None)}
    fold = FoldScores(scores, (numbers, numbers > 0, numbers[0]), {"a": {"b": 1}}, 0.25, error, setting, True)
    text = json.dumps(comparison_parts._encode(fold), allow_nan=False)
    again = comparison_parts._decode(json.loads(text))
    np.testing.assert_equal(again.unsure.__dict__, error.__dict__)
    assert again.unsure.rhat.dtype == np.float32 and again.residuals[1].dtype == bool
    np.testing.assert_equal(again._replace(unsure=None), fold._replace(unsure=None))
    failed = comparison_parts._decode(comparison_parts._encode({"a": ImportError("x"), "b": KeyError("y")}))
    assert [(type(each), str(each)) for each in failed.values()] == [(ImportError, "x"), (ValueError, "'y'")]
