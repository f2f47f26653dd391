"""The table of activations in float64: formulas, derivatives and ranges against NumPy and SciPy, and its picture."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import optimize, special

from dubito import mlp, plots
from dubito.models.activations import ACTIVATIONS

EPS, STEP = 1e-12, 1e-5
LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772  # Klambauer et al. 2017


def s(x):
    return special.expit(x)


def density(x):
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def mish_gate(x):
    return np.tanh(np.logaddexp(0, x))


# function and derivative by the formulas of the table, and where the derivative jumps or the function does
TABLE = {
    "identity": (lambda x: x, np.ones_like),
    "threshold": (lambda x: np.where(x >= 0, 1.0, 0.0), np.zeros_like),
    "sigmoid": (s, lambda x: s(x) * (1 - s(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(0, x), lambda x: np.where(x > 0, 1.0, 0.0)),
    "leaky_relu": (lambda x: np.where(x >= 0, x, 0.01 * x), lambda x: np.where(x >= 0, 1, 0.01)),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1, np.exp(x))),
    "selu": (
        lambda x: LAMBDA * np.where(x > 0, x, ALPHA * np.expm1(x)),
        lambda x: LAMBDA * np.where(x > 0, 1, ALPHA * np.exp(x)),
    ),
    "gelu": (lambda x: x * special.ndtr(x), lambda x: special.ndtr(x) + x * density(x)),
    "silu": (lambda x: x * s(x), lambda x: s(x) + x * s(x) * (1 - s(x))),
    "softplus": (lambda x: np.logaddexp(0, x), s),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "mish": (lambda x: x * mish_gate(x), lambda x: mish_gate(x) + x * s(x) * (1 - mish_gate(x) ** 2)),
}
# as printed; the least and the largest value, and whether each is attained
INFINITE = (np.inf, False)
RANGES = {
    "identity": ("(-∞, ∞)", (-np.inf, False), INFINITE),
    "threshold": ("{0, 1}", (0, True), (1, True)),
    "sigmoid": ("(0, 1)", (0, False), (1, False)),
    "tanh": ("(-1, 1)", (-1, False), (1, False)),
    "relu": ("[0, ∞)", (0, True), INFINITE),
    "leaky_relu": ("(-∞, ∞)", (-np.inf, False), INFINITE),
    "elu": ("(-1, ∞)", (-1, False), INFINITE),
    "selu": ("(-λα, ∞)", (-LAMBDA * ALPHA, False), INFINITE),
    "gelu": ("[-0.17, ∞)", ("lowest", True), INFINITE),
    "silu": ("[-0.28, ∞)", ("lowest", True), INFINITE),
    "softplus": ("(0, ∞)", (0, False), INFINITE),
    "softsign": ("(-1, 1)", (-1, False), (1, False)),
    "mish": ("[-0.31, ∞)", ("lowest", True), INFINITE),
}


@pytest.fixture(scope="module")
def found():
    """{name: (points, values, derivatives)} of the library in float64, and its derivative at 0."""
    x = np.concatenate([np.linspace(-6, 6, 241), [-15.0, 15.0]])
    with jax.enable_x64(True):

        def all_of(x):
            return {name: jax.jvp(ACTIVATIONS[name].function, (x,), (jnp.ones_like(x),)) for name in TABLE}

        return x, jax.tree.map(np.asarray, jax.jit(all_of)(jnp.asarray(x)))


def test_activation_table_is_complete():
    assert set(ACTIVATIONS) == {*TABLE, "softmax"} == {*RANGES, "softmax"}
    assert all(all(row[2:]) for row in ACTIVATIONS.values())
    assert {name: ACTIVATIONS[name].range for name in RANGES} == {name: row[0] for name, row in RANGES.items()}


@pytest.mark.parametrize("name", TABLE)
def test_activation_values_and_derivatives_equal_closed_forms(found, name):
    """Against the closed forms everywhere (at 0 the derivative is the table's), and these against central differences."""
    x, curves = found
    function, slope = TABLE[name]
    values, derivatives = curves[name]
    assert values.dtype == derivatives.dtype == np.float64
    np.testing.assert_allclose(values, function(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(derivatives, slope(x), rtol=1e-11, atol=1e-13)
    smooth = x[abs(x) > 1e-9]
    differences = (function(smooth + STEP) - function(smooth - STEP)) / (2 * STEP)
    np.testing.assert_allclose(differences, slope(smooth), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", RANGES)
def test_activation_ranges_are_attained_or_approached(found, name):
    """Every value is inside, open ends are never attained, and both ends are come near to."""
    values, function = found[1][name][0], TABLE[name][0]
    for side, (end, attained) in zip((-1, 1), RANGES[name][1:], strict=True):
        if end == "lowest":  # a minimum between −3 and 0; the printed one is rounded
            best: Any = optimize.minimize_scalar(function, bounds=(-3, 0), method="bounded", options={"xatol": 1e-10})
            end = best.fun
            assert RANGES[name][0].startswith(f"[{end:.2f}")
        extreme = side * np.max(side * values)
        assert side * extreme <= side * end + EPS if attained else side * extreme < side * end
        far = function(side * np.array([1e3, 1e9]) if name == "softsign" else side * np.array([30.0, 300.0]))
        if np.isinf(end):
            assert side * far[1] > 2 * side * far[0] > 0
        elif attained:
            assert abs(extreme - end) < 1e-3
        else:
            assert abs(far[1] - end) < 1e-8


def test_softmax_has_the_jacobian_and_the_range_of_the_table():
    x = np.array([0.3, -1.0, 2.0])
    with jax.enable_x64(True):
        function = ACTIVATIONS["softmax"].function
        values, jacobian = np.asarray(function(jnp.asarray(x))), np.asarray(jax.jacobian(function)(jnp.asarray(x)))
    exact = special.softmax(x)
    np.testing.assert_allclose(values, exact, rtol=1e-14)
    np.testing.assert_allclose(jacobian, np.diag(exact) - np.outer(exact, exact), atol=1e-15)
    moved = x[None] + STEP * np.eye(3), x[None] - STEP * np.eye(3)
    differences = (special.softmax(moved[0], axis=1) - special.softmax(moved[1], axis=1)).T / (2 * STEP)
    np.testing.assert_allclose(jacobian, differences, atol=1e-10)
    assert np.all((values > 0) & (values < 1)) and abs(values.sum() - 1) < 1e-15


def test_activation_plot_shows_functions_and_derivatives():
    picture: Any = plots.activations
    ax: Any = Figure().add_subplot()
    assert plots.activations(["relu", "tanh"], ax=ax) is ax
    names = [panel.get_title(loc="left") for panel in picture().child_axes]
    assert names == list(TABLE)
    panels = dict(zip(("relu", "tanh"), ax.child_axes, strict=True))
    for name, panel in panels.items():
        assert panel.get_title(loc="right") == ACTIVATIONS[name].range
        for line, function in zip(panel.lines[2:], TABLE[name], strict=True):
            x, y = (np.asarray(values, float) for values in line.get_data())
            shown = np.isfinite(x)
            np.testing.assert_allclose(y[shown], function(x[shown]), atol=3e-6)
            assert np.sum(~shown) == (name == "relu" and line is panel.lines[3])  # its derivative's jump is open
    figure: Any = picture().figure
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


@pytest.mark.parametrize(
    ("names", "message"), [(["softmax"], "one number"), (["rellu"], "did you mean 'relu'"), ([], "empty")]
)
def test_activation_plot_refuses_what_it_cannot_draw(names, message):
    with pytest.raises(ValueError, match=message):
        plots.activations(names)


def test_mlp_refuses_activations_of_other_libraries():
    with pytest.raises(
        ValueError, match=r"activation=<ufunc 'tanh'> must be a function that JAX can differentiate, as jnp.tanh is"
    ):
        mlp(2, (3,), 1, np.tanh)
