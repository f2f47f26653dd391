"""One chunk of epochs as one compiled program. Everything that decides (score, best state, patience, divergence) is in it,
on traced numbers of rows, blocks and epochs, so results do not depend on how a run is cut into chunks."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito.model import Batch

CHUNK = 50  # epochs a compiled call runs at most
RETRIES = 3


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
    log: Any


@jax.jit
def begin(model, method, x, y, key):
    """The first state, and a carry around it."""
    weight = jnp.ones(len(x), jnp.float32)
    state = method.init(model, Batch(x, y, weight, jnp.float32(1), jnp.float32(len(x))), key)
    zero, one = jnp.int32(0), jnp.float32(1)
    log = jnp.full((CHUNK, 3), jnp.nan, jnp.float32)
    score = jnp.float32(-jnp.inf)
    return Carry(state, state, zero, zero, score, zero, one, zero, jnp.bool_(False), log)


@partial(jax.jit, static_argnums=(6,))
def chunk(model, method, x, y, train, valid, block, key, stopping, until, epochs, carry):
    """Epochs ``carry.epoch`` to ``until``, or fewer when patience or retries run out."""
    used = jnp.sum(train > 0, dtype=jnp.int32)
    held = jnp.sum(valid > 0, dtype=jnp.int32)
    blocks = -(-used // block)
    size = jnp.sum(train)
    front = jnp.argsort(valid <= 0, stable=True)
    held_out = tuple(a[front] for a in (x, y, valid))
    first = carry.epoch

    def epoch(carry):
        keys = jax.random.split(jax.random.fold_in(key, carry.epoch), 3)
        order = jnp.argsort(jnp.where(train > 0, jax.random.uniform(keys[0], train.shape), 2.0))
        shuffled = tuple(a[order] for a in (x, y, train))
        body = partial(one_block, model, method, block, shuffled, (used, blocks, size, epochs * blocks), keys[1], carry)
        state, info = jax.lax.fori_loop(0, blocks, body, (carry.state, jnp.zeros(2, jnp.float32)), unroll=1)
        info = info / blocks.astype(jnp.float32)
        score = validate(model, method, held_out, held, block, state, keys[2])
        return decide(carry, state, info, score, held > 0, stopping, blocks, first)

    return jax.lax.while_loop(lambda c: (c.epoch < until) & ~c.done, epoch, carry)


def one_block(model, method, block, shuffled, counts, key, carry, number, state_info):
    """A step on the ``number``-th of the epoch's balanced, contiguous blocks; rows past its end weigh 0."""
    state, info = state_info
    used, blocks, size, steps = counts
    least, more = used // blocks, used % blocks
    start = number * least + jnp.minimum(number, more)
    rows = least + (number < more).astype(jnp.int32)
    x, y, weight = (jax.lax.dynamic_slice_in_dim(a, start, block) for a in shuffled)
    weight = jnp.where(jnp.arange(block) < rows, weight, 0.0)
    batch = Batch(x, y, weight, blocks.astype(jnp.float32), size)
    step = carry.step + number
    clock = Clock(step, step.astype(jnp.float32) / steps.astype(jnp.float32), number == blocks - 1, carry.brake)
    state, new = method.step(model, state, batch, clock, jax.random.fold_in(key, number))
    return state, info + jnp.stack([new["likelihood"], new["penalty"]]).astype(jnp.float32)


def validate(model, method, held_out, held, block, state, key):
    """The mean score of the held-out rows, nats per example; they stand first, so only their blocks are computed."""

    def add(number, sums):
        x, y, weight = (jax.lax.dynamic_slice_in_dim(a, number * block, block) for a in held_out)
        row = method.score(model, state, Batch(x, y, weight, 1.0, 1.0), jax.random.fold_in(key, number))
        return sums + jnp.stack([jnp.sum(jnp.where(weight > 0, weight * row, 0.0)), jnp.sum(weight)])

    sums = jax.lax.fori_loop(0, -(-held // block), add, jnp.zeros(2, jnp.float32))
    return sums[0] / sums[1]


def decide(carry, state, info, score, scored, stopping, blocks, first):
    """Accept the epoch, or go back to the last finite state with half the step; keep the best; run out of patience."""
    finite = jnp.all(jnp.isfinite(info)) & all_finite(state) & (~scored | ~jnp.isnan(score))
    better = finite & (~scored | (score > carry.score))
    gained = finite & scored & (score > carry.score + stopping.tol)
    stale = jnp.where(gained, 0, carry.stale + finite.astype(jnp.int32))
    retries = carry.retries + (~finite).astype(jnp.int32)
    patient = (stopping.patience == 0) | ~scored | (stale < stopping.patience)
    place = carry.epoch - first
    row = jnp.concatenate([info, score[None]])
    return Carry(
        state=choose(finite, state, carry.state),
        best=choose(better, state, carry.best),
        epoch=carry.epoch + finite.astype(jnp.int32),
        step=carry.step + jnp.where(finite, blocks, 0),
        score=jnp.where(better & scored, score, carry.score),
        stale=stale,
        brake=jnp.where(finite, carry.brake, carry.brake * 0.5),
        retries=retries,
        done=~patient | (retries > RETRIES),
        log=carry.log.at[place].set(jnp.where(finite, row, carry.log[place])),
    )


def choose(condition, new, old):
    """A cond, not a select of each leaf, which would be a kernel each to compile."""
    return jax.lax.cond(condition, lambda: new, lambda: old)


def all_finite(tree):
    """Whether every float is finite."""
    floats = [leaf.ravel() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.isfinite(jnp.concatenate(floats)))
