"""The public function: every form a recorded response may have, and the price of each."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import wire_bodies as bodies
from hypothesis import given
from hypothesis import strategies as st

import bursar
from bursar import Charge, charge_response

AT = "2025-11-06T12:00:00Z"


def cost(provider: str, body: Any, **more: Any) -> Decimal | None:
    """What a response cost on a fixed day."""
    return charge_response(provider, body, **{"at": AT, **more}).cost_usd


def test_every_form_of_one_answer_costs_the_same() -> None:
    """A mapping, its JSON as text and bytes, the text and bytes of its stream, and its events."""
    events = [*bodies.CHAT_CHUNKS, bodies.CHAT_USAGE_CHUNK]
    forms: list[Any] = [
        bodies.CHAT,
        json.dumps(bodies.CHAT),
        json.dumps(bodies.CHAT).encode(),
        bytearray(json.dumps(bodies.CHAT).encode()),
        bodies.CHAT_STREAM,
        bodies.CHAT_STREAM.decode(),
        events,
        [json.dumps(event) for event in events],
        [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"],
    ]
    for name in ("openai", "api.openai.com", "https://api.openai.com/v1/chat/completions"):
        for form in forms:
            # 176 x 2.50 + 1024 x 1.25 + 90 x 10 USD per million
            assert cost(name, form) == Decimal("0.00262"), (name, form)


@pytest.mark.parametrize(
    ("provider", "body", "model"),
    [
        ("openai", bodies.RESPONSE, None),
        ("openai", bodies.RESPONSE_STREAM, None),
        ("openai", bodies.EMBEDDING, None),
        ("anthropic", bodies.MESSAGE, None),
        ("anthropic", bodies.MESSAGE_STREAM, None),
        ("anthropic", list(bodies.MESSAGE_EVENTS), None),
        ("google", bodies.GEMINI, None),
        ("google", bodies.GEMINI_STREAM, None),
        ("google", bodies.GEMINI_ARRAY, None),
        ("google", list(bodies.GEMINI_EVENTS), None),
        ("bedrock", bodies.CONVERSE, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock", bodies.CONVERSE_STREAM, "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("bedrock", [payload for _, payload in bodies.CONVERSE_EVENTS], "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
            bodies.CONVERSE,
            None,
        ),
        ("cohere", bodies.COHERE, "command-r7b-12-2024"),
        ("cohere", bodies.COHERE_STREAM, "command-r7b-12-2024"),
    ],
)
def test_the_dialect_is_known_by_its_shape(provider: str, body: Any, model: str | None) -> None:
    """Without a path, a body's own shape says how to read it."""
    charge = charge_response(provider, body, model=model, at=AT)
    assert charge.reason is None
    assert charge.amount
    assert not charge.estimated
    assert charge.amount == sum(line.cost for line in charge.lines)


def test_cache_writes_cost_by_their_lifetime() -> None:
    """Five minutes 1.25 times the input price, an hour 2 times, each on its own line; searches beside them."""
    charge = charge_response("anthropic", bodies.MESSAGE, at=AT)
    assert {line.unit: line.cost for line in charge.lines} == {
        "cache_write_1h_tokens": 200 * 6_000,
        "cache_write_tokens": 500 * 3_750,
        "cache_read_tokens": 2000 * 300,
        "input_tokens": 10 * 3_000,
        "output_tokens": 60 * 15_000,
        "web_searches": 2 * 10_000_000,
    }


def test_an_advisor_is_charged_at_its_own_model() -> None:
    """Lines of two models, one amount."""
    advisor = {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2529, "output_tokens": 38}
    main = {"type": "message", "input_tokens": 2417, "output_tokens": 133}
    usage = {"input_tokens": 2417, "output_tokens": 133, "iterations": [main, advisor]}
    body = {"type": "message", "model": "claude-sonnet-5", "usage": usage}
    charge = charge_response("anthropic", body, at="2026-09-01")
    assert [line.price_row.partition("/")[2].partition("/")[0] for line in charge.lines] == [
        "claude-sonnet-5", "claude-sonnet-5", "claude-opus-4-8", "claude-opus-4-8",
    ]  # fmt: skip
    assert charge.usage is not None
    assert charge.usage.input_tokens == 2417 + 2529
    assert charge.amount == sum(line.cost for line in charge.lines)
    advisor["model"] = "claude-nobody-knows"
    unknown = charge_response("anthropic", body, at="2026-09-01")
    assert (unknown.amount, unknown.usage) == (None, charge.usage)
    assert "claude-nobody-knows" in str(unknown.reason)


def test_the_service_tier_can_be_overridden() -> None:
    """The caller knows that it was a batch; the response may not."""
    plain = cost("openai", {**bodies.RESPONSE, "service_tier": "default", "output": []}, at="2026-11-01")
    assert plain
    body = {**bodies.RESPONSE, "output": []}
    assert cost("openai", body, service_tier="default", at="2026-11-01") == plain
    assert cost("openai", body, service_tier="batch", at="2026-11-01") == plain / 2
    assert cost("openai", body, at="2026-11-01") == plain / 2  # the response says flex


def test_the_providers_own_charge_wins() -> None:
    """OpenRouter's cost is the amount; our lines and a difference explain it."""
    body = b'{"object":"chat.completion","model":"openai/gpt-4o-mini","usage":{"prompt_tokens":888,"completion_tokens":74,"cost":0.0145476}}'
    charge = charge_response("openrouter", body, at=AT)
    assert charge.cost_usd == Decimal("0.0145476")
    assert charge.lines[-1].unit == "provider_reported"
    assert charge.amount == sum(line.cost for line in charge.lines)


@pytest.mark.parametrize(
    ("provider", "body", "word"),
    [
        ("example.com", bodies.CHAT, "example.com"),
        ("openai", {**bodies.CHAT, "model": "gpt-99"}, "gpt-99"),
        ("ollama", {**bodies.CHAT, "model": "qwen3:0.6b"}, "ollama"),
        ("openai", "", "dialect"),
        ("openai", b"\xff\xfe", "dialect"),
        ("openai", "{", "body cannot be read"),
        ("openai", [], "no events"),
        ("openai", [1, None, {"x": 1}], "dialect"),
        ("openai", {"a": object()}, "body cannot be read"),
        ("openai", {"a": float("nan")}, "dialect"),
        ("openai", "lorem ipsum", "dialect"),
        ("openai", "data: {}\n\n", "dialect"),
        ("", bodies.CHAT, "provider"),
    ],
)
def test_what_cannot_be_priced_says_why(provider: str, body: Any, word: str) -> None:
    """No amount, never 0, and a reason; usage that could be read stays."""
    charge = charge_response(provider, body, at=AT)
    assert charge.amount is None
    assert charge.cost_usd is None
    assert word in str(charge.reason)
    if body is bodies.CHAT:
        assert charge.usage is not None
        assert charge.usage.input_tokens == 1200


def test_another_model_than_asked_for_is_not_priced_as_the_one_asked_for() -> None:
    """A fallback answered: the price of a free model says nothing about it. A dated name of the same model does."""
    body = {"object": "chat.completion", "usage": {"prompt_tokens": 687, "completion_tokens": 240}}
    asked = "google/gemini-2.0-flash-exp:free"
    assert charge_response("openrouter", {**body, "model": "x-ai/unheard-of"}, model=asked, at=AT).amount is None
    assert charge_response("openai", {**body, "model": "o3-2099-01-01"}, model="o3", at=AT).amount


def test_a_fee_without_a_price_leaves_the_token_lines() -> None:
    """No amount where a search has no price, but the tokens are explained."""
    charge = charge_response("google", {**bodies.GEMINI, "modelVersion": "gemini-3-flash-preview"}, at=AT)
    assert charge.amount is None
    assert "2 web_searches" in str(charge.reason)
    assert {line.unit for line in charge.lines} >= {"input_tokens", "output_tokens"}


def test_time_decides_the_price() -> None:
    """ISO text, aware and naive datetimes; without a zone it is UTC, without a time it is now."""
    body = {"model": "o3", "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 0}}
    assert cost("openai", body, at="2025-06-09T23:59:59Z") == 10
    assert cost("openai", body, at="2025-06-10") == 2
    assert cost("openai", body, at=datetime(2025, 6, 10)) == 2
    ahead = timezone(timedelta(hours=2))
    assert cost("openai", body, at=datetime(2025, 6, 10, 1, tzinfo=ahead)) == 10
    assert charge_response("openai", body).amount is not None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"provider": 5, "body": {}}, TypeError),
        ({"provider": "openai", "body": 5}, TypeError),
        ({"provider": "openai", "body": None}, TypeError),
        ({"provider": "openai", "body": {}, "model": 5}, TypeError),
        ({"provider": "openai", "body": {}, "service_tier": 5}, TypeError),
        ({"provider": "openai", "body": {}, "at": 5}, TypeError),
        ({"provider": "openai", "body": {}, "at": "yesterday"}, ValueError),
    ],
)
def test_wrong_arguments_raise(arguments: dict[str, Any], error: type[Exception]) -> None:
    """An argument of another type is the caller's mistake, not the response's."""
    with pytest.raises(error):
        charge_response(**arguments)


@given(body=st.binary(max_size=120) | st.text(max_size=120))
def test_noise_never_raises(body: bytes | str) -> None:
    """Any bytes, any text: a charge with a reason."""
    for provider in ("openai", "anthropic", "google", "bedrock", "https://api.cohere.com/v2/chat", "nobody"):
        charge = charge_response(provider, body, at=AT)
        assert charge.amount is None
        assert charge.reason


@given(
    body=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
def test_values_never_raise(body: Any) -> None:
    """Any JSON value that is a body at all."""
    if isinstance(body, dict | list | str):
        assert isinstance(charge_response("openai", body, at=AT), Charge)


def test_importing_the_package_is_light() -> None:
    """``import bursar`` loads none of its parts; the public names come on first use."""
    code = (
        "import sys, bursar\n"
        "assert not [name for name in sys.modules if name.startswith(('bursar.', 'msgspec', 'decimal'))], sys.modules\n"
        "assert bursar.charge_response and bursar.Usage and bursar.Line and bursar.Charge\n"
        "assert not [name for name in sys.modules if name.startswith(('duckdb', 'granian', 'genai_prices', 'click'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert set(bursar.__all__) <= set(dir(bursar))
    with pytest.raises(AttributeError, match="nothing"):
        bursar.nothing  # noqa: B018
