"""Backpropagation by hand for a network of two sigmoid layers, in matrices and plain NumPy.

    ŷ_bk = s(Σ_m v_mk h_bm),   h_bm = s(Σ_n w_nm x_bn),   C = 1/(2B) Σ_b Σ_k (y_bk − ŷ_bk)²,   s(a) = 1/(1 + e^−a)

for B examples x (B, N) with targets y (B, K), M hidden units, weights w (N, M) and v (M, K). There are no biases: a column of
ones in x serves as one for the hidden units. The library trains by automatic differentiation; this module writes out the
same computation once, for teaching and as a test.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from dubito._jax.types import ArrayLike


class Terms(NamedTuple):
    """Every factor of the two chains of derivatives by its name, in the order of computation.

    Parameters
    ----------
    delta_m, sigma_m : hidden units of each example before and after the sigmoid.
    delta_k, sigma_k : outputs of each example before and after the sigmoid; ``sigma_k`` is ŷ.
    C : the criterion.
    dC_dsigma_k, dsigma_k_ddelta_k : factors of each example, without the mean over the batch.
    ddelta_k_dv : equals ``sigma_m``.
    e_k : errors ∂C/∂δ_k of the output units, of each example.
    dC_dv : gradient with respect to v, the mean over the batch.
    ddelta_k_dsigma_m : equals v.
    dsigma_m_ddelta_m : factor of each example.
    ddelta_m_dw : equals x.
    e_m : errors ∂C/∂δ_m of the hidden units, of each example.
    dC_dw : gradient with respect to w, the mean over the batch.
    """

    delta_m: Float[np.ndarray, "B M"]
    sigma_m: Float[np.ndarray, "B M"]
    delta_k: Float[np.ndarray, "B K"]
    sigma_k: Float[np.ndarray, "B K"]
    C: float
    dC_dsigma_k: Float[np.ndarray, "B K"]
    dsigma_k_ddelta_k: Float[np.ndarray, "B K"]
    ddelta_k_dv: Float[np.ndarray, "B M"]
    e_k: Float[np.ndarray, "B K"]
    dC_dv: Float[np.ndarray, "M K"]
    ddelta_k_dsigma_m: Float[np.ndarray, "M K"]
    dsigma_m_ddelta_m: Float[np.ndarray, "B M"]
    ddelta_m_dw: Float[np.ndarray, "B N"]
    e_m: Float[np.ndarray, "B M"]
    dC_dw: Float[np.ndarray, "N M"]


def terms(v: ArrayLike, w: ArrayLike, x: ArrayLike, y: ArrayLike) -> Terms:
    """All factors of the chains, in float64.

    Parameters
    ----------
    v, w : weights (M, K) and (N, M).
    x, y : examples (B, N) and targets (B, K).

    Raises
    ------
    ValueError
        For shapes that do not fit.
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
    # Backwards to v: ∂C/∂v_mk is ∂C/∂σ_k · ∂σ_k/∂δ_k · ∂δ_k/∂v_mk, averaged over the examples.
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


def gradient(
    v: ArrayLike, w: ArrayLike, x: ArrayLike, y: ArrayLike
) -> tuple[Float[np.ndarray, "M K"], Float[np.ndarray, "N M"]]:
    """The gradient of the criterion.

    Parameters
    ----------
    v, w, x, y : as for ``terms``.

    Returns
    -------
    ∂C/∂v (M, K) and ∂C/∂w (N, M).
    """
    found = terms(v, w, x, y)
    return found.dC_dv, found.dC_dw


def step(
    v: ArrayLike, w: ArrayLike, x: ArrayLike, y: ArrayLike, rate: float
) -> tuple[Float[np.ndarray, "M K"], Float[np.ndarray, "N M"]]:
    """One step of gradient descent.

    Parameters
    ----------
    v, w, x, y : as for ``terms``.
    rate : learning rate α.

    Returns
    -------
    v − α ∂C/∂v and w − α ∂C/∂w.
    """
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
