"""Output files: checked before the work, written whole or not at all, and never over an input."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import dubito
from dubito._process import archive, output_files
from dubito.cli import terminal
from dubito.estimators.files import model_file
from dubito.tables import files, reading


@pytest.fixture
def table(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    return tmp_path / "t.csv"


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


# --- writing


def write(path, data=b"new"):
    with output_files.write_atomically(path) as file:
        file.write(data)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(143), OSError(28, "disk full")])
def test_write_atomically_leaves_the_old_file_after_any_exception(tmp_path, error):
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(type(error)), output_files.write_atomically(tmp_path / "f") as file:
        file.write(b"half")
        assert {pathlib.Path(path).parent for path in output_files.TEMPORARY} == {tmp_path}
        raise error
    assert (tmp_path / "f").read_bytes() == b"old" and listing(tmp_path) == ["f"] and not output_files.TEMPORARY


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_write_atomically_keeps_the_mode_from_the_first_byte(tmp_path, mode):
    (tmp_path / "f").touch()
    (tmp_path / "f").chmod(mode)
    with output_files.write_atomically(tmp_path / "f") as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == mode
        file.write(b"new")
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode and (tmp_path / "f").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "🎲" * 63 + "abc"])
def test_write_atomically_takes_names_of_255_bytes(tmp_path, name):
    assert len(os.fsencode(name)) == 255
    write(tmp_path / name)
    write(tmp_path / name, b"newer")
    assert listing(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"newer"


def test_write_atomically_names_the_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "goal")
    for name, words in (("none/f", "No such file"), (".", "it is a folder"), ("link", "use its target .*goal")):
        with pytest.raises(OSError, match=words) as caught:
            write(tmp_path / name)
        assert str(caught.value).endswith(repr(str(tmp_path / name)))
    assert listing(tmp_path) == ["link"]


def test_remove_temporary_files_deletes_those_of_writes_under_way(tmp_path):
    with pytest.raises(FileNotFoundError), output_files.write_atomically(tmp_path / "f") as file:
        file.write(b"half")
        assert len(listing(tmp_path)) == 1
        output_files.remove_temporary_files()
        assert listing(tmp_path) == []
    assert listing(tmp_path) == []


# --- checks before the work


def spellings(folder):
    """Other names of the file t.csv."""
    os.link(folder / "t.csv", folder / "hard.csv")
    (folder / "soft.csv").symlink_to("t.csv")
    (folder / "sub").mkdir()
    (folder / "loop").symlink_to(".")
    return ["t.csv", "./t.csv", "hard.csv", "soft.csv", "sub/../t.csv", "loop/t.csv", str(folder / "t.csv")]


@pytest.mark.parametrize("place", range(7))
def test_check_outputs_finds_the_input_under_every_name(table, monkeypatch, place):
    monkeypatch.chdir(table.parent)
    name = spellings(table.parent)[place]
    with pytest.raises(ValueError, match=f"--output {name} is the same file as TABLE and would overwrite it"):
        output_files.check_outputs({"TABLE": "t.csv"}, {"--output": name})


def test_check_outputs_finds_a_file_that_is_standard_input(table):
    code = "import sys; from dubito._process import output_files; output_files.check_outputs({'TABLE': '-'}, {'--output': sys.argv[1]})"
    with table.open() as stdin:
        done = subprocess.run([sys.executable, "-c", code, table], stdin=stdin, capture_output=True, text=True)
    assert "same file as TABLE" in done.stderr
    done = subprocess.run([sys.executable, "-c", code, table], input="", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_check_outputs_finds_two_outputs_that_are_one(table):
    folder = table.parent
    (folder / "loop").symlink_to(".")
    for one, other in (("m", "m"), ("m", "loop/m"), ("m", "M"), ("t.csv", "loop/t.csv"), ("\u00e9", "e\u0301")):
        with pytest.raises(ValueError, match=r"--checkpoint .* is the same file as --output"):
            output_files.check_outputs({}, {"--output": folder / one, "--checkpoint": folder / other})
    output_files.check_outputs(
        {"TABLE": table}, {"--output": folder / "m", "--checkpoint": folder / "n", "--report": None}
    )
    assert listing(folder) == ["loop", "t.csv"]


def test_check_outputs_refuses_what_cannot_be_written(table, monkeypatch):
    folder = table.parent
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    cases = {
        folder / "none" / "m": r"there is no folder .*none'\. Create it",
        table / "m": "there is no folder",
        folder: "it is a folder. Choose another",
        folder / "link": "symbolic link, not a regular file; use its target",
        folder / "pipe": "not a regular file",
        folder / ("x" * 256): "name too long",
        "a\0b": "null byte",
        pathlib.Path("s3://bucket/m"): "only local files can be written",
        "hdfs://host/m": "only local files can be written",
    }
    for path, words in cases.items():
        with pytest.raises(ValueError, match=words):
            output_files.check_outputs({"TABLE": table}, {"--output": path})
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ValueError, match="Read-only file system in the folder"):
        output_files.check_outputs({"TABLE": table}, {"--output": folder / "m"})
    with pytest.raises(ValueError, match="Read-only file system in the folder"):
        output_files.check_output_folder("--output", folder / "new" / "demo")
    for wrong in (table, table / "demo"):
        with pytest.raises(ValueError, match=r"t\.csv' is not a folder"):
            output_files.check_output_folder("--output", wrong)


def refuse(dir):
    raise OSError(30, "Read-only file system", str(dir))


# --- addresses


@pytest.mark.parametrize("scheme", ["s3", "gs", "http", "https", "hdfs", "file", "abfs"])
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_tables_are_never_read_from_an_address(scheme, ending):
    name = f"{scheme}://bucket/t.{ending}"
    for read in (reading.read_table, lambda path: next(files.read_blocks(path, files.FileColumns(None)))):
        with pytest.raises(dubito.DataError, match="only local files can be read"):
            read(name)


AUDIT = """
import sys
import dubito
from dubito.tables import files, reading, streams
heard = []
sys.addaudithook(lambda event, args: heard.append(event) if event.startswith("socket.") else None)
for read in (
    reading.read_table,
    lambda path: next(files.read_blocks(path, files.FileColumns(None))),
    lambda path: dubito.parquet_pieces(path, ["a"], "y"),
    lambda path: streams.learn_table(path, "y", "regression"),
):
    for name in ("s3://bucket/t.parquet", "gs://bucket/t.parquet", "http://127.0.0.1:9/t.parquet"):
        try:
            read(name)
        except dubito.DataError as error:
            print(error)
assert not heard, heard
"""


@pytest.mark.slow
def test_no_address_reaches_the_network():
    done = subprocess.run([sys.executable, "-c", AUDIT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12


def test_a_local_folder_may_be_called_like_a_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    parquet.write_table(pyarrow.table({"a": [1.0]}), tmp_path / "s3:" / "t.parquet")
    assert reading.read_table("s3:/t.parquet").num_rows == 1


# --- the terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\x07\x00\x7f\x9b", "a\\rb\\x07\\x00\\x7f\\x9b"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("größe\t模型\n🎲 ×", "größe\t模型\n🎲 ×"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert terminal.escape_control(text) == shown


# --- saving in spite of all


class Estimator:
    def __init__(self, fails):
        self.fails = fails

    def save(self, path):
        if self.fails(str(path)):
            raise dubito.ModelFileError(f"cannot write {str(path)!r}: No space left on device.")
        archive.write_archive(path, {}, {"a": np.zeros(1, np.float32)})


def test_a_model_that_cannot_be_saved_is_saved_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(dubito.ModelFileError, match=r"No space left .* was written to '(.*)' instead: move") as caught:
        model_file.save_or_fall_back(Estimator(lambda path: "wanted" in path), tmp_path / "wanted")
    (name,) = listing(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(dubito.ModelFileError, match=r"cannot write .*wanted': No space left on device\.$"):
        model_file.save_or_fall_back(Estimator(lambda path: True), tmp_path / "wanted")
