"""Maximum likelihood and maximum a posteriori: point estimates."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.methods.dropout.mc_dropout import drop_rates, masked_outputs
from dubito.models.model import Batch, Model
from dubito.models.priors import Laplace, leaf_scales
from dubito.posteriors.base import Samples
from dubito.training import optimizers
from dubito.training.descent import Descent, DescentState, objective_step, start_descent
from dubito.training.members import Trained, one_member
from dubito.training.method import Clock
from dubito.training.packing import pack, unpack


@dataclass(frozen=True, kw_only=True)
class PointEstimate(Descent):
    """argmax log p(D | θ) + log_prior(θ).

    Parameters
    ----------
    epochs : int, optional
        200 for points: at its end a point of a large network has fitted few rows as if without noise. None: as for
        distributions over weights.
    dropout : float, optional
        The rate at which inputs of the weights after the first are dropped in training, as a regularizer only.
    max_norm : float, optional
        The largest norm of the weights into a hidden unit.
    """

    epochs: int | None = 200
    dropout: float | None = None
    max_norm: float | None = None

    members = one_member

    @abstractmethod
    def log_prior(self, model: Model, params: Params) -> Any:
        """What is added to the log likelihood, a scalar in nats."""

    @abstractmethod
    def l1_strengths(self, model: Model, params: Params, size: Any) -> Params | None:
        """The strengths of a proximal step for each packed parameter; None: the step is no proximal one."""

    def init(self, model: Model, batch: Batch, key: Key) -> DescentState:
        del batch
        return start_descent(self, model.init(key))

    def step(self, model: Model, state: DescentState, batch: Batch, clock: Clock, key: Key) -> tuple[DescentState, Any]:
        def objective(packed):
            params = unpack(packed)
            if self.dropout is None:
                z = model.outputs(params, batch.x)
            else:
                z = masked_outputs(model, params, batch.x, drop_rates(model, params, batch.x, self.dropout, 0.0), key)
            likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch)
            return likelihood, -self.log_prior(model, params)

        strengths = self.l1_strengths(model, state.params, batch.size)
        state, info = objective_step(self, objective, state, clock, batch.size, strengths)
        return state._replace(params=optimizers.limit_norms(self, model, state.params, batch.x)), info

    def point(self, model: Model, state: DescentState) -> Params:
        del model
        return unpack(state.params)

    def score(self, model: Model, state: DescentState, batch: Batch, key: Key) -> Any:
        del key
        return point_score(model, state, batch)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples:
        del key, run
        return one_sample(model, unpack(trained.states[0].params))


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class MaximumLikelihood(PointEstimate):
    """argmax log p(D | θ), in nats: no prior and no epistemic uncertainty.

    It fits noise when the network is large. For the parameters see ``MAP``, whose fields are the same.
    """

    def check(self, model: Model) -> None:
        del model
        optimizers.check_descent(self)

    def log_prior(self, model: Model, params: Params) -> Any:
        del model, params
        return jnp.zeros((), jnp.float32)

    def l1_strengths(self, model: Model, params: Params, size: Any) -> None:
        del model, params, size


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class MAP(PointEstimate):
    """argmax log p(D | θ) + log p(θ), in nats: maximum likelihood with the model's prior as its regularizer.

    L2 is a Normal prior, L1 a Laplace prior (``Normal.from_l2``, ``Laplace.from_l1``); with a Laplace prior each step is
    proximal, so that zeros are exact. A point has no epistemic uncertainty, and the mode of a learned log τ lies above its
    mean.

    Parameters
    ----------
    epochs : int, optional
        Passes over the rows. None: 400, or on fewer rows as many as show 400,000 in all.
    batch_size : int or None
        Rows of a step; None: all.
    learning_rate : float or None
        Multiplies the gradient per example; None: the optimizer's usual one (1 for Adadelta).
    schedule : {"cosine", "constant", "linear"}
        How the rate falls.
    optimizer : str or optax.GradientTransformation
    clip : float, optional
        The largest norm of the gradient.
    dropout : float, optional
        The rate at which inputs of the weights after the first are dropped in training, as a regularizer only.
    max_norm : float, optional
        The largest norm of the weights into a hidden unit.
    """

    def check(self, model: Model) -> None:
        check_l1(self, model)

    def log_prior(self, model: Model, params: Params) -> Any:
        return smooth_log_prior(model, params)

    def l1_strengths(self, model: Model, params: Params, size: Any) -> Params | None:
        return l1_strengths(model, params, size)


def check_l1(method: Descent, model: Model) -> None:
    """Raise ValueError for invalid settings of a descent under the model's prior."""
    optimizers.check_descent(method)
    if isinstance(model.prior, Laplace) and method.optimizer not in ("sgd", "momentum", "adam"):
        raise ValueError(f"a Laplace prior needs optimizer 'sgd', 'momentum' or 'adam', got {method.optimizer!r}")


def smooth_log_prior(model: Model, params: Params) -> Any:
    """log p(θ) + log p(φ), in nats, without a gradient of a Laplace prior, whose step is proximal."""
    if isinstance(model.prior, Laplace):
        frozen = jax.lax.stop_gradient(params["network"])
        return model.log_prior({"network": frozen, "likelihood": params["likelihood"]})
    return model.log_prior(params)


def l1_strengths(model: Model, params: Params, size: Any) -> Params | None:
    """Of a Laplace prior 1/(scale · N) for each packed parameter, 0 for free ones; None for another prior."""
    if not isinstance(model.prior, Laplace):
        return None
    plain = unpack(params)
    leaves, tree = jax.tree.flatten(plain["network"])
    scales = leaf_scales(model.prior, plain["network"], None)
    strengths = [
        jnp.full_like(leaf, 0 if b is None else 1 / (b * size)) for leaf, b in zip(leaves, scales, strict=True)
    ]
    return pack({"network": tree.unflatten(strengths), "likelihood": jax.tree.map(jnp.zeros_like, plain["likelihood"])})


def point_score(model: Model, state: DescentState, batch: Batch) -> Any:
    """log p(y | x) of each row at the state's point, (n,), in nats."""
    return model.likelihood.log_prob(model.outputs(unpack(state.params), batch.x), batch.y)


def one_sample(model: Model, params: Params) -> Samples:
    """A point as a posterior of one draw."""
    return Samples(model, jax.tree.map(lambda leaf: leaf[None], params))
