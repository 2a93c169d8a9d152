"""Shaping of OpenAI's chat completions and responses, for everybody who speaks them.

Rule 1: a cap that is stated is lowered where it stands. Where none is, the provider's row names the field; OpenAI's
        reasoning models know ``max_completion_tokens`` alone. (OpenAI API reference, chat completions)
Rule 2: a note goes to the end, so that the cached prefix stays: as a last ``system`` message, or, where templates take
        that only as the first one (the row says ``last``), as a text more in the last message. It never comes between
        a tool call and its result, nor after the beginning of an answer that the model is to continue.
Rule 3: a choice of tools that names one that was taken out goes too; without tools every word about them goes.
Rule 4: a service tier is set only where the provider's row has it, and flex only at models that have it.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from msgspec import Raw, Struct

from bursar.core.ladder import Changes

from .dialect import mapping
from .shaping import capped, decoded, keep_tools, lowered, openai_efforts, within
from .splice import append, elements, joined, members, splice, text

__all__ = ["OPENAI_REQUESTS", "ChatRequests", "Edits", "append_text", "chat_edits", "responses_edits", "tool_edits"]

Edits: TypeAlias = dict[str, bytes | None]

_REASONERS: Final = re.compile(r"(gpt-5|o[134])(?!\d)")
_NO_FLEX: Final = re.compile(r"gpt-[34]|o1|chatgpt")


class ChatRequests(Struct, frozen=True, forbid_unknown_fields=True):
    """What a provider's OpenAI-compatible API takes in a request."""

    output_cap: Literal["max_completion_tokens", "max_tokens"]
    note: Literal["system", "last"]
    tiers: tuple[str, ...]


OPENAI_REQUESTS: Final = ChatRequests("max_completion_tokens", "system", ("auto", "default", "flex", "priority"))
"""OpenAI's own."""


def chat_edits(body: bytes, changes: Changes, model: str, takes: ChatRequests) -> Edits:
    """The members of a chat request that change."""
    found = members(body)
    edits: Edits = {}
    if changes.output_cap is not None:
        _cap(found, changes.output_cap, model, takes, edits)
    if changes.effort:
        _chat_effort(found, changes.effort, model, edits)
    _tier_edits(found, changes.tier, model, takes, edits)
    if changes.tools is not None:
        tool_edits(found, changes.tools, edits)
    if changes.note and "messages" in found:
        messages = _with_note(found["messages"], changes.note, takes.note)
        if messages is not None:
            edits["messages"] = messages
    return edits


def _cap(found: dict[str, Raw], cap: int, model: str, takes: ChatRequests, edits: Edits) -> None:
    stated = False
    for field in ("max_completion_tokens", "max_tokens"):
        value = decoded(found.get(field))
        if value is not None:
            stated = True
            if capped(value, cap) is not None:
                edits[field] = b"%d" % cap
    if stated:
        return
    name = model.rpartition("/")[2].lower()
    field = "max_completion_tokens" if _REASONERS.match(name) else takes.output_cap
    edits["max_tokens" if "messages" not in found else field] = b"%d" % cap


def _chat_effort(found: dict[str, Raw], limit: str, model: str, edits: Edits) -> None:
    efforts, default = openai_efforts(model)
    reasoning = mapping(decoded(found.get("reasoning")))  # OpenRouter's own way to say it
    if reasoning:
        effort = lowered(str(reasoning.get("effort")), limit, efforts)
        if effort:
            edits["reasoning"] = within(found["reasoning"], {"effort": text(effort)})
    stated = decoded(found.get("reasoning_effort"))
    if stated is None and ("messages" not in found or reasoning):
        return
    effort = lowered(str(stated or default), limit, efforts)
    if effort:
        edits["reasoning_effort"] = text(effort)


def _tier_edits(found: dict[str, Raw], tier: str, model: str, takes: ChatRequests, edits: Edits) -> None:
    """The service tier, where the provider and the model have it."""
    name = model.rpartition("/")[2].lower()
    if tier not in takes.tiers or (tier == "flex" and _NO_FLEX.match(name)):
        return
    if decoded(found.get("service_tier")) != tier:
        edits["service_tier"] = text(tier)


# --- notes ------------------------------------------------------------------------------------------------------


def _with_note(raw: Raw, note: str, where: str) -> bytes | None:
    messages = elements(raw)
    if not messages:
        return None
    last = mapping(decoded(messages[-1]))
    role = last.get("role")
    said = msgspec.json.encode({"role": "system", "content": note})
    if role == "assistant":
        if last.get("tool_calls") or last.get("function_call") or len(messages) < 2:
            return None
        before = mapping(decoded(messages[-2]))
        if before.get("role") == "system" and before.get("content") == note:
            return None
        if where == "last" or before.get("role") not in ("user", "system", "developer"):
            return None
        return joined([*messages[:-1], said, messages[-1]])
    if where == "last":
        changed = append_text(messages[-1], note)
        return None if changed is None else joined([*messages[:-1], changed])
    if role == "system" and last.get("content") == note:
        return None
    return append(bytes(raw), said)


def append_text(message: bytes, note: str) -> bytes | None:
    """The message with a text more at the end of its content; None where it is there, or the content is none."""
    raw = members(message).get("content")
    content = decoded(raw)
    if isinstance(content, str):
        if content.endswith(note):
            return None
        return splice(message, {"content": text(f"{content}\n\n{note}" if content else note)})
    if not isinstance(content, list) or raw is None:
        return None
    part = {"type": "text", "text": note}
    if content and content[-1] == part:
        return None
    return splice(message, {"content": append(bytes(raw), msgspec.json.encode(part))})


# --- tools ------------------------------------------------------------------------------------------------------


def _tool_name(tool: dict[str, Any]) -> str:
    inner = mapping(tool.get("function")) or mapping(tool.get("custom"))
    name = inner.get("name") or tool.get("name") or tool.get("server_label") or tool.get("type")
    return name if isinstance(name, str) else ""


def tool_edits(found: dict[str, Raw], patterns: tuple[tuple[str, ...], ...], edits: Edits) -> None:
    """The tools that stay, and of the other members those that may not stay without them."""
    gone: set[str] = set()
    left = 0
    for field in ("tools", "functions"):
        if field not in found or decoded(found[field]) is None:
            continue
        kept = keep_tools(found[field], _tool_name, patterns)
        if kept is None:
            left += len(elements(found[field]))
            continue
        edits[field] = joined(kept[0]) if kept[0] else None
        left += len(kept[0])
        gone |= kept[1]
    if not gone:
        return
    for field in ("tool_choice", "function_call"):
        if field in found and (not left or _names_any(decoded(found[field]), gone)):
            edits[field] = None
    if not left and "parallel_tool_calls" in found:
        edits["parallel_tool_calls"] = None


def _names_any(choice: Any, gone: set[str]) -> bool:
    """Whether a choice of tools names one of those that go; a list of allowed tools counts whole."""
    parts = mapping(choice)
    if not parts:
        return False
    allowed = parts.get("tools") or mapping(parts.get("allowed_tools")).get("tools")
    if isinstance(allowed, list):
        return any(_tool_name(mapping(each)) in gone for each in cast("list[Any]", allowed))
    return _tool_name(parts) in gone


# --- responses --------------------------------------------------------------------------------------------------


def responses_edits(body: bytes, changes: Changes, model: str, takes: ChatRequests) -> Edits:
    """The members of a responses request that change."""
    found = members(body)
    edits: Edits = {}
    if (
        changes.output_cap is not None
        and capped(decoded(found.get("max_output_tokens")), changes.output_cap) is not None
    ):
        edits["max_output_tokens"] = b"%d" % changes.output_cap
    if changes.effort:
        efforts, default = openai_efforts(model)
        stated = mapping(decoded(found.get("reasoning"))).get("effort")
        effort = lowered(str(stated or default), changes.effort, efforts)
        if effort:
            edits["reasoning"] = within(found.get("reasoning"), {"effort": text(effort)})
    _tier_edits(found, changes.tier, model, takes, edits)
    if changes.tools is not None:
        tool_edits(found, changes.tools, edits)
    if changes.note:
        _responses_note(found, changes.note, edits)
    return edits


def _responses_note(found: dict[str, Raw], note: str, edits: Edits) -> None:
    said = {"role": "system", "content": note}
    given = decoded(found.get("input"))
    if isinstance(given, str):
        edits["input"] = msgspec.json.encode([{"role": "user", "content": given}, said])
    elif isinstance(given, list):
        if not given or given[-1] != said:
            edits["input"] = append(bytes(found["input"]), msgspec.json.encode(said))
    else:
        instructions = decoded(found.get("instructions"))
        before = instructions if isinstance(instructions, str) else ""
        if not before.endswith(note):
            edits["instructions"] = text(f"{before}\n\n{note}" if before else note)
