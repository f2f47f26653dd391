"""Conformal prediction: intervals and sets that hold y as often as they say, for any model, from rows it has not seen.

The promise is of frequency over rows that are exchangeable with the held-out ones (drawn alike, in any order), and over
draws of these; it is none for each row by itself. Rows are not weighted: then the promise would be another.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dubito.outcomes import checked

SCORES = {"regression": ("quantiles", "normalized", "residual"), "classification": ("adaptive", "plain")}
HELD = 2**22  # numbers of one block of ``cv_plus``


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
    y, _ = checked(predictive, y, None, predictive.task)
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
        if not 0 < self.coverage < 1:
            raise ValueError(f"coverage is a probability strictly between 0 and 1, got {self.coverage!r}")
        count = columns if likelihood.task == "regression" else 1
        margins: tuple = (0.0,) * count if self.margins is None else self.margins
        if len(margins) != count or not all(math.isfinite(margin) for margin in margins):
            raise ValueError(f"conformal margins are {count} finite numbers here, got {self.margins!r}")

    def __call__(self, predictive):
        self.check(predictive.likelihood, predictive.columns)
        return Conformed(predictive, self)

    def errors(self, predictive, y):
        """The score of each row and target, (n, K)."""
        lower, upper, unit = self._start(predictive)
        return np.maximum(lower - y, y - upper) / unit

    def classes(self, predictive):
        """The score of every class in each row, (n, C)."""
        p = predictive.probs
        if self.score == "plain":
            return 1 - p
        order = np.argsort(-p, axis=1, kind="stable")
        total = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
        return np.take_along_axis(total, np.argsort(order, axis=1, kind="stable"), axis=1)

    def _start(self, predictive):
        """(lower, upper, unit), each (n, K): where the score is 0, and what a margin is a multiple of."""
        if self.score == "quantiles":
            lower, upper = predictive.quantile([(1 - self.coverage) / 2, (1 + self.coverage) / 2])
            return lower, upper, np.ones_like(lower)
        mean = predictive.mean
        return mean, mean, predictive.std if self.score == "normalized" else np.ones_like(mean)

    def interval(self, predictive):
        """(lower, upper), each (n, K). Where a negative margin leaves nothing, both are in the middle."""
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


@dataclass(frozen=True)
class Conformed:
    """A predictive with conformal intervals or sets; everything else is answered as before."""

    predictive: Any
    conformal: Conformal

    def __len__(self):
        return len(self.predictive)

    def __getattr__(self, name):
        if name.startswith("__") or "predictive" not in vars(self):  # copies ask before there is anything
            raise AttributeError(name)
        return getattr(self.predictive, name)

    def by_rows(self):
        return (Conformed(part, self.conformal) for part in self.predictive.by_rows())

    def interval(self, coverage=0.9):
        """(lower, upper), each (n, K), that hold y with the probability ``coverage``, the one they were made for."""
        if coverage != self.conformal.coverage:
            raise ValueError(
                f"these intervals are conformal for coverage={self.conformal.coverage}, not for {coverage!r}: calibrate "
                "again for another one"
            )
        return self.conformal.interval(self.predictive)

    @property
    def sets(self):
        """Which classes are in each row's set, bool (n, C)."""
        return self.conformal.sets(self.predictive)


def cv_plus(means, residuals, fold, coverage=0.9) -> tuple[Any, Any]:
    """CV+ intervals of new rows, (lower, upper), each (n', K) (Barber, Candès, Ramdas & Tibshirani 2021, "Predictive inference
    with the jackknife+"): between the ⌊(n + 1)(1 − coverage)⌋-th smallest of m_k(i)(x) − r_i over rows i and the
    ⌈(n + 1) coverage⌉-th smallest of m_k(i)(x) + r_i; infinite where n is too small.

    ``means`` (M, n', K): what member m predicts for the new rows; ``fold`` (n,): the member that row i was held out of, and
    ``residuals`` (n, K) = |y_i − m_k(i)(x_i)|. They hold y with probability 2 coverage − 1 at least (less some √(2/n) for folds
    of many rows), and with about ``coverage`` for members that one row more or less does not change much. Members must not
    have seen the fold in any way: those of a ``CrossFit`` have stopped on it. ``comparison.cross_validated`` makes such.
    """
    means, residuals, fold = np.asarray(means, float), np.asarray(residuals, float), np.asarray(fold)
    if means.ndim != 3 or residuals.shape != (len(fold), means.shape[2]) or len(fold) == 0:
        raise ValueError(
            f"cv_plus wants means (M, n', K), residuals (n, K), fold (n,); got {means.shape}, {residuals.shape}"
        )
    if not (np.all(np.isfinite(residuals)) and np.all(residuals >= 0) and np.all(np.isfinite(means))):
        raise ValueError("means are finite numbers, and residuals are none of them negative")
    _check_folds(fold, len(means), coverage)
    n, place = len(fold), rank(len(fold), coverage)
    lower, upper = np.full(means.shape[1:], -np.inf), np.full(means.shape[1:], np.inf)
    size = max(1, HELD // residuals.size)
    for start in range(0, means.shape[1] if place <= n else 0, size):
        rows = slice(start, start + size)
        at = means[fold, rows]
        lower[rows] = np.partition(at - residuals[:, None], n - place, axis=0)[n - place]
        upper[rows] = np.partition(at + residuals[:, None], place - 1, axis=0)[place - 1]
    return lower, upper


def cv_plus_sets(scores, held, fold, coverage=0.9):
    """CV+ sets of new rows, bool (n', C) (Romano, Sesia & Candès 2020, "Classification with valid and adaptive coverage", algorithm 2):
    the classes whose score is above that of fewer than (n + 1) coverage of the n rows, each by the member that had row i held out.

    ``scores`` (M, n', C): of every class of the new rows by member m; ``fold`` (n,): the member that row i was held out of,
    and ``held`` (n,): the score of its class by that member. The promise is that of ``cv_plus``.
    """
    scores, held, fold = np.asarray(scores, float), np.asarray(held, float), np.asarray(fold)
    if scores.ndim != 3 or held.shape != (len(fold),) or len(fold) == 0:
        raise ValueError(
            f"cv_plus_sets wants scores (M, n', C), held (n,), fold (n,); got {scores.shape}, {held.shape}"
        )
    if not (np.all(np.isfinite(held)) and np.all(np.isfinite(scores))):
        raise ValueError("scores are finite numbers")
    _check_folds(fold, len(scores), coverage)
    below = sum(np.searchsorted(np.sort(held[fold == m]), each) for m, each in enumerate(scores))
    return below < rank(len(fold), coverage)


def _check_folds(fold, members, coverage):
    if fold.dtype.kind not in "iu" or fold.min() < 0 or fold.max() >= members:
        raise ValueError(f"fold is a member's number for each row, from 0 to {members - 1}")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is a probability strictly between 0 and 1, got {coverage!r}")
