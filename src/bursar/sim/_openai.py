"""OpenAI: chat completions and embeddings, whole and streamed, as the API answers them."""

from __future__ import annotations

import base64
import math
import re
from array import array
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final, cast
from zlib import crc32

from ._draw import CHARACTERS_PER_TOKEN, count_tokens
from ._models import OPENAI_MODELS, dated, dimensions_of, reasons
from ._reply import (
    Asked,
    Piece,
    Reasoning,
    Reply,
    RequestError,
    Spoil,
    Stamp,
    Tool,
    content_text,
    limit,
    objects,
    to_json,
)

__all__ = [
    "ask_chat",
    "embedding",
    "embeddings",
    "list_models",
    "openai_reasoning",
    "stream_chat",
    "tier",
    "whole_chat",
]

_FINISH: Final = {"stop": "stop", "length": "length", "tool": "tool_calls"}
_EFFORTS: Final = {
    "none": None,
    "minimal": None,
    "low": Reasoning(64, 256, 64),
    "medium": Reasoning(128, 1_024, 64),
    "high": Reasoning(512, 3_072, 64),
    "xhigh": Reasoning(1_024, 6_144, 64),
}
_TIERS: Final = ("default", "flex", "priority", "scale")
_ARGUMENT_STEP: Final = 16
_DAY_S: Final = 86_400


def tier(body: dict[str, Any]) -> str:
    asked = body.get("service_tier")
    return asked if asked in _TIERS else "default"


def openai_reasoning(model: str, effort: Any) -> Reasoning | None:
    """OpenAI counts hidden reasoning in steps of 64 tokens, more of them with a higher effort."""
    if not reasons(model):
        return None
    if effort is not None and effort not in _EFFORTS:
        raise RequestError(f"Unsupported value: '{effort}' is not a reasoning effort of '{model}'.", "reasoning_effort")
    return _EFFORTS[effort or "medium"]


def ask_chat(body: dict[str, Any], model: str) -> Asked:
    messages = objects(body.get("messages"), "messages")
    if not messages:
        raise RequestError("Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages")
    if body.get("n", 1) not in (1, None):
        raise RequestError("The simulator gives one choice: 'n' must be 1.", "n")
    parts: list[str] = []
    tools = objects(body.get("tools") or [], "tools")
    if tools:
        parts.append(to_json(tools).decode())
    for message in messages:
        parts.append(f"<{message.get('role')}>{content_text(message.get('content'))}")
        if message.get("tool_calls"):
            parts.append(to_json(message["tool_calls"]).decode())
    return Asked(
        model=model,
        prompt="".join(parts),
        stream=body.get("stream") is True,
        body=body,
        tools=_callable(tools, body.get("tool_choice")) if messages[-1].get("role") == "user" else (),
        output_max=limit(body.get("max_completion_tokens"), "max_completion_tokens")
        or limit(body.get("max_tokens"), "max_tokens"),
        reasoning=openai_reasoning(model, body.get("reasoning_effort")),
        cache_ttl_s=_DAY_S if body.get("prompt_cache_retention") == "24h" else 300,
        tier=tier(body),
    )


def _callable(tools: list[dict[str, Any]], choice: Any) -> tuple[Tool, ...]:
    if choice == "none":
        return ()
    forced = cast("dict[str, Any]", choice).get("function", {}).get("name") if isinstance(choice, dict) else None
    found: list[Tool] = []
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, dict):
            function = cast("dict[str, Any]", function)
            if forced in (None, function.get("name")):
                found.append(Tool(str(function.get("name")), function.get("parameters") or {}))
    return tuple(found)


def _usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _fingerprint(stamp: Stamp) -> str:
    return f"fp_{stamp.seed & 0xFFFF_FFFF_FF:010x}"


def whole_chat(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
    if reply.tool is not None:
        function = {"name": reply.tool.name, "arguments": reply.tool.arguments_json}
        message["content"] = None
        message["tool_calls"] = [{"id": stamp.id("call_", 24), "type": "function", "function": function}]
    answer: dict[str, Any] = {
        "id": stamp.id("chatcmpl-", 29),
        "object": "chat.completion",
        "created": int(stamp.now),
        "model": dated(asked.model),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[reply.finish]}],
        "usage": spoil(_usage(reply)),
        "service_tier": asked.tier,
        "system_fingerprint": _fingerprint(stamp),
    }
    if answer["usage"] is None:
        del answer["usage"]
    return to_json(answer)


def stream_chat(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> list[Piece]:
    head = to_json(
        {
            "id": stamp.id("chatcmpl-", 29),
            "object": "chat.completion.chunk",
            "created": int(stamp.now),
            "model": dated(asked.model),
            "service_tier": asked.tier,
            "system_fingerprint": _fingerprint(stamp),
        }
    )[:-1]
    options = asked.body.get("stream_options")
    with_usage = isinstance(options, dict) and cast("dict[str, Any]", options).get("include_usage") is True
    end = b',"usage":null}\n\n' if with_usage else b"}\n\n"
    before = b"data: %s," % head + b'"choices":[{"index":0,"delta":'
    running = b',"logprobs":null,"finish_reason":null}]' + end

    pieces: list[Piece] = []
    thought = reply.usage.reasoning_tokens
    if reply.tool is None:
        pieces.append((thought, before + b'{"role":"assistant","content":"","refusal":null}' + running))
        data = reply.text.encode()
        prefix, suffix = before + b'{"content":"', b'"}' + running
        pieces += [
            (1, b"%s%s%s" % (prefix, data[start : start + CHARACTERS_PER_TOKEN], suffix))
            for start in range(0, len(data), CHARACTERS_PER_TOKEN)
        ]
    else:
        function = {"name": reply.tool.name, "arguments": ""}
        call = {"index": 0, "id": stamp.id("call_", 24), "type": "function", "function": function}
        opening = to_json({"role": "assistant", "content": None, "tool_calls": [call], "refusal": None})
        pieces.append((thought, before + opening + running))
        text = reply.tool.arguments_json
        for start in range(0, len(text), _ARGUMENT_STEP):
            part = {"index": 0, "function": {"arguments": text[start : start + _ARGUMENT_STEP]}}
            tokens = _ARGUMENT_STEP // CHARACTERS_PER_TOKEN
            pieces.append((tokens, before + to_json({"tool_calls": [part]}) + running))
    finish = _FINISH[reply.finish].encode()
    pieces.append((0, before + b'{},"logprobs":null,"finish_reason":"%s"}]' % finish + end))
    usage = spoil(_usage(reply)) if with_usage else None
    if usage is not None:
        pieces.append((0, b'data: %s,"choices":[],"usage":%s}\n\n' % (head, to_json(usage))))
    pieces.append((0, b"data: [DONE]\n\n"))
    return pieces


def embeddings(body: dict[str, Any], model: str, spoil: Spoil) -> tuple[int, bytes]:
    """Tokens and the answer to ``/v1/embeddings``."""
    given = body.get("input")
    texts: list[Any] = cast("list[Any]", given) if isinstance(given, list) else [given]
    if texts and all(isinstance(item, int) for item in texts):
        texts = [texts]
    if not texts or not all(texts) or not all(isinstance(item, (str, list)) for item in texts):
        raise RequestError("'input' must be a string or an array of strings or tokens, none of them empty.", "input")
    dimensions = limit(body.get("dimensions"), "dimensions") or dimensions_of(model)
    tokens, rows = 0, list[dict[str, Any]]()
    for index, item in enumerate(texts):
        text = item if isinstance(item, str) else " ".join(map(str, cast("list[Any]", item)))
        tokens += count_tokens(text) if isinstance(item, str) else len(cast("list[Any]", item))
        vector: Any = embedding(text, dimensions)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(array("f", vector).tobytes()).decode()
        rows.append({"object": "embedding", "index": index, "embedding": vector})
    usage = spoil({"prompt_tokens": tokens, "total_tokens": tokens})
    answer = {"object": "list", "data": rows, "model": dated(model), "usage": usage}
    return tokens, to_json({name: value for name, value in answer.items() if value is not None})


def embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector by feature hashing of words and pairs of words: texts that share words are near each other."""
    words = re.findall(r"\w+", text.lower()) or [text]
    vector = [0.0] * dimensions
    for feature in (*words, *map(" ".join, pairwise(words))):
        number = crc32(feature.encode("utf-8", "surrogatepass"))
        vector[number % dimensions] += 1.0 if number & 0x8000_0000 else -1.0
    if not any(vector):
        vector[blake2b(text.encode("utf-8", "surrogatepass")).digest()[0] % dimensions] = 1.0
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / norm for value in vector]


def list_models() -> bytes:
    rows = [
        {"id": name, "object": "model", "created": model.created, "owned_by": "system"}
        for model in OPENAI_MODELS
        for name in dict.fromkeys((model.name, model.dated))
    ]
    return to_json({"object": "list", "data": rows})
