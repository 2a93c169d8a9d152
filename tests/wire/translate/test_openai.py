"""Requests of OpenAI's chat completions through a conversation: read, refused, and written for each kind of model."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_type_hints

import pytest
from conversations import asked
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai_speech import HI, MODEL, PATH, again, read

from bursar.wire.dialect import BadRequest
from bursar.wire.openai_usage import Quirks
from bursar.wire.shape_openai import ChatRequests
from bursar.wire.translate import openai_read
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
    Untranslatable,
)
from bursar.wire.translate.openai import SPEAKER, OpenAISpeaker

PDF = base64.b64encode(b"%PDF-1.7").decode()
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
KEYS = sorted(
    openai_read._CARRIED | openai_read._ASSISTANT | openai_read._CALL | openai_read._FUNCTION | openai_read._TEXT
    | {"text", "image_url", "url", "file", "file_data", "input_audio", "format", "type", "json_schema", "include_usage"}
)  # fmt: skip
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": WEATHER, "strict": True}}


def said(asked: Asked, model: str = MODEL) -> dict[str, Any]:
    """The body that is sent."""
    return json.loads(SPEAKER.write_request(asked, model).body)


def hi(**fields: Any) -> Asked:
    return Asked("m", (Message("user", (Text("hi"),)),), **fields)


# --- requests ---------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "options": (
        {
            "max_completion_tokens": 7, "temperature": 0.5, "top_p": 1, "seed": 3, "presence_penalty": 0.5,
            "frequency_penalty": -1, "stream": True, "stream_options": {"include_usage": True},
        },
        {
            "output_cap": 7, "temperature": 0.5, "top_p": 1.0, "seed": 3, "presence_penalty": 0.5,
            "frequency_penalty": -1.0, "stream": True, "asks_usage": True,
        },
    ),
    "older cap": ({"max_tokens": 9}, {"output_cap": 9}),
    "both caps, the same": ({"max_tokens": 9, "max_completion_tokens": 9}, {"output_cap": 9}),
    "effort": ({"reasoning_effort": "high"}, {"effort": "high"}),
    "nothing, as nulls and usual values": (
        {
            "n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "verbosity": "medium", "stop": None,
            "modalities": ["text"], "presence_penalty": 0, "frequency_penalty": 0, "audio": None, "tools": None,
            "service_tier": "priority", "response_format": {"type": "text"}, "stream": False, "reasoning_effort": None,
        },
        {},
    ),
    "harmless": (
        {
            "user": "u", "metadata": {"task": "t"}, "store": True, "safety_identifier": "s", "prompt_cache_key": "k",
            "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit"},
            "prediction": {"type": "content", "content": "x"}, "stream_options": {"include_obfuscation": False},
        },
        {},
    ),
    "json": (
        {"response_format": {"type": "json_object"}, "messages": [{"role": "user", "content": "say it in JSON"}]},
        {"format": Format()},
    ),
    "schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "w", "description": "d", "schema": WEATHER, "strict": True},
            }
        },
        {"format": Format(WEATHER, "w", "d", True)},
    ),
    "tools": (
        {"tools": [TOOL, {"type": "function", "function": {"name": "bare"}}], "parallel_tool_calls": False},
        {"tools": (Tool("weather", "d", WEATHER, True), Tool("bare")), "tool_choice": ToolChoice(parallel=False)},
    ),
    "required": ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": ToolChoice("required")}),
    "one tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tool_choice": ToolChoice("tool", "weather")},
    ),
    "system": (
        {
            "messages": [
                {"role": "developer", "content": "a"},
                {"role": "system", "content": [{"type": "text", "text": "b"}]},
                HI,
            ]
        },
        {"system": (Text("a"), Text("b"))},
    ),
    "system further on": (
        {"messages": [HI, {"role": "developer", "content": "be brief"}, HI]},
        {
            "messages": (
                Message("user", (Text("hi"),)),
                Message("user", (Text("be brief"),), system=True),
                Message("user", (Text("hi"),)),
            )
        },
    ),
    "names": (
        {"messages": [{"role": "user", "content": "hi", "name": "ann"}]},
        {"messages": (Message("user", (Text("hi"),), "ann"),)},
    ),
    "media": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                        {"type": "image_url", "image_url": {"url": "https://example.com/a.jpg"}},
                        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
                    ],
                }
            ]
        },
        {
            "messages": (
                Message(
                    "user",
                    (
                        Text("look"),
                        Image("image/png", "AAAA", detail="low"),
                        Image(url="https://example.com/a.jpg"),
                        Audio("audio/wav", "UklGRg=="),
                        Document("application/pdf", PDF, name="a.pdf"),
                    ),
                ),
            )
        },
    ),
    "tool turns": (
        {
            "messages": [
                HI,
                {
                    "role": "assistant",
                    "content": "let me see",
                    "refusal": None,
                    "annotations": [],
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
                        {"id": "c2", "type": "function", "function": {"name": "time", "arguments": ""}},
                    ],
                },
                {"role": "tool", "tool_call_id": "c2", "content": "noon"},
                {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sun"}, {"type": "text", "text": "0"}]},
                {"role": "user", "content": "and?"},
            ]
        },
        {
            "messages": (
                Message("user", (Text("hi"),)),
                Message(
                    "assistant",
                    (Text("let me see"), ToolUse("c1", "weather", '{"city":"Oslo"}'), ToolUse("c2", "time", "{}")),
                ),
                Message(
                    "user",
                    (
                        ToolResult("c2", "time", (Text("noon"),)),
                        ToolResult("c1", "weather", (Text("sun"), Text("0"))),
                        Text("and?"),
                    ),
                ),
            )
        },
    ),
    "refusals": (
        {
            "messages": [
                HI,
                {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
                HI,
                {"role": "assistant", "content": None, "refusal": "no"},
                HI,
            ]
        },
        {
            "messages": (
                Message("user", (Text("hi"),)),
                Message("assistant", (Text("a"), Text("b"))),
                Message("user", (Text("hi"),)),
                Message("assistant", (Text("no"),)),
                Message("user", (Text("hi"),)),
            )
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_read_as_documented_and_written_again(name: str) -> None:
    """Each feature has its place in the conversation, and what is written says the same."""
    body, expected = CASES[name]
    found = read(body)
    for field, value in expected.items():
        assert getattr(found, field) == value
    if "tools" not in body and "messages" not in body:
        assert found == Asked(MODEL, found.messages, **expected)
    assert again(found) == found


@given(asked(efforts=("", "none", "low", "medium", "high", "xhigh"), formats=True))
def test_any_conversation_survives_being_written_and_read(conversation: Asked) -> None:
    """What all can say, OpenAI's dialect says without loss."""
    spoken = replace(conversation, stop=())  # this model takes none
    assert again(spoken) == replace(spoken, model=MODEL)
    assert again(replace(conversation, effort=""), "gpt-4o") == replace(conversation, effort="", model="gpt-4o")


def test_every_documented_field_has_its_place() -> None:
    """No field of the official SDK's request is unknown: it is carried, harmless, or refused for its own reason."""
    fields = set(get_type_hints(CompletionCreateParamsBase)) | {"stream"}
    assert fields - openai_read._CARRIED - openai_read.HARMLESS - set(openai_read.REFUSED) == set()
    assert set(openai_read.USUAL) - set(openai_read.REFUSED) == set()
    assert not openai_read._CARRIED & openai_read.HARMLESS


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"verbosity": "low"}, "verbosity"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "ash", "format": "wav"}}, "audio"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": "auto"}, "function_call"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"moderation": {"model": "m"}}, "moderation"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"top_k": 4}, "top_k"),
    ({"stream_options": {"every": 2}}, "stream_options.every"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"response_format": {"type": "grammar"}}, "response_format"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "x", "mode": 1}}]}, "tools[0].function.mode"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{**HI, "mood": "bad"}]}, "messages[0].mood"),
    ({"messages": [{"role": "system", "content": "x", "name": "example_user"}, HI]}, "messages[0].name"),
    ({"messages": [HI, {"role": "assistant", "content": "so"}]}, "messages[1]"),
    ({"messages": [HI, {"role": "assistant", "audio": {"id": "a"}}, HI]}, "messages[1].audio"),
    ({"messages": [HI, {"role": "assistant", "function_call": {"name": "f"}}, HI]}, "messages[1].function_call"),
    ({"messages": [HI, {"role": "assistant", "content": "a", "prefix": True}]}, "messages[1].prefix"),
    (
        {"messages": [HI, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]}, HI]},
        "messages[1].tool_calls[0].type",
    ),
    (
        {"messages": [HI, {"role": "assistant", "content": [{"type": "image_url"}]}, HI]},
        "messages[1].content[0].type",
    ),
    (
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, "messages[0].content[0].file.file_id"),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "JVBERi0="}}]}]},
        "messages[0].content[0].file.file_data",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "gs://a/b"}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/svg+xml,a"}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "a", "format": "flac"}}]}]},
        "messages[0].content[0].input_audio.format",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "a", "format": "wav", "id": "b"}}]}]},
        "messages[0].content[0].input_audio.id",
    ),
    ({"response_format": {"type": "json_object", "schema": WEATHER}}, "response_format.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": WEATHER, "examples": []}}}, "response_format.json_schema.examples"),
    ({"tools": [TOOL], "tool_choice": {"function": {"name": "weather", "namespace": "n"}}}, "tool_choice.function.namespace"),
    ({"tools": [TOOL], "tool_choice": {"function": {"name": "weather"}, "mode": "auto"}}, "tool_choice.mode"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field"), REFUSED, ids=[field for _, field in REFUSED])
def test_what_no_conversation_holds_is_refused_by_its_field(body: dict[str, Any], field: str) -> None:
    """The refusal names the JSON path and says why."""
    with pytest.raises(Untranslatable) as refusal:
        read(body)
    assert refusal.value.field == field
    assert refusal.value.message


MALFORMED: list[tuple[bytes, str]] = [
    (b"", ""),
    (b"[]", ""),
    (b'{"messages": [{"role": "user", "content": "hi"}]}', "model"),
    (b'{"model": 4, "messages": [{"role": "user", "content": "hi"}]}', "model"),
    (b'{"model": "m"}', "messages"),
    (b'{"model": "m", "messages": "hi"}', "messages"),
    (b'{"model": "m", "messages": ["hi"]}', "messages"),
    (b'{"model": "m", "messages": [{"role": "user", "content": 4}]}', "messages[0].content"),
    (b'{"model": "m", "messages": [{"role": "tool", "content": "x"}]}', "messages[0].tool_call_id"),
    (b'{"model": "m", "messages": [{"role": "assistant", "tool_calls": [{}]}]}', "messages[0].tool_calls[0].id"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"}', "temperature"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1.5}', "seed"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": 1}', "stream"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stop": [1]}', "stop"),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
    (
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_completion_tokens": 2}',
        "max_tokens",
    ),
    (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [{"function": {}}]}', "tools[0].function.name"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field"), MALFORMED)
def test_what_cannot_be_read_is_a_bad_request(body: bytes, field: str) -> None:
    """The field that is wrong is named."""
    with pytest.raises(BadRequest) as refusal:
        SPEAKER.read_request(PATH, "", body)
    assert refusal.value.field == field


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(KEYS), _JUNK, max_size=4), st.dictionaries(st.sampled_from(KEYS), _JUNK, max_size=4)
)
def test_whatever_is_sent_is_read_or_refused(fields: dict[str, Any], message: dict[str, Any]) -> None:
    """Wrong types in any place are a bad request or a refusal, never another error."""
    for body in ({"model": "m", "messages": [HI], **fields}, {"model": "m", "messages": [HI, {**HI, **message}, HI]}):
        with suppress(BadRequest, Untranslatable):
            SPEAKER.read_request(PATH, "", json.dumps(body).encode())


def test_an_azure_path_names_the_model() -> None:
    """The deployment is the model where the body has none."""
    body = json.dumps({"messages": [HI]}).encode()
    path = "/openai/deployments/gpt-4o/chat/completions"
    assert SPEAKER.read_request(path, "api-version=1", body).model == "gpt-4o"


def test_cache_marks_are_read_and_left_out() -> None:
    """Marks of OpenRouter's and of OpenAI's kind are carried to who needs them; OpenAI caches by itself."""
    content = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "c", "prompt_cache_breakpoint": {"mode": "explicit"}},
    ]
    found = read(
        {"messages": [{"role": "user", "content": content}], "tools": [{**TOOL, "cache_control": {"type": "e"}}]}
    )
    assert found.messages[0].parts == (Text("a", "5m"), Text("b", "1h"), Text("c", "5m"))
    assert found.tools[0].cache == "5m"
    assert b"cache" not in SPEAKER.write_request(found, MODEL).body


# --- what a model takes ---


@pytest.mark.parametrize(
    ("model", "asked_for", "written"),
    [
        ("gpt-5.2", {"effort": "max"}, "xhigh"),
        ("gpt-5.2", {"effort": "minimal"}, "none"),
        ("gpt-5", {"effort": "none"}, "minimal"),
        ("o3", {"effort": "minimal"}, "low"),
        ("openai/gpt-5.1", {"effort": "xhigh"}, "high"),
        ("gpt-5.2", {"thinking_tokens": 0}, "none"),
        ("gpt-5.2", {"thinking_tokens": 512}, "low"),
        ("gpt-5.2", {"thinking_tokens": 8_192}, "medium"),
        ("gpt-5.2", {"thinking_tokens": 32_000}, "high"),
        ("gpt-5.2", {"thinking_tokens": -1}, None),
        ("gpt-4o", {"thinking_tokens": 0}, None),
        ("gpt-4o", {"effort": "none"}, None),
        ("gpt-5-chat-latest", {"effort": "none"}, None),
        ("deepseek-chat", {"effort": "none"}, None),
        ("qwen3", {"effort": "max"}, "high"),
        ("gpt-4o", {}, None),
    ],
)
def test_effort_is_said_in_words_that_the_model_takes(
    model: str, asked_for: dict[str, Any], written: str | None
) -> None:
    """The highest up to the one asked for, else the least; a budget of thinking becomes one."""
    assert said(hi(**asked_for), model).get("reasoning_effort") == written


@pytest.mark.parametrize(
    ("model", "asked_for", "field"),
    [
        ("gpt-4o", {"effort": "low"}, "effort"),
        ("gpt-4.1", {"thinking_tokens": 1_000}, "effort"),
        ("gpt-5", {"temperature": 0.2}, "temperature"),
        ("o3", {"top_p": 0.5}, "top_p"),
        ("gpt-5.2", {"temperature": 0.2, "effort": "low"}, "temperature"),
        ("gpt-5-mini", {"presence_penalty": 1.0}, "presence_penalty"),
        ("gpt-4o", {"temperature": 2.5}, "temperature"),
        ("gpt-5.1", {"stop": ("a",)}, "stop"),
        ("gpt-5-2025-08-07", {"stop": ("a",)}, "stop"),
        ("o4-mini", {"stop": ("a",)}, "stop"),
        ("gpt-4o", {"stop": ("a", "b", "c", "d", "e")}, "stop"),
        ("gpt-4o", {"top_k": 5}, "top_k"),
        ("gpt-4o", {"choices": 2}, "choices"),
        ("gpt-4o", {"format": Format()}, "format"),
        ("gpt-4o", {"tools": tuple(Tool(f"t{n}") for n in range(129))}, "tools"),
        ("gpt-4o", {"tools": (Tool("a.b"),)}, "tools[0].name"),
        ("gpt-4o", {"tools": (Tool("a" * 65),)}, "tools[0].name"),
        ("gpt-4o", {"format": Format({"type": "object"}, "a b")}, "format.name"),
        ("gpt-4o", {"tool_choice": ToolChoice("required")}, "tool_choice"),
    ],
)
def test_what_a_model_is_known_to_refuse_is_refused_first(model: str, asked_for: dict[str, Any], field: str) -> None:
    """No request is sent that would come back with 400."""
    with pytest.raises(Untranslatable) as refusal:
        SPEAKER.write_request(hi(**asked_for), model)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("model", "asked_for"),
    [
        ("gpt-5.2", {"temperature": 0.2}),
        ("gpt-5.2", {"temperature": 0.2, "effort": "none"}),
        ("gpt-5-chat-latest", {"temperature": 0.2, "stop": ("a",)}),
        ("gpt-5.5", {"stop": ("a",)}),
        ("gpt-5.10", {"stop": ("a",)}),
        ("gpt-4o", {"temperature": 0.2, "stop": ("a", "b", "c", "d")}),
    ],
)
def test_what_a_model_takes_is_sent(model: str, asked_for: dict[str, Any]) -> None:
    """Sampling at rest, the usual values, stop sequences of the newer models."""
    body = said(hi(**asked_for), model)
    assert {name: tuple(v) if isinstance(v := body[name], list) else v for name in asked_for if name != "effort"} == {
        name: value for name, value in asked_for.items() if name != "effort"
    }


def test_what_is_so_anyway_is_not_said_to_a_model_that_refuses_the_field() -> None:
    """A temperature of 1 or a penalty of 0 changes nothing: a reasoning model answers without being told."""
    usual = {"temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert said(hi(**usual), "gpt-5") == {"model": "gpt-5", "messages": [HI]}


def test_the_cap_has_the_name_that_the_provider_takes() -> None:
    """Elsewhere it is max_tokens; OpenAI's reasoning models know max_completion_tokens alone, wherever they run."""
    elsewhere = OpenAISpeaker(
        Quirks("included", "included", "included", "none"), ChatRequests("max_tokens", "last", ())
    )
    capped = hi(output_cap=5)
    assert said(capped, "gpt-4o")["max_completion_tokens"] == 5
    assert json.loads(elsewhere.write_request(capped, "mistral-large").body)["max_tokens"] == 5
    assert json.loads(elsewhere.write_request(capped, "openai/gpt-5").body)["max_completion_tokens"] == 5


def test_long_ids_of_tool_uses_stay_together() -> None:
    """An id beyond 40 characters becomes a shorter one, the same for the use and its result."""
    long = "toolu_" + "x" * 60
    body = said(
        Asked(
            "m",
            (
                Message("user", (Text("hi"),)),
                Message("assistant", (ToolUse(long, "f", "{}"), ToolUse(long + "y", "f", "{}"))),
                Message("user", (ToolResult(long, "f", (Text("1"),)), ToolResult(long + "y", "f", (Text("2"),)))),
            ),
        )
    )
    first, second = (call["id"] for call in body["messages"][1]["tool_calls"])
    assert first != second
    assert len(first) <= 40
    assert [message["tool_call_id"] for message in body["messages"][2:]] == [first, second]


def test_results_come_first_and_errors_say_so() -> None:
    """Tool messages follow the uses at once whatever else the turn says, and an error is told in words."""
    turn = Message(
        "user",
        (
            Text("so"),
            ToolResult("a", "f", (Text("no such file"),), is_error=True),
            ToolResult("b", "f", (Text("Error: none"),), is_error=True),
            ToolResult("c", "f", (), is_error=True),
            ToolResult("d", "f", (Document("text/plain", base64.b64encode("grün".encode()).decode()),)),
        ),
    )
    assert said(Asked("m", (turn,)))["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "Error: no such file"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: none"},
        {"role": "tool", "tool_call_id": "c", "content": "Error"},
        {"role": "tool", "tool_call_id": "d", "content": "grün"},
        {"role": "user", "content": "so"},
    ]


def test_documents_of_text_are_sent_as_text_after_their_names() -> None:
    """Chat completions take PDF files alone, and OpenAI's advice for the rest is to send the text. A PDF has a field for its name."""
    text = Document("text/markdown", base64.b64encode(b"# a").decode(), name="a.md")
    parts = (text, replace(text, name=""), Document("application/pdf", PDF, name="b.pdf"))
    use, result = Message("assistant", (ToolUse("x", "f", "{}"),)), ToolResult("x", "f", (text, Text("b")))
    body = said(Asked("m", (Message("user", parts), use, Message("user", (result,)))))
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "Document: a.md"},
        {"type": "text", "text": "# a"},
        {"type": "text", "text": "# a"},
        {"type": "file", "file": {"filename": "b.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
    ]
    assert [each["text"] for each in body["messages"][2]["content"]] == ["Document: a.md", "# a", "b"]


@pytest.mark.parametrize(
    ("parts", "role"),
    [
        ((Image("image/heic", "AAAA"),), "user"),
        ((Image(url="gs://a/b"),), "user"),
        ((Document("application/msword", "AAAA"),), "user"),
        ((Document(url="https://example.com/a.pdf"),), "user"),
        ((Document("text/plain", base64.b64encode(b"\xff").decode()),), "user"),
        ((Audio("audio/flac", "AAAA"),), "user"),
        ((ToolResult("a", "f", (Image("image/png", "AAAA"),)),), "user"),
        ((ToolUse("a", "f", "{}"),), "user"),
        ((Image("image/png", "AAAA"),), "assistant"),
    ],
)
def test_what_chat_completions_cannot_take_is_refused(parts: Any, role: Any) -> None:
    """Pictures from tools, links to documents, other kinds of files and sound: by their place in the conversation."""
    messages = (Message("user", (Text("hi"),)), Message(role, parts), Message("user", (Text("hi"),)))
    with pytest.raises(Untranslatable, match=r"^messages\[1\]\.parts\[0\]"):
        SPEAKER.write_request(Asked("m", messages), MODEL)


def test_a_last_answer_is_not_continued() -> None:
    """The beginning of an answer, as Anthropic takes it, is refused: OpenAI would answer anew."""
    messages = (Message("user", (Text("hi"),)), Message("assistant", (Text("The"),)))
    with pytest.raises(Untranslatable, match=r"^messages\[1\]"):
        SPEAKER.write_request(Asked("m", messages), MODEL)


def test_no_thought_is_sent() -> None:
    """What another model thought, or signed, stays here: strict providers refuse fields they do not know."""
    turn = Message("assistant", (Thinking("hm", "sig", "anthropic"), Text("a"), ToolUse("c", "f", "{}", "gemini's")))
    done = Message("user", (ToolResult("c", "f", (Text("1"),)),))
    body = said(Asked("m", (Message("user", (Text("hi"),)), turn, done), show_thinking=True))
    assert body["messages"][1] == {
        "role": "assistant",
        "content": "a",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
