"""How near a variational posterior comes to the true one: the evidence lower bound of all the data, with its Monte-Carlo error."""

from dataclasses import replace

import jax
import numpy as np
from scipy.special import digamma, gammaln

from dubito._check import check_whole
from dubito._jax import prng, programs
from dubito._process.threads import check_process
from dubito.evaluation.metrics import Score
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.model import Batch
from dubito.models.priors import is_proper
from dubito.posteriors.base import Dense, GammaPrecision, LowRank, Normals
from dubito.training.data import check_rows


def elbo(posterior, x, y, *, key, draws=100, weight=None):
    """The evidence lower bound E_q[log p(D, θ)] + H[q] in nats, a ``Score`` whose standard error is over ``draws`` draws.

    log p(D) = ELBO + KL(q ‖ p(θ | D)): of two posteriors of one model and data the higher is nearer to the true one; of two models it
    compares the bounds, not the evidence. ``posterior``: a ``Normals``, ``LowRank`` or ``Dense``, or one of the first two in a
    ``GammaPrecision``, whose entropy H is known. Targets are in the model's units. Raises ValueError for other posteriors, weights without spread, an improper prior, and data that do not fit.
    """
    check_process()
    entropy = _entropy(posterior)
    model = posterior.model
    normal = posterior.part if isinstance(posterior, GammaPrecision) else posterior
    if not is_proper(model.prior, model.scales(normal.mean)):
        raise ValueError(
            "an evidence needs a proper prior of all parameters: give the model one, and its biases a scale"
        )
    check_whole("draws", draws, 2)  # for a standard error
    rows = check_rows(model, x, y, weight)
    batch = Batch(rows.x, rows.y, rows.train, np.float32(1), np.float32(rows.train.sum()))
    ((part, seeds),) = posterior.sources(prng.fast(key), draws)
    joint = np.asarray(_log_joints(part, seeds, batch), np.float64)
    return Score(float(joint.mean() + entropy), float(joint.std(ddof=1) / np.sqrt(draws)), None)


@programs.jit
def _log_joints(part, seeds, batch):
    return jax.lax.map(lambda seed: part.model.log_joint(part.draw(seed), batch), seeds)


def _entropy(posterior):
    """H[q] = ½ log det(2πe Σ), in nats; of log τ, τ ~ Gamma(a, b), a + log Γ(a) − a ψ(a)."""
    if isinstance(posterior, GammaPrecision) and isinstance(posterior.part, Normals | LowRank):
        a, part = np.asarray(posterior.shape, np.float64), posterior.part
        network = {name: {"network": vars(part)[name]["network"]} for name in vars(part) if name != "model"}
        return _entropy(replace(part, **network)) + float(np.sum(a + gammaln(a) - a * digamma(a)))
    if isinstance(posterior, Dense):
        factor = np.asarray(posterior.factor, np.float64)
        return 0.5 * len(factor) * (1 + LOG_2PI) + np.linalg.slogdet(factor)[1]
    if not isinstance(posterior, Normals | LowRank):
        raise ValueError(
            f"the entropy of a {type(posterior).__name__} is not known in closed form: elbo is of Normals, LowRank and Dense"
        )
    scale = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(posterior.scale)]).astype(np.float64)
    if not np.all(scale > 0):
        raise ValueError(
            f"{np.sum(~(scale > 0))} parameters are points, without spread: they have no entropy and no elbo"
        )
    found = np.sum(np.log(scale) + 0.5 * (1 + LOG_2PI))
    if isinstance(posterior, LowRank):  # det(D + VᵀV) = det D · det(I + V D⁻¹ Vᵀ)
        leaves = jax.tree.leaves(posterior.directions)
        inside = np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in leaves], axis=1) / scale
        found += 0.5 * np.linalg.slogdet(np.eye(len(inside)) + inside @ inside.T)[1]
    return float(found)
