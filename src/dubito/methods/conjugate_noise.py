"""The noise precision of a Gaussian integrated out after a fit, by conjugacy (Hoffman et al., JMLR 2013, one full step)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.pytree import register_dataclass
from dubito.methods.laplace.laplace import LaplaceApproximation
from dubito.methods.variational.natural_gradient import NaturalGradientVI
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.predictive import predict


@register_dataclass
@dataclass(frozen=True)
class ConjugateNoise:
    """Another method's posterior q(θ) with a distribution of τ beside it, in place of its own: for each target k

        τ_k ~ Gamma(a, b_k),    a = shape + ½ Σ_i w_i,    b_k = rate + ½ Σ_i w_i E_q(y_ik − f_ik)²

    with the Gamma prior of the model's ``Gaussian``, over the training rows with their weights w. This is the optimum of
    q(θ) q(τ) for that q(θ) (mathematics: variational inference), and the predictive of one function is Student's t. E_q is
    over the draws that the posterior gives unasked: all points of an ensemble, 100 of another.

    For methods that know τ as a point, MAP and MC dropout. With MAP it is exactly p(τ | θ_MAP, D), so it has no doubt about
    θ and takes residuals that the network has fitted for noise: τ is too large by about (number of fitted directions)/N.
    ``CrossFit`` has its own cure for that, and takes the place of this.
    """

    method: Any

    every_row = True  # of memory: residuals are taken after the fit

    def check(self, model):
        if not isinstance(model.likelihood, Gaussian) or model.likelihood.precision is not None:
            raise ValueError(
                f"ConjugateNoise is for a Gaussian likelihood that learns its precision, Gaussian(); got {model.likelihood!r}"
            )
        if hasattr(self.method, "validates"):
            raise ValueError("CrossFit finds a noise of its own: leave ConjugateNoise out")
        inner = self.method
        while hasattr(inner, "method") and not isinstance(inner, LaplaceApproximation):
            inner = inner.method
        if isinstance(inner, LaplaceApproximation | NaturalGradientVI):
            raise ValueError(f"{type(inner).__name__} finds a distribution of τ of its own: leave ConjugateNoise out")
        self.method.check(model)

    def members(self, rows, key):
        return self.method.members(rows, key)

    def finish(self, model, trained, key, run):
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
