"""Conformal prediction: intervals and sets with guaranteed coverage, for any model, from rows it has not seen.

The guarantee is of the frequency over rows that are exchangeable with the held-out ones, and over draws of these; it does not
hold conditionally on a row. Rows are not weighted, as weights would change the guarantee.
"""

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dubito._check import check_coverage
from dubito._jax.types import Key
from dubito.evaluation.calibration_base import Calibration
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.draw_mixture import DrawMixture
from dubito.posteriors.predictive import Predictive
from dubito.posteriors.predictive_base import PredictiveDistribution, shared_fields

SCORES = {"regression": ("quantiles", "normalized", "residual"), "classification": ("adaptive", "plain")}
MAX_BLOCK_NUMBERS = 2**22  # numbers of one block of CV+ intervals
MAX_ERRORS = 100_000  # errors that a model file holds


@dataclass(frozen=True, repr=False)
class ConformalPredictive(PredictiveDistribution):
    """A predictive distribution with conformal intervals or sets; everything else is that of ``predictive``.

    Parameters
    ----------
    predictive
        The distribution whose intervals or sets are made conformal.
    conformal
        The ``Conformal`` or ``CVPlus`` that makes them.
    """

    predictive: PredictiveDistribution = field(kw_only=True)
    conformal: Any = field(kw_only=True)

    @property
    def mixture(self) -> DrawMixture:
        return self.predictive.mixture

    @property
    def columnwise(self) -> Any:
        return self._columnwise if self.squeeze else self

    @cached_property
    def _columnwise(self) -> Any:
        return replace(self, squeeze=False, classes=None, predictive=self.predictive.columnwise)

    def by_rows(self) -> Iterator[Any]:
        return (replace(self, draws=part.draws, predictive=part) for part in self.predictive.by_rows())

    def supports(self, name: str) -> bool:
        return self.predictive.supports(name)

    def components(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self.predictive.components()

    @property
    def sets(self) -> Bool[np.ndarray, "rows classes"]:
        """Which classes are in each row's conformal set."""
        return self.conformal.sets(self.predictive)

    def _interval(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        return self.conformal.interval(self.predictive, coverage)

    def _mean(self) -> np.ndarray:
        return self.predictive._mean()

    def _variances(self) -> tuple[np.ndarray, np.ndarray]:
        return self.predictive._variances()

    def _log_density(self, y: np.ndarray) -> np.ndarray:
        return self.predictive._log_density(y)

    def _cdf(self, y: np.ndarray) -> np.ndarray:
        return self.predictive._cdf(y)

    def _quantiles(self, q: np.ndarray) -> np.ndarray:
        return self.predictive._quantiles(q)

    def _sample(self, key: Key, n: int) -> np.ndarray:
        return self.predictive._sample(key, n)


class ConformalRule(Calibration):
    """A calibration that makes conformal intervals and sets."""

    @abc.abstractmethod
    def interval(self, predictive: Any, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each (n, K), of a ``columnwise`` predictive."""

    @abc.abstractmethod
    def sets(self, predictive: Any) -> Bool[np.ndarray, "rows classes"]:
        """Which classes are in each row's set; the most probable one always is, so that no set is empty."""

    def __call__(self, predictive: Any) -> ConformalPredictive:
        self.check(predictive.likelihood, predictive.columns)
        return ConformalPredictive(**shared_fields(predictive), predictive=predictive, conformal=self)


def split_conformal(
    predictive: PredictiveDistribution, y: Any, *, coverage: float = 0.9, score: str | None = None
) -> "Conformal":
    """Split conformal prediction: intervals or sets that hold y with at least the probability ``coverage``.

    Where scores have no ties the probability is at most coverage + 1/(n + 1). With several targets each has its own interval,
    with the guarantee for each. The margin Q is the ⌈(n + 1) coverage⌉-th smallest of the held-out scores; with fewer than
    coverage/(1 − coverage) rows there is none: intervals are infinite then, and sets hold all classes.

    Parameters
    ----------
    predictive
        The predictive distribution of held-out rows.
    y
        Their targets, (n,) or (n, K), or labels or codes of classes.
    coverage
        The probability with which an interval or a set holds y.
    score
        - "quantiles" (the default where there is a cdf): max(lower − y, y − upper), with the predictive's own interval; then
          [lower − Q, upper + Q] (conformalized quantile regression);
        - "normalized": |y − mean|/std, then mean ± Q std;
        - "residual": |y − mean|, then mean ± Q, which needs no distribution;
        - "adaptive" (the default for classes): Σ_j p_j over classes at least as probable as y, without randomization; sets vary
          in size with the difficulty of the row;
        - "plain": 1 − p_y, the smallest sets on average.

    Returns
    -------
    Conformal

    Raises
    ------
    ValueError
        For an unknown score, a coverage outside (0, 1), and y that does not fit the predictive distribution.

    References
    ----------
    Romano, Patterson & Candès, Conformalized quantile regression, NeurIPS 2019. Romano, Sesia & Candès, Classification with
    valid and adaptive coverage, NeurIPS 2020. Sadinle, Lei & Wasserman, Least ambiguous set-valued classifiers, JASA 2019.
    """
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    if score is None:
        score = (
            SCORES[predictive.task][0] if predictive.task != "regression" or predictive.supports("cdf") else "residual"
        )
    found = Conformal(score, coverage, None)
    found.check(predictive.likelihood, predictive.columns)
    scores = (
        found.class_scores(predictive)[np.arange(len(y)), y][:, None]
        if y.ndim == 1
        else found.target_scores(predictive, y)
    )
    place = conformal_rank(len(scores), coverage)
    if place > len(scores):
        return found
    return Conformal(score, coverage, tuple(np.sort(scores, axis=0)[place - 1].tolist()))


def conformal_rank(n: int, coverage: float) -> int:
    """⌈(n + 1) coverage⌉: how many of n scores must be smaller for one more to be covered."""
    return math.ceil((n + 1) * coverage - 1e-9)


@dataclass(frozen=True)
class Conformal(ConformalRule):
    """Split conformal intervals or sets, as ``split_conformal`` makes them.

    Parameters
    ----------
    score
        The name of the score.
    coverage
        The probability with which an interval or a set holds y.
    margins
        Q of each target, or of all classes together; None for too few rows: then everything conforms.
    """

    score: str
    coverage: float
    margins: tuple | None

    def check(self, likelihood: Any, columns: int) -> None:
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

    def target_scores(self, predictive: Any, y: np.ndarray) -> Float[np.ndarray, "rows targets"]:
        """The score of each row and target of a ``columnwise`` predictive."""
        lower, upper, unit = self._start(predictive)
        return np.maximum(lower - y, y - upper) / unit

    def class_scores(self, predictive: Any) -> Float[np.ndarray, "rows classes"]:
        """The score of every class in each row."""
        return 1 - predictive.probs if self.score == "plain" else adaptive_scores(predictive.probs)

    def _start(self, predictive: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lower, upper, unit), each (n, K): where the score is 0, and what a margin is a multiple of."""
        if self.score == "quantiles":
            lower, upper = predictive.quantile([(1 - self.coverage) / 2, (1 + self.coverage) / 2])
            return lower, upper, np.ones_like(lower)
        mean = predictive.mean
        return mean, mean, predictive.std if self.score == "normalized" else np.ones_like(mean)

    def interval(self, predictive: Any, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        if coverage != self.coverage:
            raise ValueError(
                f"these intervals are conformal for coverage={self.coverage}, not for {coverage!r}: calibrate again for another one"
            )
        lower, upper, unit = self._start(predictive)
        if self.margins is None:
            return np.full_like(lower, -np.inf), np.full_like(upper, np.inf)
        # where a negative margin leaves nothing, both ends are in the middle
        middle, reach = 0.5 * lower + 0.5 * upper, np.array(self.margins) * unit
        return np.minimum(lower - reach, middle), np.maximum(upper + reach, middle)

    def sets(self, predictive: Any) -> Bool[np.ndarray, "rows classes"]:
        scores = self.class_scores(predictive)
        if self.margins is None:
            return np.ones(scores.shape, bool)
        best = np.arange(scores.shape[1]) == predictive.probs.argmax(1)[:, None]
        return best | (scores <= self.margins[0])


def cv_plus(predictive: Predictive, y: Any, fold: Any, *, coverage: float = 0.9) -> "CVPlus":
    """CV+ intervals or sets of a committee, from its own rows: each row by the member that was not trained on it.

    They hold y with at least the probability 2 coverage − 1 (less some √(2/n) for folds of many rows), and with about
    ``coverage`` where one row more or less changes the members little; no row is held out from training.

    Parameters
    ----------
    predictive
        Of the rows that a ``Committee`` was fitted to.
    y
        Their targets, labels or codes.
    fold
        (n,): the number of the member that each row was held out of.
    coverage
        What sets hold, and what a report asks of intervals, which can be made for any coverage.

    Returns
    -------
    CVPlus

    Raises
    ------
    ValueError
        For folds or y that do not fit, and for more than 100,000 errors, which a model file could not hold.

    References
    ----------
    Barber, Candès, Ramdas & Tibshirani, Predictive inference with the jackknife+, Annals of Statistics 2021. Romano, Sesia &
    Candès, NeurIPS 2020, algorithm 2.
    """
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    fold = np.asarray(fold)
    if fold.shape != (len(y),) or fold.dtype.kind not in "iu" or fold.min() < 0:
        raise ValueError(f"fold is a member's number for each of {len(y)} rows, from 0; got shape {fold.shape}")
    if y.size > MAX_ERRORS:
        raise ValueError(f"CV+ keeps an error of each of {len(y)} rows: of so many hold some out for split_conformal")
    found = CVPlus(coverage, ((),) * (fold.max() + 1))
    own = found.member_means(predictive)[fold, np.arange(len(y))]
    errors = np.abs(y - own) if predictive.task == "regression" else adaptive_scores(own)[np.arange(len(y)), y][:, None]
    found = CVPlus(coverage, errors_by_fold(errors, fold))
    found.check(predictive.likelihood, predictive.columns)
    return found


def errors_by_fold(errors: Float[np.ndarray, "rows targets"], fold: Int[np.ndarray, "rows"]) -> tuple:
    """The errors of each fold and target, sorted, as tuples."""
    return tuple(tuple(map(tuple, np.sort(errors[fold == m].T).tolist())) for m in range(fold.max() + 1))


@dataclass(frozen=True)
class CVPlus(ConformalRule):
    """CV+ intervals and sets, as ``cv_plus`` makes them.

    An interval reaches from the ⌊(n + 1)(1 − coverage)⌋-th smallest of m_k(i)(x) − r_i over rows i to the ⌈(n + 1) coverage⌉-th
    smallest of m_k(i)(x) + r_i, with m_k(i) the mean by the member that row i was held out of; it is infinite where n is too
    small. A set has the classes whose adaptive score (see ``split_conformal``) is above that of fewer than (n + 1) coverage rows,
    both by that member.

    Parameters
    ----------
    coverage
        What sets hold, and what a report asks of intervals.
    errors
        For each member and each target (or all classes together) its sorted absolute errors at the rows of its fold.
    """

    coverage: float
    errors: tuple

    def check(self, likelihood: Any, columns: int) -> None:
        check_coverage(self.coverage)
        count = columns if likelihood.task == "regression" else 1
        for own in self.errors:
            same = type(own) is tuple and len(own) == count and len({len(each) for each in own}) == 1
            if not same or not all(0 <= a <= b < math.inf for each in own for a, b in pairwise((0.0, *each))):
                raise ValueError(f"CV+ has sorted errors of {count} targets for each member here, got other ones")
        if not any(own[0] for own in self.errors):
            raise ValueError("CV+ has no errors of any member")

    def member_means(self, predictive: Any) -> Float[np.ndarray, "members rows targets"]:
        """The mean by each member; of classes their probabilities."""
        if not isinstance(predictive, Predictive):
            raise ValueError("CV+ needs the predictive of a committee as it was fitted, not a calibrated one")
        return predictive.columnwise.means(len(self.errors))

    def interval(self, predictive: Any, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        check_coverage(coverage)
        return self.interval_of_means(self.member_means(predictive), coverage)

    def interval_of_means(
        self, means: Float[np.ndarray, "members rows targets"], coverage: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each (n, K), from the members' means."""
        count = sum(len(own[0]) for own in self.errors)
        place, size = conformal_rank(count, coverage), max(1, MAX_BLOCK_NUMBERS // count)
        lower, upper = np.full(means.shape[1:], -np.inf), np.full(means.shape[1:], np.inf)
        for k in range(means.shape[2] if place <= count else 0):
            for start in range(0, means.shape[1], size):
                rows = slice(start, start + size)
                pairs = list(zip(means[:, rows, k], (np.array(own[k])[:, None] for own in self.errors), strict=True))
                ends = np.concatenate([m - r for m, r in pairs]), np.concatenate([m + r for m, r in pairs])
                lower[rows, k] = np.partition(ends[0], count - place, axis=0)[count - place]
                upper[rows, k] = np.partition(ends[1], place - 1, axis=0)[place - 1]
        return lower, upper

    def sets(self, predictive: Any) -> Bool[np.ndarray, "rows classes"]:
        best = np.arange(predictive.columns) == predictive.probs.argmax(1)[:, None]
        return best | self.conforming_classes(self.member_means(predictive))

    def conforming_classes(self, probs: Float[np.ndarray, "members rows classes"]) -> Bool[np.ndarray, "rows classes"]:
        """Which classes conform, by the members' probabilities."""
        below: Any = sum(np.searchsorted(own[0], adaptive_scores(p)) for own, p in zip(self.errors, probs, strict=True))
        return below < conformal_rank(sum(len(own[0]) for own in self.errors), self.coverage)


def adaptive_scores(p: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    """For every class of each row the sum of the probabilities of classes at least as probable."""
    order = np.argsort(-p, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
    return np.take_along_axis(total, np.argsort(order, axis=1, kind="stable"), axis=1)
