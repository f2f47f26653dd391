"""The predictive mixture: quantiles, moments, units, and what must not change a bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import optimize, stats

import dubito
import dubito.models.likelihoods.by_name
from dubito import calibration, conformal, decisions, metrics
from dubito.posteriors.base import Mixture, Samples, stratified_indices
from dubito.posteriors.normals import DiagonalNormal
from dubito.posteriors.predictive import Predictive

SHIFT, SCALE = np.array([10.0, -300.0]), np.array([2.5, 0.01])


def gaussian_answer(draws=7, rows=5, shift=0.0, scale=1.0, seed=0):
    """Components from near to far apart, and from narrow to wide."""
    rng = np.random.default_rng(seed)
    mean = np.linspace(0.1, 6, rows)[:, None] * rng.normal(size=(draws, rows, 2))
    z = {"mean": np.float32(mean), "scale": np.float32(np.exp(rng.normal(size=(draws, rows, 2)) - 1))}
    likelihood = dubito.Gaussian(targets=2)
    return Predictive(likelihood, z, np.asarray(shift, float), np.asarray(scale, float))


def mixture_cdf(answer, y):
    means, scales = answer.components()
    return stats.norm.cdf(y, means, scales).mean(0)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (SHIFT, SCALE)], ids=["standard", "units"])
def test_quantiles_are_roots_of_the_mixture_cdf(shift, scale):
    answer = gaussian_answer(shift=shift, scale=scale)
    means, scales = answer.components()
    probabilities = [0.001, 0.05, 0.25, 0.5, 0.9, 0.999]
    found = answer.quantile(probabilities)
    assert found.shape == (6, 5, 2)
    for q, quantiles in zip(probabilities, found, strict=True):
        np.testing.assert_array_equal(answer.quantile(q), quantiles)
        for row, k in np.ndindex(5, 2):
            m, s = means[:, row, k], scales[:, row, k]

            def excess(y, m=m, s=s, q=q):
                return stats.norm.cdf(y, m, s).mean() - q

            exact = optimize.brentq(excess, (m - 9 * s).min(), (m + 9 * s).max(), xtol=1e-14, rtol=1e-14)
            density = stats.norm.pdf(exact, m, s).mean()
            # the cdf is a mean of float32: right to a few bits of 1, which the density turns into a step of y
            bits = 4 * np.finfo(np.float32).eps
            assert abs(quantiles[row, k] - exact) < bits / density + bits * (
                abs(exact - np.mean(m)) + np.ptp(m) + s.max()
            )


def test_cdf_of_quantile_is_the_identity():
    answer = gaussian_answer(shift=SHIFT, scale=SCALE)
    for q in (0.01, 0.3, 0.5, 0.77, 0.99):
        y = answer.quantile(q)
        np.testing.assert_allclose(mixture_cdf(answer, y), q, atol=1e-6)
        np.testing.assert_allclose(answer.cdf(y), q, atol=1e-6)
    y = answer.mean + answer.std * np.random.default_rng(1).normal(size=answer.mean.shape)
    np.testing.assert_allclose(answer.cdf(y), mixture_cdf(answer, y), atol=1e-6)


def hard_answer(likelihood, draws, rows=100):
    """Components that lie together, apart, and very far apart, with scales that differ up to a million times."""
    rng = np.random.default_rng(draws)
    apart, uneven = 10.0 ** rng.uniform(-3, 4, (rows, 2)), rng.uniform(0, 3, (rows, 2))
    mean = rng.normal(size=(rows, 2)) + apart * rng.normal(size=(draws, rows, 2))
    scale = 10.0 ** (uneven * rng.uniform(-1, 1, (draws, rows, 2)))
    z = {"mean": np.float32(mean), "scale": np.float32(scale)}
    return Predictive(likelihood, z, np.zeros(2), np.ones(2))


PROBABILITIES = np.concatenate([[1e-6, 1e-4], np.linspace(0.01, 0.99, 15), [1 - 1e-4, 1 - 1e-6]])


@pytest.mark.slow
@pytest.mark.parametrize("draws", [2, 8, 30])
@pytest.mark.parametrize(
    ("likelihood", "truth"),
    [
        (dubito.Gaussian(targets=2), stats.norm),
        (dubito.StudentT(df=4, targets=2), stats.t(4)),
        (dubito.StudentT(df=10, targets=2), stats.t(10)),
    ],
    ids=["gaussian", "t4", "t10"],
)
def test_quantiles_of_ill_conditioned_mixtures_are_exact(likelihood, truth, draws):
    """The exact cdf within a few float32 on both sides of the answer holds q, and quantiles rise with q."""
    answer = hard_answer(likelihood, draws)
    found = answer.quantile(PROBABILITIES)
    mean, scale = (np.asarray(answer.z[name], float) for name in ("mean", "scale"))

    def exact(y):
        return truth.cdf((y - mean) / scale).mean(0)

    step = 4 * np.finfo(np.float32).eps
    for q, y in zip(PROBABILITIES, found, strict=True):
        below, above = exact(y - step * np.abs(y)), exact(y + step * np.abs(y))
        assert np.all(below < q + 1e-6) and np.all(above > q - 1e-6), q
        narrow = above - below < 1e-6
        assert narrow.mean() > 0.2 and np.all(np.abs(exact(y) - q)[narrow] < 2e-6)
    rise = np.diff(found, axis=0)
    assert np.all(rise >= -2 * step * np.abs(found[1:]))


def test_quantiles_exist_where_the_density_vanishes():
    """Half the draws far from the others: every point between has the cdf ½, and 0.4 and 0.6 lie in the halves."""
    z = {"mean": np.float32([[[-1e6]], [[1e6]]]), "scale": np.full((2, 1, 1), 1e-3, np.float32)}
    low, middle, high = Predictive(dubito.Gaussian(), z, np.zeros(1), np.ones(1)).quantile([0.4, 0.5, 0.6])[:, 0]
    assert abs(low + 1e6) < 1 and abs(high - 1e6) < 1 and low <= middle <= high


def test_interval_is_equal_tailed():
    answer = gaussian_answer()
    lower, upper = answer.interval(0.8)
    np.testing.assert_allclose(mixture_cdf(answer, lower), 0.1, atol=1e-6)
    np.testing.assert_allclose(mixture_cdf(answer, upper), 0.9, atol=1e-6)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1, np.nan, [0.5, 1.0]])
def test_quantile_rejects_invalid_probabilities(q):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        gaussian_answer().quantile(q)


@pytest.mark.parametrize("coverage", [0, 1, 1.5, np.nan])
def test_interval_rejects_invalid_coverage(coverage):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        gaussian_answer().interval(coverage)


def test_log_prob_is_that_of_the_mixture_in_the_target_units():
    """The targets' noises are independent given a draw: densities are multiplied before they are averaged."""
    answer = gaussian_answer(shift=SHIFT, scale=SCALE)
    means, scales = answer.components()
    y = answer.mean + 0.7 * answer.std
    exact = np.log(np.exp(stats.norm.logpdf(y, means, scales).sum(-1)).mean(0))
    np.testing.assert_allclose(answer.log_prob(y), exact, rtol=2e-6, atol=5e-6)


def test_all_answers_are_equivariant_to_units():
    plain, moved = gaussian_answer(), gaussian_answer(shift=SHIFT, scale=SCALE)
    y = plain.mean + 0.3
    np.testing.assert_allclose(moved.log_prob(SHIFT + SCALE * y), plain.log_prob(y) - np.log(SCALE).sum(), atol=5e-6)
    np.testing.assert_allclose(moved.cdf(SHIFT + SCALE * y), plain.cdf(y), atol=1e-6)
    np.testing.assert_allclose(moved.mean, SHIFT + SCALE * plain.mean, rtol=1e-12)
    np.testing.assert_allclose(moved.aleatoric, SCALE**2 * plain.aleatoric, rtol=1e-12)
    np.testing.assert_allclose(moved.epistemic, SCALE**2 * plain.epistemic, rtol=1e-12)
    np.testing.assert_allclose(moved.quantile(0.2), SHIFT + SCALE * plain.quantile(0.2), rtol=1e-12)
    key = jax.random.key(0)
    np.testing.assert_allclose(moved.sample(key, 3), SHIFT + SCALE * plain.sample(key, 3), rtol=1e-12)


def test_moments_are_those_of_the_mixture():
    answer = gaussian_answer(shift=SHIFT, scale=SCALE)
    means, scales = answer.components()
    np.testing.assert_allclose(answer.mean, means.mean(0), rtol=1e-6)
    np.testing.assert_allclose(answer.aleatoric, (scales**2).mean(0), rtol=2e-6)
    np.testing.assert_allclose(answer.epistemic, means.var(0), rtol=1e-6)
    np.testing.assert_allclose(answer.variance, (scales**2 + means**2).mean(0) - means.mean(0) ** 2, rtol=1e-5)


def test_variance_agrees_with_samples():
    answer, count = gaussian_answer(shift=SHIFT, scale=SCALE), 40_000
    d = answer.sample(jax.random.key(1), count) - answer.mean
    assert d.shape == (count, 5, 2)
    assert np.all(np.abs(d.mean(0)) < 4.6 * answer.std / np.sqrt(count))
    assert np.all(np.abs((d**2).mean(0) - answer.variance) < 4.6 * (d**2).std(0) / np.sqrt(count))
    # one function a draw: the covariance between rows and targets is the epistemic one
    flat, means = d.reshape(count, -1), answer.components()[0].reshape(7, -1)
    products = flat[:, :1] * flat[:, 1:]
    exact = np.cov(means.T, bias=True)[0, 1:]
    assert np.all(np.abs(products.mean(0) - exact) < 4.6 * products.std(0) / np.sqrt(count))


def test_class_probabilities_and_samples_agree():
    rng = np.random.default_rng(2)
    logits = np.float32(2 * rng.normal(size=(6, 4, 3)))
    answer = Predictive(dubito.Categorical(3), {"logits": logits}, np.zeros(()), np.ones(()))
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(-1, keepdims=True)
    np.testing.assert_allclose(answer.probs, p.mean(0), rtol=1e-6)
    np.testing.assert_allclose(answer.mean, answer.probs)
    np.testing.assert_allclose(answer.variance, p.mean(0) * (1 - p.mean(0)), rtol=1e-5)  # an indicator's, in total
    y = np.array([0, 2, 1, 1])
    np.testing.assert_allclose(answer.log_prob(y), np.log(p.mean(0)[np.arange(4), y]), rtol=2e-6, atol=1e-6)
    drawn = answer.sample(jax.random.key(3), 20_000)
    shares = np.stack([(drawn == k).mean(0) for k in range(3)], axis=1)
    assert np.all(np.abs(shares - answer.probs) < 4.6 * np.sqrt(answer.variance / 20_000))


def test_log_prob_of_impossible_values_is_not_nan():
    assert np.all(gaussian_answer().log_prob(np.full((5, 2), 1e25)) < -1e30)


@pytest.fixture(scope="module")
def posteriors():
    """A mean-field, a dropped, and a classifier's posterior, over networks with random weights."""
    network = dubito.mlp(3, (16,), 1)
    model = dubito.Model(network, dubito.Gaussian())
    params = model.init(jax.random.key(5))
    scale = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.2), params)
    rates = {"layer_0": {"w": None, "b": None}, "layer_1": {"w": 0.2, "b": None}}
    classes = dubito.Model(dubito.mlp(3, (16,), 3), dubito.Categorical(3))
    logits = classes.init(jax.random.key(6))
    return {
        "normals": DiagonalNormal(model, params, scale),
        "dropped": dubito.DropoutPosterior(model, params, rates),
        "classes": DiagonalNormal(classes, logits, jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.2), logits)),
    }


def everything(posterior, x, y):
    """Every answer that has rows, by name, rows first."""
    answer = dubito.predict(posterior, x, key=jax.random.key(7), draws=204, shift=3.0, scale=2.0)
    found = {"mean": answer.mean, "aleatoric": answer.aleatoric, "epistemic": answer.epistemic}
    found["log_prob"] = answer.log_prob(y)
    if answer.task == "regression":
        return found | {"cdf": answer.cdf(y), "quantile": answer.quantile(0.1)}
    return found | {"entropy": answer.entropy, "mutual": answer.mutual_information, "ratio": answer.variation_ratio}


ROWS = 1500
X = np.random.default_rng(8).normal(size=(ROWS, 3))


@pytest.fixture(scope="module")
def complete(posteriors):
    return {name: everything(posterior, X, targets(name)) for name, posterior in posteriors.items()}


def targets(name):
    return np.arange(ROWS) % 3 if name == "classes" else X[:, :1]


SUBSETS = {
    "reversed": np.arange(ROWS)[::-1],
    "shuffled": np.random.default_rng(9).permutation(ROWS),
    "second block": np.arange(1024, 1500),
    "one block": np.arange(1024),
    "seven": np.arange(700, 707),
}


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["normals", "dropped", "classes"])
@pytest.mark.parametrize("rows", SUBSETS)
def test_predictions_are_invariant_to_order_and_number_of_rows(posteriors, complete, name, rows):
    index = SUBSETS[rows]
    found = everything(posteriors[name], X[index], targets(name)[index])
    for what, values in found.items():
        np.testing.assert_array_equal(values, complete[name][what][index], err_msg=what)


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["normals", "dropped", "classes"])
def test_predictions_of_one_row_are_invariant_to_batch_composition(posteriors, complete, name):
    for index in (0, 77, 1400):
        found = everything(posteriors[name], X[[index]], targets(name)[[index]])
        for what, values in found.items():
            np.testing.assert_array_equal(values, complete[name][what][[index]], err_msg=what)


@pytest.mark.parametrize("name", ["normals", "classes"])
def test_no_rows_give_empty_answers(posteriors, name):
    answer = dubito.predict(posteriors[name], X[:0], key=jax.random.key(7), draws=24)
    assert len(answer) == 0
    for values in (answer.mean, answer.variance, answer.aleatoric, answer.epistemic, answer.std):
        assert values.shape == ((0, 3) if name == "classes" else (0,))
    if name == "classes":
        assert answer.probs.shape == (0, 3)
        assert answer.entropy.shape == answer.mutual_information.shape == answer.variation_ratio.shape == (0,)
        assert answer.sample(jax.random.key(0), 4).shape == (4, 0)
        assert answer.log_prob(np.zeros(0, int)).shape == (0,)
    else:
        assert answer.quantile(0.3).shape == (0,) and answer.quantile([0.3, 0.4]).shape == (2, 0)
        assert all(bound.shape == (0,) for bound in answer.interval())
        assert answer.sample(jax.random.key(0), 4).shape == (4, 0)


def test_no_rows_have_an_empty_density(posteriors):
    answer = dubito.predict(posteriors["normals"], X[:0], key=jax.random.key(7), draws=24)
    assert answer.log_prob(np.zeros((0, 1))).shape == (0,) and answer.cdf(np.zeros((0, 1))).shape == (0,)


def test_indices_are_stratified():
    """Each of 3 appears 2 or 3 times in 7, and who gets the one more is uniform; none twice where there are enough."""
    keys = jax.random.split(jax.random.key(10), 600)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: stratified_indices(k, 3, 7)))(keys))
    counts = np.stack([(drawn == k).sum(1) for k in range(3)], axis=1)
    assert np.all((counts == 2) | (counts == 3)) and np.all(counts.sum(1) == 7)
    assert np.all(np.abs((counts == 3).mean(0) - 1 / 3) < 4.6 * np.sqrt(2 / 9 / 600))
    few = np.asarray(jax.jit(jax.vmap(lambda k: stratified_indices(k, 5, 3)))(keys))
    assert all(len(set(row)) == 3 for row in few)


def test_samples_enumerate_or_stratify():
    model = dubito.Model(dubito.mlp(1, (), 1), dubito.Gaussian(precision=1.0))
    params = {"w": jnp.arange(4.0), "b": 10 * jnp.arange(4.0)}
    posterior = Samples(model, params)
    key = jax.random.key(0)
    np.testing.assert_array_equal(posterior.sample(key)["w"], params["w"])
    drawn = posterior.sample(key, 10)
    np.testing.assert_array_equal(drawn["b"], 10 * drawn["w"])  # a member is one function: its leaves stay together
    assert sorted(np.bincount(np.asarray(drawn["w"], int))) == [2, 2, 3, 3]


@pytest.mark.slow
def test_mixtures_take_equal_shares_of_their_parts():
    model = dubito.Model(dubito.mlp(1, (), 1), dubito.Gaussian(precision=1.0))
    points = Samples(model, {"w": jnp.float32([0, 1, 2])})
    cloud = DiagonalNormal(model, {"w": jnp.float32(100)}, {"w": jnp.float32(1)})
    other = DiagonalNormal(model, {"w": jnp.float32(-100)}, {"w": jnp.float32(1)})
    mixture = Mixture(model, (points, cloud, other))
    for n in (2, 61):
        w = np.asarray(mixture.sample(jax.random.key(1), n)["w"])
        assert w.shape == (n,)
        shares = [np.sum(part) for part in ((w >= 0) & (w < 50), w > 50, w < -50)]
        assert sum(shares) == n and max(shares) - min(shares) <= 1
        assert len(np.unique(w[np.abs(w) > 50])) == shares[1] + shares[2]
    within = w[(w >= 0) & (w < 50)]
    assert sorted(np.bincount(within.astype(int), minlength=3)) in ([6, 7, 7], [7, 7, 7])
    everyone = np.asarray(mixture.sample(jax.random.key(2))["w"])
    shares = [np.sum(part) for part in (np.abs(everyone) < 50, everyone > 50, everyone < -50)]
    assert len(set(shares)) == 1 and sum(shares) >= 100


def test_enumerated_mixtures_take_equal_shares():
    model = dubito.Model(dubito.mlp(1, (), 1), dubito.Gaussian(precision=1.0))
    parts = (Samples(model, {"w": jnp.float32([1])}), Samples(model, {"w": jnp.float32([0, 0, 0])}))
    assert np.mean(Mixture(model, parts).sample(jax.random.key(0))["w"]) == 0.5


SHIFTS = [0.0, 1e3, 1e8, 1e12]
CONTINUOUS = {
    "gaussian": (dubito.Gaussian(), stats.norm),
    "heteroscedastic": (dubito.HeteroscedasticGaussian(), stats.norm),
    "student-t": (dubito.StudentT(df=4), stats.t(4)),
    "laplace": (dubito.LaplaceNoise(), stats.laplace),
    "censored": (dubito.CensoredGaussian(), stats.norm),
}


def far_answer(likelihood, center, draws=40, rows=30, **units):
    """Means near ``center`` as float32 has them there, and their float64 values."""
    rng = np.random.default_rng(3)
    spread = max(1.0, 2 * np.spacing(np.float32(center)))  # float32 means are so far apart there
    mean = np.float32(center + spread * rng.normal(size=(draws, rows, 1)))
    scale = np.float32(spread * np.exp(0.5 * rng.normal(size=(draws, rows, 1))))
    answer = Predictive(likelihood, {"mean": mean, "scale": scale}, np.zeros(1), np.ones(1), **units)
    return answer, mean.astype(float)[..., 0], scale.astype(float)[..., 0]


@pytest.mark.parametrize("draws", [1, 40])
@pytest.mark.parametrize("center", SHIFTS)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_quantiles_cdf_and_log_prob_are_exact_far_from_zero(name, center, draws):
    likelihood, truth = CONTINUOUS[name]
    answer, mean, scale = far_answer(likelihood, center, draws)
    unit = np.median(scale)
    for q in (0.05, 0.5, 0.95):
        found = answer.quantile(q)
        near = 1e-5 * unit + 4 * np.spacing(center)  # the exact quantile lies within, since its cdf rises through q
        below, above = (truth.cdf((found - center + step - (mean - center)) / scale).mean(0) for step in (-near, near))
        assert np.all(below < q) and np.all(q < above)
        np.testing.assert_allclose(answer.cdf(found), truth.cdf((found - mean) / scale).mean(0), atol=1e-6)
        exact = np.log((truth.pdf((found - mean) / scale) / scale).mean(0))
        np.testing.assert_allclose(answer.log_prob(found), exact, atol=1e-5)
    lower, upper = answer.interval(0.9)
    assert np.all(upper - lower >= 0.999 * 2 * truth.ppf(0.95) * scale.min(0))


def test_quantiles_are_exact_if_one_draw_is_far_away():
    """A wild draw moves the mean far from where the interval lies, and float32 from there resolves nothing."""
    mean = np.float32(np.r_[np.random.default_rng(0).normal(size=39), 1e9])[:, None, None]
    z = {"mean": mean, "scale": np.full_like(mean, 0.5)}
    answer = Predictive(dubito.Gaussian(), z, np.zeros(1), np.ones(1))
    for q in (0.05, 0.5, 0.9):
        found = answer.quantile(q)
        np.testing.assert_allclose(stats.norm.cdf(found[0], mean.astype(float), 0.5).mean(), q, atol=1e-6)


@pytest.mark.optimized
def test_far_rows_do_not_change_the_bits_of_near_rows():
    near, far = (far_answer(dubito.StudentT(), center)[0] for center in (0.0, 1e8))
    z = {name: np.concatenate([near.z[name], far.z[name]], axis=1) for name in ("mean", "scale")}
    both = Predictive(near.likelihood, z, np.zeros(1), np.ones(1))
    for q in (0.1, 0.7):
        np.testing.assert_array_equal(both.quantile(q), np.r_[near.quantile(q), far.quantile(q)])


def test_samples_keep_their_noise_far_from_zero():
    mean = np.full((5, 4, 1), 1e8, np.float32)
    answer = Predictive(dubito.Gaussian(), {"mean": mean, "scale": np.ones_like(mean)}, np.zeros(1), np.ones(1))
    drawn = answer.sample(jax.random.key(0), 10_000) - 1e8
    assert stats.kstest(drawn.ravel()[:10_000], "norm").pvalue > 1e-5


def test_one_target_has_one_axis_and_columnwise_has_two():
    answer, mean, _ = far_answer(dubito.Gaussian(), 0.0)
    wide, n, key = answer.columnwise, len(answer), jax.random.key(0)
    names = "mean std variance aleatoric aleatoric_std epistemic epistemic_std min_component_std".split()
    for name in names:
        assert getattr(answer, name).shape == (n,), name
        np.testing.assert_array_equal(getattr(wide, name)[:, 0], getattr(answer, name))
    y = answer.mean + 1
    assert answer.cdf(y).shape == answer.log_prob(y).shape == answer.quantile(0.3).shape == (n,)
    assert all(end.shape == (n,) for end in answer.interval())
    assert answer.quantile([0.3, 0.4]).shape == (2, n) and answer.sample(key, 3).shape == (3, n)
    assert answer.means(2).shape == (2, n) and answer.components()[0].shape == (40, n)
    np.testing.assert_array_equal(answer.cdf(y), answer.cdf(y[:, None]))
    np.testing.assert_array_equal(answer.log_prob(y), answer.log_prob(y[:, None]))
    assert wide.interval()[0].shape == (n, 1) and wide.sample(key, 3).shape == (3, n, 1)
    assert wide.columnwise is wide and wide.mixture is answer.mixture
    assert np.sqrt(((answer.mean - mean.mean(0)) ** 2).mean()) < 1e-6
    with pytest.raises(ValueError, match=r"shape \(1, 30\)"):
        answer.cdf(y[None])


def test_variance_that_overflows_is_infinite():
    z = {"mean": np.zeros((2, 3, 1), np.float32), "scale": np.ones((2, 3, 1), np.float32)}
    answer = Predictive(dubito.Gaussian(), z, np.zeros(1), np.full(1, 1e200))
    assert np.all(answer.epistemic == 0) and np.all(answer.aleatoric == np.inf) and np.all(answer.variance == np.inf)
    np.testing.assert_array_equal(answer.std, 1e200)


@pytest.mark.parametrize("name", ["poisson", "negative-binomial"])
def test_counts_beyond_float32_have_zero_density_and_cdf_one(name):
    likelihood = dubito.LIKELIHOODS[name].make(1)
    z = {"log_mean": np.ones((2, 1, 1), np.float32), "dispersion": np.ones((2, 1, 1), np.float32)}
    answer = Predictive(likelihood, z, np.zeros(1), np.ones(1))
    assert answer.log_prob([1e300]) == -np.inf and answer.cdf([1e300]) == 1
    assert not likelihood.supports(np.full((1, 1), 1e300))[0]


def test_repr_of_a_predictive_is_short():
    answer, _, _ = far_answer(dubito.Gaussian(), 0.0, description="CrossFit(" + 400 * "x, " + ")")
    assert len(repr(answer)) < 400 and len(repr(answer).splitlines()) == 4
    assert "regression: 30 rows, 1 target, 40 draws" in repr(answer)
    classes = Predictive(
        dubito.Categorical(3), {"logits": np.zeros((2, 4, 3), np.float32)}, 0.0, 1.0, "", np.array(["a", "b", "c"])
    )
    assert "classification: 4 rows, 3 classes, 2 draws" in repr(classes) and "classes: a, b, c" in repr(classes)


LABELS = ["cat", "cat", "owl", "bee"]


def known_classes(classes=("bee", "cat", "owl")):
    logits = np.float32(np.random.default_rng(0).normal(size=(5, 4, len(classes))))
    return Predictive(dubito.Categorical(3), {"logits": logits}, np.zeros(()), np.ones(()), "", np.array(classes))


@pytest.mark.parametrize(
    "make",
    [
        list,
        np.array,
        lambda y: np.array(y)[:, None],
        lambda y: np.array(y, dtype=object),
        pd.Series,
        lambda y: pd.Series(y, dtype="category"),
        pl.Series,
        lambda y: pl.Series(y, dtype=pl.Categorical),
        pa.array,
        lambda y: pa.chunked_array([pa.array(y).dictionary_encode()]),
    ],
)
def test_labels_and_codes_give_the_same_scores(make):
    answer, codes = known_classes(), np.array([1, 1, 2, 0])
    np.testing.assert_array_equal(answer.log_prob(make(LABELS)), answer.log_prob(codes))
    assert metrics.scorecard(answer, make(LABELS)) == metrics.scorecard(answer, codes)
    assert decisions.risk_coverage(answer, make(LABELS)).area.value == decisions.risk_coverage(answer, codes).area.value
    assert calibration.temperature(answer, make(LABELS)) == calibration.temperature(answer, codes)
    assert conformal.split_conformal(answer, make(LABELS), coverage=0.5).margins is not None


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (
            ["cat", "dog", "owl", "bee"],
            "'dog' in row 1, which is not one of the classes bee, cat, owl or a code from 0 to 2",
        ),
        ([1, 1, 7, 0], "7 in row 2"),
        ([1, 1.5, 2, 0], "1.5 in row 1"),
        (["cat", 1, "owl", "bee"], "mixes labels .*'cat'.* with codes .*row 1 has 1"),
        (["cat", None, "owl", None], r"missing in 2 of 4 rows \(rows 1, 3\)"),
        (
            pa.chunked_array([pa.array(["cat", None, "owl", "bee"]).dictionary_encode()]),
            r"missing in 1 of 4 rows \(row 1\)",
        ),
        (pd.Series(["cat", None, "owl", "bee"], dtype="category"), r"missing in 1 of 4 rows \(row 1\)"),
        (pl.Series([1, None, 2, 0]), r"missing in 1 of 4 rows \(row 1\)"),
        (["cat"], "1 rows, but the predictive has 4"),
        (np.zeros((4, 3)), "one class per row"),
    ],
)
def test_class_scores_reject_values_that_are_neither_label_nor_code(y, words):
    for function in (metrics.scorecard, Predictive.log_prob, calibration.isotonic, decisions.losses):
        with pytest.raises(ValueError, match=words):
            function(*((known_classes(), y)))


def test_labels_take_precedence_over_codes():
    answer = known_classes((1, 2, 3))
    np.testing.assert_array_equal(answer.log_prob([1, 2, 2, 1]), answer.columnwise.log_prob([0, 1, 1, 0]))
    np.testing.assert_array_equal(answer.log_prob([0, 1, 1, 0]), answer.columnwise.log_prob([0, 1, 1, 0]))
    truth = known_classes((False, True, 2))
    np.testing.assert_array_equal(truth.log_prob([True, False, True, True]), truth.columnwise.log_prob([1, 0, 1, 1]))


@pytest.mark.parametrize("make", [np.array, pd.Series, pl.Series, pa.array])
def test_missing_targets_of_regression_are_rejected(make):
    answer = far_answer(dubito.Gaussian(), 0.0, rows=3)[0]
    for y in (make([1.0, None, 2.0]) if make is not np.array else np.array([1.0, np.nan, 2.0]), [1.0, None, 2.0]):
        with pytest.raises(ValueError, match=r"y is missing in 1 of 3 rows \(row 1\)"):
            metrics.rmse(answer, y)
    with pytest.raises(ValueError, match="'x' in row 2"):
        metrics.rmse(answer, [1.0, 2.0, "x"])


def test_answers_of_the_other_task_are_refused():
    logits = {"logits": np.zeros((2, 3, 3), np.float32)}
    classes = Predictive(dubito.Categorical(3), logits, np.zeros(()), np.ones(()))
    numbers = Predictive(
        dubito.Gaussian(),
        {"mean": np.zeros((2, 3, 1), np.float32), "scale": np.ones((2, 3, 1), np.float32)},
        np.zeros(1),
        np.ones(1),
    )
    sets = conformal.split_conformal(classes, np.array([0, 1, 2]), coverage=0.5)(classes)
    for answer in (classes, sets):
        with pytest.raises(ValueError, match=r"classification has no intervals\. Use probs"):
            answer.interval(0.5)
    with pytest.raises(ValueError, match=r"classification has no cdf\. Use probs"):
        classes.cdf(np.zeros(3))
    for name in ("probs", "entropy", "mutual_information", "variation_ratio"):
        with pytest.raises(ValueError, match=r"regression has no .*Use mean, std"):
            getattr(numbers, name)
