"""Acting on uncertainty: detecting out-of-distribution rows, abstaining, choosing what to label next, choosing what to try.

An uncertainty score gives each row of a predictive distribution a number, higher for more uncertainty. Those of
``UNCERTAINTY_SCORES`` have names:

======================  =============================================================================================
``variance``            Var[y]: aleatoric and epistemic
``aleatoric``           its part due to noise in the data
``epistemic``           its part due to uncertainty about the weights
``mutual_information``  between y and the weights, in nats; BALD (Houlsby et al. 2011, Gal et al. 2017). For classes
                        H[p̄] − mean H[p_s]; for regression ½ Σ log(variance/aleatoric), as if all were Gaussian
``entropy``             H[p̄] in nats; classes only
``least_confidence``    1 − max p̄; classes only
``variation_ratio``     1 − the fraction of draws that vote for the modal class; classes only
======================  =============================================================================================

The first three are sums over classes, or means over targets in units of their training variance (``predictive.scale``²).
Instead of a name every function here takes one of your own, predictive -> (n,).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Int
from scipy import stats

from dubito._jax import prng
from dubito._jax.types import Key
from dubito.evaluation import metrics
from dubito.evaluation.standard_errors import Rows, Score, precision_above, weighted_mean
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.predictive_base import PredictiveDistribution

UncertaintyScore: TypeAlias = str | Callable[[Any], Any] | None

LEVELS = 20  # shares of rows that a bound is tried at


def _of_moments(variance: Callable[[Any], Rows], std: Callable[[Any], Rows]) -> Callable[[Any], Rows]:
    """The score of a variance: its sum over classes, or its mean over targets in their standardized units."""

    def summed(predictive: Any) -> Rows:
        if predictive.task == "classification":
            return variance(predictive).sum(1)
        return np.mean((std(predictive.columnwise) / predictive.scale) ** 2, axis=1)

    return summed


def _mutual_information(predictive):
    if predictive.task == "classification":
        return predictive.mutual_information
    answer = predictive.columnwise
    return 0.5 * np.sum(np.log1p((answer.epistemic_std / answer.aleatoric_std) ** 2), axis=1)


UNCERTAINTY_SCORES: dict[str, Any] = {
    "variance": _of_moments(lambda answer: answer.variance, lambda answer: answer.std),
    "aleatoric": _of_moments(lambda answer: answer.aleatoric, lambda answer: answer.aleatoric_std),
    "epistemic": _of_moments(lambda answer: answer.epistemic, lambda answer: answer.epistemic_std),
    "mutual_information": _mutual_information,
    "entropy": lambda predictive: predictive.entropy,
    "least_confidence": lambda predictive: 1 - predictive.probs.max(1),
    "variation_ratio": lambda predictive: predictive.variation_ratio,
}
OF_CLASSES = ("entropy", "least_confidence", "variation_ratio")
OF_WEIGHTS = ("epistemic", "mutual_information", "variation_ratio")


def uncertainty_score(predictive: PredictiveDistribution, score: UncertaintyScore = None) -> Rows:
    """The uncertainty of each row.

    Parameters
    ----------
    predictive
        The predictive distribution of n rows.
    score
        A name of ``UNCERTAINTY_SCORES``, or a function predictive -> (n,). None is ``least_confidence`` for classes and
        ``variance`` for regression: the uncertainty of being wrong, for whatever reason.

    Returns
    -------
    array
        (n,), higher for more uncertainty.

    Raises
    ------
    ValueError
        For an unknown name, one that the task does not have, and epistemic scores of a predictive distribution with one draw.
    """
    classes = predictive.task == "classification"
    score = ("least_confidence" if classes else "variance") if score is None else score
    if not callable(score):
        known = [name for name in UNCERTAINTY_SCORES if classes or name not in OF_CLASSES]
        if score not in known:
            raise ValueError(f"score={score!r} is none of {predictive.task}: {', '.join(known)}, or a function")
        if score in OF_WEIGHTS and len(predictive.draws) < 2:
            raise ValueError(f"{score} is uncertainty about the weights, of which this predictive has one draw only")
    compute: Any = score if callable(score) else UNCERTAINTY_SCORES[score]
    found = np.asarray(compute(predictive), np.float64)
    if found.shape != (len(predictive),) or np.any(np.isnan(found)):
        raise ValueError(f"an uncertainty score is one number a row, none NaN; got shape {found.shape}")
    return found


def ood_detection(
    inside: PredictiveDistribution, outside: PredictiveDistribution, score: UncertaintyScore = "epistemic"
) -> dict[str, Score]:
    """How well an uncertainty score separates the rows of two predictive distributions.

    Parameters
    ----------
    inside
        Of rows like those trained on.
    outside
        Of out-of-distribution rows.
    score
        As for ``uncertainty_score``.

    Returns
    -------
    dict
        Scores by the names ``auroc``, ``aupr`` and ``fpr95``; see ``metrics.ood_auroc`` and its like.
    """
    pair = uncertainty_score(inside, score), uncertainty_score(outside, score)
    measures = {"auroc": metrics.ood_auroc, "aupr": metrics.ood_aupr, "fpr95": metrics.ood_fpr95}
    return {name: measure(*pair) for name, measure in measures.items()}


def losses(predictive: PredictiveDistribution, y: Any, loss: Any = None) -> Rows:
    """The loss of each row.

    Parameters
    ----------
    predictive, y
        As for ``metrics``.
    loss
        (n,), such as the ``rows`` of a score, ``metrics.nll(predictive, y).rows``. None is 1 for a wrong class, and the squared
        error for regression (the mean over targets, in their units).

    Raises
    ------
    ValueError
        For a loss that is not n finite numbers.
    """
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    if loss is None and predictive.task == "classification":
        return (predictive.probs.argmax(1) != y).astype(float)
    loss = np.mean((y - predictive.mean) ** 2, axis=1) if loss is None else np.asarray(loss, np.float64)
    if loss.shape != (len(y),) or not np.all(np.isfinite(loss)):
        raise ValueError(f"loss is {len(y)} finite numbers, one a row; got shape {loss.shape}")
    return loss


class RiskCoverage(NamedTuple):
    """The risk where only rows with an uncertainty of at most ``threshold`` are answered, from the least uncertain on.

    Attributes
    ----------
    threshold
        The uncertainty scores, increasing, (m,).
    coverage
        The fraction of rows answered, (m,).
    risk
        Their mean loss, (m,).
    area
        The risk averaged over rows.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    area: Score


def risk_coverage(
    predictive: PredictiveDistribution, y: Any, *, score: UncertaintyScore = None, loss: Any = None, weight: Any = None
) -> RiskCoverage:
    """The risk-coverage curve, and the area under it with its standard error. Rows with equal scores are answered together.

    Parameters
    ----------
    predictive, y, weight
        As for ``metrics``.
    score
        As for ``uncertainty_score``.
    loss
        As for ``losses``.

    Returns
    -------
    RiskCoverage

    Raises
    ------
    ValueError
        For y, loss or weight that do not fit.

    References
    ----------
    El-Yaniv & Wiener, On the foundations of noise-free selective classification, JMLR 2010.
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


def threshold(
    predictive: PredictiveDistribution,
    y: Any,
    *,
    coverage: float | None = None,
    risk: float | None = None,
    confidence: float | None = None,
    score: UncertaintyScore = None,
    loss: Any = None,
) -> float:
    """The uncertainty up to which to answer, from held-out rows, for a wanted coverage or risk.

    Parameters
    ----------
    predictive, y
        Of held-out rows, as for ``metrics``.
    coverage
        A fraction of rows: the least threshold that answers it is returned.
    risk
        A mean loss: the greatest threshold whose answered rows have no more is returned. New rows will exceed it about as often
        as not.
    confidence
        With a risk, for losses of 0 and 1: the probability that new rows will not exceed it. Of 20 fractions of the rows the
        greatest is taken whose Clopper-Pearson bound, at 1 − (1 − confidence)/20, is at most the risk (a fixed grid for the
        bound of the reference).
    score
        As for ``uncertainty_score``.
    loss
        As for ``losses``.

    Returns
    -------
    float
        −∞ where nothing should be answered.

    References
    ----------
    Geifman & El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017.
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


def acquisition(
    predictive: PredictiveDistribution, count: int, score: UncertaintyScore = "mutual_information"
) -> Int[np.ndarray, "count"]:
    """The rows to label next: those of the greatest uncertainty.

    Rows are judged one by one, so several close to each other may be chosen; take few at a time and fit again. With Gaussian
    noise of one size the row of the greatest ``epistemic`` variance has the greatest mutual information, and for a linear model it
    is the D-optimal one (MacKay 1992).

    Parameters
    ----------
    predictive
        The predictive distribution of the candidates.
    count
        How many rows to choose.
    score
        As for ``uncertainty_score``.

    Returns
    -------
    array
        Indices of rows, the greatest uncertainty first, each once; equal ones in their order.

    Raises
    ------
    ValueError
        Unless count is a whole number from 1 to the number of rows.
    """
    if not (isinstance(count, int | np.integer) and 1 <= count <= len(predictive)):
        raise ValueError(f"count is a whole number from 1 to the {len(predictive)} rows there are; got {count!r}")
    return np.argsort(-uncertainty_score(predictive, score), kind="stable")[:count]


def thompson(predictive: PredictiveDistribution, *, key: Key) -> Any:
    """Thompson sampling: the best choice according to one function drawn from the posterior. Noise is left out.

    Parameters
    ----------
    predictive
        With one target, or two classes, rows are the choices; with several targets these are the choices, for each row.
    key
        Key of the random numbers; a key of its own for each choice, as the function is one of the predictive's draws.

    Returns
    -------
    int or array
        The index of the row of the greatest E[y | θ], or probability of class 1; with several targets for each row the best
        target, (n,), all by the same function.

    Raises
    ------
    ValueError
        For more than two classes, and for no rows.

    References
    ----------
    Thompson, On the likelihood that one unknown probability exceeds another, Biometrika 1933.
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
