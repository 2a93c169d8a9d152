"""Anthropic messages as a conversation and back: nothing is lost, nothing is dropped in silence, its SDK accepts it all."""

from __future__ import annotations

import gzip
import json
import os
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import anthropic
import conversations as said
import httpx2
import pytest
from anthropic.types import Message as SdkMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.usage import Usage
from bursar.wire.dialect import BadRequest
from bursar.wire.translate.anthropic import SPEAKER
from bursar.wire.translate.anthropic_marks import plain_id, without_foreign_thinking
from bursar.wire.translate.anthropic_models import takes
from bursar.wire.translate.anthropic_read import ANTHROPIC_ALONE, LEFT_OUT
from bursar.wire.translate.anthropic_schema import check_schema
from bursar.wire.translate.anthropic_write import OUTPUT_DEFAULT
from bursar.wire.translate.conversation import (
    Answered,
    Asked,
    Audio,
    Began,
    Counted,
    Document,
    Event,
    Failed,
    Finished,
    Format,
    Image,
    Message,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolBegan,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolUse,
    Untranslatable,
)

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data") / "wire"
HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-8"
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
USE: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Rain."}
PNG = b64encode(b"\x89PNG").decode()


def request(*messages: Any, **more: Any) -> dict[str, Any]:
    """A request with these messages, or one plain one."""
    return {
        "model": HAIKU, "max_tokens": 4_000, "messages": list(messages) or [{"role": "user", "content": "Hello."}], **more,
    }  # fmt: skip


def read(body: dict[str, Any], path: str = "/v1/messages") -> Asked:
    return SPEAKER.read_request(path, "", json.dumps(body).encode())


def written(asked: Asked, model: str = HAIKU) -> dict[str, Any]:
    sent = SPEAKER.write_request(asked, model)
    assert (sent.path, sent.query, sent.headers) == ("/v1/messages", "", (("anthropic-version", "2023-06-01"),))
    return json.loads(sent.body)


def again(asked: Asked, model: str = "") -> Asked:
    sent = SPEAKER.write_request(asked, model or asked.model)
    return SPEAKER.read_request(sent.path, sent.query, sent.body)


def ask(**more: Any) -> Asked:
    """A plain request."""
    return Asked(model=HAIKU, messages=(Message("user", (Text("Hello."),)),), **more)


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def refused(body: dict[str, Any]) -> Untranslatable:
    with pytest.raises(Untranslatable) as caught:
        read(body)
    return caught.value


def unwritten(asked: Asked, model: str = HAIKU) -> Untranslatable:
    with pytest.raises(Untranslatable) as caught:
        SPEAKER.write_request(asked, model)
    return caught.value


# --- requests, read -----------------------------------------------------------------------------------------------

THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
CACHED = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}

FEATURES: dict[str, dict[str, Any]] = {
    "plain": request(),
    "system as a text": request(system="Be brief."),
    "system in blocks": request(
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", **HOUR}]
    ),
    "sampling": request(temperature=0.5, top_k=5, stop_sequences=["END", "STOP"], stream=True),
    "top_p": request(top_p=0.9),
    "tools": request(tools=[TOOL, {"name": "now", "input_schema": {"type": "object"}, **CACHED}]),
    "strict tool": request(
        tools=[{**TOOL, "type": "custom", "strict": True, "input_schema": {**TOOL["input_schema"], "additionalProperties": False}}]
    ),
    "a tool must be used": request(tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True}),
    "this tool must be used": request(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"}),
    "tools may be used, one by one": request(
        tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}
    ),
    "no tool may be used": request(tools=[TOOL], tool_choice={"type": "none"}),
    "tool loop": request(
        user({"type": "text", "text": "Weather?"}),
        assistant({"type": "text", "text": "I look."}, USE, {**USE, "id": "toolu_2"}),
        user(
            {**RESULT, "is_error": True},
            {**RESULT, "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "Sun."}, {
                "type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}], **CACHED},
            {"type": "text", "text": "Well?"},
        ),
        tools=[TOOL],
    ),
    "a result of nothing": request(user({"type": "text", "text": "Go."}), assistant(USE), user({"type": "tool_result", "tool_use_id": "toolu_1"}), tools=[TOOL]),
    "images": request(
        user(
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}, **CACHED},
            {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        )
    ),
    "documents": request(
        user(
            {"type": "document", "title": "Plan", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
            {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}, **HOUR},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        )
    ),
    "thinking in a tool loop": request(
        user({"type": "text", "text": "Weather?"}),
        assistant(THOUGHT, {"type": "redacted_thinking", "data": "xyz"}, USE),
        user(RESULT),
        tools=[TOOL],
        thinking={"type": "enabled", "budget_tokens": 2_000},
    ),
    "thinking whose text is left out": request(
        user({"type": "text", "text": "Hi"}), assistant({**THOUGHT, "thinking": ""}, {"type": "text", "text": "Ho"}),
        user({"type": "text", "text": "Hm"}), thinking={"type": "enabled", "budget_tokens": 1_024, "display": "omitted"},
    ),
    "no thinking": request(thinking={"type": "disabled"}),
    "adaptive thinking": request(model=OPUS, thinking={"type": "adaptive", "display": "summarized"}),
    "effort": request(model=OPUS, output_config={"effort": "xhigh"}, thinking={"type": "adaptive"}),
    "effort of a model with budgets": request(model="claude-opus-4-5", max_tokens=64_000, output_config={"effort": "medium"}),
    "a budget where both are taken": request(model="claude-sonnet-4-6", thinking={"type": "enabled", "budget_tokens": 3_000}),
    "nothing before the tools": request(model="claude-sonnet-5-5", thinking={"type": "between_tools"}),
    "structured output": request(
        output_config={"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}}
    ),
    "instructions on the way": request(
        user({"type": "text", "text": "Hi"}), {"role": "system", "content": "Be brief."}, model=OPUS,
    ),
    "the assistant begins": request(
        assistant({"type": "text", "text": "Hello?"}), user({"type": "text", "text": "Hi", **CACHED}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("feature", FEATURES)
def test_what_is_read_is_written_and_read_again(feature: str) -> None:
    """Whatever Anthropic's dialect says survives a way through the conversation."""
    asked = read(FEATURES[feature])
    assert again(asked) == asked


def test_a_tool_loop_as_a_conversation() -> None:
    """Results get the name of their tool, arguments stay the text they were, marks of the cache stay where they were."""
    asked = read(FEATURES["tool loop"])
    assert asked.messages[1:] == (
        Message(
            "assistant",
            (Text("I look."), ToolUse("toolu_1", "weather", '{"city": "Oslo"}'), ToolUse("toolu_2", "weather", '{"city": "Oslo"}')),
        ),
        Message(
            "user",
            (
                ToolResult("toolu_1", "weather", (Text("Rain."),), is_error=True),
                ToolResult("toolu_2", "weather", (Text("Sun."), Image("image/png", PNG)), cache="5m"),
                Text("Well?"),
            ),
        ),
    )  # fmt: skip


def test_turns_of_the_same_role_are_one() -> None:
    """Anthropic reads messages of one role that follow each other as one turn, and so does this."""
    asked = read(request(user({"type": "text", "text": "a"}), {"role": "user", "content": "b"}))
    assert asked.messages == (Message("user", (Text("a"), Text("b"))),)


def test_a_mark_of_the_whole_request_stands_at_its_end() -> None:
    """``cache_control`` beside the messages marks the last block that can be marked, unless it is marked already."""
    assert read(request(cache_control={"type": "ephemeral"})).messages[-1].parts == (Text("Hello.", "5m"),)
    marked = read(request(user({"type": "text", "text": "a", **HOUR}), cache_control={"type": "ephemeral"}))
    assert marked.messages[-1].parts == (Text("a", "1h"),)


def test_what_changes_nothing_elsewhere_is_left_out() -> None:
    """Metadata, tiers, diagnostics, defaults and thoughts to be cleared are no reason to refuse."""
    known = {
        "metadata": {"user_id": "u1"}, "service_tier": "standard_only", "diagnostics": {"previous_message_id": None},
        "anthropic_version": "vertex-2023-10-16", "anthropic_beta": ["a"],
    }  # fmt: skip
    assert known.keys() == LEFT_OUT
    more = {
        **known, "container": None, "mcp_servers": [], "speed": "standard", "inference_geo": "global", "fallbacks": None,
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "tools": [{**TOOL, "defer_loading": False, "allowed_callers": ["direct"], "eager_input_streaming": True}],
    }  # fmt: skip
    assert read(request(**more)) == read(request(tools=[TOOL]))


def test_the_model_in_the_path() -> None:
    """Vertex AI names the model and the streaming in the path."""
    body = request()
    del body["model"]
    asked = read(
        body, "/v1/projects/p/locations/l/publishers/anthropic/models/claude-haiku-4-5@20251001:streamRawPredict"
    )
    assert (asked.model, asked.stream) == ("claude-haiku-4-5-20251001", True)


def test_an_effort_beside_a_budget_counts() -> None:
    """Opus 4.5 takes both: the budget only bounds what the effort asks for."""
    asked = read(request(thinking={"type": "enabled", "budget_tokens": 2_000}, output_config={"effort": "low"}))
    assert (asked.effort, asked.thinking_tokens) == ("low", None)


ONLY_ANTHROPIC: list[tuple[str, dict[str, Any]]] = [
    *((field, request(**{field: "something"})) for field in ANTHROPIC_ALONE),
    ("max_tokens", request(max_tokens=0)),
    ("new_field", request(new_field=1)),
    ("context_management.edits[0]", request(context_management={"edits": [{"type": "clear_tool_uses_20250919"}]})),
    ("output_config.task_budget", request(output_config={"task_budget": {"total": 5}})),
    ("output_config.effort", request(output_config={"effort": "low"}, thinking={"type": "disabled"})),
    ("output_config.speech", request(output_config={"speech": 1})),
    ("thinking.type", request(thinking={"type": "sometimes"})),
    ("thinking.block_binding", request(thinking={"type": "adaptive", "block_binding": "x"})),
    ("tools[0].type", request(tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 2}])),
    ("tools[0].type", request(tools=[{"type": "bash_20250124", "name": "bash"}])),
    ("tools[1].type", request(tools=[TOOL, {"type": "computer_20251124", "name": "computer"}])),
    ("tools[0].type", request(tools=[{"type": "mcp_toolset", "mcp_server_name": "a"}])),
    ("tools[0].defer_loading", request(tools=[{**TOOL, "defer_loading": True}])),
    ("tools[0].allowed_callers", request(tools=[{**TOOL, "allowed_callers": ["code_execution_20260120"]}])),
    ("tools[0].input_examples", request(tools=[{**TOOL, "input_examples": [{"city": "Oslo"}]}])),
    ("tools[0].price", request(tools=[{**TOOL, "price": 5}])),
    ("tool_choice.mood", request(tools=[TOOL], tool_choice={"type": "auto", "mood": "bad"})),
    ("messages[1]", request({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer is ("})),
    ("messages[0].clear_at", request({"role": "system", "content": "Hi", "clear_at": "never"})),
    ("messages[0].content[0].type", request(user({"type": "search_result", "source": "a", "title": "b", "content": []}))),
    ("messages[0].content[0].type", request(user({"type": "container_upload", "file_id": "f"}))),
    ("messages[0].content[0].mood", request(user({"type": "text", "text": "a", "mood": "bad"}))),
    ("messages[0].content[0].source.type", request(user({"type": "image", "source": {"type": "file", "file_id": "f"}}))),
    ("messages[0].content[0].source.type", request(user({"type": "document", "source": {"type": "content", "content": "a"}}))),
    ("messages[0].content[0].transformations", request(user({"type": "image", "source": {"type": "url", "url": "https://a"}, "transformations": {"oversized_image": "error"}}))),
    ("messages[0].content[0].citations", request(user({"type": "document", "citations": {"enabled": True}, "source": {"type": "url", "url": "https://a"}}))),
    ("messages[0].content[0].context", request(user({"type": "document", "context": "old", "source": {"type": "url", "url": "https://a"}}))),
    ("messages[0].content[0].citations", request(assistant({"type": "text", "text": "a", "citations": [{"type": "char_location"}]}), user())),
    ("messages[0].content[0].type", request(assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}), user())),
    ("messages[0].content[0]", request(assistant({**USE, "caller": {"type": "code_execution_20260120"}}), user())),
    ("messages[0].content[0]", request(user({**RESULT, "toolset_name": "browser"}))),
    ("messages[0].content[0].content[0].type", request(user({**RESULT, "content": [{"type": "tool_reference", "tool_name": "a"}]}))),
]  # fmt: skip


@pytest.mark.parametrize(("field", "body"), ONLY_ANTHROPIC)
def test_what_only_anthropic_can_do_is_refused_by_name(field: str, body: dict[str, Any]) -> None:
    """The path of the field and a reason, before anything is spent."""
    error = refused(body)
    assert error.field == field
    assert error.message


MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("max_tokens", request(max_tokens="many")),
    ("max_tokens", request(max_tokens=-1)),
    ("messages", {**request(), "messages": []}),
    ("messages[0].role", request({"role": "tool", "content": "a"})),
    ("messages[0].content", request({"role": "user", "content": 5})),
    ("messages[0].content[0].input", request(assistant({**USE, "input": "text"}), user())),
    ("tools[0]", request(tools=[{"input_schema": {}}])),
    ("tool_choice.type", request(tool_choice={"type": "most"})),
    ("tool_choice.name", request(tool_choice={"type": "tool"})),
    ("thinking.budget_tokens", request(thinking={"type": "enabled"})),
    ("output_config.effort", request(output_config={"effort": "huge"})),
    ("context_management.edits", request(context_management={"edits": "all"})),
    ("model", {**request(), "model": ""}),
]


@pytest.mark.parametrize(("field", "body"), MALFORMED)
def test_what_cannot_be_read_is_a_bad_request(field: str, body: dict[str, Any]) -> None:
    """A malformed body is the client's mistake, with the field."""
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"messages": []}', b"[" * 5_000])
def test_what_is_no_request_is_a_bad_request(body: bytes) -> None:
    """Bytes that are no messages request at all."""
    with pytest.raises(BadRequest):
        SPEAKER.read_request("/v1/messages", "", body)


# --- requests, written --------------------------------------------------------------------------------------------


def as_read(asked: Asked, model: str) -> Asked:
    """What Anthropic can hold of a request that all dialects can say: usage always comes with a stream, a format is always
    strict and closed."""
    schema = asked.format.schema if asked.format is not None else None
    form = Format(schema=check_schema(schema, ""), strict=True) if schema is not None else None
    top_p = None if asked.top_p == 1 and takes(model).sampling == "default" else asked.top_p
    return replace(asked, model=model, asks_usage=asked.stream, format=form, top_p=top_p)


@given(said.asked(formats=True))
def test_what_all_dialects_can_say_is_written_and_read(asked: Asked) -> None:
    """Every request of the shared strategy comes back as it was."""
    assert joined(again(asked, "claude-sonnet-4-5")) == joined(
        without_choices_about_nothing(as_read(asked, "claude-sonnet-4-5"))
    )


@settings(max_examples=50)
@given(said.asked(efforts=["low", "medium", "high"]), st.sampled_from([OPUS, "claude-opus-5-5", "claude-sonnet-4-6"]))
def test_efforts_are_written_and_read(asked: Asked, model: str) -> None:
    """An effort stays one where models take it."""
    assert joined(again(asked, model)) == joined(without_choices_about_nothing(as_read(asked, model)))


def without_choices_about_nothing(asked: Asked) -> Asked:
    """Without tools there is nothing to choose, unless earlier messages used some: those must be defined again."""
    used = sorted({part.name for message in asked.messages for part in message.parts if isinstance(part, ToolUse)})
    if asked.tools or not used:
        return asked
    return replace(asked, tools=tuple(Tool(name) for name in used), tool_choice=ToolChoice("none"))


def joined(asked: Asked) -> Asked:
    """The same with what tools answered first in its turn, as Anthropic wants it."""
    messages = tuple(
        replace(message, parts=tuple(sorted(message.parts, key=lambda part: not isinstance(part, ToolResult))))
        for message in asked.messages
    )
    return replace(asked, messages=messages)


def test_results_come_first_and_turns_alternate() -> None:
    """Results of tools from several messages and a text before them become one turn in the order that Anthropic takes."""
    asked = replace(
        ask(tools=(Tool("weather"),)),
        messages=(
            Message("user", (Text("Hi"),)),
            Message("assistant", (ToolUse("a", "weather", "{}"),)),
            Message("assistant", (ToolUse("b", "weather", ""),)),
            Message("user", (Text("And?"), ToolResult("a", "weather", (Text("Rain."),)))),
            Message("user", (ToolResult("b", "weather", ()), Text(" "))),
        ),
    )
    assert written(asked)["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "weather", "input": {}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "Rain."},
                {"type": "tool_result", "tool_use_id": "b"},
                {"type": "text", "text": "And?"},
            ],
        },
    ]


def test_ids_that_anthropic_does_not_take_get_another() -> None:
    """An id with other signs has a stand-in, the same for the use and its result."""
    asked = replace(
        ask(tools=(Tool("f"),)),
        messages=(
            Message("user", (Text("Hi"),)),
            Message("assistant", (ToolUse("functions.f:0", "f", "{}"),)),
            Message("user", (ToolResult("functions.f:0", "f", (Text("1"),)),)),
        ),
    )
    messages = written(asked)["messages"]
    stands = messages[1]["content"][0]["id"]
    assert stands == messages[2]["content"][0]["tool_use_id"] == plain_id("functions.f:0")
    assert stands.startswith("toolu_")
    assert plain_id("toolu_1") == "toolu_1"


def test_arguments_that_are_no_object_are_said_inside_one() -> None:
    """A model's broken JSON of an earlier turn is no reason to refuse the next one."""
    asked = replace(ask(), messages=(
        Message("user", (Text("Hi"),)), Message("assistant", (ToolUse("a", "f", '{"city": "Os'),)),
        Message("user", (ToolResult("a", "f", (Text("what?"),)),)),
    ))  # fmt: skip
    body = written(asked)
    assert body["messages"][1]["content"][0]["input"] == {"INVALID_JSON": '{"city": "Os'}
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}


def test_without_a_cap_there_is_the_documented_one() -> None:
    """``max_tokens`` is required: without a cap it is the default, no more than the model can say, beside the thoughts."""
    assert written(ask())["max_tokens"] == OUTPUT_DEFAULT
    assert written(ask(), "claude-3-haiku-20240307")["max_tokens"] == 4_096
    assert written(ask(output_cap=100_000), "claude-opus-4-1")["max_tokens"] == 32_000
    assert written(ask(output_cap=100_000), OPUS)["max_tokens"] == 100_000
    thinking = written(ask(thinking_tokens=10_000))
    assert (thinking["max_tokens"], thinking["thinking"]["budget_tokens"]) == (42_000, 10_000)
    assert written(ask(thinking_tokens=40_000), "claude-opus-4-1")["thinking"]["budget_tokens"] == 31_999


@pytest.mark.parametrize(
    ("model", "more", "thinking", "effort"),
    [
        (HAIKU, {"effort": "low"}, {"type": "enabled", "budget_tokens": 1_024, "display": "omitted"}, None),
        (HAIKU, {"effort": "high", "show_thinking": True}, {"type": "enabled", "budget_tokens": 24_576, "display": "summarized"}, None),
        (HAIKU, {"effort": "max"}, {"type": "enabled", "budget_tokens": 32_000, "display": "omitted"}, None),
        (HAIKU, {"effort": "high", "output_cap": 4_000}, {"type": "enabled", "budget_tokens": 2_000, "display": "omitted"}, None),
        (HAIKU, {"effort": "high", "output_cap": 1_000}, None, None),
        (HAIKU, {"effort": "none"}, {"type": "disabled"}, None),
        (HAIKU, {"thinking_tokens": -1}, {"type": "enabled", "budget_tokens": 8_192, "display": "omitted"}, None),
        (HAIKU, {"thinking_tokens": 9_000, "output_cap": 4_000}, {"type": "enabled", "budget_tokens": 3_999, "display": "omitted"}, None),
        (HAIKU, {"show_thinking": True}, None, None),
        ("claude-opus-4-5", {"effort": "max"}, {"type": "enabled", "budget_tokens": 32_000, "display": "omitted"}, "high"),
        ("claude-sonnet-4-6", {"effort": "xhigh"}, {"type": "adaptive", "display": "omitted"}, "high"),
        ("claude-sonnet-4-6", {"thinking_tokens": 500}, {"type": "adaptive", "display": "omitted"}, "low"),
        (OPUS, {"effort": "minimal"}, {"type": "adaptive", "display": "omitted"}, "low"),
        (OPUS, {"effort": "xhigh"}, {"type": "adaptive", "display": "omitted"}, "xhigh"),
        (OPUS, {"thinking_tokens": 5_000}, {"type": "adaptive", "display": "omitted"}, "medium"),
        (OPUS, {"thinking_tokens": 50_000, "show_thinking": True}, {"type": "adaptive", "display": "summarized"}, "xhigh"),
        (OPUS, {"thinking_tokens": -1}, {"type": "adaptive", "display": "omitted"}, None),
        (OPUS, {"thinking_tokens": 0}, {"type": "disabled"}, None),
        (OPUS, {"show_thinking": True}, None, None),
        ("claude-opus-5-5", {"show_thinking": True}, {"type": "adaptive", "display": "summarized"}, None),
        ("claude-sonnet-5-5", {"effort": "none"}, {"type": "between_tools"}, None),
        ("claude-haiku-5-5", {"effort": "none"}, {"type": "disabled"}, None),
        ("claude-3-5-haiku-20241022", {"effort": "none"}, None, None),
        ("deepseek-v4", {"effort": "medium"}, {"type": "enabled", "budget_tokens": 8_192, "display": "omitted"}, None),
    ],
)  # fmt: skip
def test_thinking_is_said_as_the_model_takes_it(model: str, more: Any, thinking: Any, effort: str | None) -> None:
    """A budget, an effort, both or neither: by Anthropic's documentation of the model."""
    body = written(ask(**more), model)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


def tool_loop(*thoughts: Thinking) -> Asked:
    """A request in the middle of a turn: a tool has answered."""
    return replace(
        ask(tools=(Tool("f"),), effort="low"),
        messages=(
            Message("user", (Text("Hi"),)),
            Message("assistant", (*thoughts, ToolUse("a", "f", "{}"))),
            Message("user", (ToolResult("a", "f", (Text("1"),)),)),
            Message("assistant", (ToolUse("b", "f", "{}"),)),
            Message("user", (ToolResult("b", "f", (Text("2"),)),)),
        ),
    )


def test_a_turn_whose_thoughts_are_lost_goes_on_without_thinking() -> None:
    """With a budget Anthropic wants a turn's thoughts back: without them thinking is off, with them it stays."""
    assert "thinking" not in written(tool_loop())
    assert "thinking" not in written(tool_loop(Thinking("Hm.", "sig", "gemini")))
    assert written(tool_loop(Thinking("Hm.", "sig", "anthropic")))["thinking"]["type"] == "enabled"
    assert written(tool_loop(Thinking("", "", "anthropic", "data")))["thinking"]["type"] == "enabled"
    assert written(tool_loop(), OPUS)["thinking"]["type"] == "adaptive"
    later = replace(tool_loop(), messages=(*tool_loop().messages, Message("user", (Text("And?"),))))
    assert "thinking" not in written(later)
    done = (*tool_loop().messages, Message("assistant", (Text("3"),)), Message("user", (Text("And?"),)))
    assert written(replace(tool_loop(), messages=done))["thinking"]["type"] == "enabled"


def test_a_forced_tool_and_thinking() -> None:
    """With a budget no tool can be forced; an effort needs none; adaptive thinking lets it be forced, but for some."""
    forced: dict[str, Any] = {"tools": (Tool("f"),), "tool_choice": ToolChoice("required")}
    assert unwritten(ask(**forced, thinking_tokens=2_000)).field == "tool_choice"
    assert unwritten(ask(**forced), "claude-opus-5-5").field == "tool_choice"
    body = written(ask(**forced, effort="low"), "claude-opus-4-5")
    assert (body["output_config"], "thinking" in body) == ({"effort": "low"}, False)
    assert written(ask(**forced, effort="low"), OPUS)["tool_choice"] == {"type": "any"}


def test_thoughts_of_others_are_left_out() -> None:
    """Only what Anthropic signed goes back to it."""
    thoughts = (
        Thinking("a"),
        Thinking("b", "s", "gemini"),
        Thinking("c", "", "anthropic"),
        Thinking("d", "s", "anthropic"),
    )
    asked = replace(ask(), messages=(
        Message("user", (Text("Hi"),)), Message("assistant", (*thoughts, Text("Ho"))), Message("user", (Text("Hm"),)),
    ))  # fmt: skip
    assert written(asked)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "d", "signature": "s"}, {"type": "text", "text": "Ho"},
    ]  # fmt: skip


def test_a_schema_is_closed() -> None:
    """Objects that leave it open are closed, at every depth, and the schema that came stays as it is."""
    inner = {"type": "object", "properties": {"x": {"type": "string", "format": "date"}}}
    schema = {
        "type": "object", "properties": {"a": {"type": "array", "items": inner}, "b": {"anyOf": [inner, {"type": "null"}]}},
        "$defs": {"c": inner},
    }  # fmt: skip
    before = json.dumps(schema)
    body = written(ask(format=Format(schema, description="What it is.")))
    closed = {**inner, "additionalProperties": False}
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "description": "What it is.", "type": "object",
            "properties": {"a": {"type": "array", "items": closed}, "b": {"anyOf": [closed, {"type": "null"}]}},
            "$defs": {"c": closed}, "additionalProperties": False,
        },
    }  # fmt: skip
    assert json.dumps(schema) == before


def shown(*parts: Any) -> Asked:
    return replace(ask(), messages=(Message("user", parts),))


def deep(levels: int) -> dict[str, Any]:
    return {"type": "array", "items": deep(levels - 1)} if levels else {"type": "string"}


UNWRITTEN: list[tuple[str, Asked, str]] = [
    ("n", ask(choices=2), HAIKU),
    ("seed", ask(seed=1), HAIKU),
    ("presence_penalty", ask(presence_penalty=0.5), HAIKU),
    ("frequency_penalty", ask(frequency_penalty=0.5), HAIKU),
    ("max_tokens", ask(output_cap=0), HAIKU),
    ("temperature", ask(temperature=1.5), HAIKU),
    ("temperature", ask(temperature=0.5), OPUS),
    ("temperature", ask(temperature=0.5, effort="low"), HAIKU),
    ("top_k", ask(top_k=5), OPUS),
    ("top_k", ask(top_k=5, effort="low"), HAIKU),
    ("top_p", ask(top_p=0.5), OPUS),
    ("top_p", ask(top_p=0.5, effort="low"), HAIKU),
    ("top_p", ask(top_p=0.5, temperature=0.5), HAIKU),
    ("stop", ask(stop=("\n",)), HAIKU),
    ("response_format", ask(format=Format()), HAIKU),
    ("response_format", ask(format=Format({"type": "object"})), "claude-sonnet-4-0"),
    ("response_format.minimum", ask(format=Format({"type": "integer", "minimum": 1})), HAIKU),
    ("response_format.format", ask(format=Format({"type": "string", "format": "byte"})), HAIKU),
    ("response_format.minItems", ask(format=Format({"type": "array", "minItems": 2})), HAIKU),
    ("response_format.properties.a.oneOf", ask(format=Format({"type": "object", "properties": {"a": {"oneOf": []}}})), HAIKU),
    ("response_format.additionalProperties", ask(format=Format({"type": "object", "additionalProperties": True})), HAIKU),
    ("response_format" + ".items" * 65, ask(format=Format(deep(70))), HAIKU),
    ("tools[0].name", ask(tools=(Tool("a.b"),)), HAIKU),
    ("tools[0].input_schema", ask(tools=(Tool("f", "", {"type": "string"}),)), HAIKU),
    ("tools[0].input_schema", ask(tools=(Tool("f", "", {"anyOf": []}),)), HAIKU),
    ("tools[0].strict", ask(tools=(Tool("f", strict=True),)), "claude-sonnet-4-0"),
    ("tool_choice", ask(tool_choice=ToolChoice("required")), HAIKU),
    ("thinking", ask(thinking_tokens=500), HAIKU),
    ("thinking", ask(thinking_tokens=5_000, output_cap=1_000), HAIKU),
    ("thinking", ask(effort="low"), "claude-3-haiku-20240307"),
    ("thinking", ask(effort="none"), "claude-opus-5-5"),
    ("thinking", ask(thinking_tokens=0), "claude-fable-5-1"),
    ("messages[0].name", replace(ask(), messages=(Message("user", (Text("Hi"),), name="Ann"),)), HAIKU),
    ("messages[0]", shown(Audio("audio/wav", "AAAA")), HAIKU),
    ("messages[0]", shown(Image("image/tiff", "AAAA")), HAIKU),
    ("messages[0]", shown(Image(url="gs://bucket/a.png")), HAIKU),
    ("messages[0].detail", shown(Image(url="https://a/b.png", detail="low")), HAIKU),
    ("messages[0]", shown(Document("text/csv", "AAAA")), HAIKU),
    ("messages[0]", shown(Document("text/plain", "/w==")), HAIKU),
    ("messages[0]", replace(ask(), messages=(Message("assistant", (Image("image/png", PNG),)),)), HAIKU),
    ("messages", shown(Text(" ")), HAIKU),
    ("messages", replace(ask(), messages=(Message("user", (Text("a"),)), Message("assistant", (Text("b"),)))), HAIKU),
    ("messages", replace(ask(), messages=(Message("user", (Text("a"),)), Message("user", (Text("b"),), system=True))), HAIKU),
    ("messages", replace(ask(), messages=(Message("user", (Text("b"),), system=True),)), OPUS),
    ("messages", replace(ask(), messages=(Message("user", (Text("a"),)), Message("user", (Text("b"),), system=True), Message("user", (Text("c"),)))), OPUS),
]  # fmt: skip


@pytest.mark.parametrize(("field", "asked", "model"), UNWRITTEN)
def test_what_anthropic_or_its_model_refuses_is_refused_before(field: str, asked: Asked, model: str) -> None:
    """The field and a reason, before anything is spent; nothing is clamped in silence."""
    error = unwritten(asked, model)
    assert error.field == field
    assert error.message


def test_defaults_are_no_reason_to_refuse() -> None:
    """Sampling at its defaults goes to a model that takes nothing else, by leaving it out."""
    assert written(ask(temperature=1, top_p=1), OPUS) == written(ask(), OPUS)
    assert "top_p" not in written(ask(temperature=0.5, top_p=1))
    assert "temperature" not in written(ask(temperature=1, top_p=0.5))
    assert written(ask(temperature=0.5, top_p=0.5), "claude-3-haiku-20240307")["top_p"] == 0.5
    assert written(ask(temperature=1, top_p=0.97, effort="low"))["top_p"] == 0.97
    assert written(ask(presence_penalty=0, frequency_penalty=0)) == written(ask())
    assert written(ask(tools=(Tool("f", strict=False),)), "claude-sonnet-4-0")["tools"] == [
        {"name": "f", "input_schema": {"type": "object"}}
    ]


@pytest.mark.parametrize(
    ("model", "thinking", "off", "output_max"),
    [
        ("claude-3-haiku-20240307", "", "", 4_096),
        ("claude-3-5-sonnet-latest", "", "", 8_192),
        ("claude-3-7-sonnet-20250219", "budget", "disabled", 64_000),
        ("claude-opus-4-20250514", "budget", "disabled", 32_000),
        ("anthropic/claude-opus-4.1", "budget", "disabled", 32_000),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "budget", "disabled", 64_000),
        ("claude-sonnet-4-6", "both", "disabled", 64_000),
        ("claude-opus-4-6", "both", "disabled", 128_000),
        ("claude-opus-4-7", "adaptive", "disabled", 128_000),
        ("claude-opus-5", "adaptive", "disabled", 128_000),
        ("claude-mythos-5-2", "adaptive", None, 128_000),
        ("claude-next", "adaptive", None, None),
        ("claude-2.1", "", "", 4_096),
        ("kimi-k3", "budget", "disabled", None),
    ],
)
def test_models_are_known_by_line_and_version(
    model: str, thinking: str, off: str | None, output_max: int | None
) -> None:
    """Dates, prefixes and dots do not matter; an unknown Claude is the newest, another model takes what all document."""
    can = takes(model)
    assert (can.thinking, can.off, can.output_max) == (thinking, off, output_max)


# --- answers ------------------------------------------------------------------------------------------------------


def whole(answered: Answered) -> SdkMessage:
    """The answer as the official client reads it, checked against its types."""
    return SdkMessage.model_validate_json(SPEAKER.write_answer(answered), strict=True)


@settings(max_examples=50)
@given(said.answered(thinking=True, reasoning=True))
def test_answers_are_written_and_read(answered: Answered) -> None:
    """Every answer of the shared strategy comes back as it was, and the SDK's types take it."""
    assert SPEAKER.read_answer(SPEAKER.write_answer(answered)) == answered
    message = whole(answered)
    assert (message.id, message.model, message.role) == (answered.id, answered.model, "assistant")
    assert answered.usage is not None
    assert message.usage.input_tokens == answered.usage.input_tokens - answered.usage.cache_read_tokens
    assert message.usage.output_tokens == answered.usage.output_tokens
    inputs = [block.input for block in message.content if block.type == "tool_use"]
    assert inputs == [json.loads(part.arguments) for part in answered.parts if isinstance(part, ToolUse)]


ANSWER = Answered(
    id="msg_1",
    model=HAIKU,
    parts=(
        Thinking("Hm.", "sig", "anthropic"), Thinking("", "", "anthropic", "xyz"), Text("Rain."),
        ToolUse("toolu_1", "weather", '{"city":"Oslo"}'),
    ),
    finish="tool_calls",
    usage=Usage(
        input_tokens=1_000, cache_read_tokens=500, cache_write_tokens=300, cache_write_5m_tokens=100,
        cache_write_1h_tokens=200, output_tokens=50, reasoning_tokens=20, web_searches=2,
    ),
)  # fmt: skip


def test_usage_is_said_in_anthropics_way() -> None:
    """Input without what was cached, the cache by its lifetimes, thinking inside the output; and read back the same."""
    body = SPEAKER.write_answer(ANSWER)
    assert json.loads(body)["usage"] == {
        "input_tokens": 200,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 500,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 20},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }
    assert SPEAKER.read_answer(body) == ANSWER
    assert whole(ANSWER).content[1].type == "redacted_thinking"


@pytest.mark.parametrize(
    ("reason", "sequence", "finish"),
    [
        ("end_turn", None, "stop"), ("stop_sequence", "END", "stop"), ("max_tokens", None, "length"),
        ("model_context_window_exceeded", None, "length"), ("pause_turn", None, "length"), ("tool_use", None, "tool_calls"),
        ("refusal", None, "refusal"), ("something_new", None, "stop"), (None, None, "stop"),
    ],
)  # fmt: skip
def test_reasons_to_stop_are_read(reason: str | None, sequence: str | None, finish: str) -> None:
    """Every reason that Anthropic documents has one in the conversation."""
    body = {
        "id": "m", "type": "message", "role": "assistant", "model": "c", "content": [{"type": "text", "text": "a"}],
        "stop_reason": reason, "stop_sequence": sequence, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    answered = SPEAKER.read_answer(json.dumps(body).encode())
    assert (answered.finish, answered.stopped_by) == (finish, sequence or "")


@pytest.mark.parametrize(
    ("finish", "stopped_by", "uses", "reason"),
    [
        ("stop", "", False, "end_turn"), ("stop", "END", False, "stop_sequence"), ("stop", "", True, "tool_use"),
        ("length", "", True, "max_tokens"), ("tool_calls", "", True, "tool_use"), ("content_filter", "", False, "refusal"),
        ("refusal", "", False, "refusal"),
    ],
)  # fmt: skip
def test_reasons_to_stop_are_written(finish: Any, stopped_by: str, uses: bool, reason: str) -> None:
    """Every finish has Anthropic's reason; a use of a tool is one whatever else is said."""
    parts = (Text("a"), ToolUse("t", "f", "{}")) if uses else (Text("a"),)
    message = whole(Answered("m", "c", parts, finish, Usage(1, output_tokens=1), stopped_by))
    assert (message.stop_reason, message.stop_sequence) == (reason, stopped_by or None)


def test_an_answer_without_usage_or_content_is_still_a_message() -> None:
    """The shape demands an id and counts: they are there, and arguments cut off stay readable."""
    message = whole(
        Answered(
            "",
            "c",
            (
                Text(""),
                ToolUse("t", "f", '{"a":'),
            ),
            "length",
            None,
        )
    )
    assert (message.id, message.usage.output_tokens) == ("msg_0", 0)
    assert [block.to_dict() for block in message.content] == [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"INVALID_JSON": '{"a":'}}
    ]
    with pytest.raises(Untranslatable):
        SPEAKER.write_answer(Answered("m", "c", (Image("image/png", PNG),), "stop", None))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"type":"error","error":{"type":"api_error","message":"no"}}', b'{"type":"message"}',
        b'{"type":"message","content":[{"type":"server_tool_use","id":"a","name":"web_search","input":{}}]}',
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    """Errors, other bodies and blocks for which no translated request asks."""
    with pytest.raises(ValueError, match=r"."):
        SPEAKER.read_answer(body)


# --- what others signed -------------------------------------------------------------------------------------------


def test_signatures_of_gemini_come_back() -> None:
    """What Gemini put on thoughts and tools survives a client of Anthropic's dialect, that sends back what it got."""
    answered = Answered(
        "m", "gemini-3-pro", (Thinking("Hm.", "s/1+=", "gemini"), ToolUse("call_1", "f", "{}", "sig/nature+=")),
        "tool_calls", None,
    )  # fmt: skip
    message = whole(answered)
    use = message.content[1]
    assert use.type == "tool_use"
    assert plain_id(use.id) == use.id, "an id that Anthropic itself takes"
    back = read(
        request(
            user({"type": "text", "text": "Hi"}),
            assistant(*[block.to_dict() for block in message.content]),
            user({"type": "tool_result", "tool_use_id": use.id, "content": "1"}),
        )
    )
    assert back.messages[1].parts == answered.parts
    assert back.messages[2].parts == (ToolResult("call_1", "f", (Text("1"),)),)
    assert SPEAKER.read_answer(SPEAKER.write_answer(answered)).parts == answered.parts


def test_foreign_thoughts_do_not_reach_anthropic() -> None:
    """A conversation that goes on at Anthropic as it came loses the blocks that Anthropic did not sign, and nothing else."""
    foreign = {"type": "thinking", "thinking": "a", "signature": "bursar:gemini:s"}
    hidden = {"type": "redacted_thinking", "data": "bursar::s"}
    body = request(
        user({"type": "text", "text": '"bursar:'}), assistant(foreign, hidden, THOUGHT, USE), assistant(foreign),
        user(RESULT), {"role": "user", "content": "plain"}, "odd",
    )  # fmt: skip
    left = json.loads(without_foreign_thinking(json.dumps(body).encode()))
    kept = [message for message in body["messages"] if message != assistant(foreign)]
    kept[1] = assistant(THOUGHT, USE)
    assert left == {**body, "messages": kept}
    plain = json.dumps(request(assistant(THOUGHT, USE), user(RESULT))).encode()
    assert without_foreign_thinking(plain) is plain
    assert without_foreign_thinking(b'{"bursar:') == b'{"bursar:'


@pytest.mark.parametrize("tool_id", ["a__thought__%", "a__thought__a", "__thought__"])
def test_an_id_that_only_looks_signed_stays(tool_id: str) -> None:
    """What cannot be taken apart is an id like any other."""
    asked = read(request(assistant({**USE, "id": tool_id}), user({**RESULT, "tool_use_id": tool_id})))
    use, result = asked.messages[0].parts[0], asked.messages[1].parts[0]
    assert isinstance(use, ToolUse)
    assert isinstance(result, ToolResult)
    assert use.id == result.id
    assert use.signature == ""


# --- streams ------------------------------------------------------------------------------------------------------


def stream(events: list[Event]) -> bytes:
    writer = SPEAKER.writer(model=HAIKU, created_s=0, asks_usage=True)
    assert writer.content_type.startswith("text/event-stream")
    return b"".join([*map(writer.write, events), writer.close()])


def events_of(chunks: list[bytes]) -> list[Event]:
    reader = SPEAKER.reader()
    return [*(event for chunk in chunks for event in reader.feed(chunk)), *reader.finish()]


STREAMED: list[bytes] = []


@lru_cache(maxsize=1)
def client() -> anthropic.Anthropic:
    """The official client, whose provider streams what stands in ``STREAMED``."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=STREAMED.pop(), headers={"content-type": "text/event-stream"})

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return anthropic.Anthropic(api_key="k", max_retries=0, http_client=transport)


def accumulated(data: bytes) -> SdkMessage:
    """The final message of the official client's own accumulator over this stream, checked against its types."""
    STREAMED.append(data)
    asked: Any = {"model": HAIKU, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    with client().messages.stream(**asked) as running:
        return SdkMessage.model_validate(running.get_final_message().to_dict())


def strict_events(data: bytes) -> None:
    """The order that Anthropic documents: a start, blocks one after the other, a delta, a stop."""
    kinds: list[str] = []
    opened = -1
    for raw in data.decode().split("\n\n")[:-1]:
        name, _, payload = raw.partition("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        kinds.append(event["type"])
        if "index" in event:
            opened += event["type"] == "content_block_start"
            assert event["index"] == opened
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    blocks = "".join({"content_block_start": "<", "content_block_stop": ">"}.get(kind, "") for kind in kinds)
    assert not blocks.replace("<>", "")


@settings(max_examples=50)
@given(st.data())
def test_streams_cut_anywhere_are_the_answer(data: st.DataObject) -> None:
    """Events become bytes, the bytes cut anywhere the same answer; the SDK's accumulator makes the message of it."""
    answered, events = data.draw(said.streams(thinking=True, reasoning=True))
    raw = stream(events)
    strict_events(raw)
    read_back = events_of(data.draw(said.cuts(raw)))
    assert read_back == events_of([raw])
    assert said.gathered(read_back) == said.gathered(events)
    message = accumulated(raw)
    assert message.stop_reason == whole(answered).stop_reason
    assert message.usage.output_tokens == whole(answered).usage.output_tokens
    assert [block.to_dict() for block in message.content] == [block.to_dict() for block in whole(answered).content]


@settings(max_examples=50)
@given(said.wild_events())
def test_events_in_any_order_make_a_stream(events: list[Event]) -> None:
    """Text after tools, thoughts between, tools fed in turns, usage anywhere: the blocks stay one after the other, no
    word of any of them is lost, and the SDK takes it."""
    raw = stream(events)
    strict_events(raw)
    back, meant = said.gathered(events_of([raw])), said.gathered(events)
    for kind in (Text, Thinking):
        assert text_of(back, kind) == text_of(meant, kind)
    uses = [part for part in meant.parts if isinstance(part, ToolUse)]
    assert [part for part in back.parts if isinstance(part, ToolUse)] == uses
    assert (back.finish, back.usage) == (meant.finish, meant.usage)
    message = accumulated(raw)
    assert [block.input for block in message.content if block.type == "tool_use"] == [
        json.loads(use.arguments) for use in uses
    ]


def text_of(answered: Answered, kind: type[Text | Thinking]) -> str:
    return "".join(part.text for part in answered.parts if isinstance(part, kind))


def test_every_kind_of_event() -> None:
    """Signatures, hidden thoughts, a tool without arguments, a first guess of the usage: as Anthropic sends them."""
    usage = Usage(input_tokens=10, cache_read_tokens=4, output_tokens=7)
    events: list[Event] = [
        Began("msg_1", HAIKU, Usage(input_tokens=10, cache_read_tokens=4)),
        ThinkingDelta("", "", "anthropic", "xyz"),
        ThinkingDelta("Hm."),
        ThinkingDelta("", "sig", "anthropic"),
        ThinkingDelta("", "sig2", "anthropic"),
        TextDelta("Rain."),
        ToolBegan(0, "toolu_1", "f", "sig3"),
        ToolDelta(0, "{}"),
        Finished("tool_calls"),
        Counted(usage),
    ]
    raw = stream(events)
    assert events_of([raw]) == events
    assert accumulated(raw).usage.cache_read_input_tokens == 4
    quiet = stream([ToolBegan(0, "t", "f"), Finished("stop", "END")])
    assert events_of([quiet]) == [
        Began("msg_0", HAIKU, Usage()), ToolBegan(0, "t", "f"), ToolDelta(0, "{}"), Finished("tool_calls"), Counted(Usage()),
    ]  # fmt: skip
    assert accumulated(quiet).content[0].to_dict() == {"type": "tool_use", "id": "t", "name": "f", "input": {}}


def test_an_error_ends_a_stream() -> None:
    """It is Anthropic's event, the SDK raises it by its status, and nothing follows."""
    events: list[Event] = [Began("m", HAIKU), TextDelta("Ra"), Failed(529, "busy"), TextDelta("in"), Finished("stop")]
    raw = stream(events)
    assert raw.endswith(
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    )
    with pytest.raises(anthropic.APIStatusError, match="busy"):
        accumulated(raw)
    assert events_of([raw])[-1] == Failed(529, "busy")
    assert events_of([b'data: {"type":"error"}\n\n']) == [Failed(500, "")]


def test_a_stream_that_broke_off_has_no_end() -> None:
    """Without its finish nothing is closed, and an event that is not whole says nothing."""
    assert stream([Began("m", HAIKU), TextDelta("Ra")]).count(b"message_stop") == 0
    raw = stream([Began("m", HAIKU, Usage(1)), TextDelta("Ra"), Finished("stop"), Counted(Usage(1, output_tokens=1))])
    cut = raw[: raw.index(b"end_turn")]
    assert events_of([cut]) == [Began("m", HAIKU, Usage(1)), TextDelta("Ra")]
    assert events_of([cut + b"}"]) == events_of([cut])
    assert isinstance(events_of([raw.rstrip(b"\n")])[-2], Finished)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"api_error","message":"no"}}',
        b"data: {no json\n\n",
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"mcp_tool_use"}}\n\n',
    ],
)
def test_what_is_no_stream_is_a_value_error(body: bytes) -> None:
    """Bodies, events without JSON, and blocks for which no translated request asks."""
    with pytest.raises(ValueError, match=r"."):
        events_of([body])


def test_what_providers_of_the_dialect_send() -> None:
    """Text in a block's start, arguments in it, line ends of two signs, pings and events that nobody knows."""
    raw = "".join(
        f"event: x\r\ndata: {json.dumps(event)}\r\n\r\n"
        for event in (
            {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": "many"}}},
            {"type": "ping"},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Ra"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "in"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {**THOUGHT}},
            {"type": "content_block_stop", "index": 1},
            {"type": "content_block_start", "index": 2, "content_block": {**USE}},
            {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
            {"type": "content_block_stop", "index": 2},
            {"type": "something_new"},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            {"type": "message_stop"},
        )
    )
    assert events_of([b": hello\r\n\r\n", raw.encode()]) == [
        Began("m", "c", None), TextDelta("Ra"), TextDelta("in"), ThinkingDelta("Hm.", "sig", "anthropic"),
        ToolBegan(0, "toolu_1", "weather"), ToolDelta(0, '{"city": "Oslo"}'), Finished("tool_calls"),
    ]  # fmt: skip


# --- recorded -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def recorded() -> list[dict[str, Any]]:
    """The recorded interactions with messages."""
    if not (DATA / "interactions.jsonl.gz").exists():
        pytest.skip(f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA")
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        rows = (json.loads(line) for line in lines if '/messages"' in line or "/messages?" in line)
        return [row for row in rows if row["method"] == "POST" and (row["path"] or "").endswith("/v1/messages")]


def bodies(key: str) -> Iterator[bytes]:
    for row in recorded():
        if row[key] is not None:
            yield row[key].encode() if isinstance(row[key], str) else json.dumps(row[key]).encode()


REFUSED = {
    "tools.type", "tools.defer_loading", "messages.content.type", "messages.content.content.type",
    "messages.content.content.source.type", "context_management.edits", "mcp_servers", "output_config.task_budget",
}  # fmt: skip
"""Why recorded requests are refused: tools, blocks and services that only Anthropic has."""


def test_recorded_requests_survive() -> None:
    """Every recorded request comes back as it was, or is refused because it asks for what only Anthropic has."""
    refusals: Counter[str] = Counter()
    translated = 0
    for body in bodies("request"):
        try:
            asked = SPEAKER.read_request("/v1/messages", "", body)
        except Untranslatable as error:
            refusals[re.sub(r"\[\d+\]", "", error.field)] += 1
            continue
        assert again(asked) == asked
        translated += 1
    assert refusals.keys() == REFUSED
    assert translated >= 90
    assert translated + refusals.total() >= 160


def test_recorded_answers_survive() -> None:
    """Every recorded answer without blocks of server tools comes back as it was, and the SDK's types take it."""
    translated, refusals = 0, 0
    for body in bodies("response"):
        if any(
            f'"{kind}"'.encode() in body for kind in ("server_tool_use", "mcp_tool_use", "web_search_tool_result")
        ) and (b"tool_result" in body):
            with pytest.raises(ValueError, match="for which no translated request asks"):
                SPEAKER.read_answer(body)
            refusals += 1
            continue
        answered = SPEAKER.read_answer(body)
        assert answered.usage is not None
        assert SPEAKER.read_answer(SPEAKER.write_answer(answered)) == answered
        whole(answered)
        translated += 1
    assert translated >= 140
    assert refusals <= 20


def test_recorded_streams_survive() -> None:
    """Recorded streams are the same events however they are cut, and come back as they were."""
    translated = 0
    for body in bodies("response_text"):
        if b'"server_tool_use"' in body or b'"compaction"' in body:
            with pytest.raises(ValueError, match="for which no translated request asks"):
                events_of([body])
            continue
        events = events_of([body])
        step = max(1, len(body) // 97)
        assert events_of([body[at : at + step] for at in range(0, len(body), step)]) == events
        raw = stream(events)
        assert said.gathered(events_of([raw])) == said.gathered(events)
        accumulated(raw)
        translated += 1
    assert translated >= 2
