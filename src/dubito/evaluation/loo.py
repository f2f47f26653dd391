"""Leave-one-out cross-validation without fitting again, by Pareto-smoothed importance sampling."""

from typing import Any, NamedTuple

import numpy as np

from dubito.evaluation import diagnostics
from dubito.evaluation.standard_errors import Score, weighted_mean
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.base import Mixture, Posterior, Samples, unwrapped
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.normals import LowRankNormal
from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.posteriors.reductions import ALL_DRAWS

try:
    from arviz_stats.base.array import array_stats
except ImportError as error:
    raise ImportError("dubito.loo uses arviz-stats: pip install 'dubito[arviz]'") from error

RELIABLE = 0.7  # above this shape a row's weights are too heavy-tailed, whatever the number of draws


class LeaveOneOut(NamedTuple):
    """What leaving each row out gives.

    Attributes
    ----------
    nll
        In nats per example as ``metrics.nll``, of rows that the posterior was not fitted to.
    effective
        The effective number of parameters, Σ log p(y_i | all) − log p(y_i | all others).
    shape
        Pareto's k of each row, (n,): reliable up to 0.7.
    unreliable
        How many rows have a larger k.
    """

    nll: Score
    effective: float
    shape: np.ndarray
    unreliable: int


def leave_one_out(answer: PredictiveDistribution, posterior: Posterior, y: Any) -> LeaveOneOut:
    """Leave-one-out cross-validation, −log p(y_i | all other rows), by Pareto-smoothed importance sampling.

    The draws must be the posterior's own, of a sampler or of a posterior in closed form. Whether a normal is a variational
    approximation cannot be detected: of such a posterior the result is wrong without a warning.

    Parameters
    ----------
    answer
        What ``predict`` returned for ``posterior`` at the rows it was fitted to, all of weight 1.
    posterior
        The posterior.
    y
        The rows' targets, labels or codes.

    Returns
    -------
    LeaveOneOut

    Raises
    ------
    ValueError
        For points, ensembles, mixtures, dropout and SWAG, and for y that does not fit.

    References
    ----------
    Vehtari, Gelman & Gabry, Practical Bayesian model evaluation using leave-one-out cross-validation, Statistics and Computing
    2017. Vehtari, Simpson, Gelman, Yao & Gabry, Pareto smoothed importance sampling, JMLR 2024.
    """
    kind, runs = diagnostics.draw_structure(posterior, len(answer.draws))
    refused = (
        (DropoutPosterior, LowRankNormal, Mixture)
        if kind == "chains"
        else (DropoutPosterior, LowRankNormal, Mixture, Samples)
    )
    if isinstance(unwrapped(posterior), refused):
        raise ValueError(
            f"leave-one-out needs draws of one posterior, of a sampler; these are of a {type(posterior).__name__}"
        )
    answer, y, _ = check_predictive(answer, y, None, answer.task, marked=True)
    whole, parts, start = -answer.log_prob(y), [], 0
    for part in answer.by_rows():
        rows = slice(start, start := start + len(part))
        logs = part.log_densities(ALL_DRAWS, y[rows])
        share = np.ones(len(part))  # of the draws, as good as independent
        if kind == "chains":
            density = np.exp(logs - logs.max(1, keepdims=True))[:, :, None]
            share = diagnostics.by_columns(diagnostics.ess, runs, density) / logs.shape[1]
        found = array_stats.loo(logs[:, None], r_eff=float(np.mean(share)))
        inside = np.logaddexp.reduce(logs, axis=1) - np.log(logs.shape[1])
        parts.append(np.stack([inside - found[0], found[1]]))  # what leaving out costs is in no units
    cost, shape = np.concatenate(parts, axis=1)
    score = weighted_mean(whole + cost, np.ones(len(y)))
    return LeaveOneOut(score, float(cost.sum()), shape, int(np.sum(shape > RELIABLE)))
