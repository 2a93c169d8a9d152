"""OTLP over HTTP: ``/v1/traces``, ``/v1/logs`` and ``/v1/metrics``, in protobuf or JSON, plain or gzip.

Rule 1: an answer is in the encoding of its request, an error's too (a ``google.rpc.Status``).
Rule 2: 429 and 503 say when to come again; every other refusal means that the same body would be refused again
        (https://opentelemetry.io/docs/specs/otlp/, "Failures").
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.wire.otlp import Signal

from .receiver import Receiver, Refused

__all__ = ["OtlpHttp"]

_PATHS: Final[Mapping[str, Signal]] = {"/v1/traces": "traces", "/v1/logs": "logs", "/v1/metrics": "metrics"}
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_ALLOW: Final = ("allow", "POST, OPTIONS")
_BODY_S: Final = 60
_DISCARD_S: Final = 5
_DISCARD_BYTES_MAX: Final = 20_000_000
_MESSAGE_LENGTH_MAX: Final = 1_000


class OtlpHttp:
    """An RSGI application for the paths it ``owns``."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def owns(self, path: str) -> bool:
        return path in _PATHS

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        signal = _PATHS[scope.path]
        if scope.method != "POST":
            protocol.response_empty(204 if scope.method == "OPTIONS" else 405, [_ALLOW])
            return
        headers = dict(scope.headers.items())
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        as_json = kind == _JSON
        body = _Body(protocol, headers, self._receiver.body_bytes_max)
        try:
            if not as_json and kind not in (_PROTOBUF, "application/protobuf"):
                raise Refused(415, f"content-type {kind[:80]!r}: send {_PROTOBUF} or {_JSON}")
            encoding = headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("identity", "", "gzip"):
                raise Refused(415, f"content-encoding {encoding[:80]!r}: send it plain or as gzip")
            key = self._receiver.admit(headers)
            with self._receiver.room(body.stated()):
                data = await body.read()
                answer = await self._receiver.receive(signal, data, key, as_json=as_json, gzip=encoding == "gzip")
        except Refused as refused:
            _refuse(protocol, refused, as_json=as_json)
            await body.discard()
            return
        protocol.response_bytes(200, [("content-type", _JSON if as_json else _PROTOBUF)], answer)


class _Body:
    """A body within limits of size and time, read once."""

    def __init__(self, protocol: HttpProtocol, headers: Mapping[str, str], limit: int) -> None:
        self._length = headers.get("content-length") if "transfer-encoding" not in headers else None
        self._limit = limit
        self._protocol = protocol
        self._chunks = _chunks(protocol)
        self._whole = False

    def stated(self) -> int:
        """How large it says it is; one that does not say takes the room of the largest. Raises Refused."""
        if self._length is None:
            return self._limit
        if not self._length.isdigit():
            raise Refused(400, f"content-length {self._length[:40]!r} is not a number")
        if int(self._length) > self._limit:
            raise self._too_large(int(self._length))
        return int(self._length)

    async def read(self) -> bytes:
        """Raises Refused."""
        try:
            async with asyncio.timeout(_BODY_S):
                # A length that was looked at already: the server hands over the whole body in one step, and no more of it.
                body = await (self._read_chunks() if self._length is None else self._protocol())
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {_BODY_S} s") from None
        self._whole = True
        if self._length is not None and len(body) != int(self._length):
            raise Refused(400, f"the body ended after {len(body)} of {self._length} bytes")
        return body

    async def _read_chunks(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for chunk in self._chunks:
            size += len(chunk)
            if size > self._limit:
                raise self._too_large(size)
            parts.append(chunk)
        return b"".join(parts)

    async def discard(self) -> None:
        """Take in what is still sent, within limits: most senders read no answer before they have sent all."""
        if self._whole:
            return
        size = 0
        with suppress(
            TimeoutError, RuntimeError, asyncio.CancelledError
        ):  # the server cancels it when the client has gone
            async with asyncio.timeout(_DISCARD_S):
                async for chunk in self._chunks:
                    size += len(chunk)
                    if size > _DISCARD_BYTES_MAX:
                        return

    def _too_large(self, size: int) -> Refused:
        return Refused(
            413, f"the body has {size} bytes, the limit is server.body_bytes_max={self._limit}; send less at once"
        )


async def _chunks(protocol: HttpProtocol) -> AsyncIterator[bytes]:
    """A body piece by piece. The server begins an iteration only once; this one can be gone on with."""
    chunks = aiter(protocol)
    with suppress(StopAsyncIteration):
        while True:
            yield await anext(chunks)


def _refuse(protocol: HttpProtocol, refused: Refused, *, as_json: bool) -> None:
    headers = [("content-type", _JSON if as_json else _PROTOBUF)]
    if refused.retry_after_s is not None:
        headers.append(("retry-after", str(refused.retry_after_s)))
    if refused.status == 401:
        headers.append(("www-authenticate", "Bearer"))
    message = refused.message[:_MESSAGE_LENGTH_MAX]
    protocol.response_bytes(
        refused.status, headers, msgspec.json.encode({"message": message}) if as_json else _status(message)
    )


def _status(message: str) -> bytes:
    """A ``google.rpc.Status`` with a message: field 2, of a length in groups of seven bits."""
    text = message.encode("utf-8", "replace")
    length = bytearray()
    left = len(text)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return b"\x12" + bytes(length) + text
