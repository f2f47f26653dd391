"""Decisions under uncertainty against values by hand, quadrature, and what a posterior of closed form says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import dubito
from dubito import decisions, metrics
from dubito.posteriors.predictive import Predictive


def gaussians(means, scales, shift=0.0, scale=1.0):
    """A Predictive of (S, n, K) components."""
    z = {"mean": np.asarray(means, np.float32), "scale": np.asarray(scales, np.float32)}
    k = z["mean"].shape[2]
    return Predictive(dubito.Gaussian(targets=k), z, np.full(k, shift), np.full(k, scale))


def classes(probs):
    """A Predictive of (S, n, C) probabilities."""
    z = {"logits": np.log(np.asarray(probs)).astype(np.float32)}
    return Predictive(dubito.Categorical(classes=z["logits"].shape[2]), z, np.zeros(1), np.ones(1))


def with_scores(values):
    """A regression whose standard deviations are ``values``, of mean 0."""
    return gaussians(np.zeros((1, len(values), 1)), np.asarray(values, float)[None, :, None])


# --- uncertainty scores


def test_uncertainty_scores_of_two_draws_equal_hand_computed_values():
    """Draws (0.9, 0.1) and (0.4, 0.6), then twice (0.5, 0.5)."""
    predictive = classes([[[0.9, 0.1], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]]])

    def h(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    expected = {
        "variance": [2 * 0.65 * 0.35, 0.5],
        "aleatoric": [0.9 * 0.1 + 0.4 * 0.6, 0.5],
        "epistemic": [2 * 0.25**2, 0.0],
        "mutual_information": [h(0.65) - (h(0.9) + h(0.4)) / 2, 0.0],
        "entropy": [h(0.65), np.log(2)],
        "least_confidence": [0.35, 0.5],
        "variation_ratio": [0.5, 0.0],
    }
    assert set(expected) == set(decisions.UNCERTAINTY_SCORES)
    for name, values in expected.items():
        np.testing.assert_allclose(decisions.uncertainty_score(predictive, name), values, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(
        decisions.uncertainty_score(predictive), decisions.uncertainty_score(predictive, "least_confidence")
    )


def test_uncertainty_scores_of_regression_are_in_units_of_the_training_variance():
    means, scales = [[[1.0, 2.0]], [[3.0, 2.0]]], [[[0.5, 1.0]], [[1.5, 1.0]]]
    for units in ({}, {"shift": 7.0, "scale": 4.0}):
        predictive = gaussians(means, scales, **units)
        noise, spread = np.array([1.25, 1.0]), np.array([1.0, 0.0])
        assert decisions.uncertainty_score(predictive, "aleatoric") == pytest.approx([noise.mean()])
        assert decisions.uncertainty_score(predictive, "epistemic") == pytest.approx([spread.mean()])
        assert decisions.uncertainty_score(predictive) == pytest.approx([(noise + spread).mean()])
        expected = 0.5 * np.log(2.25 / 1.25)
        assert decisions.uncertainty_score(predictive, "mutual_information") == pytest.approx([expected])


def test_mutual_information_of_regression_agrees_with_quadrature():
    """I(y; θ) = h(y) − E h(y | θ), h(y) by quadrature on the mixture's own density."""
    m, noise = 1.3, 0.6
    draws = m * stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    draws *= m / draws.std()
    predictive = gaussians(draws[:, None, None], np.full((2000, 1, 1), noise))
    grid = np.linspace(-9, 9, 2001)
    density = np.mean(stats.norm.pdf(grid[:, None], draws, noise), axis=1)
    entropy = -integrate.simpson(density * np.log(density), x=grid)
    expected = entropy - (0.5 * np.log(2 * np.pi * np.e) + np.log(noise))
    # 2,000 equal steps are a normal but for its far tails
    assert decisions.uncertainty_score(predictive, "mutual_information")[0] == pytest.approx(expected, abs=1e-3)


def test_uncertainty_score_accepts_a_function():
    predictive = with_scores([1.0, 3.0, 2.0])
    np.testing.assert_allclose(decisions.uncertainty_score(predictive, lambda p: p.std), [1, 3, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("entropy", "regression has no score='entropy'. Choose one of variance"),
        ("bold", "regression has no score='bold'"),
        ("epistemic", "only one draw of the weights"),
        (lambda p: p.std[:, None], r"shape \(2, 1\)"),
        (lambda p: np.array([1.0, np.nan]), "without NaN"),
    ],
)
def test_uncertainty_score_rejects_invalid_scores(score, message):
    with pytest.raises(ValueError, match=message):
        decisions.uncertainty_score(with_scores([1.0, 2.0]), score)


def test_ood_detection_ranks_the_scores_of_both_samples():
    rng = np.random.default_rng(0)
    known, foreign = (gaussians(s * rng.normal(size=(5, 40, 1)), np.ones((5, 40, 1))) for s in (1.0, 2.0))
    found = decisions.ood_detection(known, foreign)
    pair = known.epistemic, foreign.epistemic
    assert found["auroc"][:2] == pytest.approx(metrics.ood_auroc(*pair)[:2], rel=1e-9)
    assert found["auroc"].value == pytest.approx(np.mean(pair[1][:, None] > pair[0]), rel=1e-9)
    assert found["aupr"].value == pytest.approx(metrics.ood_aupr(*pair).value, rel=1e-9)
    assert found["fpr95"].value == pytest.approx(metrics.ood_fpr95(*pair).value, rel=1e-9)
    reverse = decisions.ood_detection(known, foreign, lambda p: -p.epistemic)
    assert reverse["auroc"].value == pytest.approx(1 - found["auroc"].value, rel=1e-9)


# --- abstaining


def test_risk_coverage_equals_hand_computed_values():
    """Scores 1, 2, 2, 3 with squared errors 1, 0, 4, 9; the two of score 2 are answered together."""
    predictive = with_scores(np.sqrt([2.0, 1.0, 3.0, 2.0]))
    curve = decisions.risk_coverage(predictive, np.sqrt([0.0, 1.0, 9.0, 4.0]))
    np.testing.assert_allclose(curve.threshold, [1, 2, 3], rtol=1e-6)
    np.testing.assert_allclose(curve.coverage, [0.25, 0.75, 1.0])
    np.testing.assert_allclose(curve.risk, [1, 5 / 3, 14 / 4], rtol=1e-6)
    assert curve.area.value == pytest.approx((1 + 5 / 3 + 5 / 3 + 3.5) / 4, rel=1e-6)
    other = decisions.risk_coverage(predictive, np.zeros(4), loss=[0.0, 1.0, 9.0, 4.0])
    np.testing.assert_allclose(other.risk, curve.risk, rtol=1e-6)
    weighted = decisions.risk_coverage(predictive, np.sqrt([0.0, 1.0, 9.0, 4.0]), weight=[2.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(weighted.coverage, [0.25, 1.0])
    np.testing.assert_allclose(weighted.risk, [1, 5 / 4], rtol=1e-6)


def test_risk_coverage_area_of_random_scores_is_the_risk():
    """A score without information: every coverage has the same risk in expectation; the losses themselves have the least area."""
    rng = np.random.default_rng(0)
    loss, n = rng.exponential(size=300), 300
    areas = []
    for _ in range(400):
        predictive = with_scores(rng.permutation(n) + 1.0)
        areas.append(decisions.risk_coverage(predictive, np.zeros(n), loss=loss).area.value)
    assert abs(np.mean(areas) - loss.mean()) < 4.6 * np.std(areas) / np.sqrt(len(areas))
    best = decisions.risk_coverage(with_scores(loss), np.zeros(n), loss=loss).area.value
    assert best == pytest.approx(np.mean(np.cumsum(np.sort(loss)) / np.arange(1, n + 1)), rel=1e-5)
    assert best < min(areas)


def test_threshold_meets_a_coverage_or_a_risk():
    predictive = with_scores(np.sqrt(np.arange(1.0, 11.0)))
    loss = np.array([0, 0, 1, 0, 0, 0, 0, 1, 1, 1], float)

    def found(**wish):
        return decisions.threshold(predictive, np.zeros(10), loss=loss, **wish)

    assert [found(coverage=c) for c in (0.1, 0.25, 0.3, 1.0)] == pytest.approx([1, 3, 3, 10], rel=1e-6)
    # risks after each row: 0, 0, 1/3, 1/4, 1/5, 1/6, 1/7, 2/8, 3/9, 4/10
    assert [found(risk=r) for r in (0.15, 0.25, 0.0, 0.4)] == pytest.approx([7, 8, 2, 10], rel=1e-6)
    assert decisions.threshold(predictive, np.ones(10), risk=0.5, loss=np.ones(10)) == -np.inf


def test_threshold_meets_a_risk_with_the_given_confidence():
    """Errors of probability d² at score d ~ U(0, 1): the risk of answering up to t is t²/3. Promised 80 %, 400 sets of rows."""
    kept, coverage, wanted, sets = [], [], 0.1, 400
    rng = np.random.default_rng(1)
    for _ in range(sets):
        d = rng.uniform(size=1000)
        wrong = (rng.uniform(size=1000) < d**2).astype(float)
        predictive = with_scores(d)
        t = decisions.threshold(predictive, np.zeros(1000), risk=wanted, confidence=0.8, score=_std, loss=wrong)
        kept.append(t == -np.inf or t**2 / 3 <= wanted)
        coverage.append(max(t, 0.0))
    assert np.mean(kept) > 0.8 - 4.6 * np.sqrt(0.8 * 0.2 / sets)
    assert np.mean(coverage) > 0.5 * np.sqrt(3 * wanted)  # and is not kept by answering nothing
    plain = decisions.threshold(predictive, np.zeros(1000), risk=wanted, score=_std, loss=wrong)
    assert plain > t


def _std(predictive):
    return predictive.std


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_threshold_uses_the_clopper_pearson_bound(wrong):
    """All rows answered exactly where P(at most so many errors | the risk) is at most 1/20 of what may go wrong."""
    n = 40
    loss = np.repeat([0.0, 1.0], [n - wrong, wrong])
    risks = np.linspace(0.02, 0.5, 49)
    predictive = with_scores(np.ones(n))
    answered = [
        decisions.threshold(predictive, np.zeros(n), risk=r, confidence=0.9, loss=loss) > -np.inf for r in risks
    ]
    np.testing.assert_array_equal(answered, stats.binom.cdf(wrong, n, risks) <= 0.1 / 20)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "either coverage"),
        ({"coverage": 0.5, "risk": 0.1}, "either coverage"),
        ({"coverage": 1.5}, "coverage must be above 0 and at most 1"),
        ({"risk": -1.0}, "risk must be at least 0"),
        ({"risk": np.nan}, "risk must be at least 0"),
        ({"risk": 0.1, "confidence": 1.0}, "strictly between"),
        ({"coverage": 0.1, "confidence": 0.5}, "confidence needs risk"),
        ({"risk": 0.1, "confidence": 0.9}, "loss of 0 or 1"),
        ({"risk": 0.1, "loss": [1.0]}, "loss must be 2 finite numbers"),
    ],
)
def test_threshold_rejects_invalid_arguments(wish, message):
    with pytest.raises(ValueError, match=message):
        decisions.threshold(with_scores([1.0, 2.0]), np.array([0.3, 0.5]), **wish)


# --- choosing rows to label


def test_acquisition_takes_the_most_uncertain_rows_once_and_ties_in_order():
    predictive = gaussians(np.array([[0, 2, 1, 2, 0], [0, -2, -1, -2, 0]], float)[:, :, None], np.ones((2, 5, 1)))
    for count, expected in ((1, [1]), (2, [1, 3]), (4, [1, 3, 2, 0]), (5, [1, 3, 2, 0, 4])):
        assert decisions.acquisition(predictive, count).tolist() == expected
    for wrong in (0, 6, 1.0):
        with pytest.raises(ValueError, match="from 1 to 5"):
            decisions.acquisition(predictive, wrong)


def linear(covariance, count, seed=0):
    """(posterior of a linear model's weights, draws whose moments are exactly those, the model)."""
    d = len(covariance)
    network = dubito.Network(lambda key: {"w": jnp.zeros((d, 1))}, lambda params, x: x @ params["w"])
    model = dubito.Model(network, dubito.Gaussian(precision=4.0))
    draws = np.random.default_rng(seed).normal(size=(count, d))
    draws -= draws.mean(0)
    draws = draws @ np.linalg.inv(np.linalg.cholesky(draws.T @ draws / count).T) @ np.linalg.cholesky(covariance).T
    return dubito.Samples(model, {"network": {"w": jnp.asarray(draws[:, :, None], jnp.float32)}, "likelihood": {}})


@pytest.mark.parametrize("score", ["epistemic", "variance", "mutual_information"])
def test_acquisition_of_a_linear_model_takes_the_d_optimal_row(score):
    rng = np.random.default_rng(2)
    seen = rng.normal(size=(6, 3)) * [1.0, 0.2, 3.0]
    precision, pool = np.eye(3) + 4 * seen.T @ seen, rng.normal(size=(50, 3))
    for _ in range(4):
        posterior = linear(np.linalg.inv(precision), 200)
        answer = dubito.predict(posterior, pool, key=jax.random.key(0))
        gains = [np.linalg.slogdet(precision + 4 * np.outer(x, x))[1] for x in pool]
        chosen = decisions.acquisition(answer, 1, score)[0]
        assert chosen == np.argmax(gains)
        information = 0.5 * (max(gains) - np.linalg.slogdet(precision)[1])
        found = decisions.uncertainty_score(answer, "mutual_information")[chosen]
        assert found == pytest.approx(information, rel=1e-4)
        precision += 4 * np.outer(pool[chosen], pool[chosen])


# --- Thompson sampling


def best_arm(means, sds):
    """P(arm i has the greatest value) of independent normals, by quadrature."""
    grid = np.linspace(-8, 8, 20001)
    density, below = stats.norm.pdf(grid[:, None], means, sds), stats.norm.cdf(grid[:, None], means, sds)
    return np.array(
        [
            integrate.simpson(density[:, i] * np.prod(np.delete(below, i, axis=1), axis=1), x=grid)
            for i in range(len(means))
        ]
    )


@pytest.mark.slow
def test_thompson_chooses_rows_with_the_probability_that_they_are_best():
    means, sds = np.array([0.0, 0.3, -0.5, 0.1]), np.array([0.2, 0.5, 1.5, 0.7])
    network = dubito.Network(lambda key: {"w": jnp.zeros((4, 1))}, lambda params, x: x @ params["w"])
    model = dubito.Model(network, dubito.Gaussian(precision=1e-4))  # noise is not to be asked
    mean, scale = (
        {"network": {"w": jnp.asarray(part[:, None], jnp.float32)}, "likelihood": {}} for part in (means, sds)
    )
    posterior, draws, tries = dubito.DiagonalNormal(model, mean, scale), 2000, 1000
    answer = dubito.predict(posterior, np.eye(4), key=jax.random.key(0), draws=draws)
    keys = jax.random.split(jax.random.key(1), tries)
    chosen = np.bincount([decisions.thompson(answer, key=key) for key in keys], minlength=4) / tries
    p = best_arm(means, sds)
    assert p.sum() == pytest.approx(1, abs=1e-6)
    z = (chosen - p) / np.sqrt(p * (1 - p) * (1 / draws + 1 / tries))
    assert np.all(np.abs(z) < 4.6)


def test_thompson_among_targets_uses_one_function_for_all_rows():
    """Two draws that disagree everywhere: rows agree in each choice, and units of the targets count."""
    means = np.array([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 2.0]]])
    found = {tuple(decisions.thompson(gaussians(means, np.ones((2, 2, 2))), key=key)) for key in _keys(30)}
    assert found == {(0, 0), (1, 1)}
    answer = Predictive(
        dubito.Gaussian(targets=2), gaussians(means, np.ones((2, 2, 2))).z, np.array([0.0, 9.0]), np.ones(2)
    )
    assert {tuple(decisions.thompson(answer, key=key)) for key in _keys(30)} == {(1, 1)}


def test_thompson_of_two_classes_takes_the_row_most_likely_to_succeed():
    predictive = classes([[[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]]])
    assert decisions.thompson(predictive, key=jax.random.key(0)) == 2
    with pytest.raises(ValueError, match="more than two classes"):
        decisions.thompson(classes([[[0.2, 0.3, 0.5]]]), key=jax.random.key(0))
    with pytest.raises(TypeError, match="key must be"):
        decisions.thompson(predictive, key=0)


def _keys(count):
    return jax.random.split(jax.random.key(3), count)
