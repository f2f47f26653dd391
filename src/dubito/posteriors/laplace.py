"""Normals in the coordinates in which a curvature is diagonal, for Laplace approximations."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior, Seed
from dubito.posteriors.file_layout import LARGEST_SIDE, FileLayout, check_positive, float32_shape, stacked_shapes


@register_dataclass
@dataclass(frozen=True)
class KroneckerNormal(KeyedPosterior):
    """A normal in rotated coordinates: Θ = mean + left (scale ⊙ ε) rightᵀ for each group of parameters.

    Θ is the matrix of a group. This is the covariance of a Kronecker-factored curvature, and of a
    dense block of parameters.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    mean : pytree of arrays
        A tree like the model's parameters.
    scale, left, right : dict of arrays
        By the number of the group as a text: the standard deviations (rows, columns), and the
        rotations (rows, rows) and (columns, columns). A rotation that is absent is the identity.
    groups : tuple
        For each group the numbers of its leaves in ``jax.tree.leaves(mean)``, whose entries one
        after another are those of Θ. Leaves in no group are points.
    """

    model: Model
    mean: Params
    scale: dict[str, Array]
    left: dict[str, Array]
    right: dict[str, Array]
    groups: tuple[tuple[int, ...], ...] = static()

    file_keys: ClassVar[tuple[str, ...]] = ("groups",)

    def draw(self, seed: Seed) -> Params:
        leaves, tree = jax.tree.flatten(self.mean)
        names = [str(number) for number in range(len(self.groups))]
        noise = prng.normals(prng.fast(seed), [self.scale[name].shape for name in names])
        for name, group, e in zip(names, self.groups, noise, strict=True):
            offset = self.scale[name] * e
            offset = self.left[name] @ offset if name in self.left else offset
            offset = offset @ self.right[name].T if name in self.right else offset
            ends = np.cumsum([leaves[k].size for k in group])[:-1]
            for k, part in zip(group, jnp.split(offset.ravel(), ends), strict=True):
                leaves[k] = leaves[k] + part.reshape(leaves[k].shape)
        return tree.unflatten(leaves)

    def file_values(self) -> dict[str, Any]:
        # for each group its leaves, the shape of its matrix, and which rotations it has
        named = [(str(number), group) for number, group in enumerate(self.groups)]
        groups = [[list(g), *self.scale[name].shape, name in self.left, name in self.right] for name, g in named]
        return {"groups": groups}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        groups, sizes = values["groups"], [leaf.size for leaf in jax.tree.leaves(params)]
        fine = isinstance(groups, list) and all(_is_group(group, sizes) for group in groups)
        chosen = [k for group in groups for k in group[0]] if fine else []
        expect(fine and len(set(chosen)) == len(chosen), "invalid groups of parameters")
        arrays: dict[str, Any] = {"mean": params, "scale": {}, "left": {}, "right": {}}
        for number, (_, rows, columns, left, right) in enumerate(groups):
            arrays["scale"][str(number)] = float32_shape(rows, columns)
            if left:
                arrays["left"][str(number)] = float32_shape(rows, rows)
            if right:
                arrays["right"][str(number)] = float32_shape(columns, columns)
        return FileLayout(arrays, {"groups": tuple(tuple(group[0]) for group in groups)})


def _is_group(group: Any, sizes: list[int]) -> bool:
    """Whether ``group`` of a file is possible for a model whose parameters have these ``sizes``."""
    if not (isinstance(group, list) and [*map(type, group)] == [list, int, int, bool, bool]):
        return False
    numbers, rows, columns, left, right = group
    inside = all(type(k) is int and 0 <= k < len(sizes) for k in numbers)
    fits = inside and rows * columns == sum(sizes[k] for k in numbers)
    return fits and max(left * rows, right * columns) <= LARGEST_SIDE


@register_dataclass
@dataclass(frozen=True)
class LowRankPrecisionNormal(KeyedPosterior):
    """Independent normals that are narrower along K directions: θ = mean + scale ⊙ (ε − Σ_k (1 − kept_k) q_k q_kᵀε).

    The posterior of a diagonal prior where the data determine only these directions.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    mean, scale : pytree of arrays
        Trees like the model's parameters.
    directions : pytree of arrays
        The orthonormal q: a tree like the model's parameters, with a leading axis of K.
    kept : array
        (K,), between 0 and 1: the factor of the standard deviation along q_k.
    """

    model: Model
    mean: Params
    scale: Params
    directions: Params
    kept: Float[Array, " directions"]

    file_keys: ClassVar[tuple[str, ...]] = ("rank",)

    def draw(self, seed: Seed) -> Params:
        noise = prng.normal_like(prng.fast(seed), self.mean)
        leaves = zip(jax.tree.leaves(self.directions), jax.tree.leaves(noise), strict=True)
        lost = (1 - self.kept) * sum(d.reshape(len(d), -1) @ e.ravel() for d, e in leaves)
        trees = self.mean, self.scale, noise, self.directions
        return jax.tree.map(lambda m, s, e, d: m + s * (e - jnp.tensordot(lost, d, 1)), *trees)

    def file_values(self) -> dict[str, Any]:
        return {"rank": len(jax.tree.leaves(self.directions)[0])}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        rank = check_positive(values, "rank")
        directions, kept = stacked_shapes(params, rank), float32_shape(rank)
        return FileLayout({"mean": params, "scale": params, "directions": directions, "kept": kept}, {})
