"""Activation functions: one table by name, for networks and for people."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Activation(NamedTuple):
    """An activation function, and what to say of it.

    Attributes
    ----------
    function : callable
        Works on arrays of any shape, elementwise (softmax: on the last axis).
    gain : float
        Weights that feed it start with variance gain/fan-in: 2 for the ReLU family (He
        initialization), 1 for the others (Glorot and LeCun agree for square layers).
    formula, range, derivative : str
        The function, its values and its derivative.
    good, bad : str
        What it is good for, and what is bad about it.
    """

    function: Callable[[Any], Any]
    gain: float
    formula: str
    range: str
    derivative: str
    good: str
    bad: str


def unit_step(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 for x ≥ 0, else 0; its gradient is 0.

    Parameters
    ----------
    x : array
        Any shape.

    Returns
    -------
    array
        The same shape.
    """
    return (x >= 0).astype(x.dtype)


def leaky_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x for x ≥ 0, else 0.01·x.

    Parameters
    ----------
    x : array
        Any shape.

    Returns
    -------
    array
        The same shape.
    """
    return jnp.where(x >= 0, x, 0.01 * x)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Φ(x), exact.

    Parameters
    ----------
    x : array
        Any shape.

    Returns
    -------
    array
        The same shape.
    """
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda x: x, 1.0, "x", "(-∞, ∞)", "1", "last layers", "hidden layers: one linear map"),
    "threshold": Activation(
        unit_step, 1.0, "1 if x ≥ 0 else 0", "{0, 1}", "0", "the perceptron rule", "gradients: it has none"
    ),
    "sigmoid": Activation(
        jax.nn.sigmoid, 1.0, "s = 1/(1 + e^-x)", "(0, 1)", "s(1 - s)", "probabilities, gates", "depth: gradients vanish"
    ),
    "tanh": Activation(jnp.tanh, 1.0, "t = tanh x", "(-1, 1)", "1 - t²", "smooth, centered", "depth: gradients vanish"),
    "relu": Activation(
        jax.nn.relu, 2.0, "max(0, x)", "[0, ∞)", "1 if x > 0 else 0", "depth, speed", "units that die; kinks"
    ),
    "leaky_relu": Activation(
        leaky_relu, 2.0, "x if x ≥ 0 else 0.01x", "(-∞, ∞)", "1 if x ≥ 0 else 0.01", "units that would die", "kinks"
    ),
    "elu": Activation(
        jax.nn.elu,
        2.0,
        "x if x > 0 else e^x - 1",
        "(-1, ∞)",
        "1 if x > 0 else e^x",
        "centered, smooth",
        "an exponential",
    ),
    "selu": Activation(
        jax.nn.selu,
        1.0,
        "λx if x > 0 else λα(e^x - 1)",
        "(-λα, ∞)",
        "λ if x > 0 else λα e^x",
        "deep networks that normalize themselves",
        "dropout, which spoils that",
    ),
    "gelu": Activation(gelu, 2.0, "x Φ(x)", "[-0.17, ∞)", "Φ(x) + x φ(x)", "transformers", "an error function"),
    "silu": Activation(
        jax.nn.silu, 2.0, "x s(x)", "[-0.28, ∞)", "s + x s(1 - s)", "smooth functions on tables", "an exponential"
    ),
    "softplus": Activation(
        jax.nn.softplus,
        2.0,
        "log(1 + e^x)",
        "(0, ∞)",
        "s(x)",
        "scales that must be positive",
        "hidden layers: not centered",
    ),
    "softsign": Activation(
        jax.nn.soft_sign, 1.0, "x/(1 + |x|)", "(-1, 1)", "1/(1 + |x|)²", "slow saturation", "depth: gradients vanish"
    ),
    "mish": Activation(
        jax.nn.mish,
        2.0,
        "x tanh(log(1 + e^x))",
        "[-0.31, ∞)",
        "t + x s(1 - t²), t = tanh(log(1 + e^x))",
        "smooth functions",
        "two exponentials",
    ),
    "softmax": Activation(
        lambda x: jax.nn.softmax(x, axis=-1),
        1.0,
        "s_i = e^x_i / Σ_j e^x_j",
        "(0, 1), sums to 1",
        "s_i(δ_ij - s_j)",
        "class probabilities",
        "hidden layers",
    ),
}
