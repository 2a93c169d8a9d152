"""Answers of OpenAI's chat completions, whole, both ways.

Rule 1: a refusal has a field of its own, and ends with "stop". Where nothing but the fact of it is known, as at the end of
        a stream, the field is empty and the answer ends as filtered.
Rule 2: tool uses decide: some end with "stop" although they ask for tools, as OpenAI itself does where one is forced.
Rule 3: usage is inclusive, as ours. What cannot be true is unknown, never zero.
Rule 4: a tool use without an id gets one of its answer's: the same for the same, and another in every turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from bursar.core.usage import Usage
from bursar.wire.dialect import UNREADABLE, error_text, mapping
from bursar.wire.openai_usage import ChatUsage, Quirks, chat_usage

from .conversation import Answered, Finish, Part, Text, Thinking, ToolUse
from .openai_thoughts import extra_content, read_thoughts, signature_of, write_thoughts

__all__ = [
    "FINISH",
    "ToolCall",
    "content_parts",
    "finish_of",
    "made_id",
    "read_answer",
    "stated_usage",
    "usage_object",
    "write_answer",
]

FINISH: Final[Mapping[Finish, str]] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
    "refusal": "content_filter",
}  # fmt: skip
"""Finish reasons, as they are written."""

_READ: Final[Mapping[str, Finish]] = {
    "stop": "stop", "length": "length", "content_filter": "content_filter", "tool_calls": "stop", "function_call": "stop",
    "model_length": "length",  # Mistral: the context is full
}  # fmt: skip


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct, gc=False):
    """A tool call, whole or a piece of it."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Message(Struct):
    content: Any = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: list[ToolCall] | None = None


class _Choice(Struct):
    message: _Message
    finish_reason: str | None = None


class _Answer(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: Any = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_USAGE: Final = msgspec.json.Decoder(ChatUsage | None)


def stated_usage(raw: msgspec.Raw, quirks: Quirks) -> Usage | None:
    """What a usage object says, None where it says nothing that can be true."""
    if not raw:
        return None
    try:
        stated = _USAGE.decode(raw)
        return None if stated is None else chat_usage(stated, quirks)
    except UNREADABLE:
        return None


def finish_of(reason: str | None, *, refused: bool, uses: bool) -> Finish:
    """How an answer ended. Raises ValueError where it ended with an error."""
    if reason == "error":  # OpenRouter, Mistral
        raise ValueError("the provider ended the answer with an error")
    if refused:
        return "refusal"
    finish = _READ.get(reason or "", "stop")
    return "tool_calls" if uses and finish == "stop" else finish


def content_parts(content: Any) -> list[tuple[str, str]]:
    """A content as pairs of "text" or "thinking" and what is said; Mistral answers in parts, and thinks in parts of parts."""
    if isinstance(content, str):
        return [("text", content)] if content else []
    said: list[tuple[str, str]] = []
    for each in cast("list[Any]", content) if isinstance(content, list) else ():
        part = mapping(each)
        if part.get("type") == "thinking":
            thought = part.get("thinking")
            inner = [("text", thought)] if isinstance(thought, str) else content_parts(thought)
            said.append(("thinking", "".join(text for _, text in inner)))
        elif isinstance(part.get("text"), str):
            said.append(("text", part["text"]))
    return said


def read_answer(body: bytes, quirks: Quirks) -> Answered:
    """Raises ValueError for what is no answer: an error, no choice, something else."""
    try:
        answer = _ANSWER.decode(body)
    except UNREADABLE as error:
        raise ValueError(f"the answer cannot be read: {error}") from None
    if answer.error:
        raise ValueError(error_text(answer.error))
    if not answer.choices:
        raise ValueError("the answer has no choices")
    choice = answer.choices[0]
    message = choice.message
    parts: list[Part] = list(
        read_thoughts(
            {
                "reasoning_content": message.reasoning_content,
                "reasoning": message.reasoning,
                "reasoning_details": message.reasoning_details,
            }
        )
    )
    parts += [Text(said) if kind == "text" else Thinking(said) for kind, said in content_parts(message.content)]
    if message.refusal:
        parts.append(Text(message.refusal))
    calls = message.tool_calls or []
    parts += [_use(call, place, answer.id or "") for place, call in enumerate(calls)]
    filtered = message.refusal is not None and choice.finish_reason == "content_filter"
    return Answered(
        id=answer.id or "",
        model=answer.model or "",
        parts=tuple(parts),
        finish=finish_of(choice.finish_reason, refused=bool(message.refusal) or filtered, uses=bool(calls)),
        usage=stated_usage(answer.usage, quirks),
    )


def _use(call: ToolCall, place: int, answer_id: str) -> ToolUse:
    function = call.function
    if function is None or not function.name:
        raise ValueError(f"choices[0].message.tool_calls[{place}] names no function")
    id_ = call.id or made_id(answer_id, place, function.name)
    return ToolUse(id_, function.name, function.arguments or "{}", signature_of(call.extra_content))


def made_id(answer_id: str, place: int, name: str) -> str:
    """The id of a tool use that has none: the ``place``-th of its answer (rule 4)."""
    digest = blake2b(b"%s\0%d\0%s" % (answer_id.encode(), place, name.encode()), digest_size=12)
    return f"call_{digest.hexdigest()}"


def usage_object(usage: Usage) -> dict[str, Any]:
    """The ``usage`` of an answer."""
    prompt: dict[str, int] = {"cached_tokens": usage.cache_read_tokens, "audio_tokens": usage.input_audio_tokens}
    rare = (
        ("cache_write_tokens", usage.cache_write_tokens),
        ("image_tokens", usage.input_image_tokens),
        ("video_tokens", usage.input_video_tokens),
    )
    prompt |= {name: count for name, count in rare if count}
    completion = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.output_audio_tokens}
    if usage.output_image_tokens:
        completion["image_tokens"] = usage.output_image_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": completion,
    }


def write_answer(answered: Answered, created_s: int) -> bytes:
    """Raises ValueError where the answer holds what chat completions cannot answer with, such as an image."""
    texts: list[str] = []
    thoughts: list[Thinking] = []
    calls: list[dict[str, Any]] = []
    for part in answered.parts:
        match part:
            case Text():
                texts.append(part.text)
            case Thinking():
                thoughts.append(part)
            case ToolUse():
                function = {"name": part.name, "arguments": part.arguments}
                id_ = part.id or made_id(answered.id, len(calls), part.name)
                call = {"id": id_, "type": "function", "function": function}
                calls.append({**call, **extra_content(part.signature)})
            case _:
                raise ValueError(f"a chat completion cannot answer with a part of {type(part).__name__}")
    text = "".join(texts)
    finish = FINISH[answered.finish]
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if answered.finish == "refusal":
        message |= {"content": None, "refusal": text}
        finish = "stop" if text else finish
    message |= write_thoughts(thoughts)
    if calls:
        message["tool_calls"] = calls
    whole: dict[str, Any] = {
        "id": answered.id or "chatcmpl-0",
        "object": "chat.completion",
        "created": created_s,
        "model": answered.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
    }
    if answered.usage is not None:
        whole["usage"] = usage_object(answered.usage)
    return msgspec.json.encode(whole)
