"""Leave-one-out cross-validation without fitting again, by Pareto-smoothed importance sampling."""

from typing import NamedTuple

import numpy as np

from dubito.evaluation import diagnostics, metrics
from dubito.evaluation.metrics import Score
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.base import Mixture, Samples, unwrapped
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.normals import LowRankNormal
from dubito.posteriors.reductions import ALL_DRAWS

try:
    from arviz_stats.base.array import array_stats
except ImportError as error:
    raise ImportError("dubito.loo uses arviz-stats: pip install 'dubito[arviz]'") from error

RELIABLE = 0.7  # above this shape a row's weights are too heavy-tailed, whatever the number of draws


class LeaveOneOut(NamedTuple):
    """``nll``: in nats per example as ``metrics.nll``, of rows that the posterior had not seen. ``effective``: the effective number of
    parameters, Σ log p(y_i | all) − log p(y_i | all others). ``shape`` (n,): Pareto's k of each row, reliable up to 0.7; ``unreliable``: how many rows are above."""

    nll: Score
    effective: float
    shape: np.ndarray
    unreliable: int


def leave_one_out(answer, posterior, y):
    """−log p(y_i | all other rows) of the rows trained on, by PSIS (Vehtari, Gelman & Gabry 2017; Vehtari et al. 2024).

    ``answer``: what ``predict`` gave for ``posterior`` at these rows, all of weight 1. The draws must be the posterior's own, a sampler's
    or those of a closed form. Raises ValueError for points, ensembles, mixtures, dropout and SWAG, and for y that does not fit. That
    normals are variational cannot be seen from them: of these the answer is wrong without a sign of it.
    """
    kind, runs = diagnostics.draw_structure(posterior, len(answer.draws))
    refused = (
        (DropoutPosterior, LowRankNormal, Mixture)
        if kind == "chains"
        else (DropoutPosterior, LowRankNormal, Mixture, Samples)
    )
    if isinstance(unwrapped(posterior), refused):
        raise ValueError(
            f"leaving one out needs draws of one posterior, of a sampler; these are of a {type(posterior).__name__}"
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
    score = metrics.weighted_mean(whole + cost, np.ones(len(y)))
    return LeaveOneOut(score, float(cost.sum()), shape, int(np.sum(shape > RELIABLE)))
