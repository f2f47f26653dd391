"""A trained network of any framework: its weights, its function, and the places where it drops units."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.interop.input_layout import InputLayout, input_layout

Drop: TypeAlias = Callable[[Array], Array]
Function: TypeAlias = Callable[[Params, Any, Any], Any]

ALPHA = 1.7580993408473766  # minus the value to which SELU units are set (Klambauer et al., NeurIPS 2017)
CHECKED_DRAWS = 16  # of masks, which must not mix rows


class MaskedWeights(NamedTuple):
    """Weights, and the seed of one draw of all masks: a draw of a network with dropout.

    Attributes
    ----------
    weights : pytree of arrays
        The weights, which all draws share.
    seed : uint32 array of shape (2,)
        The data of a key.
    """

    weights: Params
    seed: Array


class DropoutSite(NamedTuple):
    """A place where a network drops units.

    Attributes
    ----------
    name : str
        Its name, such as ``"features.3"``.
    rate : float
        The probability that a unit is dropped.
    kind : str
        ``"units"``, or ``"channels"`` and ``"channels last"`` for all places of a channel together;
        ``"alpha"`` and ``"alpha channels"`` set them to the negative saturation of SELU and keep mean and variance.
    shape : tuple of int
        The shape of the values there, for one row.
    axis : int or None
        Their axis of rows; None for values of one row, or without rows.
    repeats : int
        Values of each row along that axis: more than one where a network joins it with another axis, as the heads
        of attention.
    rows_first : bool
        Whether the values of a row are next to each other there.
    """

    name: str
    rate: float
    kind: str
    shape: tuple[int, ...]
    axis: int | None
    repeats: int
    rows_first: bool

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The shape of a mask for all rows: with an axis of one row before that of its values."""
        kept = list(self.shape)
        if "channels" in self.kind:
            channel = len(kept) - 1 if "last" in self.kind else (self.axis is not None)
            kept = [size if axis in (self.axis, channel) else 1 for axis, size in enumerate(kept)]
        if self.axis is None:
            return tuple(kept)
        at = self.axis + (not self.rows_first)
        return (*kept[:at], 1, *kept[at:])

    def drop(self, values: Array, mask: Array) -> Array:
        """Drop units of all rows by one mask.

        Parameters
        ----------
        values : array
            The values at this place.
        mask : array of shape ``mask_shape``
            Uniform in [0, 1).

        Returns
        -------
        array
            The same shape.
        """
        if self.axis is None:
            return self.dropped(values, mask)
        rows = values.shape[self.axis] // self.repeats
        pair = (rows, self.repeats) if self.rows_first else (self.repeats, rows)
        split = values.reshape(*values.shape[: self.axis], *pair, *values.shape[self.axis + 1 :])
        return self.dropped(split, mask).reshape(values.shape)

    def dropped(self, values: Array, uniform: Array) -> Array:
        """Drop where ``uniform``, which broadcasts with ``values``, is not below 1 − r.

        Parameters
        ----------
        values, uniform : array
            Values, and numbers in [0, 1).

        Returns
        -------
        array
            The shape of ``values``.
        """
        keep = uniform < 1 - self.rate
        if not self.kind.startswith("alpha"):
            return jnp.where(keep, values / (1 - self.rate), 0).astype(values.dtype)
        a = ((ALPHA**2 * self.rate + 1) * (1 - self.rate)) ** -0.5
        return (a * (jnp.where(keep, values, -ALPHA) + ALPHA * self.rate)).astype(values.dtype)


@register_dataclass
@dataclass(frozen=True)
class TrainedNetwork:
    """A network with trained weights, as of ``from_torch`` and its siblings. Any model takes it.

    Attributes
    ----------
    function : callable
        ``function(weights, x, site)`` returns f; at each place where units are dropped it passes the
        values through ``site(name, rate, kind)``. With ``keyed`` it gets a key in the place of ``site``, or None.
    weights : callable
        ``weights()`` returns the trained weights.
    layout : InputLayout
        What it reads: the structure, shapes and dtypes of its example.
    sites : tuple of DropoutSite
        The places with a rate above 0.
    fresh : bool
        Whether each row has masks of its own in a draw.
    keyed : bool
        Whether the function draws the masks itself, from a key that all rows share.
    """

    function: Function = static()
    weights: Callable[[], Params] = static()
    layout: InputLayout = static()
    sites: tuple[DropoutSite, ...] = static(default=())
    fresh: bool = static(default=False)
    keyed: bool = static(default=False)

    @property
    def dropout(self) -> dict[str, float]:
        """The rate of each place where units are dropped, by its name."""
        return {site.name: site.rate for site in self.sites}

    def init(self, key: Key) -> Params:
        return self.weights()

    def apply(self, params: Params, x: Any) -> Any:
        """f, with the masks of one draw if ``params`` is ``MaskedWeights``."""
        weights, key = (params.weights, prng.fast(params.seed)) if isinstance(params, MaskedWeights) else (params, None)
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as other frameworks do
            return self.function(weights, self.layout.restore(x), key if self.keyed else self._drops(key))

    def join_inputs(self, x: Any) -> np.ndarray:
        return self.layout.join(x)

    def _drops(self, key: Key | None) -> Callable[[str, float, str], Drop]:
        if key is None:
            return lambda name, rate, kind: _identity
        if self.fresh:
            return self._fresh_masks(key)
        masks = dict(zip(self.dropout, prng.uniforms(key, [site.mask_shape for site in self.sites]), strict=True))
        sites = {site.name: site for site in self.sites}

        def drop(name: str, rate: float, kind: str) -> Drop:
            return _identity if name not in sites else lambda values: sites[name].drop(values, masks[name])

        return drop

    def _fresh_masks(self, key: Key) -> Callable[[str, float, str], Drop]:
        numbers = {site.name: number for number, site in enumerate(self.sites)}

        def drop(name: str, rate: float, kind: str) -> Drop:
            def own(values: Array) -> Array:
                site = self.sites[numbers[name]]
                shape = list(values.shape)
                if "channels" in kind:
                    channel = values.ndim - 1 if "last" in kind else 1
                    shape = [size if axis in (0, channel) else 1 for axis, size in enumerate(shape)]
                (uniform,) = prng.uniforms(jax.random.fold_in(key, numbers[name]), [tuple(shape)])
                return site.dropped(values, uniform)

            return own if name in numbers else _identity

        return drop

    def scales(self, params: Params, scale: Any) -> Params:
        """``scale`` for all leaves: the layout of another framework's weights does not tell their fan-in."""
        return jax.tree.map(lambda leaf: scale, params)


def _identity(values: Array) -> Array:
    return values


def trained_network(function: Function, weights: Params, example: Any, *, fresh: bool) -> TrainedNetwork:
    """A network with its dropout sites, found where it is evaluated for two numbers of rows.

    Parameters
    ----------
    function : callable
        As of ``TrainedNetwork``.
    weights : pytree of arrays
        The trained weights; they are copied.
    example : pytree of arrays
        Some rows of its inputs.
    fresh : bool
        As of ``TrainedNetwork``.

    Returns
    -------
    TrainedNetwork
        The network.

    Raises
    ------
    ValueError
        If the rows cannot be found in the values of a site, or a mask would mix them.
    """
    kept = jax.tree.map(np.array, weights)
    three, two = (_shapes_at_sites(function, kept, example, rows) for rows in (3, 2))
    found: list[DropoutSite] = []
    for (name, rate, kind, larger), (*_, smaller) in zip(three, two, strict=True):
        if rate == 0:
            continue
        differ = [axis for axis, (a, b) in enumerate(zip(larger, smaller, strict=True)) if a != b]
        if not differ:
            found.append(DropoutSite(name, rate, kind, larger, None, 1, True))
            continue
        axis = differ[0]
        if len(differ) > 1 or larger[axis] * 2 != smaller[axis] * 3:
            raise ValueError(f"the rows cannot be told apart at dropout {name!r}, whose values have the shape {larger}")
        one = (*larger[:axis], larger[axis] // 3, *larger[axis + 1 :])
        found.append(DropoutSite(name, rate, kind, one, axis, larger[axis] // 3, True))
    network = TrainedNetwork(function, lambda: kept, input_layout(example), tuple(found), fresh)
    for number, site in enumerate(found):  # which of two axes that were joined is that of rows
        if site.repeats > 1 and not fresh:
            network = _with_rows_last(network, number, kept, example)
    if not fresh and not _rows_are_independent(network, kept, example):
        raise ValueError(
            "the outputs of a row depend on the rows beside it, as with batch statistics, or rows cannot be told apart at a dropout. "
            "For the latter try fresh_masks=True"
        )
    return network


def _with_rows_last(network: TrainedNetwork, number: int, weights: Params, example: Any) -> TrainedNetwork:
    """The network with the other order at one site, if that is the one which keeps rows apart there."""
    sites = list(network.sites)
    only = replace(network, function=_only_site(network.function, sites[number].name), sites=(sites[number],))
    if _rows_are_independent(only, weights, example):
        return network
    sites[number] = sites[number]._replace(rows_first=False)
    return replace(network, sites=tuple(sites))


def _only_site(function: Function, name: str) -> Function:
    """The function with all other sites switched off."""

    def evaluate(weights: Params, x: Any, site: Any) -> Any:
        return function(weights, x, lambda n, rate, kind: site(n, rate if n == name else 0.0, kind))

    return evaluate


def _shapes_at_sites(function: Function, weights: Params, example: Any, rows: int) -> list[tuple[Any, ...]]:
    """(name, rate, kind, shape of the values) of each site, for so many rows."""
    found: list[tuple[Any, ...]] = []

    def record(name: str, rate: float, kind: str) -> Drop:
        def drop(values: Array) -> Array:
            found.append((name, float(rate), kind, values.shape))
            return values

        return drop

    def of_rows(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *np.shape(leaf)[1:]), jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype))

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        jax.eval_shape(lambda w, x: function(w, x, record), weights, jax.tree.map(of_rows, example))
    names = [name for name, *_ in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two dropout sites have the same name, among {names}")
    return found


def _rows_are_independent(network: TrainedNetwork, weights: Params, example: Any) -> bool:
    """Whether draws predict each of two rows as they do alone."""

    def rows(leaf: Any, at: int) -> Any:
        row = np.asarray(leaf)[[at]]
        if row.dtype.kind != "f":
            return row
        jitter = np.random.default_rng(at % 2).normal(size=row.shape).astype(row.dtype)  # examples may be constant
        return row + jitter * max(float(np.std(np.asarray(leaf))), 1.0)

    apart = [jax.tree.map(lambda leaf, at=at: rows(leaf, at), example) for at in (0, -1)]
    both = jax.tree.map(lambda *leaves: np.concatenate(leaves), *apart)
    weights = jax.tree.map(jnp.asarray, weights)
    seeds = np.random.default_rng(0).integers(2**32, size=(CHECKED_DRAWS, 2), dtype=np.uint32)

    def outputs(x: Any) -> Any:
        return jax.jit(jax.vmap(lambda seed: network.apply(MaskedWeights(weights, seed), x)))(seeds)

    alone = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *map(outputs, apart))
    pairs = zip(jax.tree.leaves(outputs(both)), jax.tree.leaves(alone), strict=True)
    return all(bool(jnp.allclose(a, b, rtol=1e-3, atol=1e-4 * float(jnp.std(b)) + 1e-6)) for a, b in pairs)


def as_example(examples: Sequence[Any], caller: str) -> Any:
    """Rows of the inputs as one array, a dict of arrays, or a tuple of several.

    Parameters
    ----------
    examples : sequence of array or dict of arrays
        Some rows of each input.
    caller : str
        The function that was given them, for the message.

    Returns
    -------
    array, dict or tuple
        Arrays on the host.

    Raises
    ------
    ValueError
        Without inputs, or for fewer than two rows.
    """
    arrays = [jax.tree.map(np.asarray, example) for example in examples]
    if not arrays or any(array.ndim == 0 or len(array) < 2 for array in jax.tree.leaves(arrays)):
        raise ValueError(f"{caller} needs at least two rows of each input, such as X[:2]")
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def outputs_of(f: Any, output: int | str | None, where: str) -> Float[Array, "rows width"]:
    """The outputs of a network as an array of two axes.

    Parameters
    ----------
    f : array, tuple or dict
        What a module returns.
    output : int, str or None
        Which of several values it is.
    where : str
        The module, for messages.

    Returns
    -------
    array of shape (rows, width)
        The outputs.

    Raises
    ------
    ValueError
        For several values without ``output``, and for an array of more axes.
    """
    if isinstance(f, tuple | list | dict):
        names = list(f) if isinstance(f, dict) else list(range(len(f)))
        if output is None and len(names) > 1:
            raise ValueError(f"{where} returns several values, {names}: choose one by output=")
        chosen = names[0] if output is None else output
        if chosen not in names:
            raise ValueError(f"output={output!r} is none of the values of {where}, {names}")
        values: Any = f
        f = values[chosen]
    if f.ndim == 1:
        return f[:, None]
    if f.ndim != 2:
        raise ValueError(
            f"{where} returns an array of shape (rows, {', '.join(map(str, f.shape[1:]))}): one row of numbers for each row is "
            "needed"
        )
    return f
