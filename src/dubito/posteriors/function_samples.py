"""Functions drawn from a posterior, evaluated at rows: some draws and some rows at a time.

Draws are evaluated side by side, ``TOGETHER`` or fewer, so that no array is larger than ``WIDEST``:
what does not depend on the draw (a first layer that no mask precedes) is then computed once for all
of them, and one product serves many.
Draws are cut into groups, and rows into pieces, always in the same way, so that the bits of an
answer do not depend on what is held in memory.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito._jax.types import Inputs, Key, Params
from dubito._process.threads import in_threads
from dubito.models.inputs import joined_inputs
from dubito.models.likelihoods.base import OutcomeParams
from dubito.models.model import Model
from dubito.posteriors.base import Posterior, Samples, Seed
from dubito.posteriors.blocks import BLOCK_ROWS, PIECE_ROWS, map_blocks, piece_sizes, row_pieces

GROUP = 1024  # draws of one call of a compiled program
TOGETHER = 64  # draws that are evaluated side by side, where few of their parameters differ
VARYING = 2**13  # parameters that differ, of all draws side by side; products of more are as fast one after another
WIDEST = 2**24  # numbers in the largest array of one program, which all draws side by side have at a block
HELD = 2**24  # numbers of z that are held for one answer
SURELY_HELD = 2**14  # rows times draws of which z is held, however many numbers each has
MAX_DRAWS = 1_000_000  # of one answer: its Monte Carlo error is then a thousandth of the spread of the draws


@dataclass(frozen=True)
class Draws:
    """z of S draws at n rows.

    ``pieces[p](g)`` is z of piece p of the rows and group g of the draws, either held or computed
    whenever it is needed: a tree of arrays (draws, rows, ·), filled up on both axes.
    """

    counts: tuple[int, ...]  # real draws of each group
    rows: int
    pieces: Sequence[Callable[[int], OutcomeParams]]

    def __len__(self) -> int:
        return sum(self.counts)

    def each(self, function: Callable[..., Any], *columns: np.ndarray) -> Iterator[list[Any]]:
        """function(z, count, rows, *columns) for each piece and each group: for every piece a list.

        ``count`` and ``rows`` are how many draws and rows of z are real; ``columns`` are arrays,
        rows first, whose rows of the piece are given.
        """
        given, groups = self._cut(columns), range(len(self.counts))

        def one(task: tuple[int, int]) -> Any:
            piece, group = task
            return function(self.pieces[piece](group), self.counts[group], *given[piece])

        found = in_threads(one, itertools.product(range(len(given)), groups))
        for _ in given:
            yield [next(found) for _ in groups]

    def whole(self, function: Callable[..., Any], *columns: np.ndarray) -> list[Any]:
        """function(z, rows, *columns) for each piece, with z of all draws there: (S, its rows, ·)."""

        def one(task: tuple[Callable[[int], OutcomeParams], tuple[Any, ...]]) -> Any:
            piece, given = task
            return function(join_groups([piece(group) for group in range(len(self.counts))], self.counts), *given)

        return list(in_threads(one, zip(self.pieces, self._cut(columns), strict=True)))

    def _cut(self, columns: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
        return list(zip(piece_sizes(self.rows), *[row_pieces(np.asarray(column)) for column in columns], strict=True))

    @cached_property
    def one(self) -> OutcomeParams:
        """Shapes and types of z of one draw at one piece."""
        z = jax.eval_shape(lambda: self.pieces[0](0))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), z)

    def with_values(self) -> "Draws":
        """The same with z held, unless it is too much."""
        if self.rows * len(self) > SURELY_HELD:  # the shapes of z take a millisecond to trace
            numbers = sum(leaf.size // leaf.shape[0] for leaf in jax.tree.leaves(self.one))
            if numbers * len(self) * self.rows > HELD:
                return self
        return replace(self, pieces=[values.__getitem__ for values in self.each(lambda z, *_: z)])

    def by_rows(self) -> Iterator["Draws"]:
        """The same draws at each piece of the rows."""
        for piece, start in zip(self.pieces, range(0, self.rows, PIECE_ROWS), strict=False):
            yield replace(self, rows=min(PIECE_ROWS, self.rows - start), pieces=[piece])

    def at(self, index: Any = slice(None)) -> OutcomeParams:
        """z of the draws ``index``: a tree of arrays (len(index), n, ·)."""
        parts = self.whole(lambda z, _: jax.tree.map(lambda leaf: np.asarray(leaf)[index], z))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, : self.rows], *parts)


@dataclass(frozen=True)
class Group:
    """``count`` draws that one call evaluates; ``seeds`` (lines, side by side) are filled up."""

    part: Posterior
    seeds: np.ndarray
    count: int


@dataclass(frozen=True)
class Functions:
    """Functions drawn from a posterior, not yet evaluated at any rows."""

    model: Model
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return sum(group.count for group in self.groups)

    def at(self, x: Inputs) -> Draws:
        """Their ``Draws`` at rows x (n, D)."""
        x = np.asarray(joined_inputs(self.model.network, x), np.float32)
        pieces = [partial(self._evaluate, *each) for each in zip(row_pieces(x), piece_sizes(len(x)), strict=True)]
        return Draws(tuple(group.count for group in self.groups), len(x), pieces).with_values()

    def _evaluate(self, piece: np.ndarray, rows: np.int32, group: int) -> OutcomeParams:
        return evaluate_draws(self.model, self.groups[group].part, self.groups[group].seeds, piece, rows)


def check_draws(draws: Any) -> None:
    """Raise ValueError unless ``draws`` is None or a whole number from 1 to ``MAX_DRAWS``."""
    if draws is not None:
        check_whole("draws", draws, 1, MAX_DRAWS, "None (the default)")


def draw_functions(posterior: Any, key: Key, draws: int | None) -> Functions:
    """``draws`` functions of a posterior; None: its members, or its default number of draws."""
    check_draws(draws)
    key = prng.fast(key)
    if not isinstance(posterior, Posterior):  # a user's own, of which only model and sample are known
        posterior, draws = Samples(posterior.model, posterior.sample(key, draws)), None
    sources = posterior.sources(key, draws)
    return Functions(posterior.model, tuple(group for part, seeds in sources for group in seed_groups(part, seeds)))


def seed_groups(part: Posterior, seeds: Any) -> Iterator[Group]:
    """The seeds of one part in equal groups of at most ``GROUP``."""
    seeds = np.asarray(seeds)
    each = _equal_size(len(seeds))
    together = draws_per_line(each, max(1, min(TOGETHER, VARYING // max(varying_parameters(part, seeds[0]), 1))))
    lines = -(-each // together)
    for start in range(0, len(seeds), each):
        some = seeds[start : start + each]
        yield Group(part, np.resize(some, (lines, together, *some.shape[1:])), len(some))


def _equal_size(count: int) -> int:
    """The size of equal groups of at most ``GROUP`` of ``count`` draws."""
    return -(-count // -(-count // GROUP))


@programs.jit(kept=32)
def draw_one(part: Posterior, seed: Seed) -> Params:
    """One draw; as a compiled function it is traced once for all parts of a kind."""
    return part.draw(seed)


def varying_parameters(part: Posterior, seed: Any) -> int:
    """How many of the parameters depend on the draw, and are not those of the posterior itself."""
    program = draw_one.trace(part, seed).jaxpr.jaxpr
    given = set(program.invars)
    return sum(math.prod(out.aval.shape) for out in program.outvars if out not in given)


def largest_array(program: Jaxpr) -> int:
    """The size of the largest array that a traced program computes."""
    eqns: list[Any] = program.eqns
    sizes = [math.prod(out.aval.shape) for eqn in eqns for out in eqn.outvars]
    parts = jax.tree.leaves([list(eqn.params.values()) for eqn in eqns])
    sizes += [largest_array(part.jaxpr) for part in parts if isinstance(part, ClosedJaxpr)]
    sizes += [largest_array(part) for part in parts if isinstance(part, Jaxpr)]
    return max(sizes, default=0)


def draws_per_line(count: int, most: int) -> int:
    """How many draws to put in a line: at most ``most``, more than half of it, with the fewest left over."""
    return min(range(min(count, most), max(min(count, most) // 2, 0), -1), key=lambda c: -count % c)


def draws_of_arrays(z: OutcomeParams) -> Draws:
    """z, a tree of arrays (S, n, ·), as ``Draws``."""
    leaves, tree = jax.tree.flatten(z)
    total, rows = leaves[0].shape[:2]
    each = _equal_size(total)
    starts = range(0, total, each)
    cut = [[row_pieces(np.asarray(leaf)[start : start + each], axis=1) for leaf in leaves] for start in starts]
    values = [[tree.unflatten(leaves) for leaves in zip(*group, strict=True)] for group in cut]
    pieces = [piece.__getitem__ for piece in zip(*values, strict=True)]
    return Draws(tuple(min(each, total - start) for start in starts), rows, pieces)


def join_groups(groups: list[OutcomeParams], counts: Sequence[int]) -> OutcomeParams:
    """z of all groups' real draws at one piece, a tree of arrays (S, rows, ·)."""
    if len(groups) == 1 and jax.tree.leaves(groups[0])[0].shape[0] == counts[0]:
        return groups[0]
    real = [jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[:n], z) for z, n in zip(groups, counts, strict=True)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *real)


@programs.jit(kept=32)
def evaluate_draws(model: Model, part: Posterior, seeds: Any, x: Any, rows: Any) -> OutcomeParams:
    """z of the draws of ``seeds`` (lines, side by side) at a piece's first rows: arrays (draws, rows, ·)."""

    def one(seed: Any) -> OutcomeParams:
        return map_blocks(partial(model.outputs, part.draw(seed)), rows, 0, (x, 0))

    if seeds.shape[1] > 1:
        block = jax.ShapeDtypeStruct((BLOCK_ROWS, *x.shape[1:]), x.dtype)
        program = jax.make_jaxpr(lambda seed, x: model.outputs(part.draw(seed), x))(seeds[0, 0], block)
        most = max(WIDEST // largest_array(program.jaxpr), 1)
        if most < seeds.shape[1]:
            count = seeds.shape[0] * seeds.shape[1]
            together = draws_per_line(count, most)
            seeds = jnp.resize(seeds, (-(-count // together), together, *seeds.shape[2:]))
    if seeds.shape[1] == 1:
        return jax.lax.map(one, seeds[:, 0])
    z = jax.lax.map(jax.vmap(one), seeds)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), z)
