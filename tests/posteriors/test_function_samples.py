"""Functions at rows: what is held, how draws and rows are cut, and that none of it changes a bit."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito.posteriors import function_samples
from dubito.posteriors.base import Mixture, Samples
from dubito.posteriors.normals import DiagonalNormal

X = np.random.default_rng(0).normal(size=(1300, 3))
Y = X[:, :1]


def network(hidden=(16,), outputs=1, **options):
    return dubito.mlp(3, hidden, outputs, **options)


def cloud(net, likelihood=None, seed=5):
    model = dubito.Model(net, dubito.Gaussian() if likelihood is None else likelihood)
    params = model.init(jax.random.key(seed))
    return DiagonalNormal(model, params, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.2), params))


def dropped(net, seed=5):
    normals = cloud(net, seed=seed)
    params, last = normals.mean, len(normals.mean["network"]) - 1
    rates = {
        name: {"w": 0.2 if name != "layer_0" else None, "b": None} for name in params["network"] if name != "periodic"
    }
    assert last > 0
    return dubito.DropoutPosterior(normals.model, params, rates)


def answers(posterior, rows=slice(None), count=None):
    found = dubito.predict(posterior, X[rows], key=jax.random.key(7), draws=count, shift=3.0, scale=2.0)
    if found.task == "classification":
        labels = (np.arange(len(X)) % 3)[rows]
        return [found.probs, found.log_prob(labels), found.mutual_information, found.variation_ratio]
    return [found.mean, found.std, found.epistemic, found.log_prob(Y[rows]), found.cdf(Y[rows]), found.quantile(0.1)]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


POSTERIORS = {
    "normals": lambda: cloud(network()),
    "dropped": lambda: dropped(network()),
    "classes": lambda: cloud(network(outputs=3), dubito.Categorical(3)),
    "mixture": lambda: Mixture(cloud(network()).model, tuple(dropped(network(), seed) for seed in range(3))),
}


@pytest.mark.optimized
@pytest.mark.parametrize(  # several groups of draws of the same size, and one
    ("name", "count"), [*((name, 204) for name in POSTERIORS), ("mixture", 51)]
)
def test_answers_are_invariant_to_what_is_held_in_memory(monkeypatch, name, count):
    monkeypatch.setattr(function_samples, "GROUP", 64)
    held = answers(POSTERIORS[name](), count=count)
    monkeypatch.setattr(function_samples, "HELD", 0)
    assert same(held, answers(POSTERIORS[name](), count=count))


NETWORKS = {
    "five": lambda: network((5,), activation="tanh"),
    "two layers": lambda: network((64, 64), activation="silu"),
    "wide": lambda: network((300,), activation="gelu"),
}


@pytest.mark.optimized
@pytest.mark.parametrize("kind", [cloud, dropped], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", NETWORKS)
def test_answers_are_invariant_to_the_number_of_rows(name, kind):
    """The programs for few rows and for many differ in their shapes."""
    posterior = kind(NETWORKS[name]())
    complete = answers(posterior, count=204)
    for rows in (slice(700, 707), slice(1172, 1300), slice(1100, 1300)):
        for part, whole in zip(answers(posterior, rows, 204), complete, strict=True):
            np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("group", [7, 1024])
def test_reductions_over_groups_equal_those_over_all_draws(monkeypatch, group):
    """Against float64 sums over the draws themselves, among them some that are all alike."""
    monkeypatch.setattr(function_samples, "GROUP", group)
    rng = np.random.default_rng(1)
    mean = np.float32(rng.normal(size=(50, 6, 2)) * np.array([1, 1e-3, 1e6, 0, 1, 1])[:, None] + 4)
    scale = np.float32(np.exp(rng.normal(size=(50, 6, 2))))
    answer = dubito.Predictive(dubito.Gaussian(targets=2), {"mean": mean, "scale": scale}, np.zeros(2), np.ones(2))
    m, s, y = mean.astype(float), scale.astype(float), mean[0] + 0.5
    np.testing.assert_allclose(answer.mean, m.mean(0), rtol=1e-13)
    np.testing.assert_allclose(answer.epistemic, m.var(0), rtol=1e-9, atol=1e-25)
    np.testing.assert_allclose(answer.aleatoric, (s**2).mean(0), rtol=1e-6)
    assert np.all(answer.epistemic[3] == 0)
    density = special.logsumexp(stats.norm.logpdf(y, m, s).sum(-1), axis=0) - np.log(50)
    np.testing.assert_allclose(answer.log_prob(y), density, rtol=3e-6, atol=3e-6)
    np.testing.assert_array_equal(answer.z["mean"], mean)
    drawn = answer.sample(jax.random.key(0), 20_000)
    assert np.all(np.abs(drawn.mean(0) - m.mean(0)) < 4.6 * np.sqrt((s**2).mean(0) + m.var(0)) / np.sqrt(20_000))


@pytest.mark.slow
def test_predict_evaluates_the_draws_of_sample(key):
    """The functions that predict evaluates have the params of ``sample``, whatever is evaluated side by side."""
    for posterior in (cloud(network()), dropped(network()), dropped(network((64, 64)))):
        params = posterior.sample(key, 30)
        model = posterior.model
        exact = jax.vmap(lambda one, model=model: model.outputs(one, jnp.float32(X)))(params)
        found = dubito.predict(posterior, X, key=key, draws=30).z
        np.testing.assert_allclose(found["mean"], exact["mean"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["scale"], exact["scale"], rtol=1e-6)


def test_custom_posterior_needs_only_model_and_sample(key):
    class Own:
        model = cloud(network()).model

        def sample(self, key, n=None):
            return cloud(network()).sample(key, 4 if n is None else n)

    assert len(dubito.predict(Own(), X, key=key).draws) == 4
    own, plain = (dubito.predict(one, X, key=key, draws=9).mean for one in (Own(), cloud(network())))
    np.testing.assert_allclose(own, plain, rtol=1e-5, atol=1e-5)


def test_varying_parameters_counts_those_that_depend_on_the_draw():
    seed = np.zeros(2, np.uint32)
    assert function_samples.varying_parameters(cloud(network()), seed) == 3 * 16 + 16 + 16 + 1 + 1
    assert function_samples.varying_parameters(dropped(network()), seed) == 16
    points = Samples(cloud(network()).model, cloud(network()).sample(jax.random.key(0), 3))
    assert function_samples.varying_parameters(points, np.int32(0)) == 82


def test_largest_array_is_that_of_the_widest_layer_inside_any_call():
    net = network((16, 40))
    params = net.init(jax.random.key(0))
    many = jax.make_jaxpr(lambda x: jax.lax.map(jax.jit(lambda rows: net.apply(params, rows)), x))
    assert function_samples.largest_array(many(np.zeros((2, 5, 3), np.float32)).jaxpr) == 5 * 40


@pytest.mark.parametrize("widest", [0, 128 * 16 * 10])
def test_fewer_draws_are_side_by_side_where_their_arrays_are_large(monkeypatch, retraced, widest):
    expected = answers(dropped(network()), count=53)
    jax.clear_caches()
    monkeypatch.setattr(function_samples, "WIDEST", widest)
    for a, b in zip(answers(dropped(network()), count=53), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "most", "lines"), [(100, 64, 50), (1, 64, 1), (7, 3, 2), (101, 32, 17), (10, 10, 10)]
)
def test_draws_per_line_leaves_few_left_over(count, most, lines):
    assert function_samples.draws_per_line(count, most) == lines


@pytest.mark.slow
def test_parameters_may_contain_none():
    """As modules of Equinox have where a field holds no array: masks fall on the same weights."""

    def answer(**beside):
        def init(key):
            w, v = jax.random.normal(key, (2, 8), jnp.float32)
            return {"v": v[:, None], "w": jnp.stack([w, w, w]), **beside}

        model = dubito.Model(dubito.Network(init, lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]), dubito.Gaussian())
        posterior = dubito.fit(model, X, Y, dubito.MCDropout(rate=0.3, epochs=2), key=jax.random.key(0))
        return dubito.predict(posterior, X[:5], key=jax.random.key(1))

    plain, beside = answer(), answer(bias=None)
    assert np.all(plain.epistemic > 0)
    np.testing.assert_array_equal(plain.mean, beside.mean)
    np.testing.assert_array_equal(plain.epistemic, beside.epistemic)


PROGRAM = """
import resource, sys
import jax, numpy as np
import dubito

model = dubito.Model(dubito.mlp(4, (8,), 1), dubito.Gaussian(precision=1.0))
params = model.init(jax.random.key(0))
rates = {"layer_0": {"w": None, "b": None}, "layer_1": {"w": 0.2, "b": None}}
posterior = dubito.DropoutPosterior(model, params, rates)
x = np.random.default_rng(0).normal(size=(3000, 4))
for rows, count in ((1100, 1000), (3000, 10_000)):
    answer = dubito.predict(posterior, x[:rows], key=jax.random.key(1), draws=count)
    answer.std, answer.log_prob(x[:rows, :1])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.optimized
@pytest.mark.slow
def test_ten_thousand_draws_are_not_held_in_memory():
    """z of 10,000 draws at 3,000 rows would take 240 MB."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = map(int, done.stdout.split())
    assert many - few < 120
