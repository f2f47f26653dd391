"""Plots of training against the data that they show."""

import sys

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

import dubito
from dubito import landscape, plots
from dubito.estimators.size_sweep import SizeResult
from dubito.inspection.landscape import Landscape, Path, Plane
from dubito.posteriors.base import Samples

MODEL = dubito.Model(dubito.mlp(2, ()), dubito.Gaussian(1.0))
FIRST, SECOND = np.linspace(-2, 2, 21), np.linspace(-1, 3, 41)


def params(*weights):
    network = {"layer_0": {"w": np.array(weights, np.float32)[:, None], "b": np.zeros(1, np.float32)}}
    return {"network": network, "likelihood": {}}


def bowl():
    """a² + 4b² + 1 on the plane of the two weights themselves."""
    names = "network.layer_0.w[0, 0]", "network.layer_0.w[1, 0]"
    plane = landscape.parameter_plane(params(0.5, 1.0), *names)
    return Landscape(plane, FIRST, SECOND, FIRST**2 + 4 * SECOND[:, None] ** 2 + 1, "joint")


def path(points):
    trees = [params(*point) for point in points]
    return Path(np.arange(len(points)), jax.tree.map(lambda *leaves: np.stack(leaves), *trees))


POINTS = [(-1.5, 2.5), (-1.0, 1.0), (-0.5, 0.25), (0.0, 0.0)]
PATHS = {"sgd": path(POINTS), "adam": path(POINTS[::-1])}


def swept():
    rng = np.random.default_rng(0)
    wide = {1: (1.0, 1.1), 4: (0.5, 0.6), 16: (0.3, 0.5), 64: (0.1, 0.9)}
    return [
        SizeResult((width,), train + 0.01 * rng.normal(size=4), validation + 0.01 * rng.normal(size=4), 1.0)
        for width, (train, validation) in wide.items()
    ]


def posterior(weights):
    return Samples(MODEL, jax.tree.map(lambda leaf: leaf[None], params(*weights)))


PRIORS = {"L2": posterior([0.5, -0.25]), "L1": posterior([1.0, 0.0])}
PICTURES = {
    "contours": lambda ax: plots.contours(bowl(), PATHS, ax=ax),
    "size_curves": lambda ax: plots.size_curves(swept(), ax=ax),
    "weight_histograms": lambda ax: plots.weight_histograms(PRIORS, ax=ax),
    "network_diagram": lambda ax: plots.network_diagram(posterior([0.5, -0.5]), ax=ax),
    "surface": lambda ax: plots.surface(bowl(), ax=ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_training_plots_draw_on_given_axes_and_change_no_settings(name):
    ax = Figure().add_subplot(projection="3d" if name == "surface" else None)
    assert PICTURES[name](ax) is ax
    before = dict(matplotlib.rcParams)
    ax = PICTURES[name](None)
    ax.figure.canvas.draw()
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
    renderer = ax.figure.canvas.get_renderer()
    box, whole = ax.get_tightbbox(renderer), ax.figure.bbox
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.width and box.y1 <= whole.height
    legend = ax.get_legend()
    assert (legend is None) == (name == "surface")
    if legend is not None:
        assert legend.get_window_extent(renderer).y0 >= ax.get_window_extent(renderer).y1 - 1


def line(ax, label):
    (found,) = [one for one in ax.lines if one.get_label() == label]
    return found


def test_contours_of_a_bowl_are_evenly_spaced_ellipses():
    ax = plots.contours(bowl(), PATHS)
    lines = ax.collections[1]
    levels = lines.levels
    np.testing.assert_allclose(np.diff(np.sqrt(levels - 1)), np.diff(np.sqrt(levels - 1))[0], rtol=1e-6)
    assert levels[-1] < np.quantile(bowl().values, 0.9) + 1e-9
    for level, one in zip(levels, lines.get_paths(), strict=True):
        a, b = one.vertices.T
        np.testing.assert_allclose(a**2 + 4 * b**2 + 1, level, rtol=0.1)  # straight between points of the grid
    np.testing.assert_allclose(np.transpose(line(ax, "sgd").get_data()), POINTS, atol=1e-6)
    np.testing.assert_allclose(np.transpose(line(ax, "adam").get_data()), POINTS[::-1], atol=1e-6)
    marks = {one.get_marker(): np.ravel(one.get_data()) for one in ax.lines if one.get_label() in ("_end", "_center")}
    np.testing.assert_allclose(marks["+"], (0.5, 1.0))
    assert ax.get_xlabel() == "network.layer_0.w[0, 0]"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sgd", "adam"]


def test_surface_is_cut_off_above_the_valley():
    ax = plots.surface(bowl())
    assert ax.collections[0].get_array().max() > np.quantile(bowl().values, 0.95)  # a bowl is whole
    cliff = bowl()
    cliff.values[0, 0] = 1e6
    ax = plots.surface(cliff)
    top = 1 + 3 * (np.quantile(cliff.values, 0.9) - 1)
    np.testing.assert_allclose(ax.get_zlim()[1], top, rtol=0.05)
    with pytest.raises(ValueError, match="projection='3d'"):
        plots.surface(bowl(), ax=Figure().add_subplot())


def test_contours_accept_some_nonfinite_values_and_reject_all_nonfinite():
    holes = bowl()
    holes.values[0, 0] = np.nan
    plots.contours(holes).figure.canvas.draw()
    plots.contours(holes._replace(values=np.ones_like(holes.values))).figure.canvas.draw()
    with pytest.raises(ValueError, match="no finite value"):
        plots.contours(holes._replace(values=np.full_like(holes.values, np.inf)))


def test_size_curves_show_seeds_means_and_verdicts():
    rows = swept()
    ax = plots.size_curves(rows[::-1])
    for name, label in (("train", "training, mean of 4 seeds"), ("validation", "validation, mean of 4 seeds")):
        size, mean = line(ax, label).get_data()
        np.testing.assert_array_equal(size, [1, 4, 16, 64])
        np.testing.assert_allclose(mean, [getattr(row, name).mean() for row in rows])
    dots = [one for one in ax.lines if one.get_marker() == "o"]
    assert sorted(v for one in dots for v in one.get_ydata()) == sorted(
        v for row in rows for v in (*row.train, *row.validation)
    )
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "units of the hidden layer"
    assert line(ax, "best validation: 16").get_xdata()[0] == 16
    # 1 and 4 underfit, so the shade ends halfway to 16 on the log axis; 64 overfits
    texts = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert texts["underfitting"] < 8 and texts["overfitting"] > 32 and len(ax.texts) == 2


@pytest.mark.parametrize(
    ("hidden", "label", "scale"),
    [
        ([(5,), (5, 5)], "hidden layers of 5 units", "linear"),
        ([(5, 5), (9, 9)], "units of each hidden layer", "log"),
        ([(5,), (9, 9)], "hidden units", "log"),
    ],
)
def test_size_curves_axis_is_what_the_sizes_differ_in(hidden, label, scale):
    rows = [SizeResult(one, row.train, row.validation, 1.0) for one, row in zip(hidden, swept(), strict=False)]
    ax = plots.size_curves(rows)
    assert (ax.get_xlabel(), ax.get_xscale()) == (label, scale)


def test_weight_histograms_show_exact_zeros_apart_from_the_bins():
    rng = np.random.default_rng(0)
    model = dubito.Model(dubito.mlp(20, (10,)), dubito.Gaussian(1.0))
    tree = model.init(jax.random.key(0))
    weights = rng.normal(size=(20, 10)).astype(np.float32)
    weights[:8] = 0
    tree["network"]["layer_0"]["w"] = weights
    one = Samples(model, jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree))
    ax = plots.weight_histograms({"L1": one})
    share, edges, _ = ax.patches[0].get_data()
    everything = np.concatenate([weights.ravel(), np.ravel(tree["network"]["layer_1"]["w"])])
    np.testing.assert_allclose(share, np.histogram(everything[everything != 0], edges)[0] / 210)
    assert share.sum() == pytest.approx(130 / 210)
    (diamond,) = [one for one in ax.lines if one.get_marker() == "D"]
    np.testing.assert_allclose(np.ravel(diamond.get_data()), [0, 80 / 210])
    (label,) = [text.get_text() for text in ax.get_legend().get_texts()]
    assert label == f"L1: 210 weights, 38 % exactly 0, mean |w| {np.abs(everything).mean():.2g}"


def test_contours_show_the_box_of_the_plane():
    plane = Plane(params(0.0, 0.0), (params(1.0, 0.0), params(0.0, 1.0)), (0.0, 0.0), ((-1, 1), (-2, 2)), ("a", "b"))
    x = np.random.default_rng(0).normal(size=(20, 2))
    seen = landscape.evaluate(MODEL, x, x[:, 0], plane)
    ax = plots.contours(seen)
    assert ax.get_xlim() == (-1, 1) and ax.get_ylim() == (-2, 2) and seen.values.shape == (51, 51)
