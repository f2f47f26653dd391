"""Checkpoints: a fit that was interrupted, however, goes on to the same bits."""

import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest
from command_line import SMALL, run

import dubito
from dubito._process import archive
from dubito.training import checkpoint, runs
from dubito.training.reports import history as collect_history

METHODS = [
    dubito.MAP(epochs=30),
    dubito.BayesByBackprop(epochs=30, batch_size=16),
    dubito.Ensemble(dubito.MCDropout(epochs=30), 3),
    dubito.CrossFit(dubito.MaximumLikelihood(epochs=20), 3),
]


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(checkpoint, "WRITE_INTERVAL", 0.0)
    monkeypatch.setattr(runs, "CHUNK_SECONDS", 0.0)  # chunks of one step: a run ends within epochs


def data(rows=100):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2))
    return x, np.sin(2 * x[:, :1]) + 0.1 * rng.normal(size=(rows, 1))


def model():
    return dubito.Model(dubito.mlp(2, (8,)), dubito.Gaussian(precision=4.0))


def bits(posterior):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior.sample(jax.random.key(3), 4))]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_resumed_is_uninterrupted(method, often, tmp_path):
    """Interrupted again and again after a few reports: the posterior and the history are those of one run."""
    x, y = data()
    key, reports = jax.random.key(1), []
    stopping = {"early_stopping": True, "n_iter_no_change": 25}
    whole = dubito.fit(model(), x, y, method, key=key, progress=reports.append, **stopping)
    path = tmp_path / "fit.checkpoint"
    interrupted = 0
    while True:
        told = []

        def progress(report, told=told, most=6 + 3 * interrupted):
            told.append(report)
            if len(told) == most:
                raise Stop

        try:
            again = dubito.fit(model(), x, y, method, key=key, progress=progress, checkpoint=path, **stopping)
            break
        except Stop:
            interrupted += 1
    assert interrupted > 1
    assert same(bits(whole), bits(again))
    assert same(collect_history(reports), collect_history(told))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m, x, y, k: (m, x + 1, y, k), "data"),
        (lambda m, x, y, k: (m, x, y, jax.random.key(2)), "key"),
        (lambda m, x, y, k: (dubito.Model(dubito.mlp(2, (8,)), dubito.Gaussian(precision=5.0)), x, y, k), "model"),
        (lambda m, x, y, k: (dubito.Model(dubito.mlp(2, (9,)), dubito.Gaussian(precision=4.0)), x, y, k), "model"),
    ],
)
def test_another_fits_checkpoint_is_refused(change, named, tmp_path):
    x, y = data()
    path = tmp_path / "fit.checkpoint"
    method = dubito.MAP(epochs=3)
    dubito.fit(model(), x, y, method, key=jax.random.key(1), checkpoint=path)
    before = path.read_bytes()
    other, x, y, key = change(model(), x, y, jax.random.key(1))
    with pytest.raises(dubito.CheckpointError, match=rf"belongs to another fit \(different {named}\). Delete"):
        dubito.fit(other, x, y, method, key=key, checkpoint=path)
    with pytest.raises(dubito.CheckpointError, match="different method"):
        dubito.fit(model(), *data(), dubito.MAP(epochs=4), key=jax.random.key(1), checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("spoil", [lambda b: b[:-5], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_broken_checkpoint_is_refused(spoil, tmp_path):
    x, y = data()
    path = tmp_path / "fit.checkpoint"
    dubito.fit(model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1), checkpoint=path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(dubito.CheckpointError, match="cannot resume from"):
        dubito.fit(model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1), checkpoint=path)


def test_a_checkpoint_of_other_states_is_refused(tmp_path):
    """As another version might have written it: whole, of the same fit, but with fewer numbers a member."""
    x, y = data()
    path = tmp_path / "fit.checkpoint"
    dubito.fit(model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1), checkpoint=path)
    config, arrays = archive.read_archive(path, checkpoint._expected)
    arrays["1.0.state"] = arrays["1.0.state"][:-3]
    config["shapes"]["1.0.state"] = [len(arrays["1.0.state"])]
    archive.write_archive(path, config, arrays)
    with pytest.raises(dubito.CheckpointError, match="written by another version"):
        dubito.fit(model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1), checkpoint=path)


@pytest.mark.slow
def test_a_model_file_is_no_checkpoint(tmp_path):
    x, y = data()
    path = tmp_path / "model.dubito"
    dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(x, y[:, 0]).save(path)
    with pytest.raises(dubito.CheckpointError, match="it is not a checkpoint"):
        dubito.fit(model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1), checkpoint=path)


def test_where_none_can_be_written_the_fit_goes_on(tmp_path):
    x, y = data()
    plain = dubito.fit(model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = dubito.fit(
            model(), x, y, dubito.MAP(epochs=3), key=jax.random.key(1), checkpoint=tmp_path / "no" / "folder"
        )
    assert caught and all(one.category is dubito.CheckpointWarning for one in caught)
    assert same(bits(plain), bits(kept))


def test_functions_of_the_users_own_count_by_name():
    """Another process has them at other addresses."""
    network = dubito.Network(lambda key: key, lambda params, x: x)
    again = dubito.Network(lambda key: key, lambda params, x: x)
    assert checkpoint.fingerprint(network) == checkpoint.fingerprint(again)
    assert checkpoint.fingerprint(network) != checkpoint.fingerprint(dubito.Network(data, bits))


FIT = """
import numpy as np, dubito
def fit_and_save(checkpoint, output):
    X = np.random.default_rng(0).normal(size=(200, 2))
    model = dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=400), 2), hidden=(8,), random_state=0)
    model.fit(X, X[:, 0] * X[:, 1], checkpoint=checkpoint)
    for name in ("seconds", "finished"):
        model.summary_.pop(name)
    model.save(output)
"""
SCRIPT = f"""{FIT}
import sys
from dubito.training import checkpoint, runs
checkpoint.WRITE_INTERVAL, runs.CHUNK_SECONDS = 0.0, 0.002
print("go", flush=True)
fit_and_save(*sys.argv[1:])
"""


def started(*arguments):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, arguments)], stdout=subprocess.PIPE)
    with process.stdout as lines:
        assert lines.readline() == b"go\n"
    return process


def wait_for(path, process):
    """Until there is a checkpoint, or the fit has ended: how long a start takes depends on the machine."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """kill -9 while it fits and writes: what is there is a whole checkpoint, and the end is that of one run."""
    rng = np.random.default_rng(0)
    names = {}
    exec(FIT, names)
    names["fit_and_save"](None, tmp_path / "whole")
    path = tmp_path / "fit.checkpoint"
    killed = 0
    for _ in range(2):
        process = started(path, tmp_path / "resumed")
        wait_for(path, process)
        time.sleep(rng.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() != 0
    assert killed and path.exists()
    names["fit_and_save"](path, tmp_path / "resumed")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "resumed").read_bytes()


EAGER = """
from dubito import __main__
from dubito.training import checkpoint
checkpoint.WRITE_INTERVAL = 0.0
__main__.main()
"""


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_the_command_goes_on(tmp_path):
    """Exit code 143; the command again ends with the model of one run, and the checkpoint is gone."""
    table = tmp_path / "table.csv"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2))
    np.savetxt(table, np.c_[x, x[:, 0] * x[:, 1]], delimiter=",", header="a,b,y", comments="")
    command = ["fit", str(table), "--target", "y", *SMALL[:2], "--set", "epochs=15000", *SMALL[-2:], "--checkpoint"]
    command += [str(tmp_path / "c"), "-o", str(tmp_path / "resumed")]
    process = subprocess.Popen([sys.executable, "-c", EAGER, *command], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "c", process)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert process.returncode == 143
    assert (tmp_path / "c").exists()
    run(*command)
    assert not (tmp_path / "c").exists()
    run(*command[:-4], "-o", tmp_path / "whole")
    a, b = (dubito.load(tmp_path / name) for name in ("whole", "resumed"))
    assert same(*[[np.asarray(leaf) for leaf in jax.tree.leaves(m.posterior_)] for m in (a, b)])


def test_the_model_is_not_its_own_checkpoint(tmp_path, monkeypatch):
    """The checkpoint is removed at the end: the same name for both would lose the model."""
    (tmp_path / "t.csv").write_text("a,y\n1,2\n2,3\n3,5\n")
    (tmp_path / "m").write_bytes(b"an older model")
    monkeypatch.chdir(tmp_path)
    _, error = run("fit", "t.csv", "--target", "y", "-o", "m", "--checkpoint", "./m", code=1)
    assert "--checkpoint m is the same file as --output and would overwrite it" in error
    assert (tmp_path / "m").read_bytes() == b"an older model"
