"""A request's head and body, as they come.

Rule 1: every loop and buffer has a limit: of bytes, and of time.
Rule 2: what a refused client still sends is taken in within limits: most clients read no answer before they have sent all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

from bursar.engine.ports import ClientGoneError
from bursar.engine.rsgi import HttpProtocol, HttpScope

from .problems import Problem

__all__ = ["Head", "discard", "read_body"]

_DISCARD_BYTES_MAX: Final = 256 * 1024 * 1024
_DISCARD_S_MAX: Final = 10


class Head:
    """A request's head, taken over once: each look into the server's own objects costs more than one into these."""

    __slots__ = ("headers", "items", "method", "path", "query")

    def __init__(self, scope: HttpScope) -> None:
        self.method = scope.method
        self.path = scope.path
        self.query = scope.query_string
        self.items = scope.headers.items()
        self.headers: Mapping[str, str] = dict(self.items)


async def read_body(request: Head, protocol: HttpProtocol, limit: int, timeout_s: float) -> bytes:
    if request.method in ("GET", "HEAD"):
        return b""
    # What asyncio.timeout does, at a third of its price: every call passes here.
    task = asyncio.current_task()
    assert task is not None
    late: list[bool] = []
    timer = task.get_loop().call_later(timeout_s, lambda: (late.append(True), task.cancel()))
    try:
        return await _receive(request, protocol, limit)
    except RuntimeError as error:  # the server's way to say that the client has gone
        raise ClientGoneError from error
    except asyncio.CancelledError:
        if not late:
            raise
        task.uncancel()
        message = f"the body did not arrive within server.body_timeout_s={timeout_s}; send it faster or raise the limit"
        raise Problem(408, "body_timeout", message, {"limit_s": timeout_s}) from None
    finally:
        timer.cancel()


async def _chunks(protocol: HttpProtocol) -> AsyncIterator[bytes]:
    """A body piece by piece. The server begins an iteration only once; this one can be gone on with."""
    chunks = aiter(protocol)
    with suppress(StopAsyncIteration):
        while True:
            yield await anext(chunks)


async def _receive(request: Head, protocol: HttpProtocol, limit: int) -> bytes:
    stated = request.headers.get("content-length")
    if stated is not None and "transfer-encoding" not in request.headers:  # with both, the length says nothing
        if not stated.isdigit():
            raise Problem(400, "bad_request", f"content-length {stated[:40]!r} is not a number", {})
        if int(stated) > limit:
            raise _too_large(int(stated), limit, _chunks(protocol))
        body = await protocol()
        if len(body) != int(stated):
            raise Problem(400, "bad_request", f"the body ended after {len(body)} of {int(stated)} bytes", {})
        return body
    parts: list[bytes] = []
    size = 0
    chunks = _chunks(protocol)
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large(size, limit, chunks)
        parts.append(chunk)
    return b"".join(parts)


async def discard(rest: AsyncIterator[bytes]) -> None:
    """Take in what a refused client still sends, within limits: most clients read no answer before they have sent all."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_S_MAX):
            async for chunk in rest:
                size += len(chunk)
                if size > _DISCARD_BYTES_MAX:
                    return
    except (TimeoutError, RuntimeError, asyncio.CancelledError):  # the server cancels it when the client has gone
        return


def _too_large(size: int, limit: int, rest: AsyncIterator[bytes]) -> Problem:
    message = f"the body has {size} bytes, the limit is server.body_bytes_max={limit}; raise it in bursar.yaml"
    return Problem(413, "body_too_large", message, {"limit_bytes": limit}, rest=rest)
