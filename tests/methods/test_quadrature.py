"""A network of three weights, v·tanh(w·x + b), whose posterior is known by quadrature: what each method makes of it.

What is exact must be the posterior; what is wrong by design must have its own known value, computed here from the formula
of its objective in NumPy and SciPy: by Gauss-Hermite quadrature where an expectation over q is asked for.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from scipy import special

import dubito
from dubito import diagnostics

TAU = 9.0
RNG = np.random.default_rng(5)
X = np.concatenate([RNG.uniform(-2, -0.8, 7), RNG.uniform(0.2, 1, 7)])
Y = 0.9 * np.tanh(1.4 * X + 0.5) + RNG.normal(size=14) / np.sqrt(TAU)
NEW = np.array([-1.5, -0.3, 0.6, 4.0])  # at the data, between them, at the data, far away
RATE = 0.2


def network(w, x):
    """f of weights w (..., 3) at x (n,), (..., n)."""
    return w[..., 2:] * np.tanh(w[..., :1] * x + w[..., 1:2])


def init(key):
    w, b, v = jax.random.normal(key, (3,), jnp.float32)
    return {"b": b[None], "v": v[None, None], "w": w[None, None]}


def apply(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None]) @ params["v"]


MODEL = dubito.Model(dubito.Network(init, apply), dubito.Gaussian(precision=TAU), dubito.Normal(1.0))


def log_likelihood(w):
    return -0.5 * TAU * np.sum((Y - network(w, X)) ** 2, axis=-1)


def best(cost, size=3, starts=3):
    """The lowest of several minima of ``cost``, found by SciPy from random starts. All of three find the lowest of eight."""
    rng = np.random.default_rng(0)
    found = [scipy.optimize.minimize(cost, rng.normal(size=size), method="BFGS") for _ in range(starts)]
    return min(found, key=lambda one: one.fun).x


def moments(f, weights):
    mean = weights @ f
    return mean, np.sqrt(np.maximum(weights @ (f - mean) ** 2, 0))


def exact():
    """Mean and standard deviation of f at ``NEW`` by the trapezoidal rule over the weights, spectrally exact here."""
    grid = np.linspace(-5, 5, 91)
    w = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    log_p = log_likelihood(w) - 0.5 * np.sum(w**2, axis=1)
    p = np.exp(log_p - log_p.max())
    return moments(network(w, NEW), p / p.sum())


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
EPS = np.stack(np.meshgrid(NODES, NODES, NODES, indexing="ij"), axis=-1).reshape(-1, 3)
WEIGHT = np.prod(np.stack(np.meshgrid(WEIGHTS, WEIGHTS, WEIGHTS, indexing="ij"), axis=-1), axis=-1).reshape(-1)
WEIGHT = WEIGHT / WEIGHT.sum()


def normal(v, full=False):
    """(mean, L) of a normal with covariance L Lᵀ, L's diagonal in logs: of 6 numbers, or of 9."""
    lower = np.diag(np.exp(v[3:6]))
    if full:
        lower[np.tril_indices(3, -1)] = v[6:]
    return v[:3], lower


@functools.cache
def variational(full):
    """The normal of the largest ELBO, independent or full; one direction beside independent noise is enough for the full one
    here, whose three correlations have a positive product."""

    def cost(v):
        mean, lower = normal(v, full)
        kl = 0.5 * (np.sum(lower**2) + mean @ mean - 3) - np.sum(v[3:6])
        return kl - WEIGHT @ log_likelihood(mean + EPS @ lower.T)

    mean, lower = normal(best(cost, 9 if full else 6), full)
    return moments(network(mean + EPS @ lower.T, NEW), WEIGHT)


def log_uniform_kl(alpha):
    """KL(N(1, α) ‖ log-uniform) less its limit for large α, by quadrature."""
    points = np.linspace(-12, 12, 200_001)
    density = np.exp(-0.5 * points**2) / np.sqrt(2 * np.pi)
    logs = np.log(np.abs(1 / np.sqrt(alpha) + points) + 1e-12)
    return np.trapezoid(density * logs, points) + 0.5 * (np.euler_gamma + np.log(2))


def slopes(w, x):
    """∂f/∂w of weights w (..., 3), (..., n, 3)."""
    t = np.tanh(w[..., :1] * x + w[..., 1:2])
    inner = w[..., 2:] * (1 - t**2)
    return np.stack([inner * x, inner, t], axis=-1)


def practical():
    """Graves' fixed point: 1/σ_j² = 1 + Σ_i E_q(∂ log p_i/∂w_j)² and a mean of no slope."""

    def rest(v):
        mean, lower = normal(v)
        w = mean + EPS @ lower
        g = TAU * (Y - network(w, X))[..., None] * slopes(w, X)  # (S, n, 3)
        variance = 1 / (1 + WEIGHT @ np.sum(g**2, axis=1))
        return np.concatenate([WEIGHT @ np.sum(g, axis=1) - mean, np.exp(2 * v[3:]) / variance - 1])

    start = np.concatenate([mode(), np.full(3, -1.0)])
    found = scipy.optimize.root(rest, start, tol=1e-8)
    assert found.success
    mean, lower = normal(found.x)
    return moments(network(mean + EPS @ lower, NEW), WEIGHT)


def mode(prior=1.0):
    return best(lambda w: 0.5 * prior * w @ w - log_likelihood(w))


def point(prior):
    return network(mode(prior), NEW), np.zeros(4)


def laplace(diagonal=False):
    """The mode, and gᵀ(I + τ Σ g gᵀ)⁻¹g with g the slopes of f, or with the diagonal of that sum."""
    at = mode()
    g, new = slopes(at, X), slopes(at, NEW)
    curvature = TAU * g.T @ g
    covariance = np.linalg.inv(np.eye(3) + (np.diag(np.diag(curvature)) if diagonal else curvature))
    return network(at, NEW), np.sqrt(np.einsum("ni,ij,nj->n", new, covariance, new))


def dropout():
    """Masks on the hidden unit alone: E (y − f m/(1 − r))² = (y − f)² + f² r/(1 − r), and such is the variance, whatever the data."""
    odds = RATE / (1 - RATE)

    def cost(w):
        penalty = 0.5 * (w[0] ** 2 + w[1] ** 2 + w[2] ** 2 / (1 - RATE))
        return penalty - log_likelihood(w) + 0.5 * TAU * odds * np.sum(network(w, X) ** 2)

    f = network(best(cost), NEW)
    return f, np.abs(f) * np.sqrt(odds)


QUIET = 0.5  # τ at which the best rate of concrete dropout is 0.14; at TAU it is 0


def concrete_dropout():
    """Relaxed masks z on the hidden unit, of rate r at its optimum: E (y − f z)² from the moments of z, by the midpoint rule over
    the uniform number that z is made of. Draws are of masks that drop."""
    u = (np.arange(2**13) + 0.5) / 2**13

    def cost(v):
        rate = special.expit(v[3])
        z = special.expit(-(v[3] + special.logit(u)) / 0.1) / (1 - rate)
        f = network(v[:3], X)
        squares = np.sum(Y**2 - 2 * Y * f * z.mean() + f**2 * np.mean(z**2))
        penalty = 0.5 * (v[0] ** 2 + v[1] ** 2 + v[2] ** 2 / (1 - rate))
        return penalty - special.entr([rate, 1 - rate]).sum() + 0.5 * QUIET * squares

    v = best(cost, 4)
    f = network(v[:3], NEW)
    return f, np.abs(f) * np.exp(0.5 * v[3])


def gaussian_dropout():
    """N(1, α) on the hidden unit, α at its optimum; v has no prior: a weight without noise has its own."""

    def cost(v):
        spread = 0.5 * TAU * np.exp(v[3]) * np.sum(network(v[:3], X) ** 2)
        return log_uniform_kl(np.exp(v[3])) + 0.5 * (v[0] ** 2 + v[1] ** 2) - log_likelihood(v[:3]) + spread

    v = best(cost, 4)
    f = network(v[:3], NEW)
    return f, np.abs(f) * np.exp(0.5 * v[3])


def perturbed():
    """2000 modes of perturbed data and prior, each found from a random start as the method's are, by Levenberg and Marquardt."""
    rng, count = np.random.default_rng(1), 2000
    anchor, y = rng.normal(size=(count, 3)), Y + rng.normal(size=(count, 14)) / np.sqrt(TAU)
    w, damping = rng.normal(size=(count, 3)), np.ones(count)

    def cost(w):
        return np.sum((w - anchor) ** 2, axis=1) + TAU * np.sum((y - network(w, X)) ** 2, axis=1)

    for _ in range(200):
        g = slopes(w, X)
        gradient = w - anchor - TAU * np.einsum("sn,snp->sp", y - network(w, X), g)
        curvature = (1 + damping)[:, None, None] * np.eye(3) + TAU * np.einsum("snp,snq->spq", g, g)
        moved = w - np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        better = cost(moved) <= cost(w)
        w, damping = np.where(better[:, None], moved, w), np.where(better, damping / 3, 4 * damping)
    assert np.quantile(np.abs(gradient).max(1), 0.95) < 0.01
    return moments(network(w, NEW), np.full(count, 1 / count))


def long(kind, **fields):
    return kind(**{"epochs": 2000, "batch_size": None, "learning_rate": 0.02} | fields)


NEWTON = {
    "clip_radius": 1.0,
    "initial_hessian": 1.0,
    "hessian_decay": 0.99,
    "warm_up": 0.0,
}  # a model with few parameters
LEAST = dubito.MaximumLikelihood(epochs=3000, batch_size=None, learning_rate=0.1)
MODE = dubito.MAP(epochs=3000, batch_size=None, learning_rate=0.05)
# The method, what it must say, and how near: means in standard deviations of the posterior, standard deviations as a share of their own.
WRONG = {
    "maximum likelihood": (LEAST, lambda: point(0.0), 0.02),
    "map": (MODE, lambda: point(1.0), 0.02),
    "ensemble": (dubito.Ensemble(MODE, 3), lambda: point(1.0), 0.02),
    "swag without mini-batches": (long(dubito.SWAG, learning_rate=0.05), lambda: point(1.0), 0.1),
    "mean field": (
        long(dubito.BayesByBackprop, epochs=8000, learning_rate=0.01),
        lambda: variational(full=False),
        0.06,
    ),
    "natural gradient": (long(dubito.NaturalGradientVI, draws=4, **NEWTON), lambda: variational(full=False), 0.06),
    "practical vi": (
        long(dubito.BayesByBackprop, epochs=8000, learning_rate=0.01, gradient_estimator="fisher"),
        practical,
        0.06,
    ),
    "full covariance": (long(dubito.VariationalGaussian, covariance="full"), lambda: variational(full=True), 0.06),
    "low rank": (long(dubito.VariationalGaussian, rank=1, draws=16), lambda: variational(full=True), 0.06),
    "laplace": (dubito.LaplaceApproximation(MODE, structure="dense"), laplace, 0.05),
    "diagonal laplace": (dubito.LaplaceApproximation(MODE, structure="diagonal"), lambda: laplace(True), 0.05),
    "mc dropout": (long(dubito.MCDropout, rate=RATE), dropout, 0.06),
    "variational dropout": (long(dubito.VariationalDropout), gaussian_dropout, 0.06),
    "randomized map": (
        dubito.Ensemble(long(dubito.RandomizedMAP, epochs=600, learning_rate=0.03), 200),
        perturbed,
        0.35,
    ),
}
RIGHT = {
    "hmc": dubito.HMC(draws=2000, warmup=500, thin=2, acceptance=0.95),
    "nuts": dubito.NUTS(draws=2000, warmup=500, acceptance=0.95),
    "mclmc": dubito.MCLMC(draws=1000, warmup=1000, thin=5),
    "sghmc": dubito.SGHMC(learning_rate=4e-4, epochs=40_000, batch_size=None, draws=4000),
}


@pytest.fixture(scope="module")
def truth():
    return exact()


def predicted(method, draws=None, model=MODEL):
    """f of the draws at ``NEW``, (S, 4), and the posterior."""
    posterior = dubito.fit(model, X[:, None], Y[:, None], method, key=jax.random.key(0))
    answer = dubito.predict(posterior, NEW[:, None], key=jax.random.key(1), draws=draws)
    return np.asarray(answer.z["mean"], float)[:, :, 0], posterior


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_approximation_has_its_known_moments(name, truth):
    method, expected, near = WRONG[name]
    mean, sd = expected()
    f, _ = predicted(method, None if name == "randomized map" or sd.max() == 0 else 20_000)
    assert np.all(np.abs(f.mean(0) - mean) < near * truth[1])
    assert np.all(np.abs(f.std(0) - sd) < near * np.where(sd > 0, sd, truth[1]))


@pytest.mark.slow
def test_concrete_dropout_has_its_known_value(truth):
    mean, sd = concrete_dropout()
    model = replace(MODEL, likelihood=dubito.Gaussian(precision=QUIET))
    f, _ = predicted(long(dubito.ConcreteDropout, epochs=4000), 20_000, model)
    assert np.all(np.abs(f.mean(0) - mean) < 0.06 * truth[1])
    np.testing.assert_allclose(f.std(0), sd, rtol=0.06)


def far(f, mean, sd, chains):
    """How many Monte-Carlo errors the mean and the mean squared deviation of draws are away from those of the truth, (2, 4)."""
    values = np.stack([f, (f - mean) ** 2]).reshape(2, chains, -1, 4)
    errors = [one.std((0, 1)) / np.sqrt(diagnostics.ess(one)) for one in values]
    return (values.mean((1, 2)) - np.stack([mean, sd**2])) / np.stack(errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.optimized] if name == "sghmc" else []) for name in RIGHT]
)
def test_sampler_draws_have_the_moments_by_quadrature(name, truth):
    """A false alarm of the 8 numbers once in 20,000 runs, were draws' errors normal. A prior 25 % wider is seen by the first three
    (and by all approximations above), a τ 30 % smaller by SGHMC too. SGLD has its own test of a posterior that is not normal,
    ``test_cycles_draw_two_modes_with_their_weights``."""
    f, posterior = predicted(RIGHT[name])
    assert np.max(np.abs(far(f, *truth, posterior.chains))) < 4.5
