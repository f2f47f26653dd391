"""Bayesian linear regression has a closed form: what each method must give there."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
import scipy.optimize
import scipy.stats
from problems import TAU, D, N, apply

import dubito

problem, with_noise = problems.problem, problems.with_noise


def test_maximum_likelihood_is_least_squares(problem):
    method = dubito.MaximumLikelihood(epochs=2000, batch_size=None, learning_rate=0.05)
    found = dubito.fit(problem.model, problem.x, problem.y, method, key=jax.random.key(0)).params["network"]["w"][0]
    np.testing.assert_allclose(found, np.linalg.lstsq(problem.x, problem.y)[0], atol=2e-5)


@pytest.mark.parametrize("method", [dubito.MAP, lambda **numbers: dubito.Ensemble(dubito.MAP(**numbers), 3)])
def test_map_and_its_ensemble_are_the_posterior_mean(problem, method):
    method = method(epochs=2000, batch_size=None, learning_rate=0.05)
    found = dubito.fit(problem.model, problem.x, problem.y, method, key=jax.random.key(0)).params["network"]["w"]
    np.testing.assert_allclose(found, np.broadcast_to(problem.mean, found.shape), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["local", "draw"])
def test_bayes_by_backprop_is_the_mean_field_optimum(problem, estimator):
    method = dubito.BayesByBackprop(
        epochs=8000, batch_size=None, learning_rate=0.01, gradient_estimator=estimator, draws=2
    )
    found = dubito.fit(problem.model, problem.x, problem.y, method, key=jax.random.key(0))
    scale = 1 / np.sqrt(np.diag(problem.precision))
    np.testing.assert_allclose(found.scale["network"]["w"][:, 0], scale, rtol=0.02)
    np.testing.assert_allclose(found.mean["network"]["w"], problem.mean, atol=0.05 * scale.min())


def test_predictive_of_samples_of_the_exact_posterior(problem):
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal(problem.mean[:, 0], np.linalg.inv(problem.precision), size=4000)
    params = {"network": {"w": jnp.asarray(draws[:, :, None], jnp.float32)}, "likelihood": {}}
    x = rng.normal(size=(7, D))
    answer = dubito.predict(dubito.Samples(problem.model, params), x, key=jax.random.key(0))
    epistemic = np.einsum("nd,de,ne->n", x, np.linalg.inv(problem.precision), x)
    error = (answer.mean - (x @ problem.mean)[:, 0]) / np.sqrt(epistemic / len(draws))
    assert np.all(np.abs(error) < 4.6)
    error = (answer.epistemic / epistemic - 1) / np.sqrt(2 / len(draws))
    assert np.all(np.abs(error) < 4.6)
    np.testing.assert_allclose(answer.aleatoric, 1 / TAU, rtol=1e-5)
    y = x @ problem.mean + 0.4
    exact = -0.5 * (0.16 / (epistemic + 1 / TAU) + np.log(2 * np.pi * (epistemic + 1 / TAU)))
    np.testing.assert_allclose(answer.log_prob(y), exact, atol=4.6 * 0.5 / np.sqrt(len(draws)))
    upper = answer.quantile(0.95)
    np.testing.assert_allclose(upper, (x @ problem.mean)[:, 0] + 1.6448536 * np.sqrt(epistemic + 1 / TAU), atol=0.01)


def test_input_dropout_on_a_linear_model_has_its_closed_form_variance(problem):
    method = dubito.MCDropout(rate=0.2, input_rate=0.2, epochs=50)
    posterior = dubito.fit(problem.model, problem.x, problem.y, method, key=jax.random.key(0))
    w = np.asarray(posterior.params["network"]["w"], float)
    x = problem.x[:5]
    answer = dubito.predict(posterior, x, key=jax.random.key(1), draws=20000)
    exact = (x**2 @ w**2)[:, 0] * 0.2 / 0.8
    # the kurtosis of a sum of three masked terms is below 3.3, so the variance's relative error is below √(2.3/T)
    assert np.all(np.abs(answer.epistemic / exact - 1) < 4.6 * np.sqrt(2.3 / 20000))
    assert np.all(np.abs(answer.mean - (x @ w)[:, 0]) < 4.6 * np.sqrt(exact / 20000))


@pytest.mark.slow
def test_laplace_prior_gives_exact_zeros_where_lasso_does():
    from sklearn.linear_model import Lasso

    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8))
    y = x[:, :3] @ np.array([[1.0], [-1.0], [0.5]]) + 0.3 * rng.normal(size=(60, 1))

    def eight(key):
        return {"w": 0.1 * jax.random.normal(key, (8, 1), jnp.float32)}

    strength = 0.1
    model = dubito.Model(
        dubito.Network(eight, apply), dubito.Gaussian(precision=1.0), dubito.Laplace.from_l1(strength, 60)
    )
    exact = Lasso(alpha=strength, fit_intercept=False, tol=1e-10).fit(x, y[:, 0]).coef_
    for optimizer, rate in (("adam", 0.02), ("sgd", 0.1)):
        method = dubito.MAP(epochs=3000, batch_size=None, learning_rate=rate, optimizer=optimizer)
        found = np.asarray(dubito.fit(model, x, y, method, key=jax.random.key(0)).params["network"]["w"])[0, :, 0]
        np.testing.assert_allclose(found, exact, atol=1e-4)
        np.testing.assert_array_equal(found == 0, exact == 0)


LEARNING = dubito.BayesByBackprop(epochs=8000, batch_size=None, learning_rate=0.01, draws=2)


@pytest.mark.slow
def test_learned_noise_is_the_variational_optimum_and_near_the_exact_one(problem, with_noise):
    """q(w, log τ) of independent normals has a closed-form ELBO, for E τ = e^(m + s²/2); its optimum by scipy."""
    model, exact_mean, exact_sd = with_noise
    x, y = problem.x, problem.y
    prior = model.prior.scale

    def negative_elbo(v):
        mu, sigma, m, s = v[:D], np.exp(v[D : 2 * D]), v[-2], np.exp(v[-1])
        tau = np.exp(m + s**2 / 2)
        squares = np.sum((y[:, 0] - x @ mu) ** 2) + np.sum(x**2 @ sigma**2)
        likelihood = 0.5 * len(x) * m - 0.5 * tau * squares
        kl = np.sum(np.log(prior / sigma) + (sigma**2 + mu**2) / (2 * prior**2) - 0.5)
        return -(likelihood - kl + 2.0 * m - 0.5 * tau + np.log(s))

    start = np.concatenate([problem.mean[:, 0], np.full(D, -2.0), [1.0, -1.0]])
    best = scipy.optimize.minimize(negative_elbo, start, method="BFGS", options={"gtol": 1e-6}).x
    found = dubito.fit(model, x, y, LEARNING, key=jax.random.key(0))
    mean, scale = (float(part["likelihood"]["log_precision"][0]) for part in (found.mean, found.scale))
    np.testing.assert_allclose([mean, scale], [best[-2], np.exp(best[-1])], atol=0.02 * exact_sd, rtol=0.02)
    np.testing.assert_allclose(found.scale["network"]["w"][:, 0], np.exp(best[D : 2 * D]), rtol=0.03)
    assert abs(mean - exact_mean) < 0.3 * exact_sd and abs(scale / exact_sd - 1) < 0.15


@pytest.mark.slow
def test_conjugate_noise_of_a_mean_field_is_of_its_expected_squares(problem, with_noise):
    """E_q Σ(y − f)² = ‖y − Xμ‖² + tr(XSXᵀ) in closed form, and with it the error of the 100 draws that the method takes: for
    δ ~ N(0, S) and r = y − Xμ the variance of ‖r − Xδ‖² is 4 rᵀXSXᵀr + 2 tr(XSXᵀ)². A point's squares are ten errors less."""
    found = dubito.fit(with_noise[0], problem.x, problem.y, dubito.ConjugateNoise(LEARNING), key=jax.random.key(0))
    mean, scale = (np.asarray(part["network"]["w"], float)[:, 0] for part in (found.part.mean, found.part.scale))
    r, spread = problem.y[:, 0] - problem.x @ mean, problem.x * scale @ (problem.x * scale).T
    error = np.sqrt((4 * r @ spread @ r + 2 * np.trace(spread @ spread)) / 100)
    np.testing.assert_allclose(found.shape, 2 + 0.5 * N)
    assert abs(2 * (float(found.rate[0]) - 0.5) - r @ r - np.trace(spread)) < 4.6 * error
    assert np.trace(spread) > 10 * error


def test_learned_noise_of_map_is_the_joint_mode(problem, with_noise):
    model, _, _ = with_noise
    x, y = problem.x, problem.y[:, 0]

    def negative(v):
        error = np.sum((y - x @ v[:D]) ** 2)
        weights = np.sum(v[:D] ** 2) / (2 * model.prior.scale**2)
        return -(0.5 * len(x) * v[-1] - 0.5 * np.exp(v[-1]) * error - weights + 2.0 * v[-1] - 0.5 * np.exp(v[-1]))

    best = scipy.optimize.minimize(negative, np.zeros(D + 1), method="BFGS", options={"gtol": 1e-6}).x
    method = dubito.MAP(epochs=3000, batch_size=None, learning_rate=0.02)
    found = dubito.fit(model, problem.x, problem.y, method, key=jax.random.key(0)).params
    np.testing.assert_allclose(found["network"]["w"][0, :, 0], best[:D], atol=1e-4)
    np.testing.assert_allclose(found["likelihood"]["log_precision"][0], best[-1:], atol=1e-4)
