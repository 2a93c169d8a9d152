"""Requests and answers to measure with, of the size and shape of common ones. Made here, recorded nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = [
    "ANTHROPIC",
    "CHAT",
    "CHAT_REQUEST",
    "GEMINI",
    "MODEL",
    "RESPONSE_ID",
    "STREAM",
    "STREAM_REQUEST",
    "dumps",
    "stream_events",
]

MODEL = "gpt-4o-mini"
RESPONSE_ID = "0123456789abcdef0123456789abcdef"
_CREATED = 1_780_000_000


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


CHAT_REQUEST = dumps(
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
            {"role": "user", "content": "How is the weather in Lisbon today, and should I take an umbrella with me?"},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
)
STREAM_REQUEST = CHAT_REQUEST[:-1] + b',"stream":true}'

_USAGE = {
    "prompt_tokens": 37,
    "completion_tokens": 31,
    "total_tokens": 68,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}

CHAT = dumps(
    {
        "id": f"chatcmpl-{RESPONSE_ID}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "It is mild and sunny in Lisbon today, so you can leave the umbrella at home and enjoy it.",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_0000000000",
    }
)


def stream_events() -> Iterator[bytes]:
    """33 server-sent events: role, 29 pieces of text, finish, usage, end."""
    common = {
        "id": f"chatcmpl-{RESPONSE_ID}",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": "gpt-4o-mini-2024-07-18",
    }
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": f" word{number}"}, None) for number in range(29)]
    deltas += [({}, "stop")]
    for delta, finish in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        yield b"data: " + dumps({**common, "choices": [choice], "usage": None}) + b"\n\n"
    yield b"data: " + dumps({**common, "choices": [], "usage": _USAGE}) + b"\n\n"
    yield b"data: [DONE]\n\n"


STREAM = b"".join(stream_events())

ANTHROPIC = dumps(
    {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": "It is mild and sunny in Lisbon today, so leave the umbrella at home."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 41,
            "cache_creation_input_tokens": 1_200,
            "cache_read_input_tokens": 8_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 1_200, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 29,
            "service_tier": "standard",
        },
    }
)

GEMINI = dumps(
    {
        "candidates": [
            {
                "content": {"parts": [{"text": "It is mild and sunny in Lisbon today."}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
                "avgLogprobs": -0.12,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 37,
            "candidatesTokenCount": 9,
            "totalTokenCount": 58,
            "thoughtsTokenCount": 12,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 37}],
        },
        "modelVersion": "gemini-2.5-flash",
        "responseId": "r1",
    }
)
