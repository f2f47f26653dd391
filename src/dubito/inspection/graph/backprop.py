"""Backpropagation by hand: the lecture's network of two sigmoid layers, equations 8 to 21, in matrices and plain NumPy.

    ŷ_bk = s(Σ_m v_mk h_bm),   h_bm = s(Σ_n w_nm x_bn),   C = 1/(2B) Σ_b Σ_k (y_bk − ŷ_bk)²,   s(a) = 1/(1 + e^−a)

for B examples x (B, N) with targets y (B, K), M hidden units, weights w (N, M) and v (M, K). As in the lecture there are no
biases: a column of ones in x is one for the hidden units. The library trains by automatic differentiation; this is what that does,
written out once, to be read beside it and tested against it.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit


class Terms(NamedTuple):
    """Every quantity of the two chains by its name, in the order in which it is computed; in parentheses its equation.

    Forwards, an example a row: ``delta_m`` (10) and ``sigma_m``, the hidden units before and after the sigmoid, (B, M);
    ``delta_k`` (11) and ``sigma_k`` = ŷ, the outputs, (B, K); ``C``, the criterion (8).

    The factors of the chains, an example a row, without the mean over the batch: ``dC_dsigma_k`` (12) and
    ``dsigma_k_ddelta_k`` (13), (B, K); ``ddelta_k_dv`` (14), (B, M), is σ_m; ``ddelta_k_dsigma_m`` (15), (M, K), is v;
    ``dsigma_m_ddelta_m`` (16), (B, M); ``ddelta_m_dw`` (17), (B, N), is x.

    The errors of the units, ∂C/∂δ of each example: ``e_k`` (B, K) and ``e_m`` (B, M). The gradients, means over the
    batch: ``dC_dv`` (18), (M, K), and ``dC_dw`` (19), (N, M).
    """

    delta_m: np.ndarray
    sigma_m: np.ndarray
    delta_k: np.ndarray
    sigma_k: np.ndarray
    C: float
    dC_dsigma_k: np.ndarray
    dsigma_k_ddelta_k: np.ndarray
    ddelta_k_dv: np.ndarray
    e_k: np.ndarray
    dC_dv: np.ndarray
    ddelta_k_dsigma_m: np.ndarray
    dsigma_m_ddelta_m: np.ndarray
    ddelta_m_dw: np.ndarray
    e_m: np.ndarray
    dC_dw: np.ndarray


def terms(v, w, x, y):
    """All ``Terms`` for weights ``v`` (M, K) and ``w`` (N, M), rows ``x`` (B, N) and targets ``y`` (B, K), in float64.

    Raises ValueError for shapes that do not fit.
    """
    v, w, x, y = (np.asarray(array, np.float64) for array in (v, w, x, y))
    _check(v, w, x, y)
    size = len(x)
    # Forwards.
    delta_m = x @ w
    sigma_m = expit(delta_m)
    delta_k = sigma_m @ v
    sigma_k = expit(delta_k)
    criterion = float(np.sum((y - sigma_k) ** 2) / (2 * size))
    # Backwards to v: ∂C/∂v_mk is the product of (12), (13) and (14), averaged over the examples.
    dC_dsigma_k = -(y - sigma_k)
    dsigma_k_ddelta_k = sigma_k * (1 - sigma_k)
    ddelta_k_dv = sigma_m
    e_k = dC_dsigma_k * dsigma_k_ddelta_k
    dC_dv = ddelta_k_dv.T @ e_k / size
    # On to w: a hidden unit feeds all K outputs, so the paths through them add up.
    ddelta_k_dsigma_m = v
    dsigma_m_ddelta_m = sigma_m * (1 - sigma_m)
    ddelta_m_dw = x
    e_m = dsigma_m_ddelta_m * (e_k @ ddelta_k_dsigma_m.T)
    dC_dw = ddelta_m_dw.T @ e_m / size
    return Terms(
        delta_m,
        sigma_m,
        delta_k,
        sigma_k,
        criterion,
        dC_dsigma_k,
        dsigma_k_ddelta_k,
        ddelta_k_dv,
        e_k,
        dC_dv,
        ddelta_k_dsigma_m,
        dsigma_m_ddelta_m,
        ddelta_m_dw,
        e_m,
        dC_dw,
    )


def gradient(v, w, x, y):
    """(∂C/∂v, ∂C/∂w), of the shapes of ``v`` and ``w``; arguments as for ``terms``."""
    found = terms(v, w, x, y)
    return found.dC_dv, found.dC_dw


def step(v, w, x, y, rate):
    """One step of gradient descent with learning rate α = ``rate``: v − α ∂C/∂v (20) and w − α ∂C/∂w (21)."""
    dv, dw = gradient(v, w, x, y)
    return np.asarray(v, np.float64) - rate * dv, np.asarray(w, np.float64) - rate * dw


def _check(v, w, x, y):
    shapes = {name: array.shape for name, array in (("v", v), ("w", w), ("x", x), ("y", y))}
    fits = all(len(shape) == 2 for shape in shapes.values())
    if not (
        fits and len(x) == len(y) > 0 and x.shape[1] == len(w) and w.shape[1] == len(v) and v.shape[1] == y.shape[1]
    ):
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"v is (M, K), w (N, M), x (B, N) and y (B, K) with B of at least 1; got {got}")
