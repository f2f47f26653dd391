"""Criteria are negative log likelihoods: ordered classes, censored numbers, your own; and the table of all by name."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from dubito._jax.pytree import register_dataclass, static
from dubito.models.likelihoods.base import (
    LOG_2PI,
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    LaplaceNoise,
    StudentT,
)
from dubito.models.likelihoods.counts import NegativeBinomial, Poisson


@register_dataclass
@dataclass(frozen=True)
class Ordered:
    """C classes in their order from one output f: P(y ≤ k) = sigmoid(c_k − f), cut points c_0 < ... < c_(C−2) learned.

    (McCullagh 1980, the proportional odds model.) φ moves the cut points from where f = 0 makes all classes equally
    frequent: c_0 by φ_0, the log of each gap by φ_k; φ ~ N(0, ``scale``²). y as for the Categorical.
    """

    classes: int = static(default=3)
    scale: float = 2.0

    task = "classification"
    width = 1
    log_prob = Categorical.log_prob
    mean = Categorical.mean
    variance = Categorical.variance
    sample = Categorical.sample

    def init(self):
        return {"cuts": jnp.zeros(self.classes - 1, jnp.float32)}

    def log_prior(self, phi):
        scale = jnp.asarray(self.scale, phi["cuts"].dtype)
        return jnp.sum(-0.5 * (phi["cuts"] / scale) ** 2 - jnp.log(scale) - 0.5 * LOG_2PI)

    def join(self, f, phi):
        """The log probabilities: log(s(b) − s(a)) = log s(b) + log s(−a) + log(1 − e^(a − b)), which no f cancels."""
        share = np.arange(1, self.classes) / self.classes
        start = np.log(share) - np.log1p(-share)
        gap = jnp.exp(phi["cuts"][1:]) * jnp.asarray(np.diff(start), f.dtype)
        first = phi["cuts"][:1] + jnp.asarray(start[:1], f.dtype)
        u = jnp.concatenate([first, first + jnp.cumsum(gap)])[None] - f
        below, above = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
        inner = below[:, 1:] + above[:, :-1] + jnp.log(-jnp.expm1(-gap))[None]
        return {"logits": jnp.concatenate([below[:, :1], inner, above[:, -1:]], axis=1)}


@register_dataclass
@dataclass(frozen=True)
class CensoredGaussian:
    """y ~ N(f, 1/τ), of which some are only known to be at least as large (a study that ended, a scale that ended).

    y is (n, 2K): the K values, then for each 0 where it was seen and 1 where it is censored; to score also (n, K), all seen.
    A seen value costs what it does for the ``Gaussian``, whose parameters these are; a censored one −log P(Y ≥ y). Mean,
    variance, cdf, quantiles and samples are those of the uncensored variable.
    """

    precision: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    task = "regression"
    takes = (
        "two columns for each target: all values, then all marks, 1 where the true value is at least so large, else 0"
    )
    width = Gaussian.width
    init = Gaussian.init
    log_prior = Gaussian.log_prior
    join = Gaussian.join
    mean = Gaussian.mean
    shifted = Gaussian.shifted
    variance = Gaussian.variance
    cdf = Gaussian.cdf
    sample = Gaussian.sample

    @property
    def columns(self):
        return 2 * self.targets

    def supports(self, y):
        return np.all((y[:, self.targets :] == 0) | (y[:, self.targets :] == 1), axis=1)

    def log_prob(self, z, y):
        error = (y[:, : self.targets] - z["mean"]) / z["scale"]
        seen = -0.5 * error**2 - jnp.log(z["scale"]) - 0.5 * LOG_2PI
        if y.shape[1] > self.targets:
            seen = jnp.where(y[:, self.targets :] > 0, special.log_ndtr(-error), seen)
        return jnp.sum(seen, axis=1)


@register_dataclass
@dataclass(frozen=True)
class Criterion:
    """A criterion of your own: ``function(f, y)``, the cost (n,) of outputs f (n, ``width``) for targets y (n, ``targets``).

    It is written in jax.numpy, with a continuous derivative by f almost everywhere. The sum of costs is minimized, less the
    log prior, as if exp(−cost) were a likelihood: a cost ten times as large believes the data ten times as much.

    Predictions have a ``mean``, E[y] as ``point(f)`` gives it (None: f itself), and the doubt about it (``epistemic``). A
    cost alone knows no noise, so that there is no variance, no quantile and no sample; with ``normalized`` it is
    −log p(y given f) with all its constants, and there is a ``log_prob`` too. ``moves``: y is standardized inside, and
    ``function`` and ``point`` work with that; otherwise y comes as it is. A model file cannot hold a function.
    """

    function: Any = static()
    targets: int = static(default=1)
    width: int = static(default=1)
    point: Any = static(default=None)
    moves: bool = static(default=False)
    normalized: bool = static(default=False)

    task = "regression"
    init = HeteroscedasticGaussian.init
    log_prior = HeteroscedasticGaussian.log_prior

    def join(self, f, phi):
        del phi
        return {"f": f}

    def log_prob(self, z, y):
        return -self._shaped("function", self.function(z["f"], y), (len(y),))

    def mean(self, z):
        f = z["f"]
        return self._shaped("point", f if self.point is None else self.point(f), (len(f), self.targets))

    def _shaped(self, name, found, shape):
        if found.shape != shape:
            raise ValueError(f"a Criterion's {name} must give an array of shape {shape} here, got {found.shape}")
        return found


class Entry(NamedTuple):
    """A likelihood that has a name. ``make`` takes the number of y's columns, or of classes. ``formula`` is −log p of one
    target, ``gradient`` its derivative by f, the network's outputs."""

    make: Callable
    task: str
    formula: str
    criterion: str
    gradient: str
    targets: str
    use: str


LIKELIHOODS = {
    "gaussian": Entry(
        lambda columns: Gaussian(targets=columns),
        "regression",
        "½τ(y - f)² - ½ log τ + ½ log 2π",
        "squared error",
        "τ(f - y)",
        "numbers",
        "errors are of one size everywhere, and no outliers",
    ),
    "heteroscedastic": Entry(
        lambda columns: HeteroscedasticGaussian(targets=columns),
        "regression",
        "½u² + log σ + ½ log 2π, u = (y - m)/σ, f = (m, ρ), σ = softplus(ρ) + floor",
        "squared error weighted by a learned precision",
        "-u/σ by m, (1 - u²)/σ · sigmoid(ρ) by ρ",
        "numbers",
        "errors are larger in some regions than in others",
    ),
    "student-t": Entry(
        lambda columns: StudentT(targets=columns),
        "regression",
        "½(ν + 1) log(1 + u²/ν) + log σ + log √(πν) Γ(ν/2)/Γ(ν/2 + ½), u = (y - m)/σ, f = (m, log σ)",
        "a robust criterion: far errors cost their logarithm",
        "-(ν + 1)u/(σ(ν + u²)) by m, 1 - (ν + 1)u²/(ν + u²) by log σ",
        "numbers",
        "some errors are very large; their rows should hardly count",
    ),
    "laplace": Entry(
        lambda columns: LaplaceNoise(targets=columns),
        "regression",
        "|y - f|/b + log 2b",
        "absolute error",
        "sign(f - y)/b",
        "numbers",
        "the median is wanted; some errors are large",
    ),
    "censored": Entry(
        lambda columns: CensoredGaussian(targets=max(columns // 2, 1)),
        "regression",
        "that of gaussian; where censored, -log Φ(u), u = √τ(f - y)",
        "squared error, and a cost for being below a bound (tobit)",
        "τ(f - y); where censored, -√τ φ(u)/Φ(u)",
        "numbers, and marks: 1 where the true value is at least so large",
        "some values ran into a limit: durations still going on, gauges at their end",
    ),
    "poisson": Entry(
        lambda columns: Poisson(targets=columns),
        "regression",
        "m - y log m + log y!, log m = level + f",
        "Poisson deviance, halved",
        "m - y",
        "whole numbers of at least 0",
        "counts of independent events",
    ),
    "negative-binomial": Entry(
        lambda columns: NegativeBinomial(targets=columns),
        "regression",
        "(y + 1/α) log(1 + αm) - y log αm - log Γ(y + 1/α)/(Γ(1/α) y!), log m = level + f",
        "negative binomial deviance, halved",
        "(m - y)/(1 + αm)",
        "whole numbers of at least 0",
        "counts that spread more than their mean",
    ),
    "bernoulli": Entry(
        lambda classes: Bernoulli(),
        "classification",
        "log(1 + e^f) - yf",
        "binary cross-entropy",
        "sigmoid(f) - y",
        "two classes",
        "two classes",
    ),
    "categorical": Entry(
        lambda classes: Categorical(classes=classes),
        "classification",
        "log Σ_k e^f_k - f_y",
        "categorical cross-entropy",
        "softmax(f)_k - 1{k = y}",
        "classes",
        "classes without an order",
    ),
    "ordered": Entry(
        lambda classes: Ordered(classes=classes),
        "classification",
        "-log(s(c_y - f) - s(c_y-1 - f)), s = sigmoid, c_-1 = -∞, c_C-1 = ∞",
        "cumulative logits",
        "1 - s(c_y - f) - s(c_y-1 - f)",
        "classes in their order",
        "grades, stages, levels of agreement",
    ),
}


def known(name, task=None):
    """The table's entry of a name; ValueError for one that is not there, or not of that ``task``."""
    names = [each for each, entry in LIKELIHOODS.items() if task in (None, entry.task)]
    if name in names:
        return LIKELIHOODS[name]
    if name in LIKELIHOODS:
        raise ValueError(f"likelihood {name!r} is for {LIKELIHOODS[name].task}. Choose one of {', '.join(names)}.")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"likelihood {name!r} is unknown{hint or '.'} Choose one of {', '.join(names)}.")


def refusal(likelihood, y, numbers=None):
    """Why some of the rows y (n, columns) cannot be targets of a likelihood for regression, in words; None if all can.

    ``numbers``: those of the rows, 0, 1, ... by default.
    """
    name, takes = type(likelihood).__name__, getattr(likelihood, "takes", "one column for each target")
    targets = getattr(likelihood, "targets", y.shape[1])
    columns = getattr(likelihood, "columns", targets)
    if y.shape[1] != columns:
        return f"{name} for {targets} target(s) takes {takes}: y must have shape (n, {columns}), got {y.shape}"
    if not hasattr(likelihood, "supports"):
        return None
    bad = np.flatnonzero(~likelihood.supports(y))
    if len(bad) == 0:
        return None
    places = bad[:10] if numbers is None else np.asarray(numbers)[bad[:10]]
    rows = ", ".join(map(str, places)) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
    return (
        f"{name} takes {takes}; y is not that in row(s) {rows}: the first has {', '.join(f'{v:g}' for v in y[bad[0]])}"
    )
