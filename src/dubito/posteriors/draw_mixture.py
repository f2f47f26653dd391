"""The mixture (1/S) Σ p(y given z_s) over draws of a likelihood's z at rows: its moments, densities, quantiles and samples."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from dubito._jax import prng, programs
from dubito._jax.types import Key
from dubito.models.likelihoods.base import Likelihood, OutcomeParams, origin_near, recenter
from dubito.models.likelihoods.by_name import round_to_float32
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.models.likelihoods.integer_quantiles import mixture_integer_quantiles
from dubito.posteriors.blocks import map_blocks, rows_of_whole_blocks
from dubito.posteriors.function_samples import Draws
from dubito.posteriors.quantiles import mixture_quantiles, search_bounds

Values: TypeAlias = Float[np.ndarray, "rows targets"]
Moments: TypeAlias = Float[np.ndarray, "rows draws targets"]
Arrays: TypeAlias = tuple[Array, ...]
DrawValues: TypeAlias = Float[np.ndarray, "draws rows ..."]
Groups: TypeAlias = Sequence[tuple[int, Any]]
Components: TypeAlias = tuple[Float[np.ndarray, "draws rows targets"], Float[np.ndarray, "draws rows targets"]]


class Reduction(NamedTuple):
    """A function of an array of all draws, computed from groups of draws.

    Attributes
    ----------
    map : callable
        Maps an array (draws, rows, ...) of one group to its contribution.
    combine : callable
        Maps pairs (number of draws, contribution) of all groups to the result, rows first.
    """

    map: Callable[[DrawValues], Any]
    combine: Callable[[Groups], Any]


def _map_moments(values: DrawValues) -> tuple[np.ndarray, np.ndarray]:
    mean = values.mean(0)
    return mean, ((values - mean) ** 2).sum(0)


def _combine_moments(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    (total, (mean, squares)), *others = groups
    for count, (part, more) in others:
        total += count
        step = part - mean
        mean = mean + step * (count / total)
        squares = squares + more + step**2 * (count * (total - count) / total)
    return mean, squares / total


def _map_log_mean_exp(terms: DrawValues) -> tuple[np.ndarray, np.ndarray]:
    top = np.maximum(terms.max(0), -np.finfo(float).max)
    return top, np.exp(terms - top).sum(0)


def _combine_log_mean_exp(groups: Groups) -> np.ndarray:
    tops, sums = (np.stack(parts) for parts in zip(*(kept for _, kept in groups), strict=True))
    top = tops.max(0)
    with np.errstate(divide="ignore"):
        return top + np.log((sums * np.exp(tops - top)).sum(0) / sum(count for count, _ in groups))


# (mean, variance), by the updating formulas of Chan, Golub & LeVeque 1979
MEAN_AND_VARIANCE = Reduction(_map_moments, _combine_moments)
# log (1/S) Σ exp, of terms all of which may be −∞
LOG_MEAN_EXP = Reduction(_map_log_mean_exp, _combine_log_mean_exp)
MINIMUM = Reduction(lambda values: values.min(0), lambda groups: np.min([kept for _, kept in groups], axis=0))
# all draws in their order, (rows, S, ...)
ALL_DRAWS = Reduction(
    lambda values: values.swapaxes(0, 1), lambda groups: np.concatenate([k for _, k in groups], axis=1)
)


def entropies(likelihood: Likelihood, z: OutcomeParams) -> Arrays:
    p = likelihood.mean(z)
    return (-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)), axis=-1),)


def votes(likelihood: Likelihood, z: OutcomeParams) -> Arrays:
    p = likelihood.mean(z)
    return (jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1]),)


def mean_and_variance(likelihood: Likelihood, z: OutcomeParams) -> Arrays:
    mean = likelihood.mean(z)
    return mean, likelihood.variance(z) if likelihood.has_noise else jnp.full_like(mean, jnp.nan)


def log_prob(likelihood: Likelihood, z: OutcomeParams, y: Array, *origin: Array) -> Arrays:
    return (likelihood.log_prob_observed(recenter(likelihood, z, *origin) if origin else z, y),)


def cdf(likelihood: Likelihood, z: OutcomeParams, y: Array, origin: Array) -> Arrays:
    return (likelihood.cdf(recenter(likelihood, z, origin), y),)


@programs.jit(kept=128, static_argnums=0)
def read_draws(
    reading: Callable[..., Arrays], likelihood: Likelihood, z: OutcomeParams, rows: Any, *columns: Array
) -> Arrays:
    """The arrays of a reading for every draw at a piece, (draws, rows, ·)."""

    def one_draw(one: OutcomeParams) -> Arrays:
        return map_blocks(partial(reading, likelihood), rows, 0, (one, 0), *((each, 0) for each in columns))

    return jax.vmap(one_draw)(z)


@programs.jit
def find_quantiles(likelihood: Likelihood, z: OutcomeParams, columns: Arrays, rows: Any, levels: Arrays) -> Arrays:
    """(origin, offset), each (levels, rows, targets), of quantiles at a piece."""
    search = mixture_integer_quantiles if likelihood.discrete else mixture_quantiles

    def block(*given: Any) -> Arrays:
        return search(likelihood, *given, *levels)

    return map_blocks(block, rows, 1, (z, 1), *((column, 0) for column in columns))


class Distribution(abc.ABC):
    """Distributions of y at rows, in the target's units. Targets are always the last axis."""

    @property
    @abc.abstractmethod
    def mean(self) -> Values:
        """The mean; probabilities of classes."""

    @property
    @abc.abstractmethod
    def variances(self) -> tuple[Values, Values]:
        """(aleatoric, epistemic) variance in the model's units."""

    @abc.abstractmethod
    def supports(self, name: str) -> bool:
        """Whether there is a density ("log_prob"), a "cdf", a "variance" or a "sample"."""

    @abc.abstractmethod
    def log_density(self, y: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
        """log p(y) in nats, without missing entries (NaN); marks of censored targets follow the numbers."""

    @abc.abstractmethod
    def cdf(self, y: Values) -> Values:
        """P(Y ≤ y) of each target."""

    @abc.abstractmethod
    def quantiles(self, q: Float[np.ndarray, " levels"]) -> Float[np.ndarray, "levels rows targets"]:
        """The quantiles."""

    @abc.abstractmethod
    def sample(self, key: Key, n: int) -> Shaped[np.ndarray, "n rows *targets"]:
        """n joint draws of y, or of class codes, each of one function plus noise."""

    @abc.abstractmethod
    def components(self) -> Components | None:
        """(means, standard deviations) if this is a mixture of Gaussians."""


@dataclass(frozen=True)
class DrawMixture(Distribution):
    """Equal shares of the distributions p(y given z_s) at rows.

    Parameters
    ----------
    likelihood : Likelihood
        The likelihood.
    draws : Draws
        Its z of each draw, in the model's units.
    shift, scale : array
        y in the target's units is shift + scale·(y in the model's units), (targets,).
    """

    likelihood: Likelihood
    draws: Draws
    shift: Float[np.ndarray, "*targets"]
    scale: Float[np.ndarray, "*targets"]

    def __len__(self) -> int:
        return self.draws.rows

    @cached_property
    def columns(self) -> int:
        """The number of columns of the mean, one for each target or class."""
        if "moments" in vars(self):
            return self.moments[0].shape[1]
        return jax.eval_shape(self.likelihood.mean, self.draws.one).shape[1]

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that contains y."""
        return self.likelihood.bounds

    @cached_property
    def moments(self) -> tuple[Values, Values, Values]:
        """Mean, mean variance (noise) and variance of the means (epistemic), in the model's units."""
        (mean, epistemic), (noise, _) = self.over_draws(mean_and_variance, MEAN_AND_VARIANCE)
        return mean, noise, epistemic

    @property
    def mean(self) -> Values:
        return self.shift + self.scale * self.moments[0]

    @property
    def variances(self) -> tuple[Values, Values]:
        return self.moments[1:]

    def moments_of_draws(self) -> tuple[Moments, Moments]:
        """(mean, variance) of each draw, in the model's units."""
        mean, variance = self.over_draws(mean_and_variance, ALL_DRAWS)
        return mean, variance

    def min_component_std(self) -> Values:
        """The smallest standard deviation of any draw, in the target's units."""
        return self.scale * np.sqrt(self.over_draws(mean_and_variance, MINIMUM)[1])

    def supports(self, name: str) -> bool:
        if name == "log_prob":
            return self.likelihood.normalized
        return self.likelihood.has_noise and (name != "cdf" or self.likelihood.task == "regression")

    def over_draws(self, reading: Callable[..., Arrays], reduction: Reduction, *columns: np.ndarray) -> list[Any]:
        """The ``reduction`` of each array of reading(likelihood, z_s, *columns) over all draws, in float64."""

        def one(z: OutcomeParams, count: int, rows: Any, *given: np.ndarray) -> list[tuple[int, Any]]:
            whole = rows_of_whole_blocks(rows)  # NumPy adds a single row's draws in another order
            values = read_draws(reading, self.likelihood, z, rows, *given)
            return [(count, reduction.map(np.asarray(value)[:count, :whole].astype(float))) for value in values]

        parts = [[*map(reduction.combine, zip(*groups, strict=True))] for groups in self.draws.each(one, *columns)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(self)], *parts)

    def log_densities(self, reduction: Reduction, y: np.ndarray) -> np.ndarray:
        """A ``reduction`` over draws of log p(y | θ_s), in nats of the model's units, for numbers (n, K) or class codes (n,)."""
        if self.likelihood.task != "regression":
            return self.over_draws(log_prob, reduction, y)[0]
        origin, rest = self._from_origin(y[:, : self.columns])
        return self.over_draws(log_prob, reduction, np.concatenate([rest, y[:, self.columns :]], axis=1), origin)[0]

    def log_density(self, y: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
        return self.log_densities(LOG_MEAN_EXP, y) - self._log_units(y)

    def log_densities_of_draws(self, y: np.ndarray) -> Float[np.ndarray, "rows draws"]:
        """log p(y | θ_s) of each draw, in nats of the target's units; y as for ``log_densities``."""
        found = self.log_densities(ALL_DRAWS, y)
        return found if self.likelihood.task != "regression" else found - self._log_units(y)[:, None]

    def _log_units(self, y: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
        """What the scale adds to −log p(y) of each row."""
        marks = y[:, self.columns :]  # censored targets have a probability and no density, hence no unit
        logs = np.broadcast_to(np.log(self.scale), (len(y), self.columns))
        absent = marks > 0 if marks.size else np.isnan(y)
        return np.sum(np.where(absent, 0, logs), axis=1)

    def cdf(self, y: Values) -> Values:
        origin, rest = self._from_origin(y)
        return self.over_draws(cdf, MEAN_AND_VARIANCE, rest, origin)[0][0]

    def _from_origin(self, y: Values) -> tuple[Values, Values]:
        """(origin, rest), both float32: y in the model's units is their sum, to twice the digits of one float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            y = (y - self.shift) / self.scale
            origin = origin_near(self.likelihood, np.where(np.isnan(y), 0, y))  # the rest of a missing entry is NaN
            return origin, round_to_float32(self.likelihood, np.where(np.isfinite(origin), y - origin, 0))

    def quantiles(self, q: Float[np.ndarray, " levels"]) -> Float[np.ndarray, "levels rows targets"]:
        # measured from each row's mean, which float64 adds, so that they are resolved wherever the mean is
        mean, noise, epistemic = self.moments
        origin = origin_near(self.likelihood, mean)

        def one(z: OutcomeParams, rows: Any, *columns: np.ndarray) -> np.ndarray:
            found = find_quantiles(self.likelihood, z, columns, rows, search_bounds(q))
            origin, offset = (np.asarray(part, float) for part in found)
            return (origin + offset)[:, : max(rows, 1)]

        columns = [np.asarray(column, np.float32) for column in (origin, mean - origin, np.sqrt(noise + epistemic))]
        found = np.concatenate(self.draws.whole(one, *columns), axis=1)[:, : len(self)]
        return self.shift + self.scale * found

    def sample(self, key: Key, n: int) -> Shaped[np.ndarray, "n rows *targets"]:
        key_draw, key_noise = jax.random.split(prng.fast(key))
        return self._sample_at(key_noise, np.asarray(jax.random.randint(key_draw, (n,), 0, len(self.draws))))

    def sample_each(self, key: Key) -> Shaped[np.ndarray, "draws rows *targets"]:
        """One joint draw of y from each function, in their order; otherwise as ``sample``."""
        return self._sample_at(prng.fast(key), np.arange(len(self.draws)))

    def _sample_at(self, key: Key, index: np.ndarray) -> Shaped[np.ndarray, "n rows *targets"]:
        """A joint draw of y from each of the functions ``index``."""
        chosen = jax.tree.map(jnp.asarray, self.draws.at(index))
        if self.likelihood.task != "regression":
            return np.asarray(jax.vmap(self.likelihood.sample)(jax.random.split(key, len(index)), chosen))
        # measured from each function's own mean, which float64 adds: far from 0 float32 would round the noise away
        origin = origin_near(self.likelihood, jax.vmap(self.likelihood.mean)(chosen))
        around = jax.vmap(partial(recenter, self.likelihood))(chosen, jnp.asarray(origin))
        y = jax.vmap(self.likelihood.sample)(jax.random.split(key, len(index)), around)
        return self.shift + self.scale * (origin + np.asarray(y, np.float64))

    def components(self) -> Components | None:
        if not isinstance(self.likelihood, Gaussian | HeteroscedasticGaussian):
            return None
        z = self.draws.at()
        mean, scale = (np.asarray(z[name], float) for name in ("mean", "scale"))
        return self.shift + self.scale * mean, self.scale * scale
