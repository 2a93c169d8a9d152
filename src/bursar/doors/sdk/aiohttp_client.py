"""aiohttp: what its sessions send to providers passes through here: google-genai's asynchronous calls, and agents' own.

Rule 1: a request is seen by a client middleware of ours behind the user's own ones: it is what is sent, redirects and
        retries are single attempts, and nothing has left yet. Waiting for money is a part of the time that it may take.
Rule 2: only requests to known providers are touched. What httpx sends over aiohttp was counted there.
Rule 3: an answer is counted while it is read, by a reader that the library's own methods read from; a call ends when its
        answer does, is closed, or is forgotten. A read that was cancelled may be made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from inspect import signature
from io import BytesIO
from types import ModuleType
from typing import Any, Final
from weakref import ref

from bursar.engine.permits import Permit
from bursar.wire.context import HEADER_PREFIX
from bursar.wire.dialect import BadRequest
from bursar.wire.providers import split_url

from .calls import Answer, Outgoing, is_under_way, outgoing
from .http import tell
from .refusal import BudgetExceeded
from .session import Session, active
from .streams import extend, fed, finished, left

__all__ = ["LIBRARY", "hook", "unhook"]

LIBRARY: Final = "aiohttp"

_BODY_BYTES_MAX: Final = 50_000_000
_BUFFER_BYTES: Final = 2**16
_BYTES_MAX: Final = 2**20
"""A body of more than that is sent as a file in memory, piece by piece: aiohttp warns of others."""
_SEND: Final = "_request"
_MARK: Final = "_bursar_original"

_Send = Callable[..., Coroutine[Any, Any, Any]]
_Handler = Callable[[Any], Awaitable[Any]]


def hook(library: ModuleType) -> None:
    """Let the sessions of the library pass through here. Doing it again changes nothing."""
    original = getattr(library.ClientSession, _SEND, None)
    if original is None or "middlewares" not in signature(original).parameters:
        raise RuntimeError(f"aiohttp {library.__version__} has no client middlewares, 3.12 has")
    if not hasattr(original, _MARK):
        setattr(library.ClientSession, _SEND, _Parts(library).send(original))


def unhook(library: ModuleType) -> None:
    """Leave the library as it was."""
    original = getattr(getattr(library.ClientSession, _SEND, None), _MARK, None)
    if original is not None:
        setattr(library.ClientSession, _SEND, original)


class _Way:
    """What one request of a session comes to: whether its answer is decoded on the way, and calls that were cancelled,
    by whoever waits for them or by a time limit."""

    __slots__ = ("cancelled", "decoded")

    def __init__(self, *, decoded: bool) -> None:
        self.decoded = decoded
        self.cancelled: list[Outgoing] = []


class _Parts:
    """What is needed of the library, and the way to send."""

    def __init__(self, library: ModuleType) -> None:
        self.never_left: tuple[type[BaseException], ...] = (
            library.ClientConnectorError, library.ConnectionTimeoutError, library.ClientHttpProxyError,
        )  # fmt: skip
        # Only these can be read and sent again: of an iterator or a part of one nothing would be left to send.
        self.readable: tuple[type[Any], ...] = (
            library.BytesPayload, library.BytesIOPayload, library.MultipartWriter,
        )  # fmt: skip
        self.reader = _reader_class(library)

    def send(self, original: _Send) -> _Send:
        @wraps(original)
        async def request(client: Any, *arguments: Any, **options: Any) -> Any:
            session = active()
            if session is None or is_under_way():
                return await original(client, *arguments, **options)
            decoded = options.get("auto_decompress")
            way = _Way(decoded=client.auto_decompress if decoded is None else decoded)
            others = options.get("middlewares")
            if others is None:
                others = getattr(client, "_middlewares", ())
            options["middlewares"] = (*others, partial(self._pass, session, way))
            try:
                response = await original(client, *arguments, **options)
            except BaseException as error:
                for call in way.cancelled:  # here a time limit has become a TimeoutError
                    self._failed(call, error)
                raise
            for call in way.cancelled:  # a middleware of the user's has tried again
                call.cancelled()
            return response

        setattr(request, _MARK, original)
        return request

    async def _pass(self, session: Session, way: _Way, request: Any, handler: _Handler) -> Any:
        call = await self._begin(session, request)
        if call is None:
            return await handler(request)
        permit = await session.obtain_async(call.ask) if session.mode == "enforce" else None
        await self._shape(call, permit, request, way)
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            way.cancelled.append(call)
            raise
        except BaseException as error:
            self._failed(call, error)
            raise
        return self._answered(call, response, way)

    # --- before -----------------------------------------------------------------------------------------------

    async def _begin(self, session: Session, request: Any) -> Outgoing | None:
        """The call that a request is, None for what is none of ours to look at."""
        host, target = split_url(str(request.url))
        path = target.partition("?")[0]
        rule = session.hosts.find(host, path)
        if rule is None:
            if session.hosts.is_gateway(host):
                tell(session, request)
            return None
        headers = {name.lower(): value for name, value in request.headers.items()}
        for name in [name for name in request.headers if name.lower().startswith(HEADER_PREFIX)]:
            request.headers.popall(name, None)  # not the provider's business
        try:
            return outgoing(session, rule, request.method, path, headers, await self._body(request))
        except Exception as error:
            session.trouble("a request could not be read", error)
            if session.mode == "enforce" and session.on_failure == "closed":
                raise _unavailable(error) from error
            return None

    async def _body(self, request: Any) -> bytes:
        """The request's body where it is at hand. One that is sent piece by piece, or is huge, is left alone."""
        body = request.body
        if not isinstance(body, self.readable):
            return b""
        size: int | None = getattr(body, "size", None)
        return await body.as_bytes() if size is not None and size <= _BODY_BYTES_MAX else b""

    async def _shape(self, call: Outgoing, permit: Permit | None, request: Any, way: _Way) -> None:
        """Write what was admitted into the request."""
        provider = call.session.hosts.rule(call.ask.opening.provider).provider
        must_ask = call.dialect.id == "openai_chat" and provider.stream_usage == "on_request"
        path, body = call.path, call.body
        try:
            call.shape(permit, must_ask_usage=must_ask)
        except BadRequest as error:
            if permit is not None and permit.changes.names:
                call.never_left()
                raise _unavailable(error) from error
        if not call.signed:
            for name, value in call.headers.items():
                request.headers[name] = value
            if not way.decoded:  # whoever decodes for himself gets what needs no decoding
                request.headers["accept-encoding"] = "identity"
        if call.body is not body:
            large = len(call.body) > _BYTES_MAX
            await request.update_body(BytesIO(call.body) if large else call.body)
        if call.path != path:
            url = request.url
            query = f"?{url.raw_query_string}" if url.raw_query_string else ""
            request.url = type(url)(f"{url.origin()}{call.path}{query}", encoded=True)

    # --- after ------------------------------------------------------------------------------------------------

    def _failed(self, call: Outgoing, error: BaseException) -> None:
        if isinstance(error, self.never_left):
            call.never_left()
        elif isinstance(error, Exception):
            call.failed(f"{type(error).__name__}: {error}")
        else:
            call.cancelled()

    def _answered(self, call: Outgoing, response: Any, way: _Way) -> Any:
        headers = {name.lower(): value for name, value in response.headers.items()}
        if way.decoded:
            headers.pop("content-encoding", None)
        try:
            response.content = self.reader(_Source(response, Answer(call, response.status, headers), call))
        except Exception as error:  # noqa: BLE001 - a fault in counting never costs the user the answer
            call.session.trouble("an answer could not be counted", error)
            call.failed(f"it could not be counted: {error!r}")
        return response


def _unavailable(error: Exception) -> BudgetExceeded:
    return BudgetExceeded.of(None, str(error), call_id="", task="")


# --- answers ----------------------------------------------------------------------------------------------------


class _Source:
    """The library's reader of an answer, and what is counted of it. ``ended`` once nothing more comes."""

    def __init__(self, response: Any, answer: Answer, call: Outgoing) -> None:
        self._inner = response.content
        self._response = ref(response)  # which holds the reader, and knows when its connection is free again
        self._answer = answer
        self._call = call
        self.ended = False

    async def next(self) -> tuple[bytes, bool]:
        """What is to be read next, and whether a chunk of the transfer ends with it."""
        if (last := await self._refused()) is not None:
            self.ended = True
            self._disconnect()
            return last, False
        try:
            chunk, ends = await self._inner.readchunk()
        except Exception as error:
            if self._inner.exception() is not None or isinstance(error, TimeoutError):
                self._answer.broken(f"{type(error).__name__}: {error}")
            raise  # anything else is said of this way to read, not of the answer
        out = fed(self._answer, self._call, chunk) if chunk else b""
        if not (chunk or ends):
            self.ended = True
        return out + self.rest(), ends

    def rest(self) -> bytes:
        """What was held back, once there is no more to come: then the call ends before its client sees the last of it."""
        self.ended = self.ended or self._inner.at_eof()
        return finished(self._answer, self._call) if self.ended else b""

    async def _refused(self) -> bytes | None:
        """Hold for more where the stream needs it. What ends the stream where there is no more, else None."""
        answer, call = self._answer, self._call
        while (to_tokens := answer.wants()) is not None:
            remote = call.session.treasury.remote
            if why := await asyncio.to_thread(extend, call, to_tokens) if remote else extend(call, to_tokens):
                return answer.end_here(why)
            answer.extended(to_tokens)
        return None

    def _disconnect(self) -> None:
        response = self._response()
        if response is not None and response.connection is not None:
            response.connection.close()

    def at_hand(self) -> bytes:
        """What has arrived and was not read yet."""
        if self.ended or self._inner.exception() is not None:
            return b""
        return fed(self._answer, self._call, self._inner.read_nowait()) + self.rest()

    def leave(self) -> None:
        """Nobody reads on. What had arrived was sent, and is counted."""
        if self.ended:
            return
        with suppress(Exception):  # past its time, in a closed loop: then it ends with what was read
            self.at_hand()
        self.ended = True
        left(self._answer, self._call)


class _Unpaced:
    """What a reader slows down when it has too much. Here it is the reader behind it that does."""

    connected = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, *, resume_parser: bool = True) -> None:
        pass


def _reader_class(library: ModuleType) -> type[Any]:
    """The reader of an answer. It must be of the library's own kind, whose methods all read from here then."""
    base: Any = library.StreamReader

    class MeteredReader(base):
        """Whenever it runs dry it takes what comes next from its source."""

        def __init__(self, source: _Source) -> None:
            self._source = source
            base.__init__(self, _Unpaced(), _BUFFER_BYTES, loop=asyncio.get_running_loop())
            self.begin_http_chunk_receiving()
            self._fill(source.rest())

        async def _wait(self, func_name: str) -> None:
            chunk, ends = await self._source.next()
            self._fill(chunk)
            if ends:
                self.end_http_chunk_receiving()

        def _fill(self, chunk: bytes) -> None:
            self.feed_data(chunk)
            if self._source.ended:
                self.feed_eof()

        def read_nowait(self, n: int = -1) -> bytes:
            if not self._eof:
                self._fill(self._source.at_hand())
            return base.read_nowait(self, n)

        def set_exception(self, exc: BaseException, *cause: Any) -> None:
            self._source.leave()
            base.set_exception(self, exc, *cause)

        def __del__(self) -> None:
            self._source.leave()

    return MeteredReader
