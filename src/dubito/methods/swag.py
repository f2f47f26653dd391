"""SWAG: a Gaussian through the points that stochastic gradient descent passes (Maddox et al., NeurIPS 2019)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._check import check_whole
from dubito._jax import programs
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.map import MAP, MaximumLikelihood, Point
from dubito.posteriors.normals import LowRankNormal
from dubito.training import optimizers
from dubito.training.fit import one_member


class State(NamedTuple):
    params: Any
    optimizer: Any
    count: Any  # of points collected
    mean: Any
    squares: Any  # Σ (θ − mean)²
    deviations: Any  # from the mean of their time: of the last ``rank`` points


@register_dataclass
@dataclass(frozen=True)
class SWAG:
    """q(θ) = N(θ̄, ½ diag σ² + ½ D Dᵀ/(K − 1)) of the points θ_t at the ends of epochs (Maddox et al. 2019, section 3.2):

        θ ← θ − α g,    g the gradient of −log p(D, θ)/N in nats per example from a mini-batch,

    where θ̄ and σ² are the points' mean and variances and D the deviations of the last K from the mean of their time.
    Points are collected after the share ``start`` of the steps. Until then the rate is constant; from then on ``schedule``
    lets it fall over each epoch anew ("constant": it stays; "cosine", "linear": cycles, Izmailov et al. 2018).
    ``optimizer``: "sgd", "momentum" or "nesterov". ``rank``: K. ``Ensemble(SWAG(), 5)`` is MultiSWAG (Wilson & Izmailov 2020).

    What the spread is: the stationary distribution of the descent, not the posterior. With curvature H and gradient
    covariance C per example and n rows a batch drawn independently, HΣ + ΣH = (α/n) C (Mandt, Hoffman & Blei 2017), with
    momentum 0.9 of ten times the α: where C = H that is α/(2n) in all directions, while the posterior's is (NH)⁻¹. An epoch
    here, as usual, takes each row once, so that most of this noise cancels within it, and Σ is narrower still where αH is far
    below n/N. To choose for the mean, which predicts better than the last point, and a first idea of the doubt at the cost of
    one fit; score it on held-out rows.
    """

    epochs: int | None = 400
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    start: float = 0.5
    rank: int = static(default=20)
    optimizer: str = static(default="momentum")
    schedule: str = static(default="constant")
    clip: float | None = None

    dropout = max_norm = None
    members = one_member
    log_prior = MAP.log_prior
    threshold = MAP.threshold

    def check(self: Any, model):
        MAP.check(self, model)
        if self.optimizer not in ("sgd", "momentum", "nesterov"):
            raise ValueError(f"SWAG is of stochastic descent: 'sgd', 'momentum' or 'nesterov', got {self.optimizer!r}")
        check_whole("rank", self.rank, 2)
        if not (0 <= self.start < 1 and (self.epochs or optimizers.EPOCHS) * (1 - self.start) >= 2):
            raise ValueError(
                f"start must be at least 0 and leave two epochs to collect from: epochs·(1 − start) ≥ 2; got "
                f"epochs={self.epochs!r}, start={self.start!r}"
            )

    def init(self: Any, model, batch, key):
        point = MaximumLikelihood.init(self, model, batch, key)
        zeros = jax.tree.map(jnp.zeros_like, point.params)
        deviations = jax.tree.map(lambda leaf: jnp.zeros((self.rank, *leaf.shape), leaf.dtype), point.params)
        return State(*point, jnp.float32(0), zeros, zeros, deviations)

    def step(self: Any, model, state, batch, clock, key):
        blocks = batch.scale.astype(jnp.int32)
        within = (clock.step % blocks).astype(jnp.float32) / batch.scale
        late = clock.progress >= self.start
        rate = clock._replace(progress=jnp.where(late, within, 0.0))
        point = Point(state.params, state.optimizer)
        point, info = MaximumLikelihood.step(self, model, point, batch, rate, key)
        return collected(state, point, late & clock.epoch_end), info

    def finish(self, model, trained, key, run):
        del key, run
        state = trained.states[0]
        if not state.count >= 2:
            raise KeyboardInterrupt("stopped before two points were collected")
        return LowRankNormal(model, *moments(state, jnp.float32(self.rank)))


def collected(state, point, due):
    """The state at another point, which counts if it is ``due``.

    Its deviation is written in any case: in the place of the next one, where it stands if no other point comes.
    """
    weight, count = due.astype(jnp.float32), state.count + 1
    place = state.count.astype(jnp.int32) % len(jax.tree.leaves(state.deviations)[0])
    mean = jax.tree.map(lambda m, p: m + (p - m) / count, state.mean, point.params)
    deviation = jax.tree.map(jnp.subtract, point.params, mean)
    return State(
        point.params,
        point.optimizer,
        state.count + weight,
        jax.tree.map(lambda old, new: jnp.where(due, new, old), state.mean, mean),
        jax.tree.map(lambda s, p, m, d: s + weight * (p - m) * d, state.squares, point.params, state.mean, deviation),
        jax.tree.map(
            lambda all_, d: jax.lax.dynamic_update_index_in_dim(all_, d, place, 0), state.deviations, deviation
        ),
    )


@programs.jit
def moments(state, rank):
    """Mean, scale and directions of the low-rank normal; directions that no point has filled are 0."""
    held = jnp.minimum(state.count, rank)
    scale = jax.tree.map(lambda s: jnp.sqrt(0.5 * s / state.count), state.squares)
    directions = jax.tree.map(lambda d: d * jax.lax.rsqrt(2 * (held - 1)), state.deviations)
    return optimizers.unpacked(state.mean), optimizers.unpacked(scale), jax.vmap(optimizers.unpacked)(directions)
