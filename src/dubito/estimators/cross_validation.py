"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dubito._check import warn
from dubito._values import Column, Table
from dubito.estimators.comparison_fits import Outcomes, plan_comparison, run_folds
from dubito.estimators.fold_scores import (
    FoldScores,
    pool_folds,
    warn_of_changes,
)
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import MonteCarloError
from dubito.evaluation.interpretation import Setting, interpret_comparison
from dubito.evaluation.metrics import Score


class CrossValidationResult(NamedTuple):
    """The result of one estimator.

    Attributes
    ----------
    name : str
        The estimator's name.
    scores : dict
        Each score over all held-out rows, with its standard error; the ECE is the mean of the folds'.
    difference : Score
        Its ``nll`` minus that of the best estimator, paired by rows, in nats per row.
    seconds : float
        Median time of a fit.
    unsure : MonteCarloError
        Monte Carlo error in the fold where it is largest.
    setting : Setting or None
        The setting that would make that error small enough, if there is one.
    discrete : bool
        Whether the target consists of whole numbers.
    """

    name: str
    scores: dict[str, Score]
    difference: Score
    seconds: float
    unsure: MonteCarloError
    setting: Setting | None = None
    discrete: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The scores as a flat dictionary.

        Returns
        -------
        dict
            Each score as ``<key>`` and its standard error as ``<key>_se``; the difference to the
            best, seconds, whether the draws are enough, and the number of rows ``n``.
        """
        found: dict[str, Any] = {}
        for key, score in self.scores.items():
            found |= {key: score.value} | ({f"{key}_se": score.se} if np.isfinite(score.se) else {})
        found |= {"nll_difference": self.difference.value, "nll_difference_se": self.difference.se}
        rows = 0 if self.difference.rows is None else len(self.difference.rows)
        return found | {"seconds": self.seconds, "draws_enough": self.unsure.enough, "n": rows}


def compare(
    estimators: Mapping[str, Any],
    X: Table,
    y: Column,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Any = None,
    times: Any = None,
    cv: Any = None,
    rows: Any = None,
    done: Callable[[str, int], Any] | None = None,
) -> list[CrossValidationResult]:
    """Score several estimators on the same folds.

    Folds are stratified for classes. As many fits as there are cores run at once, or, inside
    ``joblib.parallel_config``, as many as its engine runs ("loky", "dask" or "ray"), with the same
    bits as one after another. Warns of peculiar columns as a fit to all rows does, of missing values
    and categories that the training rows of a fold lack, and of estimators that cannot be fitted,
    which are left out.

    Parameters
    ----------
    estimators : mapping
        Unfitted estimators by name.
    X : frame or array
        Inputs (rows, columns).
    y : array
        Targets (rows,) or (rows, targets).
    folds : int
        Number of folds.
    seed : int
        Seed of the random folds.
    groups, times : array, str, False, optional
        As in ``fit`` of the estimators: no fold separates rows of one group, or rows that repeat one
        another; with times, each fold is a block of the later half of the rows, and the rows before
        it are its training rows. The fits hold rows out likewise.
    cv : splitter or iterable, optional
        A splitter of scikit-learn, or pairs (train, test) of row numbers, in place of ``folds`` and
        ``seed``. No row may be held out twice.
    rows : array, optional
        The numbers of the rows to use, in increasing order; all by default. The others may contain
        anything, and the splits of ``cv`` do not count them.
    done : callable, optional
        Called with the name and the number of the fold after each fit.

    Returns
    -------
    list of CrossValidationResult
        The results, the best ``nll`` first.

    Raises
    ------
    DataError
        If X and y have different numbers of rows, for groups, times and folds that do not fit them,
        and for a class that only the held-out rows of a fold have.
    ValueError, ImportError
        That of the first estimator, if none can be fitted.
    """
    plan = plan_comparison(estimators, X, y, folds=folds, seed=seed, groups=groups, times=times, cv=cv, rows=rows)
    return summarize([*estimators], run_folds(plan, plan.tasks, done), plan.refused, plan.left_out)


def summarize(
    names: Sequence[str], outcomes: Outcomes, refused: Mapping[str, Exception], left_out: Collection[str]
) -> list[CrossValidationResult]:
    """The results of all fits of a comparison, with the warnings of ``compare``.

    Parameters
    ----------
    names : sequence of str
        The names of all estimators.
    outcomes : dict
        Of all tasks.
    refused : mapping
        The errors of estimators that were not fitted.
    left_out : collection of str
        The columns that no fit uses.

    Returns
    -------
    list of CrossValidationResult
        The results, the best ``nll`` first.
    """
    found, refused, changes = {}, dict(refused), {}
    for name in names:
        if name in refused:
            continue
        own = [outcomes[name][number] for number in sorted(outcomes[name])]
        scored = [each for each in own if isinstance(each, FoldScores)]
        for number, each in enumerate(scored):
            for what, counts in each.changes.items():
                changes.setdefault(what, {}).update({(number, column): count for column, count in counts.items()})
        errors = [each for each in own if isinstance(each, Exception)]
        if errors:
            refused[name] = errors[0]
        else:
            found[name] = pool_folds(scored)
    if not found:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        warn(f"{name} is left out: {error}")
    warn_of_changes(changes, left_out)
    best = min((scores["nll"] for scores, *_ in found.values()), key=lambda score: score.value)
    rows = [
        CrossValidationResult(name, scores, metrics.paired(scores["nll"], best), *rest)
        for name, (scores, *rest) in found.items()
    ]
    return sorted(rows, key=lambda row: row.scores["nll"].value)


def interpretation(rows: Sequence[CrossValidationResult]) -> str:
    """Sentences that interpret the results of ``compare``.

    Parameters
    ----------
    rows : sequence of CrossValidationResult
        The results.

    Returns
    -------
    str
        The text.
    """
    cards = [(row.name, row.to_dict()) for row in rows]
    return interpret_comparison(cards, rows[1].difference if len(rows) > 1 else None, discrete=rows[0].discrete)
