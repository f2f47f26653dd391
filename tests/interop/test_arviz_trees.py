"""Posteriors as trees of ArviZ: their numbers beside closed forms, dubito's own answers, and those of arviz-stats."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito.evaluation import diagnostics
from dubito.posteriors.normals import FullCovarianceNormal

reason = "ArviZ is not installed: pip install 'dubito[arviz]'"
arviz_base = pytest.importorskip("arviz_base", reason=reason)
arviz_stats = pytest.importorskip("arviz_stats", reason=reason)
pytestmark = pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto:UserWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
Y = 5 + 3 * (np.sin(X[:, 0]) + X[:, 1] + 0.3 * RNG.normal(size=30))
SMALL = dict(hidden=(3,), activation="tanh", periodic=0, likelihood="gaussian", random_state=0)


@pytest.fixture(scope="module")
def chains():
    pytest.importorskip("blackjax", reason="BlackJAX is not installed: pip install 'dubito[samplers]'")
    method = dubito.HMC(draws=200, warmup=200, chains=2, warm_start_steps=100)
    model = dubito.BayesianRegressor(method, **SMALL).fit(X, Y)
    return model, dubito.to_arviz(model, X, Y, x_new=X[:4])


@pytest.fixture(scope="module")
def variational():
    model = dubito.BayesianRegressor(dubito.BayesByBackprop(epochs=50), draws=300, **SMALL).fit(X, Y)
    return model, dubito.to_arviz(model, X, Y)


def leave_one_out(model):
    return pytest.importorskip("dubito.evaluation.loo").leave_one_out(model.uncalibrated(X), model.posterior_, Y)


@pytest.mark.slow
def test_diagnostics_of_chains_agree_with_arviz(chains):
    model, tree = chains
    assert dict(tree["posterior"]["mean"].sizes) == {"chain": 2, "draw": 200, "row": 30}
    ours = diagnostics.monte_carlo(model.uncalibrated(X), model.posterior_)
    rhat = np.asarray(arviz_stats.rhat(tree, var_names="mean")["mean"])
    bulk = np.asarray(arviz_stats.ess(tree, var_names="mean", method="bulk")["mean"])
    values = tree["posterior"]["mean"].values
    np.testing.assert_allclose(diagnostics.rhat(values), rhat, rtol=1e-9)
    np.testing.assert_allclose(diagnostics.bulk_ess(values), bulk, rtol=1e-9)
    # of the standardized target: two equal distances from the median may differ in the last bit in other units
    np.testing.assert_allclose(ours.rhat, rhat, rtol=2e-4)
    np.testing.assert_allclose(ours.ess, bulk, rtol=2e-3)


@pytest.mark.slow
def test_leave_one_out_of_chains_agrees_with_arviz(chains):
    model, tree = chains
    density = np.exp(tree["log_likelihood"].dataset)
    share = float(arviz_stats.ess(density, method="mean")["y"].mean()) / 400
    theirs, ours = arviz_stats.loo(tree, reff=share, pointwise=True), leave_one_out(model)
    np.testing.assert_allclose(np.asarray(theirs.elpd_i), -ours.nll.rows, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(theirs.pareto_k), ours.shape, atol=1e-5)
    assert theirs.p == pytest.approx(ours.effective, rel=1e-4)


@pytest.mark.slow
def test_leave_one_out_of_a_normal_agrees_with_arviz(variational):
    model, tree = variational
    assert dict(tree["log_likelihood"]["y"].sizes) == {"chain": 1, "draw": 300, "row": 30}
    theirs, ours = arviz_stats.loo(tree, reff=1.0, pointwise=True), leave_one_out(model)
    np.testing.assert_allclose(np.asarray(theirs.elpd_i), -ours.nll.rows, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(theirs.pareto_k), ours.shape, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("of", ["chains", "variational"])
def test_groups_are_those_of_the_estimators_predictions(of, request):
    model, tree = request.getfixturevalue(of)
    answer = model.uncalibrated(X)
    means, stds = answer.components()
    np.testing.assert_allclose(tree["posterior"]["mean"].values.reshape(-1, 30), means, rtol=1e-6)
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, Y)
    logs = tree["log_likelihood"]["y"].values.reshape(-1, 30)
    np.testing.assert_allclose(logs, stats.norm.logpdf(Y, means, stds), rtol=1e-4, atol=1e-5)
    u = stats.norm.cdf(tree["posterior_predictive"]["y"].values.reshape(-1, 30), means, stds)
    assert stats.kstest(u.ravel(), "uniform").pvalue > 4e-6
    assert tree["posterior"].attrs["inference_library"] == "dubito"


@pytest.mark.slow
def test_chains_keep_their_order_and_parameters_their_shapes(chains):
    model, tree = chains
    params = model.posterior_.params
    for name, leaf in (
        ("network.layer_0.w", params["network"]["layer_0"]["w"]),
        ("likelihood.log_precision", params["likelihood"]["log_precision"]),
    ):
        found = tree["posterior"][name].values
        np.testing.assert_array_equal(found, np.asarray(leaf).reshape(2, 200, *leaf.shape[1:]))
    assert dict(tree["predictions"]["y"].sizes) == {"chain": 2, "draw": 200, "row": 4}
    new, old = tree["predictions"]["y"].values, tree["posterior_predictive"]["y"].values[..., :4]
    assert not np.any(new == old)  # the noise is another
    np.testing.assert_allclose(new.mean((0, 1)), old.mean((0, 1)), atol=6 * old.std() / 20)


@pytest.fixture(scope="module")
def linear():
    """A posterior in closed form with little noise: each draw of y is within a thousandth of its function."""
    network = dubito.Network(lambda key: {"w": jnp.zeros((2, 1), jnp.float32)}, lambda params, x: x @ params["w"])
    model = dubito.Model(network, dubito.Gaussian(precision=1e8), dubito.Normal(1.0))
    mean = {"network": {"w": jnp.ones((2, 1), jnp.float32)}, "likelihood": {}}
    return FullCovarianceNormal(model, mean, jnp.asarray([[1.0, 0.0], [0.5, 2.0]], jnp.float32))


def test_parameters_functions_and_draws_of_y_belong_together(linear, key):
    y = 2 + 3 * (X @ [1.0, 1.0])
    tree = dubito.to_arviz(linear, X, y, x_new=X[:3], key=key, draws=50, shift=2.0, scale=3.0)
    weights = tree["posterior"]["network.w"].values[0, :, :, 0]
    means = 2 + 3 * weights @ X.T
    np.testing.assert_allclose(tree["posterior"]["mean"].values[0], means, atol=1e-4)
    np.testing.assert_allclose(tree["posterior_predictive"]["y"].values[0], means, atol=2.5e-3)
    np.testing.assert_allclose(tree["predictions"]["y"].values[0], means[:, :3], atol=2.5e-3)
    assert not np.allclose(tree["posterior_predictive"]["y"].values[0], means, atol=2e-4)
    expected = stats.norm.logpdf(y, means, 3e-4)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-2)
    answer = dubito.predict(linear, X, key=key, draws=50, shift=2.0, scale=3.0)  # the same draws
    np.testing.assert_allclose(answer.mean, means.mean(0), atol=1e-4)


def test_only_the_groups_of_what_was_given_are_there(linear, key):
    assert set(dubito.to_arviz(linear, key=key, draws=5).children) == {"posterior"}
    tree = dubito.to_arviz(linear, X, key=key, draws=5)
    assert set(tree.children) == {"posterior", "posterior_predictive"}
    assert set(dubito.to_arviz(linear, x_new=X, key=key, draws=5).children) == {"posterior", "predictions"}


COUNTS = np.round(np.exp(X[:, 0]))
PARTIAL = np.where(RNG.random((30, 2)) < 0.2, np.nan, np.stack([Y, -Y], axis=1))
TARGETS = {
    "log transform": (dict(target_transform="log"), np.exp(Y / 5)),
    "counts": (dict(likelihood="poisson"), COUNTS),
    "several, some missing": (dict(likelihood="gaussian"), PARTIAL),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_densities_of_the_draws_average_to_those_of_predictions(name):
    settings, y = TARGETS[name]
    method = dubito.Ensemble(dubito.MAP(epochs=20), 3)
    model = dubito.BayesianRegressor(method, hidden=(3,), random_state=0, **settings).fit(X, y)
    tree = dubito.to_arviz(model, X, y)
    logs = tree["log_likelihood"]["y"].values
    assert logs.shape == (1, 3, 30)
    expected = model.uncalibrated(X).log_prob(y)
    np.testing.assert_allclose(special.logsumexp(logs[0], axis=0) - np.log(3), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tree["posterior"]["mean"].values[0].mean(0), model.predict(X), rtol=1e-6)
    draws = tree["posterior_predictive"]["y"]
    assert draws.dims == ("chain", "draw", "row") + (("target",) if y.ndim == 2 else ())
    assert np.all(np.isfinite(draws.values)) and (name != "counts" or np.all(draws.values % 1 == 0))
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, y)


@pytest.mark.slow
def test_classes_have_their_labels(key):
    y = np.where(Y > 5, "yes", "no")
    model = dubito.BayesianClassifier(dubito.MAP(epochs=20), hidden=(3,), random_state=0).fit(X, y)
    tree = dubito.to_arviz(model, X, y)
    assert tree["posterior"]["mean"]["class"].values.tolist() == ["no", "yes"]
    probs = tree["posterior"]["mean"].values[0, 0]
    np.testing.assert_allclose(probs, model.predict_proba(X), rtol=1e-6)
    codes = tree["observed_data"]["y"].values
    np.testing.assert_array_equal(codes, (y == "yes").astype(int))
    logs = tree["log_likelihood"]["y"].values[0, 0]
    np.testing.assert_allclose(logs, np.log(probs[np.arange(30), codes]), rtol=1e-4)
    assert set(np.unique(tree["posterior_predictive"]["y"].values)) <= {0, 1}


def test_wrong_calls_say_what_to_do(linear, key):
    points = dubito.Samples(linear.model, jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), linear.mean))
    with pytest.raises(ValueError, match="such as draws=1000"):
        dubito.to_arviz(linear, key=key)
    with pytest.raises(ValueError, match="leave draws out"):
        dubito.to_arviz(points, key=key, draws=2)
    with pytest.raises(TypeError, match=r"key=jax.random.key\(0\)"):
        dubito.to_arviz(points)
    with pytest.raises(ValueError, match="y without x"):
        dubito.to_arviz(points, y=Y, key=key)
    with pytest.raises(ValueError, match="expected a posterior or a fitted estimator, got int"):
        dubito.to_arviz(3, key=key)
    assert dubito.to_arviz(points, key=key)["posterior"].sizes["draw"] == 4


@pytest.mark.slow
def test_an_estimator_has_its_own_settings(chains, key):
    from sklearn.exceptions import NotFittedError

    model, _ = chains
    with pytest.raises(NotFittedError):
        dubito.to_arviz(dubito.BayesianRegressor())
    with pytest.raises(ValueError, match="has its own key: leave key= out"):
        dubito.to_arviz(model, key=key)
    other = dubito.BayesianRegressor(**model.get_params(deep=False))
    vars(other).update(vars(model), draws=10)
    with pytest.raises(ValueError, match=r"set_params\(draws=None\)"):
        dubito.to_arviz(other)


def test_without_arviz_the_error_says_how_to_install_it(linear, key, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"pip install 'dubito\[arviz\]'"):
        dubito.to_arviz(linear, key=key, draws=2)


@pytest.mark.slow
def test_a_wrapped_network_has_its_weights_and_the_draws_of_its_predictions(key):
    from sklearn.neural_network import MLPRegressor

    trained = MLPRegressor(hidden_layer_sizes=(3,), solver="lbfgs", max_iter=500, random_state=0).fit(X, Y)
    network = dubito.from_sklearn(trained)
    options = dict(train=(X, Y), likelihood="gaussian", key=key)
    posterior = dubito.wrap(network, dubito.LaplaceApproximation(), **options)
    tree = dubito.to_arviz(posterior, X, Y, key=key, draws=20)
    center = tree["posterior"]["network.center.layer_0.w"].values[0]
    np.testing.assert_allclose(center, np.stack([trained.coefs_[0]] * 20), rtol=1e-6)
    assert np.all(np.ptp(tree["posterior"]["network.offset.layer_0.w"].values[0], axis=0) > 0)
    answer = dubito.predict(posterior, X, key=key, draws=20)
    logs = tree["log_likelihood"]["y"].values[0]
    np.testing.assert_allclose(special.logsumexp(logs, axis=0) - np.log(20), answer.log_prob(Y), rtol=1e-9)
