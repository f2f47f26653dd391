"""The evidence lower bound of a variational posterior on all the data, with its Monte Carlo error."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from scipy.special import digamma, gammaln

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito._jax.types import ArrayLike, Key
from dubito._process.threads import check_process
from dubito.evaluation.metrics import Score
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.model import Batch
from dubito.models.priors import is_proper
from dubito.posteriors.base import Posterior
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.normals import DiagonalNormal, FullCovarianceNormal, LowRankNormal
from dubito.training.data import check_rows


def elbo(posterior: Posterior, x: ArrayLike, y: ArrayLike, *, key: Key, draws: int = 100, weight: Any = None) -> Score:
    """The evidence lower bound E_q[log p(D, θ)] + H[q] ≤ log p(D).

    log p(D) = ELBO + KL(q ‖ p(θ | D)): of two posteriors of one model and data the one with the
    higher bound is closer to the true posterior. For two models the bounds are compared, not the
    evidence.

    Parameters
    ----------
    posterior : Posterior
        A ``DiagonalNormal``, ``LowRankNormal`` or ``FullCovarianceNormal``, or one of the first two
        in a ``GammaNoisePosterior``: those whose entropy H has a closed form.
    x, y : array
        All rows (n, D) and their targets in the model's units.
    key : jax.Array
        Key of the random numbers.
    draws : int
        How many draws of the parameters, at least 2.
    weight : array, optional
        Weights of the rows, (n,); None: all 1.

    Returns
    -------
    Score
        In nats, with the standard error over the draws.

    Raises
    ------
    ValueError
        For other posteriors, weights without spread, an improper prior, and data that do not fit.
    """
    check_process()
    entropy, model = _entropy(posterior), posterior.model
    normal: Any = posterior.part if isinstance(posterior, GammaNoisePosterior) else posterior
    if not is_proper(model.prior, model.scales(normal.mean)):
        problem = "the evidence lower bound needs a proper prior for all parameters."
        raise ValueError(f"{problem} Set a prior scale for the biases, e.g. Normal(scale=1.0, biases=1.0).")
    check_whole("draws", draws, 2)  # for a standard error
    rows = check_rows(model, x, y, weight)
    batch = Batch(rows.x, rows.y, rows.train, np.float32(1), np.float32(rows.train.sum()))
    ((part, seeds),) = posterior.sources(prng.fast(key), draws)
    joint = np.asarray(_log_joints(part, seeds, batch), np.float64)
    return Score(float(joint.mean() + entropy), float(joint.std(ddof=1) / np.sqrt(draws)), None)


@programs.jit
def _log_joints(part: Posterior, seeds: Any, batch: Batch) -> jax.Array:
    return jax.lax.map(lambda seed: part.model.log_joint(part.draw(seed), batch), seeds)


def _entropy(posterior: Posterior) -> float:
    """H[q] = ½ log det(2πe Σ), in nats; for log τ, τ ~ Gamma(a, b), it is a + log Γ(a) − a ψ(a)."""
    if isinstance(posterior, GammaNoisePosterior) and isinstance(posterior.part, DiagonalNormal | LowRankNormal):
        a, part = np.asarray(posterior.shape, np.float64), posterior.part
        network = {name: {"network": vars(part)[name]["network"]} for name in vars(part) if name != "model"}
        return _entropy(replace(part, **network)) + float(np.sum(a + gammaln(a) - a * digamma(a)))
    if isinstance(posterior, FullCovarianceNormal):
        factor = np.asarray(posterior.factor, np.float64)
        return 0.5 * len(factor) * (1 + LOG_2PI) + np.linalg.slogdet(factor)[1]
    if not isinstance(posterior, DiagonalNormal | LowRankNormal):
        problem = f"the entropy of a {type(posterior).__name__} is not known in closed form."
        raise ValueError(f"{problem} elbo accepts DiagonalNormal, LowRankNormal and FullCovarianceNormal.")
    scale = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(posterior.scale)]).astype(np.float64)
    if not np.all(scale > 0):
        raise ValueError(f"{np.sum(~(scale > 0))} parameters have scale 0, so the entropy and the ELBO are not defined")
    found = np.sum(np.log(scale) + 0.5 * (1 + LOG_2PI))
    if isinstance(posterior, LowRankNormal):  # det(D + VᵀV) = det D · det(I + V D⁻¹ Vᵀ)
        leaves = jax.tree.leaves(posterior.directions)
        whitened = np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in leaves], axis=1) / scale
        found += 0.5 * np.linalg.slogdet(np.eye(len(whitened)) + whitened @ whitened.T)[1]
    return float(found)
