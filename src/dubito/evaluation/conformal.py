"""Conformal prediction: intervals and sets that hold y as often as they say, for any model, from rows it has not seen.

The promise is of frequency over rows that are exchangeable with the held-out ones (drawn alike, in any order), and over
draws of these; it is none for each row by itself. Rows are not weighted: then the promise would be another.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dubito._check import check_coverage
from dubito.evaluation.validation import checked
from dubito.posteriors.predictive import Predictive

SCORES = {"regression": ("quantiles", "normalized", "residual"), "classification": ("adaptive", "plain")}
HELD = 2**22  # numbers of one block of CV+ intervals
HELD_OUT = 100_000  # errors that a model file holds


def split_conformal(predictive, y, *, coverage=0.9, score=None):
    """The ``Conformal`` intervals or sets of held-out rows: P(y in it) is at least ``coverage``, and where scores have no
    ties at most that + 1/(n + 1). With several targets each has its own interval, and the promise is for each.

    ``score``, of which the ⌈(n + 1) coverage⌉-th smallest is the margin Q:

    - "quantiles" (the default where there is a cdf): max(lower − y, y − upper), with the predictive's own interval; then
      [lower − Q, upper + Q] (conformalized quantile regression, Romano et al. 2019);
    - "normalized": |y − mean|/std, then mean ± Q std; "residual": |y − mean|, then mean ± Q, which needs no distribution;
    - "adaptive" (the default for classes): Σ_j p_j over classes at least as probable as y (Romano et al. 2020, without
      randomization); sets vary in size with the difficulty of the row;
    - "plain": 1 − p_y, the smallest sets on average (Sadinle et al. 2019).

    Fewer than coverage/(1 − coverage) rows promise nothing: intervals are infinite then and sets hold all classes.
    """
    predictive, y, _ = checked(predictive, y, None, predictive.task)
    if score is None:
        score = (
            SCORES[predictive.task][0] if predictive.task != "regression" or predictive.offers("cdf") else "residual"
        )
    found = Conformal(score, coverage, None)
    found.check(predictive.likelihood, predictive.columns)
    scores = found.classes(predictive)[np.arange(len(y)), y][:, None] if y.ndim == 1 else found.errors(predictive, y)
    place = rank(len(scores), coverage)
    if place > len(scores):
        return found
    return Conformal(score, coverage, tuple(np.sort(scores, axis=0)[place - 1].tolist()))


def rank(n, coverage):
    """⌈(n + 1) coverage⌉: so many of n scores must lie below for a further one to be covered."""
    return math.ceil((n + 1) * coverage - 1e-9)


@dataclass(frozen=True)
class Conformal:
    """``margins``: Q of each target, or of all classes together; None for too few rows, where everything conforms."""

    score: str
    coverage: float
    margins: tuple | None

    def check(self, likelihood, columns):
        """ValueError unless this is for ``columns`` targets or classes of ``likelihood``."""
        known = SCORES[likelihood.task]
        if self.score not in known:
            raise ValueError(
                f"the score {self.score!r} is none for {likelihood.task}: choose one of {', '.join(known)}"
            )
        check_coverage(self.coverage)
        count = columns if likelihood.task == "regression" else 1
        margins: tuple = (0.0,) * count if self.margins is None else self.margins
        if len(margins) != count or not all(math.isfinite(margin) for margin in margins):
            raise ValueError(f"conformal margins are {count} finite numbers here, got {self.margins!r}")

    def __call__(self, predictive):
        self.check(predictive.likelihood, predictive.columns)
        return Conformed(predictive, self)

    def errors(self, predictive, y):
        """The score of each row and target, (n, K), of a ``columnwise`` predictive."""
        lower, upper, unit = self._start(predictive)
        return np.maximum(lower - y, y - upper) / unit

    def classes(self, predictive):
        """The score of every class in each row, (n, C)."""
        return 1 - predictive.probs if self.score == "plain" else adaptive(predictive.probs)

    def _start(self, predictive):
        """(lower, upper, unit), each (n, K): where the score is 0, and what a margin is a multiple of."""
        if self.score == "quantiles":
            lower, upper = predictive.quantile([(1 - self.coverage) / 2, (1 + self.coverage) / 2])
            return lower, upper, np.ones_like(lower)
        mean = predictive.mean
        return mean, mean, predictive.std if self.score == "normalized" else np.ones_like(mean)

    def interval(self, predictive, coverage):
        """(lower, upper), each (n, K), of a ``columnwise`` predictive, for the coverage they were made for. Where a negative margin leaves nothing, both are in the middle."""
        if coverage != self.coverage:
            raise ValueError(
                f"these intervals are conformal for coverage={self.coverage}, not for {coverage!r}: calibrate again for another one"
            )
        lower, upper, unit = self._start(predictive)
        if self.margins is None:
            return np.full_like(lower, -np.inf), np.full_like(upper, np.inf)
        middle, reach = 0.5 * lower + 0.5 * upper, np.array(self.margins) * unit
        return np.minimum(lower - reach, middle), np.maximum(upper + reach, middle)

    def sets(self, predictive):
        """Which classes are in each row's set, bool (n, C). The most probable one always is: no set is empty."""
        scores = self.classes(predictive)
        if self.margins is None:
            return np.ones(scores.shape, bool)
        best = np.arange(scores.shape[1]) == predictive.probs.argmax(1)[:, None]
        return best | (scores <= self.margins[0])


@dataclass(frozen=True, repr=False)
class Conformed:
    """A predictive with conformal intervals or sets; everything else is answered as before."""

    predictive: Any
    conformal: Any

    def __len__(self):
        return len(self.predictive)

    def __repr__(self):
        kind = "intervals" if self.predictive.task == "regression" else "sets"
        lines = repr(self.predictive).splitlines()
        return "\n".join([type(self).__name__, *lines[1:], f"  {kind}: {type(self.conformal).__name__}"])

    @property
    def columnwise(self):
        return Conformed(self.predictive.columnwise, self.conformal)

    def __getattr__(self, name):
        if name.startswith("__") or "predictive" not in vars(self):  # copies ask before there is anything
            raise AttributeError(name)
        return getattr(self.predictive, name)

    def by_rows(self):
        return (Conformed(part, self.conformal) for part in self.predictive.by_rows())

    def interval(self, coverage=0.9):
        """(lower, upper), each (n,) or (n, K), that hold y with the probability ``coverage``: of split conformal ones that they were
        made for."""
        lower, upper = self.conformal.interval(self.predictive.columnwise, coverage)
        return self.predictive._squeezed(lower), self.predictive._squeezed(upper)

    @property
    def sets(self):
        """Which classes are in each row's set, bool (n, C)."""
        return self.conformal.sets(self.predictive)


def cv_plus(predictive, y, fold, *, coverage=0.9):
    """The ``CVPlus`` intervals or sets of a committee, from its own rows: each by the member that has not seen it.

    ``predictive``: of the rows that a ``Committee`` was fitted to; ``fold`` (n,): the member that each was held out of
    (``training.splits.interleaved_folds``); ``coverage``: what sets hold, and what a report asks of intervals, which are made for any.

    They hold y with the probability 2 coverage − 1 at least (less some √(2/n) for folds of many rows), and with about
    ``coverage`` where one row more or less does not change the members much; no row is spent on that. Barber, Candès, Ramdas &
    Tibshirani 2021, "Predictive inference with the jackknife+"; Romano, Sesia & Candès 2020, algorithm 2.
    """
    predictive, y, _ = checked(predictive, y, None, predictive.task)
    fold = np.asarray(fold)
    if fold.shape != (len(y),) or fold.dtype.kind not in "iu" or fold.min() < 0:
        raise ValueError(f"fold is a member's number for each of {len(y)} rows, from 0; got shape {fold.shape}")
    if y.size > HELD_OUT:
        raise ValueError(f"CV+ keeps an error of each of {len(y)} rows: of so many hold some out for split_conformal")
    found = CVPlus(coverage, ((),) * (fold.max() + 1))
    own = found.of_members(predictive)[fold, np.arange(len(y))]
    errors = np.abs(y - own) if predictive.task == "regression" else adaptive(own)[np.arange(len(y)), y][:, None]
    found = CVPlus(coverage, of_folds(errors, fold))
    found.check(predictive.likelihood, predictive.columns)
    return found


def of_folds(errors, fold):
    """The ``errors`` (n, K) of each fold and target, sorted, as tuples."""
    return tuple(tuple(map(tuple, np.sort(errors[fold == m].T).tolist())) for m in range(fold.max() + 1))


@dataclass(frozen=True)
class CVPlus:
    """``errors``: for each member and each target (or all classes together) its sorted errors at the rows of its fold, without sign.

    An interval reaches from the ⌊(n + 1)(1 − coverage)⌋-th smallest of m_k(i)(x) − r_i over rows i to the ⌈(n + 1) coverage⌉-th smallest
    of m_k(i)(x) + r_i, with m_k(i) the mean by the member that row i was held out of; it is infinite where n is too small. A
    set has the classes whose adaptive score (see ``split_conformal``) is above that of fewer than (n + 1) coverage rows, both by that member.
    """

    coverage: float
    errors: tuple

    def check(self, likelihood, columns):
        """ValueError unless this is for ``columns`` targets or classes of ``likelihood``."""
        check_coverage(self.coverage)
        count = columns if likelihood.task == "regression" else 1
        for own in self.errors:
            same = type(own) is tuple and len(own) == count and len({len(each) for each in own}) == 1
            if not same or not all(0 <= a <= b < math.inf for each in own for a, b in pairwise((0.0, *each))):
                raise ValueError(f"CV+ has sorted errors of {count} targets for each member here, got other ones")
        if not any(own[0] for own in self.errors):
            raise ValueError("CV+ has no errors of any member")

    def __call__(self, predictive):
        self.check(predictive.likelihood, predictive.columns)
        return Conformed(predictive, self)

    def of_members(self, predictive):
        """The mean by each member, (M, n, K); of classes their probabilities."""
        if type(predictive) is not Predictive:
            raise ValueError("CV+ wants the predictive of a committee as it was fitted, not a calibrated one")
        return predictive.columnwise.means(len(self.errors))

    def interval(self, predictive, coverage):
        """(lower, upper), each (n, K)."""
        check_coverage(coverage)
        return self.between(self.of_members(predictive), coverage)

    def between(self, means, coverage) -> tuple[Any, Any]:
        """(lower, upper), each (n, K), from the members' ``means`` (M, n, K)."""
        count = sum(len(own[0]) for own in self.errors)
        place, size = rank(count, coverage), max(1, HELD // count)
        lower, upper = np.full(means.shape[1:], -np.inf), np.full(means.shape[1:], np.inf)
        for k in range(means.shape[2] if place <= count else 0):
            for start in range(0, means.shape[1], size):
                rows = slice(start, start + size)
                pairs = list(zip(means[:, rows, k], (np.array(own[k])[:, None] for own in self.errors), strict=True))
                ends = np.concatenate([m - r for m, r in pairs]), np.concatenate([m + r for m, r in pairs])
                lower[rows, k] = np.partition(ends[0], count - place, axis=0)[count - place]
                upper[rows, k] = np.partition(ends[1], place - 1, axis=0)[place - 1]
        return lower, upper

    def sets(self, predictive):
        """Which classes are in each row's set, bool (n, C). The most probable one always is: no set is empty."""
        best = np.arange(predictive.columns) == predictive.probs.argmax(1)[:, None]
        return best | self.conforming(self.of_members(predictive))

    def conforming(self, probs):
        """Which classes conform, bool (n, C), by the members' ``probs`` (M, n, C)."""
        below: Any = sum(np.searchsorted(own[0], adaptive(p)) for own, p in zip(self.errors, probs, strict=True))
        return below < rank(sum(len(own[0]) for own in self.errors), self.coverage)


def adaptive(p):
    """For every class of each row the sum of probabilities of classes at least as probable, (n, C)."""
    order = np.argsort(-p, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
    return np.take_along_axis(total, np.argsort(order, axis=1, kind="stable"), axis=1)
