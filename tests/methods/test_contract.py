"""What every method keeps: one row for each.

The same key gives the same posterior, another key another one; draws are trees of the model's parameters with a leading axis, of its types;
and whatever the numbers in a method's fields are, a second fit of the same shape compiles nothing. A posterior that went through
pickle is the same one, in the same programs; and one that went through a model's file, with its method.
"""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito._process import archive
from dubito.estimators.files import codec, posterior_file

METHODS = [
    dubito.MaximumLikelihood(epochs=12),
    dubito.MAP(epochs=12),
    dubito.MCDropout(epochs=12),
    dubito.BayesByBackprop(epochs=12),
    dubito.LaplaceApproximation(dubito.MAP(epochs=12)),
    dubito.LaplaceApproximation(dubito.MAP(epochs=12), structure="low-rank", rank=3),
    dubito.BayesByBackprop(epochs=12, gradient_estimator="fisher"),
    dubito.ConcreteDropout(epochs=12),
    dubito.VariationalDropout(epochs=12, input_rate=0.1),
    dubito.SparseVariationalDropout(epochs=12),
    dubito.VariationalGaussian(epochs=12, covariance="full"),
    dubito.VariationalGaussian(epochs=12, rank=3),
    dubito.NaturalGradientVI(epochs=12),
    dubito.Ensemble(dubito.MAP(epochs=12), 3),
    dubito.HMC(draws=5, warmup=5, chains=2, max_steps=4, warm_start_steps=50),
    dubito.NUTS(draws=5, warmup=5, chains=2, max_depth=3, warm_start_steps=0),
    dubito.MCLMC(draws=5, warmup=100, chains=2, thin=2, warm_start_steps=0),
    dubito.RandomizedMAP(epochs=12),
    dubito.SWAG(epochs=12, rank=4),
    dubito.ConjugateNoise(dubito.Ensemble(dubito.MAP(epochs=12), 2)),
    dubito.SGLD(epochs=12, draws=4, chains=2, learning_rate=1e-3),
    dubito.SGHMC(epochs=12, draws=4, chains=2, learning_rate=1e-4),
    dubito.Committee(dubito.MAP(epochs=12), 3),
    dubito.CrossFit(dubito.MAP(epochs=12), 3, df=4),  # another tail is another program of predictions
]


QUICK = {"MaximumLikelihood", "MAP", "MCDropout", "Ensemble", "HMC", "CrossFit"}  # the others are slow


def with_marks(method):
    return pytest.param(method, marks=[] if type(method).__name__ in QUICK else pytest.mark.slow)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(130, 2))
Y = np.sin(2 * X[:, :1]) + 0.1 * RNG.normal(size=(130, 1))
MODEL = dubito.Model(dubito.mlp(2, (12,)), dubito.Gaussian())


def leaves(posterior, key, n=None):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior.sample(key, n))]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def renumbered(method):
    """The method with other numbers in all fields that hold fractions, those of the methods in it too."""
    own = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    changed = {name: 0.9 * value for name, value in own.items() if isinstance(value, float)}
    changed |= {name: renumbered(value) for name, value in own.items() if dataclasses.is_dataclass(value)}
    return dataclasses.replace(method, **changed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dubito.SamplingWarning")  # so short a warmup finds no step size
@pytest.mark.parametrize("method", [*map(with_marks, METHODS)], ids=lambda m: type(m).__name__)
def test_every_method_keeps_the_contract(method, key, compiled):
    first = dubito.fit(MODEL, X, Y, method, key=jax.random.key(1))
    drawn = leaves(first, key)
    with compiled() as names:
        again, other = (dubito.fit(MODEL, X, Y, method, key=jax.random.key(k)) for k in (1, 2))
        dubito.fit(MODEL, X, Y, renumbered(method), key=jax.random.key(1), weight=np.linspace(0.5, 1.5, len(X)))
        assert same(drawn, leaves(again, key)) and not same(drawn, leaves(other, key))
        assert same(drawn, leaves(pickle.loads(pickle.dumps(first)), key))
    assert names == []
    config = archive.strict_json(archive.canonical(posterior_file.posterior_config(first)))
    arrays = posterior_file.posterior_arrays(first, config)
    assert set(posterior_file.expected_arrays(config)) == set(arrays)
    assert same(drawn, leaves(posterior_file.build_posterior(config, arrays), key))
    assert codec.decode(archive.strict_json(archive.canonical(codec.encode(method)))) == method
    seven, params = first.sample(key, 7), first.model.init(key)
    assert jax.tree.structure(seven) == jax.tree.structure(params)
    for leaf, like in zip(jax.tree.leaves(seven), jax.tree.leaves(params), strict=True):
        assert leaf.shape == (7, *like.shape) and leaf.dtype == jnp.float32


def test_a_posterior_from_pickle_predicts_the_same(key):
    found = dubito.fit(MODEL, X, Y, METHODS[-1], key=key)
    answers = [dubito.predict(one, X, key=key, draws=12) for one in (found, pickle.loads(pickle.dumps(found)))]
    assert same(*([a.mean, a.epistemic, a.aleatoric, a.log_prob(Y), a.quantile(0.9)] for a in answers))
