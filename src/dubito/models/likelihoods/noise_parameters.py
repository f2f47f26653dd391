"""A noise parameter that is fixed or learned, and outputs that are limited before they are exponentiated."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array, Float

from dubito._jax.types import Params
from dubito.models.likelihoods.base import Likelihood

LINEAR = 25.0  # log mean above which the mean grows linearly in f, so that nothing overflows


class FixedOrLearned(Likelihood):
    """A likelihood with one positive noise parameter v per target: the field that ``parameter``
    names, or, if that is None, log v is learned, with v ~ Gamma(shape, rate), or 1/v if ``inverse``.

    Attributes
    ----------
    row_information : float
        J, an upper bound of the information of one row on log v: ½ for a precision whose density is
        √v g(√v r), for which J also bounds d log p/d log v, and 1 otherwise.
    """

    parameter: str
    inverse: bool = False
    row_information: ClassVar[float] = 1.0
    shape: float
    rate: float

    @property
    def fixed(self) -> float | None:
        """v, or None if it is learned."""
        return vars(self)[self.parameter]

    def init(self) -> Params:
        return {} if self.fixed is not None else {f"log_{self.parameter}": jnp.zeros(self.targets, jnp.float32)}

    def log_prior(self, phi: Params) -> Float[Array, ""]:
        if self.fixed is not None:
            return jnp.asarray(0.0)
        log_v = phi[f"log_{self.parameter}"]
        return jnp.sum(log_gamma_density(-log_v if self.inverse else log_v, self.shape, self.rate))

    def log_parameter(self, phi: Params, dtype: Any) -> Float[Array, "*targets"]:
        """log v: of shape () if it is fixed, (targets,) if it is learned."""
        return phi[f"log_{self.parameter}"] if self.fixed is None else jnp.log(jnp.asarray(self.fixed, dtype))

    def improved(self, phi: Params, gradient: Params, size: Any) -> Params:
        """φ after one step towards the maximum of log p(D | φ) + log p(φ), whatever the unit of v.

        With g = d/d log v of that sum, N rows and the Gamma prior's shape a,

            log v ← log v − log(1 − g/(J N + a)),

        which is the maximum itself for Gaussian and Laplace noise: there g = (J N + a)(1 − v/v̂).
        For any other the maximum is its fixed point. v grows at most tenfold.

        Parameters
        ----------
        phi : dict of arrays
            φ, as returned by ``init``, not empty.
        gradient : dict of arrays
            g at φ, in nats.
        size : array of shape ()
            N, the sum of the weights.

        Returns
        -------
        dict of arrays
            The new φ.
        """
        sign = -1.0 if self.inverse else 1.0  # 1/v has the prior

        def step(log_v: Array, g: Array) -> Array:
            share = sign * g / (self.row_information * size + self.shape)
            return log_v - sign * jnp.log1p(-jnp.minimum(share, 0.9))

        return {name: step(log_v, gradient[name]) for name, log_v in phi.items()}


def limit_softly(f: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """f up to ±25; beyond, it grows logarithmically, so that e^f grows linearly and does not overflow.

    Parameters
    ----------
    f : array
        A logarithm or a logit.

    Returns
    -------
    array
        The same shape; its derivative is continuous.
    """
    return jnp.clip(f, -LINEAR, LINEAR) + jnp.sign(f) * jnp.log1p(jnp.maximum(jnp.abs(f) - LINEAR, 0))


def log_gamma_density(log_value: Float[Array, "*shape"], shape: Any, rate: Any) -> Float[Array, "*shape"]:
    """The log density of log v for v ~ Gamma(shape, rate), with the Jacobian v of the logarithm.

    A shape of at most 0 is improper, and its constant is left out.

    Parameters
    ----------
    log_value : array
        log v.
    shape, rate : float or array
        The parameters a and b of the Gamma distribution.

    Returns
    -------
    array
        a log b − log Γ(a) + a log v − b v, elementwise, in nats.
    """
    shape, rate = jnp.asarray(shape, log_value.dtype), jnp.asarray(rate, log_value.dtype)
    constant = special.gammaln(jnp.where(shape > 0, shape, 1))
    return shape * (jnp.log(rate) + log_value) - rate * jnp.exp(log_value) - constant
