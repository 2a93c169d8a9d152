"""What log records say of calls and tools: the events of Claude Code and Codex, and OpenTelemetry's own.

Rule 1: Claude Code counts cached tokens beside the input, and writes its cache for an hour. Codex counts as OpenAI does.
Rule 2: a record is written when the thing is over: it began ``duration_ms`` before.
Rule 3: a record without a trace belongs to its session. Its response's id, where it has one, ties it to a span.
Rule 4: a record of any other kind says nothing to us.
"""

from __future__ import annotations

from typing import Final

from bursar.core.ledger import Door
from bursar.core.observations import Observation

from .telemetry import Facts
from .telemetry_spans import CLAUDE_CODE, Origin, Place, clock, failure, observe

__all__ = ["read_record"]

_CODEX: Final = "codex."
_KINDS: Final = {
    "claude_code.api_request": "model",
    "claude_code.api_error": "model",
    "claude_code.tool_result": "tool",
    "codex.sse_event": "model",
    "codex.websocket_event": "model",
    "codex.tool_result": "tool",
    "gen_ai.client.inference.operation.details": "model",
}
# Claude Code writes the event's name without its own, and the whole name as the text of the record.
_SHORT: Final = {name.removeprefix(CLAUDE_CODE): name for name in _KINDS if name.startswith(CLAUDE_CODE)}
_CLAUDE_LIBRARY: Final = "com.anthropic.claude_code"
_DURATION_MS_MAX: Final = 7 * 24 * 3_600_000


def read_record(
    facts: Facts, origin: Origin, door: Door, *, event: str, text: str, at_ns: int, trace_id: str, span_id: str
) -> Observation | str | None:
    """The observation of a record, why there is none although there should be, or None for what says nothing to us.

    ``event`` is the event's name, ``text`` the record's own text.
    """
    name = event or text
    if text.startswith(CLAUDE_CODE):
        name = text
    elif origin.library.startswith(_CLAUDE_LIBRARY):
        name = _SHORT.get(event, name)
    kind = _KINDS.get(name)
    if kind is None:
        return None
    said = facts.values
    if name.startswith(_CODEX) and kind == "model":
        # Every piece of a stream is such an event; one of them holds the usage.
        if said.get("event_kind", "response.completed") != "response.completed" or "event_input_tokens" not in said:
            return None
        _take_codex(facts)
    times = clock(at_ns, at_ns)
    if times is None:
        return f"{name} has no time between 2000 and 2100"
    lasted = min(said.get("duration_ms", 0), _DURATION_MS_MAX)
    failed = name == "claude_code.api_error" or said.get("success") is False or "error_type" in said
    facts.put("kind", 0, kind)
    started_us = times[0] - round(lasted * 1_000)
    error = failure(facts, "") if failed else ""
    place = Place("log", door, name, trace_id, span_id, "", started_us, times[1], failed, error, ())
    return observe(facts, origin, place)


def _take_codex(facts: Facts) -> None:
    """Codex's own names, and its provider where it names none: it is OpenAI's."""
    said = facts.values
    for slot in ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens"):
        count = said.get(f"event_{slot}")
        if count is not None:
            said[slot] = count
    said.setdefault("provider", "openai")
    said.setdefault("operation", "responses")
