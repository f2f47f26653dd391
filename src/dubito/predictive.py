"""The answer: a likelihood and draws of z, as one distribution a row, in the target's own units."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito import random
from dubito.blocks import BLOCK, by_blocks, counts, in_threads, padded
from dubito.likelihood import Gaussian, HeteroscedasticGaussian
from dubito.quantiles import crossings, starts


def predict(posterior, x, *, key, draws=None, shift=0.0, scale=1.0, description=""):
    """The predictive distribution at rows ``x`` (n, D).

    ``draws``: how many parameters to draw; None enumerates a finite posterior and takes 100 of another. ``shift`` and
    ``scale`` (K,) turn the model's targets into the user's units: y = shift + scale·(model's y). The same key gives the
    same functions for any rows.
    """
    x = np.asarray(x, np.float32)
    params = posterior.sample(random.fast(key), draws)
    blocks = in_threads(
        lambda part: _outputs(posterior.model, params, *part), zip(padded(x), counts(len(x)), strict=True)
    )
    z = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, : len(x)], *blocks)
    return Predictive(posterior.model.likelihood, z, np.asarray(shift, float), np.asarray(scale, float), description)


@jax.jit
def _outputs(model, params, x, count):
    return jax.lax.map(lambda one: by_blocks(partial(model.outputs, one), count, 0, (x, 0)), params)


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

    def _by_block(self, function, reduce, *rows):
        """reduce(function(z_s, *rows) for every draw), float64 with draws first, by padded blocks of rows: (n, ...).

        Only one block has all draws at a time. ``reduce`` gives one array or several, rows first.
        """
        n = len(self)
        columns = [padded(np.asarray(row)) for row in rows]
        leaves, tree = jax.tree.flatten(self.z)
        parts = []
        for count, *block in zip(counts(n), *[padded(leaf, axis=1) for leaf in leaves], *columns, strict=True):
            z, given = tree.unflatten(block[: len(leaves)]), block[len(leaves) :]
            values = _map_draws(function, self.likelihood, z, count, *given)
            parts.append(reduce(*(np.asarray(value[:, : count * BLOCK], np.float64) for value in values)))
        return [np.concatenate(part)[:n] for part in zip(*parts, strict=True)]

    def __len__(self):
        return jax.tree.leaves(self.z)[0].shape[1]

    @cached_property
    def _moments(self):
        """Mean, noise (the mean variance) and doubt (the variance of means), each (n, K) in the model's units."""
        return self._by_block(_mean_and_variance, _mixed)

    @cached_property
    def mean(self):
        """E[y], (n, K); for classes the probabilities (n, C)."""
        return self.shift + self.scale * self._moments[0]

    @property
    def _noise(self):
        return self._moments[1]

    @property
    def _doubt(self):
        return self._moments[2]

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
        return self._by_block(_log_prob, lambda terms: (_log_mean_exp(terms),), y)[0] - units

    def cdf(self, y):
        """P(Y ≤ y) for each target, (n, K)."""
        return self._by_block(_cdf, lambda values: (values.mean(0),), self._standardize(y))[0]

    def quantile(self, q):
        """The mixture's quantiles: (n, K) for one number q in (0, 1), (len(q), n, K) for several."""
        q = np.asarray(q, float)
        if not np.all((q > 0) & (q < 1)):
            raise ValueError(f"quantile wants probabilities strictly between 0 and 1, got {q}")
        found = self.shift + self.scale * self._roots(np.atleast_1d(q))
        return found[0] if q.ndim == 0 else found

    def _roots(self, q):
        """The quantiles (len(q), n, K) in the model's units."""
        mean, noise, doubt = self._moments
        columns = [padded(np.asarray(column, np.float32)) for column in (mean, np.sqrt(noise + doubt))]
        leaves, tree, given = *jax.tree.flatten(self.z), starts(q)
        parts = [
            _crossings(self.likelihood, tree.unflatten(block[:-2]), *block[-2:], count, given)
            for count, *block in zip(
                counts(len(self)), *[padded(leaf, axis=1) for leaf in leaves], *columns, strict=True
            )
        ]
        return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)[:, : len(self)]

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
        return self._moments[0]

    @property
    def entropy(self):
        """H[p̄] in nats, (n,): all the doubt about the class."""
        return _entropy(self.probs)

    @property
    def mutual_information(self):
        """H[p̄] − (1/S) Σ H[p_s] in nats, (n,): the part that more data would remove."""
        (each,) = self._by_block(_mean, lambda p: (_entropy(p).mean(0),))
        return np.maximum(self.entropy - each, 0.0)

    @property
    def variation_ratio(self):
        """1 − the share of draws that vote for the modal class, (n,)."""
        return self._by_block(_mean, lambda p: (_minority(p.argmax(-1), p.shape[-1]),))[0]

    def _standardize(self, y):
        y = np.asarray(y, np.float64)
        targets = jax.eval_shape(self.likelihood.mean, jax.tree.map(lambda leaf: leaf[0], self.z)).shape[1]
        if y.size != len(self) * targets:
            raise ValueError(f"y must have {len(self)} rows of {targets} target(s); got shape {y.shape}")
        return (y.reshape(len(self), targets) - self.shift) / self.scale


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _log_mean_exp(terms):
    top = np.maximum(terms.max(0), -np.finfo(float).max)  # all may be −∞
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(terms - top).mean(0))


def _mixed(means, variances):
    mean = means.mean(0)
    return mean, variances.mean(0), ((means - mean) ** 2).mean(0)


def _minority(votes, classes):
    counts = np.stack([(votes == k).sum(0) for k in range(classes)])
    return 1 - counts.max(0) / len(votes)


def _mean(likelihood, z):
    return (likelihood.mean(z),)


def _mean_and_variance(likelihood, z):
    return likelihood.mean(z), likelihood.variance(z)


def _log_prob(likelihood, z, y):
    return (likelihood.log_prob(z, y),)


def _cdf(likelihood, z, y):
    return (likelihood.cdf(z, y),)


@partial(jax.jit, static_argnums=0)
def _map_draws(function, likelihood, z, count, *rows):
    def one_draw(one):
        return by_blocks(partial(function, likelihood), count, 0, (one, 0), *((each, 0) for each in rows))

    return jax.vmap(one_draw)(z)


@jax.jit
def _crossings(likelihood, z, mean, sd, count, given):
    def block(z, mean, sd):
        return crossings(likelihood, z, mean, sd, *given)

    return by_blocks(block, count, 1, (z, 1), (mean, 0), (sd, 0))
