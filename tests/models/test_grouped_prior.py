"""The grouped prior against SciPy's multivariate t, its draws by their quantiles, and its bound against the ELBO with t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito.methods.variational.bayes_by_backprop import IndependentNormals, divergence
from dubito.training.packing import pack

A, B, S, BIASES = 0.7, 0.05, 1.4, 2.0
PRIOR = dubito.GroupedNormal(S, BIASES, A, B)
RNG = np.random.default_rng(0)
NETWORK = {"w": jnp.float32(RNG.normal(size=(3, 5))), "b": jnp.float32(RNG.normal(size=5))}


def row_log_density(row):
    return stats.multivariate_t.logpdf(row, shape=S**2 * B / A * np.eye(len(row)), df=2 * A)


def exact(params):
    rows = sum(row_log_density(row) for row in np.asarray(params["w"], float))
    return rows + np.sum(stats.norm.logpdf(np.asarray(params["b"], float), scale=BIASES))


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_log_density_is_that_of_scipy(size):
    params = jax.tree.map(lambda leaf: size * leaf, NETWORK)
    np.testing.assert_allclose(PRIOR.log_prob(params), exact(params), rtol=2e-6)


def test_weights_of_a_convolution_share_the_precision_of_their_input_channel():
    kernel = RNG.normal(size=(2, 2, 3, 4))
    expected = sum(row_log_density(kernel[:, :, i].ravel()) for i in range(3))
    np.testing.assert_allclose(PRIOR.log_prob({"w": jnp.float32(kernel)}), expected, rtol=2e-6)


def test_draws_have_the_law_of_the_density():
    """|w|²/(m s² b/a) of a row is F(m, 2a), which has no mean; rows are independent, and entries in one are not."""
    like = {"w": jnp.zeros((20_000, 6)), "b": jnp.zeros(20_000)}
    drawn = jax.tree.map(lambda leaf: np.asarray(leaf, float), PRIOR.sample(jax.random.key(0), like))
    size = np.sum(drawn["w"] ** 2, axis=1) / (6 * S**2 * B / A)
    assert stats.kstest(size, stats.f(6, 2 * A).cdf).pvalue > 1e-3
    assert stats.kstest(drawn["w"][:, 0], stats.t(2 * A, scale=S * np.sqrt(B / A)).cdf).pvalue > 1e-3
    assert stats.kstest(drawn["b"], stats.norm(scale=BIASES).cdf).pvalue > 1e-3
    logs = np.log(drawn["w"] ** 2)
    assert np.corrcoef(logs[:, 0], logs[:, 1])[0, 1] > 0.3
    assert abs(np.corrcoef(logs[:-1, 0], logs[1:, 0])[0, 1]) < 4 / np.sqrt(20_000)


def test_scales_are_those_of_the_network():
    network = dubito.mlp(4, (9,), 2)
    params = network.init(jax.random.key(3))
    prior = dubito.GroupedNormal(3.0, shape=A, rate=B, by_network=True)
    expected = 0.0
    for layer, fan_in in (("layer_0", 4), ("layer_1", 9)):
        scaled = np.asarray(params[layer]["w"], float) / (3 / np.sqrt(fan_in)) * S
        expected += sum(row_log_density(row) for row in scaled) + scaled.size * np.log(S / (3 / np.sqrt(fan_in)))
        expected += np.sum(stats.norm.logpdf(np.asarray(params[layer]["b"], float)))
    model = dubito.Model(network, dubito.Gaussian(precision=1.0, targets=2), prior)
    np.testing.assert_allclose(model.log_prior({"network": params, "likelihood": {}}), expected, rtol=2e-6)


def test_kl_is_that_of_the_weights_and_their_precisions():
    """KL of q(w) Π Gamma(t_i; a + m/2, b + ½ Σ E w²/s²) to the prior of w and t, term by term in NumPy."""
    mean = {"w": RNG.normal(size=(3, 5)), "b": RNG.normal(size=5)}
    std = {"w": np.exp(RNG.normal(size=(3, 5))), "b": np.exp(RNG.normal(size=5))}
    square = mean["w"] ** 2 + std["w"] ** 2
    shape, rate = A + 2.5, B + 0.5 * square.sum(1) / S**2
    log_t, t = special.digamma(shape) - np.log(rate), shape / rate
    weights = np.sum(0.5 * log_t[:, None] - np.log(S) - 0.5 * np.log(2 * np.pi) - 0.5 * t[:, None] * square / S**2)
    precisions = np.sum(A * np.log(B) - special.gammaln(A) + (A - 1) * log_t - B * t)
    precisions += np.sum(stats.gamma(shape, scale=1 / rate).entropy())
    biases = np.sum(stats.norm.logpdf(0, scale=BIASES) - 0.5 * (mean["b"] ** 2 + std["b"] ** 2) / BIASES**2)
    entropy = sum(np.sum(np.log(each) + 0.5 * np.log(2 * np.pi * np.e)) for each in std.values())
    network = dubito.Network(lambda key: NETWORK, lambda p, x: x @ p["w"] + p["b"])
    model = dubito.Model(network, dubito.Gaussian(precision=1.0, targets=5), PRIOR)
    trees = [{"network": jax.tree.map(jnp.float32, each), "likelihood": {}} for each in (mean, std)]
    found = divergence(model, IndependentNormals(*map(pack, trees)), {"network": NETWORK, "likelihood": {}})
    np.testing.assert_allclose(found, -entropy - weights - precisions - biases, rtol=1e-5)


def test_improper_prior_refuses_to_sample():
    with pytest.raises(ValueError, match="improper"):
        dubito.GroupedNormal(biases=None).sample(jax.random.key(0), NETWORK)
    assert np.isfinite(dubito.GroupedNormal(biases=None).log_prob(NETWORK))


def test_estimator_is_trained_with_it_and_saved(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    method = dubito.BayesByBackprop(epochs=30)
    prior = dubito.GroupedNormal(by_network=True)
    model = dubito.BayesianRegressor(method, prior=prior, random_state=0).fit(x, x[:, 0])
    model.save(tmp_path / "m.dubito")
    again = dubito.load(tmp_path / "m.dubito")
    assert again.posterior_.model.prior == prior
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
