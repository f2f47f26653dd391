"""Wide networks are Gaussian processes (Neal 1996; Cho & Saul 2009; Williams 1997; Lee et al. 2018), and what dropout makes of that.

With weights N(0, 1/fan-in) and biases N(0, 1) the outputs at rows x, x' have the covariance K^L, K⁰ = 1 + x·x'/D and

    K^(l+1) = 1 + E[φ(u) φ(u')],    (u, u') ~ N(0, K^l at x and x').
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import erf

import dubito
from dubito import diagnostics

DRAWS = 4000
X = np.array([[-1.2, 0.3], [0.1, 0.4], [0.2, 0.4], [1.5, -1.0]])
PRIOR = dubito.Normal(by_network=True)


def relu_mean(k):
    """E[max(u, 0) max(u', 0)]: the arc-cosine kernel."""
    s = np.sqrt(np.einsum("...i,...j->...ij", *2 * [np.diagonal(k, axis1=-2, axis2=-1)]))
    phi = np.arccos(np.clip(k / s, -1, 1))
    return s * (np.sin(phi) + (np.pi - phi) * np.cos(phi)) / (2 * np.pi)


def erf_mean(k):
    """E[erf(u) erf(u')]: the arcsine kernel."""
    s = 1 + 2 * np.diag(k)
    return 2 / np.pi * np.arcsin(2 * k / np.sqrt(np.outer(s, s)))


def kernel(x, mean, layers):
    k = 1 + x @ x.T / x.shape[1]
    for _ in range(layers):
        k = 1 + mean(k)
    return k


ACTIVATIONS = {"relu": ("relu", relu_mean), "erf": (erf, erf_mean)}


def prior_draws(network, x, draws, key):
    """Outputs (draws, n) of networks from the prior."""
    like = jax.eval_shape(network.init, key)

    def one(key):
        return network.apply(PRIOR.sample(key, like, network.scales(like, 1.0)), jnp.asarray(x, jnp.float32))[:, 0]

    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))(jax.random.split(key, draws)), float)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("layers", "width"), [(1, 16), (2, 32)])
def test_prior_covariance_is_the_kernel(name, layers, width):
    """Exact at any width for one hidden layer; for two up to 1/width, a twentieth of the Monte-Carlo error here."""
    activation, mean = ACTIVATIONS[name]
    network = dubito.mlp(2, (width,) * layers, activation=activation)
    f = prior_draws(network, X, DRAWS, jax.random.key(layers))
    products = f[:, :, None] * f[:, None, :]
    z = (products.mean(0) - kernel(X, mean, layers)) / (products.std(0) / np.sqrt(DRAWS))
    assert np.all(np.abs(z) < 4.6)


def narrow(x, width, draws):
    """The covariance of the outputs (n, n) for two hidden layers of ``width`` ReLUs, and its error: of first layers drawn
    here, and given these the second's E[φ(u) φ(u')] in closed form."""
    u = np.random.default_rng(width).multivariate_normal(np.zeros(len(x)), kernel(x, None, 0), size=(draws, width))
    h = np.maximum(u, 0)
    found = 1 + relu_mean(1 + np.einsum("shi,shj->sij", h, h) / width)
    return found.mean(0), found.std(0) / np.sqrt(draws)


@pytest.mark.slow
def test_the_covariance_of_two_layers_tends_to_the_kernel_as_one_over_the_width():
    """Of two rows on nearly opposite sides, where it is too small by 0.14 standard deviations of f f' at width 2: there, at
    four times that and at sixteen times the error is that of the width itself, which falls at least by half each time."""
    x, errors = np.array([[10.0, 0.0], [-8.7, 5.0]]), []
    for width, draws in ((2, 20_000), (8, 20_000), (32, 4000)):
        f = prior_draws(dubito.mlp(2, (width,) * 2), x, draws, jax.random.key(width))
        products = f[:, :, None] * f[:, None, :]
        own = products.std(0) / np.sqrt(draws)
        exact, error = narrow(x, width, 20_000 // width)
        assert np.all(np.abs(products.mean(0) - exact) < 4.6 * np.sqrt(own**2 + error**2))
        limit = kernel(x, relu_mean, 2)
        errors.append([one[0, 1] for one in (products.mean(0) - limit, exact - limit, own)])
    seen, exact, own = np.abs(errors).T
    assert np.all(seen[:2] > 4.6 * own[:2])
    assert np.all(exact[1:] < 0.5 * exact[:-1])


@pytest.mark.slow
def test_outputs_become_normal_as_one_over_the_width():
    """The excess kurtosis of f(x) is c/width: given the hidden units f is normal, with a variance that varies as 1/width."""
    found = []
    for width in (4, 16, 64):
        f = prior_draws(dubito.mlp(2, (width,)), X[:1], 20_000, jax.random.key(width))[:, 0]
        found.append(width * (np.mean(f**4) / np.mean(f**2) ** 2 - 3))
    s = 1 + X[0] @ X[0] / 2  # of N(0, s): E φ² = s/2, E φ⁴ = 3s²/2, so the variance's variance is (3/2 − 1/4) s²/width
    exact = 3 * 1.25 * s**2 / (1 + s / 2) ** 2
    errors = np.array([4, 16, 64]) * np.sqrt(96 / 20_000) * [3, 1.5, 1.1]  # √(96/n) for normals, more for heavier tails
    assert np.all(np.abs(np.array(found) - exact) < 4.6 * errors)


TAU, ROWS = 20.0, 8
RNG = np.random.default_rng(2)
INPUTS = RNG.uniform(-1.5, 1.5, size=(ROWS, 2))
TARGETS = np.sin(2 * INPUTS[:, :1]) + RNG.normal(size=(ROWS, 1)) / np.sqrt(TAU)


def gaussian_process():
    """Mean (n,) and covariance (n, n) of the posterior of f at X."""
    k = kernel(np.concatenate([INPUTS, X]), relu_mean, 1)
    inside, across, here = k[:ROWS, :ROWS] + np.eye(ROWS) / TAU, k[ROWS:, :ROWS], k[ROWS:, ROWS:]
    return (across @ np.linalg.solve(inside, TARGETS))[:, 0], here - across @ np.linalg.solve(inside, across.T)


def wide(width):
    return dubito.Model(dubito.mlp(2, (width,)), dubito.Gaussian(precision=TAU), PRIOR)


def moments_at(width, draws):
    """E f and E (f − m)(f − m)ᵀ at X in the posterior of a network of this width, m the Gaussian process' mean, and their
    errors: given hidden units f is a Gaussian process, and such units, drawn from the prior, weigh as it explains the data."""
    x, rng = np.concatenate([INPUTS, X]), np.random.default_rng(width)
    h = rng.normal(size=(draws, 1, width)) + x @ rng.normal(size=(draws, 2, width)) / np.sqrt(2)
    k = 1 + np.maximum(h, 0) @ np.maximum(h, 0).transpose(0, 2, 1) / width
    inside, across = k[:, :ROWS, :ROWS] + np.eye(ROWS) / TAU, k[:, ROWS:, :ROWS]
    solved = np.linalg.solve(
        inside, np.concatenate([TARGETS + 0 * inside[:, :, :1], across.transpose(0, 2, 1)], axis=2)
    )
    log_evidence = -0.5 * (TARGETS[:, 0] @ solved[:, :, 0].T + np.linalg.slogdet(inside)[1])
    weight = np.exp(log_evidence - log_evidence.max()) / np.exp(log_evidence - log_evidence.max()).sum()
    moved = across @ solved
    f, covariance = moved[:, :, 0], k[:, ROWS:, ROWS:] - moved[:, :, 1:]
    off = f - gaussian_process()[0]
    values = np.concatenate([f, (covariance + off[:, :, None] * off[:, None]).reshape(draws, -1)], axis=1)
    return weight @ values, np.sqrt(weight**2 @ (values - weight @ values) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [8, 64])
def test_the_posterior_of_a_wide_network_is_the_gaussian_process(width):
    """And of a narrow one its own, ten errors away from that. By HMC, whose coordinates make the prior N(0, 1): there the
    posterior of a wide network is near the prior."""
    method = dubito.HMC(draws=600, warmup=200, chains=2, warm_start_steps=0)
    found = dubito.fit(wide(width), INPUTS, TARGETS, method, key=jax.random.key(3))
    f = np.asarray(dubito.predict(found, X, key=jax.random.key(4)).z["mean"][:, :, 0], float)
    mean, covariance = gaussian_process()
    products = ((f - mean)[:, :, None] * (f - mean)[:, None, :]).reshape(len(f), -1)
    values = np.concatenate([f, products], axis=1).reshape(2, 600, -1)
    limit = np.concatenate([mean, covariance.ravel()])
    error = values.std((0, 1)) / np.sqrt(diagnostics.ess(values))
    own, own_error = moments_at(width, 40_000 if width == 8 else 4000)
    assert np.all(np.abs(values.mean((0, 1)) - own) < 4.6 * np.sqrt(error**2 + own_error**2))
    far = np.max(np.abs(values.mean((0, 1)) - limit) / error)
    assert far < 4.6 if width == 64 else far > 6


@pytest.mark.slow
def test_the_covariance_of_dropout_in_a_random_wide_network_is_the_kernel():
    """Of masked units the draws have covariance r/(1 − r) Σ_h v_h² φ_h(x) φ_h(x'), in the wide limit r/(1 − r) (K − 1)."""
    rate, width = 0.2, 1024
    model = wide(width)
    like = model.init(jax.random.key(5))
    params = {**like, "network": PRIOR.sample(jax.random.key(6), like["network"], model.scales(like))}
    rates = jax.tree.map(lambda leaf: None, params["network"])
    rates["layer_1"]["w"] = rate
    posterior = dubito.DropoutPosterior(model, params, rates)
    f = np.asarray(dubito.predict(posterior, X, key=jax.random.key(7), draws=DRAWS).z["mean"][:, :, 0], float)
    hidden = np.maximum(
        X @ np.asarray(params["network"]["layer_0"]["w"], float) + np.asarray(params["network"]["layer_0"]["b"]), 0
    )
    weighted = hidden * np.asarray(params["network"]["layer_1"]["w"], float)[:, 0]
    exact = rate / (1 - rate) * weighted @ weighted.T
    sd = np.sqrt(np.diag(exact))
    error = np.sqrt((exact**2 + np.outer(sd, sd) ** 2) / DRAWS)  # of a covariance of normals
    assert np.all(np.abs(np.cov(f.T) - exact) < 4.6 * error)
    limit = rate / (1 - rate) * (kernel(X, relu_mean, 1) - 1)
    spread = rate / (1 - rate) * (weighted[:, None, :] * weighted[None, :, :]).std(-1) * np.sqrt(width)
    assert np.all(np.abs(exact - limit) < 4.6 * spread)


@pytest.mark.slow
def test_trained_dropout_is_not_the_posterior():
    """Its epistemic variance follows the rate that was asked for, and is too small everywhere: known and wrong."""
    x = np.concatenate([X, INPUTS])
    k = kernel(np.concatenate([INPUTS, x]), relu_mean, 1)
    inside, across = k[:ROWS, :ROWS] + np.eye(ROWS) / TAU, k[ROWS:, :ROWS]
    exact = np.diag(k[ROWS:, ROWS:] - across @ np.linalg.solve(inside, across.T))
    epistemic = {}
    for rate in (0.02, 0.2):
        method = dubito.MCDropout(rate=rate, epochs=600, batch_size=None)
        found = dubito.fit(wide(256), INPUTS, TARGETS, method, key=jax.random.key(8))
        epistemic[rate] = dubito.predict(found, x, key=jax.random.key(9), draws=DRAWS).epistemic
    assert np.all(epistemic[0.2] > 3 * epistemic[0.02])
    assert np.all(epistemic[0.2] < 0.7 * exact)
