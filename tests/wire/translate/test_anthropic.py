"""Anthropic's requests as a conversation and back: nothing is lost, nothing is dropped in silence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import conversations as said
import pytest
from anthropic_speech import (
    CACHED,
    HAIKU,
    HOUR,
    OPUS,
    PNG,
    RESULT,
    THOUGHT,
    TOOL,
    USE,
    again,
    ask,
    assistant,
    deep,
    read,
    refused,
    request,
    shown,
    unwritten,
    user,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.wire.dialect import BadRequest
from bursar.wire.translate.anthropic import SPEAKER
from bursar.wire.translate.anthropic_marks import plain_id
from bursar.wire.translate.anthropic_models import takes
from bursar.wire.translate.anthropic_read import ANTHROPIC_ALONE, LEFT_OUT
from bursar.wire.translate.anthropic_schema import check_schema
from bursar.wire.translate.anthropic_write import OUTPUT_DEFAULT
from bursar.wire.translate.conversation import (
    Asked,
    Audio,
    Document,
    Format,
    Image,
    Message,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)

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
    held to and closed."""
    schema = asked.format.schema if asked.format is not None else None
    form = Format(schema=check_schema(schema, ""), held=True) if schema is not None else None
    top_p = None if asked.top_p == 1 and takes(model).sampling == "default" else asked.top_p
    return replace(asked, model=model, asks_usage=asked.stream, format=form, top_p=top_p)


@settings(max_examples=50)
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
