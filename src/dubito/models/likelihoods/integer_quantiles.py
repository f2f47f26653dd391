"""Distributions of whole numbers: the least one at which a cdf reaches q, by bisection."""

import jax
import jax.numpy as jnp


def least(cdf, q, mean, sd, below, above):
    """The least whole number y ≥ 0 with cdf(y) ≥ q, an array like ``mean`` and ``sd``: the quantile of a step function.

    It is sought from ``below`` to ``above`` standard deviations around the mean (Cantelli's inequality: √((1 − q)/q) and
    √(q/(1 − q)) hold it for any distribution). Beyond 2²⁴ whole numbers are as far apart as float32 has them.
    """

    def middle(low, high):
        return jnp.floor(0.5 * low + 0.5 * high)

    def halve(ends):
        low, high = ends
        y = middle(low, high)
        inside, reached = (low < y) & (y < high), cdf(y) >= q
        return jnp.where(inside & ~reached, y, low), jnp.where(inside & reached, y, high)

    def apart(ends):
        low, high = ends
        y = middle(low, high)
        return jnp.any((low < y) & (y < high))

    low = jnp.maximum(jnp.floor(mean - below * sd) - 1, -1)
    high = jnp.ceil(mean + above * sd) + 1
    return jax.lax.while_loop(apart, halve, (low, high))[1]


def quantiles(likelihood, z, origin, mean, sd, *given):
    """The mixture's quantiles, whole numbers, as (origin, offset), each (len(q), n, K); arguments as for ``quantiles.crossings``,
    and ``origin`` is 0."""

    def cdf(y):
        return jnp.mean(jax.vmap(lambda one: likelihood.cdf(one, y))(z), axis=0)

    def one(each):
        q, _, below, above = each
        return origin, least(cdf, q, mean, sd, below, above)

    return jax.lax.map(one, given)
