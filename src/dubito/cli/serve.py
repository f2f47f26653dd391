"""The command that answers requests for predictions over HTTP."""

from typing import Annotated

from typer import Option

from dubito.cli import table_options as tables
from dubito.cli.application import print_error, say


def serve(
    model: tables.ModelFile,
    host: Annotated[str, Option(help="The address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="The port to listen on; 0 is any free one.")] = 8000,
    coverage: Annotated[float, Option(help="Coverage of intervals, unless a request names one.")] = 0.9,
    max_rows: Annotated[int, Option(min=1, help="The largest number of rows of a request.")] = 10_000,
    max_bytes: Annotated[int, Option(min=1, help="The largest number of bytes of a request.")] = 16 * 2**20,
    max_connections: Annotated[int, Option(min=1, help="How many connections there may be at a time.")] = 1000,
    drain: Annotated[int, Option(min=1, help="Seconds after a signal to answer the requests at hand.")] = 10,
    unknown: tables.Unknown = None,
    missing: tables.Missing = None,
) -> None:
    """Answer requests for predictions over HTTP, as JSON, until SIGTERM or Ctrl-C.

    POST /predict takes rows and returns the columns of dubito predict. GET /schema, /health and /metrics (for
    Prometheus) describe the model and the service. A MODEL that is replaced is loaded without a restart.
    """
    from dubito._check import check_number
    from dubito.cli.command_tables import load_model
    from dubito.serving.app import Limits, make_app
    from dubito.serving.metrics import Metrics
    from dubito.serving.model_file import WatchedModel
    from dubito.serving.server import open_socket, run_server

    check_number("coverage", coverage, "(0, 1)")

    with open_socket(host, port) as listening:
        metrics = Metrics()
        served = WatchedModel(model, lambda path: load_model(path, unknown, missing), coverage, metrics, print_error)
        served.watch()
        application = make_app(served, metrics, Limits(max_rows, max_bytes), print_error)
        try:
            run_server(application, listening, max_connections, drain, lambda at: say(f"Serving {model} at {at}"))
        finally:
            served.close()
