"""The shapes every dialect shares: what a request says, how a response is read, how a stream is metered.

Rule 1: a dialect states its counting convention in its own module. Nothing here guesses one.
Rule 2: reading a response never raises. What cannot be understood is ``usage=None`` and a reason that names the field.
Rule 3: reading a request raises ``BadRequest`` with the field, before any money is held.
Rule 4: a count is a JSON integer from 0 to 2**53. A float, a text, a negative or a larger number is not a count.
Rule 5: a stream that broke off is priced by what was counted, plus a token for every four characters seen
        (``CHARACTERS_PER_TOKEN``), and the reading says ``estimated``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Protocol, TypeAlias, cast

import msgspec

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading, Terms
from bursar.core.scopes import LABELS_MAX, VALUE_LENGTH_MAX
from bursar.core.usage import Usage
from bursar.core.values import valueclass

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "UNREADABLE",
    "BadRequest",
    "Contradiction",
    "Count",
    "Dialect",
    "Meter",
    "RequestFacts",
    "as_bytes",
    "bad_request",
    "ceil_tokens",
    "cut_usage",
    "error_text",
    "error_type",
    "make_terms",
    "mapping",
    "named",
    "refused_reading",
    "request_id",
    "scope_facts",
    "unreadable",
    "with_request",
]

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A count in a response: 2**53 is the largest integer that every JSON reader agrees on."""

CHARACTERS_PER_TOKEN: Final = 4
_ERROR_LENGTH_MAX: Final = 400
_REQUEST_ID_HEADERS: Final = frozenset({"request-id", "x-request-id"})


class BadRequest(ValueError):  # noqa: N818 - the name of the HTTP status it becomes
    """The request cannot be understood: ``field`` is the JSON path ("" is the body), ``message`` the way out."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class Contradiction(ValueError):  # noqa: N818 - it says what is wrong with the figures, not with the program
    """The stated usage cannot be true, or lacks a count that its dialect always states."""


UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError)
"""Everything that decoding the JSON of strangers may raise."""


@valueclass
class RequestFacts:
    """What a request says that matters for money and for who it is for.

    ``output_cap`` is the request's own limit of output tokens, ``asks_usage`` whether the client itself asked an
    OpenAI stream for its usage, ``terms`` what it asked for where the response stays silent.

    The rest bounds what it can cost before it is sent (``bounds``). ``choices`` answers are asked for, each up to the
    cap. ``text_bytes`` is the body without its media, at most a token a byte; ``media_tokens`` bounds the media.
    ``unseen_input`` says that the input has a part that only the provider can see. ``writes_cache`` names the units of
    cache writes that it can cause, ``modalities`` what is in it or asked for besides text, ``searches_max`` the most
    server-side tool calls (None: unlimited; each brings input that the body does not hold), ``effort`` what it states.
    """

    operation: str
    model: str
    stream: bool = False
    output_cap: int | None = None
    asks_usage: bool = False
    user: str = ""
    session: str = ""
    task: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    terms: Terms = ()
    input_tokens_estimate: int = 0
    agent: str = ""
    team: str = ""
    project: str = ""
    choices: int = 1
    text_bytes: int = 0
    media_tokens: int = 0
    unseen_input: bool = False
    writes_cache: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    searches_max: int | None = 0
    effort: str = ""


class Meter(Protocol):
    """Counts a stream while its bytes pass by."""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes to pass on: the chunk itself, but for an injected usage event that is to be hidden."""
        ...

    def finish(self) -> bytes:
        """What was held back. Call it once, when the stream has ended, whole or cut."""
        ...

    def reading(self) -> Reading:
        """What is known at this moment: exact after the end of a whole stream, else estimated."""
        ...

    def output_tokens(self) -> int:
        """The output tokens seen so far: what was stated, or the estimate of the characters where that is more."""
        ...

    def ended(self) -> bool:
        """Whether what ends the stream has come: its dialect's own mark; where there is none, the finish of all that was begun.
        Of an answer that is one body only its reading tells."""
        ...

    def shows_output(self) -> bool:
        """Whether something has come that a client can see: text, thinking, a tool that is asked for. A stream's opening events,
        and the count of tokens that some of them state, are none."""
        ...

    def close(self) -> bytes:
        """What ends the stream as if the model had reached its output limit, sent in place of all that was not passed.

        Only a meter made with ``whole_events`` is sure to know an end: elsewhere, inside an event, for a body that is
        no stream, and where the dialect has none, it is b"". Call it once, instead of ``finish``.
        """
        ...


class Dialect(Protocol):
    """One provider API, both ways."""

    @property
    def id(self) -> str: ...

    @property
    def can_cap(self) -> bool:
        """Whether ``prepare`` can set a cap on output. Embeddings and reranks at a dialect that can write none."""
        ...

    def path_model(self, path: str) -> str:
        """The model that the path names, "" where the body names it."""
        ...

    def with_model(self, path: str, model: str) -> str:
        """The path for another model: the same where the body names it."""
        ...

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        """Raises BadRequest."""
        ...

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        """The body to send: the same object when nothing changes, else only these values differ.

        ``changes.model`` is not read: the model to send is ``model``. Raises BadRequest.
        """
        ...

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading: ...

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        """With ``whole_events`` only whole events pass on, so that the stream can be closed after any of them."""
        ...

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        """An error in this dialect's own shape; ``bursar`` is the machine-readable object inside it."""
        ...

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        """The same as the last event of a stream, b"" where the dialect has none."""
        ...


# --- responses --------------------------------------------------------------------------------------------------


def as_bytes(body: bytes | Mapping[str, Any]) -> bytes:
    """JSON bytes of a body. Raises one of ``UNREADABLE`` when it is no JSON object."""
    return body if isinstance(body, bytes) else msgspec.json.encode(dict(body))


class _Named(msgspec.Struct):
    id: Any = None
    model: Any = None
    responseId: Any = None  # noqa: N815 - the name on the wire
    modelVersion: Any = None  # noqa: N815 - the name on the wire
    error: Any = None


_NAMED: Final = msgspec.json.Decoder(_Named)
_AT: Final = re.compile(r"^(?P<fault>.*?)(?: - at `\$?\.?(?P<field>.*?)`)?$", re.DOTALL)


def named(error: Exception) -> tuple[str, str]:
    """The field and the fault of a decoding error."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return "", text
    match = _AT.match(text)
    return (match["field"] or "", match["fault"].replace("`", "")) if match else ("", text)


def unreadable(body: bytes | Mapping[str, Any], error: Exception) -> Reading:
    """The reading of a body that could not be understood: no usage, the reason, and its names if they can be read."""
    if isinstance(error, Contradiction):
        reason = str(error)
    else:
        field, fault = named(error)
        reason = f"{field} cannot be read: {fault}" if field else f"the body cannot be read: {fault}"
    try:
        names = _NAMED.decode(as_bytes(body))
    except UNREADABLE:
        return Reading(None, reason)
    model = names.model or names.modelVersion
    response_id = names.id or names.responseId
    return Reading(
        None,
        reason,
        model if isinstance(model, str) else "",
        response_id if isinstance(response_id, str) else "",
        error=error_text(names.error),
    )


def error_text(error: Any) -> str:
    """One short line of a provider's error object, "" when there is none."""
    if not error:
        return ""
    parts = mapping(error)
    if parts:
        kind = parts.get("type") or parts.get("status") or parts.get("code") or ""
        message = parts.get("message") or ""
        error = f"{kind}: {message}" if kind and message else kind or message or "error"
    return str(error)[:_ERROR_LENGTH_MAX]


_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The error type that the OpenAI and Anthropic APIs use for an HTTP status."""
    return _ERROR_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


_TERMS: Final[dict[tuple[str, str], Terms]] = {}


def make_terms(name: str, value: str | None) -> Terms:
    """One agreed term as ``Terms``, () when nothing was said. Batch is a way of processing wherever it is stated."""
    if not value:
        return ()
    value = value[:VALUE_LENGTH_MAX]
    known = _TERMS.get((name, value))
    if known is not None:
        return known
    made: Terms = (("processing", "batch"),) if value == "batch" else ((name, value.lower()),)
    if len(_TERMS) < 100:  # values come from strangers: remember them, within bounds
        _TERMS[(name, value)] = made
    return made


def mapping(value: Any) -> dict[str, Any]:
    """The value as a JSON object, an empty one where it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def ceil_tokens(characters: int) -> int:
    """The estimated tokens of a text."""
    return -(-characters // CHARACTERS_PER_TOKEN)


def cut_usage(stated: Usage | None, facts: RequestFacts | None, characters: int) -> Usage | None:
    """The estimate of a stream that was cut: what it stated, the output seen, and the request's size as its input.

    None when nothing at all is known: an estimate of nothing would be a zero.
    """
    if stated is None and facts is None and not characters:
        return None
    known = stated or Usage()
    return known._replace(
        input_tokens=known.input_tokens or (facts.input_tokens_estimate if facts else 0),
        output_tokens=max(known.output_tokens, ceil_tokens(characters)),
    )


def with_request(reading: Reading, facts: RequestFacts) -> Reading:
    """The reading, completed by what the request said where the response stayed silent."""
    said = {name for name, _ in reading.terms}
    more = tuple(term for term in facts.terms if term[0] not in said)
    if not more and (reading.model or not facts.model):
        return reading
    return replace(reading, model=reading.model or facts.model, terms=tuple(sorted(reading.terms + more)))


def request_id(headers: Iterable[tuple[str, str]]) -> str:
    """What a provider called a request, in the headers of its answer (names in lower case): "" where it says nothing. Coding
    agents name their requests by it in their telemetry."""
    for name, value in headers:
        if name in _REQUEST_ID_HEADERS:
            return value[:VALUE_LENGTH_MAX]
    return ""


def refused_reading(reading: Reading, status: int) -> Reading:
    """The reading of an answer that refuses (4xx, 5xx): it is billed only where it states a usage."""
    return Reading(
        usage=reading.usage,
        model=reading.model,
        response_id=reading.response_id,
        error=reading.error or f"HTTP {status}",
        billed=reading.usage is not None,
    )


# --- requests ---------------------------------------------------------------------------------------------------


def bad_request(error: Exception) -> BadRequest:
    """The refusal of a body that cannot be decoded."""
    field, fault = named(error)
    return BadRequest(field, f"{fault}; send a JSON object" if not field else fault)


_FIELDS: Final = {
    "bursar_task": "task",
    "task_id": "task",
    "task": "task",
    "run_id": "task",
    "bursar_session": "session",
    "session_id": "session",
    "conversation_id": "session",
    "thread_id": "session",
    "session": "session",
    "bursar_agent": "agent",
    "agent": "agent",
    "agent_name": "agent",
    "bursar_user": "user",
    "user_id": "user",
    "bursar_team": "team",
    "team": "team",
    "bursar_project": "project",
    "project": "project",
}


def scope_facts(user: Any, metadata: Any) -> dict[str, Any]:
    """Who a request is for, out of its ``user`` and ``metadata``: known keys become fields, the rest labels.

    Values past the limits of a scope are cut, entries that are no text or number are left out: a provider accepts
    them, so they are no reason to refuse a call.
    """
    facts: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for key, value in mapping(metadata).items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            continue
        text = str(value)[:VALUE_LENGTH_MAX]
        field = _FIELDS.get(key.lower())
        if field is not None:
            facts.setdefault(field, text)
        elif len(labels) < LABELS_MAX:
            labels[key[:VALUE_LENGTH_MAX]] = text
    if isinstance(user, str) and user:
        facts["user"] = user[:VALUE_LENGTH_MAX]
    if labels:
        facts["labels"] = tuple(sorted(labels.items()))
    return facts
