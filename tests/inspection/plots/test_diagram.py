"""The diagram of a network against its weights."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

import dubito
from dubito.inspection.plots import style
from dubito.inspection.plots.diagram import network_diagram

MODEL = dubito.Model(dubito.mlp(3, (4,)), dubito.Gaussian())


def normals(sd=0.5):
    mean = MODEL.init(jax.random.key(0))
    return dubito.DiagonalNormal(MODEL, mean, jax.tree.map(lambda leaf: jnp.full_like(leaf, sd), mean))


def lines(ax):
    """{(ends): (width, color)} of the weights' lines, which come last."""
    found = ax.collections[-1]
    rows = zip(found.get_segments(), found.get_linewidths(), found.get_colors(), strict=True)
    return {tuple(map(tuple, ends)): (width, color) for ends, width, color in rows}


def columns(ax):
    """The circles' centers by layer, from the top."""
    centers = [patch.center for patch in ax.patches]
    return [sorted((c for c in centers if c[0] == x), reverse=True) for x in sorted({x for x, _ in centers})]


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("sizes", "circles", "dotted"),
    [
        ([3, 5, 2], [3, 5, 2], 0),
        ([12, 1], [12, 1], 0),
        ([13, 64, 64, 1], [13, 64, 64, 1], 0),
        ([13, 65, 1], [10, 10, 1], 2),
        ([50, 50, 50, 51], [10, 10, 10, 10], 4),
    ],
)
def test_diagram_of_sizes_has_a_circle_per_unit_and_a_line_per_weight(sizes, circles, dotted):
    ax = network_diagram(sizes)
    assert len(ax.patches) == sum(circles)
    (weights,) = ax.collections
    assert len(weights.get_segments()) == sum(a * b for a, b in pairwise(circles))
    centers = {patch.center for patch in ax.patches}
    assert {tuple(end) for segment in weights.get_segments() for end in segment} == centers
    assert len(ax.lines) == dotted
    assert [int(text.get_text().split()[0]) for text in ax.texts] == sizes
    radius = {patch.center[0]: patch.radius for patch in ax.patches}
    for column in columns(ax):  # no two circles of a layer touch
        assert all(a[1] - b[1] > 2 * radius[a[0]] for a, b in pairwise(column))
    assert max(ax.figure.get_size_inches()) < 14


def test_diagram_lines_show_sign_size_and_certainty_of_weights():
    posterior = normals()
    ax = network_diagram(posterior)
    drawn, units = lines(ax), columns(ax)
    weights = [np.asarray(posterior.mean["network"][f"layer_{k}"]["w"], float) for k in (0, 1)]
    largest = max(np.abs(w).max() for w in weights)
    assert len(drawn) == 16 and labels(ax)[0] == f"positive weight, this wide: {largest:.2g}"
    for layer, w in enumerate(weights):
        for (i, j), value in np.ndenumerate(w):
            width, color = drawn[units[layer][i], units[layer + 1][j]]
            assert width == pytest.approx(3 * abs(value) / largest, rel=1e-6)
            assert matplotlib.colors.to_hex(color) == (style.BLUE if value > 0 else style.RED).lower()
            right = stats.norm.cdf(abs(value) / 0.5)
            assert color[3] == pytest.approx(max(right - (1 - right), 0.06), rel=1e-5)
    point = network_diagram(dubito.Samples(MODEL, jax.tree.map(lambda leaf: leaf[None], posterior.mean)))
    assert {color[3] for _, color in lines(point).values()} == {1.0}


def test_diagram_shows_moments_of_draws_and_one_member_of_an_ensemble():
    params = normals().sample(jax.random.key(1), 40)
    ax = network_diagram(dubito.Samples(MODEL, params))
    w = np.asarray(params["network"]["layer_1"]["w"], float)[:, 2, 0]
    units = columns(ax)
    ratio = abs(w.mean()) / w.std(ddof=1)
    assert lines(ax)[units[1][2], units[2][0]][1][3] == pytest.approx(2 * stats.norm.cdf(ratio) - 1, rel=1e-4)
    assert ax.get_legend().get_title().get_text() == "mean weights"

    three = dubito.Samples(MODEL, jax.tree.map(lambda leaf: leaf[:3], params))
    mixture = dubito.Mixture(MODEL, (normals(0.1), normals(2.0)))
    for posterior, member, title in ((three, 1, "member 2 of 3"), (mixture, None, "member 1 of 2; mean weights")):
        ax = network_diagram(posterior, member=member)
        assert ax.get_legend().get_title().get_text() == title
    with pytest.raises(ValueError, match="member counts from 0 and there are 3; got 3"):
        network_diagram(three, member=3)


def test_diagram_of_a_draw_crosses_out_dropped_units():
    params = dubito.Model(dubito.mlp(3, (9, 6)), dubito.Gaussian()).init(jax.random.key(0))
    rates = jax.tree.map(lambda leaf: None, params["network"])
    for layer, rate in (("layer_0", 0.3), ("layer_1", 0.5), ("layer_2", 0.5)):
        rates[layer]["w"] = rate
    posterior = dubito.DropoutPosterior(dubito.Model(dubito.mlp(3, (9, 6)), dubito.Gaussian()), params, rates)
    draw = jax.tree.map(lambda leaf: np.asarray(leaf[0]), posterior.sample(jax.random.key(5), 1))["network"]
    kept = [draw[f"layer_{k}"]["w"].any(axis=1) for k in range(3)] + [np.ones(1, bool)]
    assert 0 < sum(map(np.sum, kept[:3])) < 18
    ax = network_diagram(posterior, key=jax.random.key(5))
    units = columns(ax)
    struck = {(x, y) for one in ax.lines if one.get_marker() == "x" for x, y in zip(*one.get_data(), strict=True)}
    expected = {units[k][i] for k in range(4) for i in np.flatnonzero(~kept[k])}
    assert struck == {(float(x), float(y)) for x, y in expected}
    assert len(lines(ax)) == sum(a.sum() * b.sum() for a, b in pairwise(kept))
    assert "dropped unit" in labels(ax)
    assert len(lines(network_diagram(posterior))) == 3 * 9 + 9 * 6 + 6


def test_diagram_counts_exact_zeros_and_does_not_draw_them():
    params = MODEL.init(jax.random.key(0))
    params["network"]["layer_0"]["w"] = params["network"]["layer_0"]["w"].at[0].set(0)
    ax = network_diagram(dubito.Samples(MODEL, jax.tree.map(lambda leaf: leaf[None], params)))
    assert len(lines(ax)) == 12
    assert ax.get_legend().get_title().get_text() == "25 % of the weights exactly 0, not drawn"


def test_diagram_joins_periodic_features_to_their_columns():
    model = dubito.Model(dubito.mlp(3, (4,), periodic=2, numeric=(0, 2)), dubito.Gaussian())
    params = jax.tree.map(lambda leaf: leaf[None], model.init(jax.random.key(0)))
    ax = network_diagram(dubito.Samples(model, params))
    assert [len(column) for column in columns(ax)] == [3, 9, 4, 1]
    joins, weights = ax.collections
    units = columns(ax)
    ends = {tuple(map(tuple, line)) for line in joins.get_segments()}
    pairs = [(0, 0), (1, 1), (2, 2), (0, 3), (2, 4), (0, 5), (2, 6), (0, 7), (2, 8)]
    assert ends == {(units[0][a], units[1][b]) for a, b in pairs}
    assert len(weights.get_segments()) == 9 * 4 + 4


@pytest.mark.slow
def test_diagram_of_an_estimator_names_its_columns():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(size=60), "sex": rng.choice(["f", "m"], 60)})
    method = dubito.CrossFit(dubito.MAP(epochs=2), 2)
    model = dubito.BayesianRegressor(method, hidden=(70,), periodic=2, random_state=0).fit(frame, frame["age"] ** 2)
    ax = network_diagram(model, ax=Figure().add_subplot())
    texts = [text.get_text().strip() for text in ax.texts]
    assert texts == ["3 inputs", "6 columns and waves", "70 hidden units", "1 output", "age", "sex=f", "sex=m"]
    assert ax.get_legend().get_title().get_text() == "member 1 of 4"


def test_diagram_rejects_networks_without_layers():
    with pytest.raises(ValueError, match="at least two layers"):
        network_diagram([3])
    with pytest.raises(ValueError, match="need a fitted network"):
        network_diagram([3, 1], member=0)
    with pytest.raises(ValueError, match="expected a posterior or a fitted estimator, got str"):
        network_diagram("model")
    image = dubito.Model(dubito.convnet((4, 4, 1), (2,), 3, 1), dubito.Gaussian())
    params = jax.tree.map(lambda leaf: leaf[None], image.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"multilayer perceptrons.*ConvNet"):
        network_diagram(dubito.Samples(image, params))
