"""The end of an epoch: early stopping, the best state, and the return from divergence."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import check_number, check_whole
from dubito.training.loop_state import LoopState

RETRIES = 3


class Stopping(NamedTuple):
    """When to stop early.

    Attributes
    ----------
    patience : int32 scalar
        Epochs without a gain in the validation score after which a run ends; 0: never.
    tol : float32 scalar
        The least gain that counts, in nats per example.
    """

    patience: Any
    tol: Any


def stopping_rule(n_iter_no_change: int, tol: float) -> Stopping:
    """The rule for early stopping; ValueError for invalid numbers."""
    check_whole("n_iter_no_change", n_iter_no_change, 1)
    check_number("tol", tol, "[0, inf)")
    return Stopping(np.int32(n_iter_no_change), np.float32(tol))


class EpochResult(NamedTuple):
    """The result of an epoch.

    Attributes
    ----------
    info : float32 array of shape (2,)
        Mean likelihood and penalty, in nats per example.
    scored : bool scalar
        Whether there is a validation score.
    score : float32 scalar
        The validation score, in nats per example.
    parts : float32 array of shape (parts,)
        That of each part of the validation rows.
    """

    info: Any
    scored: Any
    score: Any
    parts: Any


def decide(at: LoopState, result: EpochResult, stopping: Stopping, steps: Any, first: Any) -> LoopState:
    """Accept the epoch, or return to the last finite state with half the step size; update best state and patience."""
    state, (info, scored, score, parts) = at.running, result
    finite = jnp.all(jnp.isfinite(info)) & all_finite(state) & (~scored | ~jnp.isnan(score))
    better = finite & (~scored | (parts > at.score))
    gained = finite & scored & jnp.any(parts > at.score + stopping.tol)
    stale = jnp.where(gained, 0, at.stale + finite.astype(jnp.int32))
    retries = at.retries + (~finite).astype(jnp.int32)
    patient = (stopping.patience == 0) | ~scored | (stale < stopping.patience)
    place = at.epoch - first
    row = jnp.where(finite, jnp.concatenate([info, score[None]]), jax.lax.dynamic_index_in_dim(at.log, place, 0, False))
    kept = choose(finite, state, at.state)
    return LoopState(
        state=kept,
        best=tuple(choose(chosen, state, old) for chosen, old in zip(better, at.best, strict=True)),
        epoch=at.epoch + finite.astype(jnp.int32),
        step=at.step + jnp.where(finite, steps, 0),
        score=jnp.where(better & scored, parts, at.score),
        best_epoch=jnp.where(better, at.epoch + 1, at.best_epoch),
        stale=stale,
        step_factor=jnp.where(finite, at.step_factor, at.step_factor * 0.5),
        retries=retries,
        done=~patient | (retries > RETRIES),
        log=jax.lax.dynamic_update_index_in_dim(at.log, row, place, 0),
        running=kept,
        number=jnp.int32(0),
        info=jnp.zeros_like(info),
    )


def has_ended(at: LoopState, epochs: Any) -> bool:
    """Whether a run is complete: not cut off by Ctrl-C."""
    return int(at.epoch) >= int(epochs) or bool(at.done)


def still_gaining(states: Sequence[LoopState], epochs: Any) -> bool:
    """Whether the validation score of runs of so many epochs still gained at their end.

    A run that overfits has its best epoch early; one that still learns has it late, when the step size
    has become small. The limit is the middle of the run, for the median of the best epochs.
    """
    ended = [state for state in states if int(state.retries) <= RETRIES]
    return bool(ended) and float(np.median([np.asarray(state.best_epoch) for state in ended])) > 0.5 * int(epochs)


def choose(condition: Any, new: Any, old: Any) -> Any:
    """``new`` if the condition holds, else ``old``; a cond is one kernel, a select of each leaf one each."""
    return jax.lax.cond(condition, lambda: new, lambda: old)


def all_finite(tree: Any) -> Any:
    """Whether all floats of a tree are finite."""
    floats = [leaf.ravel() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.isfinite(jnp.concatenate(floats)))
