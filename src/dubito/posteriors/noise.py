"""Posteriors of a network with a noise from elsewhere: a Gamma-distributed precision, or a given noise network."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito._process.archive import expect
from dubito.models.model import Model
from dubito.posteriors.base import DRAWS, Posterior, Samples, Seed, Source
from dubito.posteriors.file_layout import FileLayout


@register_dataclass
@dataclass(frozen=True)
class GammaNoisePosterior(Posterior):
    """Draws of another posterior whose noise precision is replaced by τ_k ~ Gamma(shape_k, rate_k).

    The predictive distribution of one function is then Student's t. With ``n=None`` each draw of a
    chain gets one τ; a few points get several each, for 100 draws in total, point by point.

    Parameters
    ----------
    model : Model
        The model, whose likelihood is a Gaussian that learns τ.
    part : Posterior
        The posterior of the network's parameters.
    shape, rate : array
        The Gamma distribution of the τ of each target, (targets,).
    """

    model: Model
    part: Any = field()
    shape: Float[Array, " targets"]
    rate: Float[Array, " targets"]

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        key_part, key_noise = jax.random.split(key)
        if n is None and isinstance(self.part, Samples) and not self.part.by_chains:
            n = -(-DRAWS // len(self.part)) * len(self.part)
        found: list[Source] = []
        for part, seeds in self.part.sources(key_part, n):
            seeds = jnp.sort(seeds) if isinstance(part, Samples) else jnp.asarray(seeds)
            key_noise, key_own = jax.random.split(key_noise)
            own = jax.random.key_data(jax.random.split(key_own, len(seeds)))
            columns = seeds.astype(jnp.uint32).reshape(len(seeds), -1)  # a key's data, or an index
            noisy = GammaNoisePosterior(self.model, part, self.shape, self.rate)
            found.append((noisy, jnp.concatenate([columns, own], axis=1)))
        return found

    def draw(self, seed: Seed) -> Params:
        seed_part = seed[:-2] if len(seed) > 3 else seed[0].astype(jnp.int32)
        log_tau = jax.random.loggamma(prng.fast(seed[-2:]), self.shape, dtype=self.shape.dtype) - jnp.log(self.rate)
        return {**self.part.draw(seed_part), "likelihood": {"log_precision": log_tau}}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        expect(parts == [params], "the precision belongs to another model")
        expect("log_precision" in params["likelihood"], "the likelihood has no precision")
        precision = params["likelihood"]["log_precision"]
        return FileLayout({"shape": precision, "rate": precision}, {})


@register_dataclass
@dataclass(frozen=True)
class FixedNoisePosterior(Posterior):
    """Draws of another posterior beside one given noise network.

    Parameters
    ----------
    model : Model
        The model, whose network has parameters {"mean": ..., "noise": ...}.
    part : Posterior
        The posterior of the network "mean".
    noise : pytree of arrays
        The parameters of the network "noise".
    """

    model: Model
    part: Any = field()
    noise: Params

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        return [(FixedNoisePosterior(self.model, part, self.noise), seeds) for part, seeds in self.part.sources(key, n)]

    def draw(self, seed: Seed) -> Params:
        return {"network": {"mean": self.part.draw(seed)["network"], "noise": self.noise}, "likelihood": {}}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        expect(params["network"]["mean"] == parts[0]["network"], "the noise belongs to another network")
        return FileLayout({"noise": params["network"]["noise"]}, {})
