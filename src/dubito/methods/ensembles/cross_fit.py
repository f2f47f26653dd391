"""Cross-fitting: members that each leave a fold out, and noise from what they did not see (mathematics: cross-fitting)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from dubito._check import check_choice
from dubito._jax import prng, programs
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key
from dubito.methods.ensembles.ensemble import combine
from dubito.methods.map import MAP
from dubito.models.likelihoods.classes import Bernoulli, Categorical
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.models.likelihoods.robust import StudentT
from dubito.models.model import Model
from dubito.models.networks import mlp
from dubito.models.noise_network import Bounded, LogScale, MeanAndNoiseNetwork
from dubito.models.priors import Normal
from dubito.posteriors.base import Mixture, Samples
from dubito.posteriors.noise import FixedNoisePosterior
from dubito.posteriors.predictive import predict
from dubito.posteriors.temperature import best_temperature, minimize_bounded
from dubito.training.data import Rows, pad_rows, padded_size
from dubito.training.members import Member, Trained, split_runs
from dubito.training.method import Wrapper
from dubito.training.packing import unpack
from dubito.training.splits import random_folds

FLOOR = 0.05  # of c²: how much of the noise is left at least when the members' spread is taken off
NOISE = MAP(epochs=400, batch_size=None, learning_rate=1e-2, schedule="constant")


@register_dataclass
@dataclass(frozen=True)
class CrossFit(Wrapper):
    """Runs of a method, each without one fold of the rows (stratified for classes), as a mixture.

    Each member keeps its best epoch on its fold, and its predictions there are out-of-sample, so their residuals r give the
    noise, y = f + σ(x) t with t of Student's distribution and

        σ²(x) = s² c² e^2h(x) (1 − 2v̄/c²),   c² = mean r²,   v̄ = the members' mean variance,

    where c² alone would be a member's error: the mixture's mean errs less by v̄ and brings v̄ of its own (v̄ is taken on the
    training rows, so it is a lower bound). s maximizes the held-out likelihood. A Gaussian noise of the wrapped method's own
    is replaced; another likelihood (counts, Student's t, ...) keeps what each member has learned up to its best epoch. For
    classes one temperature, from the held-out logits, takes the place of all this.

    Parameters
    ----------
    method : Method
    folds : int
        At least 2.
    noise : {"input", "constant"}
        "input" learns h, a small network minimizing Σ [h + ½(r/c)² e^−2h], cross-fitted over the same folds; "constant": h = 0.
    df : int, optional
        Degrees of freedom of t; None: Gaussian.
    """

    folds: int = static(default=10)
    noise: str = static(default="input")
    df: int | None = static(default=4)

    every_row: ClassVar[bool] = True
    runs_field: ClassVar[str | None] = "folds"
    validates: ClassVar[bool] = True  # members stop on rows of their own

    def check(self, model: Model) -> None:
        if not (isinstance(self.folds, int) and self.folds >= 2):
            raise ValueError(f"cross-fitting needs at least 2 folds, got folds={self.folds!r}")
        check_choice("noise", self.noise, ("input", "constant"))
        if self.df is not None and not (isinstance(self.df, int) and self.df >= 4 and self.df % 2 == 0):
            raise ValueError(f"df is an even whole number of at least 4, or None for Gaussian noise; got {self.df!r}")
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        key_folds, *keys = prng.keys(key, self.folds + 1)
        fold = random_folds(rows, self.folds, key_folds)
        found = []
        for number in range(fold.max() + 1):
            out = fold == number
            part = rows._replace(train=np.where(out, 0, rows.train), valid=np.where(out, rows.train, 0))
            found += self.method.members(part, keys[number])
        return found

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples | Mixture:
        runs = split_runs(trained, min(self.folds, int(np.sum(trained.rows.train > 0))))
        key_parts, key_predict, key_noise = jax.random.split(key, 3)
        keys = prng.keys(key_parts, len(runs))
        parts = [self.method.finish(model, one, k, run) for one, k in zip(runs, keys, strict=True)]
        folds = np.stack([one.members[0].valid for one in runs])
        if model.likelihood.task == "classification":
            return with_temperature(model, parts, folds, trained.rows, key_predict)
        if not isinstance(model.likelihood, Gaussian | HeteroscedasticGaussian):
            return combine_folds(parts)  # another likelihood keeps the noise that it learned
        means = np.stack([predict(part, trained.rows.x, key=key_predict).columnwise.mean for part in parts])
        residuals = Residuals(trained.rows, folds, means)
        noise, targets = None, means.shape[-1]
        networks = NoiseNetworks(list(range(len(parts))), [{}] * len(parts), np.zeros(means.shape))
        if self.noise == "input":
            noise = mlp(trained.rows.x.shape[1], (32,), targets, "tanh", last_variance=0.0)
            networks = noise_networks(noise, residuals, key_noise, run)
        level = noise_level(residuals, networks, self.df)
        likelihood = HeteroscedasticGaussian(0.0, targets, "exp") if self.df is None else StudentT(self.df, targets)
        final = Model(MeanAndNoiseNetwork(parts[0].model.network, noise, targets), likelihood, model.prior)
        noises = [{"level": level, "shape": params} for params in networks.params]
        pairs = zip(networks.numbers, noises, strict=True)
        return combine_folds([with_noise(final, parts[number], noise) for number, noise in pairs])


class Residuals(NamedTuple):
    """Out-of-sample errors of M members.

    Attributes
    ----------
    rows : Rows
    folds : (M, N) array
        Weights of the rows that each member held out.
    means : (M, N, K) array
        The members' predictions of all rows.
    """

    rows: Rows
    folds: np.ndarray
    means: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """y − f of the member that held the row out, (N, K)."""
        return self.rows.y - held_out(self.folds, self.means)

    @property
    def scale(self) -> np.ndarray:
        """c, the root mean square for each target, (K,)."""
        squares = np.average(self.values**2, axis=0, weights=self.folds.sum(0))
        return np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))

    @property
    def spread(self) -> np.ndarray:
        """v̄, the members' mean variance for each target, (K,)."""
        if len(self.means) == 1:
            return np.zeros_like(self.scale)
        return np.average(self.means.var(0, ddof=1), axis=0, weights=self.folds.sum(0))


class NoiseNetworks(NamedTuple):
    """Of each fold's noise network that converged: the fold's number, the parameters, and outputs ``h`` (m, N, K)."""

    numbers: list[int]
    params: list[Any]
    h: np.ndarray


def combine_folds(parts: list[Any]) -> Samples | Mixture:
    """The folds' posteriors as one: points side by side; chains stay apart, for those of two folds have no target in common."""
    chains = any(isinstance(part, Samples) and part.by_chains for part in parts)
    return Mixture(parts[0].model, tuple(parts)) if chains else combine(parts)


def held_out(folds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each row the value (M, N, K) of the member that had it held out, (N, K); 0 for rows that none had."""
    return np.einsum("mn,mnk->nk", folds > 0, values)


def noise_networks(noise: Any, residuals: Residuals, key: Key, run: Any) -> NoiseNetworks:
    """One noise network for each fold, trained on the other folds and stopped on it."""
    rows, folds = residuals.rows, residuals.folds
    y = (residuals.values / residuals.scale).astype(np.float32)
    rows = rows._replace(y=y, train=folds.sum(0))
    model = Model(Bounded(noise), LogScale(y.shape[1]), Normal.from_l2(1e-3, float(rows.train.sum())))
    members = [
        Member(k, np.where(fold > 0, 0, rows.train).astype(np.float32), fold)
        for k, fold in zip(prng.keys(key, len(folds)), folds, strict=True)
    ]
    trained = run(model, NOISE, members=members, rows=rows)
    params = [unpack(state.params)["network"] for state in trained.states]
    x = pad_rows(rows.x, padded_size(len(rows.x)))
    h = np.stack([_apply(Bounded(noise), each, x) for each in params])[:, : len(rows.x)]
    return NoiseNetworks(list(trained.numbers), params, h)


def noise_level(residuals: Residuals, networks: NoiseNetworks, df: int | None) -> jax.Array:
    """log(s c √(1 − 2v̄/c²)) for each target, (K,): the log scale of the noise where h = 0."""
    c, folds = residuals.scale, residuals.folds[networks.numbers]
    ratios = residuals.values / c * np.exp(-held_out(folds, networks.h))
    s = [student_scale(ratio, folds.sum(0), df) for ratio in ratios.T]
    level = np.log(s) + np.log(c) + 0.5 * np.log(np.maximum(1 - 2 * residuals.spread / c**2, FLOOR))
    return jnp.asarray(level, jnp.float32)


def student_scale(ratio: np.ndarray, weight: np.ndarray, df: int | None) -> Any:
    """The s that maximizes Σ weight · log p(ratio) for ratio ~ s·t_df; for a Gaussian (None) the root mean square."""
    if df is None:
        return np.sqrt(np.maximum(np.average(ratio**2, weights=weight), np.finfo(np.float32).tiny))

    def loss(log_s):
        return log_s + 0.5 * (df + 1) * np.average(np.log1p((ratio * np.exp(-log_s)) ** 2 / df), weights=weight)

    return np.exp(minimize_bounded(loss, 10.0))


def with_noise(model: Model, part: Any, noise: Any) -> "Samples | FixedNoisePosterior":
    """``part`` with ``noise``, parameters of ``MeanAndNoiseNetwork``, in place of its own noise; of the given ``model``."""
    if isinstance(part, Samples):
        count = len(jax.tree.leaves(part.params)[0])
        noise = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *leaf.shape)), noise)
        params = {"network": {"mean": part.params["network"], "noise": noise}, "likelihood": {}}
        return Samples(model, params, part.chains)
    return FixedNoisePosterior(model, part, noise)


@programs.jit
def _apply(network, params, x):
    return network.apply(params, x)


def with_temperature(model: Model, parts: list[Any], folds: np.ndarray, rows: Rows, key: Key) -> Samples | Mixture:
    """The mixture of ``parts`` with the best temperature for the held-out log (1/S) Σ_s softmax(f_s/T)_y."""
    if not isinstance(model.likelihood, Bernoulli | Categorical):
        return combine_folds(parts)
    held = [np.flatnonzero(fold > 0) for fold in folds]
    logits = [
        np.asarray(predict(part, rows.x[chosen], key=key).z["logits"], float)
        for part, chosen in zip(parts, held, strict=True)
    ]
    f = np.concatenate(logits, axis=1)
    if f.shape[-1] == 1:  # one logit is two, of which the first is 0
        f = np.concatenate([np.zeros_like(f), f], axis=-1)
    chosen = np.concatenate(held)
    y, weight = rows.y[chosen], rows.train[chosen]
    target = np.eye(f.shape[-1])[y] if y.ndim == 1 else y

    def log_probs(temperature):
        each = f / temperature - logsumexp(f / temperature, axis=-1, keepdims=True)
        own, all_classes = (np.asarray(logsumexp(part, axis=0)) for part in (np.sum(target * each, axis=-1), each))
        return own - np.log(len(f)), all_classes.mean(-1) - np.log(len(f))

    temperature = model.likelihood.temperature * best_temperature(log_probs, weight)
    likelihood = replace(model.likelihood, temperature=temperature)
    return combine_folds([replace(part, model=replace(part.model, likelihood=likelihood)) for part in parts])
