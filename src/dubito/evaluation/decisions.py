"""Acting on doubt: telling foreign rows, abstaining, choosing what to label next, choosing what to try.

A score of doubt gives each row of a predictive a number, higher for more doubt. Those of ``UNCERTAINTY_SCORES`` have names:

======================  =============================================================================================
``variance``            Var[y]: noise and doubt about the weights
``aleatoric``           its part that is noise in the data
``epistemic``           its part that is doubt about the weights
``mutual_information``  between y and the weights, in nats; BALD (Houlsby et al. 2011, Gal et al. 2017). For classes
                        H[p̄] − mean H[p_s]; for regression ½ Σ log(variance/aleatoric), as if all were Gaussian
``entropy``             H[p̄] in nats; classes only
``least_confidence``    1 − max p̄; classes only
``variation_ratio``     1 − the share of draws that vote for the modal class; classes only
======================  =============================================================================================

The first three are sums over classes, or means over targets in units of their training variance (``predictive.scale``²).
Instead of a name every function here takes one of your own, predictive -> (n,).
"""

from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from dubito._jax import prng
from dubito.evaluation import metrics
from dubito.evaluation.standard_errors import Score, precision_above, weighted_mean
from dubito.evaluation.validation import check_predictive

LEVELS = 20  # shares of rows that a bound is tried at


def _of_moments(name):
    root = "std" if name == "variance" else f"{name}_std"

    def summed(predictive):
        if predictive.task == "classification":
            return getattr(predictive, name).sum(1)
        return np.mean((getattr(predictive.columnwise, root) / predictive.scale) ** 2, axis=1)

    return summed


def _mutual_information(predictive):
    if predictive.task == "classification":
        return predictive.mutual_information
    answer = predictive.columnwise
    return 0.5 * np.sum(np.log1p((answer.epistemic_std / answer.aleatoric_std) ** 2), axis=1)


UNCERTAINTY_SCORES = {name: _of_moments(name) for name in ("variance", "aleatoric", "epistemic")} | {
    "mutual_information": _mutual_information,
    "entropy": lambda predictive: predictive.entropy,
    "least_confidence": lambda predictive: 1 - predictive.probs.max(1),
    "variation_ratio": lambda predictive: predictive.variation_ratio,
}
OF_CLASSES = ("entropy", "least_confidence", "variation_ratio")
OF_WEIGHTS = ("epistemic", "mutual_information", "variation_ratio")


def uncertainty_score(predictive, score=None):
    """The score of doubt of each row, (n,): a name of ``UNCERTAINTY_SCORES`` or a function predictive -> (n,).

    None is ``least_confidence`` for classes and ``variance`` for regression: of being wrong, for whatever reason. Raises
    ValueError for an unknown name, one that the task has not, and doubt about weights of which there is one draw.
    """
    classes = predictive.task == "classification"
    score = ("least_confidence" if classes else "variance") if score is None else score
    if not callable(score):
        known = [name for name in UNCERTAINTY_SCORES if classes or name not in OF_CLASSES]
        if score not in known:
            raise ValueError(f"score={score!r} is none of {predictive.task}: {', '.join(known)}, or a function")
        if score in OF_WEIGHTS and len(predictive.draws) < 2:
            raise ValueError(f"{score} is doubt about the weights, of which this predictive has one draw only")
        score = UNCERTAINTY_SCORES[score]
    found = np.asarray(score(predictive), np.float64)
    if found.shape != (len(predictive),) or np.any(np.isnan(found)):
        raise ValueError(f"a score of doubt is one number a row, none NaN; got shape {found.shape}")
    return found


def ood_detection(inside, outside, score="epistemic"):
    """How well doubt tells the rows of two predictives apart: Scores by the names ``auroc``, ``aupr`` and ``fpr95``.

    ``inside``: of rows like those trained on; ``outside``: of foreign ones. See ``metrics.ood_auroc`` and its like.
    """
    pair = uncertainty_score(inside, score), uncertainty_score(outside, score)
    measures = {"auroc": metrics.ood_auroc, "aupr": metrics.ood_aupr, "fpr95": metrics.ood_fpr95}
    return {name: measure(*pair) for name, measure in measures.items()}


def losses(predictive, y, loss=None):
    """The loss of each row, (n,): None is 1 for a wrong class, the squared error of regression (the mean over targets, in
    their units); others are the ``rows`` of a score, as ``metrics.nll(predictive, y).rows``. ValueError for what is no loss."""
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    if loss is None and predictive.task == "classification":
        return (predictive.probs.argmax(1) != y).astype(float)
    loss = np.mean((y - predictive.mean) ** 2, axis=1) if loss is None else np.asarray(loss, np.float64)
    if loss.shape != (len(y),) or not np.all(np.isfinite(loss)):
        raise ValueError(f"loss is {len(y)} finite numbers, one a row; got shape {loss.shape}")
    return loss


class RiskCoverage(NamedTuple):
    """What is lost where only rows with a doubt of at most ``threshold`` are answered, from the surest on (all (m,)).

    ``coverage``: the share of rows answered; ``risk``: their mean loss; ``area``: the risk averaged over rows.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    area: Score


def risk_coverage(predictive, y, *, score=None, loss=None, weight=None):
    """The risk-coverage curve, and the area under it with its standard error (El-Yaniv & Wiener 2010).

    ``score`` as for ``uncertainty_score``, ``loss`` as for ``losses``; rows of the same doubt are answered together. Raises ValueError
    for y, loss or weight that do not fit.
    """
    _, _, weight = check_predictive(predictive, y, weight, predictive.task)
    found, loss = uncertainty_score(predictive, score), losses(predictive, y, loss)
    value, slope = precision_above(-found, loss, weight, np.ones(len(loss)))
    area = weighted_mean(value + weight.sum() * slope, weight)
    used = weight > 0
    threshold, place = np.unique(found[used], return_inverse=True)
    mass = np.cumsum(np.bincount(place, weight[used]))
    lost = np.cumsum(np.bincount(place, weight[used] * loss[used]))
    return RiskCoverage(threshold, mass / mass[-1], lost / mass, area)


def threshold(predictive, y, *, coverage=None, risk=None, confidence=None, score=None, loss=None):
    """The doubt up to which to answer, by held-out rows, for a wanted ``coverage`` or for a ``risk`` of at most so much.

    For a coverage the least threshold that answers this share of the rows. For a risk the greatest one with no more among
    the rows answered: new rows will exceed it about as often as not. With ``confidence`` (losses of 0 and 1 only) they
    will not, with this probability: of 20 shares of the rows the greatest whose Clopper-Pearson bound, at 1 − (1 −
    confidence)/20, is at most the risk (a fixed grid for the bound of Geifman & El-Yaniv 2017). −∞: answer nothing.
    """
    if (coverage is None) == (risk is None):
        raise ValueError("give either coverage, a share of rows to answer, or risk, what they may lose in the mean")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, got {coverage!r}")
    if risk is not None and not 0 <= risk < np.inf:
        raise ValueError(f"risk must be at least 0, got {risk!r}")
    if confidence is not None and (risk is None or not 0 < confidence < 1):
        raise ValueError(f"confidence is of a risk, a probability strictly between 0 and 1; got {confidence!r}")
    curve = risk_coverage(predictive, y, score=score, loss=loss)
    if coverage is not None:
        return float(curve.threshold[np.searchsorted(curve.coverage, coverage - 1e-12)])
    fits = curve.risk <= risk
    if confidence is not None:
        answered = np.rint(curve.coverage * len(predictive))
        wrong = curve.risk * answered
        if not np.allclose(wrong, np.rint(wrong), rtol=0, atol=1e-6) or np.any(curve.risk > 1):
            raise ValueError("confidence is of a loss of 0 or 1 a row; regression needs such a loss")
        level = 1 - (1 - confidence) / LEVELS
        bound = np.where(wrong < answered, stats.beta.ppf(level, wrong + 1, np.maximum(answered - wrong, 0.5)), 1.0)
        tried = np.searchsorted(curve.coverage, np.arange(1, LEVELS + 1) / LEVELS - 1e-12)
        fits = (bound <= risk) & np.isin(np.arange(len(bound)), tried)
    return float(curve.threshold[fits][-1]) if np.any(fits) else -np.inf


def acquisition(predictive, count, score="mutual_information"):
    """The rows to label next: the ``count`` of the greatest doubt, the greatest first, each once; equal ones in their order.

    Rows are judged one by one, so several near to each other may be chosen; take few at a time and fit again. With
    Gaussian noise of one size the row of the greatest ``epistemic`` variance is that of the greatest mutual information,
    and for a linear model the D-optimal one (MacKay 1992). Raises ValueError for a count that the rows have not.
    """
    if not (isinstance(count, int | np.integer) and 1 <= count <= len(predictive)):
        raise ValueError(f"count is a whole number from 1 to the {len(predictive)} rows there are; got {count!r}")
    return np.argsort(-uncertainty_score(predictive, score), kind="stable")[:count]


def thompson(predictive, *, key):
    """Thompson sampling (1933): what is best according to one function drawn from the posterior, for exploring by doubt.

    With one target, or two classes, rows are what there is to choose from: the index of the row of the greatest E[y | θ],
    or probability of class 1. With several targets these are the actions and rows the situations: for each row the best
    target, (n,), all by the same function. Each choice wants a key of its own: the function is one of the predictive's
    draws. Noise is left out. Raises ValueError for more than two classes and for no rows.
    """
    count = predictive.columns
    classes = predictive.task == "classification"
    if len(predictive) == 0 or classes and count > 2:
        raise ValueError("thompson chooses among rows, or targets of regression; more than two classes have no order")
    drawn = jax.random.randint(prng.fast(key), (1,), 0, len(predictive.draws))
    z = jax.tree.map(lambda leaf: leaf[0], predictive.draws.at(np.asarray(drawn)))
    values = np.asarray(predictive.likelihood.mean(z), np.float64)
    if classes or count == 1:
        return int(np.argmax(values[:, -1]))
    return np.argmax(predictive.shift + predictive.scale * values, axis=1)
