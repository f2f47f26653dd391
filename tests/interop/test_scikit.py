"""Perceptrons of scikit-learn as networks: their predictions, and the prior whose mode they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

import dubito

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
Y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * RNG.normal(size=200)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_outputs_are_those_of_the_regressor(activation):
    model = MLPRegressor(hidden_layer_sizes=(7, 5), activation=activation, max_iter=50, random_state=0)
    model.fit(X, np.stack([Y, -Y], axis=1))
    network = dubito.from_sklearn(model)
    np.testing.assert_allclose(network.apply(network.weights(), np.float32(X)), model.predict(X), atol=2e-5)
    assert network.dropout == {}


def test_outputs_of_a_poisson_loss_are_logarithms():
    model = MLPRegressor(loss="poisson", hidden_layer_sizes=(5,), max_iter=50, random_state=0).fit(X, np.exp(Y).round())
    network = dubito.from_sklearn(model)
    found = network.apply(network.weights(), np.float32(X))[:, 0]
    np.testing.assert_allclose(np.exp(found), model.predict(X), rtol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_outputs_are_the_logits_of_the_classifier(classes):
    y = np.digitize(Y, [0.0, 1.0][: classes - 1])
    model = MLPClassifier(hidden_layer_sizes=(7,), max_iter=50, random_state=0).fit(X, y)
    network = dubito.from_sklearn(model)
    logits = network.apply(network.weights(), np.float32(X))
    probs = jax.nn.sigmoid(logits)[:, 0] if classes == 2 else jax.nn.softmax(logits)
    expected = model.predict_proba(X)[:, 1] if classes == 2 else model.predict_proba(X)
    np.testing.assert_allclose(probs, expected, atol=1e-5)


@pytest.mark.parametrize(("task", "precision"), [("regression", 9.0), ("classification", 1.0)])
def test_trained_weights_are_the_mode_under_the_prior(task, precision):
    """The gradient of log p(D, θ) vanishes at a solution of scikit-learn, for alpha = .5 and large penalties."""
    options = dict(hidden_layer_sizes=(3,), alpha=0.5, solver="lbfgs", max_iter=5000, tol=1e-10, random_state=0)
    kind, y = (MLPRegressor, Y) if task == "regression" else (MLPClassifier, np.digitize(Y, [0.0, 1.0]))
    model = kind(activation="tanh", **options).fit(X, y)
    network = dubito.from_sklearn(model)
    likelihood = dubito.Gaussian(precision=precision) if task == "regression" else dubito.Categorical(classes=3)
    joint = dubito.Model(network, likelihood, dubito.sklearn_prior(model, precision))
    target = jnp.float32(y[:, None]) if task == "regression" else jnp.asarray(y)

    def log_joint(weights, prior):
        z = likelihood.join(network.apply(weights, jnp.float32(X)), {})
        return jnp.sum(likelihood.log_prob(z, target)) + prior * joint.prior.log_prob(weights)

    both, alone = (
        jnp.max(
            jnp.abs(
                jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(log_joint)(network.weights(), on))])
            )
        )
        for on in (1.0, 0.0)
    )
    assert both < 0.02 * alone  # L-BFGS stops early; another factor of the precision gives a half


def test_what_is_no_fitted_perceptron_is_refused():
    with pytest.raises(TypeError, match="got a LinearRegression"):
        dubito.from_sklearn(LinearRegression())
    with pytest.raises(NotFittedError):
        dubito.from_sklearn(MLPRegressor())
    labels = MLPClassifier(hidden_layer_sizes=(4,), max_iter=20).fit(X, np.stack([Y > 0, Y > 1], axis=1))
    with pytest.raises(ValueError, match="one for each label"):
        dubito.from_sklearn(labels)


def test_the_model_stays_as_it_is():
    model = MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0).fit(X, Y)
    before = model.predict(X)
    network = dubito.from_sklearn(model)
    model.coefs_[0][:] = 0
    np.testing.assert_allclose(network.apply(network.weights(), np.float32(X))[:, 0], before, atol=1e-5)
