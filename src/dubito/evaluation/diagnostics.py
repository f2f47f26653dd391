"""Errors of predictions from a finite number of draws: R-hat, effective sample size, Monte Carlo standard errors.

They are those of predictions, not of weights: a network's weights have symmetries, and chains in
different modes of them may agree in all that they predict. R-hat and the effective sample size are
those of Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from dubito._check import DataError
from dubito.evaluation.validation import check_predictive
from dubito.posteriors.base import Mixture, Posterior, Samples
from dubito.posteriors.draw_mixture import ALL_DRAWS, Values
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.predictive_base import PredictiveDistribution, Rows

Draws: TypeAlias = Float[np.ndarray, "chains draws columns"]
Columns: TypeAlias = Float[np.ndarray, " columns"]
Influence: TypeAlias = Float[np.ndarray, "rows draws targets"]
Structure: TypeAlias = tuple[str, int]  # the kind of draws, and the number of runs

MAX_NUMBERS = 2**21  # of draws at several rows, taken at a time
MIN_DRAWS = 8  # of a chain, to estimate an autocorrelation at all
# Limits of ``MonteCarloError.enough``: a fraction of the predictive standard deviation, nats, and R-hat.
MAX_SHARE, MAX_NATS, MAX_RHAT, MOST_DRAWS = 0.1, 0.01, 1.05, 100_000  # the last: more are never advised


def rhat(values: Draws) -> Columns:
    """Rank-normalized split R-hat.

    The larger of those of the draws and of their distances from the median (equations 3, 14 and
    section 4.2 of the paper); for one chain its halves are compared.

    Parameters
    ----------
    values : array
        Draws (chains, draws, columns).

    Returns
    -------
    array
        (columns,): 1 if nothing varies, nan for fewer than 8 draws per chain.
    """
    halves = _halves(values)
    if halves.shape[1] < MIN_DRAWS // 2:
        return np.full(halves.shape[2], np.nan)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))


def _rhat(values: Draws) -> Columns:
    n = values.shape[1]
    within, between = values.var(1, ddof=1).mean(0), values.mean(1).var(0, ddof=1)
    return np.where(within + between > 0, np.sqrt(_ratio(between, within) + (n - 1) / n), 1.0)


def bulk_ess(values: Draws) -> Columns:
    """Effective sample size of rank-normalized draws, with chains split in halves; see ``ess``.

    Parameters
    ----------
    values : array
        Draws (chains, draws, columns).

    Returns
    -------
    array
        (columns,): S if nothing varies, nan for fewer than 8 draws per chain.
    """
    return _ess(values, _normal_scores)


def ess(values: Draws) -> Columns:
    """Effective sample size for the mean, with chains split in halves.

    S/τ̂, τ̂ = −1 + 2 Σ P_k with the sums P_k = ρ̂_2k + ρ̂_2k+1 of autocorrelations up to the end of
    Geyer's (1992) initial positive sequence and made monotone, at least 1/log₁₀ S (equations 10 to
    13 of the paper).

    Parameters
    ----------
    values : array
        Draws (chains, draws, columns).

    Returns
    -------
    array
        (columns,): S if nothing varies, nan for fewer than 8 draws per chain.
    """
    return _ess(values, np.asarray)


def _ess(values: Draws, transform: Callable[[Draws], Draws]) -> Columns:
    halves = _halves(values)
    chains, n, columns = halves.shape
    if n < MIN_DRAWS // 2:
        return np.full(columns, np.nan)
    halves = transform(halves)
    size = 2 ** (2 * n - 1).bit_length()  # zeros beyond, so that no lag wraps around
    spectrum = np.fft.rfft(halves - halves.mean(1, keepdims=True), size, axis=1)
    covariance = np.fft.irfft((np.abs(spectrum) ** 2).mean(0), size, axis=0)[:n] / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + halves.mean(1).var(0, ddof=1)
    rho = 1 - _ratio(within - covariance, total)
    rho[0] = 1.0
    last = max((n - 3) // 2, 0)  # the pair at which the sequence ends at the latest
    pairs = rho[: 2 * last + 2].reshape(last + 1, 2, columns).sum(1)
    ends = np.where(np.any(pairs <= 0, axis=0), np.argmax(pairs <= 0, axis=0), last)
    summed = np.where(np.arange(last + 1)[:, None] < ends, np.minimum.accumulate(pairs), 0).sum(0)
    rest = np.maximum(rho[2 * ends, np.arange(columns)], 0)  # the last pair's even lag, once
    tau = np.maximum(-1 + 2 * summed + rest, 1 / np.log10(chains * n))
    return np.where(np.ptp(halves, axis=(0, 1)) > 0, chains * n / tau, float(chains * n))


def _halves(values: Draws) -> Draws:
    """The first and second half of each chain."""
    values = np.asarray(values, float)
    if values.ndim != 3:
        raise DataError(f"draws must be an array (chains, draws, columns), got shape {values.shape}")
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def _normal_scores(values: Draws) -> Draws:
    """Normal quantiles of the ranks among all draws (equation 14)."""
    count = values.shape[0] * values.shape[1]
    ranks = stats.rankdata(values.reshape(count, -1), axis=0)
    return special.ndtri((ranks - 0.375) / (count + 0.25)).reshape(values.shape)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above/below, with 0/0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == 0, 0.0, above / below)


@dataclass(frozen=True)
class MonteCarloError:
    """Monte Carlo errors: standard errors of predictions over other draws like these, in the target's units.

    What is not defined is None or nan.

    Attributes
    ----------
    kind : str
        ``"point"`` (no draws), ``"independent"``, ``"members"`` of an ensemble, or ``"chains"``.
    draws, runs : int
        How many draws, and how many chains or members; for independent draws their number.
    std : array
        The predictive standard deviation, (n,) or (n, K); without noise its epistemic part.
    mean, sd : array
        Standard errors of the mean and of the standard deviation, (n,) or (n, K).
    nll : array
        Standard error of each row's NLL, (n,).
    mean_nll : float
        That of their mean over rows.
    rhat, ess : array
        R-hat and the effective sample size of the draws' means, for chains.
    """

    kind: str
    draws: int
    runs: int
    std: np.ndarray
    mean: np.ndarray
    sd: np.ndarray | None
    nll: np.ndarray | None
    mean_nll: float
    rhat: np.ndarray | None
    ess: np.ndarray | None

    @property
    def shares(self) -> list[float]:
        """The errors of mean and standard deviation over the predictive standard deviation, root mean squares."""
        return [_root_mean_square(_ratio(one, self.std)) for one in (self.mean, self.sd) if one is not None]

    @property
    def excess(self) -> float:
        """The largest error divided by its limit, a tenth of the predictive standard deviation or a hundredth of a nat."""
        nats = [self.mean_nll / MAX_NATS] if np.isfinite(self.mean_nll) else []
        return float(np.max([share / MAX_SHARE for share in self.shares] + nats))

    @property
    def enough(self) -> bool:
        """Whether errors are within their limits (see ``excess``) and chains agree.

        Chains agree if no more than one R-hat in twenty is above 1.05. The paper's 1.01 is for one
        quantity. Of hundreds of rows some are above it by chance: of 4 chains of 100 independent
        draws the largest of 500 is 1.03, of one such chain 1.11 (its 95 % quantile 1.04).
        """
        return self.kind == "point" or bool(self.excess <= 1) and self.agree

    @property
    def agree(self) -> bool:
        """Whether chains agree with each other, and each one's first half with its second; True without chains."""
        return self.rhat is None or bool(np.quantile(self.rhat, 0.95) <= MAX_RHAT)

    @property
    def needed(self) -> int | None:
        """How many draws (per chain) or members would bring the errors to their limits; None if unknown."""
        if self.kind == "point" or not np.isfinite(self.excess):
            return None
        now = {"independent": self.draws, "members": self.runs, "chains": self.draws / self.runs}[self.kind]
        return int(np.ceil(self.excess**2 * now))

    @property
    def sentence(self) -> str:
        """Whether there are enough draws, in words."""
        if self.kind == "point":
            return "One set of weights: nothing is drawn, and there is no epistemic uncertainty."
        chains, what = self.kind == "chains", self._description
        if np.isnan(self.excess):
            least = "8 per chain" if chains else "2"
            return f"The Monte Carlo error cannot be estimated from {what}; at least {least} are needed."
        error = f"the standard error of the mean is {100 * self.shares[0]:.1f} % of the predictive standard deviation"
        if not np.isnan(self.mean_nll):
            error += f", that of the mean log likelihood is {self.mean_nll:.2g} nats"
        if self.enough:
            return f"{what} are enough: {error}."
        if self.rhat is not None and not self.agree:
            return f"{what} do not agree (R-hat up to {np.max(self.rhat):.3g}): the chains must be longer."
        cure = "It falls with the square root of their number."
        if self.needed is not None and self.needed <= MOST_DRAWS and self.kind != "members":
            cure = f"About {self.needed:,} draws{' per chain' if chains else ''} would be enough."
        return f"{what} are too few: {error}. {cure}"

    @property
    def _description(self) -> str:
        """The number of draws, in words."""
        if self.kind == "independent":
            return f"{self.draws:,} independent draw{'s' if self.draws > 1 else ''}"
        runs, each = f"{self.runs} {self.kind if self.runs > 1 else self.kind[:-1]}", self.draws // self.runs
        return runs if each == 1 else f"{runs} of {each:,} draws"

    def to_dict(self) -> dict[str, Any]:
        """The numbers that are defined, by name.

        Returns
        -------
        dict
            Root mean squares over rows of the errors, and the extremes of ``ess`` and ``rhat``.
        """
        if self.kind == "point":
            return {"draws": self.draws}
        found = {"mc_error_mean": _root_mean_square(self.mean), "mc_error_nll": self.mean_nll}
        found |= {} if self.sd is None else {"mc_error_sd": _root_mean_square(self.sd)}
        found["ess_min"] = float(self.runs if self.kind == "members" else self.draws)
        if self.ess is not None and self.rhat is not None:
            found |= {"ess_min": float(np.min(self.ess)), "rhat_max": float(np.max(self.rhat))}
        return {"draws": self.draws} | {name: value for name, value in found.items() if np.isfinite(value)}


def monte_carlo(answer: Any, posterior: Any, y: Any = None, *, weight: Any = None) -> MonteCarloError:
    """The Monte Carlo errors of a predictive distribution.

    A statistic of the draws has influence values I_s, and its error is √(Var(I)/S_eff): for the
    mean I = m_s − m̄; for the standard deviation I = (v_s + (m_s − m̄)² − V)/(2√V) with the noise
    v_s; for a row's NLL I = 1 − p_s/p̄, the delta method, accurate while no draw dominates p̄. S_eff
    is the number of independent draws; for ``Samples`` with several draws per chain (predicted from
    with ``draws=None``, which keeps their order) it is the effective sample size of I. For a
    mixture the error is Var of the members' mean I over their number. Points of an ensemble are
    independent draws, or members if each has several draws of the noise.

    Parameters
    ----------
    answer : PredictiveDistribution
        The result of ``predict`` for ``posterior``.
    posterior : Posterior
        The posterior.
    y, weight : array, optional
        As for ``metrics.nll``; None: no errors of the NLL.

    Returns
    -------
    MonteCarloError
        The errors, and whether there are enough draws.

    Raises
    ------
    ValueError
        For no rows, and if y does not fit.
    """
    if len(answer) == 0:
        raise ValueError("the predictive has no rows")
    structure = draw_structure(posterior, len(answer.draws))
    pieces = [_errors_of_moments(structure, part) for part in answer.by_rows()]
    found = {name: answer._squeezed(np.concatenate([piece[name] for piece in pieces])) for name in pieces[0]}
    nll, mean_nll = None, np.nan
    if y is not None:
        columnwise, y, weight = check_predictive(answer, y, weight, answer.task, marked=True, missing=True)
        if answer.supports("log_prob"):
            nll, mean_nll = _errors_of_nll(structure, columnwise, y, weight / weight.sum())
    spread = answer.supports("variance")
    std, sd = (answer.std, answer.scale * found["sd"]) if spread else (answer.epistemic_std, None)
    kind, runs = structure
    own = std, answer.scale * found["mean"], sd, nll, mean_nll, found.get("rhat"), found.get("ess")
    return MonteCarloError(kind, len(answer.draws), runs, *own)


def _errors_of_moments(structure: Structure, part: PredictiveDistribution) -> dict[str, Values]:
    """Errors of mean and standard deviation in the model's units, and R-hat and ESS of chains, at some rows."""
    means, noise = part.mixture.moments_of_draws()
    moment = noise + (means - means.mean(1, keepdims=True)) ** 2
    root = np.sqrt(moment.mean(1, keepdims=True))
    found = {"mean": _error(structure, means), "sd": _error(structure, _ratio(moment, 2 * root))}
    kind, runs = structure
    if kind == "chains":
        found |= {"rhat": by_columns(rhat, runs, means), "ess": by_columns(bulk_ess, runs, means)}
    return found


def _errors_of_nll(structure: Structure, answer: Any, y: np.ndarray, share: Rows) -> tuple[Rows, float]:
    """Errors of each row's NLL, and of their mean with the weights ``share``."""
    errors, total, start = [], np.zeros(len(answer.draws)), 0
    for part in answer.by_rows():
        rows = slice(start, start := start + len(part))
        logs = part.mixture.log_densities(ALL_DRAWS, y[rows])
        with np.errstate(invalid="ignore"):  # nan if no draw gives y a density
            influence = -np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)) * logs.shape[1]
        errors.append(_error(structure, influence[:, :, None])[:, 0])
        total += share[rows] @ influence
    return np.concatenate(errors), float(_error(structure, total[None, :, None])[0, 0])


def draw_structure(posterior: Any, draws: int) -> Structure:
    """What kind of draws a posterior gives, and from how many runs.

    Parameters
    ----------
    posterior : Posterior
        The posterior.
    draws : int
        The number of its draws.

    Returns
    -------
    (kind, runs)
        As of ``MonteCarloError``.
    """
    noise = False
    while isinstance(posterior, Posterior) and posterior.part is not None:
        noise |= isinstance(posterior, GammaNoisePosterior)
        posterior = posterior.part
    match posterior:
        case Samples() if draws == len(posterior) == 1 and not noise:
            return "point", 1
        case Samples() if draws == len(posterior) and posterior.by_chains:
            return "chains", posterior.chains
        case Samples() if draws == len(posterior) > 1:
            return "members", draws  # points, each from its own run
        case Samples() if noise and not posterior.by_chains and len(posterior) > 1 and draws % len(posterior) == 0:
            return "members", len(posterior)
        case Mixture() if len(posterior.parts) > 1 and draws % len(posterior.parts) == 0:
            return "members", len(posterior.parts)
    return "independent", draws


def _error(structure: Structure, influence: Influence) -> Values:
    """√(Var(I)/S_eff) of influence values; nan if it cannot be estimated."""
    kind, runs = structure
    if kind == "chains":
        return influence.std(1, ddof=1) / np.sqrt(by_columns(ess, runs, influence))
    rows, draws, targets = influence.shape
    count = runs if kind == "members" else draws
    groups = influence.reshape(rows, count, -1, targets).mean(2)
    return groups.std(1, ddof=1) / np.sqrt(count) if count > 1 else np.full((rows, targets), np.nan)


def by_columns(measure: Callable[[Draws], Columns], runs: int, values: Influence) -> Values:
    """A measure of draws, such as ``ess``, for values of several rows and targets, some columns at a time.

    Parameters
    ----------
    measure : callable
        Takes (chains, draws, columns) to (columns,).
    runs : int
        The number of chains.
    values : array
        (n, S, K).

    Returns
    -------
    array
        (n, K).
    """
    rows, count, targets = values.shape
    columns = np.moveaxis(values, 1, 0).reshape(runs, count // runs, rows * targets)
    each = max(MAX_NUMBERS // count, 1)
    parts = [measure(columns[:, :, start : start + each]) for start in range(0, rows * targets, each)]
    return np.concatenate([*parts, np.zeros(0)]).reshape(rows, targets)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
