"""The loss around a trained network on a plane of parameters, and the paths of optimizers (Li et al., NeurIPS 2018)."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from dubito._jax import prng, programs
from dubito._jax.types import ArrayLike, Key, Params
from dubito._process.threads import check_process, in_threads
from dubito.inspection import network_view
from dubito.models.model import Batch
from dubito.training import chunk, optimizers
from dubito.training.chunk import RETRIES, Stopping
from dubito.training.data import check_rows, pad_rows, padded_fraction, padded_size
from dubito.training.fit import divergence_error, float32_leaves
from dubito.training.members import Trained
from dubito.training.method import ScheduledMethod
from dubito.training.stream import memory_pieces

POINTS = 51  # of each coordinate
BLOCK_ROWS = 512  # rows at a time
BYTES = 2**24  # of intermediate arrays at a time, on each thread: about what a core's cache holds


class Plane(NamedTuple):
    """θ(a, b) = origin + a·directions[0] + b·directions[1].

    Parameters
    ----------
    origin, directions : trees like the model's parameters.
    center : (a, b) of the parameters that the plane was made around.
    box : the ranges ((low, high), (low, high)) of a and b that a picture shows.
    labels : what a and b are.
    """

    origin: Any
    directions: tuple
    center: tuple
    box: tuple
    labels: tuple

    def at(self, a: float, b: float) -> Params:
        """θ(a, b), a tree like the model's parameters.

        Parameters
        ----------
        a, b : coordinates.
        """
        return _at(self.origin, self.directions, jnp.asarray([a, b], jnp.float32))


class Landscape(NamedTuple):
    """The loss on a plane.

    Parameters
    ----------
    plane : the plane.
    first, second : coordinates (n,) and (m,).
    values : (m, n), in nats per example.
    objective : "joint" or "likelihood".
    """

    plane: Plane
    first: Float[np.ndarray, "n"]
    second: Float[np.ndarray, "m"]
    values: Float[np.ndarray, "m n"]
    objective: str


class Path(NamedTuple):
    """The path of an optimizer.

    Parameters
    ----------
    steps : (T,), numbers of steps.
    params : the parameters after each, a tree with a leading axis.
    """

    steps: np.ndarray
    params: Any


def parameter_plane(params: Params, first: str, second: str, *, reach: float = 1.0) -> Plane:
    """The plane of two parameters, with all others fixed; its coordinates are the values of the two.

    Parameters
    ----------
    params : tree like the model's parameters.
    first, second : names such as "network.layer_0.w[0, 3]" or "likelihood.log_precision[0]".
    reach : how far a picture extends to each side of the present values.

    Raises
    ------
    ValueError
        For unknown names; the message lists the known ones.
    """
    if first == second:
        raise ValueError(f"a plane needs two different parameters, got {first!r} twice")
    leaves, tree = jax.tree.flatten(params)
    (one, at), (other, there) = (_place(params, name) for name in (first, second))
    center = float(leaves[one][at]), float(leaves[other][there])
    directions = []
    for number, index in ((one, at), (other, there)):
        zeros = [jnp.zeros_like(leaf) for leaf in leaves]
        zeros[number] = zeros[number].at[index].set(1)
        directions.append(tree.unflatten(zeros))
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    leaves[one] = leaves[one].at[at].set(0)
    leaves[other] = leaves[other].at[there].set(0)
    return Plane(tree.unflatten(leaves), tuple(directions), center, _box(center, reach), (first, second))


def _place(params, name):
    """(number of the leaf, index) of a named parameter."""
    leaf, _, index = name.partition("[")
    known = {
        jax.tree_util.keystr(path, simple=True, separator="."): (number, np.shape(value))
        for number, (path, value) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0])
    }
    listed = ", ".join(f"{one} {shape}" for one, (_, shape) in known.items())
    if leaf not in known:
        raise ValueError(f"there is no parameter {leaf!r}. There are, with their shapes: {listed}")
    number, shape = known[leaf]
    try:
        place = tuple(int(digit) for digit in index.rstrip("]").split(",") if digit.strip())
    except ValueError:
        place = ()
    if len(place) != len(shape) or not all(0 <= i < size for i, size in zip(place, shape, strict=True)):
        raise ValueError(
            f"{leaf} has the shape {shape}: name one of its numbers, {leaf}[{', '.join('0' * len(shape))}]"
        )
    return number, place


def random_plane(params: Params, *, key: Key, reach: float = 1.0) -> Plane:
    """The plane of two random, filter-normalized directions.

    Each filter, the weights into one unit or channel (all axes of a leaf but the last), gets a normal direction scaled to
    the filter's norm, so that 1 on an axis is a change as large as the weights, whatever the scales of the layers. Biases
    and the likelihood's parameters stay as they are.

    Parameters
    ----------
    params : tree like the model's parameters, at the plane's origin.
    key : of the random directions.
    reach : how far a picture extends to each side.

    References
    ----------
    Li et al. (2018), section 4.
    """
    leaves, tree = jax.tree.flatten(params["network"])

    def direction(key):
        drawn = [
            _like_filters(jax.random.normal(k, jnp.shape(leaf), jnp.float32), jnp.asarray(leaf))
            for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        ]
        return {"network": tree.unflatten(drawn), "likelihood": jax.tree.map(jnp.zeros_like, params["likelihood"])}

    directions = tuple(direction(k) for k in jax.random.split(prng.fast(key)))
    labels = "first random direction, in norms of the filters", "second random direction"
    return Plane(params, directions, (0.0, 0.0), _box((0.0, 0.0), reach), labels)


def _like_filters(direction, leaf):
    """``direction`` with each filter of ``leaf``'s norm; 0 for biases."""
    if leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    axes = tuple(range(leaf.ndim - 1))
    norm, own = (jnp.sqrt(jnp.sum(a**2, axes, keepdims=True)) for a in (leaf, direction))
    return (direction * (norm / own)).astype(leaf.dtype)


def path_plane(*paths: Path) -> Plane:
    """The plane of the first two principal components of the points of some paths.

    The directions are orthonormal; their labels name the share of the points' variance along each. The rest is not in the
    picture: a path is drawn at its projection.

    Parameters
    ----------
    *paths : the plane passes through the end of the first.

    Raises
    ------
    ValueError
        For points on one line.
    """
    check_process()
    points = np.concatenate([_matrix(path.params) for path in paths])
    centered = points - points.mean(axis=0)
    _, singular, rows = np.linalg.svd(centered, full_matrices=False)
    if len(singular) < 2 or not singular[1] > 1e-6 * singular[0]:
        raise ValueError(f"the {len(points)} points of the paths lie on one line: no plane is theirs")
    shares = singular[:2] ** 2 / np.sum(singular**2)
    origin = jax.tree.map(lambda leaf: leaf[-1], paths[0].params)
    signs = [np.sign(row[np.argmax(np.abs(row))]) for row in rows[:2]]
    tree = ravel_pytree(origin)[1]
    directions = tuple(tree(jnp.asarray(s * row, jnp.float32)) for s, row in zip(signs, rows[:2], strict=True))
    labels = tuple(
        f"{name} principal direction ({100 * share:.0f} % of the variance)"
        for name, share in zip(("first", "second"), shares, strict=True)
    )
    plane = Plane(origin, directions, (0.0, 0.0), (), labels)
    seen = np.concatenate([project(plane, path.params) for path in paths])
    low, high = seen.min(axis=0), seen.max(axis=0)
    room = 0.25 * (high - low)
    box = tuple((float(a - r), float(b + r)) for a, b, r in zip(low, high, room, strict=True))
    return plane._replace(box=box)


def project(plane: Plane, params: Params) -> Float[np.ndarray, "points 2"]:
    """Project parameters onto a plane.

    Parameters
    ----------
    plane : the plane.
    params : a tree with a leading axis of points.

    Returns
    -------
    (points, 2), the coordinates of the nearest points of the plane.
    """
    rows = _matrix(params) - np.asarray(ravel_pytree(plane.origin)[0], float)
    directions = np.stack([np.asarray(ravel_pytree(direction)[0], float) for direction in plane.directions])
    return np.linalg.solve(directions @ directions.T, directions @ rows.T).T


def evaluate(
    model: Any,
    x: ArrayLike,
    y: ArrayLike,
    plane: Plane,
    *,
    first: ArrayLike | None = None,
    second: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    objective: str = "joint",
) -> Landscape:
    """The loss on a plane. Points are evaluated some at a time, on all cores, in bounded memory.

    Parameters
    ----------
    model : the model.
    x, y, weight : data as ``fit`` takes them.
    plane : the plane.
    first, second : coordinates; None is 51 over the plane's box.
    objective : "joint", −log p(D, θ)/N, which MAP minimizes, or "likelihood", −log p(D | θ)/N, where N is the sum of the
        weights.
    """
    check_process()
    if objective not in ("joint", "likelihood"):
        raise ValueError(f"objective is 'joint' or 'likelihood', got {objective!r}")
    rows = check_rows(model, x, y, weight)
    first, second = (
        np.linspace(ends[0], ends[1], POINTS) if given is None else np.asarray(given, float)
        for given, ends in zip((first, second), plane.box, strict=True)
    )
    grid = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2)
    found = log_densities(float32_leaves(model), rows, plane, grid)
    total = found.sum(axis=1) if objective == "joint" else found[:, 0]
    values = -total.reshape(len(second), len(first)) / float(np.sum(rows.train, dtype=np.float64))
    return Landscape(plane, first, second, values, objective)


def log_densities(
    model: Any, rows: Any, plane: Plane, grid: Float[np.ndarray, "points 2"]
) -> Float[np.ndarray, "points 2"]:
    """log p(D | θ) and log p(θ), in nats, at points of a plane.

    Parameters
    ----------
    model : the model, its numbers as float32 arrays.
    rows : checked data.
    plane, grid : the plane, and the coordinates of the points.
    """
    size = min(padded_size(len(rows.x)), BLOCK_ROWS)
    total = -(-len(rows.x) // size) * size
    x, y, weight = (pad_rows(array, total) for array in (rows.x, rows.y, rows.train))
    cuts = range(0, total, size)
    one = jnp.float32(1)
    batches = [
        jax.device_put(Batch(x[cut : cut + size], y[cut : cut + size], weight[cut : cut + size], one, one))
        for cut in cuts
    ]
    count = int(np.clip(BYTES // _bytes(model, plane, batches[0]), 1, len(grid)))
    chunks = np.array_split(np.pad(grid, ((0, -len(grid) % count), (0, 0)), mode="edge"), -(-len(grid) // count))

    def at_points(points):
        points = jnp.asarray(points, jnp.float32)
        parts = [np.asarray(_log_densities(model, plane[:2], batch, points), float) for batch in batches]
        return np.column_stack([sum(part[0] for part in parts), parts[0][1]])

    return np.concatenate(list(in_threads(at_points, chunks)))[: len(grid)]


@programs.jit
def _log_densities(model, span, batch, points):
    """(2, n): the batch's log likelihood and the log prior at each point of the plane ``span``."""

    def one(point):
        origin, directions = span
        params = _at(origin, directions, point)
        return jnp.stack([model.log_likelihood(params, batch), model.log_prior(params)])

    return jax.vmap(one, out_axes=1)(points)


def _bytes(model, plane, batch):
    """About how much the arrays take that one point's density is computed through."""
    point = jax.ShapeDtypeStruct((2,), jnp.float32)
    traced = jax.make_jaxpr(lambda at: model.log_likelihood(_at(plane.origin, plane.directions, at), batch))(point)
    return sum(math.prod(var.aval.shape) * 4 for equation in traced.jaxpr.eqns for var in equation.outvars)


def _at(origin, directions, point):
    return jax.tree.map(
        lambda o, a, b: (o + point[0] * a + point[1] * b).astype(o.dtype),
        jax.tree.map(jnp.asarray, origin),
        *directions,
    )


def descent_path(
    model: Any, x: ArrayLike, y: ArrayLike, method: Any, *, key: Key, weight: ArrayLike | None = None, points: int = 50
) -> Path:
    """The path of a gradient descent.

    The parameters are those that ``fit(model, x, y, method, key=key)`` passes through, to the same bits; of a distribution
    over weights the means. Methods with the same ``key`` start from the same point and see the same rows in the same order.

    Parameters
    ----------
    model, x, y, method, key, weight : as for ``fit``.
    points : number of points after the start, evenly spaced in steps.

    Raises
    ------
    ValueError
        For methods of several members or without an optimizer, and as ``fit`` does.
    """
    if not isinstance(method, ScheduledMethod):
        raise ValueError(f"a path is one descent's, with an optimizer; got {type(method).__name__}")
    rows = check_rows(model, x, y, weight)
    method.check(model)
    _, key_members, key_finish = jax.random.split(prng.fast(key), 3)
    (member,) = method.members(rows, key_members)
    model, method = float32_leaves(model), float32_leaves(optimizers.with_epochs(method, int(np.sum(member.train > 0))))
    most = padded_size(len(rows.x))
    block = most if method.batch_size is None else min(method.batch_size, most)
    piece = next(memory_pieces(rows, block, jax.device_put)(member))
    held = chunk.DeviceRows(
        *(np.zeros((padded_fraction(most, 0) + block, *a.shape[1:]), a.dtype) for a in (*rows[:2], member.valid))
    )
    loop_state, order = chunk.begin(model, method, piece.rows, block, None, member.key)
    stopping = Stopping(np.int32(0), np.float32(0))
    run = chunk.Run(model=model, method=method, held=held, key=member.key, stopping=stopping, batch_rows=block)
    blocks, total = int(piece.steps), int(method.epochs)
    steps = np.unique(np.round(np.linspace(0, total * blocks, points + 1)).astype(int))
    states, fresh = [], True
    for step in steps:
        while (left := step - int(loop_state.epoch) * blocks - int(loop_state.number)) > 0:
            limits = chunk.ChunkLimits(np.int32(left), np.int32(total), np.bool_(fresh))
            loop_state, order = chunk.chunk(run, piece, limits, loop_state, order)
            fresh = False
            if int(loop_state.retries) > RETRIES:
                raise divergence_error(model, method, rows, loop_state)
        states.append(jax.tree.map(np.array, loop_state.running))  # copies: its memory is reused
    trained = partial(Trained, (member,), numbers=(0,), count=1, rows=rows)
    posteriors = [method.finish(model, trained(states=(state,)), key_finish, None) for state in states]
    ends = [network_view.point_params(posterior) for posterior in posteriors]
    return Path(steps, jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *ends))


def _box(center, reach):
    if not reach > 0:
        raise ValueError(f"reach must be positive, got {reach!r}")
    return tuple((at - reach, at + reach) for at in center)


def _matrix(tree):
    """The leaves of a tree with a leading axis side by side, (T, P)."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves if leaf.size], axis=1)
