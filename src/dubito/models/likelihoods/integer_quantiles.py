"""Quantiles of distributions of whole numbers: the least one at which a cdf reaches q, by
bisection.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito.models.likelihoods.base import Likelihood, OutcomeParams


def smallest_reaching(
    cdf: Callable[[Any], Any],
    q: Float[Array, "*shape"],
    mean: Float[Array, "*shape"],
    sd: Float[Array, "*shape"],
    below: Float[Array, "*shape"],
    above: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """The least whole number y ≥ 0 with cdf(y) ≥ q, elementwise: the quantile of a step function.

    It is sought from ``below`` to ``above`` standard deviations around the mean (Cantelli's
    inequality: √((1 − q)/q) and √(q/(1 − q)) hold it for any distribution). Beyond 2²⁴ whole
    numbers are as far apart as float32 has them.
    """

    def middle(low, high):
        return jnp.floor(0.5 * low + 0.5 * high)

    def halve(ends):
        low, high = ends
        y = middle(low, high)
        inside, reached = (low < y) & (y < high), cdf(y) >= q
        return jnp.where(inside & ~reached, y, low), jnp.where(inside & reached, y, high)

    def unfinished(ends):
        low, high = ends
        y = middle(low, high)
        return jnp.any((low < y) & (y < high))

    low = jnp.maximum(jnp.floor(mean - below * sd) - 1, -1)
    high = jnp.ceil(mean + above * sd) + 1
    return jax.lax.while_loop(unfinished, halve, (low, high))[1]


def mixture_integer_quantiles(
    likelihood: Likelihood,
    z: OutcomeParams,
    origin: Float[Array, "rows targets"],
    mean: Float[Array, "rows targets"],
    sd: Float[Array, "rows targets"],
    *given: Float[Array, " levels"],
) -> tuple[Float[Array, "levels rows targets"], Float[Array, "levels rows targets"]]:
    """The quantiles of a mixture of discrete distributions as (origin, offset); z has the draws as
    its first axis.

    Arguments as for ``posteriors.quantiles.crossings``; ``origin`` is 0.
    """

    def cdf(y):
        return jnp.mean(jax.vmap(lambda one: likelihood.cdf(one, y))(z), axis=0)

    def one(each):
        q, _, below, above = each
        return origin, smallest_reaching(cdf, q, mean, sd, below, above)

    return jax.lax.map(one, given)
