"""Monte-Carlo errors against brute-force repetition, R-hat and ESS against ArviZ and known chains."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

import dubito
from dubito import diagnostics
from dubito.methods.ensembles.cross_fit import combine_folds, with_noise
from dubito.methods.ensembles.ensemble import combine
from dubito.posteriors.predictive import Predictive

# --- R-hat and effective sample size


def series(chains, draws):
    t, c = np.arange(draws), np.arange(chains)[:, None]
    return np.sin(0.37 * t**1.3 + 2 * c) + np.cos(0.05 * t + c) + 0.3 * c * np.sin(3.1 * t * t)


# Of these, from arviz_stats.base.array_stats 0.8.0: rhat(method="rank"), ess(method="bulk"), ess(method="mean"), with
# chain_axis=0, draw_axis=1.
ARVIZ = [
    (4, 50, 1.2203749524678904, 26.995730153548905, 27.239312924410754),
    (2, 101, 1.0934948991220736, 19.22801967850305, 20.50922504897212),
    (3, 40, 1.2902063190382589, 16.07485451002365, 17.802736660919948),
]


@pytest.mark.parametrize(("chains", "draws", "rhat", "bulk", "mean"), ARVIZ)
def test_rhat_and_ess_agree_with_arviz(chains, draws, rhat, bulk, mean):
    values = np.stack([series(chains, draws), np.ones((chains, draws)), 5 - 2 * series(chains, draws)], axis=2)
    count = 2 * chains * (draws // 2)
    np.testing.assert_allclose(diagnostics.rhat(values), [rhat, 1, rhat], rtol=1e-9)
    np.testing.assert_allclose(diagnostics.bulk_ess(values), [bulk, count, bulk], rtol=1e-9)
    np.testing.assert_allclose(diagnostics.ess(values), [mean, count, mean], rtol=1e-9)


def chains_of(rng, rho, shape):
    """Stationary AR(1) of variance 1, draws along axis 1."""
    noise = rng.normal(size=shape) * np.sqrt(1 - rho**2)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.9])
def test_ess_of_autoregressive_chains_is_exact(rho):
    """Var of the mean of n draws is (1 + ρ)/(1 − ρ)/n − 2ρ(1 − ρⁿ)/((1 − ρ)n)²; 2 chains of 1,500, 300 columns."""
    columns, n = 300, 1500
    values = chains_of(np.random.default_rng(0), rho, (2, n, columns))
    exact = ((1 + rho) / (1 - rho) / n - 2 * rho * (1 - rho**n) / ((1 - rho) * n) ** 2) / 2
    squared_error = values.var((0, 1), ddof=1) / diagnostics.ess(values)
    found = values.mean((0, 1)) ** 2
    assert abs(found.mean() / exact - 1) < 4.6 * np.sqrt(2 / columns)  # the chains are what they should be
    assert abs(np.mean(found - squared_error)) < 4.6 * np.std(found - squared_error) / np.sqrt(columns)
    assert np.mean(squared_error) == pytest.approx(exact, rel=0.1)  # Geyer's estimate is a few per cent off


def test_rhat_detects_shifted_wider_and_drifting_chains():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 200, 4))
    values[0, :, 1] += 1
    values[0, :, 2] *= 3
    values[:, :, 3] += np.linspace(-1, 1, 200)
    same, elsewhere, wider, drifting = diagnostics.rhat(5 + values)
    assert same < 1.02 and min(elsewhere, wider, drifting) > 1.05


# --- Monte-Carlo errors


def samples(count, chains=1):
    """A posterior whose draws stand somewhere else; only their number and order are asked for."""
    model = dubito.Model(dubito.mlp(1, (2,)), dubito.Gaussian())
    return dubito.Samples(model, {"network": {"w": jnp.zeros((count, 1))}, "likelihood": {}}, chains)


def normals():
    leaf = {"network": {"w": jnp.zeros(1)}, "likelihood": {}}
    return dubito.DiagonalNormal(samples(1).model, leaf, leaf)


def predictive(means, scales):
    z = {"mean": np.asarray(means, np.float32), "scale": np.asarray(scales, np.float32)}
    return Predictive(dubito.Gaussian(), z, np.full(1, 7.0), np.full(1, 2.0))


def drawn(kind, rng):
    """(S, 6) of standard normals that make the means and the noise of two times three rows."""
    if kind == "independent":
        return rng.normal(size=(60, 6))
    if kind == "chains":
        return chains_of(rng, 0.7, (3, 150, 6)).reshape(450, 6)
    return (0.8 * rng.normal(size=(12, 1, 6)) + 0.6 * rng.normal(size=(12, 5, 6))).reshape(60, 6)


OF_KIND = {
    "independent": normals(),
    "chains": samples(450, 3),
    "members": dubito.Mixture(samples(1).model, (normals(),) * 12),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_KIND)
def test_monte_carlo_errors_equal_the_spread_over_repetitions(kind):
    """Variance less mean squared error: of the mean, the standard deviation and each row's NLL 400 times, in two rows of each kind
    by 200 sets of draws, and of the mean NLL of the rows 200 times."""
    sets, y = 200, 7 + 2 * np.tile([[0.2], [-0.5], [1.0]], (2, 1))
    values, errors = [], []
    for number in range(sets):
        e = drawn(kind, np.random.default_rng([2, number]))
        answer = predictive(0.5 * e[:, :, None], 1 + 0.2 * np.tanh(e[:, [2, 1, 0, 5, 4, 3], None]))
        found = diagnostics.monte_carlo(answer, OF_KIND[kind], y)
        assert (found.kind, found.draws) == (kind, len(e))
        nll = -answer.log_prob(y)
        values.append([answer.mean, answer.std, nll, np.full(6, nll.mean())])
        errors.append([found.mean, found.sd, found.nll, np.full(6, found.mean_nll)])
    values, errors = np.array(values), np.array(errors)
    for score in range(4):
        rows = (2 * sets, 3) if score < 3 else (sets, 6)  # (times, rows)
        value, square = values[:, score].reshape(rows), errors[:, score].reshape(rows) ** 2
        difference = (value - value.mean(0)) ** 2 - square
        z = difference.mean(0) / (difference.std(0) / np.sqrt(len(difference)))
        assert np.all(np.abs(z) < 4.6)


def test_monte_carlo_errors_of_independent_draws_equal_their_formulas():
    """By hand for two draws 1 and 3 of noise 0 nearly: mean 2 ± √(2/2), and densities p, q: the error of log((p + q)/2)."""
    answer = Predictive(
        dubito.Gaussian(),
        {"mean": np.array([[[1.0]], [[3.0]]], np.float32), "scale": np.ones((2, 1, 1), np.float32)},
        np.zeros(1),
        np.ones(1),
    )
    found = diagnostics.monte_carlo(answer, normals(), np.array([1.5]))
    p, q = stats.norm.pdf(1.5, [1, 3], 1)
    assert found.mean[0] == pytest.approx(1)
    assert found.nll[0] == pytest.approx(abs(p - q) / (p + q), rel=1e-5) == found.mean_nll
    assert found.sd[0] == pytest.approx(0, abs=1e-9)  # both are as far from the mean
    weighted = diagnostics.monte_carlo(
        predictive(np.ones((2, 2, 1)), np.ones((2, 2, 1))), normals(), [1.0, 2.0], weight=[1, 0]
    )
    assert weighted.mean_nll == 0 and np.all(weighted.mean == 0)


def test_monte_carlo_errors_of_classes_equal_their_formulas():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(50, 20, 3)).astype(np.float32)
    answer = Predictive(dubito.Categorical(classes=3), {"logits": logits}, np.zeros(1), np.ones(1))
    y = rng.integers(3, size=20)
    p = np.exp(logits.astype(float) - np.log(np.exp(logits.astype(float)).sum(2, keepdims=True)))
    found = diagnostics.monte_carlo(answer, normals(), y)
    np.testing.assert_allclose(found.mean, p.std(0, ddof=1) / np.sqrt(50), rtol=1e-5)
    chosen = p[:, np.arange(20), y]
    np.testing.assert_allclose(found.nll, chosen.std(0, ddof=1) / chosen.mean(0) / np.sqrt(50), rtol=1e-5)


def test_monte_carlo_errors_do_not_depend_on_the_pieces_of_rows(monkeypatch):
    """1,500 rows are two pieces; columns of chains are cut too."""
    rng = np.random.default_rng(4)
    means = rng.normal(size=(40, 1500, 1))
    answer, y = predictive(means, np.ones_like(means)), np.zeros(1500)
    whole = diagnostics.monte_carlo(answer, samples(40, 2), y)
    monkeypatch.setattr(diagnostics, "MAX_NUMBERS", 40 * 7)
    cut = diagnostics.monte_carlo(answer, samples(40, 2), y)
    halves = 2 * answer.draws.at()["mean"].astype(float)[:, :, 0].reshape(2, 20, 1500)
    for found in (whole, cut):
        np.testing.assert_allclose(found.ess, diagnostics.bulk_ess(halves), rtol=1e-9)
        np.testing.assert_allclose(found.rhat, diagnostics.rhat(halves), rtol=1e-9)
        expected = halves.std((0, 1), ddof=1) / np.sqrt(diagnostics.ess(halves))
        np.testing.assert_allclose(found.mean, expected, rtol=1e-6)
        assert found.nll.shape == (1500,)


def test_draw_structure_classifies_all_posteriors():
    point, mixture = samples(1), dubito.Mixture(samples(1).model, (normals(),) * 3)
    for posterior, draws, expected in (
        (point, 1, ("point", 1)),
        (normals(), 1, ("independent", 1)),
        (samples(5, 5), 5, ("members", 5)),  # an ensemble of points
        (samples(40, 4), 40, ("chains", 4)),
        (samples(40, 4), 30, ("independent", 30)),  # some of them, in a random order
        (mixture, 6, ("members", 3)),
        (mixture, 7, ("independent", 7)),
        (noisy(samples(1)), 100, ("independent", 100)),
        (noisy(samples(5, 5)), 100, ("members", 5)),
        (noisy(samples(40, 4)), 40, ("chains", 4)),
        (noisy(mixture), 102, ("members", 3)),
    ):
        assert diagnostics.draw_structure(posterior, draws) == expected


def noisy(part):
    return dubito.GammaNoisePosterior(part.model, part, jnp.ones(1), jnp.ones(1))


@pytest.mark.slow
def test_gamma_noise_draws_follow_their_point():
    """As many for each point, one point's after another's; of chains one for each draw, in order."""
    for part, copies in ((samples(1), 100), (samples(3, 3), 34), (samples(40, 4), 1)):
        drawn, points = (jax.tree.leaves(q.sample(jax.random.key(0))["network"])[0] for q in (noisy(part), part))
        np.testing.assert_array_equal(drawn, np.repeat(points, copies, axis=0))
    asked = noisy(samples(5, 5)).sample(
        jax.random.key(0), 20
    )  # some orders of equal points would be told as members too
    points = jax.tree.leaves(samples(5, 5).params["network"])[0]
    np.testing.assert_array_equal(jax.tree.leaves(asked["network"])[0], np.repeat(points, 4, axis=0))


def test_combined_samples_count_their_runs():
    assert isinstance(combine_folds([samples(6, 2)] * 3), dubito.Mixture)  # chains of folds have no target in common
    assert isinstance(combine_folds([samples(1)] * 3), dubito.Samples)
    parts = [samples(6, 2), samples(6, 2), samples(6, 2)]
    assert combine(parts).chains == 6 and combine([samples(1)] * 4).chains == 4
    assert with_noise(parts[0].model, parts[0], {"w": jnp.zeros(1)}).chains == 2


# --- are the draws enough?


def repeated(count, spread, noise=1.0, chains=None, shift=0.0):
    """(predictive, posterior): normal draws of spread ``spread`` beside noise; ``shift`` moves the first chain's."""
    means = spread * np.random.default_rng(5).normal(size=(count, 50, 1))
    means[: count // (chains or 1)] += shift
    return predictive(means, np.full_like(means, noise)), normals() if chains is None else samples(count, chains)


def test_monte_carlo_sentence_advises_no_impossible_number_of_draws():
    few = diagnostics.monte_carlo(*repeated(20, 1.0, noise=0.1), np.full(50, 7.0))
    assert "would be enough" in few.sentence
    huge = replace(few, mean=1e3 * few.mean)
    assert huge.needed > diagnostics.MOST_DRAWS and "would be enough" not in huge.sentence


def test_monte_carlo_sentence_says_how_many_draws_are_enough():
    y = np.full(50, 7.0)
    few = diagnostics.monte_carlo(*repeated(20, 1.0, noise=0.1), y)
    assert not few.enough and "20 independent draws are too few" in few.sentence
    needed = int(few.sentence.split("About ")[1].split(" ")[0].replace(",", ""))
    for share, enough in ((1.5, True), (0.6, False)):  # of what was said, which 20 draws tell to a tenth or two
        again = diagnostics.monte_carlo(*repeated(int(share * needed), 1.0, noise=0.1), y)
        assert again.enough is enough and ("are enough" in again.sentence) is enough
    assert again.excess == pytest.approx(1 / np.sqrt(0.6), rel=0.3)


def test_chains_that_disagree_are_not_enough():
    good = diagnostics.monte_carlo(*repeated(2000, 0.3, chains=4))
    assert good.enough and good.sentence.startswith("4 chains of 500 draws are enough")
    apart = diagnostics.monte_carlo(*repeated(2000, 0.3, chains=4, shift=0.5))
    assert not apart.enough and "do not agree (R-hat up to 1." in apart.sentence
    short = diagnostics.monte_carlo(*repeated(14, 0.3, chains=2))
    assert not short.enough and "at least 8 per chain are needed" in short.sentence
    assert short.to_dict() == {"draws": 14}


def test_monte_carlo_of_points_and_single_draws():
    answer = repeated(1, 1.0)[0]
    found = diagnostics.monte_carlo(answer, samples(1), np.zeros(50))
    assert found.enough and found.sentence.startswith("One set of weights") and found.to_dict() == {"draws": 1}
    found = diagnostics.monte_carlo(answer, normals(), np.zeros(50))
    assert not found.enough and "at least 2 are needed" in found.sentence


def test_monte_carlo_to_dict_has_what_is_defined():
    answer, posterior = repeated(40, 1.0, chains=2)
    found = diagnostics.monte_carlo(answer, posterior, np.zeros(50))
    card = found.to_dict()
    assert set(card) == {"draws", "mc_error_mean", "mc_error_sd", "mc_error_nll", "ess_min", "rhat_max"}
    assert card["mc_error_mean"] == pytest.approx(np.sqrt(np.mean(found.mean**2)))
    assert (card["ess_min"], card["rhat_max"]) == (found.ess.min(), found.rhat.max())
    assert set(diagnostics.monte_carlo(answer, normals()).to_dict()) == {
        "draws",
        "mc_error_mean",
        "mc_error_sd",
        "ess_min",
    }
    assert diagnostics.monte_carlo(answer, normals()).to_dict()["ess_min"] == 40


def test_criterion_has_a_monte_carlo_error_of_its_mean_only():
    criterion = dubito.Criterion(lambda f, y: jnp.sum(jnp.abs(f - y), axis=1))
    means = np.random.default_rng(0).normal(size=(9, 4, 1)).astype(np.float32)
    model = dubito.Model(dubito.mlp(1, (2,)), criterion)
    z = jax.vmap(lambda f: criterion.join(f, {}))(jnp.asarray(means))
    found = diagnostics.monte_carlo(
        Predictive(criterion, z, np.zeros(1), np.ones(1)), replace(normals(), model=model), np.zeros(4)
    )
    np.testing.assert_allclose(found.mean, means.astype(float)[..., 0].std(0, ddof=1) / 3, rtol=1e-6)
    assert found.sd is None and found.nll is None and "nats" not in found.sentence


def test_monte_carlo_accepts_predict_and_rejects_invalid_targets():
    model = dubito.Model(dubito.mlp(2, (4,)), dubito.Gaussian())
    mean = model.init(jax.random.key(0))
    posterior = dubito.DiagonalNormal(model, mean, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.2), mean))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=60)
    answer = dubito.predict(posterior, x, key=jax.random.key(1), scale=3.0)
    found = diagnostics.monte_carlo(answer, posterior, y)
    assert (found.kind, found.draws) == ("independent", 100)
    np.testing.assert_allclose(found.mean, answer.epistemic_std / np.sqrt(99), rtol=1e-5)
    with pytest.raises(ValueError, match="59 rows, but the predictive has 60"):
        diagnostics.monte_carlo(answer, posterior, y[:-1])
    with pytest.raises(ValueError, match="no rows"):
        diagnostics.monte_carlo(dubito.predict(posterior, x[:0], key=jax.random.key(1)), posterior)
