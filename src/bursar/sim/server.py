"""The simulator over HTTP: carries out the delays and endings that an answer asks for, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from bursar.adapters.http_server import HttpServer, ProtocolClosed
from bursar.engine.rsgi import App, HttpProtocol, HttpScope

from .simulator import Answer, Simulator

__all__ = ["Served", "application", "serve"]

_BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_HANG_S_MAX: Final = 600.0
# A body shorter than its stated length is the only way to break a connection off under this server.
_CUT_EXTRA_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Served:
    """A running simulator: ``url`` has no path, so the SDKs take ``url + "/v1"`` (OpenAI) or ``url`` (the others)."""

    url: str
    simulator: Simulator
    server: HttpServer


@asynccontextmanager
async def serve(
    simulator: Simulator | None = None, *, host: str = "127.0.0.1", port: int = 0, grace_s: float = 0.0
) -> AsyncGenerator[Served]:
    """Serve ``simulator`` (a new one with seed 1 by default) in this event loop, on a free port by default."""
    simulator = simulator or Simulator()
    server = HttpServer(application(simulator), host, port)
    await server.start()
    try:
        yield Served(server.url, simulator, server)
    finally:
        await server.stop(grace_s)


def application(simulator: Simulator) -> App:
    """The RSGI application of ``simulator``."""

    async def app(scope: HttpScope, protocol: HttpProtocol) -> None:
        headers = dict(scope.headers.items())
        body = await _read(headers, protocol)
        if body is None:
            protocol.response_bytes(413, [("content-type", "text/plain")], b"the body is larger than 64 MiB")
            return
        answer = simulator.respond(scope.method, scope.path, scope.query_string, headers, body)
        if answer.ends == "hang":
            await _hang(protocol)
        elif answer.pieces is None:
            if answer.delay_s:
                await asyncio.sleep(answer.delay_s)
            protocol.response_bytes(answer.status, answer.headers, answer.body)
        else:
            await _stream(answer, answer.pieces, protocol)

    return app


async def _read(headers: dict[str, str], protocol: HttpProtocol) -> bytes | None:
    """The body, or None when it is too large."""
    stated = headers.get("content-length", "")
    if stated.isdecimal():
        return await protocol() if int(stated) <= _BODY_BYTES_MAX else None
    chunks: list[bytes] = []
    length = 0
    async for chunk in protocol:
        length += len(chunk)
        if length > _BODY_BYTES_MAX:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


async def _hang(protocol: HttpProtocol) -> None:
    try:
        async with asyncio.timeout(_HANG_S_MAX):
            await protocol.client_disconnect()
    except TimeoutError:
        protocol.response_empty(504, [])


async def _stream(answer: Answer, pieces: list[tuple[float, bytes]], protocol: HttpProtocol) -> None:
    headers, call = answer.headers, answer.call
    assert call is not None
    if answer.ends == "cut":
        length = sum(len(data) for _, data in pieces) + _CUT_EXTRA_BYTES
        headers = [*headers, ("content-length", str(length))]
    transport = protocol.response_stream(answer.status, headers)
    try:
        for delay_s, data in pieces:
            if delay_s:
                await asyncio.sleep(delay_s)
            await transport.send_bytes(data)
            call.events_sent += 1
    except ProtocolClosed:
        call.outcome = "disconnected"
