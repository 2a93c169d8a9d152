"""Shaping of Anthropic's messages, at Anthropic and inside Bedrock's calls.

Rule 1: a budget of thought is at least 1,024 tokens and less than ``max_tokens`` (Anthropic, extended thinking). Where
        a lower cap leaves no room for it, half of the cap is for thought, and a cap that is too small has none.
Rule 2: effort is ``output_config.effort``, where the request states it or the model is known to take it (Anthropic,
        effort: from Opus 4.6 and Sonnet 4.6 on; leaving it out is "high"). Its least word is "low".
Rule 3: a note is one more text at the end of the last message, if that is the user's: behind every cache mark and the
        whole conversation, so that the cached prefix stays. A system text stands before the messages: changing it would
        have them all read anew.
Rule 4: tools that an earlier message used must stay defined. If none would be left, they stay and none may be chosen.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from bursar.core.ladder import Changes

from .dialect import mapping
from .shape_openai import Edits
from .shaping import THOUGHT_TOKENS, capped, decoded, keep_tools, lowered, number, stays, within
from .splice import append, elements, joined, members, splice, text

__all__ = ["BUDGET_MIN", "messages_edits", "noted_messages", "thinking_edit"]

BUDGET_MIN: Final = 1_024
_TIERS: Final = frozenset({"auto", "standard_only"})
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
_TAKES_EFFORT: Final = re.compile(r"claude-(opus|sonnet)-(4-[6-9]|[5-9])(?!\d)")


def messages_edits(body: bytes, changes: Changes, model: str) -> Edits:
    """The members of a messages request that change."""
    found = members(body)
    edits: Edits = {}
    cap = number(decoded(found.get("max_tokens")))
    if changes.output_cap is not None:
        lower = capped(cap, changes.output_cap)
        if lower is not None:
            edits["max_tokens"] = b"%d" % lower
            cap = lower
    thinking = thinking_edit(found.get("thinking"), changes, cap, lowers="max_tokens" in edits, body=body)
    if thinking is not None:
        edits["thinking"] = thinking
    if changes.effort:
        _effort(found, changes.effort, model, edits)
    if changes.tier in _TIERS and decoded(found.get("service_tier")) != changes.tier:
        edits["service_tier"] = text(changes.tier)
    if changes.note:
        messages = noted_messages(found.get("messages"), {"type": "text", "text": changes.note})
        if messages is not None:
            edits["messages"] = messages
    if changes.tools is not None and "tools" in found:
        _tools(found, changes.tools, edits, used=b'"tool_use"' in body)
    return edits


def thinking_edit(raw: Raw | None, changes: Changes, cap: int | None, *, lowers: bool, body: bytes) -> bytes | None:
    """The ``thinking`` object to write, None to leave it: within the cap where that was lowered, and within the effort."""
    budget = number(mapping(decoded(raw)).get("budget_tokens"))
    if raw is None or budget is None or mapping(decoded(raw)).get("type") != "enabled":
        return None
    wanted = budget
    if changes.effort in THOUGHT_TOKENS:
        wanted = min(wanted, THOUGHT_TOKENS[changes.effort])
    if lowers and cap is not None and wanted >= cap:
        wanted = max(BUDGET_MIN, cap // 2) if cap > BUDGET_MIN else 0
    if wanted == 0 and b'"clear_thinking_' in body and (cap is None or cap > BUDGET_MIN):
        wanted = BUDGET_MIN  # clearing thoughts is refused where there are none
    if wanted >= budget:
        return None
    return within(raw, {"budget_tokens": b"%d" % wanted}) if wanted else b'{"type":"disabled"}'


def _effort(found: dict[str, Raw], limit: str, model: str, edits: Edits) -> None:
    stated = mapping(decoded(found.get("output_config"))).get("effort")
    default = "high" if _TAKES_EFFORT.search(model) else ""
    effort = lowered(str(stated or default), limit, _EFFORTS)
    if effort:
        edits["output_config"] = within(found.get("output_config"), {"effort": text(effort)})


def noted_messages(raw: Raw | None, block: dict[str, str]) -> bytes | None:
    """The messages with a text block at the end of the last one; None where that is not the user's, or has it already."""
    if raw is None or not isinstance(decoded(raw), list):
        return None
    messages = elements(raw)
    last = members(messages[-1]) if messages else {}
    if decoded(last.get("role")) != "user":
        return None
    content = decoded(last.get("content"))
    if isinstance(content, str):
        noted = msgspec.json.encode([{**block, "text": content}, block] if content else [block])
    elif isinstance(content, list) and (not content or content[-1] != block):
        noted = append(bytes(last["content"]), msgspec.json.encode(block))
    else:
        return None
    return joined([*messages[:-1], splice(messages[-1], {"content": noted})])


def _name(tool: dict[str, Any]) -> str:
    name = tool.get("name") or tool.get("mcp_server_name") or tool.get("type")
    return name if isinstance(name, str) else ""


def _tools(found: dict[str, Raw], patterns: tuple[tuple[str, ...], ...], edits: Edits, *, used: bool) -> None:
    kept = keep_tools(found["tools"], _name, patterns) if decoded(found["tools"]) is not None else None
    if kept is None:
        return
    tools, gone = kept
    if "mcp_servers" in found and isinstance(decoded(found["mcp_servers"]), list):
        servers = elements(found["mcp_servers"])
        left = [each for each in servers if stays(str(mapping(decoded(each)).get("name")), patterns)]
        if len(left) < len(servers):
            edits["mcp_servers"] = joined(left) if left else None
    if not tools and used and "mcp_servers" not in edits:
        if decoded(found.get("tool_choice")) != {"type": "none"}:
            edits["tool_choice"] = b'{"type":"none"}'
        return
    edits["tools"] = joined(tools) if tools else None
    choice = mapping(decoded(found.get("tool_choice")))
    if "tool_choice" in found and (not tools or choice.get("name") in gone):
        edits["tool_choice"] = None
