"""Calibration: planted errors are found and mended, promises of coverage hold over many data sets, nothing changes by itself."""

from dataclasses import replace
from itertools import product

import jax
import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

import dubito
from dubito import calibration, conformal, metrics
from dubito.evaluation.calibrated import NODES
from dubito.evaluation.calibration import Quantiles, Temperature
from dubito.evaluation.conformal import Conformal, CVPlus, adaptive_scores, cv_plus, errors_by_fold, split_conformal
from dubito.posteriors.predictive import Predictive

GATE = 4.6


def gaussians(means, scales, shift=0.0, scale=1.0):
    """A Predictive of (S, n, K) components; of the likelihood's kind in all tests, so that programs are shared."""
    z = {"mean": np.asarray(means, np.float32), "scale": np.asarray(scales, np.float32)}
    k = z["mean"].shape[2]
    return Predictive(dubito.Gaussian(30.0, targets=k), z, np.full(k, shift), np.full(k, scale))


def classes(logits):
    z = {"logits": np.asarray(logits, np.float32)}
    kind = dubito.Bernoulli() if z["logits"].shape[2] == 1 else dubito.Categorical(classes=z["logits"].shape[2])
    return Predictive(kind, z, np.zeros(1), np.ones(1))


def drawn(rng, p):
    """A class of each row of probabilities (n, C)."""
    return (p.cumsum(1) < rng.uniform(size=(len(p), 1))).sum(1).clip(max=p.shape[1] - 1)


def rows_of(predictive, index):
    return replace(predictive, draws={name: leaf[:, index] for name, leaf in predictive.z.items()})


def regressor():
    """A small one, to be fitted to 60 rows of 2 columns; far too sure."""
    likelihood = dubito.Gaussian(precision=30.0)
    return dubito.BayesianRegressor(dubito.MAP(epochs=60), hidden=(4,), likelihood=likelihood, random_state=0)


# --- temperature


def test_temperature_for_one_confidence_level_has_a_closed_form():
    """All logits ±a, r of n right: softplus is least where sigmoid(a/T) = (r + ½)/(n + 1), half of one row more being right."""
    a, n, right = 3.0, 400, 330
    f = np.full((1, n, 1), a)
    f[:, ::2] *= -1
    y = (f[0, :, 0] > 0).astype(int)
    y[:70] = 1 - y[:70]
    found = calibration.temperature(classes(f), y).temperature
    assert found == pytest.approx(a / special.logit((right + 0.5) / (n + 1)), rel=1e-3)
    weight = np.where(np.arange(n) < 70, 3.0, 1.0)
    found = calibration.temperature(classes(f), y, weight=weight).temperature
    assert found == pytest.approx(a / special.logit((right + 0.5) / (right + 211)), rel=1e-3)


def exact_loss(f, y, log_temperature, more=0):
    """−Σ log p(y)/n, with ``more`` rows of any class."""
    p = special.softmax(f / np.exp(log_temperature), axis=2).mean(0)
    return -np.mean(np.log(p[np.arange(len(y)), y])) - more * np.mean(np.log(p)) / len(y)


def test_temperature_of_a_mixture_minimizes_the_loss():
    rng = np.random.default_rng(0)
    f = np.float32(4 * rng.normal(size=(5, 300, 3))).astype(float)
    y = drawn(rng, special.softmax(f / 4, axis=2).mean(0))
    best = optimize.minimize_scalar(lambda t: exact_loss(f, y, t, more=1), bounds=(-4, 4), method="bounded")
    found = calibration.temperature(classes(f), y)
    assert np.log(found.temperature) == pytest.approx(best.x, abs=2e-3)
    p = special.softmax(f / found.temperature, axis=2)
    answer = found(classes(f))
    np.testing.assert_allclose(answer.probs, p.mean(0), rtol=1e-5)
    each = -np.sum(p * np.log(p), axis=2).mean(0)
    np.testing.assert_allclose(answer.entropy - answer.mutual_information, each, rtol=1e-4)
    assert metrics.nll(answer, y).value == pytest.approx(exact_loss(f, y, np.log(found.temperature)), rel=1e-5)


@pytest.mark.parametrize("planted", [1.0, 0.4, 2.5])
def test_temperature_recovers_a_planted_one(planted):
    """Within its standard error, from the curvature of the loss; 1 where nothing is wrong."""
    rng = np.random.default_rng(1)
    f, n = 2 * rng.normal(size=(1, 5000, 4)), 5000
    y = drawn(rng, special.softmax(f[0], axis=1))
    found = np.log(calibration.temperature(classes(planted * f), y).temperature)
    h = 0.05
    loss = [exact_loss(planted * f, y, found + step) for step in (-h, 0, h)]
    error = 1 / np.sqrt(n * (loss[0] - 2 * loss[1] + loss[2]) / h**2)
    assert error < 0.03
    assert abs(found - np.log(planted)) < GATE * error


def test_temperature_one_is_the_identity_for_all_class_likelihoods():
    rng = np.random.default_rng(2)
    for answer in (classes(rng.normal(size=(3, 20, 3))), classes(rng.normal(size=(3, 20, 1)))):
        np.testing.assert_array_equal(Temperature(1.0)(answer).probs, answer.probs)
    f = rng.normal(size=(2, 20, 1))
    np.testing.assert_allclose(Temperature(2.0)(classes(f)).probs[:, 1], special.expit(f / 2).mean(0)[:, 0], rtol=1e-6)
    p = rng.dirichlet(np.ones(4), (1, 20))
    ordered = Predictive(dubito.Ordered(classes=4), {"logits": np.log(p).astype(np.float32)}, np.zeros(1), np.ones(1))
    powers = p[0] ** 0.5
    np.testing.assert_allclose(Temperature(2.0)(ordered).probs, powers / powers.sum(1, keepdims=True), rtol=1e-5)


def test_temperature_keeps_probabilities_below_one_if_all_rows_are_correct():
    """Of n rows and C classes, each with the logit 1 for y and else 0: −n log p(y) − Σ_k log p(k)/C is least where
    1 − p(y) = (1 − 1/C)/(n + 1)."""
    y = np.array([0, 1, 2])
    answer = calibration.temperature(classes(np.eye(3)[None]), y)(classes(np.eye(3)[None]))
    np.testing.assert_allclose(answer.probs[np.arange(3), y], 1 - 2 / 3 / 4, rtol=1e-3)


# --- isotonic


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(1)]


@pytest.mark.parametrize("count", [2, 3])
def test_isotonic_agrees_with_scikit_learn(count):
    rng = np.random.default_rng(3)
    f = 2 * rng.normal(size=(2, 900, count))
    answer = classes(f)
    y = drawn(rng, special.softmax(f / 3, axis=2).mean(0))
    held, new = rows_of(answer, slice(0, 600)), rows_of(answer, slice(600, None))
    weight = rng.integers(0, 3, 600).astype(float)
    found = calibration.isotonic(held, y[:600], weight=weight)
    truth = CalibratedClassifierCV(FrozenEstimator(Given().fit(held.probs, y[:600])), method="isotonic")
    rows = np.repeat(np.arange(600), weight.astype(int))
    expected = truth.fit(held.probs[rows], y[rows]).predict_proba(new.probs)
    seen = np.all(expected > 1e-9, axis=1)  # elsewhere the floor, which scikit-learn has not
    assert seen.mean() > 0.8
    np.testing.assert_allclose(found(new).probs[seen], expected[seen], atol=2 * found.floor)
    exact = [np.interp(new.probs[:, k], *found.knots[k]) for k in range(count)]
    raised = np.maximum(np.stack(exact, axis=1), found.floor)
    np.testing.assert_allclose(found(new).probs, raised / raised.sum(1, keepdims=True), rtol=1e-5)
    inside = np.all(np.stack(exact, axis=1) > found.floor, axis=1)
    np.testing.assert_allclose(found(new).probs[inside], expected[inside], rtol=1e-5)


def test_isotonic_gives_an_absent_class_the_floor_probability():
    rng = np.random.default_rng(4)
    answer = classes(rng.normal(size=(2, 50, 3)))
    y = rng.integers(0, 2, 50)
    found = calibration.isotonic(answer, y)
    assert found.floor == pytest.approx(1 / 51)
    raised = np.stack([np.interp(p, *knots) for p, knots in zip(answer.probs.T, found.knots, strict=True)], axis=1)
    raised = np.maximum(raised, 1 / 51)
    np.testing.assert_allclose(found(answer).probs[:, 2], 1 / 51 / raised.sum(1), rtol=1e-5)
    assert np.isfinite(metrics.nll(found(answer), np.full(50, 2)).value)
    assert np.isfinite(calibration.temperature(answer, y).temperature)


# --- quantiles


def stretched(answer, slope, factor=1.0):
    """Its cdf sent through Φ(slope · Φ⁻¹): a Gaussian gets 1/slope of its width, times the factor."""
    line = tuple(float(u) for u in np.linspace(-4, 4, 9))
    one = (line, tuple(slope * u for u in line))
    return Quantiles((factor,) * answer.columns, (one,) * answer.columns)(answer)


@pytest.mark.parametrize(("slope", "factor"), [(1.0, 1.0), (1.6, 1.0), (1.0, 3.0), (1.25, 2.0)])
def test_recalibrated_gaussian_equals_the_gaussian_of_that_width(slope, factor):
    rng = np.random.default_rng(5)
    mean, scale = rng.normal(size=(1, 40, 1)), rng.uniform(0.3, 2, (1, 40, 1))
    found, truth = (
        stretched(gaussians(mean, scale, 5.0, 3.0), slope, factor),
        gaussians(mean, scale * factor / slope, 5.0, 3.0),
    )
    y = truth.mean + truth.std * rng.uniform(-2.5, 2.5, 40)
    np.testing.assert_allclose(found.cdf(y), truth.cdf(y), atol=5e-6)
    np.testing.assert_allclose(found.log_prob(y[:, None]), truth.log_prob(y), atol=1e-4)
    np.testing.assert_allclose(found.quantile([0.02, 0.6]), truth.quantile([0.02, 0.6]), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.interval(0.8), truth.interval(0.8), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.mean, truth.mean, atol=1e-4)
    np.testing.assert_allclose(found.std, truth.std, rtol=2e-4)
    np.testing.assert_allclose(found.aleatoric + found.epistemic, truth.variance, rtol=4e-4)
    assert metrics.crps(found, y, knots=found.quantile(special.ndtr(NODES))).value == pytest.approx(
        metrics.crps(truth, y).value, rel=1e-3
    )
    key = jax.random.key(0)
    np.testing.assert_allclose(found.sample(key, 5), truth.sample(key, 5), rtol=1e-3, atol=2e-3)


def crooked(answer):
    """A map that is no straight line: mild bends, and a shift."""
    u = (-2.5, -1.0, 0.0, 0.7, 2.2)
    return Quantiles((1.3,), ((u, (-1.7, -0.8, 0.3, 0.8, 2.9)),))(answer)


def test_recalibrated_density_cdf_quantiles_and_moments_are_consistent():
    """Gauss-Legendre between the knots and the outermost 1e-7, where the density jumps: of every piece, and of the whole."""
    rng = np.random.default_rng(6)
    mean, scale = 2 * rng.normal(size=(2, 1, 1)), rng.uniform(0.4, 1, (2, 1, 1))

    def row(count):
        return crooked(gaussians(np.tile(mean, (1, count, 1)), np.tile(scale, (1, count, 1)), 1.0, 2.0))

    one = row(1)
    levels = 1e-15, *special.ndtr(one.calibration.knots[0][1]), 1 - 1e-15
    ends = one.quantile(levels)[:, 0]
    far = one.std[0]
    cuts = np.interp(np.arange(81) / 10, np.arange(9), [ends[0] - far, *ends, ends[-1] + far])
    node, share = special.roots_legendre(20)
    width = np.diff(cuts)[:, None]
    y = (cuts[:-1, None] + 0.5 * (1 + node) * width).ravel()
    density = np.exp(row(len(y)).log_prob(y)).reshape(80, 20) * 0.5 * share * width
    np.testing.assert_allclose(density.sum(1), np.diff(row(81).cdf(cuts)), atol=3e-6)
    assert density.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(row(7).cdf(ends)[1:-1], levels[1:-1], atol=2e-6)
    expected = np.sum(density.ravel() * y)
    variance = np.sum(density.ravel() * (y - expected) ** 2)
    assert one.mean[0] == pytest.approx(expected, abs=3e-3 * np.sqrt(variance))
    assert one.variance[0] == pytest.approx(variance, rel=5e-3)
    before = gaussians(mean, scale, 1.0, 2.0)
    assert one.epistemic[0] / one.variance[0] == pytest.approx(before.epistemic[0] / before.variance[0])


def test_recalibrated_samples_have_the_recalibrated_cdf():
    rng = np.random.default_rng(7)
    n, rows = 20_000, 2
    answer = gaussians(np.array([[[-3.0], [-3.0]], [[3.0], [3.0]]]), rng.uniform(0.4, 1, (2, rows, 1)))
    found = crooked(answer)
    y = found.sample(jax.random.key(1), n)
    levels = np.array([0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])
    cuts = found.quantile(levels)
    for q, cut in zip(levels, cuts, strict=True):
        share = (y <= cut).mean(0)
        assert np.all(np.abs(share - q) < GATE * np.sqrt(q * (1 - q) / n)), q
    sides = np.sign(y - cuts[3])
    assert np.corrcoef(sides.T)[0, 1] > 0.5  # a draw is one function for all rows


def uniformity(u, n):
    """z of the mean and of the mean square of F(y) around ½, if uniform; ``n``: held-out rows that the map was made from."""
    u = u.ravel()
    error = np.sqrt(1 / len(u) + 1 / n)
    return (u.mean() - 0.5) / (error * np.sqrt(1 / 12)), (((u - 0.5) ** 2).mean() - 1 / 12) / (error * np.sqrt(1 / 180))


@pytest.mark.parametrize(("factor", "bias"), [(1.0, 0.0), (0.5, 0.3), (1.7, -1.0), (8.0, 0.0)])
def test_quantile_recalibration_corrects_scale_and_shift(factor, bias):
    rng = np.random.default_rng(8)
    n, m = 2000, 2000
    mean = rng.normal(size=(1, n + m, 1))
    answer = gaussians(mean, np.full((1, n + m, 1), 0.7), 3.0, 2.0)
    y = answer.mean + 1.4 * (bias + factor * rng.normal(size=n + m))
    held, new = rows_of(answer, slice(0, n)), rows_of(answer, slice(n, None))
    found = calibration.quantiles(held, y[:n])
    after = uniformity(metrics.pit(found(new), y[n:]), n)
    assert max(map(abs, after)) < GATE
    before = uniformity(metrics.pit(new, y[n:]), n)
    assert (factor, bias) == (1, 0) or max(map(abs, before)) > 10
    truth = -stats.norm.logpdf(y[n:], new.mean + 1.4 * bias, 1.4 * factor).ravel()
    lost = -found(new).log_prob(y[n:]) - truth
    assert abs(lost.mean() - 13 / (2 * n)) < GATE * lost.std() / np.sqrt(m) + 0.02


def test_quantile_recalibration_recovers_a_nonlinear_map():
    """P(F(Y) ≤ p) = p²: at every probability within the error of so many rows; weights are rows."""
    rng = np.random.default_rng(9)
    n = 4000
    answer = gaussians(np.zeros((1, n, 2)), np.ones((1, n, 2)))
    y = stats.norm.ppf(rng.uniform(size=(n, 2)) ** 0.5)
    weight = np.where(rng.uniform(size=n) < 0.5, 0.0, 2.0)
    for w, rows in ((None, n), (weight, np.count_nonzero(weight))):
        found = calibration.quantiles(answer, y, weight=w)(answer)
        for p in (0.05, 0.2, 0.5, 0.8, 0.95):
            value = found.cdf(np.full((n, 2), stats.norm.ppf(p)))[0]
            assert np.all(np.abs(value - p**2) < GATE * np.sqrt(p**2 * (1 - p**2) / rows) + 1e-3), p
    repeated = calibration.quantiles(answer, y, weight=weight)
    only = calibration.quantiles(rows_of(answer, weight > 0), y[weight > 0])
    np.testing.assert_allclose(repeated.factors, only.factors, rtol=1e-12)
    np.testing.assert_allclose(np.ravel(repeated.knots), np.ravel(only.knots), atol=2e-6)


def test_quantile_recalibration_weights_are_importance_weights():
    """Rows above the median count three times: P(F(Y) ≤ p) is p/2 below ½ and (3p − 1)/2 above."""
    n = 4000
    y = np.random.default_rng(23).normal(size=(n, 1))
    answer, weight = gaussians(np.zeros((1, n, 1)), np.ones((1, n, 1))), np.where(y[:, 0] > 0, 3.0, 1.0)
    found = calibration.quantiles(answer, y, weight=weight)(answer)
    rows = weight.sum() ** 2 / np.sum(weight**2)
    for p in (0.05, 0.25, 0.75, 0.95):
        expected = max(p / 2, 1.5 * p - 0.5)
        error = np.sqrt(expected * (1 - expected) / rows)
        assert abs(found.cdf(np.full((n, 1), stats.norm.ppf(p)))[0] - expected) < GATE * error, p


def test_recalibrated_targets_have_quantiles_but_no_joint_density():
    rng = np.random.default_rng(10)
    answer = gaussians(rng.normal(size=(1, 60, 2)), np.ones((1, 60, 2)))
    y = answer.mean + rng.normal(size=(60, 2)) * [0.5, 3]
    found = calibration.quantiles(answer, y)(answer)
    with pytest.raises(ValueError, match="no joint density"):
        found.log_prob(y)
    assert found.supports("cdf") and not found.supports("log_prob")
    assert metrics.coverage(answer, y).value < 0.8 < metrics.coverage(found, y).value
    alone = gaussians(answer.z["mean"][..., 1:], answer.z["scale"][..., 1:])
    one = calibration.quantiles(alone, y[:, 1])(alone)
    np.testing.assert_allclose(found.interval()[0][:, 1], one.interval()[0], rtol=1e-6)
    parts = [part.interval() for part in found.by_rows()]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), found.interval())


# --- conformal


N, NEW, SETS = 20, 20, 300
HELD = 19 / 21  # of 21 exchangeable scores so many are at most the 19th of 20, for 0.9 of 21 is 18.9


@pytest.mark.parametrize("score", ["normalized", "residual", "quantiles"])
def test_conformal_intervals_have_exact_coverage(score):
    """The mean coverage over data sets is ⌈0.9 (n + 1)⌉/(n + 1) for scores without ties, however wrong the predictive."""
    rng = np.random.default_rng(11)
    sets, new = (SETS, NEW) if score != "quantiles" else (60, 200)
    hits = []
    mean, scale = rng.normal(size=(sets, 1, N + new, 1)), rng.uniform(0.2, 3, (sets, 1, N + new, 1))
    y = np.sin(3 * mean[:, 0]) + rng.standard_t(3, (sets, N + new, 1))
    for number in range(sets):
        held, fresh = (gaussians(mean[number][:, rows], scale[number][:, rows]) for rows in (slice(N), slice(N, None)))
        found = split_conformal(held, y[number, :N], score=score)
        hits.append(metrics.coverage(found(fresh), y[number, N:]).value)
    assert abs(np.mean(hits) - HELD) < GATE * np.std(hits, ddof=1) / np.sqrt(sets)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["plain", "adaptive"])
def test_conformal_sets_have_exact_coverage(score):
    rng = np.random.default_rng(12)
    hits, sizes = [], []
    f = rng.normal(size=(SETS, 1, N + NEW, 4))
    for number in range(SETS):
        held, fresh = classes(f[number][:, :N]), classes(f[number][:, N:])
        y = drawn(rng, special.softmax(0.5 * f[number, 0], axis=1))
        found = split_conformal(held, y[:N], score=score)(fresh)
        hits.append(metrics.set_coverage(found, y[N:]).value)
        sizes.append(metrics.set_size(found, y[N:]).value)
    assert abs(np.mean(hits) - HELD) < GATE * np.std(hits, ddof=1) / np.sqrt(SETS)
    assert 1 < np.mean(sizes) < 4


def test_conformal_margins_equal_hand_computed_values():
    answer = gaussians(np.zeros((1, 9, 1)), np.full((1, 9, 1), 2.0))
    y = np.arange(1.0, 10) * (-1) ** np.arange(9)
    assert split_conformal(answer, y, score="residual").margins == (9.0,)
    assert split_conformal(answer, y, score="normalized").margins == (4.5,)
    assert split_conformal(answer, y, coverage=0.5, score="residual").margins == (5.0,)
    found = split_conformal(answer, y, coverage=0.5)
    _, upper = answer.interval(0.5)
    assert found.margins == pytest.approx((5 - upper[0],), abs=1e-5)
    np.testing.assert_allclose(found(answer).interval(0.5)[1], 5, atol=1e-5)
    p = np.array([[0.5, 0.3, 0.2]])
    one = classes(np.log(p)[None])
    assert Conformal("plain", 0.9, (0.7,)).sets(one).tolist() == [[True, True, False]]
    assert Conformal("adaptive", 0.9, (0.9,)).sets(one).tolist() == [[True, True, False]]
    assert Conformal("adaptive", 0.9, (0.1,)).sets(one).tolist() == [[True, False, False]]
    np.testing.assert_allclose(Conformal("adaptive", 0.9, None).class_scores(one), [[0.5, 0.8, 1.0]], rtol=1e-6)


def test_conformal_intervals_are_infinite_for_too_few_rows():
    answer = gaussians(np.zeros((1, 8, 1)), np.ones((1, 8, 1)))
    for score in ("quantiles", "normalized", "residual"):
        with pytest.warns(
            dubito.DataWarning, match="coverage of 0.9 needs at least 9 rows, got 8: intervals are infinite"
        ):
            found = split_conformal(answer, np.arange(8.0), score=score)
        assert found.margins is None
        lower, upper = found(answer).interval()
        assert np.all(lower == -np.inf) and np.all(upper == np.inf)
    with pytest.warns(dubito.DataWarning, match="needs at least 9 rows, got 8: sets contain all classes"):
        sets = split_conformal(classes(np.ones((1, 8, 3))), np.zeros(8))
    assert sets.margins is None and sets(classes(np.ones((1, 2, 3)))).sets.all()


def test_conformal_ties_only_enlarge_sets_and_intervals():
    """Scores that are all the same are all inside."""
    answer = classes(np.zeros((1, 30, 3)))
    assert split_conformal(answer, np.arange(30) % 3)(answer).sets.all()
    answer = gaussians(np.zeros((1, 30, 1)), np.ones((1, 30, 1)))
    y = np.repeat([-1.0, 1.0], 15)
    assert metrics.coverage(split_conformal(answer, y, score="residual")(answer), y).value == 1


def test_conformal_interval_of_negative_width_is_its_middle():
    answer = gaussians(np.zeros((1, 5, 1)), np.ones((1, 5, 1)))
    lower, upper = Conformal("quantiles", 0.9, (-7.0,)).interval(answer, 0.9)
    np.testing.assert_array_equal(lower, upper)
    np.testing.assert_allclose(upper, 0, atol=1e-6)


def test_conformal_intervals_exist_for_counts_and_custom_criteria():
    rng = np.random.default_rng(13)
    counts = Predictive(dubito.Poisson(), {"log_mean": np.full((1, 200, 1), 2, np.float32)}, np.zeros(1), np.ones(1))
    y = rng.poisson(12, (200, 1)).astype(float)
    assert calibration.fit_calibration(counts, y) == split_conformal(counts, y)  # the default for counts
    found = split_conformal(counts, y)(counts)
    assert all(np.all(end == np.round(end)) for end in found.interval())
    assert metrics.coverage(found, y).value >= 0.9
    cost = dubito.Criterion(lambda f, y: (f[:, 0] - y[:, 0]) ** 2)
    answer = Predictive(cost, {"f": np.zeros((1, 200, 1), np.float32)}, np.zeros(1), np.ones(1))
    found = split_conformal(answer, y)
    assert found.score == "residual"
    assert 0.9 <= metrics.coverage(found(answer), y).value < 0.99


def test_conformal_predictive_changes_only_intervals_of_its_coverage():
    rng = np.random.default_rng(14)
    answer = gaussians(rng.normal(size=(1, 40, 1)), np.ones((1, 40, 1)))
    y = answer.mean + rng.normal(size=40)
    for base in (answer, calibration.quantiles(answer, y)(answer)):
        found = split_conformal(base, y, coverage=0.8)(base)
        np.testing.assert_array_equal(found.quantile([0.3, 0.4]), base.quantile([0.3, 0.4]))
        assert len(found) == 40 and found.task == "regression"
        with pytest.raises(ValueError, match=r"for coverage=0\.8, got 0\.9"):
            found.interval(0.9)
        card = metrics.scorecard(found, y)
        assert card["conformal_coverage"] == metrics.coverage(found, y, 0.8).value >= 0.8
        assert card["conformal_width"] == pytest.approx(metrics.width(found, y, 0.8).value)
        (part,) = found.by_rows()
        np.testing.assert_array_equal(part.interval(0.8), found.interval(0.8))
    sets = split_conformal(classes(np.zeros((1, 40, 2))), np.arange(40) % 2)(classes(np.zeros((1, 40, 2))))
    assert metrics.scorecard(sets, np.arange(40) % 2)["set_size"] == 2


# --- CV+


def committee(means):
    """A Predictive of one draw a member, of ``means`` (M, n, K)."""
    return gaussians(means, np.ones(np.shape(means)))


def test_cv_plus_intervals_equal_their_definition(monkeypatch):
    rng = np.random.default_rng(15)
    own, new = rng.normal(size=(3, 20, 2)), rng.normal(size=(3, 7, 2)).astype(np.float32)
    y, fold = rng.normal(size=(20, 2)), rng.integers(0, 3, 20)
    found = cv_plus(committee(own), y, fold)
    residuals = np.abs(y - own.astype(np.float32)[fold, np.arange(20)])
    answer = found(committee(new))
    for size in (conformal.MAX_BLOCK_NUMBERS, 60):  # the second is of blocks of 3 rows
        monkeypatch.setattr(conformal, "MAX_BLOCK_NUMBERS", size)
        for coverage in (0.5, 0.8, 0.95):
            lower, upper = answer.interval(coverage)
            for x, k in product(range(7), range(2)):
                low = sorted(new[fold[i], x, k] - residuals[i, k] for i in range(20))
                high = sorted(new[fold[i], x, k] + residuals[i, k] for i in range(20))
                inside = round(100 * (1 - coverage)) * 21 // 100  # ⌊α(n + 1)⌋
                assert (lower[x, k], upper[x, k]) == pytest.approx((low[inside - 1], high[20 - inside]), rel=1e-12)
    assert np.all(np.isinf(answer.interval(0.96)))
    np.testing.assert_allclose(answer.mean, new.mean(0), atol=1e-6)


@pytest.mark.parametrize("kind", ["quantiles", "normalized", "residual", "cv+", "recalibrated"])
def test_calibrated_intervals_are_equivariant_to_shifts_of_the_target(kind):
    """A target whose origin lies 1e8 away has the same intervals, moved: float32 there knows multiples of 8 only."""
    rng = np.random.default_rng(19)
    means, scales = 8.0 * rng.integers(-4, 5, (2, 3, 30, 1)), np.full((3, 30, 1), 8.0)
    y = 8 * rng.standard_t(4, 30)

    def intervals(origin):
        held, new = (gaussians(origin + each, scales) for each in means)
        if kind == "cv+":
            answer = cv_plus(held, origin + y, np.arange(30) % 3, coverage=0.8)(new)
        elif kind == "recalibrated":
            answer = crooked(new)
        else:
            answer = split_conformal(held, origin + y, coverage=0.8, score=kind)(new)
        return np.subtract(answer.interval(0.8), origin)

    near, far = intervals(0.0), intervals(1e8)
    assert np.all(near[1] > near[0] + 8)
    np.testing.assert_allclose(far, near, atol=1e-3)


def test_cv_plus_member_mean_averages_its_draws():
    rng = np.random.default_rng(16)
    several = rng.normal(size=(2, 3, 7, 1))
    twice = cv_plus(committee(several.reshape(6, 7, 1)), np.zeros(7), np.arange(7) % 2)
    once = cv_plus(committee(several.mean(1)), np.zeros(7), np.arange(7) % 2)
    np.testing.assert_allclose(np.concatenate(twice.errors, axis=1), np.concatenate(once.errors, axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="draws cannot be divided equally among 2 members"):
        twice(committee(np.zeros((5, 7, 1)))).interval(0.8)
    with pytest.raises(ValueError, match="needs the uncalibrated predictive of a Committee"):
        twice(split_conformal(committee(several[0]), np.zeros(7), coverage=0.8)(committee(several[0]))).interval(0.8)


def test_cv_plus_of_constant_members_has_exact_coverage():
    """Then it is ± the ⌈(n + 1)(1 − α)⌉-th smallest |y|, which covers with exactly that share of n + 1."""
    rng = np.random.default_rng(17)
    y = rng.standard_t(3, (4000, 21))
    fold, hits = np.arange(20) % 5, []
    for row in y:
        found = CVPlus(0.9, errors_by_fold(np.abs(row[:20, None]), fold))
        lower, upper = found.interval_of_means(np.zeros((5, 1, 1)), 0.9)
        hits.append(lower[0] <= row[20] <= upper[0])
    assert abs(np.mean(hits) - 19 / 21) < GATE * np.sqrt(19 / 21 * 2 / 21 / len(hits))


@pytest.mark.parametrize("folds", [2, 5, 20])
def test_cv_plus_of_regressions_has_the_guaranteed_coverage(folds):
    """At least 1 − 2α, and for a stable regression about 1 − α: least squares of 3 coefficients on 20 rows."""
    rng = np.random.default_rng(18)
    fold, hits = np.arange(20) % folds, []
    for _ in range(1500):
        x = rng.normal(size=(21, 3))
        y = x @ [1, -2, 0.5] + rng.standard_t(4, 21)
        weights = np.stack([np.linalg.lstsq(x[:20][fold != k], y[:20][fold != k], rcond=None)[0] for k in range(folds)])
        means = weights @ x.T
        found = CVPlus(0.9, errors_by_fold(np.abs(y[:20] - means[fold, np.arange(20)])[:, None], fold))
        lower, upper = found.interval_of_means(means[:, 20:, None], 0.9)
        hits.append(lower[0] <= y[20] <= upper[0])
    error = GATE * np.std(hits) / np.sqrt(len(hits))
    assert np.mean(hits) > 0.8 - error
    assert np.mean(hits) > 0.9 - error  # usual, and not promised
    assert folds < 20 or np.mean(hits) < 0.95  # leaving one out wastes nothing


@pytest.mark.slow
@pytest.mark.parametrize("folds", [4, 40])
def test_cv_plus_sets_have_the_guaranteed_coverage(folds):
    """Members are logistic curves around the mean of the rows they have seen; the promise over many draws of 40 rows and one more."""
    rng, hits, sizes = np.random.default_rng(23), [], []
    for _ in range(1500):
        k = rng.integers(0, 3, 41)
        x = k + 0.8 * rng.normal(size=41)
        fold = np.arange(40) % folds
        kept, label = fold != np.arange(folds)[:, None], k[:40, None] == np.arange(3)
        centers = (kept @ (label * x[:40, None]) + np.arange(3)) / (
            kept.astype(int) @ label + 1
        )  # with a row at c itself
        p = special.softmax(-0.8 * (x[:, None, None] - centers) ** 2, axis=2).swapaxes(0, 1)  # (M, 41, 3)
        held = adaptive_scores(p[fold, np.arange(40)])[np.arange(40), k[:40], None]
        sets = CVPlus(0.8, errors_by_fold(held, fold)).conforming_classes(p[:, 40:])
        hits.append(sets[0, k[40]])
        sizes.append(sets.sum())
    error = GATE * np.sqrt(0.16 / 1500)
    assert np.mean(hits) > 0.8 - error and np.mean(hits) < 0.8 + 0.06  # usual, and not wasted
    assert 1 < np.mean(sizes) < 2.5


def test_cv_plus_sets_equal_their_definition():
    rng = np.random.default_rng(24)
    logits, fold, k = rng.integers(0, 3, (3, 27, 4)) * 1.0, rng.integers(0, 3, 20), rng.integers(0, 4, 20)
    own, new = classes(logits[:, :20]), classes(logits[:, 20:])  # with ties
    score = Conformal("adaptive", 0.9, None)
    scores = np.stack([score.class_scores(classes(one)) for one in logits[:, None]])
    held = scores[fold, np.arange(20), k]
    for coverage in (0.5, 0.8, 20 / 21, 0.96):
        below = np.sum(held[:, None, None] < scores[fold, 20:], axis=0)
        best = np.arange(4) == new.probs.argmax(1)[:, None]
        sets = cv_plus(own, k, fold, coverage=coverage)(new).sets
        np.testing.assert_array_equal(sets, (below < coverage * 21 - 1e-9) | best)


# --- what cannot be


def test_calibration_rejects_invalid_arguments():
    rng = np.random.default_rng(20)
    numbers, labels = gaussians(rng.normal(size=(1, 30, 1)), np.ones((1, 30, 1))), classes(np.zeros((1, 30, 3)))
    counts = Predictive(dubito.Poisson(), {"log_mean": np.ones((1, 30, 1), np.float32)}, np.zeros(1), np.ones(1))
    y, k = rng.normal(size=30), rng.integers(0, 3, 30)
    missing = np.where(np.arange(30) == 4, np.nan, y)
    mapped, few = calibration.quantiles(numbers, y), rows_of(numbers, slice(9))
    for wrong, words in (
        (lambda: calibration.temperature(numbers, y), "needs rows for classification"),
        (lambda: calibration.quantiles(labels, k), "needs rows for regression"),
        (lambda: calibration.quantiles(numbers, missing), r"y is missing in 1 of 30 rows \(row 4\)"),
        (lambda: split_conformal(numbers, missing), "y is missing in 1 of 30 rows"),
        (lambda: split_conformal(numbers, y[:9]), "9 rows, but the predictive has 30"),
        (lambda: calibration.isotonic(labels, k + 1), "y has 3 in row 5, which is not a code from 0 to 2"),
        (lambda: calibration.quantiles(counts, np.abs(k)), "cannot be made uniform. Use conformal intervals"),
        (lambda: calibration.quantiles(few, y[:9]), "at least 10 rows; the weights amount to 9"),
        (
            lambda: calibration.quantiles(numbers, y, weight=1.0 * (np.arange(30) < 5)),
            "at least 10 rows; the weights amount to 5",
        ),
        (lambda: calibration.quantiles(numbers, y, knots=1), "at least 2, got 1"),
        (lambda: calibration.quantiles(numbers, numbers.mean), "The rows were used for training"),
        (lambda: calibration.quantiles(numbers, numbers.mean + 1), "the same in"),
        (lambda: mapped(mapped(numbers)), "Pass the uncalibrated predictive"),
        (lambda: mapped(gaussians(np.zeros((1, 3, 2)), np.ones((1, 3, 2)))), "not for 2 targets"),
        (lambda: calibration.isotonic(labels, k)(classes(np.zeros((1, 3, 2)))), "not for 2 classes"),
        (lambda: Temperature(0.0)(labels), "positive number"),
        (lambda: Temperature(1.0)(numbers), "for classes"),
        (lambda: split_conformal(numbers, y, coverage=1.0), "strictly between 0 and 1"),
        (lambda: split_conformal(numbers, y, score="plain"), "Choose one of quantiles, normalized, residual"),
        (lambda: split_conformal(labels, k, score="quantiles"), "Choose one of adaptive, plain"),
        (
            lambda: calibration.fit_calibration(numbers, y, "platt"),
            "method='platt' is unknown. Choose one of temperature",
        ),
        (
            lambda: calibration.fit_calibration(labels, k, "temperature", coverage=0.9),
            "unexpected keyword argument 'coverage'",
        ),
        (lambda: cv_plus(numbers, y, np.zeros(30)), "a member's number for each of 30 rows"),
        (lambda: cv_plus(numbers, y, np.arange(30) % 2), "draws cannot be divided equally among 2 members"),
        (lambda: cv_plus(numbers, y, np.zeros(30, int), coverage=1.0), "strictly between 0 and 1"),
        (lambda: cv_plus(numbers, y, np.zeros(30, int))(numbers).interval(1.0), "strictly between 0 and 1"),
        (lambda: cv_plus(numbers, y, np.zeros(30, int))(gaussians(*np.ones((2, 1, 3, 2)))), "errors of 2 targets"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


# --- estimators


@pytest.fixture(scope="module")
def regression():
    rng = np.random.default_rng(21)
    x = rng.normal(size=(120, 2))
    y = 100 + 30 * x[:, 0] + 10 * rng.standard_t(3, 120)
    return regressor().fit(x[:60], y[:60]), x[60:], y[60:]


@pytest.fixture(scope="module")
def classification():
    rng = np.random.default_rng(22)
    x = rng.normal(size=(120, 2))
    y = np.array(["a", "b", "c"])[drawn(rng, special.softmax(np.column_stack([x, x[:, 0] * 0]), axis=1))]
    model = dubito.BayesianClassifier(dubito.MAP(epochs=300), hidden=(16,), random_state=0)
    return model.fit(x[:60], y[:60]), x[60:], y[60:]


@pytest.mark.parametrize("method", ["quantiles", "conformal", None])
def test_regressor_calibration_is_saved_and_loaded(regression, method, tmp_path):
    model, x, y = regression
    model.calibration_ = None
    before = model.predictive(x)
    assert model.calibrate(x, y, method) is model
    expected = calibration.fit_calibration(before, y, method)
    assert model.calibration_ == expected
    found = model.predict_interval(x)
    np.testing.assert_array_equal(found, expected(before).interval())
    inside = [np.mean((end[0] <= y) & (y <= end[1])) for end in (before.interval(), found)]
    assert inside[0] < 0.7 < 0.85 < inside[1]
    model.save(tmp_path / "model")
    again = dubito.load(tmp_path / "model")
    assert again.calibration_ == model.calibration_
    for read in (lambda m: m.predict_interval(x), lambda m: m.predict(x, return_std=True), lambda m: m.sample_y(x, 3)):
        np.testing.assert_array_equal(read(again), read(model))
    assert type(expected).__name__ in model.description


@pytest.mark.parametrize("method", ["temperature", "isotonic", "conformal"])
def test_classifier_calibration_is_saved_and_loaded(classification, method, tmp_path):
    model, x, y = classification
    model.calibration_ = None
    before = model.predictive(x)
    with pytest.raises(ValueError, match="there are no conformal sets: call calibrate"):
        model.predict_set(x)
    model.calibrate(x, y, method)
    expected = calibration.fit_calibration(before, np.searchsorted(model.classes_, y), method)
    assert model.calibration_ == expected
    np.testing.assert_array_equal(model.predict_proba(x), expected(before).probs)
    model.save(tmp_path / "model")
    again = dubito.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    np.testing.assert_array_equal(again.sample_y(x, 3), model.sample_y(x, 3))
    if method == "conformal":
        np.testing.assert_array_equal(again.predict_set(x), expected(before).sets)
        assert model.predict_set(x)[np.arange(60), np.searchsorted(model.classes_, y)].mean() >= 0.9
    else:
        assert metrics.nll(model.predictive(x), np.searchsorted(model.classes_, y)).value < before_nll(before, model, y)


def before_nll(before, model, y):
    return metrics.nll(before, np.searchsorted(model.classes_, y)).value


def test_fit_removes_a_calibration_and_a_rejected_one_changes_nothing(regression, classification):
    model, x, y = regression
    model.calibrate(x, y)
    kept = model.calibration_
    with pytest.raises(dubito.DataError, match="missing"):
        model.calibrate(x, np.where(np.arange(60) == 3, np.nan, y))
    assert model.calibration_ is kept
    with pytest.raises(ValueError, match="y has 'z' in row 0, which is not one of the classes"):
        classification[0].calibrate(x, np.repeat("z", 60))
    assert model.fit(x, y).calibration_ is None


@pytest.mark.slow
def test_committee_has_cv_plus_intervals(tmp_path):
    """Those of its own errors, in the target's units; weights of 0 leave rows out, and what comes after a fit takes their place."""
    rng = np.random.default_rng(26)
    x = rng.normal(size=(90, 2))
    y = 100 + 30 * x[:, :1] + 10 * rng.normal(size=(90, 2))
    weight = np.where(np.arange(90) < 10, 0.0, 1.0)
    method = dubito.Committee(dubito.MCDropout(epochs=60), 3)
    model = dubito.BayesianRegressor(method, hidden=(4,), draws=30, random_state=0).fit(x, y, weight)
    means = model.uncalibrated(x).means(3)
    fold = np.arange(80) % 3
    residuals = np.abs(y[10:] - means[:, 10:][fold, np.arange(80)])
    np.testing.assert_allclose(
        model.predict_interval(x, 0.8),
        CVPlus(0.9, errors_by_fold(residuals, fold)).interval_of_means(means, 0.8),
        rtol=1e-6,
    )
    assert [len(own[0]) for own in model.calibration_.errors] == [27, 27, 26]
    assert (
        metrics.scorecard(model.predictive(x), y)["conformal_coverage"]
        == metrics.coverage(model.predictive(x), y, 0.9).value
    )
    model.save(tmp_path / "model.dubito")
    again = dubito.load(tmp_path / "model.dubito")
    np.testing.assert_array_equal(again.predict_interval(x, 0.7), model.predict_interval(x, 0.7))
    assert again.calibration_ == model.calibration_
    model.calibrate(x, y, "conformal", coverage=0.8)
    assert isinstance(model.calibration_, Conformal)
    with pytest.warns(UserWarning, match="not CV.: .* cannot be divided equally among 3 members"):
        assert model.set_params(draws=31).fit(x, y).calibration_ is None


def test_committee_has_cv_plus_sets(tmp_path):
    rng = np.random.default_rng(25)
    k = rng.permutation(np.repeat([0, 1, 2], 20))
    x = k[:, None] + rng.normal(size=(60, 2))
    method = dubito.Committee(dubito.MAP(epochs=60, batch_size=None), 5)
    model = dubito.BayesianClassifier(method, hidden=(4,), random_state=0).fit(x, np.array(["a", "b", "c"])[k])
    fold = np.empty(60, int)
    for c in range(3):  # stratified
        fold[k == c] = np.arange(20) % 5
    p = model.predictive(x).means(5)
    held = adaptive_scores(p[fold, np.arange(60)])[np.arange(60), k, None]
    plain = CVPlus(0.9, errors_by_fold(held, fold)).conforming_classes(p)
    sets = model.predict_set(x)
    np.testing.assert_array_equal(sets, plain | (np.arange(3) == model.predict_proba(x).argmax(1)[:, None]))
    assert sets.any(1).all() and not sets.all()
    model.save(tmp_path / "model.dubito")
    np.testing.assert_array_equal(dubito.load(tmp_path / "model.dubito").predict_set(x), sets)


@pytest.mark.slow
def test_committee_members_do_not_depend_on_their_fold():
    """Neither in training, nor in stopping, nor in a noise found afterwards: other targets there change nothing of them."""
    rng = np.random.default_rng(27)
    x, y = rng.normal(size=(40, 2)).astype(np.float32), rng.normal(size=(40, 1)).astype(np.float32)
    other = np.where(np.arange(40)[:, None] % 4 == 1, 5 * y + 3, y)
    model = dubito.Model(dubito.mlp(2, (4,)), dubito.Gaussian())
    for method, options in (
        (dubito.ConjugateNoise(dubito.MAP(epochs=60)), {"early_stopping": True, "validation_fraction": 0.5}),
        (dubito.LaplaceApproximation(dubito.MAP(epochs=20)), {}),
    ):
        found = [
            dubito.fit(model, x, each, dubito.Committee(method, 4), key=jax.random.key(0), **options)
            for each in (y, other)
        ]
        same = [
            all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one.parts[k], two.parts[k])), strict=True))
            for one, two in [found]
            for k in range(4)
        ]
        assert same == [False, True, False, False]
