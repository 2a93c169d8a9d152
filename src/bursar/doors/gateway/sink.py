"""The client's end of a stream."""

from __future__ import annotations

from bursar.engine.ports import ClientGoneError
from bursar.engine.rsgi import HttpProtocol, StreamTransport

__all__ = ["Sink"]


class Sink:
    """``engine.ports.Sink`` over the HTTP server. ``headers`` are ours, sent with the provider's when the stream begins."""

    __slots__ = ("_protocol", "_transport", "headers")

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self._transport: StreamTransport | None = None
        self.headers: list[tuple[str, str]] = []

    @property
    def started(self) -> bool:
        return self._transport is not None

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self._transport = self._protocol.response_stream(status, [*headers, *self.headers])

    async def write(self, chunk: bytes) -> None:
        assert self._transport is not None
        try:
            await self._transport.send_bytes(chunk)
        except RuntimeError as error:  # the server's way to say that the connection is closed
            raise ClientGoneError from error
