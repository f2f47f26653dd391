"""Networks: two pure functions, ``init(key) -> params`` and ``apply(params, x) -> f``, f of shape (n, outputs)."""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp

static = partial(field, metadata={"static": True})

# name: (function, gain), the weights' variance being gain/fan-in: 2 for the ReLU family (He), 1 for the others (LeCun)
ACTIVATIONS = {
    "identity": (lambda x: x, 1.0),
    "sigmoid": (jax.nn.sigmoid, 1.0),
    "tanh": (jnp.tanh, 1.0),
    "relu": (jax.nn.relu, 2.0),
    "leaky_relu": (jax.nn.leaky_relu, 2.0),
    "elu": (jax.nn.elu, 2.0),
    "selu": (jax.nn.selu, 1.0),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), 2.0),
    "silu": (jax.nn.silu, 2.0),
    "softplus": (jax.nn.softplus, 2.0),
    "softsign": (jax.nn.soft_sign, 1.0),
    "mish": (jax.nn.mish, 2.0),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network:
    """A network of one's own: ``init(key) -> params`` (any pytree), ``apply(params, x) -> f`` (n, outputs), and, if it
    has an opinion, ``scales(params)``, the prior's standard deviation of each leaf."""

    init: Callable = static()
    apply: Callable = static()
    scales: Callable | None = static(default=None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MLP:
    """Layers a = xW + b with an activation between them; weights start normal with variance gain/fan-in, biases 0."""

    inputs: int = static()
    hidden: tuple = static()
    outputs: int = static()
    activation: str | Callable = static(default="relu")

    def init(self, key):
        sizes = (self.inputs, *self.hidden, self.outputs)
        gain = ACTIVATIONS[self.activation][1] if isinstance(self.activation, str) else 1.0
        params = {}
        for number, k in enumerate(jax.random.split(key, len(sizes) - 1)):
            shape = sizes[number : number + 2]
            sd = math.sqrt((gain if number < len(self.hidden) else 1.0) / shape[0])
            params[f"layer_{number}"] = {
                "w": sd * jax.random.normal(k, shape, jnp.float32),
                "b": jnp.zeros(shape[1], jnp.float32),
            }
        return params

    def apply(self, params, x):
        function = ACTIVATIONS[self.activation][0] if isinstance(self.activation, str) else self.activation
        for number in range(len(self.hidden) + 1):
            layer = params[f"layer_{number}"]
            x = x @ layer["w"] + layer["b"][None]
            if number < len(self.hidden):
                x = function(x)
        return x

    def scales(self, params):
        """1/√fan-in for weights, 1 for biases: outputs of order one at any width."""
        return jax.tree.map(lambda leaf: 1.0 if leaf.ndim < 2 else leaf.shape[0] ** -0.5, params)


def mlp(inputs, hidden=(50,), outputs=1, activation="relu"):
    """A multilayer perceptron from (n, ``inputs``) to (n, ``outputs``).

    Raises ValueError for sizes that are not positive whole numbers and for an unknown activation.
    """
    hidden = tuple(hidden)
    for name, size in (("inputs", inputs), ("outputs", outputs), *(("hidden", h) for h in hidden)):
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f"{name} must be whole numbers of at least 1, got {size!r}")
    if activation == "threshold":
        raise ValueError(
            "threshold has gradient 0 everywhere and cannot be trained by gradients; use 'sigmoid' or 'relu'"
        )
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        near = difflib.get_close_matches(activation, ACTIVATIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"activation={activation!r} is unknown{hint} Choose one of {', '.join(ACTIVATIONS)}.")
    return MLP(inputs, hidden, outputs, activation)
