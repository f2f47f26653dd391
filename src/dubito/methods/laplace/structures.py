"""Structures of a curvature G with a Normal prior of scales S: Λ = G + S⁻², in a basis where it is diagonal.

Each structure gives the eigenvalues λ of S G S. They are all that the evidence needs, at any scale
of the prior and of the noise: log det(S Λ S) = Σ log(1 + λ), tr(G Λ⁻¹) = Σ λ/(1 + λ).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import block_diag
from scipy.sparse.linalg import LinearOperator, eigsh

from dubito._jax import jaxpr
from dubito.methods.laplace import curvature
from dubito.methods.laplace.curvature import Leaves
from dubito.methods.types import Key, Model, Params
from dubito.models.partial_network import parameter_uses
from dubito.posteriors.base import Posterior
from dubito.posteriors.laplace import KroneckerNormal, LowRankPrecisionNormal
from dubito.posteriors.normals import DiagonalNormal, FullCovarianceNormal

LARGEST_DENSE = 10_000  # parameters with all their correlations

Group: TypeAlias = tuple[Leaves, np.ndarray, np.ndarray | None, np.ndarray | None]  # leaves, scale or λ, left, right


class LaplaceProblem(NamedTuple):
    """A point, and the data and scales from which the curvature there follows.

    Attributes
    ----------
    model : Model
        The model.
    params : pytree
        The point, on the host.
    rows : curvature.Data
        The rows of the fit.
    scales : list of array
        S of each leaf of the network, of its shape.
    phi : list of array
        The standard deviation of each leaf of the likelihood's parameters.
    kind : {"ggn", "fisher"}
        The curvature.
    rank : int
        The rank of "low-rank".
    key : jax.Array
        A key for the first vector of Lanczos.
    """

    model: Model
    params: Params
    rows: curvature.Data
    scales: list[np.ndarray]
    phi: list[np.ndarray]
    kind: str
    rank: int
    key: Key

    @property
    def leaves(self) -> Leaves:
        """The numbers of all leaves of the network."""
        return tuple(range(len(self.scales)))

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """A block of rows to trace the network with."""
        x = self.rows.x
        return jax.ShapeDtypeStruct((curvature.BLOCK_ROWS, *x.shape[1:]), x.dtype)

    def split(self, values: np.ndarray, chosen: Leaves) -> list[np.ndarray]:
        """Vectors (..., P) of the chosen leaves as arrays of their shapes."""
        scales = [self.scales[k] for k in chosen]
        parts = np.split(values, np.cumsum([s.size for s in scales])[:-1], axis=-1)
        return [part.reshape(*part.shape[:-1], *s.shape) for part, s in zip(parts, scales, strict=True)]

    def network(self, leaves: list[np.ndarray]) -> Params:
        """The network's tree with these leaves."""
        return jax.tree.unflatten(jax.tree.structure(self.params["network"]), [np.float32(leaf) for leaf in leaves])

    def tree(self, network: list[np.ndarray], phi: list[np.ndarray]) -> Params:
        """A tree like the params with these leaves, on the device."""
        likelihood = jax.tree.structure(self.params["likelihood"]).unflatten(phi)
        return on_device({"likelihood": likelihood, "network": self.network(network)})


class EigenCurvature(NamedTuple):
    """A curvature in coordinates where it is diagonal.

    Attributes
    ----------
    values : array of shape (P,)
        λ.
    leaves : tuple of int
        The leaves of the network that are not points.
    build : callable
        ``build(model, factor, ratio)`` gives the normal with the prior's scale ``factor``·S and
        1 + ratio·λ for 1 + λ.
    """

    values: Float[np.ndarray, " P"]
    leaves: Leaves
    build: Callable[[Model, float, float], Posterior]


def dense_curvature(problem: LaplaceProblem) -> EigenCurvature:
    """All of G."""
    values, vectors = _eigen(problem, problem.leaves)

    def build(model: Model, factor: float, ratio: float) -> Posterior:
        network = vectors / np.sqrt(1 + ratio * values) * factor
        sd = [np.diag(each.ravel()) for each in problem.phi]
        return FullCovarianceNormal(model, on_device(problem.params), on_device(block_diag(*sd, network)))

    return EigenCurvature(values, problem.leaves, build)


def last_layer(problem: LaplaceProblem) -> EigenCurvature:
    """G of the leaves that no later product multiplies."""
    uses = jax.tree.leaves(parameter_uses(problem.model.network, problem.params["network"], problem.like))
    chosen = tuple(k for k, use in enumerate(uses) if not use.hidden and use.treatment != "unused")
    if not chosen:
        raise ValueError("structure='last-layer' has none of the parameters that are inferred: use 'kronecker'")
    size = sum(problem.scales[k].size for k in chosen)
    if size > LARGEST_DENSE:
        raise ValueError(
            f"structure='last-layer' is for up to {LARGEST_DENSE:,} parameters of that layer, and it has {size:,}. "
            "Use 'kronecker'."
        )
    values, vectors = _eigen(problem, chosen)

    def build(model: Model, factor: float, ratio: float) -> Posterior:
        scale = np.full((1, size), factor) / np.sqrt(1 + ratio * values)
        return _rotated(problem, model, [(chosen, scale, None, vectors)])

    return EigenCurvature(values, chosen, build)


def diagonal(problem: LaplaceProblem) -> EigenCurvature:
    """The diagonal of G."""
    values = _diagonal_values(problem, problem.leaves)

    def build(model: Model, factor: float, ratio: float) -> Posterior:
        sd = [factor * s / np.sqrt(1 + ratio * v) for s, v in zip(problem.scales, values, strict=True)]
        return DiagonalNormal(model, on_device(problem.params), problem.tree(sd, problem.phi))

    return EigenCurvature(np.concatenate([each.ravel() for each in values]), problem.leaves, build)


def kronecker(problem: LaplaceProblem) -> EigenCurvature:
    """For the weights of each product, with its bias, G ≈ (Σ w a aᵀ / Σ w) ⊗ Σ g gᵀ; the diagonal of other leaves.

    a are the products' inputs and g the derivatives in their outputs (Martens & Grosse 2015; Botev
    et al. 2017). The prior is exact beside it: scaled by S, whose entries are equal for all outputs
    of an input, it is the identity.
    """
    apply, network = problem.model.network.apply, problem.params["network"]
    found = curvature.products(jaxpr.trace_program(apply, network, problem.like), network, problem.like)
    found = tuple(p for p in found if all(np.ptp(problem.scales[k]) == 0 for k in p.leaves))
    rest = tuple(sorted(set(problem.leaves) - {k for p in found for k in p.leaves}))
    groups: list[Group] = []
    if found:
        numbers = problem.model.likelihood.width * sum(max(p.shape) for p in found)
        one = partial(curvature.factors, problem.model, problem.params)
        names = tuple(p.leaves for p in found)
        sums = curvature.sum_over_blocks(lambda block: one(block, problem.kind, names), problem.rows, numbers)
        for p, (a, g) in zip(found, sums, strict=True):
            s = np.concatenate([np.full(side, problem.scales[k].flat[0]) for k, side in _sides(p)])
            inputs, left = np.linalg.eigh(s[:, None] * a * s[None] / np.sum(problem.rows.weight, dtype=np.float64))
            outputs, right = np.linalg.eigh(g)
            values, left = np.outer(np.maximum(inputs, 0), np.maximum(outputs, 0)), s[:, None] * left
            groups.append((p.leaves, values.T, right, left) if p.turned else (p.leaves, values, left, right))
    others = _diagonal_values(problem, rest) if rest else []
    groups += [((k,), v.reshape(1, -1), None, None) for k, v in zip(rest, others, strict=True)]

    def build(model: Model, factor: float, ratio: float) -> Posterior:
        scaled = []
        for leaves, v, left, right in groups:
            scale = factor if left is not None else factor * problem.scales[leaves[0]].reshape(1, -1)
            scaled.append((leaves, scale / np.sqrt(1 + ratio * v), left, right))
        return _rotated(problem, model, scaled)

    return EigenCurvature(np.concatenate([v.ravel() for _, v, *_ in groups]), problem.leaves, build)


def low_rank(problem: LaplaceProblem) -> EigenCurvature:
    """The largest ``rank`` eigenvalues of S G S with their directions, by Lanczos."""
    s = np.concatenate([each.ravel() for each in problem.scales])
    one = partial(curvature.times, problem.model, problem.params)

    def times(v: np.ndarray) -> np.ndarray:
        direction = problem.network(problem.split(s * v.ravel(), problem.leaves))
        width = problem.model.likelihood.width
        found = curvature.sum_over_blocks(lambda block: one(block, direction, problem.kind), problem.rows, width)
        return s * np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])

    start = np.asarray(jax.random.normal(problem.key, s.shape), float)
    operator: Any = LinearOperator((len(s), len(s)), matvec=times, dtype=np.float64)  # type: ignore[call-arg]
    values, directions = eigsh(operator, problem.rank, v0=start)
    values = np.maximum(values, 0)

    def build(model: Model, factor: float, ratio: float) -> Posterior:
        none = [np.zeros((problem.rank, *sd.shape)) for sd in problem.phi]
        along = problem.tree(problem.split(directions.T, problem.leaves), none)
        sd = problem.tree([factor * each for each in problem.scales], problem.phi)
        kept = on_device(1 / np.sqrt(1 + ratio * values))
        return LowRankPrecisionNormal(model, on_device(problem.params), sd, along, kept)

    return EigenCurvature(values, problem.leaves, build)


STRUCTURES: dict[str, Callable[[LaplaceProblem], EigenCurvature]] = {
    "dense": dense_curvature,
    "kronecker": kronecker,
    "diagonal": diagonal,
    "last-layer": last_layer,
    "low-rank": low_rank,
}


def _sum_over_rows(problem: LaplaceProblem, chosen: Leaves, function: Callable[[Any], Any]) -> np.ndarray:
    """Σ function(√w Lᵀ J of the chosen leaves, (n·R, P)) over the blocks, in float64."""
    numbers = problem.model.likelihood.width * sum(problem.scales[k].size for k in chosen)
    one = partial(curvature.root_rows, problem.model, problem.params)
    return curvature.sum_over_blocks(lambda block: function(one(block, problem.kind, chosen)), problem.rows, numbers)


def _eigen(problem: LaplaceProblem, chosen: Leaves) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of S G S of the chosen leaves, and S times its eigenvectors."""
    s = np.concatenate([problem.scales[k].ravel() for k in chosen])

    def square(rows: Any) -> np.ndarray:
        scaled = np.asarray(rows, np.float64) * s[None]
        return scaled.T @ scaled

    values, vectors = np.linalg.eigh(_sum_over_rows(problem, chosen, square))
    return np.maximum(values, 0), s[:, None] * vectors


def _diagonal_values(problem: LaplaceProblem, chosen: Leaves) -> list[np.ndarray]:
    """S² diag G of the chosen leaves, of their shapes."""
    total = _sum_over_rows(problem, chosen, lambda rows: jnp.sum(rows**2, axis=0))
    return [problem.scales[k] ** 2 * part for k, part in zip(chosen, problem.split(total, chosen), strict=True)]


def _sides(product: curvature.Product) -> list[tuple[int, int]]:
    """(leaf, how many of the product's inputs are its)."""
    side = product.shape[1 if product.turned else 0]
    sizes = (side,) if len(product.leaves) == 1 else (side - 1, 1)
    return list(zip(product.leaves, sizes, strict=True))


def _rotated(problem: LaplaceProblem, model: Model, groups: list[Group]) -> KroneckerNormal:
    """The ``KroneckerNormal`` of groups of the network's leaves, and of the likelihood's parameters."""
    own: list[Group] = [((k,), sd.reshape(1, -1), None, None) for k, sd in enumerate(problem.phi)]
    own += [(tuple(len(problem.phi) + k for k in leaves), *turns) for leaves, *turns in groups]  # type: ignore[misc]
    parts = [{str(n): g[at] for n, g in enumerate(own) if g[at] is not None} for at in (1, 2, 3)]
    scale, left, right = map(on_device, parts)
    return KroneckerNormal(model, on_device(problem.params), scale, left, right, tuple(g[0] for g in own))


def on_device(tree: Params) -> Params:
    """A tree of float32 arrays on the device."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
