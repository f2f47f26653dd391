"""Scores against scikit-learn, scoringrules, quadrature and definitions; standard errors against brute force."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scoringrules
import sklearn.metrics as sk
from scipy import integrate, special, stats

import dubito
from dubito import decisions, metrics
from dubito.posteriors.predictive import Predictive


def risk_coverage(predictive, y, *, weight=None):
    return decisions.risk_coverage(predictive, y, weight=weight).area


REGRESSION = [
    metrics.rmse,
    metrics.mae,
    metrics.r2,
    metrics.nll,
    metrics.crps,
    metrics.pinball,
    metrics.coverage,
    risk_coverage,
]
CALIBRATION = [metrics.ece, metrics.adaptive_ece, metrics.classwise_ece]
CLASSIFICATION = [metrics.accuracy, metrics.nll, metrics.brier, *CALIBRATION, metrics.auroc, risk_coverage]


def gaussians(means, scales, shift=0.0, scale=1.0):
    """A Predictive of (S, n, K) components."""
    z = {"mean": np.asarray(means, np.float32), "scale": np.asarray(scales, np.float32)}
    k = z["mean"].shape[2]
    return Predictive(dubito.Gaussian(targets=k), z, np.full(k, shift), np.full(k, scale))


def classes(logits):
    z = {"logits": np.asarray(logits, np.float32)}
    return Predictive(dubito.Categorical(classes=z["logits"].shape[2]), z, np.zeros(1), np.ones(1))


def regression(seed=0, draws=3, n=60, targets=2):
    """A predictive in units of its own, y and whole-number weights, some of them 0."""
    rng = np.random.default_rng(seed)
    means, scales = rng.normal(size=(draws, n, targets)), rng.uniform(0.2, 1.5, (draws, n, targets))
    predictive = gaussians(means, scales, shift=5.0, scale=3.0)
    y = predictive.columnwise.mean + 4 * rng.normal(size=(n, targets))
    return predictive, y, rng.integers(0, 4, n)


def classification(seed=0, draws=3, n=60, count=3, tied=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(draws, n, count))
    logits = np.round(logits[:1]) if tied else logits
    predictive = classes(logits)
    y = (predictive.probs.cumsum(1) < rng.uniform(size=(n, 1))).sum(1).clip(max=count - 1)
    return predictive, y, rng.integers(0, 4, n)


def rows_of(predictive, index):
    return replace(predictive, draws={name: leaf[:, index] for name, leaf in predictive.z.items()})


CASES = [(metric, regression()) for metric in REGRESSION]
CASES += [(metric, classification(tied=tied)) for metric in CLASSIFICATION for tied in (False, True)]
CASES += [(metric, classification(count=2)) for metric in CLASSIFICATION]


# --- values


@pytest.mark.slow
@pytest.mark.parametrize("draws", [3, 101])
@pytest.mark.filterwarnings("error")
def test_scores_scale_with_huge_and_tiny_targets(draws):
    """2⁶⁰⁰ is some 4 · 10¹⁸⁰, whose square overflows; 101 components are too many for the sum over their pairs."""
    answer, y, weight = regression(draws=draws, n=20)
    for metric in (metrics.rmse, metrics.mae, metrics.crps, metrics.pinball, metrics.width, metrics.r2):
        near = metric(answer, y, weight=weight)
        for unit in (2.0**600, 2.0**-600):
            far = replace(answer, shift=answer.shift * unit, scale=answer.scale * unit)
            moved = metric(far, y * unit, weight=weight)
            own = 1.0 if metric is metrics.r2 else unit
            np.testing.assert_allclose(np.divide(moved[:2], own), near[:2], rtol=1e-6)
            np.testing.assert_allclose(moved.rows / own, near.rows, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_of_the_mean_agree_with_scikit_learn(weighted):
    predictive, y, weight = regression()
    w = weight if weighted else None
    pairs = (
        (metrics.rmse, sk.root_mean_squared_error),
        (metrics.mae, sk.mean_absolute_error),
        (metrics.r2, sk.r2_score),
    )
    for metric, truth in pairs:
        expected = truth(y, predictive.mean, sample_weight=w)
        assert metric(predictive, y, weight=w).value == pytest.approx(expected, rel=1e-12)
    for q in (0.1, 0.5, 0.9):
        expected = sk.mean_pinball_loss(y, predictive.quantile(q), sample_weight=w, alpha=q)
        assert metrics.pinball(predictive, y, q, weight=w).value == pytest.approx(expected, rel=1e-12)


def test_nll_is_that_of_the_mixture_not_of_averaged_parameters():
    predictive, y, _ = regression()
    means, scales = predictive.components()
    joint = stats.norm.logpdf(y, means, scales).sum(2)
    expected = -(special.logsumexp(joint, axis=0) - np.log(len(means)))
    score = metrics.nll(predictive, y)
    np.testing.assert_allclose(score.rows, expected, rtol=2e-5)
    assert score.value == pytest.approx(expected.mean(), rel=1e-6)
    averaged = -stats.norm.logpdf(y, means.mean(0), scales.mean(0)).sum(1)
    matched = -stats.norm.logpdf(y, predictive.mean, predictive.std).sum(1)
    assert min(abs(averaged.mean() - score.value), abs(matched.mean() - score.value)) > 0.05


@pytest.mark.slow
def test_crps_of_one_normal_and_of_mixtures():
    for draws, n in ((1, 60), (5, 1100), (100, 60)):
        predictive, y, _ = regression(draws=draws, n=n)
        means, scales = predictive.components()
        if draws == 1:
            expected = scoringrules.crps_normal(y, means[0], scales[0])
        else:
            expected = scoringrules.crps_mixnorm(y, means, scales, m_axis=0)
        np.testing.assert_allclose(metrics.crps(predictive, y).rows, expected.mean(1), rtol=1e-9)


def test_crps_equals_its_defining_integral():
    predictive, y, _ = regression(draws=4, n=3, targets=1)
    means, scales = predictive.components()
    for row, score in enumerate(metrics.crps(predictive, y).rows):

        def square(t, row=row):
            return (stats.norm.cdf(t, means[:, row], scales[:, row]).mean() - (y[row, 0] <= t)) ** 2

        expected = integrate.quad(square, -40, 60, points=[y[row, 0]], limit=200)[0]
        assert score == pytest.approx(expected, rel=1e-7)


def test_crps_of_many_components_is_integrated():
    predictive, y, _ = regression(draws=150, n=20)
    y[:3] = [[-90.0, 120.0], [40.0, 5.0], [5.0, -31.0]]  # far outside as well
    means, scales = predictive.components()
    expected = scoringrules.crps_mixnorm(y, means, scales, m_axis=0).mean(1)
    np.testing.assert_allclose(metrics.crps(predictive, y).rows, expected, rtol=3e-6, atol=3e-6)


def test_crps_of_narrow_components_far_apart_is_integrated():
    rng = np.random.default_rng(1)
    means = rng.choice([-1.0, 1.0], (200, 10, 1)) + 0.01 * rng.normal(size=(200, 10, 1))
    predictive, y = gaussians(means, np.full(means.shape, 0.02)), rng.uniform(-1.5, 1.5, 10)
    expected = scoringrules.crps_mixnorm(y, *predictive.components(), m_axis=0)
    np.testing.assert_allclose(metrics.crps(predictive, y).rows, expected, atol=2e-3)


@pytest.mark.slow
def test_crps_of_another_likelihood_is_integrated():
    predictive, y, _ = regression(draws=1, n=1100)
    means, scales = predictive.components()
    y[:3] = means[0, :3] + 30 * scales[0, :3]
    score = metrics.crps(replace(predictive, likelihood=dubito.StudentT(df=4, targets=2)), y)
    expected = scoringrules.crps_t(y, 4, means[0], scales[0]).mean(1)
    np.testing.assert_allclose(score.rows, expected, rtol=3e-5)


def test_crps_needs_memory_for_one_block_of_rows():
    predictive, y, _ = regression(draws=100, n=3000, targets=1)
    metrics.crps(rows_of(predictive, slice(0, 5)), y[:5])
    _ = predictive.mean
    tracemalloc.start()
    metrics.crps(predictive, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # all pairs of all rows would be 240e6


@pytest.mark.parametrize("draws", [1, 10])
def test_calibrated_predictives_cover(draws):
    n, rng = 4000, np.random.default_rng(3)
    means, scales = rng.normal(size=(draws, n, 1)), rng.uniform(0.2, 1.0, (draws, n, 1))
    predictive = gaussians(means, scales, shift=-2.0, scale=10.0)
    which = rng.integers(0, draws, n)
    chosen = [part[which, np.arange(n)] for part in predictive.components()]
    y = rng.normal(*chosen)
    for level in (0.5, 0.8, 0.9, 0.95):
        score = metrics.coverage(predictive, y, level)
        assert score.se == pytest.approx(np.sqrt(score.value * (1 - score.value) / (n - 1)), rel=1e-9)
        assert abs(score.value - level) < 4.6 * score.se
    assert stats.kstest(metrics.pit(predictive, y), "uniform").pvalue > 1e-5
    assert metrics.pit(predictive, y).shape == metrics.pit(predictive, y[:, None]).shape == (n,)
    assert stats.kstest(metrics.pit(predictive, y + 2.0), "uniform").pvalue < 1e-5


def test_width_of_normals():
    predictive, y, weight = regression(draws=1)
    scales = predictive.components()[1][0]
    expected = np.average(2 * stats.norm.ppf(0.95) * scales.mean(1), weights=weight)
    assert metrics.width(predictive, y, weight=weight).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_classification_scores_agree_with_scikit_learn(count, weighted):
    predictive, y, weight = classification(n=200, count=count)
    w = weight if weighted else None
    probs = predictive.probs / predictive.probs.sum(1, keepdims=True)  # to the last bit of a float64
    squared = ((probs - (y[:, None] == np.arange(count))) ** 2).sum(1)
    score = probs[:, 1] if count == 2 else probs
    for metric, expected in (
        (metrics.accuracy, sk.accuracy_score(y, probs.argmax(1), sample_weight=w)),
        (metrics.nll, sk.log_loss(y, probs, sample_weight=w, labels=range(count))),
        (metrics.brier, np.average(squared, weights=w)),
        (metrics.auroc, sk.roc_auc_score(y, score, multi_class="ovr", sample_weight=w)),
    ):
        assert metric(predictive, y, weight=w).value == pytest.approx(expected, rel=1e-6)


def test_auroc_averages_over_the_classes_present():
    predictive, y, _ = classification(n=100, count=4)
    kept = y != 3
    predictive, y = rows_of(predictive, kept), y[kept]
    expected = np.mean([sk.roc_auc_score(y == k, predictive.probs[:, k]) for k in range(3)])
    assert metrics.auroc(predictive, y).value == pytest.approx(expected, rel=1e-12)


def naive_ece(share, hit, edges):
    """Right-closed bins between edges; the first holds 0."""
    total = 0.0
    for b, (low, high) in enumerate(pairwise(edges)):
        inside = ((share > low) | (b == 0)) & (share <= high)
        total += abs(np.sum(hit[inside] - share[inside])) / len(share)
    return total


def test_calibration_errors_equal_their_definitions():
    predictive, y, _ = classification(n=150)
    probs, edges = predictive.probs, np.linspace(0, 1, 16)
    top, hit = probs.max(1), probs.argmax(1) == y
    assert metrics.ece(predictive, y).value == pytest.approx(naive_ece(top, hit, edges), rel=1e-9)
    each = [naive_ece(probs[:, k], y == k, edges) for k in range(3)]
    assert metrics.classwise_ece(predictive, y).value == pytest.approx(np.mean(each), rel=1e-9)
    quantiles = np.concatenate([[0], np.sort(top)[9::10]])  # 15 bins of ten rows
    assert metrics.adaptive_ece(predictive, y).value == pytest.approx(naive_ece(top, hit, quantiles), rel=1e-9)
    assert metrics.ece(predictive, y, 1).value == pytest.approx(abs(np.mean(hit) - np.mean(top)), rel=1e-9)


def test_calibration_bins_are_closed_on_the_right():
    """A half belongs below: gaps +0.5 there and −0.9 in the upper half do not cancel."""
    predictive = classes([[[0.0, 0.0], [0.0, np.log(9.0)]]])
    y = np.array([0, 0])
    assert metrics.ece(predictive, y, 2).value == pytest.approx((0.5 + 0.9) / 2, rel=1e-6)
    # gaps of the first class 0.5 − 0.1, in one bin; of the second −0.5 below and 0.4 above; of the third 0 − 0.3
    predictive = classes([[[0.0, 0.0, -200.0], np.log([0.1, 0.6, 0.3])]])
    expected = (0.4 + 0.9 + 0.3) / 6
    assert metrics.classwise_ece(predictive, np.array([0, 1]), 2).value == pytest.approx(expected, rel=1e-6)


def test_risk_coverage_is_the_mean_risk_over_coverages():
    predictive, y, _ = classification(n=150)
    wrong = (predictive.probs.argmax(1) != y)[np.argsort(-predictive.probs.max(1))]
    risks = np.cumsum(wrong) / np.arange(1, 151)
    assert risk_coverage(predictive, y).value == pytest.approx(risks.mean(), rel=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_ood_scores_agree_with_scikit_learn(ties):
    rng = np.random.default_rng(4)
    inside, outside = rng.normal(size=90), rng.normal(1, 1, 47)
    if ties:
        inside, outside = np.round(inside), np.round(outside)
    truth, score = np.repeat([0, 1], [90, 47]), np.concatenate([inside, outside])
    assert metrics.ood_auroc(inside, outside).value == pytest.approx(sk.roc_auc_score(truth, score), rel=1e-12)
    assert metrics.ood_aupr(inside, outside).value == pytest.approx(sk.average_precision_score(truth, score), rel=1e-12)
    false, true, _ = sk.roc_curve(truth, score, drop_intermediate=False)
    assert metrics.ood_fpr95(inside, outside).value == pytest.approx(false[np.argmax(true >= 0.95)], rel=1e-12)


# --- weights and standard errors


@pytest.mark.parametrize(("metric", "case"), CASES)
def test_weights_count_copies_of_rows(metric, case):
    predictive, y, weight = case
    copies = np.repeat(np.arange(len(y)), weight)
    weighted = metric(predictive, y, weight=weight)
    assert weighted.value == pytest.approx(metric(rows_of(predictive, copies), y[copies]).value, rel=1e-6)
    assert np.average(weighted.rows, weights=weight) == pytest.approx(weighted.value, rel=1e-9)
    scaled, kept = metric(predictive, y, weight=7.5 * weight), weight > 0
    absent = metric(rows_of(predictive, kept), y[kept], weight=weight[kept])
    for other in (scaled, absent):
        assert other[:2] == pytest.approx(weighted[:2], rel=1e-6)


@pytest.mark.parametrize(("metric", "case"), [c for c in CASES if c[0] is not metrics.adaptive_ece])
def test_score_rows_are_derivatives_by_weights(metric, case):
    predictive, y, weight = case
    weight = weight + 1.0
    score = metric(predictive, y, weight=weight)
    for i in range(0, len(y), 7):
        step = 1e-5 * (np.arange(len(y)) == i)
        slope = (
            metric(predictive, y, weight=weight + step).value - metric(predictive, y, weight=weight - step).value
        ) / 2e-5
        assert score.rows[i] == pytest.approx(score.value + weight.sum() * slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("metric", CALIBRATION)
@pytest.mark.parametrize("tied", [False, True])
def test_calibration_errors_are_jackknifed(metric, tied):
    """By leaving out each row; bins of equal mass would move, so those are left out of a naive sum over their bins."""
    predictive, y, _ = classification(n=150, tied=tied)
    n, keep = len(y), ~np.eye(len(y), dtype=bool)
    if metric is metrics.adaptive_ece:
        top, hit = predictive.probs.max(1), predictive.probs.argmax(1) == y
        place = np.floor(15 * (stats.rankdata(top) - 0.5) / n)
        without = [naive_fixed(place[one], (hit - top)[one]) for one in keep]
    else:
        without = [metric(rows_of(predictive, one), y[one]).value for one in keep]
    expected = np.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2))
    assert metric(predictive, y).se == pytest.approx(expected, rel=1e-6)


def naive_fixed(place, gap):
    return sum(abs(gap[place == b].sum()) for b in np.unique(place)) / len(gap)


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_error_agrees_with_delong_over_all_pairs(ties):
    predictive, y, _ = classification(n=120, count=2, draws=1, tied=ties)
    score = predictive.probs[:, 1]
    above = score[y == 1][:, None] - score[y == 0]
    pairs = (above > 0) + 0.5 * (above == 0)
    variance = pairs.mean(1).var(ddof=1) / len(pairs) + pairs.mean(0).var(ddof=1) / pairs.shape[1]
    found = metrics.auroc(predictive, y)
    assert found[:2] == pytest.approx((pairs.mean(), np.sqrt(variance)), rel=1e-9)
    detected = metrics.ood_auroc(score[y == 0], score[y == 1])
    assert detected[:2] == pytest.approx(found[:2], rel=1e-9)


def simulated(draw, n_sets=1500):
    """The variance of a score over data sets less its mean squared standard error, in Monte-Carlo standard errors.

    A standard error wrong by a tenth is five of them away.
    """
    scores = np.array([draw(np.random.default_rng([5, s])) for s in range(n_sets)])
    values, squares = scores[:, 0], scores[:, 1] ** 2
    deviation = (values - values.mean()) ** 2
    difference = deviation - squares
    return np.mean(difference) / (np.std(difference) / np.sqrt(n_sets))


def samples(metric, n=300):
    return lambda rng: metric(rng.normal(size=n), rng.normal(1.0, 1.5, n // 2))[:2]


@pytest.mark.parametrize("metric", [metrics.ood_auroc, metrics.ood_aupr])
def test_standard_errors_of_detection_equal_the_spread_over_data_sets(metric):
    assert abs(simulated(samples(metric))) < 4.6


def normal_rows(n=120, slope=1.0):
    x, noise = np.random.default_rng(5).normal(size=(2, n, 1))
    return gaussians(slope * x[None], np.ones((1, n, 1))), x + 0.7 * noise


def class_rows(n=120):
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(n, 3)) * [1.0, 2.0, 0.5] + [1.0, 0.0, 0.0]
    return classes(logits[None]), np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def paired_rmse(predictive, y):
    half = replace(predictive, draws=predictive.z | {"mean": 0.7 * predictive.z["mean"]})
    return metrics.paired(metrics.rmse(predictive, y), metrics.rmse(half, y))


@pytest.mark.parametrize(
    ("metric", "case", "off"),
    [
        *[(metric, normal_rows(), 1e-9) for metric in (metrics.nll, metrics.mae, metrics.crps)],
        *[(metric, class_rows(), 1e-9) for metric in (metrics.brier, metrics.accuracy)],
        *[(metric, normal_rows(), 0.04) for metric in (metrics.rmse, metrics.r2, paired_rmse)],
        *[(metric, class_rows(), 0.04) for metric in (metrics.auroc, risk_coverage)],
    ],
)
def test_standard_errors_agree_with_the_jackknife(metric, case, off):
    """Which leaves out one row at a time: exactly for means of rows, and for other smooth scores up to terms of 1/n, 0.03 here."""
    predictive, y = case
    n, keep = len(y), ~np.eye(len(y), dtype=bool)
    without = [metric(rows_of(predictive, one), y[one]).value for one in keep]
    expected = np.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2))
    assert metric(predictive, y).se == pytest.approx(expected, rel=off)


def test_paired_difference_has_the_paired_error():
    first, y, weight = regression(seed=0)
    second = regression(seed=1)[0]
    pair = [metrics.nll(one, y) for one in (first, second)]
    difference = metrics.paired(*pair)
    test = stats.ttest_rel(pair[0].rows, pair[1].rows)
    assert difference.value == pytest.approx(pair[0].value - pair[1].value, rel=1e-12)
    assert difference.value / difference.se == pytest.approx(test.statistic, rel=1e-9)
    weighted = [metrics.rmse(one, y, weight=weight) for one in (first, second)]
    assert metrics.paired(*weighted, weight=weight).value == pytest.approx(weighted[0].value - weighted[1].value)
    with pytest.raises(ValueError, match="weights with which both"):
        metrics.paired(*weighted)
    with pytest.raises(ValueError, match="the same rows"):
        metrics.paired(pair[0], metrics.nll(*regression(n=61)[:2]))
    with pytest.raises(ValueError, match="the same rows"):
        metrics.paired(*[metrics.ood_fpr95([0.0], [1.0])] * 2)


# --- the scorecard


@pytest.mark.parametrize("draws", [3, pytest.param(120, marks=pytest.mark.slow)])
def test_regression_scorecard(draws, monkeypatch):
    predictive, y, weight = regression(draws=draws, n=30)
    single = {name: getattr(metrics, name)(predictive, y, weight=weight) for name in "rmse mae r2 nll crps".split()}
    for level in (50, 80, 90, 95):
        single[f"coverage_{level}"] = metrics.coverage(predictive, y, level / 100, weight=weight)
    single["mean_width_90"] = metrics.width(predictive, y, weight=weight)
    quantile, calls = Predictive.quantile, []
    monkeypatch.setattr(Predictive, "quantile", lambda self, q: calls.append(q) or quantile(self, q))
    card = metrics.scorecard(predictive, y, weight=weight)
    assert len(calls) == 1
    assert card.pop("n") == 30
    assert set(card) == {name + end for name in single for end in ("", "_se")}
    for name, score in single.items():
        assert (card[name], card[f"{name}_se"]) == pytest.approx(score[:2], rel=1e-6)
    assert all(type(number) is float for number in card.values())


def test_classification_scorecard():
    predictive, y, weight = classification()
    names = "accuracy confidence nll brier ece auroc".split()
    card = metrics.scorecard(predictive, y, weight=weight)
    assert set(card) == {"n", *names, *[f"{name}_se" for name in names]}
    for name in names:
        assert (card[name], card[f"{name}_se"]) == getattr(metrics, name)(predictive, y, weight=weight)[:2]


def test_scorecard_leaves_out_undefined_scores():
    predictive, y, _ = regression()
    assert set(metrics.scorecard(rows_of(predictive, [0]), y[:1])) == (
        {"n", "rmse", "mae", "nll", "crps", "mean_width_90"} | {f"coverage_{level}" for level in (50, 80, 90, 95)}
    )
    assert "r2" not in metrics.scorecard(predictive, np.ones((60, 2)))
    predictive, y, _ = classification()
    card = metrics.scorecard(rows_of(predictive, y == 1), y[y == 1])
    assert set(card) == {
        "n",
        *[name + end for name in "accuracy confidence nll brier ece".split() for end in ("", "_se")],
    }
    assert set(metrics.scorecard(rows_of(predictive, [0]), y[:1])) == {
        "n",
        "accuracy",
        "confidence",
        "nll",
        "brier",
        "ece",
    }
    rare = np.flatnonzero((y == 0) | (np.arange(60) == np.argmax(y == 1)))  # one row of class 1: no error of its AUROC
    assert {"auroc", "auroc_se"} & set(metrics.scorecard(rows_of(predictive, rare), y[rare])) == {"auroc"}


def test_nll_of_a_zero_density_is_infinite(monkeypatch):
    predictive, y, _ = regression()
    monkeypatch.setattr(Predictive, "log_prob", lambda self, y: np.where(np.arange(60) == 7, -np.inf, -1.0))
    card = metrics.scorecard(predictive, y)
    assert card["nll"] == np.inf
    assert "nll_se" not in card


def test_perfect_predictions():
    predictive = gaussians(np.arange(4.0)[None, :, None], np.ones((1, 4, 1)))
    assert metrics.rmse(predictive, np.arange(4.0))[:2] == (0.0, 0.0)
    assert metrics.r2(predictive, np.arange(4.0))[:2] == (1.0, 0.0)
    sure = classes(200 * np.eye(3)[None])
    for metric, expected in ((metrics.accuracy, 1), (metrics.brier, 0), (metrics.ece, 0), (risk_coverage, 0)):
        assert metric(sure, np.arange(3))[:2] == pytest.approx((expected, 0.0), abs=1e-12)
    assert metrics.brier(sure, np.array([1, 2, 0])).value == pytest.approx(2.0)


# --- what cannot be scored


@pytest.mark.parametrize("metric", [*REGRESSION, metrics.width, metrics.scorecard, lambda p, y, **_: metrics.pit(p, y)])
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros((59, 2)), "59 rows, but the predictive has 60"),
        (np.zeros(60), "the shape"),
        (np.zeros((2, 60)), "the shape"),
        (np.full((60, 2), np.nan), "y is missing in 60 of 60 rows .rows 0, 1"),
        (np.full((60, 2), np.inf), "y is infinite in 60 of 60 rows .rows 0, 1"),
        (np.full((60, 2), "cat"), "y has 'cat' in row 0"),
    ],
)
def test_scores_reject_invalid_targets(metric, y, words):
    with pytest.raises(ValueError, match=words):
        metric(regression()[0], y)


@pytest.mark.parametrize("metric", [*CLASSIFICATION, metrics.scorecard])
@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(59, int), "59 rows, but the predictive has 60"),
        (np.eye(3)[np.zeros(60, int)], "the shape"),
        (np.full(60, 3), "y has 3 in row 0, which is not a code from 0 to 2"),
        (np.full(60, -1), "y has -1 in row 0, which is not a code from 0 to 2"),
        (np.full(60, 0.5), "y has 0.5 in row 0, which is not a code from 0 to 2"),
        (np.full(60, np.nan), "y is missing in 60 of 60 rows"),
    ],
)
def test_scores_reject_invalid_classes(metric, y, words):
    with pytest.raises(ValueError, match=words):
        metric(classification()[0], y)


@pytest.mark.parametrize("weight", [np.ones(59), -np.ones(60), np.zeros(60), np.full(60, np.nan), np.ones((60, 1))])
def test_scores_reject_invalid_weights(weight):
    for (predictive, y, _), metric in ((regression(), metrics.rmse), (classification(), metrics.ece)):
        with pytest.raises(ValueError, match="weight must be 60 finite numbers"):
            metric(predictive, y, weight=weight)


def test_scores_reject_other_invalid_arguments():
    predictive, y, _ = regression()
    labeled, labels, _ = classification()
    broken = gaussians(np.full((1, 60, 2), np.nan), np.ones((1, 60, 2)))
    for call, words in (
        (lambda: metrics.rmse(rows_of(predictive, slice(0, 0)), y[:0]), "0 rows"),
        (lambda: metrics.scorecard(rows_of(labeled, slice(0, 0)), labels[:0]), "0 rows"),
        (lambda: metrics.rmse(labeled, labels), "for regression"),
        (lambda: metrics.brier(predictive, y), "for classification"),
        (lambda: metrics.rmse(broken, y), "not finite"),
        (lambda: metrics.ece(labeled, labels, 0), "bins"),
        (lambda: metrics.adaptive_ece(labeled, labels, 2.5), "bins"),
        (lambda: metrics.coverage(predictive, y, 1.0), "coverage must be strictly between 0 and 1"),
        (lambda: metrics.pinball(predictive, y, 0.0), "quantile needs"),
        (lambda: metrics.ood_auroc([], [1.0]), "at least one number"),
        (lambda: metrics.ood_aupr([np.nan], [1.0]), "no NaN"),
        (lambda: metrics.ood_fpr95([[1.0]], [1.0]), "one for each row"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
