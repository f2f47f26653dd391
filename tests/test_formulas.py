"""Formulas of docs/mathematics.md against their definitions; a common mistake in each of them is detected.

Each entry of ``FORMULAS``, named by its equation number, returns (a common mistake, the formula, the reference). The reference is
a definition, SciPy's function, or a central difference in float64. That the mistake fails shows that the test can fail.
"""

import jax
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito import backprop

STEP = 1e-6
RATE, STRENGTH = 0.1, 0.3  # α and λ
RNG = np.random.default_rng(0)
SIZE, WIDTH = 6, 3  # examples; inputs, hidden units and outputs, as many so that wrong indices are not wrong shapes
V, W = RNG.normal(size=(WIDTH, WIDTH)), RNG.normal(size=(WIDTH, WIDTH))
X = RNG.normal(size=(SIZE, WIDTH))
Y = np.eye(WIDTH)[RNG.integers(WIDTH, size=SIZE)]
THETA = np.array([0.7, -1.2, 0.0, 2.0])


def slopes(function, at):
    """Central differences of a function of an array: first the shape of its values, then that of the array."""
    at = np.asarray(at, float)
    found = []
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = STEP
        found.append((np.asarray(function(at + moved)) - np.asarray(function(at - moved))) / (2 * STEP))
    return np.moveaxis(np.array(found), 0, -1).reshape((*found[0].shape, *at.shape))


def criterion(v, w):
    """(24) for a network of two sigmoid layers, from its definition."""
    output = special.expit(special.expit(X @ w) @ v)
    return np.sum((Y - output) ** 2) / (2 * len(X))


def sum_with_a_bias():
    """(3): y_j = Σ_i w_ij x_i + b_j. With the index of the sum, b_i would be added in each of its terms."""
    bias = np.array([1.0, 2.0, -0.5])
    mistake = [[sum(W[i, j] * x[i] + bias[i] for i in range(WIDTH)) for j in range(WIDTH)] for x in X]
    layer = dubito.mlp(WIDTH, (), WIDTH).apply({"layer_0": {"w": W, "b": bias}}, X)
    right = [[sum(W[i, j] * x[i] for i in range(WIDTH)) + bias[j] for j in range(WIDTH)] for x in X]
    return mistake, right, layer


def binary_cross_entropy():
    """(8): −[y log ŷ + (1 − y) log(1 − ŷ)]. Without the brackets it is −log p only where y is 1."""
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.8, 0.1, 0.8])
    mistake = -y * np.log(p) + (1 - y) * np.log(1 - p)
    right = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return mistake, right, -stats.bernoulli.logpmf(y, p)


def squared_error():
    """(24) is the squared error, the Gaussian negative log likelihood up to a constant, not the binary cross-entropy."""
    output = special.expit(special.expit(X @ W) @ V)
    entropy = -np.sum(stats.bernoulli.logpmf(Y.astype(int), output)) / SIZE
    of_gaussian = -np.sum(stats.norm.logpdf(Y, output)) / SIZE - WIDTH * 0.5 * np.log(2 * np.pi)
    return entropy, of_gaussian, backprop.terms(V, W, X, Y).C


def by_output():
    """(25): ∂C/∂σ_k = −(y_k − σ_k), without a factor σ_k."""
    y, output = Y[0], special.expit(RNG.normal(size=WIDTH))
    truth = slopes(lambda s: 0.5 * np.sum((y - s) ** 2), output)
    return -output * (y - output), -(y - output), truth


def by_last_weights():
    """(27), without an additional factor σ_k."""
    t = backprop.terms(V, W, X, Y)
    mistake = t.sigma_m.T @ (t.sigma_k * t.e_k) / SIZE
    return mistake, t.dC_dv, slopes(lambda v: criterion(v, W), V)


def by_first_weights():
    """(28), without an additional factor σ_k."""
    t = backprop.terms(V, W, X, Y)
    mistake = X.T @ (t.dsigma_m_ddelta_m * ((t.sigma_k * t.e_k) @ V.T)) / SIZE
    return mistake, t.dC_dw, slopes(lambda w: criterion(V, w), W)


def last_factor_of_the_chain():
    """(26): the chain for ∂C/∂w_nm ends in ∂δ_m/∂w_nm = x_n, not in ∂δ_m/∂x_n = w_nm."""
    t = backprop.terms(V, W, X, Y)
    mistake = W * np.mean(t.e_m, axis=0)
    return mistake, np.einsum("bn,bm->nm", X, t.e_m) / SIZE, slopes(lambda w: criterion(V, w), W)


def second_update():
    """(29): the step on w lowers C at the rate ‖∂C/∂w‖² at α = 0; the gradient for w must not be applied to v."""
    dw = slopes(lambda w: criterion(V, w), W)

    def fall(after):
        return -float(slopes(after, 0.0))

    mistake = fall(lambda rate: criterion(V - rate * dw, W))
    right = fall(lambda rate: criterion(*backprop.step(V, W, X, Y, rate)) - criterion(V - rate * dv(), W))
    return mistake, right, np.sum(dw**2)


def dv():
    return slopes(lambda v: criterion(v, W), V)


def softmax_jacobian():
    """(22): s_i(1 − s_i) and −s_i s_j, in the outputs s, not in the inputs x."""
    x = np.array([0.3, -1.0, 2.0])
    s = special.softmax(x)
    mistake = np.where(np.eye(3, dtype=bool), x * (1 - x), -np.outer(x, x))
    right = np.where(np.eye(3, dtype=bool), s * (1 - s), -np.outer(s, s))
    return mistake, right, slopes(special.softmax, x)


def slope_of_l1():
    """(19): the gradient of λΣ|w| is λ sign(w), 0 at 0; w/|w| is not a number at 0."""
    with np.errstate(invalid="ignore"):
        mistake = STRENGTH * THETA / abs(THETA)
    return mistake, STRENGTH * np.sign(THETA), slopes(lambda w: STRENGTH * np.sum(abs(w)), THETA)


def loss(theta):
    return np.sum((theta - 1) ** 4) / 4


def update_under_l1():
    """(19): α multiplies the gradient of the regularizer too."""
    gradient = (THETA - 1) ** 3
    mistake = THETA - RATE * gradient - STRENGTH * np.sign(THETA)
    right = THETA - RATE * (gradient + STRENGTH * np.sign(THETA))
    return mistake, right, THETA - RATE * slopes(lambda w: loss(w) + STRENGTH * np.sum(abs(w)), THETA)


def slope_of_l2():
    """(18): the gradient of λΣw² is 2λw."""
    truth = slopes(lambda w: STRENGTH * np.sum(w**2), THETA)
    params = {"w": THETA[None].astype(np.float32)}
    ours = jax.grad(dubito.Normal.from_l2(STRENGTH, 10).log_prob)(params)["w"][0]
    np.testing.assert_allclose(-np.asarray(ours, float) / 10, truth, atol=1e-6)  # used in training
    return STRENGTH / 2 * THETA, 2 * STRENGTH * THETA, truth


def update_under_l2():
    """(18): α multiplies the gradient of the regularizer too."""
    gradient = (THETA - 1) ** 3
    mistake = THETA - RATE * gradient - STRENGTH / 2 * THETA
    right = THETA - RATE * (gradient + 2 * STRENGTH * THETA)
    return mistake, right, THETA - RATE * slopes(lambda w: loss(w) + STRENGTH * np.sum(w**2), THETA)


def free_energy(theta, mean, scale):
    """F(θ, μ, σ) = log q(θ) − log p(θ) − log p(D | θ), with a smooth function for the likelihood."""
    return stats.norm.logpdf(theta, mean, scale) - stats.norm.logpdf(theta) + (theta - 2) ** 4 / 10


def slope_by_scale():
    """(41): (∂F/∂θ) ε + ∂F/∂σ, since θ = μ + σε has ∂θ/∂σ = ε, not ε/σ."""
    mean, scale, noise = 0.4, 0.5, 1.3
    theta = mean + scale * noise
    by_theta = float(slopes(lambda t: free_energy(t, mean, scale), theta))
    by_scale = float(slopes(lambda s: free_energy(theta, mean, s), scale))
    truth = slopes(lambda s: free_energy(mean + s * noise, mean, s), scale)
    return by_theta * noise / scale + by_scale, by_theta * noise + by_scale, truth


def slope_by_variance():
    """(41) with the variance as the parameter: the factor is ε/(2σ), not ε/σ."""
    mean, variance, noise = 0.4, 0.25, 1.3
    scale = np.sqrt(variance)
    theta = mean + scale * noise
    by_theta = float(slopes(lambda t: free_energy(t, mean, scale), theta))
    by_variance = float(slopes(lambda s2: free_energy(theta, mean, np.sqrt(s2)), variance))
    truth = slopes(lambda s2: free_energy(mean + np.sqrt(s2) * noise, mean, np.sqrt(s2)), variance)
    return by_theta * noise / scale + by_variance, by_theta * noise / (2 * scale) + by_variance, truth


FORMULAS = {
    "(3)": sum_with_a_bias,
    "(8)": binary_cross_entropy,
    "(24)": squared_error,
    "(25)": by_output,
    "(27)": by_last_weights,
    "(28)": by_first_weights,
    "(26)": last_factor_of_the_chain,
    "(29)": second_update,
    "(22)": softmax_jacobian,
    "(19), gradient": slope_of_l1,
    "(19), step": update_under_l1,
    "(18), gradient": slope_of_l2,
    "(18), step": update_under_l2,
    "(41)": slope_by_scale,
    "(41), variance": slope_by_variance,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_equals_its_reference_and_a_common_mistake_does_not(name):
    mistake, right, truth = (np.asarray(one, float) for one in FORMULAS[name]())
    assert mistake.shape == right.shape == truth.shape
    np.testing.assert_allclose(right, truth, rtol=1e-6, atol=1e-7)
    missed = np.abs(mistake - truth)
    assert np.isnan(missed).any() or missed.max() > 0.1 * np.abs(truth).max()


def test_a_step_on_rho_keeps_the_scale_positive_where_a_step_on_the_scale_does_not():
    """(42): σ ← σ − αΔ_σ can be negative; a step on ρ, σ = softplus(ρ), cannot, and lowers F."""
    mean, scale, noise, rate = 0.4, 0.5, -1.3, 0.15

    def f(scale):
        return float(free_energy(mean + scale * noise, mean, scale))

    by_scale = float(slopes(f, scale))
    assert scale - rate * by_scale < 0
    rho = np.log(np.expm1(scale))
    by_rho = by_scale * special.expit(rho)
    np.testing.assert_allclose(slopes(lambda r: f(np.logaddexp(0, r)), rho), by_rho, rtol=1e-7)
    stepped = np.logaddexp(0, rho - rate * by_rho)
    assert 0 < stepped < scale and f(stepped) < f(scale)
