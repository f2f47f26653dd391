"""Scores as tables for a terminal, by rich."""

from rich.table import Table


def of_scores(card):
    """One row for each score of ``metrics.scorecard``."""
    grid = Table("score", "value", "standard error")
    for key, value in card.items():
        if not key.endswith("_se"):
            error = card.get(f"{key}_se")
            grid.add_row(key, f"{value:.4g}", "" if error is None else f"{error:.2g}")
    return grid


def of_methods(rows):
    """One row for each method of ``comparison.compare``."""
    keys = list(rows[0].scores)
    grid = Table("method", *keys, "nll to the best", "seconds a fit")
    for row in rows:
        cells = [f"{score.value:.4g} ± {score.se:.2g}" for score in row.scores.values()]
        gap = "" if row is rows[0] else f"+{row.difference.value:.3g} ± {row.difference.se:.2g}"
        grid.add_row(row.name, *cells, gap, f"{row.seconds:.1f}")
    return grid
