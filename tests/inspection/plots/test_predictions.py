"""Plots of predictive distributions against SciPy, scikit-learn and definitions."""

import importlib
import subprocess
import sys

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from sklearn.calibration import calibration_curve

import dubito
from dubito import decisions, metrics, plots
from dubito.inspection.plots import predictions
from dubito.posteriors.predictive import Predictive


def gaussians(means, scales, shift=0.0, scale=1.0):
    """A Predictive of (S, n, K) components."""
    z = {"mean": np.asarray(means, np.float32), "scale": np.asarray(scales, np.float32)}
    k = z["mean"].shape[2]
    return Predictive(dubito.Gaussian(targets=k), z, np.full(k, shift), np.full(k, scale))


def regression(n=60, targets=1, draws=5):
    """A predictive with shift and scale, and y."""
    rng = np.random.default_rng(0)
    means, scales = rng.normal(size=(draws, n, targets)), rng.uniform(0.2, 1.5, (draws, n, targets))
    predictive = gaussians(means, scales, shift=5.0, scale=3.0)
    return predictive, predictive.columnwise.mean + 4 * rng.normal(size=(n, targets))


def classification(n=400, count=3):
    rng = np.random.default_rng(1)
    z = {"logits": rng.normal(size=(4, n, count)).astype(np.float32) * 2}
    predictive = Predictive(dubito.Categorical(classes=count), z, np.zeros(1), np.ones(1))
    y = (predictive.probs.cumsum(1) < rng.uniform(size=(n, 1))).sum(1).clip(max=count - 1)
    return predictive, y


def history(members=3, epochs=20, validated=True):
    rng = np.random.default_rng(2)
    found = [rng.normal(size=(epochs - 2 * member, 3)) for member in range(members)]
    return found if validated else [np.column_stack([one[:, :2], np.full(len(one), np.nan)]) for one in found]


def draws(count=7):
    model = dubito.Model(dubito.mlp(3, (4,)), dubito.Gaussian())
    return jax.vmap(model.init)(jax.random.split(jax.random.key(0), count))


CARDS = [
    ("first", {"nll": 1.5, "nll_se": 0.25}),
    ("$second_$x$", {"nll": 1.0, "nll_se": 0.5}),
    ("third", {"rmse": 1.0}),
]
PICTURES = {
    "bands": lambda ax: plots.bands(np.arange(60.0), regression()[0], x_train=[1.0], y_train=[2.0], ax=ax),
    "reliability": lambda ax: plots.reliability(*classification(), ax=ax),
    "risk_coverage_curve": lambda ax: plots.risk_coverage_curve(*classification(), ax=ax),
    "interval_coverage": lambda ax: plots.interval_coverage(*regression(), ax=ax),
    "loss_curves": lambda ax: plots.loss_curves(history(), ax=ax),
    "weights": lambda ax: plots.weights(draws(), ax=ax),
    "predicted_against_actual": lambda ax: plots.predicted_against_actual(*regression(), ax=ax),
    "comparison": lambda ax: plots.comparison(CARDS, "nll", ax=ax),
}
LEGENDLESS = {"comparison"}


def line(ax, label):
    (found,) = [one for one in ax.lines if one.get_label().startswith(label)]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def shade(ax, label):
    """(x, lower, upper) of a shaded polygon, from its vertices."""
    (found,) = [one for one in ax.collections if str(one.get_label()).startswith(label)]
    (path,) = found.get_paths()
    x, y = path.vertices.T
    places = np.unique(x)
    return places, np.array([y[x == at].min() for at in places]), np.array([y[x == at].max() for at in places])


@pytest.mark.parametrize("name", PICTURES)
def test_plot_returns_the_given_axes(name):
    ax = Figure().add_subplot()
    assert PICTURES[name](ax) is ax


@pytest.mark.parametrize("name", PICTURES)
def test_plot_changes_no_settings_and_opens_no_figure(name):
    before = dict(matplotlib.rcParams)
    figure = PICTURES[name](None).figure
    figure.canvas.draw()
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.mark.slow
def test_plots_do_not_import_pyplot():
    code = "import dubito, sys; dubito.plots.bands; assert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PICTURES)
def test_plot_texts_are_inside_the_figure_and_legends_outside_the_axes(name):
    ax = PICTURES[name](None)
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.canvas.draw()
    box, whole = ax.get_tightbbox(renderer), ax.figure.bbox
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.width and box.y1 <= whole.height
    legend = ax.get_legend()
    assert (legend is None) == (name in LEGENDLESS)
    if legend is not None:
        assert legend.get_window_extent(renderer).y0 >= ax.get_window_extent(renderer).y1 - 1


def test_plots_without_matplotlib_raise_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "dubito.inspection.plots")
    with pytest.raises(ImportError, match=r"pip install 'dubito\[plot\]'"):
        importlib.import_module("dubito.inspection.plots")


@pytest.mark.parametrize("count", [1, 5, 20, 27])
def test_bands_are_quantiles_of_the_mixture_and_of_its_means(count):
    predictive, _ = regression(draws=count)
    x = np.random.default_rng(3).permutation(60) / 10
    ax = plots.bands(x, predictive, coverage=0.8, x_train=[0.5, 1.5], y_train=[3.0, 4.0])
    order = np.argsort(x)
    means = 5 + 3 * predictive.z["mean"].astype(float)[:, order, 0]
    sds = 3 * predictive.z["scale"].astype(float)[:, order, 0]

    at, mean = line(ax, "mean")
    np.testing.assert_array_equal(at, x[order])
    np.testing.assert_allclose(mean, means.mean(0), rtol=1e-6)

    at, lower, upper = shade(ax, "total: 80 %")
    np.testing.assert_array_equal(at, x[order])
    np.testing.assert_allclose(stats.norm.cdf(lower, means, sds).mean(0), 0.1, atol=1e-5)
    np.testing.assert_allclose(stats.norm.cdf(upper, means, sds).mean(0), 0.9, atol=1e-5)
    np.testing.assert_array_equal(np.stack([lower, upper]), np.stack(predictive.interval(0.8))[:, order])

    _, low, high = shade(ax, "epistemic: 80 %")
    ends = (
        np.quantile(means, 0.1, axis=0, method="inverted_cdf"),
        -np.quantile(-means, 0.1, axis=0, method="inverted_cdf"),
    )
    np.testing.assert_allclose([low, high], ends, rtol=1e-6)

    np.testing.assert_array_equal(line(ax, "data"), ([0.5, 1.5], [3.0, 4.0]))


def test_bands_inner_band_is_inside_if_draws_disagree_and_noise_is_small():
    rng = np.random.default_rng(5)
    means = rng.standard_t(4, (10, 200, 1))
    for likelihood in (dubito.Gaussian(), dubito.StudentT()):
        z = {"mean": means.astype(np.float32), "scale": np.full((10, 200, 1), 0.01, np.float32)}
        ax = plots.bands(np.arange(200.0), Predictive(likelihood, z, np.zeros(1), np.ones(1)))
        (_, lower, upper), (_, low, high) = shade(ax, "total"), shade(ax, "epistemic")
        assert np.all(lower <= low + 1e-6) and np.all(high <= upper + 1e-6)  # quantiles are float32's


def test_bands_reject_mismatched_arguments():
    predictive, _ = regression()
    with pytest.raises(ValueError, match="x has 3 values, but the predictive 60 rows"):
        plots.bands(np.arange(3.0), predictive)
    with pytest.raises(ValueError, match="together"):
        plots.bands(np.arange(60.0), predictive, x_train=[1.0])
    with pytest.raises(ValueError, match="number of targets is 2 "):
        plots.bands(np.arange(60.0), regression(targets=2)[0])
    with pytest.raises(ValueError, match="classification"):
        plots.bands(np.arange(400.0), classification()[0])


def points(ax):
    """(x, y) of the one errorbar, and the ends (2, n) of its vertical or horizontal lines."""
    (container,) = [one for one in ax.containers if hasattr(one, "has_xerr")]
    data, _, (bars,) = container.lines
    ends = np.array([segment[:, 0 if container.has_xerr else 1] for segment in bars.get_segments() if len(segment)]).T
    return np.asarray(data.get_xdata(), float), np.asarray(data.get_ydata(), float), ends


def test_reliability_shows_accuracy_by_confidence():
    predictive, y = classification()
    ax = plots.reliability(predictive, y, bins=10)
    confidence, right = predictive.probs.max(1), predictive.probs.argmax(1) == y
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    x, height, ends = points(ax)
    np.testing.assert_allclose(x, mean, rtol=1e-12)
    np.testing.assert_allclose(height, accuracy, rtol=1e-12)

    bars = [patch for patch in ax.patches if patch.get_height() > 0 or patch.get_width() > 0]
    np.testing.assert_allclose([bar.get_height() for bar in bars], accuracy, rtol=1e-12)
    widths = np.array([bar.get_width() for bar in bars])
    count, _ = np.histogram(confidence, 10, (0, 1))
    np.testing.assert_allclose(widths * 10, count[count > 0] / count.max(), rtol=1e-9)
    cells = np.flatnonzero(count) / 10
    left = np.array([bar.get_x() for bar in bars])
    assert np.all(left >= cells - 1e-12) and np.all(left + widths <= cells + 0.1 + 1e-12)

    intervals = [
        stats.binomtest(round(share * n), n).proportion_ci(method="exact")
        for share, n in zip(accuracy, count[count > 0].tolist(), strict=True)
    ]
    np.testing.assert_allclose(ends, np.transpose(intervals), rtol=1e-9)

    error = np.sum(widths / widths.sum() * np.abs(height - x))
    title = ax.get_legend().get_title().get_text()
    assert title == f"calibration error {error:.3f} ± {metrics.ece(predictive, y, 10).se:.3f}"


def test_reliability_intervals_of_bins_all_right_and_all_wrong():
    logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.5, 0.0], [0.5, 0.0]], np.float32)
    predictive = Predictive(dubito.Categorical(classes=2), {"logits": logits[None]}, np.zeros(1), np.ones(1))
    _, accuracy, ends = points(plots.reliability(predictive, [0, 0, 1, 1]))
    np.testing.assert_array_equal(accuracy, [0, 1])
    # 2 of 2: the lower end is (α/2)^(1/2)
    np.testing.assert_allclose(ends, [[0, 0.025**0.5], [1 - 0.025**0.5, 1]], atol=1e-12)


@pytest.mark.parametrize("targets", [1, 2])
def test_interval_coverage_is_the_fraction_inside_intervals(targets):
    predictive, y = regression(targets=targets)
    ax = plots.interval_coverage(predictive, y)
    nominal, observed = line(ax, "observed")
    for level in range(5, 100, 5):
        lower, upper = predictive.columnwise.interval(level / 100)
        assert observed[level] == pytest.approx(np.mean((lower <= y) & (y <= upper)), abs=1e-12)
    assert (nominal[0], nominal[-1], observed[0], observed[-1]) == (0, 1, 0, 1)

    at, low, high = shade(ax, "95 % band")
    np.testing.assert_allclose(at, nominal)
    for place in range(1, 100, 7):
        mass = stats.binom.cdf(np.arange(61), 60, nominal[place])
        np.testing.assert_allclose(low[place], np.flatnonzero(mass >= 0.025)[0] / 60, rtol=1e-12)
        np.testing.assert_allclose(high[place], np.flatnonzero(mass >= 0.975)[0] / 60, rtol=1e-12)


def test_interval_coverage_of_the_true_distribution_stays_in_its_band():
    rng = np.random.default_rng(4)
    n = 2000
    predictive = gaussians(np.zeros((1, n, 1)), np.ones((1, n, 1)))
    ax = plots.interval_coverage(predictive, rng.normal(size=n))
    nominal, observed = line(ax, "observed")
    z = (observed - nominal)[1:-1] / np.sqrt(nominal * (1 - nominal) / n)[1:-1]
    assert np.abs(z).max() < 4.6


def test_loss_curves_are_negative_scores_with_their_median():
    runs = history()
    ax = plots.loss_curves(runs)
    for column, label in ((0, "training"), (2, "validation")):
        epoch, median = line(ax, f"{label}, median")
        np.testing.assert_array_equal(epoch, np.arange(1, 21))
        expected = [np.median([-run[k, column] for run in runs if len(run) > k]) for k in range(20)]
        np.testing.assert_allclose(median, expected, rtol=1e-12)
    thin = [one for one in ax.lines if one.get_label().startswith("_")]
    assert len(thin) == 6
    for one, run in zip(thin, runs, strict=False):
        np.testing.assert_array_equal(one.get_ydata()[: len(run)], -run[:, 0])
        assert np.all(np.isnan(one.get_ydata()[len(run) :]))


def test_risk_coverage_curve_lies_between_random_and_best_order():
    predictive, y = regression()
    ax = plots.risk_coverage_curve(predictive, y)
    curve = decisions.risk_coverage(predictive, y)
    at, risk = line(ax, "by uncertainty")
    np.testing.assert_array_equal([at, risk], [curve.coverage, curve.risk])
    error = (y[:, 0] - predictive.mean) ** 2
    assert line(ax, "random order")[1] == pytest.approx([error.mean()] * 2)
    at, best = line(ax, "best order")
    assert best == pytest.approx([np.sort(error)[: k + 1].mean() for k in range(len(error))])
    assert at[-1] == 1 and ax.get_ylabel() == "risk: mean squared error of these rows"
    assert ax.get_legend().get_title().get_text().startswith(f"area {curve.area.value:.3g} ± ")
    labeled = plots.risk_coverage_curve(*classification())
    assert labeled.get_ylabel() == "risk: error rate of these rows"


def test_loss_curves_without_validation_and_of_one_member():
    (run,) = history(1, validated=False)
    ax = plots.loss_curves([run])
    assert [one.get_label() for one in ax.lines] == ["training"]
    np.testing.assert_array_equal(line(ax, "training")[1], -run[:, 0])
    plots.loss_curves([run[:1]]).figure.canvas.draw()  # one epoch
    with pytest.raises(ValueError, match="no finite loss"):
        plots.loss_curves([np.full((3, 3), np.nan)])


def test_loss_curves_initial_fall_does_not_set_the_scale():
    epoch = np.arange(1, 201)
    falling, rising = 1 + 1e4 * np.exp(-epoch), 1.2 + 1e4 * np.exp(-epoch) + 1e-3 * epoch
    ax = plots.loss_curves([np.column_stack([-falling, epoch, -rising])])
    low, high = ax.get_ylim()
    assert 0.9 < low < 1 and 1.4 < high < 1.5


def test_weights_histogram_contains_all_draws_without_biases():
    params = draws()
    ax = plots.weights(params)
    share, edges, _ = ax.patches[0].get_data()
    network = params["network"]
    values = np.concatenate([np.ravel(network[name]["w"]) for name in ("layer_0", "layer_1")])
    assert share.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(np.cumsum(share), [np.mean(values <= edge) for edge in edges[1:]], atol=1e-12)
    assert ax.get_legend().get_texts()[0].get_text() == "16 weights in 7 draws"
    zeroed = {"network": jax.tree.map(lambda leaf: leaf.at[:, 0].set(0.0), network)}
    text = plots.weights(zeroed).get_legend().get_texts()[0].get_text()
    assert text == "16 weights in 7 draws, 31.2 % exactly 0"  # 4 of 12 and 1 of 4
    with pytest.raises(ValueError, match="leading axis of draws"):
        plots.weights(jax.tree.map(lambda leaf: leaf[0], params))


def test_predicted_against_actual_has_the_interval_as_its_bars():
    predictive, y = regression()
    ax = plots.predicted_against_actual(predictive, y[:, 0], coverage=0.5)
    actual, mean, ends = points(ax)
    np.testing.assert_array_equal(actual, y[:, 0])
    np.testing.assert_array_equal(mean, predictive.mean)
    np.testing.assert_allclose(ends, np.stack(predictive.interval(0.5)), rtol=1e-12)
    x, diagonal = line(ax, "predicted = actual")
    np.testing.assert_array_equal(x, diagonal)
    low, high = ax.get_ylim()
    assert low < min(y.min(), ends.min()) and high > max(y.max(), ends.max())
    with pytest.raises(ValueError, match="y has 2 rows, but the predictive has 60"):
        plots.predicted_against_actual(predictive, [1.0, 2.0])


def test_comparison_shows_scores_and_one_standard_error():
    ax = plots.comparison(CARDS, "nll")
    values, place, ends = points(ax)
    np.testing.assert_array_equal(values, [1.5, 1.0, np.nan])
    np.testing.assert_array_equal(ends, [[1.25, 0.5], [1.75, 1.5]])
    assert place.tolist() == [0, 1, 2] and ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    assert [label.get_text() for label in ax.get_yticklabels()] == [name for name, _ in CARDS]
    assert ax.get_xlabel() == "negative log likelihood\nnats per example, lower is better"
    with pytest.raises(ValueError, match="no row has a finite 'crps'"):
        plots.comparison(CARDS, "crps")


def test_scores_name_every_score_of_a_scorecard():
    cards = metrics.scorecard(*regression()) | metrics.scorecard(*classification())
    assert {key for key in cards if not key.endswith("_se")} - {"n"} == set(predictions.SCORES)


@pytest.mark.slow
def test_plots_accept_a_fitted_estimator():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, 80)
    y = np.sin(x) + 0.2 * rng.normal(size=80)
    method = dubito.BayesByBackprop(epochs=30)
    model = dubito.BayesianRegressor(method, hidden=(20,), early_stopping=True, random_state=0).fit(x[:, None], y)
    grid = np.linspace(-4, 4, 50)
    answer = model.predictive(grid[:, None])
    ax = plots.bands(grid, answer, x_train=x, y_train=y)
    np.testing.assert_array_equal(line(ax, "mean")[1], answer.mean)
    _, validation = line(plots.loss_curves(model.history_), "validation")
    np.testing.assert_array_equal(validation, -np.asarray(model.history_[0][:, 2], float))
    plots.weights(model.posterior_.sample(jax.random.key(1), 3)).figure.canvas.draw()
