"""Members in the tasks of an engine: the bits and the reports of threads."""

import jax
import joblib
import numpy as np
import pytest

import dubito
from dubito.training import runs
from dubito.training.reports import history

METHODS = {
    "ensemble": dubito.Ensemble(dubito.BayesByBackprop(epochs=8, batch_size=32), 5),
    "lengths": dubito.CrossFit(dubito.MaximumLikelihood(epochs=(4, 8), batch_size=32), 3, "constant", None),
    "noise": dubito.CrossFit(dubito.MAP(epochs=8), 3),
}


@pytest.fixture
def problem():
    x = np.random.default_rng(0).normal(size=(90, 2)).astype(np.float32)
    network = dubito.mlp(2, (8,), activation=lambda z: z * jax.nn.sigmoid(z))  # a function of this file
    return dubito.Model(network, dubito.HeteroscedasticGaussian()), x, np.sin(2 * x[:, :1])


@pytest.fixture
def sent(monkeypatch):
    """What was sent to engines."""
    found, run_tasks = [], runs.run_tasks

    def record(engine, function, shared, tasks, names):
        found.append(names)
        return run_tasks(engine, function, shared, tasks, names)

    monkeypatch.setattr(runs, "run_tasks", record)
    return found


def bits(posterior):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(posterior)]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_members_on_an_engine_have_the_same_bits_and_reports(problem, key, name, sent):
    found = []
    for backend in ("threading", "loky"):
        reports = []
        with joblib.parallel_config(backend, n_jobs=2):
            posterior = dubito.fit(*problem, METHODS[name], key=key, progress=reports.append)
        curves = history(reports)
        found.append((bits(posterior), [curve.tobytes() for curve in curves]))
        assert len(curves) == (5 if name == "ensemble" else 3)
    assert found[0] == found[1]
    assert sent and all(names[0].startswith("member") for names in sent)


@pytest.mark.slow
def test_members_that_diverge_are_left_out_on_an_engine_too(problem, key):
    model, x, y = problem
    method = dubito.Ensemble(dubito.MAP(epochs=3, learning_rate=1e30, optimizer="sgd"), 2)
    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(ValueError, match="training diverged at epoch 1"):
        dubito.fit(model, x, 1e6 * y, method, key=key)


def test_what_an_engine_cannot_keep_stays_in_this_process(problem, key, sent, tmp_path):
    method = dubito.Ensemble(dubito.MAP(epochs=2), 2)
    with joblib.parallel_config("loky", n_jobs=2):
        dubito.fit(*problem, dubito.MAP(epochs=2), key=key)  # one member
        dubito.fit(*problem, method, key=key, keep_on_interrupt=True)
        dubito.fit(*problem, method, key=key, checkpoint=tmp_path / "fit.checkpoint")
    assert sent == []


@pytest.mark.slow
def test_a_callback_that_raises_ends_the_fit(problem, key):
    def stop(report):
        raise KeyboardInterrupt

    with joblib.parallel_config("loky", n_jobs=2), pytest.raises(KeyboardInterrupt):
        dubito.fit(*problem, METHODS["ensemble"], key=key, progress=stop)
