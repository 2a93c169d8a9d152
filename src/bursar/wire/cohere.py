"""Cohere v2 chat, v1 chat, embed and rerank.

Rule 1: the bill follows ``billed_units``; ``tokens`` also counts what Cohere adds itself and does not charge.
Rule 2: image tokens of an embedding stand beside the text's: our input is their sum.
Rule 3: a rerank is billed by search units.
Rule 4: a note is a text more in the last message; a system message belongs at the start. (Cohere, chat API)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from .bounds import Bounds, given
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
from .shape_openai import ChatRequests, Edits, chat_edits
from .shaping import THOUGHT_TOKENS, capped, decoded, number, shapes, within
from .splice import members, splice

__all__ = ["DIALECT", "Cohere", "convert"]


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: Count | None = None
    images: Any = None
    inputs: msgspec.Raw = msgspec.Raw()
    connectors: Any = None
    conversation_id: Any = None


class _InPart(Struct, gc=False):
    image_url: msgspec.Raw = msgspec.Raw()


class _InMessage(Struct):
    content: str | list[_InPart] | None = None


class _FullRequest(_Request):
    messages: list[_InMessage] | None = None


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
    index: int | None = None
    id: str | None = None
    delta: _Delta | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FULL_REQUEST: Final = msgspec.json.Decoder(_FullRequest)
_INPUTS: Final = msgspec.json.Decoder(list[_InMessage])
_REQUESTS: Final = ChatRequests("max_tokens", "last", ())
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_EVENT: Final = msgspec.json.Decoder(_Event)


class Cohere:
    """Cohere's own API."""

    id = "cohere"
    can_cap = True

    def path_model(self, path: str) -> str:
        return ""

    def with_model(self, path: str, model: str) -> str:
        return path

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _FULL_REQUEST.decode(body)
        except UNREADABLE:
            request = _lenient(body)
        if not request.model:
            raise BadRequest("model", "the request names no model")
        operation = "embeddings" if path.endswith("/embed") else "passthrough"
        return RequestFacts(
            operation="chat_completions" if path.endswith("/chat") else operation,
            model=request.model,
            stream=bool(request.stream),
            output_cap=request.max_tokens,
            input_tokens_estimate=ceil_tokens(len(body)),
            searches_max=None if request.connectors else 0,
            **_bounds(request).facts(len(body)),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        if not shapes(changes):
            return with_model(body, model)
        try:
            edits = _edits(body, changes)
            return with_model(splice(body, edits) if edits else body, model)
        except UNREADABLE as error:
            raise bad_request(error) from None

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

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return _CohereMeter(facts, self.read_response, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return msgspec.json.encode({"message": message, "code": code, "bursar": bursar})

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        delta = {"finish_reason": "ERROR", "error": message, "code": code, "bursar": bursar}
        event = {"type": "message-end", "delta": delta}
        return b"event: message-end\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _lenient(body: bytes) -> _FullRequest:
    """A request whose messages nobody understands: the rest of it, or BadRequest. What it may hold has no bound."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    known = msgspec.structs.asdict(request)
    known["conversation_id"] = "unknown"
    return _FullRequest(**known)


def _bounds(request: _FullRequest) -> Bounds:
    bounds = Bounds()
    bounds.unseen = bool(request.conversation_id)
    messages = list(request.messages or ())
    try:
        if given(request.inputs):
            messages += _INPUTS.decode(request.inputs)
    except UNREADABLE:
        bounds.unseen = True
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            if given(part.image_url):
                bounds.either("image", part.image_url)
    for image in cast("list[Any]", request.images) if isinstance(request.images, list) else ():
        if isinstance(image, str):
            bounds.inline("image", image.encode(errors="replace"))
    return bounds


def _edits(body: bytes, changes: Changes) -> Edits:
    found = members(body)
    if "messages" not in found and "message" not in found:
        return {}  # an embedding or a rerank
    edits = chat_edits(body, replace(changes, effort="", tier="", output_cap=None), "", _REQUESTS)
    if changes.output_cap is not None and capped(decoded(found.get("max_tokens")), changes.output_cap) is not None:
        edits["max_tokens"] = b"%d" % changes.output_cap
    thinking = found.get("thinking")
    budget = number(mapping(decoded(thinking)).get("token_budget"))
    limit = THOUGHT_TOKENS.get(changes.effort)
    if budget is not None and limit and limit < budget:
        edits["thinking"] = within(thinking, {"token_budget": b"%d" % limit})
    return edits


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
    __slots__ = ("_open", "_stated")

    def __init__(self, facts: RequestFacts | None, read_body: Any, *, whole_events: bool = False) -> None:
        super().__init__(facts, read_body, whole_events=whole_events)
        self._stated: _Billed | None = None
        self._open: tuple[str, int] | None = None

    def event(self, data: bytes) -> bool:
        event = _EVENT.decode(data)
        kind = event.type or ""
        if kind in ("content-start", "tool-call-start"):
            self._open = (kind.removesuffix("-start") + "-end", event.index or 0)
        elif kind in ("content-end", "tool-call-end"):
            self._open = None
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

    def ending(self) -> bytes:
        if self.error or self.finish_reason:
            return b""
        events: list[dict[str, Any]] = []
        if self._open is not None:
            events.append({"type": self._open[0], "index": self._open[1]})
        tokens = {"input_tokens": self.input_tokens(), "output_tokens": self.output_tokens()}
        delta = {"finish_reason": "MAX_TOKENS", "usage": {"billed_units": tokens, "tokens": tokens}}
        events.append({"type": "message-end", "delta": delta})
        return b"".join(
            [b"event: " + each["type"].encode() + b"\ndata: " + msgspec.json.encode(each) + b"\n\n" for each in events]
        )


DIALECT: Final = Cohere()
