"""How a budget changes a request: only what it must, only downwards, and never into one that is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.ladder import EFFORTS, UNCHANGED, Changes
from bursar.wire.dialect import BadRequest
from bursar.wire.providers import dialect_by_id, provider, providers
from bursar.wire.splice import members, splice

CAP = Changes(output_cap=500)
NOTE = "Half of the budget is spent."
USER: Any = [{"role": "user", "content": "hi"}]
CONTENTS: Any = [{"role": "user", "parts": [{"text": "hi"}]}]


def shape(
    dialect_id: str, body: dict[str, Any], changes: Changes, *, model: str | None = None, at: str = ""
) -> dict[str, Any]:
    """The body after shaping; shaping it again must change nothing, and its bytes must be valid JSON."""
    dialect = dialect_by_id(dialect_id)
    if at:
        found = provider(at)
        assert found is not None
        dialect = found.dialects[dialect_id]
    raw = json.dumps(body).encode()
    out = dialect.prepare(raw, model=model, ask_usage=False, changes=changes)
    assert dialect.prepare(out, model=model, ask_usage=False, changes=changes) is out
    shaped: dict[str, Any] = json.loads(out)
    if shaped == body:
        assert out is raw
    return shaped


# --- caps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "body", "expected"),
    [
        ("openai", {"model": "gpt-4o", "messages": USER}, {"max_completion_tokens": 500}),
        ("openai", {"model": "gpt-4o", "messages": USER, "max_tokens": 900}, {"max_tokens": 500}),
        ("openai", {"model": "gpt-4o", "messages": USER, "max_tokens": 90}, {"max_tokens": 90}),
        ("openai", {"model": "davinci", "prompt": "a"}, {"max_tokens": 500}),
        ("mistral", {"model": "mistral-large", "messages": USER}, {"max_tokens": 500}),
        ("mistral", {"model": "m", "messages": USER, "max_tokens": None}, {"max_tokens": 500}),
        ("openrouter", {"model": "openai/gpt-5", "messages": USER}, {"max_completion_tokens": 500}),
        (
            "openai",
            {"model": "m", "messages": USER, "max_tokens": 600, "max_completion_tokens": 700},
            {"max_tokens": 500, "max_completion_tokens": 500},
        ),
    ],
)
def test_the_cap_of_a_chat_goes_where_its_provider_reads_it(
    at: str, body: dict[str, Any], expected: dict[str, int]
) -> None:
    """A stated cap is lowered in place; without one the provider's own field is set."""
    shaped = shape("openai_chat", body, CAP, at=at)
    assert {key: shaped[key] for key in ("max_tokens", "max_completion_tokens") if key in shaped} == expected


@pytest.mark.parametrize(
    ("dialect_id", "body", "expected"),
    [
        ("openai_responses", {"model": "m", "input": "a"}, {"max_output_tokens": 500}),
        ("anthropic", {"model": "m", "max_tokens": 900, "messages": USER}, {"max_tokens": 500}),
        ("gemini", {"contents": CONTENTS}, {"generationConfig": {"maxOutputTokens": 500}}),
        (
            "gemini",
            {"contents": CONTENTS, "generation_config": {"max_output_tokens": 900, "top_k": 1}},
            {"generation_config": {"max_output_tokens": 500, "top_k": 1}},
        ),
        ("gemini", {"content": {"parts": [{"text": "embed"}]}}, {}),
        ("bedrock_converse", {"messages": []}, {"inferenceConfig": {"maxTokens": 500}}),
        ("bedrock_invoke", {"anthropic_version": "b", "max_tokens": 900, "messages": USER}, {"max_tokens": 500}),
        ("bedrock_invoke", {"prompt": "a", "max_gen_len": 900}, {"max_gen_len": 500}),
        ("bedrock_invoke", {"inferenceConfig": {"maxTokens": 900}}, {"inferenceConfig": {"maxTokens": 500}}),
        (
            "bedrock_invoke",
            {"inputText": "a", "textGenerationConfig": {"maxTokenCount": 900}},
            {"textGenerationConfig": {"maxTokenCount": 500}},
        ),
        ("bedrock_invoke", {"prompt": "a"}, {}),
        ("cohere", {"model": "m", "messages": USER}, {"max_tokens": 500}),
        ("cohere", {"model": "m", "query": "rerank"}, {}),
        ("openai_embeddings", {"model": "m", "input": "a"}, {}),
        ("openai_images", {"model": "m"}, {}),
        ("anthropic_count_tokens", {"model": "m", "messages": USER}, {}),
        ("generic", {"model": "m"}, {}),
    ],
)
def test_the_cap_of_each_dialect(dialect_id: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each has its own place; what writes nothing has none."""
    assert shape(dialect_id, body, CAP) == {**body, **expected}


def test_who_can_cap() -> None:
    """Only dialects that write text take a cap."""
    able = {each for each in provider("openai").dialects if dialect_by_id(each).can_cap}  # type: ignore[union-attr]
    assert able == {
        "openai_chat", "openai_responses", "anthropic", "gemini", "bedrock_converse", "bedrock_invoke", "cohere"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cap", "budget", "effort", "expected"),
    [
        (5000, 4000, "", {"type": "enabled", "budget_tokens": 4000}),
        (3000, 4000, "", {"type": "enabled", "budget_tokens": 1500}),
        (1500, 4000, "", {"type": "enabled", "budget_tokens": 1024}),
        (1024, 4000, "", {"type": "disabled"}),
        (None, 9000, "medium", {"type": "enabled", "budget_tokens": 8192}),
        (None, 9000, "none", {"type": "disabled"}),
        (None, 9000, "max", {"type": "enabled", "budget_tokens": 9000}),
    ],
)
def test_anthropics_thinking_stays_valid(cap: int | None, budget: int, effort: str, expected: dict[str, Any]) -> None:
    """The budget is at least 1,024 and less than the cap, or thinking is off."""
    thinking = {"type": "enabled", "budget_tokens": budget}
    body = {"model": "m", "max_tokens": 10_000, "thinking": thinking, "messages": USER}
    changes = Changes(output_cap=cap, effort=effort)
    assert shape("anthropic", body, changes)["thinking"] == expected
    converse = {"inferenceConfig": {"maxTokens": 10_000}, "additionalModelRequestFields": {"thinking": thinking}}
    assert shape("bedrock_converse", converse, changes)["additionalModelRequestFields"]["thinking"] == expected


def test_thoughts_that_are_to_be_cleared_stay_on() -> None:
    """Clearing thoughts is refused without thinking, so as little as possible is left."""
    body = {
        "model": "m",
        "max_tokens": 9000,
        "thinking": {"type": "enabled", "budget_tokens": 4000},
        "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    }
    assert shape("anthropic", body, Changes(effort="none"))["thinking"]["budget_tokens"] == 1024


def test_nova_takes_no_cap_beside_high_effort() -> None:
    """Where a cap is set, the effort goes down to medium."""
    body = {"additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}}
    shaped = shape("bedrock_converse", body, CAP)
    assert shaped["additionalModelRequestFields"]["reasoningConfig"]["maxReasoningEffort"] == "medium"


# --- effort -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stated", "limit", "expected"),
    [
        ("gpt-5", None, "low", "low"),
        ("gpt-5", None, "high", None),
        ("gpt-5", "high", "none", "minimal"),
        ("gpt-5.1", None, "low", None),
        ("gpt-5.1", "high", "minimal", "none"),
        ("gpt-5.2", "xhigh", "medium", "medium"),
        ("gpt-5-pro", None, "low", None),
        ("gpt-5-chat-latest", None, "low", None),
        ("gpt-5-codex", "high", "minimal", "low"),
        ("o3", None, "minimal", "low"),
        ("o4-mini", "low", "none", "low"),
        ("gpt-4o", None, "low", None),
        ("qwen", "high", "low", "low"),
        ("qwen", "default", "low", "default"),
        ("qwen", "low", "high", "low"),
    ],
)
def test_openai_efforts(model: str, stated: str | None, limit: str, expected: str | None) -> None:
    """Lowered to what the model takes; set only where its default would be more."""
    body: dict[str, Any] = {"model": model, "messages": USER}
    if stated:
        body["reasoning_effort"] = stated
    assert shape("openai_chat", body, Changes(effort=limit)).get("reasoning_effort") == expected
    responses: dict[str, Any] = {"model": model, "input": "a", "reasoning": {"summary": "auto"}}
    if stated:
        responses["reasoning"]["effort"] = stated
    shaped = shape("openai_responses", responses, Changes(effort=limit))
    assert shaped["reasoning"].get("effort") == expected
    assert shaped["reasoning"]["summary"] == "auto"


def test_openrouters_reasoning_is_lowered_in_place() -> None:
    """Its own object holds the effort; no second one is added."""
    body = {"model": "openai/gpt-5", "messages": USER, "reasoning": {"effort": "high", "exclude": True}}
    shaped = shape("openai_chat", body, Changes(effort="low"), at="openrouter")
    assert shaped == {**body, "reasoning": {"effort": "low", "exclude": True}}


@pytest.mark.parametrize(
    ("model", "stated", "limit", "expected"),
    [
        ("claude-opus-4-6", None, "low", "low"),
        ("claude-opus-4-6", "max", "none", "low"),
        ("claude-sonnet-4-6", None, "max", None),
        ("claude-haiku-4-5", None, "low", None),
        ("claude-opus-4-5", "high", "medium", "medium"),
    ],
)
def test_anthropic_efforts(model: str, stated: str | None, limit: str, expected: str | None) -> None:
    """``output_config.effort``, where it is stated or known to be taken."""
    body: dict[str, Any] = {"model": model, "max_tokens": 9, "messages": USER}
    if stated:
        body["output_config"] = {"effort": stated}
    shaped = shape("anthropic", body, Changes(effort=limit))
    assert shaped.get("output_config", {}).get("effort") == expected


@pytest.mark.parametrize(
    ("model", "stated", "limit", "expected"),
    [
        ("gemini-2.5-flash", {}, "low", {"thinkingBudget": 1024}),
        ("gemini-2.5-flash", {}, "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", {"thinkingBudget": -1}, "none", {"thinkingBudget": 128}),
        ("gemini-2.5-pro", {"thinkingBudget": 300}, "low", {"thinkingBudget": 300}),
        ("gemini-2.5-flash-lite", {}, "low", {}),
        ("gemini-2.5-flash-image", {}, "low", {}),
        ("gemini-3-pro-preview", {}, "medium", {"thinkingLevel": "low"}),
        ("gemini-3-flash-preview", {"thinkingLevel": "HIGH"}, "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-flash-preview", {"thinking_level": "high"}, "low", {"thinking_level": "low"}),
        (None, {"thinking_budget": 9000}, "none", {"thinking_budget": 512}),
        (None, {}, "low", {}),
        ("gemini-2.5-pro", {}, "max", {}),
    ],
)
def test_gemini_efforts(model: str | None, stated: dict[str, Any], limit: str, expected: dict[str, Any]) -> None:
    """A budget up to 2.5, a level from 3 on, within what the model takes, in the spelling that is there."""
    body: dict[str, Any] = {"contents": CONTENTS}
    if stated:
        body["generationConfig"] = {"thinkingConfig": stated}
    shaped = shape("gemini", body, Changes(effort=limit), model=model)
    assert shaped.get("generationConfig", {}).get("thinkingConfig", {}) == expected


def test_geminis_budget_fits_a_lower_cap() -> None:
    """Thoughts are part of the output, so they may use half of it."""
    config = {"maxOutputTokens": 9000, "thinkingConfig": {"thinkingBudget": 4000}}
    shaped = shape("gemini", {"contents": CONTENTS, "generationConfig": config}, Changes(output_cap=2000))
    assert shaped["generationConfig"] == {"maxOutputTokens": 2000, "thinkingConfig": {"thinkingBudget": 1000}}


def test_coheres_budget_is_lowered() -> None:
    """``thinking.token_budget`` is its own name for it."""
    body = {"model": "m", "messages": USER, "thinking": {"type": "enabled", "token_budget": 9000}}
    assert shape("cohere", body, Changes(effort="low"))["thinking"]["token_budget"] == 1024


# --- tiers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "dialect_id", "body", "tier", "expected"),
    [
        ("openai", "openai_chat", {"model": "gpt-5", "messages": USER}, "flex", {"service_tier": "flex"}),
        ("openai", "openai_chat", {"model": "gpt-4o", "messages": USER}, "flex", {}),
        (
            "openai",
            "openai_responses",
            {"model": "o3", "service_tier": "priority"},
            "default",
            {"service_tier": "default"},
        ),
        ("mistral", "openai_chat", {"model": "m", "messages": USER}, "flex", {}),
        ("groq", "openai_chat", {"model": "m", "messages": USER}, "on_demand", {"service_tier": "on_demand"}),
        ("aws", "bedrock_converse", {"messages": []}, "flex", {"serviceTier": {"type": "flex"}}),
        ("anthropic", "anthropic", {"model": "m", "messages": USER}, "flex", {}),
        (
            "anthropic",
            "anthropic",
            {"model": "m", "messages": USER},
            "standard_only",
            {"service_tier": "standard_only"},
        ),
        ("google", "gemini", {"contents": CONTENTS}, "flex", {}),
        ("google", "gemini", {"contents": CONTENTS, "serviceTier": "priority"}, "flex", {"serviceTier": "flex"}),
        ("cohere", "cohere", {"model": "m", "messages": USER}, "flex", {}),
    ],
)
def test_a_tier_is_set_where_there_is_one(
    at: str, dialect_id: str, body: dict[str, Any], tier: str, expected: dict[str, Any]
) -> None:
    """Where the provider or the model has no such tier, nothing changes."""
    assert shape(dialect_id, body, Changes(tier=tier), at=at) == {**body, **expected}


# --- notes ------------------------------------------------------------------------------------------------------

ASKED: Any = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
RESULT: Any = {"role": "tool", "tool_call_id": "c", "content": "5"}
SAID: Any = {"role": "system", "content": NOTE}
MARKED: Any = {"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral"}}
ITEM: Any = {"type": "text", "text": NOTE}


@pytest.mark.parametrize(
    ("at", "messages", "expected"),
    [
        ("openai", USER, [*USER, SAID]),
        ("openai", [*USER, ASKED, RESULT], [*USER, ASKED, RESULT, SAID]),
        ("openai", [*USER, ASKED], [*USER, ASKED]),
        (
            "openai",
            [*USER, {"role": "assistant", "content": "It is"}],
            [*USER, SAID, {"role": "assistant", "content": "It is"}],
        ),
        ("mistral", USER, [{"role": "user", "content": f"hi\n\n{NOTE}"}]),
        (
            "mistral",
            [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "hi"}, ITEM]}],
        ),
        ("mistral", [*USER, ASKED, RESULT], [*USER, ASKED, {**RESULT, "content": f"5\n\n{NOTE}"}]),
        ("mistral", [{"role": "assistant", "content": "It"}], [{"role": "assistant", "content": "It"}]),
        ("openai", [], []),
    ],
)
def test_a_note_in_a_chat(at: str, messages: list[Any], expected: list[Any]) -> None:
    """It comes last, in the way the provider takes it, never between a call and its result."""
    body = {"model": "m", "messages": messages}
    assert shape("openai_chat", body, Changes(note=NOTE), at=at)["messages"] == expected


@pytest.mark.parametrize(
    ("dialect_id", "body", "field", "expected"),
    [
        (
            "anthropic",
            {"model": "m", "messages": USER},
            "messages",
            [{"role": "user", "content": [{"type": "text", "text": "hi"}, ITEM]}],
        ),
        (
            "anthropic",
            {"messages": [{"role": "user", "content": [MARKED]}]},
            "messages",
            [{"role": "user", "content": [MARKED, ITEM]}],
        ),
        ("openai_responses", {"model": "m", "input": "hi"}, "input", [*USER, SAID]),
        ("openai_responses", {"model": "m", "input": [RESULT]}, "input", [RESULT, SAID]),
        ("openai_responses", {"prompt": {}, "instructions": "a"}, "instructions", f"a\n\n{NOTE}"),
        ("gemini", {"contents": CONTENTS}, "contents", [*CONTENTS, {"role": "user", "parts": [{"text": NOTE}]}]),
        (
            "bedrock_converse",
            {"messages": [{"role": "user", "content": [{"text": "a"}, {"cachePoint": {"type": "default"}}]}]},
            "messages",
            [{"role": "user", "content": [{"text": "a"}, {"cachePoint": {"type": "default"}}, {"text": NOTE}]}],
        ),
        (
            "bedrock_invoke",
            {"anthropic_version": "b", "messages": USER},
            "messages",
            [{"role": "user", "content": [{"type": "text", "text": "hi"}, ITEM]}],
        ),
        ("cohere", {"model": "m", "messages": USER}, "messages", [{"role": "user", "content": f"hi\n\n{NOTE}"}]),
    ],
)
def test_a_note_in_each_dialect(dialect_id: str, body: dict[str, Any], field: str, expected: Any) -> None:
    """At the end of the conversation, behind every cache mark: what a prompt cache holds is read as before."""
    assert shape(dialect_id, body, Changes(note=NOTE)) == {**body, field: expected}


def test_a_note_needs_a_user_to_speak_after() -> None:
    """Where the last message is the model's own beginning of an answer there is no place for it."""
    messages = [*USER, {"role": "assistant", "content": "I"}]
    for dialect_id in ("anthropic", "bedrock_converse"):
        body = {"model": "m", "messages": messages}
        assert shape(dialect_id, body, Changes(note=NOTE)) == body


# --- tools ------------------------------------------------------------------------------------------------------

KEEP = Changes(tools=(("read_*", "get"),))


def chat_tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("dialect_id", "body", "expected"),
    [
        (
            "openai_chat",
            {"tools": [chat_tool("read_file"), chat_tool("write")], "tool_choice": chat_tool("write")},
            {"tools": [chat_tool("read_file")]},
        ),
        (
            "openai_chat",
            {"tools": [chat_tool("get"), chat_tool("write")], "tool_choice": chat_tool("get")},
            {"tools": [chat_tool("get")], "tool_choice": chat_tool("get")},
        ),
        (
            "openai_chat",
            {"tools": [chat_tool("write")], "tool_choice": "required", "parallel_tool_calls": False},
            {},
        ),
        ("openai_chat", {"functions": [{"name": "write"}], "function_call": {"name": "write"}}, {}),
        (
            "openai_responses",
            {
                "tools": [
                    {"type": "function", "name": "get"},
                    {"type": "web_search"},
                    {"type": "mcp", "server_label": "x"},
                ]
            },
            {"tools": [{"type": "function", "name": "get"}]},
        ),
        (
            "openai_responses",
            {
                "tools": [{"type": "function", "name": "get"}, {"type": "web_search"}],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
            },
            {"tools": [{"type": "function", "name": "get"}]},
        ),
        (
            "anthropic",
            {"tools": [{"name": "get"}, {"name": "write"}], "tool_choice": {"type": "tool", "name": "write"}},
            {"tools": [{"name": "get"}]},
        ),
        ("anthropic", {"tools": [{"name": "write"}], "tool_choice": {"type": "any"}}, {}),
        (
            "anthropic",
            {
                "tools": [{"name": "write"}],
                "messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "write"}]}],
            },
            {
                "tools": [{"name": "write"}],
                "messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "write"}]}],
                "tool_choice": {"type": "none"},
            },
        ),
        (
            "anthropic",
            {"tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}], "mcp_servers": [{"name": "x"}]},
            {},
        ),
        (
            "gemini",
            {
                "contents": CONTENTS,
                "tools": [{"functionDeclarations": [{"name": "get"}, {"name": "write"}]}, {"googleSearch": {}}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["write"]}},
            },
            {"contents": CONTENTS, "tools": [{"functionDeclarations": [{"name": "get"}]}]},
        ),
        ("gemini", {"contents": CONTENTS, "tools": [{"googleSearch": {}}], "toolConfig": {}}, {"contents": CONTENTS}),
        (
            "bedrock_converse",
            {
                "toolConfig": {
                    "tools": [{"toolSpec": {"name": "get"}}, {"toolSpec": {"name": "w"}}],
                    "toolChoice": {"tool": {"name": "w"}},
                }
            },
            {"toolConfig": {"tools": [{"toolSpec": {"name": "get"}}]}},
        ),
        ("bedrock_converse", {"toolConfig": {"tools": [{"toolSpec": {"name": "w"}}]}}, {}),
        ("cohere", {"messages": USER, "tools": [chat_tool("w")], "tool_choice": "REQUIRED"}, {"messages": USER}),
    ],
)
def test_tools_that_may_not_stay_go(dialect_id: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    """And with them every choice that needs them."""
    named: dict[str, Any] = {} if dialect_id in ("gemini", "bedrock_converse") else {"model": "m"}
    assert shape(dialect_id, {**named, **body}, KEEP) == {**named, **expected}


def test_converse_keeps_a_tool_where_tools_were_used() -> None:
    """A history of tool calls is refused without a definition: one that does nothing stands in."""
    body = {
        "messages": [{"role": "assistant", "content": [{"toolUse": {"name": "w"}}]}],
        "toolConfig": {"tools": [{"toolSpec": {"name": "w"}}], "toolChoice": {"any": {}}},
    }
    config = shape("bedrock_converse", body, KEEP)["toolConfig"]
    assert [each["toolSpec"]["name"] for each in config["tools"]] == ["no_tool"]
    assert "toolChoice" not in config


# --- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect_id", "path", "model", "expected"),
    [
        (
            "gemini",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            "gemini-2.5-flash",
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ),
        ("gemini", "/v1/projects/p/endpoints/7:generateContent", "m", "/v1/projects/p/endpoints/7:generateContent"),
        ("gemini", "/v1/p/endpoints/7:generateContent", "endpoints/8", "/v1/p/endpoints/8:generateContent"),
        ("bedrock_converse", "/model/a.b-v1%3A0/converse", "us.c-v2:0", "/model/us.c-v2%3A0/converse"),
        ("bedrock_invoke", "/model/a/invoke", "b", "/model/b/invoke"),
        (
            "anthropic",
            "/v1/publishers/anthropic/models/claude-opus-4-1@20250805:rawPredict",
            "claude-haiku-4-5-20251001",
            "/v1/publishers/anthropic/models/claude-haiku-4-5@20251001:rawPredict",
        ),
        ("anthropic", "/v1/messages", "m", "/v1/messages"),
        ("openai_chat", "/openai/deployments/a/chat/completions", "b", "/openai/deployments/b/chat/completions"),
        ("openai_chat", "/v1/chat/completions", "b", "/v1/chat/completions"),
        ("openai_responses", "/v1/responses", "b", "/v1/responses"),
        ("openai_embeddings", "/v1/embeddings", "b", "/v1/embeddings"),
        ("openai_audio", "/v1/audio/speech", "b", "/v1/audio/speech"),
        ("cohere", "/v2/chat", "b", "/v2/chat"),
        ("generic", "/v1beta/models/a:predict", "b", "/v1beta/models/b:predict"),
        ("generic", "/v1/other", "b", "/v1/other"),
    ],
)
def test_a_path_for_another_model(dialect_id: str, path: str, model: str, expected: str) -> None:
    """Where the path names the model it is replaced there, as that API writes it, and is read back as asked for."""
    dialect = dialect_by_id(dialect_id)
    assert dialect.with_model(path, model) == expected
    if expected != path:
        assert dialect.path_model(expected) == model


# --- what holds for every request ------------------------------------------------------------------------------

BODIES: dict[str, dict[str, Any]] = {
    "openai_chat": {"model": "gpt-5", "messages": USER, "tools": [chat_tool("get"), chat_tool("w")], "reasoning_effort": "high"},
    "openai_responses": {"model": "gpt-5", "input": "hi", "tools": [{"type": "web_search"}], "reasoning": {"effort": "high"}},
    "anthropic": {
        "model": "claude-opus-4-6", "max_tokens": 9000, "messages": USER, "system": [MARKED],
        "tools": [{"name": "get"}, {"name": "w"}], "thinking": {"type": "enabled", "budget_tokens": 5000},
    },
    "gemini": {
        "contents": CONTENTS, "tools": [{"functionDeclarations": [{"name": "w"}]}],
        "generationConfig": {"maxOutputTokens": 9000, "thinkingConfig": {"thinkingBudget": 5000}},
    },
    "bedrock_converse": {
        "messages": [], "inferenceConfig": {"maxTokens": 9000}, "toolConfig": {"tools": [{"toolSpec": {"name": "w"}}]},
    },
    "bedrock_invoke": {"anthropic_version": "b", "max_tokens": 9000, "messages": USER},
    "cohere": {"model": "m", "messages": USER, "max_tokens": 9000},
}  # fmt: skip
PATHS = {"gemini": "/v1beta/models/m:generateContent"}
CHANGES = st.builds(
    Changes,
    output_cap=st.none() | st.integers(1, 20_000),
    effort=st.sampled_from(["", *EFFORTS]),
    tier=st.sampled_from(["", "flex", "default", "priority", "standard_only"]),
    note=st.sampled_from(["", NOTE]),
    tools=st.none() | st.sampled_from([((),), (("get",),), (("*",),), (("g*",), ("*t",))]),
)
TOUCHED = {
    "max_tokens", "max_completion_tokens", "max_output_tokens", "reasoning_effort", "reasoning", "service_tier",
    "messages", "input", "contents", "tools", "tool_choice", "thinking", "output_config", "system", "generationConfig",
    "systemInstruction", "inferenceConfig", "serviceTier", "toolConfig",
}  # fmt: skip


@pytest.mark.parametrize("dialect_id", BODIES)
@given(
    changes=CHANGES,
    extra=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
    separators=st.sampled_from([(",", ":"), (" , ", " : ")]),
)
def test_only_what_is_named_changes_and_the_cap_never_rises(
    dialect_id: str, changes: Changes, extra: dict[str, Any], separators: tuple[str, str]
) -> None:
    """Valid JSON, every other byte as it was, twice is once, and no more output than before or than the cap."""
    dialect = dialect_by_id(dialect_id)
    body = json.dumps({**extra, **BODIES[dialect_id]}, separators=separators).encode()
    out = dialect.prepare(body, model=None, ask_usage=False, changes=changes)
    assert dialect.prepare(out, model=None, ask_usage=False, changes=changes) is out
    before, after = members(body), members(out)
    for key in before.keys() - TOUCHED:
        assert bytes(after[key]) == bytes(before[key])
    assert set(after) - set(before) <= TOUCHED
    path = PATHS.get(dialect_id, "/model/m/converse")
    old, new = dialect.read_request(path, body), dialect.read_request(path, out)
    if changes.output_cap is not None:
        assert new.output_cap is not None
        assert new.output_cap <= changes.output_cap
    assert old.output_cap is None or (new.output_cap is not None and new.output_cap <= old.output_cap)
    thinking = json.loads(out).get("thinking", {})
    if dialect_id == "anthropic" and thinking.get("type") == "enabled":
        assert 1024 <= thinking["budget_tokens"] < json.loads(out)["max_tokens"]


@pytest.mark.parametrize("dialect_id", BODIES)
def test_without_changes_the_body_is_the_same_object(dialect_id: str) -> None:
    """Also where only a model is named, which is not for ``prepare`` to read."""
    body = json.dumps(BODIES[dialect_id]).encode()
    dialect = dialect_by_id(dialect_id)
    for changes in (UNCHANGED, replace(UNCHANGED, model="other")):
        assert dialect.prepare(body, model=None, ask_usage=True, changes=changes) is body


def test_changes_and_the_model_go_together() -> None:
    """One body has the other model, the question for usage and the cap."""
    body = b'{"model": "gpt-4o", "stream": true, "messages": []}'
    out = dialect_by_id("openai_chat").prepare(
        body, model="gpt-5", ask_usage=True, changes=Changes(output_cap=9, effort="low")
    )
    assert json.loads(out) == {
        "model": "gpt-5", "stream": True, "messages": [], "max_completion_tokens": 9, "reasoning_effort": "low",
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    for dialect_id in ("openai_responses", "anthropic", "cohere"):
        shaped = json.loads(dialect_by_id(dialect_id).prepare(body, model="x", ask_usage=False, changes=CAP))
        assert shaped["model"] == "x"
        assert len(shaped) == 4


@pytest.mark.parametrize("dialect_id", BODIES)
@given(data=st.binary(max_size=60))
def test_a_body_that_cannot_be_shaped_is_a_bad_request(dialect_id: str, data: bytes) -> None:
    """Bytes that are no request raise nothing but BadRequest."""
    with pytest.raises(BadRequest):
        dialect_by_id(dialect_id).prepare(b"\x00" + data, model=None, ask_usage=False, changes=CAP)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(TOUCHED)), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("dialect_id", BODIES)
@given(odd=st.dictionaries(st.sampled_from(sorted(TOUCHED)), ODD, max_size=4), changes=CHANGES)
def test_odd_requests_are_shaped_or_refused(dialect_id: str, odd: dict[str, Any], changes: Changes) -> None:
    """Shapes that nobody expects stay JSON, or are a bad request; nothing else is raised."""
    body = json.dumps({**BODIES[dialect_id], **odd}).encode()
    try:
        out = dialect_by_id(dialect_id).prepare(body, model=None, ask_usage=False, changes=changes)
    except BadRequest:
        return
    assert isinstance(json.loads(out), dict)


@given(
    fields=st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), min_size=1, max_size=5),
    data=st.data(),
    separators=st.sampled_from([(",", ":"), (" , ", " : "), (",\n ", ":")]),
)
def test_members_are_taken_out_exactly(fields: dict[str, Any], data: st.DataObject, separators: Any) -> None:
    """What stays keeps its bytes, wherever the member stood, and new ones can come at the same time."""
    body = json.dumps(fields, separators=separators).encode()
    gone = data.draw(st.sets(st.sampled_from(sorted(fields))))
    out = splice(body, {**dict.fromkeys(gone), "new key": b"1"})
    assert json.loads(out) == {**{key: value for key, value in fields.items() if key not in gone}, "new key": 1}
    assert all(bytes(members(out)[key]) == bytes(members(body)[key]) for key in fields if key not in gone)
    assert json.loads(splice(body, dict.fromkeys(fields))) == {}


def test_every_provider_says_what_its_requests_take() -> None:
    """The rows reach the dialects."""
    rows = {each.id: each.dialects["openai_chat"] for each in providers()}
    assert rows["mistral"].takes.note == "last"  # type: ignore[attr-defined]
    assert rows["openai"].takes.output_cap == "max_completion_tokens"  # type: ignore[attr-defined]
