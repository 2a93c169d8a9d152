"""The usage objects of OpenAI and of everybody who speaks its dialects.

Rule 1: OpenAI counts inclusively: ``prompt_tokens`` contains cached, written, audio and image tokens,
        ``completion_tokens`` contains reasoning and audio. (OpenAI API reference, CompletionUsage, ResponseUsage)
Rule 2: who differs says so in ``Quirks``, a row of ``providers.toml``; every field must be stated there.
Rule 3: the cached count has several names; each is one provider's name for the same part of the prompt. Mistral's
        ``num_cached_tokens`` is none of them: it says what the engine reused (69 of 70 tokens, unasked), and was never
        billed at the price of a cache read; ``prompt_tokens_details.cached_tokens`` is.
Rule 4: a cost that the provider itself states is taken digit by digit from the JSON text, never through a float.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final, Literal, NamedTuple, TypeAlias

from msgspec import Struct

from bursar.core.money import NANO_PER_USD, NanoUSD, nano_usd
from bursar.core.usage import Usage

from .dialect import Contradiction, Count

__all__ = [
    "INCLUSIVE",
    "ChatUsage",
    "Costs",
    "Quirks",
    "ResponsesUsage",
    "chat_usage",
    "reported_cost",
    "responses_usage",
]

Reasoning: TypeAlias = Literal["included", "excluded", "in_total", "by_total"]
Reported: TypeAlias = Literal["none", "cost", "cost_in_usd_ticks", "estimated_cost"]

# xAI states its cost in ticks, ten billion to the dollar.
_TICKS_PER_NANO: Final = 10_000_000_000 // NANO_PER_USD
_COST_MAX: Final = Decimal(1_000_000_000)


class Quirks(NamedTuple):
    """How a provider's usage differs from OpenAI's. No field has a default: a wrong value miscounts money.

    ``reasoning``: is it part of ``completion_tokens`` ("included"), beside it ("excluded"), only visible in
    ``total_tokens`` ("in_total"), or to be settled by the total because the provider is unknown ("by_total")?
    ``cached``: are cached tokens part of ``prompt_tokens``? ``citations``: are they part of ``completion_tokens``?
    ``reported``: which field holds the provider's own charge in USD.
    """

    reasoning: Reasoning
    cached: Literal["included", "excluded"]
    citations: Literal["included", "excluded"]
    reported: Reported


INCLUSIVE: Final = Quirks("included", "included", "included", "none")
"""OpenAI's own convention."""


class _CachedDetails(Struct, gc=False):
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _InputDetails(Struct, gc=False):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None
    video_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cached_tokens_details: _CachedDetails | None = None


class _OutputDetails(Struct, gc=False):
    reasoning_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _CostDetails(Struct, gc=False):
    upstream_inference_cost: Decimal | None = None


class _CostParts(Struct, gc=False):
    total_cost: Decimal | None = None


class Costs(Struct, gc=False):
    """The fields in which a provider states what it charged."""

    cost: Decimal | _CostParts | None = None
    is_byok: bool | None = None
    cost_details: _CostDetails | None = None
    cost_in_usd_ticks: Count | None = None
    estimated_cost: Decimal | None = None


class ChatUsage(Costs, gc=False):
    """``usage`` of chat completions and embeddings, with the names that OpenAI-compatible providers add."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: Count | None = None  # DeepSeek
    cached_tokens: Count | None = None  # Moonshot, routers
    cached_prompt_text_tokens: Count | None = None  # xAI, early
    cache_read_input_tokens: Count | None = None  # Databricks
    cache_creation_input_tokens: Count | None = None  # Databricks
    reasoning_tokens: Count | None = None  # Perplexity, Databricks, Modal
    citation_tokens: Count | None = None  # Perplexity
    num_search_queries: Count | None = None  # Perplexity


class ResponsesUsage(Costs, gc=False):
    """``usage`` of responses, images, transcriptions and the realtime API (whose details are ``token_details``)."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    input_token_details: _InputDetails | None = None
    output_token_details: _OutputDetails | None = None


_NO_INPUT: Final = _InputDetails()
_NO_OUTPUT: Final = _OutputDetails()


def chat_usage(stated: ChatUsage, quirks: Quirks) -> Usage:
    """Our usage of a chat usage object. Raises Contradiction, naming the field, when it cannot be true."""
    prompt = stated.prompt_tokens
    completion = stated.completion_tokens
    if prompt is None:
        raise Contradiction("usage.prompt_tokens is missing")
    if completion is None:
        if stated.total_tokens is not None and stated.total_tokens != prompt:
            raise Contradiction("usage.completion_tokens is missing")
        completion = 0
    details = stated.prompt_tokens_details or _NO_INPUT
    outputs = stated.completion_tokens_details or _NO_OUTPUT
    cached = details.cached_tokens
    if cached is None:
        cached = (
            stated.prompt_cache_hit_tokens  or stated.cached_tokens
            or stated.cached_prompt_text_tokens or stated.cache_read_input_tokens or 0
        )  # fmt: skip
    written = details.cache_write_tokens or stated.cache_creation_input_tokens or 0
    if quirks.cached == "excluded":
        prompt += cached + written
    elif cached + written > prompt:
        raise Contradiction(f"usage: {cached} cached and {written} written tokens are more than {prompt} prompt_tokens")
    reasoning = outputs.reasoning_tokens
    if reasoning is None:
        reasoning = stated.reasoning_tokens or 0
    if quirks.reasoning != "included":
        completion, reasoning = _with_reasoning(stated, prompt, completion, reasoning, quirks.reasoning)
    citations = stated.citation_tokens or 0
    if quirks.citations == "excluded":
        completion += citations
    if reasoning + citations > completion:
        raise Contradiction(
            f"usage: {reasoning} reasoning_tokens and {citations} citation_tokens"
            f" are more than {completion} completion_tokens"
        )
    return _usage(prompt, cached, written, details, completion, reasoning, outputs, citations, stated)


def _with_reasoning(
    stated: ChatUsage, prompt: int, completion: int, reasoning: int, convention: Reasoning
) -> tuple[int, int]:
    """Output with reasoning, and reasoning, where reasoning is not simply a part of the completion."""
    total = stated.total_tokens
    if convention == "in_total":
        if total is None or total <= prompt + completion:
            return completion, reasoning
        hidden = total - prompt - completion
        return completion + hidden, max(reasoning, hidden)
    if convention == "excluded" or (reasoning and total == prompt + completion + reasoning):
        return completion + reasoning, reasoning
    if reasoning and total != prompt + completion:
        raise Contradiction("usage.total_tokens does not say whether completion_tokens contain the reasoning_tokens")
    return completion, reasoning


def _usage(
    prompt: int,
    cached: int,
    written: int,
    details: _InputDetails,
    completion: int,
    reasoning: int,
    outputs: _OutputDetails,
    citations: int,
    stated: ChatUsage,
) -> Usage:
    audio, image, video = details.audio_tokens or 0, details.image_tokens or 0, details.video_tokens or 0
    if audio + image + video > prompt:
        raise Contradiction(f"usage: {audio + image + video} audio, image and video tokens are more than {prompt}")
    audio_out, image_out = outputs.audio_tokens or 0, outputs.image_tokens or 0
    if audio_out + image_out > completion:
        raise Contradiction(f"usage: {audio_out + image_out} audio and image tokens are more than {completion}")
    return Usage(
        prompt, cached, written, 0, 0, audio, image, video, 0, 0, 0,
        completion, reasoning, audio_out, image_out, 0, citations, 0, stated.num_search_queries or 0,
    )  # fmt: skip


def responses_usage(stated: ResponsesUsage, *, web_searches: int = 0, file_searches: int = 0) -> Usage:
    """Our usage of a responses usage object. Raises Contradiction, naming the field, when it cannot be true."""
    prompt, completion = stated.input_tokens, stated.output_tokens
    if prompt is None:
        raise Contradiction("usage.input_tokens is missing")
    if completion is None:
        if stated.total_tokens is not None and stated.total_tokens != prompt:
            raise Contradiction("usage.output_tokens is missing")
        completion = 0
    details = stated.input_tokens_details or stated.input_token_details or _NO_INPUT
    outputs = stated.output_tokens_details or stated.output_token_details or _NO_OUTPUT
    cached = details.cached_tokens or details.cache_read_input_tokens or 0
    written = details.cache_write_tokens or 0
    if cached + written > prompt:
        raise Contradiction(f"usage: {cached} cached and {written} written tokens are more than {prompt} input_tokens")
    reasoning = outputs.reasoning_tokens or 0
    if reasoning > completion:
        raise Contradiction(f"usage: {reasoning} reasoning_tokens are more than {completion} output_tokens")
    audio, image = details.audio_tokens or 0, details.image_tokens or 0
    audio_out, image_out = outputs.audio_tokens or 0, outputs.image_tokens or 0
    if audio + image > prompt or audio_out + image_out > completion:
        raise Contradiction("usage: audio and image tokens are more than the tokens they are part of")
    of_cached = details.cached_tokens_details
    cached_audio = (of_cached.audio_tokens or 0) if of_cached else 0
    cached_image = (of_cached.image_tokens or 0) if of_cached else 0
    if cached_audio + cached_image > cached or cached_audio > audio or cached_image > image:
        raise Contradiction("usage: cached audio and image tokens are more than the tokens they are part of")
    return Usage(
        prompt, cached, written, 0, 0, audio, image, 0, cached_audio, cached_image, 0,
        completion, reasoning, audio_out, image_out, 0, 0, 0, web_searches, 0, file_searches,
    )  # fmt: skip


def reported_cost(stated: Costs, field: Reported) -> NanoUSD | None:
    """What the provider says it charged, or None. Raises Contradiction when it is no amount of money."""
    match field:
        case "none":
            return None
        case "cost":
            cost = stated.cost.total_cost if isinstance(stated.cost, _CostParts) else stated.cost
            # With the user's own upstream key, OpenRouter's cost is its fee; the provider bills the rest to that key.
            if cost is not None and stated.is_byok and stated.cost_details:
                cost += stated.cost_details.upstream_inference_cost or 0
        case "cost_in_usd_ticks":
            ticks = stated.cost_in_usd_ticks
            cost = None if ticks is None else Decimal(ticks) / _TICKS_PER_NANO / NANO_PER_USD
        case "estimated_cost":
            cost = stated.estimated_cost
    if cost is None:
        return None
    if not cost.is_finite() or not 0 <= cost <= _COST_MAX:
        raise Contradiction(f"usage.{field} {str(cost)[:40]} is not an amount between 0 and {_COST_MAX} USD")
    return nano_usd(cost)
