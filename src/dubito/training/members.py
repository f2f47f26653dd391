"""The runs that one posterior is made of: what each is trained on, and what came out."""

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
        Of the start, the order of the rows and the noise of the steps.
    train, valid : (rows,) array
        Weights of the rows that it is trained on and validated on; 0 leaves a row out.
    y : (rows, ...) array, optional
        Targets of its own in place of the rows'.
    """

    key: Any
    train: np.ndarray
    valid: np.ndarray
    y: np.ndarray | None = None


@dataclass(frozen=True)
class Trained:
    """What ``Method.finish`` is given: the members that did not diverge, and their states.

    Attributes
    ----------
    members : tuple of Member
    states : tuple
        The best state of each; the last one without validation.
    numbers : tuple of int
        Which of the method's members these are.
    count : int
        How many members the method has.
    rows : Rows
        The rows of the fit; of a stream those of its first piece.
    """

    members: tuple
    states: tuple
    numbers: tuple
    count: int
    rows: Rows


def one_member(self: Any, rows: Rows, key: Key) -> list[Member]:
    """``Method.members`` of a method that trains once."""
    del self
    return [Member(key, rows.train, rows.valid)]


def split_runs(trained: Trained, runs: int) -> list[Trained]:
    """The members of each of a wrapper's ``runs`` of its method; a run that lost all of its members is left out."""
    each = trained.count // runs
    found = []
    for run in range(runs):
        kept = [k for k, number in enumerate(trained.numbers) if number // each == run]
        members, states = (tuple(values[k] for k in kept) for values in (trained.members, trained.states))
        numbers = tuple(trained.numbers[k] % each for k in kept)
        found += [Trained(members, states, numbers, each, trained.rows)] if kept else []
    return found
