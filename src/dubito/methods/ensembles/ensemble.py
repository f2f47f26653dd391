"""Ensembles of anything (Hansen & Salamon 1990; Lakshminarayanan et al., NeurIPS 2017)."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito.posteriors.base import Mixture, Samples
from dubito.training.fit import grouped


@register_dataclass
@dataclass(frozen=True)
class Ensemble:
    """``size`` runs of ``method`` from different starts, as the mixture (1/M) Σ p(y | D, run).

    Members differ by their keys only; where the runs agree there is no doubt, so a convex problem collapses to one.
    """

    method: Any
    size: int = static(default=5)

    def check(self, model):
        if not (isinstance(self.size, int) and self.size >= 1):
            raise ValueError(f"an ensemble has at least one member, got size={self.size!r}")
        self.method.check(model)

    def members(self, rows, key):
        return [member for k in prng.keys(key, self.size) for member in self.method.members(rows, k)]

    def finish(self, model, trained, key, run):
        groups = grouped(trained, self.size)
        keys = prng.keys(key, len(groups))
        return joined([self.method.finish(model, group, k, run) for group, k in zip(groups, keys, strict=True)])


def joined(parts):
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
