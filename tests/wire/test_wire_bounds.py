"""What bounds the cost of a request before it is sent, in every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bursar.wire.bounds import CACHE_WRITES, IMAGE_TOKENS_MAX, image_tokens_max
from bursar.wire.dialect import RequestFacts
from bursar.wire.providers import dialect_by_id

DATA = "iVBORw0KGgo" * 100
URL = f"data:image/png;base64,{DATA}"
IMAGE = IMAGE_TOKENS_MAX


def read(dialect_id: str, body: Any, path: str = "/model/m/converse") -> RequestFacts:
    """The facts of a request body."""
    path = "/v1beta/models/gemini-2.5-flash:generateContent" if dialect_id == "gemini" else path
    return dialect_by_id(dialect_id).read_request(path, body if isinstance(body, bytes) else json.dumps(body).encode())


def user(*parts: Any, key: str = "messages") -> dict[str, Any]:
    return {"model": "m", key: [{"role": "user", "content": list(parts)}]}


def gemini(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}], **more}


TEXT_ONLY: list[tuple[str, dict[str, Any]]] = [
    ("openai_chat", user({"type": "text", "text": URL})),
    ("openai_chat", {"model": "m", "messages": [{"role": "tool", "content": json.dumps({"image_url": {"url": URL}})}]}),
    ("openai_responses", {"model": "m", "input": URL}),
    ("openai_responses", user({"type": "input_text", "text": URL}, key="input")),
    ("openai_embeddings", {"model": "m", "input": [URL]}),
    ("anthropic", user({"type": "text", "text": URL})),
    ("anthropic", user({"type": "tool_use", "id": "t", "name": "n", "input": {"type": "base64", "data": DATA}})),
    ("gemini", gemini({"text": URL})),
    ("gemini", gemini({"functionResponse": {"name": "n", "response": {"inlineData": {"data": DATA}}}})),
    ("bedrock_converse", {"messages": [{"content": [{"toolUse": {"input": {"source": {"bytes": DATA}}}}]}]}),
    ("cohere", user({"type": "text", "text": URL})),
    ("anthropic", user({"type": "search_result", "source": "https://x.test", "content": [{"type": "text"}]})),
    ("anthropic", user({"type": "document", "source": {"type": "text", "data": DATA}})),
    ("anthropic", user({"type": "document", "source": {"type": "content", "content": "a"}})),
    ("bedrock_invoke", {"prompt": URL}),
    ("bedrock_invoke", user({"type": "text", "text": URL})),
]


@pytest.mark.parametrize(("dialect_id", "body"), TEXT_ONLY)
def test_base64_in_a_text_is_text(dialect_id: str, body: dict[str, Any]) -> None:
    """A tokenizer reads what a tool or a user wrote, even where it looks like media: every byte counts."""
    facts = read(dialect_id, body)
    assert facts.text_bytes == len(json.dumps(body))
    assert (facts.media_tokens, facts.unseen_input, facts.modalities) == (0, False, ())
    assert facts.searches_max == 0


MEDIA: list[tuple[str, dict[str, Any], int, tuple[str, ...]]] = [
    ("openai_chat", user({"type": "image_url", "image_url": {"url": URL}}), IMAGE, ("image",)),
    ("openai_chat", user({"type": "input_audio", "input_audio": {"data": DATA, "format": "mp3"}}), 142, ("audio",)),
    ("openai_chat", user({"type": "video_url", "video_url": {"url": URL}}), 1133, ("video",)),
    ("openai_chat", user({"type": "file", "file": {"file_data": URL}}), IMAGE, ("image",)),
    ("openai_responses", user({"type": "input_image", "image_url": URL}, key="input"), IMAGE, ("image",)),
    ("openai_responses", user({"type": "input_file", "file_data": URL}, key="input"), IMAGE, ("image",)),
    (
        "openai_responses",
        {"model": "m", "input": [{"type": "function_call_output", "output": [{"image_url": URL}]}]},
        IMAGE,
        ("image",),
    ),
    (
        "openai_responses",
        {"model": "m", "input": [{"type": "image_generation_call", "result": DATA}]},
        IMAGE,
        ("image",),
    ),
    ("anthropic", user({"type": "image", "source": {"type": "base64", "data": DATA}}), IMAGE, ("image",)),
    (
        "anthropic",
        user({"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": DATA}}]}),
        IMAGE,
        ("image",),
    ),
    ("gemini", gemini({"inlineData": {"mimeType": "image/png", "data": DATA}}), IMAGE, ("image",)),
    ("gemini", gemini({"inline_data": {"data": DATA, "mime_type": "audio/mp3"}}), 144, ("audio",)),
    ("gemini", gemini({"inlineData": {"mimeType": "video/mp4", "data": DATA}}), 1146, ("video",)),
    (
        "gemini",
        gemini({"functionResponse": {"parts": [{"inlineData": {"mimeType": "image/png", "data": DATA}}]}}),
        IMAGE,
        ("image",),
    ),
    (
        "bedrock_converse",
        {"messages": [{"content": [{"image": {"format": "png", "source": {"bytes": DATA}}}]}]},
        IMAGE,
        ("image",),
    ),
    (
        "bedrock_converse",
        {"messages": [{"content": [{"toolResult": {"content": [{"image": {"source": {"bytes": DATA}}}]}}]}]},
        IMAGE,
        ("image",),
    ),
    (
        "anthropic",
        user(
            {
                "type": "document",
                "source": {
                    "type": "content",
                    "content": [{"type": "image", "source": {"type": "base64", "data": DATA}}],
                },
            }
        ),
        IMAGE,
        ("image",),
    ),
    (
        "anthropic",
        user(
            {
                "type": "web_fetch_tool_result",
                "content": {"content": {"type": "document", "source": {"type": "base64", "data": DATA}}},
            }
        ),
        IMAGE,
        ("image",),
    ),
    ("openai_responses", user({"type": "input_audio", "input_audio": {"data": DATA}}, key="input"), 142, ("audio",)),
    ("openai_responses", {"model": "m", "input": [{"output": {"image_url": URL}}]}, IMAGE, ("image",)),
    ("openai_embeddings", {"model": "m", "inputs": [{"content": [{"video_base64": URL}]}]}, 1124, ("video",)),
    ("cohere", {"model": "m", "inputs": [{"content": [{"image_url": URL}]}]}, IMAGE, ("image",)),
    ("gemini", {"content": {"parts": {"inlineData": {"mimeType": "image/png", "data": DATA}}}}, IMAGE, ("image",)),
    (
        "bedrock_invoke",
        {**user({"type": "image", "source": {"type": "base64", "data": DATA}}), "anthropic_version": "b"},
        IMAGE,
        ("image",),
    ),
    ("cohere", user({"type": "image_url", "image_url": {"url": URL}}), IMAGE, ("image",)),
    ("cohere", {"model": "m", "images": [URL]}, IMAGE, ("image",)),
    ("openai_embeddings", {"model": "m", "inputs": [{"content": [{"image_base64": URL}]}]}, IMAGE, ("image",)),
]


@pytest.mark.parametrize(("dialect_id", "body", "tokens", "modalities"), MEDIA)
def test_media_is_bounded_and_is_no_text(
    dialect_id: str, body: dict[str, Any], tokens: int, modalities: tuple[str, ...]
) -> None:
    """The base64 leaves the text, and its tokens are bounded by what it is."""
    facts = read(dialect_id, body)
    assert facts.text_bytes <= len(json.dumps(body)) - len(DATA)
    assert abs(facts.media_tokens - tokens) <= 30
    assert facts.modalities == modalities
    assert not facts.unseen_input


@pytest.mark.parametrize(
    ("dialect_id", "body"),
    [
        ("openai_chat", user({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}})),
        ("openai_responses", user({"type": "input_image", "image_url": "https://x.test/a.png"}, key="input")),
        ("anthropic", user({"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}})),
    ],
)
def test_a_linked_image_is_bounded(dialect_id: str, body: dict[str, Any]) -> None:
    """However large it is, an image is scaled down."""
    facts = read(dialect_id, body)
    assert (facts.media_tokens, facts.modalities, facts.unseen_input) == (IMAGE, ("image",), False)


UNSEEN: list[tuple[str, dict[str, Any]]] = [
    ("openai_chat", user({"type": "file", "file": {"file_id": "file-1"}})),
    ("openai_chat", user({"type": "video_url", "video_url": {"url": "https://x.test/v"}})),
    ("openai_chat", {"model": "m", "messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
    ("openai_chat", {"model": "m", "messages": "what"}),
    ("openai_responses", {"model": "m", "previous_response_id": "r"}),
    ("openai_responses", {"model": "m", "conversation": {"id": "c"}}),
    ("openai_responses", {"prompt": {"id": "p"}}),
    ("openai_responses", {"model": "m", "input": [{"type": "item_reference", "id": "i"}]}),
    ("openai_responses", user({"type": "input_image", "file_id": "f"}, key="input")),
    ("openai_responses", user({"type": "input_file", "file_url": "https://x.test/d"}, key="input")),
    ("openai_responses", {"model": "m", "input": 5}),
    ("openai_embeddings", {"model": "m", "inputs": [5]}),
    ("anthropic", user({"type": "document", "source": {"type": "file", "file_id": "f"}})),
    ("anthropic", user({"type": "document", "source": {"type": "url", "url": "https://x.test/d"}})),
    ("anthropic", user({"type": "container_upload", "file_id": "f"})),
    ("anthropic", {"model": "m", "container": "c"}),
    ("anthropic", {"model": "m", "messages": [5]}),
    ("gemini", gemini({"fileData": {"fileUri": "https://x.test/f"}})),
    ("gemini", gemini({"inlineData": "what"})),
    ("gemini", gemini({"text": "a"}, cachedContent="cachedContents/1")),
    ("gemini", {"contents": 5}),
    ("bedrock_converse", {"messages": [{"content": [{"document": {"source": {"s3Location": {"uri": "s3://a"}}}}]}]}),
    ("bedrock_converse", {"messages": [5]}),
    ("cohere", {"model": "m", "conversation_id": "c"}),
    ("generic", {"model": "m"}),
    ("anthropic", user({"type": "document", "source": {"type": "content", "content": [5]}})),
    ("bedrock_invoke", {"messages": [], "max_tokens": -1}),
    ("bedrock_invoke", {"inferenceConfig": {}, "messages": [5]}),
    ("cohere", {"model": "m", "inputs": [5]}),
    ("cohere", {"model": "m", "messages": 5}),
    ("openai_chat", user({"type": "file", "file_id": "f"})),
    ("openai_chat", user({"type": "audio_url", "audio_url": "https://x.test/a"})),
    ("openai_chat", user({"type": "document_url", "document_url": "https://x.test/a"})),
]


@pytest.mark.parametrize(("dialect_id", "body"), UNSEEN)
def test_what_only_the_provider_sees_is_said(dialect_id: str, body: dict[str, Any]) -> None:
    """Content that is not in the bytes has no bound, nor has what nobody understands."""
    assert read(dialect_id, body).unseen_input


@pytest.mark.parametrize(
    ("dialect_id", "body", "searches"),
    [
        ("openai_chat", {"model": "m", "tools": [{"type": "function"}, {"type": "custom"}]}, 0),
        ("openai_chat", {"model": "m", "tools": [{"type": "web_search"}]}, None),
        ("openai_chat", {"model": "m", "web_search_options": {}}, None),
        ("openai_chat", {"model": "gpt-4o-search-preview"}, None),
        ("openai_responses", {"model": "m", "tools": [{"type": "function"}]}, 0),
        ("openai_responses", {"model": "m", "tools": [{"type": "web_search"}]}, None),
        ("openai_responses", {"model": "m", "tools": [{"type": "mcp"}], "max_tool_calls": 4}, 4),
        ("anthropic", {"model": "m", "tools": [{"name": "a"}, {"type": "bash_20250124", "name": "bash"}]}, 0),
        ("anthropic", {"model": "m", "tools": [{"type": "web_search_20250305", "max_uses": 3}]}, 3),
        (
            "anthropic",
            {"model": "m", "tools": [{"type": "web_search_20250305", "max_uses": 3}, {"type": "web_fetch_20250910"}]},
            None,
        ),
        ("anthropic", {"model": "m", "mcp_servers": [{"name": "x"}]}, None),
        ("gemini", gemini(tools=[{"functionDeclarations": []}]), 0),
        ("gemini", gemini(tools=[{"googleSearch": {}}]), 1),
        ("gemini", gemini(tools=[{"urlContext": {}}]), None),
        ("bedrock_converse", {"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}}, None),
        ("cohere", {"model": "m", "connectors": [{"id": "web-search"}]}, None),
        ("generic", {}, None),
    ],
)
def test_calls_at_the_provider_are_limited_or_not(dialect_id: str, body: dict[str, Any], searches: int | None) -> None:
    """None declared, as many as the request allows, or without a limit."""
    assert read(dialect_id, body).searches_max == searches


MARK: dict[str, Any] = {"type": "ephemeral"}
HOUR: dict[str, Any] = {"type": "ephemeral", "ttl": "1h"}
BLOCK: dict[str, Any] = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("dialect_id", "body", "writes"),
    [
        ("openai_chat", {"model": "m"}, CACHE_WRITES[:1]),
        ("openai_responses", {"model": "m"}, CACHE_WRITES[:1]),
        ("openai_embeddings", {"model": "m"}, ()),
        ("anthropic", user(BLOCK), ()),
        ("anthropic", user({**BLOCK, "text": '"cache_control": {"ttl": "1h"}'}), ()),
        ("anthropic", user({**BLOCK, "cache_control": MARK}), CACHE_WRITES[:2]),
        ("anthropic", user({**BLOCK, "cache_control": None}), ()),
        ("anthropic", {"model": "m", "cache_control": MARK}, CACHE_WRITES[:2]),
        ("anthropic", {"model": "m", "system": [{**BLOCK, "cache_control": HOUR}]}, CACHE_WRITES),
        ("anthropic", {"model": "m", "tools": [{"name": "a", "cache_control": HOUR}]}, CACHE_WRITES),
        (
            "anthropic",
            user({"type": "tool_result", "content": [{**BLOCK, "cache_control": MARK}]}),
            CACHE_WRITES[:2],
        ),
        ("bedrock_converse", {"system": [{"text": "a"}, {"cachePoint": {"type": "default"}}]}, CACHE_WRITES[:2]),
        ("bedrock_converse", {"toolConfig": {"tools": [{"cachePoint": {"ttl": "1h"}}]}}, CACHE_WRITES),
        ("bedrock_invoke", {"anthropic_version": "b", "cache_control": HOUR}, CACHE_WRITES),
        ("gemini", gemini({"text": "a"}), ()),
    ],
)
def test_cache_writes_are_foreseen(dialect_id: str, body: dict[str, Any], writes: tuple[str, ...]) -> None:
    """Only where something asks for them, but for the dialects that write unasked."""
    assert read(dialect_id, body).writes_cache == writes


@pytest.mark.parametrize(
    ("dialect_id", "body", "choices"),
    [
        ("openai_chat", {"model": "m", "n": 3}, 3),
        ("openai_chat", {"model": "m", "n": 3.0}, 3),
        ("openai_chat", {"model": "m", "n": None}, 1),
        ("openai_chat", {"model": "m", "n": 2, "best_of": 5, "prompt": ["a", "b"]}, 10),
        ("openai_chat", {"model": "m", "prompt": [1, 2, 3]}, 1),
        ("openai_chat", {"model": "m", "prompt": "a"}, 1),
        ("openai_images", {"model": "m", "n": 4}, 4),
        ("gemini", gemini(generationConfig={"candidateCount": 2}), 2),
        ("gemini", gemini(generation_config={"candidate_count": 2}), 2),
        ("anthropic", {"model": "m"}, 1),
    ],
)
def test_answers_are_counted(dialect_id: str, body: dict[str, Any], choices: int) -> None:
    """Each answer may be as long as the cap."""
    assert read(dialect_id, body).choices == choices


@pytest.mark.parametrize(
    ("dialect_id", "body", "effort"),
    [
        ("openai_chat", {"model": "m", "reasoning_effort": "high"}, "high"),
        ("openai_chat", {"model": "m", "reasoning_effort": "weird"}, ""),
        ("openai_responses", {"model": "m", "reasoning": {"effort": "minimal"}}, "minimal"),
        ("anthropic", {"model": "m", "output_config": {"effort": "max"}}, "max"),
        ("gemini", gemini(generationConfig={"thinkingConfig": {"thinkingLevel": "LOW"}}), "low"),
        ("bedrock_converse", {"additionalModelRequestFields": {"output_config": {"effort": "low"}}}, "low"),
    ],
)
def test_effort_is_read(dialect_id: str, body: dict[str, Any], effort: str) -> None:
    """The word of the request, in small letters; what nobody knows is none."""
    assert read(dialect_id, body).effort == effort


def test_asked_for_modalities_count() -> None:
    """Output that is no text is said too."""
    assert read("openai_chat", {"model": "m", "modalities": ["text", "audio"]}).modalities == ("audio",)
    assert read("gemini", gemini(generationConfig={"responseModalities": ["IMAGE"]})).modalities == ("image",)
    assert read("openai_responses", {"model": "m", "tools": [{"type": "image_generation"}]}).modalities == ("image",)


def test_a_form_is_bounded() -> None:
    """The files of a form are media: images by their number, audio by its size."""
    form = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n2\r\n--b; filename="a.png"\r\n\r\n' + b"x" * 200_000
    images, audio = read("openai_images", form), read("openai_audio", form)
    assert (images.choices, images.media_tokens, images.modalities) == (2, IMAGE, ("image",))
    assert audio.media_tokens >= 50_000
    assert audio.text_bytes < len(form)


def test_hungry_models_bill_more_for_an_image() -> None:
    """gpt-4o-mini's tiles and the large patches of newer models are in the bound."""
    assert image_tokens_max("openai/gpt-4o-mini-2024-07-18") == 48_169
    assert image_tokens_max("gpt-5.4") == 10_000
    assert image_tokens_max("claude-opus-4-7") == image_tokens_max("gpt-4o") == IMAGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "source", "image_url", "parts", "inlineData", "text", "n", "tools"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "dialect_id",
    ["openai_chat", "openai_responses", "anthropic", "gemini", "bedrock_converse", "bedrock_invoke", "cohere"],
)
@example(messages=None, tools=[{"type": []}], extra=None)
@given(messages=JSON, tools=JSON, extra=JSON)
def test_odd_requests_are_bounded_or_unseen(dialect_id: str, messages: Any, tools: Any, extra: Any) -> None:
    """Shapes that nobody expects raise nothing: they are text to the last byte, or said to have no bound."""
    body = {"model": "m", "system": extra, "tools": tools, "n": 1, "toolConfig": {"tools": tools}}
    body |= dict.fromkeys(("messages", "input", "contents"), messages)
    facts = read(dialect_id, body)
    assert facts.unseen_input or facts.text_bytes + facts.media_tokens >= 0
    assert 0 <= facts.text_bytes <= len(json.dumps(body))
