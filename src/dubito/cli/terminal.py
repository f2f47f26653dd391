"""Text and tables of scores for a terminal, which text from a file must not control."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Column, Table

Say: TypeAlias = Callable[[str], object]  # prints a note

# All but line ends and tabs.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_control(text: object) -> str:
    """Escape control characters, including those of text direction, as in Python's strings.

    The name of a column or class may hold escape sequences, which would recolor, overwrite or forge
    what is shown.
    """
    return CONTROL.sub(lambda found: repr(found.group())[1:-1], str(text))


def score_table(card: Mapping[str, Any]) -> Table:
    """A table with one row for each score of ``metrics.scorecard``."""
    grid = Table("score", "value", "standard error")
    for key, value in card.items():
        if not key.endswith("_se"):
            error = card.get(f"{key}_se")
            grid.add_row(key, f"{value:.4g}", "" if error is None else f"{error:.2g}")
    return grid


def noise_card(estimator: Any) -> dict[str, float]:
    """{"noise_std": ...}, an estimator's ``noise_std_``; empty without one, for several targets, and for a
    transformed target, whose unit it does not have.
    """
    from dubito.models.noise_network import noise_std

    known = noise_std(estimator.posterior_.model)
    if known is None or len(known) > 1 or estimator.transform_ is not None:
        return {}
    return {"noise_std": estimator.noise_std_}


def comparison_table(rows: Sequence[Any]) -> Table:
    """A table with one row for each result of ``cross_validation.compare``.

    Standard errors stand below the scores, so that it fits into 80 columns.
    """
    heads = [key.replace("_", " ") for key in rows[0].scores]
    grid = Table(Column("method", no_wrap=True), *heads, "nll to best", "secs per fit", box=None, padding=(0, 0, 0, 1))
    for row in rows:
        cells = [f"{score.value:.4g}\n±{score.se:.1g}" for score in row.scores.values()]
        gap = "" if row is rows[0] else f"+{row.difference.value:.2g}\n±{row.difference.se:.1g}"
        grid.add_row(row.name, *cells, gap, f"{row.seconds:.1f}")
    return grid


def print_text(text: str) -> None:
    """Print a paragraph to standard output, wrapped at words if that is a terminal."""
    console = Console()
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)
