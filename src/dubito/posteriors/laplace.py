"""Normals in coordinates of their own, in which a curvature is diagonal: posteriors, as those of ``posterior``."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.prng import fast, normals
from dubito._jax.pytree import register_dataclass, static
from dubito.models.model import Model
from dubito.posteriors.base import Normals, sample


@register_dataclass
@dataclass(frozen=True)
class Rotated:
    """For groups of leaves, each as one matrix Θ with their entries one after another: Θ = mean + left (scale ⊙ ε) rightᵀ.

    ``mean``: a tree like the model's params; ``groups``: numbers of leaves in ``jax.tree.leaves(mean)``, those in none are
    points. By the group's number as text: ``scale`` (rows, columns), ``left`` (rows, rows) and ``right`` (columns, columns);
    where one is left out, it is the identity. The covariance of a Kronecker-factored curvature, and of a dense block.
    """

    model: Model
    mean: Any
    scale: Any
    left: Any
    right: Any
    groups: tuple = static()

    sample = sample
    sources = Normals.sources

    def draw(self, seed):
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


@register_dataclass
@dataclass(frozen=True)
class Contracted:
    """Independent normals, narrower along K directions: θ = mean + scale ⊙ (ε − Σ_k (1 − kept_k) q_k q_kᵀε).

    ``mean`` and ``scale`` are trees like the model's params; ``directions``, orthonormal q, is one whose leaves have a leading
    axis of K; ``kept`` (K,), between 0 and 1, is how much of the standard deviation along q_k is left. A prior whose data say
    something about these directions alone.
    """

    model: Model
    mean: Any
    scale: Any
    directions: Any
    kept: Any

    sample = sample
    sources = Normals.sources

    def draw(self, seed):
        means, tree = jax.tree.flatten(self.mean)
        scales, directions = jax.tree.leaves(self.scale), jax.tree.leaves(self.directions)
        noise = normals(fast(seed), [mean.shape for mean in means])
        along = sum(d.reshape(len(d), -1) @ e.ravel() for d, e in zip(directions, noise, strict=True))
        lost = (1 - self.kept) * along
        parts = zip(means, scales, noise, directions, strict=True)
        return tree.unflatten([m + s * (e - jnp.tensordot(lost, d, 1)) for m, s, e, d in parts])


def described(posterior):
    """What of a ``Rotated`` is no array: for each group its leaves, the shape of its matrix, and which rotations it has."""
    return [
        [list(group), *posterior.scale[name].shape, name in posterior.left, name in posterior.right]
        for name, group in ((str(number), group) for number, group in enumerate(posterior.groups))
    ]


def fits(groups, leaves, largest):
    """Whether ``described`` groups are possible beside a model whose parameters have these ``leaves``."""
    if not (isinstance(groups, list) and all(isinstance(group, list) and len(group) == 5 for group in groups)):
        return False
    for numbers, rows, columns, *turns in groups:
        if not (isinstance(numbers, list) and all(type(k) is int and 0 <= k < len(leaves) for k in numbers)):
            return False
        if not (type(rows) is type(columns) is int and rows * columns == sum(leaves[k].size for k in numbers)):
            return False
        if [*map(type, turns)] != [bool, bool] or max(turns[0] * rows, turns[1] * columns) > largest:
            return False
    chosen = [k for group in groups for k in group[0]]
    return len(set(chosen)) == len(chosen)


def arrays(field, groups):
    """The shapes of ``scale``, ``left`` or ``right`` of ``described`` groups, by name."""
    found = {}
    for number, (_, rows, columns, left, right) in enumerate(groups):
        there, *shape = {
            "scale": (True, rows, columns),
            "left": (left, rows, rows),
            "right": (right, columns, columns),
        }[field]
        if there:
            found[str(number)] = jax.ShapeDtypeStruct(tuple(shape), np.float32)
    return found
