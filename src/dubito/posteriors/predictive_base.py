"""The contract of predictive distributions: one distribution for each row, in the target's own units."""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Shaped

from dubito._check import check_whole
from dubito._jax.types import ArrayLike, Key
from dubito.models.likelihoods.base import OutcomeParams
from dubito.posteriors import draw_mixture
from dubito.posteriors.draw_mixture import Distribution, DrawMixture
from dubito.posteriors.function_samples import Draws, draws_of_arrays
from dubito.posteriors.outcomes import class_codes, target_values
from dubito.posteriors.readings import head_lines, html_table, prediction_columns, square

Rows: TypeAlias = Float[np.ndarray, " rows"]
Values: TypeAlias = Float[np.ndarray, "rows *targets"]


@dataclass(frozen=True, repr=False)
class PredictiveDistribution(abc.ABC):
    """What predictive distributions have in common: all answers that users ask for.

    Regression answers are float64 in the target's units. For one target they have the shape (n,):
    ``mean``, ``std`` and the other moments, ``cdf(y)``, the ends of ``interval``, ``quantile(q)``;
    ``quantile`` of several probabilities is (len(q), n) and ``sample(key, m)`` is (m, n). For K ≥ 2
    targets a last axis of length K follows: (n, K), (len(q), n, K), (m, n, K). ``squeeze=False``
    keeps that axis for one target, too; see ``columnwise``. A y of one target is (n,) or (n, 1).

    For C classes ``mean``, ``probs`` and the moments are (n, C), and ``sample(key, m)`` is codes
    (m, n).

    Parameters
    ----------
    likelihood : Likelihood
        The likelihood of each draw.
    draws : dict of arrays or Draws
        z of each draw, arrays (S, n, ·) in the model's units, or ``Draws``, which compute them.
    shift, scale : array
        y in the target's units is shift + scale·(y in the model's units), (K,).
    description : str
        The method and the model, in words.
    classes : array, optional
        The sorted labels of the classes: then y may be labels or codes 0, ..., C − 1. None: codes
        only.
    squeeze : bool
        Whether the axis of targets is left out if there is one target.
    coverage : float
        The coverage of intervals in tables: 0.9, or that of a conformal calibration.
    """

    likelihood: Any
    draws: Any
    shift: Any
    scale: Any
    description: str = ""
    classes: Any = None
    squeeze: bool = True
    coverage: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.draws, Draws):
            object.__setattr__(self, "draws", draws_of_arrays(self.draws))

    def __len__(self) -> int:
        return self.draws.rows

    def __repr__(self) -> str:
        return "\n  ".join(head_lines(self))

    def _repr_html_(self) -> str:
        return html_table(self)

    @property
    @abc.abstractmethod
    def mixture(self) -> DrawMixture:
        """The mixture over draws, before any calibration."""

    @property
    @abc.abstractmethod
    def distribution(self) -> Distribution:
        """The distribution of y, after calibration."""

    @abc.abstractmethod
    def by_rows(self) -> Iterator[Any]:
        """The same distribution at 1,024 rows at a time.

        Returns
        -------
        iterator of PredictiveDistribution
            One part after another.
        """

    @abc.abstractmethod
    def _interval(self, coverage: float) -> tuple[Values, Values]:
        """(lower, upper) in the target's units."""

    @property
    def columnwise(self) -> Any:
        """The same distribution for code that handles any number of targets.

        All answers are (n, K), and y of classes is codes. What has been computed is held once, for
        both forms.
        """
        return self._columnwise if self.squeeze else self

    @cached_property
    def _columnwise(self) -> Any:
        return replace(self, squeeze=False, classes=None)

    def supports(self, name: str) -> bool:
        """Whether there is an answer of a name; a ``Criterion`` has only a mean.

        Parameters
        ----------
        name : str
            ``"log_prob"``, ``"cdf"``, ``"variance"`` or ``"sample"``.

        Returns
        -------
        bool
            Whether the distribution has it.
        """
        return self.distribution.supports(name)

    @property
    def task(self) -> str:
        """``"regression"`` or ``"classification"``."""
        return self.likelihood.task

    @property
    def discrete(self) -> bool:
        """Whether y is a whole number, so that quantiles are whole numbers and densities are probabilities."""
        return self.likelihood.discrete

    @property
    def columns(self) -> int:
        """The number of columns of the mean, one for each of K targets or C classes."""
        return self.mixture.columns

    @property
    def z(self) -> OutcomeParams:
        """z of the likelihood for all draws, a tree of arrays (S, n, ·) in the model's units."""
        return self.draws.at()

    @property
    def mean(self) -> Values:
        """E[y], (n,) or (n, K); for classes the probabilities (n, C)."""
        return self._squeezed(self.distribution.mean)

    @property
    def aleatoric(self) -> Values:
        """E_θ[Var[y | θ]], the noise in the data, (n,) or (n, K), in squared units of the target."""
        return square(self.aleatoric_std)

    @property
    def epistemic(self) -> Values:
        """Var_θ[E[y | θ]], the uncertainty about the weights, (n,) or (n, K), in squared units of the target."""
        return square(self.epistemic_std)

    @property
    def variance(self) -> Values:
        """Var[y] = aleatoric + epistemic, (n,) or (n, K), in squared units of the target; ∞ where it overflows."""
        return self.aleatoric + self.epistemic

    @property
    def std(self) -> Values:
        """√variance, (n,) or (n, K), in units of the target; finite also where the variance overflows."""
        self._need("variance")
        aleatoric, epistemic = self.distribution.variances
        return self._squeezed(self.scale * np.sqrt(aleatoric + epistemic))

    @property
    def aleatoric_std(self) -> Values:
        """√aleatoric, (n,) or (n, K), in units of the target."""
        self._need("variance")
        return self._squeezed(self.scale * np.sqrt(self.distribution.variances[0]))

    @property
    def epistemic_std(self) -> Values:
        """√epistemic, (n,) or (n, K), in units of the target."""
        return self._squeezed(self.scale * np.sqrt(self.distribution.variances[1]))

    @property
    def min_component_std(self) -> Values:
        """The smallest standard deviation of any draw, (n,) or (n, K), in units of the target."""
        self._need("variance")
        return self._squeezed(self.mixture.min_component_std())

    def components(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The components of a mixture of Gaussians.

        Returns
        -------
        (means, standard deviations) or None
            Each (S, n) or (S, n, K), in units of the target; None if this is no such mixture.
        """
        found = self.distribution.components()
        return None if found is None else (self._squeezed(found[0]), self._squeezed(found[1]))

    def means(self, members: int) -> Float[np.ndarray, "members rows *targets"]:
        """The mean of each member of an ensemble, before calibration.

        Parameters
        ----------
        members : int
            How many equal parts the draws are cut into, one after another.

        Returns
        -------
        array
            (members, n) or (members, n, K), in the target's units; probabilities (members, n, C) of
            classes.

        Raises
        ------
        ValueError
            If the number of draws is not a multiple of the number of members.
        """
        if len(self.draws) % members:
            raise ValueError(f"{len(self.draws)} draws cannot be divided equally among {members} members")
        each = self.mixture.moments_of_draws()[0]
        parts = each.reshape(len(self), members, len(self.draws) // members, each.shape[-1]).mean(2)
        return self._squeezed(self.shift + self.scale * parts.swapaxes(0, 1))

    def log_prob(self, y: Any) -> Rows:
        """The log predictive density, log p(y) = logsumexp_s log p(y | θ_s) − log S − Σ log scale.

        Parameters
        ----------
        y : array
            (n,) or (n, K) in the target's units (NaN: missing), or n labels or codes of classes.

        Returns
        -------
        array
            (n,), in nats of the target's units; for counts and classes the logarithm of a
            probability.

        Raises
        ------
        ValueError
            For y that does not fit, and if there is no density.
        """
        self._need("log_prob")
        if self.task == "classification":
            codes = class_codes(y, len(self), self.columns, self.classes)
            return self.mixture.log_densities(draw_mixture.LOG_MEAN_EXP, codes)
        values = target_values(y, len(self), self.columns, self.likelihood.columns, finite=False, missing=True)
        return self.distribution.log_density(values)

    def cdf(self, y: Any) -> Values:
        """The cumulative distribution of each target.

        Parameters
        ----------
        y : array
            (n,) or (n, K), in the target's units.

        Returns
        -------
        array
            P(Y ≤ y), (n,) or (n, K).
        """
        self._need("cdf")
        return self._squeezed(self.distribution.cdf(target_values(y, len(self), self.columns, finite=False)))

    def quantile(self, q: float | Sequence[float] | ArrayLike) -> Float[np.ndarray, "..."]:
        """Quantiles of the predictive distribution.

        Parameters
        ----------
        q : float or array
            One probability strictly between 0 and 1, or several.

        Returns
        -------
        array
            (n,) or (n, K) in the target's units, with a first axis for several probabilities; for
            counts the smallest whole number whose cdf is at least q.

        Raises
        ------
        ValueError
            For other probabilities, and if there is no cdf.
        """
        self._need("cdf")
        levels = np.asarray(q, float)
        if not np.all((levels > 0) & (levels < 1)):
            raise ValueError(f"quantile needs probabilities strictly between 0 and 1, got {levels}")
        found = self._squeezed(self.distribution.quantiles(np.atleast_1d(levels)))
        return found[0] if levels.ndim == 0 else found

    def interval(self, coverage: float = 0.9) -> tuple[Values, Values]:
        """Prediction intervals: equal-tailed, or conformal after a conformal calibration.

        Parameters
        ----------
        coverage : float
            The probability that an interval contains y; for split conformal intervals that of the
            calibration.

        Returns
        -------
        (lower, upper)
            Each (n,) or (n, K), in the target's units.

        Raises
        ------
        ValueError
            For classes, a coverage outside (0, 1), or other than that of a conformal calibration.
        """
        self._check_task("intervals", "regression")
        lower, upper = self.columnwise._interval(coverage)
        return self._squeezed(lower), self._squeezed(upper)

    def sample(self, key: Key, n: int) -> Shaped[np.ndarray, "n rows *targets"]:
        """Joint draws of y, each of one function plus noise.

        Parameters
        ----------
        key : jax.Array
            Key of the random numbers.
        n : int
            How many draws.

        Returns
        -------
        array
            (n, rows) or (n, rows, K) in the target's units, or class codes (n, rows).
        """
        self._need("sample")
        check_whole("the number of draws of y", n, 1)
        return self._squeezed(self.distribution.sample(key, n))

    def to_pandas(self, coverage: float | None = None) -> Any:
        """The predictions as a table.

        Parameters
        ----------
        coverage : float, optional
            The coverage of the interval of a regression, ``self.coverage`` by default.

        Returns
        -------
        pandas.DataFrame
            With the columns that ``dubito predict`` writes; see ``readings.prediction_columns``.
        """
        import pandas

        return pandas.DataFrame(prediction_columns(self, self.coverage if coverage is None else coverage))

    @property
    def probs(self) -> Float[np.ndarray, "rows classes"]:
        """p̄ = (1/S) Σ p_s; rows sum to 1."""
        self._check_task("probs", "classification")
        return self.mixture.moments[0]

    @property
    def entropy(self) -> Rows:
        """The total uncertainty about the class, H[p̄], in nats."""
        return -np.sum(self.probs * np.log(np.where(self.probs > 0, self.probs, 1.0)), axis=-1)

    @property
    def mutual_information(self) -> Rows:
        """The epistemic part of the entropy, H[p̄] − (1/S) Σ H[p_s], in nats, which more data would reduce."""
        ((each, _),) = self.mixture.over_draws(draw_mixture.entropies, draw_mixture.MEAN_AND_VARIANCE)
        return np.maximum(self.entropy - each, 0.0)

    @property
    def variation_ratio(self) -> Rows:
        """1 − the fraction of draws that vote for the modal class."""
        self._check_task("variation_ratio", "classification")
        ((shares, _),) = self.mixture.over_draws(draw_mixture.votes, draw_mixture.MEAN_AND_VARIANCE)
        return 1 - shares.max(-1)

    def _squeezed(self, values: np.ndarray) -> np.ndarray:
        """Values with targets last, without that axis if there is one target."""
        return values[..., 0] if self.squeeze and self.task == "regression" and values.shape[-1] == 1 else values

    def _need(self, name: str) -> None:
        if self.supports(name):
            return
        self._check_task(name, "regression")
        problem = f"{type(self.likelihood).__name__} has no {name}, only a mean and the epistemic uncertainty. "
        problem += "Use a likelihood for a whole distribution; dubito.LIKELIHOODS lists them by name."
        if self.mixture.supports(name):
            problem = f"recalibrated quantiles of {self.columns} targets have no joint density, unlike those of one"
        raise ValueError(problem)

    def _check_task(self, name: str, task: str) -> None:
        if self.task != task:
            use = {"regression": "mean, std or quantile", "classification": "probs"}[self.task]
            raise ValueError(f"{self.task} has no {name}. Use {use}.")
