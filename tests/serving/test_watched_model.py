"""The model of a file: replaced whole or not at all."""

import os
import threading
import time

import pytest

import dubito
from dubito.serving.metrics import Metrics
from dubito.serving.model_file import WatchedModel

import served_table  # isort: skip


@pytest.fixture
def path(tmp_path):
    served_table.model().save(tmp_path / "model.dubito")
    return tmp_path / "model.dubito"


def watched(path):
    notes = []
    return WatchedModel(path, dubito.load, 0.9, Metrics(), notes.append), notes


def loads(model):
    lines = model.metrics.text().splitlines()
    return {line.split('"')[1]: int(line.split()[-1]) for line in lines if line.startswith("dubito_model_loads_total")}


def watching():
    """Whether the thread runs: others, of libraries, come and go."""
    return any(thread.name == "dubito-model" for thread in threading.enumerate())


def test_a_replaced_file_is_loaded(path):
    model, notes = watched(path)
    first = model.current
    model.check()
    assert model.current is first and notes == []
    served_table.model("classification").save(path)
    model.check()
    assert model.current.estimator.task == "classification" and model.current.digest != first.digest
    assert model.problem is None and loads(model) == {"loaded": 2}
    assert "Loaded" in notes[0] and model.current.digest[:12] in notes[0]


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "removed", "a folder"])
def test_a_file_that_cannot_be_loaded_leaves_the_model(path, damage):
    model, notes = watched(path)
    first, whole = model.current, path.read_bytes()
    if damage in ("removed", "a folder"):
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage in ("cut", "changed", "emptied"):
        half = len(whole) // 2
        path.write_bytes({"cut": whole[:half], "changed": whole[:-1] + bytes([whole[-1] ^ 1]), "emptied": b""}[damage])
    for _ in range(3):
        model.check()
    assert model.current is first
    assert model.problem is not None and loads(model) == {"failed": 1, "loaded": 1}
    assert len(notes) == 1 and "still answers" in notes[0]
    assert "dubito_model_problem 1.0" in model.metrics.text()
    if damage == "a folder":
        path.rmdir()
    path.write_bytes(whole)
    model.check()
    assert model.problem is None and "dubito_model_problem 0.0" in model.metrics.text()
    assert model.current.digest == first.digest


def test_a_file_that_is_written_slowly_is_loaded_when_it_is_complete(path):
    model, _ = watched(path)
    first, whole = model.current, path.read_bytes()
    served_table.model("no held-out rows").save(path.with_name("other"))
    other = path.with_name("other").read_bytes()
    assert other != whole
    seen = []
    with open(path, "wb") as file:
        for start in range(0, len(other), len(other) // 4 + 1):
            file.write(other[start : start + len(other) // 4 + 1])
            file.flush()
            if start + len(other) // 4 + 1 < len(other):
                model.check()
                seen.append(model.current is first)
    model.check()
    assert all(seen) and len(seen) == 3
    assert model.current is not first and model.problem is None


def test_a_file_that_changes_while_it_is_loaded_is_loaded_again(path):
    kinds = iter(["classification", "no held-out rows"])

    def load(file):
        found = dubito.load(file)
        kind = next(kinds, None)
        if kind is not None and calls:
            served_table.model(kind).save(file)
        calls.append(found)
        return found

    calls = []
    model = WatchedModel(path, load, 0.9, Metrics(), lambda text: None)
    first = model.current
    served_table.model("two targets").save(path)
    model.check()
    assert model.current is first  # the file was replaced meanwhile
    model.check()
    assert model.current.estimator.task == "regression" and model.current.quantiles == {}


def test_the_thread_notices_a_replacement_and_ends(path):
    model, _ = watched(path)
    first = model.current
    model.watch()
    assert watching()
    served_table.model("classification").save(path)
    os.utime(path, (1, 1))  # an old time does not hide it
    deadline = time.monotonic() + 60
    while model.current is first and time.monotonic() < deadline:
        time.sleep(0.05)
    assert model.current.estimator.task == "classification"
    model.close()
    while watching() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not watching()


def test_a_broken_file_at_the_start_is_an_error(path):
    path.write_bytes(b"x")
    with pytest.raises(dubito.ModelFileError):
        watched(path)
