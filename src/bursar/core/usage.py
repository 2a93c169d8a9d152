"""Billable units of one attempt.

Rule 1: every unit that a provider bills has one name and one place in ``UNITS``.
Rule 2: counts are inclusive. ``input_tokens`` contains cache reads, cache writes and every modality; ``output_tokens``
        contains reasoning. A unit *contains* another when the other has all of its dimensions and more.
        This is the convention of the OpenTelemetry GenAI attributes; a wire module converts what its dialect says.
Rule 3: a count is an ``int`` and never negative. Durations are counted in milliseconds.
Rule 4: a zero means "the provider's convention says none". Where nothing is known there is no ``Usage`` at all.
"""

from __future__ import annotations

from itertools import compress
from typing import Final, NamedTuple

__all__ = ["NO_USAGE", "UNITS", "UNIT_INDEX", "Unit", "Usage", "contains"]


class Unit(NamedTuple):
    """A billable unit: its name and what it is, as ``dimension:value`` pairs."""

    name: str
    dimensions: frozenset[str]


def _unit(name: str, *dimensions: str) -> Unit:
    return Unit(name, frozenset(dimensions))


_IN: Final = ("tokens", "input")
_OUT: Final = ("tokens", "output")

UNITS: Final[tuple[Unit, ...]] = (
    _unit("input_tokens", *_IN),
    _unit("cache_read_tokens", *_IN, "type:cache_read"),
    _unit("cache_write_tokens", *_IN, "type:cache_write"),
    _unit("cache_write_5m_tokens", *_IN, "type:cache_write", "ttl:5m"),
    _unit("cache_write_1h_tokens", *_IN, "type:cache_write", "ttl:1h"),
    _unit("input_audio_tokens", *_IN, "modality:audio"),
    _unit("input_image_tokens", *_IN, "modality:image"),
    _unit("input_video_tokens", *_IN, "modality:video"),
    _unit("cache_read_audio_tokens", *_IN, "type:cache_read", "modality:audio"),
    _unit("cache_read_image_tokens", *_IN, "type:cache_read", "modality:image"),
    _unit("cache_read_video_tokens", *_IN, "type:cache_read", "modality:video"),
    _unit("output_tokens", *_OUT),
    _unit("reasoning_tokens", *_OUT, "type:reasoning"),
    _unit("output_audio_tokens", *_OUT, "modality:audio"),
    _unit("output_image_tokens", *_OUT, "modality:image"),
    _unit("output_video_tokens", *_OUT, "modality:video"),
    _unit("citation_tokens", *_OUT, "type:citation"),
    _unit("requests", "requests"),
    _unit("web_searches", "tool", "tool:web_search"),
    _unit("social_searches", "tool", "tool:social_search"),
    _unit("file_searches", "tool", "tool:file_search"),
    _unit("code_executions", "tool", "tool:code_execution"),
    _unit("rerank_searches", "rerank"),
    _unit("images", "images"),
    _unit("audio_ms", "duration", "modality:audio"),
    _unit("input_audio_ms", "duration", "modality:audio", "input"),
    _unit("output_audio_ms", "duration", "modality:audio", "output"),
    _unit("video_ms", "duration", "modality:video"),
    _unit("machine_ms", "machine"),
    _unit("input_characters", "characters", "input"),
    _unit("document_pages", "pages", "input"),
    _unit("annotated_document_pages", "pages", "input", "page:annotated"),
    _unit("input_messages", "messages", "input"),
    _unit("tool_calls", "tool_call"),
    _unit("tool_units", "tool_unit"),
    _unit("tool_bytes", "tool_size"),
    _unit("tool_ms", "tool_time"),
)
"""Every billable unit, in the order of the fields of ``Usage``."""

_NAMES: Final = tuple(unit.name for unit in UNITS)

UNIT_INDEX: Final[dict[str, int]] = {unit.name: index for index, unit in enumerate(UNITS)}


def contains(outer: Unit, inner: Unit) -> bool:
    """Whether every count of ``inner`` is also part of the count of ``outer`` (a unit contains itself)."""
    return outer.dimensions <= inner.dimensions


class Usage(NamedTuple):
    """Counts of every billable unit of one attempt, inclusive (see the rules above)."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    input_video_tokens: int = 0
    cache_read_audio_tokens: int = 0
    cache_read_image_tokens: int = 0
    cache_read_video_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    output_audio_tokens: int = 0
    output_image_tokens: int = 0
    output_video_tokens: int = 0
    citation_tokens: int = 0
    requests: int = 0
    web_searches: int = 0
    social_searches: int = 0
    file_searches: int = 0
    code_executions: int = 0
    rerank_searches: int = 0
    images: int = 0
    audio_ms: int = 0
    input_audio_ms: int = 0
    output_audio_ms: int = 0
    video_ms: int = 0
    machine_ms: int = 0
    input_characters: int = 0
    document_pages: int = 0
    annotated_document_pages: int = 0
    input_messages: int = 0
    tool_calls: int = 0
    tool_units: int = 0
    tool_bytes: int = 0
    tool_ms: int = 0

    def counts(self) -> dict[str, int]:
        """The units that are not zero, by name."""
        return dict(zip(compress(_NAMES, self), filter(None, self), strict=True))

    @property
    def uncached_input_tokens(self) -> int:
        """Input tokens that were neither read from nor written to a prompt cache."""
        return self.input_tokens - self.cache_read_tokens - self.cache_write_tokens


NO_USAGE: Final = Usage()
