"""The fits of a comparison: which there are, and their scores, in threads or on an engine."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from sklearn.base import clone, is_classifier

from dubito._check import without_data_warnings
from dubito._jax import programs
from dubito._process.engines import Engine, chosen_engine, run_tasks
from dubito._process.threads import start_jobs, stop_fit, wait_for
from dubito._values import Column, Table
from dubito.estimators.fold_scores import CLASSIFICATION, REGRESSION, Fit, FoldScores, score_fold
from dubito.estimators.row_splits import Split, TableSplits, check_held_out_classes, table_splits
from dubito.tables.frames import take_rows
from dubito.tables.validation import check_lengths

# Results of fits by the name of the estimator and the number of the fold; after an error the folds behind it are missing.
Outcomes: TypeAlias = dict[str, dict[int, FoldScores | Exception]]


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
    engine = chosen_engine() if len(tasks) > 1 else None
    if engine is not None:
        return _run_folds_on(engine, plan, tasks, done)
    outcomes: Outcomes = {}
    with start_jobs(fit_fold, [fold_job(plan, task) for task in tasks]) as fits:
        waiting = dict(zip(tasks, fits, strict=True))
        fits.clear()
        for name, number in tasks:
            fit, own = waiting.pop((name, number)), outcomes.setdefault(name, {})
            if any(isinstance(found, Exception) for found in own.values()):
                fit.cancel()
                continue
            try:
                own[number] = score_task(plan, (name, number), wait_for(fit))
            except (ValueError, ImportError) as error:
                own[number] = error
            else:
                if done is not None:
                    done(name, number)
    return outcomes


def _run_folds_on(
    engine: Engine, plan: Comparison, tasks: Sequence[tuple[str, int]], done: Callable[[str, int], Any] | None
) -> Outcomes:
    """``run_folds`` with a task of an engine for each fit; fold by fold, so that workers start with different methods, which
    compile different programs.
    """
    fold_by_fold = sorted(tasks, key=lambda task: task[1])
    names = [f"fold {number} of {name}" for name, number in fold_by_fold]
    found: dict[tuple[str, int], FoldScores | Exception] = {}
    shared = plan, programs.folder_of_workers()
    with contextlib.closing(run_tasks(engine, _run_fold, shared, fold_by_fold, names)) as results:
        for number, result in results:
            found[fold_by_fold[number]] = result
            if done is not None and not isinstance(result, Exception):
                done(*fold_by_fold[number])
    outcomes: Outcomes = {}
    for name, number in tasks:
        own = outcomes.setdefault(name, {})
        if not any(isinstance(each, Exception) for each in own.values()):
            own[number] = found[name, number]
    return outcomes


def _run_fold(shared: tuple[Comparison, str], task: tuple[str, int], stop: Any) -> FoldScores | Exception:
    """The scores of one fit, or its error, in a worker."""
    plan, folder = shared
    programs.share_programs(folder)
    try:
        return score_task(plan, task, fit_fold(stop, *fold_job(plan, task)))
    except (ValueError, ImportError) as error:
        return error


def fold_job(plan: Comparison, task: tuple[str, int]) -> tuple[Any, ...]:
    """The arguments of ``fit_fold`` after ``stop``.

    Parameters
    ----------
    plan : Comparison
        The comparison.
    task : tuple
        The name of an estimator and the number of a fold.

    Returns
    -------
    tuple
        The arguments.
    """
    name, number = task
    table, each, (train, test) = plan.table, plan.estimators[name], plan.splits[number]
    rows = table.rows[train], table.rows[test]
    return clone_with(each, handle_unknown="ignore"), table.X, plan.y, rows, table.fit_options(each, train)


def score_task(plan: Comparison, task: tuple[str, int], fit: Fit) -> FoldScores:
    """The scores of the fit of a task, on the held-out rows.

    Parameters
    ----------
    plan : Comparison
        The comparison.
    task : tuple
        As for ``fold_job``.
    fit : tuple
        The result of ``fit_fold``.

    Returns
    -------
    FoldScores
        The scores.
    """
    held_out = plan.y[plan.table.rows[plan.splits[task[1]][1]]]
    return score_fold(fit, held_out, CLASSIFICATION if plan.classes else REGRESSION)


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
