"""Ensembles of anything (Hansen & Salamon 1990; Lakshminarayanan et al., NeurIPS 2017)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from dubito._check import check_whole
from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.types import Key, Member, Model, Rows, Trained
from dubito.posteriors.base import Mixture, Samples
from dubito.training.members import split_runs
from dubito.training.method import Method, Wrapper


@register_dataclass
@dataclass(frozen=True)
class Ensemble(Wrapper):
    """Runs of a method from different starts, as the mixture (1/M) Σ p(y | D, run).

    Members differ by their keys only; where the runs agree there is no epistemic uncertainty, so
    for a convex problem there is none.

    Parameters
    ----------
    method : Method
        The method of the members.
    size : int
        The number of runs M.
    """

    size: int = static(default=5)

    runs_field: ClassVar[str | None] = "size"

    def check(self, model: Model) -> None:
        check_whole("size", self.size, 1)
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return [member for k in prng.keys(key, self.size) for member in self.method.members(rows, k)]

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples | Mixture:
        return combine(finish_runs(self.method, model, split_runs(trained, self.size), key, run))


def finish_runs(method: Method, model: Model, runs: list[Trained], key: Key, run: Any) -> list[Any]:
    """The posterior of each run of a method."""
    keys = prng.keys(key, len(runs))
    return [method.finish(model, one, k, run) for one, k in zip(runs, keys, strict=True)]


def combine(parts: list[Any]) -> Samples | Mixture:
    """Points become one set of samples; anything else a mixture. ValueError where the parts predict with different models."""
    if any(part.model != parts[0].model for part in parts):
        raise ValueError(
            "the members have different models, since each run estimated its own temperature or tail of the noise. "
            "Use CrossFit(Ensemble(...)) instead, or give CrossFit a df."
        )
    if all(isinstance(part, Samples) for part in parts):
        params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[part.params for part in parts])
        params = jax.device_put(params)  # joined on the host: no program for each number of members
        return Samples(parts[0].model, params, sum(part.chains for part in parts))
    return Mixture(parts[0].model, tuple(parts))
