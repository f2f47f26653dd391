"""Posteriors around trained networks: the weights stay, the noise is that of held-out rows, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor

import dubito
from dubito import metrics
from dubito.interop.trained import MaskedWeights, trained_network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(size=(300, 3)))
SIGNAL = np.sin(X[:, 0]) + X[:, 1]
Y = SIGNAL + 0.3 * RNG.normal(size=300)
KEY = jax.random.key(0)


def dropped(rate=0.2, scale=1.0, seed=0, width=40):
    """Random features, and the weights of a ridge regression on them: a network with one dropout."""
    rng = np.random.default_rng(seed)
    first = np.float32(rng.normal(size=(3, width)))
    hidden = np.tanh(X @ first)
    last = Ridge(10.0, fit_intercept=False).fit(hidden, Y / scale).coef_[:, None]
    weights = {"a": first, "b": np.float32(last)}

    def function(params, x, site):
        return site("hidden", rate, "units")(jnp.tanh(x @ params["a"])) @ params["b"]

    return trained_network(function, weights, X[:2], fresh=False)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_noise_of_mc_dropout_maximizes_the_likelihood_of_the_mixture(scale):
    """τ against SciPy on the same draws, in the units of the target."""
    network = dropped(scale=scale)
    likelihood = dubito.Gaussian(shape=1.0, rate=1e-6)  # a prior that is nearly flat in log τ
    posterior = dubito.wrap(
        network, dubito.MCDropout(), validation=(X, Y), likelihood=likelihood, scale=scale, key=jax.random.key(3)
    )
    ((_, seeds),) = posterior.sources(jax.random.split(jax.random.key(3))[0])
    f = scale * np.stack([network.apply(MaskedWeights(network.weights(), seed), X) for seed in seeds])[..., 0]

    def loss(log_precision):
        each = stats.norm.logpdf(Y, f, np.exp(-0.5 * log_precision))
        return -np.sum(special.logsumexp(each, axis=0)) - log_precision  # Gamma(1, ~0) of τ, as a density of log τ

    exact = optimize.minimize_scalar(loss, bounds=(-8, 8), method="bounded").x
    np.testing.assert_allclose(posterior.params["likelihood"]["log_precision"], exact, atol=2e-3)
    answer = dubito.predict(posterior, X, key=KEY, draws=2000)
    np.testing.assert_allclose(answer.mean, scale * network.apply(network.weights(), X)[:, 0], atol=0.15)
    assert 0.85 < metrics.coverage(answer, Y).value < 0.99


def test_weights_stay():
    network = dropped()
    before = jax.tree.map(np.copy, network.weights())
    posterior = dubito.wrap(network, dubito.MCDropout(), validation=(X, Y), likelihood="gaussian", key=KEY)
    for found, own in zip(jax.tree.leaves(posterior.params["network"]), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(found, own)


def test_ensemble_is_the_mixture_of_its_networks():
    networks = [MLPRegressor(hidden_layer_sizes=(8,), random_state=seed, max_iter=400).fit(X, Y) for seed in range(3)]
    posterior = dubito.wrap(
        [dubito.from_sklearn(one) for one in networks], validation=(X, Y), likelihood="gaussian", key=KEY
    )
    answer = dubito.predict(posterior, X[:20], key=KEY)
    each = np.stack([one.predict(X[:20]) for one in networks])
    np.testing.assert_allclose(answer.mean, each.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer.epistemic, each.var(0), rtol=1e-3, atol=1e-6)


def test_laplace_of_a_linear_network_is_the_exact_posterior():
    """Without a hidden layer the posterior of w and b is normal: N(τ S Zᵀy, S) with S = (τ ZᵀZ + I/s²)⁻¹."""
    model = MLPRegressor(hidden_layer_sizes=(1,), activation="identity", max_iter=20).fit(X, Y)
    z = np.concatenate([X, np.ones((300, 1))], axis=1).astype(float)
    s, tau = 2.0, 1 / 0.09
    covariance = np.linalg.inv(tau * z.T @ z + np.eye(4) / s**2)
    mode = tau * covariance @ z.T @ Y
    model.coefs_, model.intercepts_, model.n_layers_ = [mode[:3, None]], [mode[3:]], 2
    posterior = dubito.wrap(
        dubito.from_sklearn(model),
        dubito.LaplaceApproximation(structure="dense"),
        train=(X, Y),
        likelihood=dubito.Gaussian(precision=tau),
        prior=dubito.Normal(s, biases=s),
        key=KEY,
    )
    answer = dubito.predict(posterior, X[:10], key=KEY, draws=4000)
    exact = np.einsum("ij,jk,ik->i", z[:10], covariance, z[:10])
    np.testing.assert_allclose(answer.epistemic, exact, rtol=4.5 * np.sqrt(2 / 4000))
    np.testing.assert_allclose(answer.mean, z[:10] @ mode, atol=4.5 * np.sqrt(exact.max() / 4000))


def test_probabilities_are_taken_as_such():
    y = (SIGNAL > 0).astype(int) + (SIGNAL > 1)
    model = MLPClassifier(hidden_layer_sizes=(8,), random_state=0, max_iter=300).fit(X, y)
    logits = dubito.from_sklearn(model)
    probs = trained_network(
        lambda params, x, site: jax.nn.softmax(logits.apply(params, x)), logits.weights(), X[:2], fresh=False
    )
    rows, options = (X, y), {"likelihood": "categorical", "key": KEY}
    with pytest.raises(ValueError, match="look like probabilities: say outputs='probabilities'"):
        dubito.wrap([probs, probs], validation=rows, **options)
    with pytest.raises(ValueError, match="between 0 and 1 that sum to 1"):
        dubito.wrap([logits, logits], validation=rows, outputs="probabilities", **options)
    posterior = dubito.wrap([probs, probs], validation=rows, outputs="probabilities", **options)
    answer = dubito.predict(posterior, X[:30], key=KEY)
    np.testing.assert_allclose(answer.probs, model.predict_proba(X[:30]), atol=1e-5)


def test_a_trained_network_is_where_further_training_starts():
    model = MLPRegressor(hidden_layer_sizes=(8,), random_state=0, max_iter=400).fit(X, Y)
    network = dubito.from_sklearn(model)
    method = dubito.MAP(epochs=1, learning_rate=1e-6)
    posterior = dubito.fit(dubito.Model(network, dubito.Gaussian()), X, Y, method, key=KEY)
    np.testing.assert_allclose(dubito.predict(posterior, X, key=KEY).mean, model.predict(X), atol=1e-3)


SCIKIT = {"likelihood": "gaussian", "key": KEY}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((dubito.MCDropout(),), {"train": (X, Y)}, "rows that the network has not seen: validation="),
        ((dubito.LaplaceApproximation(),), {"validation": (X, Y)}, "on which the network was trained: train="),
        ((dubito.LaplaceApproximation(prior_updates=1),), {"train": (X, Y)}, "leave it at 0"),
        ((dubito.BayesByBackprop(),), {"train": (X, Y)}, "BayesByBackprop, which trains: dubito.fit"),
        ((), {"validation": (X, Y)}, "needs a method for a single network"),
        ((dubito.MCDropout(),), {"validation": (X, Y), "likelihood": "categorical"}, "needs 2 outputs"),
        ((dubito.MCDropout(),), {"validation": (X, Y), "outputs": "logits"}, "outputs='logits' is unknown"),
    ],
)
def test_what_cannot_be_wrapped_says_what_is_needed(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        dubito.wrap(dropped(), *arguments, **SCIKIT | options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((X[:, :2], Y), r"the network cannot take x of shape \(300, 2\)"),
        ((np.where(np.arange(300)[:, None] == 7, np.nan, X), Y), "x contains 3 value"),
        ((X, Y[:-1]), "same number of rows"),
    ],
)
def test_rows_that_the_network_cannot_take_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        dubito.wrap(dropped(), dubito.MCDropout(), validation=rows, **SCIKIT)


def test_network_without_dropout_offers_other_methods():
    network = dubito.from_sklearn(MLPRegressor(hidden_layer_sizes=(4,), max_iter=20).fit(X, Y))
    with pytest.raises(ValueError, match=r"no dropout\. Wrap it by dubito.LaplaceApproximation"):
        dubito.wrap(network, dubito.MCDropout(), validation=(X, Y), **SCIKIT)


def test_ensemble_needs_one_architecture():
    networks = [
        dubito.from_sklearn(MLPRegressor(hidden_layer_sizes=(width,), max_iter=20).fit(X, Y)) for width in (4, 5)
    ]
    with pytest.raises(ValueError, match="network 1 has another architecture"):
        dubito.wrap(networks, validation=(X, Y), **SCIKIT)
    tanh = MLPRegressor(hidden_layer_sizes=(4,), activation="tanh", max_iter=20).fit(X, Y)
    with pytest.raises(ValueError, match="network 1 has another architecture"):
        dubito.wrap([networks[0], dubito.from_sklearn(tanh)], validation=(X, Y), **SCIKIT)
