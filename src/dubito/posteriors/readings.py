"""What a predictive reads off draws of z at rows, as compiled programs: moments, densities, votes, quantiles."""

from functools import partial

import jax
import jax.numpy as jnp

from dubito._jax import programs
from dubito.models.likelihoods import integer_quantiles
from dubito.models.likelihoods.base import recenter
from dubito.posteriors.blocks import map_blocks
from dubito.posteriors.quantiles import mixture_quantiles


def entropies(likelihood, z):
    p = likelihood.mean(z)
    return (-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)), axis=-1),)


def votes(likelihood, z):
    p = likelihood.mean(z)
    return (jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1]),)


def mean_and_variance(likelihood, z):
    mean = likelihood.mean(z)
    return mean, likelihood.variance(z) if likelihood.has_noise else jnp.full_like(mean, jnp.nan)


def log_prob(likelihood, z, y, *origin):
    return (likelihood.log_prob(recenter(likelihood, z, *origin) if origin else z, y),)


def cdf(likelihood, z, y, origin):
    return (likelihood.cdf(recenter(likelihood, z, origin), y),)


@programs.jit(kept=128, static_argnums=0)
def read_draws(reading, likelihood, z, rows, *columns):
    """The reading's arrays for every draw at a piece, (draws, rows, ·)."""

    def one_draw(one):
        return map_blocks(partial(reading, likelihood), rows, 0, (one, 0), *((each, 0) for each in columns))

    return jax.vmap(one_draw)(z)


@programs.jit
def find_quantiles(likelihood, z, origin, mean, sd, rows, given):
    search = integer_quantiles.mixture_integer_quantiles if likelihood.discrete else mixture_quantiles

    def block(*columns):
        return search(likelihood, *columns, *given)

    return map_blocks(block, rows, 1, (z, 1), (origin, 0), (mean, 0), (sd, 0))
