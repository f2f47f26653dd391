"""The checks of a method's settings, and of the prior that it needs."""

from typing import Any

from dubito._check import check_number
from dubito.models.model import Model
from dubito.models.priors import Normal


def check_normal_prior(method: Any, model: Model) -> None:
    """Raise ValueError unless the model's prior is a Normal."""
    if not isinstance(model.prior, Normal):
        raise ValueError(f"{type(method).__name__} needs a Normal prior, got {type(model.prior).__name__}")


def check_intervals(method: Any, **intervals: str) -> None:
    """Raise ValueError unless settings of a method are numbers in their intervals, as in ``momentum="[0, 1)"``."""
    for name, interval in intervals.items():
        check_number(name, vars(method)[name], interval)
