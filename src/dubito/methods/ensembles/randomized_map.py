"""Randomized MAP: points of perturbed data and prior, each a draw (Bardsley et al. 2014; Osband et al., NeurIPS 2018)."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import register_dataclass, static
from dubito.methods.map import MaximumLikelihood, Point
from dubito.models.likelihoods.gaussian import Gaussian, GaussianNoise, gaussian_log_prob
from dubito.models.priors import Prior, check_proper
from dubito.posteriors.base import Samples
from dubito.training import optimizers
from dubito.training.data import Member, bucket


class State(NamedTuple):
    params: Any
    optimizer: Any
    anchor: Any  # a draw of the prior, like params["network"]


@register_dataclass
@dataclass(frozen=True)
class RandomizedMAP:
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
    """

    epochs: int | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    schedule: str = static(default="cosine")
    clip: float | None = None

    dropout = max_norm = None
    every_row = True  # of memory: each has a perturbation, the same in all epochs

    def check(self, model):
        optimizers.check(self)
        check_proper(self, model)

    def members(self, rows, key):
        """A member's y holds beside the targets as many standard normals; class indices stay, and their weights vary."""
        key, key_noise = jax.random.split(key)
        shape = (bucket(len(rows.x)), *rows.y.shape[1:])
        if rows.y.ndim == 1:
            weight = np.asarray(jax.random.exponential(key_noise, shape, jnp.float32))[: len(rows.x)]
            return [Member(key, rows.train * weight, rows.valid)]
        noise = np.asarray(jax.random.normal(key_noise, shape, jnp.float32))[: len(rows.x)]
        return [Member(key, rows.train, rows.valid, np.concatenate([rows.y.astype(np.float32), noise], axis=1))]

    def init(self: Any, model, batch, key):
        key_start, key_anchor = jax.random.split(key)
        start = MaximumLikelihood.init(self, model, batch, key_start)
        network = optimizers.unpacked(start.params)["network"]
        anchor = model.prior.sample(key_anchor, network, model.scales({"network": network}))
        return State(*start, anchor)

    def log_prior(self, model, params):
        return model.log_prior(params)

    threshold = MaximumLikelihood.threshold

    def step(self: Any, model, state, batch, clock, key):
        model = replace(model, prior=Anchored(model.prior, state.anchor))
        if batch.y.ndim > 1:
            model, batch = perturbed(model, batch)
        point, info = MaximumLikelihood.step(self, model, Point(state.params, state.optimizer), batch, clock, key)
        return State(*point, state.anchor), info

    score = MaximumLikelihood.score

    def finish(self, model, trained, key, run):
        del run
        params = optimizers.unpacked(trained.states[0].params)
        likelihood = model.likelihood
        if isinstance(likelihood, Gaussian) and likelihood.precision is None:
            shape = jnp.float32(likelihood.shape + 0.5 * float(np.sum(trained.members[0].train)))
            mode = params["likelihood"]["log_precision"]
            drawn = mode + jax.random.loggamma(key, shape, mode.shape, mode.dtype) - jnp.log(shape)
            params = {**params, "likelihood": {"log_precision": drawn}}
        return Samples(model, jax.tree.map(lambda leaf: leaf[None], params))


def perturbed(model, batch):
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
