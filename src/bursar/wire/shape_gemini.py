"""Shaping of Gemini's generateContent. Google takes every field in both spellings; what is there keeps its own.

Rule 1: thoughts are part of ``maxOutputTokens``, so a lower cap leaves at most half of itself for them.
Rule 2: up to Gemini 2.5 thinking has a budget, from 3 on a level; both together are refused. (Gemini API, thinking)
        A budget is at least 128 at Pro, 512 at Flash-Lite, and may be 0 but at Pro. An unknown model gets 512.
Rule 3: beside ``cachedContent`` no system text and no tools may stand: a note is left out there.
Rule 4: a service tier is replaced where the request states one; Vertex AI does not know the field.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast

import msgspec
from msgspec import Raw

from bursar.core.ladder import Changes

from .dialect import mapping
from .shape_openai import Edits
from .shaping import THOUGHT_TOKENS, capped, decoded, keep_tools, lowered, stays, within
from .splice import append, elements, joined, members, splice, text

__all__ = ["generate_edits"]

_BUDGETS: Final = re.compile(r"gemini-2\.5-(pro|flash)(?!-(lite|image|live|native))(?!.*(tts|image|audio|live))")
_LEVELS: Final = re.compile(r"gemini-3(\.\d)?-(pro|flash)(?!.*(tts|image|audio|live))")
_TIERS: Final = frozenset({"standard", "flex", "priority"})


def generate_edits(body: bytes, changes: Changes, model: str) -> Edits:
    """The members of a generateContent request that change; none of an embedding or a count."""
    found = members(body)
    edits: Edits = {}
    if "contents" not in found or "generateContentRequest" in found:
        return edits
    config = _config(found, changes, model)
    if config is not None:
        edits[_spelled(found, "generationConfig", "generation_config")] = config
    tier = next((each for each in ("serviceTier", "service_tier") if each in found), "")
    if tier and changes.tier in _TIERS and str(decoded(found[tier])).lower() != changes.tier:
        edits[tier] = text(changes.tier)
    if changes.note:
        noted = _with_note(found["contents"], changes.note)
        if noted is not None:
            edits["contents"] = noted
    if changes.tools is not None and "tools" in found:
        _tools(found, changes.tools, edits)
    return edits


def _spelled(found: dict[str, Raw], camel: str, snake: str) -> str:
    return snake if snake in found and camel not in found else camel


# --- caps and thoughts ------------------------------------------------------------------------------------------


def _config(found: dict[str, Raw], changes: Changes, model: str) -> bytes | None:
    raw = found.get(_spelled(found, "generationConfig", "generation_config"))
    config = members(raw) if raw is not None and decoded(raw) is not None else {}
    edits: Edits = {}
    cap: int | None = None
    if changes.output_cap is not None:
        field = _spelled(config, "maxOutputTokens", "max_output_tokens")
        cap = capped(decoded(config.get(field)), changes.output_cap)
        if cap is not None:
            edits[field] = b"%d" % cap
    field = _spelled(config, "thinkingConfig", "thinking_config")
    thinking = _thinking(config.get(field), changes.effort, cap, model.rpartition("/")[2])
    if thinking is not None:
        edits[field] = thinking
    return within(raw, edits) if edits else None


def _thinking(raw: Raw | None, effort: str, cap: int | None, model: str) -> bytes | None:
    stated = members(raw) if raw is not None and decoded(raw) is not None else {}
    level_field = _spelled(stated, "thinkingLevel", "thinking_level")
    budget_field = _spelled(stated, "thinkingBudget", "thinking_budget")
    budget = decoded(stated.get(budget_field))
    level = decoded(stated.get(level_field))
    if isinstance(budget, int):
        wanted = _budget(budget, effort, cap, model)
        return None if wanted == budget else within(raw, {budget_field: b"%d" % wanted})
    if not effort:
        return None
    takes = ("minimal", "low", "medium", "high") if "flash" in model else ("low", "high")
    if isinstance(level, str) or _LEVELS.match(model):
        lower = lowered(level.lower() if isinstance(level, str) else "high", effort, takes)
        if not lower:
            return None
        return within(raw, {level_field: text(lower.upper() if isinstance(level, str) and level.isupper() else lower)})
    if _BUDGETS.match(model) and effort in THOUGHT_TOKENS:
        return within(raw, {budget_field: b"%d" % _budget(-1, effort, None, model)})
    return None


def _budget(stated: int, effort: str, cap: int | None, model: str) -> int:
    """The budget to write; -1 leaves it to the model, so any limit is less."""
    least = 0 if "flash" in model and "lite" not in model else 128 if "pro" in model else 512
    limits = [stated] if stated >= 0 else []
    if effort in THOUGHT_TOKENS:
        none = 0 if "flash" in model else least
        limits.append(max(none if effort == "none" else least, THOUGHT_TOKENS[effort]))
    if cap is not None and limits and min(limits) >= cap:
        limits.append(max(least, cap // 2))
    return min(limits) if limits else stated


# --- notes and tools --------------------------------------------------------------------------------------------


def _with_note(raw: Raw, note: str) -> bytes | None:
    """The contents with a user's text at their end. A system text would stand before them, and have all of them read anew."""
    contents = decoded(raw)
    said = msgspec.json.encode({"role": "user", "parts": [{"text": note}]})
    if isinstance(contents, str):  # the API takes lists and objects; this is neither
        return None
    if isinstance(contents, dict):
        return joined([bytes(raw), said])
    if not isinstance(contents, list):
        return None
    last = mapping(contents[-1]) if contents else {}
    if last.get("role", "user") not in ("user", "function") or last.get("parts") == [{"text": note}]:
        return None
    return append(bytes(raw), said)


def _name(declaration: dict[str, Any]) -> str:
    name = declaration.get("name")
    return name if isinstance(name, str) else ""


def _tools(found: dict[str, Raw], patterns: tuple[tuple[str, ...], ...], edits: Edits) -> None:
    if not isinstance(decoded(found["tools"]), list):
        return
    kept: list[bytes] = []
    gone: set[str] = set()
    for raw in elements(found["tools"]):
        tool, out = members(raw), dict[str, bytes | None]()
        for key, value in tool.items():
            if key in ("functionDeclarations", "function_declarations"):
                left = keep_tools(value, _name, patterns)
                if left is not None:
                    out[key] = joined(left[0]) if left[0] else None
                    gone |= left[1]
            elif not stays(key, patterns):
                out[key] = None
                gone.add(key)
        if set(tool) - {key for key, value in out.items() if value is None}:
            kept.append(splice(raw, out) if out else raw)
    if not gone:
        return
    edits["tools"] = joined(kept) if kept else None
    field = _spelled(found, "toolConfig", "tool_config")
    if field not in found:
        return
    config = mapping(decoded(found[field]))
    calling = mapping(config.get("functionCallingConfig") or config.get("function_calling_config"))
    allowed = calling.get("allowedFunctionNames") or calling.get("allowed_function_names")
    if not kept or (isinstance(allowed, list) and any(each in gone for each in cast("list[Any]", allowed))):
        edits[field] = None
