"""Periodic features of numeric columns, with trained frequencies."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax.prng import sine
from dubito._jax.types import Key, Params

FREQUENCY = 0.3  # spread of the frequencies at the start, in periods per standard deviation of the column
FEATURES = 3  # numbers a column gives


def init_periodic(key: Key, columns: int, frequencies: int) -> Params:
    """Parameters of ``periodic_features`` for a number of columns, each with a number of trained
    frequencies.
    """
    keys = jax.random.split(key, 3)
    shape = (columns, frequencies)
    return {
        "frequency": FREQUENCY * jax.random.normal(keys[0], shape, jnp.float32),
        "phase": jax.random.uniform(keys[1], shape, jnp.float32, -math.pi, math.pi),
        "w": frequencies**-0.5 * jax.random.normal(keys[2], (columns, frequencies, FEATURES), jnp.float32),
        "b": jnp.zeros((columns, FEATURES), jnp.float32),
    }


def periodic_features(params: Params, x: Float[Array, "rows columns"]) -> Float[Array, "rows features"]:
    """W_j cos(2π φ_j x_j + b_j) + e_j for each column j of x (rows, d), side by side: (rows, 3d).

    References
    ----------
    Gorishniy et al. (2022), "On embeddings for numerical features"; the form with a bias is PBLD of Holzmüller et al. (2024),
    "Better by default".
    """
    turns = params["frequency"].T[None] * x[:, None, :] + params["phase"].T[None] / (2 * math.pi)
    waves = cosine(turns)
    parts = [jnp.sum(waves * params["w"][:, :, k].T[None], axis=1) + params["b"][None, :, k] for k in range(FEATURES)]
    return jnp.concatenate(parts, axis=1)


def cosine(turns: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """cos(2π·turns) to 2e-6: whole turns are taken off, and what is left is the sine of at most a
    quarter.

    XLA's own takes several times as long on a CPU, and most of the time of a step where columns are
    many.
    """
    return sine(0.25 - jnp.abs(turns - jnp.round(turns)))
