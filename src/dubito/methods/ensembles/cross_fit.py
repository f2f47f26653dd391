"""Cross-fitting: members that each leave a fold out, and noise from what they did not see (mathematics: cross-fitting)."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from dubito._check import check_choice
from dubito._jax import prng, programs
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.ensembles.ensemble import joined
from dubito.methods.map import MAP
from dubito.models.likelihoods.base import WithoutParameters
from dubito.models.likelihoods.classes import Bernoulli, Categorical
from dubito.models.likelihoods.gaussian import Gaussian, GaussianNoise, HeteroscedasticGaussian, gaussian_log_prob
from dubito.models.likelihoods.robust import StudentT
from dubito.models.model import Model
from dubito.models.networks import mlp
from dubito.models.priors import Normal
from dubito.posteriors.base import Mixture, Samples
from dubito.posteriors.noise import FixedNoisePosterior
from dubito.posteriors.predictive import predict
from dubito.posteriors.temperature import best_temperature, minimize_bounded
from dubito.training import optimizers
from dubito.training.data import Member, bucket, padded, permutation
from dubito.training.fit import grouped

FLOOR = 0.05  # of c²: how much of the noise is left at least when the members' spread is taken off
BOUND = 5.0  # of |log(σ(x)/c)|
NOISE = MAP(epochs=400, batch_size=None, learning_rate=1e-2, schedule="constant")


@register_dataclass
@dataclass(frozen=True)
class CrossFit:
    """``folds`` runs of ``method``, each without one fold of the rows (stratified for classes), as a mixture.

    Each member keeps its best epoch on its fold, and its predictions there are honest, so their residuals r give the noise,
    y = f + σ(x) t with t of Student's distribution (``df`` degrees of freedom; None: Gaussian) and

        σ²(x) = s² c² e^2h(x) (1 − 2v̄/c²),   c² = mean r²,   v̄ = the members' mean variance,

    where c² alone would be a member's error: the mixture's mean errs less by v̄ and brings v̄ of its own (v̄ is taken on the
    training rows, so it is a lower bound). ``noise="input"`` learns h, a small network minimizing Σ [h + ½(r/c)² e^−2h],
    cross-fitted over the same folds; ``noise="constant"`` keeps h = 0. s maximizes the held-out likelihood. A Gaussian
    noise of the wrapped method's own is replaced; another likelihood (counts, Student's t, ...) keeps what each member has
    learned up to its best epoch. For classes one temperature, from the held-out logits, takes the place
    of all this.
    """

    method: Any
    folds: int = static(default=10)
    noise: str = static(default="input")
    df: int | None = static(default=4)

    validates = True  # members stop on rows of their own

    def check(self, model):
        if not (isinstance(self.folds, int) and self.folds >= 2):
            raise ValueError(f"cross-fitting needs at least 2 folds, got folds={self.folds!r}")
        check_choice("noise", self.noise, ("input", "constant"))
        if self.df is not None and not (isinstance(self.df, int) and self.df >= 4 and self.df % 2 == 0):
            raise ValueError(f"df is an even whole number of at least 4, or None for Gaussian noise; got {self.df!r}")
        self.method.check(model)

    def members(self, rows, key):
        key_folds, *keys = prng.keys(key, self.folds + 1)
        fold = assigned(rows, self.folds, key_folds)
        found = []
        for number in range(fold.max() + 1):
            out = fold == number
            part = rows._replace(train=np.where(out, 0, rows.train), valid=np.where(out, rows.train, 0))
            found += self.method.members(part, keys[number])
        return found

    def finish(self, model, trained, key, run):
        groups = grouped(trained, min(self.folds, int(np.sum(trained.rows.train > 0))))
        key_parts, key_predict, key_noise = jax.random.split(key, 3)
        keys = prng.keys(key_parts, len(groups))
        parts = [self.method.finish(model, group, k, run) for group, k in zip(groups, keys, strict=True)]
        folds = np.stack([group.members[0].valid for group in groups])
        if model.likelihood.task == "classification":
            return tempered(model, parts, folds, trained.rows, key_predict)
        if not isinstance(model.likelihood, Gaussian | HeteroscedasticGaussian):
            return mixed(parts)  # a likelihood from outside keeps the noise that it learned
        means = np.stack([predict(part, trained.rows.x, key=key_predict).columnwise.mean for part in parts])
        return noised(self, model, parts, folds, means, trained.rows, key_noise, run)


def assigned(rows, folds, key):
    """The fold of each row, (N,); −1 for rows of no weight. Balanced, within each class for classes."""
    used = np.flatnonzero(rows.train > 0)
    if len(used) < 2:
        raise ValueError(f"cross-fitting needs at least 2 rows, got n_samples = {len(used)}")
    order = used[permutation(key, len(used))]
    if rows.y.ndim == 1:
        order = order[np.argsort(rows.y[order], kind="stable")]
    fold = np.full(len(rows.x), -1)
    fold[order] = np.arange(len(used)) % min(folds, len(used))
    return fold


def noised(method, model, parts, folds, means, rows, key, run):
    """The mixture of ``parts`` with noise from the residuals of rows that each had held out.

    ``folds`` (M, N): weights of the rows each part held out; ``means`` (M, N, K): its predictions of all rows.
    """
    weight = folds.sum(0)
    residual = rows.y - held_out(folds, means)
    c = np.sqrt(np.maximum(np.average(residual**2, axis=0, weights=weight), np.finfo(np.float32).tiny))
    spread = np.average(means.var(0, ddof=1), axis=0, weights=weight) if len(parts) > 1 else np.zeros_like(c)
    noise, shapes, h = None, [{}] * len(parts), np.zeros((len(parts), *residual.shape))
    if method.noise == "input":
        noise = mlp(rows.x.shape[1], (32,), len(c), "tanh", last_variance=0.0)
        standard = rows._replace(y=(residual / c).astype(np.float32), train=weight)
        kept, shapes = noise_shapes(noise, standard, folds, key, run)
        parts, folds = [parts[k] for k in kept], folds[kept]
        x = padded(rows.x, bucket(len(rows.x)))
        h = np.stack([_apply(Bounded(noise), shape, x) for shape in shapes])[:, : len(rows.x)]
    s = [student_scale(ratio, folds.sum(0), method.df) for ratio in (residual / c * np.exp(-held_out(folds, h))).T]
    level = np.log(s) + np.log(c) + 0.5 * np.log(np.maximum(1 - 2 * spread / c**2, FLOOR))
    level = jnp.asarray(level, jnp.float32)
    likelihood = HeteroscedasticGaussian(0.0, len(c), "exp") if method.df is None else StudentT(method.df, len(c))
    final = Model(MeanAndNoiseNetwork(parts[0].model.network, noise, len(c)), likelihood, model.prior)
    noises = [{"level": level, "shape": shape} for shape in shapes]
    return mixed([with_noise(final, part, noise) for part, noise in zip(parts, noises, strict=True)])


def mixed(parts):
    """The folds' posteriors as one: points side by side; chains stay apart, for those of two folds have no target in common."""
    chains = any(isinstance(part, Samples) and part.by_chains for part in parts)
    return Mixture(parts[0].model, tuple(parts)) if chains else joined(parts)


def held_out(folds, values):
    """For each row the value (M, N, K) of the member that had it held out, (N, K); 0 for rows that none had."""
    return np.einsum("mn,mnk->nk", folds > 0, values)


def noise_shapes(noise, rows, folds, key, run):
    """One noise network a fold, trained on the other folds and stopped on it: (numbers of those that lived, params)."""
    model = Model(Bounded(noise), LogScale(rows.y.shape[1]), Normal.from_l2(1e-3, float(rows.train.sum())))
    members = [
        Member(k, np.where(fold > 0, 0, rows.train).astype(np.float32), fold)
        for k, fold in zip(prng.keys(key, len(folds)), folds, strict=True)
    ]
    trained = run(model, NOISE, members=members, rows=rows)
    return list(trained.numbers), [optimizers.unpacked(state.params)["network"] for state in trained.states]


def student_scale(ratio, weight, df):
    """The s that maximizes Σ weight · log p(ratio) for ratio ~ s·t_df; for a Gaussian (None) the root mean square."""
    if df is None:
        return np.sqrt(np.maximum(np.average(ratio**2, weights=weight), np.finfo(np.float32).tiny))

    def loss(log_s):
        return log_s + 0.5 * (df + 1) * np.average(np.log1p((ratio * np.exp(-log_s)) ** 2 / df), weights=weight)

    return np.exp(minimize_bounded(loss, 10.0))


def with_noise(model, part, noise):
    if isinstance(part, Samples):
        count = len(jax.tree.leaves(part.params)[0])
        noise = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *leaf.shape)), noise)
        params = {"network": {"mean": part.params["network"], "noise": noise}, "likelihood": {}}
        return Samples(model, params, part.chains)
    return FixedNoisePosterior(model, part, noise)


@register_dataclass
@dataclass(frozen=True)
class Bounded:
    """A network's outputs h, kept within ±BOUND."""

    network: Any

    scales = None

    def init(self, key):
        return self.network.init(key)

    def apply(self, params, x):
        return BOUND * jnp.tanh(self.network.apply(params, x) / BOUND)


@register_dataclass
@dataclass(frozen=True)
class MeanAndNoiseNetwork:
    """(mean, log σ) side by side: a network, and level + h(x) from another (or the level alone, for None)."""

    mean: Any
    noise: Any
    targets: int = static(default=1)

    scales = None

    def init(self, key):
        key_mean, key_noise = jax.random.split(key)
        shape = {} if self.noise is None else self.noise.init(key_noise)
        noise = {"level": jnp.zeros(self.targets, jnp.float32), "shape": shape}
        return {"mean": self.mean.init(key_mean), "noise": noise}

    def apply(self, params, x):
        with jax.named_scope("mean"):
            mean = self.mean.apply(params["mean"], x)[:, : self.targets]
        with jax.named_scope("noise"):
            log_scale = jnp.broadcast_to(params["noise"]["level"][None], mean.shape)
            if self.noise is not None:
                log_scale = log_scale + Bounded(self.noise).apply(params["noise"]["shape"], x)
        return jnp.concatenate([mean, log_scale], axis=1)


@register_dataclass
@dataclass(frozen=True)
class LogScale(WithoutParameters, GaussianNoise):
    """y ~ N(0, e^2h) with h from the network: −log p = h + ½ y² e^−2h, and a constant."""

    targets: int = static(default=1)

    @property
    def width(self):
        return self.targets

    def log_prob(self, z, y):
        return gaussian_log_prob(z, y)

    def join(self, f, phi):
        del phi
        return {"mean": jnp.zeros_like(f), "scale": jnp.exp(f)}


@programs.jit
def _apply(network, params, x):
    return network.apply(params, x)


def tempered(model, parts, folds, rows, key):
    """The mixture of ``parts`` with the best temperature for the held-out log (1/S) Σ_s softmax(f_s/T)_y."""
    if not isinstance(model.likelihood, Bernoulli | Categorical):
        return mixed(parts)
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
    return mixed([replace(part, model=replace(part.model, likelihood=likelihood)) for part in parts])
