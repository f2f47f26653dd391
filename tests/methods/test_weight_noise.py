"""Noise inside any network: moments against drawn weights, treatments, gradients."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito._jax import jaxpr
from dubito.methods import weight_noise

S, RATE = 20_000, 0.3
W = jnp.ones((4, 4))


def normal(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}


def plain(p, x):
    return x @ p["w"] + p["b"][None]


def reused(p, x):
    a = x @ p["w"]
    return a + p["b"][None] + 0.5 * a


def convolution(p, x):
    f = jax.lax.conv_general_dilated(x, p["w"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return f + p["b"][None, None, None]


def linear_recurrence(p, x):
    def cell(h, at):
        return 0.5 * h + at @ p["w"] + p["b"][None], None

    return jax.lax.scan(cell, jnp.zeros((len(x), 2)), jnp.swapaxes(x, 0, 1))[0]


def tokens(p, x):
    return jnp.einsum("ntd,dk->ntk", x, p["w"]) + p["b"][None, None]


def tied(p, x):
    return x[:, :2] @ p["w"] + 0.5 * (x[:, 2:] @ p["w"]) + p["b"][None]


def mixed(p, x):
    """Examples that see one another: none has an output of its own, and drawn weights must be the same for all."""
    f = plain(p, x)
    return f + jnp.mean(f, axis=0)[None]


# name: (apply, shape of w, shape of x, treatment of w, treatment of b); all linear in the parameters
LINEAR = {
    "plain": (plain, (4, 2), (3, 4), "product", "product"),
    "reused": (reused, (4, 2), (3, 4), "product", "product"),
    "tokens": (tokens, (4, 2), (3, 3, 4), "places", "places"),
    "convolution": (convolution, (2, 2, 3, 2), (2, 4, 4, 3), "places", "places"),
    "tied": (tied, (2, 2), (3, 4), "draw", "product"),
    "linear_recurrence": (linear_recurrence, (3, 2), (3, 4, 3), "draw", "draw"),
    "vmapped": (lambda p, x: jax.vmap(lambda one: p["w"] @ one + p["b"])(x), (2, 4), (3, 4), "product", "product"),
    "transposed": (lambda p, x: x @ p["w"].T + p["b"][None], (2, 4), (3, 4), "draw", "product"),
}


class Case(NamedTuple):
    apply: Any
    params: Any
    noise: Any
    x: Any
    f: np.ndarray  # apply(params, x), (n, outputs of an example)
    slopes: dict  # d f/d leaf, (n, outputs of an example, *leaf)


@cache
def problem(name):
    apply, shape, rows, *_ = LINEAR[name]
    rng, params = np.random.default_rng(0), normal(1, w=shape, b=2)
    noise = {
        k: weight_noise.NormalNoise(jnp.float32(rng.uniform(0.2, 0.8, size=leaf.shape))) for k, leaf in params.items()
    }
    x = jnp.float32(1 + 0.3 * rng.normal(size=rows))
    found = jax.jit(jax.jacrev(apply))(params, x)
    slopes = {k: np.asarray(v, float).reshape(len(x), -1, *params[k].shape) for k, v in found.items()}
    return Case(apply, params, noise, x, np.asarray(apply(params, x), float).reshape(len(x), -1), slopes)


@partial(jax.jit, static_argnums=(0, 5))
def runs(apply, params, noise, x, keys, products):
    return jax.vmap(lambda k: weight_noise.noisy(apply, params, noise, x, key=k, products=products))(keys)


def sampled(apply, params, noise, x, seed=1, products="local"):
    """S runs under noise, (S, n, outputs of an example)."""
    keys = jax.random.split(jax.random.key(seed), S)
    return np.asarray(runs(apply, params, noise, x, keys, products), float).reshape(S, len(x), -1)


@cache
def gaussian_draws(name, products="local"):
    return sampled(*problem(name)[:4], products=products)


@cache
def masked_draws(name):
    return sampled(*problem(name)._replace(noise={"w": weight_noise.Masked(RATE), "b": None})[:4])


def assert_moments(draws, mean, covariance):
    """Mean (n, P) and covariance (n, P, P) within an example, each entry within 4.6 of its standard errors."""
    d = draws - mean
    found = np.einsum("sni,snj->nij", d, d) / len(d)
    fourth = np.einsum("sni,snj->nij", d**2, d**2) / len(d)
    variance = np.einsum("nii->ni", covariance)
    assert np.all(np.abs(d.mean(0)) < 4.6 * np.sqrt(variance / len(d)))
    assert np.all(np.abs(found - covariance) < 4.6 * np.sqrt((fourth - found**2) / len(d)))


def same_variance(draws, variance):
    square = (draws - draws.mean(0)) ** 2
    return np.all(np.abs(square.mean(0) - variance) < 4.6 * square.std(0) / np.sqrt(len(draws)))


@pytest.mark.parametrize(
    ("name", "products"),
    [
        *((name, "local") for name in LINEAR),
        *((n, p) for n in ("plain", "tokens", "tied") for p in ("flipout",)),
    ],
)
def test_gaussian_noise_has_the_moments_of_drawn_weights(name, products):
    """f is linear in θ ~ N(μ, σ²), so it has mean f(μ) and covariance J diag(σ²) Jᵀ, whatever the treatment."""
    case = problem(name)
    parts = [v.reshape(*case.f.shape, -1) * np.ravel(case.noise[k].scale) for k, v in case.slopes.items()]
    assert_moments(gaussian_draws(name, products), case.f, sum(np.einsum("npi,nqi->npq", v, v) for v in parts))


def test_variance_of_a_plain_layer_is_x_squared_sigma_squared():
    case = problem("plain")
    w, b = (np.asarray(case.noise[leaf].scale, float) for leaf in "wb")
    variance = np.asarray(case.x, float) ** 2 @ w**2 + b**2
    found = gaussian_draws("plain").var(0) / variance  # normal: relative standard error √(2/S)
    assert np.all(np.abs(found - 1) < 4.6 * np.sqrt(2 / S))


@pytest.mark.parametrize("name", ["plain", "tokens", "convolution", "tied", "vmapped"])
def test_masks_have_the_moments_of_dropped_inputs(name):
    """Input i of w is kept with 1 − r and divided by it: variance g_i g_iᵀ r/(1 − r), g_i = Σ_j (df/dw_ij) w_ij."""
    case = problem(name)
    parts = np.moveaxis(case.slopes["w"] * np.asarray(case.params["w"], float), -1 if name == "vmapped" else -2, 2)
    parts = parts.reshape(*parts.shape[:3], -1).sum(-1)
    assert_moments(masked_draws(name), case.f, np.einsum("npi,nqi->npq", parts, parts) * RATE / (1 - RATE))


def masked_variance(case, transposed=False):
    w = np.asarray(case.params["w"].T if transposed else case.params["w"], float)
    return np.asarray(case.x, float) ** 2 @ w**2 * RATE / (1 - RATE)


def test_variance_of_a_masked_layer_is_its_closed_form():
    assert same_variance(masked_draws("plain"), masked_variance(problem("plain")))


def test_masks_on_a_transposed_weight_drop_its_inputs():
    assert same_variance(masked_draws("transposed"), masked_variance(problem("transposed"), transposed=True))


def test_training_and_prediction_drop_the_same_units():
    """A weight of shape (outputs, inputs), as under vmap: the variance of a posterior's functions is that of training."""
    case = problem("vmapped")
    model = dubito.Model(dubito.Network(dict, case.apply), dubito.Gaussian(precision=1.0, targets=2))
    uses = jax.tree.leaves(
        jaxpr.uses(case.apply, case.params, case.x), is_leaf=lambda leaf: isinstance(leaf, jaxpr.Use)
    )
    axes = tuple(use.inputs for use in uses)
    posterior = dubito.DropoutPosterior(model, {"network": case.params, "likelihood": {}}, {"w": RATE, "b": None}, axes)
    drawn = posterior.sample(jax.random.key(2), S)["network"]
    predicted = np.asarray(jax.jit(jax.vmap(lambda p: case.apply(p, case.x)))(drawn), float)
    assert same_variance(masked_draws("vmapped"), masked_variance(case, transposed=True))
    assert same_variance(predicted, masked_variance(case, transposed=True))


def test_a_bias_cannot_be_masked():
    with pytest.raises(ValueError, match="bias"):
        weight_noise.noisy(
            plain, normal(1, w=(4, 2), b=2), {"w": None, "b": weight_noise.Masked(0.1)}, W, key=jax.random.key(0)
        )


def test_pooling_after_a_convolution_keeps_the_covariance_between_places():
    """Noise of its own at each place would give Σ_p var_p/P² instead of the variance of the mean over places."""
    case = problem("convolution")
    at_places = [v.reshape(2, 9, 2, -1) * np.ravel(case.noise[k].scale) for k, v in case.slopes.items()]
    exact = sum(np.sum(v.mean(1) ** 2, axis=-1) for v in at_places)
    naive = sum(np.sum(v**2, axis=(1, 3)) / 81 for v in at_places)
    error = exact * np.sqrt(2 / S)
    found = gaussian_draws("convolution").reshape(S, 2, 9, 2).mean(2).var(0)
    assert np.all(np.abs(found - exact) < 4.6 * error)
    assert np.all(np.abs(naive / exact - 0.13) < 0.03) and np.all(np.abs(found - naive) > 46 * error)


def recurrence(p, x):
    def cell(h, at):
        return jnp.tanh(at @ p["in"] + h @ p["w"] + p["b"][None]), None

    h = jax.lax.scan(cell, jnp.zeros((len(x), 2)), jnp.swapaxes(x, 0, 1))[0]
    return h @ p["out"]


MLP = dubito.mlp(3, (5,), 2)
DEEP = {
    "mlp": (MLP.apply, {"layer_0": normal(1, w=(3, 5), b=5), "layer_1": normal(2, w=(5, 2), b=2)}, (2, 3)),
    "autoencoder": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, normal(3, w=(3, 2)), (2, 3)),
    "recurrence": (
        recurrence,
        {"out": jnp.eye(2), "in": normal(4, w=(3, 2))["w"], **normal(5, w=(2, 2), b=2)},
        (2, 4, 3),
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_network_has_the_moments_of_drawn_weights(name):
    """Two samples: under noise, and with weights drawn by themselves; first and second moments within an example."""
    apply, params, shape = DEEP[name]
    x = jax.random.normal(jax.random.key(5), shape)
    scale = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.4), params)
    found = sampled(apply, params, jax.tree.map(weight_noise.NormalNoise, scale), x)
    rng = np.random.default_rng(6)
    drawn = jax.tree.map(lambda m: m[None] + 0.4 * jnp.float32(rng.normal(size=(S, *m.shape))), params)
    truth = np.asarray(jax.jit(jax.vmap(lambda p: apply(p, x)))(drawn), float).reshape(found.shape)
    center = np.asarray(apply(params, x), float).reshape(len(x), -1)
    for f in (lambda d: d, lambda d: d[..., :, None] * d[..., None, :]):
        a, b = f(found - center), f(truth - center)
        assert np.all(np.abs(a.mean(0) - b.mean(0)) < 4.6 * np.sqrt((a.var(0) + b.var(0)) / S))


@pytest.mark.parametrize(
    ("name", "products", "shared"),
    [
        ("plain", "local", False),
        ("plain", "flipout", False),
        ("linear_recurrence", "local", True),
        ("tokens", "local", False),
        ("mixed", "local", True),
    ],
)
def test_examples_share_noise_only_where_they_must(name, products, shared):
    """Equal rows: noise of their own in a product, the same in one draw, uncorrelated under flipout."""
    apply, params, noise, x, *_ = problem("plain" if name == "mixed" else name)
    apply = mixed if name == "mixed" else apply
    draws = sampled(apply, params, noise, jnp.broadcast_to(x[:1], x.shape), products=products)
    d = draws - draws.mean(0)
    if shared:
        np.testing.assert_array_equal(draws[:, 0], draws[:, 1])
    else:
        products = d[:, 0] * d[:, 1]
        assert np.all(np.abs(products.mean(0)) < 4.6 * products.std(0) / np.sqrt(S))


def attention(p, x):
    q, k, v = (x @ p[name] for name in "qkv")
    return jax.nn.softmax(jnp.einsum("ntd,nsd->nts", q, k), axis=-1) @ v


TREATMENTS = {
    **{k: (f, {"w": jnp.ones(w), "b": jnp.ones(2)}, jnp.ones(x), (b, a)) for k, (f, w, x, a, b) in LINEAR.items()},
    "mlp": (*DEEP["mlp"][:2], jnp.ones((5, 3)), ("product",) * 4),
    "unused": (lambda p, x: x @ p["w"], {"other": W, "w": W}, jnp.ones((5, 4)), ("unused", "product")),
    "returned": (lambda p, x: (x @ p["w"], p["w"]), {"w": W}, jnp.ones((5, 4)), ("draw",)),
    "reshaped": (lambda p, x: x @ p["w"].reshape(4, 4), {"w": jnp.ones(16)}, jnp.ones((5, 4)), ("product",)),
    "weights only": (lambda p, x: x @ (p["v"] @ p["w"]), {"v": W, "w": W}, jnp.ones((5, 4)), ("draw", "draw")),
    "elementwise": (lambda p, x: x * p["w"][None], {"w": jnp.ones(4)}, jnp.ones((5, 4)), ("draw",)),
    "over the batch": (lambda p, x: jax.nn.softmax(x @ p["w"], axis=0), {"w": W}, jnp.ones((5, 4)), ("draw",)),
    "shuffled": (lambda p, x: (x @ p["w"])[::-1], {"w": W}, jnp.ones((5, 4)), ("draw",)),
    "flattened": (lambda p, x: (x.reshape(-1, 4) @ p["w"]).reshape(5, 2, 4), {"w": W}, jnp.ones((5, 2, 4)), ("draw",)),
    "attention": (attention, {"k": W, "q": W, "v": W}, jnp.ones((5, 6, 4)), ("places",) * 3),
    "checkpoint": (jax.checkpoint(lambda p, x: jnp.sin(x @ p["w"])), {"w": W}, jnp.ones((5, 4)), ("product",)),
}


@pytest.mark.parametrize("name", TREATMENTS)
def test_use_of_each_leaf_is_read_from_the_program(name):
    apply, params, x, expected = TREATMENTS[name]
    found = jax.tree.leaves(jaxpr.uses(apply, params, x), is_leaf=lambda leaf: isinstance(leaf, jaxpr.Use))
    assert tuple(use.treatment for use in found) == expected


def test_raw_weights_are_those_that_see_the_inputs():
    found = jaxpr.uses(*DEEP["mlp"][:2], jnp.ones((5, 3)))
    assert found["layer_0"]["w"].raw and not found["layer_1"]["w"].raw


def test_gradients_are_finite_where_the_variance_is_zero():
    """A row of zeros and a scale of zero: the mean's gradient is then the deterministic one."""
    params, x = {"w": W[:, :2], "b": jnp.ones(2)}, jnp.ones((3, 4)).at[0].set(0)

    def loss(params, scale, x):
        return jnp.sum(
            weight_noise.noisy(plain, params, jax.tree.map(weight_noise.NormalNoise, scale), x, key=jax.random.key(0))
            ** 2
        )

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    for scale in ({"w": 0.1 * W[:, :2], "b": jnp.zeros(2)}, jax.tree.map(jnp.zeros_like, params)):
        found = gradient(params, scale, x)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    exact = jax.grad(lambda p: jnp.sum(plain(p, x) ** 2))(params)
    for leaf, truth in zip(*map(jax.tree.leaves, (found[0], exact)), strict=True):
        np.testing.assert_allclose(leaf, truth, rtol=1e-6)


def test_noise_is_a_function_of_the_key():
    again, other = (sampled(*problem("plain")[:4], seed=seed) for seed in (1, 2))
    assert np.array_equal(again, gaussian_draws("plain"))
    assert np.mean(other == again) < 1e-4
