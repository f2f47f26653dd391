"""Backpropagation by hand against loops, automatic differentiation and finite differences; and why a network needs a bend."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import dubito
from dubito import backprop

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
LABELS = np.array([[0.0], [1.0], [1.0], [0.0]])
WITH_ONES = np.column_stack([XOR, np.ones(4)])


def problem(seed=0, size=5, inputs=3, hidden=4, outputs=2):
    rng = np.random.default_rng(seed)
    shapes = (hidden, outputs), (inputs, hidden), (size, inputs)
    v, w, x = (rng.normal(size=shape) for shape in shapes)
    return v, w, x, np.eye(outputs)[rng.integers(outputs, size=size)]


def criterion(weights, x, y):
    """The network and its criterion once more, for JAX."""
    v, w = weights
    output = jax.nn.sigmoid(jax.nn.sigmoid(x @ w) @ v)
    return 0.5 * jnp.mean(jnp.sum((y - output) ** 2, axis=1))


def test_gradient_equals_automatic_differentiation():
    v, w, x, y = problem()
    with jax.enable_x64(True):
        value, exact = jax.value_and_grad(criterion)((jnp.asarray(v), jnp.asarray(w)), jnp.asarray(x), jnp.asarray(y))
        value, exact = float(value), [np.asarray(one) for one in exact]
    found = backprop.terms(v, w, x, y)
    assert exact[0].dtype == np.float64
    assert abs(found.C - value) < 1e-12
    for a, b in zip(backprop.gradient(v, w, x, y), exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_each_term_equals_its_equation():
    """By loops over the indices."""
    v, w, x, y = problem(seed=1)
    found = backprop.terms(v, w, x, y)
    size, (hidden, outputs), inputs = len(x), v.shape, len(w)
    dv, dw, total = np.zeros_like(v), np.zeros_like(w), 0.0
    for b in range(size):
        delta_m = [sum(x[b, n] * w[n, m] for n in range(inputs)) for m in range(hidden)]
        sigma_m = [1 / (1 + np.exp(-d)) for d in delta_m]
        delta_k = [sum(v[m, k] * sigma_m[m] for m in range(hidden)) for k in range(outputs)]
        sigma_k = [1 / (1 + np.exp(-d)) for d in delta_k]
        total += sum(0.5 * (y[b, k] - sigma_k[k]) ** 2 for k in range(outputs))
        error = [-(y[b, k] - sigma_k[k]) * sigma_k[k] * (1 - sigma_k[k]) for k in range(outputs)]
        below = [sigma_m[m] * (1 - sigma_m[m]) * sum(error[k] * v[m, k] for k in range(outputs)) for m in range(hidden)]
        for m in range(hidden):
            dv[m] += [error[k] * sigma_m[m] / size for k in range(outputs)]
            dw[:, m] += [x[b, n] * below[m] / size for n in range(inputs)]
        rows = {
            "delta_m": delta_m,
            "sigma_m": sigma_m,
            "delta_k": delta_k,
            "sigma_k": sigma_k,
            "dC_dsigma_k": [-(y[b, k] - sigma_k[k]) for k in range(outputs)],
            "dsigma_k_ddelta_k": [one * (1 - one) for one in sigma_k],
            "ddelta_k_dv": sigma_m,
            "e_k": error,
            "dsigma_m_ddelta_m": [one * (1 - one) for one in sigma_m],
            "ddelta_m_dw": x[b],
            "e_m": below,
        }
        for name, row in rows.items():
            np.testing.assert_allclose(getattr(found, name)[b], row, rtol=0, atol=1e-14, err_msg=name)
    whole = {"C": total / size, "ddelta_k_dsigma_m": v, "dC_dv": dv, "dC_dw": dw}
    for name, value in whole.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=0, atol=1e-14, err_msg=name)
    assert {*rows, *whole} == set(backprop.Terms._fields)


@pytest.mark.parametrize("name", ["v", "w", "x", "y"])
def test_terms_reject_mismatched_shapes(name):
    given = dict(zip("vwxy", problem(), strict=True))
    for wrong in (given[name][:-1], given[name][0]):
        with pytest.raises(ValueError, match=r"v must be \(M, K\), w \(N, M\)"):
            backprop.terms(**{**given, name: wrong})
    with pytest.raises(ValueError, match=r"B of at least 1"):
        backprop.gradient(given["v"], given["w"], given["x"][:0], given["y"][:0])


def test_step_learns_xor_along_the_path_of_jax_gradients():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 1)), rng.normal(size=(3, 4))
    rate, steps, compared = 5.0, 4000, 200
    weights, losses = start, []
    path = []
    for number in range(steps):
        losses.append(backprop.terms(*weights, WITH_ONES, LABELS).C)
        weights = backprop.step(*weights, WITH_ONES, LABELS, rate)
        if number < compared:
            path.append(weights)
    assert np.all(np.diff(losses) < 1e-9) and losses[-1] < 0.01 < 0.1 < losses[0]
    output = special.expit(special.expit(WITH_ONES @ weights[1]) @ weights[0])
    np.testing.assert_array_equal(output > 0.5, LABELS > 0.5)
    with jax.enable_x64(True):
        x, y = jnp.asarray(WITH_ONES), jnp.asarray(LABELS)

        def step(now, _):
            slopes = jax.grad(criterion)(now, x, y)
            now = jax.tree.map(lambda p, g: p - rate * g, now, slopes)
            return now, now

        traced = jax.lax.scan(step, jax.tree.map(jnp.asarray, start), None, compared)[1]
        traced = jax.tree.map(np.asarray, traced)
    for a, b in zip(zip(*path, strict=True), traced, strict=True):
        np.testing.assert_allclose(np.stack(a), b, rtol=0, atol=1e-10)


def separable(labels):
    """Whether a line w·x + b parts the four points so: a linear program, s(w·x + b) ≥ 1 with s = ±1."""
    sides = np.where(labels, 1.0, -1.0)
    found = optimize.linprog(np.zeros(3), -sides[:, None] * WITH_ONES, -np.ones(4), bounds=(None, None))
    return found.status == 0


def test_no_line_separates_xor():
    """14 of the 16 labelings of the four points are a line's; XOR and its opposite are not, and three of four is the best."""
    lines = [labels for labels in itertools.product([False, True], repeat=4) if separable(np.array(labels))]
    wanted = LABELS[:, 0] > 0.5
    assert len(lines) == 14
    assert max(np.mean(np.array(labels) == wanted) for labels in lines) == 0.75
    best, *_ = np.linalg.lstsq(WITH_ONES, LABELS)
    np.testing.assert_allclose(WITH_ONES @ best, 0.5, atol=1e-12)


@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
def test_two_layers_learn_xor_only_with_a_nonlinearity(activation, key):
    """Without one, two layers stay at the line's ½·¼; with one they fit."""
    model = dubito.Model(dubito.mlp(2, (8,), 1, activation), dubito.Gaussian(precision=1.0))
    method = dubito.MaximumLikelihood(epochs=2000, batch_size=None, learning_rate=0.05)
    found = dubito.fit(model, XOR, LABELS, method, key=key)
    output = dubito.predict(found, XOR, key=key).mean
    loss = 0.5 * np.mean((output - LABELS[:, 0]) ** 2)
    if activation == "identity":
        np.testing.assert_allclose(output, 0.5, atol=1e-3)
        assert abs(loss - 0.125) < 1e-6
    else:
        assert loss < 1e-4
        np.testing.assert_array_equal(output > 0.5, LABELS[:, 0] > 0.5)
