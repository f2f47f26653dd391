"""Models fitted to a transform of the target: closed forms, quadrature, the estimator, the command line, the model file."""

import csv
import json

import jax
import numpy as np
import pytest
from command_line import run
from scipy import integrate, stats
from sklearn.preprocessing import PowerTransformer

import dubito
from dubito.evaluation import metrics
from dubito.models.target_transforms import (
    BoxCoxTransform,
    CustomTransform,
    LogTransform,
    YeoJohnsonTransform,
    fit_target_transform,
    gaussian_moments,
)
from dubito.posteriors.draw_mixture import ALL_DRAWS
from dubito.posteriors.predictive import Predictive
from dubito.posteriors.transformed import transformed

QUICK = dubito.MAP(epochs=5, batch_size=64)
MEANS = np.float32(np.random.default_rng(0).normal(size=(4, 30, 1)))
SHIFT, SCALE, SD = 1.5, 0.8, 0.5


def ones(n):
    return np.ones(n), np.arange(n)


def gaussian(means=MEANS, sd=SD):
    z = {"mean": means, "scale": np.full_like(means, sd)}
    return Predictive(dubito.Gaussian(), z, np.array([SHIFT]), np.array([SCALE]))


def law():
    """The components of log y: scipy's, (4, 30)."""
    return stats.lognorm(s=SCALE * SD, scale=np.exp(SHIFT + SCALE * MEANS[..., 0].astype(float)))


@pytest.mark.slow
def test_log_of_a_gaussian_mixture_is_a_lognormal_mixture():
    answer, exact = transformed(gaussian(), LogTransform()), law()
    mean, variance = exact.mean(), exact.var()
    np.testing.assert_allclose(answer.mean, mean.mean(0), rtol=1e-6)
    np.testing.assert_allclose(answer.aleatoric, variance.mean(0), rtol=1e-5)
    np.testing.assert_allclose(answer.epistemic, mean.var(0), rtol=1e-5)
    for q in (0.01, 0.5, 0.95):
        y = answer.quantile(q)
        np.testing.assert_allclose(exact.cdf(y).mean(0), q, rtol=1e-5)
        np.testing.assert_allclose(answer.cdf(y), q, rtol=1e-5)
        np.testing.assert_allclose(answer.log_prob(y), np.log(exact.pdf(y).mean(0)), rtol=1e-5, atol=1e-5)
    logs = answer.mixture.log_densities(ALL_DRAWS, y[:, None])  # in the target's units, as leave-one-out needs them
    np.testing.assert_allclose(logs, exact.logpdf(y).T, rtol=1e-5, atol=1e-5)
    best = dubito.decisions.thompson(answer, key=jax.random.key(3))
    assert best in mean.argmax(1)  # of E[y | θ], which is not that of E[log y | θ] if the noise depends on the row
    lower, upper = answer.interval(0.9)
    np.testing.assert_allclose((exact.cdf(upper) - exact.cdf(lower)).mean(0), 0.9, rtol=1e-5)
    assert np.all(np.isneginf(answer.log_prob(np.zeros(30)))) and np.all(answer.cdf(np.full(30, -1.0)) == 0)
    drawn = answer.sample(jax.random.key(1), 4000)
    assert abs(stats.kstest(exact.cdf(drawn[:, None]).mean(1)[:, 3], "uniform").statistic) < 0.05
    y = np.resize([0.5, 4.0, 20.0], 30)
    grid = np.concatenate([np.linspace(1e-9, 60, 60_001), np.geomspace(60, 1e4, 20_000)[1:]])
    crps = [np.trapezoid((law().cdf(grid[:, None, None]).mean(1)[:, i] - (grid >= y[i])) ** 2, grid) for i in range(3)]
    np.testing.assert_allclose(metrics.crps(answer, y).rows[:3], crps, rtol=3e-3)


@pytest.mark.parametrize("transform", [
    BoxCoxTransform((0.0,)), BoxCoxTransform((0.4,)), BoxCoxTransform((1.7,)),
    YeoJohnsonTransform((0.0,)), YeoJohnsonTransform((0.6,)), YeoJohnsonTransform((2.0,)),
    CustomTransform(np.arcsinh, np.sinh, lambda y: 1 / np.sqrt(1 + y**2)), CustomTransform(jax.numpy.arcsinh, np.sinh),
])  # fmt: skip
def test_moments_and_slopes_equal_quadrature(transform):
    for mean, scale in ((0.3, 0.2), (2.0, 1.0), (-0.5, 0.7)):
        found = [float(each[0]) for each in gaussian_moments(transform, np.array([mean]), np.array([scale]))]

        def inverse(x, mean=mean, scale=scale):
            return float(transform.inverse(np.array([[mean + scale * x]]))[0, 0])

        points = [-mean / scale]  # where some inverses are not smooth
        points += [(kink - mean) / scale for kink in (transform.kinks() if transform.kinks() is not None else ())]
        points = [point for point in points if abs(point) < 12] or None
        first = integrate.quad(lambda x: inverse(x) * stats.norm.pdf(x), -12, 12, points=points, limit=200)[0]
        square = (
            integrate.quad(lambda x: inverse(x) ** 2 * stats.norm.pdf(x), -12, 12, points=points, limit=200)[0]
            - first**2
        )
        np.testing.assert_allclose(found, [first, square], rtol=1e-6)
    y = np.array([[0.2], [1.0], [3.5]])
    ends = transform.forward(y + 1e-6) - transform.forward(y - 1e-6)
    np.testing.assert_allclose(np.exp(transform.log_slope(y)), ends / 2e-6, rtol=1e-6)
    np.testing.assert_allclose(transform.inverse(transform.forward(y)), y, rtol=1e-12)


def test_lambdas_equal_those_of_scikit_learn_and_weights_repeat_rows():
    rng = np.random.default_rng(2)
    y = np.column_stack([rng.gamma(2.0, 3.0, 400), np.exp(rng.normal(0.4, 0.3, 400))])
    for name, values in (("box-cox", y), ("yeo-johnson", y - 2)):
        found = fit_target_transform(name, values, *ones(400))
        exact = PowerTransformer(method=name).fit(values)
        np.testing.assert_allclose(found.lambdas, np.clip(exact.lambdas_, 0, 2), atol=1e-4)
        inside = [k for k in range(2) if 0 < exact.lambdas_[k] < 2]
        unscaled = PowerTransformer(method=name, standardize=False).fit_transform(values)
        np.testing.assert_allclose(found.forward(values)[:, inside], unscaled[:, inside], rtol=1e-2)
        weight = rng.integers(1, 4, 400)
        weighted = fit_target_transform(name, values, weight.astype(float), np.arange(400))
        repeated = fit_target_transform(name, np.repeat(values, weight, axis=0), *ones(weight.sum()))
        np.testing.assert_allclose(weighted.lambdas, repeated.lambdas, atol=1e-6)
        holes = np.where(np.arange(400)[:, None] < [0, 50], np.nan, values)
        partly = fit_target_transform(name, holes, *ones(400))
        np.testing.assert_allclose(partly.lambdas[1], fit_target_transform(name, values[50:], *ones(350)).lambdas[1])


def rows(n=200, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, np.exp(3 + x @ [0.8, -0.5] + 0.4 * rng.normal(size=n))


@pytest.mark.parametrize("choice", ["log", "box-cox", "yeo-johnson"])
def test_estimator_predicts_the_target_in_its_units(choice, tmp_path):
    """As by hand: a model of g(y) whose quantiles are mapped back; the model file keeps it."""
    x, y = rows()
    model = dubito.BayesianRegressor(QUICK, hidden=(4,), target_transform=choice, random_state=0).fit(x, y)
    by_hand = dubito.BayesianRegressor(QUICK, hidden=(4,), random_state=0).fit(
        x, model.transform_.forward(y[:, None])[:, 0]
    )
    lower, upper = model.predict_interval(x)
    expected = [model.transform_.inverse(end[:, None])[:, 0] for end in by_hand.predict_interval(x)]
    np.testing.assert_allclose([lower, upper], expected, rtol=1e-6)
    slope = model.transform_.log_slope(y[:, None])[:, 0]
    density = by_hand.predictive(x).log_prob(model.transform_.forward(y[:, None])[:, 0]) + slope
    np.testing.assert_allclose(model.predictive(x).log_prob(y), density, rtol=1e-6, atol=1e-6)
    mean, std = model.predict(x, return_std=True)
    assert np.all(mean > 0) and np.all(std > 0) and metrics.scorecard(model.predictive(x), y)["n"] == 200
    model.save(tmp_path / "model")
    loaded = dubito.load(tmp_path / "model")
    assert loaded.transform_ == model.transform_ and np.array_equal(loaded.predict(x), mean)
    for method in ("conformal", "quantiles"):
        lower, upper = loaded.calibrate(x, y, method).predict_interval(x)
        assert abs(np.mean((lower <= y) & (y <= upper)) - 0.9) < 0.05
        assert choice == "yeo-johnson" or np.all(lower >= 0)
    np.testing.assert_array_equal(model.predict(x[7:9]), mean[7:9])


def test_uncertainty_scores_of_several_targets_do_not_depend_on_their_units():
    means = np.float32(np.random.default_rng(5).normal(size=(3, 20, 2)))
    z = {"mean": means, "scale": np.full_like(means, 0.4)}
    found = []
    for unit in (1.0, 1e6):
        before = Predictive(dubito.Gaussian(targets=2), z, np.array([1.0, 2.0 + np.log(unit)]), np.ones(2))
        found.append(dubito.decisions.uncertainty_score(transformed(before, LogTransform()), "variance"))
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_functions_of_the_user_transform_but_are_not_saved(tmp_path):
    x, y = rows()
    functions = (jax.numpy.log, np.exp)
    model = dubito.BayesianRegressor(QUICK, hidden=(4,), target_transform=functions, random_state=0).fit(x, y)
    by_name = dubito.BayesianRegressor(QUICK, hidden=(4,), target_transform="log", random_state=0).fit(x, y)
    np.testing.assert_allclose(model.predict(x, return_std=True), by_name.predict(x, return_std=True), rtol=1e-4)
    np.testing.assert_allclose(model.predictive(x).log_prob(y), by_name.predictive(x).log_prob(y), rtol=1e-4, atol=1e-4)
    with pytest.raises(dubito.ModelFileError, match=r"cannot save target_transform=.*target transforms by name"):
        model.save(tmp_path / "model")


@pytest.mark.parametrize(("choice", "likelihood", "words"), [
    ("log", None, r"target_transform='log' needs positive targets, but y has others, in row 3: the first has 0"),
    ("box-cox", None, "target_transform='box-cox' needs positive targets"),
    ("logarithm", None, "target_transform"),
    (np.log, None, r"or a tuple of functions \(function, inverse\)"),
    ((np.negative, np.negative), None, "the function must be finite and increasing at all targets of fit"),
    ((np.arcsinh, np.arcsinh), None, "the second function must be the inverse of the first"),
    ("yeo-johnson", "student-t", "target_transform needs Gaussian noise, since other noise may have infinite moments; got StudentT"),
    ("yeo-johnson", "poisson", "target_transform needs Gaussian noise"),
])  # fmt: skip
def test_transforms_that_do_not_fit_are_refused(choice, likelihood, words):
    x, y = rows(20)
    y = np.where(np.arange(20) == 3, 0.0, np.round(y))
    with pytest.raises(ValueError, match=words):
        dubito.BayesianRegressor(QUICK, hidden=(2,), likelihood=likelihood, target_transform=choice).fit(x, y)
    with pytest.raises(TypeError, match="BayesianClassifier has no setting 'target_transform'"):
        dubito.BayesianClassifier(QUICK, hidden=(2,), target_transform="log")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"CrossFit estimates Student's t noise\. Set df=None"):
        dubito.BayesianRegressor(dubito.CrossFit(QUICK, 2), target_transform="log").fit(x, y + 1)


@pytest.mark.slow
def test_command_line_transforms_the_target(tmp_path):
    x, y = rows(120)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "y"], *[[*row, value] for row, value in zip(x, y, strict=True)]])
    fit = ("fit", tmp_path / "t.csv", "-t", "y", "--method", "map", "--set", "epochs=20", "--hidden", "4")
    run(*fit, "--target-transform", "box-cox", "-o", tmp_path / "m")
    out, _ = run("predict", tmp_path / "m", tmp_path / "t.csv")
    assert all(float(line.split(",")[4]) >= 0 for line in out.splitlines()[1:])
    card = json.loads(run("evaluate", tmp_path / "m", tmp_path / "t.csv", "--json")[0])
    assert {"nll", "crps", "coverage_90", "rmse"} <= set(card)
    run("calibrate", tmp_path / "m", tmp_path / "t.csv", "-o", tmp_path / "c", "--method", "conformal")
    _, text = run(*fit, "--target-transform", "logg", "-o", tmp_path / "n", code=1)
    assert "log" in text


@pytest.mark.slow
def test_default_method_with_a_transform_has_gaussian_noise_and_is_calibrated():
    """A cross-fit as the default's, with fewer epochs: moments exist, and held-out coverage is right."""
    x, y = rows(600)
    assert dubito.default_method(300, "regression", "heteroscedastic").df is None
    member = dubito.MaximumLikelihood(epochs=60, batch_size=64)
    method = dubito.CrossFit(member, 4, df=None)
    model = dubito.BayesianRegressor(method, hidden=(16,), target_transform="log", random_state=0).fit(x[:400], y[:400])
    card = metrics.scorecard(model.predictive(x[400:]), y[400:])
    assert abs(card["coverage_90"] - 0.9) < 4.6 * np.sqrt(0.09 / 200)
    truth = -stats.lognorm(s=0.4, scale=np.exp(3 + x[400:] @ [0.8, -0.5])).logpdf(y[400:]).mean()
    assert card["nll"] < truth + 0.1
