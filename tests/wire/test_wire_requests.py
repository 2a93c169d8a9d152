"""What a request says, what it must say, and how little of it changes on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.scopes import LABELS_MAX, VALUE_LENGTH_MAX
from bursar.wire.anthropic import user_scope
from bursar.wire.dialect import BadRequest, RequestFacts
from bursar.wire.providers import dialect_by_id
from bursar.wire.splice import members, splice

CHAT = dialect_by_id("openai_chat")
UUID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


def read(dialect_id: str, body: dict[str, Any] | bytes, path: str = "/v1/x") -> RequestFacts:
    """The facts of a request body."""
    return dialect_by_id(dialect_id).read_request(path, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_chat_request() -> None:
    """Model, stream, cap, tier and who it is for."""
    body = {
        "model": "gpt-5-mini",
        "stream": True,
        "max_completion_tokens": 100,
        "max_tokens": 50,
        "stream_options": {"include_usage": True},
        "service_tier": "flex",
        "user": "u-1",
        "metadata": {"task_id": "t-1", "session_id": "s-1", "agent": "coder", "team": "search", "tier": "gold", "n": 3},
        "messages": [{"role": "user", "content": "x" * 1000}],
    }
    facts = read("openai_chat", body)
    assert facts == RequestFacts(
        operation="chat_completions",
        model="gpt-5-mini",
        stream=True,
        output_cap=100,
        asks_usage=True,
        user="u-1",
        session="s-1",
        task="t-1",
        agent="coder",
        team="search",
        labels=(("n", "3"), ("tier", "gold")),
        terms=(("service_tier", "flex"),),
        input_tokens_estimate=-(-len(json.dumps(body)) // 4),
        text_bytes=len(json.dumps(body)),
        writes_cache=("cache_write_tokens",),
    )


@pytest.mark.parametrize(
    ("dialect_id", "path", "body", "expected"),
    [
        ("openai_responses", "/v1/responses", {"model": "m", "max_output_tokens": 9}, ("responses", "m", False, 9)),
        ("openai_responses", "/v1/responses", {"prompt": {"id": "p"}}, ("responses", "", False, None)),
        ("openai_embeddings", "/v1/embeddings", {"model": "m", "input": "x"}, ("embeddings", "m", False, 0)),
        ("openai_chat", "/openai/deployments/gpt-4o/chat/completions", {}, ("chat_completions", "gpt-4o", False, None)),
        ("anthropic", "/v1/messages", {"model": "m", "max_tokens": 9, "stream": True}, ("messages", "m", True, 9)),
        ("anthropic_count_tokens", "/v1/messages/count_tokens", {"model": "m"}, ("count_tokens", "m", False, None)),
        (
            "anthropic",
            "/v1/projects/p/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict",
            {"max_tokens": 5},
            ("messages", "claude-sonnet-4-5-20250929", True, 5),
        ),
        (
            "gemini",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            {"generationConfig": {"maxOutputTokens": 9}},
            ("generate_content", "gemini-2.5-pro", True, 9),
        ),
        (
            "gemini",
            "/v1beta/models/gemini-2.5-pro:generateContent",
            {"generation_config": {"max_output_tokens": 8}},
            ("generate_content", "gemini-2.5-pro", False, 8),
        ),
        ("gemini", "/v1beta/models/e:batchEmbedContents", {}, ("embeddings", "e", False, None)),
        ("gemini", "/v1beta/models/e:countTokens", {}, ("count_tokens", "e", False, None)),
        (
            "bedrock_converse",
            "/model/us.amazon.nova-2-lite-v1%3A0/converse-stream",
            {"inferenceConfig": {"maxTokens": 9}},
            ("converse", "us.amazon.nova-2-lite-v1:0", True, 9),
        ),
        (
            "bedrock_invoke",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.anthropic.claude-x/invoke",
            {"max_tokens": 7},
            ("passthrough", "us.anthropic.claude-x", False, 7),
        ),
        (
            "bedrock_invoke",
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fabc/invoke",
            {},
            ("passthrough", "", False, None),
        ),
        ("cohere", "/v2/chat", {"model": "command-r", "stream": True}, ("chat_completions", "command-r", True, None)),
        (
            "openai_images",
            "/v1/images/generations",
            {"model": "gpt-image-1"},
            ("passthrough", "gpt-image-1", False, None),
        ),
        ("generic", "/v1/rerank", {"model": "r", "stream": False}, ("passthrough", "r", False, None)),
        ("generic", "/v1/files", b"--form", ("passthrough", "", False, None)),
    ],
)
def test_each_dialect_reads_its_requests(dialect_id: str, path: str, body: Any, expected: tuple[Any, ...]) -> None:
    """Operation, model, stream and output cap, from the body and the path."""
    facts = read(dialect_id, body, path)
    assert (facts.operation, facts.model, facts.stream, facts.output_cap) == expected


def test_a_form_names_its_model() -> None:
    """Transcriptions come as multipart forms."""
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--'
    assert read("openai_audio", form).model == "whisper-1"
    assert dialect_by_id("openai_audio").prepare(form, model="other", ask_usage=False) is form


@pytest.mark.parametrize(
    ("dialect_id", "body", "field"),
    [
        ("openai_chat", b"{", ""),
        ("openai_chat", b"[]", ""),
        ("openai_chat", b'{"messages": []}', "model"),
        ("openai_chat", b'{"model": ""}', "model"),
        ("openai_chat", b'{"model": 5}', "model"),
        ("openai_chat", b'{"model": "m", "stream": "yes"}', "stream"),
        ("openai_chat", b'{"model": "m", "max_tokens": -1}', "max_tokens"),
        ("openai_chat", b'{"model": "m", "stream_options": {"include_usage": 1}}', "stream_options.include_usage"),
        ("openai_responses", b"{}", "model"),
        ("openai_embeddings", b"{}", "model"),
        ("anthropic", b'{"max_tokens": 1.5, "model": "m"}', "max_tokens"),
        ("anthropic", b"{}", "model"),
        ("gemini", b"{}", "path"),
        ("gemini", b'{"generationConfig": {"maxOutputTokens": "9"}}', "generationConfig.maxOutputTokens"),
        ("bedrock_converse", b"{}", "path"),
        ("cohere", b"{}", "model"),
    ],
)
def test_a_bad_request_names_its_field(dialect_id: str, body: bytes, field: str) -> None:
    """What cannot be understood is refused before any money is held."""
    with pytest.raises(BadRequest) as caught:
        read(dialect_id, body, "/v1/x")
    assert caught.value.field == field
    assert caught.value.message


@pytest.mark.parametrize("dialect_id", ["openai_chat", "openai_responses", "anthropic", "gemini", "cohere"])
@given(body=st.binary(max_size=80))
def test_garbage_is_a_bad_request(dialect_id: str, body: bytes) -> None:
    """Bytes that are no request raise nothing but BadRequest."""
    with pytest.raises(BadRequest):
        read(dialect_id, b"\x00" + body, "/v1beta/models/m:generateContent")


@pytest.mark.parametrize(
    ("user_id", "expected"),
    [
        (f"user_{'ab' * 32}_account_{UUID}_session_{UUID[::-1]}", (UUID, UUID[::-1])),
        (f"user_{'ab' * 32}_account__session_{UUID}", ("ab" * 32, UUID)),
        (json.dumps({"device_id": "d", "account_uuid": UUID, "session_id": "s"}), (UUID, "s")),
        (json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s"}), ("d", "s")),
        ('{"device_id": broken', ("", "")),
        ("customer-7", ("customer-7", "")),
        (7, ("", "")),
        (None, ("", "")),
    ],
)
def test_claude_codes_user_id_is_taken_apart(user_id: Any, expected: tuple[str, str]) -> None:
    """Account and session, never the raw blob; a plain value is the user."""
    assert user_scope(user_id) == expected
    facts = read("anthropic", {"model": "m", "metadata": {"user_id": user_id}})
    assert (facts.user, facts.session) == expected
    assert facts.labels == ()


def test_metadata_is_bounded() -> None:
    """A provider accepts odd metadata, so it is cut to the limits of a scope instead of refused."""
    many = {f"k{i}": "v" * 1000 for i in range(100)} | {"nested": {"a": 1}, "none": None, "yes": True}
    facts = read("openai_chat", {"model": "m", "user": "u" * 1000, "metadata": many})
    assert len(facts.labels) == LABELS_MAX
    assert all(len(value) == VALUE_LENGTH_MAX for _, value in facts.labels)
    assert len(facts.user) == VALUE_LENGTH_MAX
    assert read("openai_chat", {"model": "m", "user": 5, "metadata": "x"}).labels == ()


def test_prepare_changes_nothing_it_need_not() -> None:
    """The very same object comes back when every value is as wanted."""
    for body in (b'{"model": "m"}', b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'):
        assert CHAT.prepare(body, model="m", ask_usage=True) is body
        assert CHAT.prepare(body, model=None, ask_usage=True) is body
    for dialect_id in ("openai_responses", "openai_embeddings", "anthropic", "gemini", "bedrock_converse", "cohere"):
        body = b'{ "model" : "m", "stream": true }'
        assert dialect_by_id(dialect_id).prepare(body, model="m", ask_usage=True) is body


def test_prepare_touches_only_its_keys() -> None:
    """Spacing, numbers and escapes stay as the client wrote them."""
    body = b'{ "a" : 1.50e1,\n "model":"x" , "stream" : true, "s":"\\u00e9\\"}" }\n'
    assert CHAT.prepare(body, model="y", ask_usage=True) == (
        b'{ "a" : 1.50e1,\n "model":"y" , "stream" : true, "s":"\\u00e9\\"}","stream_options":{"include_usage":true} }\n'
    )
    given_options = b'{"model":"x","stream":true,"stream_options": { "include_obfuscation" : false }}'
    assert CHAT.prepare(given_options, model=None, ask_usage=True) == (
        b'{"model":"x","stream":true,"stream_options": { "include_obfuscation" : false,"include_usage":true }}'
    )
    null_options = b'{"model":"x","stream":true,"stream_options":null}'
    assert CHAT.prepare(null_options, model=None, ask_usage=True) == (
        b'{"model":"x","stream":true,"stream_options":{"include_usage":true}}'
    )
    with pytest.raises(BadRequest):
        CHAT.prepare(b"{", model="y", ask_usage=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(
    fields=st.dictionaries(st.text(max_size=8), JSON, max_size=6),
    changes=st.dictionaries(st.text(max_size=8), JSON, max_size=3),
    layout=st.sampled_from([(None, (",", ":")), (2, (",", ": ")), (None, (" , ", " : "))]),
    ascii_only=st.booleans(),
)
def test_splicing_is_exact(
    fields: dict[str, Any], changes: dict[str, Any], layout: tuple[int | None, tuple[str, str]], ascii_only: bool
) -> None:
    """The result holds the changes; every other member keeps its bytes and its place."""
    indent, separators = layout
    body = json.dumps(fields, indent=indent, separators=separators, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    raw = {key: json.dumps(value).encode() for key, value in changes.items()}
    out = splice(body, raw)
    assert json.loads(out) == {**fields, **changes}
    before, after = members(body), members(out)
    assert [key for key in after if key in before] == list(before)
    assert all(bytes(after[key]) == bytes(before[key]) for key in before if key not in changes)
    kept = splice(out, {key: bytes(before[key]) for key in changes if key in before})
    if all(key in before for key in changes):
        assert kept == body


def test_a_repeated_key_is_written_anew() -> None:
    """Readers take the last value; so does the result, once."""
    assert splice(b'{"a":1, "b":2, "a":3}', {"b": b"9"}) in (b'{"a":3,"b":9}', b'{"b":9,"a":3}')
    assert splice(b"{}", {"a": b"1"}) == b'{"a":1}'
    assert splice(b" { } ", {"a": b"1"}) == b'{"a":1}'
