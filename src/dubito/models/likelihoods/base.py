"""Likelihoods p(y given z): the criterion of training and the noise of prediction, in one object.

Squared error *is* the Gaussian, cross-entropy *is* the Bernoulli or Categorical. The contract, which a likelihood from
outside may fulfil as well (n rows; K targets or C classes):

======================  ==============================================================================================
``task``                ``"regression"`` or ``"classification"``
``width``               how many network outputs it needs
``init()``              its own parameters φ (a pytree, empty if it has none)
``log_prior(phi)``      their log prior density, a scalar in nats
``join(f, phi)``        z: the network's outputs (n, width) together with the noise, so that every draw carries both
``log_prob(z, y)``      log p(y given z) per row, (n,), in nats
``mean(z)``             (n, K); for classes the probabilities (n, C)
``variance(z)``         (n, K); for classes p(1 − p)
``cdf(z, y)``           P(Y ≤ y) for each target, (n, K); regression only
``sample(key, z)``      one draw of y a row, (n, K), or class indices (n,)
======================  ==============================================================================================

z is a dict of arrays with rows first. Targets are standardized inside, so all of this is in standardized units; what is
special about a likelihood stands in attributes that may be left out:

======================  ==============================================================================================
``moves``               False: targets must stay as they are (counts), not be shifted and scaled; True if left out
``discrete``            True: targets are whole numbers, with probabilities for a density; False if left out
``columns``             how many columns y has, if not one for each target: K more mark the censored ones with 1
``takes``               what y may be, in words; and ``supports(y)``: which rows of a NumPy y (n, K) are that, (n,)
``shifted(z, offset)``  z of Y − offset, offset (n, K), for location families: float32 then holds digits of y − mean,
                        however far from 0 the mean is; without it y itself is what float32 has of it
======================  ==============================================================================================
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special

from dubito._jax.pytree import register_dataclass, static

LOG_2PI = 1.8378770664093453
LARGEST_ERROR = 1e18  # in units of the noise, of Student's t: its square is a float32


@register_dataclass
@dataclass(frozen=True)
class Gaussian:
    """y ~ N(f, 1/τ), one noise precision τ for each target.

    ``precision`` fixes τ (a number, in units of 1/target², standardized inside a table's estimators); None learns it
    with a prior τ ~ Gamma(``shape``, ``rate``), whose density is stated for log τ, the parameter that is learned.
    """

    precision: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    task = "regression"

    @property
    def width(self):
        return self.targets

    def init(self):
        return {} if self.precision is not None else {"log_precision": jnp.zeros(self.targets, jnp.float32)}

    def log_prior(self, phi):
        if self.precision is not None:
            return jnp.asarray(0.0)
        return jnp.sum(log_gamma_density(phi["log_precision"], self.shape, self.rate))

    def join(self, f, phi):
        log_precision = (
            phi["log_precision"] if self.precision is None else jnp.log(jnp.asarray(self.precision, f.dtype))
        )
        return {"mean": f, "scale": jnp.broadcast_to(jnp.exp(-0.5 * log_precision), f.shape)}

    def log_prob(self, z, y):
        return gaussian_log_prob(z, y)

    def mean(self, z):
        return z["mean"]

    def shifted(self, z, offset):
        return {**z, "mean": z["mean"] - offset}

    def variance(self, z):
        return z["scale"] ** 2

    def cdf(self, z, y):
        return special.ndtr((y - z["mean"]) / z["scale"])

    def sample(self, key, z):
        return z["mean"] + z["scale"] * jax.random.normal(key, z["mean"].shape, z["mean"].dtype)


@register_dataclass
@dataclass(frozen=True)
class HeteroscedasticGaussian:
    """y ~ N(m, σ²), both from the network: f = (m, ρ), 2K outputs for K targets.

    ``link="softplus"``: σ = softplus(ρ) + ``floor``; ``link="exp"``: σ = e^ρ + ``floor``.
    """

    floor: float = 1e-3
    targets: int = static(default=1)
    link: str = static(default="softplus")

    task = "regression"

    @property
    def width(self):
        return 2 * self.targets

    def init(self):
        return {}

    def log_prior(self, phi):
        del phi
        return jnp.asarray(0.0)

    def join(self, f, phi):
        del phi
        positive = {"softplus": jax.nn.softplus, "exp": jnp.exp}[self.link]
        return {"mean": f[:, : self.targets], "scale": positive(f[:, self.targets :]) + self.floor}

    log_prob = Gaussian.log_prob
    mean = Gaussian.mean
    shifted = Gaussian.shifted
    variance = Gaussian.variance
    cdf = Gaussian.cdf
    sample = Gaussian.sample


@register_dataclass
@dataclass(frozen=True)
class StudentT:
    """y ~ m + σ t_ν, for errors with tails heavier than a Gaussian's; f = (m, log σ), 2K outputs for K targets.

    ``df`` is ν, an even number of at least 4: the variance σ²ν/(ν − 2) is finite and the cdf is algebraic.
    """

    df: int = static(default=4)
    targets: int = static(default=1)

    task = "regression"

    @property
    def width(self):
        return 2 * self.targets

    init = HeteroscedasticGaussian.init
    log_prior = HeteroscedasticGaussian.log_prior
    mean = Gaussian.mean
    shifted = Gaussian.shifted

    def join(self, f, phi):
        del phi
        return {"mean": f[:, : self.targets], "scale": jnp.exp(f[:, self.targets :])}

    def log_prob(self, z, y):
        error = (y - z["mean"]) / z["scale"]
        half = 0.5 * (self.df + 1)
        level = math.lgamma(half) - math.lgamma(0.5 * self.df) - 0.5 * math.log(math.pi * self.df)
        return jnp.sum(level - half * jnp.log1p(error**2 / self.df) - jnp.log(z["scale"]), axis=1)

    def variance(self, z):
        return z["scale"] ** 2 * (self.df / (self.df - 2))

    def cdf(self, z, y):
        """F(u) = ½ + ½ s Σ_{k<ν/2} C(2k, k) (q/4)^k with q = ν/(ν + u²), s = sign(u) √(1 − q), for even ν."""
        u = (y - z["mean"]) / z["scale"]
        u = jnp.where(jnp.abs(u) < LARGEST_ERROR, u, jnp.copysign(LARGEST_ERROR, u))
        q = self.df / (self.df + u**2)
        series = sum(math.comb(2 * k, k) * (q / 4) ** k for k in range(self.df // 2))
        return 0.5 + 0.5 * u / jnp.sqrt(self.df + u**2) * series

    def sample(self, key, z):
        return z["mean"] + z["scale"] * jax.random.t(key, self.df, z["mean"].shape, z["mean"].dtype)


@register_dataclass
@dataclass(frozen=True)
class LaplaceNoise:
    """y ~ Laplace(f, b), one scale b for each target: absolute error |y − f|/b, of which f is the median.

    ``scale`` fixes b (in units of the target, standardized inside a table's estimators); None learns it with a prior
    1/b ~ Gamma(``shape``, ``rate``), stated for log b.
    """

    scale: float | None = None
    shape: float = 1.0
    rate: float = 0.01
    targets: int = static(default=1)

    task = "regression"
    width = Gaussian.width
    mean = Gaussian.mean
    shifted = Gaussian.shifted

    def init(self):
        return {} if self.scale is not None else {"log_scale": jnp.zeros(self.targets, jnp.float32)}

    def log_prior(self, phi):
        if self.scale is not None:
            return jnp.asarray(0.0)
        return jnp.sum(log_gamma_density(-phi["log_scale"], self.shape, self.rate))

    def join(self, f, phi):
        log_scale = phi["log_scale"] if self.scale is None else jnp.log(jnp.asarray(self.scale, f.dtype))
        return {"mean": f, "scale": jnp.broadcast_to(jnp.exp(log_scale), f.shape)}

    def log_prob(self, z, y):
        return jnp.sum(-jnp.abs((y - z["mean"]) / z["scale"]) - jnp.log(2 * z["scale"]), axis=1)

    def variance(self, z):
        return 2 * z["scale"] ** 2

    def cdf(self, z, y):
        u = (y - z["mean"]) / z["scale"]  # each tail by its own exponential: neither loses digits nor overflows
        return 0.5 * jnp.exp(jnp.minimum(u, 0)) - 0.5 * jnp.expm1(-jnp.maximum(u, 0))

    def sample(self, key, z):
        return z["mean"] + z["scale"] * jax.random.laplace(key, z["mean"].shape, z["mean"].dtype)


@register_dataclass
@dataclass(frozen=True)
class Bernoulli:
    """Two classes from one logit f: p(y = 1) = sigmoid(f). y is (n,) of 0 and 1, or probabilities of class 1.

    Logits are divided by ``temperature``.
    """

    temperature: float = 1.0

    task = "classification"
    width = 1

    def init(self):
        return {}

    def log_prior(self, phi):
        del phi
        return jnp.asarray(0.0)

    def join(self, f, phi):
        del phi
        return {"logits": f / jnp.asarray(self.temperature, f.dtype)}

    def log_prob(self, z, y):
        f = z["logits"][:, 0]
        return y.astype(f.dtype) * f - jax.nn.softplus(f)

    def mean(self, z):
        p = jax.nn.sigmoid(z["logits"])
        return jnp.concatenate([jax.nn.sigmoid(-z["logits"]), p], axis=1)

    def variance(self, z):
        p = self.mean(z)
        return p * (1 - p)

    def sample(self, key, z):
        return jax.random.bernoulli(key, jax.nn.sigmoid(z["logits"][:, 0])).astype(jnp.int32)


@register_dataclass
@dataclass(frozen=True)
class Categorical:
    """C classes from C logits f: p(y = k) = softmax(f)_k. y is (n,) class indices, or (n, C) one-hot or soft targets.

    Logits are divided by ``temperature``.
    """

    classes: int = static(default=2)
    temperature: float = 1.0

    task = "classification"

    @property
    def width(self):
        return self.classes

    init = Bernoulli.init
    log_prior = Bernoulli.log_prior
    join = Bernoulli.join
    variance = Bernoulli.variance

    def log_prob(self, z, y):
        log_p = jax.nn.log_softmax(z["logits"], axis=1)
        if y.ndim == 1:
            return jnp.take_along_axis(log_p, y[:, None].astype(jnp.int32), axis=1)[:, 0]
        return jnp.sum(jnp.where(y == 0, 0, y.astype(log_p.dtype) * log_p), axis=1)

    def mean(self, z):
        return jax.nn.softmax(z["logits"], axis=1)

    def sample(self, key, z):
        return jax.random.categorical(key, z["logits"], axis=1).astype(jnp.int32)


def shifted(likelihood, z, offset):
    """z of Y − offset, where the likelihood has ``shifted``, else z; ``origin_near`` gives an offset for both."""
    return likelihood.shifted(z, offset) if hasattr(likelihood, "shifted") else z


def origin_near(likelihood, y):
    """What to measure values near ``y`` (n, K) from: y in float32, or 0 for a likelihood without ``shifted``."""
    with np.errstate(over="ignore"):
        near = np.asarray(y).astype(np.float32)
    return near if hasattr(likelihood, "shifted") else np.zeros_like(near)


def gaussian_log_prob(z, y):
    """Σ_k log N(y_k | mean_k, scale_k²) per row, (n,)."""
    error = (y - z["mean"]) / z["scale"]
    return jnp.sum(-0.5 * error**2 - jnp.log(z["scale"]) - 0.5 * LOG_2PI, axis=1)


def log_gamma_density(log_value, shape, rate):
    """Log density of log v where v ~ Gamma(shape, rate): the Jacobian of the logarithm turns v^(a−1) into v^a.

    A shape of at most 0 is improper, and has no constant.
    """
    shape, rate = jnp.asarray(shape, log_value.dtype), jnp.asarray(rate, log_value.dtype)
    return (
        shape * (jnp.log(rate) + log_value)
        - rate * jnp.exp(log_value)
        - special.gammaln(jnp.where(shape > 0, shape, 1))
    )
