"""Cross-validated committees (Parmanto, Munro & Doyle, NIPS 1996): an ensemble whose members each leave a fold out."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dubito._check import check_whole
from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.ensembles.ensemble import finish_runs
from dubito.methods.types import Key, Member, Model, Rows, Trained
from dubito.posteriors.base import Mixture
from dubito.training.members import split_runs
from dubito.training.method import Wrapper
from dubito.training.splits import member_folds


@register_dataclass
@dataclass(frozen=True)
class Committee(Wrapper):
    """Runs of a method, each without one fold of the rows, as a ``Mixture`` of one part for each fold.

    No member is trained or early-stopped on its own fold, so its errors there are out-of-sample
    errors, from which CV+ makes intervals and sets (``conformal.cv_plus``). Members keep the noise
    that they learned; that of ``CrossFit``, which stops on the folds, is better. The folds are
    ``splits.member_folds``, without randomness.

    Parameters
    ----------
    method : Method
        The method of the members.
    folds : int
        The number of folds, at least 2.
    """

    folds: int = static(default=10)

    every_row: ClassVar[bool] = True
    has_folds: ClassVar[bool] = True
    runs_field: ClassVar[str | None] = "folds"

    def check(self, model: Model) -> None:
        check_whole("folds", self.folds, 2)
        self.method.check(model)

    def members(self, rows: Rows, key: Key) -> list[Member]:
        parts = self.without_folds(rows)
        if not all(part.train.any() for part in parts):
            raise ValueError(f"a committee needs rows of a weight above 0 in at least 2 of {self.folds} folds")
        if rows.valid.any() and not all(part.valid.any() for part in parts):
            problem = (
                "the rows held out for early stopping are all in one fold of the committee, whose member needs others."
            )
            raise ValueError(f"{problem} Increase validation_fraction, or leave out early_stopping.")
        each = zip(parts, prng.keys(key, len(parts)), strict=True)
        return [member for part, k in each for member in self.method.members(part, k)]

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Mixture:
        seen = self.without_folds(trained.rows)
        groups = split_runs(trained, len(seen))
        if len(groups) < len(seen):
            raise ValueError(f"{len(seen) - len(groups)} members of the committee diverged: lower the learning rate")
        runs = [replace(group, rows=rows) for group, rows in zip(groups, seen, strict=True)]
        parts = finish_runs(self.method, model, runs, key, run)
        if any(part.model != parts[0].model for part in parts):
            raise ValueError(
                "the members have different models, since each estimated its own temperature. Use a method without one."
            )
        return Mixture(parts[0].model, tuple(parts))

    def without_folds(self, rows: Rows) -> list[Rows]:
        """The rows of each member.

        Parameters
        ----------
        rows : Rows
            All rows.

        Returns
        -------
        list of Rows
            With weight 0 on one fold each, for training and validation.
        """
        seen = [fold.train for fold in member_folds(rows, self.folds)]
        return [
            rows._replace(
                train=np.where(each, rows.train, np.float32(0)), valid=np.where(each, rows.valid, np.float32(0))
            )
            for each in seen
        ]
