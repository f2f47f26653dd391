"""Criteria against scipy.stats: densities, closed-form gradients, cdfs, samples, extremes; the table; their scores."""

import pathlib
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito import metrics
from dubito._jax import prng
from dubito.models.likelihoods.by_name import LIKELIHOODS
from dubito.posteriors.predictive import Predictive

GUIDE = pathlib.Path(__file__).parents[3] / "docs" / "guides" / "choosing.md"
S, EPS = special.expit, np.finfo(np.float32).eps
MEANS = np.float32([1e-3, 0.3, 1, 4, 30, 400, 7e3, 2e5])
DISPERSIONS = [1e-6, 1e-3, 0.05, 1.0, 7.0]


def counts_of(mean, alpha=None):
    """scipy's law of counts with this mean."""
    return stats.poisson(mean) if alpha is None else stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))


def count_case(alpha, points=(1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9)):
    """(likelihood, log means f (n, 1), whole y (n, 1) from far below to far above, scipy's law (n, 1))."""
    f = np.repeat(np.log(MEANS), len(points))[:, None]
    law = counts_of(np.exp(f.astype(float)), alpha)
    y = law.ppf(np.tile(points, len(MEANS))[:, None])
    y[:: len(points)] = 0
    likelihood = dubito.Poisson() if alpha is None else dubito.NegativeBinomial(dispersion=alpha)
    return likelihood, jnp.asarray(f), np.float32(y), law


# --- densities


@jax.jit
def answers(likelihood, f, phi, y):
    """log p, F, mean and variance. The likelihood is an argument: one program for all values of its noise parameter."""
    z = likelihood.join(f, phi)
    return likelihood.log_prob(z, y), likelihood.cdf(z, y), likelihood.mean(z), likelihood.variance(z)


@pytest.mark.parametrize("alpha", [None, *DISPERSIONS])
def test_count_likelihoods_equal_scipy(alpha):
    """log p to what log y and log m, both rounded, leave of it; F with digits left in the lower tail."""
    likelihood, f, y, law = count_case(alpha)
    density, cdf, found_mean, variance = answers(likelihood, f, {}, y)
    mean, sd = law.mean(), law.std()
    np.testing.assert_allclose(found_mean, mean, rtol=3e-6)
    np.testing.assert_allclose(variance, sd**2, rtol=6e-6)
    exact, logs = law.logpmf(y.astype(float)), 1 + np.abs(np.log(mean))
    slope = np.abs(y - mean) / (1 + (alpha or 0) * mean)  # of log p by f
    bound = EPS * (8 + 4 * np.abs(exact) + 4 * slope * logs)
    assert np.all(np.abs(np.asarray(density, float) - exact[:, 0]) <= bound[:, 0])
    found, p = np.asarray(cdf, float), law.cdf(y.astype(float))
    # F moves by m p(y) when f does by 1; each tail is right relative to itself, as p is
    bound = 4 * EPS + np.minimum(p, 1 - p) * bound + 0.5 * EPS * logs * mean / (1 + (alpha or 0) * mean) * np.exp(exact)
    assert np.all(np.abs(found - p) <= bound)
    assert np.all(np.asarray(answers(likelihood, f, {}, y - y - 1)[1]) == 0)
    above, whole = (answers(likelihood, f, {}, each)[1] for each in (y + np.float32(0.25), np.floor(y + 0.25)))
    np.testing.assert_array_equal(above, whole)


def test_count_likelihoods_give_other_numbers_probability_zero():
    y = np.resize(np.float32([-1, 0.5, 2]), (56, 1))  # as many rows as in the test above
    found = np.asarray(answers(dubito.Poisson(), np.zeros((56, 1), np.float32), {}, y)[0])
    assert np.array_equal(np.isneginf(found), np.resize([True, True, False], 56))


def test_laplace_noise_equals_scipy():
    rng = np.random.default_rng(0)
    f, phi = np.float32(rng.normal(size=(9, 2))), {"log_scale": jnp.float32([-0.7, 1.5])}
    scale = np.exp(np.float64([-0.7, 1.5]))
    law = stats.laplace(f.astype(float), scale)
    for likelihood, known in ((dubito.LaplaceNoise(targets=2), phi), (dubito.LaplaceNoise(scale=2.0, targets=2), {})):
        law = stats.laplace(f.astype(float), scale if known else 2.0)
        for deviation in (0, 0.4, -1.5, 12, -12, 100):
            y = np.float32(f + deviation * scale)
            density, cdf, mean, variance = answers(likelihood, f, known, y)
            np.testing.assert_allclose(mean, law.mean())
            np.testing.assert_allclose(variance, law.var(), rtol=2e-6)
            np.testing.assert_allclose(density, law.logpdf(y).sum(1), rtol=3e-6, atol=3e-6)
            np.testing.assert_allclose(cdf, law.cdf(y), rtol=2e-5, atol=1e-30)
    prior = dubito.LaplaceNoise(shape=2.0, rate=3.0).log_prior({"log_scale": jnp.float32([0.4])})
    np.testing.assert_allclose(prior, stats.invgamma(2.0, scale=3.0).logpdf(np.exp(0.4)) + 0.4, rtol=1e-6)
    prior = dubito.NegativeBinomial(shape=2.0, rate=3.0).log_prior({"log_dispersion": jnp.float32([0.4])})
    np.testing.assert_allclose(prior, stats.gamma(2.0, scale=1 / 3).logpdf(np.exp(0.4)) + 0.4, rtol=1e-6)


def test_censored_gaussian_is_the_density_or_the_tail_of_the_gaussian():
    rng = np.random.default_rng(1)
    likelihood, f = dubito.CensoredGaussian(targets=2), np.float32(rng.normal(size=(200, 2)))
    tau = np.float64([0.5, 3.0])
    phi = {"log_precision": jnp.float32(np.log(tau))}
    law = stats.norm(f.astype(float), tau**-0.5)
    y, marks = np.float32(3 * rng.normal(size=(200, 2))), rng.integers(0, 2, (200, 2))
    exact = np.where(marks, law.logsf(y), law.logpdf(y)).sum(1)
    marked = np.hstack([y, marks]).astype(np.float32)
    found = jax.jit(lambda y: likelihood.log_prob(likelihood.join(f, phi), y))(marked)
    np.testing.assert_allclose(found, exact, rtol=5e-6, atol=5e-6)
    density, cdf, *_ = answers(likelihood, f, phi, y)
    np.testing.assert_allclose(density, law.logpdf(y).sum(1), rtol=5e-6, atol=5e-6)
    np.testing.assert_allclose(cdf, law.cdf(y), rtol=2e-4, atol=1e-6)


CUTS = {"cuts": jnp.float32([-0.4, 0.3, -1.0])}


def cut_points():
    start = special.logit(np.arange(1, 4) / 4)
    moves = np.asarray(CUTS["cuts"], float)
    return start[0] + moves[0] + np.concatenate([[0], np.cumsum(np.exp(moves[1:]) * np.diff(start))])


def test_ordered_probabilities_are_differences_of_logistic_cdfs():
    f = np.linspace(-6, 6, 13, dtype=np.float32)[:, None]
    likelihood = dubito.Ordered(classes=4)
    mean, variance = jax.jit(
        lambda f: (likelihood.mean(likelihood.join(f, CUTS)), likelihood.variance(likelihood.join(f, CUTS)))
    )(f)
    log_prob = jax.jit(lambda y: likelihood.log_prob(likelihood.join(f, CUTS), y))
    below = stats.logistic.cdf(np.concatenate([[-np.inf], cut_points(), [np.inf]]) - f.astype(float))
    p = np.diff(below, axis=1)
    np.testing.assert_allclose(mean, p, rtol=3e-6)
    np.testing.assert_allclose(variance, p * (1 - p), atol=4 * EPS)
    for k in range(4):
        index = log_prob(np.full(13, k, np.int32))
        np.testing.assert_allclose(index, np.log(p[:, k]), rtol=3e-6, atol=3e-6)
        one_hot = log_prob(np.tile(np.eye(4, dtype=np.float32)[k], (13, 1)))
        np.testing.assert_allclose(one_hot, index, rtol=1e-6, atol=1e-6)
    start = dubito.Ordered(classes=5).join(jnp.zeros((1, 1), jnp.float32), dubito.Ordered(classes=5).init())
    np.testing.assert_allclose(np.exp(start["logits"]), 0.2, rtol=1e-6)
    np.testing.assert_allclose(
        dubito.Ordered(classes=4, scale=1.5).log_prior(CUTS), stats.norm(0, 1.5).logpdf(CUTS["cuts"]).sum(), rtol=1e-6
    )


def test_ordered_with_two_classes_equals_bernoulli():
    f = jnp.float32(np.linspace(-30, 30, 7))[:, None]
    z, b = dubito.Ordered(classes=2).join(f, {"cuts": jnp.zeros(1, jnp.float32)}), dubito.Bernoulli().join(f, {})
    for k in (0, 1):
        y = jnp.full(7, k, jnp.int32)
        exact = np.asarray(dubito.Bernoulli().log_prob(b, y))  # y f − log(1 + e^f), right to a bit of f
        np.testing.assert_allclose(dubito.Ordered(2).log_prob(z, y), exact, rtol=1e-6, atol=30 * EPS)


# --- gradients: the table's column, by autodiff and by differences, in float64


def one_hot(y, count):
    return np.eye(count)[y]


def zero_inflated_gradient(y, p0, counted, zero, pi):
    """By (g, logit π): of rows with y > 0 as without excess zeros, of rows with 0 the shares of both kinds of zero."""
    w = (1 - pi) * p0 / (pi + (1 - pi) * p0)
    return np.hstack([np.where(y == 0, w * zero, counted), np.where(y == 0, pi + w - 1, pi)])


def gradients():
    """By name: (likelihood, φ, f, y, the closed form of d(−log p)/df)."""
    rng = np.random.default_rng(2)
    f1, f2, f4 = (rng.normal(size=(6, k)) for k in (1, 2, 4))
    y, k = rng.normal(size=(6, 1)), np.array([0, 1, 2, 3, 1, 2])
    tau, b, alpha, nu = 2.5, 0.7, 0.6, 4
    u, rho = (y - f2[:, :1]), f2[:, 1:]
    sigma = np.logaddexp(0, rho) + 1e-3
    t = u / np.exp(rho)
    hard = np.array([[0.0], [1.0], [2], [9], [40], [3]])
    high = np.concatenate([cut_points(), [np.inf]])[k][:, None] - f1
    low = np.concatenate([[-np.inf], cut_points()])[k][:, None] - f1
    marks = np.array([[1.0], [0], [1], [0], [1], [0]])
    v = np.sqrt(tau) * (f1 - y)
    hazard = np.exp(stats.norm.logpdf(v) - stats.norm.logcdf(v))
    size, share, m = np.exp(2 * y), S(y), S(f1)
    slope = special.digamma(m * tau) - special.digamma((1 - m) * tau) - np.log(share) + np.log(1 - share)
    rate, pi = np.exp(0.5 + f2[:, :1]), S(f2[:, 1:])
    p0 = counts_of(rate, alpha).pmf(0)
    return {
        "gaussian": (dubito.Gaussian(precision=tau), {}, f1, y, tau * (f1 - y)),
        "heteroscedastic": (
            dubito.HeteroscedasticGaussian(),
            {},
            f2,
            y,
            np.hstack([-u / sigma**2, (1 - (u / sigma) ** 2) / sigma * S(rho)]),
        ),
        "student-t": (
            dubito.StudentT(df=nu),
            {},
            f2,
            y,
            np.hstack([-(nu + 1) * t / (np.exp(rho) * (nu + t**2)), 1 - (nu + 1) * t**2 / (nu + t**2)]),
        ),
        "laplace": (dubito.LaplaceNoise(scale=b), {}, f1, y, np.sign(f1 - y) / b),
        "censored": (
            dubito.CensoredGaussian(precision=tau),
            {},
            f1,
            np.hstack([y, marks]),
            np.where(marks, -np.sqrt(tau) * hazard, tau * (f1 - y)),
        ),
        "poisson": (dubito.Poisson(level=0.5), {}, f1, hard, np.exp(0.5 + f1) - hard),
        "negative-binomial": (
            dubito.NegativeBinomial(level=0.5),
            {"log_dispersion": np.log([alpha])},
            f1,
            hard,
            (np.exp(0.5 + f1) - hard) / (1 + alpha * np.exp(0.5 + f1)),
        ),
        "lognormal": (dubito.LogNormal(precision=tau), {}, f1, size, tau * (f1 - np.log(size))),
        "gamma": (dubito.Gamma(dispersion=alpha), {}, f1, size, (1 - size * np.exp(-f1)) / alpha),
        "beta": (dubito.Beta(precision=tau), {}, f1, share, tau * m * (1 - m) * slope),
        "zero-inflated-poisson": (
            dubito.ZeroInflatedPoisson(level=0.5),
            {},
            f2,
            hard,
            zero_inflated_gradient(hard, np.exp(-rate), rate - hard, rate, pi),
        ),
        "zero-inflated-negative-binomial": (
            dubito.ZeroInflatedNegativeBinomial(level=0.5),
            {"log_dispersion": np.log([alpha])},
            f2,
            hard,
            zero_inflated_gradient(hard, p0, (rate - hard) / (1 + alpha * rate), rate / (1 + alpha * rate), pi),
        ),
        "bernoulli": (dubito.Bernoulli(), {}, f1, k % 2, S(f1) - (k % 2)[:, None]),
        "categorical": (dubito.Categorical(4), {}, f4, k, special.softmax(f4, axis=1) - one_hot(k, 4)),
        "ordered": (dubito.Ordered(4), {"cuts": np.asarray(CUTS["cuts"], float)}, f1, k, 1 - S(high) - S(low)),
    }


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihood_gradients_equal_the_table(name):
    likelihood, phi, f, y, exact = gradients()[name]
    with jax.enable_x64(True):

        def cost(f):
            return -jnp.sum(likelihood.log_prob(likelihood.join(f, phi), jnp.asarray(y)))

        found, cost = jax.jit(jax.grad(cost))(jnp.asarray(f)), jax.jit(cost)
        step = 1e-6 * np.eye(f.size).reshape(f.size, *f.shape)
        differences = [float(cost(jnp.asarray(f + one)) - cost(jnp.asarray(f - one))) / 2e-6 for one in step]
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.reshape(differences, f.shape), exact, rtol=1e-6, atol=1e-6)


def test_negative_binomial_gradient_by_dispersion_equals_differences():
    """By log α, against differences of scipy's log probability, from the Poisson's neighborhood to long tails."""
    likelihood, y = dubito.NegativeBinomial(), np.array([[0.0], [2], [30], [5000]])
    f = np.log([[0.5], [3.0], [25.0], [4000.0]])

    def cost(log_dispersion):
        z = likelihood.join(jnp.asarray(f), {"log_dispersion": log_dispersion[None]})
        return likelihood.log_prob(z, jnp.asarray(y))

    with jax.enable_x64(True):
        slope = jax.jit(jax.jacobian(cost))
        for alpha in (1e-4, 0.02, 0.5, 6.0):
            found = slope(jnp.log(jnp.float64(alpha)))
            ends = [counts_of(np.exp(f), alpha * np.exp(step)).logpmf(y)[:, 0] for step in (1e-4, -1e-4)]
            np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-5)


EXTREME = np.float32([[-1e4], [-200.0], [0.0], [200.0], [1e4]])


@pytest.mark.slow
def test_likelihoods_are_finite_and_accurate_for_extreme_outputs():
    """±10⁴: the log mean goes on as a straight line in e^25, tails and logits in f; nothing is NaN or overflows."""
    f = EXTREME.astype(float)[:, 0]
    log_mean = np.minimum(f, 25) + np.log1p(np.maximum(f - 25, 0))
    cases = {
        "poisson": (dubito.Poisson(), {}, 3.0, stats.poisson(1).logpmf(3) + 1 + 3 * log_mean - np.exp(log_mean)),
        "negative-binomial": (
            dubito.NegativeBinomial(dispersion=0.5),
            {},
            3.0,
            np.log(4) + 3 * (np.log(0.5) + log_mean) - 5 * np.logaddexp(0, np.log(0.5) + log_mean),
        ),
        "censored": (dubito.CensoredGaussian(precision=1.0), {}, [0.5, 1.0], stats.norm.logcdf(f - 0.5)),
        "laplace": (dubito.LaplaceNoise(scale=1.0), {}, 0.5, -np.abs(f - 0.5) - np.log(2)),
    }
    for likelihood, phi, y, exact in cases.values():
        values = jnp.asarray(np.tile(y, (5, 1)), jnp.float32)

        def log_prob(f, likelihood=likelihood, phi=phi, values=values):
            return likelihood.log_prob(likelihood.join(f, phi), values)

        np.testing.assert_allclose(jax.jit(log_prob)(jnp.asarray(EXTREME)), exact, rtol=3e-6)
        slope = jax.jit(jax.grad(lambda f, log_prob=log_prob: jnp.sum(log_prob(f))))(jnp.asarray(EXTREME))
        assert np.all(np.isfinite(slope))
        z = likelihood.join(jnp.asarray(EXTREME), phi)
        assert all(np.all(np.isfinite(part(z))) for part in (likelihood.mean, likelihood.variance))
    cut = np.concatenate([[-np.inf], cut_points(), [np.inf]])
    for k in range(4):

        def log_prob(f, k=k):
            return dubito.Ordered(4).log_prob(dubito.Ordered(4).join(f, CUTS), jnp.full(5, k, jnp.int32))

        exact = -np.logaddexp(0, f - cut[k + 1]) - np.logaddexp(0, cut[k] - f)
        exact += np.log(-np.expm1(cut[k] - cut[k + 1]))
        np.testing.assert_allclose(jax.jit(log_prob)(jnp.asarray(EXTREME)), exact, rtol=3e-6, atol=1e-30)
        slope = jax.jit(jax.grad(lambda f, log_prob=log_prob: jnp.sum(log_prob(f))))(jnp.asarray(EXTREME))
        np.testing.assert_allclose(-slope[:, 0], 1 - S(cut[k + 1] - f) - S(cut[k] - f), rtol=1e-5, atol=1e-6)


# --- samples


@pytest.mark.slow
def test_likelihood_samples_have_their_moments():
    count = 10_000
    f = jnp.float32([[-1.0], [1.2], [5.0]])
    cases = [
        (dubito.LaplaceNoise(scale=0.8), stats.laplace(np.asarray(f, float), 0.8)),
        (dubito.Poisson(), counts_of(np.exp(np.asarray(f, float)))),
        (dubito.NegativeBinomial(dispersion=0.7), counts_of(np.exp(np.asarray(f, float)), 0.7)),
    ]
    keys = jax.random.split(prng.fast(jax.random.key(4)), count)
    for likelihood, law in cases:
        z = likelihood.join(f, {})
        drawn = np.asarray(jax.jit(jax.vmap(lambda key, z=z, one=likelihood: one.sample(key, z)))(keys), float)
        error = drawn - law.mean()
        assert np.all(np.abs(error.mean(0)) < 4.6 * law.std() / np.sqrt(count))
        assert np.all(np.abs((error**2).mean(0) - law.var()) < 4.6 * (error**2).std(0) / np.sqrt(count))
        assert abs((error[:, 0] * error[:, 2]).mean()) < 4.6 * (error[:, 0] * error[:, 2]).std() / np.sqrt(count)
        if hasattr(law, "pmf"):
            assert np.array_equal(drawn, np.floor(drawn)) and drawn.min() >= 0
            for y in range(4):
                p = law.pmf(y)
                assert np.all(np.abs((drawn == y).mean(0) - p) < 4.6 * np.sqrt(p * (1 - p) / count) + 1e-9)


# --- predictions of counts


def count_answer(draws=6, rows=40, alpha=0.4, seed=5):
    """Mixtures of negative binomials (``alpha=None``: Poissons) from small to large means, draws near and apart."""
    rng = np.random.default_rng(seed)
    f = np.float32(np.linspace(-2, 7, rows)[:, None] + rng.uniform(0, 1, (rows, 1)) * rng.normal(size=(draws, rows, 1)))
    likelihood = dubito.Poisson() if alpha is None else dubito.NegativeBinomial(dispersion=alpha)
    z = jax.vmap(lambda one: likelihood.join(one, {}))(jnp.asarray(f))
    answer = Predictive(likelihood, jax.tree.map(np.asarray, z), np.zeros(1), np.ones(1), squeeze=False)
    return answer, f.astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [None, 0.4])
def test_quantiles_of_counts_are_the_smallest_that_reach_the_level(alpha):
    answer, f = count_answer(alpha=alpha)
    law = counts_of(np.exp(f), alpha)
    probabilities = [1e-4, 0.05, 0.25, 0.5, 0.9, 0.95, 1 - 1e-4]
    for q, y in zip(probabilities, answer.quantile(probabilities), strict=True):
        assert np.array_equal(y, np.floor(y)) and np.all(y >= 0)
        at, before = law.cdf(y).mean(0), law.cdf(y - 1).mean(0)
        assert np.all(at >= q - 4e-6 * (q + 1e-3)) and np.all(before < q + 4e-6 * (q + 1e-3))
        apart = np.minimum(np.abs(at - q), np.abs(before - q)) > 4e-6 * (
            q + 1e-3
        )  # apart from q by more than float32 rounds
        assert np.all((at >= q) & (before < q), where=apart) and apart.mean() > (0.3 if q > 0.999 else 0.9)
    lower, upper = answer.interval(0.8)
    held = (law.cdf(upper) - law.cdf(lower - 1)).mean(0)
    assert np.all(held > 0.8 - 1e-5)
    rows = replace(answer, draws=jax.tree.map(lambda leaf: leaf[:, 7:9], answer.z))
    assert np.array_equal(rows.interval(0.8), np.array([lower, upper])[:, 7:9])


def test_densities_of_mixtures_of_counts_equal_scipy():
    answer, f = count_answer()
    y = np.round(answer.mean + 0.5 * answer.std)
    exact = special.logsumexp(counts_of(np.exp(f), 0.4).logpmf(y)[..., 0], axis=0) - np.log(len(f))
    np.testing.assert_allclose(answer.log_prob(y), exact, rtol=3e-6, atol=5e-6)
    np.testing.assert_allclose(answer.epistemic, np.exp(f).var(0), rtol=1e-4)
    np.testing.assert_allclose(answer.aleatoric, (np.exp(f) + 0.4 * np.exp(2 * f)).mean(0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [None, 0.4])
def test_crps_of_counts_equals_the_sum(alpha):
    """Small means exactly, large ones by cells; y inside, far below and far above. Poissons end before 30,000 here."""
    answer, f = count_answer(alpha=alpha, rows=6)
    y = np.round(answer.mean + np.resize([-0.7, 0.2, 1.5, -9, 14], (6, 1)) * answer.std).clip(0)
    k = np.arange(30_000 if alpha is None else 120_000)
    cdf = np.cumsum(np.mean([counts_of(np.exp(draw), alpha).pmf(k) for draw in f], axis=0), axis=1)
    exact = np.sum((cdf - (y <= k)) ** 2, axis=1)
    np.testing.assert_allclose(metrics.crps(answer, y).rows, exact, rtol=5e-5, atol=2e-6)


def test_metrics_of_counts_from_their_own_predictive_are_calibrated():
    """Counts drawn from their own predictive: mid-P means ½, coverage is what the intervals hold, the curve the diagonal."""
    answer, f = count_answer(draws=1, rows=3000, alpha=0.4)
    law = counts_of(np.exp(f[0]), 0.4)
    y = law.rvs(random_state=np.random.default_rng(6))
    pit = metrics.pit(answer, y)
    np.testing.assert_allclose(pit, 0.5 * law.cdf(y) + 0.5 * law.cdf(y - 1), atol=3e-6)
    assert abs(pit.mean() - 0.5) < 4.6 * pit.std() / np.sqrt(3000)
    lower, upper = answer.interval(0.9)
    held = law.cdf(upper) - law.cdf(lower - 1)
    found = metrics.coverage(answer, y).value
    assert abs(found - held.mean()) < 4.6 * np.sqrt(np.mean(held * (1 - held)) / 3000) and held.mean() > 0.9
    nominal = np.linspace(0.05, 0.95, 10)
    error = metrics.central_coverage(answer, y, nominal) - nominal
    assert np.all(np.abs(error) < 4.6 * np.sqrt(nominal * (1 - nominal) / 3000))


# --- scorecards


REGRESSION = {
    "rmse",
    "mae",
    "r2",
    "nll",
    "crps",
    "coverage_50",
    "coverage_80",
    "coverage_90",
    "coverage_95",
    "mean_width_90",
}


@pytest.mark.slow
def test_scorecard_has_the_metrics_that_are_defined():
    answer, _ = count_answer(rows=4)
    y = np.round(answer.mean)
    assert {key.removesuffix("_se") for key in metrics.scorecard(answer, y)} == REGRESSION | {"n"}
    z = {"mean": np.zeros((3, 20, 1), np.float32), "scale": np.ones((3, 20, 1), np.float32)}
    censored = Predictive(dubito.CensoredGaussian(), z, np.array([5.0]), np.array([2.0]))
    values = np.linspace(1, 9, 20)
    marked = np.column_stack([values, np.arange(20) % 2])
    assert {key.removesuffix("_se") for key in metrics.scorecard(censored, values)} == REGRESSION | {"n"}
    card = metrics.scorecard(censored, marked)
    assert {key.removesuffix("_se") for key in card} == {"nll", "n"}
    law = stats.norm(5, 2)  # in the target's units: a seen value has a density, a censored one a probability
    exact = np.where(marked[:, 1], law.logsf(values), law.logpdf(values))
    np.testing.assert_allclose(censored.log_prob(marked), exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(card["nll"], -exact.mean(), rtol=1e-6)
    with pytest.raises(ValueError, match="y has the shape"):
        metrics.rmse(censored, marked)


def pinball(f, y):
    return jnp.sum(jnp.maximum(0.9 * (y - f), -0.1 * (y - f)), axis=1)


def half_square(f, y):
    return 0.5 * jnp.sum((y - f) ** 2, axis=1) + 0.5 * np.log(2 * np.pi)


def test_criterion_predictive_has_only_what_a_cost_implies():
    z = {"f": np.float32(np.random.default_rng(7).normal(size=(4, 9, 1)))}
    answer = Predictive(dubito.Criterion(pinball), z, np.zeros(1), np.ones(1))
    np.testing.assert_allclose(answer.mean, z["f"].mean(0)[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(answer.epistemic, z["f"].astype(float).var(0)[:, 0], rtol=1e-5)
    y = np.linspace(-1, 1, 9)
    assert {key.removesuffix("_se") for key in metrics.scorecard(answer, y)} == {"rmse", "mae", "r2", "n"}
    asked = {
        "variance": lambda: answer.variance,
        "variance ": lambda: answer.aleatoric,
        "cdf": lambda: answer.interval(0.9),
        "cdf ": lambda: answer.cdf(y),
        "sample": lambda: answer.sample(jax.random.key(0), 2),
        "log_prob": lambda: answer.log_prob(y),
    }
    for name, ask in asked.items():
        with pytest.raises(ValueError, match=f"Criterion has no {name.strip()}, only a mean"):
            ask()
    normal = Predictive(dubito.Criterion(half_square, normalized=True), z, np.zeros(1), np.ones(1))
    exact = special.logsumexp(stats.norm.logpdf(y[:, None], z["f"])[..., 0], axis=0) - np.log(4)
    np.testing.assert_allclose(normal.log_prob(y), exact, rtol=1e-5)
    assert "nll" in metrics.scorecard(normal, y)
    wrong = dubito.Criterion(lambda f, y: (f - y) ** 2)
    with pytest.raises(ValueError, match=r"function must return an array of shape \(9,\)"):
        wrong.log_prob({"f": z["f"][0]}, jnp.zeros((9, 1), jnp.float32))


def test_predict_refuses_other_units_for_counts(key):
    model = dubito.Model(dubito.mlp(1, (), 1), dubito.Poisson())
    posterior = dubito.Samples(model, jax.tree.map(lambda leaf: leaf[None], model.init(key)))
    with pytest.raises(ValueError, match="targets of Poisson are not standardized"):
        dubito.predict(posterior, np.zeros((2, 1)), key=key, scale=2.0)


# --- the table


def test_guide_shows_the_complete_table_of_likelihoods():
    for name, entry in LIKELIHOODS.items():
        likelihood = entry.make(2)
        assert likelihood.task == entry.task and all(entry[1:])
        assert likelihood.width >= 1 and name in gradients()
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (.*) \|$", GUIDE.read_text(), re.M)
    assert [(name, criterion, use) for name, criterion, use in rows if name in LIKELIHOODS] == [
        (name, entry.criterion, entry.use) for name, entry in LIKELIHOODS.items()
    ]
