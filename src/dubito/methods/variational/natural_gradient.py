"""Stochastic variational inference by natural gradients (Hoffman et al., JMLR 2013; the weights' by Shen et al., ICML 2024)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array, Float

from dubito._check import check_whole
from dubito._jax.prng import normal_like
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.priors import map_prior
from dubito.methods.settings import check_intervals, check_normal_prior
from dubito.methods.types import Batch, Clock, Key, Model, Params, RowValues, Scalar, Trained
from dubito.methods.variational.bayes_by_backprop import MEAN_FIELD, IndependentNormals, divergence
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.models.priors import check_proper
from dubito.posteriors.base import log_mean_prob
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.normals import DiagonalNormal
from dubito.training import optimizers
from dubito.training.descent import penalty_weight
from dubito.training.members import one_member
from dubito.training.method import Recipe, ScheduledMethod
from dubito.training.optimizers import check_descent
from dubito.training.packing import pack, unpack

Targets: TypeAlias = Float[Array, "*targets"]


class NaturalGradientState(NamedTuple):
    """q(θ) q(τ) and what its steps average.

    Attributes
    ----------
    mean : pytree
        m, packed.
    hessian, delta, momentum : pytree like ``mean``
        h, of the negative log likelihood per example; the prior's precision; and g.
    count : array of shape ()
        The number of steps, in float32.
    shape, rate : array of shape (targets,)
        The parameters of the Gamma of τ; empty where none is learned.
    size : array of shape ()
        N, in float32.
    """

    mean: Params
    hessian: Params
    delta: Params
    momentum: Params
    count: Any
    shape: Targets
    rate: Targets
    size: Scalar


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class NaturalGradientVI(ScheduledMethod):
    """q(θ) q(τ) = Π N(m_j, σ_j²) Π Gamma(τ_k; a, b_k) by natural gradients, with σ² = 1/(N(h + δ)). In nats:

        ELBO = E_q[log p(D | θ, τ)] − KL(q(θ) ‖ p) − KL(q(τ) ‖ p)

    The noise precision of a Gaussian likelihood that learns one is conjugate (Hoffman et al. 2013):
    a = a₀ + N/2, b ← (1 − ρ_t) b + ρ_t [b₀ + ½ (N/n) Σ E_q(y − f)²], ρ_t = (t + delay)^−forgetting,
    so that the predictive of one function is Student's t with 2a degrees of freedom. The weights
    follow IVON (Shen et al. 2024), with ĝ the gradient per example at a draw θ = m + σε, averaged
    over ``draws``, and δ = 1/(N σ_p²):

        ĥ = ĝ ε/σ,  h ← βh + (1 − β)ĥ + ½(1 − β)²(h − ĥ)²/(h + δ),  g ← γg + (1 − γ)ĝ,
        m ← m − α clip((g/(1 − γᵗ) + δm)/(h + δ), ±clip_radius)

    with α the learning rate (1 is Newton's step) times the schedule. Another likelihood's own
    parameters are among θ. On tables with few rows for the network's size, steps scaled by a
    curvature not yet known, or draws as wide as the prior, would end at the prior: so the first σ is
    small, h is averaged over ten times as many steps at the start as at the end, steps are clipped,
    and δ rises to its value. All this takes some ten thousand steps; with fewer, set a larger
    ``clip_radius`` and a smaller ``initial_hessian``. The family is mean-field, so it underestimates
    epistemic uncertainty between clusters of data. Choose it for regression with a τ that is
    integrated out.

    Parameters
    ----------
    momentum, hessian_decay : float
        γ, and β at the end of the run; 1 − β is a tenth of it at the start, and grows linearly.
    initial_hessian : float
        h at the start, where σ is 1/√(N h).
    clip_radius : float
        The largest change of a weight in a step, in multiples of α.
    warm_up : float
        The fraction of the steps in which δ rises from 0 to its value, in [0, 1).
    forgetting, delay : float
        The exponent and the offset of ρ_t.
    draws : int
        Draws for each step.
    epochs, batch_size, learning_rate, schedule
        As in ``MAP``; ``epochs=None`` is the default.
    """

    learning_rate: float | None = 0.1
    momentum: float = 0.9
    hessian_decay: float = 0.999
    initial_hessian: float = 10.0
    forgetting: float = 0.7
    delay: float = 1.0
    draws: int = static(default=1)
    warm_up: float = 0.25
    clip_radius: float = 0.03

    penalty_name: ClassVar[str] = "KL"
    allows_missing_targets: ClassVar[bool] = False
    members = one_member
    recipes: ClassVar[dict[str, Recipe] | None] = MEAN_FIELD

    def check(self, model: Model) -> None:
        check_descent(self)
        check_intervals(self, momentum="[0, 1)", hessian_decay="[0, 1)", initial_hessian="(0, inf)")
        check_intervals(self, warm_up="[0, 1)", clip_radius="(0, inf)")
        check_intervals(self, forgetting="(0.5, 1]", delay="[0, inf)")  # as Robbins and Monro need
        check_whole("draws", self.draws, 1)
        check_normal_prior(self, model)
        check_proper(self, model)

    def init(self, model: Model, batch: Batch, key: Key) -> NaturalGradientState:
        one = jnp.ones(model.likelihood.targets if learns_precision(model) else 0, jnp.float32)
        params = given_precision(model, one, one).init(key)
        precisions = map_prior(lambda w, p: jnp.full_like(w, 1 / jnp.asarray(p, w.dtype) ** 2), model, params)
        own = jax.tree.map(jnp.zeros_like, params["likelihood"])  # their prior is no Normal: it is part of the loss
        mean = pack(params)
        zero = jax.tree.map(jnp.zeros_like, mean)
        hessian = jax.tree.map(lambda m: jnp.full_like(m, self.initial_hessian), mean)
        delta = pack({"network": precisions, "likelihood": own})
        return NaturalGradientState(mean, hessian, delta, zero, jnp.float32(0), one, one, jnp.float32(1))

    def step(
        self, model: Model, state: NaturalGradientState, batch: Batch, clock: Clock, key: Key
    ) -> tuple[NaturalGradientState, Any]:
        size, count = batch.size, state.count + 1
        shape, rate = gamma(model, state, size)
        known = given_precision(model, shape, rate)
        share = penalty_weight(self, clock) / size
        delta = jax.tree.map(lambda d: share * d, state.delta)
        curvature = jax.tree.map(jnp.add, state.hessian, delta)
        scale = jax.tree.map(lambda c: 1 / jnp.sqrt(size * c), curvature)

        def loss(mean: Params, noise: Params) -> tuple[Scalar, Any]:
            params = unpack(jax.tree.map(lambda m, s, e: m + s * e, mean, scale, noise))
            z = known.outputs(params, batch.x)
            likelihood = known.weighted_sum(known.likelihood.log_prob(z, batch.y), batch)
            return -(likelihood + known.likelihood.log_prior(params["likelihood"])) / size, (likelihood, z, params)

        noise = jax.vmap(lambda k: normal_like(k, state.mean))(jax.random.split(key, self.draws))
        gradients, (likelihoods, z, drawn) = jax.vmap(jax.grad(loss, has_aux=True), (None, 0))(state.mean, noise)
        gradient = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
        estimate = jax.tree.map(lambda g, e, s: jnp.mean(g * e, axis=0) / s, gradients, noise, scale)
        info = report(model, state._replace(shape=shape, rate=rate, size=size), scale, likelihoods, drawn)
        decay = (1 - jnp.asarray(self.hessian_decay, jnp.float32)) * (0.1 + 0.9 * clock.progress)
        kept, radius = jnp.asarray(self.momentum, jnp.float32), jnp.asarray(self.clip_radius, jnp.float32)
        # h + δ is multiplied by 1 + u + u²/2 > 0 with u = (1 − β)(ĥ − h)/(h + δ): it stays positive
        hessian = jax.tree.map(
            lambda h, e, c: h + decay * (e - h) + 0.5 * (decay * (e - h)) ** 2 / c, state.hessian, estimate, curvature
        )
        momentum = jax.tree.map(lambda old, g: kept * old + (1 - kept) * g, state.momentum, gradient)
        whole, move = 1 - kept**count, optimizers.step_size(self, clock)
        mean = jax.tree.map(
            lambda m, g, h, d: m + move * jnp.clip((g / whole + d * m) / (h + d), -radius, radius),
            *(state.mean, momentum, hessian, delta),
        )
        if learns_precision(model):
            squares = jnp.mean((batch.y[None] - z["mean"]) ** 2, axis=0)
            sums = jax.vmap(lambda column: model.weighted_sum(column, batch), 1)(squares)
            rho = (count + self.delay) ** -jnp.asarray(self.forgetting, jnp.float32)
            rate = (1 - rho) * rate + rho * (model.likelihood.rate + 0.5 * sums)
        return NaturalGradientState(mean, hessian, state.delta, momentum, count, shape, rate, size), info

    def point(self, model: Model, state: NaturalGradientState) -> Params:
        return unpack(state.mean)

    def score(self, model: Model, state: NaturalGradientState, batch: Batch, key: Key) -> RowValues:
        return log_mean_prob(natural_posterior(model, state), batch, key)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> DiagonalNormal | GammaNoisePosterior:
        return natural_posterior(model, trained.states[0])


def gamma(model: Model, state: NaturalGradientState, size: Scalar) -> tuple[Targets, Targets]:
    """(a, b) of the Gamma of τ, with E τ = 1 before the first step; unchanged if no τ is learned."""
    if not learns_precision(model):
        return state.shape, state.rate
    shape = jnp.full_like(state.shape, model.likelihood.shape) + 0.5 * size
    return shape, jnp.where(state.count == 0, shape, state.rate)


def report(
    model: Model, state: NaturalGradientState, scale: Params, likelihoods: Float[Array, " draws"], drawn: Params
) -> dict[str, Scalar]:
    """The likelihood and the KL per example, from a step's draws."""
    size, q = state.size, IndependentNormals(state.mean, scale)
    known, likelihood = given_precision(model, state.shape, state.rate), jnp.mean(likelihoods)
    kl = jnp.mean(jax.vmap(lambda one: divergence(known, q, one))(drawn))
    if learns_precision(model):  # E log τ is not log E τ
        a, b = state.shape, state.rate
        likelihood = likelihood + 0.5 * size * jnp.sum(special.digamma(a) - jnp.log(a))
        kl = kl + jnp.sum(gamma_kl(a, b, model.likelihood.shape, model.likelihood.rate))
    return {"likelihood": likelihood / size, "penalty": kl / size}


def natural_posterior(model: Model, state: NaturalGradientState) -> DiagonalNormal | GammaNoisePosterior:
    """The posterior of a state, with a Student's t predictive where τ is learned."""
    curvature = jax.tree.map(lambda h, d: state.size * h + d, state.hessian, state.delta)
    mean, scale = unpack(state.mean), unpack(jax.tree.map(lambda c: 1 / jnp.sqrt(c), curvature))
    if not learns_precision(model):
        return DiagonalNormal(model, mean, scale)
    # of log τ: the part is a posterior by itself
    mean["likelihood"] = {"log_precision": special.digamma(state.shape) - jnp.log(state.rate)}
    scale["likelihood"] = {"log_precision": jnp.sqrt(special.polygamma(1, state.shape))}
    return GammaNoisePosterior(model, DiagonalNormal(model, mean, scale), state.shape, state.rate)


def learns_precision(model: Model) -> bool:
    """Whether the likelihood is a Gaussian whose noise precision is learned."""
    return type(model.likelihood) is Gaussian and model.likelihood.precision is None


def given_precision(model: Model, shape: Any, rate: Any) -> Model:
    """The model with its noise precision fixed at E τ = a/b; other models unchanged."""
    if not learns_precision(model):
        return model
    return replace(model, likelihood=replace(model.likelihood, precision=shape / rate))


def gamma_kl(a: Targets, b: Targets, a0: Any, b0: Any) -> Targets:
    """KL(Gamma(a, b) ‖ Gamma(a₀, b₀)) in nats, b and b₀ rates."""
    a0, b0 = jnp.asarray(a0, a.dtype), jnp.asarray(b0, a.dtype)
    levels = special.gammaln(a0) - special.gammaln(a) + a0 * (jnp.log(b) - jnp.log(b0))
    return (a - a0) * special.digamma(a) + levels + a * (b0 - b) / b
