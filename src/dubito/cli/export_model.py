"""The command that writes a model for other programs."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from dubito._process import output_files
from dubito.cli import table_options as tables
from dubito.cli.application import Json, say


@tables.with_table_options()
def export(
    source: tables.TableOptions,
    model: tables.ModelFile,
    output: Annotated[Path, Option("-o", "--output", help="The .onnx file to write.")],
    table: Annotated[
        str | None, Argument(metavar="TABLE", help="Rows to compare at, besides made-up ones; 1,000 are used.")
    ] = None,
    coverage: Annotated[
        float | None, Option(help="Coverage of the interval from lower to upper; 0.9 by default.")
    ] = None,
    draws: Annotated[int | None, Option(min=1, help="How many functions of the posterior the file has.")] = None,
    as_json: Json = False,
) -> None:
    """Write MODEL as an ONNX file: a graph from the columns of a table to the columns of predict."""
    output_files.check_outputs({"MODEL": model, "TABLE": table}, {"--output": output})
    if output.suffix != ".onnx":
        raise ValueError(f"{output}: the output must be an .onnx file")
    from dubito.cli.command_tables import load_model, read_to_evaluate

    fitted = load_model(model, None, None)
    unit = "standard deviations" if fitted.task == "regression" else "in probability"
    rows = None if table is None else read_to_evaluate(fitted, table, say, dialect=source.dialect)[0]
    found = fitted.to_onnx(output, rows, coverage=coverage, draws=draws)
    if as_json:
        import json

        print(json.dumps({**found._asdict(), "path": str(found.path)}))
        return
    count = "1 draw" if found.draws == 1 else f"{found.draws} draws"
    for note in found.notes:
        say(f"dubito: note: {note}")
    say(
        f"Wrote {output} ({count}, {found.size / 1e6:.1f} MB; largest difference from predict at {found.rows:,} rows: "
        f"{found.error:.0e} {unit})"
    )
