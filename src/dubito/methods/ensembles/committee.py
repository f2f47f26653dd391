"""Cross-validated committees (Parmanto, Munro & Doyle, NIPS 1996): an ensemble whose members each leave a fold out."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key
from dubito.models.model import Model
from dubito.posteriors.base import Mixture
from dubito.training.data import Rows
from dubito.training.members import Member, Trained, split_runs
from dubito.training.method import Wrapper
from dubito.training.splits import interleaved_folds


@register_dataclass
@dataclass(frozen=True)
class Committee(Wrapper):
    """Runs of a method, each without one fold of the rows, as a ``Mixture`` of one part for each fold.

    No member is trained or early-stopped on its own fold, so its errors there are out-of-sample errors: CV+ intervals and
    sets are made of them (``conformal.cv_plus``). Members keep the noise that they learned; ``CrossFit``, which stops on the
    folds, has a better one. The folds are ``splits.interleaved_folds``, without randomness.

    Parameters
    ----------
    method : Method
    folds : int
        At least 2.
    """

    folds: int = static(default=10)

    every_row: ClassVar[bool] = True
    runs_field: ClassVar[str | None] = "folds"

    def check(self, model: Model) -> None:
        if not (isinstance(self.folds, int) and self.folds >= 2):
            raise ValueError(f"a committee needs at least 2 folds, got folds={self.folds!r}")
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        fold, found = interleaved_folds(rows.y, self.folds), []
        for number, k in enumerate(prng.keys(key, min(self.folds, len(fold)))):
            left = np.where(fold == number, 0, rows.train).astype(np.float32)
            if not left.any():
                raise ValueError(f"a committee needs rows of a weight above 0 in at least 2 of {self.folds} folds")
            found += self.method.members(rows._replace(train=left, valid=np.where(fold == number, 0, rows.valid)), k)
        return found

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Mixture:
        fold = interleaved_folds(trained.rows.y, self.folds)
        count = min(self.folds, len(fold))
        groups = split_runs(trained, count)
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
