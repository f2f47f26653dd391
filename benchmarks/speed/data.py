"""The same data for every side, and what a side returns to the worker that times it."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

RATE = 0.05  # of every dropout here
LEARNING_RATE = 1e-3
INITIAL_SCALE = 0.02  # standard deviation of a weight's posterior at the start


class Task(NamedTuple):
    """``run()`` does the whole work once; ``check(result)`` is a number that describes the result, and is not timed; ``units`` is the
    number of steps, draws or rows.
    """

    run: Callable[[], Any]
    check: Callable[[Any], float]
    units: float


def table(rows=455, columns=13, seed=0):
    """x (rows, columns) standard normal, y (rows, 1) of variance 1: a smooth function of three columns and noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.3 * rng.normal(size=(rows, 1))
    return x, ((y - y.mean()) / y.std()).astype(np.float32)


def images(rows, seed=0):
    """x (rows, 784) and ten classes (rows,) that a random projection of x determines."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 784)).astype(np.float32)
    return x, (x @ rng.normal(size=(784, 10)).astype(np.float32)).argmax(1).astype(np.int32)


def weights(columns, hidden, seed=0):
    """[(w (inputs, outputs), b (outputs,)) of each layer] of a network with one output, He's normal start."""
    rng = np.random.default_rng(seed)
    sizes = (columns, *hidden, 1)
    return [
        ((2 / a) ** 0.5 * rng.normal(size=(a, b)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in itertools.pairwise(sizes)
    ]
