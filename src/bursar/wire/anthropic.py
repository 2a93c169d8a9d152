"""Anthropic messages, whole and streamed, and the free counting of tokens.

Rule 1: counts are exclusive: ``input_tokens`` leaves out ``cache_read_input_tokens`` and
        ``cache_creation_input_tokens``; the input that we report is their sum. ``output_tokens`` contains thinking.
Rule 2: ``cache_creation`` splits the written tokens by their lifetime, 5 minutes and 1 hour, priced apart.
Rule 3: the usages of ``message_start`` and ``message_delta`` are cumulative: a later figure replaces, never adds.
Rule 4: ``iterations`` lists every sampling of the request. The top-level figures hold the ``message`` entries of the
        answering model alone; compactions, advisors and declined attempts are billed as well, each at its own model.
        Where there are such entries, all entries are added up per model instead: the answering model's sum is the
        usage, the others are parts.
Rule 5: of the server tools, web searches have a price; fetches are free, code execution is billed by container hours.
Rule 6: Claude Code packs device, account and session into ``metadata.user_id``. The blob is taken apart, never kept.
Rule 7: the cache is written only where ``cache_control`` asks for it, anywhere in the request, for an hour only where
        its ``ttl`` is "1h".
Rule 8: a tool with a dated type runs at the provider, but for those that Anthropic only trained for; ``max_uses``
        limits each of them. MCP servers and what searches for tools have no limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading, Terms
from bursar.core.usage import NO_USAGE, Usage

from .bounds import Bounds, effort_of, given
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
    error_type,
    make_terms,
    mapping,
    scope_facts,
    unreadable,
)
from .meters import StreamMeter
from .openai_embeddings import WholeMeter
from .openai_responses import with_model
from .shape_anthropic import messages_edits
from .shaping import shapes, with_short_cache
from .splice import splice

__all__ = [
    "COUNT_TOKENS",
    "DIALECT",
    "AnthropicMessages",
    "CountTokens",
    "MessagesMeter",
    "bound_facts",
    "convert",
    "user_scope",
]

_CLAUDE_CODE: Final = re.compile(r"user_(?P<device>[0-9a-f]*)_account_(?P<account>[^_]*)_session_(?P<session>[^_]+)")
_PATH_MODEL: Final = re.compile(r"/models/([^/:?]+)")
_DATED: Final = re.compile(r"^(claude-.*)-(20\d{6})$")
_PLAIN_GEOS: Final = frozenset({"global", "not_available", ""})


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: Count | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    metadata: Any = None
    container: Any = None
    mcp_servers: Any = None
    output_config: Any = None
    cache_control: msgspec.Raw = msgspec.Raw()


class _Source(Struct, gc=False):
    type: Any = None
    media_type: Any = None
    data: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()


class _InBlock(Struct):
    type: Any = None
    source: _Source | str | None = None
    content: str | list[_InBlock] | _InBlock | None = None
    cache_control: msgspec.Raw = msgspec.Raw()


class _InMessage(Struct):
    content: str | list[_InBlock] | None = None


class _InTool(Struct):
    type: Any = None
    name: Any = None
    max_uses: Any = None
    cache_control: msgspec.Raw = msgspec.Raw()


class _FullRequest(_Request):
    messages: list[_InMessage] | None = None
    system: str | list[_InBlock] | None = None
    tools: list[_InTool] | None = None


class _CacheCreation(Struct, gc=False):
    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class _ServerTools(Struct, gc=False):
    web_search_requests: Count | None = None


class _OutputDetails(Struct, gc=False):
    thinking_tokens: Count | None = None


class _Iteration(Struct, gc=False):
    type: str = ""
    model: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None


class _Usage(Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerTools | None = None
    iterations: list[_Iteration] | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None


class _Block(Struct, gc=False):
    type: str | None = None
    name: str | None = None


class _Message(Struct):
    id: str | None = None
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Delta(Struct):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class _Event(Struct):
    type: str = ""
    index: int | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class _Counted(Struct):
    input_tokens: Count | None = None
    error: Any = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FULL_REQUEST: Final = msgspec.json.Decoder(_FullRequest)
_MESSAGE: Final = msgspec.json.Decoder(_Message)
_EVENT: Final = msgspec.json.Decoder(_Event)
_IN_BLOCKS: Final = msgspec.json.Decoder(list[_InBlock])
_COUNTED: Final = msgspec.json.Decoder(_Counted)
_AT_THE_CLIENT: Final = re.compile(r"custom$|bash_|text_editor_|computer_|memory_")
_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})


class AnthropicMessages:
    """Messages, at Anthropic and wherever its models are served in its dialect."""

    id = "anthropic"
    operation = "messages"
    can_cap = True

    def path_model(self, path: str) -> str:
        """Vertex AI names the model in the path: ``.../models/claude-sonnet-4-5@20250929:rawPredict``."""
        match = _PATH_MODEL.search(path)
        return match[1].replace("@", "-") if match else ""

    def with_model(self, path: str, model: str) -> str:
        match = _PATH_MODEL.search(path)
        if match is None:
            return path
        name = _DATED.sub(r"\1@\2", model)  # Vertex AI writes the date of a model behind an @
        return path[: match.start(1)] + quote(name, safe="@") + path[match.end(1) :]

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _FULL_REQUEST.decode(body)
        except UNREADABLE:
            request = _lenient(body)
        model = request.model or self.path_model(path)
        if not model:
            raise BadRequest("model", "the request names no model")
        return RequestFacts(
            operation=self.operation,
            model=model,
            stream=bool(request.stream) or ":streamRawPredict" in path,
            output_cap=request.max_tokens,
            terms=_terms(request.service_tier, request.speed, request.inference_geo),
            input_tokens_estimate=ceil_tokens(len(body)),
            **_bound_facts(request, len(body)),
            **_scope(request.metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        if changes.short_cache:
            body = with_short_cache(body)
        if not (self.can_cap and shapes(changes)):
            return with_model(body, model)
        try:
            name = _REQUEST.decode(body).model or "" if model is None else model
            edits = messages_edits(body, changes, name)
            return with_model(splice(body, edits) if edits else body, model)
        except UNREADABLE as error:
            raise bad_request(error) from None

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            message = _MESSAGE.decode(as_bytes(body))
            stated = message.usage
            usage, parts = convert(stated, message.model or "") if stated is not None else (None, ())
        except UNREADABLE as error:
            return unreadable(body, error)
        calls = [block.name for block in message.content or () if block.type in _CALLS and block.name]
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            message.model or "",
            message.id or "",
            _terms(stated.service_tier, stated.speed, stated.inference_geo) if stated is not None else (),
            None,
            False,
            message.stop_reason or "",
            error_text(message.error),
            tuple(calls),
            parts=parts,
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return MessagesMeter(self.read_response, facts, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        error = {"type": error_type(status), "message": message, "code": code, "bursar": bursar}
        return msgspec.json.encode({"type": "error", "error": error})

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return b"event: error\ndata: " + self.error_body(status, code, message, bursar) + b"\n\n"


class CountTokens(AnthropicMessages):
    """``/v1/messages/count_tokens``: it asks for a number and costs nothing."""

    id = "anthropic_count_tokens"
    operation = "count_tokens"
    can_cap = False

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            counted = _COUNTED.decode(as_bytes(body))
        except UNREADABLE as error:
            return unreadable(body, error)
        if counted.input_tokens is None:
            return Reading(None, "the response states no count", error=error_text(counted.error))
        return Reading(NO_USAGE)

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return WholeMeter(facts, self.read_response)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return b""


# --- bounds -----------------------------------------------------------------------------------------------------


def bound_facts(body: bytes) -> dict[str, Any]:
    """The bounds of a messages request that came another way. Raises BadRequest."""
    try:
        request = _FULL_REQUEST.decode(body)
    except UNREADABLE:
        request = _lenient(body)
    return _bound_facts(request, len(body))


def _lenient(body: bytes) -> _FullRequest:
    """A request whose messages nobody understands: the rest of it, or BadRequest. What it may hold has no bound."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    known = msgspec.structs.asdict(request)
    known |= {"container": "unknown", "mcp_servers": "unknown", "cache_control": msgspec.Raw(b'{"ttl":"1h"}')}
    return _FullRequest(**known)


def _bound_facts(request: _FullRequest, size: int) -> dict[str, Any]:
    bounds = Bounds()
    bounds.unseen = bool(request.container)
    bounds.cache(request.cache_control)
    if request.system.__class__ is list:
        _blocks(bounds, request.system)
    for message in request.messages or ():
        if message.content.__class__ is list:
            _blocks(bounds, message.content)
    for tool in request.tools or ():
        if tool.cache_control:
            bounds.cache(tool.cache_control)
    return {
        "writes_cache": bounds.writes_cache,
        "searches_max": _searches_max(request),
        "effort": effort_of(mapping(request.output_config).get("effort")),
        **bounds.facts(size),
    }


def _blocks(bounds: Bounds, blocks: Any) -> None:
    for block in cast("list[_InBlock]", blocks):
        if block.cache_control:
            bounds.cache(block.cache_control)
        if isinstance(block.source, _Source):
            _source(bounds, block, block.source)
        elif block.type == "container_upload":
            bounds.unseen = True
        if block.content is not None and block.content.__class__ is not str:
            _blocks(bounds, block.content if isinstance(block.content, list) else [block.content])


def _source(bounds: Bounds, block: _InBlock, source: _Source) -> None:
    kind = "image" if block.type == "image" else "document"
    match source.type:
        case "base64":
            bounds.inline(kind, source.data)
        case "url":
            bounds.linked(kind)
        case "text":
            pass
        case "content" if not given(source.content) or not bytes(source.content).startswith(b"["):
            pass
        case "content":
            try:
                _blocks(bounds, _IN_BLOCKS.decode(source.content))
            except UNREADABLE:
                bounds.unseen = True
        case _:
            bounds.unseen = True


def _searches_max(request: _FullRequest) -> int | None:
    most = 0
    for tool in request.tools or ():
        if not isinstance(tool.type, str) or _AT_THE_CLIENT.match(tool.type):
            continue
        uses = tool.max_uses
        if not isinstance(uses, int) or isinstance(uses, bool):
            return None
        most += max(0, uses)
    return None if request.mcp_servers else most


# --- usage ------------------------------------------------------------------------------------------------------


def convert(stated: _Usage, model: str) -> tuple[Usage, tuple[Reading, ...]]:
    """Our usage of the answering model, and parts for the others (rule 4). Raises Contradiction."""
    usage = _inclusive(stated, "usage")
    iterations = stated.iterations
    if iterations and any(each.type != "message" or (each.model or model) != model for each in iterations):
        by_model: dict[str, Usage] = {model: Usage()}
        for each in iterations:
            name = each.model or model
            one = _inclusive(each, f"usage.iterations of type {each.type!r}")
            by_model[name] = Usage(*map(sum, zip(by_model.get(name, NO_USAGE), one, strict=True)))
        parts = tuple(Reading(other, "", name) for name, other in by_model.items() if name != model)
        usage = by_model[model]
    else:
        parts = ()
    details, tools = stated.output_tokens_details, stated.server_tool_use
    thinking = (details.thinking_tokens or 0) if details else 0
    if thinking > usage.output_tokens:
        raise Contradiction(f"usage: {thinking} thinking_tokens are more than {usage.output_tokens} output_tokens")
    searches = (tools.web_search_requests or 0) if tools else 0
    if thinking or searches:
        usage = usage._replace(reasoning_tokens=thinking, web_searches=searches)
    return usage, parts


def _inclusive(stated: _Usage | _Iteration, where: str) -> Usage:
    fresh = stated.input_tokens
    if fresh is None:
        raise Contradiction(f"{where}.input_tokens is missing")
    if stated.output_tokens is None:
        raise Contradiction(f"{where}.output_tokens is missing")
    read, written = stated.cache_read_input_tokens or 0, stated.cache_creation_input_tokens or 0
    five = hour = 0
    if stated.cache_creation is not None:
        five = stated.cache_creation.ephemeral_5m_input_tokens or 0
        hour = stated.cache_creation.ephemeral_1h_input_tokens or 0
        if stated.cache_creation_input_tokens is None:
            written = five + hour
        elif five + hour > written:
            raise Contradiction(f"{where}: {five + hour} tokens of cache_creation are more than {written} written")
    return Usage(fresh + read + written, read, written, five, hour, 0, 0, 0, 0, 0, 0, stated.output_tokens)


def _terms(service_tier: str | None, speed: str | None, geo: str | None) -> Terms:
    terms = make_terms("service_tier", service_tier)
    if not (speed or geo):
        return terms
    if geo and geo not in _PLAIN_GEOS:
        terms += make_terms("inference_geo", geo)
    if speed and speed != "standard":
        terms += make_terms("speed", speed)
    return tuple(sorted(terms))


# --- who --------------------------------------------------------------------------------------------------------


def _scope(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, dict):
        return {}
    fields = dict(cast("dict[str, Any]", metadata))
    user, session = user_scope(fields.pop("user_id", None))
    facts = scope_facts(user, fields)
    if session:
        facts["session"] = session
    return facts


def user_scope(user_id: Any) -> tuple[str, str]:
    """The user and the session in ``metadata.user_id``: Claude Code's forms taken apart, else the plain value."""
    if not isinstance(user_id, str) or not user_id:
        return "", ""
    match = _CLAUDE_CODE.fullmatch(user_id)
    if match:
        return match["account"] or match["device"], match["session"]
    if not user_id.lstrip().startswith("{"):
        return user_id, ""
    try:
        blob = msgspec.json.decode(user_id, type=dict[str, Any])
    except UNREADABLE:
        return "", ""
    user = next((v for k in ("account_uuid", "account", "device_id", "user_id") if (v := blob.get(k))), "")
    session = blob.get("session_id") or blob.get("session") or ""
    return user if isinstance(user, str) else "", session if isinstance(session, str) else ""


# --- streams ----------------------------------------------------------------------------------------------------


class MessagesMeter(StreamMeter):
    """Counts a stream of messages events, from server-sent events or taken out of Bedrock's frames."""

    __slots__ = ("_ended", "_open", "_parts", "_stated", "_stopped", "begun")

    def __init__(self, read_body: Any, facts: RequestFacts | None, *, whole_events: bool = False) -> None:
        super().__init__(facts, read_body, whole_events=whole_events)
        self.begun = False
        self._open: int | None = None
        self._stopped = False
        self._stated: _Usage | None = None
        self._parts: tuple[Reading, ...] = ()
        self._ended = False

    def event(self, data: bytes) -> bool:
        event = _EVENT.decode(data)
        delta = event.delta
        match event.type:
            case "content_block_delta" if delta is not None:
                self.characters += len(delta.text or delta.partial_json or delta.thinking or "")
            case "content_block_start":
                self._open = event.index or 0
                block = event.content_block
                if block is not None and block.type in _CALLS and block.name:
                    self.tools.append(block.name)
            case "content_block_stop":
                self._open = None
            case "message_stop":
                self._stopped = True
            case "message_start" if event.message is not None:
                self.begun = True
                self.response_id = event.message.id or ""
                self.model = event.message.model or ""
                self._replace(event.message.usage)
            case "message_delta":
                if delta is not None and delta.stop_reason:
                    self.finish_reason = delta.stop_reason
                self._ended = self._ended or event.usage is not None
                self._replace(event.usage)
            case "error":
                self.error = error_text(event.error)
            case _:
                pass
        return False

    def _replace(self, later: _Usage | None) -> None:
        before = self._stated
        if later is None or before is None:
            self._stated = later or before
            return
        for name in _Usage.__struct_fields__:
            if getattr(later, name) is None:
                setattr(later, name, getattr(before, name))
        if later.cache_creation_input_tokens != before.cache_creation_input_tokens and (
            later.cache_creation is before.cache_creation
        ):
            later.cache_creation = None  # the split of an earlier figure says nothing about a later one
        self._stated = later

    def usage(self) -> Usage | None:
        if self._stated is None:
            return None
        self.terms = _terms(self._stated.service_tier, self._stated.speed, self._stated.inference_geo)
        usage, self._parts = convert(self._stated, self.model)
        return usage

    def complete(self) -> bool:
        return self._ended

    def marked(self) -> bool:
        return self._stopped

    def parts(self) -> tuple[Reading, ...]:
        return self._parts

    def ending(self) -> bytes:
        return b"".join(
            [
                b"event: " + each["type"].encode() + b"\ndata: " + msgspec.json.encode(each) + b"\n\n"
                for each in self.last()
            ]
        )

    def last(self) -> list[dict[str, Any]]:
        """The events that are missing at the end."""
        events: list[dict[str, Any]] = []
        if self._stopped or self.error:
            return events
        output = self.output_tokens()
        if not self.begun:
            model = self.facts.model if self.facts else ""
            usage = {"input_tokens": self.input_tokens(), "output_tokens": 0}
            message: dict[str, Any] = {
                "id": "msg_0", "type": "message", "role": "assistant", "model": model, "content": [],
                "stop_reason": None, "stop_sequence": None, "usage": usage,
            }  # fmt: skip
            events.append({"type": "message_start", "message": message})
        if self._open is not None and not self.finish_reason:
            events.append({"type": "content_block_stop", "index": self._open})
        if not self.finish_reason:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}})
        return [*events, {"type": "message_stop"}]


DIALECT: Final = AnthropicMessages()
COUNT_TOKENS: Final = CountTokens()
