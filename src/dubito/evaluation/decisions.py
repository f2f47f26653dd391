"""Acting on uncertainty: out-of-distribution detection, abstaining, active learning, Thompson sampling.

An uncertainty score is one number per row of a predictive distribution, larger for more uncertain
rows. Those of ``UNCERTAINTY_SCORES`` have names:

======================  ============================================================================
``variance``            Var[y]: aleatoric and epistemic
``aleatoric``           its part due to noise in the data
``epistemic``           its part due to uncertainty about the weights
``mutual_information``  between y and the weights, in nats; BALD (Houlsby et al. 2011, Gal et al.
                        2017). For classes H[p̄] − mean H[p_s]; for regression
                        ½ Σ log(variance/aleatoric), as if all were Gaussian
``entropy``             H[p̄] in nats; classes only
``least_confidence``    1 − max p̄; classes only
``variation_ratio``     1 − the fraction of draws that vote for the modal class; classes only
======================  ============================================================================

The first three are sums over classes, or means over targets in units of their training variance
(``predictive.scale``²). Every function here also takes your own function predictive -> (n,) in
place of a name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Int
from scipy import stats

from dubito._check import check_whole
from dubito._jax import prng
from dubito._jax.types import Key
from dubito.evaluation import metrics
from dubito.evaluation.standard_errors import Score, precision_above, weighted_mean
from dubito.evaluation.validation import check_predictive, number_array
from dubito.posteriors.predictive_base import PredictiveDistribution, Rows
from dubito.posteriors.transformed import TransformedMixture

UncertaintyScore: TypeAlias = str | Callable[[Any], Any] | None

LEVELS = 20  # fractions of rows at which a bound is evaluated


def _total(predictive: Any, variance: np.ndarray, std: np.ndarray) -> Rows:
    """The sum of a variance over classes, or its mean over targets in their standardized units."""
    if predictive.task == "classification":
        return variance.sum(1)
    mixture = predictive.mixture
    unit = mixture.unit if isinstance(mixture, TransformedMixture) else predictive.scale
    return np.mean((std / unit) ** 2, axis=1)


def _mutual_information(predictive: Any) -> Rows:
    if predictive.task == "classification":
        return predictive.mutual_information
    answer = predictive.columnwise
    return 0.5 * np.sum(np.log1p((answer.epistemic_std / answer.aleatoric_std) ** 2), axis=1)


UNCERTAINTY_SCORES: dict[str, Callable[[Any], Rows]] = {
    "variance": lambda answer: _total(answer, answer.variance, answer.columnwise.std),
    "aleatoric": lambda answer: _total(answer, answer.aleatoric, answer.columnwise.aleatoric_std),
    "epistemic": lambda answer: _total(answer, answer.epistemic, answer.columnwise.epistemic_std),
    "mutual_information": _mutual_information,
    "entropy": lambda answer: answer.entropy,
    "least_confidence": lambda answer: 1 - answer.probs.max(1),
    "variation_ratio": lambda answer: answer.variation_ratio,
}
CLASS_SCORES = ("entropy", "least_confidence", "variation_ratio")
WEIGHT_SCORES = ("epistemic", "mutual_information", "variation_ratio")


def uncertainty_score(predictive: PredictiveDistribution, score: UncertaintyScore = None) -> Rows:
    """The uncertainty of each row.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of n rows.
    score : str or callable, optional
        A name of ``UNCERTAINTY_SCORES``, or a function predictive -> (n,). None is
        ``least_confidence`` for classes and ``variance`` for regression: the uncertainty from all
        sources.

    Returns
    -------
    array
        (n,), larger for more uncertain rows.

    Raises
    ------
    ValueError
        For an unknown name, one that the task does not have, and epistemic scores of a predictive
        distribution with one draw.
    """
    classes = predictive.task == "classification"
    if score is None:
        score = "least_confidence" if classes else "variance"
    if not callable(score):
        known = [name for name in UNCERTAINTY_SCORES if classes or name not in CLASS_SCORES]
        if score not in known:
            names = ", ".join(known)
            raise ValueError(f"{predictive.task} has no score={score!r}. Choose one of {names}, or pass a function.")
        if score in WEIGHT_SCORES and len(predictive.draws) < 2:
            problem = f"{score} measures epistemic uncertainty, but this predictive has only one draw of the weights"
            raise ValueError(problem)
    compute = score if callable(score) else UNCERTAINTY_SCORES[score]
    found = number_array("an uncertainty score", compute(predictive), len(predictive))
    if np.any(np.isnan(found)):
        raise ValueError("an uncertainty score must be one number per row without NaN")
    return found


def ood_detection(
    in_distribution: Any, out_of_distribution: Any, score: UncertaintyScore = "epistemic"
) -> dict[str, Score]:
    """How well an uncertainty score separates the rows of two predictive distributions.

    Parameters
    ----------
    in_distribution : PredictiveDistribution
        The predictive distribution of rows like those of training.
    out_of_distribution : PredictiveDistribution
        That of out-of-distribution rows.
    score : str or callable, optional
        As for ``uncertainty_score``.

    Returns
    -------
    dict
        Scores by the names ``auroc``, ``aupr`` and ``fpr95``; see ``metrics.ood_auroc`` etc.
    """
    pair = uncertainty_score(in_distribution, score), uncertainty_score(out_of_distribution, score)
    measures = {"auroc": metrics.ood_auroc, "aupr": metrics.ood_aupr, "fpr95": metrics.ood_fpr95}
    return {name: measure(*pair) for name, measure in measures.items()}


def losses(predictive: PredictiveDistribution, y: Any, loss: Any = None) -> Rows:
    """The loss of each row.

    Parameters
    ----------
    predictive, y : as for ``metrics``
    loss : array, optional
        (n,), such as the ``rows`` of a score, ``metrics.nll(predictive, y).rows``. None is 1 for a
        wrong class, and the squared error for regression (the mean over targets, in their units).

    Returns
    -------
    array
        (n,).

    Raises
    ------
    ValueError
        For y that does not fit, and for a loss that is not n finite numbers.
    """
    predictive, y, _ = check_predictive(predictive, y, None, predictive.task)
    if loss is not None:
        loss = number_array("loss", loss, len(y))
    elif predictive.task == "classification":
        loss = (predictive.probs.argmax(1) != y).astype(float)
    else:
        loss = np.mean((y - predictive.mean) ** 2, axis=1)
    if not np.all(np.isfinite(loss)):
        raise ValueError(f"loss must be {len(y)} finite numbers, one for each row")
    return loss


class RiskCoverage(NamedTuple):
    """The risk if only rows with an uncertainty of at most ``threshold`` are answered, from the least uncertain on.

    Attributes
    ----------
    threshold : array
        The uncertainty scores, increasing, (m,).
    coverage : array
        The fraction of rows answered, (m,).
    risk : array
        Their mean loss, (m,).
    area : Score
        The risk averaged over rows.
    """

    threshold: np.ndarray
    coverage: np.ndarray
    risk: np.ndarray
    area: Score


def risk_coverage(
    predictive: PredictiveDistribution, y: Any, *, score: UncertaintyScore = None, loss: Any = None, weight: Any = None
) -> RiskCoverage:
    """The risk-coverage curve, and the area under it with its standard error.

    Rows with equal scores are answered together.

    Parameters
    ----------
    predictive, y, weight : as for ``metrics``
    score : str or callable, optional
        As for ``uncertainty_score``.
    loss : array, optional
        As for ``losses``.

    Returns
    -------
    RiskCoverage
        The curve and the area under it.

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
    """A threshold on the uncertainty, from held-out rows, for a given coverage or risk.

    Parameters
    ----------
    predictive, y : as for ``metrics``
        Of held-out rows.
    coverage : float, optional
        A fraction of rows: the smallest threshold that answers it is returned.
    risk : float, optional
        A mean loss: the largest threshold whose answered rows have at most this loss is returned.
        New rows will exceed it in about half of all cases.
    confidence : float, optional
        With a risk, for losses of 0 and 1: the probability that new rows will not exceed it. Of 20
        fractions of the rows the largest is taken whose Clopper-Pearson bound, at
        1 − (1 − confidence)/20, is at most the risk (a fixed grid for the bound of the reference).
    score : str or callable, optional
        As for ``uncertainty_score``.
    loss : array, optional
        As for ``losses``.

    Returns
    -------
    float
        −∞ if nothing should be answered.

    Raises
    ------
    ValueError
        Unless either a coverage or a risk is given, within their bounds, and for a loss that does
        not fit.

    References
    ----------
    Geifman & El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017.
    """
    if (coverage is None) == (risk is None):
        raise ValueError("give either coverage (the fraction of rows to answer) or risk (their largest mean loss)")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, got {coverage!r}")
    if risk is not None and not 0 <= risk < np.inf:
        raise ValueError(f"risk must be at least 0, got {risk!r}")
    if confidence is not None and (risk is None or not 0 < confidence < 1):
        raise ValueError(f"confidence needs risk, and must be strictly between 0 and 1; got {confidence!r}")
    curve = risk_coverage(predictive, y, score=score, loss=loss)
    if coverage is not None:
        return float(curve.threshold[np.searchsorted(curve.coverage, coverage - 1e-12)])
    fits = curve.risk <= risk
    if confidence is not None:
        answered = np.rint(curve.coverage * len(predictive))
        wrong = curve.risk * answered
        if not np.allclose(wrong, np.rint(wrong), rtol=0, atol=1e-6) or np.any(curve.risk > 1):
            raise ValueError("confidence needs a loss of 0 or 1 for each row; for regression pass such a loss")
        level = 1 - (1 - confidence) / LEVELS
        bound = np.where(wrong < answered, stats.beta.ppf(level, wrong + 1, np.maximum(answered - wrong, 0.5)), 1.0)
        tried = np.searchsorted(curve.coverage, np.arange(1, LEVELS + 1) / LEVELS - 1e-12)
        fits = (bound <= risk) & np.isin(np.arange(len(bound)), tried)
    return float(curve.threshold[fits][-1]) if np.any(fits) else -np.inf


def acquisition(
    predictive: PredictiveDistribution, count: int, score: UncertaintyScore = "mutual_information"
) -> Int[np.ndarray, " count"]:
    """The rows to label next: those with the largest uncertainty.

    Rows are judged one by one, so several close to each other may be chosen; take few at a time and
    fit again. With Gaussian noise of one size the row with the largest ``epistemic`` variance has
    the largest mutual information, and for a linear model it is the D-optimal one (MacKay 1992).

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of the candidates.
    count : int
        How many rows to choose.
    score : str or callable, optional
        As for ``uncertainty_score``.

    Returns
    -------
    array
        Indices of rows, the most uncertain first, each once; equal ones in their order.

    Raises
    ------
    ValueError
        Unless count is a whole number from 1 to the number of rows.
    """
    check_whole("count (rows to choose)", count, 1, len(predictive))
    return np.argsort(-uncertainty_score(predictive, score), kind="stable")[:count]


def thompson(predictive: PredictiveDistribution, *, key: Key) -> Any:
    """Thompson sampling: the best choice according to one function drawn from the posterior, without noise.

    Parameters
    ----------
    predictive : PredictiveDistribution
        With one target or two classes, the choices are the rows; with several targets, the
        targets of each row.
    key : jax.Array
        Key of the random numbers, another one for each choice, as the function is one of the
        predictive's draws.

    Returns
    -------
    int or array
        The index of the row with the largest E[y | θ], or probability of class 1; with several
        targets for each row the best target, (n,), all by the same function.

    Raises
    ------
    ValueError
        For more than two classes, and for no rows.

    References
    ----------
    Thompson, On the likelihood that one unknown probability exceeds another, Biometrika 1933.
    """
    classes = predictive.task == "classification"
    if len(predictive) == 0 or classes and predictive.columns > 2:
        raise ValueError("thompson needs rows of regression or two classes; more than two classes have no order")
    drawn = jax.random.randint(prng.fast(key), (1,), 0, len(predictive.draws))
    if isinstance(predictive.mixture, TransformedMixture):
        values = predictive.mixture.moments_of_draws()[0][:, int(drawn[0])]
    else:
        z = jax.tree.map(lambda leaf: leaf[0], predictive.draws.at(np.asarray(drawn)))
        values = np.asarray(predictive.likelihood.mean(z), np.float64)
    if classes or predictive.columns == 1:
        return int(np.argmax(values[:, -1]))
    return np.argmax(predictive.shift + predictive.scale * values, axis=1)
