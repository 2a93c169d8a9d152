"""HTTP/1.1 and HTTP/2 in the current event loop: an RSGI application behind granian's embedded server.

Rule 1: the port is ours alone. The socket is bound here, without ``SO_REUSEPORT``: left to itself the server binds with
        it, and a second server on the same port would start without an error and take half of the calls.
Rule 2: no signal is handled here. Whoever starts the server decides what SIGTERM and SIGINT mean.
Rule 3: stopping refuses new connections at once, waits ``grace_s`` for the requests under way, then cancels them.
Rule 4: a response body that ends early looks complete to the client under chunked encoding: the server closes the
        chunks properly. To break a body off, state a ``content-length`` larger than what is sent.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Any, Final

from granian.net import SocketHolder  # pyright: ignore[reportPrivateImportUsage] - public, not exported again
from granian.rsgi import ProtocolClosed  # pyright: ignore[reportPrivateImportUsage] - public, not exported again
from granian.server.embed import Server as _EmbeddedServer

from bursar.engine.rsgi import App, HttpProtocol, HttpScope

__all__ = ["HttpServer", "ProtocolClosed"]

_BACKLOG: Final = 1024
_CANCEL_TRIES: Final = 20
_CANCEL_WAIT_S: Final = 0.25
# Open connections, idle ones too; past it new ones wait. The server's own default is the backlog.
_CONNECTIONS_MAX: Final = 65_536
_SERVER_OPTIONS: Final[dict[str, Any]] = {
    "interface": "rsgi",
    "websockets": False,
    "log_enabled": False,
    "backpressure": _CONNECTIONS_MAX,
}


class HttpServer:
    """Serves ``app`` on one address in the running loop. Port 0 takes a free port; ``port`` tells which.

    ``start`` raises ``OSError`` that names the address when it cannot be had; once it returns, connections are accepted.
    """

    def __init__(self, app: App, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._app = app
        self._server: _Embedded | None = None
        self._serving: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def requests_open(self) -> int:
        return len(self._requests)

    async def start(self) -> None:
        assert self._serving is None, "this server was started before"
        listener = _bind(self.host, self.port)
        self.port = listener.getsockname()[1]
        self._server = _Embedded(self._tracked, self.host, self.port, listener)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve())
        # The socket listens already; this only lets a failing server say so here instead of at the first request.
        await asyncio.sleep(0)
        if self._serving.done():
            await self._serving

    async def wait(self) -> None:
        """Returns when the server has ended, whoever ended it."""
        assert self._serving is not None, "start the server first"
        await asyncio.wait([self._serving])

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stopping twice, or before a start, does nothing more."""
        server, serving = self._server, self._serving
        if server is None or serving is None:
            return
        server.stop()
        await asyncio.wait([serving], timeout=grace_s)
        for _ in range(_CANCEL_TRIES):
            if serving.done():
                break
            # More than once: one that falls between two steps of a native awaitable may get lost.
            for request in tuple(self._requests):
                request.cancel()
            await asyncio.wait([serving], timeout=_CANCEL_WAIT_S)
        if not serving.done():
            serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        self._server = None

    async def _tracked(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            await self._app(scope, protocol)
        finally:
            self._requests.discard(task)


class _Embedded(_EmbeddedServer):
    def __init__(self, app: App, host: str, port: int, listener: socket.socket) -> None:
        super().__init__(app, address=host, port=port, backlog=_BACKLOG, **_SERVER_OPTIONS)
        self._listener = listener

    def _init_shared_socket(self) -> None:
        # The server owns and closes the descriptor from here on, hence detach.
        holder: Any = SocketHolder  # its stub lacks the constructor: (descriptor, is_unix, backlog)
        self._shd = holder(self._listener.detach(), False, _BACKLOG)
        self._ssp = None


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EADDRNOTAVAIL
        raise OSError(number, f"cannot listen on {host}:{port}: {_advice(number, error)}") from error
    return listener


def _advice(number: int, error: Exception) -> str:
    match number:
        case errno.EADDRINUSE:
            return "another program has this port; stop it or choose another port"
        case errno.EACCES:
            return "not permitted; choose a port above 1023"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address, or the port is not 0..65535"
        case _:
            return str(error)
