"""Quantiles of a mixture: where the mean over draws of a likelihood's cdf crosses q, to what float32 tells apart."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

SQRT_2PI = 2.5066283
EPS, LARGEST = np.finfo(np.float32).eps, np.finfo(np.float32).max
# A step of Newton's below this part of the narrowest component's sd leaves an error of the cdf of about its square / 10,
# which is less than a float32 rounds it.
NEAR = np.float32(3e-4)


def starts(q):
    """What the search for quantiles q needs of each: q, its normal score, and how many standard deviations below and
    above the mean it may be (Cantelli's inequality, for any distribution)."""
    columns = q, special.ndtri(q), 1.001 * np.sqrt((1 - q) / q), 1.001 * np.sqrt(q / (1 - q))
    return [np.asarray(column, np.float32) for column in columns]


def crossings(likelihood, z, mean, sd, *given):
    """Where the mixture's cdf crosses each q, (len(q), n, K): Newton's method on the normal score of the cdf, which is a
    straight line for one Gaussian; bisection where a step leaves the bracket or is not half the last one.

    A row that is done stays as it is, so that its bits do not depend on how long its neighbors take.
    """
    narrowest = jnp.sqrt(jnp.min(jax.vmap(likelihood.variance)(z), axis=0))

    def cdf(y):
        values = jax.vmap(lambda one: likelihood.cdf(one, y))(z)
        return jnp.mean(values.reshape(len(values), -1), axis=0).reshape(
            y.shape
        )  # flat: XLA reduces it six times faster

    def crossing(one):
        q, score, below, above = one

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
            moved = jnp.abs(new - y)
            near = close & (small | (moved <= EPS * jnp.abs(new))) | (high - low <= 2 * EPS * jnp.abs(new))
            return count + 1, jnp.where(done, y, new), low, high, moved, done | near

        target = jax.scipy.special.ndtri(q)
        low, high = (jnp.clip(end, -LARGEST, LARGEST) for end in (mean - below * sd, mean + above * sd))
        y = jnp.clip(mean + score * sd, low, high)
        state = jnp.int32(0), y, low, high, jnp.full_like(y, jnp.inf), jnp.zeros(y.shape, bool)
        return jax.lax.while_loop(lambda state: (state[0] < 200) & ~jnp.all(state[-1]), improve, state)[1]

    return jax.lax.map(crossing, given)
