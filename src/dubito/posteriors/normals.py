"""Normal posteriors: independent parameters, correlations of low rank, and all correlations."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from dubito._jax.prng import fast, normals
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior, Seed
from dubito.posteriors.file_layout import LARGEST_SIDE, FileLayout, float32_shape, positive, stacked_shapes


@register_dataclass
@dataclass(frozen=True)
class DiagonalNormal(KeyedPosterior):
    """Independent normals.

    Parameters
    ----------
    model
        The model.
    mean, scale
        Mean and standard deviation of every parameter: trees like the model's parameters.
    """

    model: Model
    mean: Any
    scale: Any

    def draw(self, seed: Seed) -> Params:
        means, tree = jax.tree.flatten(self.mean)
        noise = normals(fast(seed), [mean.shape for mean in means])
        scales = jax.tree.leaves(self.scale)
        return tree.unflatten([m + s * e for m, s, e in zip(means, scales, noise, strict=True)])

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts, values
        return FileLayout({"mean": params, "scale": params}, {})


@register_dataclass
@dataclass(frozen=True)
class LowRankNormal(KeyedPosterior):
    """A normal with correlations of low rank: θ = mean + scale·ε + Σ_k η_k directions_k, ε and η standard normals.

    Parameters
    ----------
    model
        The model.
    mean, scale
        Trees like the model's parameters.
    directions
        Such a tree whose leaves have a leading axis of rank K.
    """

    model: Model
    mean: Any
    scale: Any
    directions: Any

    file_keys = ("rank",)

    def draw(self, seed: Seed) -> Params:
        means, tree = jax.tree.flatten(self.mean)
        scales, directions = jax.tree.leaves(self.scale), jax.tree.leaves(self.directions)
        *noise, eta = normals(fast(seed), [*(mean.shape for mean in means), (len(directions[0]),)])
        parts = zip(means, scales, noise, directions, strict=True)
        return tree.unflatten([m + s * e + jnp.tensordot(eta, d, 1) for m, s, e, d in parts])

    def file_values(self) -> dict[str, Any]:
        return {"rank": len(jax.tree.leaves(self.directions)[0])}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts
        directions = stacked_shapes(params, positive(values, "rank"))
        return FileLayout({"mean": params, "scale": params, "directions": directions}, {})


@register_dataclass
@dataclass(frozen=True)
class FullCovarianceNormal(KeyedPosterior):
    """A normal with all correlations: θ = mean + factor ε, as one vector of P parameters, the tree's leaves in their order.

    Parameters
    ----------
    model
        The model.
    mean
        A tree like the model's parameters.
    factor
        A matrix F (P, P) with F Fᵀ the covariance.
    """

    model: Model
    mean: Any
    factor: Any

    def draw(self, seed: Seed) -> Params:
        mean, tree = ravel_pytree(self.mean)
        (noise,) = normals(fast(seed), [mean.shape])
        return tree(mean + self.factor @ noise)

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts, values
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        expect(total <= LARGEST_SIDE, f"correlations of {total} parameters")
        return FileLayout({"mean": params, "factor": float32_shape(total, total)}, {})
