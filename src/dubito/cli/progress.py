"""What a long command tells while it runs: a bar on a terminal, and elsewhere a line every ten seconds."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS = 10.0  # between two lines


@contextlib.contextmanager
def print_lines(console: Console | None, describe: Callable[[], str]) -> Iterator[None]:
    """Print how far a command is every ten seconds, from a thread, unless ``console`` is a terminal or None.

    Parameters
    ----------
    console : Console or None
        Where to print.
    describe : callable
        Returns what to print.
    """
    if console is None or console.is_terminal:
        yield
        return
    ended, start = threading.Event(), time.monotonic()

    def run() -> None:
        while not ended.wait(SECONDS):
            text = f"{time.monotonic() - start:.0f} s: {describe()}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class FitProgress:
    """How far a fit is, from its reports.

    Parameters
    ----------
    penalty_name : str
        What the method calls the penalty of its objective; empty leaves it out.

    Attributes
    ----------
    done, total : float
        Epochs, summed over the members; ``total`` is 0 before the first report.
    """

    def __init__(self, penalty_name: str = "") -> None:
        self.penalty_name = penalty_name
        self.done, self.total = 0.0, 0
        self.seen: dict[int, float] = {}
        self.epoch, self.scores = "", ""

    def add(self, one: Any) -> None:
        """Take in a report.

        Parameters
        ----------
        one : Report
            Of any member.
        """
        self.seen[one.member] = one.epoch + one.part
        self.total, self.done = one.epochs * one.members, sum(min(epoch, one.epochs) for epoch in self.seen.values())
        self.epoch = f"epoch {one.epoch} of {one.epochs}"
        if len(one.likelihood):
            scores = [f"log likelihood per row {one.likelihood[-1]:.3f}"]
            if self.penalty_name:
                scores.append(f"{self.penalty_name} {one.penalty[-1]:.3f}")
            if not math.isnan(one.score[-1]):
                scores.append(f"held out {one.score[-1]:.3f}")
            self.scores = " · ".join(["", *scores])

    def describe(self) -> str:
        """The progress as a line of text.

        Returns
        -------
        str
            In plain words.
        """
        if not self.total:
            return "preparing (compiling)"
        return f"{100 * self.done / self.total:.0f} % of training · {self.epoch}{self.scores}"


@contextlib.contextmanager
def follow_fit(console: Console | None, method: Any) -> Iterator[Callable[[Any], None] | None]:
    """A callback for a fit's reports, which shows them on ``console``: a bar, or lines where that is no terminal.

    Parameters
    ----------
    console : Console or None
        None shows nothing.
    method : Method or None
        The method that is fitted; None is the default.

    Yields
    ------
    callable or None
        None without a console.
    """
    if console is None:
        yield None
        return
    from dubito.training.method import base_method

    progress = FitProgress("" if method is None else base_method(method).penalty_name)
    if not console.is_terminal:
        with print_lines(console, progress.describe):
            yield progress.add
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("compiling", total=None)

        def report(one: Any) -> None:
            progress.add(one)
            description = f"{progress.epoch}{progress.scores}"
            shown.update(task, description=description, total=progress.total, completed=progress.done)

        yield report


@contextlib.contextmanager
def count_fits(console: Console | None, total: int) -> Iterator[Callable[[str, int], None]]:
    """A callback for each finished fit of a comparison, which shows how many there are.

    Parameters
    ----------
    console : Console or None
        None shows nothing.
    total : int
        The number of fits.

    Yields
    ------
    callable
        Takes the name of the method and the number of the fold.
    """
    finished, last = 0, ""

    def describe() -> str:
        return f"{finished} of {total} fits{last}"

    status = console.status("") if console is not None and console.is_terminal else contextlib.nullcontext()
    with status as shown, print_lines(console, describe):

        def done(name: str, fold: int) -> None:
            nonlocal finished, last
            finished, last = finished + 1, f" · last: {name}, fold {fold + 1}"
            if shown is not None:
                shown.update(describe())

        yield done
