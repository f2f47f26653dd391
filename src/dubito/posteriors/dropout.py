"""The posterior of dropout: weights whose inputs are dropped at random."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dubito._jax.prng import fast, normals, uniforms
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior, Seed
from dubito.posteriors.file_layout import FileLayout


@register_dataclass
@dataclass(frozen=True)
class DropoutPosterior(KeyedPosterior):
    """Weights with dropped inputs: W = diag(z)·w/(1 − r), z ~ Bernoulli(1 − r) on each weight's input axis.

    A draw is one function: one set of masks for whatever rows it is evaluated at.

    Parameters
    ----------
    model
        The model.
    params
        Its parameters without masks.
    rates
        A tree like ``params["network"]`` of drop rates r, None where nothing is dropped.
    axes
        For each leaf of that tree the axis of the inputs, counted from the end; None: −2 for all.
    masks
        "bernoulli", or "normal": W = diag(z)·w with z ~ N(1, r/(1 − r)).
    """

    model: Model
    params: Any
    rates: Any
    axes: tuple | None = static(default=None)
    masks: str = static(default="bernoulli")

    file_keys = ("rates", "axes", "masks")

    def draw(self, seed: Seed) -> Params:
        weights, tree = jax.tree.flatten(self.params["network"])
        rates = tree.flatten_up_to(self.rates)
        shapes = [
            (0,) if rate is None else tuple(size if d == w.ndim + axis else 1 for d, size in enumerate(w.shape))
            for w, rate, axis in zip(weights, rates, self.axes or (-2,) * len(rates), strict=True)
        ]
        noise = (normals if self.masks == "normal" else uniforms)(fast(seed), shapes)
        drawn = []
        for w, rate, e in zip(weights, rates, noise, strict=True):
            r = 0 if rate is None else jnp.asarray(rate, w.dtype)
            if rate is not None and self.masks == "normal":
                w = w * (1 + jnp.sqrt(r / (1 - r)) * e)
            elif rate is not None:
                w = jnp.where(e < 1 - r, w / (1 - r), 0.0)
            drawn.append(w)
        return {"network": tree.unflatten(drawn), "likelihood": self.params["likelihood"]}

    def file_values(self) -> dict[str, Any]:
        rates = jax.tree.leaves(self.rates, is_leaf=lambda leaf: leaf is None)
        axes = [-2] * len(rates) if self.axes is None else list(self.axes)
        return {"rates": rates, "axes": axes, "masks": self.masks}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts
        rates, axes, leaves = values["rates"], values["axes"], jax.tree.leaves(params["network"])
        fine = isinstance(rates, list) and isinstance(axes, list) and len(rates) == len(axes) == len(leaves)
        expect(fine and all(rate is None or 0 <= rate < 1 for rate in rates), "its dropout rates")
        expect(values["masks"] in ("bernoulli", "normal"), f"the masks {values['masks']!r}")
        each = zip(axes, rates, leaves, strict=True)
        expect(all(type(a) is int and (r is None or -w.ndim <= a < 0) for a, r, w in each), "its dropout axes")
        tree = jax.tree.unflatten(jax.tree.structure(params["network"]), rates)
        return FileLayout({"params": params}, {"rates": tree, "axes": tuple(axes), "masks": values["masks"]})
