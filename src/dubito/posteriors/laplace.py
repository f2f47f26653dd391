"""Normals in the coordinates in which a curvature is diagonal, as Laplace approximations have them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.prng import fast, normals
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior, Seed
from dubito.posteriors.file_layout import LARGEST_SIDE, FileLayout, float32_shape, positive, stacked_shapes


@register_dataclass
@dataclass(frozen=True)
class KroneckerNormal(KeyedPosterior):
    """A normal in rotated coordinates: for groups of parameters, each as a matrix Θ, Θ = mean + left (scale ⊙ ε) rightᵀ.

    The covariance of a Kronecker-factored curvature, and of a dense block of parameters.

    Parameters
    ----------
    model
        The model.
    mean
        A tree like the model's parameters.
    scale, left, right
        By the group's number as text: standard deviations (rows, columns), and the rotations (rows, rows) and (columns,
        columns); where a rotation is left out, it is the identity.
    groups
        For each group the numbers of its leaves in ``jax.tree.leaves(mean)``, whose entries one after another are Θ's. Leaves
        in no group are points.
    """

    model: Model
    mean: Any
    scale: Any
    left: Any
    right: Any
    groups: tuple = static()

    file_keys = ("groups",)

    def draw(self, seed: Seed) -> Params:
        leaves, tree = jax.tree.flatten(self.mean)
        names = [str(number) for number in range(len(self.groups))]
        noise = normals(fast(seed), [self.scale[name].shape for name in names])
        for name, group, e in zip(names, self.groups, noise, strict=True):
            offset = self.scale[name] * e
            offset = self.left[name] @ offset if name in self.left else offset
            offset = offset @ self.right[name].T if name in self.right else offset
            ends = np.cumsum([leaves[k].size for k in group])[:-1]
            for k, part in zip(group, jnp.split(offset.ravel(), ends), strict=True):
                leaves[k] = leaves[k] + part.reshape(leaves[k].shape)
        return tree.unflatten(leaves)

    def file_values(self) -> dict[str, Any]:
        """For each group its leaves, the shape of its matrix, and which rotations it has."""
        named = [(str(number), group) for number, group in enumerate(self.groups)]
        groups = [[list(g), *self.scale[name].shape, name in self.left, name in self.right] for name, g in named]
        return {"groups": groups}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts
        groups = values["groups"]
        expect(_are_groups(groups, jax.tree.leaves(params)), "its groups of parameters")
        arrays: dict[str, Any] = {"mean": params, "scale": {}, "left": {}, "right": {}}
        for number, (_, rows, columns, left, right) in enumerate(groups):
            arrays["scale"][str(number)] = float32_shape(rows, columns)
            if left:
                arrays["left"][str(number)] = float32_shape(rows, rows)
            if right:
                arrays["right"][str(number)] = float32_shape(columns, columns)
        return FileLayout(arrays, {"groups": tuple(tuple(group[0]) for group in groups)})


def _are_groups(groups: Any, leaves: list[Any]) -> bool:
    """Whether ``groups`` of a file are possible beside a model whose parameters have these ``leaves``."""
    if not (isinstance(groups, list) and all(isinstance(group, list) and len(group) == 5 for group in groups)):
        return False
    for numbers, rows, columns, *turns in groups:
        if not (isinstance(numbers, list) and all(type(k) is int and 0 <= k < len(leaves) for k in numbers)):
            return False
        if not (type(rows) is type(columns) is int and rows * columns == sum(leaves[k].size for k in numbers)):
            return False
        if [*map(type, turns)] != [bool, bool] or max(turns[0] * rows, turns[1] * columns) > LARGEST_SIDE:
            return False
    chosen = [k for group in groups for k in group[0]]
    return len(set(chosen)) == len(chosen)


@register_dataclass
@dataclass(frozen=True)
class LowRankPrecisionNormal(KeyedPosterior):
    """Independent normals that are narrower along K directions: θ = mean + scale ⊙ (ε − Σ_k (1 − kept_k) q_k q_kᵀε).

    The posterior of a diagonal prior where the data determine these directions only.

    Parameters
    ----------
    model
        The model.
    mean, scale
        Trees like the model's parameters.
    directions
        The orthonormal q: such a tree whose leaves have a leading axis of K.
    kept
        (K,), between 0 and 1: the factor of the standard deviation along q_k.
    """

    model: Model
    mean: Any
    scale: Any
    directions: Any
    kept: Any

    file_keys = ("rank",)

    def draw(self, seed: Seed) -> Params:
        means, tree = jax.tree.flatten(self.mean)
        scales, directions = jax.tree.leaves(self.scale), jax.tree.leaves(self.directions)
        noise = normals(fast(seed), [mean.shape for mean in means])
        along = sum(d.reshape(len(d), -1) @ e.ravel() for d, e in zip(directions, noise, strict=True))
        lost = (1 - self.kept) * along
        parts = zip(means, scales, noise, directions, strict=True)
        return tree.unflatten([m + s * (e - jnp.tensordot(lost, d, 1)) for m, s, e, d in parts])

    def file_values(self) -> dict[str, Any]:
        return {"rank": len(jax.tree.leaves(self.directions)[0])}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts
        rank = positive(values, "rank")
        directions, kept = stacked_shapes(params, rank), float32_shape(rank)
        return FileLayout({"mean": params, "scale": params, "directions": directions, "kept": kept}, {})
