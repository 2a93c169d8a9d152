"""Amazon Bedrock: Converse, ConverseStream, InvokeModel and its stream. The model is in the path.

Rule 1: Converse counts exclusively: ``inputTokens`` leaves out ``cacheReadInputTokens`` and ``cacheWriteInputTokens``;
        the input that we report is their sum. ``cacheDetails`` splits the written tokens by lifetime.
Rule 2: InvokeModel answers in the model's own dialect: Anthropic's, Converse's (Nova), Titan's, Llama's or OpenAI's.
        Each is known by field names that no other uses.
Rule 3: where an InvokeModel body states nothing, the response headers ``x-amzn-bedrock-*-token-count`` do.
Rule 4: an inference profile of the user's own hides the model behind an ARN; then the model is not known.
Rule 5: an InvokeModel body is shaped where its maker is known by its fields; any other one stays as it is.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from . import anthropic
from .bedrock_requests import ServiceTier, bound_facts, invoke_bounds, invoke_cap, read, read_invoke
from .bounds import given
from .dialect import (
    UNREADABLE,
    BadRequest,
    Contradiction,
    Count,
    Meter,
    RequestFacts,
    as_bytes,
    bad_request,
    ceil_tokens,
    error_text,
    make_terms,
    mapping,
    scope_facts,
    unreadable,
)
from .eventstream import Frame, Frames, encode_frame
from .meters import StreamMeter
from .openai_chat import DIALECT as _CHAT
from .shape_anthropic import messages_edits
from .shape_bedrock import converse_edits
from .shape_openai import ChatRequests, Edits, chat_edits
from .shaping import capped, number, shapes, with_short_cache, within
from .splice import members, splice

__all__ = [
    "CONVERSE",
    "INVOKE",
    "Converse",
    "ConverseMeter",
    "Invoke",
    "InvokeMeter",
    "convert",
    "path_model",
    "with_headers",
]

_PATH_MODEL: Final = re.compile(r"/model/([^/?]+)/")
_ERROR_KINDS: Final = {
    400: "ValidationException", 401: "UnrecognizedClientException", 402: "ServiceQuotaExceededException",
    403: "AccessDeniedException", 404: "ResourceNotFoundException", 408: "ModelTimeoutException",
    424: "ModelErrorException", 429: "ThrottlingException", 503: "ServiceUnavailableException",
}  # fmt: skip


class _CacheDetail(Struct, rename="camel", gc=False):
    ttl: str | None = None
    input_tokens: Count | None = None


class _Usage(Struct, rename="camel"):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_write_input_tokens: Count | None = None
    cache_read_input_token_count: Count | None = None
    cache_write_input_token_count: Count | None = None
    cache_details: list[_CacheDetail] | None = None


class _ToolUse(Struct, gc=False):
    name: str | None = None
    input: Any = None


class _Content(Struct, rename="camel"):
    tool_use: _ToolUse | None = None


class _Message(Struct):
    content: list[_Content] | None = None


class _Output(Struct):
    message: _Message | None = None


class _Response(Struct, rename="camel"):
    output: _Output | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    service_tier: ServiceTier | None = None
    message: Any = None


class _Reasoning(Struct):
    text: str | None = None


class _Delta(Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _Event(Struct, rename="camel"):
    """A ConverseStream payload: the events are told apart by their fields."""

    delta: _Delta | None = None
    start: _Content | None = None
    content_block_index: int | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    service_tier: ServiceTier | None = None
    message: str | None = None


_RESPONSE: Final = msgspec.json.Decoder(_Response)
_EVENT: Final = msgspec.json.Decoder(_Event)


def path_model(path: str) -> str:
    """The model that a path names; of an ARN what comes after the last slash, "" where that is a profile's own id."""
    match = _PATH_MODEL.search(path)
    if match is None:
        return ""
    name = unquote(match[1])
    if not name.startswith("arn:"):
        return name
    kind, _, tail = name.partition("/")
    return "" if kind.endswith("application-inference-profile") else tail.rsplit("/", 1)[-1]


class Converse:
    """``/model/{id}/converse`` and ``converse-stream``."""

    id = "bedrock_converse"
    can_cap = True

    def path_model(self, path: str) -> str:
        return path_model(path)

    def with_model(self, path: str, model: str) -> str:
        match = _PATH_MODEL.search(path)
        return path if match is None else path[: match.start(1)] + quote(model, safe="") + path[match.end(1) :]

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        request = read(body)
        if _PATH_MODEL.search(path) is None:
            raise BadRequest("path", f"{path[:100]!r} names no model: expected /model/MODEL/converse")
        return RequestFacts(
            operation="converse",
            model=path_model(path),
            stream=path.split("?", 1)[0].endswith("/converse-stream"),
            output_cap=request.inference_config.maxTokens if request.inference_config else None,
            terms=make_terms("service_tier", request.service_tier.type if request.service_tier else None),
            input_tokens_estimate=ceil_tokens(len(body)),
            **bound_facts(request, len(body)),
            **scope_facts(None, request.request_metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        if changes.short_cache:
            body = with_short_cache(body)
        if not shapes(changes):
            return body
        try:
            edits = self.edits(body, changes, model or "")
            return splice(body, edits) if edits else body
        except UNREADABLE as error:
            raise bad_request(error) from None

    def edits(self, body: bytes, changes: Changes, model: str) -> Edits:
        """The members that change. Raises one of ``UNREADABLE``."""
        return converse_edits(body, changes)

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            response = _RESPONSE.decode(as_bytes(body))
            usage = convert(response.usage) if response.usage is not None else None
        except UNREADABLE as error:
            return unreadable(body, error)
        message = response.output.message if response.output else None
        calls = [each.tool_use.name for each in (message.content if message else None) or () if each.tool_use]
        failed = usage is None and isinstance(response.message, str)
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            terms=make_terms("service_tier", response.service_tier.type if response.service_tier else None),
            finish=response.stop_reason or "",
            error=error_text(response.message) if failed else "",
            tools=tuple(name for name in calls if name),
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return ConverseMeter(facts, self.read_response, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode({"message": message, "__type": _kind(status), "code": code, "bursar": bursar})

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        kind = _kind(status)
        headers = {
            ":exception-type": kind[0].lower() + kind[1:],
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return encode_frame(headers, self.error_body(status, code, message, bursar))


def _kind(status: int) -> str:
    return _ERROR_KINDS.get(status, "InternalServerException" if status >= 500 else "ValidationException")


def convert(stated: _Usage) -> Usage:
    """Our usage of a Converse usage object. Raises Contradiction."""
    fresh, output = stated.input_tokens, stated.output_tokens
    if fresh is None:
        raise Contradiction("usage.inputTokens is missing")
    read = stated.cache_read_input_tokens or stated.cache_read_input_token_count or 0
    written = stated.cache_write_input_tokens or stated.cache_write_input_token_count or 0
    five = hour = 0
    for detail in stated.cache_details or ():
        five += (detail.input_tokens or 0) if detail.ttl == "5m" else 0
        hour += (detail.input_tokens or 0) if detail.ttl == "1h" else 0
    if five + hour > written:
        raise Contradiction(
            f"usage: {five + hour} tokens of cacheDetails are more than {written} cacheWriteInputTokens"
        )
    return Usage(fresh + read + written, read, written, five, hour, 0, 0, 0, 0, 0, 0, output or 0)


# --- InvokeModel ------------------------------------------------------------------------------------------------


class _Result(Struct, rename="camel"):
    token_count: Count | None = None


class _InvokeResponse(Struct):
    """The fields by which the dialects behind InvokeModel are told apart."""

    usage: dict[str, Any] | None = None
    inputTextTokenCount: Count | None = None  # noqa: N815 - Titan
    results: list[_Result] | None = None
    prompt_token_count: Count | None = None
    generation_token_count: Count | None = None


class _Metrics(Struct, rename="camel"):
    input_token_count: Count | None = None
    output_token_count: Count | None = None
    cache_read_input_token_count: Count | None = None
    cache_write_input_token_count: Count | None = None


class _InvokeEvent(Struct):
    bytes: str | None = None
    message: str | None = None


class _WithMetrics(Struct):
    metrics: _Metrics | None = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")


_CHAT_REQUESTS: Final = ChatRequests("max_completion_tokens", "last", ())
_INVOKE: Final = msgspec.json.Decoder(_InvokeResponse)
_INVOKE_EVENT: Final = msgspec.json.Decoder(_InvokeEvent)
_WITH_METRICS: Final = msgspec.json.Decoder(_WithMetrics)


class Invoke(Converse):
    """``/model/{id}/invoke`` and ``invoke-with-response-stream``."""

    id = "bedrock_invoke"

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = read_invoke(body)
        except UNREADABLE as error:
            raise bad_request(error) from None
        cap = invoke_cap(request)
        user, session = anthropic.user_scope(mapping(request.metadata).get("user_id"))
        return RequestFacts(
            operation="passthrough",
            model=path_model(path),
            stream="/invoke-with-response-stream" in path,
            output_cap=cap,
            user=user,
            session=session,
            input_tokens_estimate=ceil_tokens(len(body)),
            **invoke_bounds(request, body),
        )

    def edits(self, body: bytes, changes: Changes, model: str) -> Edits:
        request = read_invoke(body)
        if request.anthropic_version is not None:
            return messages_edits(body, replace(changes, tier=""), model)
        if request.inferenceConfig is not None:
            return converse_edits(body, replace(changes, tier=""))
        if given(request.messages):
            return chat_edits(body, changes, model, _CHAT_REQUESTS)
        edits: Edits = {}
        if changes.output_cap is None:
            return edits
        if request.textGenerationConfig is not None:
            stated = mapping(request.textGenerationConfig).get("maxTokenCount")
            if capped(stated, changes.output_cap) is not None:
                raw = members(body)["textGenerationConfig"]
                edits["textGenerationConfig"] = within(raw, {"maxTokenCount": b"%d" % changes.output_cap})
        for field in ("max_tokens", "max_gen_len"):
            stated = number(getattr(request, field))
            if stated is not None and stated > changes.output_cap:
                edits[field] = b"%d" % changes.output_cap
        return edits

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            raw = as_bytes(body)
            response = _INVOKE.decode(raw)
        except UNREADABLE as error:
            return unreadable(body, error)
        stated = response.usage
        if stated is None:
            return _counts(response)
        if "input_tokens" in stated:
            # The price book knows the model by its Bedrock name, which is in the path.
            return replace(anthropic.DIALECT.read_response(raw), model="")
        if "prompt_tokens" in stated:
            return replace(_CHAT.read_response(raw), model="")
        return super().read_response(raw)

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return InvokeMeter(facts, self.read_response, whole_events=whole_events)


def _counts(response: _InvokeResponse) -> Reading:
    if response.inputTextTokenCount is not None:
        output = sum(result.token_count or 0 for result in response.results or ())
        return Reading(Usage(input_tokens=response.inputTextTokenCount, output_tokens=output))
    if response.prompt_token_count is not None and response.generation_token_count is not None:
        return Reading(Usage(input_tokens=response.prompt_token_count, output_tokens=response.generation_token_count))
    return Reading(None, "the response states no usage")


_COUNT_HEADERS: Final = ("input", "output", "cache-read-input", "cache-write-input")


def with_headers(reading: Reading, headers: Mapping[str, str]) -> Reading:
    """The reading, or where its body stated nothing, the one that InvokeModel's headers state (names in lower case)."""
    if reading.usage is not None:
        return reading
    counts = [headers.get(f"x-amzn-bedrock-{name}-token-count", "") for name in _COUNT_HEADERS]
    if not counts[0].isdecimal():
        return reading
    fresh, output, read, written = (int(text) if text.isdecimal() else 0 for text in counts)
    usage = convert(_Usage(fresh, output, cache_read_input_tokens=read, cache_write_input_tokens=written))
    return replace(reading, usage=usage, reason="")


# --- streams ----------------------------------------------------------------------------------------------------


class _FrameMeter(StreamMeter):
    """The bytes are frames instead of server-sent events."""

    __slots__ = ("_frames", "_stated")

    def __init__(self, facts: RequestFacts | None, read_body: Any, *, whole_events: bool = False) -> None:
        super().__init__(facts, read_body, whole_events=whole_events)
        self._frames = Frames()
        self._stated: _Usage | None = None

    def split(self, chunk: bytes) -> None:
        for frame in self._frames.feed(chunk):
            self._frame(frame)

    def split_whole(self, chunk: bytes) -> bytes:
        self.split(chunk)
        self._torn = self._frames.broken
        return self._frames.whole

    def finish(self) -> bytes:
        super().finish()
        return self._frames.rest() if self._whole_events else b""

    def between_events(self) -> bool:
        return self._frames.empty and not self._frames.broken

    def _frame(self, frame: Frame) -> None:
        kind = frame.headers.get(":exception-type") or frame.headers.get(":error-code")
        if kind:
            self.error = error_text({"type": kind, "message": frame.payload[:300].decode(errors="replace")})
        elif frame.payload:
            self.take_data(frame.payload)

    def usage(self) -> Usage | None:
        return convert(self._stated) if self._stated else None

    def complete(self) -> bool:
        return self._stated is not None


class ConverseMeter(_FrameMeter):
    """Counts ConverseStream; ``take_data`` also takes payloads that were decoded elsewhere."""

    __slots__ = ("_begun", "_open")

    def __init__(self, facts: RequestFacts | None, read_body: Any, *, whole_events: bool = False) -> None:
        super().__init__(facts, read_body, whole_events=whole_events)
        self._begun = False
        self._open: int | None = None

    def event(self, data: bytes) -> bool:
        event = _EVENT.decode(data)
        self._begun = True
        delta = event.delta
        if event.content_block_index is not None:
            self._open = event.content_block_index if delta is not None or event.start is not None else None
        if delta is not None:
            thought = delta.reasoning_content.text if delta.reasoning_content else None
            argument = delta.tool_use.input if delta.tool_use else None
            self.characters += len(delta.text or thought or (argument if isinstance(argument, str) else "") or "")
        elif event.start is not None and event.start.tool_use and event.start.tool_use.name:
            self.tools.append(event.start.tool_use.name)
        elif event.stop_reason:
            self.finish_reason = event.stop_reason
        elif event.usage is not None:
            self._stated = event.usage
            self.terms = make_terms("service_tier", event.service_tier.type if event.service_tier else None)
        elif event.message:
            self.error = error_text(event.message)
        return False

    def ending(self) -> bytes:
        out: list[bytes] = []
        if self.error or self._stated is not None:
            return b""
        if not self._begun:
            out.append(_event("messageStart", {"role": "assistant"}))
        if self._open is not None:
            out.append(_event("contentBlockStop", {"contentBlockIndex": self._open}))
        if not self.finish_reason:
            out.append(_event("messageStop", {"stopReason": "max_tokens"}))
        prompt, output = self.input_tokens(), self.output_tokens()
        usage = {"inputTokens": prompt, "outputTokens": output, "totalTokens": prompt + output}
        return b"".join([*out, _event("metadata", {"usage": usage, "metrics": {"latencyMs": 0}})])


def _event(kind: str, payload: dict[str, Any]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode_frame(headers, msgspec.json.encode(payload))


class InvokeMeter(_FrameMeter):
    """Counts the stream of InvokeModel: the model's own events, wrapped in base64, and metrics in the last one."""

    __slots__ = ("_messages",)

    def __init__(self, facts: RequestFacts | None, read_body: Any, *, whole_events: bool = False) -> None:
        super().__init__(facts, read_body, whole_events=whole_events)
        self._messages = anthropic.MessagesMeter(read_body, None)

    def event(self, data: bytes) -> bool:
        wrapped = _INVOKE_EVENT.decode(data).bytes
        inner = b64decode(wrapped) if wrapped else data
        metrics = _WITH_METRICS.decode(inner).metrics
        if metrics is not None:
            self._stated = _Usage(
                metrics.input_token_count,
                metrics.output_token_count,
                cache_read_input_tokens=metrics.cache_read_input_token_count,
                cache_write_input_tokens=metrics.cache_write_input_token_count,
            )
        self._messages.take_data(inner)
        messages = self._messages
        self.characters = messages.characters
        self.finish_reason = messages.finish_reason
        self.response_id = messages.response_id
        self.tools = messages.tools
        return False

    def usage(self) -> Usage | None:
        # Anthropic's own events split the written tokens by lifetime, which the metrics do not.
        return self._messages.usage() if self._messages.complete() else super().usage() or self._messages.usage()

    def complete(self) -> bool:
        return self._messages.complete() or super().complete()

    def marked(self) -> bool:
        return self._messages.marked() or super().complete()

    def ending(self) -> bytes:
        if self.error or not self._messages.begun:
            return b""  # another maker's events, or none yet that would say whose they are
        wrapped = [{"bytes": b64encode(msgspec.json.encode(each)).decode()} for each in self._messages.last()]
        return b"".join([_event("chunk", each) for each in wrapped])


CONVERSE: Final = Converse()
INVOKE: Final = Invoke()
