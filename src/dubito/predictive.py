"""The answer: a likelihood and draws of z, as one distribution a row, in the target's own units."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito import lattice, programs, random
from dubito.blocks import by_blocks, whole_blocks
from dubito.draws import Draws, functions, given
from dubito.folds import Kept, Least, LogMeanExp, Moments
from dubito.likelihood import Gaussian, HeteroscedasticGaussian
from dubito.quantiles import crossings, starts


def predict(posterior, x, *, key, draws=None, shift=0.0, scale=1.0, description=""):
    """The predictive distribution at rows ``x`` (n, D).

    ``draws``: how many parameters to draw; None enumerates a finite posterior and takes 100 of another. ``shift`` and
    ``scale`` (K,) turn the model's targets into the user's units: y = shift + scale·(model's y). The same key gives the
    same functions for any rows.

    The functions are evaluated at once where their values are few (2²⁴ numbers); else whenever something is asked, and
    only moments and densities of some rows are held then (quantiles: the values at 1,024 rows).
    """
    return answer(functions(posterior, key, draws), x, shift, scale, description)


def answer(found, x, shift=0.0, scale=1.0, description=""):
    """The predictive distribution of functions that were drawn before; see ``predict``."""
    likelihood, shift, scale = found.model.likelihood, np.asarray(shift, float), np.asarray(scale, float)
    if not getattr(likelihood, "moves", True) and (np.any(shift != 0) or np.any(scale != 1)):
        raise ValueError(
            f"the targets of {type(likelihood).__name__} have no other units: shift 0 and scale 1, no others"
        )
    return Predictive(likelihood, found.at(x), shift, scale, description)


@dataclass(frozen=True)
class Predictive:
    """A mixture over S draws: p(y) = (1/S) Σ p(y given z_s), never one density with averaged parameters.

    ``draws``: z of each draw, arrays (S, n, ·) in the model's units, or what computes them. Regression answers are float64
    (n, K) in the target's units; (n,) rows for classes. ``variance = aleatoric + epistemic``: noise in the data, and
    doubt about the weights.
    """

    likelihood: Any
    draws: Any
    shift: np.ndarray
    scale: np.ndarray
    description: str = ""

    def __post_init__(self):
        if not isinstance(self.draws, Draws):
            object.__setattr__(self, "draws", given(self.draws))

    @property
    def task(self):
        return self.likelihood.task

    @property
    def discrete(self):
        """Whether y is whole numbers: quantiles are such, and densities probabilities."""
        return getattr(self.likelihood, "discrete", False)

    def offers(self, name):
        """Whether the likelihood has a density ("log_prob"), a "cdf", a "variance", a "sample"; a Criterion has not."""
        density = name != "log_prob" or getattr(self.likelihood, "normalized", True)
        return density and hasattr(self.likelihood, name)

    def _need(self, name):
        if not self.offers(name):
            raise ValueError(
                f"{type(self.likelihood).__name__} does not give the predictive its {name}: it has a mean and the doubt about "
                "it (epistemic). A whole distribution needs a likelihood; dubito.criteria.LIKELIHOODS has them by name."
            )

    @property
    def z(self):
        """Arrays (S, n, ·) in the model's units, all held."""
        return self.draws.at(None)

    def _over_draws(self, reading, fold, *columns):
        """``fold`` of reading(likelihood, z_s, *columns) over all draws, in float64: an array (n, ·) or several.

        A fold has ``within``, of some draws' values, and ``across`` several of those, each with its number of draws.
        """

        def one(z, count, rows, *given):
            values = _read(reading, self.likelihood, z, rows, *given)
            # whole blocks: NumPy adds a single row's draws in another order
            return count, fold.within([np.asarray(v)[:count, : whole_blocks(rows)].astype(float) for v in values])

        parts = [fold.across(groups) for groups in self.draws.each(one, *columns)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(self)], *parts)

    def __len__(self):
        return self.draws.rows

    def by_rows(self):
        """The answers at some rows after another, 1,024 at a time, of the same draws."""
        return (replace(self, draws=draws) for draws in self.draws.by_rows())

    @cached_property
    def _moments(self):
        """Mean, noise (the mean variance) and doubt (the variance of means), each (n, K) in the model's units."""
        (mean, doubt), (noise, _) = self._over_draws(_mean_and_variance, Moments)
        return mean, noise, doubt

    @cached_property
    def mean(self):
        """E[y], (n, K); for classes the probabilities (n, C)."""
        return self.shift + self.scale * self._moments[0]

    def means(self, members):
        """The mean of each of ``members`` equal parts of the draws, one after another, (members, n, ·), in the target's units;
        of classes the probabilities. ValueError where the draws are not equally many of each."""
        if len(self.draws) % members:
            raise ValueError(f"{len(self.draws)} draws are not equally many draws of each of {members} members")
        each = self._over_draws(_mean_and_variance, Kept)[0]
        parts = each.reshape(len(self), members, len(self.draws) // members, -1).mean(2)
        return self.shift + self.scale * parts.swapaxes(0, 1)

    @property
    def _noise(self):
        self._need("variance")
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
        """Var[y] = aleatoric + epistemic, (n, K), in squared units of the target."""
        return self.aleatoric + self.epistemic

    @property
    def std(self):
        """√variance, (n, K), in units of the target; for units whose square no number holds, too."""
        return self.scale * np.sqrt(self._noise + self._doubt)

    @property
    def narrowest(self):
        """The least standard deviation of any draw, (n, K), in units of the target."""
        self._need("variance")
        return self.scale * np.sqrt(self._over_draws(_mean_and_variance, Least)[1])

    @property
    def aleatoric_std(self):
        """√aleatoric, (n, K), in units of the target."""
        return self.scale * np.sqrt(self._noise)

    @property
    def epistemic_std(self):
        """√epistemic, (n, K), in units of the target."""
        return self.scale * np.sqrt(self._doubt)

    def log_prob(self, y):
        """log p(y) per row, (n,), in nats of the target's units: logsumexp over draws − log S − Σ log scale."""
        self._need("log_prob")
        y, units = np.asarray(y), 0.0
        if self.task == "regression":
            y = self._standardize(y, marked=True)
            marks = y[:, self.columns :]  # of censored ones, which have a probability and no density
            logs = np.broadcast_to(np.log(self.scale), (len(y), self.columns))
            units = np.sum(logs if marks.size == 0 else np.where(marks > 0, 0, logs), axis=1)
        return self._over_draws(_log_prob, LogMeanExp, y) - units

    def cdf(self, y):
        """P(Y ≤ y) for each target, (n, K)."""
        self._need("cdf")
        return self._over_draws(_cdf, Moments, self._standardize(y))[0][0]

    def quantile(self, q):
        """The mixture's quantiles: (n, K) for one number q in (0, 1), (len(q), n, K) for several; of counts the least
        whole number whose cdf is at least q."""
        self._need("cdf")
        q = np.asarray(q, float)
        if not np.all((q > 0) & (q < 1)):
            raise ValueError(f"quantile wants probabilities strictly between 0 and 1, got {q}")
        found = self.shift + self.scale * self._roots(np.atleast_1d(q))
        return found[0] if q.ndim == 0 else found

    def _roots(self, q):
        """The quantiles (len(q), n, K) in the model's units."""
        mean, noise, doubt = self._moments

        def one(z, rows, *given):
            found = _crossings(self.likelihood, z, *given, rows, starts(q))
            return np.asarray(found)[:, : max(rows, 1)].astype(float)

        columns = [np.float32(column) for column in (mean, np.sqrt(noise + doubt))]
        return np.concatenate(self.draws.whole(one, *columns), axis=1)[:, : len(self)]

    def interval(self, coverage=0.9):
        """Equal-tailed (lower, upper), each (n, K), holding y with probability ``coverage``."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage is a probability strictly between 0 and 1, got {coverage!r}")
        lower, upper = self.quantile([(1 - coverage) / 2, (1 + coverage) / 2])
        return lower, upper

    def sample(self, key, n):
        """n joint draws of y: (n, rows, K), or class indices (n, rows); each is one function plus noise."""
        self._need("sample")
        key_draw, key_noise = jax.random.split(random.fast(key))
        index = np.asarray(jax.random.randint(key_draw, (n,), 0, len(self.draws)))
        chosen = jax.tree.map(jnp.asarray, self.draws.at(index))
        y = jax.vmap(self.likelihood.sample)(jax.random.split(key_noise, n), chosen)
        return self.shift + self.scale * np.asarray(y, np.float64) if self.task == "regression" else np.asarray(y)

    def components(self):
        """(means, scales), each (S, n, K), when the draws are Gaussian; None otherwise. For closed-form scores."""
        if not isinstance(self.likelihood, Gaussian | HeteroscedasticGaussian):
            return None
        z = self.z
        return self.shift + self.scale * np.asarray(z["mean"], float), self.scale * np.asarray(z["scale"], float)

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
        ((each, _),) = self._over_draws(_entropies, Moments)
        return np.maximum(self.entropy - each, 0.0)

    @property
    def variation_ratio(self):
        """1 − the share of draws that vote for the modal class, (n,)."""
        ((shares, _),) = self._over_draws(_votes, Moments)
        return 1 - shares.max(-1)

    @cached_property
    def columns(self):
        """How many columns the mean has: K targets, or C classes."""
        return jax.eval_shape(self.likelihood.mean, self.draws.one).shape[1]

    def _standardize(self, y, marked=False):
        """y as (n, K) in the model's units; with ``marked`` also (n, 2K), whose marks of censored ones stay as they are."""
        y, targets = np.asarray(y, np.float64), self.columns
        columns = getattr(self.likelihood, "columns", targets) if marked else targets
        columns = targets if y.size == len(self) * targets else columns
        if y.size != len(self) * columns:
            raise ValueError(f"y must have {len(self)} rows of {targets} target(s); got shape {y.shape}")
        y = y.reshape(len(self), columns)
        return np.concatenate([(y[:, :targets] - self.shift) / self.scale, y[:, targets:]], axis=1)


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)


def _entropies(likelihood, z):
    p = likelihood.mean(z)
    return (-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)), axis=-1),)


def _votes(likelihood, z):
    p = likelihood.mean(z)
    return (jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1]),)


def _mean_and_variance(likelihood, z):
    mean = likelihood.mean(z)
    return mean, likelihood.variance(z) if hasattr(likelihood, "variance") else jnp.full_like(mean, jnp.nan)


def _log_prob(likelihood, z, y):
    return (likelihood.log_prob(z, y),)


def _cdf(likelihood, z, y):
    return (likelihood.cdf(z, y),)


@programs.jit(kept=128, static_argnums=0)
def _read(reading, likelihood, z, rows, *columns):
    """The reading's arrays for every draw at a piece, (draws, rows, ·)."""

    def one_draw(one):
        return by_blocks(partial(reading, likelihood), rows, 0, (one, 0), *((each, 0) for each in columns))

    return jax.vmap(one_draw)(z)


@programs.jit
def _crossings(likelihood, z, mean, sd, rows, given):
    search = lattice.quantiles if getattr(likelihood, "discrete", False) else crossings

    def block(z, mean, sd):
        return search(likelihood, z, mean, sd, *given)

    return by_blocks(block, rows, 1, (z, 1), (mean, 0), (sd, 0))
