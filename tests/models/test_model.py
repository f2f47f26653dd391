"""The model: what it accepts as network, likelihood and prior, and what it makes of a user's own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dubito
from dubito._jax.pytree import register_dataclass
from dubito.models.likelihoods.base import LocationScale, WithoutParameters
from dubito.models.networks import AnyNetwork, as_network

X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)


class Linear:
    """A network of a user's: no pytree, no dataclass."""

    def init(self, key):
        return {"w": jax.random.normal(key, (2, 1))}

    def apply(self, params, x):
        return x @ params["w"]


class Scaled(Linear):
    def scales(self, params, scale):
        return {"w": 0.5 * scale}


@register_dataclass
@dataclass(frozen=True)
class Logistic(WithoutParameters, LocationScale):
    """A likelihood of a user's: y ~ f + a logistic error."""

    @property
    def width(self):
        return 1

    def join(self, f, phi):
        return {"mean": f, "scale": jnp.ones_like(f)}

    def log_prob(self, z, y):
        u = (y - z["mean"]) / z["scale"]
        return jnp.sum(-u - 2 * jax.nn.softplus(-u) - jnp.log(z["scale"]), axis=1)

    def variance(self, z):
        return z["scale"] ** 2 * (jnp.pi**2 / 3)

    def cdf(self, z, y):
        return jax.nn.sigmoid((y - z["mean"]) / z["scale"])

    def sample(self, key, z):
        return z["mean"] + z["scale"] * jax.random.logistic(key, z["mean"].shape)


@register_dataclass
@dataclass(frozen=True)
class Cauchy(dubito.Prior):
    def log_prob(self, params, scales=None):
        return sum(jnp.sum(jax.scipy.stats.cauchy.logpdf(leaf)) for leaf in jax.tree.leaves(params))

    def sample(self, key, like, scales=None):
        return jax.tree.map(lambda leaf: jax.random.cauchy(key, leaf.shape), like)


def test_model_accepts_any_object_with_init_and_apply_as_network(key):
    for own, scale in ((Linear(), None), (Scaled(), {"w": 0.5})):
        model = dubito.Model(own, dubito.Gaussian(precision=1.0))
        params = model.init(key)
        assert isinstance(model.network, AnyNetwork)
        assert model.scales(params) == scale
        assert hash(model.network) == hash(dubito.Model(own, dubito.Gaussian()).network)
        z = jax.jit(lambda model, params: model.outputs(params, X))(model, params)
        np.testing.assert_allclose(z["mean"], X @ params["network"]["w"], rtol=1e-5)


def test_as_network_returns_networks_of_dubito_unchanged():
    for network in (dubito.mlp(2), dubito.convnet((8, 8, 1)), dubito.Network(Linear().init, Linear().apply)):
        assert as_network(network) is network


@pytest.mark.slow
def test_model_with_user_defined_likelihood_and_prior_fits_and_predicts(key):
    y = X @ np.array([[1.0], [-2.0]]) + 0.1
    model = dubito.Model(dubito.mlp(2, ()), Logistic(), Cauchy())
    answer = dubito.predict(dubito.fit(model, X, y, dubito.MAP(epochs=2), key=key), X, key=key)
    law = stats.logistic(answer.mean)
    np.testing.assert_allclose(answer.cdf(y), law.cdf(y[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(answer.log_prob(y), law.logpdf(y[:, 0]), rtol=1e-5)
    np.testing.assert_allclose(answer.quantile(0.9), law.ppf(0.9), rtol=1e-5)
    np.testing.assert_allclose(answer.std, law.std(), rtol=1e-5)
    assert answer.sample(key, 3).shape == (3, 12)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((object(), dubito.Gaussian()), r"network must have init\(key\) and apply\(params, x\)"),
        ((dubito.Gaussian(), dubito.Gaussian()), "network must have init"),
        ((dubito.mlp(2), "gaussian"), "likelihood must be a dubito.Likelihood, such as .*; got 'gaussian'"),
        ((dubito.mlp(2), None), "likelihood must be a dubito.Likelihood"),
        ((dubito.mlp(2), dubito.Gaussian(), 1.0), "prior must be a dubito.Prior, such as .*; got 1.0"),
    ],
)
def test_model_refuses_objects_of_other_types(parts, words):
    with pytest.raises(TypeError, match=words):
        dubito.Model(*parts)


def test_model_rebuilt_by_jax_is_not_validated():
    """JAX puts its own objects into fields; only what a user makes is checked."""
    model = dubito.Model(dubito.mlp(2), dubito.Gaussian())
    emptied = jax.tree.map(lambda leaf: None, model)
    assert emptied.likelihood.shape is None
    assert emptied.network == model.network


@pytest.mark.parametrize("kind", [dubito.Likelihood, dubito.Prior])
def test_likelihood_and_prior_are_abstract(kind):
    with pytest.raises(TypeError, match="abstract"):
        kind()
