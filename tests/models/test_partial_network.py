"""Networks of which some parameters are inferred: their posteriors are exact ones given the points, which stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito

RNG = np.random.default_rng(0)
TAU, SCALE, WIDTH = 4.0, 0.8, 3
X = np.float32(RNG.normal(size=(40, 4)))
WEIGHTS = {
    "features": {"w": np.float32(RNG.normal(size=(4, WIDTH)))},
    "head": {"w": np.zeros((WIDTH, 1), "f4")},
}
FEATURES = np.tanh(X.astype(float) @ WEIGHTS["features"]["w"])
Y = FEATURES @ RNG.normal(size=WIDTH) + RNG.normal(size=40) / np.sqrt(TAU)
PRECISION = np.eye(WIDTH) / SCALE**2 + TAU * FEATURES.T @ FEATURES
MEAN = np.linalg.solve(PRECISION, TAU * FEATURES.T @ Y)
COVARIANCE = np.linalg.inv(PRECISION)
KEY = jax.random.key(0)


def apply(params, x):
    return jnp.tanh(x @ params["features"]["w"]) @ params["head"]["w"]


NETWORK = dubito.Network(lambda key: WEIGHTS, apply)
LAST = dubito.partial_network(NETWORK, "head", WEIGHTS)
MODEL = dubito.Model(LAST, dubito.Gaussian(precision=TAU), dubito.Normal(SCALE))


def fit(method, model=MODEL, seed=0):
    return dubito.fit(model, X, Y, method, key=jax.random.key(seed))


def test_map_is_the_mean_of_the_exact_posterior_of_the_last_layer():
    point = fit(dubito.MAP(epochs=800, batch_size=None, learning_rate=0.05)).draw(0)["network"]
    assert list(point) == ["head.w"]
    np.testing.assert_allclose(point["head.w"][:, 0], MEAN, atol=2e-4)
    whole = LAST.whole(point)
    np.testing.assert_array_equal(whole["features"]["w"], WEIGHTS["features"]["w"])
    np.testing.assert_allclose(NETWORK.apply(whole, X), LAST.apply(point, X))


@pytest.mark.slow
def test_bayes_by_backprop_finds_the_best_independent_normals_of_the_last_layer():
    """μ is the exact mean, and σ_j² = 1/Λ_jj."""
    method = dubito.BayesByBackprop(
        epochs=3000, batch_size=None, learning_rate=0.02, ema_epochs=200, initial_scale=0.1, warm_up=0.0
    )
    posterior = fit(method)
    np.testing.assert_allclose(posterior.mean["network"]["head.w"][:, 0], MEAN, atol=0.02)
    np.testing.assert_allclose(posterior.scale["network"]["head.w"][:, 0], np.diag(PRECISION) ** -0.5, rtol=0.04)


@pytest.mark.slow
def test_dense_laplace_of_the_last_layer_is_its_exact_posterior_and_that_of_the_structure_last_layer():
    method = dubito.MAP(epochs=800, batch_size=None, learning_rate=0.05)
    model = dubito.Model(NETWORK, MODEL.likelihood, MODEL.prior)
    partial = fit(dubito.LaplaceApproximation(method, structure="dense"))
    exact = np.einsum("ij,jk,ik->i", FEATURES, COVARIANCE, FEATURES)
    answer = dubito.predict(partial, X, key=KEY, draws=4000)
    np.testing.assert_allclose(answer.epistemic, exact, rtol=4.5 * np.sqrt(2 / 4000))
    network = dubito.partial_network(NETWORK, "head", WEIGHTS)
    assert network.chosen == ("head.w",)
    # the same point in the whole network: its last layer's evidence is conditional on the features, as here
    point = dubito.Network(lambda key: LAST.whole(partial.point.draw(0)["network"]), apply)
    structure = dubito.LaplaceApproximation(dubito.MAP(epochs=1, learning_rate=1e-12), structure="last-layer")
    whole = fit(structure, dubito.Model(point, model.likelihood, model.prior))
    np.testing.assert_allclose(whole.log_evidence, partial.log_evidence, rtol=1e-5)
    features, y = FEATURES, Y
    covariance = np.eye(40) / TAU + SCALE**2 * features @ features.T
    sign, logdet = np.linalg.slogdet(2 * np.pi * covariance)
    log_evidence = -0.5 * (logdet + y @ np.linalg.solve(covariance, y))
    assert sign == 1
    np.testing.assert_allclose(partial.log_evidence, log_evidence, rtol=1e-5)


@pytest.mark.slow
def test_hmc_draws_from_the_exact_posterior_of_the_last_layer():
    pytest.importorskip("blackjax")
    posterior = fit(dubito.HMC(draws=1000, warmup=300, chains=2, mass="dense"))
    error = np.asarray(posterior.params["network"]["head.w"], float)[..., 0] - MEAN
    products = np.einsum("di,dj->dij", error, error) - COVARIANCE
    for each in (error, products.reshape(len(error), -1)):  # t-statistics of the means of 40 stretches of the chains
        means = each.reshape(40, -1, each.shape[1]).mean(1)
        assert np.max(np.abs(means.mean(0)) / (means.std(0, ddof=1) / np.sqrt(40))) < 4.5


def test_mc_dropout_masks_the_chosen_weights_alone():
    deep = dubito.mlp(4, (8, 8))
    weights = deep.init(KEY)
    last = dubito.partial_network(deep, "layer_2", weights)
    posterior = fit(
        dubito.MCDropout(epochs=2, rate=0.4, noise="training"),
        dubito.Model(last, dubito.Gaussian(), dubito.Normal(1.0)),
    )
    draws = posterior.sample(KEY, 50)["network"]
    assert set(draws) == {"layer_2.b", "layer_2.w"}
    zero = np.asarray(draws["layer_2.w"] == 0).mean()
    assert abs(zero - 0.4) < 4.5 * np.sqrt(0.24 / 400)


def test_scales_of_the_network_are_those_of_the_chosen_parameters():
    whole = dubito.mlp(2, (8,))
    weights = whole.init(KEY)
    last = dubito.partial_network(whole, "layer_1", weights)
    own, every = last.scales(last.init(KEY), 2.0), whole.scales(weights, 2.0)
    np.testing.assert_array_equal(own["layer_1.w"], every["layer_1"]["w"])
    assert last.scales is not None and LAST.scales is None


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("layer_1", ["layer_1.b", "layer_1.w"]),
        (["layer_0.w", "layer_1.b"], ["layer_0.w", "layer_1.b"]),
        (lambda name: name.endswith(".b"), ["layer_0.b", "layer_1.b"]),
    ],
)
def test_where_names_layers_arrays_or_tests_names(where, chosen):
    network = dubito.mlp(2, (3,))
    assert list(dubito.partial_network(network, where, network.init(KEY)).chosen) == chosen


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layer_9", "where='layer_9' is none of the names; did you mean 'layer_"),
        ("w", r"where='w' names several layers: layer_0\.w, layer_1\.w\. Give a whole name"),
        (lambda name: False, r"where chooses none of layer_0\.b"),
        ([], r"where chooses none of layer_0\.b"),
    ],
)
def test_unclear_names_are_refused(where, message):
    network = dubito.mlp(2, (3,))
    with pytest.raises(ValueError, match=message):
        dubito.partial_network(network, where, network.init(KEY))
