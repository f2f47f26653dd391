"""The noise of a mixture of members that each left rows out, from their errors there (mathematics: cross-fitting)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, logsumexp, ndtri

from dubito._jax import prng, programs
from dubito.methods.map import MAP
from dubito.methods.types import Key, Member, Model, Params, Rows
from dubito.models.networks import MLP
from dubito.models.noise_network import Bounded, LogScale
from dubito.models.priors import Normal
from dubito.training.data import pad_rows, padded_size
from dubito.training.packing import unpack

DEGREES = (4, 6, 10, 30, None)  # of freedom, to choose from
PRIOR_ROWS = 20  # what is expected counts as so many rows
POWER = 0.7  # of c² over the error of seen rows: the expected ratio of variances
OUTLIER = 100.0  # ratios of rows are at most so many times their median
ROBUST_DF = 4  # of Student's t, whose scale is the size of the bulk of errors
MOST_SPREAD = 0.8  # of c²: the largest variance between runs
NOISE = MAP(epochs=400, batch_size=None, learning_rate=1e-2, schedule="constant")


class Residuals(NamedTuple):
    """What M members predict for N rows; some members have not seen a row.

    Attributes
    ----------
    rows : Rows
    held : array of shape (M, N)
        The weight of each row for the one member whose error there counts, and 0 for the others.
    seen, unseen : bool array of shape (M, N)
        The rows by which a member was trained, and those by which it was neither trained nor chosen.
    means : array of shape (M, N, K)
        The members' predictions.
    parts : int
        The number of successive members that come from one run.
    """

    rows: Rows
    held: Float[np.ndarray, "M N"]
    seen: Bool[np.ndarray, "M N"]
    unseen: Bool[np.ndarray, "M N"]
    means: Float[np.ndarray, "M N K"]
    parts: int

    @property
    def weight(self) -> Float[np.ndarray, " N"]:
        """The weights of the rows."""
        return self.held.sum(0)

    @property
    def runs(self) -> int:
        """The number of runs."""
        return len(self.means) // self.parts

    @property
    def values(self) -> Float[np.ndarray, "N K"]:
        """r = y − f of the member that gives the row's error; NaN where y is missing."""
        return self.rows.y - held_out(self.held, self.means)

    @property
    def square(self) -> Float[np.ndarray, " K"]:
        """c², the mean of r² for each target."""
        return np.maximum(average_known(self.values**2, self.weight), np.finfo(np.float32).tiny)

    @property
    def seen_square(self) -> Float[np.ndarray, " K"]:
        """The mean squared error of single members at rows by which they were trained."""
        squares, seen = (self.rows.y - self.means) ** 2, self.seen[..., None]
        each = np.sum(squares * seen, axis=0) / np.maximum(seen.sum(0), 1)
        return average_known(each, self.rows.train * seen.any((0, 2)))

    @property
    def spread(self) -> Float[np.ndarray, " K"]:
        """v, the mean variance between runs at rows that none of them has seen, at most 0.8 c².

        It is the mean variance between the runs that have seen a row, times a ratio: that of the
        variance between runs that have not seen a row to the variance between those that have, over
        the rows where both are known. Both are large where inputs are rare, so their ratio is less
        noisy than either. With few such rows it would still be noisy, so 20 more count as if their
        ratio were (c² / ``seen_square``)^0.7, and the ratio of no row exceeds a hundred times the median.

        Were a run's prediction linear in its targets, with leverage h, both the errors and the
        differences at its rows would be 1 − h times those at new rows, and the power would be 1. It
        is smaller because runs differ by their initial weights, too.
        """
        if self.runs == 1:
            return np.zeros(self.means.shape[-1])
        new, several_new = self._between_runs(self.unseen)
        old, several_old = self._between_runs(self.seen)
        weight = self.rows.train / np.mean(self.rows.train)
        if not several_old.any():  # of two runs, or of folds in the order of time
            if not several_new.any():
                new, several_new = self._between_runs(np.ones_like(self.seen))
            found = np.average(new, axis=0, weights=weight * several_new)
        else:
            mean = np.average(old, axis=0, weights=weight * several_old)
            both = several_new & several_old
            expected = (self.square / np.maximum(self.seen_square, 1e-3 * self.square)) ** POWER
            found = mean * ratio_of_variances(new[both], old[both], weight[both], mean, expected)
        return np.minimum(found, MOST_SPREAD * self.square)

    @property
    def shrinkage(self) -> Float[np.ndarray, " K"]:
        """The squared error of the mean of all R runs divided by that of one, for the bulk of the rows.

        By (85) it is 1 − (1 − 1/R) v/c² in the mean over rows. Where a few rows are predicted badly by all
        runs, these give c², and the other errors shrink more. So it is estimated for the bulk, too: with
        q the ratio of the squared size of the mean error of two runs that have not seen a row to that of
        their single errors (sizes: scales of Student's t with 4 degrees of freedom), the share
        2q − 1 of the squared error is common to all runs, and the rest shrinks to 1/R. The mean
        counts as 20 rows beside the rows of these pairs.
        """
        in_the_mean = 1 - (1 - 1 / self.runs) * self.spread / self.square
        runs: Any = self.unseen.reshape(self.runs, self.parts, -1).any(1)
        pairs = np.flatnonzero((runs.sum(0) > 1) & (self.rows.train > 0))
        if len(pairs) == 0:
            return in_the_mean
        errors = np.stack([self._errors(run, pairs) for run in np.argsort(runs[:, pairs], axis=0, kind="stable")[-2:]])
        weight = self.rows.train[pairs] / np.mean(self.rows.train)
        found = in_the_mean.copy()
        for k, target in enumerate(np.moveaxis(errors, -1, 0)):
            known = ~np.isnan(target[0])
            if known.any():
                single = robust_size(target[:, known].ravel(), np.tile(weight[known], 2))
                common = 2 * (robust_size(target[:, known].mean(0), weight[known]) / single) ** 2 - 1
                bulk = np.clip(common + (1 - common) / self.runs, 1 / self.runs, 1)
                found[k] = (PRIOR_ROWS * found[k] + known.sum() * bulk) / (PRIOR_ROWS + known.sum())
        return found

    def _errors(self, run: Int[np.ndarray, " n"], rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n K"]:
        """The errors at ``rows`` of the first member of each one's ``run`` that has not seen it."""
        members = self.parts * run[:, None] + np.arange(self.parts)
        first = members[np.arange(len(rows)), np.argmax(self.unseen[members, rows[:, None]], axis=1)]
        return self.rows.y[rows] - self.means[first, rows]

    def _between_runs(self, which: Bool[np.ndarray, "M N"]) -> tuple[Float[np.ndarray, "N K"], Bool[np.ndarray, " N"]]:
        """The variance at each row between the first member of ``which`` of each run, and whether
        several runs have one.
        """
        shape = (self.runs, self.parts, len(self.weight))
        each = which.reshape(shape)
        first = np.argmax(each, axis=1)[:, None, :, None]
        means = np.take_along_axis(self.means.reshape(*shape, -1), first, axis=1)[:, 0]
        chosen: Any = each.any(1)
        return variance(means, chosen), chosen.sum(0) > 1


class MixtureErrors(NamedTuple):
    """The errors that a mixture of members would have made, had none of them seen the row.

    Attributes
    ----------
    noise_std : tuple of float
        √(c² − v) for each target: noise, and error that all members have in common.
    values : array of shape (N, K)
        e, those of its mean; NaN where y is missing.
    deviations : array of shape (M, N, K)
        d, those of its members from the mean; NaN for members that are left out.
    """

    noise_std: tuple[float, ...]
    values: Float[np.ndarray, "N K"]
    deviations: Float[np.ndarray, "M N K"]


class NoiseNetworks(NamedTuple):
    """The noise networks that converged: the number of each one's member, its parameters, and its outputs ``h``."""

    numbers: list[int]
    params: list[Params]
    h: Float[np.ndarray, "m N K"]


class Level(NamedTuple):
    """The level of the noise.

    Attributes
    ----------
    log_scale : array of shape (K,)
        log s, the log scale of the noise where h = 0.
    df : int or None
        The degrees of freedom of its tail; None: Gaussian.
    """

    log_scale: Float[Array, " K"]
    df: int | None


def held_out(held: Float[np.ndarray, "M N"], values: Float[np.ndarray, "M N K"]) -> Float[np.ndarray, "N K"]:
    """For each row the value of the member that gives its error; 0 for rows without."""
    return np.einsum("mn,mnk->nk", held > 0, values)


def variance(values: Float[np.ndarray, "M N K"], chosen: Bool[np.ndarray, "M N"]) -> Float[np.ndarray, "N K"]:
    """The variance over the ``chosen`` members at each row, unbiased; 0 for fewer than two."""
    chosen = chosen[..., None]
    count = chosen.sum(0)
    center = np.sum(values * chosen, axis=0) / np.maximum(count, 1)
    return np.sum(chosen * (values - center) ** 2, axis=0) / np.maximum(count - 1, 1)


def ratio_of_variances(
    new: Float[np.ndarray, "n K"],
    old: Float[np.ndarray, "n K"],
    weight: Float[np.ndarray, " n"],
    mean: Float[np.ndarray, " K"],
    expected: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " K"]:
    """The ratio of ``new`` to ``old`` variances of n rows, with the limit of ``Residuals.spread``.

    ``mean`` is the mean of old variances over more rows, and ``expected`` the ratio that 20 rows more have.
    """
    if len(weight) == 0:
        return expected
    mean = np.maximum(mean, np.finfo(np.float32).tiny)
    old = np.maximum(old, 1e-6 * mean)
    limit = OUTLIER * np.median(new / old, axis=0)
    total = weight @ np.minimum(new, limit * old)
    return (total + expected * PRIOR_ROWS * mean) / (weight @ old + PRIOR_ROWS * mean)


def average_known(values: Float[np.ndarray, "N K"], weight: Float[np.ndarray, " N"]) -> Float[np.ndarray, " K"]:
    """The weighted mean of each column without its missing entries (NaN)."""
    known = ~np.isnan(values)
    if known.all():
        return np.average(values, axis=0, weights=weight)
    columns = zip(values.T, known.T, strict=True)
    return np.array([np.average(column[rows], weights=weight[rows]) for column, rows in columns])


def mixture_errors(residuals: Residuals) -> MixtureErrors:
    """The errors of the mixture, from those of single members.

    e is r times the root of ``Residuals.shrinkage``. The
    deviations are those of the members that have seen the row, times a number that makes their mean
    variance v; where fewer than two members have seen it, they are quantiles of a Gaussian.

    Parameters
    ----------
    residuals : Residuals

    Returns
    -------
    MixtureErrors
    """
    spread, square = residuals.spread, residuals.square
    errors = residuals.values * np.sqrt(residuals.shrinkage)
    seen, means = residuals.seen, residuals.means
    count = seen.sum(0)[:, None]
    center = np.sum(means * seen[..., None], axis=0) / np.maximum(count, 1)
    deviations = np.where(seen[..., None], means - center, np.nan)
    enough = np.where(count[:, 0] > 1, residuals.rows.train, 0)
    if enough.any():
        found = np.average(variance(means, seen), axis=0, weights=enough)
        deviations *= np.sqrt(spread / np.maximum(found, np.finfo(np.float32).tiny))
    shape = ndtri((np.arange(len(means)) + 0.5) / len(means))[:, None, None]
    shape = shape / max(shape.std(), 1e-9) * np.sqrt(spread)
    noise_std = tuple(map(float, np.sqrt(square - spread)))
    return MixtureErrors(noise_std, errors, np.where(count > 1, deviations, shape))


def noise_networks(noise: MLP, residuals: Residuals, errors: MixtureErrors, key: Key, run: Any) -> NoiseNetworks:
    """Learn the shape h of the noise: for each member a network that minimizes Σ [h + ½ (e/c)² e^−2h].

    It is trained without the fold of the member's run, and its best epoch is chosen on the same rows as
    the member's.

    Parameters
    ----------
    noise : MLP
        The network of h, with K outputs.
    residuals : Residuals
    errors : MixtureErrors
    key : Key
    run : callable
        As of ``Method.finish``.

    Returns
    -------
    NoiseNetworks
    """
    held, weight = residuals.held, residuals.weight
    y = (errors.values / np.sqrt(residuals.square)).astype(np.float32)
    rows, bounded = residuals.rows._replace(y=y, train=weight, valid=np.zeros_like(weight)), Bounded(noise)
    model = Model(bounded, LogScale(y.shape[1]), Normal.from_l2(1e-3, float(weight.sum())))
    shape = (residuals.runs, residuals.parts, len(weight))
    mine = held.reshape(shape).sum(1)  # the fold of each run
    stop = mine[:, None] - held.reshape(shape) if residuals.parts > 1 else held.reshape(shape)
    keys = prng.keys(key, residuals.runs)
    members = [Member(k, np.where(fold > 0, 0, weight), s) for k, fold, s in zip(keys, mine, stop, strict=True)]
    trained = run(model, NOISE, members=members, rows=rows)
    params = [unpack(state.params)["network"] for state in trained.states]
    x = pad_rows(rows.x, padded_size(len(rows.x)))
    h = np.stack([_apply(bounded, each, x) for each in params])[:, : len(rows.x)]
    return NoiseNetworks(list(trained.numbers), params, h)


def noise_level(residuals: Residuals, errors: MixtureErrors, networks: NoiseNetworks, df: int | str | None) -> Level:
    """Estimate the scale s and the tail of the noise s e^h(x) t, where t is Student's t or Gaussian.

    They maximize the likelihood of the mixture at its errors: Σ_i w_i log (1/M) Σ_m p(e_i − d_mi | s e^h_i).

    Parameters
    ----------
    residuals : Residuals
    errors : MixtureErrors
    networks : NoiseNetworks
        Rows whose network has diverged are left out.
    df : int, None or "auto"
        The degrees of freedom of t; None: Gaussian. "auto": of 4, 6, 10, 30 and None the first
        whose likelihood is within one nat of the best, since a tail that is too light costs more.

    Returns
    -------
    Level
    """
    held = residuals.held[networks.numbers]
    scale, weight = np.exp(held_out(held, networks.h)), held.sum(0) / np.mean(residuals.weight)
    found = {}
    degrees: Any
    for degrees in DEGREES if df == "auto" else (df,):
        each = [
            best_scale(e, d, s, weight, degrees)
            for e, d, s in zip(errors.values.T, np.moveaxis(errors.deviations, -1, 0), scale.T, strict=True)
        ]
        found[degrees] = tuple(map(np.array, zip(*each, strict=True)))
    most = max(total.sum() for _, total in found.values())
    chosen = next(degrees for degrees, (_, total) in found.items() if total.sum() >= most - 1)
    return Level(jnp.asarray(found[chosen][0], jnp.float32), chosen)


def best_scale(
    error: Float[np.ndarray, " N"],
    deviations: Float[np.ndarray, "M N"],
    scale: Float[np.ndarray, " N"],
    weight: Float[np.ndarray, " N"],
    df: int | None,
) -> tuple[float, float]:
    """The log s that maximizes the mixture's log likelihood at one target, and that maximum, in nats.

    Parameters
    ----------
    error : array of shape (N,)
        Of the mixture's mean; NaN: missing.
    deviations : array of shape (M, N)
        Of the members from it; NaN: left out.
    scale : array of shape (N,)
        The scale of the noise for s = 1.
    weight : array of shape (N,)
    df : int or None
        Degrees of freedom; None: Gaussian.

    Returns
    -------
    log_s, log_likelihood : float
    """
    used = ~np.isnan(error) & (weight > 0)
    difference = (error[used] - deviations[:, used]) / scale[used]
    absent, weight = np.isnan(difference), weight[used]
    difference, count = np.where(absent, 0, difference), np.sum(~absent, axis=0)
    size = np.sqrt(np.average(np.sum(difference**2, axis=0) / count, weights=weight))
    center = float(np.log(np.maximum(size, np.finfo(np.float32).tiny)))

    def loss(log_s: float) -> Any:
        log_prob = np.where(absent, -np.inf, standard_log_prob(difference * np.exp(-log_s), df))
        return -np.sum(weight * (logsumexp(log_prob, axis=0) - np.log(count) - log_s - np.log(scale[used])))

    options = {"xatol": 1e-3}
    best: Any = minimize_scalar(loss, bounds=(center - 5, center + 1), method="bounded", options=options)
    return best.x, -best.fun


def robust_size(errors: Float[np.ndarray, " N"], weight: Float[np.ndarray, " N"]) -> float:
    """The scale of Student's t that is most likely for errors."""
    log_size, _ = best_scale(errors, np.zeros((1, len(errors))), np.ones(len(errors)), weight, ROBUST_DF)
    return float(np.exp(log_size))


def standard_log_prob(z: Float[np.ndarray, "*shape"], df: int | None) -> Float[np.ndarray, "*shape"]:
    """The log density of Student's t with scale 1, or of a standard normal (None)."""
    if df is None:
        return -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * np.log(df * np.pi)
    return constant - 0.5 * (df + 1) * np.log1p(z**2 / df)


@programs.jit
def _apply(network: Bounded, params: Params, x: Any) -> Array:
    return network.apply(params, x)
