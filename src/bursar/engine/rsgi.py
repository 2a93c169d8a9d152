"""The shape of the HTTP server interface (RSGI) that the doors and the console are written against.

granian implements it (https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md); ``adapters.http_server``
runs it. Only what is used here is named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias

__all__ = ["App", "Headers", "HttpProtocol", "HttpScope", "StreamTransport"]


class Headers(Protocol):
    """Request headers; names are lower case."""

    def __contains__(self, key: str, /) -> bool: ...
    def get(self, key: str, default: Any = None, /) -> Any: ...
    def get_all(self, key: str, /) -> list[str]: ...
    def items(self) -> list[tuple[str, str]]: ...
    def keys(self) -> list[str]: ...


class HttpScope(Protocol):
    """What is known of a request before its body. ``client`` is ``address:port``."""

    @property
    def proto(self) -> str: ...
    @property
    def http_version(self) -> str: ...
    @property
    def client(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query_string(self) -> str: ...
    @property
    def authority(self) -> str | None: ...
    @property
    def headers(self) -> Headers: ...


class StreamTransport(Protocol):
    """The open body of a response."""

    async def send_bytes(self, data: bytes, /) -> None:
        """Raises when the client is gone. Waits when the client reads slowly."""
        ...


class HttpProtocol(Protocol):
    """One request's body and the one answer to it."""

    def __call__(self) -> Awaitable[bytes]:
        """The whole body."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def client_disconnect(self) -> Awaitable[None]:
        """Returns when the client has gone."""
        ...

    def response_empty(self, status: int, headers: list[tuple[str, str]], /) -> None: ...
    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes, /) -> None: ...
    def response_stream(self, status: int, headers: list[tuple[str, str]], /) -> StreamTransport: ...


App: TypeAlias = Callable[[HttpScope, HttpProtocol], Awaitable[None]]
