"""Cohere v2 chat, v1 chat, embed and rerank.

Rule 1: the bill follows ``billed_units``; ``tokens`` also counts what Cohere adds itself and does not charge.
Rule 2: image tokens of an embedding stand beside the text's: our input is their sum.
Rule 3: a rerank is billed by search units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from bursar.core.prices import Reading
from bursar.core.usage import Usage

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
    mapping,
    unreadable,
)
from .meters import StreamMeter
from .openai_responses import with_model

__all__ = ["DIALECT", "Cohere", "convert"]


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: Count | None = None


class _Billed(Struct, gc=False):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    image_tokens: Count | None = None
    search_units: Count | None = None


class _Units(Struct, gc=False):
    billed_units: _Billed | None = None


class _Message(Struct):
    content: Any = None
    tool_calls: Any = None
    tool_plan: str | None = None


class _Delta(Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: _Units | None = None
    error: str | None = None


class _Response(Struct):
    """A whole answer; v2 chat has ``usage``, the others ``meta``."""

    id: str | None = None
    finish_reason: str | None = None
    usage: _Units | None = None
    meta: _Units | None = None
    message: Any = None


class _Event(Struct):
    type: str | None = None
    id: str | None = None
    delta: _Delta | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_EVENT: Final = msgspec.json.Decoder(_Event)


class Cohere:
    """Cohere's own API."""

    id = "cohere"

    def path_model(self, path: str) -> str:
        return ""

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _REQUEST.decode(body)
        except UNREADABLE as error:
            raise bad_request(error) from None
        if not request.model:
            raise BadRequest("model", "the request names no model")
        operation = "embeddings" if path.endswith("/embed") else "passthrough"
        return RequestFacts(
            operation="chat_completions" if path.endswith("/chat") else operation,
            model=request.model,
            stream=bool(request.stream),
            output_cap=request.max_tokens,
            input_tokens_estimate=ceil_tokens(len(body)),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool) -> bytes:
        return with_model(body, model)

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            response = _RESPONSE.decode(as_bytes(body))
            units = response.usage or response.meta
            usage = convert(units.billed_units) if units and units.billed_units else None
        except UNREADABLE as error:
            return unreadable(body, error)
        failed = isinstance(response.message, str)
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            "",
            response.id or "",
            finish=response.finish_reason or "",
            error=error_text(response.message) if failed else "",
            tools=() if failed else _called(response.message),
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False) -> Meter:
        return _CohereMeter(facts, self.read_response)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode({"message": message, "code": code, "bursar": bursar})

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        delta = {"finish_reason": "ERROR", "error": message, "code": code, "bursar": bursar}
        event = {"type": "message-end", "delta": delta}
        return b"event: message-end\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _called(message: Any) -> tuple[str, ...]:
    names: list[str] = []
    calls = mapping(message).get("tool_calls")
    for call in cast("list[Any]", calls) if isinstance(calls, list) else ():
        name = mapping(mapping(call).get("function")).get("name")
        if isinstance(name, str):
            names.append(name)
    return tuple(names)


def convert(billed: _Billed) -> Usage:
    """Our usage of ``billed_units``. Raises Contradiction."""
    if billed.input_tokens is None and billed.image_tokens is None and billed.search_units is None:
        raise Contradiction("billed_units states neither tokens nor search units")
    image = billed.image_tokens or 0
    return Usage(
        input_tokens=(billed.input_tokens or 0) + image,
        input_image_tokens=image,
        output_tokens=billed.output_tokens or 0,
        rerank_searches=billed.search_units or 0,
    )


class _CohereMeter(StreamMeter):
    __slots__ = ("_stated",)

    def __init__(self, facts: RequestFacts | None, read_body: Any) -> None:
        super().__init__(facts, read_body)
        self._stated: _Billed | None = None

    def event(self, data: bytes) -> bool:
        event = _EVENT.decode(data)
        self.response_id = event.id or self.response_id
        delta = event.delta
        if delta is None:
            return False
        if delta.message is not None:
            self._count(delta.message)
        self.finish_reason = delta.finish_reason or self.finish_reason
        if delta.error:
            self.error = error_text(delta.error)
        if delta.usage is not None and delta.usage.billed_units is not None:
            self._stated = delta.usage.billed_units
        return False

    def _count(self, message: _Message) -> None:
        self.characters += len(message.tool_plan or "")
        self.tools += _called({"tool_calls": [message.tool_calls]})
        content, function = mapping(message.content), mapping(mapping(message.tool_calls).get("function"))
        for text in (content.get("text"), content.get("thinking"), function.get("arguments")):
            self.characters += len(text) if isinstance(text, str) else 0

    def usage(self) -> Usage | None:
        return convert(self._stated) if self._stated else None

    def complete(self) -> bool:
        return self._stated is not None


DIALECT: Final = Cohere()
