"""What posteriors draw has the moments that they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito

MODEL = dubito.Model(dubito.mlp(1, (2,)), dubito.Gaussian(), dubito.Normal())
MEAN = MODEL.init(jax.random.key(0))
COUNT = sum(leaf.size for leaf in jax.tree.leaves(MEAN))
DRAWS = 20_000


def tree(values):
    """A vector as a tree like the parameters."""
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(MEAN)])[:-1]
    leaves = zip(np.split(np.asarray(values, np.float32), ends, axis=-1), jax.tree.leaves(MEAN), strict=True)
    shaped = [jnp.asarray(part.reshape(*part.shape[:-1], *like.shape)) for part, like in leaves]
    return jax.tree.unflatten(jax.tree.structure(MEAN), shaped)


def vectors(drawn):
    return np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in jax.tree.leaves(drawn)], axis=1)


RNG = np.random.default_rng(1)
FACTOR, SCALE = RNG.normal(size=(COUNT, COUNT)), RNG.uniform(0.5, 2, COUNT)
GAUSSIANS = {
    "normals": (dubito.DiagonalNormal(MODEL, MEAN, tree(SCALE)), np.diag(SCALE**2)),
    "low rank": (
        dubito.LowRankNormal(MODEL, MEAN, tree(SCALE), tree(FACTOR[:3])),
        np.diag(SCALE**2) + FACTOR[:3].T @ FACTOR[:3],
    ),
    "dense": (dubito.FullCovarianceNormal(MODEL, MEAN, jnp.asarray(FACTOR, jnp.float32)), FACTOR @ FACTOR.T),
}


@pytest.mark.parametrize("name", GAUSSIANS)
def test_normal_posteriors_have_their_mean_and_covariance(name):
    posterior, covariance = GAUSSIANS[name]
    found = vectors(posterior.sample(jax.random.key(2), DRAWS)) - vectors(jax.tree.map(lambda a: a[None], MEAN))
    sd = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(found.mean(0)) < 4.9 * sd / np.sqrt(DRAWS))
    error = np.sqrt((covariance**2 + np.outer(sd, sd) ** 2) / DRAWS)  # of a covariance of normals
    assert np.all(np.abs(found.T @ found / DRAWS - covariance) < 4.9 * error)


@pytest.mark.parametrize("finite", [True, False])
def test_gamma_precision_is_drawn_independently_for_each_draw(finite):
    points = dubito.Samples(MODEL, jax.tree.map(lambda a: jnp.stack([a, a + 1]), MEAN))
    part = points if finite else GAUSSIANS["dense"][0]
    posterior = dubito.GammaNoisePosterior(MODEL, part, jnp.full(1, 6.0), jnp.full(1, 3.0))
    drawn = posterior.sample(jax.random.key(3), DRAWS)
    tau = np.exp(np.asarray(drawn["likelihood"]["log_precision"], float))[:, 0]
    assert abs(tau.mean() - 2) < 4.6 * np.sqrt(6 / 9 / DRAWS)
    assert abs(tau.var() / (6 / 9) - 1) < 4.6 * np.sqrt((2 + 6 / 6) / DRAWS)  # kurtosis of a Gamma: 3 + 6/shape
    own = np.asarray(drawn["network"]["layer_0"]["b"])[:, 0]
    given = np.asarray(part.sample(jax.random.key(4), DRAWS)["network"]["layer_0"]["b"])[:, 0]
    assert abs(own.mean() - given.mean()) < 4.6 * np.sqrt(2 * given.var() / DRAWS)
    assert abs(np.corrcoef(own, tau)[0, 1]) < 4.6 / np.sqrt(DRAWS)


def test_gamma_precision_makes_the_predictive_students_t():
    """One function with τ ~ Gamma(a, b): y ~ f + √(b/a) t with 2a degrees of freedom."""
    from scipy import stats

    part = dubito.Samples(MODEL, jax.tree.map(lambda a: a[None], MEAN))
    posterior = dubito.GammaNoisePosterior(MODEL, part, jnp.full(1, 3.0), jnp.full(1, 2.0))
    x, y = np.zeros((1, 1)), np.array([[1.5]])
    answer = dubito.predict(posterior, x, key=jax.random.key(5), draws=DRAWS)
    exact = stats.t.pdf(1.5 - answer.mean[0], 6, scale=np.sqrt(2 / 3))
    tau = stats.gamma.rvs(3.0, scale=0.5, size=10**5, random_state=0)
    sd = stats.norm.pdf(1.5 - answer.mean[0], scale=tau**-0.5).std()
    assert abs(np.exp(answer.log_prob(y)[0]) - exact) < 4.6 * sd / np.sqrt(DRAWS)
