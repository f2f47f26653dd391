"""Tables of any size from the command line: the same bits in any cut, parts that outlive an interruption, kept programs."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from command_line import run
from pyarrow import csv, parquet

import dubito
from dubito._process import threads
from dubito.cli import compilation_cache, output_parts, predict_file
from dubito.tables import files
from dubito.tables.changes import FILLED

ROWS = 3000
CITIES = ("Oslo", "Rome", "007")


def frame(rows=ROWS, seed=0):
    """Numbers, integers, truth values and texts, some of which look like numbers."""
    rng = np.random.default_rng(seed)
    city = np.array(CITIES)[rng.integers(3, size=rows)]
    city[: rows // 2] = "007"
    table = pd.DataFrame(
        {"a": rng.normal(size=rows), "b": rng.integers(-9, 9, rows), "c": rng.uniform(size=rows) < 0.5}
    )
    return table.assign(city=city)


def target(table):
    return table["a"] + np.sin(table["b"]) + table["c"] + (table["city"] == "Rome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_fits):
    """Models, and tables as Parquet and CSV that hold the target, too."""
    folder = tmp_path_factory.mktemp("streaming")
    table = frame(200, seed=1)
    table.loc[::3, "city"] = "Rome"
    method = dubito.BayesByBackprop(epochs=3)
    y = {"y": target(table), "kind": np.array(["low", "mid", "high"])[np.digitize(target(table), [0, 1])]}
    kinds = {"y": dubito.BayesianRegressor, "kind": dubito.BayesianClassifier}
    for name, kind in kinds.items():
        with quick_fits():
            model = kind(method, hidden=(8,), draws=5, random_state=0).fit(table, y[name])
        model.summary_ |= {"target": "y"}
        model.save(folder / f"{name}.dubito")
    whole = frame().assign(y=lambda table: target(table))
    whole.to_parquet(folder / "t.parquet")
    whole.to_csv(folder / "t.csv", index=False)
    return folder


def predicted(model, table, output, **cut):
    said = []
    options = predict_file.PredictOptions(said.append, **({"unknown": "ignore"} | cut))
    rows = predict_file.predict_file(model, table, output, options)
    return parquet.read_table(output) if output.suffix == ".parquet" else csv.read_csv(output), rows, said


@pytest.fixture
def small(monkeypatch):
    """Blocks and parts of other sizes than usual: as many parts as 3000 rows can have."""

    def cut(block, part):
        monkeypatch.setattr(dubito.BayesianRegressor, "block_rows", block)
        monkeypatch.setattr(dubito.BayesianClassifier, "block_rows", block)
        monkeypatch.setattr(output_parts, "PART", part)

    return cut


@pytest.mark.optimized
@pytest.mark.parametrize(("block", "part"), [(1024, 1024), (137, 500), (5000, 1)])
@pytest.mark.parametrize("name", ["y", "kind"])
def test_predict_file_gives_the_same_bits_for_any_block_and_part_size(folder, tmp_path, small, name, block, part):
    model = dubito.load(folder / f"{name}.dubito")
    answer = model.predictive(frame())
    small(block, part)
    for ending in ("parquet", "csv"):
        table, rows, said = predicted(folder / f"{name}.dubito", folder / f"t.{ending}", tmp_path / "out.parquet")
        assert rows == table.num_rows == ROWS and said == []
        if name == "kind":
            assert table["prediction"].to_pylist() == model.predict(frame()).tolist()
            expected = {f"p_{label}": answer.probs[:, k] for k, label in enumerate(model.classes_)}
            expected["mutual_information"] = answer.mutual_information
        else:
            lower, upper = answer.interval(0.9)
            expected = {"mean": answer.mean, "std": answer.std, "lower": lower, "upper": upper}
        for column, values in expected.items():
            np.testing.assert_array_equal(table[column], values, err_msg=column)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.slow
def test_predict_file_writes_the_same_values_as_csv_and_parquet(folder, tmp_path, small):
    small(512, 1024)
    table, _, _ = predicted(folder / "kind.dubito", folder / "t.parquet", tmp_path / "out.parquet")
    again, _, _ = predicted(folder / "kind.dubito", folder / "t.parquet", tmp_path / "out.csv")
    expected = io.BytesIO()
    csv.write_csv(table, expected)
    assert (tmp_path / "out.csv").read_bytes() == expected.getvalue() and again.num_rows == ROWS


def test_in_threads_keeps_the_order():
    def slow(k):
        time.sleep(0.02 if k % 3 == 0 else 0)
        return k

    assert list(threads.in_threads(slow, range(20))) == list(range(20))
    with pytest.raises(ZeroDivisionError):
        list(threads.in_threads(lambda k: 1 // (k - 5), range(20)))
    before = threading.active_count()
    next(iter(threads.in_threads(slow, range(20))))
    assert threading.active_count() <= before + 1


# --- reading


def read(path, schema, rows=2, target=None, skip=0):
    columns = files.FileColumns(schema, target)
    return [(start, table.to_pydict()) for table, start in files.read_blocks(path, columns, rows, skip)]


@pytest.fixture(scope="module")
def schema(folder):
    return dubito.load(folder / "y.dubito").schema_


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_is_read_as_the_columns_were_at_fit(tmp_path, schema):
    lines = ("a,b,c,city,y", "1,2,true,007,-", " .5 ,1,FALSE,Oslo,é", "inf,,1,,x", 'NaN,"3",0,"a\nb",')
    found = read(written(tmp_path / "t.csv", "\ufeff" + "\r\n".join(lines)), schema, target="y")
    first = {"a": [1, 0.5], "b": [2, 1], "c": [True, False], "city": ["007", "Oslo"]}
    assert found == [(0, first), (2, {"a": [np.inf, None], "b": [None, 3], "c": [True, False], "city": [None, "a\nb"]})]
    tsv = written(tmp_path / "t.tsv", "\n".join(lines[:3]).replace(",", "\t"))
    assert read(tsv, schema, target="y") == [(0, first)]
    assert read(tsv, schema, target="y", skip=1)[0] == (1, {name: column[1:] for name, column in first.items()})


def test_predict_file_of_no_rows_has_all_columns(tmp_path, folder, schema):
    for text in ("a,b,c,city", "a,b,c,city\n", "\na,b,c,city\n\n"):
        path = written(tmp_path / "t.csv", text)
        assert read(path, schema) == [(0, {name: [] for name in ("a", "b", "c", "city")})]
        table, rows, _ = predicted(folder / "kind.dubito", path, tmp_path / "out.parquet")
        assert rows == 0 and table.schema.field("prediction").type == pa.string()
    frame(0).to_parquet(tmp_path / "t.parquet")
    assert predicted(folder / "y.dubito", tmp_path / "t.parquet", tmp_path / "out.csv")[1] == 0
    assert (tmp_path / "out.csv").read_text().startswith('"mean","std"')


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("none.csv", None, "none.csv cannot be read"),
        ("none.parquet", None, "none.parquet cannot be read"),
        ("t.csv", b"", "t.csv cannot be read.*empty"),
        ("t.parquet", b"PAR1", "t.parquet cannot be read"),
        ("t.csv", b"a,b\n1,2,3\n", "Expected 2 columns, got 3"),
        ("t.csv", b"a,a\n1,2\n", "several columns are named a"),
        (
            "t.csv",
            "é,b\n1,\n".encode() + b"2,\xe9\n",
            "byte 0xe9 at position 10 is not UTF-8, as the text before it is",
        ),
        ("t.csv", b"a,b\n1,2\n1,2\n3,1e\n", r"'b' was numeric at fit; now row 2 has '1e'"),
        ("t.csv", b"a,c\n1,true\n1,2\n2,no\n", "'c' was boolean at fit; now row 2 has 'no'"),
        ("t.xls", b"", "only .csv, .tsv, .txt, .xlsx and .parquet"),
    ],
)
def test_read_blocks_says_what_is_wrong_with_a_table(tmp_path, schema, name, data, words):
    if data is not None:
        written(tmp_path / name, data)
    with pytest.raises(dubito.DataError, match=words):
        read(tmp_path / name, schema, rows=1 if b"1e" in (data or b"") else 3)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("a", np.nan, "column 'a': 1 missing, 0 infinite, in row 2500"),
        ("city", "Bonn", r"'city' has the value 'Bonn' \(row 2500\)"),
        ("c", 7.0, r"'c' was boolean at fit; now row 2500 has the value 7.0"),
    ],
)
def test_errors_name_the_row_of_the_whole_table(folder, tmp_path, small, column, value, words):
    small(1024, 1024)
    shutil.copy(folder / "y.dubito", tmp_path / "m.dubito")
    table = frame().astype({"c": float})
    table.loc[2500, column] = value
    for name, write in (("t.parquet", table.to_parquet), ("t.csv", lambda path: table.to_csv(path, index=False))):
        write(tmp_path / name)
        with pytest.raises(dubito.DataError, match=words):
            predicted(tmp_path / "m.dubito", tmp_path / name, tmp_path / "out.csv", unknown="error", missing="error")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.dubito", "t.csv", "t.parquet"]


def test_predict_file_fills_blocks_without_any_value(folder, tmp_path, small):
    """Also where a whole block of truth values or texts is missing, which then have another type."""
    table, columns = frame(), ("a", "b", "c", "city")
    for column in columns:
        table[column] = table[column].astype(object)
        table.loc[1024:2100, column] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    small(512, 512)
    found, _, said = predicted(folder / "y.dubito", tmp_path / "t.csv", tmp_path / "out.csv")
    assert said == [f"{FILLED}: {', '.join(f'1077 of {column!r}' for column in columns)}."]
    model = dubito.load(folder / "y.dubito")
    with pytest.warns(dubito.DataWarning, match="1077 of 'a', 1077 of 'b', 1077 of 'c', 1077 of 'city'"):
        assert found["mean"].to_pylist() == model.predict(table[list(model.schema_.names)]).tolist()


# --- parts


class Stop(BaseException):
    """Something that no code expects: what a kill leaves is there, minus the handlers."""


def places(path):
    """(first byte, number of bytes) of each part in a file of parts, by its description."""
    data, found = path.read_bytes(), []
    start = data.index(b"\n") + 1
    while start < len(data):
        line = data[start : data.index(b"\n", start) + 1]
        found.append((start + len(line), int(line.split()[0])))
        start = sum(found[-1])
    return found


def interrupted(error, after, monkeypatch):
    """Predictions end with ``error`` after so many blocks."""
    answers = predict_file.predict_blocks

    def some(*arguments, **options):
        for place, answer in enumerate(answers(*arguments, **options)):
            if place == after:
                raise error
            yield answer

    monkeypatch.setattr(predict_file, "predict_blocks", some)
    return answers


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError("No space left on device")])
def test_predict_resumes_after_an_interruption(folder, tmp_path, small, monkeypatch, error):
    expected, _, _ = predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "expected.parquet")
    small(256, 512)
    output, parts = tmp_path / "out.parquet", tmp_path / ".out.parquet.parts"
    with monkeypatch.context() as patch:
        interrupted(error, 7, patch)
        with pytest.raises(type(error)):
            predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert not output.exists() and len(places(parts)) == 3
    calls, answers = [], predict_file.predict_blocks
    monkeypatch.setattr(
        predict_file, "predict_blocks", lambda *given, **more: calls.append(more["skip"]) or answers(*given, **more)
    )
    found, rows, said = predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert calls == [1536] and rows == ROWS and found == expected
    assert "row 1536" in said[0] and not parts.exists()


@pytest.mark.parametrize("change", ["coverage", "model", "table", "damage", "manifest"])
def test_predict_discards_the_parts_of_another_task(folder, tmp_path, small, monkeypatch, change):
    small(256, 512)
    model, table, output = tmp_path / "m.dubito", tmp_path / "t.parquet", tmp_path / "out.parquet"
    written(model, (folder / "y.dubito").read_bytes())
    frame().to_parquet(table)
    with monkeypatch.context() as patch:
        interrupted(KeyboardInterrupt(), 7, patch)
        with pytest.raises(KeyboardInterrupt):
            predicted(model, table, output)
    parts = tmp_path / ".out.parquet.parts"
    if change == "model":
        few = frame(99).astype({"city": "category"})  # texts, though most of them look like numbers
        dubito.BayesianRegressor(dubito.MAP(epochs=2), random_state=1).fit(few, target(few)).save(model)
    elif change == "table":
        frame(seed=5).to_parquet(table)
    elif change == "damage":
        os.truncate(parts, sum(places(parts)[0]) - 100)
    elif change == "manifest":
        os.truncate(parts, 100)
    coverage = 0.5 if change == "coverage" else 0.9
    found, _, said = predicted(model, table, output, coverage=coverage)
    assert ("damaged: the rows from 0 on" if change == "damage" else "Discarded") in said[0]
    assert found == predicted(model, table, tmp_path / "again.parquet", coverage=coverage)[0]


def test_predict_computes_a_damaged_part_again(folder, tmp_path, small, monkeypatch):
    """One bit of a number in the second of three parts: Arrow reads it without complaint."""
    expected, _, _ = predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "expected.parquet")
    small(256, 512)
    output = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        interrupted(KeyboardInterrupt(), 7, patch)
        with pytest.raises(KeyboardInterrupt):
            predicted(folder / "y.dubito", folder / "t.parquet", output)
    parts = tmp_path / ".out.parquet.parts"
    data = bytearray(parts.read_bytes())
    place = data.index(expected["mean"].to_numpy()[600].tobytes())
    assert places(parts)[1][0] < place < places(parts)[2][0]
    data[place] ^= 1
    parts.write_bytes(data)
    found, _, said = predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert "damaged: the rows from 512 on" in said[0] and said[1] == "Resuming after row 512 of an earlier run."
    assert found == expected and sorted(path.name for path in tmp_path.iterdir()) == ["expected.parquet", "out.parquet"]


def test_predict_writes_no_output_without_a_part_that_was_damaged_meanwhile(folder, tmp_path, small, monkeypatch):
    small(256, 512)
    output, answers = tmp_path / "out.parquet", predict_file.predict_blocks

    def some(*arguments, **options):
        yield from answers(*arguments, **options)
        parts = tmp_path / ".out.parquet.parts"
        os.truncate(parts, parts.stat().st_size - 1)

    with monkeypatch.context() as patch:
        patch.setattr(predict_file, "predict_blocks", some)
        with pytest.raises(OSError, match="was changed meanwhile: run the same command again"):
            predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert not output.exists()
    found, _, said = predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert (
        "damaged" in said[0]
        and found == predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "b.parquet")[0]
    )


@pytest.mark.parametrize("content", ["folder", "link", '{"mine": true}'])
def test_predict_leaves_a_file_that_it_did_not_make(folder, tmp_path, small, content):
    small(256, 512)
    own = tmp_path / ".out.parquet.parts"
    if content == "folder":
        own.mkdir()
    elif content == "link":
        own.symlink_to("nowhere")
    else:
        own.write_text(content)
    _, rows, _ = predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "out.parquet")
    assert rows == ROWS and (own.is_dir(), own.is_symlink()) == (content == "folder", content == "link")
    assert content in ("folder", "link") or own.read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [own.name, "out.parquet"]


@pytest.mark.parametrize("length", [0, 20])
def test_predict_resumes_from_a_file_whose_first_line_was_cut(folder, tmp_path, small, length):
    """As after a kill between the creation of the file and the end of the first write."""
    small(256, 512)
    (tmp_path / ".out.parquet.parts").write_bytes(output_parts.MARK[:length])
    _, rows, _ = predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "out.parquet")
    assert rows == ROWS and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_predict_says_that_another_run_writes_the_output(folder, tmp_path, small, monkeypatch):
    small(256, 512)
    output, answers = tmp_path / "out.parquet", predict_file.predict_blocks
    told = []

    def some(*arguments, **options):
        for place, answer in enumerate(answers(*arguments, **options)):
            if place == 7:  # three parts are written
                monkeypatch.setattr(predict_file, "predict_blocks", answers)
                with pytest.raises(ValueError, match=r"another run is writing .*out\.parquet now") as caught:
                    predicted(folder / "y.dubito", folder / "t.parquet", output)
                told.append(caught.value)
            yield answer

    monkeypatch.setattr(predict_file, "predict_blocks", some)
    found, rows, _ = predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert told and rows == ROWS and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert found == predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "again.parquet")[0]


@pytest.mark.parametrize("part", [512, 5000])
@pytest.mark.parametrize("name", ["x" * 247 + ".parquet", "é" * 123 + "x.parquet"])
def test_predict_writes_names_of_255_bytes_and_keeps_the_mode(folder, tmp_path, small, name, part):
    small(256, part)
    output = written(tmp_path / name, "old")
    output.chmod(0o600)
    assert len(os.fsencode(name)) == 255
    predicted(folder / "y.dubito", folder / "t.parquet", output)
    assert output.stat().st_mode & 0o777 == 0o600 and [path.name for path in tmp_path.iterdir()] == [name]


def test_predict_does_not_replace_a_link(folder, tmp_path):
    (tmp_path / "out.csv").symlink_to("other.csv")
    with pytest.raises(OSError, match="a symbolic link, not a regular file; use its target"):
        predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@x", "\ttab", "\rreturn", "plain", "a=b", "", None]


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_safe_csv_marks_texts_that_spreadsheets_run(kind):
    column = pa.array(FORMULAS)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
    table = pa.table([column, pa.array([-1.5] * 10)], ["=name", "-"])
    safe = predict_file.with_safe_texts(table)
    assert safe.column_names == ["'=name", "'-"]
    assert safe.column(0).to_pylist() == [f"'{text}" for text in FORMULAS[:6]] + FORMULAS[6:]
    assert safe.column(1).to_pylist() == [-1.5] * 10


def test_a_small_table_makes_no_file_of_parts(folder, tmp_path, small, monkeypatch):
    small(1000, ROWS)
    monkeypatch.setattr(output_parts.ResumableOutput, "_flush", None)
    predicted(folder / "y.dubito", folder / "t.parquet", tmp_path / "out.parquet")


KILLED = """
import sys, time
from dubito import BayesianRegressor
from dubito.cli import output_parts, predict_file
BayesianRegressor.block_rows, output_parts.PART = 100, 300
add = predict_file.ResumableOutput.add
def slow(parts, *given):
    print(parts.rows, flush=True)
    time.sleep(0.01)
    add(parts, *given)
predict_file.ResumableOutput.add = slow
from dubito.__main__ import main
main()
"""


@pytest.mark.slow
def test_signals_leave_no_half_output(folder, tmp_path, small):
    """A kill in the middle, then Ctrl-C after a thousand rows more, then, in this process, to the end."""
    output = written(tmp_path / "out.csv", "the old one")
    arguments = ["predict", folder / "y.dubito", folder / "t.csv", "-o", output]
    program, reached = [sys.executable, "-c", KILLED, *map(str, arguments)], []
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            reached.append(int(child.stdout.readline()))
            while int(child.stdout.readline()) < reached[-1] + 1000:
                pass
            child.send_signal(number)
            _, errors = child.communicate(timeout=60)
        assert child.returncode == code
        assert output.read_text() == "the old one"
        assert number == signal.SIGKILL or "Run the same command to resume." in errors
    small(100, 300)  # as in the processes
    _, said = run(*arguments)
    reached.append(int(re.search(r"Resuming after row (\d+) of an earlier run", said)[1]))
    assert reached[0] == 0 and reached[1] >= 900 and reached[1] + 900 <= reached[2] and f"({ROWS} rows)" in said
    expected, _, _ = predicted(folder / "y.dubito", folder / "t.csv", tmp_path / "expected.csv")
    assert csv.read_csv(output) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected.csv", "out.csv"]


# --- kept programs


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("DUBITO_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_cache_folder_follows_the_platform_and_the_environment(home, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert compilation_cache.folder() == home / ".cache" / "dubito"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "x"))
    assert compilation_cache.folder() == home / "x" / "dubito"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compilation_cache.folder() == home / "Library" / "Caches" / "dubito"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    assert compilation_cache.folder() == home / "local" / "dubito"
    monkeypatch.setenv("DUBITO_CACHE", str(home / "mine"))
    assert compilation_cache.folder() == home / "mine"
    monkeypatch.setenv("DUBITO_CACHE", "0")
    assert compilation_cache.folder() is None


def test_cache_deletes_the_oldest_programs_first(home, monkeypatch):
    monkeypatch.setattr(compilation_cache, "LIMIT", 250)
    place = home / compilation_cache.NAME / "cpu"
    place.mkdir(parents=True)
    for age in range(4):
        written(place / f"{age}-cache", b"x" * 100)
        written(place / f"{age}-cache.sha256", "x")
        os.utime(place / f"{age}-cache", (0, 1000 - age))
    written(place / "mine", b"x" * 1000)
    compilation_cache._prune(home / compilation_cache.NAME)
    left = ["0-cache", "0-cache.sha256", "1-cache", "1-cache.sha256", "mine"]
    assert sorted(path.name for path in place.iterdir()) == left


def used(said):
    """Where JAX is told to keep programs, with what the user is told."""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    compilation_cache.enable(said.append)
    return os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def test_cache_deletes_no_file_of_the_user(home, monkeypatch):
    """DUBITO_CACHE names a folder full of other programs' files, some of which are called as JAX calls its own."""
    monkeypatch.setenv("DUBITO_CACHE", str(home))
    monkeypatch.setattr(compilation_cache, "LIMIT", 0)
    for name in ("mozilla/a-cache", "pip/b-cache", "c-cache"):
        (home / name).parent.mkdir(exist_ok=True)
        written(home / name, b"x" * 100)
    said = []
    assert used(said) == str(home / compilation_cache.NAME / compilation_cache._processor()) and said == []
    assert all((home / name).exists() for name in ("mozilla/a-cache", "pip/b-cache", "c-cache"))
    (home / compilation_cache.NAME / compilation_cache.MARKER).unlink()
    assert used(said) is None and "contains other files" in said[0]


@pytest.mark.parametrize(
    ("where", "mode", "fine"),
    [("", 0o777, False), ("", 0o1777, True), ("", 0o755, True), ("own", 0o770, False), ("own", 0o755, True)],
)
def test_cache_that_others_can_write_to_is_not_used(home, monkeypatch, where, mode, fine):
    place, said = home / "mine", []
    monkeypatch.setenv("DUBITO_CACHE", str(place))
    assert used(said) is not None
    (place / compilation_cache.NAME if where else place).chmod(mode)
    assert (used(said) is not None) == fine
    assert said == [] if fine else "others can write to" in said[0] and "chmod 700" in said[0]


def test_cache_of_another_user_is_not_used(home, monkeypatch):
    said = []
    assert used(said) is not None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert used(said) is None and "others can write to" in said[0]


def test_cache_deletes_damaged_and_exchanged_programs(home):
    place = home / "cpu"
    place.mkdir()
    for name in "abcd":
        written(place / f"jit_{name}-00-cache", name * 100)
    compilation_cache._add_checksums(place, 0, os.getpid())
    written(place / "jit_a-00-cache", "b" * 100)  # a program, but another one's
    (place / "jit_b-00-cache.sha256").unlink()
    compilation_cache._delete_damaged(place)
    assert sorted(path.name for path in place.glob("*-cache")) == ["jit_c-00-cache", "jit_d-00-cache"]
    assert len(list(place.iterdir())) == 4


def fit_in_a_process(folder, cache, output):
    """The names of the stored programs after ``dubito fit`` with this folder of programs."""
    environment = {**os.environ, "DUBITO_CACHE": str(cache), "JAX_LOG_COMPILES": "0"}
    del environment["JAX_COMPILATION_CACHE_DIR"]  # the tests' own, which comes first
    program = [sys.executable, "-m", "dubito", *fit_arguments(folder, output)]
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "note" not in done.stderr and "rror" not in done.stderr, done.stderr
    return sorted(path.name for path in cache.glob("*/*/*-cache"))


def fit_arguments(folder, output):
    options = ["--method", "map", "--set", "epochs=2", "--hidden", "4", "--categorical", "city", "-o", str(output)]
    return ["fit", str(folder / "fit.csv"), "--target", "y", *options]


@pytest.mark.slow
def test_cache_reuses_programs_and_recovers_from_damaged_ones(folder, tmp_path):
    """A second process compiles and stores again a damaged program and a cut one, nothing else, and learns the same."""
    frame(100).assign(y=lambda table: target(table)).to_csv(folder / "fit.csv", index=False)

    def learned(name):
        return dubito.load(tmp_path / name).predict(frame(20)).tolist()

    run(*fit_arguments(folder, tmp_path / "plain"))  # in this process, which stores nothing in the user's folder
    kept = tmp_path / "kept"
    first = fit_in_a_process(folder, kept, tmp_path / "first")
    stored = {path: path.stat().st_mtime_ns for path in kept.glob("*/*/*-cache")}
    assert len(first) > 2 and learned("plain") == learned("first")
    flipped, cut = sorted(stored, key=lambda path: path.stat().st_size)[-2:]
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 255
    flipped.write_bytes(bytes(data))
    os.truncate(cut, cut.stat().st_size // 2)
    assert fit_in_a_process(folder, kept, tmp_path / "damaged") == first
    assert learned("damaged") == learned("plain")
    assert {path for path in stored if path.stat().st_mtime_ns != stored[path]} == {flipped, cut}
    assert all(zlib.decompress(path.read_bytes()) for path in (flipped, cut))
    compilation_cache._delete_damaged(flipped.parent)  # which deletes a program that does not have its checksum
    assert sorted(path.name for path in kept.glob("*/*/*-cache")) == first


def test_cache_folder_that_cannot_be_made_is_no_error(home, monkeypatch):
    monkeypatch.setenv("DUBITO_CACHE", str(written(home / "file", "in the way")))
    said = []
    assert used(said) is None and said == []
