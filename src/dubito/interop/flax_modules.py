"""Networks of Flax, of its Linen and its NNX modules."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from dubito._jax.types import Params
from dubito.interop.trained import TrainedNetwork, as_example, outputs_of, trained_network


def from_flax(
    module: Any, *given: Any, output: int | str | None = None, fresh_masks: bool = False, **options: Any
) -> TrainedNetwork:
    """A trained module of Flax as a network of dubito.

    Masks are put at its ``Dropout`` modules. Batch statistics are frozen.

    Parameters
    ----------
    module : flax.linen.Module or flax.nnx.Module
        The module.
    *given
        For Linen its variables, such as ``{"params": ..., "batch_stats": ...}``, and some rows of the inputs; for
        NNX the rows.
    output : int or str, optional
        Which of its values predicts, for a module that returns several.
    fresh_masks : bool
        Give each row masks of its own in a draw.
    **options : object
        Further arguments of the module in evaluation, such as ``train=False``.

    Returns
    -------
    TrainedNetwork
        The network.

    Raises
    ------
    ImportError
        Without Flax.
    ValueError
        For a dropout that is no module of its own, such as that of attention weights.
    """
    try:
        from flax import linen, nnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_flax needs Flax: pip install flax") from error
    if isinstance(module, linen.Module):
        variables, *examples = given or ({},)
        function, weights = _linen(linen, module, variables, options)
    elif isinstance(module, nnx.Module):
        examples = list(given)
        function, weights = _nnx(nnx, module, options)
    else:
        raise TypeError(f"from_flax takes a module of flax.linen or flax.nnx, got a {type(module).__name__}")

    example = as_example(examples, "from_flax")

    def whole(params: Params, x: Any, site: Any) -> Any:
        f = function(params, x if len(examples) > 1 else (x,), site)
        return outputs_of(f, output, type(module).__name__)

    return trained_network(whole, weights, example, fresh=fresh_masks)


def _linen(linen: Any, module: Any, variables: Any, options: Any) -> tuple[Callable[..., Any], Params]:
    variables = dict(variables)
    if "params" not in variables:
        raise ValueError("a module of Linen needs its variables, with 'params': from_flax(module, variables, X[:2])")
    weights = variables.pop("params")

    def function(params: Params, x: tuple[Any, ...], site: Any) -> Any:
        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            own, name = context.module, "/".join(context.module.path)
            if isinstance(own, linen.Dropout) and context.method_name == "__call__":
                kind = _kind(name, own.broadcast_dims, args[0].ndim)
                return site(name or "dropout", own.rate, kind)(args[0])
            _check_reached(own, name)
            return call(*args, **kwargs)

        with linen.intercept_methods(intercept):
            return module.apply({"params": params, **variables}, *x, **options)

    return function, weights


def _nnx(nnx: Any, module: Any, options: Any) -> tuple[Callable[..., Any], Params]:
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            _check_reached(node, ".".join(map(str, path)))
    graph, state, rest = nnx.split(module, nnx.Param, ...)

    def function(params: Params, x: tuple[Any, ...], site: Any) -> Any:
        own = nnx.clone(state)
        nnx.replace_by_pure_dict(own, params)
        merged = nnx.merge(graph, own, rest)
        merged.eval()
        for path, node in list(nnx.iter_graph(merged)):
            if isinstance(node, nnx.Dropout):
                name = ".".join(map(str, path)) or "dropout"
                _replace(merged, path, _nnx_site(name, node, site))
        return merged(*x, **options)

    return function, nnx.to_pure_dict(state)


def _nnx_site(name: str, node: Any, site: Any) -> Callable[..., Any]:
    def call(inputs: Any, **options: Any) -> Any:
        return site(name, node.rate, _kind(name, node.broadcast_dims, jnp.ndim(inputs)))(inputs)

    return call


def _replace(module: Any, path: tuple[Any, ...], call: Callable[..., Any]) -> None:
    """Put a function in the place of a module's part."""
    *parents, last = path
    for name in parents:
        module = module[name] if isinstance(name, int) or isinstance(module, dict) else vars(module)[name]
    if isinstance(last, int) or isinstance(module, dict):
        module[last] = call
    else:
        object.__setattr__(module, last, call)


def _kind(name: str, broadcast: Any, axes: int) -> str:
    """The kind of a site by the axes along which its mask is the same."""
    shared = {axis % axes for axis in broadcast}
    if not shared:
        return "units"
    if shared == set(range(1, axes - 1)):
        return "channels last"
    raise ValueError(
        f"dropout {name!r} has broadcast_dims={tuple(broadcast)}: only those of all axes between rows and channels"
    )


def _check_reached(module: Any, name: str) -> None:
    """Raise ValueError for a module that drops units by a function of its own."""
    rate = vars(module).get("dropout_rate", 0)
    if isinstance(rate, int | float) and rate > 0:
        raise ValueError(
            f"{type(module).__name__} {name!r} drops attention weights with dropout_rate={rate}, where masks cannot be put. "
            "Set it to 0 in the module that you pass, and keep its Dropout modules"
        )
