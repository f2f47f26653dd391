"""What is read from a fitted network against NumPy; and the effect of dropout on the correlation of hidden units."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes

import dubito
from dubito import network_view
from dubito._jax.pytree import register_dataclass
from dubito.models.networks import MLP
from dubito.posteriors.base import Samples

X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)


def network(**settings):
    model = dubito.Model(dubito.mlp(3, (6, 5), activation="tanh", **settings), dubito.Gaussian())
    return model, model.init(jax.random.key(0))


def single(model, params):
    return Samples(model, jax.tree.map(lambda leaf: leaf[None], params))


def test_hidden_activations_equal_numpy():
    model, params = network()
    found = network_view.hidden_activations(model.network, params["network"], X)
    layers = [params["network"][f"layer_{k}"] for k in range(3)]
    first = np.tanh(X @ layers[0]["w"] + layers[0]["b"][None])
    second = np.tanh(first @ layers[1]["w"] + layers[1]["b"][None])
    np.testing.assert_allclose(found[0], first, atol=1e-6)
    np.testing.assert_allclose(found[1], second, atol=1e-6)
    last = found[1] @ layers[2]["w"] + layers[2]["b"][None]
    np.testing.assert_allclose(last, model.network.apply(params["network"], X), atol=1e-6)

    model, params = network(periodic=2)
    found = network_view.hidden_activations(model.network, params["network"], X)
    last = found[1] @ params["network"]["layer_2"]["w"] + params["network"]["layer_2"]["b"][None]
    np.testing.assert_allclose(last, model.network.apply(params["network"], X), atol=1e-6)


def test_unit_correlation_is_the_mean_over_pairs():
    model, params = network()
    found = network_view.unit_correlation(single(model, params), X)
    for layer, units in enumerate(network_view.hidden_activations(model.network, params["network"], X)):
        pairs = [abs(np.corrcoef(units[:, i], units[:, j])[0, 1]) for i in range(units.shape[1]) for j in range(i)]
        assert found[layer] == pytest.approx(np.mean(pairs), rel=1e-5)


def test_unit_correlation_of_redundant_and_constant_units():
    model, params = network()
    same = jax.tree.map(lambda leaf: leaf, params)
    w = params["network"]["layer_0"]["w"]
    same["network"]["layer_0"]["w"] = jnp.tile(w[:, :1], (1, 6)) * jnp.array([[1.0, -1.0, 1.0, 1.0, 0.0, 0.0]])
    found = network_view.unit_correlation(single(model, same), X)
    assert found[0] == pytest.approx(1, abs=1e-5)
    dead = jax.tree.map(jnp.zeros_like, params)
    assert np.all(np.isnan(network_view.unit_correlation(single(model, dead), X)))
    with pytest.raises(ValueError, match="at least 3 rows"):
        network_view.unit_correlation(single(model, params), X[:2])


def test_encode_rows_standardizes_as_in_training():
    rng = np.random.default_rng(1)
    table, y = 5 + 3 * rng.normal(size=(40, 2)), 100 + 7 * rng.normal(size=40)
    model = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(table, y)
    x, target = network_view.encode_rows(model, table, y)
    np.testing.assert_allclose(x, (table - table.mean(0)) / table.std(0), atol=1e-5)
    np.testing.assert_allclose(target[:, 0], (y - y.mean()) / y.std(), atol=1e-5)
    np.testing.assert_array_equal(
        network_view.unit_correlation(model, table), network_view.unit_correlation(model.posterior_, x)
    )
    labels = np.array(["b", "a"])[(y > 100).astype(int)]
    classes = dubito.BayesianClassifier(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(table, labels)
    assert network_view.encode_rows(classes, table, labels)[1].tolist() == [["a", "b"].index(label) for label in labels]


def test_point_params_rejects_unknown_moments_with_a_remedy():
    class Other:
        model, sample = None, None

    with pytest.raises(ValueError, match=r"moments of a Other.*dubito.Samples"):
        network_view.point_params(Other())


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Alike(MLP):
    """A perceptron whose hidden units all start with equal weights."""

    def init(self, key):
        params = MLP.init(self, key)
        first, last = params["layer_0"], params["layer_1"]
        first["w"] = jnp.broadcast_to(first["w"][:, :1], first["w"].shape)
        last["w"] = jnp.broadcast_to(last["w"][:1], last["w"].shape)
        return params


def parted(network, layer, dropout, kind=dubito.MAP, seeds=6):
    """1 − correlation of hidden layer ``layer`` after a fit to the diabetes data, for each seed."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(0), (y - y.mean()) / y.std()
    model = dubito.Model(network, dubito.Gaussian(1.0), dubito.Normal(by_network=True))
    method = kind(epochs=60, dropout=dropout)
    fits = (dubito.fit(model, x, y, method, key=jax.random.key(seed)) for seed in range(seeds))
    return 1 - np.array([network_view.unit_correlation(one, x)[layer] for one in fits])


def t(values):
    """The t statistic of their mean, in units of the value that chance exceeds once in 1,000 times."""
    return values.mean() / (values.std(ddof=1) / np.sqrt(len(values))) / stats.t.isf(1e-3, len(values) - 1)


@pytest.mark.slow
def test_dropout_lowers_correlation_of_units_with_equal_start_or_a_prior():
    alike, usual = Alike(10, (20,), 1, "tanh"), dubito.mlp(10, (30, 30))
    np.testing.assert_allclose(parted(alike, 0, None), 0, atol=1e-5)  # equal gradients: they never part
    assert parted(alike, 0, 0.5).min() > 0.01
    assert t(np.log(parted(usual, 1, 0.5) / parted(usual, 1, None))) > 1


@pytest.mark.slow
def test_dropout_raises_correlation_without_a_prior():
    usual, kind = dubito.mlp(10, (30, 30)), dubito.MaximumLikelihood
    assert t(np.log(parted(usual, 1, None, kind) / parted(usual, 1, 0.5, kind))) > 1
