"""Gradients, divergences and densities of the library against independent evaluations in NumPy and SciPy.

Backpropagation, variational gradients, the precision and the passes of MC dropout, and the uncertainty of classes.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import dubito
from dubito._jax.prng import fast, normal_like
from dubito.methods import weight_noise
from dubito.methods.dropout import mc_dropout
from dubito.methods.variational import bayes_by_backprop
from dubito.models.model import Batch
from dubito.posteriors.predictive import Predictive

N, TAU = 20, 3.0
RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(N, k)).astype(np.float32) for k in (3, 2))


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), tree)


def batch(x=X, y=Y, scale=1.0):
    return Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(x)), jnp.float32(scale), jnp.float32(scale * len(x)))


def mlp(params, x, activation=np.tanh):
    """The same network in NumPy."""
    first, last = params["layer_0"], params["layer_1"]
    return activation(x @ first["w"] + first["b"]) @ last["w"] + last["b"]


def test_gradient_of_a_sigmoid_network_equals_backpropagation_by_hand():
    """δ = h ⊙ (1 − h) ⊙ (e vᵀ), e = −(y − ŷ) ŷ (1 − ŷ): ∂C/∂v = hᵀe/B, ∂C/∂w = xᵀδ/B, biases column sums, equations (27) and (28)."""
    network = dubito.mlp(3, (4,), 2, activation="sigmoid")
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(1)))

    def criterion(params):
        return 0.5 * jnp.mean(jnp.sum((Y - jax.nn.sigmoid(network.apply(params, X))) ** 2, axis=1))

    found = jax.jit(jax.grad(criterion))(params)
    p = float64(params)
    h = special.expit(X @ p["layer_0"]["w"] + p["layer_0"]["b"])
    output = special.expit(mlp(p, X, special.expit))
    e = -(Y - output) * output * (1 - output)
    delta = h * (1 - h) * (e @ p["layer_1"]["w"].T)
    exact = {
        "layer_0": {"w": X.T @ delta / N, "b": delta.sum(0) / N},
        "layer_1": {"w": h.T @ e / N, "b": e.sum(0) / N},
    }
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def slope(function, tree, step=1e-5):
    """Central differences of a function of a tree of float64 arrays."""
    leaves, structure = jax.tree.flatten(tree)
    slopes = [np.zeros_like(leaf) for leaf in leaves]
    for number, index in ((n, i) for n, leaf in enumerate(leaves) for i in np.ndindex(leaf.shape)):
        ends = []
        for side in (1, -1):
            moved = [leaf.copy() for leaf in leaves]
            moved[number][index] += side * step
            ends.append(function(structure.unflatten(moved)))
        slopes[number][index] = (ends[0] - ends[1]) / (2 * step)
    return structure.unflatten(slopes)


def log_mixture(w):
    return np.logaddexp(np.log(0.4) + stats.norm.logpdf(w, scale=1.3), np.log(0.6) + stats.norm.logpdf(w, scale=0.2))


def log_weights_and_biases(of_weights, theta):
    return sum(np.sum(of_weights(w) if w.ndim > 1 else stats.norm.logpdf(w)) for w in jax.tree.leaves(theta))


@pytest.mark.parametrize("kind", ["mixture", "normal"])
def test_gradients_of_the_elbo_equal_those_of_the_reparametrized_objective(kind):
    """Δ_μ = ∂F/∂θ + ∂F/∂μ and Δ_ρ = ((∂F/∂θ)·ε + ∂F/∂σ)/(1 + e^−ρ), F = log q − log p(θ) − log p(D | θ): (40)-(42).

    F is evaluated in float64 NumPy, its partial derivatives by differences. For the Normal prior the library uses the closed form
    of the KL divergence: then F has no log q − log p(θ) at the draw, and KL(μ, σ) is added to the explicit derivatives.
    """
    rows = 6
    prior = dubito.ScaleMixture(0.4, 1.3, 0.2) if kind == "mixture" else dubito.Normal(1.3)
    model = dubito.Model(dubito.mlp(3, (2,), 2, activation="tanh"), dubito.Gaussian(precision=TAU, targets=2), prior)
    method = dubito.BayesByBackprop(gradient_estimator="draw")
    data, key = batch(X[:rows], Y[:rows], scale=4.0), fast(jax.random.key(2))
    mean = model.init(jax.random.key(3))
    rho = jax.tree.map(lambda m: -0.5 + 0.3 * jnp.cos(7 * m), mean)

    def objective(mean, rho):
        q = bayes_by_backprop.IndependentNormals(mean, jax.tree.map(jax.nn.softplus, rho))
        likelihood, kl = method.estimate(model, q, data, jax.random.split(key))
        return kl - likelihood

    found = jax.jit(jax.grad(objective, argnums=(0, 1)))(mean, rho)
    eps = float64(normal_like(jax.random.split(key)[1], mean))["network"]
    mean, rho = float64(mean)["network"], float64(rho)["network"]
    sigma = jax.tree.map(lambda r: np.logaddexp(0, r), rho)

    def log_q(*trees):  # of θ, μ, σ
        return sum(np.sum(stats.norm.logpdf(*leaves)) for leaves in zip(*map(jax.tree.leaves, trees), strict=True))

    def kl(mu, sd):
        total = 0.0
        for m, s in zip(jax.tree.leaves(mu), jax.tree.leaves(sd), strict=True):
            p = 1.3 if m.ndim > 1 else 1.0
            total += np.sum(np.log(p / s) + (s**2 + m**2) / (2 * p**2) - 0.5)
        return total

    def f(theta, mu, sd):
        likelihood = 4 * np.sum(stats.norm.logpdf(Y[:rows], mlp(theta, X[:rows].astype(float)), TAU**-0.5))
        if kind == "normal":
            return kl(mu, sd) - likelihood
        return log_q(theta, mu, sd) - log_weights_and_biases(log_mixture, theta) - likelihood

    theta = jax.tree.map(lambda m, s, e: m + s * e, mean, sigma, eps)
    by_theta = slope(lambda t: f(t, mean, sigma), theta)
    by_mean, by_sigma = slope(lambda m: f(theta, m, sigma), mean), slope(lambda s: f(theta, mean, s), sigma)
    of_mean = jax.tree.map(np.add, by_theta, by_mean)
    of_rho = jax.tree.map(lambda t, e, s, r: (t * e + s) * special.expit(r), by_theta, eps, by_sigma, rho)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves((of_mean, of_rho)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize(("m", "s", "p"), [(0.3, 0.5, 1.0), (-2.0, 0.05, 0.7), (0.0, 3.0, 1.5)])
def test_normal_kl_and_entropy_equal_quadrature(m, s, p):
    q = stats.norm(m, s)
    ends = m - 12 * s, m + 12 * s
    kl = integrate.quad(lambda w: q.pdf(w) * (q.logpdf(w) - stats.norm.logpdf(w, scale=p)), *ends, epsabs=1e-10)[0]
    found = bayes_by_backprop.normal_kl(jnp.float32(m), jnp.float32(s), jnp.float32(p))
    np.testing.assert_allclose(found, kl, rtol=2e-6)
    entropy = integrate.quad(lambda w: q.pdf(w) * q.logpdf(w), *ends, epsabs=1e-10)[0]
    np.testing.assert_allclose(bayes_by_backprop.negative_entropy({"w": jnp.float32(s)}), entropy, rtol=2e-6, atol=1e-6)


def test_sampled_divergence_averages_to_the_closed_form():
    """E_q[log q − log p(θ)] from draws, for a prior without a closed form that equals a Normal."""
    scale = {"network": {"w": jnp.full((3, 2), 0.4)}, "likelihood": {}}
    mean = {"network": {"w": jnp.linspace(-1, 1, 6).reshape(3, 2)}, "likelihood": {}}
    network = dubito.Network(dict, lambda p, x: x @ p["w"])

    def divergence(prior, key):
        model = dubito.Model(network, dubito.Gaussian(precision=1.0), prior)
        q = bayes_by_backprop.IndependentNormals(mean, scale)
        return bayes_by_backprop.divergence(model, q, bayes_by_backprop.perturb(key, *q))

    keys = jax.random.split(fast(jax.random.key(4)), 4000)
    same = dubito.ScaleMixture(mixing=0.5, scale=1.3, narrow=1.3)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: divergence(same, k)))(keys), float)
    exact = float(divergence(dubito.Normal(1.3), keys[0]))
    assert abs(drawn.mean() - exact) < 4.6 * drawn.std() / np.sqrt(len(drawn))


RATE, LENGTH = 0.3, 1.7


Y3 = np.random.default_rng(10).normal(size=(N, 3)).astype(np.float32)


def external(convention, f, weights, strength):
    """Objective of a network trained elsewhere: criterion and penalty, without the decay of an optimizer."""
    square = (Y3 - f) ** 2
    criterion = jnp.mean(square) if convention.startswith("mse") else 0.5 * jnp.mean(jnp.sum(square, axis=1))
    return criterion + (0.0 if convention.endswith("decay") else strength * jnp.sum(weights**2))


CONVENTIONS = "half-squared-error half-squared-error-unscaled half-squared-error-decay mse mse-decay".split()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_precision_from_weight_decay_gives_the_gradient_of_the_other_objective(convention):
    """With this τ the gradient of the library's objective is proportional to that of the other network's objective.

    The gradient of the library is the step of SGD with rate 1.
    """
    strength = 0.013
    tau = dubito.precision_from_weight_decay(
        strength, rate=RATE, length_scale=LENGTH, size=N, convention=convention, outputs=3
    )
    network = dubito.Network(lambda key: {"w": jax.random.normal(key, (3, 3))}, lambda p, x: x @ p["w"])
    model = dubito.Model(network, dubito.Gaussian(precision=tau, targets=3), dubito.Normal(1 / LENGTH))
    method = dubito.MCDropout(
        rate=RATE, input_rate=RATE, optimizer="sgd", learning_rate=1.0, schedule="constant", clip=None
    )
    key = fast(jax.random.key(5))
    state = method.init(model, None, jax.random.key(6))
    clock = SimpleNamespace(progress=jnp.float32(0), step_factor=jnp.float32(1))
    moved, _ = jax.jit(lambda s: method.step(model, s, batch(y=Y3), clock, key))(state)
    weight = state.params["network"]["w"]
    library = np.asarray(weight - moved.params["network"]["w"], float)
    unscaled = convention.endswith("unscaled")
    kept = 1 - RATE if unscaled else 1.0  # M = w/(1 − r) is the weight under masks that are not divided

    def outputs(w):
        noise = {"w": weight_noise.Masked(RATE)}
        return weight_noise.noisy(network.apply, {"w": kept * w}, noise, jnp.asarray(X), key=key)

    other = weight / kept
    theirs = jax.jit(jax.grad(lambda w: external(convention, outputs(w), w, strength)))(other)
    theirs = theirs + (strength * other if convention.endswith("decay") else 0.0)
    # ∇_M = (1 − r) ∇_w; the mean over K = 3 outputs of the un-halved error is 2/K times the half squared error
    ratio = tau * 3 / 2 if convention.startswith("mse") else tau
    np.testing.assert_allclose(kept * library / ratio, theirs, rtol=2e-5, atol=1e-6)


def test_precision_from_weight_decay_of_unscaled_masks_is_equation_60():
    found = dubito.precision_from_weight_decay(
        0.01, rate=0.1, length_scale=0.5, size=100, convention="half-squared-error-unscaled"
    )
    np.testing.assert_allclose(found, 0.9 * 0.25 / (2 * 100 * 0.01))


@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 0.0}, {"rate": 1.0}, {"rate": -0.1}, {"size": 0}, {"length_scale": 0}, {"convention": "mse "}],
)
def test_precision_from_weight_decay_refuses_invalid_arguments(change):
    numbers = {"weight_decay": 0.1, "rate": 0.1, "length_scale": 1.0, "size": 9, "convention": "mse"} | change
    with pytest.raises(ValueError, match=r"convention|positive"):
        dubito.precision_from_weight_decay(numbers.pop("weight_decay"), **numbers)


def test_dropout_penalty_scales_the_weights_behind_masks():
    """Σ ℓ²/(2(1 − r)) ‖w‖² + ℓ²/2 ‖b‖²: the inputs of the second layer are dropped, those of the first are not."""
    network = dubito.mlp(3, (4,), 2)
    model = dubito.Model(network, dubito.Gaussian(targets=2), dubito.Normal(1 / LENGTH, biases=1 / LENGTH))
    params = jax.tree.map(lambda leaf: leaf + 0.2, model.init(jax.random.key(8)))
    method = dubito.MCDropout(rate=RATE)
    rates = mc_dropout.drop_rates(model, params, X, method.rate, method.input_rate)
    assert rates == {"layer_0": {"w": None, "b": None}, "layer_1": {"w": RATE, "b": None}}
    p = float64(params)["network"]
    kept = {"layer_0": {"w": 1, "b": 1}, "layer_1": {"w": 1 - RATE, "b": 1}}
    parts = jax.tree.map(lambda leaf, k: LENGTH**2 / (2 * k) * np.sum(leaf**2), p, kept)
    phi = float64(params)["likelihood"]["log_precision"]
    own = np.sum(stats.gamma(1.0, scale=100.0).logpdf(np.exp(phi)) + phi)
    found = mc_dropout.weight_penalty(model, params, rates)
    np.testing.assert_allclose(found, sum(jax.tree.leaves(parts)) - own, rtol=2e-6)


def passes(count=11, rows=1, seed=9):
    """T passes f_t with one precision τ, and their Predictive."""
    f = np.random.default_rng(seed).normal(size=(count, rows, 2)).astype(np.float32)
    z = {"mean": f, "scale": np.full_like(f, TAU**-0.5)}
    return f.astype(float), Predictive(dubito.Gaussian(precision=TAU, targets=2), z, np.zeros(()), np.ones(()))


def test_predictive_moments_of_dropout_passes_are_equation_62():
    """E[y] = f̄, Var[y] = τ⁻¹ + (1/T) Σ (f_t − f̄)²."""
    f, answer = passes(rows=4)
    np.testing.assert_allclose(answer.mean, f.mean(0), rtol=1e-6)
    np.testing.assert_allclose(answer.variance, 1 / TAU + ((f - f.mean(0)) ** 2).mean(0), rtol=1e-6)
    np.testing.assert_allclose(answer.aleatoric, 1 / TAU, rtol=1e-6)


def test_log_prob_of_dropout_passes_is_equation_63():
    """logsumexp_t(−½τ Σ_k (y_k − f_tk)²) − log T − (K/2) log 2π + (K/2) log τ, also far from the passes."""
    f, answer = passes(rows=4)
    for y in (f.mean(0), f.mean(0) + 1.5, f.mean(0) - 60):
        square = np.sum((y - f) ** 2, axis=-1)
        exact = special.logsumexp(-0.5 * TAU * square, axis=0) - np.log(11) - np.log(2 * np.pi) + np.log(TAU)
        np.testing.assert_allclose(answer.log_prob(y), exact, rtol=2e-6, atol=2e-6)


def test_predictive_density_integrates_to_the_predictive_moments_and_cdf():
    """On a grid of y, one row each, exp(log p) integrates to one, to both moments and to the cdf."""
    grid = np.linspace(-8, 8, 1024)
    f, _ = passes()
    z = {"mean": np.tile(np.float32(f[..., :1]), (1, 1024, 1)), "scale": np.full((11, 1024, 1), TAU**-0.5, np.float32)}
    answer = Predictive(dubito.Gaussian(precision=TAU), z, np.zeros(()), np.ones(()))
    density = np.exp(answer.log_prob(grid[:, None]))
    mean, variance = answer.mean[0], answer.variance[0]
    np.testing.assert_allclose(integrate.trapezoid(density, grid), 1, atol=1e-6)
    np.testing.assert_allclose(integrate.trapezoid(density * grid, grid), mean, atol=1e-6)
    np.testing.assert_allclose(integrate.trapezoid(density * (grid - mean) ** 2, grid), variance, rtol=2e-6)
    # the trapezoid's local error is h³/12 · p'': summed, below h²/12 · max |p'|
    step = grid[1] - grid[0]
    cumulative = integrate.cumulative_trapezoid(density, grid, initial=0)
    bound = step**2 / 12 * np.abs(np.gradient(density, grid)).max() * 2 + 1e-6
    assert np.abs(answer.cdf(grid[:, None]) - cumulative).max() < bound


def test_uncertainty_measures_of_classes_equal_their_definitions():
    """Variation ratio, predictive entropy and mutual information of given draws.

    Rows: full agreement; draws that are certain of different classes; draws with uniform probabilities.
    """
    sure, third = np.float32([0.98, 0.01, 0.01]), np.full(3, 1 / 3, np.float32)
    p = np.stack(
        [
            np.stack([sure] * 5),
            np.stack([sure, np.roll(sure, 1), np.roll(sure, 1), np.roll(sure, 2), np.roll(sure, 1)]),
            np.stack([third] * 5),
        ],
        axis=1,
    )
    answer = Predictive(dubito.Categorical(3), {"logits": np.log(p)}, np.zeros(()), np.ones(()))
    p = p.astype(float)
    total, expected = stats.entropy(p.mean(0), axis=-1), stats.entropy(p, axis=-1).mean(0)
    np.testing.assert_allclose(answer.entropy, total, rtol=1e-6)
    np.testing.assert_allclose(answer.mutual_information, total - expected, atol=1e-6)
    np.testing.assert_allclose(answer.variation_ratio[:2], [0, 0.4], atol=1e-12)
    assert answer.mutual_information[0] < 1e-6 < 0.5 < answer.mutual_information[1] < answer.entropy[1]
    np.testing.assert_allclose([answer.entropy[2], answer.mutual_information[2]], [np.log(3), 0], atol=1e-6)


def test_uncertainty_of_certain_classes_is_exactly_zero():
    logits = np.tile(np.float32([1e4, -1e4]), (4, 1, 1))
    answer = Predictive(dubito.Categorical(2), {"logits": logits}, np.zeros(()), np.ones(()))
    assert answer.entropy[0] == answer.mutual_information[0] == answer.variation_ratio[0] == 0
