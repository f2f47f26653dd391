"""Randomized MAP: points of perturbed data and prior, each a draw (Bardsley et al. 2014; Osband et al., NeurIPS 2018)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.methods.map import one_sample, point_score
from dubito.models.likelihoods.gaussian import Gaussian, GaussianNoise, gaussian_log_prob
from dubito.models.model import Batch, Model
from dubito.models.priors import Prior, check_proper
from dubito.posteriors.base import Samples
from dubito.training import optimizers
from dubito.training.data import Rows, padded_size
from dubito.training.descent import Descent, DescentState, objective_step, start_descent
from dubito.training.members import Member, Trained
from dubito.training.method import Clock
from dubito.training.packing import unpack


class RandomizedMAPState(NamedTuple):
    """A descent, and its ``anchor``, a draw of the prior like params["network"]."""

    params: Any
    optimizer: Any
    anchor: Any


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class RandomizedMAP(Descent):
    """One draw by optimization: argmax of the joint density with data and prior perturbed, in nats:

        Σ_i log p(ỹ_i | θ) + log p(θ − a),    ỹ_i ~ N(y_i, 1/(w_i τ)),    a ~ p(θ),    w_i the sample weights

    ``Ensemble(RandomizedMAP(), 50)`` is then 50 draws: of the exact posterior where the network is linear and prior and
    noise are Gaussian ("randomize then optimize", Bardsley et al. 2014; anchored ensembles, Pearce et al., AISTATS 2020).
    Away from the data its members return to draws of the prior, which those of a plain ensemble do not.

    A learned τ: f follows ỹ at the present τ, but τ follows the residuals of y itself (of ỹ they would have the noise
    twice, and τ would fall without end); at the end τ is drawn given f, Gamma(a, a/τ̂) with a = shape + ½Σw, whose mode
    in log τ is the optimum τ̂. A likelihood other than ``Gaussian`` has no noise to add: its rows get weights from Exp(1)
    instead (the weighted likelihood bootstrap, Newton & Raftery 1994), which agrees with the posterior to first order in
    1/N only where the model is right. Not exact for networks: members find different modes, and around each the
    curvature of the perturbed problem stands in for that of the posterior. One member alone is a poor point estimate.

    Parameters
    ----------
    epochs, batch_size, learning_rate, schedule, optimizer, clip
        As in ``MAP``; ``epochs=None`` is the default.
    """

    every_row: ClassVar[bool] = True  # each has a perturbation, the same in all epochs

    def check(self, model: Model) -> None:
        optimizers.check_descent(self)
        check_proper(self, model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        """A member's y holds beside the targets as many standard normals; class indices stay, and their weights vary."""
        key, key_noise = jax.random.split(key)
        shape = (padded_size(len(rows.x)), *rows.y.shape[1:])
        if rows.y.ndim == 1:
            weight = np.asarray(jax.random.exponential(key_noise, shape, jnp.float32))[: len(rows.x)]
            return [Member(key, rows.train * weight, rows.valid)]
        noise = np.asarray(jax.random.normal(key_noise, shape, jnp.float32))[: len(rows.x)]
        return [Member(key, rows.train, rows.valid, np.concatenate([rows.y.astype(np.float32), noise], axis=1))]

    def init(self, model: Model, batch: Batch, key: Key) -> RandomizedMAPState:
        del batch
        key_start, key_anchor = jax.random.split(key)
        params = model.init(key_start)
        network = params["network"]
        anchor = model.prior.sample(key_anchor, network, model.scales({"network": network}))
        return RandomizedMAPState(*start_descent(self, params), anchor)

    def step(
        self, model: Model, state: RandomizedMAPState, batch: Batch, clock: Clock, key: Key
    ) -> tuple[RandomizedMAPState, Any]:
        del key
        model = replace(model, prior=Anchored(model.prior, state.anchor))
        if batch.y.ndim > 1:
            model, batch = perturb_batch(model, batch)

        def objective(packed):
            params = unpack(packed)
            return model.log_likelihood(params, batch), -model.log_prior(params)

        point, info = objective_step(self, objective, DescentState(state.params, state.optimizer), clock, batch.size)
        return RandomizedMAPState(*point, state.anchor), info

    def point(self, model: Model, state: RandomizedMAPState) -> Params:
        del model
        return unpack(state.params)

    def score(self, model: Model, state: RandomizedMAPState, batch: Batch, key: Key) -> Any:
        del key
        return point_score(model, DescentState(state.params, state.optimizer), batch)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples:
        del run
        params = unpack(trained.states[0].params)
        likelihood = model.likelihood
        if isinstance(likelihood, Gaussian) and likelihood.precision is None:
            shape = jnp.float32(likelihood.shape + 0.5 * float(np.sum(trained.members[0].train)))
            mode = params["likelihood"]["log_precision"]
            drawn = mode + jax.random.loggamma(key, shape, mode.shape, mode.dtype) - jnp.log(shape)
            params = {**params, "likelihood": {"log_precision": drawn}}
        return one_sample(model, params)


def perturb_batch(model: Model, batch: Batch) -> tuple[Model, Batch]:
    """The model and the batch whose log likelihood is the perturbed one; ``batch.y`` is targets beside standard normals."""
    y, noise = jnp.split(batch.y, 2, axis=1)
    if isinstance(model.likelihood, Gaussian):
        used = batch.weight > 0
        noise = noise * jnp.where(used, jax.lax.rsqrt(jnp.where(used, batch.weight, 1.0)), 0.0)[:, None]
        return replace(model, likelihood=Perturbed(model.likelihood)), batch._replace(y=(y, noise))
    weight = -jax.scipy.special.log_ndtr(-noise[:, 0])  # Φ(−ε) is uniform, −log of it from Exp(1)
    return model, batch._replace(y=y, weight=batch.weight * weight)


@register_dataclass
@dataclass(frozen=True)
class Anchored(Prior):
    """A prior moved to another center."""

    prior: Any
    center: Any

    def sample(self, key, like, scales=None):
        return jax.tree.map(jnp.add, self.prior.sample(key, like, scales), self.center)

    def log_prob(self, params, scales=None):
        return self.prior.log_prob(jax.tree.map(jnp.subtract, params, self.center), scales)


@register_dataclass
@dataclass(frozen=True)
class Perturbed(GaussianNoise):
    """A Gaussian whose mean follows y + ε/√τ and whose τ follows y: ``log_prob`` has its value at y, and their gradients."""

    likelihood: Any

    @property
    def width(self):
        return self.likelihood.width

    def init(self):
        return self.likelihood.init()

    def join(self, f, phi):
        return self.likelihood.join(f, phi)

    def log_prior(self, phi):
        return self.likelihood.log_prior(phi)

    def log_prob(self, z, y):
        y, noise = y
        fixed = jax.lax.stop_gradient(z)
        of_noise = gaussian_log_prob({"mean": fixed["mean"], "scale": z["scale"]}, y)
        of_mean = gaussian_log_prob({"mean": z["mean"], "scale": fixed["scale"]}, y + noise * fixed["scale"])
        return of_noise + of_mean - jax.lax.stop_gradient(of_mean)
