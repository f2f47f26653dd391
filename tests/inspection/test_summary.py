"""What ``dubito inspect`` reports on a real model, and what it adds to a divergence."""

import re

import jax
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris

import dubito
from dubito import elbo
from dubito.inspection.summary import inspect_model, report_divergence


@pytest.fixture(scope="module")
def regressor():
    x, y = load_diabetes(return_X_y=True)
    return dubito.BayesianRegressor(dubito.BayesByBackprop(epochs=20), hidden=(8, 6), random_state=0).fit(x, y), x, y


@pytest.mark.slow
def test_inspect_model_on_its_table(regressor):
    model, x, y = regressor
    text, found = inspect_model(model, x, y)
    assert "layer_0.w" in text and "10 × 8" in text and "noise on its product" in text
    assert "−log p(D, θ) per example on 442 rows" in text and "Nothing is wrong with the gradients." in text
    params = model.posterior_.mean
    rows = model.scaler_.transform(y[:, None])
    batch = dubito.models.model.Batch(
        model.schema_.encode(x), rows, np.ones(442, np.float32), np.float32(1), np.float32(442)
    )
    assert float(found.value) == pytest.approx(-float(model.posterior_.model.log_joint(params, batch)) / 442, rel=1e-5)
    cost = found.costs
    assert f"({cost.columns:,} passes)" in text and cost.rows == 1


@pytest.mark.slow
def test_inspect_model_reports_the_evidence_or_its_bound(regressor):
    model, x, y = regressor
    rows = model.schema_.encode(x), model.scaler_.transform(y[:, None])
    bound = elbo.elbo(model.posterior_, *rows, key=jax.random.key(0), draws=1000)
    found = re.search(r"log p\(D\) ≥ (-[\d.]+) ± ([\d.]+) nats", inspect_model(model, x, y)[0])
    assert abs(float(found[1]) - bound.value) < 4.6 * np.hypot(float(found[2]), bound.se) + 0.1
    assert "nats" not in inspect_model(model, x)[0].splitlines()[-1]
    fitted = dubito.BayesianRegressor(
        dubito.LaplaceApproximation(dubito.MAP(epochs=5)), hidden=(8, 6), random_state=0
    ).fit(x, y)
    assert f"log p(D) = {float(fitted.posterior_.log_evidence):.1f} nats" in inspect_model(fitted)[0]


def test_inspect_model_without_a_table_or_target(regressor):
    model, x, _ = regressor
    text, found = inspect_model(model, unfold="layer_1")
    assert "on 16 rows of standard normal numbers:" in text and found.value.shape == (16, 1)
    assert "silu" in text and "rms gradient" not in text
    text, found = inspect_model(model, x[:50])
    assert "The network on 50 rows:" in text and found.value.shape == (50, 1)
    np.testing.assert_allclose(
        found.value,
        model.posterior_.model.network.apply(model.posterior_.mean["network"], model.schema_.encode(x[:50])),
        rtol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", [dubito.MCDropout(epochs=20), dubito.Ensemble(dubito.MAP(epochs=20), 2)], ids=repr)
def test_inspect_model_of_classifiers(method):
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    text, _ = inspect_model(dubito.BayesianClassifier(method, random_state=0).fit(x, names), x, names)
    assert "likelihood" in text and "rms slope" in text


@pytest.mark.slow
def test_inspect_model_of_a_mean_and_noise_network():
    x, y = load_diabetes(return_X_y=True)
    method = dubito.CrossFit(dubito.MAP(epochs=5), 2)
    text, found = inspect_model(dubito.BayesianRegressor(method, hidden=(8,), random_state=0).fit(x, y), x, y, "mean")
    assert {"mean", "noise"} <= {node.scope[0] for node in found.nodes if node.scope and node.name != "input"}
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert {"mean.layer_0", "mean.layer_1", "noise.layer_0", "noise.shape.layer_0"} <= rows.keys()
    assert rows["mean.layer_0"].count("%") == 2  # its dead and its saturated units


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dubito.DivergenceWarning")
@pytest.mark.parametrize("method", [dubito.MAP, dubito.MCDropout, dubito.BayesByBackprop])
def test_divergence_error_reports_the_gradients(method):
    x, y = load_diabetes(return_X_y=True)
    model = dubito.BayesianRegressor(method(epochs=20, learning_rate=1e30), hidden=(8, 6), random_state=0)
    with (
        pytest.raises(ValueError, match=r"(?s)Try learning_rate=.*The gradients at the last finite state:.*layer_0"),
        report_divergence(),
    ):
        model.fit(x, y)


def test_inspect_model_rejects_invalid_rows():
    x, y = load_diabetes(return_X_y=True)
    counts = np.arange(len(y)) % 5
    model = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), likelihood="poisson", random_state=0).fit(
        x, counts
    )
    for rows, target, words in (
        (
            x,
            np.where(np.arange(len(y)) == 3, -2, counts),
            r"Poisson takes whole numbers from 0 to 7·10¹⁰.* in row 3: the first has -2",
        ),
        (x, np.where(np.arange(len(y)) == 7, np.nan, counts), r"(?i)nan|missing"),
        (x[:0], counts[:0], "The table has no rows"),
        (x, counts[:-1], r"442"),
    ):
        with pytest.raises(ValueError, match=words):
            inspect_model(model, rows, target)
