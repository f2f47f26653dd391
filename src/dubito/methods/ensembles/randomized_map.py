"""Randomized MAP: points of perturbed data and prior, each a draw (Bardsley et al. 2014; Osband et al., NeurIPS 2018)."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass
from dubito.methods.map import one_sample, point_score
from dubito.methods.types import Batch, Clock, Key, Member, Model, Objective, Params, Rows, RowValues, Scalar, Trained
from dubito.models.likelihoods.base import OutcomeParams
from dubito.models.likelihoods.gaussian import Gaussian, gaussian_log_prob
from dubito.models.priors import check_proper
from dubito.posteriors.base import Samples
from dubito.training.data import padded_size
from dubito.training.descent import Descent, DescentState, objective_step, start_descent
from dubito.training.optimizers import check_descent
from dubito.training.packing import unpack


class RandomizedMAPState(NamedTuple):
    """A descent, and its ``anchor``, a draw of the prior like params["network"]."""

    descent: DescentState
    anchor: Params


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class RandomizedMAP(Descent):
    """One draw by optimization: argmax of the joint density with data and prior perturbed, in nats:

        Σ_i log p(ỹ_i | θ) + log p(θ − a),    ỹ_i ~ N(y_i, 1/(w_i τ)),    a ~ p(θ),    w_i the sample weights

    ``Ensemble(RandomizedMAP(), 50)`` is then 50 draws: of the exact posterior where the network is
    linear and prior and noise are Gaussian ("randomize then optimize", Bardsley et al. 2014;
    anchored ensembles, Pearce et al., AISTATS 2020). Away from the data its members return to draws
    of the prior, which those of a plain ensemble do not.

    If τ is learned, f follows ỹ at the current τ; τ follows the residuals of y itself (those of ỹ
    contain the noise twice, and τ would fall without end); at the end τ is drawn given f,
    Gamma(a, a/τ̂) with a = shape + ½Σw, whose mode in log τ is the optimum τ̂. A likelihood other
    than ``Gaussian`` has no noise to add: its rows get weights from Exp(1) instead (the weighted
    likelihood bootstrap, Newton & Raftery 1994), which agrees with the posterior to first order in
    1/N only where the model is right. Not exact for networks: members find different modes, and
    around each the curvature of the perturbed problem replaces that of the posterior. One member
    alone is a poor point estimate.

    Parameters
    ----------
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    allows_missing_targets: ClassVar[bool] = False
    every_row: ClassVar[bool] = True  # each has a perturbation, the same in all epochs

    def check(self, model: Model) -> None:
        check_descent(self)
        check_proper(self, model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        # a member's y holds as many standard normals as targets beside them; class indices stay, and their weights vary
        key, key_noise = jax.random.split(key)
        shape = (padded_size(len(rows.x)), *rows.y.shape[1:])
        if rows.y.ndim == 1:
            weight = np.asarray(jax.random.exponential(key_noise, shape, jnp.float32))[: len(rows.x)]
            return [Member(key, rows.train * weight, rows.valid)]
        noise = np.asarray(jax.random.normal(key_noise, shape, jnp.float32))[: len(rows.x)]
        return [Member(key, rows.train, rows.valid, np.concatenate([rows.y.astype(np.float32), noise], axis=1))]

    def init(self, model: Model, batch: Batch, key: Key) -> RandomizedMAPState:
        key_start, key_anchor = jax.random.split(key)
        params = model.init(key_start)
        anchor = model.prior.sample(key_anchor, params["network"], model.scales(params))
        return RandomizedMAPState(start_descent(self, params, model.likelihood), anchor)

    def step(
        self, model: Model, state: RandomizedMAPState, batch: Batch, clock: Clock, key: Key
    ) -> tuple[RandomizedMAPState, Any]:
        def objective(packed: Params) -> Objective:
            params = unpack(packed)
            offset = jax.tree.map(jnp.subtract, params["network"], state.anchor)
            log_prior = model.prior.log_prob(offset, model.scales(params))
            likelihood = perturbed_log_likelihood(model, model.outputs(params, batch.x), batch)
            return likelihood, -(model.likelihood.log_prior(params["likelihood"]) + log_prior)

        descent, info = objective_step(self, objective, state.descent, clock, model, batch)
        return state._replace(descent=descent), info

    def point(self, model: Model, state: RandomizedMAPState) -> Params:
        return unpack(state.descent.params)

    def score(self, model: Model, state: RandomizedMAPState, batch: Batch, key: Key) -> RowValues:
        return point_score(model, state.descent.params, batch)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples:
        params, likelihood = unpack(trained.states[0].descent.params), model.likelihood
        if isinstance(likelihood, Gaussian) and likelihood.precision is None:
            shape = jnp.float32(likelihood.shape + 0.5 * float(np.sum(trained.members[0].train)))
            mode = params["likelihood"]["log_precision"]
            drawn = mode + jax.random.loggamma(key, shape, mode.shape, mode.dtype) - jnp.log(shape)
            params = {**params, "likelihood": {"log_precision": drawn}}
        return one_sample(model, params)


def perturbed_log_likelihood(model: Model, z: OutcomeParams, batch: Batch) -> Scalar:
    """The log likelihood of the perturbed rows, in nats of the data set; ``batch.y`` is as of ``members``."""
    if batch.y.ndim == 1:
        return model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch)
    y, noise = jnp.split(batch.y, 2, axis=1)
    if isinstance(model.likelihood, Gaussian):
        used = batch.weight > 0
        noise = noise * jnp.where(used, jax.lax.rsqrt(jnp.where(used, batch.weight, 1.0)), 0.0)[:, None]
        return model.weighted_sum(perturbed_log_prob(z, y, noise), batch)
    weight = -jax.scipy.special.log_ndtr(-noise[:, 0])  # Φ(−ε) is uniform, −log of it from Exp(1)
    return model.weighted_sum(model.likelihood.log_prob(z, y), batch._replace(weight=batch.weight * weight))


def perturbed_log_prob(
    z: OutcomeParams, y: Float[Array, "rows targets"], noise: Float[Array, "rows targets"]
) -> RowValues:
    """log p(y) of a Gaussian, with the gradient by which its mean follows y + ε/√τ, and its τ follows y."""
    fixed = jax.lax.stop_gradient(z)
    of_noise = gaussian_log_prob({"mean": fixed["mean"], "scale": z["scale"]}, y)
    of_mean = gaussian_log_prob({"mean": z["mean"], "scale": fixed["scale"]}, y + noise * fixed["scale"])
    return of_noise + of_mean - jax.lax.stop_gradient(of_mean)
