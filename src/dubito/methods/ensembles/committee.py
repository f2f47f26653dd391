"""Cross-validated committees (Parmanto, Munro & Doyle, NIPS 1996): an ensemble whose members each leave a fold out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito.posteriors.base import Mixture
from dubito.training.fit import grouped


@register_dataclass
@dataclass(frozen=True)
class Committee:
    """``folds`` runs of ``method``, each without one fold of the rows, as a ``Mixture`` of one part a fold.

    Members know nothing of their fold, neither by training nor by stopping on it, so that their errors there are those of
    new rows: CV+ intervals and sets are made of them (``comparison.cross_validated``, ``conformal.cv_plus``). They keep the noise that they learned;
    ``CrossFit``, which stops on the folds, has a better one. The folds are ``assigned`` without chance.
    """

    method: Any
    folds: int = static(default=10)

    def check(self, model):
        if not (isinstance(self.folds, int) and self.folds >= 2):
            raise ValueError(f"a committee needs at least 2 folds, got folds={self.folds!r}")
        self.method.check(model)

    def members(self, rows, key):
        fold, found = assigned(rows.y, self.folds), []
        for number, k in enumerate(prng.keys(key, min(self.folds, len(fold)))):
            left = np.where(fold == number, 0, rows.train).astype(np.float32)
            if not left.any():
                raise ValueError(f"a committee needs rows of a weight above 0 in at least 2 of {self.folds} folds")
            found += self.method.members(rows._replace(train=left, valid=np.where(fold == number, 0, rows.valid)), k)
        return found

    def finish(self, model, trained, key, run):
        fold = assigned(trained.rows.y, self.folds)
        count = min(self.folds, len(fold))
        groups = grouped(trained, count)
        if len(groups) < count:
            raise ValueError(f"{count - len(groups)} members of the committee diverged: lower the learning rate")
        parts = []
        for number, (group, k) in enumerate(zip(groups, prng.keys(key, len(groups)), strict=True)):
            left = np.where(fold == number, 0, trained.rows.train).astype(np.float32)
            seen = replace(group, rows=trained.rows._replace(train=left))
            parts.append(self.method.finish(model, seen, k, run))
        if any(part.model != parts[0].model for part in parts):
            raise ValueError(
                "the members predict with different models, each with a temperature of its own: leave it out"
            )
        return Mixture(parts[0].model, tuple(parts))


def assigned(y, folds):
    """The fold of each row, (N,): every ``folds``-th row is in the same; of class indices (N,) every ``folds``-th of a class."""
    fold = np.empty(len(y), int)
    order = np.argsort(y, kind="stable") if y.ndim == 1 else np.arange(len(y))
    fold[order] = np.arange(len(y)) % folds
    return fold
