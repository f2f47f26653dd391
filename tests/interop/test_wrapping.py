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
from dubito.estimators.files.posterior_file import posterior_config
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


FIRST_TOKEN = 2**24 + 1  # beyond 2²⁴, where float32 does not tell neighbors apart
TOKENS = FIRST_TOKEN + np.random.default_rng(5).integers(20, size=(300, 2))
BOTH = {"ids": TOKENS, "values": X.astype(np.float64)}


def of_both(params, x, site):
    embedded = params["table"][x["ids"] - FIRST_TOKEN].reshape(len(x["ids"]), 8)
    hidden = jnp.tanh(jnp.concatenate([embedded, x["values"]], axis=1) @ params["a"])
    return site("hidden", 0.1, "units")(hidden) @ params["b"]


def network_of_both():
    """Random features of tokens and numbers, and a ridge regression on them."""
    rng = np.random.default_rng(6)
    weights = {"table": rng.normal(size=(20, 4)), "a": rng.normal(size=(11, 40)), "b": np.eye(40)}
    weights = jax.tree.map(np.float32, weights)
    hidden = of_both(weights, BOTH, lambda *_: lambda values: values)
    weights["b"] = np.float32(Ridge(1.0, fit_intercept=False).fit(np.asarray(hidden), Y).coef_[:, None])
    return trained_network(of_both, weights, jax.tree.map(lambda leaf: leaf[:2], BOTH), fresh=False)


@pytest.mark.parametrize("method", [dubito.MCDropout(), dubito.LaplaceApproximation(structure="last-layer")])
def test_dicts_of_tokens_and_numbers_go_all_the_way(method):
    network = network_of_both()
    rows = {"validation": (BOTH, Y)} if isinstance(method, dubito.MCDropout) else {"train": (BOTH, Y)}
    posterior = dubito.wrap(network, method, likelihood="gaussian", key=KEY, **rows)
    few = jax.tree.map(lambda leaf: leaf[:7], BOTH)
    answer = dubito.predict(posterior, few, key=KEY, draws=2000)
    exact = np.asarray(network.apply(network.weights(), few))[:, 0]
    error = np.sqrt(answer.epistemic / 2000)
    assert np.all(answer.epistemic > 0) and np.max(np.abs(answer.mean - exact) / error) < 4.5
    with pytest.raises(ValueError, match=r"got a dict with \['ids'\]"):
        dubito.predict(posterior, {"ids": few["ids"]}, key=KEY)


def test_networks_of_several_inputs_are_trained_further():
    network = network_of_both()
    model = dubito.Model(network, dubito.Gaussian(precision=10.0), dubito.Normal(1.0))
    posterior = dubito.fit(model, BOTH, Y, dubito.BayesByBackprop(epochs=3, initial_scale=1e-3), key=KEY)
    answer = dubito.predict(posterior, BOTH, key=KEY)
    assert np.corrcoef(answer.mean, network.apply(network.weights(), BOTH)[:, 0])[0, 1] > 0.98


def test_where_leaves_all_else_points():
    network = dropped()
    rows, options = {"train": (X, Y)}, {"likelihood": "gaussian", "key": KEY}
    laplace = dubito.LaplaceApproximation(structure="dense", linearized=False)
    posterior = dubito.wrap(network, laplace, where="b", **rows, **options)
    drawn = posterior.sample(KEY, 3)["network"]
    assert list(drawn) == ["b"] and drawn["b"].std(0).min() > 0
    last = dubito.wrap(network, dubito.LaplaceApproximation(structure="last-layer"), **rows, **options)
    np.testing.assert_allclose(posterior.log_evidence, last.log_evidence, rtol=1e-5)

    def twice(params, x, site):
        hidden = site("first", 0.5, "units")(jnp.tanh(x @ params["a"]))
        return site("second.drop", 0.25, "units")(hidden) @ params["b"]

    two = trained_network(twice, network.weights(), X[:2], fresh=False)
    one = dubito.wrap(two, dubito.MCDropout(), where="second", validation=(X, Y), **options)
    f = np.asarray(dubito.predict(one, X, key=KEY, draws=4000).epistemic)
    h = np.tanh(X @ network.weights()["a"])
    np.testing.assert_allclose(f, 0.25 / 0.75 * h**2 @ network.weights()["b"][:, 0] ** 2, rtol=0.15)
    with pytest.raises(ValueError, match="where='third' is none of the names"):
        dubito.wrap(two, dubito.MCDropout(), where="third", validation=(X, Y), **options)
    with pytest.raises(ValueError, match="networks of an ensemble are points"):
        dubito.wrap([two, two], where="second", validation=(X, Y), **options)


def test_wrapped_posteriors_are_not_saved_and_the_error_says_so():
    rows, options = {"validation": (X, Y)}, {"likelihood": "gaussian", "key": KEY}
    for posterior in (
        dubito.wrap(dropped(), dubito.MCDropout(), **rows, **options),
        dubito.wrap([dropped(), dropped()], **rows, **options),
    ):
        with pytest.raises(dubito.ModelFileError, match=r"cannot be saved: .* in its own framework, and wrap it again"):
            posterior_config(posterior)


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


def test_kronecker_curvature_of_products_written_for_one_row():
    """``w @ row`` under vmap, as in Equinox, has the evidence of the product of all rows, and not that of the diagonal."""
    rng = np.random.default_rng(1)
    sizes = {"w": (6, 3), "b": (6,), "v": (1, 6)}
    weights = {name: np.float32(rng.normal(size=size)) for name, size in sizes.items()}

    def of_rows(params, x, site):
        hidden = jnp.tanh(jax.lax.dot_general(x, params["w"], (((1,), (1,)), ((), ()))) + params["b"])
        return jax.lax.dot_general(hidden, params["v"], (((1,), (1,)), ((), ())))

    def of_one(params, x, site):
        return jax.vmap(lambda row: params["v"] @ jnp.tanh(params["w"] @ row + params["b"]))(x)

    def evidence(function, structure):
        network = trained_network(function, weights, X[:2], fresh=False)
        method = dubito.LaplaceApproximation(structure=structure)
        options = {"likelihood": dubito.Gaussian(precision=4.0), "prior": dubito.Normal(1.0, biases=1.0)}
        return float(dubito.wrap(network, method, train=(X, Y), key=KEY, **options).log_evidence)

    expected = evidence(of_rows, "kronecker")
    np.testing.assert_allclose(evidence(of_one, "kronecker"), expected, rtol=1e-5)
    assert expected > evidence(of_rows, "diagonal") + 1


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
        ((X[:, :2], Y), r"takes x of shape \(rows, 3\), as its example; got \(300, 2\)"),
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
