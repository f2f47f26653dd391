"""What a long fit prints while it runs: lines of text, now and then. No JAX."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SECONDS = 10.0  # between two lines


@contextlib.contextmanager
def print_lines(write: Callable[[str], object] | None, describe: Callable[[], str]) -> Iterator[None]:
    """Write every ten seconds, from a thread, how far something is.

    Parameters
    ----------
    write : callable or None
        Called with each line; None writes nothing.
    describe : callable
        Returns how far it is.
    """
    if write is None:
        yield
        return
    ended, start = threading.Event(), time.monotonic()

    def run() -> None:
        while not ended.wait(SECONDS):
            write(f"{time.monotonic() - start:.0f} s: {describe()}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def fit_sentence(task: str, summary: Mapping[str, Any], method: Any) -> str:
    """What a finished fit was.

    Parameters
    ----------
    task : str
        ``"regression"`` or ``"classification"``.
    summary : mapping
        ``summary_`` of the estimator: the number of rows and the seconds of the fit.
    method : Method
        The method.

    Returns
    -------
    str
        One line.
    """
    return f"{task.capitalize()} on {summary['rows']} rows in {summary['seconds']:.1f} s: {method!r}"


class FitProgress:
    """How far a fit is, from its reports.

    Parameters
    ----------
    penalty_name : str
        What the method calls the penalty of its objective; empty leaves it out.

    Attributes
    ----------
    done, total : float
        Epochs of the current run, summed over its members; ``total`` is 0 before the first report.
    run : int
        1, and more where a method trains again after that: for longer, or for a noise from held-out rows.
    """

    def __init__(self, penalty_name: str = "") -> None:
        self.penalty_name = penalty_name
        self.done, self.total = 0.0, 0
        self.seen: dict[int, float] = {}
        self.run = 1
        self.current: tuple[int, int] | None = None  # members and epochs of the current run
        self.epoch, self.scores = "", ""

    def add(self, one: Any) -> None:
        """Take in a report.

        Parameters
        ----------
        one : Report
            Of any member.
        """
        passed = one.epoch + one.part
        which = one.members, one.epochs
        if self.current not in (which, None) or self.seen.get(one.member, 0) >= one.epochs > passed:
            self.run, self.seen = self.run + 1, {}
        self.current = which
        self.seen[one.member] = passed
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
        run = f", run {self.run}" if self.run > 1 else ""
        return f"{100 * self.done / self.total:.0f} % of training{run} · {self.epoch}{self.scores}"
