"""Scores as tables for a terminal, by rich, and the sentences below them."""

from rich.console import Console
from rich.table import Column, Table


def of_scores(card):
    """One row for each score of ``metrics.scorecard``."""
    grid = Table("score", "value", "standard error")
    for key, value in card.items():
        if not key.endswith("_se"):
            error = card.get(f"{key}_se")
            grid.add_row(key, f"{value:.4g}", "" if error is None else f"{error:.2g}")
    return grid


def of_methods(rows):
    """One row for each method of ``comparison.compare``; standard errors below, so that it fits into 80 columns."""
    heads = [key.replace("_", " ") for key in rows[0].scores]
    grid = Table(Column("method", no_wrap=True), *heads, "nll to best", "secs per fit", box=None, padding=(0, 0, 0, 1))
    for row in rows:
        cells = [f"{score.value:.4g}\n±{score.se:.1g}" for score in row.scores.values()]
        gap = "" if row is rows[0] else f"+{row.difference.value:.2g}\n±{row.difference.se:.1g}"
        grid.add_row(row.name, *cells, gap, f"{row.seconds:.1f}")
    return grid


def print_text(text):
    """Print a paragraph to standard output, wrapped at words where that is a terminal, and in one line where it is not."""
    console = Console()
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)
