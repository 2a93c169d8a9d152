"""Anthropic: messages, whole and streamed, and count_tokens, as the API answers them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final, cast

from ._cache import Block
from ._draw import CHARACTERS_PER_TOKEN, count_tokens
from ._models import ANTHROPIC_MODELS, dated
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
    part_text,
    sse,
    to_json,
)

__all__ = ["ask_messages", "count", "list_models", "stream_messages", "whole_messages"]

_FINISH: Final = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use"}
_EFFORT_TOKENS: Final = {"low": 512, "medium": 1_024, "high": 2_048, "xhigh": 4_096, "max": 8_192}
_MARKS_MAX: Final = 4
_TTLS_S: Final = {"5m": 300, "1h": 3_600}
_TEXT_STEP: Final = 3 * CHARACTERS_PER_TOKEN
_ARGUMENT_STEP: Final = 16
_THINKING_LEAST: Final = 32


class _Prompt:
    """The prompt in the order in which it is cached: tools, system, messages; and where its blocks end."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.blocks: list[Block] = []
        self._length = 0

    def add(self, text: str, control: Any = None) -> None:
        self.parts.append(text)
        self._length += len(text)
        self.blocks.append(Block(self._length, _ttl_s(control)))

    def add_content(self, role: str, content: Any, field: str) -> None:
        if isinstance(content, str):
            self.add(f"<{role}>{content}")
            return
        for block in objects(content, field):
            control = block.get("cache_control")
            if control is not None:
                block = {name: value for name, value in block.items() if name != "cache_control"}
            self.add(f"<{role}>{_block_text(block)}", control)


def _ttl_s(control: Any) -> int | None:
    if not isinstance(control, dict):
        return None
    ttl = cast("dict[str, Any]", control).get("ttl", "5m")
    if ttl not in _TTLS_S:
        raise RequestError(f"cache_control.ttl: Input should be '5m' or '1h', got {ttl!r}", "cache_control.ttl")
    return _TTLS_S[ttl]


def _block_text(block: dict[str, Any]) -> str:
    match block.get("type"):
        case "text":
            return content_text(block.get("text"))
        case "tool_result":
            return content_text(block.get("content"))
        case "thinking":
            return content_text(block.get("thinking"))
        case _:
            return part_text(block)


def _prompt(body: dict[str, Any]) -> _Prompt:
    prompt = _Prompt()
    for tool in objects(body.get("tools") or [], "tools"):
        bare = {name: value for name, value in tool.items() if name != "cache_control"}
        prompt.add(to_json(bare).decode(), tool.get("cache_control"))
    if body.get("system"):
        prompt.add_content("system", body["system"], "system")
    messages = objects(body.get("messages"), "messages")
    if not messages:
        raise RequestError("messages: at least one message is required", "messages")
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in ("user", "assistant"):
            raise RequestError(f"messages.{number}.role: Input should be 'user' or 'assistant'", "messages")
        prompt.add_content(role, message.get("content"), f"messages.{number}.content")
    if body.get("cache_control") is not None and prompt.blocks:
        prompt.blocks[-1] = Block(prompt.blocks[-1].end, _ttl_s(body["cache_control"]))
    marks = sum(block.mark_ttl_s is not None for block in prompt.blocks)
    if marks > _MARKS_MAX:
        raise RequestError(
            f"A maximum of {_MARKS_MAX} blocks with cache_control may be provided. Found {marks}.", "cache_control"
        )
    return prompt


def ask_messages(body: dict[str, Any], model: str) -> Asked:
    output_max = limit(body.get("max_tokens"), "max_tokens")
    if output_max is None:
        raise RequestError("max_tokens: Field required", "max_tokens")
    prompt = _prompt(body)
    return Asked(
        model=model,
        prompt="".join(prompt.parts),
        stream=body.get("stream") is True,
        body=body,
        tools=_callable(body),
        output_max=output_max,
        reasoning=_reasoning(body, output_max),
        blocks=tuple(prompt.blocks),
        tier="priority" if body.get("service_tier") == "priority" else "standard",
    )


def _callable(body: dict[str, Any]) -> tuple[Tool, ...]:
    last = cast("dict[str, Any]", body["messages"][-1])
    content = last.get("content")
    answered = isinstance(content, list) and any(
        cast("dict[str, Any]", block).get("type") == "tool_result" for block in cast("list[Any]", content)
    )
    choice = cast("dict[str, Any]", body.get("tool_choice") or {})
    if last.get("role") != "user" or answered or choice.get("type") == "none":
        return ()
    return tuple(
        Tool(str(tool.get("name")), tool["input_schema"])
        for tool in cast("list[dict[str, Any]]", body.get("tools") or [])
        if "input_schema" in tool and choice.get("name") in (None, tool.get("name"))
    )


def _reasoning(body: dict[str, Any], output_max: int) -> Reasoning | None:
    thinking = cast("dict[str, Any]", body.get("thinking") or {})
    match thinking.get("type"):
        case "enabled":
            budget = limit(thinking.get("budget_tokens"), "thinking.enabled.budget_tokens")
            if budget is None or budget < 1_024:
                raise RequestError("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
            if budget >= output_max:
                raise RequestError("`max_tokens` must be greater than `thinking.budget_tokens`.", "max_tokens")
            return Reasoning(_THINKING_LEAST, budget, shown=True)
        case "adaptive":
            effort = cast("dict[str, Any]", body.get("output_config") or {}).get("effort", "high")
            return Reasoning(_THINKING_LEAST, _EFFORT_TOKENS.get(effort, 2_048), shown=True)
        case _:
            return None


def _usage(asked: Asked, reply: Reply, output_tokens: int) -> dict[str, Any]:
    usage = reply.usage
    answer: dict[str, Any] = {
        "input_tokens": usage.uncached_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": output_tokens,
        "service_tier": asked.tier,
        "inference_geo": asked.body.get("inference_geo") or "not_available",
    }
    if asked.body.get("speed"):
        answer["speed"] = asked.body["speed"]
    return answer


def _final_usage(asked: Asked, reply: Reply) -> dict[str, Any]:
    usage = _usage(asked, reply, reply.usage.output_tokens)
    if reply.usage.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": reply.usage.reasoning_tokens}
    return usage


def _message(asked: Asked, stamp: Stamp, content: list[Any], stop_reason: str | None, usage: Any) -> dict[str, Any]:
    message = {
        "model": dated(asked.model),
        "id": stamp.id("msg_01", 22),
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }
    if usage is None:
        del message["usage"]
    return message


def _content(reply: Reply, stamp: Stamp) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.usage.reasoning_tokens:
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": stamp.id("Eo", 58, "signature")})
    if reply.tool is not None:
        blocks.append(
            {
                "type": "tool_use",
                "id": stamp.id("toolu_01", 22),
                "name": reply.tool.name,
                "input": reply.tool.arguments,
            }
        )
    elif reply.text:
        blocks.append({"type": "text", "text": reply.text})
    return blocks


def whole_messages(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> bytes:
    usage = spoil(_final_usage(asked, reply))
    return to_json(_message(asked, stamp, _content(reply, stamp), _FINISH[reply.finish], usage))


def stream_messages(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> list[Piece]:
    message = _message(asked, stamp, [], None, spoil(_usage(asked, reply, 1)))
    pieces: list[Piece] = [(0, sse("message_start", {"type": "message_start", "message": message}))]
    for index, block in enumerate(_content(reply, stamp)):
        pieces += _block_pieces(index, block, reply)
    delta: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _FINISH[reply.finish], "stop_sequence": None},
    }
    usage = _final_usage(asked, reply)
    for name in ("cache_creation", "service_tier", "inference_geo", "speed"):
        usage.pop(name, None)
    usage = spoil(usage)
    if usage is not None:
        delta["usage"] = usage
    pieces += [(0, sse("message_delta", delta)), (0, sse("message_stop", {"type": "message_stop"}))]
    pieces.insert(min(2, len(pieces)), (0, b'event: ping\ndata: {"type": "ping"}\n\n'))
    return pieces


def _block_pieces(index: int, block: dict[str, Any], reply: Reply) -> list[Piece]:
    match block["type"]:
        case "thinking":
            opened: dict[str, Any] = {"type": "thinking", "thinking": "", "signature": ""}
            pieces = _deltas(index, "thinking_delta", "thinking", block["thinking"], _TEXT_STEP)
            signed = {"type": "signature_delta", "signature": block["signature"]}
            pieces.append((0, _delta(index, signed)))
        case "tool_use":
            opened = {**block, "input": {}}
            assert reply.tool is not None
            pieces = [(0, _delta(index, {"type": "input_json_delta", "partial_json": ""}))]
            pieces += _deltas(index, "input_json_delta", "partial_json", reply.tool.arguments_json, _ARGUMENT_STEP)
        case _:
            opened = {"type": "text", "text": ""}
            pieces = _deltas(index, "text_delta", "text", block["text"], _TEXT_STEP)
    start = {"type": "content_block_start", "index": index, "content_block": opened}
    stop = {"type": "content_block_stop", "index": index}
    return [(0, sse("content_block_start", start)), *pieces, (0, sse("content_block_stop", stop))]


def _deltas(index: int, kind: str, field: str, text: str, step: int) -> list[Piece]:
    pieces: list[Piece] = []
    for start in range(0, len(text), step):
        part = text[start : start + step]
        pieces.append((count_tokens(part), _delta(index, {"type": kind, field: part})))
    return pieces


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return sse("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})


def count(body: dict[str, Any]) -> bytes:
    return to_json({"input_tokens": count_tokens("".join(_prompt(body).parts))})


def list_models() -> bytes:
    rows = [
        {
            "type": "model",
            "id": model.dated,
            "display_name": model.title,
            "created_at": datetime.fromtimestamp(model.created, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        for model in ANTHROPIC_MODELS
    ]
    return to_json({"data": rows, "has_more": False, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]})
