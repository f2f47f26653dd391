"""Quantiles of distributions of whole numbers, by bisection."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito.models.likelihoods.base import Likelihood, OutcomeParams

Values: TypeAlias = Float[Array, "*shape"]


def smallest_reaching(
    cdf: Callable[[Values], Values], q: Values, mean: Values, sd: Values, below: Values, above: Values
) -> Values:
    """The smallest whole number y ≥ 0 with cdf(y) ≥ q, elementwise.

    Beyond 2²⁴, the whole numbers are those that float32 can represent.

    Parameters
    ----------
    cdf : callable
        A cumulative distribution function of whole numbers.
    q : array
        Probabilities.
    mean, sd : array
        Mean and standard deviation of the distribution.
    below, above : array
        How many standard deviations below and above the mean y can be; √((1 − q)/q) and √(q/(1 −
        q)) hold for any distribution, by Cantelli's inequality.

    Returns
    -------
    array
        The quantiles.
    """

    def middle(low: Values, high: Values) -> Values:
        return jnp.floor(0.5 * low + 0.5 * high)

    def halve(ends: tuple[Values, Values]) -> tuple[Values, Values]:
        low, high = ends
        y = middle(low, high)
        inside, reached = (low < y) & (y < high), cdf(y) >= q
        return jnp.where(inside & ~reached, y, low), jnp.where(inside & reached, y, high)

    def unfinished(ends: tuple[Values, Values]) -> jax.Array:
        low, high = ends
        y = middle(low, high)
        return jnp.any((low < y) & (y < high))

    low = jnp.maximum(jnp.floor(mean - below * sd) - 1, -1)
    high = jnp.ceil(mean + above * sd) + 1
    return jax.lax.while_loop(unfinished, halve, (low, high))[1]


def mixture_integer_quantiles(
    likelihood: Likelihood, z: OutcomeParams, origin: Values, mean: Values, sd: Values, *search: Values
) -> tuple[Values, Values]:
    """The quantiles of a mixture of discrete distributions.

    Parameters
    ----------
    likelihood : Likelihood
        The discrete distributions.
    z : dict of arrays
        Their parameters, with the draws as first axis.
    origin : array of shape (rows, targets)
        Zeros.
    mean, sd : array of shape (rows, targets)
        Mean and standard deviation of the mixture.
    *search : array of shape (levels,)
        As ``posteriors.quantiles.search_bounds`` returns them.

    Returns
    -------
    tuple of arrays of shape (levels, rows, targets)
        The origin and the quantiles.
    """

    def cdf(y: Values) -> Values:
        return jnp.mean(jax.vmap(lambda one: likelihood.cdf(one, y))(z), axis=0)

    def quantile(level: tuple[Any, ...]) -> tuple[Values, Values]:
        q, _, below, above = level
        return origin, smallest_reaching(cdf, q, mean, sd, below, above)

    return jax.lax.map(quantile, search)
