"""SGLD and SGHMC: on a linear model their draws have moments in closed form, with the errors that their steps make.

That a learned noise is drawn right, too, shows ``test_sbc``."""

import functools
import itertools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

import dubito
from dubito.methods.sampling import sgld
from dubito.training import chunk

N, D, TAU, SCALE = 6, 2, 4.0, 0.7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)) * [1.0, 2.0]
Y = X @ [1.0, -0.5] + RNG.normal(size=N)
PRECISION = np.eye(D) / SCALE**2 + TAU * X.T @ X
FRICTION = 0.3
CHAINS = 2


def init(key):
    return {"w": jax.random.normal(key, (D, 1), jnp.float32)}


def apply(params, x):
    return x @ params["w"]


MODEL = dubito.Model(dubito.Network(init, apply), dubito.Gaussian(precision=TAU), dubito.Normal(SCALE))


def recursion(kind, rate, a):
    """(M, b): (θ, v) ← M (θ, v) + b (αc + noise) for the gradient aθ − c per example; v is not there for SGLD."""
    one = np.eye(D)
    if kind is dubito.SGLD:
        return one - rate * a, one
    decay = 1 - FRICTION
    return np.block([[one - rate * a, decay * one], [-rate * a, decay * one]]), np.concatenate([one, one])


def injected(kind, rate, temperature=1.0):
    return 2 * rate * temperature / N * (1.0 if kind is dubito.SGLD else FRICTION)


def method(kind, **fields):
    fields = {"burn_in": 0.1, "chains": CHAINS, "batch_size": None} | fields
    return kind(**fields) if kind is dubito.SGLD else kind(friction=FRICTION, **fields)


def check(found, mean, covariance, drift, per_draw):
    """z-tests of mean and covariance; a chain's covariance of θ at a distance of k draws is (drift^(k·per_draw) S) at θ."""
    draws = np.asarray(found.params["network"]["w"], float)[..., 0]
    total = len(draws)
    step, lag, lags = np.linalg.matrix_power(drift, per_draw), np.eye(len(drift)), []
    for _ in range(400):
        lags.append((lag @ covariance)[:D, :D])
        lag = step @ lag
    lags = np.stack(lags)
    assert np.abs(lags[-1]).max() < 1e-3 * np.abs(lags[0]).max()
    both = 1 + np.arange(len(lags)) > 1  # each distance but 0 counts twice
    of_mean = np.sqrt(np.einsum("kii->i", lags * (1 + both)[:, None, None]) / total)
    squares = np.einsum("kii,kjj->kij", lags, lags) + lags * lags.transpose(0, 2, 1)
    of_covariance = np.sqrt(np.einsum("kij,k->ij", squares, 1 + both) / total)
    assert np.all(np.abs(draws.mean(0) - mean[:D]) < 4.6 * of_mean)
    assert np.all(np.abs(np.cov(draws.T, bias=True) - covariance[:D, :D]) < 4.6 * of_covariance)
    return of_covariance


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "temperature"), [(dubito.SGLD, 1.0), (dubito.SGHMC, 1.0), (dubito.SGLD, 0.5)])
def test_full_batches_have_the_bias_of_their_steps(kind, temperature):
    """SGLD's covariance is T (Λ − εΛ²/4)⁻¹, here up to 1.6 times the posterior's; SGHMC's solves Lyapunov's equation."""
    rate = 0.75 * N / np.linalg.eigvalsh(PRECISION)[-1]
    given = method(kind, learning_rate=rate, epochs=8889, draws=4000, temperature=temperature)
    found = dubito.fit(MODEL, X, Y, given, key=jax.random.key(0))
    assert found.chains == CHAINS and len(found) == CHAINS * 4000
    matrix, kick = recursion(kind, rate, PRECISION / N)
    covariance = solve_discrete_lyapunov(matrix, kick @ kick.T * injected(kind, rate, temperature))
    if kind is dubito.SGLD:
        epsilon = 2 * rate / N
        exact = temperature * np.linalg.inv(PRECISION - epsilon * PRECISION @ PRECISION / 4)
        np.testing.assert_allclose(covariance, exact)
    mean = np.concatenate([np.linalg.solve(PRECISION, TAU * X.T @ Y), np.zeros(D)])
    error = check(found, mean, covariance, matrix, 2)
    posterior = temperature * np.linalg.inv(PRECISION)
    assert np.any(np.abs(covariance[:D, :D] - posterior) > 5 * error)  # so that the bias is seen


def maps(kind, rate):
    """Of each order of the rows in an epoch of three blocks the affine map that it is, and the covariance of its noise."""
    orders = {tuple(tuple(sorted(o[k : k + 2])) for k in range(0, N, 2)) for o in itertools.permutations(range(N))}
    found = []
    for order in orders:
        matrix, shift, noise = np.eye(1), np.zeros(1), np.zeros((1, 1))
        for rows in order:
            x, y = X[list(rows)], Y[list(rows)]
            step, kick = recursion(kind, rate, (3 * TAU * x.T @ x + np.eye(D) / SCALE**2) / N)
            if len(matrix) == 1:
                matrix, shift, noise = np.eye(len(step)), np.zeros(len(step)), np.zeros(step.shape)
            matrix, shift = step @ matrix, step @ shift + kick @ (rate * 3 * TAU * x.T @ y / N)
            noise = step @ noise @ step.T + kick @ kick.T * injected(kind, rate)
        found.append((matrix, shift, noise))
    return (np.stack(each) for each in zip(*found, strict=True))


def stationary(matrices, shifts, noises):
    """Mean and covariance at the ends of epochs whose maps are drawn independently: both solve linear equations."""
    size = matrices.shape[-1]
    mean = np.linalg.solve(np.eye(size) - matrices.mean(0), shifts.mean(0))
    drift = np.einsum("oij,j->oi", matrices, mean) + shifts - mean
    squared = np.einsum("oij,okl->ikjl", matrices, matrices).reshape(size**2, size**2) / len(matrices)
    noise = np.einsum("oi,oj->ij", drift, drift) / len(drift) + noises.mean(0)
    return mean, np.linalg.solve(np.eye(size**2) - squared, noise.ravel()).reshape(size, size)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::dubito.SamplingWarning")
@pytest.mark.parametrize(("kind", "rate"), [(dubito.SGLD, 0.05), (dubito.SGHMC, 0.03)])
def test_mini_batches_add_the_noise_of_their_gradients(kind, rate):
    given = method(kind, learning_rate=rate, epochs=8889, draws=4000, batch_size=2)
    found = dubito.fit(MODEL, X, Y, given, key=jax.random.key(0))
    matrices, shifts, noises = maps(kind, rate)
    mean, covariance = stationary(matrices, shifts, noises)
    error = check(found, mean, covariance, matrices.mean(0), 2)
    matrix, kick = recursion(kind, rate, PRECISION / N)
    full = solve_discrete_lyapunov(matrix, kick @ kick.T * injected(kind, rate))
    assert np.any(np.abs(covariance - full)[:D, :D] > 5 * error)


@pytest.mark.parametrize("kind", [dubito.SGLD, dubito.SGHMC])
def test_curvature_and_noise_are_measured(kind, key):
    """Against eigenvalues, the gradients of all blocks of two rows, and the recursion along one direction."""
    params = MODEL.init(key)
    batch = dubito.models.model.Batch(*(jnp.asarray(a, jnp.float32) for a in (X, Y[:, None], np.ones(N), 1.0, N)))
    curvature, variance = map(float, sgld.stiffest(MODEL, params, batch, jnp.float32(N), key))
    values, vectors = np.linalg.eigh(PRECISION / N)
    np.testing.assert_allclose(curvature, values[-1], rtol=1e-5)
    residual = Y - X @ np.asarray(params["network"]["w"], float)[:, 0]
    slopes = TAU * residual * (X @ vectors[:, -1])
    of_blocks = np.array([3 * sum(slopes[list(pair)]) / N for pair in itertools.combinations(range(N), 2)])
    np.testing.assert_allclose(variance * (3 - 1), of_blocks.var(), rtol=1e-4)
    rate = 0.1
    matrix, kick, noise = kind(temperature=0.5).recursion(rate, curvature, N)
    assert sgld.inflation(*kind().recursion(4 / curvature, curvature, N), 0.0) == np.inf
    states = np.zeros((len(kick), len(kick)))
    for _ in range(5000):
        states = matrix @ states @ matrix.T + np.outer(kick, kick) * (noise + rate**2 * variance)
    np.testing.assert_allclose(sgld.inflation(matrix, kick, noise, rate**2 * variance), states[0, 0])


def test_coarse_steps_are_warned_of(key):
    """With the rate that the warning suggests there is none."""
    given = method(dubito.SGHMC, learning_rate=0.06, epochs=60, draws=4, batch_size=2)
    with pytest.warns(dubito.SamplingWarning, match="times the posterior's variance") as caught:
        dubito.fit(MODEL, X, Y, given, key=key)
    (rate,) = re.findall(r"learning_rate=(\S+) ", str(caught[0].message))
    dubito.fit(MODEL, X, Y, replace(given, learning_rate=float(rate)), key=key)


def test_draws_are_spread_over_the_late_parts_of_the_cycles():
    """Of 80 steps in two cycles the last quarters, 10 steps each, go to two of four places each; the last step stays."""
    given = dubito.SGLD(learning_rate=0.5, cycles=2, burn_in=0.75, draws=4, schedule="cosine")
    last, rates = {}, []
    for step in range(80):
        rate, late, place = sgld.phase(
            given, chunk.Clock(jnp.int32(step), jnp.float32(step / 80), False, jnp.float32(1))
        )
        last[int(place)] = (step, bool(late))
        rates.append(float(rate))
    assert last == {0: (34, True), 1: (39, True), 2: (74, True), 3: (79, True)}
    np.testing.assert_allclose(rates, 0.25 * (1 + np.cos(np.pi * (np.arange(80) % 40) / 40)), atol=1e-6)


MANY, CYCLES, STEPS, LEAN, TOP, WIDE = 8, 1024, 64, 0.8, 0.04, 32  # powers of two: the progress of every step is exact
GRID = np.linspace(-3.415, 3.185, 221)  # its cells meet between the modes


def slope_of_two_modes(theta):
    """d/dθ of ½θ² + (1.2 − θ² − 0.8 θ)², whose modes have 0.67 and 0.33 of the posterior."""
    return theta - 2 * (1.2 - theta**2 - LEAN * theta) * (2 * theta + LEAN)


def transition(rate):
    """SGLD's step as a matrix on the grid; where its noise is narrower than the grid the step is none."""
    width = np.sqrt(2 * rate)
    if width < GRID[1] - GRID[0]:
        return np.eye(len(GRID))
    step = np.exp(-0.5 * ((GRID[None] - (GRID - rate * slope_of_two_modes(GRID))[:, None]) / width) ** 2)
    return step / step.sum(1, keepdims=True)


def by_cycles(values):
    """Of functions of θ on the grid (G, F) the mean in draws at three quarters and at the end of a cycle, and the error of the
    mean of one chain's CYCLES of them, both (2, F): the chain that the cycles make is a Markov chain with a known matrix."""
    rates = TOP * 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    early, late = (functools.reduce(np.matmul, map(transition, part)) for part in np.split(rates, [3 * STEPS // 4]))
    means, errors = [], []
    for cycle in (late @ early, early @ late):
        stationary = np.linalg.matrix_power(cycle, 256)[0]
        mean = stationary @ values
        rest = np.linalg.solve(np.eye(len(GRID)) - cycle + stationary[None], values - mean)
        means.append(mean)
        errors.append(np.sqrt(stationary @ ((values - mean) * (2 * rest - values + mean)) / CYCLES))
    return np.stack(means), np.stack(errors)


@pytest.mark.slow
def test_cycles_draw_two_modes_with_their_weights():
    """By the exact chain on a grid: the share of one mode, which its early steps, the coarse ones, leave 0.006 too small, the
    mean, and the spread about the modes. A false alarm of the six numbers once in 40,000 runs. All rows are equal, so that
    mini-batches add no noise."""

    def one(key):
        return {"w": jax.random.normal(key, (1, 1), jnp.float32)}

    network = dubito.Network(one, lambda params, x: x * (params["w"] ** 2 + LEAN * params["w"]))
    model = dubito.Model(network, dubito.Gaussian(precision=2 / WIDE), dubito.Normal(1.0))
    given = dubito.SGLD(
        learning_rate=TOP * WIDE,
        epochs=CYCLES * STEPS // WIDE,
        batch_size=1,
        draws=2 * CYCLES,
        cycles=CYCLES,
        chains=MANY,
        schedule="cosine",
    )
    found = dubito.fit(model, np.ones((WIDE, 1)), np.full((WIDE, 1), 1.2), given, key=jax.random.key(0))

    def functions(theta):
        right = theta > -LEAN / 2
        return np.stack([right, theta, (theta - np.where(right, 0.6, -1.3)) ** 2], axis=-1).astype(float)

    mean, error = by_cycles(functions(GRID))
    theta = np.asarray(found.params["network"]["w"], float).reshape(MANY, CYCLES, 2)[:, 16:]  # away from the start
    assert np.all(np.abs(functions(theta).mean((0, 1)) - mean) < 4.6 * error / np.sqrt(MANY * (1 - 16 / CYCLES)))
    potential = 0.5 * GRID**2 + (1.2 - GRID**2 - LEAN * GRID) ** 2
    posterior = np.exp(-potential) @ functions(GRID) / np.exp(-potential).sum()
    np.testing.assert_allclose(mean[:, 0], posterior[0], atol=0.007)


def test_few_steps_give_few_draws_and_none_are_an_interruption(key):
    given = dubito.SGLD(epochs=8, draws=50, chains=3, batch_size=None, learning_rate=1e-3)
    found = dubito.fit(MODEL, X, Y, given, key=key)
    assert len(found) == 3 * 4 and found.chains == 3
    assert np.all(np.asarray(found.params["network"]["w"]) != 0)

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dubito.fit(MODEL, X, Y, replace(given, epochs=10**6), key=key, progress=interrupt, keep_on_interrupt=True)


def test_chains_that_were_interrupted_keep_as_many_draws_as_the_shortest():
    """Places 0 and 2 of the one are filled, all of the other: the last two of each."""
    states = [
        sgld.SGLDState(
            {"network": {"w": 0}, "likelihood": {}},
            (),
            {"network": {"w": jnp.arange(3.0) + start}, "likelihood": {}},
            filled,
            0,
            0,
            0,
        )
        for start, filled in ((0, [True, False, True]), (10, [True, True, True]))
    ]
    found = sgld.merge_sgld_chains(MODEL, states)
    np.testing.assert_array_equal(found.params["network"]["w"], [0, 2, 11, 12])
    assert found.chains == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"burn_in": 1.0}, "burn_in"),
        ({"chains": 0}, "chains"),
        ({"cycles": 1.5}, "cycles"),
        ({"cycles": 3}, "multiple of cycles=3"),
        ({"temperature": 0.0}, "temperature"),
        ({"friction": 0.0}, "friction"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
    ],
)
def test_invalid_settings_are_refused(fields, words, key):
    with pytest.raises(ValueError, match=words):
        dubito.fit(MODEL, X, Y, dubito.SGHMC(**fields), key=key)


def test_an_improper_prior_is_refused(key):
    model = dubito.Model(dubito.mlp(2, (3,)), dubito.Gaussian(), dubito.Normal(biases=None))
    with pytest.raises(ValueError, match="SGLD needs a proper prior"):
        dubito.fit(model, X, Y, dubito.SGLD(), key=key)
