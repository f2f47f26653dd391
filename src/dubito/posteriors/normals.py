"""Normal posteriors: independent parameters, correlations of low rank, and all correlations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior, Seed
from dubito.posteriors.file_layout import LARGEST_SIDE, FileLayout, check_positive, float32_shape, stacked_shapes


@register_dataclass
@dataclass(frozen=True)
class DiagonalNormal(KeyedPosterior):
    """Independent normals: θ = mean + scale·ε.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    mean, scale : pytree of arrays
        Mean and standard deviation of every parameter: trees like the model's parameters.
    """

    model: Model
    mean: Params
    scale: Params

    def draw(self, seed: Seed) -> Params:
        noise = prng.normal_like(prng.fast(seed), self.mean)
        return jax.tree.map(lambda m, s, e: m + s * e, self.mean, self.scale, noise)

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        return FileLayout({"mean": params, "scale": params}, {})


@register_dataclass
@dataclass(frozen=True)
class LowRankNormal(KeyedPosterior):
    """A normal with correlations of low rank: θ = mean + scale·ε + Σ_k η_k directions_k.

    ε and η are standard normals.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    mean, scale : pytree of arrays
        Trees like the model's parameters.
    directions : pytree of arrays
        A tree like the model's parameters, with a leading axis of the rank K.
    """

    model: Model
    mean: Params
    scale: Params
    directions: Params

    file_keys: ClassVar[tuple[str, ...]] = ("rank",)

    def draw(self, seed: Seed) -> Params:
        rank = len(jax.tree.leaves(self.directions)[0])
        noise, eta = prng.normal_like(prng.fast(seed), (self.mean, float32_shape(rank)))
        trees = self.mean, self.scale, noise, self.directions
        return jax.tree.map(lambda m, s, e, d: m + s * e + jnp.tensordot(eta, d, 1), *trees)

    def file_values(self) -> dict[str, Any]:
        return {"rank": len(jax.tree.leaves(self.directions)[0])}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        directions = stacked_shapes(params, check_positive(values, "rank"))
        return FileLayout({"mean": params, "scale": params, "directions": directions}, {})


@register_dataclass
@dataclass(frozen=True)
class FullCovarianceNormal(KeyedPosterior):
    """A normal with all correlations: θ = mean + factor ε.

    θ is one vector of P parameters, the leaves of the tree in their order.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    mean : pytree of arrays
        A tree like the model's parameters.
    factor : array
        F (P, P), with the covariance F Fᵀ.
    """

    model: Model
    mean: Params
    factor: Float[Array, "params params"]

    def draw(self, seed: Seed) -> Params:
        mean, tree = ravel_pytree(self.mean)
        (noise,) = prng.normals(prng.fast(seed), [mean.shape])
        return tree(mean + self.factor @ noise)

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        total = sum(leaf.size for leaf in jax.tree.leaves(params))
        expect(total <= LARGEST_SIDE, f"correlations of {total} parameters, at most {LARGEST_SIDE} are possible")
        return FileLayout({"mean": params, "factor": float32_shape(total, total)}, {})
