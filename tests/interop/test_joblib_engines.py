"""Comparisons and fits on Dask and Ray by ``joblib.parallel_config``: the bits of threads, lost workers, Ctrl-C."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = '''
import contextlib, json, os, pathlib, signal, sys, threading, time
import joblib
import numpy as np
import dubito
from dubito import cross_validation
from dubito._process import engines

X = np.random.default_rng(0).normal(size=(90, 3))
Y = X[:, 0] ** 2
ESTIMATORS = {
    "map": dubito.BayesianRegressor(dubito.MAP(epochs=20), random_state=0),
    "ensemble": dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=20), 3), random_state=1),
}


def compare():
    rows = cross_validation.compare(ESTIMATORS, X, Y, folds=3)
    return {row.name: {key: score.value.hex() for key, score in row.scores.items()} for row in rows}


def member_bits():
    model = dubito.BayesianRegressor(dubito.CrossFit(dubito.MAP(epochs=20), 3), random_state=0).fit(X, Y)
    return model.predictive(X).std.tobytes().hex()


def die_once(folder, item, stop):
    """Ends its worker the first time at item 1."""
    marker = pathlib.Path(folder) / "dead"
    if item == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return item


def wait(folder, item, stop):
    """Says that it has started, and whether the event has ended it."""
    place = pathlib.Path(folder) / f"{item}-{os.getpid()}"
    place.touch()
    for _ in range(600):
        if stop.is_set():
            place.write_text("ended")
            raise KeyboardInterrupt
        time.sleep(0.1)
    place.write_text("waited for nothing")


def interrupted(folder):
    """(the processes of the tasks that ran, what they said) after Ctrl-C."""
    def press():
        while len(os.listdir(folder)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    try:
        list(engines.run_tasks(engines.chosen_engine(), wait, folder, [0, 1, 2, 3], list("abcd")))
    except KeyboardInterrupt:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not all(map(over, pathlib.Path(folder).iterdir())):
            time.sleep(0.1)
        return [over(path) for path in pathlib.Path(folder).iterdir()]


def over(path):
    """Whether a task has ended, by itself or with its process."""
    return path.read_text() == "ended" or not os.path.exists(f"/proc/{path.name.split('-')[1]}")


@contextlib.contextmanager
def dask_engine():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        with joblib.parallel_config("dask"):
            yield


@contextlib.contextmanager
def ray_engine():
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    options = {"max_restarts": 1, "num_cpus": 1}  # the first is one of Ray's pools alone
    with joblib.parallel_config("ray", n_jobs=-1, ray_remote_args=options):
        yield
    ray.shutdown()


def nested():
    """What scikit-learn starts in a worker of the engine stays there."""
    from sklearn.model_selection import cross_val_score

    return list(cross_val_score(ESTIMATORS["ensemble"], X, Y, cv=2))


def main(engine, folder):
    here = {"compare": compare(), "members": member_bits(), "nested": nested()}
    (pathlib.Path(folder) / "lost").mkdir()
    (pathlib.Path(folder) / "interrupted").mkdir()
    with {"dask": dask_engine, "ray": ray_engine}[engine]():
        found = engines.chosen_engine()
        there = {"compare": compare(), "members": member_bits(), "nested": nested()}
        lost = engines.run_tasks(found, die_once, folder + "/lost", range(6), list("abcdef"))
        result = {
            "name": found.name,
            "same": {key: there[key] == value for key, value in here.items()},
            "lost": sorted(value for _, value in lost),
            "died": os.path.exists(folder + "/lost/dead"),
            "ended": interrupted(folder + "/interrupted"),
            "after": list(engines.run_tasks(found, die_once, folder + "/lost", [7], ["h"])),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
'''
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "engines.md"
MODULES = {"dask": "distributed", "ray": "ray"}


@pytest.mark.parametrize("engine", MODULES)
def test_an_engine_gives_what_this_process_gives(engine, tmp_path):
    pytest.importorskip(MODULES[engine])
    program, folder = tmp_path / "program.py", tmp_path / "folder"
    program.write_text(PROGRAM)
    folder.mkdir()
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    found = subprocess.run(
        [sys.executable, program, engine, folder], env=environment, capture_output=True, text=True, timeout=280
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout.splitlines()[-1])
    assert result["name"] == engine
    assert result["same"] == {"compare": True, "members": True, "nested": True}
    assert result["lost"] == [0, 1, 2, 3, 4, 5] and result["died"]
    assert result["ended"] == [True, True]
    assert result["after"] == [[0, 7]]


def test_the_program_of_the_guide_runs(tmp_path):
    pytest.importorskip("distributed", reason="a long program, run where frameworks are")
    _, text = PAGE.read_text().split("## Fits on an engine")
    program = tmp_path / "program.py"
    program.write_text(
        text.split("```python\n")[1].split("```")[0] + "    print(results[0].name, len(model.predict(X)))\n"
    )
    found = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=280)
    assert found.stdout in ("auto 442\n", "mc-dropout 442\n"), found.stderr
