"""Networks: two pure functions, ``init(key) -> params`` and ``apply(params, x) -> f``, f of shape (rows, outputs)."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._check import check_choice, check_number, check_whole
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.activations import ACTIVATIONS
from dubito.models.periodic import FEATURES, FREQUENCY, init_periodic, periodic_features

ActivationLike: TypeAlias = str | Callable[[Any], Any]  # a name in ACTIVATIONS, or a function of arrays


@runtime_checkable
class AnyNetwork(Protocol):
    """What a model needs from a network: ``init``, ``apply`` and ``scales``, as methods or as fields.

    Attributes
    ----------
    init : callable
        ``init(key)`` returns random parameters, any pytree of float32 arrays.
    apply : callable
        ``apply(params, x)`` for x (rows, columns) returns f, (rows, outputs).
    scales : callable or None
        ``scales(params)`` returns the standard deviation of each leaf for priors with
        ``by_network``, a tree like ``params``. None is a network without scales of its own.
    """

    @property
    def init(self) -> Callable[[Key], Params]: ...
    @property
    def apply(self) -> Callable[[Params, Any], Any]: ...
    @property
    def scales(self) -> Callable[[Params, Any], Params] | None: ...


@register_dataclass
@dataclass(frozen=True)
class Network:
    """A network of your own, from two pure functions.

    Create one ``Network`` and reuse it: functions are compared by identity, so a new ``lambda``
    compiles again.

    Parameters
    ----------
    init : callable
        ``init(key)`` returns random parameters, any pytree of float32 arrays.
    apply : callable
        ``apply(params, x)`` for x (rows, columns) returns f, (rows, outputs).
    scales : callable, optional
        ``scales(params, scale)`` returns the standard deviation of each leaf for a prior with
        ``by_network`` and this ``scale``, a tree like ``params``: usually a multiple of ``scale`` for
        weights, and a number of its own for biases.
    """

    init: Callable[[Key], Params] = static()
    apply: Callable[[Params, Any], Any] = static()
    scales: Callable[[Params, Any], Params] | None = static(default=None)


def as_network(network: Any) -> AnyNetwork:
    """Make a network that a model can use from any object with ``init`` and ``apply``.

    Parameters
    ----------
    network : object
        With ``scales`` if it has prior scales of its own.

    Returns
    -------
    AnyNetwork
        The object, if it is a pytree with all three.

    Raises
    ------
    TypeError
        Without ``init`` or ``apply``.
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

    Made by ``mlp``, which explains the fields.

    Parameters
    ----------
    inputs, hidden, outputs, activation, periodic, numeric, last_variance, wave_scale, input_limit
        As in ``mlp``.
    """

    inputs: int = static()
    hidden: tuple[int, ...] = static()
    outputs: int = static()
    activation: ActivationLike = static(default="relu")
    periodic: int = static(default=0)
    numeric: tuple[int, ...] | None = static(default=None)
    last_variance: float = static(default=1.0)
    wave_scale: float = static(default=1.0)
    input_limit: float | None = static(default=None)

    def init(self, key: Key) -> Params:
        key_layers, key_periodic = jax.random.split(key)
        width = self.inputs + (FEATURES * len(self.columns) if self.periodic else 0)
        sizes = (width, *self.hidden, self.outputs)
        variances = [gain(self.activation)] * len(self.hidden) + [self.last_variance]
        keys = jax.random.split(key_layers, len(variances))
        params = {f"layer_{k}": _init_dense(keys[k], sizes[k : k + 2], each) for k, each in enumerate(variances)}
        if self.periodic:
            params["periodic"] = init_periodic(key_periodic, len(self.columns), self.periodic, self.wave_scale)
        return params

    @property
    def columns(self) -> tuple[int, ...]:
        """The indices of the numeric columns of x, which get periodic features."""
        return tuple(range(self.inputs)) if self.numeric is None else self.numeric

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        if self.input_limit is not None:
            x = jnp.clip(x, -self.input_limit, self.input_limit)
        if self.periodic:
            with jax.named_scope("periodic"):
                x = jnp.concatenate([x, periodic_features(params["periodic"], x[:, np.array(self.columns)])], axis=1)
        for number in range(len(self.hidden) + 1):
            with jax.named_scope(f"layer_{number}"):
                x = _dense(params[f"layer_{number}"], x)
                x = _activate(self.activation, x) if number < len(self.hidden) else x
        return x

    def scales(self, params: Params, scale: Any) -> Params:
        # for periodic features the standard deviations at the start: another scale would be another resolution
        scales = _fan_in_scales(params, scale)
        if self.periodic:
            phase = math.pi / math.sqrt(3)
            weights = self.wave_scale * self.periodic**-0.5
            scales["periodic"] = {"frequency": FREQUENCY, "phase": phase, "w": weights, "b": 1.0}
        return scales


@register_dataclass
@dataclass(frozen=True)
class ConvNet:
    """Convolutions 3 × 3 with an activation, each followed by 2 × 2 maximum pooling, then one
    hidden layer.

    Made by ``convnet``, which explains the fields.

    Parameters
    ----------
    image, channels : tuple of int
        As in ``convnet``.
    hidden, outputs : int
        As in ``convnet``.
    activation : str or callable
        As in ``convnet``.
    """

    image: tuple[int, ...] = static()
    channels: tuple[int, ...] = static()
    hidden: int = static()
    outputs: int = static()
    activation: ActivationLike = static(default="relu")

    def init(self, key: Key) -> Params:
        height, width, depth = self.image
        keys = iter(jax.random.split(key, len(self.channels) + 2))
        params = {}
        for number, channels in enumerate(self.channels):
            params[f"conv_{number}"] = _init_dense(next(keys), (3, 3, depth, channels), gain(self.activation))
            height, width, depth = height // 2, width // 2, channels
        params["dense"] = _init_dense(next(keys), (height * width * depth, self.hidden), gain(self.activation))
        params["last"] = _init_dense(next(keys), (self.hidden, self.outputs), 1.0)
        return params

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        x = x.reshape(-1, *self.image)
        axes = ("NHWC", "HWIO", "NHWC")
        for number in range(len(self.channels)):
            with jax.named_scope(f"conv_{number}"):
                layer = params[f"conv_{number}"]
                x = jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "SAME", dimension_numbers=axes)
                x = _activate(self.activation, x + layer["b"][None, None, None])
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        with jax.named_scope("dense"):
            x = _activate(self.activation, _dense(params["dense"], x.reshape(len(x), -1)))
        with jax.named_scope("last"):
            return _dense(params["last"], x)

    def scales(self, params: Params, scale: Any) -> Params:
        return _fan_in_scales(params, scale)


def _dense(layer: Params, x: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
    """The affine map xW + b."""
    return x @ layer["w"] + layer["b"][None]


def _activate(activation: ActivationLike, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """An activation of x, under a name by which the computation graph finds it."""
    with jax.named_scope("activation"):
        return (ACTIVATIONS[activation].function if isinstance(activation, str) else activation)(x)


def _init_dense(key: Key, shape: tuple[int, ...], variance: float) -> Params:
    """Weights with variance variance/fan-in (the product of all axes but the last), and biases 0."""
    scale = math.sqrt(variance / math.prod(shape[:-1]))
    return {"w": scale * jax.random.normal(key, shape, jnp.float32), "b": jnp.zeros(shape[-1], jnp.float32)}


def _fan_in_scales(params: Params, scale: Any) -> Params:
    """scale/√fan-in for weights, which keeps outputs of the order of ``scale`` at any width, and 1 for biases."""
    return jax.tree.map(lambda leaf: 1.0 if leaf.ndim < 2 else scale * math.prod(leaf.shape[:-1]) ** -0.5, params)


def gain(activation: ActivationLike) -> float:
    """Fan-in times the variance of a weight that preserves the magnitude of signals.

    Parameters
    ----------
    activation : str or callable
        A name in ``ACTIVATIONS``, or a function of arrays.

    Returns
    -------
    float
        That of the table; 1 for a callable.
    """
    return ACTIVATIONS[activation].gain if isinstance(activation, str) else 1.0


def mlp(
    inputs: int,
    hidden: Sequence[int] = (50,),
    outputs: int = 1,
    activation: ActivationLike = "relu",
    *,
    periodic: int = 0,
    numeric: Sequence[int] | None = None,
    last_variance: float = 1.0,
    wave_scale: float = 1.0,
    input_limit: float | None = None,
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
        The number of trained frequencies per numeric column; their waves are additional inputs
        beside the columns themselves.
    numeric : sequence of int, optional
        The indices of the columns that get periodic features; None is all.
    last_variance : float
        The weights of the last layer start with variance last_variance/fan-in.
    wave_scale : float
        Multiplies the weights of the waves at the start; a positive number. Small waves grow where
        the data need them, and smooth functions are learned without them.
    input_limit : float, optional
        Inputs beyond ±``input_limit`` count as if they were there: a deep network extrapolates wildly.

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
    _check_sizes(1, inputs=(inputs,), outputs=(outputs,), hidden=hidden)
    _check_sizes(0, periodic=(periodic,))
    _check_activation(activation, hidden)
    check_number("wave_scale", wave_scale, "(0, inf)")
    check_number("input_limit", 1.0 if input_limit is None else input_limit, "(0, inf)")
    if numeric is not None:
        if not all(0 <= column < inputs for column in numeric):
            raise ValueError(f"numeric names columns from 0 to {inputs - 1}, got {numeric!r}")
        numeric = tuple(int(column) for column in numeric)
        periodic = periodic if numeric else 0
    numbers = float(last_variance), float(wave_scale), None if input_limit is None else float(input_limit)
    return MLP(inputs, hidden, outputs, activation, periodic, numeric, *numbers)


def convnet(
    image: Sequence[int],
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    outputs: int = 10,
    activation: ActivationLike = "relu",
) -> ConvNet:
    """A small convolutional network for images of shape (rows, height, width, depth), or the same
    flattened to (rows, ·).

    Parameters
    ----------
    image : tuple of int
        (height, width, depth): the size of an image in pixels, and its number of channels.
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
    _check_sizes(1, image=image, channels=channels, hidden=(hidden,), outputs=(outputs,))
    _check_activation(activation, (hidden,))
    least = 2 ** len(channels)
    if len(image) != 3 or min(image[:2]) < least:
        raise ValueError(f"image must be (height, width, depth), at least {least} pixels wide; got {image}")
    return ConvNet(image, channels, hidden, outputs, activation)


def _check_sizes(least: int, **sizes: Sequence[Any]) -> None:
    """Raise ValueError unless all sizes are whole numbers of at least ``least``."""
    for name, values in sizes.items():
        for size in values:
            check_whole(name, size, least)


def _check_activation(activation: ActivationLike, hidden: Sequence[int]) -> None:
    """Raise ValueError for an unknown name, and for an activation that cannot be trained by gradients."""
    if isinstance(activation, str):
        check_choice("activation", activation, ACTIVATIONS)
        if activation in UNTRAINABLE:
            raise ValueError(f"{activation} {UNTRAINABLE[activation]}")
    elif hidden and _is_flat(activation, hidden[0]):
        raise ValueError(f"activation={activation!r} {FLAT}")


@functools.lru_cache(maxsize=64)  # a new jax.jit compiles
def _is_flat(function: Callable[[Any], Any], width: int) -> bool:
    """Whether a function of (n, ``width``) arrays has derivative 0 at many different points, as a step function has."""
    points, along = 5 * jnp.sin(jnp.arange(2 * 64 * width, dtype=jnp.float32)).reshape(2, 64, width)
    try:
        _, slopes = jax.jit(lambda x, t: jax.jvp(function, (x,), (t,)))(points, along)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"activation={function!r} must be a function that JAX can differentiate, as jnp.tanh is (np.tanh is not): {reason}"
        ) from error
    return not np.any(np.asarray(slopes))


FLAT = (
    "has gradient 0 everywhere, so that the layers below cannot be trained; use 'sigmoid' or 'relu' between the layers"
)
UNTRAINABLE: dict[str, str] = {
    "threshold": FLAT,
    "softmax": "mixes the units of a layer; it belongs to the Categorical likelihood, not between the layers",
}
