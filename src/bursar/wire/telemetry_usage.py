"""From the counts that telemetry states to a usage as we count: inclusive, every part inside its whole.

Rule 1: counts are inclusive unless something says otherwise: the source is known to count cached tokens beside the
        input, the parts are more than the whole, or the total is only right that way. What decided is a note.
Rule 2: reasoning, audio and images are parts of the output and the input. They are added to it only where the total, or
        arithmetic, leaves no other reading.
Rule 3: what a provider itself answered, or what is counted as we count (``bursar.usage.*``), needs no reading.
Rule 4: written tokens whose lifetime nobody stated are priced as those of five minutes, and the reading says so.
Rule 5: an input that nobody states is no zero: it is what the total leaves, or the usage is not known.
Rule 6: counts that contradict each other are no usage; the reason says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from bursar.core.usage import UNIT_INDEX, Usage
from bursar.core.values import valueclass

__all__ = ["COUNTS", "Counted", "count_usage"]

COUNTS: Final = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
    "input_audio_tokens", "output_audio_tokens", "own_usage", "raw_usage",
)  # fmt: skip
"""Slots of which one at least is filled where usage was stated."""

_EMPTY: Final = Usage()
_CACHE_READ: Final = UNIT_INDEX["cache_read_tokens"]
_AUDIO: Final = UNIT_INDEX["input_audio_tokens"]
_REASONING: Final = UNIT_INDEX["reasoning_tokens"]


@valueclass
class Counted:
    """A usage, or the reason why there is none, and what was assumed on the way."""

    usage: Usage | None
    reason: str = ""
    notes: tuple[str, ...] = ()


def count_usage(
    said: Mapping[str, Any],
    *,
    cache_beside: str,
    reasoning_beside: str,
    lifetime: Literal["5m", "1h", ""],
    in_parts: bool,
) -> Counted:
    """The usage of stated counts.

    ``cache_beside`` and ``reasoning_beside`` name the source that is known to count these beside the input and the
    output, "" where none is known. ``lifetime`` is that of written tokens where nothing says it; "" has no such thing.
    ``in_parts`` says that the source states what was added of each count, so that one it leaves out is none.
    """
    own = said.get("own_usage")
    if own is not None:
        return _checked(_EMPTY._replace(**own), [])
    get = said.get
    notes: list[str] = []
    raw = get("raw_usage")
    if raw is not None:
        notes.append(f"counts=payload:{raw}")
        given = get("raw_input_tokens") or 0, get("raw_cache_read_tokens") or 0, get("raw_cache_write_tokens") or 0
        output = get("raw_output_tokens")
        output = output if output is not None else get("output_tokens") or 0
        reasoning = get("raw_reasoning_tokens", get("reasoning_tokens")) or 0
    else:
        total = get("total_tokens")
        if get("input_tokens") is None and not in_parts:
            if total is None or total < (get("output_tokens") or 0):
                return Counted(None, "usage: the input tokens are not stated")
            said = {**said, "input_tokens": total - (get("output_tokens") or 0)}
            get = said.get
            notes.append("input_tokens=what the total leaves")
        given = get("input_tokens") or 0, get("cache_read_tokens") or 0, get("cache_write_tokens") or 0
        output, reasoning = get("output_tokens") or 0, get("reasoning_tokens") or 0
    stated, read, written = given
    short, long = get("cache_write_5m_tokens") or 0, get("cache_write_1h_tokens") or 0
    written = max(written, short + long)
    if raw is None and (read or written or reasoning):
        total = get("total_tokens")
        stated, output = _whole(stated, read + written, output, reasoning, total, cache_beside, reasoning_beside, notes)
    if written and not short and not long and lifetime:
        short, long = (written, 0) if lifetime == "5m" else (0, written)
        notes.append(f"price_assumption=cache_ttl_{lifetime}")
    audio, image = get("input_audio_tokens") or 0, get("input_image_tokens") or 0
    usage = Usage(
        stated, read, written, short, long, audio, image, 0,
        get("cache_read_audio_tokens") or 0, get("cache_read_image_tokens") or 0, 0,
        output, reasoning, get("output_audio_tokens") or 0, get("output_image_tokens") or 0,
    )  # fmt: skip
    if "web_searches" in said:
        usage = usage._replace(web_searches=get("web_searches") or 0)
    return _checked(usage, notes)


def _whole(
    stated: int,
    cached: int,
    output: int,
    reasoning: int,
    total: int | None,
    cache_beside: str,
    reasoning_beside: str,
    notes: list[str],
) -> tuple[int, int]:
    """Input with its cached part and output with its reasoning, and a note of the rule that decided each."""
    beside = "declared" if cache_beside else "exceeds" if cached > stated else ""
    thinks = "declared" if reasoning_beside else "exceeds" if reasoning > output else ""
    inside = (stated + (cached if beside else 0), output + (reasoning if thinks else 0))
    if total and not beside and not thinks and total != stated + output:
        # Only a total that says so without doubt: any other is somebody else's sum.
        if cached and total == stated + output + cached:
            beside, inside = "total", (stated + cached, output)
        elif reasoning and total == stated + output + reasoning:
            thinks, inside = "total", (stated, output + reasoning)
        elif cached and reasoning and total == stated + output + cached + reasoning:
            beside = thinks = "total"
            inside = (stated + cached, output + reasoning)
        else:
            notes.append("total=disagrees")
    elif total and thinks and not beside and cached and total == stated + output + cached + reasoning:
        beside, inside = "total", (stated + cached, output + reasoning)
    if cached:
        notes.append("counts=inclusive" if not beside else f"counts=exclusive:{cache_beside or beside}")
    if reasoning and thinks:
        notes.append(f"reasoning=beside_output:{reasoning_beside or thinks}")
    return inside


def _checked(usage: Usage, notes: list[str]) -> Counted:
    """The usage, if every part fits into its whole."""
    if not any(usage[_CACHE_READ:_REASONING]) and not any(usage[_REASONING:]):
        return Counted(usage, "", tuple(notes))
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    media = usage.input_audio_tokens + usage.input_image_tokens + usage.input_video_tokens
    of_output = usage.output_audio_tokens + usage.output_image_tokens
    lifetimes = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    cached_audio = min(usage.cache_read_tokens, usage.input_audio_tokens)
    cached_image = min(usage.cache_read_tokens, usage.input_image_tokens)
    for part, whole, words in (
        (cached, usage.input_tokens, "cached tokens are more than the input tokens"),
        (media, usage.input_tokens, "audio, image and video tokens are more than the input tokens"),
        (lifetimes, usage.cache_write_tokens, "written tokens by lifetime are more than the written tokens"),
        (usage.cache_read_audio_tokens, cached_audio, "cached audio tokens are more than what they are part of"),
        (usage.cache_read_image_tokens, cached_image, "cached image tokens are more than what they are part of"),
        (usage.reasoning_tokens, usage.output_tokens, "reasoning tokens are more than the output tokens"),
        (of_output, usage.output_tokens, "audio and image tokens are more than the output tokens"),
    ):
        if part > whole:
            return Counted(None, f"usage: {part} {words}, {whole}", tuple(notes))
    return Counted(usage, "", tuple(notes))
