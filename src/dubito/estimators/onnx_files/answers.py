"""What a predictive distribution answers, as a function of the encoded rows alone, with all draws in it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._jax.types import Params
from dubito.evaluation.calibrated import ConformalPredictive
from dubito.evaluation.calibration import Temperature
from dubito.evaluation.conformal import Conformal, CVPlus
from dubito.models.likelihoods.base import Likelihood, OutcomeParams
from dubito.models.likelihoods.gaussian import GaussianNoise
from dubito.models.likelihoods.robust import StudentT
from dubito.models.model import Model
from dubito.posteriors.function_samples import Functions
from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.posteriors.quantiles import search_bounds

ROUNDING = 2e-6  # of scores of classes: within it a class is in the set, which costs no coverage
HALVINGS = 30  # of the interval that contains a quantile: to 1e-9 of it, less than the rounding of float32

Answers = Callable[[Float[Array, "rows width"]], dict[str, Array]]


def stacked_draws(functions: Functions) -> tuple[Params, Params]:
    """The parameters of all draws, and which axis of each array is that of draws: None where all draws share it.

    Parameters
    ----------
    functions : Functions
        The functions of an estimator.

    Returns
    -------
    tuple of pytrees
        Arrays on the host, and 0 or None.
    """
    found = []
    for group in functions.groups:
        seeds = group.seeds.reshape(-1, *group.seeds.shape[2:])[: group.count]
        found.append(jax.tree.map(np.asarray, jax.jit(jax.vmap(group.part.draw))(jnp.asarray(seeds))))
    params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)
    shared = jax.tree.map(lambda leaf: bool(np.all(leaf == leaf[:1])), params)
    kept = jax.tree.map(lambda leaf, same: leaf[0] if same else leaf, params, shared)
    if all(jax.tree.leaves(shared)):  # one draw, or none that differ
        return jax.tree.map(lambda leaf: leaf[:1], params), jax.tree.map(lambda leaf: 0, params)
    return kept, jax.tree.map(lambda same: None if same else 0, shared)


def all_draws(model: Model, params: Params, axes: Params) -> Callable[[Any], OutcomeParams]:
    """z of all draws at encoded rows: a tree of arrays (draws, rows, ·)."""
    leaves, tree = jax.tree.flatten(params)
    where = tree.flatten_up_to(axes)
    return lambda x: jax.vmap(lambda own: model.outputs(tree.unflatten(own), x), in_axes=(where,))(leaves)


def check_calibration(calibration: Any) -> None:
    """Raise ValueError for a calibration that an ONNX graph does not apply."""
    if isinstance(calibration, CVPlus):
        raise ValueError(
            "CV+ intervals and sets are not exported: calibrate by method='conformal', or export without it"
        )
    if not isinstance(calibration, Temperature | Conformal | None):
        raise ValueError(
            f"a calibration by {type(calibration).__name__} is not exported: calibrate by method='temperature' or 'conformal', or not "
            "at all"
        )


def has_quantiles(likelihood: Likelihood) -> bool:
    """Whether the graph has quantiles: for mixtures of Gaussians and of Student's t."""
    return isinstance(likelihood, GaussianNoise | StudentT)


def regression_answers(
    predictive: PredictiveDistribution, z: Callable[[Any], OutcomeParams], coverage: float
) -> Answers:
    """Moments and interval of a regression, in the model's units.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The kind of distribution to answer for.
    z : callable
        As of ``all_draws``.
    coverage : float
        Of the interval.

    Returns
    -------
    callable
        From encoded rows to arrays (rows, targets): mean, std, epistemic_std, aleatoric_std, lower, upper.
    """
    likelihood, conformal = predictive.likelihood, _conformal(predictive)
    low, high = ((np.array(end) - predictive.shift) / predictive.scale for end in predictive.mixture.bounds)

    def answers(x: Float[Array, "rows width"]) -> dict[str, Array]:
        draws = z(x)
        means = jax.vmap(likelihood.mean)(draws)
        mean = jnp.mean(means, axis=0)
        epistemic = jnp.mean((means - mean[None]) ** 2, axis=0)
        if not likelihood.has_noise:
            return {"mean": mean, "epistemic_std": jnp.sqrt(epistemic)}
        aleatoric = jnp.mean(jax.vmap(likelihood.variance)(draws), axis=0)
        sd = jnp.sqrt(aleatoric + epistemic)
        found = {"mean": mean, "std": sd, "epistemic_std": jnp.sqrt(epistemic), "aleatoric_std": jnp.sqrt(aleatoric)}
        levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
        if conformal is not None and conformal.score != "quantiles":
            start, unit = (mean, mean), sd if conformal.score == "normalized" else jnp.ones_like(mean)
        elif has_quantiles(likelihood):
            start, unit = tuple(_quantiles(likelihood, draws, mean, sd, levels)), jnp.ones_like(mean)
        else:
            return found
        if conformal is None:
            return found | dict(zip(("lower", "upper"), start, strict=True))
        ends = conformal_interval(conformal, start, unit, predictive.scale)
        clipped = (jnp.clip(end, low.astype(np.float32)[None], high.astype(np.float32)[None]) for end in ends)
        return found | dict(zip(("lower", "upper"), clipped, strict=True))

    return answers


def conformal_interval(conformal: Conformal, start: Any, unit: Array, scale: np.ndarray) -> tuple[Array, Array]:
    """The interval of ``Conformal.interval``, in the model's units."""
    lower, upper = start
    if conformal.margins is None:
        return jnp.full_like(lower, -jnp.inf), jnp.full_like(upper, jnp.inf)
    margins = np.array(conformal.margins) / (1.0 if conformal.score == "normalized" else scale)
    middle, reach = 0.5 * lower + 0.5 * upper, margins.astype(np.float32)[None] * unit
    return jnp.minimum(lower - reach, middle), jnp.maximum(upper + reach, middle)


def class_answers(predictive: PredictiveDistribution, z: Callable[[Any], OutcomeParams]) -> Answers:
    """Probabilities, entropy and mutual information of classes, the most probable one, and conformal sets.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The kind of distribution to answer for.
    z : callable
        As of ``all_draws``.

    Returns
    -------
    callable
        From encoded rows to arrays: probs (rows, classes), entropy, mutual_information and code (rows,), and set
        (rows, classes) after a conformal calibration.
    """
    likelihood, conformal = predictive.likelihood, _conformal(predictive)

    def entropy(p: Array) -> Array:
        return -jnp.sum(p * jnp.log(jnp.where(p > 0, p, jnp.ones_like(p))), axis=-1)

    def answers(x: Float[Array, "rows width"]) -> dict[str, Array]:
        each = jax.vmap(likelihood.mean)(z(x))
        p = jnp.mean(each, axis=0)
        total = entropy(p)
        mutual = jnp.maximum(total - jnp.mean(entropy(each), axis=0), 0)
        found = {"probs": p, "entropy": total, "mutual_information": mutual, "code": jnp.argmax(p, axis=1)}
        if conformal is None:
            return found
        margin = np.float32(np.inf if conformal.margins is None else conformal.margins[0] + ROUNDING)
        classes = np.arange(p.shape[1])
        if conformal.score == "plain":
            scores = 1 - p
        else:  # the sum of the probabilities of the classes at least as probable, and of equal ones those before
            first = jnp.asarray(classes[None, :] <= classes[:, None])[None]
            one, other = p[:, :, None], p[:, None, :]
            scores = jnp.sum(jnp.where((other > one) | ((other == one) & first), other, jnp.zeros_like(other)), axis=2)
        most = found["code"][:, None] == jnp.asarray(classes, found["code"].dtype)[None]
        return found | {"set": most | (scores <= margin)}

    return answers


def _conformal(predictive: PredictiveDistribution) -> Conformal | None:
    found = predictive.conformal if isinstance(predictive, ConformalPredictive) else None
    return found if isinstance(found, Conformal) else None


def _quantiles(likelihood: Likelihood, z: OutcomeParams, mean: Array, sd: Array, levels: np.ndarray) -> Array:
    """Quantiles of the mixture, (levels, rows, targets), by halving an interval that contains them."""
    q, _, below, above = (column[:, None, None] for column in search_bounds(levels))
    low, high = mean[None] - below * sd[None], mean[None] + above * sd[None]

    def cdf(y: Array) -> Array:
        return jnp.mean(jax.vmap(lambda one: likelihood.cdf(one, y))(z), axis=0)

    for _ in range(HALVINGS):
        middle = 0.5 * low + 0.5 * high
        less = jax.vmap(cdf)(middle) < q
        low, high = jnp.where(less, middle, low), jnp.where(less, high, middle)
    return 0.5 * low + 0.5 * high
