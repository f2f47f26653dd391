"""What the estimators and the loop do when data, processes or numbers are ill: the same answers, or helpful errors."""

import _thread
import concurrent.futures
import copy
import hashlib
import multiprocessing
import operator
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import dubito

FAST = dubito.MAP(epochs=40, batch_size=32, learning_rate=0.03)
FULL = dubito.MAP(epochs=200, batch_size=None, learning_rate=0.01)
MEMBER = dubito.MaximumLikelihood(epochs=5, batch_size=32)
IGNORED = pytest.mark.filterwarnings("ignore::dubito.DataWarning")


def regressor(method=FAST, **settings):
    return dubito.BayesianRegressor(method, **({"hidden": (16,), "random_state": 0} | settings))


def classifier(method=FAST, **settings):
    return dubito.BayesianClassifier(method, **({"hidden": (16,), "random_state": 0} | settings))


def table(rows=96):
    """Columns of about unit scale and a target of mean 3, sd about 2."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    return x, 3 + 2 * np.sin(x[:, 0]) + x[:, 1] + 0.3 * rng.normal(size=rows)


X, Y = table()
LABELS = (Y > 3).astype(int) + (Y > 5)


def answers(estimator, x=X):
    """Mean, std and the ends of an interval."""
    return np.stack([*estimator.predict(x, return_std=True), *estimator.predict_interval(x, 0.9)])


@pytest.fixture(scope="module")
def plain():
    return regressor().fit(X, Y)


@pytest.fixture(scope="module")
def voter(quick_fits):
    with quick_fits():
        return classifier().fit(X, LABELS)


def warned(words):
    return pytest.warns(dubito.DataWarning, match=words)


# --- data at fit


@pytest.mark.parametrize("value", [0.0, 7.0, -1e18, 1e-18])
def test_a_constant_column(value):
    x, blank = X.copy(), X.copy()
    x[:, 2], blank[:, 2] = value, 0.0
    with warned("Constant columns.*'x2'") as caught:
        found = regressor().fit(x, Y)
    assert len(caught) == 1
    with warned("'x2'"):
        assert np.array_equal(answers(found, x), answers(regressor().fit(blank, Y), blank))


def test_all_columns_constant():
    """The mean of y and its spread are all that can be learned."""
    x = np.full((96, 3), 5.0)
    with warned("'x0', 'x1', 'x2'"):
        mean, std = regressor(FULL).fit(x, Y).predict(x, return_std=True)
    assert np.all(np.abs(mean - Y.mean()) < 0.01 * Y.std()) and np.all(np.abs(std / Y.std() - 1) < 0.05)


@pytest.mark.parametrize("power", [-40, -20, 20, 40])
def test_the_scale_of_the_columns(plain, power):
    """2^±40, about 1e±12, and other powers beside them: exact, so the same to the last bit."""
    x = X * 2.0 ** np.array([power, -power, power // 2])
    assert np.array_equal(answers(regressor().fit(x, Y), x), answers(plain))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_decimal_scale_of_the_columns(plain, scale):
    found = answers(regressor().fit(X * scale, Y), X * scale)
    assert np.abs(found - answers(plain)).max() < 1e-3 * Y.std()


@pytest.mark.parametrize("power", [-60, 60])
def test_the_scale_of_the_target(plain, power):
    """2^±60, about 1e±18."""
    assert np.array_equal(answers(regressor().fit(X, Y * 2.0**power)), answers(plain) * 2.0**power)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_the_decimal_scale_of_the_target(plain, scale):
    found = answers(regressor().fit(X, Y * scale)) / scale
    assert np.abs(found - answers(plain)).max() < 1e-3 * Y.std()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_largest_scale_of_the_target(plain, scale):
    found = answers(regressor().fit(X, Y * scale)) / scale
    assert np.abs(found - answers(plain)).max() < 1e-3 * Y.std()


def test_unix_times_stay_apart(plain):
    """A shift that float32 alone would round to nothing (fault 6)."""
    x = np.round(X * 2**20) / 2**20
    shifted = x + np.array([2.0**31, 1.7e9, 0.0])
    found = regressor().fit(shifted, Y)
    assert np.abs(answers(found, shifted) - answers(regressor().fit(x, Y), x)).max() < 1e-3 * Y.std()


@pytest.mark.parametrize(
    "method", [FAST, pytest.param(dubito.CrossFit(MEMBER, 3), marks=pytest.mark.slow)], ids=["map", "cross"]
)
@pytest.mark.parametrize("value", [0.0, 5.0, -1e18, 1e-18])
def test_a_constant_target(method, value):
    with warned("Constant targets.*target 0"):
        found = regressor(method).fit(X, np.full(96, value))
    mean, std, lower, upper = answers(found)
    size = abs(value) or 1.0
    assert np.all(np.abs(mean - value) < 1e-5 * size) and np.all((std > 0) & (std < 1e-5 * size))
    assert np.all((lower <= mean) & (mean <= upper))


def test_an_outlier():
    x, y = X.copy(), Y.copy()
    x[5, 1], y[7] = 1e9, -1e9
    with warned(r"'x1' \(row 5\)"):
        assert np.isfinite(answers(regressor().fit(x, Y), x)).all()
    with warned(r"target 0 \(row 7\)"):
        assert np.isfinite(answers(regressor().fit(X, y))).all()


@pytest.mark.parametrize(
    ("rows", "method"),
    [(2, FAST), (95, FAST), pytest.param(2, dubito.CrossFit(MEMBER, 10), marks=pytest.mark.slow)],
    ids=["two", "odd", "cross"],
)
def test_few_rows(rows, method):
    """Two rows, fewer than a batch and than folds; and a batch that is not full."""
    assert np.isfinite(answers(regressor(method).fit(X[:rows], Y[:rows]))).all()


def test_rows_repeated_are_rows_of_more_weight():
    """Full batch, so the objective is the same function: from the same start to the same end, but for rounding."""
    x, y, weight = X[:5], Y[:5], np.array([1, 2, 1, 3, 1])
    found = answers(regressor(FULL).fit(x, y, sample_weight=weight))
    again = answers(regressor(FULL).fit(np.repeat(x, weight, 0), np.repeat(y, weight)))
    assert np.abs(found - again).max() < 2e-3 * Y.std()


def test_zero_weights_are_rows_removed():
    x, y, weight = X.copy(), Y.copy(), np.ones(96)
    weight[::4], x[::4], y[::4] = 0, 1e6, -1e6
    kept = weight > 0
    found = regressor(FULL).fit(x, y, sample_weight=weight)
    removed = regressor(FULL).fit(X[kept], Y[kept])
    assert np.abs(answers(found) - answers(removed)).max() < 2e-3 * Y.std()
    vote = classifier(FULL).fit(x, np.where(kept, LABELS, 0), sample_weight=weight)
    alone = classifier(FULL).fit(X[kept], LABELS[kept])
    assert np.abs(vote.predict_proba(X) - alone.predict_proba(X)).max() < 2e-3


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.zeros(96), "at least one non-zero"),
        (np.where(np.arange(96) == 3, -1, 1), "Negative values.*row 3"),
        (np.where(np.arange(96) == 3, np.nan, 1), "sample_weight contains NaN"),
        (np.ones(95), r"sample_weight.shape == \(95,\), expected \(96,\)"),
    ],
)
def test_ill_weights(weight, words):
    for estimator in (regressor(), classifier()):
        with pytest.raises(dubito.DataError, match=words):
            estimator.fit(X, LABELS, sample_weight=weight)
        with pytest.raises(NotFittedError):
            estimator.predict(X)


# --- classes


def test_one_class():
    with pytest.raises(ValueError, match="at least 2 classes"):
        classifier().fit(X, np.full(96, "a"))
    with pytest.raises(ValueError, match=r"positive weight.*1 class"):
        classifier().fit(X, LABELS, sample_weight=LABELS == 1)


@pytest.mark.parametrize(
    "names",
    [
        np.array([-7, 0, 2**40]),
        np.array(["a", "größer", "z"]),
        np.array(["a", "b", "c"], dtype=object),
        np.array([0.0, 1.0, 5.0]),
        np.array([1, 2, 200], np.uint8),
    ],
    ids=["integers", "texts", "objects", "floats", "bytes"],
)
def test_labels_of_any_type(voter, names):
    found = classifier().fit(X, names[LABELS])
    assert np.array_equal(found.classes_, names) and found.classes_.dtype == names.dtype
    assert np.array_equal(found.predict_proba(X), voter.predict_proba(X))
    predicted = found.predict(X)
    assert predicted.dtype == names.dtype and np.array_equal(predicted, names[voter.predict(X)])
    assert np.isin(found.sample_y(X, 3), names).all()


def test_labels_of_two_kinds():
    truth = classifier().fit(X, LABELS > 0)
    assert truth.classes_.dtype == bool and truth.predict_proba(X).shape == (96, 2)
    shuffled = classifier().fit(X, np.array(["yes", "no"])[(LABELS == 0).astype(int)])
    assert shuffled.classes_.tolist() == ["no", "yes"]
    assert np.array_equal(shuffled.predict_proba(X), truth.predict_proba(X))


@pytest.mark.parametrize("y", [Y, X], ids=["continuous", "columns"])
def test_no_labels(y):
    with pytest.raises(ValueError, match=r"Unknown label type|1d array"):
        classifier().fit(X, y)


def test_a_class_of_one_row():
    """It is absent from folds, too; its column stays."""
    y = LABELS.copy()
    y[0] = 9
    probs = classifier(dubito.CrossFit(MEMBER, 3)).fit(X, y).predict_proba(X)
    assert probs.shape == (96, 4) and np.all(probs > 0) and np.abs(probs.sum(1) - 1).max() < 1e-6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
def test_ten_thousand_classes():
    x, y = np.random.default_rng(0).normal(size=(10_000, 3)), np.arange(10_000)
    found = classifier(dubito.MAP(epochs=1, batch_size=512), hidden=(4,)).fit(x, y)
    probs = found.predict_proba(x[:20])
    assert probs.shape == (20, 10_000) and np.abs(probs.sum(1) - 1).max() < 1e-6 and np.all(probs >= 0)


def test_imbalance():
    x, y = np.random.default_rng(0).normal(size=(10_001, 3)), np.arange(10_001) == 77
    probs = classifier(dubito.MAP(epochs=10, batch_size=512)).fit(x, y).predict_proba(x)
    assert np.isfinite(probs).all() and np.abs(probs.sum(1) - 1).max() < 1e-6
    assert probs[:, 1].mean() < 0.01


# --- predict


METHODS = {
    "dropout": dubito.MCDropout(epochs=5),
    "ensemble": dubito.Ensemble(FAST, 3),
    "bbb": dubito.BayesByBackprop(epochs=5),
    "cross": dubito.CrossFit(MEMBER, 3),
}


@pytest.fixture(scope="module", params=METHODS)
def anyone(request, quick_fits):
    with quick_fits():
        return regressor(METHODS[request.param]).fit(X, Y)


AS_USERS_COMPILE = {"cross", "dropout"}  # two kinds of draws; the other methods' are of these kinds


@pytest.mark.parametrize(
    "anyone",
    [
        pytest.param(name, marks=pytest.mark.optimized if name in AS_USERS_COMPILE else pytest.mark.slow)
        for name in METHODS
    ],
    indirect=True,
    scope="module",
)
def test_row_order_and_number_of_rows(anyone):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1500, 3))
    whole, order = answers(anyone, x), rng.permutation(1500)
    assert np.array_equal(answers(anyone, x[order]), whole[:, order])
    for rows in (1, 2, 1023, 1024, 1025):
        assert np.array_equal(answers(anyone, x[:rows]), whole[:, :rows])
    each = [answers(anyone, x[k : k + 1]) for k in range(0, 1500, 499)]
    assert np.array_equal(np.concatenate(each, axis=1), whole[:, ::499])


@pytest.mark.optimized
def test_row_order_of_classes(voter):
    x = np.random.default_rng(1).normal(size=(1500, 3))
    whole = voter.predict_proba(x)
    assert np.array_equal(voter.predict_proba(x[::-1]), whole[::-1])
    assert np.array_equal(voter.predict_proba(x[5:6]), whole[5:6])
    assert np.array_equal(voter.predictive(x).entropy[:9], voter.predictive(x[:9]).entropy)


def test_no_rows(plain, voter):
    none = np.empty((0, 3))
    assert [part.shape for part in plain.predict(none, return_std=True)] == [(0,), (0,)]
    assert [part.shape for part in plain.predict_interval(none)] == [(0,), (0,)]
    assert plain.sample_y(none, 4).shape == (0, 4) and voter.sample_y(none, 4).shape == (0, 4)
    assert voter.predict(none).shape == (0,) and voter.predict_proba(none).shape == (0, 3)
    double = regressor(MEMBER).fit(X, X[:, :2])
    assert double.predict(none).shape == (0, 2) and double.sample_y(none, 4).shape == (0, 2, 4)


def test_other_types_than_at_fit():
    x = np.random.default_rng(0).integers(-9, 9, (96, 3))
    found = regressor().fit(x, Y)
    others = [x.astype(t) for t in ("f4", "f8", "f2", "i1", ">f8", object)] + [np.asfortranarray(x), x.tolist()]
    assert all(np.array_equal(answers(found, other), answers(found, x)) for other in others)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_at_predict(plain, value):
    x = X.copy()
    x[3, 1] = value
    strict = copy.copy(plain).set_params(missing="error")
    for name in ("predict", "predict_interval", "predictive", "sample_y"):
        with pytest.raises(dubito.DataError, match=r"column 1.*, in row 3[.,]"):
            getattr(strict, name)(x)
        if np.isnan(value):
            with pytest.warns(dubito.DataWarning, match="columns that had none in fit.*: 1 of 'x1'"):
                getattr(plain, name)(x)
    if np.isnan(value):
        mean = X.copy()
        mean[3, 1] = plain.schema_.columns[1].shift
        with pytest.warns(dubito.DataWarning):
            assert np.array_equal(answers(plain, x), answers(plain, mean))


def test_other_columns_at_predict(plain):
    with pytest.raises(dubito.DataError, match="X has 2 features, but BayesianRegressor is expecting 3"):
        plain.predict(X[:, :2])
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    found = regressor().fit(frame, Y)
    assert np.array_equal(answers(found, frame), answers(plain))
    for columns, words in ((["b", "a", "c"], "same order"), (["a", "b"], "missing:\n- c"), (["a", "b", "d"], "unseen")):
        with pytest.raises(dubito.DataError, match=words):
            found.predict(frame.reindex(columns=columns, fill_value=0.0))


def test_unseen_categories():
    frame = pd.DataFrame({"a": X[:, 0], "city": np.where(X[:, 1] > 0, "Rome", "Oslo")})
    new = pd.DataFrame({"a": [0.5, 0.5], "city": ["Rome", "Bonn"]})
    strict, lenient = (regressor(handle_unknown=how).fit(frame, Y) for how in ("error", "ignore"))
    with pytest.raises(dubito.DataError, match=r"'city' has the value 'Bonn' \(row 1\).*'Oslo', 'Rome'"):
        strict.predict(new)
    assert np.isfinite(answers(lenient, new)).all()
    assert np.array_equal(answers(lenient, frame), answers(strict, frame))


@pytest.mark.parametrize("far", [1e6, 1e30, -1e30, 1e300])
def test_far_inputs(anyone, far):
    """Finite, and not surer than where the data are."""
    usual = anyone.predict(X, return_std=True)[1].min()
    for x in (np.full((1, 3), far), far * np.eye(3), far * np.array([[1.0, -1.0, 0.5]])):
        mean, std, lower, upper = answers(anyone, x)
        assert np.isfinite([mean, std, lower, upper]).all()
        assert np.all(std >= usual) and np.all((lower <= mean) & (mean <= upper))


@pytest.mark.parametrize("far", [1e6, 1e30, -1e30])
def test_far_inputs_of_a_learned_noise(far):
    found = regressor(likelihood="heteroscedastic").fit(X, Y)
    for x in (np.full((1, 3), far), far * np.eye(3), -far * np.eye(3)):
        mean, std = found.predict(x, return_std=True)
        assert np.isfinite(mean).all() and np.isfinite(std).all() and np.all(std > 0)


@pytest.mark.parametrize("far", [1e6, 1e30, -1e30])
def test_far_inputs_of_classes(voter, far):
    probs = voter.predict_proba(far * np.eye(3))
    assert np.isfinite(probs).all() and np.abs(probs.sum(1) - 1).max() < 1e-6


def test_sixteen_threads(anyone):
    tables = [np.random.default_rng(k).normal(size=((3, 90, 500, 1030)[k % 4], 3)) for k in range(16)]
    series = [answers(anyone, x) for x in tables]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda x: answers(anyone, x), tables))
    assert all(np.array_equal(a, b) for a, b in zip(series, found, strict=True))


def test_fits_side_by_side(plain):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: answers(regressor().fit(X, Y)), range(4)))
    assert all(np.array_equal(one, answers(plain)) for one in found)


CALLS = {
    "predict": (X,),
    "predict_interval": (X,),
    "predictive": (X,),
    "sample_y": (X,),
    "save": ("model",),
}


@pytest.mark.parametrize("name", CALLS)
def test_before_fit(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFittedError):
        getattr(regressor(), name)(*CALLS[name])
    for name in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(classifier(), name)(X)
    assert not list(tmp_path.iterdir())


def interrupting():
    """A callback that presses Ctrl-C once in the middle of a fit."""
    pressed = []

    def progress(report):
        if report.epoch >= 30 and not pressed:
            pressed.append(report.epoch)
            _thread.interrupt_main()

    return progress


def breaking():
    def progress(report):
        raise RuntimeError(f"the callback is ill at {report.epoch}")

    return progress


def quiet():
    return None


LONG = dubito.MAP(epochs=10**6, batch_size=32, learning_rate=0.03)
ENDS = {
    "diverged": (dubito.DivergenceError, dubito.MAP(epochs=40, batch_size=32, learning_rate=1e30), Y, quiet),
    "interrupted": (KeyboardInterrupt, LONG, Y, interrupting),
    "callback": (RuntimeError, LONG, Y, breaking),
    "data": (dubito.DataError, FAST, np.where(Y > 3, np.nan, Y), quiet),
    "settings": (ValueError, dubito.MAP(optimizer="adm"), Y, quiet),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_fit_that_ends_early(end):
    """Either the old state or none: never half of a new one."""
    error, method, y, progress = ENDS[end]
    fresh = regressor(method)
    with pytest.raises(error):
        fresh.fit(X, y, progress=progress())
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    assert not [name for name in vars(fresh) if name.endswith("_") or name.startswith("_")]
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    old = regressor().fit(frame, Y)
    before, state = answers(old, frame), dict(vars(old))
    old.set_params(method=method)
    with pytest.raises(error):
        old.fit(X[:, :2], y, progress=progress())
    assert np.array_equal(answers(old, frame), before)
    assert all(vars(old)[name] is value for name, value in state.items() if name != "method")


def test_kept_on_interrupt(key):
    """The best states so far, when asked."""
    model = dubito.Model(dubito.mlp(3, (16,)), dubito.Gaussian())
    y = (Y - Y.mean()) / Y.std()
    for method in (LONG, dubito.Ensemble(LONG, 3)):
        found = dubito.fit(model, X, y, method, key=key, progress=interrupting(), keep_on_interrupt=True)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))
        mean = dubito.predict(found, X, key=key).mean
        assert np.mean((mean - y) ** 2) < 1  # better than nothing: it has learned
    with pytest.raises(KeyboardInterrupt):
        dubito.fit(model, X, y, LONG, key=key, progress=interrupting())


# --- processes

START = """
import os, signal, sys, time
import numpy as np
import dubito
rng = np.random.default_rng(0)
rows = int(sys.argv[1])
x = rng.normal(size=(rows, 3))
y = x[:, 0] + 0.1 * rng.normal(size=rows)
"""


def process(script, *arguments, **options):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def said(child, seconds=100):
    """(output, errors) of a process that ends by itself, or is ended."""
    with child:
        try:
            return child.communicate(timeout=seconds)
        finally:
            child.kill()


@pytest.mark.slow
def test_ctrl_c():
    """The signal itself, while several threads fit: soon, and nothing is learned."""
    found = regressor(dubito.CrossFit(dubito.MAP(epochs=10**6, batch_size=32), 5))
    told, pressed = [], []

    def progress(report):
        told.append(report)
        if len(told) >= 3 and not pressed:
            pressed.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        found.fit(X, Y, progress=progress)
    assert time.perf_counter() - pressed[0] < 2
    assert not [name for name in vars(found) if name.endswith("_")]


FORKED = """
import os, pickle, signal, sys, time, warnings
import numpy as np
import jax
import dubito
from dubito.estimators import regressor
from dubito.posteriors import predictive
folder, *starts = sys.argv[1:]
x = np.random.default_rng(0).normal(size=(96, 3))  # the program of test_faults.py

def load():
    return dubito.load(folder + "/m.dubito")

def unpickle():
    with open(folder + "/m.pickle", "rb") as file:
        return pickle.load(file)

def fit():
    return dubito.BayesianRegressor(dubito.MAP(epochs=2, batch_size=32), hidden=(16,), random_state=0).fit(x, x[:, 0])

def predict():
    found = unpickle()
    found.predict(x)
    return found

def try_calls(start):
    found = None if start == "nothing" else globals()[start]()
    known = found.predictive(x) if start in ("predict", "fit") else None
    calls = {
        "fit": fit,
        "load": load,
        "unpickled": lambda: unpickle().predict(x),
        "predict": lambda: (found or load()).predict(x),
        "predictive": lambda: (found or load()).predictive(x).mean,
        "save": lambda: (found or load()).save(folder + "/again"),
        "dubito.predict": lambda: dubito.predict((found or unpickle()).posterior_, x, key=np.array([0, 1], np.uint32)).mean,
        "graph": lambda: dubito.graph(lambda a: a * 2, 1.0).value,
    }
    if start == "nothing":  # everything is traced in each child: those that contain the others
        calls = {name: calls[name] for name in ("fit", "predict", "save", "dubito.predict", "graph")}
    if known is not None:
        calls |= {"its quantile": lambda: known.quantile(0.3)}  # its mean is there already, and needs no JAX
    for name, call in calls.items():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            signal.alarm(60 if start == "nothing" else 5)
            try:
                call()
                print(name, "no error", flush=True)
            except RuntimeError as error:
                print(name, error, flush=True)
            os._exit(0)
        begun = time.perf_counter()
        code = os.waitpid(child, 0)[1]
        print(code, time.perf_counter() - begun, flush=True)
    print((found or load()).predict(x).sum())

for start in starts:  # each in a process of its own, where nothing has started JAX yet
    child = os.fork()
    if child == 0:
        try_calls(start)
        sys.stdout.flush()
        os._exit(0)
    print("end", start, os.waitpid(child, 0)[1], flush=True)
"""

STARTS = ("load", "unpickle", "predict", "fit", "nothing")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forked")
    found = regressor().fit(X, Y)
    found.save(folder / "m.dubito")
    (folder / "m.pickle").write_bytes(pickle.dumps(found))
    return folder


@pytest.mark.slow
def test_forked_child_raises_where_jax_had_started(saved_model):
    """Within a second, whatever has started it; a child forked before that works. The parent goes on."""
    out, err = said(process(FORKED, saved_model, *STARTS), seconds=250)
    parts = re.split(r"end (\w+) 0\n", out)
    assert parts[1::2] == list(STARTS), err
    for part, start in zip(parts[::2], STARTS, strict=False):
        *lines, last = part.splitlines()
        assert len(lines) >= (10 if start == "nothing" else 16) and np.isfinite(float(last)), (start, err)
        for answer, end in zip(lines[::2], lines[1::2], strict=True):
            code, seconds = end.split()
            assert code == "0", (start, answer)
            if start == "nothing":
                assert answer.endswith("no error")
            else:
                assert "forked" in answer and "spawn" in answer and float(seconds) < 2, (start, answer)


@pytest.mark.slow
def test_spawn(plain):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(operator.methodcaller("predict", X, return_std=True), plain).result(timeout=100)
    assert np.array_equal(np.stack(found), np.stack(plain.predict(X, return_std=True)))


THREADS = (
    START
    + """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import hashlib
found = dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=20, batch_size=32), 3), hidden=(16,), random_state=0)
answers = found.fit(x, y).predict(rng.normal(size=(3000, 3)), return_std=True)
print(hashlib.sha256(np.stack(answers).tobytes()).hexdigest())
"""
)


@pytest.mark.slow
def test_any_number_of_threads_and_devices():
    """This process has all threads and one device; the other has one thread and four devices."""
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=4"
    )
    with process(THREADS, 96, env=os.environ | {"XLA_FLAGS": flags}) as child:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(96, 3))
        y = x[:, 0] + 0.1 * rng.normal(size=96)
        found = regressor(dubito.Ensemble(dubito.MAP(epochs=20, batch_size=32), 3)).fit(x, y)
        both = np.stack(found.predict(rng.normal(size=(3000, 3)), return_std=True))
        out, err = said(child)
    assert out == hashlib.sha256(both.tobytes()).hexdigest() + "\n", err


MEMORY = (
    START
    + """
import pathlib, re
x = rng.normal(size=(rows, 60))
found = dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(4,), random_state=0).fit(x, y)
found.predict(x[:1], return_std=True)
def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
outputs = found.predict(np.broadcast_to(x[0], (500_000, 60)), return_std=True)
print(status("VmHWM") - before - sum(output.nbytes for output in outputs))
"""
)


@pytest.mark.slow
def test_memory_of_many_rows():
    """The table is a view that takes no memory of its own; beside the outputs there are 90 MB, less than it would take as float32."""
    out, err = said(process(MEMORY, 100))
    assert int(out) < 90e6, err


# --- divergence


@pytest.mark.slow
def test_divergence_says_what_to_do():
    method = dubito.MAP(epochs=5, learning_rate=1e6, optimizer="sgd", batch_size=32)
    for wrapped in (method, dubito.Ensemble(method, 2), dubito.CrossFit(method, 3)):
        with pytest.raises(
            dubito.DivergenceError, match=r"epoch \d \(step \d+\).*learning rate is 1e\+06. Try learning_rate=100000"
        ):
            regressor(wrapped).fit(X, Y)


def some_start_ill(share):
    """A linear network whose start is NaN for some of the keys."""

    def init(key):
        ill = jax.random.uniform(key) < share
        return {"w": jnp.where(ill, jnp.nan, 0.1 * jax.random.normal(key, (3, 1))).astype(jnp.float32)}

    return dubito.Network(init, lambda params, x: x @ params["w"])


@pytest.mark.parametrize(
    "method", [dubito.Ensemble(FAST, 6), dubito.CrossFit(FAST, 6, noise="constant")], ids=["ensemble", "cross"]
)
def test_a_lost_member(method, key):
    model = dubito.Model(some_start_ill(0.5), dubito.Gaussian())
    with pytest.warns(dubito.DivergenceWarning, match=r"^[1-5] of 6 members diverged and were left out") as caught:
        found = dubito.fit(model, X, Y, method, key=key)
    lost = int(str(caught[0].message)[0])
    each = 2 if isinstance(method, dubito.CrossFit) else 1  # members of a run
    assert len(caught) == 1 and jax.tree.leaves(found.params)[0].shape[0] == each * (6 - lost)
    answer = dubito.predict(found, X, key=key)
    assert np.isfinite(answer.mean).all() and np.isfinite(answer.std).all() and np.isfinite(answer.log_prob(Y)).all()


def test_all_members_lost(key):
    model = dubito.Model(some_start_ill(2.0), dubito.Gaussian())
    with pytest.raises(dubito.DivergenceError):
        dubito.fit(model, X, Y, dubito.Ensemble(FAST, 3), key=key)


@pytest.mark.parametrize("limit", [0.3, 0.02])
def test_nan_in_the_middle(limit, key):
    """Beyond ``limit`` the network answers NaN: the last finite state comes back, or an error; never NaN."""

    def apply(params, x):
        return jnp.where(jnp.max(jnp.abs(params["w"])) > limit, jnp.nan, x @ params["w"])

    network = dubito.Network(lambda key: {"w": jnp.zeros((3, 1), jnp.float32)}, apply)
    model = dubito.Model(network, dubito.Gaussian())
    reports = []
    try:
        found = dubito.fit(model, X, Y, FAST, key=key, progress=reports.append)
    except dubito.DivergenceError as error:
        assert "again after halving the step size 3 times" in str(error)
    else:
        w = found.params["network"]["w"]
        assert np.all(np.abs(w) <= limit) and np.any(w != 0)
    assert all(np.isfinite(report.likelihood).all() for report in reports)


@pytest.mark.parametrize("kind", [dubito.BayesianRegressor, dubito.BayesianClassifier])
def test_rows_of_weight_0_may_hold_anything_and_change_nothing(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(94, 3))
    y = X[:, 0] if kind is dubito.BayesianRegressor else np.where(X[:, 0] > 0, "up", "down").astype(object)
    model = kind(dubito.MAP(epochs=3, batch_size=32), hidden=(16,), random_state=0)
    truth = model.fit(X, y).predictive(X[:5]).mean
    more, targets = np.insert(X, [3, 20], np.nan, axis=0), np.insert(y, [3, 20], np.nan)
    targets = targets if kind is dubito.BayesianRegressor else np.insert(y, [3, 20], [None, "sideways"])
    weight = np.insert(np.ones(94), [3, 20], 0.0)
    assert np.array_equal(model.fit(more, targets, sample_weight=weight).predictive(X[:5]).mean, truth)
    with pytest.raises(dubito.DataError, match=r"column 0: 1 missing, 0 infinite, in row 3\n"):
        model.set_params(missing="error").fit(more, targets, sample_weight=np.where(np.arange(96) == 3, 1.0, weight))


def test_core_rows_of_weight_0_may_hold_anything_and_change_nothing():
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    y = x[:, :1].copy()
    model = dubito.Model(dubito.mlp(2, (4,), 1), dubito.Gaussian(), dubito.Normal(scale=1.0))
    key = jax.random.key(0)
    truth = dubito.fit(model, x, y, dubito.MAP(epochs=2), key=key)
    more, targets = np.insert(x, 7, np.nan, axis=0), np.insert(y, 7, np.inf, axis=0)
    found = dubito.fit(model, more, targets, dubito.MAP(epochs=2), key=key, weight=np.insert(np.ones(40), 7, 0.0))
    assert all(map(np.array_equal, jax.tree.leaves(truth.params), jax.tree.leaves(found.params)))
    with pytest.raises(dubito.DataError, match=r"x contains 2 value.*, in row 7"):
        dubito.fit(model, more, np.insert(y, 7, 0, axis=0), dubito.MAP(epochs=2), key=key)
    for weight in (1e-40, 1e38):
        with pytest.raises(dubito.DataError, match=r"the weights in weight sum to .*Divide the weights by their mean"):
            dubito.fit(model, x, y, dubito.MAP(epochs=2), key=key, weight=np.full(40, weight))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draws": 0}, "draws must be a whole number from 1"),
        ({"draws": 1.5}, "draws must be a whole number from 1"),
        ({"draws": "a"}, "draws must be a whole number from 1"),
        ({"hidden": "50x50"}, "hidden must be a width or a sequence of widths"),
        ({"hidden": 1.5}, "hidden must be a width or a sequence of widths"),
        ({"prior": 3}, "prior must be None or a prior such as"),
        ({"method": dubito.MAP(epochs=-1)}, "epochs must be a whole number"),
        ({"method": dubito.MAP(epochs=0.1)}, "epochs must be a whole number"),
        ({"method": dubito.MAP(epochs=2, learning_rate="a")}, "learning_rate must be positive"),
        ({"method": dubito.MCDropout(rate="a", epochs=2)}, r"rate must be in \[0, 1\), got 'a'"),
        ({"early_stopping": True, "n_iter_no_change": "a"}, "n_iter_no_change must be a whole number"),
        ({"early_stopping": True, "tol": "a"}, "tol must be at least 0"),
        ({"early_stopping": True, "validation_fraction": "a"}, "validation_fraction must be strictly between"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings, words):
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match=words):
        dubito.BayesianRegressor(**({"method": dubito.MAP(epochs=2), "hidden": (4,)} | settings)).fit(X, X[:, 0])


def test_wrong_questions_are_refused_in_words():
    X = np.random.default_rng(0).normal(size=(30, 2))
    model = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=4, random_state=0).fit(X, X[:, 0])
    assert model.posterior_.model.network.hidden == (4,)
    for count in (-1, 0, 1.5, "a"):
        with pytest.raises(ValueError, match="the number of draws of y must be a whole number of at least 1"):
            model.sample_y(X, count)
    for coverage in (0, 1, 90, "a", None):
        with pytest.raises(ValueError, match="coverage must be strictly between 0 and 1"):
            model.predict_interval(X, coverage)
    with pytest.raises(ValueError, match=r"the default method has no setting 'epochs': .*method=MAP\(epochs=5\)"):
        dubito.BayesianRegressor().set_params(method__epochs=5)


@pytest.mark.slow
def test_a_method_may_be_a_name_or_a_class(tmp_path):
    wanted = dubito.BayesianRegressor(dubito.MAP(epochs=3), hidden=(4,), random_state=0).fit(X, Y).predict(X)
    for method in ("map", dubito.MAP):
        model = dubito.BayesianRegressor(method, hidden=(4,), random_state=0).set_params(method__epochs=3).fit(X, Y)
        assert model.method_ == dubito.MAP(epochs=3) and np.array_equal(model.predict(X), wanted)
    for method in ("maximum-likelihood", dubito.MaximumLikelihood):
        model = dubito.BayesianRegressor(method, hidden=(4,), random_state=0).fit(X[:20], Y[:20])
        model.save(tmp_path / "m")
        assert np.array_equal(dubito.load(tmp_path / "m").predict(X), model.predict(X))
        assert clone(model).method == method
    assert dubito.BayesianRegressor("auto")._resolved_method() is None


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mc-droput", "method='mc-droput' is unknown; did you mean 'mc-dropout'"),
        (
            dubito.Ensemble,
            r"method=Ensemble is a class, and needs method\. Pass an object, such as Ensemble\(method=MAP",
        ),
        (3, "method must be a method such as MAP"),
    ],
)
def test_what_is_no_method_is_refused_in_words(method, words):
    with pytest.raises(ValueError, match=words):
        dubito.BayesianRegressor(method).fit(X, Y)


def test_estimators_name_parameters_that_they_do_not_have():
    with pytest.raises(
        TypeError,
        match=r"BayesianRegressor has no parameter 'epochs', which is a setting of methods: write method=MAP\(epochs=5",
    ):
        dubito.BayesianRegressor(epochs=5)
    with pytest.raises(TypeError, match="BayesianClassifier has no setting 'hiden'; did you mean 'hidden'"):
        dubito.BayesianClassifier(hiden=5)
