"""The contract of predictive distributions: one distribution a row, in the target's own units."""

import abc
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from dubito._check import check_coverage, check_whole
from dubito._jax.types import ArrayLike, Key
from dubito.posteriors import readings
from dubito.posteriors.draw_mixture import DrawMixture
from dubito.posteriors.function_samples import Draws, draws_of_arrays
from dubito.posteriors.outcomes import class_codes, target_values
from dubito.posteriors.reductions import ALL_DRAWS, LOG_MEAN_EXP, MEAN_AND_VARIANCE, Reduction


@dataclass(frozen=True, repr=False)
class PredictiveDistribution(abc.ABC):
    """What predictive distributions have in common: the answers that users ask for, from a few functions of columns.

    Regression answers are float64 in the target's units. For one target they have the shape (n,): ``mean``, ``std`` and
    the other moments, ``cdf(y)``, the ends of ``interval``, ``quantile(q)``; ``quantile`` of several probabilities is
    (len(q), n) and ``sample(key, m)`` is (m, n). For K ≥ 2 targets a last axis of length K follows: (n, K), (len(q), n, K),
    (m, n, K). ``squeeze=False`` keeps that axis for one target, too; see ``columnwise``. A y of one target is (n,) or (n, 1).

    For C classes ``mean``, ``probs`` and the moments are (n, C), ``sample(key, m)`` is codes (m, n).

    The abstract methods whose names begin with an underscore are asked of ``columnwise`` only: their arrays have targets last.

    Parameters
    ----------
    likelihood
        The likelihood of each draw.
    draws
        Its z of each draw, a tree of arrays (S, n, ·) in the model's units, or ``Draws``, which compute them.
    shift, scale
        y in the target's units is shift + scale·(y in the model's units), (K,).
    description
        The method and the model, in words.
    classes
        The sorted labels of classes, if they are known: then y may be labels or codes 0, ..., C − 1; None: codes only.
    squeeze
        Whether the axis of targets is left out where there is one target.
    """

    likelihood: Any
    draws: Any
    shift: np.ndarray
    scale: np.ndarray
    description: str = ""
    classes: Any = None
    squeeze: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.draws, Draws):
            object.__setattr__(self, "draws", draws_of_arrays(self.draws))

    def __len__(self) -> int:
        return self.draws.rows

    def __repr__(self) -> str:
        rows, count = f"{len(self):,} row{'s' if len(self) != 1 else ''}", len(self.draws)
        columns = f"{self.columns} {'target' if self.task == 'regression' else 'class'}"
        plural = "" if self.columns == 1 else "s" if self.task == "regression" else "es"
        lines = [f"{self.task}: {rows}, {columns}{plural}, {count:,} draw{'s' if count != 1 else ''}"]
        if self.classes is not None:
            lines.append(f"classes: {', '.join(map(str, self.classes.tolist()))}")
        lines.append(f"likelihood: {self.likelihood!r}")
        lines += [f"method: {self.description}"] if self.description else []
        return "\n  ".join([type(self).__name__, *(textwrap.shorten(line, 100, placeholder=" ...") for line in lines)])

    # --- what a concrete predictive distribution defines

    @property
    @abc.abstractmethod
    def mixture(self) -> DrawMixture:
        """The mixture over draws, before any calibration."""

    @property
    @abc.abstractmethod
    def columnwise(self) -> Any:
        """The same distribution in the form for code that handles any number of targets: all answers are (n, K), and y of
        classes is codes. What has been computed is kept once, for both forms."""

    @abc.abstractmethod
    def by_rows(self) -> Iterator[Any]:
        """The same distribution at 1,024 rows at a time, one part after another."""

    @abc.abstractmethod
    def supports(self, name: str) -> bool:
        """Whether there is a density ("log_prob"), a "cdf", a "variance" or a "sample"; a ``Criterion`` has only a mean."""

    @abc.abstractmethod
    def components(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(means, standard deviations), each (S, n) or (S, n, K), if this is a mixture of Gaussians; None otherwise."""

    @abc.abstractmethod
    def _mean(self) -> np.ndarray:
        """The mean in the target's units."""

    @abc.abstractmethod
    def _variances(self) -> tuple[np.ndarray, np.ndarray]:
        """(aleatoric, epistemic) variance in the model's units."""

    @abc.abstractmethod
    def _log_density(self, y: np.ndarray) -> np.ndarray:
        """log p(y) (n,) in nats of the target's units, of numbers (n, K)."""

    @abc.abstractmethod
    def _cdf(self, y: np.ndarray) -> np.ndarray:
        """P(Y ≤ y) (n, K) of numbers (n, K)."""

    @abc.abstractmethod
    def _quantiles(self, q: np.ndarray) -> np.ndarray:
        """The quantiles (levels, n, K) in the target's units."""

    @abc.abstractmethod
    def _interval(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """(lower, upper), each (n, K), in the target's units."""

    @abc.abstractmethod
    def _sample(self, key: Key, n: int) -> np.ndarray:
        """n joint draws of y, (n, rows, K), or of class codes, (n, rows)."""

    # --- what users ask for

    @property
    def task(self) -> str:
        """ "regression" or "classification"."""
        return self.likelihood.task

    @property
    def discrete(self) -> bool:
        """Whether y is whole numbers: quantiles are such, and densities are probabilities."""
        return self.likelihood.discrete

    @property
    def columns(self) -> int:
        """How many columns the mean has: K targets, or C classes."""
        return self.mixture.columns

    @property
    def z(self) -> Any:
        """The likelihood's z of all draws, a tree of arrays (S, n, ·) in the model's units."""
        return self.draws.at(None)

    @property
    def mean(self) -> np.ndarray:
        """E[y], (n,) or (n, K); for classes the probabilities (n, C)."""
        return self._squeezed(self.columnwise._mean())

    @property
    def aleatoric(self) -> np.ndarray:
        """E_θ[Var[y | θ]], the noise in the data, (n,) or (n, K), in squared units of the target."""
        return _square(self.aleatoric_std)

    @property
    def epistemic(self) -> np.ndarray:
        """Var_θ[E[y | θ]], the uncertainty about the weights, (n,) or (n, K), in squared units of the target."""
        return _square(self.epistemic_std)

    @property
    def variance(self) -> np.ndarray:
        """Var[y] = aleatoric + epistemic, (n,) or (n, K), in squared units of the target: ∞ where no number holds it."""
        return self.aleatoric + self.epistemic

    @property
    def std(self) -> np.ndarray:
        """√variance, (n,) or (n, K), in units of the target; finite also where the variance overflows."""
        self._need("variance")
        noise, epistemic = self.columnwise._variances()
        return self._squeezed(self.scale * np.sqrt(noise + epistemic))

    @property
    def aleatoric_std(self) -> np.ndarray:
        """√aleatoric, (n,) or (n, K), in units of the target."""
        self._need("variance")
        return self._squeezed(self.scale * np.sqrt(self.columnwise._variances()[0]))

    @property
    def epistemic_std(self) -> np.ndarray:
        """√epistemic, (n,) or (n, K), in units of the target."""
        return self._squeezed(self.scale * np.sqrt(self.columnwise._variances()[1]))

    @property
    def min_component_std(self) -> np.ndarray:
        """The smallest standard deviation of any draw, (n,) or (n, K), in units of the target."""
        self._need("variance")
        return self._squeezed(self.mixture.min_component_std())

    def means(self, members: int) -> np.ndarray:
        """The mean of each member of an ensemble, before calibration.

        Parameters
        ----------
        members
            How many equal parts the draws are cut into, one after another.

        Returns
        -------
        array
            (members, n) or (members, n, K), in the target's units; probabilities (members, n, C) of classes.

        Raises
        ------
        ValueError
            Where the draws are not equally many of each member.
        """
        if len(self.draws) % members:
            raise ValueError(f"{len(self.draws)} draws are not equally many draws of each of {members} members")
        each = self.moments_of_draws()[0]
        parts = each.reshape(len(self), members, len(self.draws) // members, -1).mean(2)
        return self._squeezed(self.shift + self.scale * parts.swapaxes(0, 1))

    def moments_of_draws(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, variance) of each draw, (n, S, K), in the model's units, before calibration."""
        mean, variance = self.mixture.over_draws(readings.mean_and_variance, ALL_DRAWS)
        return mean, variance

    def log_prob(self, y: Any) -> Float[np.ndarray, "rows"]:
        """The logarithm of the predictive density, log p(y) = logsumexp_s log p(y | θ_s) − log S − Σ log scale.

        Parameters
        ----------
        y
            (n,) or (n, K) in the target's units, or n labels or codes of classes.

        Returns
        -------
        array
            (n,), in nats of the target's units; of counts and classes the logarithm of a probability.

        Raises
        ------
        ValueError
            For values that are missing or none of these, and where there is no density.
        """
        self._need("log_prob")
        if self.task != "regression":
            return self.log_densities(LOG_MEAN_EXP, class_codes(y, len(self), self.columns, self.classes))
        columns = self.likelihood.columns
        return self.columnwise._log_density(target_values(y, len(self), self.columns, columns, finite=False))

    def log_densities(self, reduction: Reduction, y: np.ndarray) -> np.ndarray:
        """A ``reduction`` over draws of log p(y | θ_s) before calibration, in nats of the model's units.

        y is numbers (n, K) or class codes (n,), as ``validation.check_predictive`` returns them.
        """
        return self.mixture.log_densities(reduction, y)

    def cdf(self, y: Any) -> np.ndarray:
        """P(Y ≤ y) of each target, (n,) or (n, K), for y (n,) or (n, K)."""
        self._need("cdf")
        return self._squeezed(self.columnwise._cdf(target_values(y, len(self), self.columns, finite=False)))

    def quantile(self, q: float | Sequence[float] | ArrayLike) -> np.ndarray:
        """Quantiles of the predictive distribution.

        Parameters
        ----------
        q
            One probability strictly between 0 and 1, or several.

        Returns
        -------
        array
            (n,) or (n, K) in the target's units, for several probabilities with an axis of their number before; of counts the
            smallest whole number whose cdf is at least q.

        Raises
        ------
        ValueError
            For other probabilities, and where there is no cdf.
        """
        self._need("cdf")
        levels = np.asarray(q, float)
        if not np.all((levels > 0) & (levels < 1)):
            raise ValueError(f"quantile wants probabilities strictly between 0 and 1, got {levels}")
        found = self._squeezed(self.columnwise._quantiles(np.atleast_1d(levels)))
        return found[0] if levels.ndim == 0 else found

    def interval(self, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Prediction intervals: equal-tailed, or conformal after a conformal calibration.

        Parameters
        ----------
        coverage
            The probability that an interval holds y; that of the calibration for split conformal intervals.

        Returns
        -------
        (lower, upper)
            Each (n,) or (n, K), in the target's units.
        """
        lower, upper = self.columnwise._interval(coverage)
        return self._squeezed(lower), self._squeezed(upper)

    def sample(self, key: Key, n: int) -> np.ndarray:
        """Joint draws of y, each of one function plus noise.

        Parameters
        ----------
        key
            Key of the random numbers.
        n
            How many draws.

        Returns
        -------
        array
            (n, rows) or (n, rows, K) in the target's units, or class codes (n, rows).
        """
        self._need("sample")
        check_whole("the number of draws of y", n, 1)
        return self._squeezed(self.columnwise._sample(key, n))

    @property
    def probs(self) -> Float[np.ndarray, "rows classes"]:
        """p̄ = (1/S) Σ p_s; rows sum to 1."""
        return self.mixture.moments[0]

    @property
    def entropy(self) -> Float[np.ndarray, "rows"]:
        """H[p̄] in nats: all uncertainty about the class."""
        return _entropy(self.probs)

    @property
    def mutual_information(self) -> Float[np.ndarray, "rows"]:
        """H[p̄] − (1/S) Σ H[p_s] in nats: the epistemic part, which more data would reduce."""
        ((each, _),) = self.mixture.over_draws(readings.entropies, MEAN_AND_VARIANCE)
        return np.maximum(self.entropy - each, 0.0)

    @property
    def variation_ratio(self) -> Float[np.ndarray, "rows"]:
        """1 − the fraction of draws that vote for the modal class."""
        ((shares, _),) = self.mixture.over_draws(readings.votes, MEAN_AND_VARIANCE)
        return 1 - shares.max(-1)

    def _squeezed(self, values: np.ndarray) -> np.ndarray:
        """Values with targets last, without that axis where there is one target."""
        return values[..., 0] if self.squeeze and self.task == "regression" and values.shape[-1] == 1 else values

    def _need(self, name: str) -> None:
        if self.supports(name):
            return
        if self.mixture.supports(name):
            raise ValueError(
                f"recalibrated quantiles of {self.columns} targets have no joint density, only of one target"
            )
        raise ValueError(
            f"{type(self.likelihood).__name__} does not give the predictive its {name}: it has a mean and the epistemic "
            "uncertainty. A whole distribution needs a likelihood; dubito.LIKELIHOODS has them by name."
        )


def shared_fields(predictive: PredictiveDistribution) -> dict[str, Any]:
    """The fields that all predictive distributions have, by name: for one that is made around ``predictive``."""
    return {field.name: vars(predictive)[field.name] for field in fields(PredictiveDistribution)}


def equal_tailed(predictive: PredictiveDistribution, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    """The equal-tailed interval (lower, upper), each (n,) or (n, K). Raises ValueError unless 0 < coverage < 1."""
    check_coverage(coverage)
    lower, upper = predictive.quantile([(1 - coverage) / 2, (1 + coverage) / 2])
    return lower, upper


def _square(sd: np.ndarray) -> np.ndarray:
    """sd², where no number holds it ∞ without a warning; 0 stays 0."""
    with np.errstate(over="ignore", under="ignore"):
        return sd**2


def _entropy(p: np.ndarray) -> np.ndarray:
    return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
