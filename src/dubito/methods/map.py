"""Maximum likelihood and maximum a posteriori: point estimates."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import check_choice
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.dropout.mc_dropout import drop_rates
from dubito.methods.held_out_noise import NOISES
from dubito.methods.posterior_descent import ObjectiveDescent
from dubito.methods.priors import check_l1, smooth_log_prior
from dubito.methods.types import Batch, Inputs, Key, Model, Objective, Params, RowValues, Scalar
from dubito.methods.weight_noise import mask_noise, noisy_log_likelihood
from dubito.posteriors.base import Samples
from dubito.training.descent import DescentState
from dubito.training.method import Recipe
from dubito.training.optimizers import check_descent
from dubito.training.packing import unpack


@dataclass(frozen=True, kw_only=True)
class PointEstimate(ObjectiveDescent):
    """argmax log p(D | θ) + log_prior(θ).

    Parameters
    ----------
    epochs : int or tuple of int, optional
        Passes over the rows; of several, held-out rows choose one (see ``MAP``). The default of 200
        is less than that of distributions over weights, since the point of a large network
        eventually fits few rows as if they had no noise. None: by the method's recipe, here at least
        400, and enough to process 400,000 rows.
    dropout : float, optional
        The rate at which inputs of the weights after the first are dropped in training, as a
        regularizer only.
    max_norm : float, optional
        The largest norm of the weights into a hidden unit.
    noise : {"training", "held-out"}
        See ``MAP``.
    """

    epochs: int | tuple[int, ...] | None = 200
    dropout: float | None = None
    max_norm: float | None = None
    noise: str = static(default="training")

    recipes: ClassVar[dict[str, Recipe] | None] = {
        "regression": Recipe(),
        "classification": Recipe(prior_scale=5.0),  # with 1, logits are about 1, and classes uncertain
    }

    @abstractmethod
    def log_prior(self, model: Model, params: Params) -> Scalar:
        """The term that is added to the log likelihood.

        Parameters
        ----------
        model : Model
            The model.
        params : dict
            {"network": θ, "likelihood": φ}.

        Returns
        -------
        array of shape ()
            In nats.
        """

    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        return model.init(key)

    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> Objective:
        params = unpack(params)
        if self.dropout is None:
            likelihood = model.log_likelihood(params, batch)
        else:
            rates = drop_rates(model, params, batch.x, self.dropout, 0.0)
            likelihood = noisy_log_likelihood(model, params, mask_noise(rates), batch, key)
        return likelihood, -self.log_prior(model, params)

    def posterior(self, model: Model, params: Params, x: Inputs) -> Samples:
        return one_sample(model, params)

    def score(self, model: Model, state: DescentState, batch: Batch, key: Key) -> RowValues:
        return point_score(model, state.result, batch)


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class MaximumLikelihood(PointEstimate):
    """argmax log p(D | θ), in nats: no prior and no epistemic uncertainty.

    It fits noise when the network is large.

    Parameters
    ----------
    epochs, batch_size, learning_rate, schedule, optimizer, clip, ema_epochs, dropout, max_norm, noise
        As in ``MAP``.
    """

    def check(self, model: Model) -> None:
        check_descent(self)
        check_choice("noise", self.noise, NOISES)

    def log_prior(self, model: Model, params: Params) -> Scalar:
        return jnp.zeros((), jnp.float32)


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class MAP(PointEstimate):
    """argmax log p(D | θ) + log p(θ), in nats: maximum likelihood regularized by the model's prior.

    L2 regularization is a Normal prior, L1 a Laplace prior (``Normal.from_l2``,
    ``Laplace.from_l1``); with a Laplace prior each step is proximal, so that zeros are exact. A
    point has no epistemic uncertainty, and the mode of a learned log τ lies above its mean.

    Parameters
    ----------
    epochs : int or tuple of int, optional
        Passes over the rows. With several numbers, from the smallest to the largest, held-out rows
        choose: all members are trained for the first number, and anew for the next as long as the
        median of their best epochs lies in the second half of the run. None: by the method's recipe,
        here at least 400, and enough to process 400,000 rows.
    batch_size : int or None
        Rows of a step; None: all.
    learning_rate : float or None
        Multiplies the gradient per example; None: the optimizer's usual one (1 for Adadelta).
    schedule : {"cosine", "constant", "linear"}
        How the rate falls.
    optimizer : str or optax.GradientTransformation
        "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", or your own.
    clip : float, optional
        The largest norm of the gradient.
    ema_epochs : float, optional
        The horizon of an exponential moving average of the parameters, in epochs: the averaged
        parameters are scored and kept. They are less noisy than the last ones, which None keeps.
    dropout : float, optional
        The rate at which inputs of the weights after the first are dropped in training, as a
        regularizer only.
    max_norm : float, optional
        The largest norm of the weights into a hidden unit.
    noise : {"training", "held-out"}
        Where the likelihood's own parameters come from. "training": they are at their maximum given
        the residuals of the training rows, which are smaller than those of new rows. "held-out" fits
        them after training to the rows of early stopping, or to two tenths of the rows that two more
        runs leave out; fewer than 40 rows and streams keep those of training.
    """

    proximal: ClassVar[bool] = True

    def check(self, model: Model) -> None:
        check_descent(self)
        check_choice("noise", self.noise, NOISES)
        check_l1(self, model)

    def log_prior(self, model: Model, params: Params) -> Scalar:
        return smooth_log_prior(model, params)


def map_objective(model: Model, params: Params, batch: Batch) -> Objective:
    """log p(D | θ) and −log p(θ), without the gradient of a Laplace prior; ``params`` are packed."""
    params = unpack(params)
    return model.log_likelihood(params, batch), -smooth_log_prior(model, params)


def point_score(model: Model, params: Any, batch: Batch) -> RowValues:
    """log p(y | x) of each row at a point, in nats; ``params`` may be packed."""
    return model.likelihood.log_prob_observed(model.outputs(unpack(params), batch.x), batch.y)


def one_sample(model: Model, params: Params) -> Samples:
    """A point as a posterior of one draw."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)  # on the host: no program for each network
    return Samples(model, jax.device_put(params))
