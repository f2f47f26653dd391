"""The noise of a mixture from its members' errors: on simulated members with a known variance, noise and tail."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import dubito
from dubito.methods.ensembles import residual_noise
from dubito.methods.ensembles.residual_noise import Level, NoiseNetworks, Residuals
from dubito.training.data import Rows

RUNS = 10


def simulate(count, v, seen_v, noise, seed=0, targets=1, scale=None):
    """Members f_m = δ_m about a truth of 0, of variance v at rows that they have not seen and ``seen_v`` at others;
    y is noise. Each row is unseen by the run of its fold, and every fifth by the run before, too."""
    rng = np.random.default_rng(seed)
    fold = np.arange(count) % RUNS
    half = (np.arange(count) // RUNS) % 2
    place = np.arange(2 * RUNS)[:, None]
    mine, share = place // 2 == fold, (np.arange(count) // RUNS) % 5 == 0
    before = (place // 2 == (fold - 1) % RUNS) & share
    held, unseen = mine & (place % 2 == half), (mine & (place % 2 == half)) | before
    size = np.ones(count) if scale is None else scale
    run = rng.normal(size=(RUNS, count, targets)).repeat(2, axis=0)  # two members of a run agree
    means = run * np.where(mine | before, np.sqrt(v), np.sqrt(seen_v))[..., None] * size[:, None]
    y = noise(rng, (count, targets))
    rows = Rows(rng.normal(size=(count, 1)).astype(np.float32), y, np.ones(count), np.zeros(count))
    return Residuals(rows, held.astype(float), ~mine & ~before, unseen, means, 2)


def no_networks(residuals):
    return NoiseNetworks(list(range(2 * RUNS)), [{}] * (2 * RUNS), np.zeros_like(residuals.means))


def gaussian(sd):
    return lambda rng, shape: sd * rng.normal(size=shape)


@pytest.mark.parametrize(("v", "seen"), [(0.04, 0.04), (0.04, 0.01), (0.02, 0.04)])
def test_spread_is_that_of_runs_which_have_not_seen_the_row(v, seen):
    """30,000 rows, 6,000 pairs: ½(f_j − f_k)² has relative sd √2, so the ratio has 1.9 %; its limit takes some 1.5 %."""
    found = simulate(30_000, v, seen, gaussian(0.3)).spread
    np.testing.assert_allclose(found, v, rtol=4 * 0.019 + 0.015)


def test_spread_of_rare_inputs_is_compared_with_the_spread_there():
    """One row in a hundred has 100 times the variance: the mean variance is twice that of the others."""
    scale = np.where(np.arange(30_000) % 101 == 0, 10.0, 1.0)
    residuals = simulate(30_000, 0.004, 0.002, gaussian(0.3), scale=scale)
    np.testing.assert_allclose(residuals.spread, 0.004 * np.mean(scale**2), rtol=0.25)  # 60 such pairs have half of it


def test_spread_is_at_most_a_share_of_the_error():
    residuals = simulate(1000, 1.0, 1.0, gaussian(0.01))
    assert residuals.spread == 0.8 * residuals.square


def test_spread_without_rows_that_two_runs_have_not_seen_is_that_of_seen_rows_times_a_power_of_the_errors():
    """c² = .09 + .04 at new rows, and .09 + .01 at others."""
    residuals = simulate(30_000, 0.04, 0.01, gaussian(0.3))
    alone = residuals._replace(unseen=residuals.held > 0)
    np.testing.assert_allclose(alone.spread, 0.01 * (0.13 / 0.10) ** 0.7, rtol=0.03)


def test_few_rows_that_two_runs_have_not_seen_count_beside_the_power_of_the_errors():
    """20 of them: the ratio of variances is halfway between 4 and (.13/.10)^.7, with a relative sd of √2/√20 · 4/5.2."""
    found = [simulate(100, 0.04, 0.01, gaussian(0.3), seed=seed).spread for seed in range(100)]
    expected = 0.01 * (4 + (0.13 / 0.10) ** 0.7) / 2
    np.testing.assert_allclose(np.mean(found), expected, rtol=0.10)


@pytest.mark.parametrize("v", [0.0, 0.02, 0.09])
def test_shrinkage_of_gaussian_errors_is_that_of_their_mean_square(v):
    """4,000 pairs: q has a relative sd of some 1.5 %, and the shrinkage is 1.8 q − .8."""
    residuals = simulate(20_000, v, v, gaussian(0.3))
    expected = (0.09 + v / RUNS) / (0.09 + v)
    np.testing.assert_allclose(residuals.shrinkage, expected, rtol=4 * 0.03)


def mostly_small(rng, shape):
    """Errors that all runs share: of sd 1 in one row of twenty, of .05 in the others."""
    return rng.normal(size=shape) * np.where(rng.uniform(size=shape) < 0.05, 1.0, 0.05)


def test_shrinkage_is_that_of_the_bulk_where_a_few_rows_have_most_of_the_error():
    """The mean square shrinks to .85; SciPy's scale of t with 4 degrees of freedom shrinks much more."""
    residuals = simulate(20_000, 0.01, 0.01, mostly_small)
    mean = residuals.rows.y[:, 0] + 0.1 / np.sqrt(RUNS) * np.random.default_rng(1).normal(size=20_000)
    of_one, of_mean = (scipy.stats.t.fit(each, fdf=4, floc=0)[2] ** 2 for each in (residuals.values[:, 0], mean))
    assert 1 - 0.9 * residuals.spread / residuals.square > 0.8
    assert of_mean / of_one < 0.4
    np.testing.assert_allclose(residuals.shrinkage, of_mean / of_one, rtol=0.1)


def test_shrinkage_of_20_pairs_is_halfway_between_that_of_the_mean_and_that_of_the_bulk():
    """It is .32 for the bulk and .85 for the mean. Over 200 tables of 100 rows; its standard error is .009."""
    found = [simulate(100, 0.01, 0.01, mostly_small, seed=seed).shrinkage for seed in range(200)]
    np.testing.assert_allclose(np.mean(found), (0.32 + 0.85) / 2, atol=0.04)


def test_shrinkage_of_a_target_without_pairs_is_that_of_the_mean():
    residuals = simulate(200, 0.03, 0.03, gaussian(0.3), targets=2)
    pairs = residuals.unseen.reshape(RUNS, 2, -1).any(1).sum(0) > 1
    y = residuals.rows.y.copy()
    y[pairs, 1] = np.nan
    some = residuals._replace(rows=residuals.rows._replace(y=y))
    np.testing.assert_allclose(some.shrinkage[0], residuals.shrinkage[0])
    np.testing.assert_allclose(some.shrinkage[1], 1 - 0.9 * some.spread[1] / some.square[1])


@pytest.mark.parametrize("missing", [False, True])
def test_total_of_the_mixture_is_its_squared_error(missing):
    """E e² = σ² + v/R, as of a mean over R members that have not seen the row, and the deviations have variance v."""
    residuals = simulate(20_000, 0.03, 0.01, gaussian(0.3), targets=2)
    if missing:
        y = residuals.rows.y.copy()
        y[::3, 1] = np.nan
        residuals = residuals._replace(rows=residuals.rows._replace(y=y))
    errors = residual_noise.mixture_errors(residuals)
    assert np.isnan(errors.values).sum() == (missing * len(range(0, 20_000, 3)))
    np.testing.assert_allclose(np.nanmean(errors.values**2, axis=0), 0.09 + 0.03 / RUNS, rtol=0.04)
    np.testing.assert_allclose(np.nanmean(errors.deviations**2, axis=(0, 1)), 0.03 * 17 / 18, rtol=0.08)
    assert np.array_equal(np.isnan(errors.deviations[..., 0]), ~residuals.seen)


@pytest.mark.parametrize("v", [0.0, 0.005, 0.01])
def test_mixture_with_the_level_has_the_variance_of_the_errors(v):
    """σ = .3: component noise s² with s² + v(1 − 1/R) = σ² + v/R; 20,000 rows give s² to 1 %, v to 2.5 %."""
    residuals = simulate(20_000, v, v, gaussian(0.3))
    level = residual_noise.noise_level(
        residuals, residual_noise.mixture_errors(residuals), no_networks(residuals), None
    )
    expected = 0.09 + v / RUNS - v * (1 - 1 / RUNS)
    np.testing.assert_allclose(np.exp(2 * np.asarray(level.log_scale)), expected, rtol=0.04 + 0.1 * v / expected)


@pytest.mark.parametrize("df", [4, 10, None])
def test_scale_and_likelihood_are_those_of_scipy(df):
    residuals = simulate(500, 0.0, 0.0, gaussian(0.3), seed=3)
    errors = residual_noise.mixture_errors(residuals)
    log_s, total = residual_noise.best_scale(
        errors.values[:, 0], errors.deviations[..., 0], np.ones(500), np.ones(500), df
    )
    y = errors.values[:, 0]
    scale = np.sqrt(np.mean(y**2)) if df is None else scipy.stats.t.fit(y, fdf=df, floc=0)[2]
    law = scipy.stats.norm if df is None else scipy.stats.t(df)
    np.testing.assert_allclose(np.exp(log_s), scale, rtol=2e-3)
    np.testing.assert_allclose(total, np.sum(law.logpdf(y / scale) - np.log(scale)), rtol=1e-5)


@pytest.mark.parametrize("df", [4, None])
def test_standard_densities_integrate_to_one(df):
    total, _ = scipy.integrate.quad(lambda z: np.exp(residual_noise.standard_log_prob(z, df)), -np.inf, np.inf)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (gaussian(0.3), {None}),
        (lambda rng, shape: 0.3 * rng.standard_t(4, size=shape), {4}),
        (lambda rng, shape: 0.3 * rng.standard_t(10, size=shape), {6, 10}),
    ],
    ids=["gaussian", "t of 4", "t of 10"],
)
def test_tail_is_that_of_the_noise(law, expected):
    """At 20,000 rows t of 30 is 9 nats behind a Gaussian, and t of 6 110 behind t of 4."""
    residuals = simulate(20_000, 0.001, 0.001, law)
    level = residual_noise.noise_level(
        residuals, residual_noise.mixture_errors(residuals), no_networks(residuals), "auto"
    )
    assert isinstance(level, Level) and level.df in expected


def test_tail_of_few_rows_is_the_heaviest():
    residuals = simulate(20, 0.001, 0.001, gaussian(0.3))
    errors = residual_noise.mixture_errors(residuals)
    assert residual_noise.noise_level(residuals, errors, no_networks(residuals), "auto").df == 4


@pytest.mark.optimized
@pytest.mark.slow
def test_default_intervals_of_few_rows_hold_what_they_say():
    """y = 3x + N(0, .3), 100 rows: mean coverage over data sets, whose standard deviation is about 5 %."""
    found, stds = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(2100, 1))
        y = 3 * x[:, 0] + 0.3 * rng.normal(size=2100)
        model = dubito.BayesianRegressor(random_state=seed).fit(x[:100], y[:100])
        lower, upper = model.predict_interval(x[100:], 0.9)
        found.append(np.mean((lower <= y[100:]) & (y[100:] <= upper)))
        stds.append(model.noise_std_ / 0.3)
    assert 0.8 < np.mean(found) < 0.95
    assert 0.75 < np.mean(stds) < 1.25
