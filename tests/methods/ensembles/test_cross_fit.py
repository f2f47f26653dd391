"""Cross-fitting: folds, members in closed form, and noise against the truth it was drawn from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito._jax import prng
from dubito.methods.ensembles import cross_fit
from dubito.training import fit, splits
from dubito.training.data import Rows, check_rows
from dubito.training.early_stopping import Stopping
from dubito.training.members import Member


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (3, 1), jnp.float32)}


def apply(params, x):
    return x @ params["w"]


LINEAR = dubito.Network(init, apply)


def rows(n, y=None, weight=None):
    y = np.zeros((n, 1), np.float32) if y is None else y
    weight = np.ones(n, np.float32) if weight is None else weight
    return Rows(np.zeros((n, 1), np.float32), y, weight, np.zeros(n, np.float32))


def test_folds_are_balanced_and_leave_out_rows_without_weight(key):
    weight = np.ones(53, np.float32)
    weight[:3] = 0
    fold = splits.random_folds(rows(53, weight=weight), 10, key)
    assert np.array_equal(fold == -1, weight == 0)
    assert np.array_equal(np.bincount(fold[3:]), np.full(10, 5))


def test_folds_are_stratified(key):
    y = np.repeat(np.arange(3, dtype=np.int32), [40, 20, 10])
    fold = splits.random_folds(rows(70, y), 10, key)
    for k, size in ((0, 4), (1, 2), (2, 1)):
        assert np.array_equal(np.bincount(fold[y == k]), np.full(10, size))


def test_cross_fit_of_one_row_is_refused(key):
    with pytest.raises(ValueError, match="n_samples = 1"):
        splits.random_folds(rows(1), 10, key)


@pytest.fixture(scope="module")
def linear():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3))
    y = x @ np.array([[1.0], [-2.0], [0.5]]) + 0.3 * rng.normal(size=(90, 1))
    return x, y


def test_members_do_not_see_their_fold_nor_the_overlap(linear):
    """After one epoch there is one state to keep, so that a fold can reach its members by their training only."""
    x, y = linear
    model = dubito.Model(LINEAR, dubito.Gaussian(precision=1.0), dubito.Normal(scale=0.5))
    map_ = dubito.MAP(epochs=1, batch_size=None, learning_rate=0.5)
    for overlap, expected in ((0.0, 0), (0.2, 6)):
        method = dubito.CrossFit(map_, 3, noise="constant", df=None, overlap=overlap)
        data = check_rows(model, x, y, None)
        members = method.members(data, jax.random.key(3))
        unseen = [np.flatnonzero((member.train == 0) & ~member.valid.any(0)) for member in members]
        assert [len(rows) for rows in unseen] == [expected] * 3

        def fitted(y, method=method):
            params = dubito.fit(model, x, y, method, key=jax.random.key(5)).params["network"]
            return np.asarray(params["mean"]["w"])[:, :, 0]

        found = fitted(y)
        assert np.array_equal(found[::2], found[1::2])  # two members of each run
        key_members = jax.random.split(prng.fast(jax.random.key(5)), 3)[1]
        for k, member in enumerate(method.members(data, key_members)):
            spoiled = fitted(np.where(member.train[:, None] == 0, 7 - y, y))
            same = np.all(spoiled == found, axis=1)
            assert same[2 * k : 2 * k + 2].all() and not same.all()


def test_a_run_keeps_the_best_epoch_of_each_half_of_its_fold(linear, key):
    """Two members of one run are the runs that would have been scored by one half alone."""
    x, y = linear
    model = dubito.Model(dubito.mlp(3, (4,)), dubito.Gaussian(precision=1.0), None)
    data, method = check_rows(model, x, y, None), dubito.MaximumLikelihood(epochs=40, learning_rate=0.1)
    keep = np.arange(90) % 3
    train = (keep == 0).astype(np.float32)
    halves = np.stack([keep == 1, keep == 2]).astype(np.float32)
    run = partial(fit.train, rows=data, stopping=Stopping(np.int32(0), np.float32(0)))
    both = run(model, method, members=[Member(prng.fast(key), train, halves)])
    alone = [run(model, method, members=[Member(prng.fast(key), train, half)]) for half in halves]
    assert both.numbers == (0, 1) and both.count == 2
    for part in range(2):
        assert np.array_equal(both.members[part].valid, halves[part])
        np.testing.assert_array_equal(
            *(np.asarray(t.params["network"].values) for t in (both.states[part], alone[part].states[0]))
        )
    first, second = (np.asarray(state.params["network"].values) for state in both.states)
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_noise_that_depends_on_the_input_is_found():
    """σ(x) = 0.1 + 0.4·1{x > 0}: the two levels, which a constant cannot have."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, size=(1500, 1))
    truth = np.where(x > 0, 0.5, 0.1)
    y = x + truth * rng.normal(size=(1500, 1))
    model = dubito.Model(dubito.mlp(1, (16,)), dubito.Gaussian(precision=1.0), None)
    base = dubito.MaximumLikelihood(epochs=15, batch_size=64)
    for noise in ("input", "constant"):
        posterior = dubito.fit(model, x, y, dubito.CrossFit(base, 3, noise=noise, df=None), key=jax.random.key(0))
        std = np.sqrt(dubito.predict(posterior, np.array([[-0.6], [0.6]]), key=jax.random.key(1)).aleatoric)
        if noise == "constant":
            np.testing.assert_allclose(std, np.sqrt(np.mean(truth**2)), rtol=0.1)
        else:
            np.testing.assert_allclose(std, [0.1, 0.5], rtol=0.15)


def test_temperature_undoes_logits_that_are_too_large():
    """Labels drawn from softmax(f), logits 3f: T is 3, within the likelihood's standard error."""
    rng = np.random.default_rng(0)
    x = 2 * rng.normal(size=(3000, 3)).astype(np.float32)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    y = (p.cumsum(1) < rng.uniform(size=(3000, 1))).sum(1).astype(np.int32)
    network = dubito.Network(lambda key: {"w": jnp.ones((1, 1), jnp.float32)}, lambda params, x: 3 * x * params["w"])
    model = dubito.Model(network, dubito.Categorical(classes=3))
    part = dubito.Samples(model, {"network": {"w": jnp.ones((1, 1, 1), jnp.float32)}, "likelihood": {}})
    folds = np.zeros((2, 3000), np.float32)
    folds[0, ::2] = folds[1, 1::2] = 1
    data = Rows(x, y, np.ones(3000, np.float32), np.zeros(3000, np.float32))
    found = cross_fit.with_temperature(model, [part, part], folds, data, jax.random.key(0))
    information = np.sum((p * x**2).sum(1) - (p * x).sum(1) ** 2)  # of log T at T = 3, in f = x
    error = np.log(found.model.likelihood.temperature / 3) * np.sqrt(information)
    assert abs(error) < 4.6


@pytest.mark.parametrize("margin", [0.5, 30.0])
def test_temperature_of_rows_that_are_all_right_keeps_probabilities_below_one(margin):
    """Of N rows with one logit ±margin, all right: p(wrong) = 1/(2N + 2) minimizes N log p + ½ log p(1 − p)."""
    x = np.repeat(np.array([[1.0], [-1.0]], np.float32), 20, axis=0)
    network = dubito.Network(
        lambda key: {"w": jnp.ones((1, 1), jnp.float32)}, lambda params, x: margin * x * params["w"]
    )
    part = dubito.Samples(
        dubito.Model(network, dubito.Bernoulli()),
        {"network": {"w": jnp.ones((1, 1, 1), jnp.float32)}, "likelihood": {}},
    )
    folds = np.zeros((2, 40), np.float32)
    folds[0, ::2] = folds[1, 1::2] = 1
    data = Rows(x, (x[:, 0] > 0).astype(np.int32), np.ones(40, np.float32), np.zeros(40, np.float32))
    found = cross_fit.with_temperature(part.model, [part, part], folds, data, jax.random.key(0))
    wrong = 1 / (1 + np.exp(margin / found.model.likelihood.temperature))
    np.testing.assert_allclose(wrong, 1 / 82, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        dubito.CrossFit(dubito.MCDropout(epochs=5), 3),
        dubito.CrossFit(dubito.BayesByBackprop(epochs=5), 3, noise="constant"),
        dubito.CrossFit(dubito.Ensemble(dubito.MAP(epochs=5), 2), 3),
        dubito.Ensemble(dubito.CrossFit(dubito.MAP(epochs=5), 3, df=4), 2),
    ],
    ids=repr,
)
def test_cross_fit_wraps_any_method(linear, method, key):
    x, y = linear
    model = dubito.Model(dubito.mlp(3, (8,)), dubito.Gaussian())
    first, again = (dubito.fit(model, x, y, method, key=jax.random.key(1)) for _ in range(2))
    answer, other = (dubito.predict(posterior, x, key=key, draws=12) for posterior in (first, again))
    assert np.array_equal(answer.mean, other.mean) and np.array_equal(answer.variance, other.variance)
    assert np.all(np.isfinite(answer.log_prob(y))) and jax.tree.leaves(answer.z)[0].shape[0] == 12
    drawn = first.sample(key, 5)
    assert jax.tree.structure(drawn) == jax.tree.structure(first.model.init(key))


@pytest.mark.slow
def test_several_targets_each_get_their_noise(key):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(800, 2))
    y = x @ np.array([[1.0, 0.0], [0.0, 1.0]]) + np.array([0.1, 0.6]) * rng.normal(size=(800, 2))
    model = dubito.Model(dubito.mlp(2, (16,), 2), dubito.Gaussian(precision=1.0, targets=2), None)
    method = dubito.CrossFit(dubito.MaximumLikelihood(epochs=30), 4, df=None)
    answer = dubito.predict(dubito.fit(model, x, y, method, key=key), x, key=key)
    np.testing.assert_allclose(np.sqrt(answer.aleatoric.mean(0)), [0.1, 0.6], rtol=0.1)


@pytest.mark.parametrize(
    ("field", "wrong"), [("folds", 1), ("noise", "some"), ("df", 3), ("df", "three"), ("overlap", 0.7)]
)
def test_invalid_settings_are_refused(linear, field, wrong, key):
    model = dubito.Model(LINEAR, dubito.Gaussian())
    with pytest.raises(ValueError, match=field) as caught:
        dubito.fit(model, *linear, dubito.CrossFit(dubito.MAP(), **{field: wrong}), key=key)
    assert field != "df" or "None is Gaussian noise, and 'auto'" in str(caught.value)
