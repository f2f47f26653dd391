"""The computation graph: gradients against JAX, costs against counts by hand, and what the pictures show."""

import re
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dubito
from dubito.inspection.graph import autodiff, drawing, layout
from dubito.models.model import Batch

UNARY = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "square": jnp.square,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "neg": lambda a: -a,
}
BINARY = {"add": jnp.add, "mul": jnp.multiply, "maximum": jnp.maximum, "matmul": jnp.matmul, "atan2": jnp.arctan2}
SHARED = {
    "scan": lambda a: jax.lax.scan(lambda c, row: (jnp.tanh(c + row), c * row), a[0], a)[1],
    "cond": lambda a: jax.lax.cond(a[0, 0] > 0, jnp.sin, jnp.cos, a),
}
STEPS = st.lists(
    st.tuples(st.sampled_from([*UNARY, *BINARY, *SHARED]), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9
)


def program(steps):
    """A random function of two matrices: each step is an operation on two earlier results."""

    def function(a, b):
        made = [a, b]
        for name, first, second in steps:
            x, y = made[first % len(made)], made[second % len(made)]
            made.append(BINARY[name](x, y) if name in BINARY else (UNARY | SHARED)[name](x))
        return jnp.mean(made[-1]) + 0.1 * jnp.mean(made[-1] * made[len(made) // 2])

    return function


@given(STEPS, st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_gradient_of_random_programs_equals_jax(steps, seed):
    with jax.enable_x64(True):
        a, b = (jnp.asarray(m) for m in np.random.default_rng(seed).normal(size=(2, 3, 3)))
        found = dubito.graph(program(steps), a, b)
        value, wanted = jax.value_and_grad(program(steps), (0, 1))(a, b)  # step by step: most are compiled already
        assert float(found.value) == pytest.approx(float(value), rel=1e-12)
        for one, other in zip(found.gradient(), wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


NETWORKS = {
    "relu": dubito.mlp(4, (5, 3), 1),
    "periodic silu": dubito.mlp(4, (5,), 1, "silu", periodic=2),
    "convolutions": dubito.convnet((4, 4, 1), (2,), 3, 1, "tanh"),
    "own": dubito.Network(
        lambda k: {"u": jax.random.normal(k, (4, 4))}, lambda p, x: jnp.sin(x @ p["u"] @ p["u"].T)[:, :1]
    ),
}
LIKELIHOODS = {
    "gaussian": dubito.Gaussian(),
    "heteroscedastic": dubito.HeteroscedasticGaussian(),
    "student": dubito.StudentT(),
    "bernoulli": dubito.Bernoulli(),
    "categorical": dubito.Categorical(3),
    "laplace": dubito.LaplaceNoise(),
    "poisson": dubito.Poisson(),
    "negative binomial": dubito.NegativeBinomial(),
    "ordered": dubito.Ordered(3),
    "censored": dubito.CensoredGaussian(),
}


def log_joint(network, likelihood):
    """(−log p(D, θ) per example as a function of the parameters, parameters)"""
    rng = np.random.default_rng(0)
    inputs = 16 if isinstance(network, type(NETWORKS["convolutions"])) else 4
    x = jnp.asarray(rng.normal(size=(7, inputs)), jnp.float32)
    whole = rng.integers(0, 2, 7)
    y = jnp.asarray(whole if likelihood.task == "classification" else rng.normal(size=(7, 1)).astype(np.float32))
    if likelihood.discrete:
        y = jnp.asarray(whole[:, None], jnp.float32)
    if likelihood.columns_per_target > 1:  # beside the values the marks of those censored
        y = jnp.concatenate([y, jnp.asarray(whole[:, None], jnp.float32)], axis=1)
    if not isinstance(network, dubito.Network):
        network = type(network)(**{**vars(network), "outputs": likelihood.width})
    model = dubito.Model(network, likelihood)
    batch = Batch(x, y, jnp.ones(7), jnp.float32(1), jnp.float32(7))
    return (lambda params: -model.log_joint(params, batch) / 7), model.init(jax.random.key(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_of_every_network_equals_jax(name):
    check_gradient(*log_joint(NETWORKS[name], LIKELIHOODS["gaussian"]))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient_of_every_likelihood_equals_jax(name):
    check_gradient(*log_joint(NETWORKS["relu"], LIKELIHOODS[name]))


def check_gradient(function, params):
    found = dubito.graph(function, params).gradient()
    wanted = jax.jit(jax.grad(function))(params)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_gradient_check_fails_if_joining_branches_are_not_added(monkeypatch):
    """Keeping only the last contribution where branches join must fail the comparison."""

    def last_share(nodes, values, seeds, through=None):
        slopes = [[None] * len(node.shapes) for node in nodes]
        for source, seed in seeds.items():
            slopes[source.node][source.result] = seed
        for node in reversed(nodes):
            if node.inputs and slopes[node.number][0] is not None:
                for position, share in autodiff.pull(node, values, slopes[node.number]):
                    slopes[node.inputs[position].node][node.inputs[position].result] = share
        return slopes

    monkeypatch.setattr(autodiff, "backward", last_share)
    with pytest.raises(AssertionError):
        check_gradient(*log_joint(NETWORKS["own"], LIKELIHOODS["gaussian"]))


def test_jacobian_of_both_modes_equals_jax():
    def function(a, b):
        return {"first": jnp.sin(a) * b, "second": jnp.sum(a * a) + b[0]}

    a, b = jnp.array([0.3, -0.7, 1.1]), jnp.array([2.0, -1.0, 0.5])
    found = dubito.graph(function, a, b)
    whole = jax.jacobian(lambda a, b: jnp.concatenate([v.ravel() for v in jax.tree.leaves(function(a, b))]), (0, 1))(
        a, b
    )
    wanted = np.concatenate(whole, axis=1)
    np.testing.assert_allclose(found.jacobian("reverse"), wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.jacobian("forward"), wanted, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match=r"mode='sideways' is unknown.*reverse, forward"):
        found.jacobian("sideways")
    with pytest.raises(ValueError, match=r"one real number; got arrays of shapes \[\(3,\), \(\)\]"):
        found.gradient()


def test_edges_carry_local_derivatives():
    found = dubito.graph(lambda a, b: jnp.sin(a * b) + a, 2.0, 0.5)
    names = {node.number: node.label for node in found.nodes}
    edges = {(names[e.tail], names[e.head]): e.derivative for e in found.edges}
    wanted = {("a", "mul"): 0.5, ("b", "mul"): 2.0, ("mul", "sin"): np.cos(1.0), ("sin", "add"): 1.0, ("a", "add"): 1.0}
    assert edges == pytest.approx(wanted, rel=1e-6)
    matrix = dubito.graph(lambda w, x: x @ w, jnp.ones((3, 2)), jnp.arange(6.0).reshape(2, 3))
    edge = next(edge for edge in matrix.edges if edge.tail == 0)
    assert edge.derivative is None
    exact = np.einsum("ni,kj->nkij", np.arange(6.0).reshape(2, 3), np.eye(2))
    np.testing.assert_allclose(matrix.jacobian()[:, :6], exact.reshape(4, 6))


def test_gradient_of_integers_unused_arguments_and_kinks():
    def function(a, k, unused):
        return jnp.sum(jax.nn.relu(a) ** 2) + jnp.float32(k) + jnp.sum(jax.nn.relu(a))

    a = jnp.array([-1.0, 0.0, 2.0])
    slope, whole, zeros = dubito.graph(function, a, 3, {"z": jnp.ones(2)}).gradient()
    np.testing.assert_array_equal(slope, [0.0, 0.0, 5.0])  # relu has derivative 0 at 0
    assert whole is None
    np.testing.assert_array_equal(zeros["z"], [0.0, 0.0])


def test_costs_of_reverse_mode_are_a_few_functions_and_of_forward_mode_one_per_input():
    rng = np.random.default_rng(0)
    w, v, x = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((20, 30), (30, 1), (50, 20)))
    found = dubito.graph(lambda w, v: jnp.mean(jnp.square(jnp.tanh(x @ w) @ v)), w, v)
    products = 2 * 50 * 20 * 30 + 2 * 50 * 30
    assert sum(node.cost for node in found.nodes if node.name == "dot_general") == products
    cost = found.costs
    assert products < cost.function < 1.2 * products
    assert (cost.rows, cost.columns) == (1, 630)
    assert 2 < cost.reverse / cost.function < 5
    assert 600 < cost.forward / cost.function < 3 * 630


@pytest.fixture(scope="module")
def small():
    """The picture of (a + b)(b + 1) at 2, 1, where b joins two branches."""
    return dubito.graph(lambda a, b: (a + b) * (b + 1), 2.0, 1.0)


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_picture_shows_operations_values_and_derivatives(small):
    found = texts(small.svg())
    assert found.count("+") == 1 and "+ 1" in found and "×" in found
    assert "slope 2 + 3 = 5" in found  # at b: through a + b, and through b + 1
    assert "slope 2" in found and "= 6" in found
    assert sorted(t for t in found if t in ("1", "2", "3")) == ["1", "1", "1", "2", "3"]  # the edges' derivatives
    assert small._repr_svg_() == small.svg()
    dot = small.dot()
    assert dot.startswith("digraph {") and dot.count("->") == 5 and 'label="3"' in dot


def test_graph_of_a_network_folds_by_layer():
    function, params = log_joint(NETWORKS["relu"], LIKELIHOODS["gaussian"])
    found = dubito.graph(function, params)
    boxes, links = drawing.fold_scopes(found)
    names = [box.lines[0] for box in boxes]
    assert {"layer_0", "layer_1", "layer_2", "likelihood", "prior", "params.network.layer_0"} <= set(names)
    at = {name: number for number, name in enumerate(names)}
    assert (at["layer_0"], at["layer_1"]) in links and (at["params.network.layer_0"], at["prior"]) in links
    assert at["layer_0"] < at["layer_1"] < at["layer_2"] < at["likelihood"]
    inner, _ = drawing.fold_scopes(found, ["layer_0"])
    assert {"product", "+", "relu"} <= {line for box in inner for line in box.lines[:1]}
    every, _ = drawing.fold_scopes(found, "all")
    assert len(every) > len(inner) > len(boxes)
    assert "activation" not in {box.lines[0] for box in every}
    assert "layer_1" in found.table() and "rms slope" in found.table()
    with pytest.raises(ValueError, match="no scope is called 'layer_9'; the outermost are layer_0, layer_1"):
        found.svg("layer_9")


def test_fold_scopes_opens_scopes_that_read_each_other():
    def function(a):
        with jax.named_scope("inner"):
            b = jnp.sin(a)
        c = b * 2
        with jax.named_scope("inner"):
            return jnp.cos(c)

    boxes, links = drawing.fold_scopes(dubito.graph(function, 1.0))
    assert [box.lines[0] for box in boxes] == ["a", "sin", "× 2", "cos"]
    assert all(tail < head for tail, head in links)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_layout_boxes_do_not_overlap_and_links_go_right(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 15))
    links = {(int(a), int(b)): [] for a, b in (np.sort(rng.choice(count, 2, replace=False)) for _ in range(2 * count))}
    texts = [["x" * int(rng.integers(1, 30))] * int(rng.integers(1, 4)) for _ in range(count)]
    boxes = [layout.Box("scope", [], lines, False) for lines in texts]
    root = ElementTree.fromstring(layout.layered_svg(boxes, links))
    found = [
        {k: float(e.get(k)) for k in ("x", "y", "width", "height")}
        for e in root
        if e.tag.endswith("rect") and e.get("rx")
    ]
    assert len(found) == count
    for k, one in enumerate(found):
        for other in found[:k]:
            apart = [
                one[a] + one[b] <= other[a] + 0.2 or other[a] + other[b] <= one[a] + 0.2
                for a, b in (("x", "width"), ("y", "height"))
            ]
            assert any(apart)
    for path in (element.get("d") for element in root if element.tag.endswith("path")):
        xs = [float(n) for n in re.findall(r"[MC ](-?[\d.]+) -?[\d.]+", path)]
        assert xs == sorted(xs)
