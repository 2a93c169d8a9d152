"""One model call of the user's own client: what is asked for it, what is done to its request, how its answer is counted.

Rule 1: this file knows no HTTP library. A transport gives it bytes and gets bytes back.
Rule 2: the request is changed only where a permit says so; a stream is asked for its usage, which is hidden from a client
        that did not ask. A signed request (AWS) is never changed: it is held at what it is.
Rule 3: a call ends once: answered, refused, left by its client, or broken off. What comes after the first ending is nothing.
Rule 4: a call that a gateway of ours has charged (its answer says so) is given back here.
Rule 5: the same request again, by the same code, right after it failed is another attempt of the same call: SDKs do not say
        so in a way that they share.
Rule 6: an ending that cannot be told costs nobody their answer: it is said, and what was held is charged by estimate.
Rule 7: where one library sends over another (httpx over aiohttp), the upper one's call is the call.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from bursar.core.call import Reply
from bursar.core.ladder import UNCHANGED
from bursar.core.ledger import SDK_PREFIX, Opening, Status
from bursar.core.prices import Charge, Reading
from bursar.core.scopes import Scope
from bursar.core.usage import Usage
from bursar.engine.permits import CHUNK_TOKENS, LOOK_AHEAD_TOKENS, Ask, Ended, Permit
from bursar.engine.rulebook import ProviderRule
from bursar.wire.bedrock import with_headers
from bursar.wire.context import HEADER_PREFIX, attribute
from bursar.wire.dialect import BadRequest, Dialect, Meter, RequestFacts, refused_reading, with_request
from bursar.wire.requests import is_free, read_facts

from .frames import Frame, current_frame, otel_baggage, otel_trace
from .session import Session

__all__ = ["CALL_HEADER", "LOOKED_AT", "Answer", "Outgoing", "is_under_way", "outgoing", "scope_of", "under_way"]

_SIGNED: Final = "AWS4-HMAC"
CALL_HEADER: Final = "x-bursar-call-id"
"""What an answer has that a gateway of ours has charged."""
_ANSWER_BYTES_MAX: Final = 200_000_000
_DEFERRED_BYTES_MAX: Final = 65_536
_AGAIN_S: Final = 120.0
"""So long after a failure the same request is the same call: SDKs wait for a minute at most before they send it again."""
_NOT_PRICED: Final = Charge(None, "not priced yet", None)
_RETRY_HEADER: Final = "x-stainless-retry-count"
_IDEMPOTENCY_HEADER: Final = "idempotency-key"
LOOKED_AT: Final = ("content-type", "content-length", "authorization", _RETRY_HEADER, _IDEMPOTENCY_HEADER)
"""The headers of a request that ``outgoing`` and a transport look at, besides ours."""


class _Failed(NamedTuple):
    """The last request of this context, where it failed."""

    call_id: str
    number: int
    path: str
    body_hash: int
    session: Session
    task: str
    at_s: float


_UNDER_WAY: Final[ContextVar[bool]] = ContextVar("bursar_under_way", default=False)
_FAILED: Final[ContextVar[_Failed | None]] = ContextVar("bursar_failed", default=None)


class Outgoing:
    """A request on its way. ``path`` and ``body`` are what is sent; ``headers`` what must be set on it."""

    __slots__ = (
        "_asked",
        "ask",
        "body",
        "dialect",
        "facts",
        "headers",
        "hide_usage",
        "path",
        "permit",
        "session",
        "signed",
        "started",
    )

    def __init__(
        self, session: Session, ask: Ask, dialect: Dialect, facts: RequestFacts, path: str, body: bytes, *, signed: bool
    ) -> None:
        self.session = session
        self.ask = ask
        self.dialect = dialect
        self.facts = facts
        self._asked = (path, body)
        self.path = path
        self.body = body
        self.signed = signed
        self.permit: Permit | None = None
        self.hide_usage = False
        self.headers = {"accept-encoding": "identity" if facts.stream else "gzip, deflate"}
        self.started = time.perf_counter()

    def shape(self, permit: Permit | None, *, must_ask_usage: bool) -> None:
        """Make the request what was admitted (rule 2). Raises BadRequest."""
        self.permit = permit
        self.started = time.perf_counter()
        if self.signed:
            return
        changes = permit.changes if permit is not None else UNCHANGED
        ask_usage = must_ask_usage and self.facts.stream and not self.facts.asks_usage
        if changes == UNCHANGED and not ask_usage:
            return
        model = changes.model or None
        self.body = self.dialect.prepare(self.body, model=model, ask_usage=ask_usage, changes=changes)
        self.hide_usage = ask_usage
        if model:
            self.path = self.dialect.with_model(self.path, model)
            self.facts = replace(self.facts, model=model)

    # --- endings ----------------------------------------------------------------------------------------------

    def never_left(self) -> None:
        """It provably was not sent: what was held is given back."""
        self.may_come_again(left=False)
        self._end(None)

    def may_come_again(self, *, left: bool = True) -> None:
        """It failed (rule 5). What never left is no attempt: views count a call by its first, which must have a row."""
        opening, (path, body) = self.ask.opening, self._asked
        number = opening.number if left else opening.number - 1
        now_s = time.monotonic()
        _FAILED.set(_Failed(opening.call_id, number, path, hash(body), self.session, opening.scope.task, now_s))

    def failed(self, error: str) -> None:
        """It may have been sent, and no answer came: charged by estimate."""
        self.may_come_again()
        usage = Usage(input_tokens=self.facts.input_tokens_estimate)
        reading = Reading(usage, model=self.facts.model, terms=self.facts.terms, estimated=True, error=error[:400])
        self.end(reading, "error")

    def cancelled(self) -> None:
        """Its caller went away before an answer came."""
        usage = Usage(input_tokens=self.facts.input_tokens_estimate)
        self.end(Reading(usage, model=self.facts.model, terms=self.facts.terms, estimated=True), "cancelled")

    def end(
        self,
        reading: Reading,
        status: Status,
        *,
        http_status: int | None = None,
        first_ms: float | None = None,
        request_id: str = "",
    ) -> None:
        latency_ms = round((time.perf_counter() - self.started) * 1000, 3)
        self._end(
            Reply(
                reading,
                status,
                http_status=http_status,
                latency_ms=latency_ms,
                first_token_ms=first_ms,
                request_id=request_id,
            )
        )

    def _end(self, reply: Reply | None) -> None:
        permit = self.permit
        treasury = self.session.treasury
        try:
            if permit is None:
                treasury.observe(Ended(self.ask, self.ask.opening, reply, held=False))
            else:
                treasury.settle(Ended(self.ask, permit.opening, reply))
        except Exception as error:  # noqa: BLE001 - rule 6
            self.session.trouble("the end of a call could not be told", error)


class Answer:
    """A provider's answer while it passes by."""

    __slots__ = (
        "_body",
        "_call",
        "_decode",
        "_deferred",
        "_deferred_bytes",
        "_defers",
        "_ended",
        "_first_ms",
        "_headers",
        "_meter",
        "_passes",
        "_size",
        "_status",
        "_stream",
        "covers",
    )

    def __init__(self, call: Outgoing, status: int, headers: Mapping[str, str]) -> None:
        self._call = call
        self._status = status
        self._headers = headers
        self._ended = False
        self._first_ms: float | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._decode = _decoder(headers.get("content-encoding", ""))
        self._stream = call.facts.stream and status < 400
        permit = call.permit
        self.covers = permit.covers_tokens if permit is not None and permit.extend else None
        self._passes = self._decode is not None or not self._stream
        # What need not be known before the end is read then, all at once: it takes a tenth of the time.
        self._defers = self.covers is None
        self._deferred: list[bytes] = []
        self._deferred_bytes = 0
        self._meter: Meter | None = None
        if self._stream:
            self._meter = call.dialect.meter(
                call.facts,
                hide_usage=call.hide_usage and not self._passes,
                whole_events=self.covers is not None and not self._passes,
            )
        if CALL_HEADER in headers:
            self._ended = True
            call.never_left()  # rule 4

    def feed(self, chunk: bytes) -> bytes:
        """Count a chunk. What is to be passed on: the chunk, but for a hidden usage event."""
        if self._ended:
            return chunk
        if self._first_ms is None:
            self._first_ms = round((time.perf_counter() - self._call.started) * 1000, 3)
        plain = chunk if self._decode is None else self._decode(chunk)
        if self._meter is not None:
            if self._defers and (self._passes or not self._call.hide_usage or _shows_all(plain)):
                self._deferred.append(plain)
                self._deferred_bytes += len(plain)
                if self._deferred_bytes > _DEFERRED_BYTES_MAX:
                    self._read_deferred()
                return chunk
            self._read_deferred()
            out = self._meter.feed(plain)
            return chunk if self._passes else out
        self._size += len(plain)
        if self._size <= _ANSWER_BYTES_MAX:
            self._body.append(plain)
        return chunk

    def _read_deferred(self) -> None:
        """Count what was passed on uncounted: whole events, of which none is to be hidden."""
        if self._deferred and self._meter is not None:
            self._meter.feed(b"".join(self._deferred))
            self._deferred.clear()
            self._deferred_bytes = 0

    def wants(self) -> int | None:
        """The output tokens that the stream must be paid for up to before it goes on, None while it is."""
        if self.covers is None or self._ended or self._meter is None:
            return None
        permit = self._call.permit
        assert permit is not None
        if self._meter.output_tokens() + LOOK_AHEAD_TOKENS <= self.covers or self.covers >= permit.output_tokens_max:
            return None
        return min(self.covers + CHUNK_TOKENS, permit.output_tokens_max)

    def extended(self, to_tokens: int) -> None:
        permit = self._call.permit
        assert permit is not None
        self._call.permit = replace(permit, covers_tokens=to_tokens)
        self.covers = to_tokens

    def end_here(self, why: str) -> bytes:
        """There is no more money for it: what ends the stream in its own dialect."""
        assert self._meter is not None
        last = b"" if self._passes else self._meter.close()
        self._end(replace(self._meter.reading(), error=why), "ended")
        return last

    def finished(self) -> bytes:
        """It came to its end. Returns what was held back."""
        if self._ended:
            return b""
        if self._meter is None:
            self._end_whole()
            return b""
        self._read_deferred()
        rest = self._meter.finish()
        reading = self._meter.reading()
        # Without a finish and without usage the stream ended before its end, whatever the transport says.
        self._end(reading, "cut" if reading.estimated and not reading.finish else "ok")
        return b"" if self._passes else rest

    def left(self) -> None:
        """The client listens no more."""
        if self._ended:
            return
        if self._meter is None:
            self._end_whole(left=True)
            return
        self._read_deferred()
        reading = self._meter.reading()
        # Clients close a stream at its last event, without waiting for the end of the body; at an error in it as well.
        self._end(reading, "cut" if reading.error else "cancelled" if reading.estimated else "ok")

    def broken(self, error: str) -> None:
        """The provider broke off."""
        if self._ended:
            return
        if self._meter is None:
            self._ended = True
            self._call.failed(error)
            return
        self._read_deferred()
        self._end(replace(self._meter.reading(), error=error[:400]), "cut")

    def _end_whole(self, *, left: bool = False) -> None:
        call = self._call
        if self._size > _ANSWER_BYTES_MAX:
            self._ended = True
            call.failed(f"the answer is larger than {_ANSWER_BYTES_MAX} bytes")
            return
        read = with_headers(call.dialect.read_response(b"".join(self._body)), self._headers)
        reading = with_request(read, call.facts)
        if self._status >= 400:
            call.may_come_again()
            self._end(refused_reading(reading, self._status), "error")
            return
        if left and reading.usage is None:  # closed before it was read: the provider has answered, and bills it
            self._ended = True
            call.cancelled()
            return
        self._end(reading, "ok")

    def _end(self, reading: Reading, status: Status) -> None:
        self._ended = True
        first_ms = self._first_ms if self._stream else None
        request_id = self._headers.get("request-id") or self._headers.get("x-request-id") or ""
        self._call.end(reading, status, http_status=self._status, first_ms=first_ms, request_id=request_id)


def _shows_all(chunk: bytes) -> bool:
    """Whether a chunk of an OpenAI stream can be passed on as it is: whole events, none of them the usage that was not asked
    for, which is the one without choices."""
    return chunk.endswith(b"\n\n") and b'"choices":[]' not in chunk and b'"choices": []' not in chunk


class _Decode(Protocol):
    def __call__(self, data: bytes, /) -> bytes: ...


def _decoder(encoding: str) -> _Decode | None:
    """How to read an answer that comes compressed although it was asked not to. What cannot be read has no usage."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return lambda _data: b""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32 if encoding != "deflate" else zlib.MAX_WBITS)

    def decode(data: bytes) -> bytes:
        try:
            return inflate.decompress(data)
        except zlib.error:
            return b""

    return decode


@contextmanager
def under_way() -> Generator[None]:
    """While a call that is counted already is handed to the library that sends it (rule 7)."""
    token = _UNDER_WAY.set(True)
    try:
        yield
    finally:
        _UNDER_WAY.reset(token)


def is_under_way() -> bool:
    return _UNDER_WAY.get()


# --- what is asked ----------------------------------------------------------------------------------------------


def outgoing(
    session: Session, rule: ProviderRule, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> Outgoing | None:
    """A request to a provider, None where it costs nothing. ``headers`` have lower-case names, ``path`` no query."""
    if is_free(method, path):
        return None
    dialect = rule.provider.dialect(path)
    try:
        facts = read_facts(dialect, path, headers.get("content-type", ""), body)
    except BadRequest:  # the provider will say so; nothing of it is known, and a budget takes it for that
        facts = RequestFacts("passthrough", dialect.path_model(path), text_bytes=len(body))
    if rule.terms:
        facts = replace(facts, terms=tuple(sorted({**dict(facts.terms), **dict(rule.terms)}.items())))
    signed = headers.get("authorization", "").startswith(_SIGNED)
    frame = current_frame()
    opening = _opening(session, rule, facts, headers, frame, _failed_before(session, frame, path, body))
    ask = Ask(
        opening,
        facts,
        path,
        can_cap=dialect.can_cap and not signed,
        task=frame.own_limit() if frame else None,
        above=frame.limits_above() if frame and frame.parent else (),
        final=frame.is_final() if frame else False,
    )
    return Outgoing(session, ask, dialect, facts, path, body, signed=signed)


def _failed_before(session: Session, frame: Frame | None, path: str, body: bytes) -> _Failed | None:
    """The attempt that a request repeats (rule 5)."""
    before = _FAILED.get()
    if before is None:
        return None
    _FAILED.set(None)
    if not body:  # it is sent piece by piece: nobody knows whether it is the same
        return None
    task = frame.scope.task if frame is not None else before.task
    same = (before.path, before.body_hash, before.session, before.task) == (path, hash(body), session, task)
    return before if same and time.monotonic() - before.at_s < _AGAIN_S else None


def _opening(
    session: Session,
    rule: ProviderRule,
    facts: RequestFacts,
    headers: Mapping[str, str],
    frame: Frame | None,
    before: _Failed | None,
) -> Opening:
    attempt_id = session.new_id()
    number = 1 if before is None else before.number + 1
    retry = headers.get(_RETRY_HEADER, "0")
    if before is None and retry.isdigit() and retry != "0" and len(retry) < 3:
        number = 1 + int(retry)
    trace = otel_trace()
    if not trace.trace_id and frame is not None:
        trace = frame.trace
    return Opening(
        attempt_id=SDK_PREFIX + attempt_id,
        call_id=headers.get(_IDEMPOTENCY_HEADER, "")[:128] or (attempt_id if before is None else before.call_id),
        kind="model",
        door="sdk",
        operation=facts.operation,
        started_us=session.now_us(),
        provider=rule.provider.id,
        model_asked=facts.model,
        scope=scope_of(session, frame, facts, headers.items()),
        estimate=_NOT_PRICED,
        number=number,
        stream=facts.stream,
        trace_id=trace.trace_id,
        span_id=trace.span_id,
    )


_NO_FACTS: Final = RequestFacts("", "")


def scope_of(
    session: Session, frame: Frame | None, facts: RequestFacts = _NO_FACTS, headers: Iterable[tuple[str, str]] = ()
) -> Scope:
    """Nearer wins: the frame, headers on the request, OpenTelemetry's baggage, the body, what holds for every call."""
    found = attribute([pair for pair in headers if pair[0].startswith(HEADER_PREFIX)], "", facts, otel_baggage())
    if frame is not None:
        found = frame.scope.over(found)
        if frame.scope.task:  # where a task stands is said by its frame alone
            found = replace(found, task=frame.scope.task, parent_task=frame.scope.parent_task)
    return found.over(session.defaults)
