"""The options that describe a table on the command line: one table in every dialect, inputs that are chosen, columns that are kept."""

import csv
import gzip
import io
import json
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from command_line import SMALL, run
from rich.console import Console

import dubito
from dubito.cli import output_parts, progress
from dubito.training import progress as training_progress

HEADER = ["", "id", "x", "town", "day", "y"]


def rows(count=60):
    """The index of a frame, ids, a number, a text, a date and the target, which is a text in latin-1 in another column."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=count)
    for k in range(count):
        town = ("Zürich", "a;b", "Rome")[k % 3]
        yield [str(k), f"{k % 7:03d}", f"{x[k]:.4f}", town, f"2024-01-{k % 28 + 1:02d}", f"{3 * x[k] + k % 3:.4f}"]


def text(separator=",", decimal=".", end="\n", columns=HEADER):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    number = {"x", "y"}
    table = [dict(zip(HEADER, row, strict=True)) for row in rows()]
    writer.writerow(columns)
    writer.writerows([row[n].replace(".", decimal) if n in number else row[n] for n in columns] for row in table)
    return file.getvalue()


FILES = {
    "semicolon.csv": text(";", ",").encode("latin-1"),
    "tab.txt": text("\t", ",", "\r\n").encode("utf-16"),
    "bar.csv": text("|", ".", "\r").encode("utf-8-sig"),
    "packed.csv.gz": gzip.compress(text(";", ",", "\r").encode()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The table in several dialects, and a model of it."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "t.csv").write_text(text(), "utf-8")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    _, said = run("fit", folder / "t.csv", "-t", "y", *SMALL, "--drop", "id", "-o", folder / "m.dubito")
    assert said.count("Left out of the inputs: '' (an index of rows, without a name).") == 1
    assert dubito.load(folder / "m.dubito").summary_["dropped"] == ["id"]
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    out, said = run("predict", folder / "m.dubito", folder / "t.csv")
    assert said == ""  # neither the target, the dropped column nor the index is worth a note
    return out


@pytest.mark.parametrize("name", FILES)
def test_predict_gives_the_same_bits_in_every_dialect(folder, expected, name):
    out, said = run("predict", folder / "m.dubito", folder / name)
    assert out == expected and "with the separator" in said and ("windows-1252" in said) == (name == "semicolon.csv")
    out, _ = run("predict", folder / "m.dubito", "-", data=FILES[name])
    assert out == expected


def test_fit_and_evaluate_give_the_same_numbers_in_every_dialect(folder, expected):
    options = ("-t", "y", *SMALL, "--drop", "id", "-o", folder / "s.dubito")
    _, said = run("fit", folder / "semicolon.csv", *options)
    assert "decimal commas in 'x', 'y'; --separator and --decimal would change that" in said and "--encoding" in said
    assert dubito.load(folder / "s.dubito").summary_["dialect"] == {
        "separator": ";",
        "decimal": ",",
        "encoding": "cp1252",
    }
    assert run("predict", folder / "s.dubito", folder / "semicolon.csv") == (expected, "")  # as in fit: no note
    assert run("predict", folder / "s.dubito", folder / "t.csv") == (expected, "")
    cards = [run("evaluate", folder / "s.dubito", folder / name, "--json")[0] for name in ("t.csv", *FILES)]
    assert len(set(cards)) == 1 and json.loads(cards[0])["n"] == 60


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "command",
    ["fit", "predict", "evaluate", "calibrate", "inspect", "card", pytest.param("compare", marks=pytest.mark.slow)],
)
def test_every_command_reads_a_pipe_and_says_once_that_it_leaves_out_the_index(folder, tmp_path, command):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(FILES["packed.csv.gz"]))
    writer.start()
    fits = command in ("fit", "compare")
    rest = {
        "fit": ("-t", "y", *SMALL, "-o", tmp_path / "n.dubito"),
        "compare": (
            "-t",
            "y",
            "--methods",
            "map,maximum-likelihood",
            "--folds",
            "2",
            "--hidden",
            "8",
            "--drop",
            "id",
        ),
        "calibrate": ("-o", tmp_path / "n.dubito"),
    }
    before = () if fits else (folder / "m.dubito",)
    _, said = run(command, *before, tmp_path / "pipe", *rest.get(command, ()))
    writer.join()
    assert "with the separator ';' and with decimal commas" in said
    assert said.count("Left out of the inputs: ''") == fits


def test_the_index_of_a_parquet_stream_is_left_out(folder, tmp_path):
    table = pa.table({"": range(60), "x": np.linspace(0, 1, 60), "id": ["a"] * 60, "y": np.linspace(0, 2, 60)})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    fit = ("fit", tmp_path / "t.parquet", "-t", "y", *SMALL, "--stream", "-o", tmp_path / "m.dubito")
    _, said = run(*fit, "--drop", "id")
    assert said.count("Left out of the inputs: ''") == 1
    model = dubito.load(tmp_path / "m.dubito")
    assert model.schema_.names == ("", "x") and model.summary_["dropped"] == ["id"]
    _, said = run("predict", tmp_path / "m.dubito", tmp_path / "t.parquet")
    assert said == ""
    _, said = run(*fit, "--drop", "idd", code=1)
    assert "has no column 'idd'; did you mean 'id'?" in said
    run(*fit, "--inputs", "x")
    assert dubito.load(tmp_path / "m.dubito").schema_.names == ("x",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--drop", "tonw"), "--drop: {} has no column 'tonw'; did you mean 'town'?"),
        (("--inputs", "x,tonw"), "--inputs: {} has no column 'tonw'; did you mean 'town'?"),
        (("--drop", "y"), "--drop names the target 'y'. Leave it out."),
        (("--drop", "x", "--inputs", "x"), "--drop and --inputs both name 'x'"),
        (
            ("--drop", ",".join(HEADER[1:-1]), "--drop", ""),
            "--drop and --inputs leave no column of {} beside the target 'y'",
        ),
        (("--separator", "::"), "--separator must be one character"),
        (("--encoding", "klingon"), "--encoding 'klingon' is unknown"),
        (("--sheet", "one"), "Leave out --sheet"),
    ],
)
def test_fit_refuses_impossible_choices(folder, tmp_path, options, words):
    _, said = run("fit", folder / "t.csv", "-t", "y", *SMALL, *options, "-o", tmp_path / "m", code=1)
    assert words.format(folder / "t.csv") in said and not (tmp_path / "m").exists()


def test_other_columns_are_ignored_with_one_note_and_missing_ones_are_named(folder, tmp_path, expected, monkeypatch):
    lines = text(columns=["town", "x", "y", "day"]).splitlines()
    path = tmp_path / "t.csv"
    path.write_text("\n".join(line + (",more" if k == 0 else ",1") for k, line in enumerate(lines)), "utf-8")
    monkeypatch.setattr(dubito.BayesianRegressor, "block_rows", 7)
    for options in ((), ("-o", tmp_path / "p.csv")):
        out, said = run("predict", folder / "m.dubito", path, *options)
        assert said.count("Ignored columns that were not in fit: 'more'.") == 1
        assert (out or (tmp_path / "p.csv").read_text()) == expected
    _, said = run("evaluate", folder / "m.dubito", path)
    assert said.count("Ignored columns that were not in fit: 'more'.") == 1
    path.write_text(text(columns=["town", "y", "day"]), "utf-8")
    _, said = run("predict", folder / "m.dubito", path, code=1)
    assert "now missing" in said and "x" in said.split("now missing")[1]


def test_predict_keeps_columns_unchanged(folder, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(dubito.BayesianRegressor, "block_rows", 7)
    monkeypatch.setattr(output_parts, "PART", 14)
    model, table = folder / "m.dubito", folder / "semicolon.csv"
    out, _ = run("predict", model, table, "--keep", "id,x", "--keep", "town")
    found = list(csv.reader(io.StringIO(out)))
    plain = list(csv.reader(io.StringIO(expected)))
    assert found[0] == ["id", "x", "town", *plain[0]] and [row[3:] for row in found] == plain
    assert [row[:3] for row in found[1:]] == [[row[1], row[2].replace(".", ","), row[3]] for row in rows()]
    run("predict", model, table, "--keep", "id,x,town", "-o", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == out
    run("predict", model, table, "--keep", "all", "-o", tmp_path / "p.parquet")
    whole = pa.parquet.read_table(tmp_path / "p.parquet")
    assert whole.column_names[:6] == HEADER and whole["id"].to_pylist() == [row[1] for row in rows()]
    _, said = run("predict", model, table, "--keep", "idd", code=1)
    assert "--keep: " in said and "has no column 'idd'; did you mean 'id'?" in said


def test_kept_texts_that_look_like_formulas_are_escaped(folder, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,x,town,day,mean\n=1+1,-0.5,Rome,2024-01-01,1\n-7,0.5,Rome,2024-01-02,2\n")
    out, _ = run("predict", folder / "m.dubito", path, "--keep", "id,x", "--safe-csv")
    assert [row[:2] for row in csv.reader(io.StringIO(out))][1:] == [["'=1+1", "'-0.5"], ["'-7", "0.5"]]
    _, said = run("predict", folder / "m.dubito", path, "--keep", "mean", code=1)
    assert "--keep 'mean': the predictions have a column of the same name" in said


def test_kept_columns_are_part_of_the_task_that_a_run_resumes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dubito.BayesianRegressor, "block_rows", 7)
    monkeypatch.setattr(output_parts, "PART", 14)
    whole, _ = run("predict", folder / "m.dubito", folder / "t.csv", "--keep", "id")
    predict = ("predict", folder / "m.dubito", folder / "t.csv", "-o", tmp_path / "p.csv")
    write = output_parts.ResumableOutput.tables
    monkeypatch.setattr(output_parts.ResumableOutput, "tables", lambda parts: (_ for _ in ()).throw(OSError("full")))
    run(*predict, "--keep", "id", code=1)
    monkeypatch.setattr(output_parts.ResumableOutput, "tables", write)
    _, said = run(*predict, "--keep", "id")
    assert "Resuming after row" in said and (tmp_path / "p.csv").read_text() == whole


def test_a_column_without_a_number_is_an_error_that_names_the_decimal(folder, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x;town;day;y\n" + "1,234;Rome;2024-01-01;1.5\n2,345;Rome;2024-01-02;2.5\n" * 3)
    _, said = run("fit", path, "-t", "y", *SMALL, "-o", tmp_path / "m", code=1)
    assert "column 'x' has only numbers, but '1,234' in row 0" in said and "--decimal ," in said
    run("fit", path, "-t", "y", *SMALL, "--decimal", ",", "-o", tmp_path / "m")
    _, said = run("fit", path, "-t", "x", *SMALL, "-o", tmp_path / "m", code=1)
    assert "column 'x' has only numbers, but '1,234' in row 0" in said
    _, said = run("predict", folder / "m.dubito", path, code=1)
    assert "now row 0 has '1,234'" in said and "use --decimal ," in said
    assert run("predict", folder / "m.dubito", path, "--decimal", ",", "--separator", ";")[1] == ""


def test_lines_are_printed_now_and_then_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(training_progress, "SECONDS", 0.05)
    file = io.StringIO()
    method = dubito.BayesByBackprop()
    report = type("Report", (), {})()
    vars(report).update(member=0, members=2, epoch=3, epochs=10, part=0.0, likelihood=[-0.61], penalty=[0.004])
    report.score = [float("nan")]
    with progress.follow_fit(Console(file=file), method) as add:
        add(report)
        time.sleep(0.3)
    lines = file.getvalue().splitlines()
    assert len(lines) >= 2 and lines[0].endswith(
        "s: 15 % of training · epoch 3 of 10 · log likelihood per row -0.610 · KL 0.004"
    )
    file = io.StringIO()
    report.score = [-0.7]
    with progress.follow_fit(Console(file=file), dubito.MAP()) as add:
        add(report)
        time.sleep(0.3)
    assert "KL" not in file.getvalue() and "held out -0.700" in file.getvalue()
    with progress.follow_fit(None, None) as add:
        assert add is None
    file = io.StringIO()
    with progress.count_fits(Console(file=file), 6) as done:
        done("map", 0)
        time.sleep(0.3)
    assert "1 of 6 fits · last: map, fold 1" in file.getvalue()


def test_classes_in_latin_1_are_read_and_scored_alike(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    lines = ['"x";"größe"', *(f"{v:.3f};{'groß' if v > 0 else 'klein'}".replace(".", ",") for v in x)]
    contents = {
        "latin.csv": "\n".join(lines).encode("latin-1"),
        "marked.csv": "\n".join(lines).encode("utf-8-sig"),
        "plain.csv": "\n".join(lines).replace(",", ".").replace(";", ",").encode(),
    }
    cards = []
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        _, said = run("fit", tmp_path / name, "-t", "größe", *SMALL, "-o", tmp_path / "m.dubito")
        assert "'größe' has 2 classes: groß, klein." in said
        cards += [
            run("evaluate", tmp_path / "m.dubito", tmp_path / other, "--json")[0]
            for other in contents
            if (tmp_path / other).exists()
        ]
    assert len(set(cards)) == 1 and json.loads(cards[0])["n"] == 60


def test_a_header_only_and_a_table_of_one_column_are_read(folder, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id;x;town;day;y\n")
    out, _ = run("predict", folder / "m.dubito", path, "--keep", "id")
    assert out == '"id","mean","std","epistemic_std","aleatoric_std","lower","upper"\n'
    path.write_text("x;y\n" + "".join(f"{k / 7:.3f};{k / 3:.3f}\n" for k in range(30)).replace(".", ","))
    run("fit", path, "-t", "y", *SMALL, "-o", tmp_path / "m.dubito")
    out = [run("predict", tmp_path / "m.dubito", "-", data=data)[0] for data in (b"x\n1.5\n2\n", b"x\r1.5\r2")]
    assert out[0] == out[1] and len(out[0].splitlines()) == 3
    assert run("predict", tmp_path / "m.dubito", "-", "--separator", ";", data=b"x\n1,5\n2,0\n")[0] == out[0]
    _, said = run("predict", tmp_path / "m.dubito", "-", data=b"x\n1,5\n2,0\n", code=1)
    assert "Expected 1 columns, got 2" in said and "name the --separator" in said


def test_quiet_prints_no_note(folder, expected):
    assert run("--quiet", "predict", folder / "m.dubito", folder / "semicolon.csv") == (expected, "")
