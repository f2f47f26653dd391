"""Networks: two pure functions, ``init(key) -> params`` and ``apply(params, x) -> f``, f of shape
(rows, outputs).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._check import check_choice
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.activations import ACTIVATIONS
from dubito.models.periodic import FEATURES, FREQUENCY, init_periodic, periodic_features


@runtime_checkable
class AnyNetwork(Protocol):
    """What a model needs of a network: ``init``, ``apply`` and ``scales``, as methods or as fields.

    Attributes
    ----------
    init : callable
        ``init(key)`` gives random parameters, any pytree of float32 arrays.
    apply : callable
        ``apply(params, x)`` of x (rows, columns) gives f, (rows, outputs).
    scales : callable or None
        ``scales(params)`` gives the standard deviation of each leaf for priors with ``by_network``,
        a tree like ``params``. None is a network without scales of its own.
    """

    @property
    def init(self) -> Callable[[Key], Params]: ...
    @property
    def apply(self) -> Callable[[Params, Any], Any]: ...
    @property
    def scales(self) -> Callable[[Params], Params] | None: ...


@register_dataclass
@dataclass(frozen=True)
class Network:
    """A network of your own, from two pure functions.

    Keep one ``Network`` object and use it again: functions are compared by identity, so a new
    ``lambda`` compiles again.

    Parameters
    ----------
    init : callable
        ``init(key)`` gives random parameters, any pytree of float32 arrays.
    apply : callable
        ``apply(params, x)`` of x (rows, columns) gives f, (rows, outputs).
    scales : callable, optional
        ``scales(params)`` gives the standard deviation of each leaf for priors with ``by_network``,
        a tree like ``params``.
    """

    init: Callable[[Key], Params] = static()
    apply: Callable[[Params, Any], Any] = static()
    scales: Callable[[Params], Params] | None = static(default=None)


def as_network(network: Any) -> AnyNetwork:
    """Any object with ``init`` and ``apply`` as a network that a model can use.

    Raises
    ------
    TypeError
        If the object has not both.
    """
    if isinstance(network, AnyNetwork) and not jax.tree_util.all_leaves((network,)):
        return network
    init, apply, scales = (getattr(network, name, None) for name in ("init", "apply", "scales"))
    if not (callable(init) and callable(apply)):
        raise TypeError(
            "network must have init(key) and apply(params, x), as dubito.mlp(...) or dubito.Network(init, apply) have; "
            f"got {network!r}"
        )
    return Network(init, apply, scales)


@register_dataclass
@dataclass(frozen=True)
class MLP:
    """Layers a = xW + b with an activation between them; weights start normal with variance
    gain/fan-in, biases 0.

    The fields are explained in ``mlp``, which makes it.
    """

    inputs: int = static()
    hidden: tuple = static()
    outputs: int = static()
    activation: str | Callable = static(default="relu")
    periodic: int = static(default=0)
    numeric: tuple | None = static(default=None)
    last_variance: float = static(default=1.0)

    def init(self, key: Key) -> Params:
        key_layers, key_periodic = jax.random.split(key)
        columns = len(self.columns) * FEATURES if self.periodic else 0
        sizes = (self.inputs + columns, *self.hidden, self.outputs)
        variances = [gain(self.activation)] * len(self.hidden) + [self.last_variance]
        params = {}
        for number, (k, variance) in enumerate(
            zip(jax.random.split(key_layers, len(variances)), variances, strict=True)
        ):
            shape = sizes[number : number + 2]
            params[f"layer_{number}"] = {
                "w": math.sqrt(variance / shape[0]) * jax.random.normal(k, shape, jnp.float32),
                "b": jnp.zeros(shape[1], jnp.float32),
            }
        if self.periodic:
            params["periodic"] = init_periodic(key_periodic, len(self.columns), self.periodic)
        return params

    @property
    def columns(self) -> tuple[int, ...]:
        """The numbers of the numeric columns of x, which get periodic features."""
        return tuple(range(self.inputs)) if self.numeric is None else self.numeric

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        function = ACTIVATIONS[self.activation].function if isinstance(self.activation, str) else self.activation
        if self.periodic:
            with jax.named_scope("periodic"):
                x = jnp.concatenate([x, periodic_features(params["periodic"], x[:, np.array(self.columns)])], axis=1)
        for number in range(len(self.hidden) + 1):
            with jax.named_scope(f"layer_{number}"):
                layer = params[f"layer_{number}"]
                x = x @ layer["w"] + layer["b"][None]
                x = apply_activation(function, x) if number < len(self.hidden) else x
        return x

    def scales(self, params: Params) -> Params:
        """1/√fan-in for weights, 1 for biases: outputs of order one at any width. For periodic
        features the spread at the start.
        """
        scales = jax.tree.map(lambda leaf: 1.0 if leaf.ndim < 2 else leaf.shape[0] ** -0.5, params)
        if self.periodic:
            scales["periodic"] = {
                "frequency": FREQUENCY,
                "phase": math.pi / math.sqrt(3),
                "w": self.periodic**-0.5,
                "b": 1.0,
            }
        return scales


@register_dataclass
@dataclass(frozen=True)
class ConvNet:
    """Convolutions 3 × 3 with an activation, each followed by 2 × 2 maximum pooling, then one
    hidden layer.
    """

    image: tuple = static()
    channels: tuple = static()
    hidden: int = static()
    outputs: int = static()
    activation: str | Callable = static(default="relu")

    def init(self, key: Key) -> Params:
        height, width, depth = self.image
        keys = iter(jax.random.split(key, len(self.channels) + 2))
        params = {}
        for number, channels in enumerate(self.channels):
            params[f"conv_{number}"] = init_dense(next(keys), (3, 3, depth, channels), gain(self.activation))
            height, width, depth = height // 2, width // 2, channels
        params["dense"] = init_dense(next(keys), (height * width * depth, self.hidden), gain(self.activation))
        params["last"] = init_dense(next(keys), (self.hidden, self.outputs), 1.0)
        return params

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        function = ACTIVATIONS[self.activation].function if isinstance(self.activation, str) else self.activation
        x = x.reshape(-1, *self.image)
        for number in range(len(self.channels)):
            with jax.named_scope(f"conv_{number}"):
                layer = params[f"conv_{number}"]
                x = jax.lax.conv_general_dilated(
                    x, layer["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = apply_activation(function, x + layer["b"][None, None, None])
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        with jax.named_scope("dense"):
            x = apply_activation(function, x.reshape(len(x), -1) @ params["dense"]["w"] + params["dense"]["b"][None])
        with jax.named_scope("last"):
            return x @ params["last"]["w"] + params["last"]["b"][None]

    def scales(self, params: Params) -> Params:
        """1/√fan-in for weights, 1 for biases."""
        return jax.tree.map(lambda leaf: 1.0 if leaf.ndim < 2 else math.prod(leaf.shape[:-1]) ** -0.5, params)


def apply_activation(function: Callable[[Any], Any], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """function(x), under a name by which the computation graph finds it."""
    with jax.named_scope("activation"):
        return function(x)


def init_dense(key: Key, shape: tuple[int, ...], variance: float) -> Params:
    """Weights of variance variance/fan-in (the product of all axes but the last), and biases 0."""
    scale = math.sqrt(variance / math.prod(shape[:-1]))
    return {"w": scale * jax.random.normal(key, shape, jnp.float32), "b": jnp.zeros(shape[-1], jnp.float32)}


def gain(activation: str | Callable[[Any], Any]) -> float:
    """The variance of a weight times its fan-in that keeps the size of signals: the table's, 1 for
    a callable.
    """
    return ACTIVATIONS[activation].gain if isinstance(activation, str) else 1.0


def mlp(
    inputs: int,
    hidden: Sequence[int] = (50,),
    outputs: int = 1,
    activation: str | Callable[[Any], Any] = "relu",
    *,
    periodic: int = 0,
    numeric: Sequence[int] | None = None,
    last_variance: float = 1.0,
) -> MLP:
    """A multilayer perceptron from (rows, inputs) to (rows, outputs).

    Parameters
    ----------
    inputs, outputs : int
        The number of columns of x, and of f.
    hidden : sequence of int
        The widths of the hidden layers.
    activation : str or callable
        A name of ``dubito.activations.ACTIVATIONS``, or a function of arrays.
    periodic : int
        The number of trained frequencies of each numeric column, whose waves stand beside the
        columns themselves.
    numeric : sequence of int, optional
        The numbers of the columns that get periodic features; None is all.
    last_variance : float
        The weights of the last layer start with variance last_variance/fan-in.

    Returns
    -------
    MLP
        A network with ``init``, ``apply`` and ``scales``.

    Raises
    ------
    ValueError
        For sizes that are not positive whole numbers, and for an activation that is unknown or
        cannot be trained.

    Examples
    --------
    >>> import dubito, jax
    >>> network = dubito.mlp(3, (20, 20), activation="tanh")
    >>> network.apply(network.init(jax.random.key(0)), jax.numpy.ones((5, 3))).shape
    (5, 1)
    """
    hidden = tuple(hidden)
    check_sizes(inputs=(inputs,), outputs=(outputs,), hidden=hidden)
    check_activation(activation, hidden)
    if not (isinstance(periodic, int) and periodic >= 0):
        raise ValueError(f"periodic is a number of frequencies, at least 0; got {periodic!r}")
    if numeric is not None and not all(0 <= column < inputs for column in numeric):
        raise ValueError(f"numeric names columns from 0 to {inputs - 1}, got {numeric!r}")
    numeric = None if numeric is None else tuple(int(column) for column in numeric)
    periodic = 0 if numeric == () else periodic
    return MLP(inputs, hidden, outputs, activation, periodic, numeric, float(last_variance))


def convnet(
    image: Sequence[int],
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    outputs: int = 10,
    activation: str | Callable[[Any], Any] = "relu",
) -> ConvNet:
    """A small convolutional network for images (rows, height, width, depth), or the same flattened
    to (rows, ·).

    Parameters
    ----------
    image : (height, width, depth)
        The size of an image, in pixels, and its number of channels.
    channels : sequence of int
        The number of channels of each 3 × 3 convolution, which 2 × 2 maximum pooling follows.
    hidden : int
        The width of the dense layer after them.
    outputs : int
        The number of columns of f.
    activation : str or callable
        A name of ``dubito.activations.ACTIVATIONS``, or a function of arrays.

    Returns
    -------
    ConvNet
        A network with ``init``, ``apply`` and ``scales``.

    Raises
    ------
    ValueError
        For sizes that leave no pixel, and for an activation that is unknown or cannot be trained.
    """
    image, channels = tuple(image), tuple(channels)
    check_sizes(image=image, channels=channels, hidden=(hidden,), outputs=(outputs,))
    check_activation(activation, (hidden,))
    if len(image) != 3 or min(image[:2]) < 2 ** len(channels):
        raise ValueError(
            f"image must be (height, width, depth), at least {2 ** len(channels)} pixels wide; got {image}"
        )
    return ConvNet(image, channels, hidden, outputs, activation)


def check_sizes(**sizes: Sequence[Any]) -> None:
    """Raise ValueError unless all sizes are whole numbers of at least 1."""
    for name, values in sizes.items():
        for size in values:
            if not (isinstance(size, int) and size >= 1):
                raise ValueError(f"{name} must be whole numbers of at least 1, got {size!r}")


def check_activation(activation: str | Callable[[Any], Any], hidden: Sequence[int]) -> None:
    """Raise ValueError for an unknown name, and for an activation that no gradient can train
    between ``hidden`` layers.
    """
    if not isinstance(activation, str):
        if hidden and _is_flat(activation, hidden[0]):
            raise ValueError(f"activation={activation!r} {FLAT}")
        return
    check_choice("activation", activation, ACTIVATIONS)
    if activation in UNTRAINABLE:
        raise ValueError(f"{activation} {UNTRAINABLE[activation]}")


def _is_flat(function: Callable[[Any], Any], width: int) -> bool:
    """Whether a function of (n, ``width``) arrays has derivative 0 at many points that differ, as a
    step function does.
    """
    points, along = 5 * jnp.sin(jnp.arange(2 * 64 * width, dtype=jnp.float32)).reshape(2, 64, width)
    try:
        _, slopes = jax.jit(lambda x, t: jax.jvp(function, (x,), (t,)))(points, along)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"activation={function!r} is no function that JAX can differentiate, as jnp.tanh is (np.tanh is not): {reason}"
        ) from error
    return not np.any(np.asarray(slopes))


FLAT = (
    "has gradient 0 everywhere: none reaches the layers below it, and they cannot be trained by gradients; use 'sigmoid' "
    "or 'relu' between the layers"
)
UNTRAINABLE = {
    "threshold": FLAT,
    "softmax": "mixes the units of a layer; it belongs to the Categorical likelihood, not between the layers",
}
