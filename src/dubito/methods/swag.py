"""SWAG: a Gaussian through the points that stochastic gradient descent passes (Maddox et al., NeurIPS 2019)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from dubito._check import check_whole
from dubito._jax import programs
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.map import map_objective
from dubito.methods.priors import l1_strengths
from dubito.methods.settings import check_intervals
from dubito.methods.types import Batch, Clock, Key, Model, Params, Trained
from dubito.posteriors.normals import LowRankNormal
from dubito.training.descent import Descent, DescentState, objective_step, start_descent
from dubito.training.members import one_member
from dubito.training.method import Recipe, get_recipe
from dubito.training.optimizers import check_descent
from dubito.training.packing import unpack


class SWAGState(NamedTuple):
    """The descent, and moments of the points collected so far.

    Attributes
    ----------
    descent : DescentState
        The current point.
    count : array of shape ()
        The number of points collected, in float32.
    mean, squares : pytree
        The mean θ̄ of the points, and Σ (θ − θ̄)².
    deviations : pytree
        The deviations of the last ``rank`` points from the means at their time.
    """

    descent: DescentState
    count: Any
    mean: Params
    squares: Params
    deviations: Params


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class SWAG(Descent):
    """q(θ) = N(θ̄, ½ diag σ² + ½ D Dᵀ/(K − 1)) of the points θ_t at the ends of epochs (Maddox et al. 2019, section 3.2):

        θ ← θ − α g,    g the gradient of −log p(D, θ)/N in nats per example from a mini-batch,

    where θ̄ and σ² are the points' mean and variances and D the deviations of the last K from the
    means at their time. ``Ensemble(SWAG(), 5)`` is MultiSWAG (Wilson & Izmailov 2020).

    The spread is that of the stationary distribution of the descent, not of the posterior. With
    curvature H and gradient covariance C per example and independent batches of n rows,
    HΣ + ΣH = (α/n) C (Mandt, Hoffman & Blei 2017), with momentum 0.9 for ten times the α: where
    C = H that is α/(2n) in all directions, while the posterior's is (NH)⁻¹. An epoch here, as
    usual, takes each row once, so that most of this noise cancels within it, and Σ is narrower
    still where αH is far below n/N. Use it for the mean, which predicts better than the last point,
    and for a first estimate of epistemic uncertainty at the cost of one fit; score it on held-out
    rows.

    Parameters
    ----------
    start : float
        Points are collected after this fraction of the steps.
    rank : int
        K.
    optimizer : {"momentum", "sgd", "nesterov"}
        The stochastic descent.
    schedule : {"constant", "cosine", "linear"}
        Until ``start`` the rate is constant; from then on it falls over each epoch anew
        ("constant": it stays; the others: cycles, Izmailov et al. 2018).
    epochs, batch_size, learning_rate, clip
        As in ``MAP``.
    """

    epochs: int | None = None
    clip: float | None = 5.0
    start: float = 0.5
    rank: int = static(default=20)
    optimizer: str = static(default="momentum")
    schedule: str = static(default="constant")

    members = one_member
    recipes: ClassVar[dict[str, Recipe] | None] = {
        "regression": Recipe((128, 128), "silu", 8, prior_scale=1.5, rows_seen=300_000, least_epochs=100),
        "classification": Recipe(prior_scale=5.0),
    }

    def check(self, model: Model) -> None:
        check_descent(self)
        if self.optimizer not in ("sgd", "momentum", "nesterov"):
            raise ValueError(f"SWAG needs optimizer 'sgd', 'momentum' or 'nesterov', got {self.optimizer!r}")
        check_whole("rank", self.rank, 2)
        check_intervals(self, start="[0, 1)")
        if (self.epochs or get_recipe(self, model.likelihood.task).least_epochs) * (1 - self.start) < 2:
            raise ValueError(
                f"start must leave two epochs to collect from: epochs·(1 − start) ≥ 2; got epochs={self.epochs!r}, "
                f"start={self.start!r}"
            )

    def init(self, model: Model, batch: Batch, key: Key) -> SWAGState:
        descent = start_descent(self, model.init(key))
        zeros = jax.tree.map(jnp.zeros_like, descent.params)
        deviations = jax.tree.map(lambda leaf: jnp.zeros((self.rank, *leaf.shape), leaf.dtype), descent.params)
        return SWAGState(descent, jnp.float32(0), zeros, zeros, deviations)

    def step(self, model: Model, state: SWAGState, batch: Batch, clock: Clock, key: Key) -> tuple[SWAGState, Any]:
        within = (clock.step % batch.scale.astype(jnp.int32)).astype(jnp.float32) / batch.scale
        late = clock.progress >= self.start
        cycle = clock._replace(progress=jnp.where(late, within, 0.0))
        strengths = l1_strengths(model, state.descent.params, batch.size)
        objective = partial(map_objective, model, batch=batch)
        descent, info = objective_step(self, objective, state.descent, cycle, model, batch, strengths)
        return collect(state, descent, late & clock.epoch_end), info

    def point(self, model: Model, state: SWAGState) -> Params:
        return unpack(state.descent.params)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> LowRankNormal:
        state = trained.states[0]
        if not state.count >= 2:
            raise KeyboardInterrupt("stopped before two points were collected")
        return LowRankNormal(model, *low_rank_moments(state, jnp.float32(self.rank)))


def collect(state: SWAGState, descent: DescentState, due: Any) -> SWAGState:
    """The state at another point, which counts if it is ``due``.

    Its deviation is always written, to the slot of the next point; a later point overwrites it.
    """
    weight, count = due.astype(jnp.float32), state.count + 1
    place = state.count.astype(jnp.int32) % len(jax.tree.leaves(state.deviations)[0])
    mean = jax.tree.map(lambda m, p: m + (p - m) / count, state.mean, descent.params)
    deviation = jax.tree.map(jnp.subtract, descent.params, mean)

    def add_square(s: Any, p: Any, m: Any, d: Any) -> Any:
        return s + weight * (p - m) * d

    def put(all_: Any, d: Any) -> Any:
        return jax.lax.dynamic_update_index_in_dim(all_, d, place, 0)

    return SWAGState(
        descent,
        state.count + weight,
        jax.tree.map(lambda old, new: jnp.where(due, new, old), state.mean, mean),
        jax.tree.map(add_square, state.squares, descent.params, state.mean, deviation),
        jax.tree.map(put, state.deviations, deviation),
    )


@programs.jit
def low_rank_moments(state: SWAGState, rank: Any) -> tuple[Params, Params, Params]:
    """Mean, scale and directions of the low-rank normal; directions that no point has filled are 0."""
    held = jnp.minimum(state.count, rank)
    scale = jax.tree.map(lambda s: jnp.sqrt(0.5 * s / state.count), state.squares)
    directions = jax.tree.map(lambda d: d * jax.lax.rsqrt(2 * (held - 1)), state.deviations)
    return unpack(state.mean), unpack(scale), jax.vmap(unpack)(directions)
