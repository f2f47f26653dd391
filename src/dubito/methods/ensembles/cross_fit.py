"""Cross-fitting: members that each leave a fold out, and noise from the held-out residuals (mathematics: cross-fitting)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp

from dubito._check import check_choice, check_whole
from dubito._jax import prng, programs
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.ensembles.ensemble import combine, finish_runs
from dubito.methods.map import MAP
from dubito.methods.types import Key, Member, Model, Params, Rows, Trained
from dubito.models.likelihoods.classes import Bernoulli, Categorical
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.models.likelihoods.robust import StudentT
from dubito.models.networks import MLP, mlp
from dubito.models.noise_network import Bounded, LogScale, MeanAndNoiseNetwork
from dubito.models.priors import Normal
from dubito.posteriors.base import Mixture, Samples
from dubito.posteriors.noise import FixedNoisePosterior
from dubito.posteriors.predictive import predict
from dubito.posteriors.temperature import best_temperature, minimize_bounded
from dubito.training.data import pad_rows, padded_size
from dubito.training.members import split_runs
from dubito.training.method import Wrapper
from dubito.training.packing import unpack
from dubito.training.splits import fold_count, member_folds

LEAST_NOISE = 0.05  # of c²: how much noise is left at least after subtraction of the members' spread
NOISE_STEPS = 400
NOISE = MAP(epochs=NOISE_STEPS, batch_size=None, learning_rate=1e-2, schedule="constant")
MANY_ROWS, NOISE_BATCH = 16_384, 4096  # larger tables take as many steps, on batches


@register_dataclass
@dataclass(frozen=True)
class CrossFit(Wrapper):
    """Runs of a method, each without one fold of the rows (stratified for classes), as a mixture.

    The folds are ``splits.member_folds``. Each member keeps its best epoch on its fold, and its predictions there are out-of-sample, so
    their residuals r give the noise, y = f + σ(x) t, where t is Student's t and

        σ²(x) = s² c² e^2h(x) (1 − 2v̄/c²),   c² = mean r²,   v̄ = the members' mean variance,

    where c² alone would be the squared error of a single member: that of the mixture's mean is
    smaller by v̄, and the mixture adds v̄ (which is taken on the training rows, so it is a lower
    bound). s maximizes the held-out likelihood. The Gaussian noise of the wrapped method is
    replaced; another likelihood (counts, Student's t, ...) keeps what each member has learned up to
    its best epoch. For classes one temperature, from the held-out logits, replaces all this.

    Parameters
    ----------
    method : Method
        The method of the members.
    folds : int
        The number of folds, at least 2.
    noise : {"input", "constant"}
        "input" learns h, a small network that minimizes Σ [h + ½(r/c)² e^−2h], cross-fitted over
        the same folds; "constant" is h = 0.
    df : int, optional
        Degrees of freedom of t; None: Gaussian.
    """

    folds: int = static(default=10)
    noise: str = static(default="input")
    df: int | None = static(default=4)

    every_row: ClassVar[bool] = True
    runs_field: ClassVar[str | None] = "folds"
    validates: ClassVar[bool] = True  # each member stops on its fold
    has_folds: ClassVar[bool] = True

    def check(self, model: Model) -> None:
        check_whole("folds", self.folds, 2)
        check_choice("noise", self.noise, ("input", "constant"))
        if self.df is not None:
            StudentT(self.df)  # raises ValueError
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        key_folds, *keys = prng.keys(key, max(self.folds, fold_count(rows, self.folds)) + 1)
        found = []
        for fold, key_run in zip(member_folds(rows, self.folds, key_folds), keys, strict=False):
            train, valid = (np.where(chosen, rows.train, 0) for chosen in fold)
            found += self.method.members(rows._replace(train=train, valid=valid), key_run)
        return found

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples | Mixture:
        runs = split_runs(trained, fold_count(trained.rows, self.folds))
        key_parts, key_predict, key_noise = jax.random.split(key, 3)
        parts = finish_runs(self.method, model, runs, key_parts, run)
        folds = np.stack([one.members[0].valid for one in runs])
        if model.likelihood.task == "classification":
            return with_temperature(model, parts, folds, trained.rows, key_predict)
        if not isinstance(model.likelihood, Gaussian | HeteroscedasticGaussian):
            return combine_folds(parts)  # another likelihood keeps the noise that it learned
        means = np.stack([predict(part, trained.rows.x, key=key_predict).columnwise.mean for part in parts])
        residuals, targets = Residuals(trained.rows, folds, means), means.shape[-1]
        noise, networks = None, NoiseNetworks(list(range(len(parts))), [{}] * len(parts), np.zeros(means.shape))
        if self.noise == "input" and len(parts) > 1:
            noise = mlp(trained.rows.x.shape[1], (32,), targets, "tanh", last_variance=0.0)
            networks = noise_networks(noise, residuals, key_noise, run)
        level = noise_level(residuals, networks, self.df)
        likelihood = HeteroscedasticGaussian(0.0, targets, "exp") if self.df is None else StudentT(self.df, targets)
        final = Model(MeanAndNoiseNetwork(parts[0].model.network, noise, targets), likelihood, model.prior)
        pairs = zip(networks.numbers, networks.params, strict=True)
        return combine_folds([with_noise(final, parts[n], {"level": level, "shape": params}) for n, params in pairs])


class Residuals(NamedTuple):
    """Out-of-sample errors of M members.

    Attributes
    ----------
    rows : Rows
    folds : array of shape (M, N)
        Weights of the rows that each member held out.
    means : array of shape (M, N, K)
        The members' predictions of all rows.
    """

    rows: Rows
    folds: Float[np.ndarray, "M N"]
    means: Float[np.ndarray, "M N K"]

    @property
    def values(self) -> Float[np.ndarray, "N K"]:
        """y − f of the member that held the row out; NaN where y is missing."""
        return self.rows.y - held_out(self.folds, self.means)

    @property
    def scale(self) -> Float[np.ndarray, " K"]:
        """c, the root mean square for each target."""
        squares = average_known(self.values**2, self.folds.sum(0))
        return np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny))

    @property
    def spread(self) -> Float[np.ndarray, " K"]:
        """v̄, the members' mean variance for each target."""
        if len(self.means) == 1:
            return np.zeros_like(self.scale)
        return np.average(self.means.var(0, ddof=1), axis=0, weights=self.folds.sum(0))


class NoiseNetworks(NamedTuple):
    """The noise networks that converged: the number of each one's fold, its parameters, and its outputs ``h``."""

    numbers: list[int]
    params: list[Params]
    h: Float[np.ndarray, "m N K"]


def combine_folds(parts: list[Any]) -> Samples | Mixture:
    """The folds' posteriors as one: points become samples; chains stay apart, since each fold has its own target."""
    chains = any(isinstance(part, Samples) and part.by_chains for part in parts)
    return Mixture(parts[0].model, tuple(parts)) if chains else combine(parts)


def held_out(folds: Float[np.ndarray, "M N"], values: Float[np.ndarray, "M N K"]) -> Float[np.ndarray, "N K"]:
    """For each row the value of the member that held it out; 0 for rows that none held out."""
    return np.einsum("mn,mnk->nk", folds > 0, values)


def noise_networks(noise: MLP, residuals: Residuals, key: Key, run: Any) -> NoiseNetworks:
    """One noise network for each fold, trained on the other folds and stopped on it."""
    folds, weight = residuals.folds, residuals.folds.sum(0)
    y = (residuals.values / residuals.scale).astype(np.float32)
    rows, bounded = residuals.rows._replace(y=y, train=weight), Bounded(noise)
    model = Model(bounded, LogScale(y.shape[1]), Normal.from_l2(1e-3, float(weight.sum())))
    keys = prng.keys(key, len(folds))
    trains = np.where(folds > 0, 0, weight).astype(np.float32)
    members = [Member(*each) for each in zip(keys, trains, folds, strict=True)]
    trained = run(model, noise_method(int(np.count_nonzero(weight))), members=members, rows=rows)
    params = [unpack(state.params)["network"] for state in trained.states]
    x = pad_rows(rows.x, padded_size(len(rows.x)))
    h = np.stack([_apply(bounded, each, x) for each in params])[:, : len(rows.x)]
    return NoiseNetworks(list(trained.numbers), params, h)


def noise_method(rows: int) -> MAP:
    """How a noise network is trained on so many rows."""
    if rows <= MANY_ROWS:
        return NOISE
    return replace(NOISE, batch_size=NOISE_BATCH, epochs=max(20, NOISE_STEPS * NOISE_BATCH // rows))


def noise_level(residuals: Residuals, networks: NoiseNetworks, df: int | None) -> Float[Array, " K"]:
    """log(s c √(1 − 2v̄/c²)) for each target: the log scale of the noise where h = 0."""
    c, folds = residuals.scale, residuals.folds[networks.numbers]
    ratios = residuals.values / c * np.exp(-held_out(folds, networks.h))
    s = [student_scale(ratio[~np.isnan(ratio)], folds.sum(0)[~np.isnan(ratio)], df) for ratio in ratios.T]
    level = np.log(s) + np.log(c) + 0.5 * np.log(np.maximum(1 - 2 * residuals.spread / c**2, LEAST_NOISE))
    return jnp.asarray(level, jnp.float32)


def average_known(values: Float[np.ndarray, "N K"], weight: Float[np.ndarray, " N"]) -> Float[np.ndarray, " K"]:
    """The weighted mean of each column without its missing entries (NaN)."""
    known = ~np.isnan(values)
    if known.all():
        return np.average(values, axis=0, weights=weight)
    columns = zip(values.T, known.T, strict=True)
    return np.array([np.average(column[rows], weights=weight[rows]) for column, rows in columns])


def student_scale(ratio: Float[np.ndarray, " N"], weight: Float[np.ndarray, " N"], df: int | None) -> Any:
    """The s that maximizes Σ weight · log p(ratio) for ratio ~ s·t_df; for a Gaussian (None) the root mean square."""
    if df is None:
        return np.sqrt(np.maximum(np.average(ratio**2, weights=weight), np.finfo(np.float32).tiny))

    def loss(log_s: float) -> Any:
        return log_s + 0.5 * (df + 1) * np.average(np.log1p((ratio * np.exp(-log_s)) ** 2 / df), weights=weight)

    return np.exp(minimize_bounded(loss, 10.0))


def with_noise(model: Model, part: Any, noise: Params) -> Samples | FixedNoisePosterior:
    """``part`` with other ``noise``, parameters of the ``MeanAndNoiseNetwork`` of the given ``model``."""
    if isinstance(part, Samples):
        count = len(jax.tree.leaves(part.params)[0])
        noise = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *leaf.shape)), noise)
        params = {"network": {"mean": part.params["network"], "noise": noise}, "likelihood": {}}
        return Samples(model, params, part.chains)
    return FixedNoisePosterior(model, part, noise)


@programs.jit
def _apply(network: Bounded, params: Params, x: Any) -> Array:
    return network.apply(params, x)


def with_temperature(model: Model, parts: list[Any], folds: Any, rows: Rows, key: Key) -> Samples | Mixture:
    """The mixture of ``parts`` with the best temperature for the held-out log (1/S) Σ_s softmax(f_s/T)_y."""
    if not isinstance(model.likelihood, Bernoulli | Categorical):
        return combine_folds(parts)
    held, logits = [np.flatnonzero(fold > 0) for fold in folds], []
    for part, chosen in zip(parts, held, strict=True):
        logits.append(np.asarray(predict(part, rows.x[chosen], key=key).z["logits"], float))
    f, chosen = np.concatenate(logits, axis=1), np.concatenate(held)
    if f.shape[-1] == 1:  # the other class has logit 0
        f = np.concatenate([np.zeros_like(f), f], axis=-1)
    y, weight = rows.y[chosen], rows.train[chosen]
    target = np.eye(f.shape[-1])[y] if y.ndim == 1 else y

    def log_probs(temperature: float) -> tuple[np.ndarray, np.ndarray]:
        each = f / temperature - np.asarray(logsumexp(f / temperature, axis=-1, keepdims=True))
        own, all_classes = (np.asarray(logsumexp(part, axis=0)) for part in (np.sum(target * each, axis=-1), each))
        return own - np.log(len(f)), all_classes.mean(-1) - np.log(len(f))

    temperature = model.likelihood.temperature * best_temperature(log_probs, weight)
    likelihood = replace(model.likelihood, temperature=temperature)
    return combine_folds([replace(part, model=replace(part.model, likelihood=likelihood)) for part in parts])
