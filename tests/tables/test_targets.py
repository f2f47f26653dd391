"""Likelihoods by name through the estimators: what is recovered, what is refused, and what a table's target becomes."""

import csv
import json
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import run
from jax.flatten_util import ravel_pytree
from scipy import special, stats
from sklearn.linear_model import PoissonRegressor

import dubito
from dubito.evaluation.metrics import scorecard
from dubito.methods.default import default_method
from dubito.tables.scaling import TargetScaler
from dubito.tables.targets import match_scale, median, regression_target

LINEAR = dubito.MaximumLikelihood(epochs=200, batch_size=None, learning_rate=0.05)
SMALL = dubito.MAP(epochs=3, batch_size=64)
SLOPES = np.array([0.8, -0.5])
ZERO_INFLATED = ("zero-inflated-poisson", "zero-inflated-negative-binomial")
UNSCALED, POSITIVE = ("poisson", "negative-binomial", *ZERO_INFLATED, "beta"), ("lognormal", "gamma")


def inputs(n=1500, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2))


def drawn(name, x, seed=1):
    """(y, its conditional mean or class probabilities) for rows x, from the likelihood called ``name``."""
    rng, eta = np.random.default_rng(seed), x @ SLOPES + 1.0
    if name == "poisson":
        return rng.poisson(np.exp(eta)), np.exp(eta)
    if name == "negative-binomial":
        return rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, len(x))), np.exp(eta)
    if name == "lognormal":
        return 300 * np.exp(eta + rng.normal(0, 0.5, len(x))), 300 * np.exp(eta + 0.125)
    if name == "gamma":
        return 300 * np.exp(eta) * rng.gamma(2.0, 0.5, len(x)), 300 * np.exp(eta)
    if name == "beta":
        share = special.expit(eta)
        return rng.beta(8 * share, 8 * (1 - share)), share
    if name.startswith("zero-inflated"):
        zero, mean = special.expit(x[:, 1] - 0.5), np.exp(eta + 0.5)
        counts = rng.poisson(mean if name.endswith("poisson") else mean * rng.gamma(2.0, 0.5, len(x)))
        return np.where(rng.uniform(size=len(x)) < zero, 0, counts), (1 - zero) * mean
    if name == "laplace":
        return 50 + 10 * (eta + rng.laplace(0, 0.7, len(x))), 50 + 10 * eta
    if name == "student-t":
        return 50 + 10 * (eta + 0.4 * rng.standard_t(4, len(x))), 50 + 10 * eta
    if name == "censored":
        true = 50 + 10 * (eta + rng.normal(0, 0.6, len(x)))
        end = 50 + 10 * rng.uniform(0, 3, len(x))
        return np.column_stack([np.minimum(true, end), true > end]), 50 + 10 * eta
    cuts = np.array([-1.0, 0.5, 2.0])
    below = special.expit(np.concatenate([np.full((len(x), 1), -np.inf), cuts - eta[:, None]], axis=1))
    p = np.diff(np.concatenate([below, np.ones((len(x), 1))], axis=1), axis=1)
    return 10 * (p.cumsum(1) < rng.uniform(size=(len(x), 1))).sum(1), p


def standard_errors(model, x, y):
    """Of the mean at rows x, in the model's units, (n, K): the delta method on the inverse empirical Fisher information."""
    params = jax.tree.map(lambda leaf: leaf[0], model.posterior_.params)
    flat, unflatten = ravel_pytree(params)
    whole, encoded = model.posterior_.model, jnp.asarray(model.schema_.encode(x))

    def outputs(flat):
        return whole.outputs(unflatten(flat), encoded)

    y = jnp.asarray(y)
    both = jax.jit(
        jax.jacfwd(lambda flat: (whole.likelihood.log_prob(f := outputs(flat), y), whole.likelihood.mean(f)))
    )
    scores, slopes = (np.asarray(each, float) for each in both(flat))
    covariance = np.linalg.pinv(scores.T @ scores, rcond=1e-5)  # a shift of f and of all cut points is no change
    return np.sqrt(np.einsum("nki,ij,nkj->nk", slopes, covariance, slopes))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*UNSCALED, *POSITIVE, "laplace", "student-t", "censored", "ordered"])
def test_regression_recovers_the_conditional_mean(name):
    """A linear model of 1,500 simulated rows: within 4.6 of its own standard errors of the truth, and those are small."""
    x = inputs()
    y, truth = drawn(name, x)
    if name == "ordered":
        model = dubito.BayesianClassifier(LINEAR, hidden=(), likelihood=name, random_state=0).fit(x, y)
        found, truth, target = model.predict_proba(x), truth, (y // 10).astype(np.int32)
        assert list(model.classes_) == [0, 10, 20, 30]
        scale = 1.0
    else:
        model = dubito.BayesianRegressor(LINEAR, hidden=(), likelihood=name, random_state=0).fit(x, y)
        found, truth, target = model.predict(x)[:, None], truth[:, None], np.reshape(y, (len(y), -1))
        target, scale = model.scaler_.transform(target), model.scaler_.scale[0]
        assert ((model.scaler_.shift, model.scaler_.scale) == ((0.0,), (1.0,))) == (name in UNSCALED)
        assert (model.scaler_.shift == (0.0,)) == (name in UNSCALED + POSITIVE)
    errors = scale * standard_errors(model, x, target)
    z = (found - truth) / errors
    assert np.all(np.abs(z) < 4.6) and np.abs(z).max() > 0.1
    assert errors.mean() < 0.12 * truth.std()


def test_linear_poisson_equals_scikit_learn():
    x = inputs(400)
    y, _ = drawn("poisson", x)
    y = 1000 * y  # a log mean of 8, where a network near 0 would begin far away without its level
    model = dubito.BayesianRegressor(LINEAR, hidden=(), likelihood="poisson", random_state=0).fit(x, y)
    exact = PoissonRegressor(alpha=0, tol=1e-9, max_iter=1000).fit(x, y).predict(x)
    np.testing.assert_allclose(model.predict(x), exact, rtol=2e-3)
    likelihood = model.posterior_.model.likelihood
    np.testing.assert_allclose(likelihood.level, np.log(y.mean()))
    assert model.score(x, y) > 0.3


def three_folds(*given):
    method = default_method(*given)
    return replace(method, folds=3, method=replace(method.method, epochs=150))


@pytest.mark.slow
def test_default_method_fits_counts_given_only_the_name(monkeypatch):
    """With 3 folds and fewer epochs, and a curve that is no straight line: near the truth, and its intervals hold what they should."""
    monkeypatch.setattr("dubito.estimators.base.default_method", three_folds)
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (1200, 1))
    mean = np.exp(1.5 + np.sin(2 * x[:, 0]))
    y = rng.poisson(mean)
    model = dubito.BayesianRegressor(likelihood="poisson", random_state=0).fit(x[:800], y[:800])
    assert "CrossFit" in model.description and "Poisson(level=" in model.description
    found = model.predict(x[800:])
    assert np.sqrt(np.mean((np.log(found) - np.log(mean[800:])) ** 2)) < 0.12
    card = scorecard(model.predictive(x[800:]), y[800:])
    best = -np.mean(stats.poisson(mean[800:]).logpmf(y[800:]))
    assert card["nll"] < best + 0.05 and abs(card["coverage_90"] - 0.93) < 4.6 * card["coverage_90_se"]
    lower, upper = model.predict_interval(x[800:])
    assert np.array_equal(lower, np.floor(lower)) and np.array_equal(upper, np.floor(upper))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*POSITIVE, "beta", *ZERO_INFLATED])
def test_cross_fit_of_a_likelihood_beats_the_intercept_and_is_calibrated(name):
    """The default method's members, in a quarter of their epochs, on held-out rows; a distribution fitted without inputs is worse."""
    x = inputs(900, seed=5)
    y, mean = drawn(name, x, seed=6)
    member = dubito.MaximumLikelihood(epochs=60, batch_size=64, learning_rate=1e-2, clip=5.0)
    model = dubito.BayesianRegressor(
        dubito.CrossFit(member, 5), hidden=(64,), activation="silu", periodic=4, likelihood=name, random_state=0
    ).fit(x[:600], y[:600])
    answer = model.predictive(x[600:])
    constant = dubito.BayesianRegressor(LINEAR, hidden=(), likelihood=name, random_state=0)
    constant.fit(
        np.resize([-1.0, -1.0, 1.0, 1.0], (1200, 2)), np.tile(y[:600], 2)
    )  # a program of the linear models above
    score, worse = (dubito.metrics.nll(each, y[600:]) for each in (answer, constant.predictive(np.zeros((300, 2)))))
    assert score.value < worse.value + 2 * dubito.metrics.paired(worse, score).se
    assert np.corrcoef(model.predict(x[600:]), mean[600:])[0, 1] > 0.9
    (covered,) = dubito.metrics.central_coverage(answer, y[600:], np.array([0.9]))  # randomized for counts
    assert 0.85 < covered < 0.95


@pytest.mark.slow
def test_scale_of_positive_targets_is_their_median():
    """Also with outliers; of a stream, the lognormal's. Multiplying the target by 1e-30 multiplies the predictions."""
    rng = np.random.default_rng(7)
    y = np.exp(rng.normal(np.log(40), 0.8, 20_001))
    for values in (y, np.append(y, [1e6, 1e7])):
        _, scaler, _, _ = regression_target("gamma", values, np.ones(len(values), np.float32), False)
        assert scaler.shift == (0.0,) and abs(scaler.scale[0] / np.median(y) - 1) < 1e-3
    weight = rng.integers(1, 4, 500)
    assert median(y[:500], weight) == np.sort(np.repeat(y[:500], weight))[(weight.sum() - 1) // 2]
    _, streamed = match_scale(dubito.Gamma(), TargetScaler.fit(y[:, None]))
    assert streamed.shift == (0.0,) and abs(streamed.scale[0] / np.median(y) - 1) < 0.05
    _, negative = match_scale(dubito.Gamma(), TargetScaler.fit(-y[:, None]))
    assert negative.scale == (1.0,)  # never negative, which would make targets positive
    x, small = inputs(60), y[:60]
    one, other = (
        dubito.BayesianRegressor(SMALL, hidden=(3,), likelihood="gamma", random_state=0).fit(x, small * unit)
        for unit in (1.0, 1e-30)
    )
    np.testing.assert_allclose(other.predict(x), 1e-30 * one.predict(x), rtol=1e-5)


def test_default_method_has_the_noise_of_the_likelihood():
    default = dubito.default_method(100)
    assert (default.noise, default.df) == ("input", "auto")
    for name, wanted in (
        ("gaussian", ("constant", None)),
        ("heteroscedastic", ("input", None)),
        ("poisson", ("input", "auto")),
    ):
        method = dubito.default_method(100, "regression", name)
        assert (method.noise, method.df) == wanted


def test_user_defined_criterion_fits_a_quantile():
    """The pinball loss at 0.9: nine tenths of the data lie below the predictions; y is not standardized."""
    x = inputs(1000)
    y = 3 * np.random.default_rng(4).normal(size=1000) - 7

    def pinball(f, y):
        return jnp.sum(jnp.maximum(0.9 * (y - f), -0.1 * (y - f)), axis=1)

    model = dubito.BayesianRegressor(LINEAR, hidden=(), likelihood=dubito.Criterion(pinball), random_state=0).fit(x, y)
    share = np.mean(y < model.predict(x))
    assert abs(share - 0.9) < 4.6 * np.sqrt(0.09 / 1000)
    with pytest.raises(ValueError, match="has no cdf"):
        model.predict_interval(x)
    with pytest.raises(dubito.ModelFileError, match="not callables"):
        model.save(os.devnull)


COUNTS = np.array([3.0, 0, 2, 1, 5, 2])


@pytest.mark.parametrize(
    ("likelihood", "y", "words"),
    [
        (
            "poisson",
            COUNTS - 1,
            r"Poisson takes whole numbers from 0 to 7·10¹⁰; y has other values, in row 1: the first has -1",
        ),
        ("negative-binomial", COUNTS + 0.5 * (COUNTS == 2), r"NegativeBinomial .* in rows 2, 5: the first has 2.5"),
        ("censored", COUNTS, r"CensoredGaussian.* two columns for each target.* shape \(n, 2\), got \(6, 1\)"),
        ("censored", np.column_stack([COUNTS, COUNTS]), r"marks.* first in rows 0, 2, 4: the first has 3, 3"),
        (dubito.Poisson(), np.column_stack([COUNTS, COUNTS]), r"Poisson\(targets=1\) .* \(n, 1\), got \(6, 2\)"),
        ("poison", COUNTS, r"likelihood 'poison' is unknown; did you mean 'poisson'\? Choose one of gaussian, "),
        ("ordered", COUNTS, "likelihood 'ordered' is for classification. Choose one of gaussian, "),
        (dubito.Bernoulli(), COUNTS, "Bernoulli is a likelihood for classification, not for regression"),
        ("gamma", COUNTS, r"Gamma takes positive numbers; y has other values, in row 1: the first has 0"),
        ("log-normal", -COUNTS, r"LogNormal takes positive numbers; .* first in rows 0, 1, 2: the first has -3"),
        ("gamma", np.array([1e-60, 1, 2, 3, 4, 5]), r"Gamma takes positive numbers; .* in row 0: the first has 0"),
        ("beta", 0.4 * COUNTS, r"Beta takes numbers strictly between 0 and 1; .* in rows 0, 1, 4: the first has 1.2"),
        ("zip", COUNTS - 1, "ZeroInflatedPoisson takes whole numbers from 0"),
        ("zinb", COUNTS / 2, "ZeroInflatedNegativeBinomial takes whole numbers from 0"),
        (3, COUNTS, "likelihood must be None, a name, or a likelihood such as"),
    ],
)
def test_regressor_refuses_wrong_targets_and_names(likelihood, y, words):
    with pytest.raises(ValueError, match=words) as error:
        dubito.BayesianRegressor(SMALL, likelihood=likelihood).fit(inputs(6), y)
    assert isinstance(error.value, dubito.DataError) == ("takes" in str(error.value))


@pytest.mark.parametrize(
    ("likelihood", "words"),
    [
        ("order", "likelihood 'order' is unknown; did you mean 'ordered'"),
        ("poisson", "likelihood 'poisson' is for regression. Choose one of bernoulli, categorical, ordered"),
        ("bernoulli", "Bernoulli is for 2 classes, and y has 3: a, b, c"),
        (dubito.Ordered(classes=4), "Ordered is for 4 classes, and y has 3"),
        (dubito.Gaussian(), "Gaussian is a likelihood for regression"),
    ],
)
def test_classifier_refuses_wrong_numbers_of_classes(likelihood, words):
    with pytest.raises(ValueError, match=words):
        dubito.BayesianClassifier(SMALL, likelihood=likelihood).fit(inputs(6), np.array([*"abcabc"]))


def test_classifier_warns_of_the_order_of_texts():
    with pytest.warns(dubito.DataWarning, match="The classes are ordered as texts: high, low, middle"):
        dubito.BayesianClassifier(SMALL, hidden=(2,), likelihood="ordered").fit(
            inputs(9), np.array(["low", "middle", "high"] * 3)
        )


def test_fit_refuses_targets_that_are_no_counts(key):
    model = dubito.Model(dubito.mlp(2, (2,), 1), dubito.Poisson(), dubito.Normal(1.0))
    for y, words in ((COUNTS - 1, "whole numbers"), (np.column_stack([COUNTS, COUNTS]), r"\(n, 1\), got \(6, 2\)")):
        with pytest.raises(ValueError, match=words):
            dubito.fit(model, inputs(6), y, SMALL, key=key)


def test_streamed_counts_give_the_model_of_the_table(tmp_path):
    """The level is that of all rows, and the model the one of the table in memory."""
    import pyarrow
    import pyarrow.parquet

    x = inputs(99)
    y, _ = drawn("poisson", x)
    pyarrow.parquet.write_table(pyarrow.table({"a": x[:, 0], "b": x[:, 1], "y": y}), tmp_path / "t.parquet")
    make = dubito.BayesianRegressor(SMALL, hidden=(3,), likelihood="poisson", random_state=0)
    streamed = make.fit_file(tmp_path / "t.parquet", "y")
    answer = streamed.predict(pyarrow.table({"a": x[:, 0], "b": x[:, 1]}))
    again = make.fit(pyarrow.table({"a": x[:, 0], "b": x[:, 1]}), y)
    np.testing.assert_allclose(streamed.posterior_.model.likelihood.level, np.log(y.mean()), rtol=1e-12)
    np.testing.assert_allclose(answer, again.predict(pyarrow.table({"a": x[:, 0], "b": x[:, 1]})), rtol=1e-5)


@pytest.mark.slow
def test_command_line_fits_a_likelihood_by_name(tmp_path):
    """Counts of 0 to 5 look like classes; the likelihood says that they are none."""
    x = inputs(190)
    y = np.minimum(drawn("poisson", x)[0], 5)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "y"], *[[*row, value] for row, value in zip(x, y, strict=True)]])
    fit = ("fit", tmp_path / "t.csv", "-t", "y", "--method", "map", "--set", "epochs=20", "--hidden", "8")
    _, text = run(*fit, "--likelihood", "poisson", "-o", tmp_path / "m")
    assert "Regression on 190 rows" in text
    out, _ = run("predict", tmp_path / "m", tmp_path / "t.csv")
    lower = np.array([float(line.split(",")[4]) for line in out.splitlines()[1:]])
    assert len(lower) == 190 and np.array_equal(lower, np.floor(lower))
    card = json.loads(run("evaluate", tmp_path / "m", tmp_path / "t.csv", "--json")[0])
    assert {"nll", "crps", "coverage_90", "rmse"} <= set(card) and card["nll"] < 2.5
    compare = ("compare", tmp_path / "t.csv", "-t", "y", "--methods", "map", "--folds", "4", "--hidden", "8", "--json")
    (card,) = json.loads(run(*compare, "--likelihood", "poisson")[0]).values()
    assert "rmse" in card and card["nll"] < 2.5
    _, text = run(*fit, "--likelihood", "poison", "-o", tmp_path / "n", code=1)
    assert "did you mean 'poisson'?" in text
    _, text = run(*fit, "--likelihood", "gamma", "-o", tmp_path / "n", code=1)
    assert "Gamma takes positive numbers; y has other values, first in rows" in text and "the first has 0" in text
