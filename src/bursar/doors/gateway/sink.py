"""The client's end of a stream."""

from __future__ import annotations

from bursar.engine.ports import ClientGoneError
from bursar.engine.rsgi import HttpProtocol, StreamTransport

__all__ = ["Sink"]


class Sink:
    """``engine.ports.Sink`` over the HTTP server. ``headers`` are ours, sent with the provider's when the stream begins."""

    __slots__ = ("_protocol", "_transport", "headers", "started")

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self._transport: StreamTransport | None = None
        self.headers: list[tuple[str, str]] = []
        self.started = False

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.started = True
        self._transport = self._protocol.response_stream(status, [*headers, *self.headers])

    async def write(self, chunk: bytes) -> None:
        if self._transport is None:
            raise ClientGoneError
        try:
            await self._transport.send_bytes(chunk)
        except RuntimeError as error:  # the server's way to say that the connection is closed
            raise ClientGoneError from error

    def close(self) -> None:
        """End the stream. The server ends it when nobody holds it any more, which cycles of references would put off."""
        self._transport = None
