"""Calibration after training, from held-out rows.

Each function takes the predictive distribution of held-out rows and their y. It returns a map, a
frozen dataclass of plain numbers, from the predictive distribution of any rows to a calibrated one:

    calibrate = temperature(model.predictive(X_held_out), y_held_out)
    answer = calibrate(model.predictive(X_new))

Rows used for training or for early stopping are not held out: on them a fit looks better than it
is. A row of ``weight`` 0 counts as absent.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.special import ndtr, ndtri
from sklearn.isotonic import IsotonicRegression

from dubito._check import check_choice, check_whole
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.evaluation.calibrated import Calibration, RecalibratedPredictive, normal_scores
from dubito.evaluation.conformal import split_conformal
from dubito.evaluation.validation import check_predictive
from dubito.models.likelihoods.base import OutcomeParams, WithoutParameters
from dubito.models.likelihoods.classes import Categorical, ClassLikelihood
from dubito.posteriors.predictive import Predictive, shared_fields
from dubito.posteriors.predictive_base import PredictiveDistribution, Rows
from dubito.posteriors.temperature import best_temperature
from dubito.posteriors.transformed import TransformedPredictive

FAR = 1e3  # normal scores: where the outer straight lines end
MIN_ROWS = 10  # to recalibrate quantiles
TINY = float(np.finfo(np.float32).tiny)  # the smallest probability that is distinguished from 0

Line: TypeAlias = tuple[float, ...]
Knots: TypeAlias = tuple[tuple[Line, Line], ...]


def temperature(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> "Temperature":
    """Temperature scaling: the T within e^±4 that minimizes the held-out −log (1/S) Σ_s softmax(f_s/T)_y.

    The mean over draws is inside the logarithm. A pseudo-row with a uniform class is added, so that
    the probabilities stay below 1 if every held-out row is predicted correctly.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of held-out rows.
    y : array
        Their n labels or codes; not every class need occur.
    weight : array, optional
        Weights of the rows, (n,); None: all 1.

    Returns
    -------
    Temperature
        The calibration.

    Raises
    ------
    ValueError
        If y does not fit the predictive distribution.

    References
    ----------
    Guo, Pleiss, Sun & Weinberger, On calibration of modern neural networks, ICML 2017, equation 9.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")

    def log_probs(temperature: float) -> tuple[Rows, Rows]:
        answer = Temperature(float(temperature))(predictive)
        return answer.log_prob(y), np.log(np.maximum(answer.probs, TINY)).mean(1)

    return Temperature(best_temperature(log_probs, weight))


@dataclass(frozen=True)
class Temperature(Calibration):
    """One temperature for the logits of every draw: p̄ = (1/S) Σ_s softmax(f_s/T). T > 1 flattens, T < 1 sharpens.

    Every draw is tempered, not their mean, so that entropy still splits into an aleatoric and an
    epistemic part, as with the temperature of a ``CrossFit``. T near 0 leaves the votes of the
    draws.

    Parameters
    ----------
    temperature : float
        T, positive.
    """

    temperature: float

    def check(self, likelihood: Any, columns: int) -> None:
        _expect(likelihood.task == "classification", "a temperature is for classes")
        _expect(0 < self.temperature < math.inf, f"a temperature is a positive number, got {self.temperature!r}")

    def __call__(self, predictive: Any) -> PredictiveDistribution:
        _check_fits(self, predictive)
        own = predictive.likelihood
        problem = f"temperature scaling needs logits, and {type(own).__name__} has none. Use isotonic."
        _expect(set(predictive.draws.one) == {"logits"}, problem)
        return replace(predictive, likelihood=Tempered(own, self.temperature, own.classes))


@register_dataclass
@dataclass(frozen=True)
class Tempered(WithoutParameters, ClassLikelihood):
    """A likelihood of classes whose logits are divided by a temperature.

    Parameters
    ----------
    likelihood : Likelihood
        The likelihood of classes, with z = {"logits": ...}.
    temperature : float
        The divisor.
    classes : int
        The number of classes.
    """

    likelihood: Any
    temperature: float
    classes: int = static(default=0)

    @property
    def width(self) -> int:
        return self.likelihood.width

    def join(self, f: Float[Array, "rows outputs"], phi: Params) -> OutcomeParams:
        return self.likelihood.join(f, phi)

    def log_prob(self, z: OutcomeParams, y: Array) -> Float[Array, " rows"]:
        return self.likelihood.log_prob(self._divided(z), y)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows classes"]:
        return self.likelihood.mean(self._divided(z))

    def sample(self, key: Key, z: OutcomeParams) -> Int[Array, " rows"]:
        return self.likelihood.sample(key, self._divided(z))

    def _divided(self, z: OutcomeParams) -> OutcomeParams:
        return {"logits": z["logits"] / jnp.asarray(self.temperature, z["logits"].dtype)}


def isotonic(predictive: PredictiveDistribution, y: Any, *, weight: Any = None) -> "Isotonic":
    """Isotonic calibration: scikit-learn's IsotonicRegression of 1{y = k} on p_k, one for each class k.

    It needs hundreds of rows for each class. A class that does not occur in y gets the probability
    1/(n + 1).

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of held-out rows.
    y : array
        Their n labels or codes.
    weight : array, optional
        Weights of the rows, (n,); None: all 1.

    Returns
    -------
    Isotonic
        The calibration.

    Raises
    ------
    ValueError
        If y does not fit the predictive distribution.

    References
    ----------
    Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability estimates,
    KDD 2002.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "classification")
    knots = []
    for k, p in enumerate(predictive.probs.T):
        found = IsotonicRegression(out_of_bounds="clip").fit(p, y == k, sample_weight=weight)
        knots.append((tuple(found.X_thresholds_.tolist()), tuple(found.y_thresholds_.tolist())))
    return Isotonic(tuple(knots), float(1 / (1 + _effective_rows(weight))))


@dataclass(frozen=True)
class Isotonic(Calibration):
    """For each class an increasing piecewise linear map of its probability; the results are normalized to sum to 1.

    The calibrated predictive distribution has one draw: the entropy no longer splits, and the
    mutual information is 0.

    Parameters
    ----------
    knots : tuple
        For each class the knots (p, frequency), two tuples of numbers.
    floor : float
        The smallest probability before normalization: what did not occur in n rows may still occur.
    """

    knots: Knots
    floor: float

    def check(self, likelihood: Any, columns: int) -> None:
        _expect(likelihood.task == "classification", "isotonic maps of probabilities are for classes")
        _expect(len(self.knots) == columns, f"{len(self.knots)} isotonic maps are not for {columns} classes")
        _expect(0 < self.floor < 1, f"a floor is a probability between 0 and 1, got {self.floor!r}")
        for p, frequency in _check_knots(self.knots):
            levels = 0, *frequency, 1
            rising = all(a < b for a, b in pairwise(p)) and all(a <= b for a, b in pairwise(levels))
            _expect(rising and 0 < len(p) == len(frequency), "isotonic knots must increase, with frequencies up to 1")

    def __call__(self, predictive: Any) -> PredictiveDistribution:
        _check_fits(self, predictive)
        columns = [np.interp(p, *knots) for p, knots in zip(predictive.probs.T, self.knots, strict=True)]
        p = np.maximum(np.stack(columns, axis=1), self.floor)
        logits = np.log(p).astype(np.float32)  # normalized by the softmax
        return replace(predictive, likelihood=Categorical(len(columns)), draws={"logits": logits[None]})


def quantiles(
    predictive: PredictiveDistribution, y: Any, *, weight: Any = None, knots: int | None = None
) -> "Quantiles":
    """Recalibrated quantiles: maps that make the held-out F(y) uniform, for each target.

    First the distribution is widened (or narrowed) around its mean by the root mean square of
    (y − mean)/std, which brings the F(y) of the rows to where float32 distinguishes them. Transformed
    targets and those with bounds are not widened. Then
    these are compared with a uniform distribution at ``knots`` levels, equally spaced as normal
    scores, the outermost n^(−2/3) from 0 and 1. The map of the reference has a knot at every row,
    so that it has no useful density.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of held-out rows.
    y : array
        Their targets, (n,) or (n, K).
    weight : array, optional
        Weights of the rows, (n,); None: all 1.
    knots : int, optional
        How many; None: the cube root of the number of rows, between 3 and 30. More follow the rows
        more closely; if nothing is to be corrected they cost about knots/2n nats.

    Returns
    -------
    Quantiles
        The calibration.

    Raises
    ------
    ValueError
        For fewer than 10 rows, for counts, and if y does not fit the predictive distribution.

    References
    ----------
    Kuleshov, Fenner & Ermon, Accurate uncertainties for deep learning using calibrated regression,
    ICML 2018, algorithm 1.
    """
    predictive, y, weight = check_predictive(predictive, y, weight, "regression")
    problem = "the distribution function of counts has steps and cannot be made uniform. Use conformal intervals."
    _expect(not predictive.discrete, problem)
    n = _effective_rows(weight)
    _expect(n >= MIN_ROWS, f"quantile recalibration needs at least {MIN_ROWS} rows; the weights amount to {n:.3g}")
    count = int(np.clip(round(n ** (1 / 3)), 3, 30)) if knots is None else knots
    check_whole("knots", count, 2)
    edge = ndtri(n ** (-2 / 3))
    level = np.linspace(edge, -edge, int(count))
    factors = np.sqrt(np.average(((y - predictive.mean) / predictive.std) ** 2, axis=0, weights=weight))
    skewed = isinstance(predictive, TransformedPredictive) or np.any(np.isfinite(predictive.mixture.bounds))
    factors = np.where(factors > 0, 1.0, 0.0) if skewed else factors
    problem = "the predicted means equal y in all held-out rows. The rows were used for training, or y has no noise."
    _expect(np.all(factors > 0), problem)
    f = predictive.cdf(predictive.mean + (y - predictive.mean) / factors)
    return Quantiles(tuple(factors.tolist()), tuple(_knots(u, weight, level) for u in normal_scores(f).T))


def _knots(u: Rows, weight: Rows, level: Float[np.ndarray, " knots"]) -> tuple[Line, Line]:
    """(u, v): the scores u of the rows at which normal scores v = ``level`` should be, both rising."""
    u, weight = u[weight > 0], weight[weight > 0]
    order = np.argsort(u, kind="stable")
    place = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    found, group = np.unique(np.interp(ndtr(level), place, u[order]).round(6), return_inverse=True)
    _expect(len(found) > 1, "F(y) is the same in (nearly) all held-out rows: it cannot be made uniform")
    return tuple(found.tolist()), tuple((np.bincount(group, level) / np.bincount(group)).tolist())


@dataclass(frozen=True)
class Quantiles(Calibration):
    """For each target a factor c and an increasing map R: the calibrated P(Y ≤ y) is R(F(mean + (y − mean)/c)).

    R = Φ(g(Φ⁻¹(F))), with g piecewise linear through the knots, and outside with the slopes from
    the middle knot to the ends. So a Gaussian that is too narrow or off by a constant is corrected
    exactly, tails included. Within 1e-7 of F = 0 and 1 R is a straight line, as float32 does not
    resolve F there.

    Parameters
    ----------
    factors : tuple of float
        c of each target.
    knots : tuple
        For each target normal scores (u, v), two tuples of numbers.
    """

    factors: Line
    knots: Knots

    def check(self, likelihood: Any, columns: int) -> None:
        _expect(likelihood.task == "regression", "maps of quantiles are for regression")
        several = len(self.knots) == len(self.factors) == columns
        _expect(several, f"{len(self.knots)} maps of quantiles are not for {columns} targets")
        _expect(all(0 < c < math.inf for c in self.factors), f"factors are positive numbers, got {self.factors!r}")
        for u, v in _check_knots(self.knots):
            steps = [b - a for each in (u, v) for a, b in pairwise(each)]
            _expect(1 < len(u) == len(v) and min(steps) > 0, "quantile map knots must increase")
            _expect(max(map(abs, (*u, *v))) < FAR, "quantile map knots must be normal scores")

    def __call__(self, predictive: Any) -> PredictiveDistribution:
        _check_fits(self, predictive)
        return RecalibratedPredictive(**shared_fields(predictive), predictive=predictive, calibration=self)

    @cached_property
    def lines(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(u, v) of each target with the ends of the outer lines."""
        found = []
        for u, v in self.knots:
            left, right = len(u) // 2, (len(u) - 1) // 2
            low, high = (v[left] - v[0]) / (u[left] - u[0]), (v[-1] - v[right]) / (u[-1] - u[right])
            ends = (u[0] - FAR, *u, u[-1] + FAR), (v[0] - FAR * low, *v, v[-1] + FAR * high)
            found.append((np.array(ends[0]), np.array(ends[1])))
        return found


def _effective_rows(weight: Rows) -> float:
    """The number of equal weights with the same variance of a mean: (Σw)²/Σw²."""
    return weight.sum() ** 2 / np.sum(weight**2)


def _check_fits(calibration: Calibration, predictive: Any) -> None:
    problem = "the predictive is already calibrated. Pass the uncalibrated predictive."
    _expect(isinstance(predictive, Predictive | TransformedPredictive), problem)
    calibration.check(predictive.likelihood, predictive.columns)


def _check_knots(knots: Knots) -> Knots:
    pairs = all(type(pair) is tuple and len(pair) == 2 for pair in knots)
    numbers = pairs and all(type(value) is float for pair in knots for line in pair for value in line)
    _expect(numbers, "knots are pairs of tuples of numbers")
    return knots


def _expect(true: object, problem: str) -> None:
    if not true:
        raise ValueError(problem)


METHODS: dict[str, Callable[..., Calibration]]
METHODS = {"temperature": temperature, "isotonic": isotonic, "quantiles": quantiles, "conformal": split_conformal}


def fit_calibration(
    predictive: PredictiveDistribution, y: Any, method: str | None = None, **options: Any
) -> Calibration:
    """The calibration of a name, fitted to held-out rows.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution of held-out rows.
    y : array
        Their targets, labels or codes.
    method : str, optional
        A key of ``METHODS``; None: "temperature" for classes, "conformal" for counts, otherwise "quantiles".
    options : dict
        Keyword arguments of the method's function.

    Returns
    -------
    Calibration
        The calibration.

    Raises
    ------
    ValueError
        For an unknown method, for options that it does not have, and if y does not fit.
    """
    if method is None:
        numbers = "conformal" if predictive.discrete else "quantiles"
        method = numbers if predictive.task == "regression" else "temperature"
    check_choice("method", method, METHODS)
    try:
        inspect.signature(METHODS[method]).bind(predictive, y, **options)
    except TypeError as error:
        raise ValueError(f"calibration by {method!r}: {error}") from None
    return METHODS[method](predictive, y, **options)
