"""What a fit with ``verbose=True`` prints to standard output, while it runs and at the end."""

import re
import threading
import time

import numpy as np
import pandas as pd
import pytest

import dubito
from dubito.training import progress

X = np.random.default_rng(0).normal(size=(40, 2))
SHOWN = re.compile(r"\d+ s: (preparing \(compiling\)|\d+ % of training · epoch \d+ of \d+( · .*)?)")


def regressor(epochs=3, **parameters):
    return dubito.BayesianRegressor(dubito.MAP(epochs=epochs, batch_size=16), hidden=(4,), random_state=0, **parameters)


def slow(report):
    time.sleep(0.1)


def test_verbose_fit_prints_its_progress_and_at_the_end_its_time_and_method(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.03)
    seen = []

    def both(report):
        slow(report)
        seen.append(report)

    model = regressor(verbose=True).fit(X, X[:, 0], progress=both)
    lines = capsys.readouterr().out.splitlines()
    seconds = model.summary_["seconds"]
    assert lines[-1] == f"Regression on 40 rows in {seconds:.1f} s: {model.method_!r}"
    assert len(lines) > 1 and all(SHOWN.fullmatch(line) for line in lines[:-1])
    assert " s: 100 % of training · epoch 3 of 3 · log likelihood per row" in lines[-2]
    assert sum(len(report.likelihood) for report in seen) == 3
    assert np.array_equal(model.predict(X), regressor().fit(X, X[:, 0]).predict(X))
    assert capsys.readouterr().out == ""  # False is the default


def test_verbose_shows_fits_of_files_and_of_classes(capsys, tmp_path):
    pd.DataFrame({"a": X[:, 0], "y": np.where(X[:, 1] > 0, "u", "v")}).to_parquet(tmp_path / "t.parquet")
    method = dubito.Ensemble(dubito.MAP(epochs=2, batch_size=16), 2)
    dubito.BayesianClassifier(method, hidden=(4,), verbose=1).fit_file(tmp_path / "t.parquet", "y")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Classification on 40 rows in") and line.endswith(f"s: {method!r}")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_verbose_fit_that_fails_stops_printing(error, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.03)

    def fail(report):
        raise error("stop")

    before = threading.active_count()
    with pytest.raises(error):
        regressor(verbose=True).fit(X, X[:, 0], progress=fail)
    assert threading.active_count() <= before
    printed = capsys.readouterr().out
    assert all(SHOWN.fullmatch(line) for line in printed.splitlines())
    time.sleep(0.1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["yes", -1, None, 1.0, [True]])
def test_verbose_must_be_true_or_false(value):
    with pytest.raises(ValueError) as error:
        regressor(verbose=value).fit(X, X[:, 0])
    assert str(error.value) == f"verbose must be True or False, got {value!r}"


def test_model_file_does_not_hold_verbose(tmp_path, capsys):
    regressor(verbose=True).fit(X, X[:, 0]).save(tmp_path / "m.dubito")
    regressor(verbose=False).fit(X, X[:, 0]).save(tmp_path / "n.dubito")
    assert dubito.load(tmp_path / "m.dubito").verbose is False
    assert dubito.load(tmp_path / "n.dubito").get_params() == dubito.load(tmp_path / "m.dubito").get_params()
