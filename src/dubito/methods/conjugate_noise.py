"""The noise precision of a Gaussian integrated out after a fit, by conjugacy (Hoffman et al., JMLR 2013, one full step)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key
from dubito.methods.laplace.laplace import LaplaceApproximation
from dubito.methods.variational.natural_gradient import NaturalGradientVI
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.models.model import Model
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.predictive import predict
from dubito.training.data import Rows
from dubito.training.members import Member, Trained
from dubito.training.method import Wrapper


@register_dataclass
@dataclass(frozen=True)
class ConjugateNoise(Wrapper):
    """Another method's posterior q(θ) with a distribution of τ beside it, in place of its own: for each target k

        τ_k ~ Gamma(a, b_k),    a = shape + ½ Σ_i w_i,    b_k = rate + ½ Σ_i w_i E_q(y_ik − f_ik)²

    with the Gamma prior of the model's ``Gaussian``, over the training rows with their weights w. This is the optimum of
    q(θ) q(τ) for that q(θ) (mathematics: variational inference), and the predictive of one function is Student's t. E_q is
    over the posterior's default number of draws: all points of an ensemble, 100 of another.

    For methods that know τ as a point, MAP and MC dropout. With MAP it is exactly p(τ | θ_MAP, D), so it has no epistemic
    uncertainty and takes residuals that the network has fitted for noise: τ is too large by about (number of fitted
    directions)/N. ``CrossFit`` has its own remedy for that, and takes the place of this.

    Parameters
    ----------
    method : Method
    """

    every_row: ClassVar[bool] = True  # residuals are taken after the fit

    def check(self, model: Model) -> None:
        if not isinstance(model.likelihood, Gaussian) or model.likelihood.precision is not None:
            raise ValueError(
                f"ConjugateNoise is for a Gaussian likelihood that learns its precision, Gaussian(); got {model.likelihood!r}"
            )
        if self.method.validates:
            raise ValueError("CrossFit finds a noise of its own: leave ConjugateNoise out")
        inner = self.method
        while isinstance(inner, Wrapper) and not isinstance(inner, LaplaceApproximation):
            inner = inner.method
        if isinstance(inner, LaplaceApproximation | NaturalGradientVI):
            raise ValueError(f"{type(inner).__name__} finds a distribution of τ of its own: leave ConjugateNoise out")
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return self.method.members(rows, key)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> GammaNoisePosterior:
        key_part, key_draws = jax.random.split(key)
        part = self.method.finish(model, trained, key_part, run)
        rows, likelihood = trained.rows, model.likelihood
        answer = predict(part, rows.x, key=key_draws).columnwise
        squares = rows.train.astype(float) @ ((rows.y - answer.mean) ** 2 + answer.epistemic)
        shape = likelihood.shape + 0.5 * np.sum(rows.train, dtype=float)
        return GammaNoisePosterior(
            model,
            part,
            jnp.full(squares.shape, shape, jnp.float32),
            jnp.asarray(likelihood.rate + 0.5 * squares, jnp.float32),
        )
