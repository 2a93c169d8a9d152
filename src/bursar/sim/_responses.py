"""OpenAI's Responses API, whole and streamed. Answered responses are remembered for ``previous_response_id``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, cast

from ._draw import CHARACTERS_PER_TOKEN
from ._models import dated
from ._openai import openai_reasoning, tier
from ._reply import (
    Asked,
    Piece,
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

__all__ = ["Conversations", "ask_responses", "stream_responses", "whole_responses"]

_CONVERSATIONS_MAX: Final = 256
_ARGUMENT_STEP: Final = 16
_DAY_S: Final = 86_400


class Conversations:
    """What was said before a response, by its id; the oldest are forgotten."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[str, str] = OrderedDict()

    def clear(self) -> None:
        self._prompts.clear()

    def keep(self, response_id: str, asked: Asked, reply: Reply) -> None:
        said = reply.text if reply.tool is None else reply.tool.arguments_json
        self._prompts[response_id] = f"{asked.prompt}<assistant>{said}"
        if len(self._prompts) > _CONVERSATIONS_MAX:
            self._prompts.popitem(last=False)

    def before(self, response_id: Any) -> str:
        if response_id is None:
            return ""
        if response_id not in self._prompts:
            raise RequestError(f"Previous response with id '{response_id}' not found.", "previous_response_id")
        return self._prompts[response_id]


def ask_responses(body: dict[str, Any], model: str, conversations: Conversations) -> Asked:
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given, "input")
    if not items:
        raise RequestError("Invalid 'input': empty array. Expected an array with minimum length 1.", "input")
    parts: list[str] = []
    before = conversations.before(body.get("previous_response_id"))
    tools = objects(body.get("tools") or [], "tools")
    if before:
        parts.append(before)
    elif tools:
        parts.append(to_json(tools).decode())
    if isinstance(body.get("instructions"), str):
        parts.append(f"<system>{body['instructions']}")
    for item in items:
        if "role" in item:
            parts.append(f"<{item['role']}>{content_text(item.get('content'))}")
        elif item.get("type") == "function_call_output":
            parts.append(f"<tool>{content_text(item.get('output'))}")
        elif item.get("type") != "reasoning":
            parts.append(f"<{item.get('type')}>{part_text(item)}")
    choice = body.get("tool_choice")
    forced = cast("dict[str, Any]", choice).get("name") if isinstance(choice, dict) else None
    callable_tools = tuple(
        Tool(str(tool.get("name")), tool.get("parameters") or {})
        for tool in tools
        if tool.get("type") == "function" and forced in (None, tool.get("name"))
    )
    reasoning = body.get("reasoning")
    effort = cast("dict[str, Any]", reasoning).get("effort") if isinstance(reasoning, dict) else None
    return Asked(
        model=model,
        prompt="".join(parts),
        stream=body.get("stream") is True,
        body=body,
        tools=callable_tools if items[-1].get("role") == "user" and choice != "none" else (),
        output_max=limit(body.get("max_output_tokens"), "max_output_tokens"),
        reasoning=openai_reasoning(model, effort),
        cache_ttl_s=_DAY_S if body.get("prompt_cache_retention") == "24h" else 300,
        tier=tier(body),
    )


def _usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _response(asked: Asked, stamp: Stamp) -> dict[str, Any]:
    """The response object as it is when the work begins."""
    body = asked.body
    reasoning = cast("dict[str, Any]", body.get("reasoning") or {})
    return {
        "id": stamp.id("resp_", 50),
        "object": "response",
        "created_at": int(stamp.now),
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": asked.output_max,
        "max_tool_calls": None,
        "metadata": body.get("metadata") or {},
        "model": dated(asked.model),
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": body.get("service_tier") or "auto",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
        "user": body.get("user"),
    }


def _output(asked: Asked, reply: Reply, stamp: Stamp, status: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if reply.usage.reasoning_tokens:
        item: dict[str, Any] = {"id": stamp.id("rs_", 50), "type": "reasoning", "summary": []}
        if "reasoning.encrypted_content" in (asked.body.get("include") or []):
            item["encrypted_content"] = stamp.id("gAAAAA", 54, "encrypted")
        items.append(item)
    if reply.tool is not None:
        items.append(
            {
                "id": stamp.id("fc_", 50),
                "type": "function_call",
                "status": status,
                "arguments": reply.tool.arguments_json,
                "call_id": stamp.id("call_", 24),
                "name": reply.tool.name,
            }
        )
    elif reply.text:
        text: dict[str, Any] = {"type": "output_text", "annotations": [], "logprobs": [], "text": reply.text}
        items.append(
            {"id": stamp.id("msg_", 50), "type": "message", "status": status, "role": "assistant", "content": [text]}
        )
    return items


def _ended(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> dict[str, Any]:
    status = "incomplete" if reply.finish == "length" else "completed"
    response = _response(asked, stamp)
    response |= {
        "status": status,
        "completed_at": int(stamp.now) if status == "completed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": _output(asked, reply, stamp, status),
        "service_tier": asked.tier,
        "usage": spoil(_usage(reply)),
    }
    return response


def whole_responses(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> bytes:
    return to_json(_ended(asked, reply, stamp, spoil))


def stream_responses(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> list[Piece]:
    pieces: list[Piece] = []

    def send(name: str, tokens: int = 0, **fields: Any) -> None:
        pieces.append((tokens, sse(name, {"type": name, "sequence_number": len(pieces), **fields})))

    send("response.created", response=_response(asked, stamp))
    send("response.in_progress", response=_response(asked, stamp))
    for index, item in enumerate(_output(asked, reply, stamp, "in_progress")):
        match item["type"]:
            case "reasoning":
                send("response.output_item.added", output_index=index, item=item)
                done = item
                pieces[-1] = (reply.usage.reasoning_tokens, pieces[-1][1])
            case "function_call":
                _stream_call(send, index, item)
                done = {**item, "status": "completed"}
            case _:
                done = _stream_text(send, index, item, reply)
        send("response.output_item.done", output_index=index, item=done)
    ended = _ended(asked, reply, stamp, spoil)
    send(f"response.{ended['status']}", response=ended)
    return pieces


def _stream_call(send: Any, index: int, item: dict[str, Any]) -> None:
    send("response.output_item.added", output_index=index, item={**item, "arguments": ""})
    at: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    text = item["arguments"]
    for start in range(0, len(text), _ARGUMENT_STEP):
        tokens = _ARGUMENT_STEP // CHARACTERS_PER_TOKEN
        send("response.function_call_arguments.delta", tokens, **at, delta=text[start : start + _ARGUMENT_STEP])
    send("response.function_call_arguments.done", **at, arguments=text)


def _stream_text(send: Any, index: int, item: dict[str, Any], reply: Reply) -> dict[str, Any]:
    part: dict[str, Any] = item["content"][0]
    empty = {**part, "text": ""}
    at: dict[str, Any] = {"item_id": item["id"], "output_index": index, "content_index": 0}
    send("response.output_item.added", output_index=index, item={**item, "content": []})
    send("response.content_part.added", **at, part=empty)
    text = reply.text
    for start in range(0, len(text), CHARACTERS_PER_TOKEN):
        delta = text[start : start + CHARACTERS_PER_TOKEN]
        send("response.output_text.delta", 1, **at, delta=delta, logprobs=[])
    send("response.output_text.done", **at, text=text, logprobs=[])
    send("response.content_part.done", **at, part=part)
    return {**item, "status": "incomplete" if reply.finish == "length" else "completed"}
