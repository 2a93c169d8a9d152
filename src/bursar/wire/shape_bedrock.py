"""Shaping of Bedrock's Converse.

Rule 1: what a model has of its own is in ``additionalModelRequestFields``: Anthropic's ``thinking`` and
        ``output_config``, Nova's ``reasoningConfig``, each under its own maker's rules.
Rule 2: Nova refuses ``maxTokens`` beside the effort "high", so a cap lowers that effort to "medium". (Nova 2 guide)
Rule 3: where messages used tools, ``toolConfig`` must be there: if no tool is left, one that does nothing stands in.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from bursar.core.ladder import Changes

from .dialect import mapping
from .shape_anthropic import noted_messages, thinking_edit
from .shape_openai import Edits
from .shaping import capped, decoded, keep_tools, lowered, number, within
from .splice import joined, members, splice, text

__all__ = ["converse_edits"]

_TIERS: Final = frozenset({"default", "priority", "flex", "reserved"})
_NO_TOOL: Final = msgspec.json.encode(
    {"toolSpec": {"name": "no_tool", "description": "Not to be used.", "inputSchema": {"json": {"type": "object"}}}}
)
_ANTHROPIC_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
_NOVA_EFFORTS: Final = ("low", "medium", "high")


def converse_edits(body: bytes, changes: Changes) -> Edits:
    """The members of a Converse request that change."""
    found = members(body)
    edits: Edits = {}
    config = decoded(found.get("inferenceConfig"))
    cap = number(mapping(config).get("maxTokens"))
    lowers = False
    if changes.output_cap is not None:
        lower = capped(cap, changes.output_cap)
        if lower is not None:
            edits["inferenceConfig"] = within(found.get("inferenceConfig"), {"maxTokens": b"%d" % lower})
            cap, lowers = lower, True
    fields = _model_fields(found, changes, cap, lowers=lowers, body=body)
    if fields is not None:
        edits["additionalModelRequestFields"] = fields
    if changes.tier in _TIERS and mapping(decoded(found.get("serviceTier"))).get("type") != changes.tier:
        edits["serviceTier"] = msgspec.json.encode({"type": changes.tier})
    if changes.note:
        messages = noted_messages(found.get("messages"), {"text": changes.note})
        if messages is not None:
            edits["messages"] = messages
    if changes.tools is not None and mapping(decoded(found.get("toolConfig"))).get("tools"):
        _tools(found["toolConfig"], changes.tools, edits, used=b'"toolUse"' in body)
    return edits


def _model_fields(
    found: dict[str, Raw], changes: Changes, cap: int | None, *, lowers: bool, body: bytes
) -> bytes | None:
    raw = found.get("additionalModelRequestFields")
    if raw is None or not isinstance(decoded(raw), dict):
        return None
    fields = members(raw)
    edits: Edits = {}
    for name in ("thinking", "reasoning_config"):
        thinking = thinking_edit(fields.get(name), changes, cap, lowers=lowers, body=body)
        if thinking is not None:
            edits[name] = thinking
    if changes.effort and "output_config" in fields:
        stated = str(mapping(decoded(fields["output_config"])).get("effort"))
        effort = lowered(stated, changes.effort, _ANTHROPIC_EFFORTS)
        if effort:
            edits["output_config"] = within(fields["output_config"], {"effort": text(effort)})
    if "reasoningConfig" in fields:
        limit = changes.effort or "max"
        if changes.output_cap is not None and limit in ("high", "xhigh", "max"):
            limit = "medium"
        stated = str(mapping(decoded(fields["reasoningConfig"])).get("maxReasoningEffort"))
        effort = lowered(stated, limit, _NOVA_EFFORTS)
        if effort:
            edits["reasoningConfig"] = within(fields["reasoningConfig"], {"maxReasoningEffort": text(effort)})
    return splice(bytes(raw), edits) if edits else None


def _name(tool: dict[str, Any]) -> str:
    name = mapping(tool.get("toolSpec")).get("name") or mapping(tool.get("systemTool")).get("name")
    return name if isinstance(name, str) else ""


def _tools(raw: Raw, patterns: tuple[tuple[str, ...], ...], edits: Edits, *, used: bool) -> None:
    config = members(raw)
    kept = keep_tools(config["tools"], _name, tuple((*each, "no_tool") for each in patterns))
    if kept is None:
        return
    tools, gone = kept
    left = any(_name(mapping(decoded(tool))) for tool in tools)
    if not left and not used:
        edits["toolConfig"] = None
        return
    changed: Edits = {"tools": joined(tools if left else [_NO_TOOL])}
    choice = mapping(decoded(config.get("toolChoice")))
    if "toolChoice" in config and (not left or mapping(choice.get("tool")).get("name") in gone):
        changed["toolChoice"] = None
    edits["toolConfig"] = splice(bytes(raw), changed)
