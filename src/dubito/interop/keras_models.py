"""Networks of Keras 3: on its JAX backend, and on that of PyTorch."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from dubito._jax.types import Params
from dubito.interop.pytorch import from_torch
from dubito.interop.trained import TrainedNetwork, as_example, outputs_of, trained_network

REPEATS = 64  # of example rows, in which two passes with dropout differ
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
    backend, layers = keras.backend.backend(), keras.layers
    if backend not in ("jax", "torch"):
        raise ValueError(
            f"Keras runs on {backend}, whose operations cannot be traced by JAX. Save the model, set KERAS_BACKEND=jax before "
            "importing keras, and load it again"
        )
    kinds = {layers.SpatialDropout1D: "channels last", layers.SpatialDropout2D: "channels last"}
    kinds |= {layers.SpatialDropout3D: "channels last", layers.AlphaDropout: "alpha", layers.Dropout: "units"}
    drops = [layer for layer in model._flatten_layers() if isinstance(layer, tuple(kinds))]
    patched = partial(_patched, drops, kinds)
    if backend == "torch":
        return _on_torch(model, patched, examples, output, fresh_masks)
    example = as_example(examples, "from_keras")
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
        with patched(site):
            return model.stateless_call(*given, x if len(examples) == 1 else list(x), training=training)[0]

    def function(params: Params, x: Any, site: Any) -> Any:
        return outputs_of(evaluate(params, x, site, False), output, model.name)

    def without_masks(params: Params, x: Any) -> Any:
        return evaluate(params, x, lambda *_: lambda values: values, True)

    _check_reached(model, "random_bits" in str(jax.make_jaxpr(without_masks)(weights, example)))
    return trained_network(function, weights, example, fresh=fresh_masks)


def _on_torch(
    model: Any, patched: Callable[[Any], Any], examples: tuple[Any, ...], output: Any, fresh_masks: bool
) -> TrainedNetwork:
    """By the exported graph of the model in evaluation mode, with PyTorch's dropout at its dropout layers."""
    import torch  # pyright: ignore[reportMissingImports]

    def spatial(values: Any, rate: float, training: bool) -> Any:
        return torch.feature_dropout(values.movedim(-1, 1), rate, training).movedim(1, -1)

    functional = torch.nn.functional
    functions = {"units": functional.dropout, "alpha": functional.alpha_dropout, "channels last": spatial}

    class Masked(torch.nn.Module):
        def __init__(self, keras_training: bool) -> None:
            torch.nn.Module.__init__(self)
            self.model, self.keras_training = model, keras_training

        def forward(self, *inputs: Any) -> Any:
            def site(name: str, rate: float, kind: str) -> Any:
                on = self.training and not self.keras_training
                return lambda values: functions[kind](values, rate, on)

            with patched(site):
                return self.model(inputs[0] if len(inputs) == 1 else list(inputs), training=self.keras_training)

    many = jax.tree.map(lambda rows: torch.as_tensor(np.repeat(np.asarray(rows), REPEATS, axis=0)), examples)
    with torch.no_grad():
        variables = [variable.value.clone() for variable in model.variables]
        one, other = (jax.tree.leaves(Masked(True)(*many)) for _ in range(2))
        for variable, value in zip(model.variables, variables, strict=True):
            variable.assign(value)
    _check_reached(model, not all(map(torch.equal, one, other)))
    return from_torch(Masked(False), *examples, output=output, fresh_masks=fresh_masks)


def _check_reached(model: Any, draws: bool) -> None:
    """Raise ValueError if the model draws random numbers without its dropout layers."""
    if draws:
        raise ValueError(
            f"{model.name} also draws random numbers outside of dropout layers, where masks cannot be put, as GaussianDropout, a "
            "recurrent layer with dropout and keras.random do: use Dropout layers, or set these rates to 0"
        )


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
