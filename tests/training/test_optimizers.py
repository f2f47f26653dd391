"""Optimizers, schedules, clipping and max-norm against the papers' formulas in NumPy float64, three steps by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dubito
from dubito._jax import jaxpr
from dubito.models.model import Batch
from dubito.training import descent, optimizers, packing
from dubito.training.method import Clock

THETA = np.array([1.0, -2.0, 0.5])
CURVES = np.array([3.0, 0.5, 2.0])
STEPS = 3


def slope(theta):
    """The gradient of Σ c(θ²/2 + θ⁴/40)."""
    return CURVES * (theta + theta**3 / 10)


def sgd(theta, rate):
    """Robbins & Monro 1951: θ ← θ − αg."""
    for _ in range(STEPS):
        theta = theta - rate * slope(theta)
        yield theta


def momentum(theta, rate):
    """Polyak 1964, as in Sutskever et al. 2013: v ← γv + g, θ ← θ − αv, γ = 0.9."""
    v = np.zeros(3)
    for _ in range(STEPS):
        v = 0.9 * v + slope(theta)
        theta = theta - rate * v
        yield theta


def nesterov(theta, rate):
    """Nesterov 1983, as in Sutskever et al. 2013: a step from where the momentum leads.

    Theirs: u ← γu − αg(p + γu), p ← p + u. Here θ = p + γu is what is kept, so the gradient is at θ itself.
    """
    p, u = theta, np.zeros(3)
    for _ in range(STEPS):
        u = 0.9 * u - rate * slope(p + 0.9 * u)
        p = p + u
        yield p + 0.9 * u


def adagrad(theta, rate):
    """Duchi, Hazan & Singer 2011, diagonal: G ← G + g², θ ← θ − αg/√G."""
    total = np.zeros(3)
    for _ in range(STEPS):
        g = slope(theta)
        total = total + g**2
        theta = theta - rate * g / np.sqrt(total)
        yield theta


def rmsprop(theta, rate):
    """Hinton 2012, lecture 6e: G ← 0.9G + 0.1g², θ ← θ − αg/√G; ε = 1e-8 beside the root."""
    mean = np.zeros(3)
    for _ in range(STEPS):
        g = slope(theta)
        mean = 0.9 * mean + 0.1 * g**2
        theta = theta - rate * g / (np.sqrt(mean) + 1e-8)
        yield theta


def adadelta(theta, rate):
    """Zeiler 2012, algorithm 1: ρ = 0.95, ε = 1e-6, Δx = −RMS[Δx]/RMS[g]·g with RMS[a] = √(E[a²] + ε)."""
    of_g, of_x = np.zeros(3), np.zeros(3)
    for _ in range(STEPS):
        g = slope(theta)
        of_g = 0.95 * of_g + 0.05 * g**2
        moved = -np.sqrt(of_x + 1e-6) / np.sqrt(of_g + 1e-6) * g
        of_x = 0.95 * of_x + 0.05 * moved**2
        theta = theta + rate * moved
        yield theta


def adam(theta, rate):
    """Kingma & Ba 2015, algorithm 1: β₁ = 0.9, β₂ = 0.999, ε = 1e-8."""
    m, v = np.zeros(3), np.zeros(3)
    for t in range(1, STEPS + 1):
        g = slope(theta)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield theta


BY_HAND = {f.__name__: f for f in (sgd, momentum, nesterov, adagrad, rmsprop, adadelta, adam)}
RATES = {
    "sgd": 0.01,
    "momentum": 0.01,
    "nesterov": 0.01,
    "adagrad": 0.01,
    "rmsprop": 1e-3,
    "adadelta": 1.0,
    "adam": 1e-3,
}


def clock(progress=0.0, step_factor=1.0):
    return Clock(jnp.int32(0), jnp.asarray(progress, float), jnp.bool_(False), jnp.asarray(step_factor, float))


def descended(method, gradient, start: Any = THETA, at=lambda step: clock()):
    """The library's steps from ``start``, a tree of float64 arrays, each as a tree of NumPy arrays."""
    params = jax.tree.map(jnp.asarray, start)
    state, found = optimizers.init_state(method, params), []
    for step in range(STEPS):
        params, state = optimizers.descend(method, gradient(params), params, state, at(step))
        found.append(jax.tree.map(np.asarray, params))
    return found


@pytest.mark.parametrize("rate", [0.1, None], ids=["given", "its own"])
@pytest.mark.parametrize("name", BY_HAND)
def test_three_steps_by_hand(name, rate):
    """``learning_rate=None`` is the paper's own, or the usual one where it has none."""
    method = dubito.MAP(optimizer=name, learning_rate=rate, schedule="constant")
    with jax.enable_x64(True):
        found = descended(method, lambda theta: jnp.asarray(slope(np.asarray(theta))))
    exact = list(BY_HAND[name](THETA, RATES[name] if rate is None else rate))
    assert found[0].dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)


def test_the_table_of_optimizers_is_complete():
    assert set(optimizers.OPTIMIZERS) == set(BY_HAND)
    assert {name: row.rate for name, row in optimizers.OPTIMIZERS.items()} == RATES
    assert all(row.update and row.source for row in optimizers.OPTIMIZERS.values())


# of progress 0, ¼, ½, 1: cosine is ½(1 + cos πp) (Loshchilov & Hutter 2017 without restarts), cos π/4 = √½
FACTORS = {"constant": [1, 1, 1, 1], "linear": [1, 0.75, 0.5, 0], "cosine": [1, 0.5 + 0.5**1.5, 0.5, 0]}


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_schedules_by_hand(name):
    """The step is α times the factor, and half of it after a divergence."""
    method = dubito.MAP(learning_rate=0.2, optimizer="sgd", schedule=name)
    with jax.enable_x64(True):
        for progress, factor in zip((0, 0.25, 0.5, 1), FACTORS[name], strict=True):
            for step_factor in (1.0, 0.5):
                found = optimizers.step_size(method, clock(progress, step_factor))
                np.testing.assert_allclose(found, -0.2 * factor * step_factor, rtol=0, atol=1e-16)


@pytest.mark.parametrize(("clip", "factor"), [(2.0, 2 / 13), (13.5, 1.0), (None, 1.0)])
def test_a_gradient_is_clipped_by_the_norm_of_all_of_it(clip, factor):
    """Pascanu, Mikolov & Bengio 2013: g ← g·c/‖g‖ where ‖g‖ > c; (3, 4) and (12) have the norm 13."""
    method = dubito.MAP(learning_rate=1.0, optimizer="sgd", schedule="constant", clip=clip)
    with jax.enable_x64(True):
        gradient = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray([[12.0]])}
        found = descended(method, lambda params: gradient, {"a": np.zeros(2), "b": np.zeros((1, 1))})[0]
    np.testing.assert_allclose(found["a"], [-3 * factor, -4 * factor], rtol=1e-12)
    np.testing.assert_allclose(found["b"], [[-12 * factor]], rtol=1e-12)


def test_an_optimizer_of_ones_own_has_its_own_rate():
    method = dubito.MAP(learning_rate=None, optimizer=optax.sgd(0.01), schedule="linear")
    with jax.enable_x64(True):
        found = descended(method, lambda theta: jnp.asarray(slope(np.asarray(theta))), at=lambda step: clock(step / 4))
    theta = THETA
    for step in range(STEPS):
        theta = theta - 0.01 * (1 - step / 4) * slope(theta)
        np.testing.assert_allclose(found[step], theta, rtol=0, atol=1e-12)


def projected(w, limit, axes):
    norm = np.sqrt(np.sum(w**2, axis=axes, keepdims=True))
    return w * limit / np.maximum(norm, limit)


def image_network(params, x):
    """A convolution, weights stored with the outputs first, and a last layer."""
    x = x.reshape(-1, 4, 4, 2)
    h = jax.lax.conv_general_dilated(x, params["conv"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jnp.tanh(h.reshape(len(x), -1) + params["bias"][None])
    h = jax.vmap(lambda one: jnp.tanh(params["turned"] @ one))(h)
    return h @ params["last"]


@pytest.mark.parametrize("packed", [True, False])
def test_max_norm_scales_the_weights_into_each_hidden_unit(packed):
    """A unit's weights are a column of (inputs, units), a row of (units, inputs), a channel's whole window."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (2, 2, 2, 3), "bias": (12,), "turned": (5, 12), "last": (5, 2)}
    w = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    w["turned"][0] = 0.0  # a unit without weights stays so, and one below the limit too
    w["turned"][1] *= 0.5
    model = dubito.Model(dubito.Network(dict, image_network), dubito.Gaussian(precision=1.0))
    method = dubito.MAP(max_norm=2.0) if packed else dubito.MAP(max_norm=2.0, optimizer=optax.sgd(0.1))
    params = {"network": jax.tree.map(jnp.float32, w), "likelihood": {}}
    x = np.zeros((3, 32), np.float32)
    held = descent.start_descent(method, params).params
    assert isinstance(held["network"], packing.FlatParams) == packed
    limited = optimizers.limit_norms(method, model, held, x)
    assert isinstance(limited["network"], packing.FlatParams) == packed
    found = packing.unpack(limited)["network"]
    exact = {"conv": projected(w["conv"], 2.0, (0, 1, 2)), "turned": projected(w["turned"], 2.0, 1)}
    for name in w:
        np.testing.assert_allclose(found[name], exact.get(name, w[name]), rtol=2e-7, atol=1e-7)
    norms = np.sqrt(np.sum(w["turned"] ** 2, axis=1))
    assert norms.min() == 0 and norms.max() > 2.0 and np.linalg.norm(w["last"], axis=0).max() > 2.0
    uses = jaxpr.uses(image_network, params["network"], x)
    assert {name: use.hidden for name, use in uses.items()} == {
        "conv": True,
        "bias": True,
        "turned": True,
        "last": False,
    }


def test_weights_of_a_loop_feed_its_own_units(key):
    def recurrent(params, x):
        def cell(h, at):
            return jnp.tanh(at[:, None] @ params["in"] + h @ params["again"]), None

        h, _ = jax.lax.scan(cell, jnp.zeros((len(x), 3)), x.T)
        return h @ params["out"]

    shapes = {"in": (1, 3), "again": (3, 3), "out": (3, 1)}
    uses = jaxpr.uses(recurrent, {name: jnp.ones(shape) for name, shape in shapes.items()}, jnp.ones((2, 4)))
    assert {name: use.hidden for name, use in uses.items()} == {"in": True, "again": True, "out": False}


@pytest.mark.parametrize("method", [dubito.MaximumLikelihood, dubito.MAP, dubito.MCDropout], ids=lambda m: m.__name__)
def test_a_fit_ends_within_max_norm(method, key):
    """The limit holds for every method with it, where it would not without; outputs' weights and biases are free."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(16, 2)), 3 * rng.normal(size=(16, 1))
    model = dubito.Model(
        dubito.mlp(2, (4,), 1, "tanh"), dubito.Gaussian(precision=1.0), dubito.Normal(10.0, biases=10.0)
    )
    options = {"epochs": 3, "batch_size": None, "learning_rate": 0.5, "optimizer": "sgd", "schedule": "constant"}
    free, bound = (
        jax.tree.map(np.asarray, weights(dubito.fit(model, x, y, method(**options, max_norm=c), key=key)))
        for c in (None, 0.6)
    )
    norms = [np.linalg.norm(one["layer_0"]["w"], axis=0) for one in (free, bound)]
    assert np.all(norms[1] <= 0.6 * (1 + 1e-6)) and np.sum(norms[0] > 0.6) > 1
    assert np.linalg.norm(bound["layer_1"]["w"]) > 0.6  # the outputs' weights are free
    assert np.linalg.norm(bound["layer_0"]["b"]) > 0


def weights(posterior):
    """The parameters of a point, or those that masks are put on."""
    if isinstance(posterior, dubito.Samples):
        return jax.tree.map(lambda leaf: leaf[0], posterior.params["network"])
    return posterior.params["network"]


def test_steps_under_max_norm_by_hand():
    """θ ← P(θ − αg), P the projection: three steps of maximum likelihood on two rows in NumPy."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3)), rng.normal(size=(2, 1))
    model = dubito.Model(dubito.mlp(3, (4,), 1, "tanh"), dubito.Gaussian(precision=1.0))
    method = dubito.MaximumLikelihood(learning_rate=0.3, optimizer="sgd", schedule="constant", max_norm=0.8)
    batch = Batch(jnp.float32(x), jnp.float32(y), jnp.ones(2), jnp.float32(1), jnp.float32(2))
    state = method.init(model, batch, jax.random.key(1))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, float), packing.unpack(state.params)["network"])
    first, last = p["layer_0"], p["layer_1"]
    now = Clock(jnp.int32(0), jnp.float32(0), jnp.bool_(False), jnp.float32(1))
    limits = 0
    for _ in range(STEPS):
        state, _ = method.step(model, state, batch, now, jax.random.key(2))
        h = np.tanh(x @ first["w"] + first["b"])
        error = (h @ last["w"] + last["b"] - y) / 2
        below = (1 - h**2) * (error @ last["w"].T)
        last = {"w": last["w"] - 0.3 * h.T @ error, "b": last["b"] - 0.3 * error.sum(0)}
        w = first["w"] - 0.3 * x.T @ below
        limits += np.sum(np.linalg.norm(w, axis=0) > 0.8)
        first = {"w": projected(w, 0.8, 0), "b": first["b"] - 0.3 * below.sum(0)}
        found = packing.unpack(state.params)["network"]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves({"layer_0": first, "layer_1": last}), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert 0 < limits < STEPS * 4


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dubito.MAP(optimizer="adm"), "did you mean 'adam'"),
        (dubito.MAP(schedule=3), "schedule=3 is unknown. Choose one of constant, cosine, linear"),
        (dubito.MAP(epochs=1.5), r"epochs must be a whole number of at least 1 or None \(by rows\)"),
        (dubito.SGLD(cycles="2"), "cycles must be a whole number of at least 1, got '2'"),
        (dubito.SWAG(start="a"), r"start must be in \[0, 1\), got 'a'"),
        (dubito.SWAG(epochs=2), "start must leave two epochs"),
        (dubito.MAP(learning_rate=0.0), "learning_rate must be positive or None"),
        (dubito.MCDropout(max_norm=-1.0), "max_norm must be positive or None"),
        (dubito.MAP(clip=0.0), "clip must be positive or None"),
        (dubito.MAP(max_norm=1.0), "has none"),
    ],
)
def test_numbers_no_descent_can_use_are_refused(method, message, key):
    model = dubito.Model(dubito.mlp(1, (), 1), dubito.Gaussian())
    with pytest.raises(ValueError, match=message):
        dubito.fit(model, np.zeros((4, 1)), np.arange(4.0), method, key=key)


@pytest.mark.parametrize(("method", "clip"), [(dubito.MAP, True), (dubito.SGLD, False)])
def test_divergence_names_settings_that_the_method_has(method, clip, key):
    model = dubito.Model(dubito.mlp(1, (3,), 1), dubito.Gaussian())
    with pytest.raises(dubito.DivergenceError, match="Try learning_rate=") as caught:
        dubito.fit(model, np.linspace(-1, 1, 8)[:, None], np.arange(8.0), method(learning_rate=1e9), key=key)
    assert ("clip=" in str(caught.value)) == clip


def test_a_diverging_optimizer_of_ones_own_is_told_to_slow_down(key):
    model = dubito.Model(dubito.mlp(1, (3,), 1), dubito.Gaussian())
    method = dubito.MAP(epochs=20, optimizer=optax.sgd(1e6))
    with pytest.raises(dubito.DivergenceError, match="a smaller rate in your optimizer"):
        dubito.fit(model, np.linspace(-1, 1, 8)[:, None], np.arange(8.0), method, key=key)
