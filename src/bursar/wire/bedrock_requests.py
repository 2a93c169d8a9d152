"""Bedrock's requests: what Converse and InvokeModel say that matters for money.

Rule 1: the cache is written only where a ``cachePoint`` asks for it; system tools run at the provider, without a limit.
Rule 2: an InvokeModel body is in the dialect of the model's maker, known by its fields: Anthropic's by
        ``anthropic_version``, Nova's by ``inferenceConfig``, Titan's by ``textGenerationConfig``, others by ``messages``.
Rule 3: what is in a store of the user's (``s3Location``) is not in the bytes.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from . import anthropic
from .bounds import CACHE_WRITES, Bounds, Kind, effort_of, given
from .dialect import UNREADABLE, BadRequest, Count, bad_request, mapping
from .openai_chat import chat_bound_facts
from .shaping import number

__all__ = [
    "InvokeRequest",
    "FullRequest",
    "ServiceTier",
    "bound_facts",
    "invoke_bounds",
    "invoke_cap",
    "read",
    "read_invoke",
]


class ServiceTier(Struct, gc=False):
    """``serviceTier`` of requests and answers."""

    type: str | None = None


class _Inference(Struct):
    maxTokens: Count | None = None  # noqa: N815 - the name on the wire


class _Request(Struct, rename="camel"):
    inference_config: _Inference | None = None
    request_metadata: Any = None
    service_tier: ServiceTier | None = None


class _InSource(Struct, gc=False):
    bytes: msgspec.Raw = msgspec.Raw()
    s3Location: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the name on the wire


class _InMedia(Struct, gc=False):
    source: _InSource | None = None


class _InBlock(Struct, rename="camel"):
    image: _InMedia | None = None
    audio: _InMedia | None = None
    video: _InMedia | None = None
    document: _InMedia | None = None
    cache_point: msgspec.Raw = msgspec.Raw()
    tool_result: _InResult | None = None


class _InResult(Struct):
    content: list[_InBlock] | None = None


class _InMessage(Struct):
    content: list[_InBlock] | None = None


class _InTool(Struct, rename="camel", gc=False):
    cache_point: msgspec.Raw = msgspec.Raw()
    system_tool: msgspec.Raw = msgspec.Raw()


class _InToolConfig(Struct):
    tools: list[_InTool] | None = None


class FullRequest(_Request, rename="camel"):
    """A Converse request with all that may hold media, cache marks or tools of the provider."""

    messages: list[_InMessage] | None = None
    system: list[_InBlock] | None = None
    tool_config: _InToolConfig | None = None
    additional_model_request_fields: Any = None


class InvokeRequest(Struct):
    """The fields by which the makers behind InvokeModel are told apart."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_gen_len: Any = None
    metadata: Any = None
    anthropic_version: Any = None
    inferenceConfig: Any = None  # noqa: N815 - the name on the wire
    textGenerationConfig: Any = None  # noqa: N815 - the name on the wire
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FULL_REQUEST: Final = msgspec.json.Decoder(FullRequest)
_INVOKE_REQUEST: Final = msgspec.json.Decoder(InvokeRequest)


def read(body: bytes) -> FullRequest:
    """A Converse request, as much of it as can be understood. Raises BadRequest."""
    try:
        return _FULL_REQUEST.decode(body)
    except UNREADABLE:
        return _lenient(body)


def read_invoke(body: bytes) -> InvokeRequest:
    """An InvokeModel request. Raises one of ``UNREADABLE``."""
    return _INVOKE_REQUEST.decode(body)


def _lenient(body: bytes) -> FullRequest:
    """A request whose messages nobody understands: the rest of it, or BadRequest. What it may hold has no bound."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    point, unknown = _InBlock(cache_point=msgspec.Raw(b'{"ttl":"1h"}')), _InSource(s3Location=msgspec.Raw(b"{}"))
    messages = [_InMessage([point, _InBlock(document=_InMedia(unknown))])]
    tools = _InToolConfig([_InTool(system_tool=msgspec.Raw(b"{}"))])
    known = msgspec.structs.asdict(request)
    return FullRequest(**known, messages=messages, tool_config=tools)


def bound_facts(request: FullRequest, size: int) -> dict[str, Any]:
    """The fields of ``RequestFacts`` that bound a Converse request of this size."""
    bounds = Bounds()
    for blocks in (request.system, *(message.content for message in request.messages or ())):
        _blocks(bounds, blocks)
    searches: int | None = 0
    for tool in (request.tool_config.tools if request.tool_config else None) or ():
        bounds.cache(tool.cache_point)
        if given(tool.system_tool):
            searches = None
    fields = mapping(request.additional_model_request_fields)
    effort = mapping(fields.get("output_config")).get("effort")
    effort = effort or mapping(fields.get("reasoningConfig")).get("maxReasoningEffort")
    more = {"writes_cache": bounds.writes_cache, "searches_max": searches, "effort": effort_of(effort)}
    return {**more, **bounds.facts(size)}


def _blocks(bounds: Bounds, blocks: list[_InBlock] | None) -> None:
    for block in blocks or ():
        if block.cache_point:
            bounds.cache(block.cache_point)
        if block.tool_result is not None:
            _blocks(bounds, block.tool_result.content)
        media: tuple[tuple[Kind, _InMedia | None], ...] = (
            ("image", block.image), ("audio", block.audio), ("video", block.video), ("document", block.document),
        )  # fmt: skip
        for kind, each in media:
            if each is None or each.source is None:
                continue
            if given(each.source.bytes):
                bounds.inline(kind, each.source.bytes)
            elif given(each.source.s3Location):
                bounds.linked(kind)


def invoke_bounds(request: InvokeRequest, body: bytes) -> dict[str, Any]:
    """The bounds of an InvokeModel request, by its maker's rules. One that breaks them is passed on without a bound."""
    try:
        if request.anthropic_version is not None:
            return anthropic.bound_facts(body)
        if request.inferenceConfig is not None or b'"cachePoint"' in body:
            return bound_facts(read(body), len(body))
        if given(request.messages):
            return chat_bound_facts(body)
    except BadRequest:
        return {"text_bytes": len(body), "unseen_input": True, "writes_cache": CACHE_WRITES, "searches_max": None}
    return {"text_bytes": len(body)}


def invoke_cap(request: InvokeRequest) -> int | None:
    """The cap of an InvokeModel request, wherever its maker has it."""
    nova, titan = mapping(request.inferenceConfig), mapping(request.textGenerationConfig)
    stated = (
        request.max_completion_tokens, request.max_tokens, request.max_gen_len,
        nova.get("maxTokens"), nova.get("max_new_tokens"), titan.get("maxTokenCount"),
    )  # fmt: skip
    return next((cap for cap in map(number, stated) if cap is not None), None)
