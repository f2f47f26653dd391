"""The command ``dubito card``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dubito._process import output_files
from dubito.cli import table_options as tables
from dubito.cli.application import say
from dubito.cli.terminal import escape_control


@tables.with_table_options()
def card(
    source: tables.TableOptions,
    model: tables.ModelFile,
    table: Annotated[
        str | None, Argument(metavar="TABLE", help="Held-out rows with the target, to measure scores.")
    ] = None,
    unit: Annotated[str | None, Option(help="The unit of the target, for the card.")] = None,
    output: Annotated[Path | None, Option("-o", "--output", help="The .md file to write.")] = None,
    unknown: tables.Unknown = None,
    missing: tables.Missing = None,
) -> None:
    """Describe a model in Markdown: what it predicts, from what, how well on TABLE, and its limits."""
    from dubito.cli.command_tables import load_model, read_to_evaluate

    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    found = load_model(model, unknown, missing)
    rows = (None, None) if table is None else read_to_evaluate(found, table, say, "card", source.dialect)
    text = found.card(*rows, unit=unit, path=model.name)
    if output is None:
        print(escape_control(text), end="")
        return
    with output_files.write_atomically(output) as file:
        file.write(text.encode())
    say(f"Wrote {output}")
