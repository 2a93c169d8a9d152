"""A Streamable HTTP server of MCP behind a metering reverse proxy.

Rule 1: what is passed on is what came: bodies, events, session ids, authorization. Only what describes a single connection
        is made anew.
Rule 2: ids belong to a session; without one (stateless servers) to the request they came in.
Rule 3: a client that goes away cancels its calls only where the protocol says so (from 2026-07-28 on). Before that the
        server goes on, and so do we: to know what it cost.
Rule 4: a stream that ends before the answer may be taken up again by a GET of the same session: its calls stay open for
        ``_RESUME_S``, then they are cut.
Rule 5: pages of other sites cannot spend: a request from an origin that is not this machine is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, ConnectError, ConnectTimeoutError, PoolTimeoutError, PyreqwestError

from bursar.core.ledger import Status
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.wire.sse import Splitter, event_data

from .messages import Id, batch_of, error_message
from .metering import Conversation, Ended, Purse, ServerName
from .purse import decide

__all__ = ["McpProxy", "make_client"]

T = TypeVar("T")

_BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
_RESUME_S: Final = 60.0
_DRAIN_S: Final = 600.0
_ENDED_EARLY: Final = "the stream ended before the answer"
_CONNECTING: Final = "client error (Connect)"  # the library's name for what failed before there was a connection
_UNSEEN_BYTES_MAX: Final = 4 * 1024 * 1024
_EXCHANGES_MAX: Final = 2_000
_CONNECT_S: Final = 10
_SILENCE_S: Final = 3_600
_ERROR_LENGTH_MAX: Final = 300
_SESSION: Final = "mcp-session-id"
_VERSION: Final = "mcp-protocol-version"
_CLOSING_CANCELS: Final = "2026-07-28"
_JSON: Final = ("content-type", "application/json")
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# Of one connection only; or made anew. What comes must be readable, so it comes uncompressed.
_NOT_PASSED_ON: Final = frozenset(
    {
        "accept-encoding", "alt-svc", "connection", "content-length", "host", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


class McpProxy(Generic[T]):
    """The RSGI application. ``url`` is the server's; the same path is served here, and all others of its origin."""

    def __init__(
        self, url: str, purse: Purse[T], name: ServerName, client: Client, *, clock_s: Callable[[], float]
    ) -> None:
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._purse = purse
        self._name = name
        self._client = client
        self._clock_s = clock_s
        self._under_way = 0
        self._sessions: dict[str, _Session[T]] = {}
        self._resumable: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        origin = scope.headers.get("origin")
        if origin and urlsplit(str(origin)).hostname not in _LOCAL:
            protocol.response_bytes(403, [_JSON], error_message("", "requests from other origins are refused"))
            return
        if self._under_way >= _EXCHANGES_MAX:
            headers = [_JSON, ("retry-after", "1")]
            protocol.response_bytes(503, headers, error_message("", f"{_EXCHANGES_MAX} requests are under way already"))
            return
        self._under_way += 1
        try:
            await self._relay(scope, protocol)
        finally:
            self._under_way -= 1

    async def _relay(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        body = await _read(scope, protocol)
        if body is None:
            protocol.response_bytes(413, [_JSON], error_message("", "the message is too long to be passed on"))
            return
        name = str(scope.headers.get(_SESSION, ""))
        session = self._sessions.get(name) or _Session(name, Conversation(self._name))
        if name:
            self._sessions[name] = session
        session.users += 1
        exchange = _Exchange(scope, protocol, body, session)
        try:
            await (self._post(exchange) if scope.method == "POST" else self._send(exchange))
            if scope.method == "DELETE":
                await self._settle(session.conversation.close("cancelled", "", self._clock_s()))
        finally:
            session.users -= 1
            self._forget(session)

    async def close(self) -> None:
        """Ends everything that is still open."""
        for task in tuple(self._resumable):
            task.cancel()
        await asyncio.gather(*self._resumable, return_exceptions=True)
        for session in tuple(self._sessions.values()):
            await self._settle(session.conversation.close("cancelled", "", self._clock_s()))

    def _forget(self, session: _Session[T]) -> None:
        if session.name and not session.users and not session.conversation.open_calls:
            self._sessions.pop(session.name, None)

    # --- a message of the client ------------------------------------------------------------------------------

    async def _post(self, exchange: _Exchange[T]) -> None:
        conversation = exchange.session.conversation
        heard = conversation.from_client(exchange.body)
        await self._settle(conversation.give_up(heard.cancels, "cancelled", "", self._clock_s()))
        decisions = await decide(self._purse, heard)
        onward, answers = conversation.decided(heard, decisions, self._clock_s())
        exchange.answers = answers
        exchange.calls = tuple(call.id for call in heard.calls if conversation.is_open(call.id))
        if onward is not None:
            exchange.body = onward
            await self._send(exchange)
        elif answers:
            exchange.protocol.response_bytes(200, [_JSON], batch_of(answers, single=heard.single))
        else:
            exchange.protocol.response_empty(202, [])

    async def _send(self, exchange: _Exchange[T]) -> None:
        """One request to the server, and its answer to the client, for as long as somebody needs it."""
        work = asyncio.ensure_future(self._exchanged(exchange))
        gone = asyncio.ensure_future(exchange.protocol.client_disconnect())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and exchange.is_open and not exchange.closing_cancels:
                await asyncio.wait({work}, timeout=_DRAIN_S)
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _exchanged(self, exchange: _Exchange[T]) -> None:
        scope = exchange.scope
        try:
            request = self._client.request(scope.method, self._url(scope)).headers(_passed_on(scope.headers.items()))
            if exchange.body:
                request = request.body_bytes(exchange.body)
            async with request.streamed_read_buffer_limit(0).build_streamed() as response:
                if response.status < 400 and _is_events(response):
                    await self._events(exchange, response)
                else:
                    await self._whole(exchange, response)
        except PyreqwestError as error:
            text = f"the server cannot be reached: {error.message}"[:_ERROR_LENGTH_MAX]
            await self._give_up(exchange, "error", text, left=not _never_left(error))
            if not exchange.started:
                first = exchange.calls[0] if exchange.calls else ""
                exchange.protocol.response_bytes(502, [_JSON], error_message(first, text))
        except asyncio.CancelledError:
            await self._give_up(exchange, "cancelled", "")
            raise

    async def _whole(self, exchange: _Exchange[T], response: Any) -> None:
        body, status = await _whole_body(response), response.status
        if body is None:
            text = f"the answer has more than {_ANSWER_BYTES_MAX} bytes"
            await self._give_up(exchange, "error", text)
            exchange.protocol.response_bytes(502, [_JSON], error_message("", text))
            return
        await self._settle(exchange.session.conversation.from_server(body, self._clock_s()))
        # Nothing of it was an answer: moved or refused before a tool ran, or failed on the way.
        await self._give_up(exchange, "error", f"HTTP {status}", billed=not 300 <= status < 500)
        headers = self._passed_back(exchange, response)
        if exchange.answers:
            body = _joined(exchange.answers, body)
            status, headers = 200, [pair for pair in headers if pair[0] != "content-type"] + [_JSON]
        exchange.started = True
        exchange.protocol.response_bytes(status, headers, body)

    # --- a stream of the server -------------------------------------------------------------------------------

    async def _events(self, exchange: _Exchange[T], response: Any) -> None:
        exchange.started = True
        client = exchange.protocol.response_stream(response.status, self._passed_back(exchange, response))
        events = _Events()
        chunk: bytes | None = b"".join(b"event: message\ndata: " + each + b"\n\n" for each in exchange.answers)
        while chunk is not None:
            for data in events.feed(chunk):
                await self._settle(exchange.session.conversation.from_server(data, self._clock_s()))
            # The server's way to say that the client has gone: whoever waits for that hears of it as well.
            with suppress(RuntimeError):
                await client.send_bytes(chunk)
            chunk = await _chunk(response)
        if exchange.is_open and exchange.session.name:
            task = asyncio.get_running_loop().create_task(self._lapse(exchange))
            self._resumable.add(task)
            task.add_done_callback(self._resumable.discard)
        else:
            await self._give_up(exchange, "cut", _ENDED_EARLY)

    async def _lapse(self, exchange: _Exchange[T]) -> None:
        """The stream of these calls ended before their answers. Another may bring them, for a while."""
        await asyncio.sleep(_RESUME_S)
        await self._give_up(exchange, "cut", _ENDED_EARLY)
        self._forget(exchange.session)

    # --- endings ----------------------------------------------------------------------------------------------

    async def _give_up(
        self, exchange: _Exchange[T], status: Status, error: str, *, billed: bool = True, left: bool = True
    ) -> None:
        now_s = self._clock_s()
        ended = exchange.session.conversation.give_up(exchange.calls, status, error, now_s, billed=billed, left=left)
        await self._settle(ended)

    async def _settle(self, ended: Sequence[Ended[T]]) -> None:
        for each in ended:
            await self._purse.end(each.granted, each.outcome)

    # --- addresses --------------------------------------------------------------------------------------------

    def _url(self, scope: HttpScope) -> str:
        path = quote(scope.path, safe="/:@!$&'()*+,;=~%")
        return f"{self._origin}{path}?{scope.query_string}" if scope.query_string else f"{self._origin}{path}"

    def _passed_back(self, exchange: _Exchange[T], response: Any) -> list[tuple[str, str]]:
        """The answer's headers; where it points at its own origin, that is here."""
        here = f"http://{exchange.scope.headers.get('host', '')}"
        return [
            (name, value.replace(self._origin, here, 1) if name == "location" else value)
            for name, value in _passed_on(response.headers.items())
        ]


class _Session(Generic[T]):
    """A session's conversation, or that of one request where there are no sessions. ``users`` are requests under way."""

    __slots__ = ("conversation", "name", "users")

    def __init__(self, name: str, conversation: Conversation[T]) -> None:
        self.name = name
        self.conversation = conversation
        self.users = 0


class _Exchange(Generic[T]):
    """One request of the client on its way. ``calls`` are those that went on, ``answers`` what it is told already."""

    __slots__ = ("answers", "body", "calls", "protocol", "scope", "session", "started")

    def __init__(self, scope: HttpScope, protocol: HttpProtocol, body: bytes, session: _Session[T]) -> None:
        self.scope = scope
        self.protocol = protocol
        self.body = body
        self.session = session
        self.calls: tuple[Id, ...] = ()
        self.answers: tuple[bytes, ...] = ()
        self.started = False

    @property
    def is_open(self) -> bool:
        """Whether a call of it has no answer yet."""
        return any(map(self.session.conversation.is_open, self.calls))

    @property
    def closing_cancels(self) -> bool:
        """Whether to close the connection is to give up (versions are dates, and sort as text)."""
        return str(self.scope.headers.get(_VERSION, "")) >= _CLOSING_CANCELS


class _Events:
    """The data of events. A large one comes in many chunks, and is looked at only where it may have ended."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        self._parts.append(chunk)
        self._size += len(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and self._size < _UNSEEN_BYTES_MAX:
            return []
        whole = b"".join(self._parts)
        self._parts, self._size = [], 0
        return [data for event in self._splitter.feed(whole) if (data := event_data(event))]


def make_client() -> Client:
    """The client for the server's side: nothing is unpacked or redirected, and a silent stream stays open for an hour."""
    return (
        ClientBuilder()
        .connect_timeout(timedelta(seconds=_CONNECT_S))
        .read_timeout(timedelta(seconds=_SILENCE_S))
        .follow_redirects(False)
        .referer(False)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .build()
    )


async def _read(scope: HttpScope, protocol: HttpProtocol) -> bytes | None:
    """The body, None when it is too large."""
    stated = scope.headers.get("content-length", "")
    if stated.isdecimal():
        return await protocol() if int(stated) <= _BODY_BYTES_MAX else None
    chunks: list[bytes] = []
    size = 0
    async for chunk in protocol:
        size += len(chunk)
        if size > _BODY_BYTES_MAX:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


async def _chunk(response: Any) -> bytes | None:
    """The next part of a stream, None where there is none: also a stream that breaks may be taken up again."""
    try:
        chunk = await response.body_reader.read_chunk()
    except PyreqwestError:
        return None
    return None if chunk is None else bytes(chunk)


def _never_left(error: PyreqwestError) -> bool:
    """What the client calls a connect timeout may be any timeout: only its causes tell."""
    if isinstance(error, ConnectTimeoutError):
        return any(_CONNECTING in cause["message"] for cause in error.details["causes"] or ())
    return isinstance(error, ConnectError | PoolTimeoutError | BuilderError)


async def _whole_body(response: Any) -> bytes | None:
    chunks: list[bytes] = []
    size = 0
    while (chunk := await response.body_reader.read_chunk()) is not None:
        size += len(chunk)
        if size > _ANSWER_BYTES_MAX:
            return None
        chunks.append(bytes(chunk))
    return b"".join(chunks)


def _is_events(response: Any) -> bool:
    return str(response.get_header("content-type") or "").lower().startswith("text/event-stream")


def _passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name not in _NOT_PASSED_ON]


def _joined(answers: Sequence[bytes], body: bytes) -> bytes:
    """Our answers to some calls of a batch, and the server's to the others."""
    text = body.strip()
    inner = text[1:-1].strip() if text.startswith(b"[") else text
    return b"[" + b",".join([*answers, inner] if inner else answers) + b"]"
