"""Checks of the settings that are numbers."""

from typing import Any

from dubito._check import is_number


def check_numbers(method: Any, **intervals: str) -> None:
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
