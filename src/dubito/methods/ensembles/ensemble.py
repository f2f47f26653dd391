"""Ensembles of anything (Hansen & Salamon 1990; Lakshminarayanan et al., NeurIPS 2017)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key
from dubito.models.model import Model
from dubito.posteriors.base import Mixture, Samples
from dubito.training.data import Rows
from dubito.training.members import Member, Trained, split_runs
from dubito.training.method import Wrapper


@register_dataclass
@dataclass(frozen=True)
class Ensemble(Wrapper):
    """Runs of a method from different starts, as the mixture (1/M) Σ p(y | D, run).

    Members differ by their keys only; where the runs agree there is no epistemic uncertainty, so a convex problem collapses to
    one.

    Parameters
    ----------
    method : Method
    size : int
        The number of runs M.
    """

    size: int = static(default=5)

    runs_field: ClassVar[str | None] = "size"

    def check(self, model: Model) -> None:
        if not (isinstance(self.size, int) and self.size >= 1):
            raise ValueError(f"an ensemble has at least one member, got size={self.size!r}")
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return [member for k in prng.keys(key, self.size) for member in self.method.members(rows, k)]

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Samples | Mixture:
        runs = split_runs(trained, self.size)
        keys = prng.keys(key, len(runs))
        return combine([self.method.finish(model, one, k, run) for one, k in zip(runs, keys, strict=True)])


def combine(parts: list[Any]) -> Samples | Mixture:
    """Points become one set of samples; anything else a mixture. ValueError where the parts predict with different models."""
    if any(part.model != parts[0].model for part in parts):
        raise ValueError(
            "the members predict with different models (each run found a temperature of its own): wrap the other way "
            "round, CrossFit(Ensemble(...))"
        )
    if all(isinstance(part, Samples) for part in parts):
        params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[part.params for part in parts])
        params = jax.device_put(params)  # joined on the host: no program for each number of members
        return Samples(parts[0].model, params, sum(part.chains for part in parts))
    return Mixture(parts[0].model, tuple(parts))
