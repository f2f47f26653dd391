"""A bar on the terminal that follows a fit."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(console: Console | None) -> Iterator[Callable[[Any], None] | None]:
    """A callback for a fit's reports that moves a bar on ``console``; None unless that is a
    terminal.
    """
    if console is None or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("compiling", total=None)
        seen: dict[int, float] = {}
        scores = ""

        def report(one: Any) -> None:
            nonlocal scores
            seen[one.member] = one.epoch + one.part
            if len(one.likelihood):
                score = "" if math.isnan(one.score[-1]) else f" · validation {one.score[-1]:.3f}"
                scores = f" · likelihood {one.likelihood[-1]:.3f} · KL {one.penalty[-1]:.3f}{score}"
            total, done = one.epochs * one.members, sum(min(epoch, one.epochs) for epoch in seen.values())
            shown.update(task, description=f"epoch {one.epoch}/{one.epochs}{scores}", total=total, completed=done)

        yield report
