"""The guide to MLflow: its code, taken from the page, logs a model that predicts what the estimator predicts."""

import pathlib
import re

import numpy as np
import pandas as pd
import pytest
from short_default import shorten_fits

import dubito

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "mlflow.md"
pytestmark = [
    pytest.mark.skipif(not PAGE.exists(), reason="only a checkout has the documentation"),
    pytest.mark.filterwarnings("ignore:.*(type hint|input example):UserWarning"),  # advice
]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The names that the page's code leaves, and the folder in which it ran."""
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow-skinny")
    folder = tmp_path_factory.mktemp("mlflow")
    script, *blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (folder / re.match(r"# (\w+\.py)\n", script)[1]).write_text(script)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", (folder / "runs").as_uri())
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        shorten_fits(patch)
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
    return names, folder


def test_the_served_model_predicts_the_same_rows(logged):
    names, _ = logged
    rows = names["table"][names["last"]]
    model = dubito.load(logged[1] / "co2.dubito")
    expected = model.predictive(rows).to_pandas()
    pd.testing.assert_frame_equal(names["predictions"], expected, check_exact=True)
    lower, upper = model.predict_interval(rows, coverage=0.5)
    np.testing.assert_array_equal(names["narrow"][["lower", "upper"]], np.stack([lower, upper], axis=1))
    assert len(rows) == 52 and np.all(names["narrow"]["upper"] < expected["upper"])


def test_what_is_stored_is_a_script_and_the_model_file(logged):
    _, folder = logged
    stored = {path.name: path for path in (folder / "runs").rglob("artifacts/**/*") if path.is_file()}
    assert {"dubito_model.py", "co2.dubito", "card.md", "MLmodel"} <= set(stored)
    assert not [name for name in stored if name.endswith((".pkl", ".pickle"))]
    assert stored["co2.dubito"].read_bytes() == (folder / "co2.dubito").read_bytes()
    assert stored["card.md"].read_text().startswith("# Model card: `CO₂`")
    assert f"dubito=={dubito.__version__}" in stored["requirements.txt"].read_text().split()


def test_scores_of_the_run_are_those_of_held_out_rows(logged):
    import mlflow

    names, folder = logged
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        client = mlflow.MlflowClient((folder / "runs").as_uri())
        found = client.get_run(names["info"].run_id).data.metrics
    expected = dubito.metrics.scorecard(names["answer"], names["co2"][names["last"]])
    assert found == pytest.approx(expected) and found["n"] == 52
