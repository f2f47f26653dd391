"""Several targets of which some are missing: what is left out of the likelihood, the scaling and the scores, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dubito
from dubito.evaluation import metrics
from dubito.models.likelihoods.by_name import target_error
from dubito.posteriors.predictive import Predictive

LINEAR = dubito.MaximumLikelihood(epochs=400, batch_size=None, learning_rate=0.05)
QUICK = dubito.MAP(epochs=3, batch_size=64)
SEPARATE = [name for name, entry in dubito.LIKELIHOODS.items() if entry.make(2).independent_targets]


def table(n=300, seed=0):
    """(X, y with missing entries, which are missing): more of the second target's, and none of a whole row's."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = np.column_stack([5 + x @ [1.0, -2.0], -30 + 10 * x @ [0.5, 1.0]]) + rng.normal(size=(n, 2)) * [0.3, 4.0]
    missing = rng.uniform(size=(n, 2)) < [0.2, 0.5]
    missing[missing.all(1), 0] = False
    return x, np.where(missing, np.nan, y), missing


@pytest.mark.parametrize("name", SEPARATE)
def test_density_of_observed_entries_is_the_sum_of_their_own(name):
    """As of likelihoods of one target each; the gradient by a missing entry's outputs is 0."""
    likelihood, one = dubito.LIKELIHOODS[name].make(2), dubito.LIKELIHOODS[name].make(1)
    rng = np.random.default_rng(1)
    f = np.float32(rng.normal(size=(4, likelihood.width)))
    y = np.float32(rng.poisson(2.0, (4, 2)) if likelihood.discrete else rng.uniform(0.1, 0.9, (4, 2)))
    y[0, 0] = y[1, 1] = y[2] = np.nan
    phi = jax.tree.map(lambda leaf: leaf + jnp.float32([0.1, -0.3]), likelihood.init())

    def density(f):
        return likelihood.log_prob_observed(likelihood.join(f, phi), jnp.asarray(y))

    expected = np.zeros(4)
    for k in range(2):
        own = one.join(jnp.asarray(f[:, k::2]), jax.tree.map(lambda leaf, k=k: leaf[k : k + 1], phi))
        each = np.asarray(one.log_prob(own, jnp.where(jnp.isnan(y[:, k : k + 1]), 0.5, y[:, k : k + 1])))
        expected += np.where(np.isnan(y[:, k]), 0, each)
    np.testing.assert_allclose(density(jnp.asarray(f)), expected, rtol=1e-5, atol=1e-6)
    slope = np.asarray(jax.jacobian(density)(jnp.asarray(f)))
    assert np.all(np.isfinite(slope)) and np.all(slope[2, 2] == 0)
    assert np.all(slope[0, 0, 0::2] == 0) and np.all(slope[1, 1, 1::2] == 0) and np.any(slope[0, 0] != 0)
    complete = likelihood.join(jnp.asarray(f[3:]), phi)
    np.testing.assert_allclose(
        density(jnp.asarray(f))[3:], likelihood.log_prob(complete, jnp.asarray(y[3:])), rtol=1e-5
    )


def test_linear_fit_with_missing_targets_is_least_squares_of_each_on_its_own_rows():
    x, y, missing = table()
    model = dubito.BayesianRegressor(LINEAR, hidden=(), random_state=0).fit(x, y)
    found = model.predict(x)
    for k in range(2):
        rows = ~missing[:, k]
        design = np.column_stack([np.ones(len(x)), x])
        solution, *_ = np.linalg.lstsq(design[rows], y[rows, k], rcond=None)
        np.testing.assert_allclose(found[:, k], design @ solution, atol=3e-3 * np.nanstd(y[:, k]))
        np.testing.assert_allclose(model.scaler_.shift[k], y[rows, k].mean(), rtol=1e-12)
        np.testing.assert_allclose(model.scaler_.scale[k], y[rows, k].std(), rtol=1e-12)
        residual = (y[rows, k] - design[rows] @ solution).std()
        np.testing.assert_allclose(model.predictive(x[:1]).aleatoric_std[0, k], residual, rtol=2e-2)


@pytest.mark.slow
def test_cross_fit_estimates_the_noise_of_each_target_from_its_own_rows():
    """With half of the second target missing the noise is that of the observed residuals: 0.3 and 4."""
    x, y, _ = table(600)
    method = dubito.CrossFit(LINEAR, 3, noise="constant", df=None)
    model = dubito.BayesianRegressor(method, hidden=(), random_state=0).fit(x, y)
    answer = model.predictive(x)
    np.testing.assert_allclose(np.median(answer.std, axis=0), [0.3, 4.0], rtol=0.12)
    by_input = dubito.CrossFit(QUICK, 3)  # with networks for the noise, which are trained on the residuals
    quick = dubito.BayesianRegressor(by_input, hidden=(), random_state=0).fit(x, y).predictive(x)
    assert np.isfinite(quick.std).all() and np.isfinite(quick.log_prob(y)).all()
    card = metrics.scorecard(answer, y)
    assert card["missing"] == np.isnan(y).sum() and abs(card["coverage_90"] - 0.9) < 0.05


def gaussian_answer(n=50, k=2, seed=3):
    rng = np.random.default_rng(seed)
    z = {"mean": np.float32(rng.normal(size=(3, n, k))), "scale": np.full((3, n, k), 0.7, np.float32)}
    return Predictive(dubito.Gaussian(targets=k), z, np.array([5.0, -30.0])[:k], np.array([1.0, 10.0])[:k]), z


@pytest.mark.slow
def test_scores_ignore_missing_entries_and_count_them():
    """Each score is the mean over targets of that of the target alone on the rows that have it."""
    answer, z = gaussian_answer()
    rng = np.random.default_rng(4)
    y = answer.mean + rng.normal(size=(50, 2)) * [1.0, 10.0]
    weight = rng.uniform(0.5, 2, 50)
    missing = rng.uniform(size=(50, 2)) < 0.3
    missing[missing.all(1), 1] = False
    holes = np.where(missing, np.nan, y)
    for score in (metrics.rmse, metrics.mae, metrics.r2, metrics.crps, metrics.pinball, metrics.coverage):
        own = []
        for k in range(2):
            rows = ~missing[:, k]
            part = {name: values[:, rows, k : k + 1] for name, values in z.items()}
            one = Predictive(dubito.Gaussian(), part, answer.shift[k : k + 1], answer.scale[k : k + 1])
            own.append(score(one, y[rows, k], weight=weight[rows]))
        found = score(answer, holes, weight=weight)
        np.testing.assert_allclose(found.value, np.mean([each.value for each in own]), rtol=1e-6)
        np.testing.assert_allclose(np.average(found.rows, weights=weight), found.value, rtol=1e-9)
        assert 0.3 < found.se / np.hypot(own[0].se, own[1].se) * 2 < 3
    logs = stats.norm.logpdf(y, answer.shift + answer.scale * z["mean"].astype(float), 0.7 * answer.scale)
    joint = np.where(missing, 0, logs).sum(2)
    exact = np.log(np.mean(np.exp(joint), axis=0))
    np.testing.assert_allclose(answer.log_prob(holes), exact, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics.nll(answer, holes).value, -exact.mean(), rtol=1e-5)
    card = metrics.scorecard(answer, holes)
    assert card["missing"] == missing.sum() and card["n"] == 50 and np.isfinite(list(card.values())).all()
    assert "missing" not in metrics.scorecard(answer, y)
    assert np.array_equal(np.isnan(metrics.pit(answer, holes)), missing)
    assert 0 < metrics.central_coverage(answer, holes, np.array([0.5]))[0] < 1


def test_missing_targets_that_cannot_be_left_out_are_refused():
    x, y, missing = table(40)
    empty = np.where(np.arange(40)[:, None] == 7, np.nan, np.nan_to_num(y))
    with pytest.raises(dubito.DataError, match=r"y has no value of any target in row 7\. Leave these rows out\."):
        dubito.BayesianRegressor(QUICK, hidden=(2,)).fit(x, empty)
    with pytest.raises(dubito.DataError, match="y has no value of target 1 in any row"):
        dubito.BayesianRegressor(QUICK, hidden=(2,)).fit(x, np.column_stack([np.arange(40.0), np.full(40, np.nan)]))
    with pytest.raises(dubito.DataError, match="target 0: 1 missing, 0 infinite, in row 7"):
        dubito.BayesianRegressor(QUICK, hidden=(2,)).fit(x, empty[:, 0])
    for method in (
        dubito.NaturalGradientVI(epochs=2),
        dubito.ConjugateNoise(QUICK),
        dubito.Ensemble(dubito.RandomizedMAP(epochs=2), 2),
        dubito.LaplaceApproximation(QUICK),
    ):
        inner = type(method if not isinstance(method, dubito.Ensemble) else method.method).__name__
        with pytest.raises(
            ValueError, match=f"{inner} needs all targets of every row, and y has {missing.sum()} missing ones"
        ):
            dubito.BayesianRegressor(method, hidden=(2,), random_state=0).fit(x, y)
    marks = np.column_stack([y[:, 0], np.zeros(40)])
    assert (
        "CensoredGaussian needs all targets of every row; y has missing ones, first in rows 5, 15, 19"
        in target_error(dubito.CensoredGaussian(), marks)
    )
    answer, _ = gaussian_answer(40)
    with pytest.raises(dubito.DataError, match="y is missing in"):
        dubito.calibration.split_conformal(answer, y)
    with pytest.raises(dubito.DataError, match="y has no value of target 1 in any row"):
        metrics.rmse(answer, np.column_stack([np.ones(40), np.full(40, np.nan)]))


@pytest.mark.slow
def test_fit_of_a_model_takes_missing_targets(key):
    """``dubito.fit`` with arrays: rows without any target are refused, others are used; a Poisson model, too."""
    x, y, missing = table(60)
    counts = np.where(missing, np.nan, np.arange(120.0).reshape(60, 2) % 5)
    for likelihood, target in ((dubito.Gaussian(targets=2), y / 30), (dubito.Poisson(targets=2), counts)):
        model = dubito.Model(dubito.mlp(2, (3,), 2), likelihood)
        posterior = dubito.fit(model, x, target, QUICK, key=key)
        assert np.isfinite(dubito.predict(posterior, x, key=key).mean).all()
    target = np.where(np.arange(60)[:, None] == 5, np.nan, counts)
    with pytest.raises(dubito.DataError, match=r"y contains 2 value\(s\) that are NaN.* in row 5"):
        dubito.fit(model, x, target, QUICK, key=key)
