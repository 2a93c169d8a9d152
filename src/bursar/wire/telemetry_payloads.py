"""JSON of somebody else inside one attribute: what providers answered, and what other tools counted.

Rule 1: only figures are read. The texts around them are passed over by the decoder and never kept.
Rule 2: a payload of another shape says nothing; it is no reason to refuse the span.
Rule 3: what a provider itself answered is exact, and comes under ``raw_*``: it is taken before the figures that a
        framework made of it. It is counted as the provider counts, and made inclusive here.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from bursar.core.money import NanoUSD, nano_usd

from .dialect import UNREADABLE, Count

__all__ = ["read_payload", "text_length"]

_COST_MAX: Final = Decimal(1_000_000)


class _Writes(Struct):
    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class _ServerTools(Struct):
    web_search_requests: Count | None = None


class _AnthropicUsage(Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: _Writes | None = None
    service_tier: str | None = None
    server_tool_use: _ServerTools | None = None


class _Anthropic(Struct):
    usage: _AnthropicUsage | None = None
    cacheCreationInputTokens: Count | None = None  # noqa: N815 - the name on the wire


class _BedrockUsage(Struct):
    cacheReadInputTokens: Count | None = None  # noqa: N815 - the name on the wire
    cacheWriteInputTokens: Count | None = None  # noqa: N815 - the name on the wire


class _Bedrock(Struct):
    usage: _BedrockUsage | None = None


class _OpenAI(Struct):
    serviceTier: str | None = None  # noqa: N815 - the name on the wire
    cachedPromptTokens: Count | None = None  # noqa: N815 - the name on the wire
    reasoningTokens: Count | None = None  # noqa: N815 - the name on the wire


class _RouterUsage(Struct):
    cost: Decimal | None = None


class _Router(Struct):
    usage: _RouterUsage | None = None


class _Metadata(Struct):
    anthropic: _Anthropic | None = None
    bedrock: _Bedrock | None = None
    openai: _OpenAI | None = None
    openrouter: _Router | None = None


class _Parameters(Struct):
    service_tier: str | None = None


class _Modality(Struct):
    modality: str | None = None
    token_count: Count | None = None


class _GeminiUsage(Struct):
    prompt_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    candidates_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    total_token_count: Count | None = None
    prompt_tokens_details: list[_Modality] | None = None


class _Gemini(Struct):
    usage_metadata: _GeminiUsage | None = None


class _Part(Struct):
    type: str | None = None
    content: Any = None


class _OutMessage(Struct):
    parts: list[_Part] | None = None


class _GenkitUsage(Struct, rename="camel"):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cached_content_tokens: Count | None = None
    thoughts_tokens: Count | None = None


class _Genkit(Struct):
    usage: _GenkitUsage | None = None


_METADATA: Final = msgspec.json.Decoder(_Metadata)
_PARAMETERS: Final = msgspec.json.Decoder(_Parameters)
_GEMINI: Final = msgspec.json.Decoder(_Gemini)
_GENKIT: Final = msgspec.json.Decoder(_Genkit)
_MESSAGES: Final = msgspec.json.Decoder(list[_OutMessage])
_NUMBERS: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


def read_payload(name: str, value: Any, length_max: int) -> Iterator[tuple[str, Any]]:
    """What an attribute's JSON says, as pairs of slot and value. ``value`` is its text, or already decoded."""
    try:
        body = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        if len(body) <= length_max:
            yield from _read(name, body)
    except UNREADABLE:
        return


def text_length(messages: Any, length_max: int) -> int | None:
    """The characters of an answer's text, of messages in OpenTelemetry's form; None where they are in another."""
    try:
        body = messages.encode() if isinstance(messages, str) else msgspec.json.encode(messages)
        if len(body) > length_max:
            return None
        parts = [part for message in _MESSAGES.decode(body) for part in message.parts or ()]
    except UNREADABLE:
        return None
    texts = [part.content for part in parts if part.type == "text" and isinstance(part.content, str)]
    return sum(map(len, texts)) if texts else None


def _read(name: str, body: bytes) -> Iterator[tuple[str, Any]]:
    match name:
        case "ai.response.providerMetadata":
            yield from _provider_metadata(_METADATA.decode(body))
        case "langfuse.observation.usage_details":
            for key, count in _NUMBERS.decode(body).items():
                yield f"langfuse.usage.{key}", count
        case "langfuse.observation.cost_details":
            yield from _cost_details(_NUMBERS.decode(body))
        case "llm.invocation_parameters":
            if tier := _PARAMETERS.decode(body).service_tier:
                yield "tier_asked", tier
        case "gcp.vertex.agent.llm_response":
            yield from _gemini(_GEMINI.decode(body).usage_metadata)
        case _:
            yield from _genkit(_GENKIT.decode(body).usage)


def _provider_metadata(stated: _Metadata) -> Iterator[tuple[str, Any]]:
    if stated.anthropic is not None:
        yield from _anthropic(stated.anthropic)
    if stated.bedrock is not None and stated.bedrock.usage is not None:
        usage = stated.bedrock.usage
        yield from _known(cache_read_tokens=usage.cacheReadInputTokens, cache_write_tokens=usage.cacheWriteInputTokens)
    if stated.openai is not None:
        openai = stated.openai
        yield from _known(cache_read_tokens=openai.cachedPromptTokens, reasoning_tokens=openai.reasoningTokens)
        if openai.serviceTier:
            yield "tier_answered", openai.serviceTier
    if stated.openrouter is not None and stated.openrouter.usage is not None:
        cost = _amount(stated.openrouter.usage.cost)
        if cost is not None:
            yield "charged", cost


def _anthropic(stated: _Anthropic) -> Iterator[tuple[str, Any]]:
    usage = stated.usage
    if usage is None:
        yield from _known(cache_write_tokens=stated.cacheCreationInputTokens)
        return
    writes = usage.cache_creation
    written = usage.cache_creation_input_tokens or 0
    read = usage.cache_read_input_tokens or 0
    if writes is not None:
        yield from _known(
            cache_write_5m_tokens=writes.ephemeral_5m_input_tokens,
            cache_write_1h_tokens=writes.ephemeral_1h_input_tokens,
        )
    if usage.input_tokens is not None:
        yield "raw_usage", "anthropic"
        yield "raw_input_tokens", usage.input_tokens + read + written
        yield "raw_cache_read_tokens", read
        yield "raw_cache_write_tokens", written
        yield from _known(raw_output_tokens=usage.output_tokens)
    if usage.server_tool_use is not None:
        yield from _known(web_searches=usage.server_tool_use.web_search_requests)
    if usage.service_tier:
        yield "tier_answered", usage.service_tier


def _gemini(usage: _GeminiUsage | None) -> Iterator[tuple[str, Any]]:
    """Gemini leaves thoughts out of the candidates and what tools brought in out of the prompt."""
    if usage is None or usage.prompt_token_count is None:
        return
    thoughts = usage.thoughts_token_count or 0
    prompt = usage.prompt_token_count + (usage.tool_use_prompt_token_count or 0)
    output = (usage.candidates_token_count or 0) + thoughts
    if usage.total_token_count is not None and usage.total_token_count != prompt + output:
        return  # another provider's answer in Gemini's clothes
    yield "raw_usage", "gemini"
    yield "raw_input_tokens", prompt
    yield "raw_cache_read_tokens", usage.cached_content_token_count or 0
    yield "raw_cache_write_tokens", 0
    yield "raw_output_tokens", output
    yield "raw_reasoning_tokens", thoughts
    audio = sum(part.token_count or 0 for part in usage.prompt_tokens_details or () if part.modality == "AUDIO")
    if audio:
        yield "input_audio_tokens", audio


def _genkit(usage: _GenkitUsage | None) -> Iterator[tuple[str, Any]]:
    if usage is None:
        return
    yield from _known(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_content_tokens,
        reasoning_tokens=usage.thoughts_tokens,
    )


def _cost_details(stated: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The total, or the sum of the parts where there is none."""
    parts = {key: cost for key, value in stated.items() if (cost := _amount(value)) is not None}
    if "total" in parts:
        yield "reported", parts["total"]
    elif parts:
        yield "reported", NanoUSD(sum(parts.values()))


def _amount(value: Any) -> NanoUSD | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or not 0 <= value <= _COST_MAX:
        return None
    return nano_usd(value)


def _known(**counts: int | None) -> Iterator[tuple[str, Any]]:
    for slot, count in counts.items():
        if count is not None:
            yield slot, count
