"""Scores of out-of-distribution detection, from one uncertainty score for each row."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dubito._check import DataError
from dubito.evaluation.standard_errors import Score, area_under_roc, precision_above
from dubito.evaluation.validation import number_array
from dubito.posteriors.predictive_base import Rows


def ood_auroc(in_distribution: Any, out_of_distribution: Any) -> Score:
    """P(an out-of-distribution row scores higher than an in-distribution one), the area under the ROC curve.

    Parameters
    ----------
    in_distribution, out_of_distribution : array
        Uncertainty scores of the rows, 1-D, higher for out-of-distribution rows.

    Returns
    -------
    Score
        With DeLong's standard error.
    """
    return _ood_score(in_distribution, out_of_distribution, area_under_roc)


def ood_aupr(in_distribution: Any, out_of_distribution: Any) -> Score:
    """Average precision of detecting out-of-distribution rows; it depends on their fraction of all rows.

    Parameters
    ----------
    in_distribution, out_of_distribution : array
        Uncertainty scores of the rows, 1-D, higher for out-of-distribution rows.

    Returns
    -------
    Score
        With its standard error for samples of fixed sizes.
    """

    def average_precision(score: Rows, found: Rows, weight: Rows) -> tuple[float, Rows]:
        return precision_above(score, found, weight, found)

    return _ood_score(in_distribution, out_of_distribution, average_precision)


def ood_fpr95(in_distribution: Any, out_of_distribution: Any) -> Score:
    """Fraction of in-distribution rows that are flagged by the highest threshold that flags 95 % of the others.

    Parameters
    ----------
    in_distribution, out_of_distribution : array
        Uncertainty scores of the rows, 1-D, higher for out-of-distribution rows.

    Returns
    -------
    Score
        Without a standard error.
    """
    score, found = _two_samples(in_distribution, out_of_distribution)
    threshold = np.sort(score[found > 0])[np.count_nonzero(found) // 20]
    return Score(float(np.mean(score[found == 0] >= threshold)), np.nan, None)


def _ood_score(in_distribution: Any, out_of_distribution: Any, measure: Callable[..., tuple[float, Rows]]) -> Score:
    """The score of a measure(score, found, weight) -> (value, slope); the two samples are of fixed sizes."""
    score, found = _two_samples(in_distribution, out_of_distribution)
    value, slope = measure(score, found, np.ones(len(score)))
    parts = slope[found == 0], slope[found > 0]
    se = np.sqrt(sum(len(part) * np.var(part, ddof=1) for part in parts)) if min(map(len, parts)) > 1 else np.nan
    return Score(value, float(se), value + len(score) * slope)


def _two_samples(in_distribution: Any, out_of_distribution: Any) -> tuple[Rows, Rows]:
    """(scores, 1.0 for out-of-distribution rows and else 0.0)."""
    names = {"in_distribution": in_distribution, "out_of_distribution": out_of_distribution}
    parts = [number_array(name, values) for name, values in names.items()]
    if any(len(part) == 0 or np.any(np.isnan(part)) for part in parts):
        raise DataError("in_distribution and out_of_distribution need at least one number each, and no NaN")
    return np.concatenate(parts), np.repeat([0.0, 1.0], [len(part) for part in parts])
