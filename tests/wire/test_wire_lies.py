"""Bodies that lie, break or mean nothing: never an exception, never a wrong number."""

from __future__ import annotations

import json
from typing import Any

import pytest
import wire_bodies as bodies
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.usage import UNITS, Usage, contains
from bursar.wire.providers import dialect_by_id

DIALECTS = (
    "openai_chat", "openai_responses", "openai_embeddings", "openai_images", "openai_audio", "anthropic",
    "anthropic_count_tokens", "gemini", "bedrock_converse", "bedrock_invoke", "cohere", "generic",
)  # fmt: skip
COUNTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "openai_chat": (bodies.CHAT, ("usage", "prompt_tokens")),
    "openai_responses": (bodies.RESPONSE, ("usage", "output_tokens")),
    "openai_embeddings": (bodies.EMBEDDING, ("usage", "prompt_tokens")),
    "anthropic": (bodies.MESSAGE, ("usage", "cache_creation", "ephemeral_1h_input_tokens")),
    "gemini": (bodies.GEMINI, ("usageMetadata", "thoughtsTokenCount")),
    "bedrock_converse": (bodies.CONVERSE, ("usage", "cacheReadInputTokens")),
    "cohere": (bodies.COHERE, ("usage", "billed_units", "input_tokens")),
}


def changed(body: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of the body with another value at this place."""
    copy = json.loads(json.dumps(body))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


@pytest.mark.parametrize("dialect_id", COUNTS)
@pytest.mark.parametrize("lie", [-1, 1.5, "12", 2**53 + 1, 10**40, True, [1], {"a": 1}])
def test_a_count_that_is_none_is_named(dialect_id: str, lie: Any) -> None:
    """A negative, a float, a text or a huge number is not a count: no usage, and the reason names the field."""
    body, path = COUNTS[dialect_id]
    reading = dialect_by_id(dialect_id).read_response(changed(body, path, lie))
    assert reading.usage is None
    assert ".".join(path) in reading.reason
    whole = dialect_by_id(dialect_id).read_response(body)
    assert (reading.model, reading.response_id) == (whole.model, whole.response_id)


@pytest.mark.parametrize(
    ("dialect_id", "body", "word"),
    [
        ("openai_chat", changed(bodies.CHAT, ("usage", "prompt_tokens_details", "cached_tokens"), 1201), "cached"),
        (
            "openai_chat",
            changed(bodies.CHAT, ("usage", "completion_tokens_details", "reasoning_tokens"), 91),
            "reasoning",
        ),
        ("openai_chat", changed(bodies.CHAT, ("usage", "prompt_tokens_details", "audio_tokens"), 1201), "audio"),
        ("openai_chat", changed(bodies.CHAT, ("usage", "completion_tokens_details", "audio_tokens"), 91), "audio"),
        ("openai_chat", changed(bodies.CHAT, ("usage", "prompt_tokens"), None), "usage.prompt_tokens"),
        ("openai_chat", changed(bodies.CHAT, ("usage", "completion_tokens"), None), "usage.completion_tokens"),
        ("openai_chat", {"usage": {}}, "usage.prompt_tokens"),
        (
            "openai_responses",
            changed(bodies.RESPONSE, ("usage", "input_tokens_details", "cached_tokens"), 501),
            "cached",
        ),
        (
            "openai_responses",
            changed(bodies.RESPONSE, ("usage", "output_tokens_details", "reasoning_tokens"), 201),
            "reason",
        ),
        ("openai_responses", changed(bodies.RESPONSE, ("usage", "output_tokens"), None), "usage.output_tokens"),
        ("openai_responses", {"usage": {}}, "usage.input_tokens"),
        (
            "openai_responses",
            {"usage": {"input_tokens": 1, "output_tokens": 1, "input_tokens_details": {"audio_tokens": 2}}},
            "audio",
        ),
        (
            "openai_responses",
            {
                "usage": {
                    "input_tokens": 9,
                    "output_tokens": 1,
                    "input_token_details": {"cached_tokens": 2, "cached_tokens_details": {"audio_tokens": 3}},
                }
            },
            "cached audio",
        ),
        (
            "anthropic",
            changed(bodies.MESSAGE, ("usage", "cache_creation", "ephemeral_1h_input_tokens"), 900),
            "cache_creation",
        ),
        (
            "anthropic",
            changed(bodies.MESSAGE, ("usage", "output_tokens_details", "thinking_tokens"), 61),
            "thinking_tokens",
        ),
        ("anthropic", {"usage": {"output_tokens": 1}}, "usage.input_tokens"),
        ("anthropic", {"usage": {"input_tokens": 1}}, "usage.output_tokens"),
        (
            "gemini",
            changed(bodies.GEMINI, ("usageMetadata", "cachedContentTokenCount"), 301),
            "cachedContentTokenCount",
        ),
        ("gemini", changed(bodies.GEMINI, ("usageMetadata", "promptTokenCount"), None), "promptTokenCount"),
        ("gemini", changed(bodies.GEMINI, ("usageMetadata", "cachedContentTokenCount"), 9), "modalities"),
        ("bedrock_converse", changed(bodies.CONVERSE, ("usage", "cacheWriteInputTokens"), 10), "cacheDetails"),
        ("bedrock_converse", changed(bodies.CONVERSE, ("usage", "inputTokens"), None), "usage.inputTokens"),
        ("cohere", {"usage": {"billed_units": {"output_tokens": 4}}}, "billed_units"),
        ("openai_audio", {"usage": {"type": "duration", "seconds": -1}}, "usage.seconds"),
    ],
)
def test_a_contradiction_is_named(dialect_id: str, body: dict[str, Any], word: str) -> None:
    """Parts that are more than their whole, or a missing count: no usage, and the reason says which."""
    reading = dialect_by_id(dialect_id).read_response(body)
    assert reading.usage is None
    assert word in reading.reason


@pytest.mark.parametrize("cost", ["-0.1", "1e40", "1e999999999", '"free"', "[]"])
def test_a_cost_that_is_no_money_is_named(cost: str) -> None:
    """A provider's own figure is checked before it is believed."""
    from bursar.wire.providers import provider

    openrouter = provider("openrouter")
    assert openrouter is not None
    body = f'{{"id": "x", "usage": {{"prompt_tokens": 1, "completion_tokens": 1, "cost": {cost}}}}}'.encode()
    reading = openrouter.dialect("/api/v1/chat/completions").read_response(body)
    assert (reading.usage, reading.reported) == (None, None)
    assert "usage.cost" in reading.reason


@pytest.mark.parametrize("dialect_id", DIALECTS)
@given(body=st.binary(max_size=200))
def test_bytes_of_any_kind_never_raise(dialect_id: str, body: bytes) -> None:
    """A body that cannot be read has no usage and a reason."""
    reading = dialect_by_id(dialect_id).read_response(body)
    assert reading.usage is None
    assert reading.reason


KEYS = st.sampled_from(
    sorted(
        {key for body in (bodies.CHAT, bodies.MESSAGE, bodies.GEMINI, bodies.CONVERSE, bodies.RESPONSE) for key in body}
    )
    + sorted(
        {*bodies.CHAT["usage"], *bodies.MESSAGE["usage"], *bodies.GEMINI["usageMetadata"], *bodies.CONVERSE["usage"]}
    )
    + ["x", "type", "billed_units", "meta", "bytes", "response", "metadata"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("dialect_id", DIALECTS)
@given(body=st.dictionaries(KEYS, VALUES, max_size=6))
def test_json_of_any_shape_never_raises(dialect_id: str, body: dict[str, Any]) -> None:
    """Whatever is read keeps the rules of a usage: nothing negative, no part more than its whole."""
    usage = dialect_by_id(dialect_id).read_response(body).usage
    if usage is not None:
        assert_sound(usage)


def assert_sound(usage: Usage) -> None:
    """The rules of ``core/usage``."""
    for outer, whole in zip(UNITS, usage, strict=True):
        assert whole >= 0
        for inner, part in zip(UNITS, usage, strict=True):
            if outer is not inner and contains(outer, inner):
                assert part <= whole, (outer.name, inner.name)


def test_a_body_that_nests_too_deep_is_unreadable() -> None:
    """Ten thousand brackets are a reason, not a crash."""
    deep = b'{"choices":' + b"[" * 10_000 + b"]" * 10_000 + b',"error":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    for dialect_id in DIALECTS:
        assert dialect_by_id(dialect_id).read_response(deep).usage is None
