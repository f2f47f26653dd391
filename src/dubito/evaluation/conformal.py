"""Conformal prediction: intervals and sets with guaranteed coverage, for any model, from rows it has not seen.

The guarantee is for the frequency over rows that are exchangeable with the held-out ones, and over
draws of these; it does not hold conditionally on a row. Rows are not weighted, since weights would
change the guarantee.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from dubito._check import DataWarning, check_choice, check_number, warn
from dubito.evaluation.calibrated import ConformalPredictive as ConformalPredictive
from dubito.evaluation.calibrated import ConformalRule, Sets
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.draw_mixture import Values
from dubito.posteriors.predictive import Predictive
from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.posteriors.transformed import TransformedPredictive

SCORES = {"regression": ("quantiles", "normalized", "residual"), "classification": ("adaptive", "plain")}
MAX_BLOCK_NUMBERS = 2**22  # numbers of one block of CV+ intervals
MAX_ERRORS = 100_000  # errors that a model file holds

Probs: TypeAlias = Float[np.ndarray, "rows classes"]
MemberMeans: TypeAlias = Float[np.ndarray, "members rows columns"]


def split_conformal(
    predictive: PredictiveDistribution, y: Any, *, coverage: float = 0.9, score: str | None = None
) -> "Conformal":
    """Split conformal prediction: intervals or sets that contain y with at least the probability ``coverage``.

    If scores have no ties the probability is at most coverage + 1/(n + 1). With several targets
    each has its own interval and guarantee. The margin Q is the ⌈(n + 1) coverage⌉-th smallest of
    the held-out scores. With fewer than coverage/(1 − coverage) rows there is none: then intervals
    are infinite, and sets contain all classes (DataWarning).

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of held-out rows.
    y : array
        Their targets, (n,) or (n, K), or labels or codes of classes.
    coverage : float
        The probability with which an interval or a set contains y.
    score : str, optional
        - ``"quantiles"`` (the default if there is a cdf): max(lower − y, y − upper), with the
          predictive's own interval; then [lower − Q, upper + Q] (conformalized quantile regression);
        - ``"normalized"``: |y − mean|/std, then mean ± Q std;
        - ``"residual"``: |y − mean|, then mean ± Q, which needs no distribution;
        - ``"adaptive"`` (the default for classes): Σ_j p_j over classes at least as probable as y,
          without randomization; the size of sets varies with the difficulty of the row;
        - ``"plain"``: 1 − p_y, the smallest sets on average.

    Returns
    -------
    Conformal
        The calibration.

    Raises
    ------
    ValueError
        For an unknown score, a coverage outside (0, 1), and y that does not fit.

    References
    ----------
    Romano, Patterson & Candès, Conformalized quantile regression, NeurIPS 2019. Romano, Sesia &
    Candès, Classification with valid and adaptive coverage, NeurIPS 2020. Sadinle, Lei & Wasserman,
    Least ambiguous set-valued classifiers, JASA 2019.
    """
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    if score is None:
        bare = predictive.task == "regression" and not predictive.supports("cdf")
        score = "residual" if bare else SCORES[predictive.task][0]
    found = Conformal(score, coverage, None)
    found.check(predictive.likelihood, predictive.columns)
    scores = found.target_scores(predictive, y) if y.ndim == 2 else _of_class(found.class_scores(predictive), y)
    rank = conformal_rank(len(scores), coverage)
    if rank > len(scores):
        what = "intervals are infinite" if predictive.task == "regression" else "sets contain all classes"
        least = math.ceil(coverage / (1 - coverage) - 1e-9)
        warn(
            f"a conformal coverage of {coverage:g} needs at least {least} rows, got {len(scores)}: {what}", DataWarning
        )
        return found
    return Conformal(score, coverage, tuple(np.sort(scores, axis=0)[rank - 1].tolist()))


def conformal_rank(n: int, coverage: float) -> int:
    """The rank ⌈(n + 1) coverage⌉ among n scores that one more exceeds with probability 1 − coverage.

    Parameters
    ----------
    n : int
        The number of scores.
    coverage : float
        The probability.

    Returns
    -------
    int
        The rank, from 1; more than n if there are too few scores.
    """
    return math.ceil((n + 1) * coverage - 1e-9)


@dataclass(frozen=True)
class Conformal(ConformalRule):
    """Split conformal intervals or sets, from ``split_conformal``.

    Parameters
    ----------
    score : str
        The name of the score.
    coverage : float
        The probability with which an interval or a set contains y.
    margins : tuple of float, or None
        Q of each target, or of all classes together; None for too few rows: then everything
        conforms.
    """

    score: str
    coverage: float
    margins: tuple[float, ...] | None

    def check(self, likelihood: Any, columns: int) -> None:
        check_choice(f"{likelihood.task} score", self.score, SCORES[likelihood.task])
        check_number("coverage", self.coverage, "(0, 1)")
        count = columns if likelihood.task == "regression" else 1
        margins = (0.0,) * count if self.margins is None else self.margins
        if len(margins) != count or not all(map(math.isfinite, margins)):
            raise ValueError(f"conformal margins must be {count} finite numbers, got {self.margins!r}")

    def target_scores(self, predictive: Any, y: Values) -> Values:
        """The score of each row and target.

        Parameters
        ----------
        predictive : PredictiveDistribution
            A predictive, ``columnwise``.
        y : array
            The targets, (n, K).

        Returns
        -------
        array
            (n, K).
        """
        lower, upper, unit = self._start(predictive)
        return np.maximum(lower - y, y - upper) / unit

    def class_scores(self, predictive: Any) -> Probs:
        """The score of every class in each row.

        Parameters
        ----------
        predictive : PredictiveDistribution
            A predictive of classes.

        Returns
        -------
        array
            (n, C).
        """
        return 1 - predictive.probs if self.score == "plain" else adaptive_scores(predictive.probs)

    def _start(self, predictive: Any) -> tuple[Values, Values, Values]:
        """(lower, upper, unit): where the score is 0, and what a margin is a multiple of."""
        if self.score == "quantiles":
            lower, upper = predictive.quantile([(1 - self.coverage) / 2, (1 + self.coverage) / 2])
            return lower, upper, np.ones_like(lower)
        mean = predictive.mean
        return mean, mean, predictive.std if self.score == "normalized" else np.ones_like(mean)

    def interval(self, predictive: Any, coverage: float) -> tuple[Values, Values]:
        if coverage != self.coverage:
            problem = f"the calibration is for coverage={self.coverage}, got {coverage!r}."
            raise ValueError(f"{problem} Calibrate again with the other coverage.")
        lower, upper, unit = self._start(predictive)
        if self.margins is None:
            return np.full_like(lower, -np.inf), np.full_like(upper, np.inf)
        # where a negative margin leaves nothing, both ends are in the middle
        middle, reach = 0.5 * lower + 0.5 * upper, np.array(self.margins) * unit
        return np.minimum(lower - reach, middle), np.maximum(upper + reach, middle)

    def sets(self, predictive: Any) -> Sets:
        scores = self.class_scores(predictive)
        return _most_probable(predictive) | (scores <= (np.inf if self.margins is None else self.margins[0]))


def cv_plus(predictive: Predictive, y: Any, fold: Any, *, coverage: float = 0.9) -> "CVPlus":
    """CV+ intervals or sets of a committee, from its own rows: each row by the member that was not trained on it.

    They contain y with at least the probability 2 coverage − 1 (less about √(2/n) for large folds),
    and with about ``coverage`` if one row more or less changes the members little. No row is
    held out from training.

    Parameters
    ----------
    predictive : Predictive
        The predictive of the rows that a ``Committee`` was fitted to.
    y : array
        Their targets, labels or codes.
    fold : array
        (n,): the number of the member that each row was held out from.
    coverage : float
        The coverage of sets, and that at which a report evaluates intervals, which can be made for
        any coverage.

    Returns
    -------
    CVPlus
        The calibration.

    Raises
    ------
    ValueError
        For folds or y that do not fit, and for more than 100,000 errors, which a model file could
        not hold.

    References
    ----------
    Barber, Candès, Ramdas & Tibshirani, Predictive inference with the jackknife+, Annals of
    Statistics 2021. Romano, Sesia & Candès, NeurIPS 2020, algorithm 2.
    """
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    rows, fold = np.arange(len(y)), np.asarray(fold)
    if fold.shape != rows.shape or fold.dtype.kind not in "iu" or fold.min() < 0:
        raise ValueError(f"fold must be a member's number for each of {len(y)} rows, from 0; got shape {fold.shape}")
    if y.size > MAX_ERRORS:
        problem = f"CV+ stores one error per row, and {len(y)} rows are too many."
        raise ValueError(f"{problem} Hold out some of them and use split_conformal.")
    own = CVPlus(coverage, ((),) * (fold.max() + 1)).member_means(predictive)[fold, rows]
    errors = np.abs(y - own) if predictive.task == "regression" else _of_class(adaptive_scores(own), y)
    found = CVPlus(coverage, errors_by_fold(errors, fold))
    found.check(predictive.likelihood, predictive.columns)
    return found


def errors_by_fold(errors: Values, fold: Int[np.ndarray, " rows"]) -> tuple[Any, ...]:
    """The errors of each fold and target, sorted.

    Parameters
    ----------
    errors : array
        Absolute errors, (n, K).
    fold : array
        The fold of each row, (n,).

    Returns
    -------
    tuple
        For each fold a tuple with a tuple for each target.
    """
    return tuple(tuple(map(tuple, np.sort(errors[fold == m].T).tolist())) for m in range(fold.max() + 1))


@dataclass(frozen=True)
class CVPlus(ConformalRule):
    """CV+ intervals and sets, from ``cv_plus``.

    An interval reaches from the ⌊(n + 1)(1 − coverage)⌋-th smallest of m_k(i)(x) − r_i over rows i
    to the ⌈(n + 1) coverage⌉-th smallest of m_k(i)(x) + r_i, with m_k(i) the mean by the member
    that row i was held out from; it is infinite if n is too small. A set contains the classes whose
    adaptive score (see ``split_conformal``) is above that of fewer than (n + 1) coverage rows, both
    by that member.

    Parameters
    ----------
    coverage : float
        The coverage of sets, and that at which a report evaluates intervals.
    errors : tuple
        For each member and each target (or all classes together) its sorted absolute errors at the
        rows of its fold.
    """

    coverage: float
    errors: tuple[Any, ...]

    def check(self, likelihood: Any, columns: int) -> None:
        check_number("coverage", self.coverage, "(0, 1)")
        count = columns if likelihood.task == "regression" else 1
        for own in self.errors:
            same = type(own) is tuple and len(own) == count and len({len(each) for each in own}) == 1
            if not same or not all(0 <= a <= b < math.inf for each in own for a, b in pairwise((0.0, *each))):
                raise ValueError(f"CV+ needs sorted errors of {count} targets for each member")
        if self._count == 0:
            raise ValueError("CV+ has no errors of any member")

    @property
    def _count(self) -> int:
        """The number of rows with an error."""
        return sum(len(own[0]) for own in self.errors)

    def member_means(self, predictive: Any) -> MemberMeans:
        """The mean by each member; for classes their probabilities.

        Parameters
        ----------
        predictive : Predictive
            The uncalibrated predictive of the committee.

        Returns
        -------
        array
            (members, n, K).

        Raises
        ------
        ValueError
            For a calibrated predictive.
        """
        if not isinstance(predictive, Predictive | TransformedPredictive):
            raise ValueError("CV+ needs the uncalibrated predictive of a Committee")
        return predictive.columnwise.means(len(self.errors))

    def interval(self, predictive: Any, coverage: float) -> tuple[Values, Values]:
        check_number("coverage", coverage, "(0, 1)")
        return self.interval_of_means(self.member_means(predictive), coverage)

    def interval_of_means(self, means: MemberMeans, coverage: float) -> tuple[Values, Values]:
        """Intervals from the members' means.

        Parameters
        ----------
        means : array
            (members, n, K).
        coverage : float
            The coverage of the intervals.

        Returns
        -------
        (lower, upper)
            Each (n, K).
        """
        rank, size = conformal_rank(self._count, coverage), max(1, MAX_BLOCK_NUMBERS // self._count)
        lower, upper = np.full(means.shape[1:], -np.inf), np.full(means.shape[1:], np.inf)
        for k in range(means.shape[2] if rank <= self._count else 0):
            errors = np.concatenate([own[k] for own in self.errors])[:, None]
            member = np.repeat(np.arange(len(self.errors)), [len(own[k]) for own in self.errors])
            for start in range(0, means.shape[1], size):
                rows = slice(start, start + size)
                own, low = means[member, rows, k], self._count - rank
                lower[rows, k] = np.partition(own - errors, low, axis=0)[low]
                upper[rows, k] = np.partition(own + errors, rank - 1, axis=0)[rank - 1]
        return lower, upper

    def sets(self, predictive: Any) -> Sets:
        return _most_probable(predictive) | self.conforming_classes(self.member_means(predictive))

    def conforming_classes(self, probs: MemberMeans) -> Sets:
        """Which classes conform.

        Parameters
        ----------
        probs : array
            The members' probabilities, (members, n, C).

        Returns
        -------
        array
            (n, C) of bool.
        """
        below: Any = sum(np.searchsorted(own[0], adaptive_scores(p)) for own, p in zip(self.errors, probs, strict=True))
        return below < conformal_rank(self._count, self.coverage)


def adaptive_scores(p: Probs) -> Probs:
    """The adaptive score of every class of each row.

    Parameters
    ----------
    p : array
        Probabilities, (n, C).

    Returns
    -------
    array
        (n, C): the sum of the probabilities of the classes at least as probable.
    """
    order = np.argsort(-p, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
    return np.take_along_axis(total, np.argsort(order, axis=1, kind="stable"), axis=1)


def _most_probable(predictive: Any) -> Sets:
    return np.arange(predictive.columns) == predictive.probs.argmax(1)[:, None]


def _of_class(scores: Probs, y: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows 1"]:
    """The score of each row's own class."""
    return scores[np.arange(len(y)), y][:, None]
