"""What a finite number of draws leaves uncertain in the predictions: R-hat, effective sample size, Monte Carlo standard errors.

Of predictions, not of weights: a network's weights have symmetries, and chains in different modes of them may agree in all
that they predict. R-hat and the effective sample size are those of Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021).
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from dubito.evaluation.validation import check_predictive
from dubito.posteriors.base import Mixture, Posterior, Samples
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.posteriors.predictive_base import PredictiveDistribution
from dubito.posteriors.reductions import ALL_DRAWS

Draws: TypeAlias = Float[np.ndarray, "chains draws columns"]
Columns: TypeAlias = Float[np.ndarray, "columns"]

NUMBERS = 2**21  # of draws at several rows, taken at a time
SHORTEST = 8  # draws of a chain from which an autocorrelation is estimated at all
SHARE, NATS, RHAT = 0.1, 0.01, 1.05  # limits of ``MonteCarloError.enough``


def rhat(values: Draws) -> Columns:
    """Rank-normalized split R-hat.

    The larger one of the draws' and of their distances from the median (equations 3, 14 and section 4.2 of the paper); one
    chain's halves are compared.

    Parameters
    ----------
    values
        Draws (chains, draws, columns).

    Returns
    -------
    array
        (columns,): 1 where nothing varies, nan for fewer than 8 draws a chain.
    """
    if values.shape[1] < SHORTEST:
        return np.full(values.shape[2], np.nan)
    halves = _split(values)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))


def _rhat(values):
    n = values.shape[1]
    within, between = values.var(1, ddof=1).mean(0), values.mean(1).var(0, ddof=1)
    return np.where(within + between > 0, np.sqrt(_ratio(between, within) + (n - 1) / n), 1.0)


def bulk_ess(values: Draws) -> Columns:
    """Effective sample size of rank-normalized draws, with chains split in halves; see ``ess``.

    Parameters
    ----------
    values
        Draws (chains, draws, columns).
    """
    return _ess(values, _normal_scores)


def ess(values: Draws) -> Columns:
    """Effective sample size for the mean, with chains split in halves.

    S/τ̂, τ̂ = −1 + 2 Σ P_k with the sums P_k = ρ̂_2k + ρ̂_2k+1 of autocorrelations up to the end of Geyer's (1992) initial
    positive sequence and made monotone, at least 1/log₁₀ S (equations 10 to 13 of the paper).

    Parameters
    ----------
    values
        Draws (chains, draws, columns).

    Returns
    -------
    array
        (columns,): S where nothing varies, nan for fewer than 8 draws a chain.
    """
    return _ess(values, np.asarray)


def _ess(values, transform):
    if values.shape[1] < SHORTEST:
        return np.full(values.shape[2], np.nan)
    halves = transform(_split(values))
    chains, n, columns = halves.shape
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


def _split(values):
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def _normal_scores(values):
    """Normal quantiles of the ranks among all draws (equation 14)."""
    count = values.shape[0] * values.shape[1]
    ranks = stats.rankdata(values.reshape(count, -1), axis=0)
    return special.ndtri((ranks - 0.375) / (count + 0.25)).reshape(values.shape)


def _ratio(above, below):
    """above/below, ∞ over 0 of what is not 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == 0, 0.0, above / below)


@dataclass(frozen=True)
class MonteCarloError:
    """Monte Carlo errors: standard errors of predictions over other draws like these, in the target's units.

    Attributes
    ----------
    kind
        "point" (nothing is drawn), "independent" draws, "chains" of correlated draws, or "members" of an ensemble or mixture,
        each with an equal share of the draws.
    draws
        How many draws.
    runs
        How many chains or members; of independent draws their number.
    std
        The predictive standard deviation, (n,) or (n, K).
    mean, sd
        Standard errors of the predictive mean and of the predictive standard deviation, (n,) or (n, K).
    nll
        Standard error of each row's NLL, (n,), in nats.
    mean_nll
        That of their mean over rows.
    rhat, ess
        R-hat and the effective sample size of the draws' means, for chains.

    What is not defined is None or nan.
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
        """The errors of mean and standard deviation as shares of the predictive standard deviation, root mean squares."""
        return [_root_mean_square(_ratio(one, self.std)) for one in (self.mean, self.sd) if one is not None]

    @property
    def excess(self) -> float:
        """The largest error over its limit: a tenth of the predictive standard deviation, a hundredth of a nat."""
        nats = [self.mean_nll / NATS] if np.isfinite(self.mean_nll) else []
        return float(np.max([share / SHARE for share in self.shares] + nats))

    @property
    def enough(self) -> bool:
        """Whether errors are within their limits (see ``excess``) and chains agree: no more than one R-hat in twenty above 1.05.

        The paper's 1.01 is for one quantity. Of hundreds of rows some are above it by chance: of 4 chains of 100 independent
        draws the largest of 500 is 1.03, of one such chain 1.11 (its 95 % quantile 1.04).
        """
        return self.kind == "point" or bool(self.excess <= 1) and self.agree

    @property
    def agree(self) -> bool:
        """Whether chains agree with each other, and each one's first half with its second; True without chains."""
        return self.rhat is None or bool(np.quantile(self.rhat, 0.95) <= RHAT)

    @property
    def needed(self) -> int | None:
        """How many draws (of each chain, for chains) or members would bring the errors to their limits; None where that is unknown."""
        if self.kind == "point" or not np.isfinite(self.excess):
            return None
        now = {"independent": self.draws, "members": self.runs, "chains": self.draws / self.runs}[self.kind]
        return int(np.ceil(self.excess**2 * now))

    @property
    def sentence(self) -> str:
        """Whether the draws are enough, in words."""
        if self.kind == "point":
            return "One set of weights: nothing is drawn, and there is no epistemic uncertainty."
        if np.isnan(self.excess):
            least = "8 per chain" if self.kind == "chains" else "2"
            return f"The Monte Carlo error cannot be estimated from {self._what}; at least {least} are needed."
        nats = "" if np.isnan(self.mean_nll) else f", that of the mean log likelihood is {self.mean_nll:.2g} nats"
        error = (
            f"the standard error of the mean is {100 * self.shares[0]:.1f} % of the predictive standard deviation{nats}"
        )
        if self.enough:
            return f"{self._what} are enough: {error}."
        if self.rhat is not None and not self.agree:
            return f"{self._what} do not agree (R-hat up to {np.max(self.rhat):.3g}): the chains must be longer."
        if self.needed is None or self.kind == "members":
            return f"{self._what} are too few: {error}. It falls with the square root of their number."
        unit = "draws" if self.kind == "independent" else "draws per chain"
        return f"{self._what} are too few: {error}. About {self.needed:,} {unit} would be enough."

    @property
    def _what(self):
        each = self.draws // self.runs
        if self.kind == "independent":
            return f"{self.draws:,} independent draw{'s' if self.draws > 1 else ''}"
        runs = f"{self.runs} {'chain' if self.kind == 'chains' else 'member'}{'s' if self.runs > 1 else ''}"
        return runs if each == 1 else f"{runs} of {each:,} draws"

    def to_dict(self) -> dict[str, Any]:
        """The numbers that are defined, by name: root mean squares over rows of errors, the extremes of ``ess`` and ``rhat``."""
        if self.kind == "point":
            return {"draws": self.draws}
        found = {"mc_error_mean": _root_mean_square(self.mean), "mc_error_nll": self.mean_nll}
        found |= {} if self.sd is None else {"mc_error_sd": _root_mean_square(self.sd)}
        found["ess_min"] = float(self.runs if self.kind == "members" else self.draws)
        if self.ess is not None and self.rhat is not None:
            found |= {"ess_min": float(np.min(self.ess)), "rhat_max": float(np.max(self.rhat))}
        return {"draws": self.draws} | {name: value for name, value in found.items() if np.isfinite(value)}


def monte_carlo(
    answer: PredictiveDistribution, posterior: Any, y: Any = None, *, weight: Any = None
) -> MonteCarloError:
    """The Monte Carlo errors of a predictive distribution.

    A statistic T of the draws has influence values I_s, and its error is √(Var(I)/S_eff): of the mean I = m_s − m̄; of the
    standard deviation I = (v_s + (m_s − m̄)² − V)/(2√V) with the noise v_s; of a row's NLL I = 1 − p_s/p̄, the delta method for
    the logarithm of a mean, accurate while no draw dominates p̄. S_eff is the number of independent draws; for ``Samples`` of more
    than one draw a chain (predicted from with ``draws=None``, which keeps their order) the effective sample size of I. For a
    mixture the error includes that of other members: Var of the members' mean I over their number. Points of an ensemble are
    independent draws, or members where each has several draws of the noise.

    Parameters
    ----------
    answer
        What ``predict`` returned for ``posterior``.
    posterior
        The posterior.
    y, weight
        As for ``metrics.nll``; None: no errors of the NLL.

    Returns
    -------
    MonteCarloError

    Raises
    ------
    ValueError
        For no rows, and where y does not fit.
    """
    if len(answer) == 0:
        raise ValueError("the predictive has no rows")
    given, answer = answer, answer.columnwise
    kind, runs = draw_structure(posterior, len(answer.draws))
    pieces = [_errors_of_moments(kind, runs, part) for part in answer.by_rows()]
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    nll, mean_nll = None, np.nan
    if y is not None:
        _, y, weight = check_predictive(given, y, weight, answer.task, marked=True)
        if answer.supports("log_prob"):
            nll, mean_nll = _errors_of_nll(kind, runs, answer, y, weight / weight.sum())
    spread = answer.supports("variance")
    std, sd = (answer.std, answer.scale * found["sd"]) if spread else (answer.epistemic_std, None)
    mean = answer.scale * found["mean"]
    fields = (std, mean, sd, found.get("rhat"), found.get("ess"))
    values: Any = (None if each is None else given._squeezed(each) for each in fields)
    std, mean, sd, rhat, ess = values
    return MonteCarloError(kind, len(answer.draws), runs, std, mean, sd, nll, mean_nll, rhat, ess)


def _errors_of_moments(kind, runs, part):
    """Errors of mean and standard deviation in the model's units, and what tells chains, at some rows: (rows, K) each."""
    means, noise = part.moments_of_draws()
    moment = noise + (means - means.mean(1, keepdims=True)) ** 2
    root = np.sqrt(moment.mean(1, keepdims=True))
    found = {"mean": _error(kind, runs, means), "sd": _error(kind, runs, _ratio(moment, 2 * root))}
    if kind == "chains":
        found |= {"rhat": by_columns(rhat, runs, means), "ess": by_columns(bulk_ess, runs, means)}
    return found


def _errors_of_nll(kind, runs, answer, y, share):
    """Errors of each row's NLL, (n,), and of their mean with the weights ``share``."""
    errors, total, start = [], np.zeros(len(answer.draws)), 0
    for part in answer.by_rows():
        rows = slice(start, start := start + len(part))
        logs = part.log_densities(ALL_DRAWS, y[rows])
        with np.errstate(invalid="ignore"):  # nan where no draw gives y a density
            influence = -np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)) * logs.shape[1]
        errors.append(_error(kind, runs, influence[:, :, None])[:, 0])
        total += share[rows] @ influence
    return np.concatenate(errors), float(_error(kind, runs, total[None, :, None])[0, 0])


def draw_structure(posterior: Any, draws: int) -> tuple[str, int]:
    """What ``draws`` draws of a posterior are, and of how many runs."""
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
            return "members", draws  # points, each of a run of its own
        case Samples() if noise and not posterior.by_chains and len(posterior) > 1 and draws % len(posterior) == 0:
            return "members", len(posterior)
        case Mixture() if len(posterior.parts) > 1 and draws % len(posterior.parts) == 0:
            return "members", len(posterior.parts)
    return "independent", draws


def _error(kind, runs, influence):
    """√(Var(I)/S_eff) of influence values (n, S, K): (n, K); nan where it cannot be told."""
    count = influence.shape[1]
    if kind == "chains":
        return influence.std(1, ddof=1) / np.sqrt(by_columns(ess, runs, influence))
    count = runs if kind == "members" else count
    groups = influence.reshape(len(influence), count, -1, influence.shape[2]).mean(2)
    return groups.std(1, ddof=1) / np.sqrt(count) if count > 1 else np.full(groups[:, 0].shape, np.nan)


def by_columns(measure, runs, values):
    """A measure of (chains, draws, columns) of values (n, S, K), some columns at a time: (n, K)."""
    rows, count, targets = values.shape
    columns = np.moveaxis(values, 1, 0).reshape(runs, count // runs, rows * targets)
    each = max(NUMBERS // count, 1)
    parts = [measure(columns[:, :, start : start + each]) for start in range(0, rows * targets, each)]
    return np.concatenate([*parts, np.zeros(0)]).reshape(rows, targets)


def _root_mean_square(values):
    return float(np.sqrt(np.mean(values**2)))
