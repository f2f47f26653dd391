"""Periodic features of numeric columns, with trained frequencies."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax.prng import sine
from dubito._jax.types import Key, Params

FREQUENCY = 0.3  # initial standard deviation of the frequencies, in periods per standard deviation of the column
FEATURES = 3  # per column


def init_periodic(key: Key, columns: int, frequencies: int, scale: float) -> Params:
    """Random parameters of ``periodic_features``.

    Parameters
    ----------
    key : jax.Array
        A key of ``jax.random.key``.
    columns : int
        The number of columns of x.
    frequencies : int
        The number of trained frequencies per column.
    scale : float
        √2 times the standard deviation of a feature.

    Returns
    -------
    dict
        Frequencies and phases, and the weights and biases of the waves.
    """
    keys = jax.random.split(key, 3)
    shape = (columns, frequencies)
    return {
        "frequency": FREQUENCY * jax.random.normal(keys[0], shape, jnp.float32),
        "phase": jax.random.uniform(keys[1], shape, jnp.float32, -math.pi, math.pi),
        "w": scale * frequencies**-0.5 * jax.random.normal(keys[2], (columns, frequencies, FEATURES), jnp.float32),
        "b": jnp.zeros((columns, FEATURES), jnp.float32),
    }


def periodic_features(params: Params, x: Float[Array, "rows columns"]) -> Float[Array, "rows features"]:
    """W_j cos(2π φ_j x_j + b_j) + e_j for each column j of x, side by side.

    Parameters
    ----------
    params : dict
        As returned by ``init_periodic``.
    x : array of shape (rows, columns)
        Standardized numbers.

    Returns
    -------
    array of shape (rows, 3 · columns)
        The features.

    References
    ----------
    Gorishniy et al. (2022), "On embeddings for numerical features"; the form with a bias is PBLD of
    Holzmüller et al. (2024), "Better by default".
    """
    turns = params["frequency"].T[None] * x[:, None, :] + params["phase"].T[None] / (2 * math.pi)
    waves = cosine(turns)
    parts = [jnp.sum(waves * params["w"][:, :, k].T[None], axis=1) + params["b"][None, :, k] for k in range(FEATURES)]
    return jnp.concatenate(parts, axis=1)


def cosine(turns: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """cos(2π·turns) to 2e-6.

    XLA's cosine takes several times as long on a CPU, and most of the time of a training step if
    there are many columns.

    Parameters
    ----------
    turns : array
        Any shape.

    Returns
    -------
    array
        The same shape.
    """
    # without whole turns, the cosine is the sine of at most a quarter turn
    return sine(0.25 - jnp.abs(turns - jnp.round(turns)))
