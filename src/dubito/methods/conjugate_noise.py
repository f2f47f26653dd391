"""The noise precision of a Gaussian integrated out after a fit, by conjugacy (Hoffman et al., JMLR 2013, one full step)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import register_dataclass
from dubito.methods.ensembles.cross_fit import CrossFit
from dubito.methods.laplace.laplace import LaplaceApproximation
from dubito.methods.types import Key, Member, Model, Rows, Trained
from dubito.methods.variational.natural_gradient import NaturalGradientVI, learns_precision
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.predictive import predict
from dubito.training.method import Wrapper


@register_dataclass
@dataclass(frozen=True)
class ConjugateNoise(Wrapper):
    """Another method's posterior q(θ), with its τ replaced by a distribution: for each target k

        τ_k ~ Gamma(a, b_k),    a = shape + ½ Σ_i w_i,    b_k = rate + ½ Σ_i w_i E_q(y_ik − f_ik)²

    with the Gamma prior of the model's ``Gaussian``, over the training rows with their weights w.
    This is the optimum of q(θ) q(τ) for that q(θ) (mathematics: variational inference), and the
    predictive of one function is Student's t. E_q is over the posterior's default number of draws:
    all points of an ensemble, 100 of another.

    For methods with a point estimate of τ: MAP, MC dropout. With MAP it is exactly p(τ | θ_MAP, D),
    so it has no epistemic uncertainty, and noise that the network has fitted is missing from the
    residuals: τ is too large by about (number of fitted directions)/N. ``CrossFit`` estimates the
    noise without that error, and replaces this method.

    Parameters
    ----------
    method : Method
        The method that gives q(θ).
    """

    allows_missing_targets: ClassVar[bool] = False
    every_row: ClassVar[bool] = True  # residuals are taken after the fit

    def check(self, model: Model) -> None:
        if not learns_precision(model):
            raise ValueError(
                "ConjugateNoise needs a Gaussian likelihood that learns its precision, Gaussian(); got "
                f"{model.likelihood!r}"
            )
        wrapped: Any = self.method
        while isinstance(wrapped, Wrapper) and not isinstance(wrapped, CrossFit | LaplaceApproximation):
            wrapped = wrapped.method
        if isinstance(wrapped, CrossFit | LaplaceApproximation | NaturalGradientVI):
            raise ValueError(f"{type(wrapped).__name__} estimates the noise itself. Leave out ConjugateNoise.")
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
        rate = jnp.asarray(likelihood.rate + 0.5 * squares, jnp.float32)
        return GammaNoisePosterior(model, part, jnp.full(squares.shape, shape, jnp.float32), rate)
