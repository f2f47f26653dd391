"""Comparisons by cross-validation: whole, or part by part in jobs that know nothing of one another."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dubito._process.versions import library_versions
from dubito.cli.progress import count_fits
from dubito.cli.terminal import Say, comparison_table, print_text


def check_part_options(part: str | None, output: Path | None, others: Mapping[str, Any]) -> None:
    """Raise ValueError unless the options of a part go together.

    Parameters
    ----------
    part, output : str, Path, optional
        The options --part and --output.
    others : mapping
        Options by name that only a whole comparison has.
    """
    from dubito.estimators.comparison_parts import parse_part

    if part is None:
        if output is not None:
            raise ValueError(
                "--output is for a --part, such as --part 3/10. A whole comparison is printed: leave it out."
            )
        return
    parse_part(part)
    if output is None:
        raise ValueError(f"--part {part} needs --output, the file of its results for `dubito merge`.")
    given = [name for name, value in others.items() if value]
    if given:
        raise ValueError(f"{given[0]} needs the results of all parts. Give it to `dubito merge`.")


def hash_table(table: str) -> str:
    """The SHA-256 of a table's file.

    Parameters
    ----------
    table : str
        The file.

    Returns
    -------
    str
        In hexadecimal digits.

    Raises
    ------
    ValueError
        If it is not a file.
    """
    if not Path(table).is_file():
        raise ValueError(f"--part needs a TABLE that is a file, which all parts read; got {table!r}")
    with open(table, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_part(
    part: str,
    output: Path,
    plan: Any,
    table: str,
    contents: str,
    options: Mapping[str, Any],
    console: Console | None,
    say: Say,
) -> None:
    """Fit one part of a comparison and write its results.

    Parameters
    ----------
    part, output : str, Path
        The options --part and --output.
    plan : Comparison
        The whole comparison.
    table, contents : str
        The table's file, and its hash before it was read.
    options : mapping
        All options on which the results depend, as plain values.
    console : Console, optional
        Where to show progress.
    say : callable
        Prints a note.
    """
    from dubito.estimators import comparison_fits, comparison_parts

    if not plan.tasks:
        raise next(iter(plan.refused.values()))
    chosen = comparison_parts.parse_part(part, len(plan.tasks))
    tasks = comparison_parts.tasks_of_part(plan, chosen)
    with count_fits(console, len(tasks)) as done:
        outcomes = comparison_fits.run_folds(plan, tasks, done)
    if hash_table(table) != contents:
        raise ValueError(f"{table} has changed since it was read. Run the part again.")
    versions = {f"version of {name}": version for name, version in library_versions().items()}
    experiment = {"table": Path(table).name, "SHA-256 of the table": contents, **options, **versions}
    comparison_parts.write_part(output, plan, chosen, outcomes, experiment)
    say(f"Wrote {output} (part {part}: {len(tasks)} of {len(plan.tasks)} fits)")


def show_comparison(
    rows: Sequence[Any], experiment: Mapping[str, Any], as_json: bool, report: Path | None, say: Callable[[object], Any]
) -> None:
    """Print the results of a comparison, and write a report on them.

    Parameters
    ----------
    rows : sequence of CrossValidationResult
        The results.
    experiment : mapping
        Has at least the table's name, the target, the methods, the folds and the seed.
    as_json : bool
        Whether to print JSON.
    report : Path, optional
        The HTML file to write.
    say : callable
        Prints a note.
    """
    from dubito.estimators.cross_validation import interpretation

    if as_json:
        print(json.dumps({row.name: row.to_dict() for row in rows}))
    else:
        Console().print(comparison_table(rows))
        print_text(interpretation(rows))
    if report is not None:
        from dubito.inspection.report import comparison_report

        settings = {"table": experiment["table"], "target": experiment["target"], "folds": str(experiment["folds"])}
        title = f"{experiment['target']}: {len(experiment['methods'])} methods"
        comparison_report(report, title, rows, settings=settings, seed=experiment["seed"])
        say(f"Wrote {report}")
