"""Activation functions by name, with their formulas and uses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import nn
from jaxtyping import Array, Float

VANISHING = "depth: gradients vanish"


class Activation(NamedTuple):
    """An activation function and its description.

    Attributes
    ----------
    function : callable
        Works on arrays of any shape, elementwise (softmax: on the last axis).
    gain : float
        The weights of its layer start with variance gain/fan-in: 2 for the ReLU family (He
        initialization), 1 for the others (Glorot and LeCun agree for square layers).
    formula, range, derivative : str
        The function, its values and its derivative.
    good, bad : str
        What it is good and bad for.
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
    return nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda x: x, 1.0, "x", "(-∞, ∞)", "1", "last layers", "hidden layers: one linear map"),
    "threshold": Activation(
        unit_step, 1.0, "1 if x ≥ 0 else 0", "{0, 1}", "0", "the perceptron rule", "gradients: they are 0"
    ),
    "sigmoid": Activation(nn.sigmoid, 1.0, "s = 1/(1 + e^-x)", "(0, 1)", "s(1 - s)", "probabilities, gates", VANISHING),
    "tanh": Activation(jnp.tanh, 1.0, "t = tanh x", "(-1, 1)", "1 - t²", "smooth, centered", VANISHING),
    "relu": Activation(nn.relu, 2.0, "max(0, x)", "[0, ∞)", "1 if x > 0 else 0", "depth, speed", "dead units; kinks"),
    "leaky_relu": Activation(
        leaky_relu, 2.0, "x if x ≥ 0 else 0.01x", "(-∞, ∞)", "1 if x ≥ 0 else 0.01", "no dead units", "kinks"
    ),
    "elu": Activation(
        nn.elu, 2.0, "x if x > 0 else e^x - 1", "(-1, ∞)", "1 if x > 0 else e^x", "centered, smooth", "an exponential"
    ),
    "selu": Activation(
        nn.selu,
        1.0,
        "λx if x > 0 else λα(e^x - 1)",
        "(-λα, ∞)",
        "λ if x > 0 else λα e^x",
        "deep networks: it normalizes them",
        "dropout, which prevents that",
    ),
    "gelu": Activation(gelu, 2.0, "x Φ(x)", "[-0.17, ∞)", "Φ(x) + x φ(x)", "transformers", "an error function"),
    "silu": Activation(
        nn.silu, 2.0, "x s(x)", "[-0.28, ∞)", "s + x s(1 - s)", "smooth functions on tables", "an exponential"
    ),
    "softplus": Activation(
        nn.softplus, 2.0, "log(1 + e^x)", "(0, ∞)", "s(x)", "positive scales", "hidden layers: not centered"
    ),
    "softsign": Activation(nn.soft_sign, 1.0, "x/(1 + |x|)", "(-1, 1)", "1/(1 + |x|)²", "slow saturation", VANISHING),
    "mish": Activation(
        nn.mish,
        2.0,
        "x t, t = tanh(log(1 + e^x))",
        "[-0.31, ∞)",
        "t + x s(1 - t²)",
        "smooth functions",
        "two exponentials",
    ),
    "softmax": Activation(
        nn.softmax,
        1.0,
        "s_i = e^x_i / Σ_j e^x_j",
        "(0, 1), sums to 1",
        "s_i(δ_ij - s_j)",
        "class probabilities",
        "hidden layers",
    ),
}
