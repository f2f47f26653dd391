"""Likelihoods of classes: Bernoulli, categorical and ordinal."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito.models.likelihoods.base import LOG_2PI, Entry, Likelihood, OutcomeParams, WithoutParameters


class ClassLikelihood(Likelihood):
    """Base of likelihoods of classes: ``mean`` returns the probabilities p (rows, C), and the
    variance is p(1 − p).
    """

    task = "classification"

    def variance(self, z: OutcomeParams) -> Float[Array, "rows classes"]:
        p = self.mean(z)
        return p * (1 - p)


class ClassLogits(ClassLikelihood):
    """Base of likelihoods with z = {"logits": (rows, C)} and p = softmax(logits).

    y has class numbers (rows,), or one-hot or soft targets (rows, C).
    """

    def log_prob(self, z: OutcomeParams, y: Shaped[Array, "rows *classes"]) -> Float[Array, " rows"]:
        log_p = jax.nn.log_softmax(z["logits"], axis=1)
        if y.ndim == 1:
            return jnp.take_along_axis(log_p, y[:, None].astype(jnp.int32), axis=1)[:, 0]
        return jnp.sum(jnp.where(y == 0, 0, y.astype(log_p.dtype) * log_p), axis=1)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows classes"]:
        return jax.nn.softmax(z["logits"], axis=1)

    def sample(self, key: Key, z: OutcomeParams) -> Int[Array, " rows"]:
        return jax.random.categorical(key, z["logits"], axis=1).astype(jnp.int32)


@register_dataclass
@dataclass(frozen=True)
class Bernoulli(WithoutParameters, ClassLikelihood):
    """Two classes from one logit f: p(y = 1) = sigmoid(f/T).

    y has shape (rows,), with 0 and 1, or probabilities of class 1.

    Parameters
    ----------
    temperature : float
        T, which divides the logits.
    """

    temperature: float = 1.0

    classes = 2

    @property
    def width(self) -> int:
        return 1

    def join(self, f: Float[Array, "rows 1"], phi: Params) -> OutcomeParams:
        return {"logits": f / jnp.asarray(self.temperature, f.dtype)}

    def log_prob(self, z: OutcomeParams, y: Shaped[Array, " rows"]) -> Float[Array, " rows"]:
        f = z["logits"][:, 0]
        return y.astype(f.dtype) * f - jax.nn.softplus(f)

    def mean(self, z: OutcomeParams) -> Float[Array, "rows 2"]:
        p = jax.nn.sigmoid(z["logits"])
        return jnp.concatenate([jax.nn.sigmoid(-z["logits"]), p], axis=1)

    def sample(self, key: Key, z: OutcomeParams) -> Int[Array, " rows"]:
        return jax.random.bernoulli(key, jax.nn.sigmoid(z["logits"][:, 0])).astype(jnp.int32)


@register_dataclass
@dataclass(frozen=True)
class Categorical(WithoutParameters, ClassLogits):
    """C classes from C logits f: p(y = k) = softmax(f/T)_k.

    y has class numbers (rows,), or one-hot or soft targets (rows, C).

    Parameters
    ----------
    classes : int
        C, the number of classes.
    temperature : float
        T, which divides the logits.
    """

    classes: int = static(default=2)
    temperature: float = 1.0

    @property
    def width(self) -> int:
        return self.classes

    def join(self, f: Float[Array, "rows classes"], phi: Params) -> OutcomeParams:
        return {"logits": f / jnp.asarray(self.temperature, f.dtype)}


@register_dataclass
@dataclass(frozen=True)
class Ordered(ClassLogits):
    """C ordered classes from one output f: P(y ≤ k) = sigmoid(c_k − f), with learned cut points
    c_0 < ... < c_(C−2).

    At φ = 0 all classes are equally frequent where f = 0. φ_0 shifts c_0, and φ_k the log of the
    gap between c_(k−1) and c_k; φ ~ N(0, scale²). y is as in ``Categorical``.

    Parameters
    ----------
    classes : int
        C, the number of classes.
    scale : float
        The prior scale of φ.

    References
    ----------
    McCullagh (1980), "Regression models for ordinal data": the proportional odds model.
    """

    classes: int = static(default=3)
    scale: float = 2.0

    @property
    def width(self) -> int:
        return 1

    def init(self) -> Params:
        return {"cuts": jnp.zeros(self.classes - 1, jnp.float32)}

    def log_prior(self, phi: Params) -> Float[Array, ""]:
        scale = jnp.asarray(self.scale, phi["cuts"].dtype)
        return jnp.sum(-0.5 * (phi["cuts"] / scale) ** 2 - jnp.log(scale) - 0.5 * LOG_2PI)

    def join(self, f: Float[Array, "rows 1"], phi: Params) -> OutcomeParams:
        # the log probabilities: log(s(b) − s(a)) = log s(b) + log s(−a) + log(1 − e^(a − b)), without cancellation
        share = np.arange(1, self.classes) / self.classes
        start = np.log(share) - np.log1p(-share)
        gap = jnp.exp(phi["cuts"][1:]) * jnp.asarray(np.diff(start), f.dtype)
        first = phi["cuts"][:1] + jnp.asarray(start[:1], f.dtype)
        u = jnp.concatenate([first, first + jnp.cumsum(gap)])[None] - f
        below, above = jax.nn.log_sigmoid(u), jax.nn.log_sigmoid(-u)
        inner = below[:, 1:] + above[:, :-1] + jnp.log(-jnp.expm1(-gap))[None]
        return {"logits": jnp.concatenate([below[:, :1], inner, above[:, -1:]], axis=1)}


ENTRIES: dict[str, Entry] = {
    "bernoulli": Entry(
        Bernoulli, "log(1 + e^f) - yf", "binary cross-entropy", "sigmoid(f) - y", "two classes", "two classes"
    ),
    "categorical": Entry(
        Categorical,
        "log Σ_k e^f_k - f_y",
        "categorical cross-entropy",
        "softmax(f)_k - 1{k = y}",
        "classes",
        "classes without an order",
    ),
    "ordered": Entry(
        Ordered,
        "-log(s(c_y - f) - s(c_y-1 - f)), s = sigmoid, c_-1 = -∞, c_C-1 = ∞",
        "cumulative logits",
        "1 - s(c_y - f) - s(c_y-1 - f)",
        "classes in their order",
        "grades, stages, levels of agreement",
    ),
}
