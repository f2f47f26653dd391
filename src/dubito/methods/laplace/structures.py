"""What of a curvature G is kept beside a Normal prior: Λ = G + S⁻², S the prior's scales, in coordinates where it is diagonal.

Each structure gives the eigenvalues λ of S G S. They are all that the evidence asks for, at any scale of the prior and of the
noise: log det(S Λ S) = Σ log(1 + λ), tr(G Λ⁻¹) = Σ λ/(1 + λ).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import block_diag
from scipy.sparse.linalg import LinearOperator, eigsh

from dubito._jax import jaxpr
from dubito.methods.laplace import curvature
from dubito.posteriors.laplace import KroneckerNormal, LowRankPrecisionNormal
from dubito.posteriors.normals import DiagonalNormal, FullCovarianceNormal

LARGEST = 10_000  # parameters with all their correlations


class LaplaceProblem(NamedTuple):
    """A point and what is known there.

    Attributes
    ----------
    model : Model
    params : pytree
        The point, on the host.
    rows : curvature.Data
    scales : list of array
        S of each leaf of the network, of its shape.
    phi : list of array
        The standard deviation of each leaf of the likelihood's parameters.
    kind : {"ggn", "fisher"}
        Of curvature.
    rank : int
    key : Key
        Of the first vector of Lanczos.
    """

    model: Any
    params: Any
    rows: curvature.Data
    scales: list
    phi: list
    kind: str
    rank: int
    key: Any

    @property
    def width(self) -> int:
        """How many outputs the network has."""
        return self.model.likelihood.width

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """A block of rows to trace the network with."""
        x = self.rows.x
        return jax.ShapeDtypeStruct((curvature.BLOCK_ROWS, *x.shape[1:]), x.dtype)


class EigenCurvature(NamedTuple):
    """A curvature in coordinates where it is diagonal.

    Attributes
    ----------
    values : (P,) array
        λ.
    leaves : tuple of int
        The leaves of the network that are not points.
    build : callable
        ``build(model, factor, ratio)`` gives the normal with the prior's scale ``factor``·S and 1 + ratio·λ for 1 + λ.
    """

    values: np.ndarray
    leaves: tuple
    build: Callable


def dense_curvature(problem: LaplaceProblem) -> EigenCurvature:
    """All of G."""
    values, kept = _eigen(problem, tuple(range(len(problem.scales))))

    def build(model, factor, ratio):
        network = kept / np.sqrt(1 + ratio * values) * factor
        sd = [np.diag(each.ravel()) for each in problem.phi]
        return FullCovarianceNormal(model, _device(problem.params), _device(block_diag(*sd, network)))

    return EigenCurvature(values, tuple(range(len(problem.scales))), build)


def last_layer(problem: LaplaceProblem) -> EigenCurvature:
    """G of the leaves that no later product multiplies."""
    found = jaxpr.uses(problem.model.network.apply, problem.params["network"], problem.like)
    uses = jax.tree.leaves(found, is_leaf=_is_use)
    chosen = tuple(k for k, use in enumerate(uses) if not use.hidden and use.treatment != "unused")
    size = sum(problem.scales[k].size for k in chosen)
    if size > LARGEST:
        raise ValueError(
            f"structure='last-layer' is for up to {LARGEST:,} parameters of that layer, and it has {size:,}: use 'kronecker'"
        )
    values, kept = _eigen(problem, chosen)

    def build(model, factor, ratio):
        one = np.full((1, size), factor) / np.sqrt(1 + ratio * values)
        return _rotated(problem, model, [(chosen, one, None, kept)])

    return EigenCurvature(values, chosen, build)


def diagonal(problem: LaplaceProblem) -> EigenCurvature:
    """The diagonal of G."""
    leaves = tuple(range(len(problem.scales)))
    values = _variances(problem, leaves)

    def build(model, factor, ratio):
        sd = [factor * s / np.sqrt(1 + ratio * v) for s, v in zip(problem.scales, values, strict=True)]
        return DiagonalNormal(model, _device(problem.params), _device(_like(problem, sd, problem.phi)))

    return EigenCurvature(np.concatenate([each.ravel() for each in values]), leaves, build)


def kronecker(problem: LaplaceProblem) -> EigenCurvature:
    """For the weights of each product, with its bias, G ≈ (Σ w a aᵀ / Σ w) ⊗ Σ g gᵀ; the diagonal of other leaves.

    Of the products' inputs a and the derivatives g in their outputs (Martens & Grosse 2015; Botev et al. 2017). The prior is
    exact beside it: scaled by S, whose entries are equal for all outputs of an input, it is the identity.
    """
    apply, network = problem.model.network.apply, problem.params["network"]
    found = curvature.products(jaxpr.trace_program(apply, network, problem.like), network, problem.like)
    found = tuple(p for p in found if all(np.ptp(problem.scales[k]) == 0 for k in p.leaves))
    rest = tuple(sorted(set(range(len(problem.scales))) - {k for p in found for k in p.leaves}))
    each = []  # of every group: its leaves, λ as a matrix, and what turns and scales it on the left and on the right
    if found:
        numbers = problem.width * sum(max(p.shape) for p in found)
        one = partial(curvature.factors, problem.model, problem.params)
        sums = curvature.sum_over_blocks(
            lambda block: one(block, problem.kind, tuple(p.leaves for p in found)), problem.rows, numbers
        )
        for p, (a, g) in zip(found, sums, strict=True):
            s = np.concatenate([np.full(side, problem.scales[k].flat[0]) for k, side in _sides(p)])
            inputs, left = np.linalg.eigh(s[:, None] * a * s[None] / np.sum(problem.rows.weight, dtype=np.float64))
            outputs, right = np.linalg.eigh(g)
            values = np.outer(np.maximum(inputs, 0), np.maximum(outputs, 0))
            left = s[:, None] * left
            each.append((p.leaves, *((values.T, right, left) if p.turned else (values, left, right))))
    others = [(k, v[None]) for k, v in zip(rest, map(np.ravel, _variances(problem, rest)), strict=True)] if rest else []

    def build(model, factor, ratio):
        groups = [(leaves, factor / np.sqrt(1 + ratio * v), left, right) for leaves, v, left, right in each]
        for k, v in others:
            groups.append(((k,), factor * problem.scales[k].reshape(1, -1) / np.sqrt(1 + ratio * v), None, None))
        return _rotated(problem, model, groups)

    values = [v.ravel() for _, v, *_ in each] + [v.ravel() for _, v in others]
    return EigenCurvature(np.concatenate(values), tuple(range(len(problem.scales))), build)


def low_rank(problem: LaplaceProblem) -> EigenCurvature:
    """The largest ``rank`` eigenvalues of S G S with their directions, by Lanczos."""
    s = np.concatenate([each.ravel() for each in problem.scales])
    product = partial(curvature.times, problem.model, problem.params)

    def times(v):
        direction = _network(problem, _cut(problem, s * v.ravel()))
        found = curvature.sum_over_blocks(
            lambda block: product(block, direction, problem.kind), problem.rows, problem.width
        )
        return s * np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])

    start = np.asarray(jax.random.normal(problem.key, s.shape), float)
    operator: Any = LinearOperator((len(s), len(s)), matvec=times, dtype=np.float64)  # type: ignore[call-arg]
    values, directions = eigsh(operator, problem.rank, v0=start)
    values = np.maximum(values, 0)

    def build(model, factor, ratio):
        none = [np.zeros((problem.rank, *sd.shape)) for sd in problem.phi]
        along = _like(problem, _cut(problem, directions.T), none)
        sd = _device(_like(problem, [factor * each for each in problem.scales], problem.phi))
        kept = _device(1 / np.sqrt(1 + ratio * values))
        return LowRankPrecisionNormal(model, _device(problem.params), sd, _device(along), kept)

    return EigenCurvature(values, tuple(range(len(problem.scales))), build)


STRUCTURES = {
    "dense": dense_curvature,
    "kronecker": kronecker,
    "diagonal": diagonal,
    "last-layer": last_layer,
    "low-rank": low_rank,
}


def _rows(problem, chosen):
    """(the number of numbers a row makes, a function of a block: √w Lᵀ J of these leaves, (n·R, P))."""
    size = sum(problem.scales[k].size for k in chosen)
    one = partial(curvature.root_rows, problem.model, problem.params)
    return size * problem.width, lambda block: one(block, problem.kind, chosen)


def _eigen(problem, chosen):
    """Eigenvalues of S G S of the chosen leaves, and S times its eigenvectors."""
    numbers, rows = _rows(problem, chosen)
    s = np.concatenate([problem.scales[k].ravel() for k in chosen])
    total = np.zeros((len(s), len(s)))
    for block in curvature.blocks(problem.rows, numbers):
        found = np.asarray(rows(block), np.float64) * s[None]
        total += found.T @ found
    values, vectors = np.linalg.eigh(total)
    return np.maximum(values, 0), s[:, None] * vectors


def _variances(problem, chosen):
    """S² diag G of the chosen leaves, of their shapes."""
    numbers, rows = _rows(problem, chosen)
    total = curvature.sum_over_blocks(lambda block: jnp.sum(rows(block) ** 2, axis=0), problem.rows, numbers)
    sizes = [problem.scales[k].size for k in chosen]
    parts = np.split(total, np.cumsum(sizes)[:-1])
    return [
        problem.scales[k] ** 2 * part.reshape(problem.scales[k].shape) for k, part in zip(chosen, parts, strict=True)
    ]


def _sides(product):
    """(leaf, how many of the product's inputs are its)."""
    side = product.shape[1 if product.turned else 0]
    return (
        [(product.leaves[0], side)] if len(product.leaves) == 1 else [*zip(product.leaves, (side - 1, 1), strict=True)]
    )


def _rotated(problem, model, groups):
    """The ``KroneckerNormal`` of groups (leaves of the network, scale, left, right), and of the likelihood's parameters."""
    own = [((k,), sd.reshape(1, -1), None, None) for k, sd in enumerate(problem.phi)]
    groups = own + [(tuple(len(own) + k for k in leaves), *turns) for leaves, *turns in groups]
    scale, left, right = ({str(n): g[at] for n, g in enumerate(groups) if g[at] is not None} for at in (1, 2, 3))
    leaves = tuple(group[0] for group in groups)
    return KroneckerNormal(model, _device(problem.params), _device(scale), _device(left), _device(right), leaves)


def _cut(problem, values):
    """Vectors (..., P) as leaves of the network."""
    parts = np.split(values, np.cumsum([s.size for s in problem.scales])[:-1], axis=-1)
    return [part.reshape(*part.shape[:-1], *s.shape) for part, s in zip(parts, problem.scales, strict=True)]


def _network(problem, leaves):
    return jax.tree.unflatten(jax.tree.structure(problem.params["network"]), [np.float32(leaf) for leaf in leaves])


def _like(problem, network, phi):
    """A tree like the params with these leaves."""
    tree = jax.tree.structure(problem.params["likelihood"])
    return {"likelihood": tree.unflatten(phi), "network": _network(problem, network)}


def _device(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _is_use(leaf):
    return isinstance(leaf, jaxpr.Use)
