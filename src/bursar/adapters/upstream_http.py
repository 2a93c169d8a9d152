"""Providers over HTTP: sends one attempt, streams its answer to the door, meters it on the way.

Rule 1: nothing is retried or redirected here; one attempt is one request. TLS is verified.
Rule 2: the answer comes uncompressed, so that the bytes metered are the bytes passed on.
Rule 3: an attempt that never left is told apart from one that may have been billed: only a failure to connect proves it,
        and what the client library calls a connect timeout may be any timeout: only its causes tell (``_never_left``).
Rule 4: a refusal (4xx, 5xx) is not billed; anything else that stays unanswered is estimated from the request.
Rule 5: an answer is whole once its end and its usage were seen, though the provider's connection stays open, and whoever leaves
        then. One that lacks the mark with which its dialect ends a stream has an error that says so.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import (
    BuilderError,
    ConnectError,
    ConnectTimeoutError,
    DetailedPyreqwestError,
    PoolTimeoutError,
    PyreqwestError,
    RequestTimeoutError,
)

from bursar.core.call import NeedsProvider, Reply
from bursar.core.ledger import Status
from bursar.core.prices import Reading
from bursar.core.usage import Usage
from bursar.engine.ports import Allowance, ClientGoneError, HttpAnswer, HttpRequest, Sink
from bursar.wire.dialect import Dialect, Meter, RequestFacts, refused_reading, request_id, with_request

__all__ = ["HttpAttempt", "ProviderClient"]

_NEVER_LEFT: Final = (ConnectError, PoolTimeoutError, BuilderError)
_CONNECTING: Final = "client error (Connect)"  # hyper-util's name for what failed before there was a connection
_CAUSE_LENGTH_MAX: Final = 300
_NO_END: Final = "the provider ended the stream without its last event"
_POOL_IDLE_S: Final = 55  # below the 60 s at which common load balancers close idle connections

# Describe one connection, not the answer; or are recomputed for the client.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
        "upgrade", "content-length", "alt-svc",
    }
)  # fmt: skip


class ProviderClient:
    """``engine.ports.HttpClient``. One per process; keeps connections open."""

    def __init__(
        self, *, connect_timeout_s: int, read_timeout_s: int, call_timeout_s: int, answer_bytes_max: int
    ) -> None:
        self._answer_bytes_max = answer_bytes_max
        self._client: Client = (
            ClientBuilder()
            .connect_timeout(timedelta(seconds=connect_timeout_s))
            .read_timeout(timedelta(seconds=read_timeout_s))
            .timeout(timedelta(seconds=call_timeout_s))
            .pool_idle_timeout(timedelta(seconds=_POOL_IDLE_S))
            .follow_redirects(False)
            .referer(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .http2(True)
            .build()
        )

    def attempt(
        self,
        request: HttpRequest,
        dialect: Dialect,
        facts: RequestFacts,
        sink: Sink,
        *,
        hide_usage: bool,
        allowance: Allowance | None,
    ) -> HttpAttempt:
        return HttpAttempt(self._client, request, dialect, facts, sink, hide_usage, self._answer_bytes_max, allowance)

    async def close(self) -> None:
        await self._client.close()


class HttpAttempt:
    """``engine.ports.HttpUpstream``: one attempt. ``answer`` is set once a whole answer came, ``failure`` if none will."""

    __slots__ = (
        "_allowance", "_answer_bytes_max", "_client", "_dialect", "_facts", "_first_ms", "_hide_usage", "_meter", "_request",
        "_request_id", "_sink", "_started", "_status", "answer", "failure",
    )  # fmt: skip

    def __init__(
        self,
        client: Client,
        request: HttpRequest,
        dialect: Dialect,
        facts: RequestFacts,
        sink: Sink,
        hide_usage: bool,
        answer_bytes_max: int,
        allowance: Allowance | None,
    ) -> None:
        self._allowance = allowance
        self._client = client
        self._request = request
        self._dialect = dialect
        self._facts = facts
        self._sink = sink
        self._hide_usage = hide_usage
        self._answer_bytes_max = answer_bytes_max
        self._meter: Meter | None = None
        self._started = time.perf_counter()
        self._first_ms: float | None = None
        self._status: int | None = None
        self._request_id = ""
        self.answer: HttpAnswer | None = None
        self.failure = ""

    async def send(self, _need: NeedsProvider, /) -> Reply:
        return await self.exchange()

    async def exchange(self) -> Reply:
        self._started = time.perf_counter()
        try:
            builder = (
                self._client.request(self._request.method, self._request.url)
                .headers(self._request.headers)
                .body_bytes(self._request.body)
            )
            if self._request.stream:
                builder = builder.streamed_read_buffer_limit(0)  # else it waits for 64 KiB before the first event
            async with builder.build_streamed() as response:
                self._status = response.status
                headers = tuple([pair for pair in response.headers.items() if pair[0] not in _HOP_BY_HOP])
                self._request_id = request_id(headers)
                if self._request.stream and response.status < 400:
                    return await self._stream(response, headers)
                return await self._whole(response, headers)
        except PyreqwestError as error:
            return self._failed(error)

    async def _whole(self, response: Any, headers: tuple[tuple[str, str], ...]) -> Reply:
        body = await self._read(response)
        if body is None:
            reason = f"the answer is larger than server.answer_bytes_max ({self._answer_bytes_max})"
            self.failure = reason
            return self._reply(self._estimate(reason), "error")
        self._first_ms = self._elapsed_ms()
        self.answer = HttpAnswer(response.status, headers, body)
        reading = with_request(self._dialect.read_response(body), self._facts)
        if response.status >= 400:
            return self._reply(refused_reading(reading, response.status), "error")
        return self._reply(reading, "ok")

    async def _read(self, response: Any) -> bytes | None:
        length = response.get_header("content-length")
        if length is not None and int(length) <= self._answer_bytes_max:
            return bytes(await response.bytes())
        parts: list[bytes] = []
        size = 0
        while (chunk := await response.body_reader.read_chunk()) is not None:
            size += len(chunk)
            if size > self._answer_bytes_max:
                return None
            parts.append(bytes(chunk))
        return b"".join(parts)

    async def _stream(self, response: Any, headers: tuple[tuple[str, str], ...]) -> Reply:
        allowance = self._allowance
        meter = self._meter = self._dialect.meter(
            self._facts, hide_usage=self._hide_usage, whole_events=allowance is not None
        )
        reader = response.body_reader
        try:
            await self._sink.start(response.status, headers)
            while (chunk := await reader.read_chunk()) is not None:
                out = meter.feed(bytes(chunk))
                if self._first_ms is None and meter.shows_output():
                    self._first_ms = self._elapsed_ms()
                if out:
                    await self._sink.write(out)
                if allowance is not None and not await allowance.covers(meter.output_tokens()):
                    await self._sink.write(meter.close())
                    return self._reply(replace(meter.reading(), error=allowance.refusal), "ended")
            if out := meter.finish():
                await self._sink.write(out)
        except ClientGoneError:
            return self._reply(meter.reading(), "cancelled")
        except PyreqwestError as error:
            if not self._has_all(meter):
                return await self._cut(meter, meter.finish(), f"the provider broke off: {_cause(error)}")
            with suppress(ClientGoneError):
                await self._sink.write(meter.finish())
        reading = meter.reading()
        if not reading.estimated or reading.finish:
            if reading.finish and not reading.error and not meter.ended():
                reading = replace(reading, error=_NO_END)
            return self._reply(reading, "ok")
        if reading.error:
            return self._reply(reading, "cut")
        # Without a finish and without usage the stream ended before its end, whatever the transport says.
        return await self._cut(meter, b"", "the provider ended the stream before its end")

    async def _cut(self, meter: Meter, rest: bytes, text: str) -> Reply:
        """The client has seen part of an answer: say in its own dialect that the rest will not come."""
        event = self._dialect.error_event(502, "upstream_cut", text, {"code": "upstream_cut"})
        with suppress(ClientGoneError):
            await self._sink.write(rest + event)
        return self._reply(replace(meter.reading(), error=text), "cut")

    @property
    def showing(self) -> bool:
        return self._meter is not None and self._meter.shows_output()

    def interrupted(self) -> Reply:
        meter = self._meter
        if meter is None:
            return self._reply(self._estimate(""), "cancelled")
        return self._reply(meter.reading(), "ok" if self._has_all(meter) else "cancelled")

    def _has_all(self, meter: Meter) -> bool:
        """Rule 5: the end of the answer was seen, and what it is charged."""
        reading = meter.reading()
        return reading.usage is not None and not reading.estimated and not reading.error and meter.ended()

    def _failed(self, error: PyreqwestError) -> Reply:
        what = "timed out" if isinstance(error, RequestTimeoutError) else "failed"
        never_left = _never_left(error)
        text = self.failure = f"the provider {'could not be reached' if never_left else what}: {_cause(error)}"
        if never_left:
            return Reply(Reading(error=text), "error", left=False, latency_ms=self._elapsed_ms())
        return self._reply(self._estimate(text), "error")

    def _estimate(self, error: str) -> Reading:
        usage = Usage(input_tokens=self._facts.input_tokens_estimate)
        return Reading(usage=usage, model=self._facts.model, terms=self._facts.terms, estimated=True, error=error)

    def _reply(self, reading: Reading, status: Status) -> Reply:
        return Reply(
            reading,
            status,
            http_status=self._status,
            latency_ms=self._elapsed_ms(),
            first_token_ms=self._first_ms if self._request.stream else None,
            request_id=self._request_id,
        )

    def _elapsed_ms(self) -> float:
        return round((time.perf_counter() - self._started) * 1000, 3)


def _never_left(error: PyreqwestError) -> bool:
    return isinstance(error, _NEVER_LEFT) or (isinstance(error, ConnectTimeoutError) and _CONNECTING in _causes(error))


def _causes(error: PyreqwestError) -> list[str]:
    """The causes without the first one, which only repeats the URL."""
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return [cause["message"] for cause in causes or ()][1:]


def _cause(error: PyreqwestError) -> str:
    return (_causes(error) or [error.message])[-1][:_CAUSE_LENGTH_MAX]
