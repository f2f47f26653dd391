"""The checks of a method's settings, and of the prior that it needs."""

from typing import Any

from dubito._check import check_choice as check_choice
from dubito._check import check_whole as check_whole
from dubito._check import is_number
from dubito.models.model import Model
from dubito.models.priors import Normal
from dubito.models.priors import check_proper as check_proper
from dubito.training.optimizers import check_descent as check_descent


def check_normal_prior(method: Any, model: Model) -> None:
    """Raise ValueError unless the model's prior is a Normal."""
    if not isinstance(model.prior, Normal):
        raise ValueError(f"{type(method).__name__} needs a Normal prior, got {type(model.prior).__name__}")


def check_intervals(method: Any, **intervals: str) -> None:
    """Raise ValueError unless settings of a method are numbers in their intervals, as in ``momentum="[0, 1)"``."""
    for name, interval in intervals.items():
        check_number(name, vars(method)[name], interval)


def check_number(name: str, value: Any, interval: str) -> None:
    """Raise ValueError unless the setting ``name`` has a number in an interval, as in ``"(0, inf)"``."""
    low, high = map(float, interval[1:-1].split(","))
    closed = {low} if interval[0] == "[" else set()
    closed |= {high} if interval[-1] == "]" else set()
    if not (is_number(value) and (low < value < high or value in closed)):
        words = {"(0, inf)": "positive", "(0, 1)": "strictly between 0 and 1"}.get(interval, f"in {interval}")
        raise ValueError(f"{name} must be {words}, got {value!r}")
