"""Problems that several test files share, with their exact posteriors."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import dubito

TAU, N, D = 4.0, 40, 3


def apply(params, x):
    return x @ params["w"]


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (D, 1), jnp.float32)}


@dataclass(frozen=True)
class Problem:
    x: np.ndarray
    y: np.ndarray
    model: dubito.Model
    precision: np.ndarray  # of the posterior, Λ = I/s² + τ xᵀx
    mean: np.ndarray  # Λ⁻¹ τ xᵀy


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, D)) @ np.array([[1.0, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
    y = x @ np.array([[1.0], [-0.5], [0.2]]) + rng.normal(size=(N, 1)) / np.sqrt(TAU)
    model = dubito.Model(dubito.Network(init, apply), dubito.Gaussian(precision=TAU), dubito.Normal(0.7))
    precision = np.eye(D) / 0.7**2 + TAU * x.T @ x
    return Problem(x, y, model, precision, np.linalg.solve(precision, TAU * x.T @ y))


@pytest.fixture(scope="module")
def with_noise(problem):
    """The same rows with learned τ: the model, and moments of log τ by quadrature, with the weights integrated out."""
    likelihood = dubito.Gaussian(shape=2.0, rate=0.5)
    model = dubito.Model(problem.model.network, likelihood, problem.model.prior)
    x, y = problem.x, problem.y[:, 0]
    grid = np.linspace(-2, 5, 4001)

    def log_density(log_tau):
        tau = np.exp(log_tau)
        covariance = np.eye(len(x)) / tau + x @ x.T * problem.model.prior.scale**2
        return (
            scipy.stats.multivariate_normal.logpdf(y, cov=covariance)
            + scipy.stats.gamma.logpdf(tau, 2.0, scale=2.0)
            + log_tau
        )

    density = np.array([log_density(one) for one in grid])
    density = np.exp(density - density.max())
    mean = np.sum(grid * density) / np.sum(density)
    return model, mean, np.sqrt(np.sum((grid - mean) ** 2 * density) / np.sum(density))
