"""Leave-one-out cross-validation without fitting again, by Pareto-smoothed importance sampling."""

from typing import Any, NamedTuple

import numpy as np

from dubito.evaluation import diagnostics
from dubito.evaluation.standard_errors import Score, weighted_mean
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.base import Mixture, Posterior, Samples, unwrapped
from dubito.posteriors.draw_mixture import ALL_DRAWS
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.normals import LowRankNormal
from dubito.posteriors.predictive_base import PredictiveDistribution

try:
    from arviz_stats.base.array import array_stats
except ImportError as error:
    raise ImportError("dubito.loo uses arviz-stats: pip install 'dubito[arviz]'") from error

MAX_SHAPE = 0.7  # above it the weights of a row are too heavy-tailed, whatever the number of draws


class LeaveOneOut(NamedTuple):
    """The result of leave-one-out cross-validation.

    Attributes
    ----------
    nll : Score
        In nats per example as ``metrics.nll``, for rows that the posterior was not fitted to.
    effective : float
        The effective number of parameters, Σ log p(y_i | all) − log p(y_i | all others).
    shape : array
        Pareto's k of each row, (n,): reliable up to 0.7.
    unreliable : int
        How many rows have a larger k.
    """

    nll: Score
    effective: float
    shape: np.ndarray
    unreliable: int


def leave_one_out(answer: PredictiveDistribution, posterior: Posterior, y: Any) -> LeaveOneOut:
    """Leave-one-out cross-validation, −log p(y_i | all other rows), by Pareto-smoothed importance sampling.

    The draws must be those of a sampler, or of a posterior in closed form. Whether a normal is a
    variational approximation cannot be detected: for such a posterior the result is wrong without a
    warning.

    Parameters
    ----------
    answer : PredictiveDistribution
        The result of ``predict`` for ``posterior`` at the rows it was fitted to, all of weight 1.
    posterior : Posterior
        The posterior.
    y : array
        The targets, labels or codes of the rows.

    Returns
    -------
    LeaveOneOut
        The cross-validated NLL and its diagnostics.

    Raises
    ------
    ValueError
        For points, ensembles, mixtures, dropout and SWAG, and for y that does not fit.

    References
    ----------
    Vehtari, Gelman & Gabry, Practical Bayesian model evaluation using leave-one-out
    cross-validation, Statistics and Computing 2017. Vehtari, Simpson, Gelman, Yao & Gabry, Pareto
    smoothed importance sampling, JMLR 2024.
    """
    kind, runs = diagnostics.draw_structure(posterior, len(answer.draws))
    inner = unwrapped(posterior)
    points = isinstance(inner, Samples) and kind != "chains"
    if points or isinstance(inner, DropoutPosterior | LowRankNormal | Mixture):
        problem = "leave-one-out cross-validation needs draws of one posterior by a sampler"
        raise ValueError(f"{problem}; got a {type(posterior).__name__}")
    answer, y, _ = check_predictive(answer, y, None, answer.task, marked=True)
    parts, start = [], 0
    for part in answer.by_rows():
        logs = part.mixture.log_densities(ALL_DRAWS, y[start : start + len(part)])
        start, share = start + len(part), np.ones(len(part))  # of the draws, as good as independent
        if kind == "chains":
            density = np.exp(logs - logs.max(1, keepdims=True))[:, :, None]
            share = diagnostics.by_columns(diagnostics.ess, runs, density) / logs.shape[1]
        found = array_stats.loo(logs[:, None], r_eff=float(np.mean(share)))
        within = np.logaddexp.reduce(logs, axis=1) - np.log(logs.shape[1])
        parts.append(np.stack([within - found[0], found[1]]))  # the cost of leaving out has no unit
    cost, shape = np.concatenate(parts, axis=1)
    score = weighted_mean(cost - answer.log_prob(y), np.ones(len(y)))
    return LeaveOneOut(score, float(cost.sum()), shape, int(np.sum(shape > MAX_SHAPE)))
