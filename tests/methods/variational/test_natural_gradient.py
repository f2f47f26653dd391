"""Natural-gradient inference on conjugate regression: coordinate ascent in NumPy is the truth, for weights and for τ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito.methods.variational import natural_gradient
from dubito.training.reports import history as collect_history

N, D, A0, B0, PRIOR = 48, 3, 2.0, 0.5, 0.7
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D)) @ np.array([[1.0, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
Y = X @ np.array([[1.0, 0.3], [-0.5, 0.2], [0.2, 1.0]]) + RNG.normal(size=(N, 2)) * [0.5, 0.2]
LINEAR = dubito.Network(lambda key: {"w": 0.1 * jax.random.normal(key, (D, 2))}, lambda p, x: x @ p["w"])
MODEL = dubito.Model(LINEAR, dubito.Gaussian(shape=A0, rate=B0, targets=2), dubito.Normal(PRIOR))
STEPS = {"clip_radius": 1.0, "initial_hessian": 1.0, "warm_up": 0.0}  # a linear model may take long steps


def coordinate_ascent(sweeps=200):
    """q(w) q(τ) of independent normals and Gammas, one target after another: (means, scales, a, b)."""
    a, found = A0 + N / 2, []
    for y in Y.T:
        tau, squares = 1.0, np.sum(X**2, axis=0)
        for _ in range(sweeps):
            precision = np.eye(D) / PRIOR**2 + tau * X.T @ X
            mean, variance = np.linalg.solve(precision, tau * X.T @ y), 1 / np.diag(precision)
            b = B0 + 0.5 * (np.sum((y - X @ mean) ** 2) + np.sum(squares * variance))
            tau = a / b
        found.append((mean, np.sqrt(variance), b))
    means, scales, rates = (np.array(part).T for part in zip(*found, strict=True))
    return means, scales, a, rates


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 16])
def test_natural_gradient_vi_is_the_fixed_point_of_coordinate_ascent(batch_size):
    means, scales, a, b = coordinate_ascent()
    method = dubito.NaturalGradientVI(
        epochs=1000 if batch_size is None else 500,
        batch_size=batch_size,
        draws=16,
        hessian_decay=0.99,
        **STEPS,
        learning_rate=0.05,
        forgetting=0.8,
    )
    posterior = dubito.fit(MODEL, X, Y, method, key=jax.random.key(0))
    np.testing.assert_allclose(posterior.shape, a, rtol=1e-6)
    np.testing.assert_allclose(posterior.rate, b, rtol=0.02)
    np.testing.assert_allclose(posterior.part.scale["network"]["w"], scales, rtol=0.05)
    np.testing.assert_allclose(posterior.part.mean["network"]["w"], means, atol=0.1 * scales.min())
    log_tau = posterior.part.mean["likelihood"]["log_precision"]
    np.testing.assert_allclose(log_tau, special.digamma(a) - np.log(posterior.rate), rtol=1e-4)


@pytest.mark.slow
def test_the_reported_objective_is_the_elbo():
    """At the end of a fit the mean of the last epochs' reports against the closed form at coordinate ascent's optimum."""
    means, scales, a, b = coordinate_ascent()
    reports = []
    method = dubito.NaturalGradientVI(
        epochs=1000, batch_size=None, draws=16, hessian_decay=0.99, learning_rate=0.05, **STEPS
    )
    dubito.fit(MODEL, X, Y, method, key=jax.random.key(1), progress=reports.append)
    history = collect_history(reports)[0][-200:]
    log_tau = special.digamma(a) - np.log(b)
    squares = np.sum((Y - X @ means) ** 2, axis=0) + np.sum(X**2 @ scales**2, axis=0)
    likelihood = np.sum(0.5 * N * (log_tau - np.log(2 * np.pi)) - 0.5 * a / b * squares)
    weights = np.sum(np.log(PRIOR / scales) + (scales**2 + means**2) / (2 * PRIOR**2) - 0.5)
    noise = np.sum(a * np.log(b) - special.gammaln(a) - A0 * np.log(B0) + special.gammaln(A0) + (a - A0) * log_tau)
    noise += np.sum(-a + B0 * a / b)
    found = (history[:, 0] - history[:, 1]) * N
    assert abs(found.mean() - (likelihood - weights - noise)) < 4.6 * found.std() / np.sqrt(len(found)) + 0.05


def test_the_gammas_kl_is_the_integral():
    q, p = stats.gamma(5.0, scale=1 / 3.0), stats.gamma(A0, scale=1 / B0)
    exact = q.expect(lambda t: q.logpdf(t) - p.logpdf(t))
    found = natural_gradient.gamma_kl(jnp.float32(5.0), jnp.float32(3.0), A0, B0)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.slow
def test_natural_gradient_vi_with_known_precision_is_the_mean_field_optimum():
    """σ_i² = 1/Λ_ii with Λ of the given τ; the posterior is one of independent normals."""
    model = dubito.Model(LINEAR, dubito.Gaussian(precision=4.0, targets=2), dubito.Normal(PRIOR))
    method = dubito.NaturalGradientVI(
        epochs=1000, batch_size=None, draws=16, hessian_decay=0.99, learning_rate=0.05, **STEPS
    )
    posterior = dubito.fit(model, X, Y, method, key=jax.random.key(0))
    precision = np.eye(D) / PRIOR**2 + 4.0 * X.T @ X
    assert isinstance(posterior, dubito.DiagonalNormal)
    scale = 1 / np.sqrt(np.diag(precision))
    np.testing.assert_allclose(posterior.scale["network"]["w"], np.stack([scale, scale], axis=1), rtol=0.05)
    mean = np.linalg.solve(precision, 4.0 * X.T @ Y)
    np.testing.assert_allclose(posterior.mean["network"]["w"], mean, atol=0.1 * scale.min())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forgetting": 0.5}, "forgetting"),
        ({"hessian_decay": 1.0}, "hessian_decay"),
        ({"initial_hessian": 0.0}, "initial_hessian"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_invalid_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dubito.NaturalGradientVI(**change).check(MODEL)
