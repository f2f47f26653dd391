"""Networks of Keras 3: on its JAX backend, and on that of PyTorch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from dubito._jax.types import Params
from dubito.interop.pytorch import from_torch
from dubito.interop.trained import TrainedNetwork, as_example, outputs_of, trained_network

LOCK = threading.RLock()  # the layers of a model are patched while it is traced


def from_keras(
    model: Any, *examples: Any, output: int | str | None = None, fresh_masks: bool = False
) -> TrainedNetwork:
    """A trained model of Keras 3 as a network of dubito.

    Masks are put at its dropout layers, which are also those of attention. Batch normalization keeps its
    statistics. The weights are copied.

    Parameters
    ----------
    model : keras.Model
        A built model, on the JAX or the PyTorch backend.
    *examples : array or dict of arrays
        At least two rows of each of its inputs.
    output : int or str, optional
        Which of its values predicts, for a model that returns several.
    fresh_masks : bool
        Give each row masks of its own in a draw.

    Returns
    -------
    TrainedNetwork
        The network.

    Raises
    ------
    ImportError
        Without Keras.
    ValueError
        On the TensorFlow backend, and for a model that draws random numbers outside of dropout layers.
    """
    try:
        import keras  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_keras needs Keras 3: pip install keras, with KERAS_BACKEND=jax") from error
    backend = keras.backend.backend()
    if backend == "torch":
        return from_torch(model, *examples, output=output, fresh_masks=fresh_masks)
    if backend != "jax":
        raise ValueError(
            f"Keras runs on {backend}, whose operations cannot be traced by JAX. Save the model, set KERAS_BACKEND=jax before "
            "importing keras, and load it again"
        )
    example = as_example(examples, "from_keras")
    kinds = {
        **{keras.layers.SpatialDropout1D: "channels last", keras.layers.SpatialDropout2D: "channels last"},
        **{
            keras.layers.SpatialDropout3D: "channels last",
            keras.layers.AlphaDropout: "alpha",
            keras.layers.Dropout: "units",
        },
    }
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, tuple(kinds))]
    digits = len(str(len(model.variables)))  # names in the order of the layers
    names = {id(variable): f"{number:0{digits}} {variable.path}" for number, variable in enumerate(model.variables)}
    values = {names[id(variable)]: np.array(variable.value) for variable in model.variables}
    weights = {names[id(variable)]: values[names[id(variable)]] for variable in model.trainable_variables}

    def evaluate(params: Params, x: Any, site: Any, training: bool) -> Any:
        now = {**values, **params}  # which are trainable may have changed since
        given = [
            [now[names[id(variable)]] for variable in some]
            for some in (model.trainable_variables, model.non_trainable_variables)
        ]
        with _patched(layers, kinds, site):
            return model.stateless_call(*given, x if len(examples) == 1 else list(x), training=training)[0]

    def function(params: Params, x: Any, site: Any) -> Any:
        return outputs_of(evaluate(params, x, site, False), output, model.name)

    def without_masks(params: Params, x: Any) -> Any:
        return evaluate(params, x, lambda *_: lambda values: values, True)

    if "random_bits" in str(jax.make_jaxpr(without_masks)(weights, example)):
        raise ValueError(
            f"{model.name} also draws random numbers outside of dropout layers, where masks cannot be put, as GaussianDropout, a "
            "recurrent layer with dropout and keras.random do: use Dropout layers, or set these rates to 0"
        )
    return trained_network(function, weights, example, fresh=fresh_masks)


@contextmanager
def _patched(layers: list[Any], kinds: Any, site: Any) -> Iterator[None]:
    """Pass the values of dropout layers through ``site``."""
    with LOCK:
        try:
            for layer in layers:
                kind = next(kind for each, kind in kinds.items() if isinstance(layer, each))
                drop = site(layer.path or layer.name, float(layer.rate), kind)
                object.__setattr__(layer, "call", lambda inputs, training=None, drop=drop: drop(inputs))
            yield
        finally:
            for layer in layers:
                vars(layer).pop("call", None)
