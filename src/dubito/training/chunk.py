"""A chunk of steps as one compiled program.

It makes all decisions (score, best state, patience, divergence) on traced numbers of rows, steps
and epochs, so results do not depend on the division of a run into chunks. A chunk may end within an
epoch, so that the host can react to Ctrl-C during a long epoch.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dubito._jax import programs
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key
from dubito.models.model import Batch
from dubito.training.early_stopping import EpochResult, Stopping, choose, decide
from dubito.training.loop_state import ChunkLimits, DataPiece, DeviceRows, LoopState
from dubito.training.method import Clock

CHUNK_EPOCHS = 50  # at most
MOVED_ROWS = 4096  # at a time, by shuffle_rows


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class Run:
    """What all chunks of a run have in common.

    Attributes
    ----------
    model : Model
    method : LoopMethod
    held : DeviceRows
        The validation rows, with weights of shape (rows, parts); those without weight are last.
    key : Key
    stopping : Stopping
    batch_rows : int
        The number of rows of a batch, including padding.
    mesh : jax.sharding.Mesh, optional
        The devices over which the rows of each batch are distributed.
    """

    model: Any
    method: Any
    held: DeviceRows
    key: Any
    stopping: Stopping
    batch_rows: int = static()
    mesh: Any = static(default=None)


class Epoch(NamedTuple):
    """What the steps that a chunk takes in one epoch have in common.

    Attributes
    ----------
    order : DeviceRows
        The rows of the piece in the order of this epoch; rows of weight 0 are last.
    used : int32 scalar
        The number of rows with positive weight.
    piece : DataPiece
    epochs : int32 scalar
        The number of epochs of the fit.
    key : Key
    step : int32 scalar
        The number of steps of earlier epochs.
    step_factor : float32 scalar
        See ``LoopState``.
    """

    order: DeviceRows
    used: Any
    piece: DataPiece
    epochs: Any
    key: Any
    step: Any
    step_factor: Any


@programs.jit(static_argnums=(3, 4, 5))
def begin(model: Any, method: Any, rows: DeviceRows, batch_rows: int, parts: int, mesh: Any, key: Key) -> Any:
    """The first ``LoopState``.

    If ``method.init`` reads no values of the rows, JAX drops them from the program, and tables of any size share it.
    """
    key_init = jax.random.split(key)[0]
    weight = jnp.ones(batch_rows, jnp.float32)
    state = method.init(
        model,
        Batch(rows.x[:batch_rows], rows.y[:batch_rows], weight, jnp.float32(1), jnp.float32(batch_rows)),
        key_init,
    )
    zero = jnp.int32(0)
    loop_state = LoopState(
        state=state,
        best=(state,) * parts,
        epoch=zero,
        step=zero,
        score=jnp.full(parts, -jnp.inf, jnp.float32),
        best_epoch=jnp.zeros(parts, jnp.int32),
        stale=zero,
        step_factor=jnp.float32(1),
        retries=zero,
        done=jnp.bool_(False),
        log=jnp.full((CHUNK_EPOCHS, 3), jnp.nan, jnp.float32),
        running=state,
        number=zero,
        info=jnp.zeros(2, jnp.float32),
    )
    return with_sharding(loop_state, mesh, PartitionSpec())


@programs.jit(static_argnums=1)
def unordered(rows: DeviceRows, mesh: Any) -> DeviceRows:
    """An uninitialized ``order`` for ``chunk`` or ``chunk_all``: as large as ``rows``, of which several members share the inputs."""
    members = rows.weight.shape[:-1]
    x, y, weight = (jnp.zeros(a.shape, a.dtype) for a in rows)
    return with_sharding(DeviceRows(jnp.broadcast_to(x, (*members, *x.shape)), y, weight), mesh, PartitionSpec())


@programs.jit(donate_argnums=(3, 4))
def chunk(run: Run, piece: DataPiece, limits: ChunkLimits, loop_state: LoopState, order: DeviceRows) -> Any:
    """Run steps from ``loop_state`` until ``piece``, ``limits``, patience or retries end.

    Parameters
    ----------
    run : Run
    piece : DataPiece
        If it contains all rows, it serves all epochs.
    limits : ChunkLimits
    loop_state : LoopState
        Donated: its memory is reused.
    order : DeviceRows
        The rows of the piece in the order of the epoch, or an uninitialized buffer. Donated.

    Returns
    -------
    tuple
        The new ``loop_state`` and ``order``.
    """
    key_run = jax.random.split(run.key)[1]
    used = jnp.sum(piece.rows.weight > 0, dtype=jnp.int32)
    first = loop_state.epoch

    def more(loop: Any) -> Any:
        at, _, spent = loop
        within = (at.epoch < limits.epochs) & (at.epoch - first < CHUNK_EPOCHS)
        here = (piece.first <= at.number) & (at.number < piece.end)
        return (spent < limits.steps) & within & here & ~at.done

    def part_of_epoch(loop: Any) -> Any:
        at, order, spent = loop
        keys = jax.random.split(jax.random.fold_in(key_run, at.epoch), 3)
        due = (at.number == piece.first) | (limits.fresh & (spent == 0))
        key_order = choose(piece.first == 0, keys[0], jax.random.fold_in(keys[0], piece.first))
        order = shuffle_rows(piece.rows, key_order, order, due)
        end = jnp.minimum(piece.end, at.number + limits.steps - spent)
        epoch = Epoch(order, used, piece, limits.epochs, keys[1], at.step, at.step_factor)
        body = partial(one_step, run, epoch)
        running, info = jax.lax.fori_loop(at.number, end, body, (at.running, at.info), unroll=1)
        spent = spent + end - at.number
        at = at._replace(running=running, info=info, number=end)

        def close() -> LoopState:
            mean = info / piece.steps.astype(jnp.float32)
            scored, score, parts = jnp.bool_(False), jnp.float32(jnp.nan), jnp.full_like(at.score, jnp.nan)
            if run.method.score is not None:
                scored, (score, parts) = jnp.any(run.held.weight > 0), validate(run, running, keys[2])
            return decide(at, EpochResult(mean, scored, score, parts), run.stopping, piece.steps, first)

        at = jax.lax.cond(end == piece.steps, close, lambda: at)
        return at, order, spent

    loop_state, order, _ = jax.lax.while_loop(more, part_of_epoch, (loop_state, order, jnp.int32(0)))
    return with_sharding((loop_state, order), run.mesh, PartitionSpec())


@programs.jit(static_argnums=(3, 4, 5))
def begin_all(model: Any, method: Any, rows: DeviceRows, batch_rows: int, parts: int, mesh: Any, key: Key) -> Any:
    """``begin`` for several members: targets, weights and keys have a leading axis."""

    def one(rows: DeviceRows, key: Key) -> Any:
        return begin(model, method, rows, batch_rows, parts, mesh, key)

    return jax.vmap(one, (DeviceRows(None, 0, 0), 0))(rows, key)


@programs.jit(donate_argnums=(3, 4))
def chunk_all(run: Run, piece: DataPiece, limits: ChunkLimits, loop_state: LoopState, order: DeviceRows) -> Any:
    """``chunk`` for several members: all but the model, method, inputs, stopping and limits have a leading axis."""

    def one(held: DeviceRows, key: Key, piece: DataPiece, loop_state: LoopState, order: DeviceRows) -> Any:
        return chunk(replace(run, held=held, key=key), piece, limits, loop_state, order)

    pieces = DataPiece(DeviceRows(None, 0, 0), None, 0, 0, 0)
    return jax.vmap(one, (0, 0, pieces, 0, 0))(run.held, run.key, piece, loop_state, order)


def shuffle_rows(rows: DeviceRows, key: Key, order: DeviceRows, due: Any) -> DeviceRows:
    """If ``due``, overwrite ``order`` with the rows in random order; rows of weight 0 come last.

    It moves some rows at a time, which XLA writes in place; moving many at once would need the
    memory of another copy.
    """
    total, some = len(rows.weight), MOVED_ROWS

    def taken(chosen: Any) -> DeviceRows:
        return DeviceRows(*(a.at[chosen].get(mode="promise_in_bounds") for a in rows))

    if total <= some:
        return jax.lax.cond(due, lambda: taken(random_order(key, rows.weight > 0)), lambda: order)
    index = jax.lax.cond(due, lambda: random_order(key, rows.weight > 0), lambda: jnp.zeros(total, jnp.int32))

    def move(number: Any, order: DeviceRows) -> DeviceRows:
        start = jnp.minimum(number * some, total - some)
        moved = taken(jax.lax.dynamic_slice_in_dim(index, start, some))
        return jax.tree.map(lambda to, a: jax.lax.dynamic_update_slice_in_dim(to, a, start, 0), order, moved)

    return jax.lax.fori_loop(0, jnp.where(due, -(-total // some), 0), move, order)


def random_order(key: Key, first: Bool[Array, "rows"]) -> Int[Array, "rows"]:
    """The numbers from 0 to n − 1 in random order, those with ``first`` before the others.

    Each number is the low bits of one word with random high bits, since XLA sorts words five times
    faster than pairs. If the high bits are too few to distinguish n numbers, there are several
    rounds, as in a radix sort.
    """
    n = len(first)
    low = max((n - 1).bit_length(), 1)
    mask = np.uint32(2**low - 1)
    order: Any = None
    for key_round in jax.random.split(key, -(-low // (31 - low))):
        high = (jax.random.bits(key_round, (n,), np.uint32) >> np.uint32(1)) & ~mask
        last = np.uint32(2**31)
        word = jnp.where(first if order is None else first[order], high, last) | jnp.arange(n, dtype=jnp.uint32)
        place = jnp.sort(word) & mask
        order = place if order is None else order[place]
    return order.astype(jnp.int32)


def one_step(run: Run, epoch: Epoch, number: Any, state_info: tuple[Any, Any]) -> tuple[Any, Any]:
    """Step ``number`` of the epoch: a slice of ``order``, all of (nearly) equal length; rows beyond it get weight 0."""
    state, info = state_info
    piece = epoch.piece
    count, place = piece.end - piece.first, number - piece.first
    least, more = epoch.used // count, epoch.used % count
    start = place * least + jnp.minimum(place, more)
    rows = least + (place < more).astype(jnp.int32)
    x, y, weight = (jax.lax.dynamic_slice_in_dim(a, start, run.batch_rows) for a in epoch.order)
    weight = jnp.where(jnp.arange(run.batch_rows, dtype=jnp.int32) < rows, weight, 0.0)
    x, y, weight = with_sharding((x, y, weight), run.mesh, PartitionSpec(run.mesh and run.mesh.axis_names))
    batch = Batch(x, y, weight, piece.steps.astype(jnp.float32), piece.size)
    step = epoch.step + number
    progress = step.astype(jnp.float32) / (epoch.epochs * piece.steps).astype(jnp.float32)
    clock = Clock(step, progress, number == piece.steps - 1, epoch.step_factor)
    state, new = run.method.step(run.model, state, batch, clock, jax.random.fold_in(epoch.key, number))
    return state, info + jnp.stack([new["likelihood"], new["penalty"]]).astype(jnp.float32)


def with_sharding(tree: Any, mesh: Any, spec: PartitionSpec) -> Any:
    """Distribute the arrays of a tree over a mesh; XLA derives the communication."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, NamedSharding(mesh, spec)), tree)


def validate(run: Run, state: Any, key: Key) -> tuple[Float[Array, ""], Float[Array, " parts"]]:
    """The mean scores of the held-out rows and of their parts, in nats per example; a part without rows
    has that of all. Padding batches are skipped.
    """
    count = jnp.sum(jnp.any(run.held.weight > 0, axis=1), dtype=jnp.int32)

    def add(number: Any, sums: Float[Array, "2 parts"]) -> Float[Array, "2 parts"]:
        x, y, weight = (jax.lax.dynamic_slice_in_dim(a, number * run.batch_rows, run.batch_rows) for a in run.held)
        batch = Batch(x, y, jnp.sum(weight, axis=1), 1.0, 1.0)
        row = run.method.score(run.model, state, batch, jax.random.fold_in(key, number))
        return sums + jnp.stack(
            [jnp.sum(jnp.where(weight > 0, weight * row[:, None], 0.0), axis=0), jnp.sum(weight, axis=0)]
        )

    start = jnp.zeros((2, run.held.weight.shape[1]), jnp.float32)
    sums, weights = jax.lax.fori_loop(0, -(-count // run.batch_rows), add, start)
    score = jnp.sum(sums) / jnp.sum(weights)
    return score, jnp.where(weights > 0, sums / weights, score)
