"""Cross-validation of several estimators on the same folds, with paired differences to the best."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.utils.validation import _num_samples

from dubito._check import DataError, DataWarning, list_first, warn, without_data_warnings
from dubito._process.threads import start_jobs, stop_fit, wait_for
from dubito._values import Column, Table, as_array
from dubito.estimators.row_splits import Split, check_held_out_classes, table_splits
from dubito.evaluation import metrics
from dubito.evaluation.diagnostics import MonteCarloError, monte_carlo
from dubito.evaluation.interpretation import Setting, draws_setting, interpret_comparison
from dubito.evaluation.metrics import Score
from dubito.evaluation.standard_errors import root_mean_square
from dubito.evaluation.validation import check_observed
from dubito.tables.columns import warn_about_columns
from dubito.tables.frames import take_rows
from dubito.tables.schema import FILLED, UNKNOWN

Metrics: TypeAlias = Mapping[str, Callable[..., Score]]
Fit: TypeAlias = tuple[Any, Any, float]  # the fitted estimator, the held-out inputs, the seconds of the fit

LEFT_OUT = "Left out in a fold, of which nearly every training row has another text, or none has a value"
REGRESSION: Metrics = {score.__name__: score for score in (metrics.rmse, metrics.mae, metrics.nll, metrics.crps)}
REGRESSION = {**REGRESSION, "coverage_90": metrics.coverage, "mean_width_90": metrics.width}
PROBABILITIES = (metrics.accuracy, metrics.confidence, metrics.nll, metrics.brier, metrics.ece)
CLASSIFICATION: Metrics = {score.__name__: score for score in PROBABILITIES}


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
    y = check_lengths(X, y)
    classes = all(is_classifier(estimator) for estimator in estimators.values())
    policy = "error" if all(each.missing == "error" for each in estimators.values()) else "fill"
    table = table_splits(X, y, groups, times, cv, rows, policy)
    refused = target_errors(estimators, y, table.rows)
    splits = table.folds(y[table.rows], classes, folds, seed, cv)
    if classes:
        check_held_out_classes(y, table.rows, splits)
    targets, wanted = [y[table.rows[test]] for _, test in splits], CLASSIFICATION if classes else REGRESSION
    found, changes = {}, {}
    chosen = [(each, *split) for name, each in estimators.items() if name not in refused for split in splits]
    jobs = [
        (
            clone_with(each, handle_unknown="ignore"),
            table.X,
            y,
            (table.rows[train], table.rows[test]),
            table.fit_options(each, train),
        )
        for each, train, test in chosen
    ]
    with start_jobs(fit_fold, jobs) as fits:
        for name in estimators:
            if name in refused:
                continue
            own = [fits.popleft() for _ in splits]
            try:
                found[name] = score_fits(own, targets, wanted, done and partial(done, name), changes)
            except (ValueError, ImportError) as error:
                refused[name] = error
                for one in own:
                    one.cancel()
    if not found:
        raise next(iter(refused.values()))
    for name, error in refused.items():
        warn(f"{name} is left out: {error}")
    _warn_of_changes(changes, {column.name for column in table.schema.columns if column.kind == "left out"})
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


def check_lengths(X: Table, y: Column) -> np.ndarray:
    """Check that a target has as many rows as its table.

    Parameters
    ----------
    X : frame or array
        The table.
    y : array
        The target (rows,) or (rows, targets).

    Returns
    -------
    array
        The target.

    Raises
    ------
    DataError
        If the numbers of rows differ.
    """
    y = np.asarray(as_array(y))
    rows = _num_samples(X)
    if y.ndim == 0 or rows != len(y):
        count = f"has {len(y)}" if y.ndim else f"is {y.item()!r}"
        raise DataError(f"X has {rows} rows, but y {count}. Pass one target for each row.")
    return y


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


def _warn_of_changes(changes: Mapping[str, Mapping[tuple[int, str], int]], left_out: Collection[str]) -> None:
    """Warn of missing values and categories that no training row of a fold has, counted by (fold, column), and of
    columns that a fold leaves out, but not all rows (``left_out``).
    """
    others = sorted({column for _, column in changes.get(LEFT_OUT, {})} - {*left_out})
    warn_about_columns(LEFT_OUT, [repr(name) for name in others])
    what = {
        FILLED: "missing values of columns that have none in the training rows of a fold are encoded as means or no category",
        UNKNOWN: "categories that the training rows of a fold do not have are encoded as zeros",
    }
    for kind, text in what.items():
        totals = Counter()
        for (_, column), count in changes.get(kind, {}).items():
            totals[column] += count
        if totals:
            warn(f"{text}: {list_first([f'{totals[column]} of {column!r}' for column in sorted(totals)])}", DataWarning)


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


def score_fits(
    fits: Sequence[Future[Fit]],
    targets: Sequence[np.ndarray],
    wanted: Metrics,
    done: Callable[[int], Any] | None,
    changes: dict[str, dict[tuple[int, str], int]],
) -> tuple[Any, ...]:
    """Score one estimator's fits, each on its held-out rows.

    Parameters
    ----------
    fits : sequence of Future
        The result of ``fit_fold`` for each fold.
    targets : sequence of array
        y of the held-out rows of each fold.
    wanted : mapping
        Functions of the scores by name.
    done : callable, optional
        Called with the number of the fold after each.
    changes : dict
        Receives the counts of ``Schema.encode_and_count`` of each fold: {what: {(fold, column): count}}.

    Returns
    -------
    tuple
        The fields of ``CrossValidationResult`` without ``name`` and ``difference``.
    """
    parts, errors, seconds, unsure, discrete = {key: [] for key in wanted}, [], [], [], False
    for number, (fit, y) in enumerate(zip(fits, targets, strict=True)):
        fitted, inputs, spent = wait_for(fit)
        _, found = fitted.schema_.encode_and_count(inputs, "ignore", fitted.missing)
        found |= {LEFT_OUT: {column.name: 1 for column in fitted.schema_.columns if column.kind == "left out"}}
        for what, counts in found.items():
            changes.setdefault(what, {}).update({(number, column): count for column, count in counts.items()})
        with without_data_warnings():
            answer = fitted.predictive(inputs)
        for key, score in wanted.items():
            parts[key].append(score(answer, y))
        if "rmse" in wanted:
            each, values, weight, observed = check_observed(answer, y, None)
            errors.append((values - each.mean, observed, weight))
        seconds.append(spent)
        error = monte_carlo(answer, fitted.posterior_, y)
        unsure.append((error, draws_setting(error, fitted)))
        discrete = answer.discrete
        if done is not None:
            done(number)

    def size(one: tuple[MonteCarloError, Setting | None]) -> tuple[bool, float]:
        return (not one[0].enough, np.nan_to_num(one[0].excess)) if one[0].kind != "point" else (False, 0.0)

    pooled = {key: pool_scores(scores) for key, scores in parts.items()}
    if errors:  # the root is not a mean over rows: that of all rows is above the mean of the folds' roots
        pooled["rmse"] = root_mean_square(*(np.concatenate(arrays) for arrays in zip(*errors, strict=True)))
    return pooled, float(np.median(seconds)), *max(unsure, key=size), discrete


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


def pool_scores(scores: Sequence[Score]) -> Score:
    """The scores of disjoint rows as one score of all rows.

    Parameters
    ----------
    scores : sequence of Score
        A score of each set of rows.

    Returns
    -------
    Score
        Their mean over all rows.
    """
    rows = np.concatenate([score.rows for score in scores if score.rows is not None])
    return Score(float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows))), rows)
