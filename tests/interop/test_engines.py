"""The programs of the guide to engines, in one of whose workers a batch is the last: every row as `dubito predict` answers it."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from command_line import run
from pyarrow import parquet

import dubito

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "engines.md"
PROGRAMS = dict(
    re.findall(r"^## (\w+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
FILES, ROWS = 8, 3000  # rows of a file

# The predictor of the test notes each process that has a batch, and kills the first that has a second one, once.
MORTAL = """
import os, pathlib, signal
import dubito

FOLDER, opened = pathlib.Path({folder!r}), []

class BatchPredictor(dubito.BatchPredictor):
    def _open(self, rows, model):
        if len(rows):
            (FOLDER / f"worker-{{os.getpid()}}").touch()
            opened.append(len(rows))
        if len(opened) == 2:
            try:
                (FOLDER / "killed").open("x").write(str(os.getpid()))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return dubito.BatchPredictor._open(self, rows, model)
"""


def frame(rows, start, seed):
    rng = np.random.default_rng(seed)
    columns = {"id": np.arange(start, start + rows), "a": rng.normal(size=rows), "b": rng.integers(-9, 9, rows)}
    columns |= {
        "c": rng.uniform(size=rows) < 0.5,
        "city": np.array(["Oslo", "Rome", "007"])[rng.integers(3, size=rows)],
    }
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, rows in several files of which one has none, and the answers of `dubito predict` to all of them."""
    folder = tmp_path_factory.mktemp("engines")
    few = frame(200, 0, seed=1)
    y = np.where(few["a"] + np.sin(few["b"]) > 0, "high", "low")
    method = dubito.BayesByBackprop(epochs=3)
    model = dubito.BayesianClassifier(method, hidden=(8,), draws=5, random_state=0).fit(few.drop(columns="id"), y)
    model.save(folder / "model.dubito")
    (folder / "rows").mkdir()
    tables = [frame(ROWS * (number != 3), ROWS * number, seed=number) for number in range(FILES)]
    tables[3] = tables[2].head(0)
    for number, table in enumerate(tables):
        parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), folder / "rows" / f"{number}.parquet")
    pd.concat(tables).to_parquet(folder / "rows.parquet", index=False)
    run("predict", folder / "model.dubito", folder / "rows.parquet", "--keep", "id", "-o", folder / "expected.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["Dask", "Ray", "Spark"])
def test_program_of_the_guide_gives_the_answers_of_dubito_predict_although_a_worker_is_killed(folder, tmp_path, engine):
    package = {"Dask": "dask.dataframe", "Ray": "ray", "Spark": "pyspark"}[engine]
    pytest.importorskip(package, reason=f"{engine} is not installed")
    if engine == "Spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    shutil.copytree(folder / "rows", tmp_path / "rows")
    shutil.copy(folder / "model.dubito", tmp_path)
    (tmp_path / "mortal.py").write_text(MORTAL.format(folder=str(tmp_path)))
    program = f"import mortal\n{PROGRAMS[engine].replace('dubito.BatchPredictor(', 'mortal.BatchPredictor(')}"
    program = program.replace("16384", "1000")  # rows of a batch, so that tasks have several
    program = program.replace('"local[2]"', '"local[2, 4]"')  # four attempts for each task, as on a cluster
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join([str(tmp_path), str(pathlib.Path(dubito.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-5000:]
    workers = {path.name.removeprefix("worker-") for path in tmp_path.glob("worker-*")}
    assert (tmp_path / "killed").read_text() in workers and len(workers) > 1
    found, expected = parquet.read_table(tmp_path / "answers"), parquet.read_table(folder / "expected.parquet")
    assert found.num_rows == expected.num_rows == ROWS * (FILES - 1)
    assert set(expected.column_names) <= set(found.column_names)
    found = found.select(expected.column_names).sort_by("id").cast(expected.schema)
    assert found.equals(expected)
