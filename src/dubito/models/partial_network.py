"""Partially stochastic networks (Sharma et al., AISTATS 2023): some parameters are inferred, the others are points."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from dubito._check import did_you_mean, list_first
from dubito._jax import jaxpr
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.inputs import joined_inputs
from dubito.models.networks import as_network

Where: TypeAlias = str | Sequence[str] | Callable[[str], bool]


@register_dataclass
@dataclass(frozen=True)
class PartialNetwork:
    """A network of which only some parameters are its own; the others stay at given values.

    Made by ``partial_network``. Its parameters are a dict from names to arrays, so that every method
    infers these alone: the last layer, or any others.

    Attributes
    ----------
    network : AnyNetwork
        The whole network.
    points : pytree of arrays
        All of its parameters.
    chosen : tuple of str
        The names of those that are inferred.
    """

    network: Any
    points: Params
    chosen: tuple[str, ...] = static()

    def init(self, key: Key) -> Params:
        # the given values, whatever the key
        return self.select(self.points)

    def apply(self, params: Params, x: Any) -> Any:
        return self.network.apply(self.whole(params), x)

    def whole(self, params: Params) -> Params:
        """All parameters of the whole network.

        Parameters
        ----------
        params : dict of arrays
            Those that are inferred, by their names.

        Returns
        -------
        pytree of arrays
            With the points in the other places.
        """
        return jax.tree_util.tree_map_with_path(lambda path, point: params.get(_name(path), point), self.points)

    def join_inputs(self, x: Any) -> np.ndarray:
        return joined_inputs(self.network, x)

    @property
    def scales(self) -> Callable[[Params, Any], Params] | None:
        # those of the whole network for these parameters
        own = self.network.scales
        return None if own is None else lambda params, scale: self.select(own(self.whole(params), scale))

    def select(self, tree: Params) -> Params:
        """The part of a tree like the whole network's parameters that belongs to those that are inferred.

        Parameters
        ----------
        tree : pytree
            Any leaves.

        Returns
        -------
        dict
            Leaves by name.
        """
        named = {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
        return {name: named[name] for name in self.chosen}


def partial_network(network: Any, where: Where, params: Params) -> PartialNetwork:
    """A network of which only the parameters at ``where`` are inferred, by any method. The others are points.

    After a fit of the whole network, for instance by ``MAP``, the last layer or some layers get a
    posterior of their own. Methods that are too expensive for all parameters, such as ``HMC``, are
    feasible for a few thousand.

    Parameters
    ----------
    network : AnyNetwork
        The network; also one of ``from_torch`` and its siblings.
    where : str, sequence of str, or callable
        The name of a layer or of an array, such as ``"layer_2"`` or ``"head.weight"``; several of these; or
        a function of the name of an array that returns whether it is inferred.
    params : pytree of arrays
        The values of all parameters: where those that are inferred start, and the others stay.

    Returns
    -------
    PartialNetwork
        A network for a ``Model``.

    Raises
    ------
    ValueError
        If there is no such name, or it is not clear which one is meant.

    References
    ----------
    Sharma, Farquhar, Nalisnick & Rainforth, "Do Bayesian Neural Networks Need To Be Fully Stochastic?",
    AISTATS 2023.

    Examples
    --------
    >>> import dubito, jax
    >>> key = jax.random.key(0)
    >>> x, y = jax.random.normal(key, (2, 100, 1))
    >>> network = dubito.mlp(1)
    >>> point = dubito.fit(dubito.Model(network, dubito.Gaussian()), x, y, dubito.MAP(epochs=5), key=key)
    >>> last = dubito.partial_network(network, "layer_1", point.draw(0)["network"])
    >>> posterior = dubito.fit(dubito.Model(last, dubito.Gaussian()), x, y, dubito.BayesByBackprop(epochs=5), key=key)
    >>> sorted(posterior.mean["network"])
    ['layer_1.b', 'layer_1.w']
    """
    network = as_network(network)
    names = [_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return PartialNetwork(network, params, tuple(chosen_names(names, where)))


def chosen_names(names: Sequence[str], where: Where) -> list[str]:
    """The names that are chosen, sorted.

    Parameters
    ----------
    names : sequence of str
        Names of parameters, or of other things in a network.
    where : str, sequence of str, or callable
        As for ``partial_network``.

    Returns
    -------
    list of str
        At least one.

    Raises
    ------
    ValueError
        If nothing is chosen, or it is not clear which name is meant.
    """
    if callable(where):
        chosen = {name for name in names if where(name)}
    else:
        given = [where] if isinstance(where, str) else list(where)
        chosen = set().union(*(_matching(names, one) for one in given))
    if not chosen:
        raise ValueError(f"where chooses none of {list_first(names)}")
    return sorted(chosen)


def parameter_uses(network: Any, params: Params, x: Any) -> Params:
    """How each parameter of a network enters: those of a ``PartialNetwork`` as in the whole network.

    Parameters
    ----------
    network : AnyNetwork
        The network.
    params : pytree of arrays
        Its parameters.
    x : array
        Inputs; only the shape of a row matters.

    Returns
    -------
    pytree of Use
        A tree like ``params``.
    """
    if not isinstance(network, PartialNetwork):
        return jaxpr.uses(network.apply, params, x)
    return network.select(jaxpr.uses(network.network.apply, network.whole(params), x))


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _matching(names: Sequence[str], wanted: str) -> set[str]:
    """The names that are ``wanted``, begin with it, or have it as the name of one layer inside."""
    parts = {name: f".{re.sub('[ /]', '.', name)}." for name in names}
    inside = f".{re.sub('[ /]', '.', wanted)}."
    begin = {name for name, text in parts.items() if text.startswith(inside)}
    if begin:
        return begin
    found = {name: text.split(inside)[0] for name, text in parts.items() if inside in text}
    if not found:
        raise ValueError(f"where={wanted!r} is none of the names{did_you_mean(wanted, names)}")
    if len(set(found.values())) > 1:
        raise ValueError(f"where={wanted!r} names several layers: {list_first(sorted(found))}. Give a whole name")
    return set(found)
