"""Networks of Equinox, whose modules take one row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.types import Params
from dubito.interop.trained import TrainedNetwork, outputs_of, trained_network


def from_equinox(module: Any, *examples: Any, output: int | str | None = None, **options: Any) -> TrainedNetwork:
    """A trained module of Equinox as a network of dubito.

    Masks are put at its ``equinox.nn.Dropout`` modules, which are also those of attention. A module takes one
    row, and is mapped over rows here. A draw is one function.

    Parameters
    ----------
    module : equinox.Module
        The module. Batch statistics belong to it, as of ``equinox.nn.inference_mode`` and a partial call.
    *examples : array
        Some rows of each of its inputs.
    output : int or str, optional
        Which of its values predicts, for a module that returns several.
    **options : object
        Further arguments of the module in evaluation, such as ``key=None``.

    Returns
    -------
    TrainedNetwork
        The network.

    Raises
    ------
    ImportError
        Without Equinox.
    """
    try:
        import equinox  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_equinox needs Equinox: pip install equinox") from error

    class Replaced(equinox.Module):
        name: str = equinox.field(static=True)
        rate: float = equinox.field(static=True)

        def __call__(self, x: Any, **options: Any) -> Any:
            return _current[-1](self.name, self.rate, "units")(x)

    def is_dropout(leaf: Any) -> bool:
        return isinstance(leaf, equinox.nn.Dropout)

    _current: list[Any] = []
    leaves, tree = jax.tree_util.tree_flatten_with_path(module, is_leaf=is_dropout)
    replaced = tree.unflatten(
        Replaced(jax.tree_util.keystr(path).lstrip("."), float(leaf.p)) if is_dropout(leaf) else leaf
        for path, leaf in leaves
    )
    weights, static = equinox.partition(replaced, equinox.is_inexact_array)

    def function(params: Params, x: Any, site: Any) -> Any:
        whole = equinox.combine(params, static)
        _current.append(site)
        try:
            f = jax.vmap(lambda *row: whole(*row, **options))(*(x if len(examples) > 1 else (x,)))
        finally:
            _current.pop()
        f = jax.tree.map(lambda leaf: leaf if jnp.ndim(leaf) else leaf[None], f)
        return outputs_of(f, output, type(module).__name__)

    arrays = [np.asarray(example) for example in examples]
    return trained_network(function, weights, tuple(arrays) if len(arrays) > 1 else arrays[0], fresh=False)
