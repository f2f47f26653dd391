"""Sentences about scores claim what is so, by exact binomial probabilities, and claim nothing by chance."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import dubito
from dubito import diagnostics, metrics
from dubito.evaluation.calibration import fit_calibration
from dubito.evaluation.interpretation import (
    BINS,
    FEWEST,
    TAIL,
    count_and_percent,
    draws_setting,
    interpret_comparison,
    interpret_predictive,
    interpret_scorecard,
    judge_confidence,
    judge_coverage,
    percent,
)
from dubito.evaluation.metrics import Score
from dubito.posteriors.predictive import Predictive


def gaussian(sd, n, bias=0.0, seed=0):
    """(predictive of standard deviation ``sd``, y whose noise is of standard deviation 1 around x, which varies by 2)."""
    x, noise = np.random.default_rng(seed).normal(size=(2, n))
    z = {"mean": (2 * x + bias)[None, :, None], "scale": np.full((1, n, 1), sd)}
    z = {name: leaf.astype(np.float32) for name, leaf in z.items()}
    return Predictive(dubito.Gaussian(), z, np.zeros(1), np.ones(1)), 2 * x + noise


def classes(factor, n, seed=0):
    """(predictive whose logits are ``factor`` times the true ones, labels from the true ones)."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.uniform(size=(n, 1)) > p.cumsum(1)).sum(1).clip(0, 2)
    z = {"logits": (factor * logits)[None].astype(np.float32)}
    return Predictive(dubito.Categorical(classes=3), z, np.zeros(1), np.ones(1)), y


@pytest.mark.parametrize(
    ("sd", "words"),
    [
        (1.0, "within sampling error of the nominal coverage."),
        (0.4, ": far too narrow."),
        (3.0, ": far too wide."),
        (0.8, ": too narrow."),
    ],
)
def test_intervals_of_known_width_are_judged_correctly(sd, words):
    predictive, y = gaussian(sd, 1000)
    text = interpret_scorecard(metrics.scorecard(predictive, y))
    lower, upper = predictive.interval(0.9)
    inside = int(np.sum((np.ravel(lower) <= y) & (y <= np.ravel(upper))))
    assert f"90 % intervals contain {inside:,} of 1,000 rows" in text and text.endswith(words)


@pytest.mark.parametrize(
    ("inside", "rows", "judged"),
    [
        (90, 100, "right"),
        (88, 100, "right"),
        (83, 100, "right"),
        (82, 100, "right"),
        (81, 100, "too narrow"),
        (72, 100, "far too narrow"),
        (7, 144, "far too narrow"),
        (0, 144, "far too narrow"),
        (100, 100, "far too wide"),
        (8_800, 10_000, "slightly too narrow"),
        (9_900, 10_000, "far too wide"),
        (9, 10, "unclear"),
        (43, 43, "unclear"),
        (50, 50, "too wide"),
        (3, 10, "far too narrow"),
        (1, 1, "unclear"),
        (0, 1, "unclear"),
    ],
)
def test_coverage_is_judged_by_the_binomial_distribution(inside, rows, judged):
    assert judge_coverage(inside / rows, rows, 0.9) == judged
    tail = min(stats.binom.cdf(inside, rows, 0.9), stats.binom.sf(inside - 1, rows, 0.9))
    assert (tail >= TAIL) == (judged in ("right", "unclear"))


def test_fewest_rows_are_those_that_can_show_intervals_to_be_too_wide():
    assert 0.9**FEWEST < TAIL <= 0.9 ** (FEWEST - 1)
    assert "too few rows to judge their width" in interpret_scorecard({"coverage_90": 0.9, "n": 10})


@pytest.mark.parametrize("rows", [12, 60, 111, 1000])
def test_calibrated_intervals_are_rarely_called_wrong(rows):
    inside = np.arange(rows + 1)
    wrong = [judge_coverage(k / rows, rows, 0.9) not in ("right", "unclear") for k in inside]
    assert stats.binom.pmf(inside, rows, 0.9)[wrong].sum() <= 2 * TAIL


def test_intervals_of_counts_are_not_called_too_wide():
    card = {"coverage_90": 0.99, "n": 1000}
    assert "far too wide" in interpret_scorecard(card)
    assert "at least the nominal coverage" in interpret_scorecard(card, discrete=True)
    assert "too narrow" in interpret_scorecard({"coverage_90": 0.8, "n": 1000}, discrete=True)


def test_conformal_predictive_is_judged_by_its_own_intervals():
    predictive, y = gaussian(0.4, 1000)
    conformal = fit_calibration(predictive, y, "conformal", coverage=0.8)(predictive)
    text = interpret_predictive(conformal, metrics.scorecard(conformal, y))
    assert "Conformal 80 % intervals contain 80" in text and "within sampling error" in text
    assert interpret_predictive(predictive, metrics.scorecard(predictive, y)).endswith(": far too narrow.")


def test_conformal_intervals_are_judged_by_their_own_coverage():
    card = {"coverage_90": 0.5, "conformal_coverage": 0.8, "n": 1000}
    assert "Conformal 80 % intervals contain 800 of 1,000 rows (80 %), within" in interpret_scorecard(
        card, conformal=0.8
    )
    card = {"accuracy": 0.9, "confidence": 0.9, "set_coverage": 0.7, "n": 1000}
    assert "Conformal 90 % sets contain 700 of 1,000 rows (70 %): far too narrow" in interpret_scorecard(
        card, conformal=0.9
    )


@pytest.mark.parametrize(
    ("factor", "judged"), [(1.0, "right"), (3.0, "strongly overconfident"), (0.3, "strongly underconfident")]
)
def test_probabilities_of_known_calibration_are_judged_correctly(factor, judged):
    predictive, y = classes(factor, 2000)
    card = metrics.scorecard(predictive, y)
    assert judge_confidence(card["accuracy"], card["confidence"], 2000) == judged
    text = interpret_scorecard(card)
    assert ("equal within sampling error" in text) == (judged == "right") and (judged == "right" or judged in text)


def test_few_classified_rows_allow_no_claim():
    assert judge_confidence(1.0, 0.9, 10) == "unclear"
    text = interpret_scorecard({"accuracy": 1.0, "confidence": 0.9, "ece": 0.1, "n": 10})
    assert text.endswith("too few rows to judge the probabilities.")
    assert judge_confidence(0.2, 0.9, 10) == "strongly overconfident"


def test_calibrated_probabilities_are_rarely_called_wrong():
    called = [interpret_scorecard(metrics.scorecard(*classes(1.0, 300, seed))) for seed in range(150)]
    assert (
        sum("equal within sampling error." not in text or "But" in text for text in called) <= 8
    )  # 2 TAIL · 150 = 3, and 4.6 sd


def test_calibration_error_reveals_errors_that_cancel_in_the_mean():
    """Half the rows are right always and half never, though each is promised 50 %."""
    rng = np.random.default_rng(0)
    first = np.repeat([True, False], 500)
    confidence = np.where(first, 0.62, 0.88)
    right = rng.uniform(size=1000) < np.where(first, 0.88, 0.62)
    p = np.stack([confidence, 1 - confidence], axis=1)
    z = {"logits": np.log(p)[None].astype(np.float32)}
    predictive = Predictive(dubito.Categorical(classes=2), z, np.zeros(1), np.ones(1))
    card = metrics.scorecard(predictive, np.where(right, 0, 1))
    assert judge_confidence(card["accuracy"], card["confidence"], 1000) == "right" and card["ece"] > 0.2
    assert "too high in some rows and too low in others" in interpret_scorecard(card)


def test_calibration_error_bound_by_chance_holds():
    """Of calibrated probabilities, in the sentence's formula: √(B c(1 − c)/n) is above the mean ECE."""
    errors, bounds = [], []
    for seed in range(100):
        card = metrics.scorecard(*classes(1.0, 200, seed))
        errors.append(card["ece"])
        bounds.append(math.sqrt(BINS * card["confidence"] * (1 - card["confidence"]) / 200))
    assert np.mean(errors) < np.mean(bounds) < 4 * np.mean(errors)


def test_rmse_is_reported_relative_to_the_spread_of_the_target():
    predictive, y = gaussian(1.0, 1000)
    card = metrics.scorecard(predictive, y)
    ratio = card["rmse"] / np.std(y)
    assert f"error is {100 * ratio:.0f} % of the target's standard deviation" in interpret_scorecard(card)
    worse = interpret_scorecard(metrics.scorecard(*gaussian(1.0, 1000, bias=5.0)))
    assert worse.startswith("The predictions are worse than the mean of these rows (R² -")
    assert "not significantly better than the mean" in interpret_scorecard({"r2": 0.05, "r2_se": 0.04, "n": 100})
    assert "(R² 0.998)" in interpret_scorecard({"r2": 0.9977, "r2_se": 0.001, "n": 100})
    assert interpret_scorecard({"r2": 0.5, "n": 100}) == interpret_scorecard({"nll": 1.0, "n": 3}) == ""


def test_comparison_names_the_best_and_its_significance():
    cards = [
        ("a", {"coverage_90": 0.91, "n": 100}),
        ("b", {"coverage_90": 0.05, "n": 100}),
        ("c", {"coverage_90": 0.9, "n": 100}),
    ]
    text = interpret_comparison(cards, Score(0.5, 0.1, None))
    assert text == (
        "Best by negative log likelihood: a; b is worse by 0.5 nats per row (standard error 0.1), a significant difference. "
        "90 % intervals are calibrated within sampling error: a (91 %) and c (90 %); far too narrow: b (5 %)."
    )
    assert "a, but the difference is not significant: b is worse" in interpret_comparison(cards, Score(0.2, 0.1, None))
    assert "that of b is infinite" in interpret_comparison(cards, Score(np.inf, np.nan, None))
    assert interpret_comparison(cards[:1]) == "90 % intervals are calibrated within sampling error: a (91 %)."
    assert interpret_comparison([("a", {"nll": 1.0, "n": 9})]) == ""
    sure = [
        ("a", {"accuracy": 0.9, "confidence": 0.99, "n": 400}),
        ("b", {"accuracy": 0.9, "confidence": 0.9, "n": 400}),
    ]
    assert interpret_comparison(sure).startswith(
        "Class probabilities are calibrated within sampling error: b; strongly overconfident: a."
    )


@pytest.mark.parametrize(
    ("share", "rows", "text"),
    [
        (0.5, 4, "2 of 4 rows (50 %)"),
        (1.0, 1, "1 of 1 row (100 %)"),
        (0.123, 10, "12 % of 10 rows"),
        (0.9999, 10_000, "9,999 of 10,000 rows (99.99 %)"),
    ],
)
def test_count_and_percent_counts_rows(share, rows, text):
    assert count_and_percent(share, rows) == text


def test_percent_reads_0_or_100_only_if_exact():
    assert [percent(share) for share in (0.0, 0.004, 0.9951, 1.0)] == ["0 %", "0.4 %", "99.5 %", "100 %"]


# --- settings that give enough draws


def fitted(method, **options):
    x = np.linspace(-1, 1, 300)[:, None]
    return dubito.BayesianRegressor(method, hidden=(4,), random_state=0, **options).fit(x, np.sin(3 * x[:, 0]))


def too_few(kind, draws, runs, factor=2.0, agree=True):
    """A stand-in for ``diagnostics.MonteCarloError`` whose error is ``factor`` times the limit."""
    now = {"independent": draws, "members": runs, "chains": draws / runs}[kind]
    return SimpleNamespace(
        enough=False, kind=kind, draws=draws, runs=runs, agree=agree, needed=math.ceil(factor**2 * now)
    )


@pytest.mark.parametrize(
    ("method", "unsure", "python", "shell"),
    [
        (dubito.Ensemble(dubito.MAP(), 5), too_few("members", 5, 5), "Ensemble(size=20)", "--set size=20"),
        (dubito.CrossFit(dubito.MAP(), 5), too_few("members", 5, 5), "CrossFit(folds=20)", "--set folds=20"),
        (dubito.MCDropout(), too_few("independent", 100, 1), "BayesianRegressor(draws=400)", "--draws 400"),
        (dubito.NUTS(draws=50), too_few("chains", 200, 4), "NUTS(draws=200)", "--set draws=200"),
        (
            dubito.Ensemble(dubito.HMC(draws=50), 2),
            too_few("chains", 200, 4),
            "HMC(draws=200)",
            "--set method.draws=200",
        ),
        (dubito.NUTS(thin=2), too_few("chains", 200, 4, agree=False), "NUTS(thin=8)", "--set thin=8"),
        (dubito.SGLD(draws=9, cycles=3), too_few("chains", 9, 1, 1.5), "SGLD(draws=21)", "--set draws=21"),
    ],
)
def test_draws_setting_is_a_field_that_exists(method, unsure, python, shell):
    estimator = dubito.BayesianRegressor(method)
    estimator.method_, estimator.posterior_, estimator.summary_ = method, None, {"rows": 300}
    found = draws_setting(unsure, estimator)
    assert found == (python, shell)
    if shell.startswith("--set"):
        path, value = shell.removeprefix("--set ").split("=")
        assert f"{path.replace('.', '__')}" in {name.removeprefix("method__") for name in estimator.get_params()}
        estimator.set_params(**{f"method__{path.replace('.', '__')}": int(value)}).method.check(
            dubito.Model(dubito.mlp(1), dubito.Gaussian())
        )


def test_draws_setting_is_none_if_none_helps():
    estimator = fitted(dubito.Ensemble(dubito.MAP(epochs=2), 3))
    assert draws_setting(too_few("members", 3, 3, factor=100), estimator) is None  # 30,000 members
    assert (
        draws_setting(too_few("independent", 3, 3), estimator) is None
    )  # of a finite posterior there are no other draws
    unsure = diagnostics.monte_carlo(estimator.predictive(np.zeros((1, 1))), estimator.posterior_)
    assert (unsure.kind, unsure.runs) == ("members", 3)
    assert draws_setting(SimpleNamespace(enough=True), estimator) is None
    sgld = SimpleNamespace(method_=dubito.SGLD(), method=dubito.SGLD())
    assert draws_setting(too_few("chains", 400, 4, agree=False), sgld) is None  # it has no thin
    for name in (None, "auto"):
        default = dubito.BayesianRegressor(name)
        vars(default).update(method_=dubito.default_method(300), posterior_=None)
        assert draws_setting(too_few("members", 10, 10), default) is None


@pytest.mark.slow
def test_draws_setting_of_an_ensemble_is_enough():
    x = np.random.default_rng(0).uniform(-1, 1, (200, 1))
    y = np.sin(3 * x[:, 0])

    def judged(size):
        model = dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=3), size), hidden=(4,), random_state=0).fit(
            x, y
        )
        return diagnostics.monte_carlo(model.predictive(x), model.posterior_), model

    few, model = judged(4)
    setting = draws_setting(few, model)
    assert not few.enough and setting.shell == f"--set size={few.needed}"
    assert judged(2 * few.needed)[0].enough
