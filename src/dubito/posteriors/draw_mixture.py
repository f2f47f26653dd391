"""The mixture (1/S) Σ p(y given z_s) over draws of a likelihood's z at rows: its moments, densities, quantiles and samples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dubito._jax import prng
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import origin_near, recenter
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.posteriors import readings
from dubito.posteriors.blocks import rows_of_whole_blocks
from dubito.posteriors.function_samples import Draws
from dubito.posteriors.quantiles import search_bounds
from dubito.posteriors.reductions import LOG_MEAN_EXP, MEAN_AND_VARIANCE, MINIMUM, Reduction

Values = Float[np.ndarray, "rows targets"]


@dataclass(frozen=True)
class DrawMixture:
    """Equal shares of the distributions p(y given z_s) at rows. Targets are always the last axis.

    Parameters
    ----------
    likelihood
        The likelihood.
    draws
        Its z of each draw, in the model's units.
    shift, scale
        y in the target's units is shift + scale·(y in the model's units), (targets,).
    """

    likelihood: Any
    draws: Draws
    shift: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        return self.draws.rows

    @cached_property
    def columns(self) -> int:
        """How many columns the mean has: targets, or classes."""
        return jax.eval_shape(self.likelihood.mean, self.draws.one).shape[1]

    @cached_property
    def moments(self) -> tuple[Values, Values, Values]:
        """Mean, mean variance (noise) and variance of the means (epistemic), in the model's units."""
        (mean, epistemic), (noise, _) = self.over_draws(readings.mean_and_variance, MEAN_AND_VARIANCE)
        return mean, noise, epistemic

    @property
    def mean(self) -> Values:
        """The mean in the target's units; probabilities of classes."""
        return self.shift + self.scale * self.moments[0]

    def min_component_std(self) -> Values:
        """The smallest standard deviation of any draw, in the target's units."""
        return self.scale * np.sqrt(self.over_draws(readings.mean_and_variance, MINIMUM)[1])

    def supports(self, name: str) -> bool:
        """Whether the likelihood has a density ("log_prob"), a "cdf", a "variance" or a "sample"."""
        if name == "log_prob":
            return self.likelihood.normalized
        return self.likelihood.has_noise and (name != "cdf" or self.likelihood.task == "regression")

    def over_draws(self, reading: Callable, reduction: Reduction, *columns: np.ndarray) -> Any:
        """The ``reduction`` of reading(likelihood, z_s, *columns) over all draws, in float64: a list of arrays, rows first."""

        def one(z: Params, count: int, rows: int, *given: np.ndarray) -> tuple[int, Any]:
            values = readings.read_draws(reading, self.likelihood, z, rows, *given)
            # whole blocks: NumPy adds a single row's draws in another order
            return count, reduction.map(
                [np.asarray(v)[:count, : rows_of_whole_blocks(rows)].astype(float) for v in values]
            )

        parts = [reduction.combine(groups) for groups in self.draws.each(one, *columns)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(self)], *parts)

    def log_densities(self, reduction: Reduction, y: np.ndarray) -> np.ndarray:
        """A ``reduction`` over draws of log p(y | θ_s), in nats of the model's units, for numbers (n, K) or class codes (n,)."""
        if self.likelihood.task != "regression":
            (found,) = self.over_draws(readings.log_prob, reduction, y)
            return found
        origin, rest = self._from_origin(y[:, : self.columns])
        marked = np.concatenate([rest, y[:, self.columns :]], axis=1)
        (found,) = self.over_draws(readings.log_prob, reduction, marked, origin)
        return found

    def log_density(self, y: np.ndarray) -> Float[np.ndarray, "rows"]:
        """log p(y) in nats of the target's units, for numbers (n, K), marks of censored targets behind them."""
        marks = y[:, self.columns :]  # of censored ones, which have a probability and no density
        logs = np.broadcast_to(np.log(self.scale), (len(y), self.columns))
        units = np.sum(logs if marks.size == 0 else np.where(marks > 0, 0, logs), axis=1)
        return self.log_densities(LOG_MEAN_EXP, y) - units

    def cdf(self, y: Values) -> Values:
        """P(Y ≤ y) of each target."""
        origin, rest = self._from_origin(y)
        return self.over_draws(readings.cdf, MEAN_AND_VARIANCE, rest, origin)[0][0]

    def _from_origin(self, y: Values) -> tuple[np.ndarray, np.ndarray]:
        """(origin, rest), each float32 (n, K): y in the model's units is their sum, to twice the digits of one float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            y = (y - self.shift) / self.scale
            origin = origin_near(self.likelihood, y)
            return origin, np.where(np.isfinite(origin), y - origin, 0).astype(np.float32)

    def quantiles(self, q: Float[np.ndarray, "levels"]) -> Float[np.ndarray, "levels rows targets"]:
        """The quantiles, in the target's units.

        They are sought from each row's mean, which is added in float64, so that they are resolved wherever the mean is.
        """
        mean, noise, epistemic = self.moments
        origin = origin_near(self.likelihood, mean)

        def one(z: Params, rows: int, *given: np.ndarray) -> np.ndarray:
            origin, offset = (
                np.asarray(part, float)
                for part in readings.find_quantiles(self.likelihood, z, *given, rows, search_bounds(q))
            )
            return (origin + offset)[:, : max(rows, 1)]

        columns = [np.float32(column) for column in (origin, mean - origin, np.sqrt(noise + epistemic))]
        found = np.concatenate(self.draws.whole(one, *columns), axis=1)[:, : len(self)]
        return self.shift + self.scale * found

    def sample(self, key: Key, n: int) -> np.ndarray:
        """n joint draws of y, (n, rows, K), or of class codes, (n, rows): each is one function plus noise."""
        key_draw, key_noise = jax.random.split(prng.fast(key))
        index = np.asarray(jax.random.randint(key_draw, (n,), 0, len(self.draws)))
        chosen = jax.tree.map(jnp.asarray, self.draws.at(index))
        if self.likelihood.task != "regression":
            return np.asarray(jax.vmap(self.likelihood.sample)(jax.random.split(key_noise, n), chosen))
        # measured from each function's own mean, which float64 adds: far from 0 float32 would round the noise away
        origin = origin_near(self.likelihood, jax.vmap(self.likelihood.mean)(chosen))
        around = jax.vmap(partial(recenter, self.likelihood))(chosen, jnp.asarray(origin))
        y = jax.vmap(self.likelihood.sample)(jax.random.split(key_noise, n), around)
        return self.shift + self.scale * (origin + np.asarray(y, np.float64))

    def components(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(means, standard deviations), each (S, n, K), where all draws are Gaussian; None otherwise."""
        if not isinstance(self.likelihood, Gaussian | HeteroscedasticGaussian):
            return None
        z = self.draws.at(None)
        mean, scale = (np.asarray(z[name], float) for name in ("mean", "scale"))
        return self.shift + self.scale * mean, self.scale * scale
