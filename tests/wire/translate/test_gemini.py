"""Requests to Gemini's generateContent, read and written. Nothing is dropped that says something."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import conversations
import pytest
from google.genai import types
from hypothesis import given, settings

from bursar.wire.dialect import BadRequest
from bursar.wire.gemini import DIALECT
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
from bursar.wire.translate.gemini import SPEAKER
from bursar.wire.translate.gemini_marks import NOT_SIGNED, without_foreign_thoughts
from bursar.wire.translate.gemini_models import thinking_config
from bursar.wire.translate.gemini_schema import json_schema
from bursar.wire.translate.speakers import translate_request

PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
HELLO = [{"role": "user", "parts": [{"text": "Hello"}]}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells it", "parametersJsonSchema": SCHEMA}
ASKS = {"role": "model", "parts": [{"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Rome"}}}]}
SIGNATURE = base64.b64encode(b"\x12\x34 opaque").decode()


def read(body: dict[str, Any], path: str = PATH, query: str = "") -> Asked:
    return SPEAKER.read_request(path, query, json.dumps(body).encode())


def said(*parts: Any, role: str = "user") -> list[Any]:
    """The parts of the one message that such a content becomes."""
    return list(read({"contents": [{"role": role, "parts": list(parts)}]}).messages[0].parts)


def written(asked: Asked, model: str = "gemini-2.5-flash") -> dict[str, Any]:
    return json.loads(SPEAKER.write_request(asked, model).body)


def asking(*messages: Message, **more: Any) -> Asked:
    return Asked("m", messages or (Message("user", (Text("Hello"),)),), asks_usage=True, **more)


def again(asked: Asked, model: str = "") -> Asked:
    """What is read of what was written."""
    sent = SPEAKER.write_request(asked, model or asked.model)
    return SPEAKER.read_request(sent.path, sent.query, sent.body)


FULL: dict[str, Any] = {
    "systemInstruction": {"role": "user", "parts": [{"text": "Be brief."}, {"text": "Be kind."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
        {"role": "model", "parts": [{"text": "Hm", "thought": True}, ASKS["parts"][0]]},
        {
            "role": "user",
            "parts": [{"functionResponse": {"id": "c1", "name": "weather", "response": {"output": "sunny"}}}],
        },
        {"role": "model", "parts": [{"text": "Sunny.", "thoughtSignature": SIGNATURE}]},
        {"role": "user", "parts": [{"fileData": {"mimeType": "application/pdf", "fileUri": "https://a.example/b.pdf"}}]},
    ],
    "tools": [{"functionDeclarations": [WEATHER]}, {"functionDeclarations": [{"name": "now"}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
    "generationConfig": {
        "maxOutputTokens": 100, "temperature": 0.5, "topP": 0.9, "topK": 40.0, "stopSequences": ["END"], "seed": 7,
        "presencePenalty": 0.5, "frequencyPenalty": -0.5, "candidateCount": 1, "responseModalities": ["TEXT"],
        "thinkingConfig": {"thinkingBudget": 512, "includeThoughts": True},
    },
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "labels": {"team": "search"},
}  # fmt: skip


def snake(value: Any) -> Any:
    """The same JSON in the other spelling; what clients made up themselves stays."""
    if isinstance(value, list):
        return [snake(item) for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        spelled = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)
        out[spelled] = item if key in ("args", "response", "parametersJsonSchema", "labels") else snake(item)
    return out


def test_every_field_that_a_conversation_holds_is_read() -> None:
    """A request with everything in it becomes the conversation that it says."""
    assert read(FULL) == Asked(
        model="gemini-2.5-flash",
        system=(Text("Be brief."), Text("Be kind.")),
        messages=(
            Message("user", (Text("What is this?"), Image("image/png", "aGk="))),
            Message("assistant", (Thinking("Hm"), ToolUse("c1", "weather", '{"city":"Rome"}'))),
            Message("user", (ToolResult("c1", "weather", (Text("sunny"),)),)),
            Message("assistant", (Text("Sunny."), Thinking("", SIGNATURE, "gemini"))),
            Message("user", (Document("application/pdf", url="https://a.example/b.pdf"),)),
        ),
        tools=(Tool("weather", "Tells it", SCHEMA), Tool("now")),
        tool_choice=ToolChoice("tool", "weather"),
        output_cap=100, temperature=0.5, top_p=0.9, top_k=40, stop=("END",), seed=7, presence_penalty=0.5,
        frequency_penalty=-0.5, thinking_tokens=512, show_thinking=True, asks_usage=True,
    )  # fmt: skip


def test_a_choice_among_no_functions_says_nothing() -> None:
    """Gemini refuses a mode without functions; nothing is asked for by it."""
    asked = read({"contents": HELLO, "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}})
    assert asked.tool_choice == ToolChoice()
    assert "toolConfig" not in written(replace(asked, tool_choice=ToolChoice("auto")))


def test_both_spellings_say_the_same() -> None:
    """Google takes every field in camelCase and in snake_case."""
    assert read(snake(FULL)) == read(FULL)


def test_writing_is_the_other_way_of_reading() -> None:
    """What was written of a request is read as the same request; the model is in the path, a stream asks for events."""
    asked = read(FULL)
    assert again(asked) == asked
    stream = replace(asked, stream=True)
    sent = SPEAKER.write_request(stream, "models/gemini-3-flash-preview")
    assert sent.path == "/v1beta/models/gemini-3-flash-preview:streamGenerateContent"
    assert sent.query == "alt=sse"
    assert DIALECT.read_request(sent.path, sent.body).stream


def test_a_signed_text_is_written_as_it_was() -> None:
    """A signature that came on a text goes back on that text."""
    body = written(read(FULL))
    assert body["contents"][3]["parts"] == FULL["contents"][3]["parts"]


@settings(max_examples=60)
@given(conversations.asked(efforts=("", "low", "high"), formats=True))
def test_whatever_all_dialects_can_say_comes_back(asked: Asked) -> None:
    """Conversations that all three dialects can hold survive being written and read."""
    if asked.format is not None:
        asked = replace(asked, format=replace(asked.format, held=True))
    back = again(asked)
    assert replace(back, model=asked.model, asks_usage=asked.asks_usage) == replace(
        asked, effort=back.effort, thinking_tokens=back.thinking_tokens
    )
    assert bool(asked.effort) == (back.thinking_tokens is not None)


@settings(max_examples=40)
@given(conversations.asked())
def test_what_is_written_is_what_the_sdk_writes(asked: Asked) -> None:
    """The SDK's own types take every part of a written request."""
    body = written(asked)
    for content in body["contents"]:
        types.Content.model_validate(content)
        assert content["parts"]
    for tool in body.get("tools", ()):
        types.Tool.model_validate(tool)
    types.GenerationConfig.model_validate(body.get("generationConfig", {}))
    types.ToolConfig.model_validate(body.get("toolConfig", {}))
    assert DIALECT.read_request(PATH, json.dumps(body).encode()).output_cap == asked.output_cap


# --- parts --------------------------------------------------------------------------------------------------------


def test_media_and_links() -> None:
    """Images, documents and sound in the request; links by their media type, else by the ending of their path."""
    assert said(
        {"inlineData": {"mimeType": "image/webp", "data": "aGk="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "aGk=", "displayName": "a.pdf"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "aGk="}},
        {"fileData": {"fileUri": "https://a.example/x.JPG?sign=1"}},
        {"fileData": {"fileUri": "https://a.example/x", "mimeType": "image/png"}, "mediaResolution": {"level": "media_resolution_low"}},
    ) == [
        Image("image/webp", "aGk="),
        Document("application/pdf", "aGk="),
        Audio("audio/wav", "aGk="),
        Image("image/jpeg", url="https://a.example/x.JPG?sign=1"),
        Image("image/png", url="https://a.example/x", detail="low"),
    ]  # fmt: skip
    assert written(asking(Message("user", (Document(url="https://a.example/report"),))))["contents"][0]["parts"] == [
        {"fileData": {"fileUri": "https://a.example/report", "mimeType": "application/pdf"}}
    ]


def test_a_name_of_a_document_is_a_text_before_it() -> None:
    """Whoever asks for a document by its name is understood; so in what a tool answers."""
    first, second = Document("text/plain", "MQ==", name="2023.txt"), Document("text/plain", "Mg==", name="2024.txt")
    assert written(asking(Message("user", (first, second, Text("What does 2024.txt say?")))))["contents"][0]["parts"] == [
        {"text": "Document: 2023.txt"}, {"inlineData": {"mimeType": "text/plain", "data": "MQ=="}},
        {"text": "Document: 2024.txt"}, {"inlineData": {"mimeType": "text/plain", "data": "Mg=="}},
        {"text": "What does 2024.txt say?"},
    ]  # fmt: skip
    result = Message("user", (ToolResult("a", "f", (Text("Found:"), first)),))
    asked = asking(Message("user", (Text("x"),)), Message("assistant", (ToolUse("a", "f", "{}"),)), result)
    answer = written(asked, "gemini-3.1-pro-preview")["contents"][2]["parts"][0]["functionResponse"]
    assert answer["response"] == {"output": "Found:\nDocument: 2023.txt"}
    assert answer["parts"] == [{"inlineData": {"mimeType": "text/plain", "data": "MQ=="}}]


def test_calls_without_ids_find_their_answers() -> None:
    """Calls get ids by their place; an answer without one goes to the first open call of its name."""
    contents = [
        {"role": "user", "parts": {"text": "Go"}},
        {"role": "model", "parts": [{"functionCall": {"name": "a"}}, {"functionCall": {"name": "b"}}, {"functionCall": {"name": "a"}}]},
        {"role": "function", "parts": [{"functionResponse": {"name": "b", "response": {"output": "2"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "a", "response": {"output": "1"}}}, {"functionResponse": {"name": "a", "response": {"error": "3"}}}]},
    ]  # fmt: skip
    _, asks, answers = read({"contents": contents}).messages
    ids = [part.id for part in asks.parts if isinstance(part, ToolUse)]
    assert len(set(ids)) == 3
    assert answers.parts == (
        ToolResult(ids[1], "b", (Text("2"),)),
        ToolResult(ids[0], "a", (Text("1"),)),
        ToolResult(ids[2], "a", (Text("3"),), is_error=True),
    )
    assert read({"contents": contents}) == read({"contents": contents})


def test_an_id_that_only_the_answer_has() -> None:
    """Clients that number calls themselves do not all say so in the call; an id that was stated is not another's."""
    call = {"role": "model", "parts": [{"functionCall": {"name": "weather"}}, *ASKS["parts"]]}
    response = {"id": "own", "name": "weather", "response": {"output": "1"}}
    first = read({"contents": [*HELLO, call, {"parts": [{"functionResponse": response}]}]}).messages
    assert first[2].parts == (ToolResult("gemini_call_1", "weather", (Text("1"),)),)
    with pytest.raises(BadRequest):
        read({"contents": [*HELLO, ASKS, {"parts": [{"functionResponse": response}]}]})


@pytest.mark.parametrize(
    ("response", "text", "is_error"),
    [
        ({"output": "plain"}, "plain", False),
        ({"output": {"a": 1}}, '{"a":1}', False),
        ({"error": "no"}, "no", True),
        ({"result": [1, 2]}, '{"result":[1,2]}', False),
        ({"output": "x", "more": 1}, '{"output":"x","more":1}', False),
        ({}, "", False),
    ],
)
def test_what_a_function_answers(response: dict[str, Any], text: str, *, is_error: bool) -> None:
    """``output`` or ``error`` alone is the answer, else the whole object is, as documented."""
    body = {
        "contents": [
            *HELLO,
            ASKS,
            {"parts": [{"functionResponse": {"id": "c1", "name": "weather", "response": response}}]},
        ]
    }
    (result,) = read(body).messages[-1].parts
    assert result == ToolResult("c1", "weather", (Text(text),) if text else (), is_error)
    assert again(read(body)) == read(body)


def test_what_chats_keep_of_streams_is_one_turn() -> None:
    """The SDK's chats keep one content for each chunk: texts and thoughts that were cut are joined."""
    signed = base64.b64encode(b"bursar:anthropic:signature:sig+/=").decode()
    chunks = [
        {"text": "I th", "thought": True}, {"text": "ink", "thought": True}, {"text": "", "thought": True, "thoughtSignature": signed},
        {"text": "Hel"}, {"text": "lo"}, {"functionCall": {"id": "c1", "name": "weather", "args": {}}}, {"text": ""},
    ]  # fmt: skip
    contents = [*HELLO, *({"role": "model", "parts": [chunk]} for chunk in chunks)]
    parts = (Thinking("I think", "sig+/=", "anthropic"), Text("Hello"), ToolUse("c1", "weather", "{}"))
    assert read({"contents": contents}).messages[1:] == (Message("assistant", parts),)
    in_one = [*HELLO, {"role": "model", "parts": chunks[:3]}]
    assert read({"contents": in_one}).messages[1].parts == parts[:1]


def test_a_mark_that_says_not_signed_is_no_signature() -> None:
    """Neither on a text nor on a thought, in either of the documented words."""
    other = base64.b64encode(b"context_engineering_is_the_way_to_go").decode()
    marked = said(
        {"text": "a", "thought": True, "thoughtSignature": other},
        {"text": "b", "thoughtSignature": NOT_SIGNED},
        role="model",
    )
    assert marked == [Thinking("a"), Text("b")]


def test_two_texts_of_one_content_stay_two() -> None:
    """Only what chunks cut is joined."""
    assert said({"text": "a"}, {"text": "b"}, role="model") == [Text("a"), Text("b")]


def test_what_another_provider_signed_comes_back_from_the_client_and_does_not_go_to_gemini() -> None:
    """A thought of Anthropic's keeps its signature at a client of Gemini's dialect, in either alphabet of base64."""
    answer = SPEAKER.write_answer(
        conversations.Answered("r", "m", (Thinking("why", "s~?>", "anthropic"), Thinking("", "", "anthropic", "sealed"), Text("x")), "stop", None)
    )  # fmt: skip
    kept = types.GenerateContentResponse.model_validate_json(answer).candidates[0].content
    sent_back = json.loads(kept.model_dump_json(exclude_none=True))
    asked = read({"contents": [*HELLO, sent_back, *HELLO]})
    assert asked.messages[1].parts == (
        Thinking("why", "s~?>", "anthropic"),
        Thinking("", "", "anthropic", "sealed"),
        Text("x"),
    )
    assert written(asked)["contents"][1]["parts"] == [{"text": "x"}]


def test_a_request_that_is_passed_on_loses_what_gemini_did_not_sign() -> None:
    """Gemini refuses signatures that are not its own; nothing else changes, and mostly nothing at all."""
    foreign = base64.b64encode(b"bursar:anthropic:signature:abc")
    for plain in (b'{"contents":[]}', b'{"contents":"YnVyc2Fy' + foreign + b'"}', foreign, b'{"a":"' + foreign + b'"}'):
        assert without_foreign_thoughts(plain) is plain
    own = {"text": "mine", "thought": True, "thoughtSignature": SIGNATURE}
    signature = base64.urlsafe_b64encode(b"bursar:anthropic:hidden:?>~").decode()
    theirs = {"text": "theirs", "thought": True, "thought_signature": signature}
    contents = [*HELLO, {"role": "model", "parts": [own, theirs]}, {"role": "model", "parts": [theirs]}]
    passed = json.loads(without_foreign_thoughts(json.dumps({"contents": contents, "labels": {}}).encode()))
    assert passed == {"contents": [*HELLO, {"role": "model", "parts": [own]}], "labels": {}}


def test_gemini_3_gets_a_mark_on_calls_that_it_did_not_make() -> None:
    """From Gemini 3 on the first call of a turn is signed, or says that it is not; the mark is no signature to read."""
    uses = (ToolUse("a", "f", "{}"), ToolUse("b", "f", "{}"))
    asked = asking(Message("user", (Text("x"),)), Message("assistant", uses), Message("user", (Text("y"),)))
    new, old = written(asked, "gemini-3.8-flash"), written(asked, "gemini-2.5-pro")
    assert [part.get("thoughtSignature") for part in new["contents"][1]["parts"]] == [NOT_SIGNED, None]
    assert not any("thoughtSignature" in part for part in old["contents"][1]["parts"])
    assert again(asked, "gemini-3.8-flash").messages == asked.messages
    signed = replace(
        asked, messages=(asked.messages[0], Message("assistant", (replace(uses[0], signature=SIGNATURE), uses[1])))
    )
    assert [part.get("thoughtSignature") for part in written(signed, "gemini-3-flash-preview")["contents"][1]["parts"]] == [SIGNATURE, None]  # fmt: skip


def test_results_of_one_turn_are_one_content() -> None:
    """Gemini wants as many responses in the next content as there were calls."""
    uses = (ToolUse("a", "f", "{}"), ToolUse("b", "g", "{}"))
    results = [Message("user", (ToolResult(use.id, "", (Text("1"), Text("2"))),)) for use in uses]
    contents = written(asking(Message("user", (Text("x"),)), Message("assistant", uses), *results))["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert [part["functionResponse"] for part in contents[2]["parts"]] == [
        {"id": "a", "name": "f", "response": {"output": "1\n2"}},
        {"id": "b", "name": "g", "response": {"output": "1\n2"}},
    ]


def test_images_that_a_tool_answers() -> None:
    """From Gemini 3 on they are parts of the response; before, nobody can say it."""
    result = ToolResult("a", "f", (Text("see"), Image("image/png", "aGk=")))
    asked = asking(
        Message("user", (Text("x"),)), Message("assistant", (ToolUse("a", "f", "{}"),)), Message("user", (result,))
    )
    assert again(asked, "gemini-3.1-pro-preview").messages == asked.messages
    with pytest.raises(Untranslatable, match="before Gemini 3"):
        written(asked, "gemini-2.5-pro")


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "choice", "names", "strict"),
    [
        (None, ToolChoice(), ["a", "b"], None),
        ({}, ToolChoice(), ["a", "b"], None),
        ({"mode": "auto"}, ToolChoice("auto"), ["a", "b"], None),
        ({"mode": "NONE"}, ToolChoice("none"), ["a", "b"], None),
        ({"mode": "ANY"}, ToolChoice("required"), ["a", "b"], None),
        ({"mode": "ANY", "allowedFunctionNames": ["b"]}, ToolChoice("tool", "b"), ["a", "b"], None),
        ({"mode": "ANY", "allowedFunctionNames": ["b", "a"]}, ToolChoice("required"), ["a", "b"], None),
        ({"mode": "VALIDATED"}, ToolChoice("auto"), ["a", "b"], True),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["a"]}, ToolChoice("auto"), ["a"], True),
    ],
)
def test_how_functions_may_be_called(config: Any, choice: ToolChoice, names: list[str], strict: bool | None) -> None:
    """Every mode of function calling. Where some may be called, and not just one, only those are offered."""
    body: dict[str, Any] = {"contents": HELLO, "tools": {"function_declarations": [{"name": "a"}, {"name": "b"}]}}
    if config is not None:
        body["toolConfig"] = {"functionCallingConfig": config, "includeServerSideToolInvocations": True}
    asked = read(body)
    assert asked.tool_choice == choice
    assert [(tool.name, tool.strict) for tool in asked.tools] == [(name, strict) for name in names]
    assert again(asked) == asked


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"responseMimeType": "text/plain"}, None),
        ({"responseMimeType": "application/json"}, Format()),
        ({"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}, Format(SCHEMA, held=True)),
        (
            {
                "response_mime_type": "application/json",
                "responseSchema": {"type": "ARRAY", "items": {"type": "STRING"}},
            },
            Format({"type": "array", "items": {"type": "string"}}, held=True),
        ),
    ],
)
def test_answers_in_json(config: dict[str, Any], expected: Format | None) -> None:
    """Both kinds of schemas are read; JSON Schema is written."""
    asked = read({"contents": HELLO, "generationConfig": config})
    assert asked.format == expected
    assert again(asked) == asked


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, None),
        ({"type": "array", "items": {"type": "string"}}, None),
    ],
)
def test_what_gemini_holds_an_answer_to_is_strict_where_it_can_be(schema: dict[str, Any], strict: bool | None) -> None:
    """OpenAI's strict mode has no optional properties and no lists at the top: such a schema is asked for, not refused."""
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    body = {"contents": [{"parts": [{"text": "Hello."}]}], "generationConfig": config}
    path = "/v1beta/models/m:generateContent"
    sent = translate_request("gemini", "openai_chat", path, "", json.dumps(body).encode(), "gpt-4.1")
    said = json.loads(sent.body)["response_format"]["json_schema"]
    assert said.get("strict") == strict
    assert said["schema"] == schema | ({"additionalProperties": False} if strict else {})


def test_what_a_function_answers_is_said_in_its_description() -> None:
    """The SDK sends a schema of it for every Python function with an annotation; nobody else has the field."""
    declared = [
        {"name": "a", "description": "Does it", "response": {"type": "STRING"}},
        {"name": "b", "responseJsonSchema": {"type": "string"}},
    ]
    asked = read({"contents": HELLO, "tools": [{"functionDeclarations": declared}]})
    said = 'What it answers follows the JSON Schema {"type":"string"}'
    assert [tool.description for tool in asked.tools] == [f"Does it\n{said}", said]


def test_what_is_said_of_a_format_is_said_of_its_schema() -> None:
    """Gemini has no description of an answer's form beside its schema."""
    schema = written(asking(format=Format({**SCHEMA, "description": "own"}, "name", "said")))["generationConfig"][
        "responseJsonSchema"
    ]
    assert schema == {**SCHEMA, "description": "said\nown"}


def test_googles_schemas_become_json_schema() -> None:
    """Types in upper case, nullable, example, counts and numbers as strings, the order of properties, references."""
    google = {
        "type": "OBJECT",
        "propertyOrdering": ["b", "a"],
        "properties": {
            "a": {"type": "STRING", "nullable": True, "enum": ["x", "y"], "format": "enum", "maxLength": "9"},
            "b": {"type": "integer", "format": "int32", "enum": ["1", "2"], "example": 1, "minimum": 0},
            "any_of": {"anyOf": [{"type": "NUMBER"}, {"ref": "#/defs/Pet"}], "nullable": True},
        },
        "required": ["a"],
        "additionalProperties": False,
        "defs": {"Pet": {"type": "TYPE_UNSPECIFIED", "title": "Pet"}},
    }
    made = json_schema(google, "parameters")
    assert made == {
        "type": "object",
        "properties": {
            "b": {"type": "integer", "format": "int32", "enum": [1, 2], "examples": [1], "minimum": 0},
            "a": {"type": ["string", "null"], "enum": ["x", "y", None], "maxLength": 9},
            "any_of": {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/Pet"}, {"type": "null"}]},
        },
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"Pet": {"title": "Pet"}},
    }
    assert list(made["properties"]) == ["b", "a", "any_of"]


@pytest.mark.parametrize(
    ("model", "effort", "tokens", "expected"),
    [
        ("gemini-2.5-flash", "medium", None, {"thinkingBudget": 8_192}),
        ("gemini-2.5-flash", "none", None, {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "max", None, {"thinkingBudget": 24_576}),
        ("gemini-2.5-pro", "xhigh", None, {"thinkingBudget": 32_768}),
        ("gemini-2.5-pro", "", 60_000, {"thinkingBudget": 32_768}),
        ("gemini-2.5-flash-lite", "", -1, {"thinkingBudget": -1}),
        ("gemini-2.5-flash-lite", "", 0, {"thinkingBudget": 0}),
        ("gemini-2.0-flash", "none", None, {}),
        ("gemini-3-pro-preview", "medium", None, {"thinkingLevel": "low"}),
        ("gemini-3-flash-preview", "minimal", None, {"thinkingLevel": "minimal"}),
        ("gemini-3.1-pro-preview", "minimal", None, {"thinkingLevel": "low"}),
        ("gemini-3.8-flash", "minimal", None, {"thinkingLevel": "low"}),
        ("gemini-4-argon", "max", None, {"thinkingLevel": "high"}),
        ("gemini-4-argon", "", 1_024, {"thinkingLevel": "low"}),
        ("gemini-4-argon", "", 5_000, {"thinkingLevel": "medium"}),
        ("gemini-4-argon", "", 9_000, {"thinkingLevel": "high"}),
        ("gemini-4-argon", "", -1, {}),
        ("gemini-flash-latest", "low", None, {"thinkingLevel": "low"}),
        ("tuned", "low", None, {"thinkingBudget": 1_024}),
        ("tuned", "", 77, {"thinkingBudget": 77}),
    ],
)
def test_thinking_by_model(model: str, effort: str, tokens: int | None, expected: dict[str, Any]) -> None:
    """Levels from Gemini 3 on, budgets before, by Google's own table; never more than was asked for, but for a model's least."""
    assert thinking_config(model, effort, tokens, shown=False) == expected
    shown = {} if model == "gemini-2.0-flash" else {"includeThoughts": True}
    assert thinking_config(model, effort, tokens, shown=True) == expected | shown


def test_levels_are_read_as_efforts() -> None:
    """A level in any case is an effort, the unspecified one says nothing."""
    for level, effort in (("HIGH", "high"), ("minimal", "minimal"), ("THINKING_LEVEL_UNSPECIFIED", "")):
        body = {"contents": HELLO, "generationConfig": {"thinkingConfig": {"thinkingLevel": level}}}
        asked = read(body, "/v1beta/models/gemini-3-flash-preview:generateContent")
        assert asked.effort == effort
        assert again(asked) == asked


def test_a_resolution_of_all_images() -> None:
    """The low resolution of a request is that of its images, and is written for all of them."""
    image = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    body = {"contents": [{"parts": [image]}], "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}}
    asked = read(body)
    assert asked.messages[0].parts == (Image("image/png", "aGk=", detail="low"),)
    assert written(asked)["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert again(asked) == asked
    assert written(asking(Message("user", (Image("image/png", "aGk=", detail="high"),)))).keys() == {"contents"}
    high = {**body, "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_HIGH"}}
    assert read(high).messages[0].parts == (Image("image/png", "aGk="),)


def test_a_resolution_reaches_what_a_tool_answered() -> None:
    """Images are read at it wherever they are."""
    response = {"id": "c1", "name": "weather", "parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]}
    contents = [*HELLO, ASKS, {"role": "user", "parts": [{"functionResponse": response}]}]
    asked = read({"contents": contents, "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}})
    (result,) = asked.messages[-1].parts
    assert result == ToolResult("c1", "weather", (Image("image/png", "aGk=", detail="low"),))
