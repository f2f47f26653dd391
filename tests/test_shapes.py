"""The shapes and types in annotations hold in fits, predictions and scores: jaxtyping and beartype check every call."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
# What dubito imports comes first: under the hook Python does not find the compiled files of any module.
import importlib, pkgutil, warnings
import annotations, arviz_stats.base, jax.extend, jinja2, matplotlib.backends.backend_agg, narwhals, optax, pandas, pyarrow.csv
import rich.console, safetensors.numpy, scipy.stats, sklearn.datasets, sklearn.isotonic, sklearn.model_selection, typer
from jaxtyping import install_import_hook

with install_import_hook("dubito", "annotations.check"):
    import dubito

    for module in pkgutil.walk_packages(dubito.__path__, "dubito."):
        if not module.name.endswith(("__main__", "serving.app", "serving.server")):  # these need the extra serve
            importlib.import_module(module.name)

import numpy as np
from dubito import metrics

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(24, 2))  # programs of test_model_file.py
y = X[:, 0] + 0.1 * rng.normal(size=24)
short = {"epochs": 2}
two = np.stack([y, -y], 1)
methods = {
    dubito.CrossFit(dubito.MaximumLikelihood(**short, batch_size=16), folds=2): two, dubito.MCDropout(**short): y,
    dubito.BayesByBackprop(**short): y, dubito.LaplaceApproximation(dubito.MAP(**short)): y,
    dubito.Ensemble(dubito.SWAG(epochs=4), 2): y, dubito.VariationalGaussian(**short, rank=2): y,
}
for method, targets in methods.items():
    model = dubito.BayesianRegressor(method, hidden=(4,), random_state=0).fit(X, targets)
    model.predict_interval(X)
    if targets is two:  # what is asked of a posterior's draws is the same for all
        answer = model.predictive(X)
        metrics.scorecard(answer, targets)
        answer.quantile([0.1, 0.9]), model.sample_y(X, 2)
labels = np.where(y > 0, "up", "down")
model = dubito.BayesianClassifier(dubito.MCDropout(**short), hidden=(4,), random_state=0).fit(X, labels)
metrics.scorecard(model.predictive(X), labels)
model.calibrate(X, labels).predict_proba(X)
print("checked")
"""


@pytest.mark.slow
def test_annotations_hold_in_fits_predictions_and_scores():
    pytest.importorskip("beartype")
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.stdout == "checked\n" and done.returncode == 0, done.stderr[-3000:]
