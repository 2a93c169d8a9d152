"""What the tests of Anthropic's dialect say and hear: requests, answers, streams, and the official client."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from typing import Any

import client_sdks as sdks
import pytest

from bursar.wire.translate.anthropic import SPEAKER
from bursar.wire.translate.conversation import (
    Answered,
    Asked,
    Event,
    Message,
    Text,
    Untranslatable,
)

THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
CACHED = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
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


def shown(*parts: Any) -> Asked:
    """A request with these parts."""
    return replace(ask(), messages=(Message("user", parts),))


def deep(levels: int) -> dict[str, Any]:
    """A schema of lists in lists."""
    return {"type": "array", "items": deep(levels - 1)} if levels else {"type": "string"}


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


def whole(answered: Answered) -> Any:
    """The answer as the official client reads it, checked against its types."""
    return sdks.whole_with_sdk("anthropic", SPEAKER.write_answer(answered))


def stream(events: list[Event]) -> bytes:
    writer = SPEAKER.writer(model=HAIKU, created_s=0, asks_usage=True)
    assert writer.content_type.startswith("text/event-stream")
    return b"".join([*map(writer.write, events), writer.close()])


def events_of(chunks: list[bytes]) -> list[Event]:
    reader = SPEAKER.reader()
    return [*(event for chunk in chunks for event in reader.feed(chunk)), *reader.finish()]


def accumulated(data: bytes) -> Any:
    """The final message of the official client's own accumulator over this stream, checked against its types."""
    return sdks.whole_of_stream("anthropic", data)
