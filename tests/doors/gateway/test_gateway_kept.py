"""What a running gateway keeps of a provider's answers: whole ones, and nothing that only looks like one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, FLASH, GENERATE, GPT, HAIKU, MESSAGES, RESPONSES, House, Script, gateway, scripted

from bursar.config import Cache, ProviderSettings, Settings

COLD: dict[str, Any] = {"temperature": 0}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
TOKENS = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}


@asynccontextmanager
async def caching(path: Path) -> AsyncIterator[tuple[House, Script]]:
    """A gateway that keeps everything it may, in front of a provider that says what it is told to."""
    async with scripted() as script:
        providers = {name: ProviderSettings(base_url=f"{script.url}/v1") for name in ("openai", "anthropic")}
        providers["google"] = ProviderSettings(base_url=f"{script.url}/v1beta")
        settings = Settings(routes={"*": {"cache": {"ttl": "1h"}}}, cache=Cache(store="memory"), providers=providers)
        async with gateway(path, settings=settings) as house:
            yield house, script


async def twice(house: House, path: str, body: dict[str, Any]) -> list[str]:
    """What the cache was for two equal requests."""
    headers = (
        {"x-api-key": "k", "anthropic-version": "2023-06-01"} if "messages" in path else {"authorization": "Bearer x"}
    )
    answers = [await house.client.post(path, headers=headers, json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    return [answer.headers["x-bursar-cache"] for answer in answers]


def chat(*given: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    choices = [
        {"index": index, "finish_reason": finish, "message": {"role": "assistant", "content": None, **message}}
        for index, (finish, message) in enumerate(given)
    ]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": GPT, "choices": choices, "usage": USAGE}


def response(part: dict[str, Any]) -> dict[str, Any]:
    output = [{"type": "message", "role": "assistant", "content": [part]}]
    return {
        "id": "r",
        "object": "response",
        "status": "completed",
        "model": GPT,
        "output": output,
        "usage": TOKENS,
    }


def gemini(*finishes: str) -> dict[str, Any]:
    candidates = [
        {"content": {"role": "model", "parts": [{"text": "a"}]}, "finishReason": finish, "index": index}
        for index, finish in enumerate(finishes)
    ]
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
    return {"candidates": candidates, "usageMetadata": usage, "modelVersion": FLASH}


SAID: dict[str, Any] = {"content": "a"}
ASK_CHAT = ("/v1/chat/completions", {**CHAT, **COLD})
ASK_RESPONSES = ("/v1/responses", {**RESPONSES, **COLD})
ASK_GEMINI = (f"/v1beta/models/{FLASH}:generateContent", {**GENERATE, "generationConfig": COLD})


@pytest.mark.parametrize(
    ("ask", "body", "kept"),
    [
        (ASK_CHAT, chat(("stop", SAID)), True),
        (ASK_CHAT, chat(("stop", {"refusal": "I cannot"})), False),
        (ASK_CHAT, chat(("stop", SAID), ("stop", SAID)), True),
        (ASK_CHAT, chat(("stop", SAID), ("length", SAID)), False),
        (ASK_CHAT, chat(("stop", SAID), ("content_filter", {})), False),
        (ASK_RESPONSES, response({"type": "output_text", "text": "a"}), True),
        (ASK_RESPONSES, response({"type": "refusal", "refusal": "I cannot"}), False),
        (ASK_GEMINI, gemini("STOP", "STOP"), True),
        (ASK_GEMINI, gemini("STOP", "MAX_TOKENS"), False),
    ],
)
async def test_a_whole_answer_is_kept_if_all_of_it_is_good(
    tmp_path: Path, ask: tuple[str, dict[str, Any]], body: dict[str, Any], kept: bool
) -> None:
    """A refusal, and one bad choice of several, are not given again; the client has them all the same."""
    async with caching(tmp_path) as (house, script):
        script.body = json.dumps(body).encode()
        assert await twice(house, *ask) == ["miss", "exact" if kept else "miss"]


def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": GPT, "choices": [choice]}


def sse(*events: dict[str, Any] | str) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return b"".join(f"data: {text}\n\n".encode() for text in texts)


LAST = ({**chunk(0, {}), "choices": [], "usage": USAGE}, "[DONE]")
MESSAGE = (
    {
        "type": "message_start",
        "message": {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": HAIKU,
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 5, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
)
STREAM_CHAT = ("/v1/chat/completions", {**CHAT, **COLD, "stream": True})
STREAM_MESSAGES = ("/v1/messages", {**MESSAGES, **COLD, "stream": True})


@pytest.mark.parametrize(
    ("ask", "events", "kept"),
    [
        (STREAM_CHAT, (chunk(0, SAID), chunk(0, {}, "stop"), *LAST), True),
        (STREAM_CHAT, (chunk(0, SAID), chunk(0, {}, "stop"), LAST[0]), False),
        (STREAM_CHAT, (chunk(0, {"refusal": "I cannot"}), chunk(0, {}, "stop"), *LAST), False),
        (STREAM_CHAT, (chunk(1, SAID, "length"), chunk(0, SAID, "stop"), *LAST), False),
        (STREAM_CHAT, (chunk(1, SAID), chunk(0, SAID, "stop"), *LAST), False),
        (STREAM_MESSAGES, MESSAGE, True),
        (STREAM_MESSAGES, MESSAGE[:-1], False),
    ],
)
async def test_a_stream_is_kept_if_it_came_to_its_good_end(
    tmp_path: Path, ask: tuple[str, dict[str, Any]], events: tuple[dict[str, Any] | str, ...], kept: bool
) -> None:
    """Its last event is part of it: a client that is given it again would wait for that one."""
    async with caching(tmp_path) as (house, script):
        script.headers, script.body = [("content-type", "text/event-stream")], sse(*events)
        assert await twice(house, *ask) == ["miss", "exact" if kept else "miss"]
