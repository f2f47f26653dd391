"""Networks of Equinox, whose modules take one row."""

from typing import Any

import jax
import numpy as np

from dubito._jax.types import Params
from dubito.interop.input_layout import input_layout
from dubito.interop.trained import DropoutSite, TrainedNetwork, as_example, outputs_of


def from_equinox(module: Any, *examples: Any, output: int | str | None = None, **options: Any) -> TrainedNetwork:
    """A trained module of Equinox as a network of dubito.

    Its ``equinox.nn.Dropout`` modules, which are also those of attention, draw the masks of a draw. A module takes
    one row, and is mapped over rows here, with one key for all rows, so that a draw is one function.

    Parameters
    ----------
    module : equinox.Module
        The module. Batch statistics belong to it, as of ``equinox.nn.inference_mode`` and a partial call.
    *examples : array
        Some rows of each of its inputs.
    output : int or str, optional
        Which of its values predicts, for a module that returns several.
    **options : object
        Further arguments of the module; a module with dropout also gets ``key``.

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

    layout = input_layout(as_example(examples, "from_equinox"))

    def is_dropout(leaf: Any) -> bool:
        return isinstance(leaf, equinox.nn.Dropout)

    leaves, tree = jax.tree_util.tree_flatten_with_path(module, is_leaf=is_dropout)
    sites = tuple(
        DropoutSite(jax.tree_util.keystr(path).lstrip("."), float(leaf.p), "units", (), None, 1, True)
        for path, leaf in leaves
        if is_dropout(leaf) and leaf.p > 0
    )

    def switched(inference: bool) -> Any:
        new = [equinox.nn.Dropout(leaf.p, inference) if is_dropout(leaf) else leaf for _, leaf in leaves]
        return equinox.partition(tree.unflatten(new), equinox.is_inexact_array)

    (weights, off), (_, on) = switched(True), switched(False)
    kept = jax.tree.map(np.array, weights)

    def function(params: Params, x: Any, key: Any) -> Any:
        whole = equinox.combine(params, off if key is None else on)
        given = {**options, **({"key": key} if sites else {})}
        f = jax.vmap(lambda *row: whole(*row, **given))(*(x if len(examples) > 1 else (x,)))
        return outputs_of(f, output, type(module).__name__)

    return TrainedNetwork(function, lambda: kept, layout, sites, keyed=True)
