"""The contract: every named likelihood has what its attributes promise, in the shapes that they state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito.models.likelihoods.base import Likelihood, origin_near, recenter

ROWS = 5
OWN = dubito.Criterion(lambda f, y: jnp.sum((y - f) ** 2, axis=1), targets=2, width=2)
CASES = {name: entry.make(4 if name == "censored" else 2) for name, entry in dubito.LIKELIHOODS.items()}
CASES["criterion"] = OWN


def outcome(likelihood, key):
    f = jax.random.normal(key, (ROWS, likelihood.width), jnp.float32)
    return likelihood.join(f, likelihood.init())


@pytest.mark.parametrize("name", CASES)
def test_likelihood_has_what_it_declares(name, key):
    likelihood = CASES[name]
    z = outcome(likelihood, key)
    classes = likelihood.task == "classification"
    shape = (ROWS, likelihood.classes if classes else likelihood.targets)
    assert isinstance(likelihood, Likelihood)
    assert all(len(each) == ROWS for each in z.values())
    assert likelihood.log_prior(likelihood.init()).shape == ()
    assert likelihood.mean(z).shape == shape
    inside = 0.5 if likelihood.bounds[0] == 0 and not likelihood.discrete else 0.0
    y = np.zeros(ROWS, np.int32) if classes else np.full((ROWS, likelihood.columns), inside, np.float32)
    assert likelihood.log_prob(z, jnp.asarray(y)).shape == (ROWS,)
    if likelihood.has_noise:
        assert likelihood.variance(z).shape == shape
        assert likelihood.sample(key, z).shape == ((ROWS,) if classes else shape)
    if likelihood.has_noise and not classes:
        assert likelihood.cdf(z, jnp.zeros(shape)).shape == shape
    if likelihood.restricts_targets:
        assert likelihood.supports(y).tolist() == [True] * ROWS
    assert (likelihood.classes > 0) == classes


@pytest.mark.parametrize("name", [name for name, each in CASES.items() if each.is_location_family])
def test_recentered_density_equals_that_of_shifted_targets(name, key):
    likelihood = CASES[name]
    z = outcome(likelihood, key)
    y, origin = (jax.random.normal(k, (ROWS, 2)) for k in jax.random.split(key))
    near = recenter(likelihood, z, origin)
    np.testing.assert_allclose(likelihood.log_prob(near, y - origin), likelihood.log_prob(z, y), rtol=1e-4)
    np.testing.assert_allclose(likelihood.cdf(near, y - origin), likelihood.cdf(z, y), rtol=1e-4, atol=1e-6)


def test_origin_of_other_likelihoods_is_zero(key):
    poisson = dubito.Poisson(targets=2)
    z = outcome(poisson, key)
    assert recenter(poisson, z, jnp.ones((ROWS, 2))) is z
    assert origin_near(poisson, np.ones((ROWS, 2))).tolist() == np.zeros((ROWS, 2)).tolist()
    assert origin_near(dubito.Gaussian(targets=2), np.full((1, 2), 1e39)).tolist() == [[np.inf, np.inf]]
