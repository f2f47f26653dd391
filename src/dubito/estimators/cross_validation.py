"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from sklearn.base import clone, is_classifier

from dubito._check import warn, without_data_warnings
from dubito._process.threads import start_jobs, stop_fit, wait_for
from dubito._values import Column, Table
from dubito.estimators.fold_scores import (
    CLASSIFICATION,
    REGRESSION,
    Fit,
    FoldScores,
    pool_folds,
    score_fold,
    warn_of_changes,
)
from dubito.estimators.row_splits import Split, TableSplits, check_held_out_classes, table_splits
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import MonteCarloError
from dubito.evaluation.interpretation import Setting, interpret_comparison
from dubito.evaluation.metrics import Score
from dubito.tables.frames import take_rows
from dubito.tables.validation import check_lengths

# Results of fits by the name of the estimator and the number of the fold; after an error the folds behind it are missing.
Outcomes: TypeAlias = dict[str, dict[int, FoldScores | Exception]]


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

    Folds are stratified for classes. As many fits as there are cores run at once, with the same
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


class Comparison(NamedTuple):
    """The fits of a comparison, before any.

    Attributes
    ----------
    estimators : mapping
        Unfitted estimators by name.
    y : array
        The target.
    table : TableSplits
        The rows that are used, and how they may be split.
    splits : list of Split
        The folds.
    classes : bool
        Whether the target consists of classes.
    refused : dict
        The error of each estimator whose likelihood cannot take the target.
    """

    estimators: Mapping[str, Any]
    y: np.ndarray
    table: TableSplits
    splits: list[Split]
    classes: bool
    refused: dict[str, Exception]

    @property
    def tasks(self) -> list[tuple[str, int]]:
        """The name of the estimator and the number of the fold of each fit."""
        return [(name, k) for name in self.estimators if name not in self.refused for k in range(len(self.splits))]

    @property
    def left_out(self) -> list[str]:
        """The columns that no fit uses."""
        return [column.name for column in self.table.schema.columns if column.kind == "left out"]


def plan_comparison(
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
) -> Comparison:
    """The fits of ``compare``, whose parameters and errors these are.

    Parameters
    ----------
    estimators, X, y, folds, seed, groups, times, cv, rows
        As for ``compare``.

    Returns
    -------
    Comparison
        The folds and what to fit.
    """
    y = check_lengths(X, y)
    classes = all(is_classifier(estimator) for estimator in estimators.values())
    policy = "error" if all(each.missing == "error" for each in estimators.values()) else "fill"
    table = table_splits(X, y, groups, times, cv, rows, policy)
    refused = target_errors(estimators, y, table.rows)
    splits = table.folds(y[table.rows], classes, folds, seed, cv)
    if classes:
        check_held_out_classes(y, table.rows, splits)
    return Comparison(estimators, y, table, [*splits], classes, refused)


def run_folds(
    plan: Comparison, tasks: Sequence[tuple[str, int]], done: Callable[[str, int], Any] | None = None
) -> Outcomes:
    """Fit and score some of a comparison's tasks.

    Parameters
    ----------
    plan : Comparison
        The comparison.
    tasks : sequence of tuple
        Some of ``plan.tasks``, in their order.
    done : callable, optional
        Called with the name and the number of the fold after each fit.

    Returns
    -------
    dict
        The scores of each, or the error of the first fit of an estimator that failed.
    """
    table, y, outcomes = plan.table, plan.y, {}
    jobs = []
    for name, number in tasks:
        each, (train, test) = plan.estimators[name], plan.splits[number]
        rows = table.rows[train], table.rows[test]
        jobs.append((clone_with(each, handle_unknown="ignore"), table.X, y, rows, table.fit_options(each, train)))
    with start_jobs(fit_fold, jobs) as fits:
        waiting = dict(zip(tasks, fits, strict=True))
        fits.clear()
        for name, number in tasks:
            fit, own = waiting.pop((name, number)), outcomes.setdefault(name, {})
            if any(isinstance(found, Exception) for found in own.values()):
                fit.cancel()
                continue
            try:
                held_out = y[table.rows[plan.splits[number][1]]]
                own[number] = score_fold(wait_for(fit), held_out, CLASSIFICATION if plan.classes else REGRESSION)
            except (ValueError, ImportError) as error:
                own[number] = error
            else:
                if done is not None:
                    done(name, number)
    return outcomes


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


def clone_with(estimator: Any, **params: Any) -> Any:
    """An unfitted copy of an estimator with other parameters.

    Parameters
    ----------
    estimator : BayesianRegressor or BayesianClassifier
        The estimator.
    **params : object
        Parameters by name.

    Returns
    -------
    BayesianRegressor or BayesianClassifier
        The copy.
    """
    copy: Any = clone(estimator)
    return copy.set_params(**params)


def target_errors(estimators: Mapping[str, Any], y: np.ndarray, rows: np.ndarray) -> dict[str, Exception]:
    """The errors of estimators whose likelihood cannot take a target.

    Parameters
    ----------
    estimators : mapping
        Unfitted estimators by name.
    y : array
        The target, whose rows the errors name.
    rows : array
        The numbers of the rows to use.

    Returns
    -------
    dict
        The error by the estimator's name.
    """
    weight, errors = np.zeros(len(y), np.float32), {}
    weight[rows] = 1
    for name, each in estimators.items():
        try:
            each._encoded_target(y, weight)
        except (ValueError, ImportError) as error:
            errors[name] = error
    return errors


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


def fit_fold(stop: Any, estimator: Any, X: Table, y: np.ndarray, split: Split, options: Mapping[str, Any]) -> Fit:
    """Fit an estimator to the training rows of a split.

    Rows are selected here, so that memory holds those of running fits only.

    Parameters
    ----------
    stop : threading.Event
        Ends the fit when it is set.
    estimator : BayesianRegressor or BayesianClassifier
        An unfitted estimator.
    X, y : frame or array, array
        All rows.
    split : tuple of array
        Numbers of the training and of the held-out rows.
    options : mapping
        Further arguments of ``fit``.

    Returns
    -------
    tuple
        The fitted estimator, the held-out inputs, and the seconds of the fit.
    """
    train, test = split
    inputs, held_out = take_rows(X, train), take_rows(X, test)
    start = time.perf_counter()
    with without_data_warnings():
        fitted = estimator.fit(inputs, y[train], progress=stop_fit(stop), **options)
    return fitted, held_out, time.perf_counter() - start
