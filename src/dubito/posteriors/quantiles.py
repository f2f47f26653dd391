"""Quantiles of a mixture: where the mean over draws of a likelihood's cdf crosses q, as exactly as float32 resolves it."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import special

from dubito.models.likelihoods.base import Likelihood, OutcomeParams, recenter

SQRT_2PI = 2.5066283
EPS, LARGEST = np.finfo(np.float32).eps, np.finfo(np.float32).max
# A Newton step below this fraction of the narrowest component's sd leaves an error of the cdf of about its square / 10,
# which is less than the rounding error of float32.
NEAR = np.float32(3e-4)
RESOLVED = 8  # widths of the narrowest component from the origin, up to which float32 costs a cdf less than 4e-7
FINER = 256  # rounding errors around an answer, within which the search continues
LOG_SMALLEST, LOG_LARGEST = -87.0, 88.0  # logarithms that float32 can exponentiate

Values: TypeAlias = Float[Array, "rows targets"]


def search_bounds(q: Float[np.ndarray, " levels"]) -> tuple[Float[np.ndarray, " levels"], ...]:
    """What the search for quantiles q needs of each level.

    These are q, its normal score, and how many standard deviations below and above the mean it can
    be (Cantelli's inequality, for any distribution).
    """
    columns = q, special.ndtri(q), 1.001 * np.sqrt((1 - q) / q), 1.001 * np.sqrt(q / (1 - q))
    return tuple(np.asarray(column, np.float32) for column in columns)


def mixture_quantiles(
    likelihood: Likelihood, z: OutcomeParams, origin: Values, mean: Values, sd: Values, *given: Float[Array, " levels"]
) -> tuple[Float[Array, "levels rows targets"], Float[Array, "levels rows targets"]]:
    """Where the mixture's cdf crosses each q, as (origin, offset), whose sum it is.

    ``mean`` is measured from ``origin``, which lies near it, so that float32 resolves the
    distribution wherever it is. If some component is so narrow that float32 does not resolve it at
    the answer's distance from the mean, the search continues around the answer. Targets with bounds
    are searched for on the scale of their logarithm or logit, where float32 resolves them down to
    the bounds.
    """
    if likelihood.bounds[0] == 0:
        return jnp.zeros((len(given[0]), *mean.shape), mean.dtype), bounded_quantiles(likelihood, z, mean, sd, *given)
    narrowest = jnp.sqrt(jnp.min(jax.vmap(likelihood.variance)(z), axis=0))

    def cdf(origin: Values, y: Values) -> Values:
        values = jax.vmap(lambda one: likelihood.cdf(recenter(likelihood, one, origin), y))(z)
        flat = values.reshape(len(values), -1)  # XLA reduces it six times faster
        return jnp.mean(flat, axis=0).reshape(y.shape)

    def crossing(one: Any) -> tuple[Values, Values]:
        q, score, below, above = one
        low, high = (jnp.clip(end, -LARGEST, LARGEST) for end in (mean - below * sd, mean + above * sd))
        start = jnp.clip(mean + score * sd, low, high)

        def search(at: Any, _: Any) -> Any:
            base, start, low, high, done = at
            bracket = low, high
            y = find_crossing(partial(cdf, base), q=q, start=start, bracket=bracket, narrowest=narrowest, done=done)
            near, rest = two_sum(base, y)
            reach = FINER * EPS * jnp.abs(y)
            return (near, rest, rest - reach, rest + reach, jnp.abs(y) <= RESOLVED * narrowest), (base, y, done)

        first = origin, start, low, high, jnp.zeros(start.shape, bool)
        if not likelihood.is_location_family:
            return search(first, None)[1][:2]
        _, (base, y, done) = jax.lax.scan(search, first, length=2)  # traced and compiled once for both
        return jnp.where(done[1], base[0], base[1]), jnp.where(done[1], y[0], y[1])

    return jax.lax.map(crossing, given)


def bounded_quantiles(
    likelihood: Likelihood, z: OutcomeParams, mean: Values, sd: Values, q: Array, score: Array, *_: Array
) -> Float[Array, "levels rows targets"]:
    """Where the mixture's cdf crosses each q, for positive targets and shares: the search is for log y or logit y."""
    share = likelihood.bounds[1] == 1
    ends = LOG_SMALLEST, float(1 - np.log(jnp.finfo(mean.dtype).eps)) if share else LOG_LARGEST  # shares round to 1

    def value(u: Values) -> Values:
        return jax.nn.sigmoid(u) if share else jnp.exp(u)

    def moments(mean: Values, sd: Values) -> tuple[Values, Values]:
        """Mean and sd of u: exact if y is lognormal, by the derivative of the logit for shares."""
        width = sd / (mean * (1 - mean)) if share else jnp.sqrt(jnp.log1p((sd / mean) ** 2))
        center = jax.scipy.special.logit(mean) if share else jnp.log(mean) - 0.5 * width**2
        return jnp.where(jnp.isfinite(center), center, 0), jnp.where(jnp.isfinite(width), width, 1)

    def cdf(u: Values) -> Values:
        values = jax.vmap(lambda one: likelihood.cdf(one, value(u)))(z)
        flat = values.reshape(len(values), -1)
        return jnp.mean(flat, axis=0).reshape(u.shape)

    center, width = moments(mean, sd)
    narrowest = jnp.min(
        jax.vmap(lambda one: moments(likelihood.mean(one), jnp.sqrt(likelihood.variance(one)))[1])(z), 0
    )

    def crossing(one: Any) -> Values:
        level, score = one
        start = jnp.clip(center + score * width, *ends)
        bracket = jnp.full_like(start, ends[0]), jnp.full_like(start, ends[1])
        found = find_crossing(
            cdf, q=level, start=start, bracket=bracket, narrowest=narrowest, done=jnp.zeros(start.shape, bool)
        )
        return value(found)

    return jax.lax.map(crossing, (q, score))


def find_crossing(
    cdf: Callable[[Values], Values], *, q: Any, start: Values, bracket: tuple[Any, Any], narrowest: Values, done: Any
) -> Values:
    """Where ``cdf`` crosses q within ``bracket``, from ``start`` on.

    The method is Newton's on the normal score of the cdf, which is a straight line for one
    Gaussian, with bisection where a step leaves the bracket or is not half the last one. A row that
    is ``done`` stays as it is, so that its bits do not depend on how long its neighbors take.
    """
    target, eps = jax.scipy.special.ndtri(q), jnp.finfo(start.dtype).eps
    limit = NEAR if start.dtype == np.float32 else np.sqrt(eps)

    def improve(state: Any) -> Any:
        count, y, low, high, last, done = state
        value, density = jax.jvp(cdf, (y,), (jnp.ones_like(y),))
        u = jax.scipy.special.ndtri(value)
        step = (target - u) * jnp.exp(-0.5 * u**2) / (SQRT_2PI * density)
        low, high = jnp.where(value < q, y, low), jnp.where(value < q, high, y)
        close = jnp.abs(value - q) <= 0.01 * jnp.minimum(q, 1 - q)
        small = jnp.abs(step) < limit * narrowest
        # far from q a small step comes only from a density that is rounding error: it is not to be trusted
        inside = (low < y + step) & (y + step < high) & (jnp.abs(step) < 0.5 * last) & (close | ~small)
        new = jnp.where(inside | (close & small), jnp.clip(y + step, low, high), 0.5 * low + 0.5 * high)
        new = jnp.where(jnp.abs(value - q) <= eps * q, y, new)
        moved, resolved = jnp.abs(new - y), eps * jnp.maximum(jnp.abs(new), narrowest)
        near = close & (small | (moved <= resolved)) | (high - low <= 2 * resolved)
        return count + 1, jnp.where(done, y, new), low, high, moved, done | near

    state = jnp.int32(0), start, *bracket, jnp.full_like(start, jnp.inf), done
    return jax.lax.while_loop(lambda state: (state[0] < 200) & ~jnp.all(state[-1]), improve, state)[1]


def two_sum(a: Values, b: Values) -> tuple[Values, Values]:
    """(a + b rounded, the rounding error), exactly (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
