"""The contract of posteriors over a model's parameters, and the two that hold other things: samples, and mixtures of posteriors.

Posteriors are drawn from a few at a time, so that draws need not all be held: ``sources(key, n)`` is a list of pairs (posterior,
seeds), and ``posterior.draw(seed)`` is one draw.
"""

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from dubito._jax import programs
from dubito._jax.prng import fast
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito._process.archive import expect
from dubito.models.model import Batch, Model
from dubito.posteriors.file_layout import FileLayout, positive, stacked_shapes

DRAWS = 100  # of a posterior that is not finite, where no number is given
SCORED = 8  # draws for a score in training

Seed: TypeAlias = Array  # of one draw: an index, or the data of a key
Source: TypeAlias = tuple["Posterior", Shaped[Array, "draws ..."]]


class Posterior(abc.ABC):
    """A distribution over the parameters of a model. Subclasses are frozen dataclasses, registered as pytrees.

    A subclass defines ``sources`` and ``draw``; one that model files hold also ``file_layout``, and ``file_values`` if it has
    ``file_keys``. A subclass with a field ``part`` writes it as ``part: Posterior = field()``: a dataclass would otherwise take
    the default of this class.

    Attributes
    ----------
    model
        The model whose parameters are drawn, and with which they predict.
    part
        The posterior that this one adds a noise or an expansion to; None where there is none.
    parts
        The members of a mixture; empty for other posteriors.
    point
        The posterior that stands for this one where a single network is looked at; None for this one itself.
    log_evidence
        log p(D) in nats, as the method approximates it; None where the method gives none.
    """

    model: Any
    part: Any = None
    parts: tuple = ()
    point: Any = None
    log_evidence: Any = None
    file_keys: ClassVar[tuple[str, ...]] = ()  # names of ``file_values``

    @abc.abstractmethod
    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        """Where the draws come from.

        Parameters
        ----------
        key
            Key of the random numbers.
        n
            How many draws; None enumerates the members of a finite posterior, and gives 100 draws of another.

        Returns
        -------
        list of (posterior, seeds)
            A draw is ``posterior.draw(seed)``, for each of the seeds along their first axis.
        """

    @abc.abstractmethod
    def draw(self, seed: Seed) -> Params:
        """The draw of one seed from ``sources``: a tree like the model's parameters."""

    def sample(self, key: Key, n: int | None = None) -> Params:
        """Draw parameters.

        Parameters
        ----------
        key
            Key of the random numbers.
        n
            How many draws; None enumerates the members of a finite posterior, and gives 100 draws of another.

        Returns
        -------
        Params
            A tree like the model's parameters, with a leading axis of draws.
        """
        drawn = [drawn_from(part, seeds) for part, seeds in self.sources(fast(key), n)]
        return drawn[0] if len(drawn) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)

    def file_values(self) -> dict[str, Any]:
        """The values of ``file_keys`` in a model file: numbers, texts, None, and lists of these."""
        raise NotImplementedError(f"{type(self).__name__} has no values for a model file")

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        """What a model file holds of a posterior of this class.

        Parameters
        ----------
        params
            Shapes of the model's parameters.
        parts
            Shapes of the parameters of the models of ``part`` or ``parts``.
        values
            The JSON values of ``file_keys``, from a file that is not trusted.

        Raises
        ------
        ModelFileError
            Where these do not fit together.
        """
        raise NotImplementedError(f"a posterior of type {cls.__name__} cannot be saved")


@programs.jit
def drawn_from(part: Posterior, seeds: Shaped[Array, "draws ..."]) -> Params:
    """The draws of these seeds, with a leading axis."""
    return jax.vmap(part.draw)(seeds)


def log_mean_prob(posterior: Posterior, batch: Batch, key: Key) -> Float[Array, "rows"]:
    """log (1/8) Σ_s p(y | θ_s) of each row of a batch, in nats, over 8 draws: the score of early stopping."""
    model, draws = posterior.model, posterior.sample(key, SCORED)
    rows = jax.vmap(lambda one: model.likelihood.log_prob(model.outputs(one, batch.x), batch.y))(draws)
    return jax.nn.logsumexp(rows, axis=0) - jnp.log(float(SCORED))


class KeyedPosterior(Posterior):
    """A posterior whose every draw is a function of a key of its own."""

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        return [(self, jax.random.key_data(jax.random.split(key, DRAWS if n is None else n)))]


@register_dataclass
@dataclass(frozen=True)
class Samples(Posterior):
    """Equally weighted parameters: one set for a point estimate, many for a sampler's draws.

    Parameters
    ----------
    model
        The model they are parameters of.
    params
        A tree like the model's parameters, with a leading axis of draws.
    chains
        How many independent runs the draws are of, equally many of each, one run's after another's.
    """

    model: Model
    params: Any
    chains: int = static(default=1)

    file_keys = ("draws", "chains")

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.params)[0])

    @property
    def by_chains(self) -> bool:
        """Whether there are several draws of each run, which are correlated, rather than one point of each."""
        return len(self) > self.chains

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        return [(self, jnp.arange(len(self)) if n is None else stratified(key, len(self), n))]

    def draw(self, seed: Seed) -> Params:
        return jax.tree.map(lambda leaf: leaf[seed], self.params)

    def file_values(self) -> dict[str, Any]:
        return {"draws": len(self), "chains": self.chains}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del parts
        draws, chains = positive(values, "draws"), positive(values, "chains")
        expect(draws % chains == 0, "draws that are not the same number of each chain")
        return FileLayout({"params": stacked_shapes(params, draws)}, {"chains": chains})


@register_dataclass
@dataclass(frozen=True)
class Mixture(Posterior):
    """Equal shares of other posteriors of one model: an ensemble of any method.

    Parameters
    ----------
    model
        The model of all parts.
    parts
        The posteriors.
    """

    model: Model
    parts: tuple

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        keys = jax.random.split(key, len(self.parts) + 1)
        if n is not None:
            shares = np.bincount(np.asarray(stratified(keys[0], len(self.parts), n)), minlength=len(self.parts))
        elif all(isinstance(part, Samples) for part in self.parts):
            sizes = [len(part) for part in self.parts]
            shares = [None if len(set(sizes)) == 1 else math.lcm(*sizes)] * len(sizes)  # each the same share
        else:
            shares = [-(-DRAWS // len(self.parts))] * len(self.parts)
        each = zip(self.parts, keys[1:], shares, strict=True)
        return [source for part, k, n in each if n is None or n > 0 for source in part.sources(k, n)]

    def draw(self, seed: Seed) -> Params:
        raise TypeError("a mixture is drawn from by its parts: use sample, or sources")

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        del values
        expect(all(part == params for part in parts), "the parts of a mixture differ")
        return FileLayout({}, {})


def unwrapped(posterior: Any) -> Any:
    """The posterior inside those that add a noise or an expansion to it; any other object as it is."""
    while isinstance(posterior, Posterior) and posterior.part is not None:
        posterior = posterior.part
    return posterior


def stratified(key: Key, count: int, n: int) -> Int[Array, "n"]:
    """n indices below ``count``: each appears ⌊n/count⌋ or ⌈n/count⌉ times, which ones more often is random."""
    order = jax.random.permutation(key, count)
    return order[jnp.arange(n) % count]
