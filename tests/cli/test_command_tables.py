"""People's tables on the command line: missing targets, texts among numbers, unknown categories, quotes left open."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from command_line import SMALL, run

import dubito

TRAIN = ("--method", "map", "--set", "epochs=200", "--hidden", "8")


def write(path, **columns):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of x and town."""
    folder = tmp_path_factory.mktemp("tables")
    x = np.random.default_rng(0).normal(size=60)
    write(folder / "t.csv", x=x, town=["Bern", "Rome"] * 30, y=3 * x)
    run("fit", folder / "t.csv", "-t", "y", *SMALL, "-o", folder / "m.dubito")
    return folder


@pytest.mark.slow
def test_compare_scores_held_out_rows_with_missing_values(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=120)
    y = np.where(np.arange(120) % 4 == 0, 2.0, x) + 0.01 * rng.normal(
        size=120
    )  # what is missing, and that it is, tell y
    path = write(tmp_path / "t.csv", x=["" if row % 4 == 0 else f"{v:.4f}" for row, v in enumerate(x)], y=y)
    out, said = run("compare", path, "-t", "y", "--methods", "map", "--folds", "3", "--hidden", "8", "--json")
    assert (
        json.loads(out)["map"]["rmse"] < 0.2 and "Missing inputs, marked by a column of their own: 30 of 'x'." in said
    )
    _, said = run("compare", path, "-t", "y", "--methods", "map", "--missing", "error", code=1)
    assert "column 'x': " in said and "leave out --missing error" in said


@pytest.mark.slow
def test_a_missing_target_of_a_stream_is_left_out(folder, tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    for name, y in (("y", 2 * x), ("kind", np.where(x > 0, "up", "down"))):
        values = [None if row % 3 == 0 else value for row, value in enumerate(y.tolist())]
        path = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"x": x, name: pyarrow.array(values)}), path)
        _, said = run("fit", path, "-t", name, *SMALL, "--stream", "-o", tmp_path / "s.dubito")
        assert "133 rows" in said
        estimator = dubito.BayesianRegressor if name == "y" else dubito.BayesianClassifier
        with pytest.raises(
            dubito.DataError, match=rf"67 values of the target '{name}' are missing, first in rows 0, 3, 6"
        ):
            estimator(dubito.MAP(epochs=2), hidden=(4,)).fit_file(path, name)


@pytest.mark.parametrize("make", [pyarrow.array, lambda v: pyarrow.array(v).dictionary_encode()])
def test_a_null_of_a_dictionary_is_missing_in_fit_and_evaluate(tmp_path, make):
    x = np.arange(60.0)
    kinds = [None if row in (5, 40) else "high" if row > 30 else "low" for row in range(60)]
    pyarrow.parquet.write_table(pyarrow.table({"x": x, "kind": make(kinds)}), tmp_path / "t.parquet")
    _, said = run("fit", tmp_path / "t.parquet", "-t", "kind", *SMALL, "-o", tmp_path / "m.dubito")
    assert "Left out 2 of 60 rows" in said and "'kind' has 2 classes: high, low." in said
    out, said = run("evaluate", tmp_path / "m.dubito", tmp_path / "t.parquet", "--json")
    assert json.loads(out)["n"] == 58 and "Left out 2 of 60 rows" in said
    with pytest.raises(dubito.DataError, match="y: 2 missing, 0 infinite, in rows 5, 40"):
        dubito.BayesianClassifier(dubito.MAP(epochs=2), hidden=(4,)).fit(x[:, None], make(kinds))


@pytest.mark.parametrize("text", ["44.2%", "$5.21", "1,234", "about 3"])
def test_fit_names_the_text_among_numbers(folder, tmp_path, text):
    values = [f"{value:.2f}" for value in np.linspace(0, 9, 60)]
    values[17] = text
    path = write(tmp_path / "t.csv", z=values, y=np.linspace(0, 1, 60))
    _, said = run("fit", path, "-t", "y", *SMALL, "-o", tmp_path / "m.dubito", code=1)
    assert f"{text!r} in row 17 is not a plain number" in said and "--categorical z" in said
    run("fit", path, "-t", "y", *SMALL, "--categorical", "z", "-o", tmp_path / "m.dubito")
    (column,) = dubito.load(tmp_path / "m.dubito").schema_.columns
    assert len(column.categories) == 50 and column.pooled


@pytest.mark.parametrize("text", ["?", "unknown", "n.a.", "NA"])
def test_a_spelling_of_missing_is_missing_in_fit_and_predict(tmp_path, text):
    values = [*(f"{value:.2f}" for value in np.linspace(0, 9, 61)), text]
    path = write(tmp_path / "t.csv", z=values, y=np.linspace(0, 1, 62))
    _, said = run("fit", path, "-t", "y", *SMALL, "--missing", "error", "-o", tmp_path / "m.dubito", code=1)
    assert "column 'z': 1 missing, 0 infinite, in row 61" in said and "leave out --missing error" in said
    _, said = run("fit", path, "-t", "y", *SMALL, "-o", tmp_path / "m.dubito")
    assert "Missing inputs, marked by a column of their own: 1 of 'z'." in said
    model = dubito.load(tmp_path / "m.dubito")
    out, said = run("predict", tmp_path / "m.dubito", path)
    means = [float(row["mean"]) for row in csv.DictReader(out.splitlines())]
    assert "Missing" not in said and len(means) == 62  # there were some in fit
    z = [*(float(value) for value in values[:-1]), None]
    assert means == model.predict(pyarrow.table({"z": z})).tolist()


def test_fit_refuses_classes_that_are_numbers_as_text(tmp_path):
    path = write(tmp_path / "t.csv", x=range(40), y=[f"{1000 + row:,}" for row in range(40)])
    _, said = run("fit", path, "-t", "y", *SMALL, "-o", tmp_path / "m.dubito", code=1)
    assert "The target 'y' is text, but 40 of its 40 values are numbers; '1,000' in row 0 is not one" in said
    assert "--task classification" in said and not (tmp_path / "m.dubito").exists()


def test_commands_encode_unknown_categories_as_zeros_and_count_them(folder, tmp_path):
    towns = ["Bern", "Oslo", "Rome", "Oslo", "Paris"]
    path = write(tmp_path / "t.csv", x=[0.1] * 5, town=towns, y=[0.3] * 5)
    note = "Categories not seen in fit, encoded as zeros: 3 of 'town'."
    outs = []
    for arguments in (("predict",), ("predict", "-o", tmp_path / "p.csv"), ("evaluate",), ("inspect",), ("card",)):
        out, said = run(arguments[0], folder / "m.dubito", path, *arguments[1:])
        assert note in " ".join(said.split())
        outs.append(out)
    assert (tmp_path / "p.csv").read_text() == outs[0]
    model = dubito.load(folder / "m.dubito").set_params(handle_unknown="ignore")
    truth = model.predict(pyarrow.table({"x": [0.1] * 5, "town": towns}))
    np.testing.assert_array_equal([float(row["mean"]) for row in csv.DictReader(outs[0].splitlines())], truth)
    for command in ("predict", "evaluate", "inspect", "card"):
        _, said = run(command, folder / "m.dubito", path, "--unknown", "error", code=1)
        assert "'town' has the value 'Oslo' (row 1)" in said and "leave out --unknown error" in said
        assert "handle_unknown" not in said
    _, said = run("predict", folder / "m.dubito", path, "--unknown", "maybe", code=1)
    assert "--unknown must be ignore or error, got 'maybe'" in said


@pytest.mark.parametrize("command", ["fit", "predict", "evaluate", "calibrate", "compare"])
def test_every_command_names_the_row_of_an_open_quote(folder, tmp_path, command):
    rows = [f"0.{row},Bern,1.0" for row in range(10, 60)]
    rows[15] = '0.25,"Bern,1.0'
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,town,y", *rows, ""]))
    first = () if command in ("fit", "compare") else (folder / "m.dubito",)
    rest = {
        "fit": ("-t", "y", *SMALL, "-o", tmp_path / "n.dubito"),
        "compare": ("-t", "y"),
        "calibrate": ("-o", tmp_path / "n.dubito"),
        "predict": ("-o", tmp_path / "p.csv"),
    }
    _, said = run(command, *first, path, *rest.get(command, ()), code=1)
    assert 'the quoted cell that begins in row 15 with "Bern,1.0 is never closed' in " ".join(said.split())
    assert [each.name for each in tmp_path.iterdir()] == ["t.csv"]


def test_a_csv_is_evaluated_as_its_columns_were_at_fit(tmp_path):
    codes = [f"0{row % 3}1" for row in range(60)]
    path = write(tmp_path / "t.csv", code=codes, y=[row % 3 for row in range(60)])
    run("fit", path, "-t", "y", "--task", "regression", *TRAIN, "--categorical", "code", "-o", tmp_path / "m.dubito")
    out, said = run("evaluate", tmp_path / "m.dubito", path, "--json")
    assert json.loads(out)["rmse"] < 0.1 and "not seen" not in said


def test_header_only_and_target_only_tables_are_errors(folder, tmp_path):
    (tmp_path / "head.csv").write_text("x,town,y\n")
    (tmp_path / "only.csv").write_text("y\n1\n2\n")
    _, said = run("fit", tmp_path / "head.csv", "-t", "y", *SMALL, "-o", tmp_path / "m.dubito", code=1)
    assert "head.csv has a header but no rows" in said
    _, said = run("evaluate", folder / "m.dubito", tmp_path / "head.csv", code=1)
    assert "head.csv has a header but no rows" in said
    _, said = run("fit", tmp_path / "only.csv", "-t", "y", *SMALL, "-o", tmp_path / "m.dubito", code=1)
    assert "only.csv has no column beside the target 'y'" in said


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """A table with an index, ids, dates, holes, truth values and many categories; a model of it; new rows of it."""
    folder = tmp_path_factory.mktemp("messy")
    rng = np.random.default_rng(0)
    n = 240
    frame = pd.DataFrame(
        {
            "customer": [f"K-{k:05d}" for k in range(n)],
            "since": pd.date_range("2021-03-01", periods=n, freq="53h"),
            "income": np.where(rng.random(n) < 0.2, np.nan, rng.normal(3, 1, n).round(2)),
            "owner": np.where(rng.random(n) < 0.1, None, rng.random(n) < 0.5),
            "town": rng.choice(["Bern", "Rome", "Oslo"], n),
            "code": [f"c{int(k)}" for k in rng.integers(0, 70, n)],
        }
    )
    frame["y"] = frame.income.fillna(0) + (frame.town == "Rome") + 0.1 * rng.normal(size=n)
    new = frame[::3].copy()
    new.loc[new.index[:5], "town"] = ["Paris", "Paris", "Lima", None, None]
    new.loc[new.index[7], "code"] = "never"
    new.loc[new.index[9], "since"] = pd.NaT
    frame.to_csv(folder / "t.csv")
    new.to_csv(folder / "new.csv")
    _, said = run("fit", folder / "t.csv", "-t", "y", *TRAIN, "-o", folder / "m.dubito")
    return folder, said


def test_fit_notes_what_it_made_of_the_columns(messy):
    folder, said = messy
    for words in (
        "Left out of the inputs: '' (an index of rows, without a name), 'customer' (nearly every row has another text).",
        "The commonest categories have a column each, all rarer ones share one: 'code'.",
        "Missing inputs, marked by a column of their own: 49 of 'income', 18 of 'owner'.",
    ):
        assert words in said
    kinds = {column.name: column.kind for column in dubito.load(folder / "m.dubito").schema_.columns}
    assert list(kinds.values()) == ["left out", "left out", "time", "numeric", "boolean", "category", "category"]


def test_predict_and_estimators_answer_alike(messy, tmp_path):
    folder, _ = messy
    out, said = run("predict", folder / "m.dubito", folder / "new.csv")
    assert "Categories not seen in fit, encoded as zeros: 3 of 'town'." in said
    assert "encoded as their means or as no category: 1 of 'since', 2 of 'town'." in said
    means = [float(row["mean"]) for row in csv.DictReader(out.splitlines())]
    model = dubito.load(folder / "m.dubito")
    frame = pd.read_csv(folder / "new.csv", dtype={"customer": str})
    table = pyarrow.csv.read_csv(
        folder / "new.csv", convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    )
    for inputs in (frame.drop(columns="y").rename(columns={"Unnamed: 0": ""}), table.drop_columns("y")):
        with pytest.warns(dubito.DataWarning, match="1 of 'since', 2 of 'town'"):
            assert model.predict(inputs).tolist() == means
    reordered = frame[["y", "town", "code", "owner", "since", "income"]].assign(extra="new")
    reordered.to_csv(tmp_path / "r.csv", index=False)
    out, said = run("predict", folder / "m.dubito", tmp_path / "r.csv")
    assert [float(row["mean"]) for row in csv.DictReader(out.splitlines())] == means
    assert "Ignored columns that were not in fit: 'extra'." in said
    frame.drop(columns="town").to_csv(tmp_path / "gone.csv", index=False)
    _, said = run("predict", folder / "m.dubito", tmp_path / "gone.csv", code=1)
    assert "yet now missing:\n- town" in said
