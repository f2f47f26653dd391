"""The noise of a predictive mixture, fitted to held-out rows after training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

import dubito
from dubito.methods.held_out_noise import best_noise
from dubito.training.progress import FitProgress
from dubito.training.reports import Report, history

RNG = np.random.default_rng(0)
F = RNG.normal(size=(30, 1, 2)) * 0.4 + RNG.normal(size=(1, 200, 2))  # 30 draws at 200 rows of 2 targets
Y = (F[0] + 0.3 * RNG.normal(size=(200, 2))).astype(np.float32)
WEIGHT = RNG.integers(0, 3, 200).astype(np.float32)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_noise_maximizes_the_likelihood_of_the_mixture(kind):
    """Beside SciPy's maximum over the two scales, from SciPy's densities, with the Gamma prior a = 1, b = 0.01."""
    likelihood = {"gaussian": dubito.Gaussian(targets=2), "laplace": dubito.LaplaceNoise(targets=2)}[kind]
    found = best_noise(likelihood, likelihood.init(), jnp.asarray(F, jnp.float32), Y, WEIGHT)
    density = {"gaussian": stats.norm, "laplace": stats.laplace}[kind]

    def loss(log_scale):
        each = density.logpdf(Y, F, np.exp(log_scale)).sum(axis=2)
        value = np.exp(-2 * log_scale) if kind == "gaussian" else np.exp(-log_scale)
        prior = stats.gamma.logpdf(value, 1, scale=100) + np.log(value)
        return -(WEIGHT @ (special.logsumexp(each, axis=0) - np.log(30)) + prior.sum())

    best = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    (value,) = found.values()
    np.testing.assert_allclose(-0.5 * value if kind == "gaussian" else value, best, atol=2e-3)
    assert np.all(best < -0.8)  # below log(√(0.3² + 0.4²)): the draws' spread is not counted twice


def test_the_noise_of_one_draw_is_the_mode_given_its_residuals():
    """(a + ½Σw)/(b + ½Σwr²) for each target."""
    likelihood = dubito.Gaussian(targets=2)
    found = best_noise(likelihood, likelihood.init(), jnp.asarray(F[:1], jnp.float32), Y, WEIGHT)
    exact = (1 + 0.5 * WEIGHT.sum()) / (0.01 + 0.5 * WEIGHT @ (Y - F[0]) ** 2)
    np.testing.assert_allclose(np.exp(found["log_precision"]), exact, rtol=2e-3)


def table(count):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    return x, (x[:, :1] * x[:, 1:2] + 0.2 * rng.normal(size=(count, 1))).astype(np.float32)


def fit(method, likelihood, x, y, **options):
    model = dubito.Model(dubito.mlp(3, (8,), likelihood.width), likelihood, dubito.Normal(3.0, by_network=True))
    return dubito.fit(model, x, y, method, key=jax.random.key(0), **options)


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}], ids=["folds", "validation rows"])
def test_the_second_step_changes_the_noise_alone_and_predicts_new_rows_better(options):
    """On 4,000 new rows: the mean log likelihood gains; with the noise of training the variance of the masks counts twice."""
    x, y = table(200)
    methods = [dubito.MCDropout(rate=0.3, epochs=300, noise=noise) for noise in ("training", "held-out")]
    before, after = (fit(method, dubito.Gaussian(), x, y, **options) for method in methods)
    assert equal(before.params["network"], after.params["network"])
    assert after.params["likelihood"]["log_precision"] > before.params["likelihood"]["log_precision"]
    new, truth = table(4200)
    scores = [
        dubito.metrics.nll(dubito.predict(posterior, new[200:], key=jax.random.key(1)), truth[200:]).value
        for posterior in (before, after)
    ]
    assert scores[1] < scores[0] - 0.01


@pytest.mark.slow
@pytest.mark.parametrize("case", ["few", "fixed", "stream"])
def test_the_noise_of_training_stays_where_no_rows_can_be_held_out(case):
    """Of a stream only a piece is in memory."""
    x, y = table({"few": 39, "fixed": 100, "stream": 70_000}[case])
    likelihood = dubito.Gaussian(precision=4.0) if case == "fixed" else dubito.Gaussian()
    data = (lambda: iter([(x, y)]), None) if case == "stream" else (x, y)
    methods = [dubito.MCDropout(epochs=2, batch_size=512, noise=noise) for noise in ("training", "held-out")]
    found = [fit(method, likelihood, *data) for method in methods]
    assert equal(found[0].params, found[1].params)


def test_classes_have_no_second_step():
    x, y = table(60)
    posterior = fit(dubito.MCDropout(epochs=5), dubito.Bernoulli(), x, (y[:, 0] > 0).astype(np.int32))
    assert posterior.params["likelihood"] == {}


def test_progress_names_the_second_run():
    """Its share starts anew, and the history is that of the first run alone."""
    x, y = table(60)
    reports, shown = [], FitProgress()
    fit(dubito.MCDropout(epochs=3), dubito.Gaussian(), x, y, progress=reports.append)
    texts = []
    for report in reports:
        shown.add(report)
        texts.append(shown.describe())
    assert "100 % of training · epoch 3 of 3" in texts[0] and "100 % of training, run 2 · epoch 3 of 3" in texts[-1]
    assert [epochs.shape for epochs in history(reports)] == [(3, 3)]


def test_history_leaves_out_a_second_run_of_more_members_in_any_order():
    """Threads report when they have something: the second member of the second run may be the first to."""
    values = np.zeros(2, np.float32)
    first = Report(0, 1, 2, 2, 0.0, True, *[values] * 3)
    later = [Report(k, 2, 2, 2, 0.0, False, *[values] * 3) for k in (1, 0)]
    assert [epochs.shape for epochs in history([first, *later])] == [(2, 3)]
