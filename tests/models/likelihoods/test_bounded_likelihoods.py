"""Likelihoods of positive targets, shares and zero-inflated counts against scipy.stats, from the lower to the upper tail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito._jax import prng
from dubito.evaluation import metrics
from dubito.posteriors.predictive import Predictive
from dubito.posteriors.quantiles import mixture_quantiles

LEVELS = np.array([1e-10, 1e-6, 1e-3, 0.05, 0.3, 0.5, 0.7, 0.95, 0.999, 1 - 1e-6])
OUTPUTS = np.array([-20.0, -3, 0, 2, 20])
LOGITS = np.array([-8.0, -2, 0, 1, 5])
SHAPES = [0.05, 0.3, 1.0, 2.5, 30.0, 1e3, 1e4]


def lognormal(tau, f):
    return stats.lognorm(s=tau**-0.5, scale=np.exp(f))


def gamma(shape, f):
    return stats.gamma(shape, scale=np.exp(f) / shape)


def beta(precision, f):
    return stats.beta(precision * special.expit(f), precision * special.expit(-f))


# (name, value): likelihood, scipy's law at outputs f, outputs
CASES = {}
CASES |= {("lognormal", v): (dubito.LogNormal(precision=v), lognormal, OUTPUTS) for v in (1e4, 4.0, 1.0, 0.1)}
CASES |= {("gamma", v): (dubito.Gamma(dispersion=1 / v), gamma, OUTPUTS) for v in SHAPES}
CASES |= {("beta", v): (dubito.Beta(precision=v), beta, LOGITS) for v in (0.1, 1.0, 5.0, 50.0, 1e3, 1e4)}


@jax.jit
def answers(likelihood, f, y):
    """log p, F, mean and variance. The likelihood is an argument: one program for all values of its noise parameter."""
    z = likelihood.join(f, {})
    return likelihood.log_prob(z, y), likelihood.cdf(z, y), likelihood.mean(z), likelihood.variance(z)


@jax.jit
def quantiles(likelihood, f, *search):
    z = likelihood.join(f, {})
    mean, sd = likelihood.mean(z), jnp.sqrt(likelihood.variance(z))
    draws = jax.tree.map(lambda leaf: leaf[None], z)
    return mixture_quantiles(likelihood, draws, jnp.zeros_like(mean), mean, sd, *search)[1]


@jax.jit
def samples(likelihood, f, keys):
    z = likelihood.join(f, {})
    return jax.vmap(lambda key: likelihood.sample(key, z))(keys)


def grid(case, dtype):
    """(likelihood, f, y, law): every level at every output, as columns; values that the dtype cannot hold are 0.5."""
    likelihood, law, outputs = CASES[case]
    f = np.repeat(outputs, len(LEVELS))[:, None]
    law = law(case[1], f)
    y = law.ppf(np.tile(LEVELS, len(outputs))[:, None]).astype(dtype)
    y = np.where((y > 1e-36) & (y < likelihood.bounds[1]), y, dtype(0.5))
    return likelihood, f.astype(dtype), y, law


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
@pytest.mark.parametrize("case", CASES)
def test_density_cdf_and_moments_equal_scipy(case, x64, tolerance):
    with jax.enable_x64(x64):
        likelihood, f, y, law = grid(case, np.float64 if x64 else np.float32)
        density, cdf, mean, variance = answers(likelihood, f, y)
        assert density.dtype == y.dtype
        np.testing.assert_allclose(density, law.logpdf(y.astype(float))[:, 0], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(cdf, law.cdf(y.astype(float)), rtol=tolerance, atol=1e-30)
        np.testing.assert_allclose(mean, law.mean(), rtol=tolerance)
        np.testing.assert_allclose(variance, law.var(), rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
@pytest.mark.parametrize("name", ["lognormal", "gamma", "beta"])
def test_quantiles_equal_scipy(name, x64, tolerance):
    """Down to 1e-36, also where only a millionth of the distribution is nearer to a bound than float32 resolves from the mean."""
    dtype = np.float64 if x64 else np.float32
    levels = np.array([1e-4, 1e-3, 0.05, 0.3, 0.5, 0.7, 0.95, 0.999, 1 - 1e-4]).astype(dtype)
    with jax.enable_x64(x64):
        for case in (each for each in CASES if each[0] == name):
            likelihood, law, outputs = CASES[case]
            f = (np.array([-2.0, 0, 1, 3]) if name == "beta" else outputs)[:, None]
            ones = np.ones_like(levels)
            exact = law(case[1], f).ppf(levels.astype(float)[:, None, None])
            resolved = exact > 1e-36
            y = np.asarray(quantiles(likelihood, f.astype(dtype), levels, special.ndtri(levels), ones, ones), float)
            np.testing.assert_allclose(y[resolved], exact[resolved], rtol=tolerance)


@pytest.mark.parametrize("case", [("lognormal", 1.0), ("gamma", 0.3), ("gamma", 30.0), ("beta", 5.0)])
def test_values_at_and_beyond_the_bounds_are_impossible(case):
    likelihood, *_ = CASES[case]
    z = likelihood.join(jnp.zeros((4, 1), jnp.float32), {})
    y = jnp.float32([[-1.0], [0.0], [likelihood.bounds[1]], [0.3]])
    assert np.isneginf(likelihood.log_prob(z, y)[:2]).all() and np.isfinite(likelihood.log_prob(z, y)[3])
    assert np.asarray(likelihood.cdf(z, y))[:3, 0].tolist() == [0, 0, 1]
    assert likelihood.supports(np.asarray(y)).tolist() == [False, False, likelihood.bounds[1] > 1, True]


@pytest.mark.parametrize(
    "name", ["lognormal", "gamma", "beta", "zero-inflated-poisson", "zero-inflated-negative-binomial"]
)
def test_gradients_are_finite_and_equal_differences(name):
    """By outputs and by the noise parameter, in float64; finite in float32, too; outputs near zero and far from it."""
    likelihood = dubito.LIKELIHOODS[name].make(1)
    counts = likelihood.discrete
    y = np.array([[0.0], [0], [1], [30]]) if counts else np.array([[1e-6], [0.2], [0.7], [0.999]])
    phi = {name: np.array([0.4]) for name in likelihood.init()}

    def cost(f, phi, y):
        return -jnp.sum(likelihood.log_prob(likelihood.join(f, phi), y))

    gradient, run = jax.jit(jax.grad(cost, (0, 1))), jax.jit(cost)
    for far in (0.0, 30.0, 1e4):
        f = np.resize([0.3, -1.0, 1.0], (4, likelihood.width)) + np.resize([far, -far], (4, 1))
        low = gradient(jnp.float32(f), jax.tree.map(jnp.float32, phi), jnp.float32(y))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(low))
        with jax.enable_x64(True):
            by_f, by_phi = gradient(jnp.asarray(f), phi, jnp.asarray(y))
            steps = 1e-5 * np.eye(f.size).reshape(f.size, *f.shape)
            if far < 1e4:  # else a difference is rounding error
                slopes = [float(run(f + step, phi, y) - run(f - step, phi, y)) / 2e-5 for step in steps]
                scale = np.abs(float(run(f, phi, y))) * 1e-9
                np.testing.assert_allclose(np.ravel(by_f), slopes, rtol=1e-5, atol=1e-6 + scale)
                for key in phi:
                    more, less = ({key: phi[key] + step} for step in (1e-5, -1e-5))
                    slope = float(run(f, more, y) - run(f, less, y)) / 2e-5
                    np.testing.assert_allclose(by_phi[key][0], slope, rtol=1e-5, atol=1e-6 + scale)


def test_priors_of_the_noise_equal_scipy():
    cases = (
        (dubito.LogNormal(shape=2.0, rate=3.0), "log_precision", stats.gamma(2.0, scale=1 / 3)),
        (dubito.Beta(shape=2.0, rate=3.0), "log_precision", stats.gamma(2.0, scale=1 / 3)),
        (dubito.Gamma(shape=2.0, rate=3.0), "log_dispersion", stats.invgamma(2.0, scale=3.0)),
        (dubito.ZeroInflatedNegativeBinomial(shape=2.0, rate=3.0), "log_dispersion", stats.gamma(2.0, scale=1 / 3)),
    )
    for likelihood, name, law in cases:
        assert set(likelihood.init()) == {name}
        prior = likelihood.log_prior({name: jnp.float32([0.4])})
        np.testing.assert_allclose(prior, law.logpdf(np.exp(0.4)) + 0.4, rtol=1e-6)


# --- zero-inflated counts: a truth composed of scipy's


def zero_inflated(alpha, mean, share):
    """(log probability, cdf, mean, variance) of counts that are 0 with probability ``share``, else scipy's."""
    law = stats.poisson(mean) if alpha is None else stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))

    def log_prob(y):
        counted = np.log1p(-share) + law.logpmf(y)
        return np.where(y == 0, np.logaddexp(np.log(share), counted), counted)

    second = (1 - share) * (law.var() + law.mean() ** 2)
    return log_prob, lambda y: share + (1 - share) * law.cdf(y), (1 - share) * mean, second - ((1 - share) * mean) ** 2


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 1e-4)])
@pytest.mark.parametrize("alpha", [None, 0.05, 1.0, 7.0])
def test_zero_inflated_counts_equal_the_composed_truth(alpha, x64, tolerance):
    dtype = np.float64 if x64 else np.float32
    mean, share, y = np.meshgrid([1e-3, 0.7, 4.0, 300.0], [1e-6, 0.3, 0.999], [0.0, 1, 2, 9, 350], indexing="ij")
    mean, share, y = (each.reshape(-1, 1) for each in (mean, share, y))
    f = np.hstack([np.log(mean), special.logit(share)]).astype(dtype)
    mean, share = np.exp(f[:, :1].astype(float)), special.expit(f[:, 1:].astype(float))
    likelihood = dubito.ZeroInflatedPoisson() if alpha is None else dubito.ZeroInflatedNegativeBinomial(alpha)
    log_prob, cdf, first, variance = zero_inflated(alpha, mean, share)
    with jax.enable_x64(x64):
        found = answers(likelihood, f, y.astype(dtype))
        np.testing.assert_allclose(found[0], log_prob(y)[:, 0], rtol=tolerance, atol=tolerance)
        for values, exact in zip(found[1:], (cdf(y), first, variance), strict=True):
            np.testing.assert_allclose(values, exact, rtol=tolerance)
        assert np.all(np.asarray(answers(likelihood, f, np.full_like(f[:, :1], -1))[1]) == 0)


@pytest.mark.slow
def test_quantiles_of_zero_inflated_counts_are_the_smallest_that_reach_the_level():
    f = np.float32([[1.0, 0.5], [3.0, -1.0], [0.0, 3.0]])
    for alpha in (None, 0.4):
        likelihood = dubito.ZeroInflatedPoisson() if alpha is None else dubito.ZeroInflatedNegativeBinomial(alpha)
        z = jax.tree.map(lambda leaf: np.asarray(leaf)[None], likelihood.join(jnp.asarray(f), {}))
        answer = Predictive(likelihood, z, np.zeros(1), np.ones(1), squeeze=False)
        _, cdf, *_ = zero_inflated(alpha, np.exp(f[:, :1].astype(float)), special.expit(f[:, 1:].astype(float)))
        for q in (0.05, 0.4, 0.8, 0.99):
            y = answer.quantile(q)
            assert np.array_equal(y, np.floor(y))
            assert np.all(cdf(y) >= q - 1e-5) and np.all(np.where(y > 0, cdf(y - 1), 0) < q + 1e-5)


# --- samples and predictions


@pytest.mark.slow
def test_samples_have_the_moments_and_the_distribution():
    count = 20_000
    keys = jax.random.split(prng.fast(jax.random.key(4)), count)
    f = np.float32([[-1.0], [0.4], [1.2]])
    cases = [(dubito.LogNormal(precision=4.0), lognormal(4.0, f.astype(float)))]
    cases += [(dubito.Gamma(dispersion=1 / k), gamma(k, f.astype(float))) for k in (0.5, 6.0)]
    cases += [(dubito.Beta(precision=v), beta(v, f.astype(float))) for v in (5.0, 20.0)]
    for likelihood, law in cases:
        drawn = np.asarray(samples(likelihood, f, keys), float)
        assert likelihood.supports(drawn[..., 0]).all()
        assert np.all(np.abs(drawn.mean(0) - law.mean()) < 4.6 * law.std() / np.sqrt(count))
        for uniform in law.cdf(drawn)[..., 0].T:
            assert stats.kstest(uniform, "uniform").pvalue > 5e-6
    share, mean = 0.3, 4.0
    for alpha in (None, 0.7):
        likelihood = dubito.ZeroInflatedPoisson() if alpha is None else dubito.ZeroInflatedNegativeBinomial(alpha)
        drawn = np.asarray(samples(likelihood, np.float32([[np.log(mean), special.logit(share)]]), keys), float)[
            :, 0, 0
        ]
        log_prob, _, first, variance = zero_inflated(alpha, mean, share)
        assert abs(drawn.mean() - first) < 4.6 * np.sqrt(variance / count)
        for y in range(4):
            p = np.exp(log_prob(y))
            assert abs((drawn == y).mean() - p) < 4.6 * np.sqrt(p * (1 - p) / count)


def lognormal_crps(y, mu, sigma):
    """The closed form of Baran & Lerch (2015)."""
    w = (np.log(y) - mu) / sigma
    gap = stats.norm.cdf(w - sigma) + stats.norm.cdf(sigma / np.sqrt(2)) - 1
    return y * (2 * stats.norm.cdf(w) - 1) - 2 * np.exp(mu + sigma**2 / 2) * gap


def gamma_crps(y, shape, rate):
    """The closed form of Möller & Scheuerer (2015)."""
    law, next_law = stats.gamma(shape, scale=1 / rate), stats.gamma(shape + 1, scale=1 / rate)
    first = y * (2 * law.cdf(y) - 1) - shape / rate * (2 * next_law.cdf(y) - 1)
    return first - 1 / (rate * special.beta(0.5, shape))


@pytest.mark.slow
def test_crps_equals_closed_forms():
    f, unit = np.float32(np.linspace(-1, 2, 9)[:, None]), np.full(1, 7.0)
    y = 7.0 * np.exp(f[:, 0].astype(float)) * np.resize([0.05, 0.6, 1.0, 2.5, 9.0], 9)
    for sigma in (0.3, 1.0):
        likelihood = dubito.LogNormal(precision=sigma**-2)
        z = jax.tree.map(lambda leaf: np.asarray(leaf)[None], likelihood.join(jnp.asarray(f), {}))
        answer = Predictive(likelihood, z, np.zeros(1), unit)
        exact = lognormal_crps(y, f[:, 0].astype(float) + np.log(7), sigma)
        np.testing.assert_allclose(metrics.crps(answer, y).rows, exact, rtol=2e-3)
    for shape in (0.7, 5.0):
        likelihood = dubito.Gamma(dispersion=1 / shape)
        z = jax.tree.map(lambda leaf: np.asarray(leaf)[None], likelihood.join(jnp.asarray(f), {}))
        answer = Predictive(likelihood, z, np.zeros(1), unit)
        exact = gamma_crps(y, shape, shape / (7 * np.exp(f[:, 0].astype(float))))
        np.testing.assert_allclose(metrics.crps(answer, y).rows, exact, rtol=2e-3)


def test_predictive_of_a_mixture_is_in_the_units_of_the_target():
    """Density, cdf and quantiles of four lognormal draws, scaled by 250, equal those of scipy's mixture."""
    f = np.float32(np.random.default_rng(0).normal(size=(4, 6, 1)))
    likelihood = dubito.LogNormal(precision=2.0)
    z = jax.tree.map(np.asarray, jax.vmap(lambda one: likelihood.join(one, {}))(jnp.asarray(f)))
    answer = Predictive(likelihood, z, np.zeros(1), np.full(1, 250.0))
    law = lognormal(2.0, f[..., 0].astype(float) + np.log(250))
    y = answer.quantile(0.3)
    np.testing.assert_allclose(law.cdf(y).mean(0), 0.3, rtol=1e-5)
    np.testing.assert_allclose(answer.cdf(y), law.cdf(y).mean(0), rtol=1e-5)
    np.testing.assert_allclose(answer.log_prob(y), np.log(law.pdf(y).mean(0)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer.mean, law.mean().mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match="targets of LogNormal are scaled but not shifted"):
        model = dubito.Model(dubito.mlp(1, (), 1), likelihood)
        posterior = dubito.Samples(model, jax.tree.map(lambda leaf: leaf[None], model.init(jax.random.key(0))))
        dubito.predict(posterior, np.zeros((2, 1)), key=jax.random.key(0), shift=1.0)


def test_shares_that_float32_rounds_to_one_keep_a_density():
    z = jax.tree.map(lambda leaf: np.asarray(leaf)[None], dubito.Beta(precision=4.0).join(jnp.zeros((3, 1)), {}))
    found = Predictive(dubito.Beta(precision=4.0), z, np.zeros(1), np.ones(1)).log_prob([1 - 1e-12, 1 - 2**-24, 1.0])
    assert found[0] == found[1] and np.isfinite(found[0]) and np.isneginf(found[2])


@pytest.mark.slow
def test_calibrated_intervals_stay_within_the_bounds():
    """Conformal margins and recalibration would cross 0 for positive targets, and 1 for shares."""
    rng = np.random.default_rng(1)
    for likelihood, values in (
        (dubito.Gamma(dispersion=2.0), rng.gamma(0.2, 5.0, 200)),
        (dubito.Beta(precision=3.0), rng.beta(0.2, 0.2, 200)),
    ):
        z = likelihood.join(jnp.zeros((200, 1), jnp.float32), {})
        answer = Predictive(likelihood, jax.tree.map(lambda leaf: np.asarray(leaf)[None], z), np.zeros(1), np.ones(1))
        for made in (dubito.calibration.quantiles, dubito.calibration.split_conformal):
            lower, upper = made(answer, values)(answer).interval(0.9)
            assert np.all(lower >= 0) and np.all(upper <= likelihood.bounds[1])
            assert abs(np.mean((lower <= values) & (values <= upper)) - 0.9) < 0.03
