"""Thoughts and signatures, which OpenAI's chat completions have no field for, in the fields that others added to them.

Rule 1: what is thought is ``reasoning_content`` (DeepSeek, Qwen, vLLM), or ``reasoning`` (OpenRouter, Groq).
Rule 2: what must come back unchanged is ``reasoning_details`` (OpenRouter): a list of ``reasoning.text`` with a signature
        and ``reasoning.encrypted``, whose ``format`` names who can read them. A client that sends the message back as it
        came sends them too.
Rule 3: Gemini's signature of a tool call is its ``extra_content.google.thought_signature``, as in Google's own
        OpenAI-compatible API.
Rule 4: details that were written here have an id that begins with ``TRACE``: a provider that is strict about fields it
        does not know (Groq, Cerebras) must not get them. Every answer that thinks has one, so that it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import msgspec

from bursar.wire.dialect import mapping
from bursar.wire.splice import elements, joined, members, splice

from .conversation import DialectId, Thinking

__all__ = [
    "TRACE",
    "detail",
    "extra_content",
    "origin_of",
    "read_thoughts",
    "signature_of",
    "without_traces",
    "write_thoughts",
]

TRACE: Final = "bursar-"

_FORMATS: Final[Mapping[str, str]] = {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1"}


def origin_of(format_: Any) -> DialectId | None:
    """Who can read a detail, by its format; None where it is nobody that is translated to."""
    if isinstance(format_, str):
        if format_.startswith("anthropic"):
            return "anthropic"
        if format_.startswith("google"):
            return "gemini"
    return None


def read_thoughts(message: Mapping[str, Any]) -> tuple[Thinking, ...]:
    """The thoughts of a message or of an answer: those that can be proven, else the plain text."""
    details = message.get("reasoning_details")
    found: list[Thinking] = []
    for each in cast("list[Any]", details) if isinstance(details, list) else ():
        thought = _thought(mapping(each))
        if thought is not None:
            found.append(thought)
    if found:
        return tuple(found)
    text = message.get("reasoning_content") or message.get("reasoning")
    return (Thinking(text),) if isinstance(text, str) and text else ()


def _thought(said: Mapping[str, Any]) -> Thinking | None:
    origin = origin_of(said.get("format"))
    text = said.get("text") or said.get("summary")
    text = text if isinstance(text, str) else ""
    signature, data = said.get("signature"), said.get("data")
    if origin is not None and isinstance(signature, str) and signature:
        return Thinking(text, signature, origin)
    if said.get("type") == "reasoning.encrypted":
        return Thinking("", "", origin, data) if origin is not None and isinstance(data, str) and data else None
    return Thinking(text) if text else None


def detail(thought: Thinking, index: int) -> dict[str, Any]:
    """One of ``reasoning_details``. An unsigned thought has no text there: nobody needs it back."""
    said: dict[str, Any] = {
        "type": "reasoning.encrypted" if thought.hidden else "reasoning.text",
        "id": f"{TRACE}{index}",
        "format": _FORMATS.get(thought.origin, "unknown"),
        "index": index,
    }
    if thought.hidden:
        said["data"] = thought.hidden
    elif thought.signature:
        said |= {"text": thought.text, "signature": thought.signature}
    return said


def write_thoughts(thoughts: Iterable[Thinking]) -> dict[str, Any]:
    """The fields of a message that hold these thoughts."""
    thoughts = tuple(thoughts)
    if not thoughts:
        return {}
    text = "\n\n".join(each.text for each in thoughts if each.text)
    shown = {"reasoning_content": text} if text else {}
    return {**shown, "reasoning_details": [detail(each, index) for index, each in enumerate(thoughts)]}


def extra_content(signature: str) -> dict[str, Any]:
    """The member of a tool call that holds Gemini's signature, if there is one."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


def signature_of(extra: Any) -> str:
    """Gemini's signature in a tool call's ``extra_content``, else ""."""
    signature = mapping(mapping(extra).get("google")).get("thought_signature")
    return signature if isinstance(signature, str) else ""


def without_traces(body: bytes) -> bytes:
    """A chat request without what earlier translated answers left in it, for a provider that is spoken to unchanged; the
    same object where there is nothing.

    Not for Google's own compatible API: the signatures are its own. Raises msgspec.DecodeError for what is no JSON object.
    """
    if b'"bursar-' not in body and b'"extra_content"' not in body:
        return body
    raw = members(body).get("messages")
    if raw is None:
        return body
    return splice(body, {"messages": joined([_without(message) for message in elements(raw)])})


def _without(message: bytes) -> bytes:
    if b'"bursar-' not in message and b'"extra_content"' not in message:
        return message
    said = mapping(msgspec.json.decode(message))
    details = said.get("reasoning_details")
    ids = [mapping(each).get("id") for each in cast("list[Any]", details)] if isinstance(details, list) else []
    gone = {"extra_content"}
    if any(isinstance(each, str) and each.startswith(TRACE) for each in ids):
        gone |= {"reasoning_details", "reasoning_content"}
    changes: dict[str, bytes | None] = dict.fromkeys(gone & said.keys())
    calls = said.get("tool_calls")
    if isinstance(calls, list):
        kept = [
            {key: value for key, value in mapping(call).items() if key != "extra_content"}
            for call in cast("list[Any]", calls)
        ]
        if kept != calls:
            changes["tool_calls"] = msgspec.json.encode(kept)
    return splice(message, changes) if changes else message
