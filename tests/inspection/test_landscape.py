"""Losses on planes against closed forms and direct evaluation; paths against fits and against descent written out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import dubito
from dubito import landscape
from dubito.models.model import Batch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 3)).astype(np.float32)
Y = (np.sin(2 * X[:, :1]) + X[:, 1:2] + 0.3 * RNG.normal(size=(700, 1))).astype(np.float32)
WEIGHT = RNG.integers(0, 3, 700).astype(np.float32)
LINEAR = dubito.Model(dubito.mlp(3, ()), dubito.Gaussian(2.0), dubito.Normal(0.7))
MODEL = dubito.Model(dubito.mlp(3, (5, 4), activation="tanh"), dubito.Gaussian())
FULL = dubito.MAP(epochs=30, batch_size=None, learning_rate=0.1, optimizer="sgd", schedule="constant")


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)])


def at(path, number):
    return jax.tree.map(lambda leaf: leaf[number], path.params)


@pytest.fixture(scope="module")
def path():
    method = dubito.MAP(epochs=4, batch_size=64, learning_rate=0.05)
    return landscape.descent_path(MODEL, X[:200], Y[:200], method, key=jax.random.key(3), points=7)


@pytest.mark.parametrize("objective", ["joint", "likelihood"])
def test_evaluate_linear_model_equals_its_quadratic(objective):
    params = LINEAR.init(jax.random.key(1))
    plane = landscape.random_plane(params, key=jax.random.key(2), reach=3.0)
    found = landscape.evaluate(LINEAR, X, Y, plane, first=np.linspace(-3, 3, 9), weight=WEIGHT, objective=objective)
    assert found.values.shape == (51, 9) and found.second[[0, -1]].tolist() == [-3, 3]
    w, b = (flat(params["network"]["layer_0"][name]) for name in "wb")
    d, e = (flat(one["network"]["layer_0"]["w"]) for one in plane.directions)
    w = w + found.first[:, None] * d + found.second[:, None, None] * e
    residual = Y[:, 0] - w @ X.T.astype(float) - b
    expected = (0.5 * np.log(2 * np.pi / 2.0) + residual**2) @ WEIGHT.astype(float)
    if objective == "joint":
        expected = expected + (w**2).sum(-1) / (2 * 0.7**2) + 3 * np.log(0.7) + (b**2).sum() / 2 + 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.values, expected / WEIGHT.sum(), rtol=3e-6)


@pytest.mark.slow
def test_evaluate_equals_the_model_at_each_point_for_any_chunks(path, monkeypatch):
    plane = landscape.path_plane(path)
    monkeypatch.setattr(landscape, "BYTES", 2**18)  # several chunks of points; rows are two blocks of 512
    first, second = np.linspace(-1, 1, 7), np.linspace(-2, 1, 5)
    batch = Batch(*(jnp.asarray(a) for a in (X, Y, WEIGHT)), jnp.float32(1), jnp.float32(1))
    for objective, density in (("joint", MODEL.log_joint), ("likelihood", MODEL.log_likelihood)):
        found = landscape.evaluate(MODEL, X, Y, plane, first=first, second=second, weight=WEIGHT, objective=objective)
        density = jax.jit(density)
        expected = [[-density(plane.at(a, b), batch) / WEIGHT.sum() for a in first] for b in second]
        np.testing.assert_allclose(found.values, expected, rtol=2e-5)


def test_parameter_plane_has_the_two_parameters_as_coordinates():
    params = MODEL.init(jax.random.key(1))
    names = "network.layer_1.w[4, 2]", "likelihood.log_precision[0]"
    plane = landscape.parameter_plane(params, *names, reach=0.5)
    center = params["network"]["layer_1"]["w"][4, 2], params["likelihood"]["log_precision"][0]
    np.testing.assert_allclose(plane.center, center, rtol=1e-7)
    np.testing.assert_allclose(plane.box, [(float(c) - 0.5, float(c) + 0.5) for c in center], rtol=1e-6)
    np.testing.assert_allclose(flat(plane.at(*plane.center)), flat(params), rtol=1e-6)
    moved = plane.at(7.0, -3.0)
    assert moved["network"]["layer_1"]["w"][4, 2] == 7 and moved["likelihood"]["log_precision"][0] == -3
    assert np.sum(flat(moved) != flat(params)) == 2
    for name, message in (
        ("network.layer_9.w[0, 0]", "does not name one number.*network.layer_0.w"),
        ("network.layer_1.w[4]", r"layer_1.w \(5, 4\)"),
        ("network.layer_1.w[5, 0]", "does not name"),
        ("network.layer_1.w[a, b]", "does not name"),
        (names[1], "two different"),
    ):
        with pytest.raises(ValueError, match=message):
            landscape.parameter_plane(params, name, names[1])


@pytest.mark.slow
def test_random_plane_directions_have_the_norm_of_each_filter():
    networks = dubito.mlp(3, (5,), periodic=2), dubito.convnet((4, 4, 2), (3,), 4, 2)
    for network in networks:
        params = dubito.Model(network, dubito.Gaussian()).init(jax.random.key(1))
        plane = landscape.random_plane(params, key=jax.random.key(2))
        one, other = (direction["network"] for direction in plane.directions)
        leaves = zip(*map(jax.tree.leaves, (params["network"], one, other)), strict=True)
        for leaf, *directions in leaves:
            for d in directions:
                if leaf.ndim < 2:
                    assert not np.any(d)
                    continue
                axes = tuple(range(leaf.ndim - 1))
                norms = [np.linalg.norm(np.asarray(a, float).reshape(-1, a.shape[-1]), axis=0) for a in (d, leaf)]
                assert len(axes) == leaf.ndim - 1 and norms[0].shape == (leaf.shape[-1],)
                np.testing.assert_allclose(*norms, rtol=1e-5)
        assert np.abs(np.corrcoef(flat(one), flat(other))[0, 1]) < 0.5  # two directions, not one
        assert not np.any(flat(plane.directions[0]["likelihood"]))


def test_path_plane_directions_are_eigenvectors_of_the_covariance(path):
    plane = landscape.path_plane(path)
    points = np.stack([flat(at(path, t)) for t in range(len(path.steps))])
    values, vectors = np.linalg.eigh(np.cov(points, rowvar=False))
    directions = np.stack([flat(direction) for direction in plane.directions])
    np.testing.assert_allclose(np.abs(directions @ vectors[:, [-1, -2]]), np.eye(2), atol=1e-5)
    for label, value in zip(plane.labels, values[[-1, -2]], strict=True):
        assert f"({100 * value / values.sum():.0f} % of the variance)" in label
    np.testing.assert_array_equal(flat(plane.origin), points[-1])
    # projected: what is left is orthogonal to the plane, and the end is the origin
    seen = landscape.project(plane, path.params)
    left = points - points[-1] - seen @ directions
    np.testing.assert_allclose(left @ directions.T, 0, atol=1e-5)
    np.testing.assert_allclose(seen[-1], 0, atol=1e-12)
    (low, high), _ = plane.box
    assert low < seen[:, 0].min() and high > seen[:, 0].max()
    with pytest.raises(ValueError, match="one line"):
        landscape.path_plane(landscape.Path(path.steps[:2], jax.tree.map(lambda leaf: leaf[:2], path.params)))


def test_project_returns_the_coordinates_of_points_off_the_plane():
    params = MODEL.init(jax.random.key(1))
    plane = landscape.random_plane(params, key=jax.random.key(4))
    aside = flat(params) * 0 + RNG.normal(size=flat(params).size)
    span = np.stack([flat(direction) for direction in plane.directions])
    aside -= span.T @ np.linalg.lstsq(span.T, aside, rcond=None)[0]
    point = flat(plane.origin) + 0.3 * span[0] - 1.7 * span[1] + aside
    trees = jax.tree.map(lambda leaf: leaf[None], ravel_pytree(params)[1](jnp.asarray(point, jnp.float32)))
    np.testing.assert_allclose(landscape.project(plane, trees), [[0.3, -1.7]], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", [dubito.MAP, dubito.MCDropout, dubito.BayesByBackprop, dubito.VariationalDropout])
def test_descent_path_ends_at_the_fit_bit_for_bit(method, key):
    noise = {"noise": "training"} if method in (dubito.MCDropout, dubito.VariationalDropout) else {}
    method = method(epochs=4, batch_size=64, **noise)
    path = landscape.descent_path(MODEL, X[:200], Y[:200], method, key=key, points=7)
    assert path.steps.tolist() == [0, 2, 5, 7, 9, 11, 14, 16]
    posterior = dubito.fit(MODEL, X[:200], Y[:200], method, key=key)
    if isinstance(posterior, dubito.Samples):
        end = jax.tree.map(lambda leaf: leaf[0], posterior.params)
    else:
        end = posterior.mean if isinstance(posterior, dubito.DiagonalNormal) else posterior.params
    jax.tree.map(np.testing.assert_array_equal, at(path, -1), end)


@pytest.mark.slow
def test_descent_paths_share_their_start_and_pass_through_shorter_fits(key):
    def adam(epochs):
        return dubito.MAP(epochs=epochs, batch_size=64, schedule="constant")

    path = landscape.descent_path(MODEL, X[:200], Y[:200], adam(5), key=key, points=5)
    other = landscape.descent_path(
        MODEL, X[:200], Y[:200], dubito.MCDropout(epochs=4, batch_size=64), key=key, points=7
    )
    jax.tree.map(np.testing.assert_array_equal, at(path, 0), at(other, 0))
    short = dubito.fit(MODEL, X[:200], Y[:200], adam(2), key=key)
    assert path.steps[2] == 8  # two epochs of four blocks
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), at(path, 2), short.params)


def test_descent_path_of_gradient_descent_equals_numpy(key):
    path = landscape.descent_path(LINEAR, X, Y, FULL, key=key, weight=WEIGHT, points=30)
    design = np.column_stack([X, np.ones(len(X))]).astype(float)
    size = WEIGHT.sum()
    theta = np.append(*(np.ravel(path.params["network"]["layer_0"][name][0]) for name in "wb")).astype(float)
    for step in range(31):
        found = np.append(*(np.ravel(path.params["network"]["layer_0"][name][step]) for name in "wb"))
        np.testing.assert_allclose(found, theta, atol=2e-6)
        slope = np.append(theta[:3] / 0.49, theta[3])  # biases have a prior of their own, of scale 1
        gradient = (slope - 2.0 * design.T @ (WEIGHT * (Y[:, 0] - design @ theta))) / size
        theta = theta - 0.1 * gradient


@pytest.mark.slow
def test_landscape_rejects_invalid_methods_objectives_and_reach(key):
    with pytest.raises(ValueError, match=r"single descent.*Ensemble"):
        landscape.descent_path(MODEL, X, Y, dubito.Ensemble(FULL, 2), key=key)
    with pytest.raises(ValueError, match="moments of a GammaNoisePosterior"):
        landscape.descent_path(MODEL, X, Y, dubito.NaturalGradientVI(epochs=1), key=key)
    with pytest.raises(ValueError, match=r"objective='loss' is unknown. Choose one of joint, likelihood"):
        plane = landscape.random_plane(MODEL.init(key), key=key)
        landscape.evaluate(MODEL, X, Y, plane, objective="loss")
    with pytest.raises(ValueError, match="reach must be positive"):
        landscape.random_plane(MODEL.init(key), key=key, reach=0.0)
    wild = replace(FULL, learning_rate=1e30)
    with pytest.raises(dubito.DivergenceError, match="learning rate") as caught:
        landscape.descent_path(LINEAR, X, Y, wild, key=key, points=30)
    assert caught.value.params is not None and len(caught.value.rows.x) == len(X)
