"""Leave-one-out predictions of Bayesian linear regression, which have a closed form."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dubito
from dubito.posteriors.normals import FullCovarianceNormal, LowRankNormal

TAU, N, D = 4.0, 30, 3


@pytest.fixture(scope="module")
def conjugate():
    """(model, x, y, posterior mean (D,), covariance, −log p(y_i | the other rows) (N,))."""
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(N, D)), np.array([1.0, -0.5, 0.2])
    y = x @ w + rng.normal(size=N) / np.sqrt(TAU)
    network = dubito.Network(lambda key: {"w": jnp.zeros((D, 1), jnp.float32)}, lambda params, x: x @ params["w"])
    model = dubito.Model(network, dubito.Gaussian(precision=TAU), dubito.Normal(0.7))
    exact = []
    for i in range(N):
        mean, covariance = solved(np.delete(x, i, 0), np.delete(y, i))
        exact.append(-stats.norm.logpdf(y[i], x[i] @ mean, np.sqrt(x[i] @ covariance @ x[i] + 1 / TAU)))
    return model, x, y, *solved(x, y), np.array(exact)


def solved(x, y):
    covariance = np.linalg.inv(np.eye(D) / 0.7**2 + TAU * x.T @ x)
    return covariance @ x.T @ y * TAU, covariance


@pytest.mark.slow
def test_leave_one_out_agrees_with_the_closed_form(conjugate):
    """Over 40 sets of 400 independent draws, and in other units of the target."""
    leave_one_out = pytest.importorskip("dubito.evaluation.loo").leave_one_out
    model, x, y, mean, covariance, exact = conjugate
    tree = {"network": {"w": jnp.asarray(mean[:, None], jnp.float32)}, "likelihood": {}}
    posterior = FullCovarianceNormal(model, tree, jnp.asarray(np.linalg.cholesky(covariance), jnp.float32))
    found = []
    for key in jax.random.split(jax.random.key(0), 40):
        answer = dubito.predict(posterior, x, key=key, draws=400, shift=5.0, scale=3.0)
        found.append(leave_one_out(answer, posterior, 5 + 3 * y))
    rows = np.array([one.nll.rows for one in found]) - np.log(3)
    z = (rows.mean(0) - exact) / (rows.std(0, ddof=1) / np.sqrt(40))
    assert np.all(np.abs(z) < 4.6) and np.median(np.abs(z)) < 1.5
    assert found[0].nll.se == pytest.approx(np.std(rows[0], ddof=1) / np.sqrt(N))
    spread = np.sqrt(np.einsum("nd,de,ne->n", x, covariance, x) + 1 / TAU)
    effective = exact.sum() + stats.norm.logpdf(y, x @ mean, spread).sum()
    numbers = np.array([one.effective for one in found])
    assert abs(numbers.mean() - effective) < 4.6 * numbers.std(ddof=1) / np.sqrt(40)
    assert all(one.unreliable == np.sum(one.shape > 0.7) and one.shape.shape == (N,) for one in found)


def test_leave_one_out_accepts_chains_and_rejects_other_posteriors(conjugate):
    leave_one_out = pytest.importorskip("dubito.evaluation.loo").leave_one_out
    model, x, y, mean, covariance, exact = conjugate
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, size=2000)

    def samples(count, chains):
        params = {"network": {"w": jnp.asarray(draws[:count, :, None], jnp.float32)}, "likelihood": {}}
        return dubito.Samples(model, params, chains)

    answer = dubito.predict(samples(2000, 4), x, key=jax.random.key(0))
    found = leave_one_out(answer, samples(2000, 4), y)
    assert found.nll.value == pytest.approx(exact.mean(), abs=0.02)
    one = jax.tree.map(lambda leaf: leaf[0], samples(1, 1).params)
    spread = jax.tree.map(lambda leaf: leaf[None], one)
    several = dubito.GammaNoisePosterior(model, samples(5, 5), jnp.ones(1), jnp.ones(1))
    for posterior in (
        samples(1, 1),
        samples(5, 5),
        several,
        dubito.Mixture(model, (samples(4, 1),) * 2),
        dubito.DropoutPosterior(model, one, {"w": 0.1}),
        LowRankNormal(model, one, one, spread),
    ):
        answer = dubito.predict(posterior, x, key=jax.random.key(0))
        with pytest.raises(ValueError, match="draws of one posterior by a sampler"):
            leave_one_out(answer, posterior, y)


def test_leave_one_out_without_arviz_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_stats.base.array", None)
    monkeypatch.delitem(sys.modules, "dubito.evaluation.loo", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'dubito\[arviz\]'"):
        importlib.import_module("dubito.evaluation.loo")
