"""httpx and httpx2: what the user's clients send to providers passes through here, whatever transport they use.

Rule 1: the hook is where a client sends one request over its transport: redirects, authentication and retries above it are
        single attempts here, and a transport of the user's own is seen like any other.
Rule 2: only requests to known providers are touched. One to a gateway of ours is told what it is for, and charged there.
Rule 3: an answer is counted while it is read; a call ends when its answer does, is closed, or is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from types import ModuleType
from typing import Any, Final

from bursar.core.money import decimal_text
from bursar.wire.context import HEADER_PREFIX, scope_baggage, scope_headers
from bursar.wire.dialect import BadRequest

from .calls import CALL_HEADER, LOOKED_AT, Answer, Outgoing, outgoing, scope_of, under_way
from .frames import current_frame, otel_trace
from .refusal import BudgetExceeded
from .session import Session, active
from .streams import fed, finished, stream_classes

__all__ = ["LIBRARIES", "client_class", "hook", "tell", "unhook"]

LIBRARIES: Final = ("httpx2", "httpx")
"""The same API under two names: OpenAI 3, Anthropic 2, google-genai 3 and MCP 2 use the first."""

_BODY_BYTES_MAX: Final = 50_000_000
_LOOKED_AT: Final = frozenset(name.encode("ascii") for name in LOOKED_AT)
_OURS: Final = HEADER_PREFIX.encode("ascii")
_SEND: Final = "_send_single_request"
_MARK: Final = "_bursar_original"

_SyncSend = Callable[[Any, Any], Any]
_AsyncSend = Callable[[Any, Any], Coroutine[Any, Any, Any]]


def hook(library: ModuleType) -> None:
    """Let the clients of a library pass through here. Doing it again changes nothing."""
    parts = _Parts(library)
    for client, wrap in ((library.Client, parts.sync_send), (library.AsyncClient, parts.async_send)):
        original = getattr(client, _SEND, None)
        if original is None:
            raise RuntimeError(
                f"{library.__name__} {library.__version__} sends requests in a way that is not known here"
            )
        if not hasattr(original, _MARK):
            setattr(client, _SEND, wrap(original))


def unhook(library: ModuleType) -> None:
    """Leave a library as it was."""
    for client in (library.Client, library.AsyncClient):
        original = getattr(getattr(client, _SEND, None), _MARK, None)
        if original is not None:
            setattr(client, _SEND, original)


def client_class(library: ModuleType, *, asynchronous: bool) -> type[Any]:
    """A client class of the library whose requests pass through here, also where the library itself is not hooked."""
    parts = _Parts(library)
    base: type[Any] = library.AsyncClient if asynchronous else library.Client
    original = getattr(base, _SEND)
    if hasattr(original, _MARK):
        return base
    send = parts.async_send(original) if asynchronous else parts.sync_send(original)
    return type(f"Bursar{base.__name__}", (base,), {_SEND: send})


class _Parts:
    """What is needed of a library, and the two ways to send."""

    def __init__(self, library: ModuleType) -> None:
        self.never_left: tuple[type[BaseException], ...] = (
            library.ConnectError, library.ConnectTimeout, library.PoolTimeout, library.UnsupportedProtocol,
        )  # fmt: skip
        self.bytes_stream: Callable[[bytes], Any] = library.ByteStream
        self.sync_stream, self.async_stream = stream_classes(library)

    def sync_send(self, original: _SyncSend) -> _SyncSend:
        @wraps(original)
        def send(client: Any, request: Any) -> Any:
            session = active()
            call = None if session is None else self._begin(session, request)
            if session is None or call is None:
                return original(client, request)
            permit = session.obtain(call.ask) if session.mode == "enforce" else None
            self._shape(call, permit, request)
            try:
                response = original(client, request)
            except BaseException as error:
                self._failed(call, error)
                raise
            return self._answered(call, response, self.sync_stream)

        setattr(send, _MARK, original)
        return send

    def async_send(self, original: _AsyncSend) -> _AsyncSend:
        @wraps(original)
        async def send(client: Any, request: Any) -> Any:
            session = active()
            call = None if session is None else self._begin(session, request)
            if session is None or call is None:
                return await original(client, request)
            permit = await session.obtain_async(call.ask) if session.mode == "enforce" else None
            self._shape(call, permit, request)
            try:
                with under_way():
                    response = await original(client, request)
            except BaseException as error:
                self._failed(call, error)
                raise
            return self._answered(call, response, self.async_stream)

        setattr(send, _MARK, original)
        return send

    # --- before -----------------------------------------------------------------------------------------------

    def _begin(self, session: Session, request: Any) -> Outgoing | None:
        """The call that a request is, None for what is none of ours to look at."""
        host = request.url.netloc.decode("ascii", "replace").lower()
        path, _, _ = request.url.raw_path.decode("ascii", "replace").partition("?")
        rule = session.hosts.find(host, path)
        if rule is None:
            if session.hosts.is_gateway(host):
                tell(session, request)
            return None
        headers = _headers(request)
        for name in headers:
            if name.startswith(HEADER_PREFIX):
                del request.headers[name]  # not the provider's business
        try:
            return outgoing(session, rule, request.method, path, headers, _body(request, headers))
        except Exception as error:
            session.trouble("a request could not be read", error)
            if session.mode == "enforce" and session.on_failure == "closed":
                raise _unavailable(error) from error
            return None

    def _shape(self, call: Outgoing, permit: Any, request: Any) -> None:
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
        for name, value in call.headers.items():
            request.headers[name] = value
        if call.body is not body:
            request.stream = self.bytes_stream(call.body)
            request.headers["content-length"] = str(len(call.body))
            request._content = call.body  # noqa: SLF001 - what Request.content answers, and what a retry would send again
        if call.path != path:
            _, _, query = request.url.raw_path.partition(b"?")
            raw = call.path.encode("ascii") + (b"?" + query if query else b"")
            request.url = request.url.copy_with(raw_path=raw)

    # --- after ------------------------------------------------------------------------------------------------

    def _failed(self, call: Outgoing, error: BaseException) -> None:
        if isinstance(error, self.never_left):
            call.never_left()
        elif isinstance(error, Exception):
            call.failed(f"{type(error).__name__}: {error}")
        else:
            call.cancelled()

    def _answered(self, call: Outgoing, response: Any, stream: Callable[[Any, Answer, Outgoing], Any]) -> Any:
        if hasattr(response, "_content"):
            # A transport had it at hand (a cache, a mock): nobody reads it again.
            charged = {CALL_HEADER: ""} if CALL_HEADER in response.headers else {}
            answer = Answer(call, response.status_code, charged)
            fed(answer, call, response.content)
            finished(answer, call)
            return response
        answer = Answer(call, response.status_code, response.headers)
        response.stream = stream(response.stream, answer, call)
        return response


def _headers(request: Any) -> dict[str, str]:
    """The headers that are looked at, names in lower case."""
    found: dict[str, str] = {}
    for name, value in request.headers.raw:
        name = name.lower()
        if name in _LOOKED_AT or name.startswith(_OURS):
            found[name.decode("latin-1")] = value.decode("latin-1")
    return found


def _body(request: Any, headers: dict[str, str]) -> bytes:
    """The request's body where it is at hand. One that is sent piece by piece, or is huge, is left alone."""
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > _BODY_BYTES_MAX:
        return b""
    content = getattr(request, "_content", None)
    if content is not None:
        return content
    return request.read() if hasattr(request.stream, "__iter__") else b""


def tell(session: Session, request: Any) -> None:
    """Say to a gateway of ours what a request is for: what its own headers say stays."""
    frame = current_frame()
    scope = scope_of(session, frame)
    for name, value in scope_headers(scope):
        request.headers.setdefault(name, value)
    if members := scope_baggage(scope):
        before = request.headers.get("baggage", "")
        request.headers["baggage"] = f"{before},{members}" if before else members
    trace = otel_trace()
    if frame is not None:
        trace = trace if trace.trace_id else frame.trace
        session.treasury.place(frame.limits_above())
        own = frame.own_limit()
        if own is not None and own.limit is not None:
            request.headers.setdefault("x-bursar-task-budget", decimal_text(own.limit))
            if own.reserve:
                request.headers.setdefault("x-bursar-task-reserve", decimal_text(own.reserve))
        if frame.is_final():
            request.headers.setdefault("x-bursar-final", "true")
    if trace.trace_id and trace.span_id:
        request.headers.setdefault("traceparent", f"00-{trace.trace_id}-{trace.span_id}-01")


def _unavailable(error: Exception) -> BudgetExceeded:
    return BudgetExceeded.of(None, str(error), call_id="", task="")
