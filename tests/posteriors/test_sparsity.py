"""The share of exact zeros: counted by hand, of what L1 makes beside L2, and of pruned posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito.posteriors.noise import FixedNoisePosterior

MODEL = dubito.Model(dubito.Network(dict, lambda params, x: x), dubito.Gaussian())


def params(*zeros):
    """Weights of 8 and of 4 numbers, so many of them 0, with a bias of zeros that does not count."""
    first, last = (np.arange(1.0, 1 + size) for size in (8, 4))
    first[: zeros[0]], last[: zeros[1]] = 0.0, 0.0
    network = {"a": {"w": jnp.float32(first.reshape(2, 4)), "b": jnp.zeros(4)}, "c": jnp.float32(last.reshape(4, 1))}
    return {"network": network, "likelihood": {"log_precision": jnp.zeros(1)}}


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def normals(mean, scale):
    return dubito.DiagonalNormal(MODEL, mean, scale)


ONE, TWO, FULL = params(4, 1), params(2, 3), params(0, 0)
EXACT = {"a/w": 0.5, "c": 0.25, "all": 5 / 12}
CASES = {
    "a point": (dubito.Samples(MODEL, stack(ONE)), EXACT),
    "draws": (dubito.Samples(MODEL, stack(ONE, TWO)), {"a/w": 0.375, "c": 0.5, "all": 5 / 12}),
    "masks do not count": (dubito.DropoutPosterior(MODEL, ONE, {"a": {"w": 0.5, "b": None}, "c": 0.5}), EXACT),
    "a mean of 0 with a scale is none": (normals(ONE, FULL), {"a/w": 0.0, "c": 0.0, "all": 0.0}),
    "neither mean nor scale": (normals(ONE, ONE), EXACT),
    "a mixture": (
        dubito.Mixture(MODEL, (normals(ONE, ONE), normals(TWO, TWO))),
        {"a/w": 0.375, "c": 0.5, "all": 5 / 12},
    ),
    "noise beside it": (FixedNoisePosterior(MODEL, dubito.Mixture(MODEL, (normals(ONE, ONE),)), {}), EXACT),
}


@pytest.mark.parametrize("name", CASES)
def test_sparsity_counts_zeros(name):
    posterior, exact = CASES[name]
    found = dubito.sparsity(posterior)
    assert list(found) == list(exact)
    np.testing.assert_allclose(list(found.values()), list(exact.values()), rtol=1e-12)


def test_sparsity_rejects_a_network_without_weights():
    posterior = dubito.Samples(MODEL, {"network": {"b": jnp.zeros((1, 3))}, "likelihood": {}})
    with pytest.raises(ValueError, match="no weights"):
        dubito.sparsity(posterior)


@pytest.mark.slow
def test_l1_makes_zeros_and_l2_does_not(key):
    """One of six columns matters: L1 cuts weights of the others."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6))
    y = np.sin(x[:, :1]) + 0.1 * rng.normal(size=(80, 1))

    def fitted(prior, method):
        return dubito.fit(dubito.Model(dubito.mlp(6, (8,)), dubito.Gaussian(1.0), prior), x, y, method, key=key)

    method = dubito.MAP(epochs=300, batch_size=None)
    by_l1, by_l2 = fitted(dubito.Laplace.from_l1(0.01, 80), method), fitted(dubito.Normal.from_l2(0.01, 80), method)
    w = np.asarray(by_l1.params["network"]["layer_0"]["w"])[0]
    found = dubito.sparsity(by_l1)
    assert found["layer_0/w"] == np.mean(w == 0) > 0.5
    assert dubito.sparsity(by_l2) == {"layer_0/w": 0.0, "layer_1/w": 0.0, "all": 0.0}


def test_prune_removes_the_given_fraction():
    assert dubito.sparsity(dubito.prune(normals(FULL, jax.tree.map(jnp.ones_like, FULL)), 0.75))["all"] == 0.75
