"""The lecture's slips by numbers: what is printed, evaluated, misses the definition or its finite differences; ours meets it.

Each entry of ``SLIPS`` gives (as printed, as corrected, the truth), the truth being a definition, SciPy's or a central
difference in float64.
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
    """Central differences of a function of an array: its values' shape first, then the array's."""
    at = np.asarray(at, float)
    found = []
    for place in np.ndindex(at.shape):
        moved = np.zeros_like(at)
        moved[place] = STEP
        found.append((np.asarray(function(at + moved)) - np.asarray(function(at - moved))) / (2 * STEP))
    return np.moveaxis(np.array(found), 0, -1).reshape((*found[0].shape, *at.shape))


def criterion(v, w):
    """(8) for the network of the lecture, written from its definition."""
    output = special.expit(special.expit(X @ w) @ v)
    return np.sum((Y - output) ** 2) / (2 * len(X))


def sum_with_a_bias():
    """(1): y_j = Σ_i w_ij x_i + b_i. i is the sum's own index, so b_i is added in each of its terms."""
    bias = np.array([1.0, 2.0, -0.5])
    printed = [[sum(W[i, j] * x[i] + bias[i] for i in range(WIDTH)) for j in range(WIDTH)] for x in X]
    layer = dubito.mlp(WIDTH, (), WIDTH).apply({"layer_0": {"w": W, "b": bias}}, X)
    right = [[sum(W[i, j] * x[i] for i in range(WIDTH)) + bias[j] for j in range(WIDTH)] for x in X]
    return printed, right, layer


def binary_cross_entropy():
    """(6): −y log ŷ + (1 − y) log(1 − ŷ) is −log p only where y is 1."""
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.8, 0.1, 0.8])
    printed = -y * np.log(p) + (1 - y) * np.log(1 - p)
    right = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    return printed, right, -stats.bernoulli.logpmf(y, p)


def squared_error():
    """(8): called binary cross-entropy; the formula is the squared error's."""
    output = special.expit(special.expit(X @ W) @ V)
    entropy = -np.sum(stats.bernoulli.logpmf(Y.astype(int), output)) / SIZE
    of_gaussian = -np.sum(stats.norm.logpdf(Y, output)) / SIZE - WIDTH * 0.5 * np.log(2 * np.pi)
    return entropy, of_gaussian, backprop.terms(V, W, X, Y).C


def by_output():
    """(12): −σ_k(y_k − σ_k); the first factor is none of this derivative's."""
    y, output = Y[0], special.expit(RNG.normal(size=WIDTH))
    truth = slopes(lambda s: 0.5 * np.sum((y - s) ** 2), output)
    return -output * (y - output), -(y - output), truth


def by_last_weights():
    """(18): the extra σ_k again."""
    t = backprop.terms(V, W, X, Y)
    printed = t.sigma_m.T @ (t.sigma_k * t.e_k) / SIZE
    return printed, t.dC_dv, slopes(lambda v: criterion(v, W), V)


def by_first_weights():
    """(19): the extra σ_k again."""
    t = backprop.terms(V, W, X, Y)
    printed = X.T @ (t.dsigma_m_ddelta_m * ((t.sigma_k * t.e_k) @ V.T)) / SIZE
    return printed, t.dC_dw, slopes(lambda w: criterion(V, w), W)


def last_factor_of_the_chain():
    """The chain for ∂C/∂w_nm ends in ∂δ/∂x_n, which is w_nm; ∂δ_m/∂w_nm is x_n."""
    t = backprop.terms(V, W, X, Y)
    printed = W * np.mean(t.e_m, axis=0)
    return printed, np.einsum("bn,bm->nm", X, t.e_m) / SIZE, slopes(lambda w: criterion(V, w), W)


def second_update():
    """(21): v ← v − α ∂C/∂w. A step of gradient descent on w lowers C by ‖∂C/∂w‖² for each α, at first."""
    dw = slopes(lambda w: criterion(V, w), W)

    def fall(after):
        return -float(slopes(after, 0.0))

    printed = fall(lambda rate: criterion(V - rate * dw, W))
    right = fall(lambda rate: criterion(*backprop.step(V, W, X, Y, rate)) - criterion(V - rate * dv(), W))
    return printed, right, np.sum(dw**2)


def dv():
    return slopes(lambda v: criterion(v, W), V)


def softmax_jacobian():
    """x_i(1 − x_i) and −x_i x_j hold for the outputs s, not for the inputs x."""
    x = np.array([0.3, -1.0, 2.0])
    s = special.softmax(x)
    printed = np.where(np.eye(3, dtype=bool), x * (1 - x), -np.outer(x, x))
    right = np.where(np.eye(3, dtype=bool), s * (1 - s), -np.outer(s, s))
    return printed, right, slopes(special.softmax, x)


def slope_of_l1():
    """(22): λ w/|w| is no number at 0."""
    with np.errstate(invalid="ignore"):
        printed = STRENGTH * THETA / abs(THETA)
    return printed, STRENGTH * np.sign(THETA), slopes(lambda w: STRENGTH * np.sum(abs(w)), THETA)


def loss(theta):
    return np.sum((theta - 1) ** 4) / 4


def update_under_l1():
    """(23): the regularizer's part of the step has no α."""
    gradient = (THETA - 1) ** 3
    printed = THETA - RATE * gradient - STRENGTH * np.sign(THETA)
    right = THETA - RATE * (gradient + STRENGTH * np.sign(THETA))
    return printed, right, THETA - RATE * slopes(lambda w: loss(w) + STRENGTH * np.sum(abs(w)), THETA)


def slope_of_l2():
    """(24): λ/2·w; the penalty is λΣw²."""
    truth = slopes(lambda w: STRENGTH * np.sum(w**2), THETA)
    params = {"w": THETA[None].astype(np.float32)}
    ours = jax.grad(dubito.Normal.from_l2(STRENGTH, 10).log_prob)(params)["w"][0]
    np.testing.assert_allclose(-np.asarray(ours, float) / 10, truth, atol=1e-6)  # what the library trains with
    return STRENGTH / 2 * THETA, 2 * STRENGTH * THETA, truth


def update_under_l2():
    """(25): the same, and no α."""
    gradient = (THETA - 1) ** 3
    printed = THETA - RATE * gradient - STRENGTH / 2 * THETA
    right = THETA - RATE * (gradient + 2 * STRENGTH * THETA)
    return printed, right, THETA - RATE * slopes(lambda w: loss(w) + STRENGTH * np.sum(w**2), THETA)


def free_energy(theta, mean, scale):
    """f(θ, μ, σ) = log q(θ) − log p(θ) − log p(D | θ), the likelihood any smooth function."""
    return stats.norm.logpdf(theta, mean, scale) - stats.norm.logpdf(theta) + (theta - 2) ** 4 / 10


def slope_by_scale():
    """(27): (∂f/∂θ) ε/σ + ∂f/∂σ; θ = μ + σε has ∂θ/∂σ = ε."""
    mean, scale, noise = 0.4, 0.5, 1.3
    theta = mean + scale * noise
    by_theta = float(slopes(lambda t: free_energy(t, mean, scale), theta))
    by_scale = float(slopes(lambda s: free_energy(theta, mean, s), scale))
    truth = slopes(lambda s: free_energy(mean + s * noise, mean, s), scale)
    return by_theta * noise / scale + by_scale, by_theta * noise + by_scale, truth


def slope_by_variance():
    """(27) for the variance, which the lecture calls the parameter: the factor is ε/(2σ), so ε/σ is wrong there too."""
    mean, variance, noise = 0.4, 0.25, 1.3
    scale = np.sqrt(variance)
    theta = mean + scale * noise
    by_theta = float(slopes(lambda t: free_energy(t, mean, scale), theta))
    by_variance = float(slopes(lambda s2: free_energy(theta, mean, np.sqrt(s2)), variance))
    truth = slopes(lambda s2: free_energy(mean + np.sqrt(s2) * noise, mean, np.sqrt(s2)), variance)
    return by_theta * noise / scale + by_variance, by_theta * noise / (2 * scale) + by_variance, truth


SLIPS = {
    "(1)": sum_with_a_bias,
    "(6)": binary_cross_entropy,
    "(8)": squared_error,
    "(12)": by_output,
    "(18)": by_last_weights,
    "(19)": by_first_weights,
    "chain for dC/dw": last_factor_of_the_chain,
    "(21)": second_update,
    "softmax": softmax_jacobian,
    "(22)": slope_of_l1,
    "(23)": update_under_l1,
    "(24)": slope_of_l2,
    "(25)": update_under_l2,
    "(27)": slope_by_scale,
    "(27), variance": slope_by_variance,
}


@pytest.mark.parametrize("name", SLIPS)
def test_what_is_printed_is_wrong_and_what_is_corrected_right(name):
    printed, right, truth = (np.asarray(one, float) for one in SLIPS[name]())
    assert printed.shape == right.shape == truth.shape
    np.testing.assert_allclose(right, truth, rtol=1e-6, atol=1e-7)
    missed = np.abs(printed - truth)
    assert np.isnan(missed).any() or missed.max() > 0.1 * np.abs(truth).max()


def test_steps_of_the_scale_itself_make_it_negative():
    """(29): σ ← σ − αΔ_σ leaves the scales; a step of ρ, σ = softplus(ρ), does not, and lowers the same f."""
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
