"""Cross-fitting: members that each leave a fold out, and noise from the held-out residuals (mathematics: cross-fitting)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from dubito._check import check_choice, check_number, check_whole
from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.ensembles.ensemble import combine, finish_runs
from dubito.methods.ensembles.residual_noise import (
    NoiseNetworks,
    Residuals,
    mixture_errors,
    noise_level,
    noise_networks,
)
from dubito.methods.types import Key, Member, Model, Params, Rows, Trained
from dubito.models.likelihoods.classes import Bernoulli, Categorical
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.models.likelihoods.robust import StudentT
from dubito.models.networks import mlp
from dubito.models.noise_network import MeanAndNoiseNetwork
from dubito.posteriors.base import Mixture, Samples
from dubito.posteriors.noise import FixedNoisePosterior
from dubito.posteriors.predictive import predict
from dubito.posteriors.temperature import best_temperature
from dubito.training.data import permutation
from dubito.training.members import choose_part, split_runs
from dubito.training.method import Wrapper, base_method
from dubito.training.splits import fold_count, halves, member_folds, overlaps

MOST_ROWS = 16_384  # from which the noise is estimated


@register_dataclass
@dataclass(frozen=True)
class CrossFit(Wrapper):
    """Runs of a method, each without one fold of the rows (stratified for classes), as a mixture.

    The folds are ``splits.member_folds``. A run gives two members, one for each half of its fold: the
    epoch that predicts this half best. The other half was used neither to train nor to choose the
    member, so its errors r there are those of new rows. A run also leaves out a part of the next
    fold (``overlap``). Two runs have not seen these rows, and from the difference of their predictions
    follows v, the variance between runs at new rows. With c² = mean r², the mean of all members has
    the squared error c² − v(1 − 1/folds); most rows have less where a few are predicted badly by all runs.

    The noise is s e^h(x) t, where t is Student's t; s and the degrees of freedom of t maximize the
    likelihood of the mixture at errors of that size. It replaces the noise of a wrapped method whose
    likelihood is Gaussian; any other likelihood (counts, Student's t, ...) keeps what each member has
    learned. For classes, one temperature from the held-out logits replaces all this.

    Parameters
    ----------
    method : Method
        The method of the members.
    folds : int
        The number of folds, at least 2.
    noise : {"input", "constant"}
        "input" learns h, a small network that minimizes Σ [h + ½(e/c)² e^−2h] over errors e,
        cross-fitted over the same folds; "constant" is h = 0.
    df : int, None or "auto"
        Degrees of freedom of t; None: Gaussian. "auto": of 4, 6, 10, 30 and None the first whose
        likelihood is within one nat of the best.
    overlap : float
        The fraction of the next fold that a run leaves out, in [0, 0.5]; rows of one group stay
        together. With folds of the user, with times, and for classes nothing more is left out. If there
        is no row that two runs have not seen, v is the variance between runs that have seen a row, times
        a power of how much larger the errors at new rows are.
    """

    folds: int = static(default=10)
    noise: str = static(default="input")
    df: int | str | None = static(default="auto")
    overlap: float = static(default=0.1)

    every_row: ClassVar[bool] = True
    runs_field: ClassVar[str | None] = "folds"
    validates: ClassVar[bool] = True  # each run stops on its fold
    has_folds: ClassVar[bool] = True

    def check(self, model: Model) -> None:
        check_whole("folds", self.folds, 2)
        check_choice("noise", self.noise, ("input", "constant"))
        check_number("overlap", self.overlap, "[0, 0.5]")
        if self.df not in (None, "auto"):
            try:
                StudentT(self.df)  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"{error}. None is Gaussian noise, and 'auto' lets the data decide.") from None
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        key_folds, key_order, *keys = prng.keys(key, max(self.folds, fold_count(rows, self.folds)) + 2)
        folds, order = member_folds(rows, self.folds, key_folds), permutation(key_order, len(rows.x))
        found = []
        for fold, more, key_run in zip(folds, overlaps(rows, folds, self.overlap, order), keys, strict=False):
            train = np.where(fold.train & ~more, rows.train, 0)
            parts = halves(rows, fold.held_out, order) if self._parts == 2 else fold.held_out
            found += self.method.members(rows._replace(train=train, valid=np.where(parts, rows.train, 0)), key_run)
        return found

    @property
    def _parts(self) -> int:
        """Members of each run: one for a method without a score, which has no best epochs."""
        return 1 if base_method(self.method).score is None else 2

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples | Mixture:
        runs, rows = split_runs(trained, fold_count(trained.rows, self.folds)), trained.rows
        chosen = [choose_part(one, part, self._parts) for one in runs for part in range(self._parts)]
        key_parts, key_rows, key_predict, key_noise = jax.random.split(key, 4)
        parts = finish_runs(self.method, model, chosen, key_parts, run)
        held, seen, unseen = rows_of_errors([one.members[0] for one in chosen], rows.train, self._parts)
        if model.likelihood.task == "classification":
            return with_temperature(model, parts, held, rows, key_predict)
        if not isinstance(model.likelihood, Gaussian | HeteroscedasticGaussian):
            return combine_folds(parts)  # another likelihood keeps the noise that it learned
        some = some_rows(rows, key_rows)
        few = Rows(rows.x[some], rows.y[some], rows.train[some], rows.valid[some])
        means = np.stack([predict(part, few.x, key=key_predict).columnwise.mean for part in parts]).astype(float)
        targets = means.shape[-1]
        residuals = Residuals(few, held[:, some], seen[:, some], unseen[:, some], means, self._parts)
        errors = mixture_errors(residuals)
        noise, networks = None, NoiseNetworks(list(range(len(parts))), [{}] * len(parts), np.zeros(means.shape))
        if self.noise == "input" and len(runs) > 1:
            noise = mlp(few.x.shape[1], (32,), targets, "tanh", last_variance=0.0)
            networks = noise_networks(noise, residuals, errors, key_noise, run)
        level = noise_level(residuals, errors, networks, self.df)
        likelihood = HeteroscedasticGaussian(0.0, targets, "exp") if level.df is None else StudentT(level.df, targets)
        network = MeanAndNoiseNetwork(parts[0].model.network, noise, targets, errors.noise_std)
        final, pairs = Model(network, likelihood, model.prior), zip(networks.numbers, networks.params, strict=True)
        return combine_folds([with_noise(final, parts[n], {"level": level.log_scale, "shape": h}) for n, h in pairs])


def rows_of_errors(
    members: list[Member], weight: Float[np.ndarray, " N"], parts: int
) -> tuple[Float[np.ndarray, "M N"], Bool[np.ndarray, "M N"], Bool[np.ndarray, "M N"]]:
    """``held``, ``seen`` and ``unseen`` of ``Residuals`` for members of which ``parts`` in succession come from one run."""
    chose, seen = (
        np.stack([each > 0 for each in values]) for values in zip(*((m.valid, m.train) for m in members), strict=True)
    )
    fold = np.repeat(chose.reshape(-1, parts, len(weight)).any(1), parts, axis=0)
    if parts == 1:  # nothing was chosen
        return np.where(fold, weight, 0), seen, ~seen & (weight > 0)
    return np.where(fold & ~chose, weight, 0), seen, ~seen & ~chose & (weight > 0)


def some_rows(rows: Rows, key: Key) -> Int[np.ndarray, " n"]:
    """The rows of positive weight, at most 16,384 of them at random."""
    used = np.flatnonzero(rows.train > 0)
    return used if len(used) <= MOST_ROWS else np.sort(used[permutation(key, len(used))[:MOST_ROWS]])


def combine_folds(parts: list[Any]) -> Samples | Mixture:
    """The folds' posteriors as one: points become samples; chains stay apart, since each fold has its own target."""
    chains = any(isinstance(part, Samples) and part.by_chains for part in parts)
    return Mixture(parts[0].model, tuple(parts)) if chains else combine(parts)


def with_noise(model: Model, part: Any, noise: Params) -> Samples | FixedNoisePosterior:
    """``part`` with other ``noise``, parameters of the ``MeanAndNoiseNetwork`` of the given ``model``."""
    if isinstance(part, Samples):
        count = len(jax.tree.leaves(part.params)[0])
        noise = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *leaf.shape)), noise)
        params = {"network": {"mean": part.params["network"], "noise": noise}, "likelihood": {}}
        return Samples(model, params, part.chains)
    return FixedNoisePosterior(model, part, noise)


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
