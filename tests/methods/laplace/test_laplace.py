"""The Laplace approximation: exact where the network is linear, its curvature by hand where it is not, the evidence's maximum,
and why predictions are linearized."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.linear_model import BayesianRidge

import dubito
from dubito import network_view as fitted_
from dubito.methods.laplace import curvature
from dubito.methods.laplace.evidence import Evidence
from dubito.methods.laplace.laplace import with_prior_factor
from dubito.methods.priors import map_prior
from dubito.posteriors.base import unwrapped
from dubito.training.data import check_rows
from dubito.training.descent import DescentState
from dubito.training.members import Member, Trained

N, D, TAU = 40, 3, 4.0
MODE = dubito.MAP(epochs=2000, batch_size=None, learning_rate=0.05)
DRAWS = 20_000


def table(n=N, seed=3):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, D)) + np.eye(D)[:1]) @ np.array([[1.0, 0.6, 0], [0, 1, 0.3], [0, 0, 1]])
    y = 0.5 + x @ np.array([[1.0], [-0.5], [0.2]]) + rng.normal(size=(n, 1)) / np.sqrt(TAU)
    return x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)


X, Y = table()
ONES = np.column_stack([np.ones(N), X])  # the bias is the first leaf
SCALES = np.array([2.0, 0.7, 0.7, 0.7])
LINEAR = dubito.Model(dubito.mlp(D, ()), dubito.Gaussian(precision=TAU), dubito.Normal(0.7, biases=2.0))
PRECISION = np.diag(SCALES**-2) + TAU * ONES.T @ ONES
COVARIANCE = np.linalg.inv(PRECISION)


def fitted(model, x, y, method=MODE, seed=0, weight=None, **settings):
    method = dubito.LaplaceApproximation(method, **settings)
    return dubito.fit(model, x, y, method, key=jax.random.key(seed), weight=weight)


def around(model, x, y, params=None, **settings):
    """The approximation around given params (None: a random start), without a training."""
    method = dubito.LaplaceApproximation(**settings)
    method.check(model)
    rows = check_rows(model, x, y, None)
    member = Member(jax.random.key(0), rows.train, rows.valid)
    point = DescentState(model.init(jax.random.key(5)) if params is None else params, None)
    trained = Trained((member,), (point,), (0,), 1, rows)
    return method.finish(model, trained, jax.random.key(1), None)


def vectors(tree):
    """Draws of the network as (draws, P), in float64."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(tree["network"])]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def factor(part):
    """A matrix F with F Fᵀ a normal's covariance of the network's parameters: what becomes of unit vectors for noise."""
    match part:
        case dubito.DiagonalNormal():
            scale = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part.scale["network"])])
            return np.diag(scale.astype(float))
        case dubito.FullCovarianceNormal():
            size = sum(leaf.size for leaf in jax.tree.leaves(part.mean["network"]))
            return np.asarray(part.factor, float)[-size:, -size:]
        case dubito.LowRankPrecisionNormal():
            q = vectors(part.directions)
            scale = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part.scale["network"])])
            return scale[:, None] * (np.eye(len(scale)) - q.T @ ((1 - np.asarray(part.kept, float))[:, None] * q))
    leaves, first = jax.tree.leaves(part.mean), len(jax.tree.leaves(part.mean["likelihood"]))
    places = np.cumsum([0, *(leaf.size for leaf in leaves)])
    found = np.zeros((places[-1], places[-1]))
    for number, group in enumerate(part.groups):
        at = np.concatenate([np.arange(places[k], places[k + 1]) for k in group])
        scale = np.asarray(part.scale[str(number)], float)
        left = np.asarray(part.left.get(str(number), np.eye(scale.shape[0])), float)
        right = np.asarray(part.right.get(str(number), np.eye(scale.shape[1])), float)
        found[np.ix_(at, at)] = np.kron(left, right) * scale.ravel()[None]
    return found[places[first] :, places[first] :]


def covariance(posterior):
    part = unwrapped(posterior.part)
    return factor(part) @ factor(part).T


@pytest.mark.parametrize("structure", ["dense", "kronecker", "last-layer"])
def test_a_linear_networks_posterior_is_exact(structure):
    posterior = fitted(LINEAR, X, Y, structure=structure)
    np.testing.assert_allclose(covariance(posterior), COVARIANCE, rtol=1e-4, atol=1e-4 * COVARIANCE.max())
    mean = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(posterior.center)])
    exact = COVARIANCE @ ONES.T @ Y[:, 0] * TAU
    np.testing.assert_allclose(mean, exact, atol=2e-5)
    evidence = scipy.stats.multivariate_normal.logpdf(Y[:, 0], cov=np.eye(N) / TAU + (ONES * SCALES**2) @ ONES.T)
    np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=1e-6)
    rows = ONES[:7] * 2.0
    answer = dubito.predict(posterior, rows[:, 1:] / rows[:, :1] * 2, key=jax.random.key(1), draws=DRAWS)
    rows = np.column_stack([np.ones(7), rows[:, 1:] / rows[:, :1] * 2])
    variance = np.einsum("np,pq,nq->n", rows, COVARIANCE, rows)
    assert np.all(np.abs((answer.mean - rows @ exact) / np.sqrt(variance / DRAWS)) < 4.6)
    assert np.all(np.abs(answer.epistemic / variance - 1) < 4.6 * np.sqrt(2 / DRAWS))
    np.testing.assert_allclose(answer.aleatoric, 1 / TAU, rtol=1e-5)


def test_each_structure_of_a_linear_network_is_its_part_of_the_exact_one():
    s = SCALES[:, None] * SCALES[None]
    diagonal = fitted(LINEAR, X, Y, structure="diagonal")
    np.testing.assert_allclose(covariance(diagonal), np.diag(1 / np.diag(PRECISION)), rtol=1e-5)
    values, vectors_ = np.linalg.eigh(s * (TAU * ONES.T @ ONES))
    kept, along = values[-2:], vectors_[:, -2:]
    exact = s * (np.eye(4) - along @ np.diag(kept / (1 + kept)) @ along.T)
    found = fitted(LINEAR, X, Y, structure="low-rank", rank=2)
    np.testing.assert_allclose(covariance(found), exact, rtol=1e-4, atol=1e-5)
    residual = TAU * (Y[:, 0] - ONES @ (COVARIANCE @ ONES.T @ Y[:, 0] * TAU))
    fisher = fitted(LINEAR, X, Y, structure="dense", curvature="fisher")
    exact = np.linalg.inv(np.diag(SCALES**-2) + (ONES * residual[:, None] ** 2).T @ ONES)
    np.testing.assert_allclose(covariance(fisher), exact, rtol=1e-3, atol=1e-3 * exact.max())


@pytest.mark.parametrize("structure", ["kronecker", "low-rank"])
def test_laplace_draws_have_the_covariance_of_their_structure(structure):
    posterior = around(LINEAR, X, Y, structure=structure, rank=2)
    exact = covariance(posterior)
    drawn = vectors(posterior.part.sample(jax.random.key(2), DRAWS))
    drawn -= np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(posterior.center)])[None]
    sd = np.sqrt(np.diag(exact))
    error = np.sqrt((exact**2 + np.outer(sd, sd) ** 2) / DRAWS)
    assert np.all(np.abs(drawn.T @ drawn / DRAWS - exact) < 4.6 * error)
    sample = posterior.sample(jax.random.key(2), 3)["network"]
    offset = jax.tree.map(np.subtract, posterior.part.sample(jax.random.key(2), 3)["network"], sample["center"])
    assert jax.tree.all(jax.tree.map(np.array_equal, offset, sample["offset"]))


@pytest.mark.slow
def test_weights_are_rows_so_many_times_and_blocks_do_not_matter(retraced, monkeypatch):
    weight = np.arange(N) % 3
    a = fitted(LINEAR, np.repeat(X, weight, axis=0), np.repeat(Y, weight, axis=0))
    b = fitted(LINEAR, X, Y, weight=weight)
    monkeypatch.setattr(curvature, "BLOCK_ROWS", 7)
    c = fitted(LINEAR, X, Y, weight=weight)
    for other in (b, c):
        np.testing.assert_allclose(covariance(other), covariance(a), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(other.log_evidence, a.log_evidence, rtol=1e-5)


# The curvature of networks that are not linear, by hand

HIDDEN = dubito.mlp(D, (5,), 2, "tanh")


def by_hand(model, params, x, y, kind="ggn"):
    """Each row's √H J, (R, P), with J by central differences in float64 NumPy and H of the likelihood's formulas."""
    w, b = (
        [np.asarray(params[name]["w"], float) for name in params],
        [np.asarray(params[name]["b"], float) for name in params],
    )
    h = np.tanh(x @ w[0] + b[0])
    f = h @ w[1] + b[1]
    rows, pairs = [], []
    for i in range(len(x)):
        if isinstance(model.likelihood, dubito.Categorical):
            p = scipy.special.softmax(f[i])
            second, score = np.diag(p) - np.outer(p, p), np.eye(len(p))[y[i]] - p
        else:  # Student's t of 4 degrees of freedom: f = (m, log σ)
            df, scale = 4, np.exp(f[i, 1])
            u = (y[i, 0] - f[i, 0]) / scale
            q = df + u**2
            score = np.array([(df + 1) * u / q / scale, (df + 1) * u**2 / q - 1])
            mixed = 2 * (df + 1) * u * df / q**2 / scale
            second = np.array(
                [[(df + 1) * (df - u**2) / q**2 / scale**2, mixed], [mixed, 2 * (df + 1) * df * u**2 / q**2]]
            )
        values, turn = np.linalg.eigh(second)
        root = score[:, None] if kind == "fisher" else turn * np.sqrt(np.maximum(values, 0))
        back = (w[1] * (1 - h[i] ** 2)[:, None]) @ root  # of the hidden layer's products, (5, R)
        last = [np.concatenate([r, np.outer(h[i], r).ravel()]) for r in root.T]
        rows += [np.concatenate([g, np.outer(x[i], g).ravel(), each]) for g, each in zip(back.T, last, strict=True)]
        pairs.append((np.append(x[i], 1.0), back, np.append(h[i], 1.0), root))
    return np.array(rows), pairs


def problems():
    x, y = table(30, 5)
    classes = (y[:, 0] > 0.5).astype(int)
    yield dubito.Model(HIDDEN, dubito.Categorical(2), dubito.Normal(1.5, biases=0.8)), x, classes
    yield dubito.Model(HIDDEN, dubito.StudentT(4), dubito.Normal(1.5, biases=0.8)), x, y


WIDE = np.concatenate([np.full(size, scale) for size, scale in ((5, 0.8), (15, 1.5), (2, 0.8), (10, 1.5))])


@pytest.mark.parametrize("kind", ["ggn", "fisher"])
@pytest.mark.parametrize("number", [0, 1])
def test_the_curvature_is_that_by_hand(number, kind):
    model, x, y = list(problems())[number]
    posterior = around(model, x, y, structure="dense", curvature=kind)
    rows, pairs = by_hand(model, posterior.center, x, y, kind)
    g = rows.T @ rows
    np.testing.assert_allclose(covariance(posterior), np.linalg.inv(g + np.diag(WIDE**-2)), rtol=2e-3, atol=2e-4)
    diagonal = around(model, x, y, structure="diagonal", curvature=kind)
    np.testing.assert_allclose(np.diag(covariance(diagonal)), 1 / (np.diag(g) + WIDE**-2), rtol=1e-3)
    last = around(model, x, y, structure="last-layer", curvature=kind)
    exact = np.linalg.inv((g + np.diag(WIDE**-2))[20:, 20:])
    np.testing.assert_allclose(covariance(last)[20:, 20:], exact, rtol=2e-3, atol=2e-4)
    assert not covariance(last)[:20].any()
    kronecker = covariance(around(model, x, y, structure="kronecker", curvature=kind))
    for inputs, slopes, start, units in ((0, 1, 0, 5), (2, 3, 20, 2)):
        a = sum(np.outer(pair[inputs], pair[inputs]) for pair in pairs) / len(pairs)
        b = sum(pair[slopes] @ pair[slopes].T for pair in pairs)
        side, size = len(a), len(a) * units
        order = np.concatenate([np.arange(units, size), np.arange(units)])  # weights before biases, as in the product
        scale = WIDE[start : start + size][order]
        exact = np.linalg.inv(np.kron(a, b) + np.diag(scale**-2))
        found = kronecker[start : start + size, start : start + size][np.ix_(order, order)]
        assert side * units == len(found)
        np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-4)
    assert not kronecker[:20, 20:].any()


def test_a_kronecker_product_is_exact_for_one_row_and_one_output():
    model = dubito.Model(dubito.mlp(D, (4, 3), 1, "tanh"), dubito.Gaussian(precision=9.0))
    dense, kronecker = (covariance(around(model, X[:1], Y[:1], structure=s)) for s in ("dense", "kronecker"))
    dense = np.linalg.inv(dense)
    for start, end in ((0, 16), (16, 31), (31, 35)):
        block = slice(start, end)
        np.testing.assert_allclose(kronecker[block, block], np.linalg.inv(dense[block, block]), rtol=1e-3, atol=1e-4)


def test_products_are_found_in_the_traced_program():
    """einsum with the weights turned, and a tied weight, of which only the diagonal is kept."""

    def init(key):
        a, b, c = jax.random.split(key, 3)
        sizes = {"in": (a, (4, D)), "tied": (b, (4, 4)), "out": (c, (4, 1))}
        return {name: jax.random.normal(k, shape) for name, (k, shape) in sizes.items()} | {"bias": jnp.zeros(4)}

    def apply(params, x):
        h = jnp.tanh(jnp.einsum("nd,md->nm", x, params["in"]) + params["bias"][None])
        return jnp.tanh(jnp.tanh(h @ params["tied"]) @ params["tied"]) @ params["out"]

    model = dubito.Model(dubito.Network(init, apply), dubito.Gaussian(precision=9.0))
    x, y = X[:1], Y[:1]
    dense = np.linalg.inv(covariance(around(model, x, y, structure="dense")))
    found = covariance(around(model, x, y))
    bias, turned, out, tied = slice(0, 4), slice(4, 16), slice(16, 20), slice(20, 36)
    for block in (bias, turned, out):
        np.testing.assert_allclose(found[block, block], np.linalg.inv(dense[block, block]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[tied, tied], np.diag(1 / np.diag(dense)[tied]), rtol=1e-3, atol=1e-5)
    last = covariance(around(model, x, y, structure="last-layer"))
    np.testing.assert_allclose(last[out, out], found[out, out], rtol=1e-3)
    assert np.count_nonzero(np.diag(last)) == 4


# Noise, and what maximizes the evidence


def test_a_learned_precision_is_exact_for_a_flat_prior():
    """τ ~ Gamma(a + (N − P)/2, b + SSE/2), and the evidence is that by quadrature over log τ."""
    likelihood = dubito.Gaussian(shape=2.0, rate=0.5)
    model = dubito.Model(dubito.mlp(D, ()), likelihood, dubito.Normal(30.0, biases=30.0))
    best, (sse,), *_ = np.linalg.lstsq(ONES, Y)
    layer = {"b": jnp.asarray(best[0], jnp.float32), "w": jnp.asarray(best[1:], jnp.float32)}
    log_tau = np.log([(2.0 + N / 2) / (0.5 + sse / 2)])
    params = {"network": {"layer_0": layer}, "likelihood": {"log_precision": jnp.asarray(log_tau, jnp.float32)}}
    posterior = around(model, X, Y, params, structure="dense")
    np.testing.assert_allclose(posterior.part.shape, 2.0 + (N - 4) / 2, rtol=1e-4)
    np.testing.assert_allclose(posterior.part.rate, 0.5 + sse / 2, rtol=1e-4)
    grid = np.linspace(-1, 4, 2001)
    values = [
        scipy.stats.multivariate_normal.logpdf(Y[:, 0], cov=np.eye(N) / np.exp(g) + 900 * ONES @ ONES.T)
        + scipy.stats.gamma.logpdf(np.exp(g), 2.0, scale=2.0)
        + g
        for g in grid
    ]
    exact = scipy.special.logsumexp(values) + np.log(grid[1] - grid[0])
    shape = 2.0 + (N - 4) / 2  # Stirling's error in log Γ(shape), which the curvature in log τ makes
    np.testing.assert_allclose(posterior.log_evidence + 1 / (12 * shape), exact, atol=2e-3)


@pytest.mark.slow
def test_tuning_finds_the_maximum_of_bayesian_ridge():
    x, y = table(60, 7)
    ridge = BayesianRidge(fit_intercept=False, compute_score=True, tol=1e-9, max_iter=1000).fit(x, y[:, 0])
    network = dubito.Network(lambda key: {"w": 0.1 * jax.random.normal(key, (D, 1))}, lambda p, x: x @ p["w"])
    learned = dubito.Model(network, dubito.Gaussian(shape=1e-6, rate=1e-6), dubito.Normal(3.0))
    posterior = fitted(learned, x, y, structure="dense", prior_updates=8)
    tau = posterior.part.shape / posterior.part.rate
    np.testing.assert_allclose(tau, ridge.alpha_, rtol=1e-4)
    np.testing.assert_allclose((3.0 * posterior.prior_factor) ** -2, ridge.lambda_, rtol=1e-3)
    np.testing.assert_allclose(covariance(posterior), ridge.sigma_, rtol=1e-3, atol=1e-7)
    known = dubito.Model(network, dubito.Gaussian(precision=ridge.alpha_), dubito.Normal(ridge.lambda_**-0.5))
    params = {"network": {"w": jnp.asarray(ridge.coef_[:, None], jnp.float32)}, "likelihood": {}}
    np.testing.assert_allclose(around(known, x, y, params).log_evidence, ridge.scores_[-1], atol=2e-3)


@pytest.mark.parametrize("u", [0.3, 1.0, 2.5])
def test_the_evidence_is_exact_at_any_scale_of_the_prior(u):
    values = np.linalg.eigvalsh(SCALES[:, None] * (TAU * ONES.T @ ONES) * SCALES[None])
    mode = np.linalg.solve(np.diag(SCALES**-2) / u + TAU * ONES.T @ ONES, TAU * ONES.T @ Y[:, 0])
    log_likelihood = scipy.stats.norm.logpdf(Y[:, 0], ONES @ mode, TAU**-0.5).sum()
    found = Evidence(values, np.sum((mode / SCALES) ** 2), log_likelihood, None, 0.0).log(u, 1.0)
    exact = scipy.stats.multivariate_normal.logpdf(Y[:, 0], cov=np.eye(N) / TAU + u * (ONES * SCALES**2) @ ONES.T)
    np.testing.assert_allclose(found, exact, rtol=1e-10)


def test_the_noise_of_an_approximation_that_counts_too_much_stays():
    """A diagonal Λ counts more than N parameters as determined; the noise still has half of the rows."""
    x, y = table(30, 8)
    model = dubito.Model(dubito.mlp(D, (50,)), dubito.Gaussian())
    posterior = around(model, x, y, structure="diagonal")
    np.testing.assert_allclose(posterior.part.shape, 1 + 30 / 4)
    error = y - np.asarray(model.network.apply(posterior.center, jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(posterior.part.rate, 0.01 + np.sum(error**2) / 2, rtol=1e-4)


def test_other_parameters_of_a_likelihood_have_their_own_curvature():
    """LaplaceNoise: −∂²/∂(log b)² is Σ|y − f|/b and of the prior rate/b; the score of f is ±1/b."""
    model = dubito.Model(dubito.mlp(D, ()), dubito.LaplaceNoise(rate=0.5), dubito.Normal(0.7, biases=2.0))
    posterior = around(model, X, Y, curvature="fisher")
    layer = posterior.center["layer_0"]
    error = np.abs(Y - X @ np.asarray(layer["w"], float) - np.asarray(layer["b"], float)).sum()
    drawn = np.asarray(posterior.sample(jax.random.key(0), DRAWS)["likelihood"]["log_scale"], float)[:, 0]
    sd = (error + 0.5) ** -0.5  # at b = 1
    assert abs(drawn.mean()) < 4.6 * sd / np.sqrt(DRAWS)
    assert abs(drawn.std() / sd - 1) < 4.6 / np.sqrt(2 * DRAWS)
    exact = np.linalg.inv(np.diag(SCALES**-2) + ONES.T @ ONES)
    np.testing.assert_allclose(covariance(posterior), exact, rtol=1e-4, atol=1e-4 * exact.max())
    theta = np.append(layer["b"], np.ravel(layer["w"])).astype(float)
    prior = scipy.stats.norm.logpdf(theta, scale=SCALES).sum() + np.log(0.5) - 0.5
    volume = 2.5 * np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(exact)[1] + np.log(sd)
    np.testing.assert_allclose(posterior.log_evidence, -error - N * np.log(2) + prior + volume, rtol=1e-5)


# Why predictions are linearized


def hmc(log_density, start, key, steps=500, leaps=50, size=0.004):
    """Hamiltonian Monte Carlo: draws, and the share accepted."""

    def step(theta, key):
        k_momentum, k_accept = jax.random.split(key)
        p = jax.random.normal(k_momentum, theta.shape)

        def leap(_, both):
            theta, p = both
            p = p + 0.5 * size * jax.grad(log_density)(theta)
            theta = theta + size * p
            return theta, p + 0.5 * size * jax.grad(log_density)(theta)

        new, q = jax.lax.fori_loop(0, leaps, leap, (theta, p))
        change = log_density(new) - log_density(theta) - 0.5 * (q @ q - p @ p)
        accept = jnp.log(jax.random.uniform(k_accept)) < change
        theta = jnp.where(accept, new, theta)
        return theta, (theta, accept)

    _, (drawn, accepted) = jax.lax.scan(step, start, jax.random.split(key, steps))
    return drawn[steps // 5 :], jnp.mean(accepted.astype(jnp.float32))


@pytest.mark.slow
def test_draws_through_the_network_itself_have_a_hundred_times_too_much_variance():
    """Against the exact posterior by Hamiltonian Monte Carlo, whose own error here is below 5 %."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2, 2, size=(40, 1)), axis=0)
    y = np.sin(2 * x) + 0.1 * rng.normal(size=(40, 1))
    model = dubito.Model(dubito.mlp(1, (50,), 1, "tanh"), dubito.Gaussian(precision=100.0))
    mode = dubito.MAP(epochs=3000, batch_size=None)
    linear = fitted(model, x, y, mode, structure="dense")
    plain = around(model, x, y, {"network": linear.center, "likelihood": {}}, structure="dense", linearized=False)
    start, tree = jax.flatten_util.ravel_pytree(linear.center)
    x32, y32 = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def log_density(theta):
        return -50 * jnp.sum((y32 - model.network.apply(tree(theta), x32)) ** 2) - 0.5 * jnp.sum(theta**2)

    drawn, accepted = jax.jit(hmc, static_argnums=0)(log_density, start, jax.random.key(1))
    assert accepted > 0.6
    exact = np.std(jax.vmap(lambda theta: model.network.apply(tree(theta), x32))(drawn), axis=0)
    found, wild = (
        np.sqrt(dubito.predict(each, x, key=jax.random.key(2), draws=1000).epistemic) for each in (linear, plain)
    )
    ratios = [np.sqrt(np.mean(each**2) / np.mean(exact**2)) for each in (found, wild)]
    assert 0.8 < ratios[0] < 1.0
    assert 80 < ratios[1] < 160
    slopes = np.asarray(jax.jacobian(lambda theta: model.network.apply(tree(theta), x32)[:, 0])(start), float)
    variance = np.sum((slopes @ np.asarray(linear.part.factor, float)) ** 2, axis=1)
    assert np.all(np.abs(found**2 / variance - 1) < 4.6 * np.sqrt(2 / 1000))


# How it composes


@pytest.mark.slow
def test_ensemble_of_laplace_is_a_mixture_of_one_model():
    x, y = table(60)
    inner = dubito.LaplaceApproximation(dubito.MAP(epochs=100), prior_updates=1)
    model = dubito.Model(dubito.mlp(D, (16,)), dubito.Gaussian())
    ensemble = dubito.fit(model, x, y, dubito.Ensemble(inner, 2), key=jax.random.key(0))
    assert isinstance(ensemble, dubito.Mixture) and len(ensemble.parts) == 2
    assert ensemble.parts[0].model == ensemble.parts[1].model
    assert ensemble.parts[0].prior_factor != ensemble.parts[1].prior_factor
    both = dubito.predict(ensemble, x, key=jax.random.key(1), draws=400)
    each = [dubito.predict(part, x, key=jax.random.key(k), draws=200) for k, part in enumerate(ensemble.parts)]
    error = np.sqrt((each[0].epistemic + each[1].epistemic) / 2 / 200)  # of both sides
    assert np.all(np.abs(both.mean - (each[0].mean + each[1].mean) / 2) < 4.9 * error)


@pytest.mark.slow
def test_cross_fit_of_laplace_predicts_with_the_linearized_network():
    x, y = table(60)
    inner = dubito.LaplaceApproximation(dubito.MAP(epochs=100))
    model = dubito.Model(dubito.mlp(D, (6,)), dubito.Gaussian())
    crossed = dubito.fit(model, x, y, dubito.CrossFit(inner, 3), key=jax.random.key(0))
    answer = dubito.predict(crossed, x, key=jax.random.key(1))
    assert np.sqrt(np.mean((answer.mean - y[:, 0]) ** 2)) < 2 / np.sqrt(TAU)
    classes, labels = dubito.Model(dubito.mlp(D, (6,), 2), dubito.Categorical(2)), (y[:, 0] > 0).astype(int)
    tempered = dubito.fit(classes, x, labels, dubito.CrossFit(inner, 3), key=jax.random.key(0))
    assert tempered.model.likelihood.temperature != 1
    probs = dubito.predict(tempered, x, key=jax.random.key(1)).probs
    assert np.mean(np.argmax(probs, axis=1) == labels) > 0.8


@pytest.mark.slow
def test_classes_are_linearized_and_uncertainty_far_away_is_larger():
    x, y = table(200)
    labels = (y[:, 0] > 0.5).astype(int)
    model = dubito.Model(dubito.mlp(D, (16,)), dubito.Bernoulli())
    posterior = fitted(model, x, labels, dubito.MAP(epochs=100))
    near, far = (dubito.predict(posterior, x * s, key=jax.random.key(1)).mutual_information for s in (1, 10))
    assert far.mean() > 2 * near.mean()


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        ({"structure": "full"}, {}, "structure='full' is unknown. Choose one of dense, kronecker"),
        ({"curvature": "hessian"}, {}, "curvature='hessian' is unknown"),
        ({"method": dubito.MCDropout()}, {}, "needs a method that returns a point"),
        ({"method": dubito.MaximumLikelihood(), "prior_updates": 1}, {}, "wrap MAP"),
        ({"method": dubito.MAP(epochs=0)}, {}, "epochs must be"),
        ({"prior_updates": -1}, {}, "prior_updates must be a whole number of at least 0, got -1"),
        ({"structure": "low-rank", "rank": 4}, {}, "rank=4 must be below the network's 4 parameters"),
        ({}, {"prior": dubito.Laplace()}, "needs a Normal prior"),
        ({}, {"prior": None}, "needs a Normal prior"),
        ({}, {"prior": dubito.Normal(biases=None)}, "set a prior scale for the biases"),
        ({}, {"likelihood": dubito.LaplaceNoise()}, "use curvature='fisher'"),
        ({"structure": "dense"}, {"network": dubito.mlp(D, (2001,))}, "this network has 10,006: use 'kronecker'"),
    ],
)
def test_invalid_settings_are_refused(settings, model, message):
    with pytest.raises(ValueError, match=message):
        fitted(replace(LINEAR, **model), X, Y, **settings)


def test_laplace_of_a_stream_is_refused():
    with pytest.raises(ValueError, match="LaplaceApproximation needs all rows in memory"):
        fitted(LINEAR, lambda: iter([(X, Y)]), None)


def test_network_view_of_laplace_reads_the_point():
    posterior = around(dubito.Model(HIDDEN, dubito.Categorical(2)), X, (Y[:, 0] > 0).astype(int), structure="dense")
    for each in (posterior, dubito.Mixture(posterior.model, (posterior, posterior))):
        looked = fitted_.member_of(each)[0]
        assert looked.model.network == HIDDEN
        same = jax.tree.map(np.array_equal, fitted_.point_params(each)["network"], posterior.center)
        assert jax.tree.all(same)
    assert len(fitted_.unit_correlation(posterior, X)) == 1


def test_the_prior_factor_multiplies_the_scales_of_all_leaves():
    """log p(θ) of the model to train with is that with every scale times 1.7, also where the network has the scales."""
    network = dubito.mlp(2, (3,), periodic=2)
    params = {"network": jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0))), "likelihood": {}}
    for prior in (dubito.Normal(0.6, biases=0.4), dubito.Normal(0.6, by_network=True)):
        model = dubito.Model(network, dubito.Gaussian(1.0), prior)
        before, after = (
            jax.tree.leaves(map_prior(lambda w, s: float(s), one, params))
            for one in (model, with_prior_factor(model, 1.7, None, 0.0))
        )
        np.testing.assert_allclose(after, 1.7 * np.array(before), rtol=1e-6)
