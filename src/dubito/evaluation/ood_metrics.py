"""Scores of detecting rows outside the training distribution, from one number for each row."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dubito.evaluation.standard_errors import Score, area_under_roc, precision_above


def ood_auroc(inside: Any, outside: Any) -> Score:
    """P(a row outside scores higher than one inside), the area under the ROC curve, with DeLong's standard error.

    Parameters
    ----------
    inside, outside
        Scores of the rows inside and outside the training distribution, 1-D, higher for outside.
    """
    return _ood_score(inside, outside, area_under_roc)


def ood_aupr(inside: Any, outside: Any) -> Score:
    """Average precision of detecting the rows outside; it depends on their fraction of all.

    Parameters
    ----------
    inside, outside
        Scores of the rows inside and outside the training distribution, 1-D, higher for outside.
    """
    return _ood_score(inside, outside, lambda score, found, weight: precision_above(score, found, weight, found))


def ood_fpr95(inside: Any, outside: Any) -> Score:
    """Fraction of rows inside that are flagged by the highest threshold that flags 95 % of the rows outside.

    Without a standard error.

    Parameters
    ----------
    inside, outside
        Scores of the rows inside and outside the training distribution, 1-D, higher for outside.
    """
    score, found = _two_samples(inside, outside)
    threshold = np.sort(score[found > 0])[np.count_nonzero(found) // 20]
    return Score(float(np.mean(score[found == 0] >= threshold)), np.nan, None)


def _ood_score(inside: Any, outside: Any, measure: Callable) -> Score:
    """The score of a measure(score, found, weight) -> (value, slope); the two samples are of fixed sizes."""
    score, found = _two_samples(inside, outside)
    value, slope = measure(score, found, np.ones(len(score)))
    parts = (slope[found == 0], slope[found > 0])
    se = np.sqrt(sum(len(part) * np.var(part, ddof=1) for part in parts)) if min(map(len, parts)) > 1 else np.nan
    return Score(value, float(se), value + len(score) * slope)


def _two_samples(inside: Any, outside: Any) -> tuple[np.ndarray, np.ndarray]:
    parts = [np.asarray(part, np.float64) for part in (inside, outside)]
    if any(part.ndim != 1 or len(part) == 0 or np.any(np.isnan(part)) for part in parts):
        raise ValueError("scores inside and outside are 1-D arrays of at least one number, none of them NaN")
    return np.concatenate(parts), np.repeat([0.0, 1.0], [len(part) for part in parts])
