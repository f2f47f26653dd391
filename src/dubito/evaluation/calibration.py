"""Calibration after training, from held-out rows: what a predictive gets wrong on rows it has not seen is taken off its answers.

Each function takes the predictive of held-out rows and their y and gives a map, a frozen dataclass of plain numbers, that
turns the predictive of any rows into a calibrated one:

    calibrate = temperature(model.predictive(X_held_out), y_held_out)
    answer = calibrate(model.predictive(X_new))

Rows that were trained on, or stopped on, are not held out: a fit looks better on them than it is. A row of ``weight`` 0
might as well be absent. ValueError where y does not fit the predictive, or where rows are too few to tell anything.
"""

import inspect
import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.isotonic import IsotonicRegression

from dubito._check import check_choice
from dubito._jax.pytree import register_dataclass, static
from dubito.evaluation.conformal import split_conformal
from dubito.evaluation.quantile_recalibration import Recalibrated, scores
from dubito.evaluation.validation import checked
from dubito.models.likelihoods.classes import Categorical, ClassLikelihood
from dubito.posteriors.predictive import Predictive
from dubito.posteriors.temperature import best_temperature

FAR = 1e3  # normal scores: where the outer straight lines end
LEAST = 10  # rows, to recalibrate quantiles
TINY = float(np.finfo(np.float32).tiny)  # a probability that is not told from 0


def temperature(predictive, y, *, weight=None):
    """The ``Temperature`` T that minimizes the held-out −log (1/S) Σ_s softmax(f_s/T)_y, within e^±4.

    Guo et al. 2017, with the mean over draws inside the logarithm, and with one row more that could be of any class: where
    every held-out row is predicted right, that leaves a doubt. The classes of y need not be all there are.
    """
    predictive, y, weight = checked(predictive, y, weight, "classification")

    def log_probs(temperature):
        answer = Temperature(float(temperature))(predictive)
        return answer.log_prob(y), np.log(np.maximum(answer.probs, TINY)).mean(1)

    return Temperature(best_temperature(log_probs, weight))


@dataclass(frozen=True)
class Temperature:
    """One temperature for the logits of every draw: p̄ = (1/S) Σ_s softmax(f_s/T). T > 1 says less, T < 1 more.

    Every draw is tempered, not their mean, so that entropy still splits into noise and doubt about the weights, and a
    ``CrossFit``'s own temperature is of the same kind. T near 0 leaves the draws' votes.
    """

    temperature: float

    def check(self, likelihood, columns):
        """ValueError unless this is a map for ``columns`` classes of ``likelihood``."""
        del columns
        _expect(likelihood.task == "classification", "a temperature is for classes")
        _expect(0 < self.temperature < math.inf, f"a temperature is a positive number, got {self.temperature!r}")

    def __call__(self, predictive):
        _fits(self, predictive)
        if set(predictive.draws.one) != {"logits"}:
            raise ValueError(
                f"a temperature divides logits, of which {type(predictive.likelihood).__name__} has none: use isotonic"
            )
        return replace(
            predictive, likelihood=Tempered(predictive.likelihood, self.temperature, predictive.likelihood.classes)
        )


@register_dataclass
@dataclass(frozen=True)
class Tempered(ClassLikelihood):
    """A likelihood of classes whose logits are divided by ``temperature``."""

    likelihood: Any
    temperature: float
    classes: int = static(default=0)

    @property
    def width(self):
        return self.likelihood.width

    def init(self):
        return self.likelihood.init()

    def log_prior(self, phi):
        return self.likelihood.log_prior(phi)

    def join(self, f, phi):
        return self.likelihood.join(f, phi)

    def log_prob(self, z, y):
        return self.likelihood.log_prob(self._divided(z), y)

    def mean(self, z):
        return self.likelihood.mean(self._divided(z))

    def sample(self, key, z):
        return self.likelihood.sample(key, self._divided(z))

    def _divided(self, z):
        return {"logits": z["logits"] / jnp.asarray(self.temperature, z["logits"].dtype)}


def isotonic(predictive, y, *, weight=None):
    """``Isotonic`` maps by scikit-learn's IsotonicRegression of 1{y = k} on p_k, one for each class k (Zadrozny & Elkan 2002).

    It wants rows by the hundred for each class. A class that y does not have gets the least probability, 1/(n + 1).
    """
    predictive, y, weight = checked(predictive, y, weight, "classification")
    knots = []
    for k, p in enumerate(predictive.probs.T):
        found = IsotonicRegression(out_of_bounds="clip").fit(p, y == k, sample_weight=weight)
        knots.append((tuple(found.X_thresholds_.tolist()), tuple(found.y_thresholds_.tolist())))
    return Isotonic(tuple(knots), float(1 / (1 + _rows(weight))))


@dataclass(frozen=True)
class Isotonic:
    """For each class a rising map of its probability, straight lines between ``knots`` (p, frequency), then shares of the sum.

    No class gets less than ``floor`` before that: what n rows have not shown may yet happen. The answer is one set of
    probabilities: draws are gone, and with them the split of the entropy (the mutual information is 0).
    """

    knots: tuple
    floor: float

    def check(self, likelihood, columns):
        """ValueError unless this is a map for ``columns`` classes of ``likelihood``."""
        _expect(likelihood.task == "classification", "isotonic maps of probabilities are for classes")
        _expect(len(self.knots) == columns, f"{len(self.knots)} isotonic maps are not for {columns} classes")
        _expect(0 < self.floor < 1, f"a floor is a probability between 0 and 1, got {self.floor!r}")
        _expect(_numbers(self.knots), "knots are pairs of tuples of numbers")
        for p, frequency in self.knots:
            levels = 0, *frequency, 1
            rising = all(a < b for a, b in pairwise(p)) and all(a <= b for a, b in pairwise(levels))
            _expect(rising and 0 < len(p) == len(frequency), "the knots of an isotonic map rise, frequencies up to 1")

    def __call__(self, predictive):
        _fits(self, predictive)
        columns = [np.interp(p, *knots) for p, knots in zip(predictive.probs.T, self.knots, strict=True)]
        p = np.maximum(np.stack(columns, axis=1), self.floor)
        logits = np.log(p).astype(np.float32)  # softmax makes shares of them
        return replace(predictive, likelihood=Categorical(len(columns)), draws={"logits": logits[None]})


def quantiles(predictive, y, *, weight=None, knots=None):
    """``Quantiles`` that make the held-out F(y) uniform, for each target (Kuleshov, Fenner & Ermon 2018).

    First the distribution is widened (or narrowed) around its mean by the root mean square of (y − mean)/std, which leaves
    the F(y) of the rows where float32 tells them apart. Then these are compared with what they should be at ``knots`` levels
    (None: the cube root of the number of rows, 3 at least, 30 at most), equally far apart as normal scores, the outermost
    n^(−2/3) from 0 and 1. More knots follow the rows more closely: where nothing is wrong they cost about ``knots``/2n nats.
    Kuleshov's map has a knot at every row, so that it has no density to speak of.

    ValueError for fewer than 10 rows, and for counts.
    """
    predictive, y, weight = checked(predictive, y, weight, "regression")
    if predictive.discrete:
        raise ValueError("F(y) of counts is in steps and never uniform: use split_conformal")
    n = _rows(weight)
    if n < LEAST:
        raise ValueError(f"quantiles are recalibrated with at least {LEAST} rows, got {n:.3g} (in weight)")
    count = int(np.clip(round(n ** (1 / 3)), 3, 30)) if knots is None else knots
    if count < 2 or count != int(count):
        raise ValueError(f"knots is a whole number of at least 2, got {knots!r}")
    edge = ndtri(n ** (-2 / 3))
    level = np.linspace(edge, -edge, int(count))
    factors = np.sqrt(np.average(((y - predictive.mean) / predictive.std) ** 2, axis=0, weights=weight))
    if not np.all(factors > 0):
        raise ValueError("every mean is y itself in the held-out rows: they were not held out, or have no noise")
    f = predictive.cdf(predictive.mean + (y - predictive.mean) / factors)
    return Quantiles(tuple(factors.tolist()), tuple(_knots(u, weight, level) for u in scores(f).T))


def _knots(u, weight, level):
    """(u, v): the scores u of the rows at which normal scores v = ``level`` should be, both rising."""
    u, weight = u[weight > 0], weight[weight > 0]
    order = np.argsort(u, kind="stable")
    place = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    found, group = np.unique(np.interp(ndtr(level), place, u[order]).round(6), return_inverse=True)
    if len(found) < 2:
        raise ValueError("F(y) is the same in (nearly) all held-out rows: it cannot be made uniform")
    return tuple(found.tolist()), tuple((np.bincount(group, level) / np.bincount(group)).tolist())


@dataclass(frozen=True)
class Quantiles:
    """For each target a factor c and a rising map R: the calibrated P(Y ≤ y) is R(F(mean + (y − mean)/c)).

    ``knots``: for each target normal scores (u, v); R = Φ(g(Φ⁻¹(F))) with g of straight lines through them, and outside with
    the slopes from the middle one to the ends. So a Gaussian that is too narrow or off by a constant is mended exactly, tails
    included. Within 1e-7 of F = 0 and 1 R is a straight line, as F itself tells no more there.
    """

    factors: tuple
    knots: tuple

    def check(self, likelihood, columns):
        """ValueError unless this is a map for ``columns`` targets of ``likelihood``."""
        _expect(likelihood.task == "regression", "maps of quantiles are for regression")
        several = len(self.knots) == len(self.factors) == columns
        _expect(several, f"{len(self.knots)} maps of quantiles are not for {columns} targets")
        _expect(all(0 < c < math.inf for c in self.factors), f"factors are positive numbers, got {self.factors!r}")
        _expect(_numbers(self.knots), "knots are pairs of tuples of numbers")
        for u, v in self.knots:
            steps = [b - a for each in (u, v) for a, b in pairwise(each)]
            _expect(1 < len(u) == len(v) and min(steps) > 0, "the knots of a map of quantiles rise")
            _expect(max(map(abs, (*u, *v))) < FAR, "the knots of a map of quantiles are normal scores")

    def __call__(self, predictive):
        _fits(self, predictive)
        return Recalibrated(*(getattr(predictive, f.name) for f in fields(Predictive)), calibration=self)

    @cached_property
    def lines(self):
        """(u, v) of each target with the ends of the outer lines."""
        found = []
        for u, v in self.knots:
            left, right = len(u) // 2, (len(u) - 1) // 2
            low, high = (v[left] - v[0]) / (u[left] - u[0]), (v[-1] - v[right]) / (u[-1] - u[right])
            u, v = (u[0] - FAR, *u, u[-1] + FAR), (v[0] - FAR * low, *v, v[-1] + FAR * high)
            found.append((np.array(u), np.array(v)))
        return found


def _rows(weight):
    """How many equal weights say as much: (Σw)²/Σw²."""
    return weight.sum() ** 2 / np.sum(weight**2)


def _fits(calibration, predictive):
    if type(predictive) is not Predictive:
        raise ValueError(
            "this calibration is for a predictive as it was fitted, not for one of conformal or mapped quantiles"
        )
    calibration.check(predictive.likelihood, predictive.columns)


def _numbers(knots):
    pairs = all(type(pair) is tuple and len(pair) == 2 for pair in knots)
    return pairs and all(type(value) is float for pair in knots for line in pair for value in line)


def _expect(true, problem):
    if not true:
        raise ValueError(problem)


METHODS = {"temperature": temperature, "isotonic": isotonic, "quantiles": quantiles, "conformal": split_conformal}


def calibrated(predictive, y, method=None, **options):
    """The calibration of a name in ``METHODS``; None is temperature for classes, quantiles for regression."""
    if method is None:
        method = "quantiles" if predictive.task == "regression" else "temperature"
    check_choice("method", method, METHODS)
    try:
        inspect.signature(METHODS[method]).bind(predictive, y, **options)
    except TypeError as error:
        raise ValueError(f"calibration by {method!r}: {error}") from None
    return METHODS[method](predictive, y, **options)
