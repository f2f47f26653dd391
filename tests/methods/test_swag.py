"""SWAG: its spread is that of stochastic descent, which a linear model has in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito

N, D, TAU, SCALE, EPOCHS = 6, 2, 4.0, 0.7, 6000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)) * [1.0, 2.0]
Y = X @ [1.0, -0.5] + RNG.normal(size=N)
BLOCKS = 3  # of two rows: 90 orders of an epoch, all of which are summed over
SCHEDULES = {"constant": np.ones(BLOCKS), "cosine": 0.5 * (1 + np.cos(np.pi * np.arange(BLOCKS) / BLOCKS))}


def init(key):
    return {"w": jax.random.normal(key, (D, 1), jnp.float32)}


def apply(params, x):
    return x @ params["w"]


MODEL = dubito.Model(dubito.Network(init, apply), dubito.Gaussian(precision=TAU), dubito.Normal(SCALE))


def maps(rate, momentum, schedule):
    """Of each order of the rows in an epoch the affine map of (θ, v) that it is: θ ← θ − αv, v ← γv + Aθ − c."""
    orders = {tuple(tuple(sorted(o[k : k + 2])) for k in range(0, N, 2)) for o in itertools.permutations(range(N))}
    assert len(orders) == 90
    found = []
    for order in orders:
        matrix, shift = np.eye(2 * D), np.zeros(2 * D)
        for rows, factor in zip(order, schedule, strict=True):
            x, y = X[list(rows)], Y[list(rows)]
            a = (BLOCKS * TAU * x.T @ x + np.eye(D) / SCALE**2) / N
            c = BLOCKS * TAU * x.T @ y / N
            alpha = rate * factor
            step = np.block([[np.eye(D) - alpha * a, -alpha * momentum * np.eye(D)], [a, momentum * np.eye(D)]])
            matrix, shift = step @ matrix, step @ shift + np.concatenate([alpha * c, -c])
        found.append((matrix, shift))
    return (np.stack(each) for each in zip(*found, strict=True))


def stationary(matrices, shifts):
    """Mean and covariance of (θ, v) at the ends of epochs whose maps are drawn independently: both solve linear equations."""
    size = 2 * D
    mean = np.linalg.solve(np.eye(size) - matrices.mean(0), shifts.mean(0))
    drift = np.einsum("oij,j->oi", matrices, mean) + shifts - mean
    squared = np.einsum("oij,okl->ikjl", matrices, matrices).reshape(size**2, size**2) / len(matrices)
    noise = np.einsum("oi,oj->ij", drift, drift) / len(drift)
    return mean, np.linalg.solve(np.eye(size**2) - squared, noise.ravel()).reshape(size, size)


def errors(matrices, shifts, rank):
    """Standard errors of SWAG's mean, variances and D Dᵀ/(K − 1), from 200 runs of the same maps in NumPy."""
    rng = np.random.default_rng(1)
    theta = np.zeros((200, 2 * D))
    points = []
    for _ in range(EPOCHS):
        chosen = rng.integers(len(matrices), size=len(theta))
        theta = np.einsum("oij,oj->oi", matrices[chosen], theta) + shifts[chosen]
        points.append(theta[:, :D])
    points = np.stack(points[EPOCHS // 2 :])
    means = np.cumsum(points, axis=0) / np.arange(1, len(points) + 1)[:, None, None]
    deviations = (points - means)[-rank:]
    outer = np.einsum("tri,trj->rij", deviations, deviations) / (rank - 1)
    return [found.std(0) for found in (points.mean(0), points.var(0), outer)]


@pytest.mark.parametrize(
    ("optimizer", "rate", "schedule"),
    [("sgd", 0.05, "constant"), ("momentum", 0.005, "constant"), ("sgd", 0.05, "cosine")],
)
def test_the_spread_is_the_stationary_distribution_of_descent(optimizer, rate, schedule):
    matrices, shifts = maps(rate, 0.9 if optimizer == "momentum" else 0.0, SCHEDULES[schedule])
    mean, covariance = (part[:D] for part in stationary(matrices, shifts))
    covariance = covariance[:, :D]
    method = dubito.SWAG(
        epochs=EPOCHS, clip=None, batch_size=2, learning_rate=rate, optimizer=optimizer, schedule=schedule, rank=1000
    )
    found = dubito.fit(MODEL, X, Y, method, key=jax.random.key(0))
    of_mean, of_variance, of_outer = errors(matrices, shifts, 1000)
    center, scale, directions = (
        np.asarray(part["network"]["w"], float)[..., 0] for part in (found.mean, found.scale, found.directions)
    )
    assert np.all(np.abs(center - mean) < 4.6 * of_mean)
    assert np.all(np.abs(2 * scale**2 - np.diag(covariance)) < 4.6 * of_variance)
    assert np.all(np.abs(2 * directions.T @ directions - covariance) < 4.6 * of_outer)
    posterior = np.linalg.inv(np.eye(D) / SCALE**2 + TAU * X.T @ X)
    assert np.all(2 * scale**2 < 0.25 * np.diag(posterior))  # not the posterior's, as the docstring says


def test_swag_of_few_points_has_few_directions(key):
    """Three of five possible directions, the first of which is 0; the others wait at 0."""
    found = dubito.fit(MODEL, X, Y, dubito.SWAG(epochs=6, batch_size=2, rank=5), key=key)
    filled = np.any(np.asarray(found.directions["network"]["w"]) != 0, axis=(1, 2))
    np.testing.assert_array_equal(filled, [False, True, True, False, False])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "adam"}, "SWAG needs optimizer"),
        ({"rank": 1}, "at least 2"),
        ({"start": 1.0}, "start must be in"),
        ({"epochs": 3, "start": 0.5}, "two epochs"),
    ],
)
def test_invalid_settings_are_refused(fields, words, key):
    with pytest.raises(ValueError, match=words):
        dubito.fit(MODEL, X, Y, dubito.SWAG(**fields), key=key)


def test_early_stopping_is_refused(key):
    with pytest.raises(ValueError, match="SWAG does not support early stopping"):
        dubito.fit(MODEL, X, Y, dubito.Ensemble(dubito.SWAG(), 2), key=key, early_stopping=True)
