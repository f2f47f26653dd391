"""The command that writes a model for other programs."""

from pathlib import Path
from typing import Annotated

from typer import Option

from dubito._process import output_files
from dubito.cli import table_options as tables
from dubito.cli.application import Json, say


def export(
    model: tables.ModelFile,
    output: Annotated[Path, Option("-o", "--output", help="The .onnx file to write.")],
    coverage: Annotated[
        float | None, Option(help="Coverage of the interval from lower to upper; 0.9 by default.")
    ] = None,
    draws: Annotated[int | None, Option(min=1, help="How many functions of the posterior the file has.")] = None,
    as_json: Json = False,
) -> None:
    """Write MODEL as an ONNX file: a graph from the columns of a table to the columns of predict."""
    output_files.check_outputs({"MODEL": model}, {"--output": output})
    if output.suffix != ".onnx":
        raise ValueError(f"{output}: the output must be an .onnx file")
    from dubito.cli.command_tables import load_model

    fitted = load_model(model, None, None)
    unit = "standard deviations" if fitted.task == "regression" else "in probability"
    found = fitted.to_onnx(output, coverage=coverage, draws=draws)
    if as_json:
        import json

        print(json.dumps({**found._asdict(), "path": str(found.path)}))
        return
    for note in found.notes:
        say(f"dubito: note: {note}")
    say(
        f"Wrote {output} ({found.draws} draws, {found.size / 1e6:.1f} MB; largest difference from predict on 64 made-up rows: "
        f"{found.error:.0e} {unit})"
    )
