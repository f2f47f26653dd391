"""Backpropagation by hand for a network of two sigmoid layers, in matrices and plain NumPy.

    ŷ_bk = s(Σ_m v_mk h_bm),   h_bm = s(Σ_n w_nm x_bn),   C = 1/(2B) Σ_b Σ_k (y_bk − ŷ_bk)²

with s(a) = 1/(1 + e^−a), for B examples x (B, N) with targets y (B, K), M hidden units, and weights
w (N, M) and v (M, K). There are no biases: a column of ones in x serves as one for the hidden
units. The library trains by automatic differentiation; this module writes out the same computation
once, for teaching and as a test.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from dubito._jax.types import ArrayLike

Hidden: TypeAlias = Float[np.ndarray, "B M"]
Output: TypeAlias = Float[np.ndarray, "B K"]
MatrixV: TypeAlias = Float[np.ndarray, "M K"]
MatrixW: TypeAlias = Float[np.ndarray, "N M"]


class Terms(NamedTuple):
    """Every factor of the two chains of derivatives by its name, in the order of computation.

    Attributes
    ----------
    delta_m, sigma_m : array
        Hidden units of each example before and after the sigmoid (B, M).
    delta_k, sigma_k : array
        Outputs of each example before and after the sigmoid (B, K); ``sigma_k`` is ŷ.
    C : float
        The criterion.
    dC_dsigma_k, dsigma_k_ddelta_k : array
        Factors of each example (B, K), without the mean over the batch.
    ddelta_k_dv : array
        Equals ``sigma_m``.
    e_k : array
        Errors ∂C/∂δ_k of the output units, for each example (B, K).
    dC_dv : array
        Gradient with respect to v (M, K), the mean over the batch.
    ddelta_k_dsigma_m : array
        Equals v.
    dsigma_m_ddelta_m : array
        Factor of each example (B, M).
    ddelta_m_dw : array
        Equals x.
    e_m : array
        Errors ∂C/∂δ_m of the hidden units, for each example (B, M).
    dC_dw : array
        Gradient with respect to w (N, M), the mean over the batch.
    """

    delta_m: Hidden
    sigma_m: Hidden
    delta_k: Output
    sigma_k: Output
    C: float
    dC_dsigma_k: Output
    dsigma_k_ddelta_k: Output
    ddelta_k_dv: Hidden
    e_k: Output
    dC_dv: MatrixV
    ddelta_k_dsigma_m: MatrixV
    dsigma_m_ddelta_m: Hidden
    ddelta_m_dw: Float[np.ndarray, "B N"]
    e_m: Hidden
    dC_dw: MatrixW


def terms(v: ArrayLike, w: ArrayLike, x: ArrayLike, y: ArrayLike) -> Terms:
    """Compute all factors of the chains of derivatives, in float64.

    Parameters
    ----------
    v, w : array
        Weights (M, K) and (N, M).
    x, y : array
        Examples (B, N) and targets (B, K).

    Returns
    -------
    Terms
        The factors by name.

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    v, w, x, y = arrays = [np.array(array, np.float64, ndmin=1) for array in (v, w, x, y)]
    shapes = [array.shape for array in arrays]
    size, inputs, hidden, outputs = len(x), len(w), len(v), np.shape(v)[-1]
    if size == 0 or shapes != [(hidden, outputs), (inputs, hidden), (size, inputs), (size, outputs)]:
        got = ", ".join(f"{name} {shape}" for name, shape in zip("vwxy", shapes, strict=True))
        raise ValueError(f"v must be (M, K), w (N, M), x (B, N) and y (B, K) with B of at least 1; got {got}")
    # Forward.
    delta_m = x @ w
    sigma_m = expit(delta_m)
    delta_k = sigma_m @ v
    sigma_k = expit(delta_k)
    criterion = float(np.sum((y - sigma_k) ** 2) / (2 * size))
    # Backward to v: ∂C/∂v_mk is ∂C/∂σ_k · ∂σ_k/∂δ_k · ∂δ_k/∂v_mk, averaged over the examples.
    dC_dsigma_k = -(y - sigma_k)
    dsigma_k_ddelta_k = sigma_k * (1 - sigma_k)
    ddelta_k_dv = sigma_m
    e_k = dC_dsigma_k * dsigma_k_ddelta_k
    dC_dv = ddelta_k_dv.T @ e_k / size
    # On to w: a hidden unit feeds all K outputs, so the contributions of these paths are summed.
    ddelta_k_dsigma_m = v
    dsigma_m_ddelta_m = sigma_m * (1 - sigma_m)
    ddelta_m_dw = x
    e_m = dsigma_m_ddelta_m * (e_k @ ddelta_k_dsigma_m.T)
    dC_dw = ddelta_m_dw.T @ e_m / size
    forward = delta_m, sigma_m, delta_k, sigma_k, criterion
    to_v = dC_dsigma_k, dsigma_k_ddelta_k, ddelta_k_dv, e_k, dC_dv
    return Terms(*forward, *to_v, ddelta_k_dsigma_m, dsigma_m_ddelta_m, ddelta_m_dw, e_m, dC_dw)


def gradient(v: ArrayLike, w: ArrayLike, x: ArrayLike, y: ArrayLike) -> tuple[MatrixV, MatrixW]:
    """Compute the gradient of the criterion.

    Parameters
    ----------
    v, w, x, y : array
        As for ``terms``.

    Returns
    -------
    tuple of array
        ∂C/∂v (M, K) and ∂C/∂w (N, M).
    """
    found = terms(v, w, x, y)
    return found.dC_dv, found.dC_dw


def step(v: ArrayLike, w: ArrayLike, x: ArrayLike, y: ArrayLike, rate: float) -> tuple[MatrixV, MatrixW]:
    """Take one step of gradient descent.

    Parameters
    ----------
    v, w, x, y : array
        As for ``terms``.
    rate : float
        Learning rate α.

    Returns
    -------
    tuple of array
        v − α ∂C/∂v and w − α ∂C/∂w.
    """
    dv, dw = gradient(v, w, x, y)
    return np.asarray(v, np.float64) - rate * dv, np.asarray(w, np.float64) - rate * dw
