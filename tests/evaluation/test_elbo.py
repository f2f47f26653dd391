"""The evidence lower bound on Bayesian linear regression, where evidence and divergence have closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dubito
from dubito import elbo
from dubito.posteriors.normals import FullCovarianceNormal, LowRankNormal

TAU, N, D = 4.0, 40, 3


@pytest.fixture(scope="module")
def conjugate():
    """(model, x, y, posterior mean (D,), covariance, log evidence) of a linear model with known noise."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, D)) @ np.array([[1.0, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
    y = x @ np.array([1.0, -0.5, 0.2]) + rng.normal(size=N) / np.sqrt(TAU)
    network = dubito.Network(lambda key: {"w": jnp.zeros((D, 1), jnp.float32)}, lambda params, x: x @ params["w"])
    model = dubito.Model(network, dubito.Gaussian(precision=TAU), dubito.Normal(0.7))
    covariance = np.linalg.inv(np.eye(D) / 0.7**2 + TAU * x.T @ x)
    exact = stats.multivariate_normal.logpdf(y, cov=np.eye(N) / TAU + 0.7**2 * x @ x.T)
    return model, x, y, covariance @ x.T @ y * TAU, covariance, exact


def tree(values):
    return {"network": {"w": jnp.asarray(values, jnp.float32).reshape(*np.shape(values)[:-1], D, 1)}, "likelihood": {}}


def distributions(model, mean, covariance):
    """(q, its mean, its covariance) of each kind; the dense one is the posterior."""
    directions = np.array([[0.1, -0.05, 0.02]])
    sd = np.array([0.1, 0.05, 0.2])
    factor = np.linalg.cholesky(covariance)
    yield dubito.DiagonalNormal(model, tree(mean + 0.05), tree(sd)), mean + 0.05, np.diag(sd**2)
    low = LowRankNormal(model, tree(mean), tree(sd), tree(directions))
    yield low, mean, np.diag(sd**2) + directions.T @ directions
    yield FullCovarianceNormal(model, tree(mean), jnp.asarray(factor, jnp.float32)), mean, covariance


def test_elbo_is_the_evidence_minus_the_divergence(conjugate):
    model, x, y, mean, covariance, exact = conjugate
    for q, m, c in distributions(model, mean, covariance):
        inside = np.linalg.solve(covariance, c)
        gap = m - mean
        kl = 0.5 * (np.trace(inside) + gap @ np.linalg.solve(covariance, gap) - D - np.linalg.slogdet(inside)[1])
        found = elbo.elbo(q, x, y, key=jax.random.key(1), draws=4000)
        assert abs(found.value - (exact - kl)) < 4.6 * found.se + 1e-4  # float32
        assert found.se < 0.2 and found.value < exact + 4.6 * found.se
        again = [elbo.elbo(q, x, y, key=key, draws=50) for key in jax.random.split(jax.random.key(2), 60)]
        values, errors = np.array([one[:2] for one in again]).T
        difference = (values - values.mean()) ** 2 - errors**2
        assert abs(difference.mean()) < 4.6 * difference.std() / np.sqrt(60)
    assert kl == pytest.approx(0, abs=1e-9)


def test_elbo_counts_weights_as_rows(conjugate):
    model, x, y, mean, covariance, _ = conjugate
    q = next(distributions(model, mean, covariance))[0]
    weight = np.arange(N) % 3
    copies = np.repeat(np.arange(N), weight)
    weighted = elbo.elbo(q, x, y, key=jax.random.key(1), weight=weight)
    assert weighted.value == pytest.approx(elbo.elbo(q, x[copies], y[copies], key=jax.random.key(1)).value, rel=1e-5)


@pytest.mark.slow
def test_elbo_includes_the_entropy_of_the_noise(conjugate):
    """That of log τ, τ ~ Gamma(a, b), by SciPy's numerical integral; and the bound is natural gradients' own objective."""
    model, x, y, _, _, _ = conjugate
    model = replace(model, likelihood=dubito.Gaussian())
    method = dubito.NaturalGradientVI(epochs=300, batch_size=None)
    reports = []
    q = dubito.fit(model, x, y, method, key=jax.random.key(0), progress=reports.append)
    a = float(q.shape[0])
    sd = np.asarray(q.part.scale["network"]["w"], float)
    expected = np.sum(np.log(sd)) + 0.5 * D * np.log(2 * np.pi * np.e) + stats.loggamma(a).entropy()
    assert elbo._entropy(q) == pytest.approx(float(expected), rel=1e-6)
    own = N * np.concatenate([report.likelihood - report.penalty for report in reports])[-100:]
    found = elbo.elbo(q, x, y, key=jax.random.key(1), draws=4000)
    assert abs(found.value - own.mean()) < 4.6 * np.hypot(found.se, own.std(ddof=1) / 10)


def test_elbo_rejects_posteriors_without_one(conjugate):
    model, x, y, mean, covariance, _ = conjugate
    q = next(distributions(model, mean, covariance))[0]
    flat = replace(q, model=replace(model, prior=None))
    still = replace(q, scale=tree(np.array([0.1, 0.0, 0.1])))
    for posterior, draws, message in (
        (dubito.Samples(model, tree(np.zeros((2, D)))), 9, "entropy of a Samples is not known"),
        (flat, 9, "proper prior"),
        (still, 9, "1 parameters have scale 0"),
        (q, 1, "at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            elbo.elbo(posterior, x, y, key=jax.random.key(0), draws=draws)
    with pytest.raises(ValueError, match="same number of rows"):
        elbo.elbo(q, x, y[:-1], key=jax.random.key(0))
