"""Hand-written answers in every dialect, shaped as the providers document them."""

from __future__ import annotations

import json
from typing import Any

from bursar.wire.eventstream import encode_frame

CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 90,
        "total_tokens": 1290,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 0},
    },
    "service_tier": "default",
}

RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-5-2025-08-07",
    "error": None,
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "oslo"}},
        {"type": "web_search_call", "status": "completed", "action": {"type": "open_page", "url": "https://x.test"}},
        {"type": "file_search_call", "status": "completed", "queries": ["oslo"]},
        {"type": "function_call", "name": "weather", "arguments": "{}"},
        {"type": "message", "content": [{"type": "output_text", "text": "Rain."}]},
    ],
    "service_tier": "flex",
    "usage": {
        "input_tokens": 500,
        "input_tokens_details": {"cached_tokens": 128},
        "output_tokens": 200,
        "output_tokens_details": {"reasoning_tokens": 150},
        "total_tokens": 700,
    },
}

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "Rain."}, {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 2000,
        "cache_creation_input_tokens": 700,
        "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 60,
        "output_tokens_details": {"thinking_tokens": 25},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
        "service_tier": "standard",
        "inference_geo": "us",
    },
}

GEMINI: dict[str, Any] = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [{"text": "Rain."}, {"functionCall": {"name": "weather", "args": {}}}],
            },
            "finishReason": "STOP",
            "groundingMetadata": {"webSearchQueries": ["oslo weather", "oslo rain", ""]},
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 300,
        "cachedContentTokenCount": 100,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 50,
        "toolUsePromptTokenCount": 30,
        "totalTokenCount": 400,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 200},
            {"modality": "AUDIO", "tokenCount": 60},
            {"modality": "DOCUMENT", "tokenCount": 40},
        ],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "AUDIO", "tokenCount": 10}],
        "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 30}],
        "trafficType": "ON_DEMAND_PRIORITY",
    },
    "modelVersion": "gemini-2.5-flash",
    "responseId": "g1",
}

CONVERSE: dict[str, Any] = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [{"text": "Rain."}, {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {}}}],
        }
    },
    "stopReason": "tool_use",
    "usage": {
        "inputTokens": 40,
        "outputTokens": 9,
        "totalTokens": 549,
        "cacheReadInputTokens": 300,
        "cacheWriteInputTokens": 200,
        "cacheDetails": [{"ttl": "5m", "inputTokens": 150}, {"ttl": "1h", "inputTokens": 50}],
    },
    "metrics": {"latencyMs": 12},
}

COHERE: dict[str, Any] = {
    "id": "co-1",
    "finish_reason": "COMPLETE",
    "message": {
        "role": "assistant",
        "content": [{"type": "text", "text": "Rain."}],
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    },
    "usage": {
        "billed_units": {"input_tokens": 13, "output_tokens": 61},
        "tokens": {"input_tokens": 542, "output_tokens": 63},
    },
}

EMBEDDING: dict[str, Any] = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}


def sse(*events: dict[str, Any] | str, named: bool = False) -> bytes:
    """Server-sent events of these objects, with their type as the event's name where the dialect sends it."""
    out: list[str] = []
    for event in events:
        text = event if isinstance(event, str) else json.dumps(event, separators=(",", ":"))
        name = f"event: {event['type']}\n" if named and isinstance(event, dict) else ""
        out.append(f"{name}data: {text}\n\n")
    return "".join(out).encode()


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One chunk of a chat stream; without a delta it has no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "gpt-4o-2024-08-06",
        "choices": choices,
        **more,
    }


CHAT_USAGE_CHUNK = chunk(usage=CHAT["usage"])
CHAT_CHUNKS = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Let me look. "}),
    chunk({"content": "Grüße aus Oslo \u2603"}),
    chunk({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Oslo"}'}}]}),
    chunk({}, "tool_calls"),
)
CHAT_STREAM = sse(*CHAT_CHUNKS, CHAT_USAGE_CHUNK, "[DONE]")

RESPONSE_STREAM = sse(
    {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "usage": None, "output": []}},
    {"type": "response.output_item.added", "item": {"type": "web_search_call"}},
    {"type": "response.output_text.delta", "delta": "Ra"},
    {"type": "response.output_text.delta", "delta": "in."},
    {"type": "response.completed", "response": RESPONSE},
    named=True,
)

MESSAGE_START = {**MESSAGE, "content": [], "stop_reason": None}
MESSAGE_START["usage"] = {**MESSAGE["usage"], "output_tokens": 1}
del MESSAGE_START["usage"]["server_tool_use"], MESSAGE_START["usage"]["output_tokens_details"]
MESSAGE_EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "message_start", "message": MESSAGE_START},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Rain."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "weather"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {
            "output_tokens": 60,
            "output_tokens_details": {"thinking_tokens": 25},
            "server_tool_use": {"web_search_requests": 2},
        },
    },
    {"type": "message_stop"},
)
MESSAGE_STREAM = sse(*MESSAGE_EVENTS, named=True)

GEMINI_EVENTS: tuple[dict[str, Any], ...] = (
    {
        "candidates": [{"content": {"parts": [{"text": "Ra"}]}}],
        "usageMetadata": {"promptTokenCount": 300, "candidatesTokenCount": 2, "totalTokenCount": 302},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "g1",
    },
    GEMINI,
)
GEMINI_STREAM = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in GEMINI_EVENTS)
GEMINI_ARRAY = b"[" + b",\r\n".join(json.dumps(event, indent=1).encode() for event in GEMINI_EVENTS) + b"\n]"

CONVERSE_EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("messageStart", {"role": "assistant", "p": "ab"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Rain."}}),
    ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t1", "name": "weather"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": "{}"}}}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": CONVERSE["usage"], "metrics": {"latencyMs": 1}}),
)


def frames(*events: tuple[str, dict[str, Any]]) -> bytes:
    """A Bedrock event stream of these events."""
    return b"".join(
        encode_frame(
            {":event-type": kind, ":content-type": "application/json", ":message-type": "event"},
            json.dumps(payload).encode(),
        )
        for kind, payload in events
    )


CONVERSE_STREAM = frames(*CONVERSE_EVENTS)

COHERE_STREAM = sse(
    {"type": "message-start", "id": "co-1", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Rain."}}}},
    {
        "type": "tool-call-start",
        "index": 0,
        "delta": {"message": {"tool_calls": {"id": "c", "function": {"name": "weather", "arguments": ""}}}},
    },
    {"type": "tool-call-delta", "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}}},
    {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": COHERE["usage"]}},
    named=True,
)
