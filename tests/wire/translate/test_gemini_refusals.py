"""What neither a conversation nor Gemini can say is refused, before any money is spent, with the field and a reason."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.wire.dialect import BadRequest
from bursar.wire.translate.conversation import (
    Asked,
    Format,
    Image,
    Message,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Untranslatable,
)
from bursar.wire.translate.gemini import SPEAKER

PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
HELLO = [{"role": "user", "parts": [{"text": "Hello"}]}]


def read(body: dict[str, Any], path: str = PATH, query: str = "") -> Asked:
    return SPEAKER.read_request(path, query, json.dumps(body).encode())


def asking(*messages: Message, **more: Any) -> Asked:
    return Asked("m", messages or (Message("user", (Text("Hello"),)),), **more)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("cachedContent", {"cachedContent": "cachedContents/abc"}),
    ("cached_content", {"cached_content": "cachedContents/abc"}),
    ("safetySettings[0]", {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_LOW_AND_ABOVE"}]}),
    ("serviceTier", {"serviceTier": "flex"}),
    ("modelArmorConfig", {"modelArmorConfig": {"promptTemplateName": "x"}}),
    ("continuationToken", {"continuationToken": "abc"}),
    ("somethingNew", {"somethingNew": 1}),
    ("tools[0].googleSearch", {"tools": [{"googleSearch": {}}]}),
    ("tools[0].codeExecution", {"tools": [{"codeExecution": {}}]}),
    ("tools[0].url_context", {"tools": [{"url_context": {}}]}),
    ("tools[0].functionDeclarations[0].behavior", {"tools": [{"functionDeclarations": [{"name": "a", "behavior": "NON_BLOCKING"}]}]}),
    ("tools[0].functionDeclarations[0].parameters.contains", {"tools": [{"functionDeclarations": [{"name": "a", "parameters": {"contains": {}}}]}]}),
    ("toolConfig.retrievalConfig", {"toolConfig": {"retrievalConfig": {"languageCode": "en"}}}),
    ("generationConfig.responseModalities", {"generationConfig": {"responseModalities": ["TEXT", "IMAGE"]}}),
    ("generationConfig.responseMimeType", {"generationConfig": {"responseMimeType": "text/x.enum"}}),
    ("generationConfig.responseLogprobs", {"generationConfig": {"responseLogprobs": True}}),
    ("generationConfig.speechConfig", {"generationConfig": {"speechConfig": {}}}),
    ("generationConfig.mediaResolution", {"generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_MEDIUM"}}),
    ("generationConfig.thinkingConfig.new", {"generationConfig": {"thinkingConfig": {"new": 1}}}),
    ("systemInstruction.parts[0].inlineData", {"systemInstruction": {"parts": [{"inlineData": {}}]}}),
]  # fmt: skip
REFUSED_PARTS: list[tuple[str, dict[str, Any]]] = [
    (".fileData", {"fileData": {"fileUri": "gs://bucket/a.png", "mimeType": "image/png"}}),
    (".fileData", {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a"}}),
    (".fileData", {"fileData": {"fileUri": "https://youtu.be/abc"}}),
    (".fileData", {"fileData": {"fileUri": "https://a.example/a.mp3", "mimeType": "audio/mpeg"}}),
    (".inlineData", {"inlineData": {"mimeType": "video/mp4", "data": "aGk="}}),
    (".mediaResolution", {"inlineData": {"mimeType": "application/pdf", "data": "aGk="}, "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"}}),
    (".mediaResolution", {"inlineData": {"mimeType": "image/png", "data": "aGk="}, "mediaResolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}}),
    (".executableCode", {"executableCode": {"code": "1", "language": "PYTHON"}}),
    (".videoMetadata", {"text": "x", "videoMetadata": {"fps": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "more"), REFUSED)
def test_what_nobody_else_can_say_is_refused(field: str, more: dict[str, Any]) -> None:
    """Before any money is spent, with the field as it was spelled and a reason."""
    with pytest.raises(Untranslatable) as refused:
        read({"contents": HELLO, **more})
    assert refused.value.field == field
    assert len(refused.value.message) > 10


@pytest.mark.parametrize(("end", "part"), REFUSED_PARTS)
def test_parts_that_nobody_else_can_say_are_refused(end: str, part: dict[str, Any]) -> None:
    """The same inside the contents."""
    with pytest.raises(Untranslatable) as refused:
        read({"contents": [{"role": "user", "parts": [part]}]})
    assert refused.value.field == f"contents[0].parts[0]{end}"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("", []),
        ("contents", {}),
        ("contents", {"contents": "Hello"}),
        ("contents", {"contents": [{"parts": [{"text": ""}]}]}),
        ("contents[0].role", {"contents": [{"role": "system", "parts": [{"text": "x"}]}]}),
        ("contents[0].parts[0].text", {"contents": [{"parts": [{"text": 1}]}]}),
        ("contents[0].parts[0].functionResponse", {"contents": [{"parts": [{"functionResponse": {"name": "a", "response": {}}}]}]}),
        ("generationConfig.temperature", {"contents": HELLO, "generationConfig": {"temperature": "hot"}}),
        ("generationConfig.maxOutputTokens", {"contents": HELLO, "generationConfig": {"maxOutputTokens": 1.5}}),
        ("generationConfig.stopSequences", {"contents": HELLO, "generationConfig": {"stopSequences": "x"}}),
        ("generationConfig.responseSchema", {"contents": HELLO, "generationConfig": {"responseSchema": {}, "responseJsonSchema": {}}}),
        ("generationConfig.thinkingConfig", {"contents": HELLO, "generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 1}}}),
        ("toolConfig.functionCallingConfig.allowedFunctionNames", {"contents": HELLO, "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["a"]}}}),
        ("tools[0].functionDeclarations[0].parameters", {"contents": HELLO, "tools": [{"functionDeclarations": [{"name": "a", "parameters": {}, "parametersJsonSchema": {}}]}]}),
    ],
)  # fmt: skip
def test_what_google_would_refuse_is_a_bad_request(field: str, body: Any) -> None:
    """The field is named in it."""
    with pytest.raises(BadRequest) as refused:
        SPEAKER.read_request(PATH, "", json.dumps(body).encode())
    assert refused.value.field == field


BAD_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("generationConfig.thinkingConfig.thinkingLevel", {"generationConfig": {"thinkingConfig": {"thinkingLevel": "huge"}}}),
    ("generationConfig.thinkingConfig.thinkingBudget", {"generationConfig": {"thinkingConfig": {"thinkingBudget": -2}}}),
    ("generationConfig.thinkingConfig.includeThoughts", {"generationConfig": {"thinkingConfig": {"includeThoughts": 1}}}),
    ("generationConfig.responseJsonSchema", {"generationConfig": {"responseJsonSchema": "x"}}),
    ("generationConfig.responseSchema.type", {"generationConfig": {"responseSchema": {"type": ["STRING"]}}}),
    ("generationConfig.responseSchema.anyOf", {"generationConfig": {"responseSchema": {"anyOf": {}}}}),
    ("generationConfig.responseSchema.properties", {"generationConfig": {"responseSchema": {"properties": []}}}),
    ("generationConfig.responseSchema.enum", {"generationConfig": {"responseSchema": {"enum": "x"}}}),
    ("generationConfig.responseSchema.enum", {"generationConfig": {"responseSchema": {"type": "INTEGER", "enum": ["x"]}}}),
    ("toolConfig.functionCallingConfig.mode", {"toolConfig": {"functionCallingConfig": {"mode": "MUST"}}}),
    ("tools[0].functionDeclarations[0].name", {"tools": [{"functionDeclarations": [{"description": "x"}]}]}),
]  # fmt: skip
BAD_PARTS: list[tuple[str, dict[str, Any]]] = [
    (".inlineData", {"inlineData": {"mimeType": "image/png"}}),
    (".functionCall.name", {"functionCall": {"args": {}}}),
    (".functionCall.args", {"functionCall": {"name": "a", "args": []}}),
]


@pytest.mark.parametrize(("field", "more"), BAD_SETTINGS)
def test_settings_that_google_would_refuse(field: str, more: dict[str, Any]) -> None:
    """The field is named in the bad request."""
    with pytest.raises(BadRequest) as refused:
        read({"contents": HELLO, **more})
    assert refused.value.field == field


@pytest.mark.parametrize(("end", "part"), BAD_PARTS)
def test_parts_that_google_would_refuse(end: str, part: dict[str, Any]) -> None:
    """The same inside the contents."""
    with pytest.raises(BadRequest) as refused:
        read({"contents": [{"role": "model", "parts": [part]}]})
    assert refused.value.field == f"contents[0].parts[0]{end}"


def test_what_a_function_answers_is_an_object_with_images_and_documents() -> None:
    """Anything else is refused."""
    call = {"role": "model", "parts": [{"functionCall": {"name": "a"}}]}

    def answered(**response: Any) -> dict[str, Any]:
        return {"contents": [call, {"parts": [{"functionResponse": {"name": "a", **response}}]}]}

    with pytest.raises(BadRequest):
        read(answered(response="x"))
    with pytest.raises(Untranslatable):
        read(answered(response={}, parts=[{"inlineData": {"mimeType": "audio/wav", "data": "aGk="}}]))
    with pytest.raises(Untranslatable):
        read(answered(response={}, scheduling="SILENT"))


def test_other_operations_and_other_encodings_are_refused() -> None:
    """Only answers are translated, in JSON."""
    for path in ("/v1beta/models/gemini-2.5-flash:countTokens", "/v1beta/models"):
        with pytest.raises(Untranslatable):
            read({"contents": HELLO}, path)
    with pytest.raises(Untranslatable):
        read({"contents": HELLO}, query="alt=proto")
    with pytest.raises(BadRequest):
        SPEAKER.read_request(PATH, "", b'{"contents": [')
    with pytest.raises(BadRequest):
        SPEAKER.read_request(PATH, "", b'{"contents":' + b"[" * 100_000)


@pytest.mark.parametrize(
    ("field", "model", "asked"),
    [
        ("choices", "gemini-2.5-flash", asking(choices=2)),
        ("tool_choice", "gemini-2.5-flash", asking(tool_choice=ToolChoice("required"))),
        ("stop", "gemini-2.5-flash", asking(stop=("1", "2", "3", "4", "5", "6"))),
        ("temperature", "gemini-2.5-flash", asking(temperature=2.1)),
        ("presence_penalty", "gemini-2.5-flash", asking(presence_penalty=2.0)),
        ("frequency_penalty", "gemini-4-argon", asking(frequency_penalty=0.1)),
        ("seed", "gemini-2.5-flash", asking(seed=2**40)),
        ("tool_choice.parallel", "gemini-2.5-flash", asking(tools=(Tool("a"),), tool_choice=ToolChoice(parallel=False))),
        ("tools.name", "gemini-2.5-flash", asking(tools=(Tool("1a"),))),
        ("format", "gemini-2.5-flash", asking(tools=(Tool("a"),), format=Format())),
        ("effort", "gemini-2.5-pro", asking(effort="none")),
        ("effort", "gemini-3-flash-preview", asking(effort="none")),
        ("effort", "gemini-2.0-flash", asking(effort="low")),
        ("thinking_tokens", "gemini-4-argon", asking(thinking_tokens=0)),
        ("thinking_tokens", "gemini-2.5-flash-lite", asking(thinking_tokens=100)),
        ("model", "gemini-2.5-flash-image", asking()),
        ("messages", "gemini-4-argon", asking(Message("user", (Text("a"),)), Message("assistant", (Text("b"),)))),
        ("messages", "gemini-2.5-flash", asking(Message("user", (Text(""),)))),
        ("messages", "gemini-2.5-flash", asking(Message("user", (ToolResult("a", "", ()),)))),
        ("messages", "gemini-2.5-flash", asking(Message("user", (Text("a"),)), Message("user", (Text("b"),), system=True))),
        ("messages.name", "gemini-2.5-flash", asking(Message("user", (Text("a"),), "Ann"))),
        ("messages.arguments", "gemini-2.5-flash", asking(Message("assistant", (ToolUse("a", "f", "[1"),)))),
        ("detail", "gemini-2.5-flash", asking(Message("user", (Image(url="u", detail="low"), Image(url="u"))))),
    ],
)  # fmt: skip
def test_what_gemini_cannot_say_is_refused(field: str, model: str, asked: Asked) -> None:
    """By the model that is to answer."""
    with pytest.raises(Untranslatable) as refused:
        SPEAKER.write_request(asked, model)
    assert refused.value.field == field


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
    ["contents", "parts", "text", "role", "functionCall", "name", "args", "tools", "functionDeclarations", "generationConfig", "parameters", "type", "properties"]
), inner, max_size=4), max_leaves=12))  # fmt: skip
def test_no_body_breaks_the_reader(body: Any) -> None:
    """Whatever strangers send is read, refused with a reason, or a bad request."""
    try:
        asked = SPEAKER.read_request(PATH, "", msgspec.json.encode(body))
    except (BadRequest, Untranslatable):
        return
    assert asked.messages
