"""Lengths of training, among which the held-out curve chooses."""

import signal

import jax
import numpy as np
import pytest

import dubito
from dubito.training import checkpoint, fit, runs
from dubito.training.early_stopping import still_gaining
from dubito.training.loop_state import LoopState
from dubito.training.progress import FitProgress
from dubito.training.reports import history

LENGTHS = (6, 30, 60)


def curve(rows=96, noise=0.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    return x, (np.sin(2 * x[:, :1]) + noise * rng.normal(size=(rows, 1))).astype(np.float32)


def fold_fit(x, y, epochs, key, **options):
    method = dubito.CrossFit(
        dubito.MaximumLikelihood(epochs=epochs, batch_size=16, ema_epochs=3.0), 3, "constant", None
    )
    model = dubito.Model(dubito.mlp(2, (32,), activation="tanh"), dubito.Gaussian(precision=4.0))
    return dubito.fit(model, x, y, method, key=key, **options)


def bits(posterior):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior.params)]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(("noise", "chosen"), [(0.0, 60), (3.0, 6)])
def test_the_posterior_is_that_of_the_length_that_the_held_out_curve_chooses(noise, chosen, key):
    """Without noise all epochs help; with much of it the network is soon fitted to it."""
    x, y = curve(noise=noise)
    reports = []
    found = fold_fit(x, y, LENGTHS, key, progress=reports.append)
    assert [len(one) for one in history(reports)] == [chosen] * 3
    assert same(bits(found), bits(fold_fit(x, y, chosen, key)))
    told = []
    fold_fit(x, y, chosen, key, progress=told.append)
    assert same(history(reports), history(told))


def state(best, retries=0):
    none = dict.fromkeys(LoopState._fields)
    return LoopState(**none | {"best_epoch": np.array(best), "retries": np.int32(retries)})


@pytest.mark.parametrize(
    ("states", "longer"),
    [
        ([state([6]), state([5])], True),
        ([state([5]), state([5])], False),
        ([state([1, 10]), state([2, 9])], True),  # the median of all four is 5.5
        ([state([1, 10]), state([2, 7])], False),
        ([state([10], retries=4), state([1])], False),  # the first one diverged
        ([state([10], retries=4)], False),
    ],
)
def test_runs_are_too_short_if_their_median_best_epoch_is_in_the_second_half(states, longer):
    assert still_gaining(states, 10) is longer


def test_best_epochs_are_those_of_the_best_scores(key, monkeypatch):
    x, y = curve(noise=1.0)
    seen, reports = [], []
    monkeypatch.setattr(fit, "still_gaining", lambda states, epochs: seen.extend(states))
    model = dubito.Model(dubito.mlp(2, (32,), activation="tanh"), dubito.Gaussian())
    method = dubito.Ensemble(dubito.MAP(epochs=(30, 60), batch_size=16), 3)
    options = {"early_stopping": True, "n_iter_no_change": 60}
    dubito.fit(model, x, y, method, key=key, progress=reports.append, **options)
    best = [1 + int(np.argmax(scores[:, 2])) for scores in history(reports)]
    assert [int(state.best_epoch[0]) for state in seen] == best and min(best) < 30


def test_early_stopping_holds_out_the_rows_that_choose(key):
    x, y = curve(noise=3.0)
    model = dubito.Model(dubito.mlp(2, (32,), activation="tanh"), dubito.Gaussian())
    method = dubito.MAP(epochs=LENGTHS, batch_size=16)
    reports = []
    dubito.fit(model, x, y, method, key=key, early_stopping=True, n_iter_no_change=60, progress=reports.append)
    assert {report.epochs for report in reports} == {6}
    with pytest.raises(ValueError, match=r"choose among epochs=\(6, 30, 60\), but no rows.*Use one number"):
        dubito.fit(model, x, y, method, key=key)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dubito.MAP(epochs=()), "epochs must be one number, or several"),
        (dubito.MAP(epochs=(20, 10)), r"from the smallest to the largest; got \(20, 10\)"),
        (dubito.MAP(epochs=(10, 10)), "from the smallest to the largest"),
        (dubito.MAP(epochs=(0, 10)), "epochs must be a whole number of at least 1"),
        (dubito.MAP(epochs=(5, 10.5)), "epochs must be a whole number"),
        (dubito.SWAG(epochs=(10, 20)), "epochs of SWAG must be one number, since it has no validation score"),
        (dubito.SWAG(epochs=(10,)), "epochs of SWAG must be one number"),
        (dubito.SGLD(epochs=(10, 20)), "epochs of SGLD must be one number"),
    ],
)
def test_impossible_lengths_are_refused(method, message, key):
    x, y = curve()
    with pytest.raises(ValueError, match=message):
        dubito.fit(dubito.Model(dubito.mlp(2, (8,)), dubito.Gaussian()), x, y, method, key=key)


def test_a_checkpoint_goes_on_in_the_length_where_it_stopped(key, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WRITE_INTERVAL", 0.0)
    monkeypatch.setattr(runs, "CHUNK_SECONDS", 0.0)
    x, y = curve()
    whole = fold_fit(x, y, LENGTHS, key)

    def stop(report):
        if report.epochs == 30 and report.epoch > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fold_fit(x, y, LENGTHS, key, progress=stop, checkpoint=tmp_path / "fit")
    told = []
    again = fold_fit(x, y, LENGTHS, key, progress=told.append, checkpoint=tmp_path / "fit")
    assert same(bits(whole), bits(again))
    assert min(report.epoch for report in told if report.epochs == 30 and len(report.likelihood)) > 1


def test_after_ctrl_c_the_last_complete_length_is_kept(key, monkeypatch):
    monkeypatch.setattr(runs, "CHUNK_SECONDS", 0.0)
    x, y = curve()

    told = []

    def stop(report):
        told.append(report)
        if report.epochs == 30 and not any(one.epochs == 30 for one in told[:-1]):
            signal.raise_signal(signal.SIGINT)

    found = fold_fit(x, y, LENGTHS, key, progress=stop, keep_on_interrupt=True)
    assert same(bits(found), bits(fold_fit(x, y, 6, key)))
    assert max(report.epochs for report in told) == 30


def test_progress_counts_the_lengths_as_runs(key):
    x, y = curve()
    reports, shown, texts = [], FitProgress(), []
    fold_fit(x, y, LENGTHS, key, progress=reports.append)
    for report in reports:
        shown.add(report)
        texts.append(shown.describe())
    assert shown.run == 3 and "100 % of training, run 3 · epoch 60 of 60" in texts[-1]
