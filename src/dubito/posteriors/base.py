"""The contract of posteriors over a model's parameters, samples, and mixtures of posteriors.

A posterior is sampled a few draws at a time, so that not all draws need be in memory:
``sources(key, n)`` is a list of pairs (posterior, seeds), and ``posterior.draw(seed)`` is one draw.
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
from dubito.posteriors.file_layout import FileLayout, check_positive, stacked_shapes

DRAWS = 100  # by default, of a posterior without a finite set of members
SCORING_DRAWS = 8  # for a score in training

Seed: TypeAlias = Array  # of one draw: an index, or the data of a key
Source: TypeAlias = tuple["Posterior", Shaped[Array, "draws ..."]]


class Posterior(abc.ABC):
    """A distribution over the parameters of a model.

    Subclasses are frozen dataclasses, registered as pytrees. They define ``sources`` and ``draw``.
    Those that a model file holds also define ``file_layout``, and ``file_values`` if they have
    ``file_keys``; the registry ``posteriors.by_name`` names them. A subclass with a field ``part``
    declares it as ``part: Posterior = field()``, since a dataclass would otherwise take the default
    of this class.

    Attributes
    ----------
    model : Model
        The model whose parameters are drawn, and with which they predict.
    part : Posterior or None
        The posterior to which this one adds a noise or an expansion.
    parts : tuple of Posterior
        The members of a mixture; empty for other posteriors.
    point : Posterior or None
        The posterior to show where a single network is displayed; None for this one.
    log_evidence : float or None
        log p(D) in nats, as the method approximates it; None if the method gives none.
    file_keys : tuple of str
        The names of ``file_values``.
    """

    model: Any
    part: Any = None
    parts: tuple[Any, ...] = ()
    point: Any = None
    log_evidence: Any = None
    file_keys: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        """The seeds of draws.

        Parameters
        ----------
        key : jax.Array
            Key of the random numbers.
        n : int, optional
            How many draws; None enumerates the members of a finite posterior, and gives 100 draws
            of another.

        Returns
        -------
        list of (Posterior, array)
            Pairs (posterior, seeds): a draw is ``posterior.draw(seed)`` for each of the seeds along
            their first axis.
        """

    @abc.abstractmethod
    def draw(self, seed: Seed) -> Params:
        """The draw of one seed.

        Parameters
        ----------
        seed : array
            A seed from ``sources``.

        Returns
        -------
        pytree of arrays
            A tree like the model's parameters.
        """

    def sample(self, key: Key, n: int | None = None) -> Params:
        """Draw parameters.

        Parameters
        ----------
        key : jax.Array
            Key of the random numbers.
        n : int, optional
            How many draws; None enumerates the members of a finite posterior, and gives 100 draws
            of another.

        Returns
        -------
        pytree of arrays
            A tree like the model's parameters, with a leading axis of draws.
        """
        drawn = [draw_seeds(part, seeds) for part, seeds in self.sources(fast(key), n)]
        return drawn[0] if len(drawn) == 1 else jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)

    def file_values(self) -> dict[str, Any]:
        """The values of ``file_keys`` in a model file.

        Returns
        -------
        dict
            Numbers, texts, None, and lists of these, by name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no values for a model file")

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        """What a model file holds of a posterior of this class.

        Parameters
        ----------
        params : pytree of jax.ShapeDtypeStruct
            Shapes of the model's parameters.
        parts : list of pytree
            Shapes of the parameters of the models of ``part`` or ``parts``.
        values : dict
            The JSON values of ``file_keys``, from a file that is not trusted.

        Returns
        -------
        FileLayout
            The shapes of the arrays, and the other fields.

        Raises
        ------
        ModelFileError
            If these do not fit together.
        """
        raise NotImplementedError(f"a posterior of type {cls.__name__} cannot be saved")


@programs.jit
def draw_seeds(part: Posterior, seeds: Shaped[Array, "draws ..."]) -> Params:
    """The draws of these seeds, with a leading axis."""
    return jax.vmap(part.draw)(seeds)


def log_mean_prob(posterior: Posterior, batch: Batch, key: Key) -> Float[Array, " rows"]:
    """log (1/8) Σ_s p(y | θ_s) of each row in nats, over 8 draws: the score of early stopping."""
    model, draws = posterior.model, posterior.sample(key, SCORING_DRAWS)
    rows = jax.vmap(lambda one: model.likelihood.log_prob_observed(model.outputs(one, batch.x), batch.y))(draws)
    return jax.nn.logsumexp(rows, axis=0) - jnp.log(float(SCORING_DRAWS))


class KeyedPosterior(Posterior):
    """A posterior each of whose draws is a function of its own key."""

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        return [(self, jax.random.key_data(jax.random.split(key, DRAWS if n is None else n)))]


@register_dataclass
@dataclass(frozen=True)
class Samples(Posterior):
    """Equally weighted parameters: one set for a point estimate, many for a sampler's draws.

    Parameters
    ----------
    model : Model
        The model of the parameters.
    params : pytree of arrays
        A tree like the model's parameters, with a leading axis of draws.
    chains : int
        The number of independent runs that the draws come from, equally many from each, one run's
        after another's.
    """

    model: Model
    params: Params
    chains: int = static(default=1)

    file_keys: ClassVar[tuple[str, ...]] = ("draws", "chains")

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.params)[0])

    @property
    def by_chains(self) -> bool:
        """Whether there are several draws from each run, which are correlated, not one point from each."""
        return len(self) > self.chains

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        return [(self, jnp.arange(len(self)) if n is None else stratified_indices(key, len(self), n))]

    def draw(self, seed: Seed) -> Params:
        return jax.tree.map(lambda leaf: leaf[seed], self.params)

    def file_values(self) -> dict[str, Any]:
        return {"draws": len(self), "chains": self.chains}

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        draws, chains = check_positive(values, "draws"), check_positive(values, "chains")
        expect(draws % chains == 0, "the number of draws is not a multiple of the number of chains")
        return FileLayout({"params": stacked_shapes(params, draws)}, {"chains": chains})


@register_dataclass
@dataclass(frozen=True)
class Mixture(Posterior):
    """Equal shares of other posteriors of one model: an ensemble of any method.

    Parameters
    ----------
    model : Model
        The model of all parts.
    parts : tuple of Posterior
        The members.
    """

    model: Model
    parts: tuple[Any, ...]

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        count, keys = len(self.parts), jax.random.split(key, len(self.parts) + 1)
        if n is not None:
            shares = np.bincount(np.asarray(stratified_indices(keys[0], count, n)), minlength=count).tolist()
        elif all(isinstance(part, Samples) for part in self.parts):
            sizes = [len(part) for part in self.parts]
            shares = [None if len(set(sizes)) == 1 else math.lcm(*sizes)] * count  # each the same share
        else:
            shares = [-(-DRAWS // count)] * count
        each = zip(self.parts, keys[1:], shares, strict=True)
        return [source for part, k, n in each if n is None or n > 0 for source in part.sources(k, n)]

    def draw(self, seed: Seed) -> Params:
        raise TypeError("a mixture has no draws of its own: use sample or sources")

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        expect(all(part == params for part in parts), "the parts of a mixture differ")
        return FileLayout({}, {})


def unwrapped(posterior: Any) -> Any:
    """The posterior inside those that add a noise or an expansion to it; any other object as it is."""
    while isinstance(posterior, Posterior) and posterior.part is not None:
        posterior = posterior.part
    return posterior


def stratified_indices(key: Key, count: int, n: int) -> Int[Array, " n"]:
    """n indices below ``count``: each appears ⌊n/count⌋ or ⌈n/count⌉ times, at random which more often."""
    return jax.random.permutation(key, count)[jnp.arange(n) % count]
