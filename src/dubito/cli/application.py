"""The application: its options, its notes and errors, and the options that commands share."""

import importlib.metadata
import os
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Option

from dubito.cli import compilation_cache
from dubito.cli.terminal import escape_control

HELP = "Neural networks that know what they don't know: predictions with honest uncertainty from a table."
app = typer.Typer(help=HELP, invoke_without_command=True, pretty_exceptions_enable=False, add_completion=False)
errors: Console = Console(stderr=True)
USAGE_ERROR: Any = typer.BadParameter.__base__  # typer does not name it, and may bring a click of its own
state: dict[str, bool] = {"debug": False, "quiet": False}

Json = Annotated[bool, Option("--json", help="Print JSON.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Print only results and errors.")] = False,
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    if version or context.invoked_subcommand is None:
        print(f"dubito {importlib.metadata.version('dubito')}" if version else context.get_help())
        raise typer.Exit
    state.update(debug=debug, quiet=quiet)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    compilation_cache.enable(say)


def say(text: object) -> None:
    """Print a note to standard error, unless --quiet."""
    if not state["quiet"]:
        print_error(text)


def print_error(text: object) -> None:
    """Print to standard error."""
    errors.print(escape_control(text), markup=False, highlight=False, soft_wrap=True)


def console() -> Console | None:
    """Where to show progress: standard error, or None after --quiet."""
    return None if state["quiet"] else errors
