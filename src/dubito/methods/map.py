"""Maximum likelihood and maximum a posteriori: points, the lecture's first two ways to train (equations 3 and 4)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass, static
from dubito.methods.dropout.mc_dropout import drop_rates, dropped_outputs
from dubito.models.priors import Laplace, leaf_scales
from dubito.posteriors.base import Samples
from dubito.training import optimizers
from dubito.training.fit import one_member


class Point(NamedTuple):
    params: Any
    optimizer: Any


@register_dataclass
@dataclass(frozen=True)
class MaximumLikelihood:
    """argmax log p(D | θ), in nats: no prior, no doubt about the weights. It fits noise when the network is large.

    ``dropout``: the rate at which inputs of the weights after the first are dropped in training, as a regularizer only;
    ``max_norm``: the largest norm of the weights into a hidden unit; ``clip``: the largest norm of the gradient;
    ``learning_rate`` None: the optimizer's usual one (1 for Adadelta).

    ``epochs`` None, usual with a distribution over the weights, means 400 (SGHMC 1,000, SGLD 2,000), or on fewer rows as many as
    show 400,000 in all. For points it is 200: at its end a point of a large network has fitted few rows as if without noise.
    """

    epochs: int | None = 200
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    schedule: str = static(default="cosine")
    clip: float | None = None
    dropout: float | None = None
    max_norm: float | None = None

    members = one_member

    def check(self, model):
        del model
        optimizers.check(self)

    def init(self, model, batch, key):
        del batch
        params = optimizers.packed(self, model.init(key))
        return Point(params, optimizers.start(self, params))

    def log_prior(self, model, params):
        del model, params
        return jnp.zeros((), jnp.float32)

    def threshold(self, model, params, size):
        del model, params, size

    def step(self, model, state, batch, clock, key):
        def objective(packed):
            params = optimizers.unpacked(packed)
            if self.dropout is None:
                z = model.outputs(params, batch.x)
            else:
                z = dropped_outputs(model, params, batch.x, drop_rates(model, params, batch.x, self.dropout, 0.0), key)
            likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch) / batch.size
            penalty = -self.log_prior(model, params) / batch.size
            return penalty - likelihood, {"likelihood": likelihood, "penalty": penalty}

        gradient, info = jax.grad(objective, has_aux=True)(state.params)
        strengths = self.threshold(model, optimizers.unpacked(state.params), batch.size)
        params, optimizer = optimizers.descend(self, gradient, state.params, state.optimizer, clock, strengths)
        return Point(optimizers.limited(self, model, params, batch.x), optimizer), info

    def score(self, model, state, batch, key):
        del key
        return model.likelihood.log_prob(model.outputs(optimizers.unpacked(state.params), batch.x), batch.y)

    def finish(self, model, trained, key, run):
        del key, run
        return Samples(model, jax.tree.map(lambda leaf: leaf[None], optimizers.unpacked(trained.states[0].params)))


@register_dataclass
@dataclass(frozen=True)
class MAP:
    """argmax log p(D | θ) + log p(θ), in nats: maximum likelihood with the model's prior as its regularizer.

    L2 is a Normal prior, L1 a Laplace prior (``Normal.from_l2``, ``Laplace.from_l1``); with a Laplace prior each step is
    proximal, so that zeros are exact. A point still: it has no doubt about the weights, and the mode of a learned log τ
    lies above its mean.
    """

    epochs: int | None = 200
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    schedule: str = static(default="cosine")
    clip: float | None = None
    dropout: float | None = None
    max_norm: float | None = None

    members = one_member
    init = MaximumLikelihood.init
    step = MaximumLikelihood.step
    score = MaximumLikelihood.score
    finish = MaximumLikelihood.finish

    def check(self, model):
        optimizers.check(self)
        if isinstance(model.prior, Laplace) and self.optimizer not in ("sgd", "momentum", "adam"):
            raise ValueError(f"a Laplace prior needs optimizer 'sgd', 'momentum' or 'adam', got {self.optimizer!r}")

    def log_prior(self, model, params):
        if isinstance(model.prior, Laplace):  # its gradient is the proximal step's
            frozen = jax.lax.stop_gradient(params["network"])
            return model.log_prior({"network": frozen, "likelihood": params["likelihood"]})
        return model.log_prior(params)

    def threshold(self, model, params, size):
        if not isinstance(model.prior, Laplace):
            return None
        leaves, tree = jax.tree.flatten(params["network"])
        scales = leaf_scales(model.prior, params["network"], None)
        strengths = [
            jnp.full_like(leaf, 0 if b is None else 1 / (b * size)) for leaf, b in zip(leaves, scales, strict=True)
        ]
        likelihood = jax.tree.map(jnp.zeros_like, params["likelihood"])
        return optimizers.packed(self, {"network": tree.unflatten(strengths), "likelihood": likelihood})
