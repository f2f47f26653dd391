"""Student's t against scipy.stats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dubito import StudentT

EPS = np.finfo(np.float32).eps


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("df", [4, 6, 10])
def test_student_t_equals_scipy(df):
    likelihood, f = StudentT(df, targets=2), rows(9, 4)
    z, mean, scale = likelihood.join(jnp.asarray(f), {}), f[:, :2].astype(float), np.exp(f[:, 2:].astype(float))
    law = stats.t(df, mean, scale)
    np.testing.assert_allclose(likelihood.mean(z), mean)
    np.testing.assert_allclose(likelihood.variance(z), law.var(), rtol=2e-6)
    for deviation in (0, 0.4, -1.5, 6, -6, 1e4):
        y = (mean + deviation * scale).astype(np.float32)
        np.testing.assert_allclose(likelihood.log_prob(z, y), law.logpdf(y).sum(1), rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(likelihood.cdf(z, y), law.cdf(y), atol=4 * EPS)
    many = {"mean": jnp.full((20_000, 2), 3.0), "scale": jnp.full((20_000, 2), 0.5)}
    drawn = np.asarray(likelihood.sample(jax.random.key(3), many), float)
    assert min(stats.kstest((column - 3) / 0.5, "t", (df,)).pvalue for column in drawn.T) > 4e-6
    assert stats.spearmanr(*drawn.T).pvalue > 4e-6


@pytest.mark.parametrize("df", [3, 5, 2, 4.0, "4"])
def test_student_t_refuses_degrees_of_freedom_without_an_algebraic_cdf(df):
    with pytest.raises(ValueError, match="df must be an even whole number of at least 4"):
        StudentT(df)
