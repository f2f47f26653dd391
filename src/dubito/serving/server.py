"""The process: a socket, a thread that answers, and its end after a signal, when the requests at hand are answered."""

import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

try:
    import uvicorn  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("dubito serve needs starlette and uvicorn: pip install 'dubito[serve]'") from error

from dubito._process import interrupts
from dubito._process.threads import wait_for

NAP = 0.01  # seconds between two looks whether the server has started


def open_socket(host: str, port: int) -> socket.socket:
    """A socket with an address, which does not listen yet.

    Parameters
    ----------
    host : str
        A name or an address of this machine.
    port : int
        The port; 0 is any free one.

    Returns
    -------
    socket
        The socket.

    Raises
    ------
    ValueError
        If that is impossible; the message says why.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
        return found
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}. Choose another --host or --port.") from None


def run_server(app: Any, listening: socket.socket, connections: int, drain: int, ready: Callable[[str], Any]) -> None:
    """Answer requests until a signal, and then those at hand.

    Parameters
    ----------
    app : callable
        An ASGI application.
    listening : socket
        As ``open_socket`` returns it.
    connections : int
        How many there may be at a time; requests beyond get status 503.
    drain : int
        Seconds after a signal in which the requests at hand are answered.
    ready : callable
        Called with the address when requests are answered.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        After SIGINT and SIGTERM.
    """
    settings: Any = {"log_config": None, "log_level": "critical", "access_log": False, "lifespan": "off"}
    settings |= {"limit_concurrency": connections, "timeout_graceful_shutdown": drain}
    server = uvicorn.Server(uvicorn.Config(app, server_header=False, **settings))
    host, port = listening.getsockname()[:2]
    # In a thread uvicorn leaves the signals alone; the main thread waits for one.
    with interrupts.deferred_exit(grace=drain + 2), ThreadPoolExecutor(1, "dubito-server") as pool:
        running = pool.submit(server.run, [listening])
        try:
            while not (server.started or running.done()):
                interrupts.raise_pending()
                time.sleep(NAP)
            if server.started:
                ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
            wait_for(running)
        finally:
            server.should_exit = True
            with contextlib.suppress(Exception):
                running.result()
