"""The posterior of dropout: weights whose inputs are dropped at random."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior, Seed
from dubito.posteriors.file_layout import FileLayout


@register_dataclass
@dataclass(frozen=True)
class DropoutPosterior(KeyedPosterior):
    """Weights with dropped inputs: W = diag(z)·w/(1 − r), z ~ Bernoulli(1 − r) on the input axis.

    A draw is one function: one set of masks for all rows at which it is evaluated.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    params : pytree of arrays
        The parameters without masks.
    rates : pytree of float or None
        A tree like ``params["network"]`` of drop rates r, None where nothing is dropped.
    axes : tuple of int, optional
        For each leaf of that tree the axis of the inputs, counted from the end; None: −2 for all.
    masks : str
        ``"bernoulli"``, or ``"normal"``: W = diag(z)·w with z ~ N(1, r/(1 − r)).
    """

    model: Model
    params: Params
    rates: Any
    axes: tuple[int, ...] | None = static(default=None)
    masks: str = static(default="bernoulli")

    file_keys: ClassVar[tuple[str, ...]] = ("rates", "axes", "masks")

    def draw(self, seed: Seed) -> Params:
        weights, tree = jax.tree.flatten(self.params["network"])
        rates, axes = tree.flatten_up_to(self.rates), self.axes or (-2,) * len(weights)
        shapes = [
            (0,) if rate is None else tuple(size if d == w.ndim + axis else 1 for d, size in enumerate(w.shape))
            for w, rate, axis in zip(weights, rates, axes, strict=True)
        ]
        normal = self.masks == "normal"
        noise = (prng.normals if normal else prng.uniforms)(prng.fast(seed), shapes)
        for k, (w, rate, e) in enumerate(zip(weights, rates, noise, strict=True)):
            if rate is not None:
                r = jnp.asarray(rate, w.dtype)
                weights[k] = w * (1 + jnp.sqrt(r / (1 - r)) * e) if normal else jnp.where(e < 1 - r, w / (1 - r), 0.0)
        return {"network": tree.unflatten(weights), "likelihood": self.params["likelihood"]}

    def file_values(self) -> dict[str, Any]:
        rates = jax.tree.leaves(self.rates, is_leaf=lambda leaf: leaf is None)
        return {"rates": rates, "axes": list(self.axes or (-2,) * len(rates)), "masks": self.masks}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        rates, axes, masks = values["rates"], values["axes"], values["masks"]
        leaves, tree = jax.tree.flatten(params["network"])
        fine = isinstance(rates, list) and isinstance(axes, list) and len(rates) == len(axes) == len(leaves)
        expect(fine and all(rate is None or 0 <= rate < 1 for rate in rates), "invalid dropout rates")
        expect(masks in ("bernoulli", "normal"), f"invalid dropout masks {masks!r}")
        each = zip(axes, rates, leaves, strict=True)
        expect(all(type(a) is int and (r is None or -w.ndim <= a < 0) for a, r, w in each), "invalid dropout axes")
        return FileLayout({"params": params}, {"rates": tree.unflatten(rates), "axes": tuple(axes), "masks": masks})
