"""A program is compiled once for its shapes: another fit of the same ones compiles nothing, whatever its numbers are."""

import dataclasses
from dataclasses import replace

import jax
import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

import dubito
from dubito._jax import prng
from dubito.estimators import base
from dubito.training.data import permutation


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, x[:, 0] + 0.1 * rng.normal(size=n)


MODEL = dubito.Model(dubito.mlp(3, (8,)), dubito.Gaussian())
METHODS = [
    dubito.MAP(epochs=3, clip=5.0, dropout=0.1),
    dubito.BayesByBackprop(epochs=3),
    dubito.Ensemble(dubito.MCDropout(epochs=3), 2),
]


def changed(method, **fields):
    """The method with fields of the innermost one changed, if it has them and they are not None."""
    if hasattr(method, "method"):
        return replace(method, method=changed(method.method, **fields))
    own = {field.name for field in dataclasses.fields(method) if getattr(method, field.name) is not None}
    return replace(method, **{name: value for name, value in fields.items() if name in own})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_second_fit_of_the_same_shape_compiles_nothing(method, compiled):
    def fit(n=120, seed=0, method=method, **options):
        x, y = table(n, seed)
        return dubito.fit(MODEL, x, y, method, key=jax.random.key(seed), early_stopping=True, **options)

    def mean(posterior, n=50):
        return dubito.predict(posterior, table(n)[0], key=jax.random.key(1)).mean

    mean(fit())
    with compiled() as names:
        mean(fit(125, seed=3), 37)
        mean(fit(weight=np.linspace(0.5, 2, 120)))
        mean(fit(97, validation_fraction=0.11, n_iter_no_change=4, tol=1e-2))
        mean(fit(method=changed(method, learning_rate=0.02, epochs=5, clip=2)))
        mean(fit(method=changed(method, learning_rate=1, rate=0.2, initial_scale=0.1)))
    assert names == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "other"),
    [
        (dubito.Ensemble(dubito.MAP(epochs=3), 2), {"size": 4}),
        (dubito.Ensemble(dubito.BayesByBackprop(epochs=3), 2), {"size": 4}),
        (dubito.CrossFit(dubito.MAP(epochs=3), 5), {"folds": 6}),
        (dubito.CrossFit(dubito.MCDropout(epochs=3), 5, noise="constant"), {"folds": 6}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_another_number_of_members_compiles_nothing(method, other, compiled):
    x, y = table(120)
    dubito.fit(MODEL, x, y, method, key=jax.random.key(0))
    with compiled() as names:
        dubito.fit(MODEL, x, y, replace(method, **other), key=jax.random.key(0))
    assert names == []


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 3])
def test_a_second_fit_of_the_default_estimator_compiles_nothing(classes, compiled, monkeypatch):
    """The default method with few epochs and folds, which are the same programs, as is tested above."""
    default = base.default_method
    monkeypatch.setattr(base, "default_method", lambda *given: replace(changed(default(*given), epochs=20), folds=3))

    def fit(n, seed=0, weight=None):
        x, y = table(n, seed)
        kind = dubito.BayesianClassifier if classes else dubito.BayesianRegressor
        y = np.searchsorted([0.0, 1.0][: classes - 1], y) if classes else y
        return kind(random_state=seed, hidden=(8,)).fit(x, y, sample_weight=weight).predict(x[: 37 + seed])

    fit(120)
    with compiled() as names:
        fit(125, seed=2)
        fit(120, weight=np.linspace(0.5, 2, 120))
    assert names == []


@pytest.mark.parametrize("n", [1, 2, 16, 17, 1700])
def test_padded_randomness_is_jaxs_own(n, key):
    for one in (key, prng.fast(key)):
        assert np.array_equal(permutation(one, n), jax.random.permutation(one, n))
        data = np.stack([jax.random.key_data(each) for each in prng.keys(one, n)])
        assert np.array_equal(data, jax.random.key_data(jax.random.split(one, n)))


@pytest.mark.slow
def test_a_search_by_threads_compiles_nothing_and_finds_the_same(compiled):
    X, y = table(120)
    model = dubito.BayesianRegressor(dubito.MCDropout(epochs=5), hidden=(8,), random_state=0)
    alone, search = (GridSearchCV(model, {"method__rate": [0.01, 0.3, 0.9]}, cv=3) for _ in range(2))
    alone.fit(X, y)
    with compiled() as names, joblib.parallel_config("threading", n_jobs=2):
        search.fit(X, y)
    for split in range(3):
        scores = (each.cv_results_[f"split{split}_test_score"] for each in (alone, search))
        assert np.array_equal(*scores)
    assert names == []


@pytest.mark.slow
def test_fits_at_once_compile_once(compiled):
    X, y = table(120)
    model = dubito.BayesianRegressor(dubito.MAP(epochs=5), hidden=(9,), random_state=0)
    with compiled() as names, joblib.parallel_config("threading", n_jobs=3):
        cross_val_score(model, X, y, cv=3)
    assert names.count("jit(begin)") == names.count("jit(chunk)") == 1
