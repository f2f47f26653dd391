"""Requests and their answers: /predict, /schema, /health and /metrics, as an ASGI application of starlette."""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

try:
    from starlette.applications import Starlette  # pyright: ignore[reportMissingImports]
    from starlette.exceptions import HTTPException  # pyright: ignore[reportMissingImports]
    from starlette.requests import ClientDisconnect  # pyright: ignore[reportMissingImports]
    from starlette.responses import Response  # pyright: ignore[reportMissingImports]
    from starlette.routing import Route  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("dubito serve needs starlette and uvicorn: pip install 'dubito[serve]'") from error

from dubito._process.threads import cores
from dubito.serving.metrics import Metrics
from dubito.serving.model_file import WatchedModel
from dubito.serving.rows import BadRequestError, read_request
from dubito.serving.served_model import CHANGES

PATHS = ("/predict", "/schema", "/health", "/metrics")
CLIENT_GONE = 499  # a status for the counts
BODY_SECONDS = 60.0  # in which a body must arrive
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Parameters
    ----------
    rows : int
        The largest number of rows.
    body : int
        The largest number of bytes of a body.
    """

    rows: int = 10_000
    body: int = 16 * 2**20


class Service:
    """The endpoints.

    Parameters
    ----------
    model : WatchedModel
        The model that answers.
    metrics : Metrics
        The counts.
    limits : Limits
        What a request may ask for.
    say : callable
        Prints an unexpected error.
    """

    def __init__(self, model: WatchedModel, metrics: Metrics, limits: Limits, say: Callable[[str], Any]) -> None:
        self.model, self.metrics, self.limits, self.say = model, metrics, limits, say
        self.started = time.time()
        self.pool = ThreadPoolExecutor(cores(), "dubito-predict")

    async def predict(self, request: Any) -> Any:
        """Predict the rows of a request.

        Parameters
        ----------
        request : starlette.requests.Request
            With a body as ``rows.read_request`` reads it.

        Returns
        -------
        starlette.responses.Response
            The columns of ``dubito predict`` in the form of the request, and notes on values that fit
            did not have.
        """
        body = await self._body(request)
        return _response(200, await self._in_pool(lambda: self._answer(body)))

    async def _in_pool(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)

    def _answer(self, body: bytes) -> str:
        """The JSON of an answer."""
        model = self.model.current
        request = read_request(body, model.names, model.coverage, self.limits.rows)
        answer = model.predict(request)
        text = _to_json(answer.document)
        self.metrics.add("dubito_rows_total", request.count)
        for what, counts in answer.changes.items():
            for name, count in counts.items():
                self.metrics.add("dubito_changed_values_total", count, what=CHANGES[what], column=name)
        if answer.uncertain and model is self.model.current:
            self.metrics.add_uncertain(request.count, answer.uncertain)
        return text

    async def _body(self, request: Any) -> bytes:
        """The body of a request, of which no more is read than the limit."""
        most, found = self.limits.body, bytearray()
        problem = f"The body has more than {most:,} bytes. Send fewer rows at a time."
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise BadRequestError(413, problem)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    found += piece
                    if len(found) > most:
                        raise BadRequestError(413, problem)
        except TimeoutError:
            raise BadRequestError(408, f"The body did not arrive within {BODY_SECONDS:g} seconds.") from None
        except ClientDisconnect:
            raise BadRequestError(CLIENT_GONE, "The client disconnected before its request was complete.") from None
        return bytes(found)

    async def schema(self, request: Any) -> Any:
        """What a client needs to know about the model.

        Parameters
        ----------
        request : starlette.requests.Request
            Without a body.

        Returns
        -------
        starlette.responses.Response
            As of ``ServedModel.schema``, and the limits.
        """
        model = self.model.current
        found = await self._in_pool(lambda: model.schema)
        return _response(200, _to_json(found | {"limits": {"rows": self.limits.rows, "bytes": self.limits.body}}))

    async def health(self, request: Any) -> Any:
        """Whether requests are answered, and by which model.

        Parameters
        ----------
        request : starlette.requests.Request
            Without a body.

        Returns
        -------
        starlette.responses.Response
            Status "ok", or "stale" with the problem if the file has changed and cannot be loaded: the
            model before it still answers, so the HTTP status is 200 for both.
        """
        model, problem = self.model.current, self.model.problem
        found = {
            "status": "ok" if problem is None else "stale",
            "problem": problem,
            "model": {"file": str(self.model.path), "sha256": model.digest, "loaded": model.loaded},
            "started": self.started,
        }
        return _response(200, _to_json(found))

    async def metrics_text(self, request: Any) -> Any:
        """The counts.

        Parameters
        ----------
        request : starlette.requests.Request
            Without a body.

        Returns
        -------
        starlette.responses.Response
            In Prometheus's text format.
        """
        return Response(self.metrics.text(), media_type=PROMETHEUS)

    async def bad_request(self, request: Any, error: Any) -> Any:
        """The answer to a request that cannot be answered.

        Parameters
        ----------
        request : starlette.requests.Request
            The request.
        error : BadRequestError
            The problem.

        Returns
        -------
        starlette.responses.Response
            {"error": message}.
        """
        return _response(error.status, _to_json({"error": str(error)}))

    async def http_error(self, request: Any, error: Any) -> Any:
        """The answer to a path or a method that does not exist.

        Parameters
        ----------
        request : starlette.requests.Request
            The request.
        error : starlette.exceptions.HTTPException
            The problem.

        Returns
        -------
        starlette.responses.Response
            {"error": message}.
        """
        hint = "The paths are POST /predict, GET /schema, GET /health and GET /metrics."
        text = _to_json({"error": f"{request.method} {request.url.path}: {error.detail}. {hint}"})
        return _response(error.status_code, text, error.headers)

    async def unexpected(self, request: Any, error: Exception) -> Any:
        """The answer after an error of this program, which is printed.

        Parameters
        ----------
        request : starlette.requests.Request
            The request.
        error : Exception
            The problem.

        Returns
        -------
        starlette.responses.Response
            {"error": message}, without details.
        """
        self.say(f"Error at {request.url.path}: {type(error).__name__}: {error}")
        return _response(500, _to_json({"error": "Internal server error; see the server's log."}))


def _to_json(document: Any) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def _response(status: int, text: str, headers: Any = None) -> Any:
    return Response(text, status, headers, "application/json")


class Counted:
    """An ASGI application whose requests are counted and timed.

    Parameters
    ----------
    app : callable
        The application.
    metrics : Metrics
        The counts.
    """

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, start = CLIENT_GONE, time.perf_counter()

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope.get("path") if scope.get("path") in PATHS else "other"
            self.metrics.add_request(str(path), status, time.perf_counter() - start)


def make_app(
    model: WatchedModel, metrics: Metrics, limits: Limits = Limits(), say: Callable[[str], Any] = print
) -> Counted:
    """The application that answers by a model.

    Parameters
    ----------
    model : WatchedModel
        The model.
    metrics : Metrics
        The counts.
    limits : Limits
        What a request may ask for.
    say : callable
        Prints an unexpected error.

    Returns
    -------
    Counted
        An ASGI application.
    """
    service = Service(model, metrics, limits, say)
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/schema", service.schema),
        Route("/health", service.health),
        Route("/metrics", service.metrics_text),
    ]
    handlers: Any = {BadRequestError: service.bad_request, HTTPException: service.http_error}
    handlers[Exception] = service.unexpected
    return Counted(Starlette(routes=routes, exception_handlers=handlers), metrics)
