"""botocore: what its clients, and boto3's, ask of Bedrock's models passes through here, wherever their endpoint is.

Rule 1: the hook is where a client hands a request over to be signed and sent: what handlers made of it is in it, it can still
        be changed, and a stub that answers in its place never gets there. It reaches clients that were there before.
Rule 2: botocore's own retries are one call. That no attempt of it left is known only by having seen each of them fail to
        connect, which is what its event "response-received" says.
Rule 3: an answer is counted while it is read, event streams by their bytes; a call ends when its answer does, is closed, or
        is forgotten.
Rule 4: aiobotocore sends over aiohttp, where its requests are seen signed: counted and held for, but never changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Self
from weakref import WeakSet

from bursar.engine.permits import Permit
from bursar.wire.context import HEADER_PREFIX
from bursar.wire.dialect import BadRequest
from bursar.wire.providers import split_url

from .calls import Answer, Outgoing, outgoing
from .http import tell
from .refusal import BudgetExceeded
from .session import Session, active
from .streams import counted, fed, finished, left

__all__ = ["LIBRARY", "hook", "unhook"]

LIBRARY: Final = "botocore.client"

_PROVIDER: Final = "aws"
_SERVICE: Final = "bedrock-runtime"
_OPERATIONS: Final = frozenset({"Converse", "ConverseStream", "InvokeModel", "InvokeModelWithResponseStream"})
_EVENT: Final = f"response-received.{_SERVICE}"
_OUR_NAME: Final = "bursar"
_BODY_BYTES_MAX: Final = 50_000_000
_SEND: Final = "_make_request"
_MARK: Final = "_bursar_original"

_Send = Callable[[Any, Any, dict[str, Any], Any], tuple[Any, dict[str, Any]]]


def hook(library: ModuleType) -> None:
    """Let the clients of the library pass through here. Doing it again changes nothing."""
    original = getattr(library.BaseClient, _SEND, None)
    if original is None:
        raise RuntimeError("botocore sends requests in a way that is not known here")
    if not hasattr(original, _MARK):
        setattr(library.BaseClient, _SEND, _Parts(library).send(original))


def unhook(library: ModuleType) -> None:
    """Leave the library, and its clients, as they were."""
    original = getattr(getattr(library.BaseClient, _SEND, None), _MARK, None)
    if original is not None:
        setattr(library.BaseClient, _SEND, original)
    for client in list(_watched):
        client.meta.events.unregister(_EVENT, unique_id=_OUR_NAME)
    _watched.clear()


_watched: Final[WeakSet[Any]] = WeakSet()


class _Attempts:
    """What is known of the attempts of a call: whether one before the last may have left."""

    __slots__ = ("left", "never_left")

    def __init__(self, never_left: tuple[type[BaseException], ...]) -> None:
        self.never_left = never_left
        self.left = False


def _attempted(context: dict[str, Any] | None = None, exception: Any = None, **_: Any) -> None:
    """The handler of botocore's event for an attempt that has ended."""
    attempts = (context or {}).get(_OUR_NAME)
    if isinstance(attempts, _Attempts) and not isinstance(exception, attempts.never_left):
        attempts.left = True


class _Parts:
    """What is needed of the library, and the way to send."""

    def __init__(self, library: ModuleType) -> None:
        errors: Any = sys.modules[f"{library.__package__}.exceptions"]
        self.never_left: tuple[type[BaseException], ...] = (
            errors.EndpointConnectionError, errors.ConnectTimeoutError, errors.ProxyConnectionError,
            errors.NoCredentialsError, errors.PartialCredentialsError, errors.CredentialRetrievalError,
        )  # fmt: skip

    def send(self, original: _Send) -> _Send:
        @wraps(original)
        def make_request(client: Any, operation: Any, request: dict[str, Any], context: Any) -> Any:
            session = active()
            call = None if session is None else self._begin(session, client, operation, request)
            if session is None or call is None:
                return original(client, operation, request, context)
            permit = session.obtain(call.ask) if session.mode == "enforce" else None
            self._shape(call, permit, request)
            attempts = self._watch(client, request)
            try:
                http, parsed = original(client, operation, request, context)
            except BaseException as error:
                self._failed(call, attempts, error)
                raise
            self._answered(call, http, parsed)
            return http, parsed

        setattr(make_request, _MARK, original)
        return make_request

    # --- before -----------------------------------------------------------------------------------------------

    def _begin(self, session: Session, client: Any, operation: Any, request: dict[str, Any]) -> Outgoing | None:
        """The call that a request is, None for what is none of ours to look at."""
        if operation.service_model.service_name != _SERVICE or operation.name not in _OPERATIONS:
            return None
        names = request["headers"]
        if session.hosts.is_gateway(split_url(request["url"])[0]):
            tell(session, SimpleNamespace(headers=names))
            return None
        headers = {name.lower(): _text(value) for name, value in names.items()}
        for name in [name for name in names if name.lower().startswith(HEADER_PREFIX)]:
            del names[name]  # not the provider's business
        try:
            rule = session.hosts.rule(_PROVIDER)
            return outgoing(session, rule, request["method"], request["url_path"], headers, _body(request))
        except Exception as error:
            session.trouble("a request could not be read", error)
            if session.mode == "enforce" and session.on_failure == "closed":
                raise _unavailable(error) from error
            return None

    def _shape(self, call: Outgoing, permit: Permit | None, request: dict[str, Any]) -> None:
        """Write what was admitted into the request, which is signed afterwards."""
        path, body = call.path, call.body
        try:
            call.shape(permit, must_ask_usage=False)
        except BadRequest as error:
            if permit is not None and permit.changes.names:
                call.never_left()
                raise _unavailable(error) from error
        if call.body is not body:
            request["body"] = call.body
        if call.path != path:
            request["url"] = request["url"].replace(path, call.path, 1)
            request["url_path"] = call.path

    def _watch(self, client: Any, request: dict[str, Any]) -> _Attempts:
        attempts = _Attempts(self.never_left)
        request["context"][_OUR_NAME] = attempts
        if client not in _watched:
            client.meta.events.register(_EVENT, _attempted, unique_id=_OUR_NAME)
            _watched.add(client)
        return attempts

    # --- after ------------------------------------------------------------------------------------------------

    def _failed(self, call: Outgoing, attempts: _Attempts, error: BaseException) -> None:
        if isinstance(error, self.never_left) and not attempts.left:
            call.never_left()
        elif isinstance(error, Exception):
            call.failed(f"{type(error).__name__}: {error}")
        else:
            call.cancelled()

    def _answered(self, call: Outgoing, http: Any, parsed: dict[str, Any]) -> None:
        try:
            answer = Answer(call, http.status_code, {name.lower(): value for name, value in http.headers.items()})
            bodies = [each for each in parsed.values() if hasattr(each, "_raw_stream")]
            for body in bodies:  # an EventStream or a StreamingBody, which nobody has read from yet
                body._raw_stream = _MeteredStream(body._raw_stream, answer, call)  # noqa: SLF001 - where both have bytes
        except Exception as error:  # noqa: BLE001 - a fault in counting never costs the user the answer
            call.session.trouble("an answer could not be counted", error)
            call.failed(f"it could not be counted: {error!r}")
            return
        if not bodies:
            fed(answer, call, http.content)
            finished(answer, call)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _body(request: dict[str, Any]) -> bytes:
    """The request's body where it is at hand. A file, or one that is huge, is left alone."""
    body = request["body"]
    if isinstance(body, str):
        body = body.encode()
    return bytes(body) if isinstance(body, bytes | bytearray) and len(body) <= _BODY_BYTES_MAX else b""


def _unavailable(error: Exception) -> BudgetExceeded:
    return BudgetExceeded.of(None, str(error), call_id="", task="")


# --- answers ----------------------------------------------------------------------------------------------------


class _MeteredStream:
    """The bytes of an answer as botocore reads them: those of a stream at once, those of a body by their number."""

    def __init__(self, inner: Any, answer: Answer, call: Outgoing) -> None:
        self._inner = inner
        self._answer = answer
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def stream(self, *arguments: Any, **options: Any) -> Iterator[bytes]:
        return counted(_Chunks(self._inner, self._inner.stream(*arguments, **options)), self._answer, self._call)

    def read(self, amt: int | None = None, *arguments: Any, **options: Any) -> bytes:
        try:
            chunk: bytes = self._inner.read(amt, *arguments, **options)
        except Exception as error:
            self._answer.broken(f"{type(error).__name__}: {error}")
            raise
        self._count(chunk, last=amt is None or amt < 0 or (amt > 0 and not chunk))
        return chunk

    def readinto(self, buffer: Any) -> int:
        try:
            size: int = self._inner.readinto(buffer)
        except Exception as error:
            self._answer.broken(f"{type(error).__name__}: {error}")
            raise
        self._count(bytes(memoryview(buffer)[:size]), last=not size)
        return size

    def readlines(self) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        for line in self._inner:
            self._count(line, last=False)
            yield line
        self._count(b"", last=True)

    def _count(self, chunk: bytes, *, last: bool) -> None:
        fed(self._answer, self._call, chunk)
        if last:
            finished(self._answer, self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        left(self._answer, self._call)
        self._inner.close()

    def __del__(self) -> None:
        left(self._answer, self._call)


class _Chunks:
    """The chunks of a stream that is closed as a whole."""

    def __init__(self, inner: Any, chunks: Iterator[bytes]) -> None:
        self._inner = inner
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._inner.close()
