"""The answer: a likelihood and draws of z, as one distribution a row, in the target's own units."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito import random
from dubito.likelihood import Gaussian, HeteroscedasticGaussian

# Rows are evaluated in padded blocks of this one size: a row's answer then depends neither on its neighbors nor on the
# number of rows in the call (the last bits do depend on a block's size), memory is bounded, and one program serves all.
BLOCK = 1024


def predict(posterior, x, *, key, draws=None, shift=0.0, scale=1.0, description=""):
    """The predictive distribution at rows ``x`` (n, D).

    ``draws``: how many parameters to draw; None enumerates a finite posterior and takes 100 of another. ``shift`` and
    ``scale`` (K,) turn the model's targets into the user's units: y = shift + scale·(model's y). The same key gives the
    same functions for any rows.
    """
    x = np.asarray(x, np.float32)
    params = posterior.sample(random.fast(key), draws)
    blocks = [_outputs(posterior.model, params, block) for block in padded(x)]
    z = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, : len(x)], *blocks)
    return Predictive(posterior.model.likelihood, z, np.asarray(shift, float), np.asarray(scale, float), description)


def padded(array, axis=0):
    """Blocks of ``BLOCK`` rows; the last is filled with its last row (or zeros when there is no row at all)."""
    rows = array.shape[axis]
    total = max(-(-rows // BLOCK), 1) * BLOCK
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, total - rows)
    filled = np.pad(array, widths, mode="edge" if rows else "constant")
    return np.split(filled, total // BLOCK, axis=axis)


@jax.jit
def _outputs(model, params, x):
    return jax.lax.map(lambda one: model.outputs(one, x), params)


@dataclass(frozen=True)
class Predictive:
    """A mixture over S draws: p(y) = (1/S) Σ p(y given z_s), never one density with averaged parameters.

    ``z``: arrays (S, n, ·) in the model's units. Regression answers are float64 (n, K) in the target's units; (n,) rows
    for classes. ``variance = aleatoric + epistemic``: noise in the data, and doubt about the weights.
    """

    likelihood: Any
    z: Any
    shift: np.ndarray
    scale: np.ndarray
    description: str = ""

    @property
    def task(self):
        return self.likelihood.task

    def _per_draw(self, function, *rows):
        """function(z_s, *rows) for every draw, by padded blocks of rows, as float64 (S, n, ...)."""
        n = len(self)
        columns = [padded(np.asarray(row)) for row in rows]
        leaves, tree = jax.tree.flatten(self.z)
        blocks = zip(*[padded(leaf, axis=1) for leaf in leaves], *columns, strict=True)
        parts = [
            _map_draws(function, self.likelihood, tree.unflatten(part[: len(leaves)]), *part[len(leaves) :])
            for part in blocks
        ]
        return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)[:, :n]

    def __len__(self):
        return jax.tree.leaves(self.z)[0].shape[1]

    @cached_property
    def _means(self):
        return self._per_draw(_mean)

    @cached_property
    def mean(self):
        """E[y], (n, K); for classes the probabilities (n, C)."""
        return self.shift + self.scale * over_draws(self._means)

    @cached_property
    def _noise(self):
        return over_draws(self._per_draw(_variance))

    @cached_property
    def _doubt(self):
        return over_draws((self._means - over_draws(self._means)) ** 2)

    @property
    def aleatoric(self):
        """E_θ[Var[y | θ]], (n, K), in squared units of the target."""
        return self.scale**2 * self._noise

    @property
    def epistemic(self):
        """Var_θ[E[y | θ]], (n, K), in squared units of the target."""
        return self.scale**2 * self._doubt

    @property
    def variance(self):
        return self.aleatoric + self.epistemic

    @property
    def std(self):
        """√variance, (n, K), in units of the target; for units whose square no number holds, too."""
        return self.scale * np.sqrt(self._noise + self._doubt)

    @property
    def aleatoric_std(self):
        return self.scale * np.sqrt(self._noise)

    @property
    def epistemic_std(self):
        return self.scale * np.sqrt(self._doubt)

    def log_prob(self, y):
        """log p(y) per row, (n,), in nats of the target's units: logsumexp over draws − log S − Σ log scale."""
        y = np.asarray(y)
        if self.task == "regression":
            y = self._standardize(y)
            units = np.sum(np.log(np.broadcast_to(self.scale, y.shape[1:])))
        else:
            units = 0.0
        terms = self._per_draw(_log_prob, y)
        return np.asarray(_log_mean_exp(terms)) - units

    def cdf(self, y):
        """P(Y ≤ y) for each target, (n, K)."""
        return over_draws(self._per_draw(_cdf, self._standardize(y)))

    def quantile(self, q):
        """The mixture's quantiles: (n, K) for one number q in (0, 1), (len(q), n, K) for several."""
        q = np.asarray(q, float)
        if not np.all((q > 0) & (q < 1)):
            raise ValueError(f"quantile wants probabilities strictly between 0 and 1, got {q}")
        found = [self.shift + self.scale * self._bisect(one) for one in np.atleast_1d(q)]
        return found[0] if q.ndim == 0 else np.stack(found)

    def _bisect(self, q):
        sd = np.sqrt(self._per_draw(_variance))
        reach = 2 + 10 * np.sqrt(1 / min(q, 1 - q))  # Chebyshev: no quantile is farther from a component's mean
        low, high = (self._means - reach * sd).min(0), (self._means + reach * sd).max(0)
        leaves, tree = jax.tree.flatten(self.z)
        parts = zip(*[padded(leaf, axis=1) for leaf in leaves], padded(low), padded(high), strict=True)
        found = [_bisected(self.likelihood, tree.unflatten(p[:-2]), p[-2], p[-1], np.float32(q)) for p in parts]
        return np.concatenate([np.asarray(part, np.float64) for part in found])[: len(self)]

    def interval(self, coverage=0.9):
        """Equal-tailed (lower, upper), each (n, K), holding y with probability ``coverage``."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage is a probability strictly between 0 and 1, got {coverage!r}")
        lower, upper = self.quantile([(1 - coverage) / 2, (1 + coverage) / 2])
        return lower, upper

    def sample(self, key, n):
        """n joint draws of y: (n, rows, K), or class indices (n, rows); each is one function plus noise."""
        key_draw, key_noise = jax.random.split(random.fast(key))
        count = jax.tree.leaves(self.z)[0].shape[0]
        index = np.asarray(jax.random.randint(key_draw, (n,), 0, count))
        chosen = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), self.z)
        y = jax.vmap(self.likelihood.sample)(jax.random.split(key_noise, n), chosen)
        return self.shift + self.scale * np.asarray(y, np.float64) if self.task == "regression" else np.asarray(y)

    def components(self):
        """(means, scales), each (S, n, K), when the draws are Gaussian; None otherwise. For closed-form scores."""
        if not isinstance(self.likelihood, Gaussian | HeteroscedasticGaussian):
            return None
        return self.shift + self.scale * np.asarray(self.z["mean"], float), self.scale * np.asarray(
            self.z["scale"], float
        )

    @property
    def probs(self):
        """p̄ = (1/S) Σ p_s, (n, C); rows sum to 1."""
        return over_draws(self._means)

    @property
    def entropy(self):
        """H[p̄] in nats, (n,): all the doubt about the class."""
        return _entropy(self.probs)

    @property
    def mutual_information(self):
        """H[p̄] − (1/S) Σ H[p_s] in nats, (n,): the part that more data would remove."""
        return np.maximum(self.entropy - over_draws(_entropy(self._means)), 0.0)

    @property
    def variation_ratio(self):
        """1 − the share of draws that vote for the modal class, (n,)."""
        votes = self._means.argmax(-1)
        counts = np.stack([(votes == k).sum(0) for k in range(self._means.shape[-1])])
        return 1 - counts.max(0) / len(votes)

    def _standardize(self, y):
        y = np.asarray(y, np.float64)
        targets = jax.eval_shape(_mean, self.likelihood, jax.tree.map(lambda leaf: leaf[0], self.z)).shape[1]
        if y.size != len(self) * targets:
            raise ValueError(f"y must have {len(self)} rows of {targets} target(s); got shape {y.shape}")
        return (y.reshape(len(self), targets) - self.shift) / self.scale


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _log_mean_exp(terms):
    top = np.maximum(terms.max(0), -np.finfo(float).max)  # all may be −∞
    with np.errstate(divide="ignore"):
        return top + np.log(over_draws(np.exp(terms - top)))


def over_draws(values):
    """The mean over the first axis. NumPy adds a single column pairwise, several in turn: one is made two, so that a row's
    answer has the same bits alone and among others."""
    return np.repeat(values, 2, axis=1).mean(0)[:1] if values[0].size == 1 else values.mean(0)


def _mean(likelihood, z):
    return likelihood.mean(z)


def _variance(likelihood, z):
    return likelihood.variance(z)


def _log_prob(likelihood, z, y):
    return likelihood.log_prob(z, y)


def _cdf(likelihood, z, y):
    return likelihood.cdf(z, y)


@partial(jax.jit, static_argnums=0)
def _map_draws(function, likelihood, z, *rows):
    return jax.vmap(lambda one: function(likelihood, one, *rows))(z)


@jax.jit
def _bisected(likelihood, z, low, high, q):
    """Where the mixture's cdf crosses q, (n, K), by 45 halvings: to the last bit of a float32."""

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        below = jnp.mean(jax.vmap(lambda one: likelihood.cdf(one, middle))(z), axis=0) < q
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 45, halve, (low.astype(jnp.float32), high.astype(jnp.float32)))
    return 0.5 * (low + high)
