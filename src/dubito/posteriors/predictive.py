"""The answer: a likelihood and draws of z, as one distribution a row, in the target's own units."""

import textwrap
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import check_coverage, check_whole
from dubito._jax import prng
from dubito.models.likelihoods.base import origin_near, recenter
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.posteriors import readings
from dubito.posteriors.blocks import whole_blocks
from dubito.posteriors.function_samples import Draws, functions, given
from dubito.posteriors.outcomes import class_codes, target_values
from dubito.posteriors.quantiles import starts
from dubito.posteriors.reductions import Kept, Least, LogMeanExp, Moments


def predict(posterior, x, *, key, draws=None, shift=0.0, scale=1.0, description=""):
    """The predictive distribution at rows ``x`` (n, D).

    ``draws``: how many parameters to draw; None enumerates a finite posterior and takes 100 of another. ``shift`` and
    ``scale`` (K,) turn the model's targets into the user's units: y = shift + scale·(model's y). The same key gives the
    same functions for any rows.

    The functions are evaluated at once where their values are few (2²⁴ numbers); else whenever something is asked, and
    only moments and densities of some rows are held then (quantiles: the values at 1,024 rows).
    """
    return answer(functions(posterior, key, draws), x, shift, scale, description)


def answer(found, x, shift=0.0, scale=1.0, description="", classes=None):
    """The predictive distribution of functions that were drawn before; see ``predict``, and ``Predictive`` for ``classes``."""
    likelihood, shift, scale = found.model.likelihood, np.asarray(shift, float), np.asarray(scale, float)
    if not likelihood.standardizes_targets and (np.any(shift != 0) or np.any(scale != 1)):
        raise ValueError(
            f"the targets of {type(likelihood).__name__} have no other units: shift 0 and scale 1, no others"
        )
    return Predictive(likelihood, found.at(x), shift, scale, description, classes)


@dataclass(frozen=True, repr=False)
class Predictive:
    """A mixture over S draws: p(y) = (1/S) Σ p(y given z_s), never one density with averaged parameters.

    ``draws``: z of each draw, arrays (S, n, ·) in the model's units, or what computes them. ``variance = aleatoric +
    epistemic``: noise in the data, and uncertainty about the weights.

    Regression answers are float64 in the target's units. For one target they have the shape (n,): ``mean``, ``std`` and
    the other moments, ``cdf(y)``, the ends of ``interval``, ``quantile(q)``; ``quantile`` of several probabilities is
    (len(q), n) and ``sample(key, m)`` is (m, n). For K ≥ 2 targets a last axis of length K follows: (n, K), (len(q), n, K),
    (m, n, K). ``squeeze=False`` keeps that axis for one target, too; see ``columnwise``. A y of one target is (n,) or (n, 1).

    For C classes ``mean``, ``probs`` and the moments are (n, C), ``sample(key, m)`` is codes (m, n). ``classes`` are the
    sorted labels, known where an estimator made the predictive: then y may be labels or codes 0, ..., C − 1 (see
    ``dubito.evaluation.validation``); None means codes only.
    """

    likelihood: Any
    draws: Any
    shift: np.ndarray
    scale: np.ndarray
    description: str = ""
    classes: Any = None
    squeeze: bool = True

    def __post_init__(self):
        if not isinstance(self.draws, Draws):
            object.__setattr__(self, "draws", given(self.draws))

    def __repr__(self):
        rows, count = f"{len(self):,} row{'s' if len(self) != 1 else ''}", len(self.draws)
        columns = f"{self.columns} {'target' if self.task == 'regression' else 'class'}"
        plural = "" if self.columns == 1 else "s" if self.task == "regression" else "es"
        lines = [f"{self.task}: {rows}, {columns}{plural}, {count:,} draw{'s' if count != 1 else ''}"]
        if self.classes is not None:
            lines.append(f"classes: {', '.join(map(str, self.classes.tolist()))}")
        lines.append(f"likelihood: {self.likelihood!r}")
        lines += [f"method: {self.description}"] if self.description else []
        return "\n  ".join([type(self).__name__, *(textwrap.shorten(line, 100, placeholder=" ...") for line in lines)])

    @property
    def task(self):
        return self.likelihood.task

    @property
    def columnwise(self):
        """The same predictive in the form for code that handles any number of targets: all answers (n, K), and y of classes
        as codes. What it has computed is held once, for both forms."""
        return self._columnwise if self.squeeze else self

    @cached_property
    def _columnwise(self) -> Any:
        return replace(self, squeeze=False, classes=None)

    def _squeezed(self, values):
        """Values with targets last, without that axis where there is one target."""
        return values[..., 0] if self.squeeze and self.task == "regression" and values.shape[-1] == 1 else values

    @property
    def discrete(self):
        """Whether y is whole numbers: quantiles are such, and densities probabilities."""
        return self.likelihood.discrete

    def offers(self, name):
        """Whether the likelihood has a density ("log_prob"), a "cdf", a "variance", a "sample"; a Criterion has not."""
        if name == "log_prob":
            return self.likelihood.normalized
        return self.likelihood.has_noise and (name != "cdf" or self.task == "regression")

    def _need(self, name):
        if not self.offers(name):
            raise ValueError(
                f"{type(self.likelihood).__name__} does not give the predictive its {name}: it has a mean and the doubt about "
                "it (epistemic). A whole distribution needs a likelihood; dubito.LIKELIHOODS has them by name."
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
            values = readings.read_draws(reading, self.likelihood, z, rows, *given)
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
    def _moments(self) -> Any:
        """Mean, noise (the mean variance) and doubt (the variance of means), each (n, K) in the model's units."""
        if self.squeeze:
            return self.columnwise._moments
        (mean, doubt), (noise, _) = self._over_draws(readings.mean_and_variance, Moments)
        return mean, noise, doubt

    @property
    def mean(self):
        """E[y], (n,) or (n, K); for classes the probabilities (n, C)."""
        return self._squeezed(self.columnwise._mean)

    @cached_property
    def _mean(self) -> Any:
        return self.shift + self.scale * self._moments[0]

    def means(self, members):
        """The mean of each of ``members`` equal parts of the draws, one after another, (members, n) or (members, n, K), in the
        target's units; of classes the probabilities (members, n, C). ValueError where the draws are not equally many of each."""
        if len(self.draws) % members:
            raise ValueError(f"{len(self.draws)} draws are not equally many draws of each of {members} members")
        each = self.moments_of_draws()[0]
        parts = each.reshape(len(self), members, len(self.draws) // members, -1).mean(2)
        return self._squeezed(self.shift + self.scale * parts.swapaxes(0, 1))

    def moments_of_draws(self):
        """(mean, variance) of each draw, (n, S, K), in the model's units."""
        return self._over_draws(readings.mean_and_variance, Kept)

    @property
    def _noise(self):
        self._need("variance")
        return self._moments[1]

    @property
    def _doubt(self):
        return self._moments[2]

    @property
    def aleatoric(self):
        """E_θ[Var[y | θ]], (n,) or (n, K), in squared units of the target."""
        return _square(self.aleatoric_std)

    @property
    def epistemic(self):
        """Var_θ[E[y | θ]], (n,) or (n, K), in squared units of the target."""
        return _square(self.epistemic_std)

    @property
    def variance(self):
        """Var[y] = aleatoric + epistemic, (n,) or (n, K), in squared units of the target: ∞ where no number holds it."""
        return self.aleatoric + self.epistemic

    @property
    def std(self):
        """√variance, (n,) or (n, K), in units of the target; for units whose square no number holds, too."""
        answer = self.columnwise
        return self._squeezed(self.scale * np.sqrt(answer._noise + answer._doubt))

    @property
    def narrowest(self):
        """The least standard deviation of any draw, (n,) or (n, K), in units of the target."""
        self._need("variance")
        return self._squeezed(self.scale * np.sqrt(self._over_draws(readings.mean_and_variance, Least)[1]))

    @property
    def aleatoric_std(self):
        """√aleatoric, (n,) or (n, K), in units of the target."""
        return self._squeezed(self.scale * np.sqrt(self.columnwise._noise))

    @property
    def epistemic_std(self):
        """√epistemic, (n,) or (n, K), in units of the target."""
        return self._squeezed(self.scale * np.sqrt(self.columnwise._doubt))

    def log_prob(self, y):
        """log p(y) per row, (n,), in nats of the target's units: logsumexp over draws − log S − Σ log scale.

        y is (n,) or (n, K), or n labels or codes of classes. ValueError for values that are missing or none of these.
        """
        self._need("log_prob")
        if self.task != "regression":
            return self.log_densities(LogMeanExp, class_codes(y, len(self), self.columns, self.classes))
        columns = self.likelihood.columns
        return self.columnwise._log_density(target_values(y, len(self), self.columns, columns, finite=False))

    def _log_density(self, y):
        marks = y[:, self.columns :]  # of censored ones, which have a probability and no density
        logs = np.broadcast_to(np.log(self.scale), (len(y), self.columns))
        return self.log_densities(LogMeanExp, y) - np.sum(
            logs if marks.size == 0 else np.where(marks > 0, 0, logs), axis=1
        )

    def log_densities(self, fold, y):
        """A ``fold`` over draws of log p(y | θ_s), in nats of the model's units; y is numbers (n, K) or codes (n,), checked."""
        if self.task != "regression":
            return _single(self._over_draws(readings.log_prob, fold, y))
        origin, rest = self._from_origin(y[:, : self.columns])
        return _single(
            self._over_draws(readings.log_prob, fold, np.concatenate([rest, y[:, self.columns :]], axis=1), origin)
        )

    def cdf(self, y):
        """P(Y ≤ y) for each target, (n,) or (n, K), of y (n,) or (n, K)."""
        self._need("cdf")
        return self._squeezed(self.columnwise._cumulative(target_values(y, len(self), self.columns, finite=False)))

    def _cumulative(self, y):
        origin, rest = self._from_origin(y)
        return self._over_draws(readings.cdf, Moments, rest, origin)[0][0]

    def _from_origin(self, y):
        """(origin, rest), each float32 (n, K): y in the model's units is their sum, to twice the digits of one float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            y = (y - self.shift) / self.scale
            origin = origin_near(self.likelihood, y)
            return origin, np.where(np.isfinite(origin), y - origin, 0).astype(np.float32)

    def quantile(self, q):
        """The mixture's quantiles, (n,) or (n, K), for one number q in (0, 1), with an axis of length len(q) before for several;
        of counts the least whole number whose cdf is at least q."""
        self._need("cdf")
        q = np.asarray(q, float)
        if not np.all((q > 0) & (q < 1)):
            raise ValueError(f"quantile wants probabilities strictly between 0 and 1, got {q}")
        found = self._squeezed(self.columnwise._quantiles(np.atleast_1d(q)))
        return found[0] if q.ndim == 0 else found

    def _quantiles(self, q):
        """The quantiles (len(q), n, K). They are sought from each row's mean, which float64 adds: so they are as far apart as
        they should be wherever the mean is."""
        mean, noise, doubt = self._moments
        origin = origin_near(self.likelihood, mean)

        def one(z, rows, *given):
            origin, offset = (
                np.asarray(part, float) for part in readings.find_quantiles(self.likelihood, z, *given, rows, starts(q))
            )
            return (origin + offset)[:, : max(rows, 1)]

        columns = [np.float32(column) for column in (origin, mean - origin, np.sqrt(noise + doubt))]
        found = np.concatenate(self.draws.whole(one, *columns), axis=1)[:, : len(self)]
        return self.shift + self.scale * found

    def interval(self, coverage=0.9):
        """Equal-tailed (lower, upper), each (n,) or (n, K), holding y with probability ``coverage``."""
        check_coverage(coverage)
        lower, upper = self.quantile([(1 - coverage) / 2, (1 + coverage) / 2])
        return lower, upper

    def sample(self, key, n):
        """n joint draws of y: (n, rows) or (n, rows, K), or class codes (n, rows); each is one function plus noise."""
        self._need("sample")
        check_whole("the number of draws of y", n, 1)
        return self._squeezed(self.columnwise._sample(key, n))

    def _sample(self, key, n):
        key_draw, key_noise = jax.random.split(prng.fast(key))
        index = np.asarray(jax.random.randint(key_draw, (n,), 0, len(self.draws)))
        chosen = jax.tree.map(jnp.asarray, self.draws.at(index))
        if self.task != "regression":
            return np.asarray(jax.vmap(self.likelihood.sample)(jax.random.split(key_noise, n), chosen))
        # measured from each function's own mean, which float64 adds: far from 0 float32 would round the noise away
        origin = origin_near(self.likelihood, jax.vmap(self.likelihood.mean)(chosen))
        around = jax.vmap(partial(recenter, self.likelihood))(chosen, jnp.asarray(origin))
        y = jax.vmap(self.likelihood.sample)(jax.random.split(key_noise, n), around)
        return self.shift + self.scale * (origin + np.asarray(y, np.float64))

    def components(self):
        """(means, scales), each (S, n) or (S, n, K), when the draws are Gaussian; None otherwise. For closed-form scores."""
        if not isinstance(self.likelihood, Gaussian | HeteroscedasticGaussian):
            return None
        mean, scale = (np.asarray(self.z[name], float) for name in ("mean", "scale"))
        return self._squeezed(self.shift + self.scale * mean), self._squeezed(self.scale * scale)

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
        ((each, _),) = self._over_draws(readings.entropies, Moments)
        return np.maximum(self.entropy - each, 0.0)

    @property
    def variation_ratio(self):
        """1 − the share of draws that vote for the modal class, (n,)."""
        ((shares, _),) = self._over_draws(readings.votes, Moments)
        return 1 - shares.max(-1)

    @cached_property
    def columns(self):
        """How many columns the mean has: K targets, or C classes."""
        return jax.eval_shape(self.likelihood.mean, self.draws.one).shape[1]


def _single(found):
    """The only array of a reading, which some folds give alone and some in a list."""
    return found[0] if isinstance(found, list) else found


def _square(sd):
    """sd², where no number holds it ∞ without a warning; 0 stays 0."""
    with np.errstate(over="ignore", under="ignore"):
        return sd**2


def _entropy(p):
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
