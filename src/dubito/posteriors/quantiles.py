"""Quantiles of a mixture: where the mean over draws of a likelihood's cdf crosses q, to what float32 tells apart."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from dubito.models.likelihoods.base import recenter

SQRT_2PI = 2.5066283
EPS, LARGEST = np.finfo(np.float32).eps, np.finfo(np.float32).max
# A step of Newton's below this part of the narrowest component's sd leaves an error of the cdf of about its square / 10,
# which is less than a float32 rounds it.
NEAR = np.float32(3e-4)
RESOLVED = 8  # widths of the narrowest component from the origin, up to which float32 costs a cdf less than 4e-7
FINER = 256  # rounding errors around an answer, within which it is sought again


def search_bounds(q):
    """What the find_crossing for quantiles q needs of each: q, its normal score, and how many standard deviations below and
    above the mean it may be (Cantelli's inequality, for any distribution)."""
    columns = q, special.ndtri(q), 1.001 * np.sqrt((1 - q) / q), 1.001 * np.sqrt(q / (1 - q))
    return [np.asarray(column, np.float32) for column in columns]


def mixture_quantiles(likelihood, z, origin, mean, sd, *given):
    """Where the mixture's cdf crosses each q, as (origin, offset), each (len(q), n, K), whose sum it is.

    ``mean`` is measured from ``origin``, which lies near it: so float32 resolves the distribution wherever it is. Where some
    component is so narrow that float32 does not resolve it as far from the mean as the answer is, the find_crossing goes on around
    the answer.
    """
    narrowest = jnp.sqrt(jnp.min(jax.vmap(likelihood.variance)(z), axis=0))

    def cdf(origin, y):
        values = jax.vmap(lambda one: likelihood.cdf(recenter(likelihood, one, origin), y))(z)
        flat = values.reshape(len(values), -1)  # XLA reduces it six times faster
        return jnp.mean(flat, axis=0).reshape(y.shape)

    def crossing(one):
        q, score, below, above = one
        low, high = (jnp.clip(end, -LARGEST, LARGEST) for end in (mean - below * sd, mean + above * sd))
        start = jnp.clip(mean + score * sd, low, high)
        y = find_crossing(partial(cdf, origin), q, start, low, high, narrowest, jnp.zeros(start.shape, bool))
        if not likelihood.is_location_family:
            return origin, y
        near, rest = two_sum(origin, y)
        reach = FINER * EPS * jnp.abs(y)
        resolved = jnp.abs(y) <= RESOLVED * narrowest
        finer = find_crossing(partial(cdf, near), q, rest, rest - reach, rest + reach, narrowest, resolved)
        return jnp.where(resolved, origin, near), jnp.where(resolved, y, finer)

    return jax.lax.map(crossing, given)


def find_crossing(cdf, q, y, low, high, narrowest, done):
    """Where ``cdf`` crosses q between ``low`` and ``high``, from y on: Newton's method on the normal score of the cdf, which is
    a straight line for one Gaussian; bisection where a step leaves the bracket or is not half the last one.

    A row that is ``done`` stays as it is, so that its bits do not depend on how long its neighbors take.
    """
    target = jax.scipy.special.ndtri(q)

    def improve(state):
        count, y, low, high, last, done = state
        value, density = jax.jvp(cdf, (y,), (jnp.ones_like(y),))
        u = jax.scipy.special.ndtri(value)
        step = (target - u) * jnp.exp(-0.5 * u**2) / (SQRT_2PI * density)
        low, high = jnp.where(value < q, y, low), jnp.where(value < q, high, y)
        close = jnp.abs(value - q) <= 0.01 * jnp.minimum(q, 1 - q)
        small = jnp.abs(step) < NEAR * narrowest
        # far from q only a density that is all rounding gives a small step: do not believe it
        inside = (low < y + step) & (y + step < high) & (jnp.abs(step) < 0.5 * last) & (close | ~small)
        new = jnp.where(inside | (close & small), jnp.clip(y + step, low, high), 0.5 * low + 0.5 * high)
        new = jnp.where(jnp.abs(value - q) <= EPS * q, y, new)
        moved, resolved = jnp.abs(new - y), EPS * jnp.maximum(jnp.abs(new), narrowest)
        near = close & (small | (moved <= resolved)) | (high - low <= 2 * resolved)
        return count + 1, jnp.where(done, y, new), low, high, moved, done | near

    state = jnp.int32(0), y, low, high, jnp.full_like(y, jnp.inf), done
    return jax.lax.while_loop(lambda state: (state[0] < 200) & ~jnp.all(state[-1]), improve, state)[1]


def two_sum(a, b):
    """(a + b rounded, what the rounding took off), exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
