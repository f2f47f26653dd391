"""The loss on a plane around a network, and paths of optimizers (Li et al., NeurIPS 2018)."""

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from dubito._check import check_choice
from dubito._jax import prng, programs
from dubito._jax.types import ArrayLike, Key, Params
from dubito._process.threads import check_process, in_threads
from dubito.inspection.recorded_descent import Path, record_descent
from dubito.models.model import Batch, Model
from dubito.training.data import Rows, check_rows, pad_data, padded_size
from dubito.training.fit import fit, float32_leaves
from dubito.training.method import ScheduledMethod
from dubito.training.optimizers import each_length

GRID_POINTS = 51  # of each coordinate
BLOCK_ROWS = 512
BYTES = 2**24  # of intermediate arrays at a time, on each thread: about what a core's cache holds
Pair: TypeAlias = tuple[Any, ...]  # one of each coordinate


class Plane(NamedTuple):
    """A plane of parameters, θ(a, b) = origin + a·directions[0] + b·directions[1].

    Attributes
    ----------
    origin : pytree
        Like the model's parameters.
    directions : tuple of pytree
        Two directions.
    center : tuple of float
        The coordinates (a, b) of the parameters that the plane was made around.
    box : tuple of tuple
        The ranges ((low, high), (low, high)) of a and b that a plot shows.
    labels : tuple of str
        What a and b are.
    """

    origin: Params
    directions: Pair
    center: Pair
    box: Pair
    labels: Pair

    def at(self, a: float, b: float) -> Params:
        """Compute θ(a, b).

        Parameters
        ----------
        a, b : float
            Coordinates.

        Returns
        -------
        pytree
            Like the model's parameters.
        """
        return _at(self[:2], jnp.asarray([a, b], jnp.float32))


class Landscape(NamedTuple):
    """The loss on a plane.

    Attributes
    ----------
    plane : Plane
    first, second : array
        Coordinates (n,) and (m,).
    values : array
        The loss (m, n), in nats per example.
    objective : {"joint", "likelihood"}
        Which loss.
    """

    plane: Plane
    first: Float[np.ndarray, "n"]
    second: Float[np.ndarray, "m"]
    values: Float[np.ndarray, "m n"]
    objective: str


def parameter_plane(params: Params, first: str, second: str, *, reach: float = 1.0) -> Plane:
    """Make the plane of two parameters, with all others fixed; its coordinates are their values.

    Parameters
    ----------
    params : pytree
        Like the model's parameters.
    first, second : str
        Names such as "network.layer_0.w[0, 3]" or "likelihood.log_precision[0]".
    reach : float
        How far a plot extends to each side of the present values.

    Returns
    -------
    Plane
        The plane.

    Raises
    ------
    ValueError
        For unknown names; the message lists the known ones.
    """
    if first == second:
        raise ValueError(f"a plane needs two different parameters, got {first!r} twice")
    leaves, tree = jax.tree.flatten(params)
    places = [_place(params, name) for name in (first, second)]
    center = tuple(float(leaves[leaf][index]) for leaf, index in places)
    origin, directions = [jnp.asarray(leaf) for leaf in leaves], []
    for leaf, index in places:
        zeros = [jnp.zeros_like(leaf) for leaf in leaves]
        zeros[leaf] = zeros[leaf].at[index].set(1)
        directions.append(tree.unflatten(zeros))
        origin[leaf] = origin[leaf].at[index].set(0)
    return Plane(tree.unflatten(origin), tuple(directions), center, _box(center, reach), (first, second))


def _place(params: Params, name: str) -> tuple[int, tuple[int, ...]]:
    """The number of the leaf and the index of a named parameter."""
    leaf, _, index = name.partition("[")
    place = tuple(int(digit) for digit in index.rstrip("]").split(",") if digit.strip().isdecimal())
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): np.shape(value) for path, value in leaves}
    shape = shapes.get(leaf, (0,))
    if len(place) != len(shape) or any(i >= size for i, size in zip(place, shape, strict=True)):
        listed = ", ".join(f"{one} {shape}" for one, shape in shapes.items())
        example = "as network.layer_0.w[0, 0] does for a matrix"
        raise ValueError(
            f"{name!r} does not name one number, {example}. The parameters, with their shapes, are: {listed}"
        )
    return list(shapes).index(leaf), place


def random_plane(params: Params, *, key: Key, reach: float = 1.0) -> Plane:
    """Make the plane of two random, filter-normalized directions.

    Each filter, the weights into one unit or channel (all axes of a leaf but the last), gets a
    normal direction scaled to the filter's norm. So 1 on an axis is a change as large as the
    weights, whatever the scales of the layers. Biases and the likelihood's parameters stay as they
    are.

    Parameters
    ----------
    params : pytree
        Like the model's parameters, at the plane's origin.
    key : Key
        Of the random directions.
    reach : float
        How far a plot extends to each side.

    Returns
    -------
    Plane
        The plane.

    References
    ----------
    Li et al. (2018), section 4.
    """
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, params["network"]))

    def filter_normalized(key: Key, leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        direction = jax.random.normal(key, leaf.shape, jnp.float32)
        norm, own = (jnp.sqrt(jnp.sum(a**2, range(leaf.ndim - 1), keepdims=True)) for a in (leaf, direction))
        return (direction * (norm / own)).astype(leaf.dtype)

    directions = []
    for each in jax.random.split(prng.fast(key)):
        keys = jax.random.split(each, len(leaves))
        network = tree.unflatten([filter_normalized(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])
        directions.append({"network": network, "likelihood": jax.tree.map(jnp.zeros_like, params["likelihood"])})
    labels = "first random direction, in norms of the filters", "second random direction"
    return Plane(params, tuple(directions), (0.0, 0.0), _box((0.0, 0.0), reach), labels)


def path_plane(*paths: Path) -> Plane:
    """Make the plane of the first two principal components of the points of some paths.

    The directions are orthonormal; their labels state the fraction of the points' variance along
    each. The rest is not visible: a path is drawn at its projection.

    Parameters
    ----------
    *paths : Path
        The plane passes through the end of the first.

    Returns
    -------
    Plane
        The plane.

    Raises
    ------
    ValueError
        For points on one line.
    """
    check_process()
    points = np.concatenate([_matrix(path.params) for path in paths])
    _, singular, rows = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    if len(singular) < 2 or not singular[1] > 1e-6 * singular[0]:
        raise ValueError(f"the {len(points)} points of the paths lie on one line and do not define a plane")
    origin = jax.tree.map(lambda leaf: leaf[-1], paths[0].params)
    tree = ravel_pytree(origin)[1]
    directions, labels = [], []
    for name, row, variance in zip(("first", "second"), rows, singular**2 / np.sum(singular**2), strict=False):
        sign = np.sign(row[np.argmax(np.abs(row))])
        directions.append(tree(jnp.asarray(sign * row, jnp.float32)))
        labels.append(f"{name} principal direction ({100 * variance:.0f} % of the variance)")
    plane = Plane(origin, tuple(directions), (0.0, 0.0), (), tuple(labels))
    seen = np.concatenate([project(plane, path.params) for path in paths])
    room = 0.25 * np.ptp(seen, axis=0)
    box = zip((seen.min(axis=0) - room).tolist(), (seen.max(axis=0) + room).tolist(), strict=True)
    return plane._replace(box=tuple(box))


def project(plane: Plane, params: Params) -> Float[np.ndarray, "points 2"]:
    """Project parameters onto a plane.

    Parameters
    ----------
    plane : Plane
    params : pytree
        Parameters with a leading axis of points.

    Returns
    -------
    array
        The coordinates (points, 2) of the nearest points of the plane.
    """
    rows = _matrix(params) - np.asarray(ravel_pytree(plane.origin)[0], float)
    directions = np.stack([np.asarray(ravel_pytree(direction)[0], float) for direction in plane.directions])
    return np.linalg.solve(directions @ directions.T, directions @ rows.T).T


def evaluate(
    model: Model,
    x: Any,
    y: Any,
    plane: Plane,
    *,
    first: ArrayLike | None = None,
    second: ArrayLike | None = None,
    weight: Any = None,
    objective: str = "joint",
) -> Landscape:
    """Compute the loss on a plane, some points at a time, on all cores, in bounded memory.

    Parameters
    ----------
    model : Model
    x, y, weight : array
        Data as ``fit`` takes them.
    plane : Plane
    first, second : array, optional
        Coordinates; by default 51 over the plane's box.
    objective : {"joint", "likelihood"}
        "joint" is −log p(D, θ)/N, which MAP minimizes, "likelihood" −log p(D | θ)/N, where N is the sum
        of the weights.

    Returns
    -------
    Landscape
        The loss in nats per example.
    """
    check_process()
    check_choice("objective", objective, ("joint", "likelihood"))
    rows = check_rows(model, x, y, weight)
    first, second = (
        np.linspace(ends[0], ends[1], GRID_POINTS) if given is None else np.asarray(given, float)
        for given, ends in zip((first, second), plane.box, strict=True)
    )
    grid = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    found = log_densities(float32_leaves(model), rows, plane, grid)
    total = found.sum(axis=1) if objective == "joint" else found[:, 0]
    values = -total.reshape(len(second), len(first)) / float(np.sum(rows.train, dtype=np.float64))
    return Landscape(plane, first, second, values, objective)


def log_densities(
    model: Model, rows: Rows, plane: Plane, grid: Float[np.ndarray, "points 2"]
) -> Float[np.ndarray, "points 2"]:
    """Compute log p(D | θ) and log p(θ) at points of a plane.

    Parameters
    ----------
    model : Model
        With its numbers as float32 arrays.
    rows : Rows
        Checked data.
    plane : Plane
    grid : array
        The coordinates of the points (points, 2).

    Returns
    -------
    array
        Both densities (points, 2), in nats.
    """
    size, one = min(padded_size(len(rows.x)), BLOCK_ROWS), jnp.float32(1)
    total = -(-len(rows.x) // size) * size
    x, y, weight = pad_data(rows.x, rows.y, rows.train, total)
    blocks = [slice(start, start + size) for start in range(0, total, size)]
    batches = [jax.device_put(Batch(x[block], y[block], weight[block], one, one)) for block in blocks]
    count = int(np.clip(BYTES // _bytes_per_point(model, plane, batches[0]), 1, len(grid)))
    chunks = np.array_split(np.pad(grid, ((0, -len(grid) % count), (0, 0)), mode="edge"), -(-len(grid) // count))

    def at_points(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
        at = jnp.asarray(points, jnp.float32)
        parts = [np.asarray(_log_densities(model, plane[:2], batch, at), float) for batch in batches]
        return np.column_stack([sum(part[0] for part in parts), parts[0][1]])

    return np.concatenate(list(in_threads(at_points, chunks)))[: len(grid)]


@programs.jit
def _log_densities(model: Model, span: Pair, batch: Batch, points: Float[jax.Array, "n 2"]) -> Float[jax.Array, "2 n"]:
    """The batch's log likelihood and the log prior at each point of the plane ``span``."""

    def one(point: Float[jax.Array, "2"]) -> Float[jax.Array, "2"]:
        params = _at(span, point)
        return jnp.stack([model.log_likelihood(params, batch), model.log_prior(params)])

    return jax.vmap(one, out_axes=1)(points)


def _bytes_per_point(model: Model, plane: Plane, batch: Batch) -> int:
    """About how much memory the intermediate arrays of one point's density take."""
    point = jax.ShapeDtypeStruct((2,), jnp.float32)
    traced = jax.make_jaxpr(lambda at: model.log_likelihood(_at(plane[:2], at), batch))(point)
    return sum(math.prod(var.aval.shape) * 4 for equation in traced.jaxpr.eqns for var in equation.outvars)


def _at(span: Pair, point: Any) -> Params:
    """The parameters at a point of the plane (origin, directions)."""
    return jax.tree.map(
        lambda o, a, b: (o + point[0] * a + point[1] * b).astype(o.dtype), jax.tree.map(jnp.asarray, span[0]), *span[1]
    )


def descent_path(
    model: Model, x: Any, y: Any, method: ScheduledMethod, *, key: Key, weight: Any = None, points: int = 50
) -> Path:
    """Record the path of a gradient descent.

    The parameters are those that ``fit(model, x, y, method, key=key)`` passes through, to the same
    bits; for a distribution over weights the means. Methods with the same ``key`` start from the
    same point and see the same rows in the same order.

    Parameters
    ----------
    model, x, y, method, key, weight
        As for ``fit``.
    points : int
        Number of points after the start, evenly spaced in steps.

    Returns
    -------
    Path
        The parameters at these points.

    Raises
    ------
    ValueError
        For methods of several members or without an optimizer, and as ``fit`` does.
    """
    if not isinstance(method, ScheduledMethod):
        raise ValueError(f"a path needs a single descent with an optimizer; got {type(method).__name__}")
    rows = check_rows(model, x, y, weight)
    used = int(np.sum(rows.train > 0))
    scheduled = each_length(method, used, model.likelihood.task)[-1]
    per_epoch = 1 if method.batch_size is None else -(-used // method.batch_size)
    steps = np.unique(np.round(np.linspace(0, scheduled.epochs * per_epoch, points + 1)).astype(np.int32))
    return fit(model, rows, None, record_descent(scheduled, steps), key=key)


def _box(center: Pair, reach: float) -> Pair:
    if not reach > 0:
        raise ValueError(f"reach must be positive, got {reach!r}")
    return tuple((at - reach, at + reach) for at in center)


def _matrix(tree: Params) -> Float[np.ndarray, "points numbers"]:
    """The leaves of a tree with a leading axis side by side."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves if leaf.size], axis=1)
