"""What a long command tells while it runs: a bar on a terminal, and elsewhere a line every ten seconds."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dubito.training.progress import FitProgress, print_lines


def line_writer(console: Console | None) -> Callable[[str], None] | None:
    """A function that prints a line on ``console``; None if that is a terminal or None.

    Parameters
    ----------
    console : Console or None
        Where to print.

    Returns
    -------
    callable or None
        For ``print_lines``.
    """
    if console is None or console.is_terminal:
        return None
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


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
        with print_lines(line_writer(console), progress.describe):
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
    with status as shown, print_lines(line_writer(console), describe):

        def done(name: str, fold: int) -> None:
            nonlocal finished, last
            finished, last = finished + 1, f" · last: {name}, fold {fold + 1}"
            if shown is not None:
                shown.update(describe())

        yield done
