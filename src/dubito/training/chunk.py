"""One chunk of steps as one compiled program. Everything that decides (score, best state, patience, divergence) is in it,
on traced numbers of rows, blocks and epochs, so results do not depend on how a run is cut into chunks. A chunk may end
within an epoch, so that the host answers Ctrl-C though an epoch be long."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dubito._jax import programs
from dubito.models.model import Batch

CHUNK = 50  # epochs a compiled call runs at most
RETRIES = 3
MOVED = 4096  # rows at a time


class Clock(NamedTuple):
    """``step`` counts from 0; ``progress`` runs from 0 to 1; ``brake`` halves the step after a divergence."""

    step: Any
    progress: Any
    epoch_end: Any
    brake: Any


class Stopping(NamedTuple):
    """When to stop: after ``patience`` epochs whose score did not improve by ``tol``. 0 means never."""

    patience: Any
    tol: Any


class Carry(NamedTuple):
    state: Any  # the last one whose epoch was finite
    best: Any  # the state with the best validation score; the last one without validation
    epoch: Any
    step: Any
    score: Any
    stale: Any
    brake: Any
    retries: Any
    done: Any
    log: Any  # of this chunk's epochs: likelihood, penalty, score
    running: Any  # the state within the epoch
    number: Any  # the epoch's blocks that it has seen
    info: Any  # the sums of their likelihoods and penalties


class Arrays(NamedTuple):
    """Arrays on the device, padded: x, y and the rows' weights."""

    x: Any
    y: Any
    weight: Any


class Piece(NamedTuple):
    """Rows of one epoch, all or some: its blocks ``first`` to ``end`` of the epoch's ``blocks``, rows of weight 0 left out.

    ``size``: the sum of the weights of all of the epoch's rows.
    """

    rows: Arrays
    first: Any
    end: Any
    blocks: Any
    size: Any


class Plan(NamedTuple):
    """How far a chunk goes: at most ``blocks`` steps, ``CHUNK`` epochs, the fit's ``epochs``, and no farther than its piece.

    ``fresh``: whether it is the first after a start or a resumption, so that the piece's order is not there yet.
    """

    blocks: Any
    epochs: Any
    fresh: Any


@programs.jit(static_argnums=(3, 4))
def begin(model, method, rows, block, mesh, key):
    """A carry around the first state, and room for a piece's rows in an epoch's order."""
    key_init = jax.random.split(key)[0]
    weight = jnp.ones(block, jnp.float32)
    state = method.init(
        model, Batch(rows.x[:block], rows.y[:block], weight, jnp.float32(1), jnp.float32(block)), key_init
    )
    zero, one, info = jnp.int32(0), jnp.float32(1), jnp.zeros(2, jnp.float32)
    log = jnp.full((CHUNK, 3), jnp.nan, jnp.float32)
    carry = Carry(
        state, state, zero, zero, jnp.float32(-jnp.inf), zero, one, zero, jnp.bool_(False), log, state, zero, info
    )
    return laid((carry, jax.tree.map(jnp.zeros_like, rows)), mesh, PartitionSpec())


@programs.jit(static_argnums=(3, 4), donate_argnums=(9, 10))
def chunk(model, method, held, block, mesh, key, stopping, piece, plan, carry, order):
    """Steps from where ``carry`` is to where ``piece``, ``plan``, patience or retries end; ``order`` has the piece's rows.

    A piece that is a whole epoch serves epoch after epoch. ``piece.rows.weight`` is 0 for rows not trained on; ``held`` has
    those of the validation, the used ones first. With a ``mesh`` each block's rows are spread over its devices.
    """
    key_run = jax.random.split(key)[1]
    used = jnp.sum(piece.rows.weight > 0, dtype=jnp.int32)
    first = carry.epoch

    def more(loop):
        carry, _, spent = loop
        within = (carry.epoch < plan.epochs) & (carry.epoch - first < CHUNK)
        here = (piece.first <= carry.number) & (carry.number < piece.end)
        return (spent < plan.blocks) & within & here & ~carry.done

    def part(loop):
        carry, order, spent = loop
        keys = jax.random.split(jax.random.fold_in(key_run, carry.epoch), 3)
        due = (carry.number == piece.first) | (plan.fresh & (spent == 0))
        key_order = choose(piece.first == 0, keys[0], jax.random.fold_in(keys[0], piece.first))
        order = shuffled(piece.rows, key_order, order, due)
        end = jnp.minimum(piece.end, carry.number + plan.blocks - spent)
        body = partial(one_block, model, method, block, mesh, order, used, piece, plan, keys[1], carry)
        running, info = jax.lax.fori_loop(carry.number, end, body, (carry.running, carry.info), unroll=1)
        spent = spent + end - carry.number
        carry = carry._replace(running=running, info=info, number=end)

        def close():
            mean, scored, score = info / piece.blocks.astype(jnp.float32), jnp.bool_(False), jnp.float32(jnp.nan)
            if hasattr(method, "score"):
                scored, score = jnp.any(held.weight > 0), validate(model, method, held, block, running, keys[2])
            return decide(carry, mean, score, scored, stopping, piece.blocks, first)

        carry = jax.lax.cond(end == piece.blocks, close, lambda: carry)
        return carry, order, spent

    carry, order, _ = jax.lax.while_loop(more, part, (carry, order, jnp.int32(0)))
    return laid((carry, order), mesh, PartitionSpec())


@programs.jit(static_argnums=(3, 4))
def begin_all(model, method, rows, block, mesh, key):
    """``begin`` of several members, whose targets, weights and keys have a leading axis."""

    def one(rows, key):
        return begin(model, method, rows, block, mesh, key)

    return jax.vmap(one, (Arrays(None, 0, 0), 0))(rows, key)


@programs.jit(static_argnums=(3, 4), donate_argnums=(9, 10))
def chunk_all(model, method, held, block, mesh, key, stopping, piece, plan, carry, order):
    """``chunk`` of several members: a leading axis in all but the model, the method, the rows and the plan."""

    def one(held, key, piece, carry, order):
        return chunk(model, method, held, block, mesh, key, stopping, piece, plan, carry, order)

    pieces = Piece(Arrays(None, 0, 0), None, 0, 0, 0)
    return jax.vmap(one, (0, 0, pieces, 0, 0))(held, key, piece, carry, order)


def shuffled(rows, key, order, due):
    """If it is ``due``, ``order`` overwritten with the rows in an epoch's order, those of weight 0 last.

    Some at a time, which XLA writes in place: all at once, it would need room for them once more and copy them.
    """
    total = len(rows.weight)
    some = min(MOVED, total)
    index = jax.lax.cond(due, lambda: permutation(key, rows.weight > 0), lambda: jnp.zeros(total, jnp.int32))

    def move(number, order):
        start = jnp.minimum(number * some, total - some)
        chosen = jax.lax.dynamic_slice_in_dim(index, start, some)
        moved = (
            jax.lax.dynamic_update_slice_in_dim(to, a[chosen], start, 0) for to, a in zip(order, rows, strict=True)
        )
        return Arrays(*moved)

    return jax.lax.fori_loop(0, jnp.where(due, -(-total // some), 0), move, order)


def permutation(key, first):
    """The numbers from 0 to n − 1 in random order, those where ``first`` (n,) is true before the others.

    Each number is sorted as the low bits of one word, which XLA does five times faster than it sorts pairs; where the
    bits above it are too few to tell n numbers apart, in several rounds, as a radix sort does.
    """
    n = len(first)
    low = max((n - 1).bit_length(), 1)
    mask = np.uint32(2**low - 1)
    order = jnp.arange(n, dtype=jnp.uint32)
    for key_round in jax.random.split(key, -(-low // (31 - low))):
        high = (jax.random.bits(key_round, (n,), np.uint32) >> np.uint32(1)) & ~mask
        last = np.uint32(2**31)
        word = jnp.where(first[order], high, last) | jnp.arange(n, dtype=jnp.uint32)
        order = order[jnp.sort(word) & mask]
    return order.astype(jnp.int32)


def one_block(model, method, block, mesh, order, used, piece, plan, key, carry, number, state_info):
    """A step on the epoch's block ``number``; a piece's blocks are balanced and contiguous, rows past a block's end weigh 0."""
    state, info = state_info
    count, place = piece.end - piece.first, number - piece.first
    least, more = used // count, used % count
    start = place * least + jnp.minimum(place, more)
    rows = least + (place < more).astype(jnp.int32)
    x, y, weight = (jax.lax.dynamic_slice_in_dim(a, start, block) for a in order)
    weight = jnp.where(jnp.arange(block, dtype=jnp.int32) < rows, weight, 0.0)
    x, y, weight = laid((x, y, weight), mesh, PartitionSpec(mesh and mesh.axis_names))
    batch = Batch(x, y, weight, piece.blocks.astype(jnp.float32), piece.size)
    step = carry.step + number
    progress = step.astype(jnp.float32) / (plan.epochs * piece.blocks).astype(jnp.float32)
    clock = Clock(step, progress, number == piece.blocks - 1, carry.brake)
    state, new = method.step(model, state, batch, clock, jax.random.fold_in(key, number))
    return state, info + jnp.stack([new["likelihood"], new["penalty"]]).astype(jnp.float32)


def laid(tree, mesh, spec):
    """The arrays of a tree laid over a mesh; XLA finds out what its devices must tell one another."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, NamedSharding(mesh, spec)), tree)


def validate(model, method, held, block, state, key):
    """The mean score of the held-out rows, nats per example; only the blocks that hold some are computed."""
    count = jnp.sum(held.weight > 0, dtype=jnp.int32)

    def add(number, sums):
        x, y, weight = (jax.lax.dynamic_slice_in_dim(a, number * block, block) for a in held)
        row = method.score(model, state, Batch(x, y, weight, 1.0, 1.0), jax.random.fold_in(key, number))
        return sums + jnp.stack([jnp.sum(jnp.where(weight > 0, weight * row, 0.0)), jnp.sum(weight)])

    sums = jax.lax.fori_loop(0, -(-count // block), add, jnp.zeros(2, jnp.float32))
    return sums[0] / sums[1]


def decide(carry, info, score, scored, stopping, blocks, first):
    """Accept the epoch, or go back to the last finite state with half the step; keep the best; run out of patience."""
    state = carry.running
    finite = jnp.all(jnp.isfinite(info)) & all_finite(state) & (~scored | ~jnp.isnan(score))
    better = finite & (~scored | (score > carry.score))
    gained = finite & scored & (score > carry.score + stopping.tol)
    stale = jnp.where(gained, 0, carry.stale + finite.astype(jnp.int32))
    retries = carry.retries + (~finite).astype(jnp.int32)
    patient = (stopping.patience == 0) | ~scored | (stale < stopping.patience)
    place = carry.epoch - first
    row = jnp.concatenate([info, score[None]])
    kept = choose(finite, state, carry.state)
    return Carry(
        state=kept,
        best=choose(better, state, carry.best),
        epoch=carry.epoch + finite.astype(jnp.int32),
        step=carry.step + jnp.where(finite, blocks, 0),
        score=jnp.where(better & scored, score, carry.score),
        stale=stale,
        brake=jnp.where(finite, carry.brake, carry.brake * 0.5),
        retries=retries,
        done=~patient | (retries > RETRIES),
        log=carry.log.at[place].set(jnp.where(finite, row, carry.log[place])),
        running=kept,
        number=jnp.int32(0),
        info=jnp.zeros_like(info),
    )


def choose(condition, new, old):
    """A cond, not a select of each leaf, which would be a kernel each to compile."""
    return jax.lax.cond(condition, lambda: new, lambda: old)


def all_finite(tree):
    """Whether every float is finite."""
    floats = [leaf.ravel() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.isfinite(jnp.concatenate(floats)))
