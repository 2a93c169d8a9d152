"""A body whose dialect nobody stated: known by shapes that only one dialect has, else left alone.

Rule 1: a shape counts only if no other dialect uses it: ``object``, ``type``, or field names that are unique.
Rule 2: nothing is assumed of a convention. Reasoning beside or inside the output is settled by the total alone.
Rule 3: what no rule knows has no usage, and the reason says so.
Rule 4: a request that nobody described may refer to anything and call anything: its cost has no bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading

from . import anthropic, bedrock, cohere, gemini
from .bounds import CACHE_WRITES
from .dialect import (
    UNREADABLE,
    Dialect,
    Meter,
    RequestFacts,
    as_bytes,
    ceil_tokens,
    mapping,
    scope_facts,
    unreadable,
)
from .eventstream import is_event_stream
from .openai_chat import OpenAIChat
from .openai_embeddings import OpenAIEmbeddings, WholeMeter
from .openai_media import AUDIO
from .openai_responses import OpenAIResponses, with_model
from .openai_usage import Quirks
from .sse import Splitter, event_data

__all__ = ["BY_TOTAL", "DIALECT", "Generic", "detect"]

BY_TOTAL: Final = Quirks("by_total", "included", "included", "none")
"""What may be assumed of an OpenAI-compatible provider that nobody described."""

_SNIFF_BYTES_MAX: Final = 64 * 1024


class _Shape(Struct):
    object: Any = None
    type: Any = None
    usage: Any = None
    meta: Any = None
    usageMetadata: Any = None  # noqa: N815 - the name on the wire
    candidates: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    inputTextTokenCount: Any = None  # noqa: N815 - the name on the wire
    prompt_token_count: Any = None
    stopReason: Any = None  # noqa: N815 - the name on the wire
    contentBlockIndex: Any = None  # noqa: N815 - the name on the wire
    error: Any = None
    bytes: Any = None


_SHAPE: Final = msgspec.json.Decoder(_Shape)
_OBJECTS: Final = {
    "chat.completion": "openai_chat",
    "chat.completion.chunk": "openai_chat",
    "text_completion": "openai_chat",
    "response": "openai_responses",
    "response.compaction": "openai_responses",
    "list": "openai_embeddings",
    "embedding": "openai_embeddings",
}
_MESSAGE_TYPES: Final = frozenset(
    {"message", "message_start", "message_delta", "message_stop", "content_block_start", "content_block_delta", "ping"}
)
_COHERE_TYPES: Final = frozenset({"message-start", "message-end", "content-start", "content-delta", "tool-call-start"})


def detect(body: bytes) -> str:
    """The id of the dialect that a JSON object, an event stream or server-sent events are in, "" when unknown.

    Raises one of ``UNREADABLE`` on bad JSON.
    """
    if is_event_stream(body):
        return "bedrock_converse"
    start = body.lstrip()[:1]
    if start == b"[":
        return "gemini" if b'"usageMetadata"' in body else ""
    if start != b"{":
        return _detect_events(body)
    return _detect_object(_SHAPE.decode(body))


def _detect_object(shape: _Shape) -> str:
    if isinstance(shape.object, str) and shape.object in _OBJECTS:
        return _OBJECTS[shape.object]
    if isinstance(shape.type, str):
        if shape.type in _MESSAGE_TYPES:
            return "anthropic"
        if shape.type in _COHERE_TYPES:
            return "cohere"
        if shape.type.startswith("response."):
            return "openai_responses"
    if shape.usageMetadata is not None or bytes(shape.candidates):
        return "gemini"
    if shape.inputTextTokenCount is not None or shape.prompt_token_count is not None or shape.bytes is not None:
        return "bedrock_invoke"
    if shape.usage is not None:
        return _detect_usage(mapping(shape.usage))
    if "billed_units" in mapping(shape.meta):
        return "cohere"
    if bytes(shape.choices):
        return "openai_chat"
    if shape.stopReason is not None or shape.contentBlockIndex is not None:
        return "bedrock_converse"
    # An error states no usage in any dialect; one that reads its text is enough.
    return "openai_chat" if shape.error else ""


def _detect_usage(usage: dict[str, Any]) -> str:
    if "prompt_tokens" in usage:
        return "openai_chat"
    if "inputTokens" in usage:
        return "bedrock_converse"
    if "billed_units" in usage:
        return "cohere"
    if "seconds" in usage:
        return "openai_audio"
    if "input_tokens" in usage:
        if "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage:
            return "anthropic"
        # Without a word about caches, inclusive and exclusive counting are the same.
        return "openai_responses"
    return ""


def _detect_events(body: bytes) -> str:
    splitter = Splitter()
    events = splitter.feed(body)
    for event in [*events, splitter.rest()]:
        data = event_data(event.lstrip(b"\r\n"))
        if data.lstrip()[:1] == b"{" and (found := detect(data.lstrip())):
            return found
    return ""


class Generic:
    """The dialect of paths that nobody described."""

    id = "generic"
    can_cap = False

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self._dialects = dialects

    def path_model(self, path: str) -> str:
        return gemini.DIALECT.path_model(path) or bedrock.path_model(path)

    def with_model(self, path: str, model: str) -> str:
        if gemini.DIALECT.path_model(path):
            return gemini.DIALECT.with_model(path, model)
        return bedrock.CONVERSE.with_model(path, model)

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _ANY_REQUEST.decode(body)
        except UNREADABLE:  # a form, a file, an empty body: passed through, priced if the answer states its usage
            request = _AnyRequest()
        model = request.model if isinstance(request.model, str) else ""
        return RequestFacts(
            operation="passthrough",
            model=model or self.path_model(path),
            stream=request.stream is True,
            input_tokens_estimate=ceil_tokens(len(body)),
            text_bytes=len(body),
            unseen_input=True,
            writes_cache=CACHE_WRITES,
            searches_max=None,
            **scope_facts(request.user, request.metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        return with_model(body, model)

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            raw = as_bytes(body)
            found = detect(raw)
        except UNREADABLE as error:
            return unreadable(body, error)
        if not found:
            return Reading(None, "the response is in no known dialect")
        return self._dialects[found].read_response(raw)

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return _GenericMeter(self._dialects, facts, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return self._dialects["openai_chat"].error_body(status, code, message, bursar)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return self._dialects["openai_chat"].error_event(status, code, message, bursar)


class _AnyRequest(Struct):
    model: Any = None
    stream: Any = None
    user: Any = None
    metadata: Any = None


_ANY_REQUEST: Final = msgspec.json.Decoder(_AnyRequest)


class _GenericMeter:
    """Keeps the first bytes until they show their dialect, then hands over to its meter."""

    __slots__ = ("_dialects", "_facts", "_kept", "_meter", "_whole_events")

    def __init__(self, dialects: Mapping[str, Dialect], facts: RequestFacts | None, *, whole_events: bool) -> None:
        self._dialects = dialects
        self._facts = facts
        self._whole_events = whole_events
        self._kept = b""
        self._meter: Meter | None = None

    def feed(self, chunk: bytes) -> bytes:
        if self._meter is not None:
            passed = self._meter.feed(chunk)
            return passed if self._whole_events else chunk
        if len(self._kept) >= _SNIFF_BYTES_MAX:
            return chunk
        self._kept += chunk
        self._meter = self._find(self._kept)
        if self._meter is not None:
            kept, self._kept = self._kept, b""
            passed = self._meter.feed(kept)
            return passed if self._whole_events else chunk
        if not self._whole_events:
            return chunk
        return self._kept if len(self._kept) >= _SNIFF_BYTES_MAX else b""

    def finish(self) -> bytes:
        if self._meter is not None:
            rest = self._meter.finish()
            return rest if self._whole_events else b""
        return self._kept if self._whole_events and len(self._kept) < _SNIFF_BYTES_MAX else b""

    def output_tokens(self) -> int:
        return self._meter.output_tokens() if self._meter is not None else 0

    def ended(self) -> bool:
        return self._meter is None or self._meter.ended()

    def shows_output(self) -> bool:
        return self._meter.shows_output() if self._meter is not None else bool(self._kept)

    def close(self) -> bytes:
        return self._meter.close() if self._meter is not None else b""

    def reading(self) -> Reading:
        if self._meter is not None:
            return self._meter.reading()
        return Reading(None, "the response is in no known dialect")

    def _find(self, kept: bytes) -> Meter | None:
        start = kept.lstrip()[:1]
        if start == b"{":
            return WholeMeter(self._facts, DIALECT.read_response)
        if start == b"[":
            return self._dialects["gemini"].meter(self._facts, whole_events=self._whole_events)
        try:
            found = detect(kept)
        except UNREADABLE:  # an event that has not ended yet, or that is no JSON
            return None
        return self._dialects[found].meter(self._facts, whole_events=self._whole_events) if found else None


DIALECT: Final = Generic(
    {
        dialect.id: dialect
        for dialect in (
            OpenAIChat(BY_TOTAL),
            OpenAIResponses(BY_TOTAL),
            OpenAIEmbeddings(BY_TOTAL),
            AUDIO,
            anthropic.DIALECT,
            gemini.DIALECT,
            bedrock.CONVERSE,
            bedrock.INVOKE,
            cohere.DIALECT,
        )
    }
)
