"""The runs that make up one posterior: the data of each, and its final state."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dubito._jax.types import Key
from dubito.training.data import Rows


class Member(NamedTuple):
    """One run of the loop: a key, and two vectors of weights over the same rows.

    Attributes
    ----------
    key : Key
        Determines the start, the order of the rows and the noise of the steps.
    train : array of shape (N,)
        Weights of the training rows; 0 leaves a row out.
    valid : array of shape (N,) or (parts, N)
        Weights of the validation rows. Each of several parts chooses its own best state.
    y : array of shape (N, ...), optional
        Targets that replace those of the rows.
    """

    key: Key
    train: np.ndarray
    valid: np.ndarray
    y: np.ndarray | None = None


@dataclass(frozen=True)
class Trained:
    """What ``Method.finish`` is given: the members that did not diverge, and their states.

    Attributes
    ----------
    members : tuple of Member
        One for each part of the validation rows, which are its ``valid``, so of shape (N,).
    states : tuple
        The best state of each member; without validation, the last one.
    numbers : tuple of int
        The members' indices in the list that ``Method.members`` returned, counting the parts of each.
    count : int
        The length of that list, counting the parts.
    rows : Rows
        The rows of the fit; for a stream, those of its first piece.
    streamed : bool
        Whether the fit was to a stream.
    """

    members: tuple[Member, ...]
    states: tuple[Any, ...]
    numbers: tuple[int, ...]
    count: int
    rows: Rows
    streamed: bool = False


def one_member(self: Any, rows: Rows, key: Key) -> list[Member]:
    """Implements ``Method.members`` for a method with a single run."""
    del self
    return [Member(key, rows.train, rows.valid)]


def split_runs(trained: Trained, runs: int) -> list[Trained]:
    """Group the members by the ``runs`` of a wrapper; runs whose members all diverged are left out."""
    each = trained.count // runs
    found = []
    for run in range(runs):
        kept = [k for k, number in enumerate(trained.numbers) if number // each == run]
        members, states = (tuple(values[k] for k in kept) for values in (trained.members, trained.states))
        numbers = tuple(trained.numbers[k] % each for k in kept)
        found += [Trained(members, states, numbers, each, trained.rows, trained.streamed)] if kept else []
    return found


def each_part(members: list[Member]) -> list[Member]:
    """A member for each part of the validation rows of each member."""
    return [member._replace(valid=part) for member in members for part in np.atleast_2d(member.valid)]


def choose_part(trained: Trained, part: int, parts: int) -> Trained:
    """The members of one of several parts of the validation rows."""
    kept = [k for k, number in enumerate(trained.numbers) if number % parts == part]
    members, states = (tuple(values[k] for k in kept) for values in (trained.members, trained.states))
    numbers = tuple(trained.numbers[k] // parts for k in kept)
    return Trained(members, states, numbers, trained.count // parts, trained.rows, trained.streamed)
