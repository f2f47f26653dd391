"""The loop: the scale, chunks, members, stopping, divergence."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dubito
from dubito._jax import prng
from dubito.training import chunk, descent, fit, optimizers, packing, runs
from dubito.training.data import check_rows
from dubito.training.early_stopping import Stopping
from dubito.training.members import Member
from dubito.training.reports import history as collect_history


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(130, 2))
    y = np.sin(2 * x[:, :1]) + 0.1 * rng.normal(size=(130, 1))
    return dubito.Model(dubito.mlp(2, (12,)), dubito.Gaussian()), x, y


def leaves(posterior, key, n=None):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior.sample(key, n))]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.optimized
@pytest.mark.parametrize("patience", [2, 60])
def test_chunks_do_not_change_a_bit(problem, key, patience, monkeypatch):
    """Chunks of up to 50 epochs and of single steps, until early stopping, and until the last of 60 epochs."""
    model, x, y = problem
    method = dubito.BayesByBackprop(epochs=60, batch_size=48)
    stopping = {"early_stopping": True, "n_iter_no_change": patience}
    found = []
    for seconds in (1e9, 0.0):
        monkeypatch.setattr(runs, "CHUNK_SECONDS", seconds)
        reports = []
        posterior = dubito.fit(model, x, y, method, key=jax.random.key(1), progress=reports.append, **stopping)
        found.append([*leaves(posterior, key, 3), *collect_history(reports)])
    assert same(*found)
    assert (len(found[0][-1]) < 20) == (patience == 2) and chunk.CHUNK_EPOCHS == 50


@pytest.mark.slow
def test_epochs_left_open_are_by_the_rows_trained_on(problem):
    """As many as show the rows of the method's recipe; also of methods inside others, and of rows of weight above 0.
    The reports say how many, and that many are made."""
    model, x, y = problem
    weight = np.arange(130) % 2

    class StopFitError(Exception):
        pass

    def stop(report):
        reports.append(report)
        if report.epochs > 3:
            raise StopFitError

    for method, given, expected in (
        (dubito.MAP(epochs=None), None, 3076),
        (dubito.Ensemble(dubito.MCDropout(batch_size=None), 2), weight, 4615),
        (dubito.MAP(epochs=3), None, 3),
    ):
        reports = []
        with contextlib.suppress(StopFitError):
            dubito.fit(model, x, y, method, key=jax.random.key(0), weight=given, progress=stop)
        assert {report.epochs for report in reports} == {expected}
    assert len(collect_history(reports)[0]) == 3
    (length,) = optimizers.each_length(dubito.Ensemble(dubito.MCDropout(), 2), 10**6, "regression")
    assert length.epochs == 100


@pytest.mark.parametrize("n", [1, 2, 5, 640, 70_000])
def test_a_permutation_holds_every_row_once_and_those_of_no_weight_last(n, key):
    used = np.arange(n) % 3 != 1
    order = np.asarray(jax.jit(chunk.random_order)(prng.fast(key), used))
    assert np.array_equal(np.sort(order), np.arange(n))
    assert used[order[: used.sum()]].all()
    if n == 70_000:  # two rounds of 14 bits: neighbors part
        assert abs(np.corrcoef(order[:1000], np.arange(1000))[0, 1]) < 4.6 / np.sqrt(1000)


def test_permutations_are_equally_likely(key):
    """χ² over the 24 orders of four rows."""
    keys = jax.random.split(prng.fast(key), 24_000)
    orders = np.asarray(jax.vmap(lambda k: chunk.random_order(k, jnp.ones(4, bool)))(keys))
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    chi2 = np.sum((counts - 1000) ** 2) / 1000
    assert len(counts) == 24 and abs(chi2 - 23) / np.sqrt(46) < 4.6


@pytest.mark.slow
def test_a_member_among_others_is_the_member_alone(problem):
    """Side by side on two threads, or one by one: not a bit differs."""
    model, x, y = problem
    rows = check_rows(model, x, y, None)
    stopping = Stopping(np.int32(0), np.float32(0))
    keys = jax.random.split(prng.fast(jax.random.key(4)), 3)
    members = [Member(k, rows.train, rows.valid) for k in keys]
    method = dubito.BayesByBackprop(epochs=20)
    together = fit.train(model, method, members=members, rows=rows, stopping=stopping).states
    for number, member in enumerate(members):
        alone = fit.train(model, method, members=[member], rows=rows, stopping=stopping).states[0]
        assert same(*[[np.asarray(leaf) for leaf in jax.tree.leaves(s)] for s in (alone, together[number])])


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_an_epochs_gradients_average_to_the_full_batch(problem, key, factor, retrace_loops, monkeypatch):
    """With steps of rate ~0 the movement of an epoch is the sum of its gradients; half the scale must be caught."""
    model, x, y = problem
    model = dubito.Model(model.network, dubito.Gaussian(precision=1.0), None)
    if factor != 1.0:
        retrace_loops()
        plain = dubito.Model.weighted_sum
        monkeypatch.setattr(dubito.Model, "weighted_sum", lambda self, lp, batch: plain(self, lp, batch) * factor)
    rate = 1e-3
    method = dubito.MaximumLikelihood(epochs=1, batch_size=50, learning_rate=rate, optimizer="sgd", schedule="constant")
    rows = check_rows(model, x, y, None)
    member = Member(key, rows.train, rows.valid)
    stopping = Stopping(np.int32(0), np.float32(0))
    end = fit.train(model, method, members=[member], rows=rows, stopping=stopping).states[0]
    end = packing.unpack(end.params)["network"]
    start = model.init(jax.random.split(key)[0])["network"]
    target = jax.grad(lambda p: 0.5 * jnp.mean((model.network.apply(p, rows.x) - rows.y) ** 2))(start)
    moved = jax.tree.map(lambda a, b: (b - a) / (3 * rate), end, start)  # 130 rows in batches of 50: 3 steps
    error = sum(float(jnp.sum((m - t) ** 2)) for m, t in zip(*map(jax.tree.leaves, (moved, target)), strict=True))
    size = sum(float(jnp.sum(t**2)) for t in jax.tree.leaves(target))
    assert (np.sqrt(error / size) < 0.01) == (factor == 1.0)


def test_zero_weights_are_removed_rows(problem, key):
    model, x, y = problem
    method = dubito.MAP(epochs=300, batch_size=None, learning_rate=0.01)
    weight = np.ones(130)
    weight[100:] = 0
    spoiled = y.copy()
    spoiled[100:] = 1e6
    a = dubito.fit(model, x, spoiled, method, key=key, weight=weight)
    b = dubito.fit(model, x, y, method, key=key, weight=weight)
    assert same(leaves(a, key), leaves(b, key))


def test_divergence_is_an_error(problem, key):
    model, x, y = problem
    method = dubito.MAP(epochs=20, learning_rate=1e6, optimizer="sgd")
    with pytest.raises(dubito.DivergenceError, match="learning_rate=100000"):
        dubito.fit(model, x, y, method, key=key)


def test_early_stopping_stops_and_reports(problem, key):
    model, x, y = problem
    reports = []
    method = dubito.MAP(epochs=5000)
    dubito.fit(model, x, y, method, key=key, early_stopping=True, progress=reports.append)
    assert 10 < reports[-1].epoch < 5000
    assert all(np.all(np.isfinite(report.score)) for report in reports)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4), "same number of rows"),
        (np.zeros(3), np.zeros(3), "rows and columns"),
        (np.full((3, 2), np.nan), np.zeros(3), "6 value"),
        (np.zeros((3, 2)), np.array([0, np.inf, 0]), "y contains 1 value"),
        (np.full((3, 2), 1e300), np.zeros(3), "float32"),
    ],
)
def test_bad_rows_are_refused(problem, x, y, message, key):
    with pytest.raises(ValueError, match=message):
        dubito.fit(problem[0], x, y, dubito.MAP(), key=key)


@pytest.mark.slow
def test_elsewhere_than_on_cpu_all_members_are_one_program(problem, key, retraced, monkeypatch, tmp_path):
    """The same numbers up to rounding; members stop on their own, and a checkpoint goes on to the same bits."""
    model, x, y = problem
    method = dubito.CrossFit(dubito.MCDropout(epochs=12), 3, "constant")
    plain, reports = dubito.fit(model, x, y, method, key=key, early_stopping=True, n_iter_no_change=3), []
    monkeypatch.setattr(prng, "on_cpu", lambda: False)
    calls, chunk_all = [], chunk.chunk_all
    monkeypatch.setattr(runs, "chunk_all", lambda *given: calls.append(1) or chunk_all(*given))
    options = {"key": key, "early_stopping": True, "n_iter_no_change": 3}
    together = dubito.fit(model, x, y, method, progress=reports.append, **options)
    for a, b in zip(leaves(plain, key, 6), leaves(together, key, 6), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert calls
    ends = {report.member: report.epoch for report in reports if len(report.likelihood)}
    assert sorted(ends) == [0, 1, 2] and all(1 <= epoch <= 12 for epoch in ends.values())

    def interrupt(report):
        if report.epoch:
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        dubito.fit(model, x, y, method, progress=interrupt, checkpoint=file, **options)
    again = dubito.fit(model, x, y, method, checkpoint=file, **options)
    assert same(leaves(together, key, 6), leaves(again, key, 6))


def test_small_parts_are_vectors_in_training():
    method, own = dubito.MAP(), dubito.MAP(optimizer=optax.adam(1e-3))
    rng = np.random.default_rng(0)
    small = {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.asarray(rng.normal(size=4), jnp.float32)}
    large = {"w": jnp.zeros((200, 200)), "b": jnp.zeros(200)}
    mixed = {"w": small["w"], "b": small["b"].astype(jnp.bfloat16)}
    packed = descent.start_descent(method, {"network": small, "likelihood": {}}).params
    assert [leaf.shape for leaf in jax.tree.leaves(packed)] == [(16,)]
    for chosen, network, as_it_is in (
        (method, small, False),
        (method, large, True),
        (method, mixed, True),
        (own, small, True),
    ):
        params = {"network": network, "likelihood": {"log_precision": jnp.float32(1)}}
        packed = descent.start_descent(chosen, params).params
        assert (packed["network"] is network) == as_it_is
        back = packing.unpack(packed)
        assert jax.tree.structure(back) == jax.tree.structure(params)
        assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(params)))
