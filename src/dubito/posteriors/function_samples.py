"""Functions drawn from a posterior, evaluated at rows: some draws and some rows at a time, so that neither must all be held.

Draws are evaluated side by side, ``TOGETHER`` or fewer: what does not depend on the draw (a first layer that no mask
precedes) is then computed once for all of them, and one product serves many. They are cut into groups, and rows into
pieces, always in the same way, so that an answer's bits do not depend on what is held.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito._process.threads import in_threads
from dubito.posteriors.base import Posterior, Samples
from dubito.posteriors.blocks import PIECE_ROWS, map_blocks, piece_sizes, real_rows, row_pieces

GROUP = 1024  # draws of one call of a compiled program
TOGETHER = 64  # draws that are evaluated side by side, where few of their parameters differ
VARYING = 2**13  # parameters that differ, of all draws side by side; products of more are as fast one after another
HELD = 2**24  # numbers of z that are held for one answer
MOST = 1_000_000  # draws of one answer: its Monte Carlo error is then a thousandth of the spread of the draws


@dataclass(frozen=True)
class Group:
    """Draws that one call evaluates: ``count`` of them, their seeds in lines of those side by side (the last filled up)."""

    part: Any
    seeds: Any
    count: int


@dataclass(frozen=True)
class Draws:
    """z of S draws at n rows. ``values[p][g]``, if held, is z of the rows' piece p and the draws' group g, a tree of
    arrays (draws, rows, ·), both filled up; else it is computed from ``groups`` and ``x`` whenever it is asked for."""

    counts: tuple  # real draws of each group
    rows: int
    values: Any = None
    model: Any = None
    groups: tuple = ()
    x: Any = None

    def __len__(self):
        return sum(self.counts)

    def each(self, function, *columns):
        """function(z, count, rows, *columns) for each piece and each group: for every piece a list.

        ``count`` and ``rows``: how many of z's draws and rows are real; ``columns``: arrays, rows first, of which the
        piece's are given.
        """
        cut, groups = self._cut(columns), range(len(self.counts))
        tasks = [(piece, group) for piece in range(len(cut)) for group in groups]
        found = in_threads(lambda at: function(self._z(*at), self.counts[at[1]], *cut[at[0]]), tasks)
        for _ in cut:
            yield [next(found) for _ in groups]

    def whole(self, function, *columns):
        """function(z, rows, *columns) for each piece, z of all draws there: (S, its rows, ·)."""
        cut, groups = self._cut(columns), range(len(self.counts))

        def one(piece):
            return function(join_groups([self._z(piece, group) for group in groups], self.counts), *cut[piece])

        return list(in_threads(one, range(len(cut))))

    def _cut(self, columns):
        return list(zip(piece_sizes(self.rows), *[row_pieces(np.asarray(column)) for column in columns], strict=True))

    def _z(self, piece, group):
        if self.values is not None:
            return self.values[piece][group]
        return evaluate_draws(*self._task(piece, group))

    def _task(self, piece, group):
        found = self.groups[group]
        return self.model, found.part, found.seeds, self.x[piece], real_rows(self.rows, piece)

    @property
    def one(self):
        """Shapes and types of z of one draw at one piece."""
        z = evaluate_draws.eval_shape(*self._task(0, 0)) if self.values is None else self.values[0][0]
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), z)

    def with_values(self):
        """The same with z held, if it is not too much."""
        numbers = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(self.one))
        if self.values is not None or numbers * len(self) * self.rows > HELD:
            return self
        return replace(self, values=list(self.each(lambda z, *_: z)), groups=(), x=None)

    def by_rows(self):
        """The same draws at each piece of the rows."""
        for piece, start in enumerate(range(0, self.rows, PIECE_ROWS)):
            rows = min(PIECE_ROWS, self.rows - start)
            if self.values is None:
                yield replace(self, rows=rows, x=[self.x[piece]])
            else:
                yield replace(self, rows=rows, values=[self.values[piece]])

    def at(self, index):
        """z of the draws ``index``, all if None: a tree of arrays (len(index), n, ·)."""
        chosen = slice(None) if index is None else index
        parts = self.whole(lambda z, _: jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], z))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, : self.rows], *parts)


@dataclass(frozen=True)
class Functions:
    """Functions drawn from a posterior, not yet at any rows."""

    model: Any
    groups: tuple

    def __len__(self):
        return sum(group.count for group in self.groups)

    def at(self, x):
        """Their ``Draws`` at rows x (n, D)."""
        x = np.asarray(x, np.float32)
        numbers = tuple(group.count for group in self.groups)
        return Draws(numbers, len(x), None, self.model, self.groups, row_pieces(x)).with_values()


def check_draws(draws):
    """ValueError unless ``draws`` is None or a whole number from 1 to ``MOST``."""
    if draws is not None:
        check_whole("draws", draws, 1, MOST, "None (the default)")


def draw_functions(posterior, key, draws):
    """``draws`` functions of a posterior; None: its members, or as many as it gives unasked."""
    check_draws(draws)
    key = prng.fast(key)
    if not isinstance(posterior, Posterior):  # a user's own, of which no more is known than model and sample
        posterior, draws = Samples(posterior.model, posterior.sample(key, draws)), None
    sources = posterior.sources(key, draws)
    return Functions(posterior.model, tuple(group for part, seeds in sources for group in seed_groups(part, seeds)))


def seed_groups(part, seeds):
    """The seeds of one part in equal groups of at most ``GROUP``."""
    seeds = np.asarray(seeds)
    each = -(-len(seeds) // -(-len(seeds) // GROUP))
    together = draws_per_line(each, max(1, min(TOGETHER, VARYING // max(varying_parameters(part, seeds[0]), 1))))
    lines = -(-each // together)
    for start in range(0, len(seeds), each):
        some = seeds[start : start + each]
        yield Group(part, np.resize(some, (lines, together, *some.shape[1:])), len(some))


@programs.jit(kept=32)
def draw_one(part, seed):
    """One draw; as a compiled function it is traced once for all parts of a kind."""
    return part.draw(seed)


def varying_parameters(part, seed):
    """How many of the parameters depend on the draw: those that are more than handed on."""
    program = draw_one.trace(part, seed).jaxpr.jaxpr
    given = set(program.invars)
    return sum(math.prod(out.aval.shape) for out in program.outvars if out not in given)


def draws_per_line(count, most):
    """Into how many draws a line to cut ``count``: at most ``most``, more than half of it, and as few as can be left over."""
    return min(range(min(count, most), max(min(count, most) // 2, 0), -1), key=lambda c: -count % c)


def draws_of_arrays(z):
    """z, a tree of arrays (S, n, ·), as a ``Draws``."""
    leaves, tree = jax.tree.flatten(z)
    total, rows = leaves[0].shape[:2]
    each = -(-total // -(-total // GROUP))
    starts = range(0, total, each)
    cut = [[row_pieces(np.asarray(leaf)[start : start + each], axis=1) for leaf in leaves] for start in starts]
    values = [
        [tree.unflatten([leaf[piece] for leaf in group]) for group in cut] for piece in range(len(piece_sizes(rows)))
    ]
    return Draws(tuple(min(each, total - start) for start in starts), rows, values)


def join_groups(groups, real):
    """z of all groups' real draws at one piece, a tree of arrays (S, rows, ·)."""
    if len(groups) == 1 and jax.tree.leaves(groups[0])[0].shape[0] == real[0]:
        return groups[0]
    taken = [jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[:n], z) for z, n in zip(groups, real, strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *taken)


@programs.jit(kept=32)
def evaluate_draws(model, part, seeds, x, rows):
    """z of the draws of ``seeds`` (lines, side by side) at a piece's first rows: a tree of arrays (draws, rows, ·)."""

    def one(seed):
        params = part.draw(seed)
        return map_blocks(partial(model.outputs, params), rows, 0, (x, 0))

    if seeds.shape[1] == 1:
        return jax.lax.map(one, seeds[:, 0])
    z = jax.lax.map(jax.vmap(one), seeds)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), z)
