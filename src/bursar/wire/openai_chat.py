"""OpenAI chat completions, the dialect that most providers speak, and the older completions.

Rule 1: counts are inclusive unless the provider's row says otherwise (``openai_usage``).
Rule 2: a stream states its usage once, in a last chunk without choices, and only if ``stream_options.include_usage``
        was set; Groq puts it into ``x_groq``, others into the last chunk or into every chunk. The last one counts.
Rule 3: where Bursar asked for the usage, only that chunk without choices is taken out of the client's stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from bursar.core.money import NanoUSD
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from .dialect import (
    UNREADABLE,
    BadRequest,
    Count,
    Meter,
    RequestFacts,
    as_bytes,
    bad_request,
    ceil_tokens,
    error_text,
    error_type,
    make_terms,
    mapping,
    scope_facts,
    unreadable,
)
from .meters import StreamMeter
from .openai_usage import INCLUSIVE, ChatUsage, Quirks, chat_usage, reported_cost
from .splice import members, splice

__all__ = ["DIALECT", "OpenAIChat", "deployment", "openai_error", "openai_error_event"]

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/?]+)/")


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stream_options: _StreamOptions | None = None
    service_tier: str | None = None
    user: Any = None
    metadata: Any = None


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    index: int | None = None
    function: _Function | None = None


class _Message(Struct):
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _Response(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = None
    error: Any = None


class _Delta(Struct):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _ChunkChoice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Groq(Struct):
    usage: ChatUsage | None = None


class _Chunk(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_ChunkChoice] | None = None
    usage: ChatUsage | None = None
    x_groq: _Groq | None = None
    service_tier: str | None = None
    error: Any = None


class _ChunkUsage(Struct):
    """What must be understood of a chunk whose other fields have a shape of their own."""

    usage: ChatUsage | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_CHUNK_USAGE: Final = msgspec.json.Decoder(_ChunkUsage)


class OpenAIChat:
    """Chat completions with one provider's quirks."""

    id = "openai_chat"

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks

    def path_model(self, path: str) -> str:
        return deployment(path)

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _REQUEST.decode(body)
        except UNREADABLE as error:
            raise bad_request(error) from None
        model = request.model or deployment(path)
        if not model:
            raise BadRequest("model", "the request names no model")
        cap = request.max_completion_tokens
        return RequestFacts(
            operation="chat_completions",
            model=model,
            stream=bool(request.stream),
            output_cap=request.max_tokens if cap is None else cap,
            asks_usage=bool(request.stream_options and request.stream_options.include_usage),
            terms=make_terms("service_tier", request.service_tier),
            input_tokens_estimate=ceil_tokens(len(body)),
            **scope_facts(request.user, request.metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool) -> bytes:
        changes: dict[str, bytes] = {}
        try:
            request = _REQUEST.decode(body)
            if model is not None and model != request.model:
                changes["model"] = msgspec.json.encode(model)
            options = request.stream_options
            if ask_usage and request.stream and not (options and options.include_usage):
                given = bytes(members(body)["stream_options"]) if options else b"{}"
                changes["stream_options"] = splice(given, {"include_usage": b"true"})
            return splice(body, changes) if changes else body
        except UNREADABLE as error:
            raise bad_request(error) from None

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            response = _RESPONSE.decode(as_bytes(body))
            stated = response.usage
            usage = reported = None
            if stated is not None:
                usage = chat_usage(stated, self.quirks)
                reported = reported_cost(stated, self.quirks.reported)
        except UNREADABLE as error:
            return unreadable(body, error)
        finish, tools = "", ()
        if response.choices:
            finish = response.choices[0].finish_reason or ""
            tools = _called(response.choices)
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            response.model or "",
            response.id or "",
            make_terms("service_tier", response.service_tier),
            reported,
            False,
            finish,
            error_text(response.error),
            tools,
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False) -> Meter:
        return _ChatMeter(self, facts, hide_usage=hide_usage)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return openai_error(status, code, message, bursar)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return b"data: " + openai_error(status, code, message, bursar) + b"\n\n"


def deployment(path: str) -> str:
    """The deployment that an Azure path names, else ""."""
    match = _DEPLOYMENT.search(path)
    return match[1] if match else ""


def openai_error(status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
    """An error body that the ``openai`` SDK parses; its ``body["bursar"]`` is the object given."""
    error = {"message": message, "type": error_type(status), "param": None, "code": code, "bursar": bursar}
    return msgspec.json.encode({"error": error})


def openai_error_event(status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
    """An error event for streams whose events have a ``type``."""
    error = {"message": message, "type": error_type(status), "param": None, "code": code, "bursar": bursar}
    event = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0, "error": error}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _called(choices: list[_Choice]) -> tuple[str, ...]:
    names: list[str] = []
    for choice in choices:
        message = choice.message
        if message is None or (message.tool_calls is None and message.function_call is None):
            continue
        names += [call.function.name for call in message.tool_calls or () if call.function and call.function.name]
        if message.function_call and message.function_call.name:
            names.append(message.function_call.name)
    return tuple(names)


def _text_length(content: str | list[Any]) -> int:
    """Characters of a delta's content; Mistral sends parts, whose thinking is itself a list of parts."""
    if isinstance(content, str):
        return len(content)
    count = 0
    for part in content:
        if isinstance(part, str):
            count += len(part)
        else:
            inner = mapping(part)
            for text in (inner.get("text"), inner.get("thinking")):
                if isinstance(text, str | list):
                    count += _text_length(cast("str | list[Any]", text))
    return count


class _ChatMeter(StreamMeter):
    __slots__ = ("_calls", "_dialect", "_finished", "_stated", "_tier")

    def __init__(self, dialect: OpenAIChat, facts: RequestFacts | None, *, hide_usage: bool) -> None:
        super().__init__(facts, dialect.read_response, hide_usage=hide_usage)
        self._dialect = dialect
        self._stated: ChatUsage | None = None
        self._finished = False
        self._tier: str | None = None
        self._calls: set[tuple[int, int]] = set()

    def event(self, data: bytes) -> bool:
        try:
            chunk = _CHUNK.decode(data)
        except msgspec.ValidationError:
            self._stated = _CHUNK_USAGE.decode(data).usage or self._stated
            return False
        if not self.response_id:
            self.response_id = chunk.id or ""
        if chunk.model:
            self.model = chunk.model
        if chunk.service_tier != self._tier and chunk.service_tier:
            self._tier = chunk.service_tier
            self.terms = make_terms("service_tier", chunk.service_tier)
        if chunk.error:
            self.error = error_text(chunk.error)
        stated = chunk.usage or (chunk.x_groq.usage if chunk.x_groq else None)
        if stated is not None:
            self._stated = stated
        if not chunk.choices:
            return chunk.usage is not None
        for choice in chunk.choices:
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
                self._finished = True
            if choice.delta is not None:
                self._count(choice.delta, choice.index or 0)
            elif choice.text:
                self.characters += len(choice.text)
        return False

    def _count(self, delta: _Delta, choice: int) -> None:
        content = delta.content
        if content:
            self.characters += len(content) if isinstance(content, str) else _text_length(content)
        if delta.reasoning_content:
            self.characters += len(delta.reasoning_content)
        elif delta.reasoning:
            self.characters += len(delta.reasoning)
        if delta.refusal:
            self.characters += len(delta.refusal)
        if delta.tool_calls:
            for position, call in enumerate(delta.tool_calls):
                self._count_call(call.function, (choice, position if call.index is None else call.index))
        if delta.function_call:
            self._count_call(delta.function_call, (choice, 0))

    def _count_call(self, function: _Function | None, place: tuple[int, int]) -> None:
        if function is None:
            return
        self.characters += len(function.arguments or "")
        if function.name and place not in self._calls:
            self._calls.add(place)
            self.tools.append(function.name)

    def usage(self) -> Usage | None:
        return chat_usage(self._stated, self._dialect.quirks) if self._stated else None

    def complete(self) -> bool:
        return self._finished or self.done

    def reported(self) -> NanoUSD | None:
        return reported_cost(self._stated, self._dialect.quirks.reported) if self._stated else None


DIALECT: Final = OpenAIChat(INCLUSIVE)
"""OpenAI's own chat completions."""
