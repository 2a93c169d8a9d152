"""What a whole answer says, dialect by dialect: each convention, converted to ours."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import wire_bodies as bodies

from bursar.core.money import nano_usd
from bursar.core.usage import NO_USAGE, Usage
from bursar.wire import anthropic, bedrock, cohere, gemini, openai_media
from bursar.wire.openai_chat import DIALECT as CHAT
from bursar.wire.openai_chat import OpenAIChat
from bursar.wire.openai_embeddings import DIALECT as EMBEDDINGS
from bursar.wire.openai_responses import DIALECT as RESPONSES
from bursar.wire.openai_responses import OpenAIResponses
from bursar.wire.openai_usage import INCLUSIVE
from bursar.wire.providers import dialect_by_id, provider


def chat_usage(provider_id: str, usage: dict[str, Any]) -> Usage | None:
    """The usage of a chat completion at a provider."""
    found = provider(provider_id)
    assert found is not None
    return found.dialect("/v1/chat/completions").read_response({"model": "m", "usage": usage}).usage


def test_chat_counts_are_inclusive_already() -> None:
    """Cached tokens are part of the prompt, reasoning is part of the completion."""
    reading = CHAT.read_response(bodies.CHAT)
    assert reading.usage == Usage(input_tokens=1200, cache_read_tokens=1024, output_tokens=90, reasoning_tokens=40)
    assert (reading.model, reading.response_id, reading.finish) == ("gpt-4o-2024-08-06", "chatcmpl-1", "tool_calls")
    assert reading.terms == (("service_tier", "default"),)
    assert reading.tools == ("weather",)
    assert not reading.estimated


def test_bytes_and_mappings_read_the_same() -> None:
    """A parsed body and its JSON are one thing."""
    for dialect, body in (
        (CHAT, bodies.CHAT),
        (RESPONSES, bodies.RESPONSE),
        (EMBEDDINGS, bodies.EMBEDDING),
        (anthropic.DIALECT, bodies.MESSAGE),
        (gemini.DIALECT, bodies.GEMINI),
        (bedrock.CONVERSE, bodies.CONVERSE),
        (cohere.DIALECT, bodies.COHERE),
    ):
        reading = dialect.read_response(body)
        assert reading == dialect.read_response(json.dumps(body).encode())
        assert reading.usage is not None
        assert reading.usage.input_tokens


def test_chat_audio_image_and_written_tokens() -> None:
    """The modalities and the cache writes of newer models are parts of the prompt too."""
    usage = chat_usage(
        "openai",
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "prompt_tokens_details": {"audio_tokens": 30, "image_tokens": 10, "cache_write_tokens": 20},
            "completion_tokens_details": {"audio_tokens": 45},
        },
    )
    assert usage is not None
    assert usage.counts() == {
        "input_tokens": 100,
        "cache_write_tokens": 20,
        "input_audio_tokens": 30,
        "input_image_tokens": 10,
        "output_tokens": 50,
        "output_audio_tokens": 45,
    }


@pytest.mark.parametrize(
    ("stated", "output", "reasoning"),
    [
        # xAI's own example: 182 + 672 + 2640 = 3494.
        ({"total_tokens": 3494, "completion_tokens_details": {"reasoning_tokens": 672}}, 854, 672),
        # Without a total, xAI's convention is the same.
        ({"completion_tokens_details": {"reasoning_tokens": 10}}, 192, 10),
    ],
)
def test_xai_counts_reasoning_beside_the_completion(stated: dict[str, Any], output: int, reasoning: int) -> None:
    """Reasoning is added to the output."""
    usage = chat_usage("xai", {"prompt_tokens": 2640, "completion_tokens": 182, **stated})
    assert usage is not None
    assert (usage.output_tokens, usage.reasoning_tokens) == (output, reasoning)


def test_google_hides_thoughts_in_the_total() -> None:
    """Google's OpenAI-compatible endpoint states its thoughts in the total alone; they are billed as output."""
    usage = chat_usage("google", {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109})
    assert usage == Usage(input_tokens=35, output_tokens=74, reasoning_tokens=62)


@pytest.mark.parametrize(
    ("provider_id", "stated"),
    [
        ("deepseek", {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}),
        ("moonshot", {"cached_tokens": 64}),
        ("xai", {"cached_prompt_text_tokens": 64}),
        ("databricks", {"cache_read_input_tokens": 64}),
        ("groq", {"prompt_tokens_details": {"cached_tokens": 64}}),
    ],
)
def test_the_cached_count_has_many_names(provider_id: str, stated: dict[str, Any]) -> None:
    """Each is part of the prompt."""
    usage = chat_usage(provider_id, {"prompt_tokens": 100, "completion_tokens": 1, **stated})
    assert usage == Usage(input_tokens=100, cache_read_tokens=64, output_tokens=1)


def test_mistral_bills_only_the_details() -> None:
    """``num_cached_tokens`` is what the engine reused by itself; it has never lowered a price."""
    usage = chat_usage("mistral", {"prompt_tokens": 70, "completion_tokens": 12, "num_cached_tokens": 69})
    assert usage == Usage(input_tokens=70, output_tokens=12)


def test_perplexity_bills_reasoning_citations_and_searches_beside() -> None:
    """Deep research states three more counts, and its own cost."""
    found = provider("perplexity")
    assert found is not None
    reading = found.dialect("/chat/completions").read_response(
        b'{"model":"sonar-deep-research","usage":{"prompt_tokens":33,"completion_tokens":7163,"total_tokens":7196,'
        b'"citation_tokens":20016,"num_search_queries":18,"reasoning_tokens":73472,'
        b'"cost":{"input_tokens_cost":0.0,"output_tokens_cost":0.057,"total_cost":0.40759}}}'
    )
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 33,
        "output_tokens": 7163 + 73472 + 20016,
        "reasoning_tokens": 73472,
        "citation_tokens": 20016,
        "web_searches": 18,
    }
    assert reading.reported == nano_usd(Decimal("0.40759"))


@pytest.mark.parametrize(
    ("provider_id", "usage", "expected"),
    [
        (
            "openrouter",
            '"cost":0.0145476,"is_byok":false,"cost_details":{"upstream_inference_cost":0.0001776}',
            14547600,
        ),
        ("openrouter", '"cost":0.000009,"is_byok":true,"cost_details":{"upstream_inference_cost":0.00018}', 189000),
        ("openrouter", '"cost":4e-05', 40000),
        ("openrouter", '"cost":0', 0),
        ("openrouter", '"cost":null', None),
        ("xai", '"cost_in_usd_ticks":37756000', 3775600),
        ("deepinfra", '"estimated_cost":0.0000268', 26800),
        ("openai", '"cost":1', None),
    ],
)
def test_a_stated_cost_is_taken_to_the_digit(provider_id: str, usage: str, expected: int | None) -> None:
    """The JSON number's own text becomes nano-USD; a provider without such a field is not believed."""
    found = provider(provider_id)
    assert found is not None
    body = f'{{"model":"m","usage":{{"prompt_tokens":1,"completion_tokens":1,{usage}}}}}'.encode()
    assert found.dialect("/v1/chat/completions").read_response(body).reported == expected


def test_responses_count_what_is_billed() -> None:
    """Searching is billed, opening a page is not; the tier that served it becomes a term."""
    reading = RESPONSES.read_response(bodies.RESPONSE)
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 500,
        "cache_read_tokens": 128,
        "output_tokens": 200,
        "reasoning_tokens": 150,
        "web_searches": 1,
        "file_searches": 1,
    }
    assert reading.terms == (("service_tier", "flex"),)
    assert reading.finish == "completed"
    assert reading.tools == ("web_search", "web_search", "file_search", "weather")


def test_responses_take_the_stated_searches_and_the_image_tool() -> None:
    """What ``tool_usage`` states wins over counting; images are billed at their own model."""
    image = {"input_tokens": 10, "output_tokens": 1056, "output_tokens_details": {"image_tokens": 1056}}
    body = {
        **bodies.RESPONSE,
        "tool_usage": {"web_search": {"num_requests": 3}, "image_gen": image},
        "tools": [{"type": "image_generation", "model": "gpt-image-1-mini"}],
    }
    reading = RESPONSES.read_response(body)
    assert reading.usage is not None
    assert reading.usage.web_searches == 3
    (part,) = reading.parts
    assert part.model == "gpt-image-1-mini"
    assert part.usage is not None
    assert part.usage.counts() == {"input_tokens": 10, "output_tokens": 1056, "output_image_tokens": 1056}


def test_the_realtime_api_states_audio_and_its_cached_part() -> None:
    """``response.done`` holds the details under their singular names."""
    usage = {
        "input_tokens": 200,
        "output_tokens": 80,
        "input_token_details": {
            "cached_tokens": 64,
            "text_tokens": 100,
            "audio_tokens": 100,
            "cached_tokens_details": {"text_tokens": 40, "audio_tokens": 24},
        },
        "output_token_details": {"text_tokens": 20, "audio_tokens": 60},
    }
    reading = RESPONSES.read_response(
        {"type": "response.done", "response": {"id": "r", "status": "completed", "usage": usage}}
    )
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 200,
        "cache_read_tokens": 64,
        "input_audio_tokens": 100,
        "cache_read_audio_tokens": 24,
        "output_tokens": 80,
        "output_audio_tokens": 60,
    }


def test_anthropic_counts_are_made_inclusive() -> None:
    """Cache reads and writes are added to the input; both lifetimes are kept apart."""
    reading = anthropic.DIALECT.read_response(bodies.MESSAGE)
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 2710,
        "cache_read_tokens": 2000,
        "cache_write_tokens": 700,
        "cache_write_5m_tokens": 500,
        "cache_write_1h_tokens": 200,
        "output_tokens": 60,
        "reasoning_tokens": 25,
        "web_searches": 2,
    }
    assert reading.terms == (("inference_geo", "us"), ("service_tier", "standard"))
    assert reading.tools == ("weather",)


@pytest.mark.parametrize(
    ("more", "terms"),
    [
        ({"service_tier": "batch"}, (("processing", "batch"),)),
        ({"speed": "fast"}, (("speed", "fast"),)),
        ({"speed": "standard", "inference_geo": "not_available"}, ()),
        ({"inference_geo": "global"}, ()),
    ],
)
def test_anthropic_terms(more: dict[str, str], terms: tuple[tuple[str, str], ...]) -> None:
    """Batch, fast mode and a place change the price; the ordinary ways do not."""
    usage = {"input_tokens": 1, "output_tokens": 1, **more}
    assert anthropic.DIALECT.read_response({"usage": usage}).terms == terms


def test_an_advisor_is_a_part_at_its_own_model() -> None:
    """The top-level figures leave an advisor out; it is billed at its own model."""
    one = {"type": "message", "input_tokens": 1128, "output_tokens": 121}
    two = {"type": "message", "input_tokens": 1289, "output_tokens": 12}
    advisor = {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2529, "output_tokens": 38}
    usage = {"input_tokens": 2417, "output_tokens": 133, "iterations": [one, advisor, two]}
    reading = anthropic.DIALECT.read_response({"model": "claude-sonnet-5", "usage": usage})
    assert reading.usage == Usage(input_tokens=2417, output_tokens=133)
    assert [(part.model, part.usage) for part in reading.parts] == [
        ("claude-opus-4-8", Usage(input_tokens=2529, output_tokens=38))
    ]


def test_a_compaction_is_added_to_its_own_model() -> None:
    """A compaction stands beside the top-level figures and is billed like the rest."""
    usage = {
        "input_tokens": 181,
        "output_tokens": 8,
        "iterations": [
            {"type": "compaction", "input_tokens": 100, "output_tokens": 83, "cache_read_input_tokens": 55096},
            {"type": "message", "input_tokens": 181, "output_tokens": 8},
        ],
    }
    reading = anthropic.DIALECT.read_response({"model": "claude-sonnet-4-6", "usage": usage})
    assert reading.usage == Usage(input_tokens=55377, cache_read_tokens=55096, output_tokens=91)
    assert reading.parts == ()


def test_counting_tokens_is_free() -> None:
    """A count is an answer without a bill, at Anthropic and at Google."""
    assert anthropic.COUNT_TOKENS.read_response(b'{"input_tokens": 2095}').usage == NO_USAGE
    assert gemini.DIALECT.read_response(b'{"totalTokens": 31}').usage == NO_USAGE


def test_gemini_adds_thoughts_and_tool_prompts() -> None:
    """Thoughts are output beside the candidates, tool results are input beside the prompt, documents are images."""
    reading = gemini.DIALECT.read_response(bodies.GEMINI)
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 330,
        "cache_read_tokens": 100,
        "input_audio_tokens": 60,
        "input_image_tokens": 40,
        "cache_read_audio_tokens": 10,
        "output_tokens": 70,
        "reasoning_tokens": 50,
        "web_searches": 1,
    }
    assert reading.terms == (("service_tier", "priority"),)
    assert (reading.model, reading.response_id, reading.tools) == ("gemini-2.5-flash", "g1", ("weather",))


def test_gemini_3_bills_every_search_query() -> None:
    """From Gemini 3 on each query that is not blank is one search; before, a grounded prompt is."""
    reading = gemini.DIALECT.read_response({**bodies.GEMINI, "modelVersion": "gemini-3-flash-preview"})
    assert reading.usage is not None
    assert reading.usage.web_searches == 2


def test_a_blocked_gemini_prompt_without_counts_is_unknown() -> None:
    """``usageMetadata`` that holds no count states nothing."""
    reading = gemini.DIALECT.read_response(
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"trafficType": "ON_DEMAND"}}
    )
    assert (reading.usage, reading.reason, reading.finish) == (None, "the response states no usage", "SAFETY")


def test_converse_counts_are_made_inclusive() -> None:
    """Bedrock's cache counts are added to its input."""
    reading = bedrock.CONVERSE.read_response(bodies.CONVERSE)
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 540,
        "cache_read_tokens": 300,
        "cache_write_tokens": 200,
        "cache_write_5m_tokens": 150,
        "cache_write_1h_tokens": 50,
        "output_tokens": 9,
    }
    assert (reading.finish, reading.tools) == ("tool_use", ("weather",))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            bodies.MESSAGE,
            Usage(2710, 2000, 700, 500, 200)._replace(output_tokens=60, reasoning_tokens=25, web_searches=2),
        ),
        (bodies.CONVERSE, Usage(540, 300, 200, 150, 50)._replace(output_tokens=9)),
        ({"inputTextTokenCount": 5, "embedding": [0.1]}, Usage(input_tokens=5)),
        ({"inputTextTokenCount": 5, "results": [{"tokenCount": 3}]}, Usage(input_tokens=5, output_tokens=3)),
        ({"generation": "x", "prompt_token_count": 7, "generation_token_count": 2}, Usage(7, output_tokens=2)),
        ({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 1}}, Usage(4, output_tokens=1)),
        ({"outputs": [{"text": "x"}]}, None),
    ],
)
def test_invoke_answers_in_the_models_dialect(body: dict[str, Any], expected: Usage | None) -> None:
    """InvokeModel passes on the model's own body, known by its field names."""
    assert bedrock.INVOKE.read_response(body).usage == expected


def test_invoke_headers_state_what_the_body_does_not() -> None:
    """The token counts of the headers are read where the body has none, and only there."""
    silent = bedrock.INVOKE.read_response({"outputs": [{"text": "x"}]})
    headers = {"x-amzn-bedrock-input-token-count": "12", "x-amzn-bedrock-output-token-count": "3"}
    assert bedrock.with_headers(silent, headers).usage == Usage(input_tokens=12, output_tokens=3)
    assert bedrock.with_headers(silent, {}).usage is None
    stated = bedrock.INVOKE.read_response({"inputTextTokenCount": 5})
    assert bedrock.with_headers(stated, headers) is stated


def test_cohere_bills_its_billed_units() -> None:
    """What Cohere adds to the prompt itself is not charged; embeddings and reranks state theirs in ``meta``."""
    assert cohere.DIALECT.read_response(bodies.COHERE).usage == Usage(input_tokens=13, output_tokens=61)
    embed = {"id": "e", "meta": {"billed_units": {"input_tokens": 4, "image_tokens": 6}}}
    assert cohere.DIALECT.read_response(embed).usage == Usage(input_tokens=10, input_image_tokens=6)
    rerank = {"id": "r", "results": [], "meta": {"billed_units": {"search_units": 2}}}
    assert cohere.DIALECT.read_response(rerank).usage == Usage(rerank_searches=2)


def test_embeddings_are_all_input() -> None:
    """Voyage states a total alone, and there is no output it could contain."""
    assert EMBEDDINGS.read_response(bodies.EMBEDDING).usage == Usage(input_tokens=8)
    assert EMBEDDINGS.read_response({"model": "voyage-3.5", "usage": {"total_tokens": 3}}).usage == Usage(
        input_tokens=3
    )


def test_images_and_transcriptions() -> None:
    """Images state tokens, transcriptions tokens or seconds; seconds become milliseconds, rounded up."""
    image = {"usage": {"input_tokens": 50, "output_tokens": 4096, "input_tokens_details": {"image_tokens": 10}}}
    usage = openai_media.IMAGES.read_response(image).usage
    assert usage is not None
    assert usage.counts() == {
        "input_tokens": 50,
        "input_image_tokens": 10,
        "output_tokens": 4096,
        "output_image_tokens": 4096,
    }
    spoken = {"text": "hi", "usage": {"type": "duration", "seconds": 3.0005}}
    assert openai_media.AUDIO.read_response(spoken).usage == Usage(input_audio_ms=3001)
    tokens = {"usage": {"input_tokens": 14, "output_tokens": 5, "input_token_details": {"audio_tokens": 14}}}
    assert openai_media.AUDIO.read_response(tokens).usage == Usage(14, input_audio_tokens=14, output_tokens=5)


def test_the_generic_dialect_knows_unmistakable_shapes_only() -> None:
    """A stated shape is read, reasoning is settled by the total, anything else is left alone."""
    generic = dialect_by_id("generic")
    for body in (bodies.CHAT, bodies.RESPONSE, bodies.MESSAGE, bodies.GEMINI, bodies.CONVERSE, bodies.COHERE):
        assert generic.read_response(body).usage is not None
    beside = {"prompt_tokens": 10, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 5}}
    for total, output in ((17, 7), (12, None), (None, None)):
        read = generic.read_response({"usage": {**beside, "total_tokens": total}})
        assert (read.usage.output_tokens if read.usage else None) == output
    within = {"prompt_tokens": 10, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 5}}
    assert generic.read_response({"usage": {**within, "total_tokens": 19}}).usage == Usage(
        10, output_tokens=9, reasoning_tokens=5
    )
    unknown = generic.read_response({"tokens": {"in": 4}})
    assert (unknown.usage, unknown.reason) == (None, "the response is in no known dialect")


def test_errors_are_named() -> None:
    """An error body has no usage; its text is kept, short."""
    for dialect, body in (
        (CHAT, {"error": {"message": "Rate limit", "type": "rate_limit_error", "code": None}}),
        (RESPONSES, {"error": {"message": "Rate limit", "type": "rate_limit_error"}}),
        (anthropic.DIALECT, {"type": "error", "error": {"type": "rate_limit_error", "message": "Rate limit"}}),
        (gemini.DIALECT, {"error": {"code": 429, "message": "Rate limit", "status": "rate_limit_error"}}),
    ):
        reading = dialect.read_response(body)
        assert (reading.usage, reading.error) == (None, "rate_limit_error: Rate limit")
    assert bedrock.CONVERSE.read_response({"message": "Too many"}).error == "Too many"
    assert cohere.DIALECT.read_response({"message": "Too many"}).error == "Too many"


def test_each_dialect_writes_errors_that_it_reads_itself() -> None:
    """An error of ours comes back as an error, with its machine-readable object inside."""
    for dialect in (
        OpenAIChat(INCLUSIVE),
        OpenAIResponses(INCLUSIVE),
        EMBEDDINGS,
        openai_media.AUDIO,
        anthropic.DIALECT,
        gemini.DIALECT,
        bedrock.CONVERSE,
        cohere.DIALECT,
        dialect_by_id("generic"),
    ):
        body = dialect.error_body(429, "budget_exceeded", "team search has $0.11", {"code": "budget_exceeded"})
        parsed = json.loads(body)
        assert parsed.get("error", parsed)["bursar"] == {"code": "budget_exceeded"}
        assert "team search has $0.11" in dialect.read_response(body).error
        event = dialect.error_event(429, "budget_exceeded", "team search has $0.11", {})
        if not event:
            assert dialect is EMBEDDINGS
            continue
        meter = dialect.meter(None)
        meter.feed(event)
        meter.finish()
        reading = meter.reading()
        assert reading.usage is None
        assert "team search has $0.11" in reading.error
